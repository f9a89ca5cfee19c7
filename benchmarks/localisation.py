"""Do maps lie on the object? IoU and energy against ImageNet's boxes, beside the controls.

    python -m benchmarks.localisation [--fame N]

Prints the tables of docs/measurements.md: all 650 photos for methods that need one evaluation, the first N for FAME.
Photos are squashed to the network's input; the map is scaled to [0, 1] and cut at .3; IoU is against the first box,
energy against all of them. Differences are paired by photo.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.common import DATA, imagenet_squashed, percent
from torch import Tensor

import faithmap as fm
from faithmap.metrics import Interval, bootstrap
from faithmap.words import table

NETWORKS = {
    "MobileNetV2": "mobilenet_v2@{}/weights/mobilenet_v2.pth",
    "SqueezeNet": "squeezenet1_0@{}/weights/squeezenet1_0.pth",
}
CONTROLS = ("random", "centre-gaussian")


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels whose centre lies in a box, ``(H, W)`` bool."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    across = (x >= boxes[:, None, 0]) & (x < boxes[:, None, 2])  # (k, W)
    down = (y >= boxes[:, None, 1]) & (y < boxes[:, None, 3])  # (k, H)
    return (down[:, :, None] & across[:, None, :]).any(dim=0)


def iou(shown: Tensor, mask: Tensor, threshold: float = 0.3) -> float:
    """Intersection over union of a map scaled to [0, 1], cut at the threshold, and a mask."""
    hot = shown >= threshold
    return float((hot & mask).sum() / (hot | mask).sum())


def energy(shown: Tensor, mask: Tensor) -> float:
    """The part of the map inside the mask."""
    return float(shown[mask].sum() / shown.sum())


@dataclass(frozen=True)
class Photos:
    """Photos with truth."""

    x: Tensor
    """``(n, 3, H, W)``, prepared."""
    classes: Tensor
    first: Tensor
    """The first box, ``(n, H, W)`` bool."""
    boxes: Tensor
    """All boxes of the class, ``(n, H, W)`` bool."""

    def __getitem__(self, rows: slice) -> Photos:
        return Photos(self.x[rows], self.classes[rows], self.first[rows], self.boxes[rows])

    @property
    def area(self) -> Tensor:
        """The boxes' part of the picture, ``(n,)``."""
        return self.boxes.double().mean(dim=(1, 2))


def photos(model: fm.Model, data: Path) -> Photos:
    """The squashed ImageNet photos, prepared for a model that squashes."""
    paths, classes, boxes = imagenet_squashed(data, model.size[0])
    H, W = model.size
    first = torch.stack([box_mask(corners[:1], H, W) for corners in boxes])
    return Photos(model.prepare(paths), classes, first, torch.stack([box_mask(corners, H, W) for corners in boxes]))


def measure(model: fm.Model, given: Photos, method: str) -> dict[str, Tensor]:
    """IoU at .3 and energy of each photo's map for its true class."""
    maps = fm.methods.create(method)(model, given.x, given.classes).clamp_min(0)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    shown = (maps - low) / (high - low)  # a constant map is NaN, and counts as no value
    pairs = list(zip(shown, given.first, given.boxes, strict=True))
    return {
        "iou": torch.tensor([iou(s, first) for s, first, _ in pairs], dtype=torch.float64),
        "energy": torch.tensor([energy(s, boxes) for s, _, boxes in pairs], dtype=torch.float64),
    }


def beats(ours: Tensor, theirs: Tensor) -> Interval:
    """The mean paired difference with its interval."""
    return bootstrap(ours - theirs)


def accuracy(model: fm.Model, given: Photos) -> float:
    """Top-1."""
    with torch.no_grad():
        found = torch.cat([model.network(x).argmax(dim=1) for x in given.x.split(32)])
    return float((found == given.classes).double().mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fame", type=int, default=100, help="photos for FAME")
    limit = parser.parse_args().fame
    for name, pattern in NETWORKS.items():
        model = fm.load(pattern.format(DATA), resize="squash")
        everything = photos(model, DATA)
        print(f"\n{name}: top-1 {100 * accuracy(model, everything):.1f} %\n")
        cheap = (*CONTROLS, *(("cam",) if name == "MobileNetV2" else ()), "grad-cam", "lift-cam")
        for given, methods in ((everything, cheap), (everything[:limit], (*cheap, "fame"))):
            found = {method: measure(model, given, method) for method in methods}
            gaussian = found["centre-gaussian"]["iou"]
            lines = [
                [
                    method,
                    percent(bootstrap(values["iou"])),
                    percent(beats(values["iou"], gaussian)),
                    percent(bootstrap(values["energy"])),
                    percent(beats(values["energy"], given.area)),
                ]
                for method, values in found.items()
            ]
            print(f"{len(given.x)} photos; boxes cover {percent(bootstrap(given.area))} %\n")
            header = ["method", "IoU@.3", "less the centre Gaussian's", "energy", "less the boxes' area"]
            print(table(header, lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
