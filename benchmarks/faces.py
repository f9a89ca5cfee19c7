"""Does e+ find what makes two faces match? Deletion on LFW pairs, against a random order.

    python -m benchmarks.faces [--method fame] [--pairs N]

Pixels of the probe are replaced by a 31-pixel box blur of it, the most important first; the similarity to the untouched
gallery is averaged over 0, 10, ..., 100 % of the pixels and compared with random orders (the mean of five). For e- the
similarity of impostors is compared at 5, 10 and 20 %: taking away what sets them apart should bring them closer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.common import DATA, face_pairs, percent
from torch import Tensor

import faithmap as fm
from faithmap.metrics import bootstrap
from faithmap.targets import Dissimilarity, Similarity
from faithmap.words import table

STEPS = tuple(k / 10 for k in range(11))


def box_blur(x: Tensor, side: int = 31) -> Tensor:
    """The mean over side x side pixels, ``(B, 3, H, W)``, mirrored at the borders."""
    return F.avg_pool2d(F.pad(x, [side // 2] * 4, mode="reflect"), side, stride=1)


def deleted(face: fm.FaceEmbedder, x: Tensor, reference: Tensor, ranks: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Similarities to a reference as the pixels with the smallest ranks are replaced by blur.

    Args:
        face: the recogniser.
        x: probes ``(n, 3, H, W)``.
        reference: embeddings of the galleries ``(n, D)``.
        ranks: of pixels, 0 goes first, ``(n, H, W)``.
        steps: shares of pixels.

    Returns:
        ``(n, steps)``.
    """
    fill = box_blur(x)
    columns = []
    for share in steps:
        gone = (ranks < share * ranks[0].numel())[:, None]  # (n, 1, H, W)
        f = torch.cat([face.embed(part) for part in torch.where(gone, fill, x).split(64)])
        columns.append(F.cosine_similarity(f, reference))
    return torch.stack(columns, dim=1)


def order(maps: Tensor) -> Tensor:
    """The rank of each pixel, the largest value first, ``(n, H, W)``."""
    return maps.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).view_as(maps)


def random_orders(shape: torch.Size, count: int = 5) -> list[Tensor]:
    """Random orders of pixels, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return [order(torch.rand(shape, generator=generator)) for _ in range(count)]


def prepared(face: fm.FaceEmbedder, data: Path, genuine: bool, limit: int | None) -> tuple[Tensor, Tensor]:
    """Probes ``(n, 3, H, W)`` and their galleries' embeddings ``(n, D)``."""
    pairs = face_pairs(data, genuine)[:limit]
    return face.prepare([p for p, _ in pairs]), face.embed([g for _, g in pairs])


def similar_beats_random(
    face: fm.FaceEmbedder, method: fm.methods.Method, data: Path = DATA, limit: int | None = None
) -> Tensor:
    """Per genuine pair: how much lower the mean similarity is in the order of e+ than in random orders, ``(n,)``."""
    x, reference = prepared(face, data, True, limit)
    maps = method(face, x, Similarity(reference))
    ours = deleted(face, x, reference, order(maps), STEPS).mean(dim=1)
    chance = torch.stack([deleted(face, x, reference, r, STEPS).mean(dim=1) for r in random_orders(maps.shape)])
    return chance.mean(dim=0) - ours


def dissimilar_beats_random(
    face: fm.FaceEmbedder, method: fm.methods.Method, data: Path = DATA, limit: int | None = None
) -> Tensor:
    """Per impostor pair and share (5, 10, 20 %): how much higher the similarity is in the order of e-, ``(n, 3)``."""
    steps = (0.05, 0.1, 0.2)
    x, reference = prepared(face, data, False, limit)
    found = method.run(face, x, Similarity(reference)).against if method.opposite == "found" else None
    maps = method(face, x, Dissimilarity(reference)) if found is None else found
    ours = deleted(face, x, reference, order(maps), steps)
    chance = torch.stack([deleted(face, x, reference, r, steps) for r in random_orders(maps.shape)])
    return ours - chance.mean(dim=0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="random,centre-gaussian,grad-cam,lift-cam,fame")
    parser.add_argument("--pairs", type=int, default=None)
    arguments = parser.parse_args()
    face = fm.load(f"mobilefacenet@{DATA}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    lines = []
    for name in arguments.methods.split(","):
        method = fm.methods.create(name)
        plus = similar_beats_random(face, method, limit=arguments.pairs)
        minus = dissimilar_beats_random(face, method, limit=arguments.pairs)
        cells = [percent(bootstrap((plus > 0).double())), percent(bootstrap(plus))]
        lines.append([name, *cells, *(percent(bootstrap((column > 0).double())) for column in minus.T)])
    header = [
        "method",
        "genuine won by e+, %",
        "similarity lost, x 100",
        "impostors won by e- at 5 %",
        "at 10 %",
        "at 20 %",
    ]
    print(table(header, lines))


if __name__ == "__main__":
    main()
