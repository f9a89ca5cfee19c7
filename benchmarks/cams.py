"""What each class activation map costs, in evaluations and beside one forward pass of the network.

    python -m benchmarks.cams [--batch 4] [--repeats 5] [--skip score-cam]

MobileNetV2 has a head of pooling and one linear layer, where closed forms hold; MobileFaceNet, asked for a similarity,
has not. Each method is timed in turn with a forward pass of the same batch, and the medians are divided: the cut at the
target layer has been made before. What takes longer than twenty forwards is timed once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from benchmarks.common import DATA, face_pairs, imagenet_squashed
from torch import Tensor

import faithmap as fm
from faithmap.batching import tune_allocator
from faithmap.methods.cam import ActivationMap, GradCAM
from faithmap.models.base import Model
from faithmap.targets import Similarity, Target
from faithmap.words import table

ROUNDS = ("forward", "backward", "tail_forward", "tail_backward")


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes, once."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def line(name: str, model: Model, x: Tensor, target: Target | None, repeats: int) -> list[str]:
    """One method's evaluations per image, and its time as a multiple of a forward pass."""
    method = fm.methods.create(name)
    forward = lambda: model.network(x)  # noqa: E731
    with torch.no_grad():
        forward()
        GradCAM().run(model, x, target)  # makes the cut
        found: list[Any] = []
        times = [(seconds(forward), seconds(lambda: found.append(method.run(model, x, target))))]
        while len(times) < repeats and times[0][1] < 20 * times[0][0]:
            times.append((seconds(forward), seconds(lambda: found.append(method.run(model, x, target)))))
    base, own = (median(column) for column in zip(*times, strict=True))
    spent = found[-1].cost.per_image(len(x))
    return [name, *(f"{spent.get(kind, 0):g}" for kind in ROUNDS), f"{1000 * own / len(x):.0f}", f"{own / base:.2f}"]


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip", default="", help="methods, separated by commas")
    given = parser.parse_args()
    tune_allocator()
    classifier = fm.load(f"mobilenet_v2@{DATA}/weights/mobilenet_v2.pth", resize="squash")
    photos = classifier.prepare(imagenet_squashed(DATA, 224)[0][: given.batch])
    face = fm.load(f"mobilefacenet@{DATA}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    pairs = face_pairs(DATA, genuine=True)[: given.batch]
    crops, partners = (face.prepare([pair[side] for pair in pairs]) for side in (0, 1))
    tasks = (
        ("MobileNetV2", classifier, photos, classifier.default_target(classifier.network(photos))),
        ("MobileFaceNet", face, crops, Similarity(face.embed(partners))),
    )
    family = [n for n in fm.methods.available() if n == "full-grad" or issubclass(fm.methods.get(n), ActivationMap)]
    header = ["method", *(kind.replace("_", " ") for kind in ROUNDS), "ms an image", "forwards"]
    for title, model, x, target in tasks:
        print(f"\n{title}, batch {len(x)}, evaluations per image\n", flush=True)
        rows = []
        for name in family:
            if name in given.skip.split(",") or (name == "cam" and title == "MobileFaceNet"):
                continue
            rows.append(line(name, model, x, target, given.repeats))
        print(table(header, rows), flush=True)


if __name__ == "__main__":
    main()
