"""Worlds: how fast they are drawn, how many of their causes are earned on which network, and what maps look like there.

    python -m benchmarks.worlds [--size N]

Prints the first two tables of docs/worlds.md, and draws its pictures. The real face network is asked too where its
weights are at hand. The tables of methods come from the specs and ``python -m benchmarks.leaderboard``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import DATA, percent
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import faithmap as fm
from faithmap import draw
from faithmap.datasets import Pair
from faithmap.images import Geometry
from faithmap.metrics import bootstrap, found_among
from faithmap.words import table

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SHOWN = ("fame", "lift-cam", "grad-cam", "lrp", "gradient")
SHOWN_OF_PAIRS = ("fame", "lift-cam", "grad-cam", "lrp", "zhu-decomposition")
WORLDS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "objects": ("worlds.objects", {}, ("objects", "objects-mlp")),
    "pairs of objects": ("worlds.objects", {"variant": "pair"}, ("objects", "objects-mlp")),
    "tags": ("worlds.objects", {"variant": "tagged"}, ("objects-tagged",)),
    "questions": ("worlds.questions", {}, ("questions",)),
    "faces": ("worlds.faces", {"kinds": "twins"}, ("faces", "MobileFaceNet")),
}
"""The world, its parameters, and the networks that are asked."""


def network(name: str) -> fm.models.Model | None:
    """A network that ships, or the real face network where its weights are."""
    file = DATA / "weights" / "mobilefacenet_112.pth"
    if name != "MobileFaceNet":
        return fm.load(name)
    return fm.load(f"mobilefacenet@{file}") if file.is_file() else None


def rates() -> Iterator[list[str]]:
    """Pictures a second of each world, drawn by one process."""
    for title, (world, parameters, _) in WORLDS.items():
        data = fm.datasets.load(world, size=100, **parameters)
        begin, pictures = time.perf_counter(), 0
        for one in data:
            for picture in ("probe", "gallery") if isinstance(one, Pair) else ("image",):
                getattr(one, picture)
                pictures += 1
        yield [title, f"{pictures / (time.perf_counter() - begin):.0f}"]


def earned(size: int) -> Iterator[list[str]]:
    """The share of samples whose cause the network follows, and by how much replacing it moves the score."""
    for title, (world, parameters, networks) in WORLDS.items():
        data = fm.datasets.load(world, size=size, **parameters)
        for name in networks:
            if (model := network(name)) is None:
                continue
            explain = "label" if world == "worlds.objects" else "predicted"
            found = fm.evaluate(model, data, ["gradient"], ["known-truth"], explain=explain, batch_size=16)
            rows = [record for record in found.records if record.method == "random"]
            values = {
                part: torch.tensor([r.value for r in rows if r.part == part and r.value is not None])
                for part in ("truth-earned", "truth-effect")
            }
            groups = by_group(data, {r.sample: r.value for r in rows if r.part == "truth-earned"})
            cells = [percent(bootstrap(values[part])) for part in values]
            yield [title, name, str(len(values["truth-earned"])), *cells, groups]


def by_group(data: Any, values: dict[str, float | None]) -> str:
    """The shares of kinds of pairs, where there are any."""
    groups: dict[str, list[float]] = {}
    for one in data:
        if isinstance(one, Pair) and (value := values.get(one.id)) is not None:
            groups.setdefault(one.group, []).append(value)
    return ", ".join(f"{name} {100 * sum(v) / len(v):.0f}" for name, v in sorted(groups.items()))


def outlined(picture: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """A picture three times as large, with a green line around a region."""
    big = np.asarray(picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.LANCZOS)).copy()
    region = np.kron(mask, np.ones((3, 3), dtype=bool))
    inner = region.copy()
    for axis in (0, 1):
        for shift in (-2, 2):
            inner &= np.roll(region, shift, axis)
    big[region & ~inner] = (0, 230, 90)
    return Image.fromarray(big)


def panels(model: Any, one: Any, methods: Sequence[str]) -> list[tuple[str, Image.Image, str]]:
    """A sample with its cause outlined, and maps with the precision of each."""
    pair = isinstance(one, Pair)
    picture = one.probe if pair else one.image
    truth = one.truth.on(Geometry.fit(picture.size, (picture.height, picture.width)))
    begin = f"e-: {one.group.removeprefix('twin: ')}" if pair else one.question or model.label(one.label)
    row = [("", outlined(picture, truth.numpy()), begin)]
    row += [("", one.gallery.resize((3 * picture.width,) * 2, Image.Resampling.LANCZOS), "gallery")] if pair else []
    for method in methods:
        if pair:
            map = fm.explain_pair(model, one.probe, one.gallery, method).probe.dissimilar.maps[0]
        else:
            asked = {"question": one.question} if one.question else {}
            map = fm.explain(model, picture, method, one.label, **asked).maps[0]
        share = float(found_among(map[None], truth[None], 1))
        big = torch.nn.functional.interpolate(map[None, None].float(), scale_factor=3, mode="bilinear")[0, 0]
        shown = draw.overlay(outlined(picture, np.zeros(truth.shape, dtype=bool)), top(big).numpy())
        row.append((method, shown, f"{100 * share:.0f} %"))
    return row


def top(map: Tensor) -> Tensor:
    """A map cut at its strongest hundredth, as overlays of the library show it."""
    return map.clamp(0, float(map.flatten().quantile(0.99).clamp_min(1e-12)))


def main() -> None:
    """Print the tables, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="samples for the share of earned causes")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures alone")
    given = parser.parse_args()
    if not given.pictures:
        print(table(["world", "pictures a second"], list(rates())), flush=True)
        head = ["world", "network", "samples", "earned, %", "effect x 100", "earned by part, %"]
        print("\n" + table(head, list(earned(given.size))), flush=True)
    for title, (world, parameters, (name, *_)) in WORLDS.items():
        if title == "objects":
            continue  # pairs of them show as much and more
        model, data = network(name), fm.datasets.load(world, size=5, **parameters)
        methods = SHOWN_OF_PAIRS if title == "faces" else SHOWN
        rows = [panels(model, one, methods) for one in data[-4:]]
        page = draw.grid(rows, bar="unsigned")
        page.convert("RGB").save(PICTURES / f"world-{title.replace(' ', '-')}.jpg", quality=88)


if __name__ == "__main__":
    main()
