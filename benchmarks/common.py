"""What the benchmark scripts share: where the data is, pictures in batches, and boxes."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from faithmap.metrics import Interval

DATA = Path(os.environ.get("FAITHMAP_DATA") or Path(__file__).parents[1].parent / "shared" / "data")


def imagenet_squashed(data: Path, side: int) -> tuple[list[str], Tensor, list[Tensor]]:
    """The 650 squashed ImageNet photos: paths, classes ``(n,)``, and their boxes ``(k, 4)`` in a side x side input."""
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    labels: dict[str, int] = {}
    with (data / "imagenet" / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            x, y = side / float(row["orig_width"]), side / float(row["orig_height"])
            corners = [float(row["x0"]) * x, float(row["y0"]) * y, float(row["x1"]) * x, float(row["y1"]) * y]
            boxes[row["image"]].append(corners)
            labels[row["image"]] = int(row["label"])
    paths = sorted((data / "imagenet" / "val_227").iterdir())
    classes = torch.tensor([labels[p.name] for p in paths])
    return [str(p) for p in paths], classes, [torch.tensor(boxes[p.name]) for p in paths]


def face_pairs(data: Path, genuine: bool) -> list[tuple[str, str]]:
    """LFW pairs of one kind, as (probe, gallery)."""
    crops = data / "lfw" / "crops"
    with (data / "lfw" / "pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["genuine"] == "1") == genuine]
    return [(str(crops / row["probe"]), str(crops / row["gallery"])) for row in rows]


def percent(interval: Interval) -> str:
    """A mean with its interval, in percent."""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
