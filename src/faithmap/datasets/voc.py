"""PASCAL VOC: every class that a picture shows is one example, as the pointing game has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from faithmap.datasets.base import Dataset, Example, Truth, all_there, existing, holdings
from faithmap.datasets.pascal import read_annotation
from faithmap.datasets.registry import register
from faithmap.images import open_levels
from faithmap.words import did_you_mean

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
WHERE = (
    "VOC is at host.robots.ox.ac.uk/pascal/VOC: give the folder with JPEGImages and Annotations, as VOCdevkit/VOC2012"
)


@register("voc")
@dataclass(frozen=True)
class VOC(Dataset[Example]):
    """PASCAL VOC 2007 or 2012: one example for each picture and class on it, ``2007_000033/aeroplane``.

    Its truth is all boxes of that class, or its pixels. The files count pixels from 1 and include the last: a box from
    xmin to xmax covers xmin - 1 .. xmax.

    Args:
        folder: the one with JPEGImages and Annotations.
        split: a list in ImageSets/Main (in ImageSets/Segmentation for masks), as "val"; all annotated pictures without.
        truth: "boxes", or "masks" from SegmentationClass, where its void border is outside.
        difficult: count objects marked as difficult too; else they are no truth, and a class that has only such objects
            is no example, as in VOC's own evaluation.

    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge"; one example per picture and
    class as in Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", the pointing game.

    Examples:
        >>> VOC("VOCdevkit/VOC2012")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder VOCdevkit/VOC2012/Annotations: VOC is at
            host.robots.ox.ac.uk/pascal/VOC: give the folder with JPEGImages and Annotations, as VOCdevkit/VOC2012
    """

    task: ClassVar[Literal["classification"]] = "classification"

    folder: str
    split: str | None = None
    truth: Literal["boxes", "masks"] = "boxes"
    difficult: bool = False

    def read(self) -> Iterator[Example]:
        """By picture, in the order of its list or by name; then by class."""
        root = Path(self.folder).expanduser()
        stems = self._stems(root)
        images = [root / "JPEGImages" / f"{stem}.jpg" for stem in stems]
        masks = [root / "SegmentationClass" / f"{stem}.png" for stem in stems]
        annotations = [root / "Annotations" / f"{stem}.xml" for stem in stems]
        all_there([*images, *annotations, *(masks if self.truth == "masks" else ())], f"{self.name} in {root}")
        for stem, image, mask, path in zip(stems, images, masks, annotations, strict=True):
            annotation = read_annotation(path)
            boxes: dict[int, list[list[float]]] = {}
            for one in annotation.objects:
                if one.name not in CLASSES:
                    raise ValueError(f"{path} has an object {one.name!r}: {did_you_mean(one.name, CLASSES)}")
                if self.difficult or not one.difficult:
                    x0, y0, x1, y1 = one.box
                    boxes.setdefault(CLASSES.index(one.name), []).append([x0 - 1, y0 - 1, x1, y1])
            for label in sorted(boxes):
                if self.truth == "masks":
                    truth = Truth(mask=partial(_of_class, mask, label))
                else:
                    truth = Truth(torch.tensor(boxes[label], dtype=torch.float64), size=annotation.size)
                yield Example(f"{stem}/{CLASSES[label]}", image, label, truth)

    @cached_property
    def classes(self) -> Sequence[str]:
        """VOC's 20."""
        return CLASSES

    def _stems(self, root: Path) -> list[str]:
        """The names of the pictures."""
        existing(root / "Annotations", WHERE, folder=True)
        if self.split is None:
            source = root / ("SegmentationClass" if self.truth == "masks" else "Annotations")
            existing(source, WHERE, folder=True)
            suffix = ".png" if self.truth == "masks" else ".xml"
            stems = sorted(path.stem for path in source.iterdir() if path.suffix == suffix and path.name[0] != ".")
            if not stems:
                raise ValueError(f"there are no {suffix} files in {source}: {holdings(source)}; {WHERE}")
            return stems
        lists = root / "ImageSets" / ("Segmentation" if self.truth == "masks" else "Main")
        names = [path.stem for path in lists.iterdir() if path.suffix == ".txt"] if lists.is_dir() else []
        if self.split not in names:
            # A list of one class has its name in it, as aeroplane_val.
            whole = sorted(name for name in names if name.partition("_")[0] not in CLASSES)
            hint = did_you_mean(self.split, whole) if whole else holdings(lists)
            raise FileNotFoundError(f"there is no list {lists / self.split}.txt: {hint}")
        lines = (lists / f"{self.split}.txt").read_text(encoding="utf-8").splitlines()
        stems = [line.strip() for line in lines if line.strip()]
        if odd := [stem for stem in stems if len(stem.split()) != 1 or "/" in stem]:
            raise ValueError(
                f"{lists / self.split}.txt has {odd[0]!r}: expected a picture's name per line; lists of one class, as "
                "aeroplane_val, hold other things"
            )
        return stems


def _of_class(mask: Path, label: int) -> Tensor:
    """Levels count classes from 1; 0 is no object and 255 void."""
    return open_levels(mask) == label + 1
