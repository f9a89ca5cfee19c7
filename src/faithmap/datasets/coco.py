"""COCO: every category that a picture shows is one example, as the pointing game has it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from faithmap.datasets.base import Dataset, Example, Truth, all_there, existing, within
from faithmap.datasets.registry import register
from faithmap.datasets.tables import box

WHERE = "val2017.zip and annotations_trainval2017.zip, which has instances_val2017.json, are at cocodataset.org"
MAX_BYTES = 2 * 2**30


@register("coco")
@dataclass(frozen=True)
class COCO(Dataset[Example]):
    """COCO's instances: one example for each picture and category on it, ``000000000139/person``.

    Its truth is all boxes, or all pixels, of the instances of that category. Groups that are annotated as one (crowds)
    are left out. Classes are the categories in the order of their numbers: of COCO 2017 80, whose numbers reach 90.

    Args:
        folder: the pictures, as val2017.
        annotations: the file, as annotations/instances_val2017.json.
        truth: "boxes", or "masks", which need ``pip install 'faithmap[coco]'``.

    Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context".

    Examples:
        >>> COCO("val2017", "instances_val2017.json")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder val2017: val2017.zip and annotations_trainval2017.zip, which has
            instances_val2017.json, are at cocodataset.org
    """

    task: ClassVar[Literal["classification"]] = "classification"

    folder: str
    annotations: str
    truth: Literal["boxes", "masks"] = "boxes"

    def read(self) -> Iterator[Example]:
        """By picture, in the file's order; then by category."""
        if self.truth == "masks" and importlib.util.find_spec("pycocotools") is None:
            raise ValueError("masks of coco are decoded by pycocotools: pip install 'faithmap[coco]'")
        root = existing(self.folder, WHERE, folder=True)
        photos = [photo for photo in self._instances.photos if photo.boxes]
        paths = [within(root, photo.name, self.annotations) for photo in photos]
        all_there(paths, self.annotations)
        for photo, path in zip(photos, paths, strict=True):
            for label in sorted(photo.boxes):
                if self.truth == "masks":
                    truth = Truth(mask=partial(_union, photo.shapes[label], photo.size))
                else:
                    truth = Truth(torch.tensor(photo.boxes[label], dtype=torch.float64), size=photo.size)
                stem = Path(photo.name).with_suffix("").as_posix()
                yield Example(f"{stem}/{self.classes[label]}", path, label, truth)

    @cached_property
    def classes(self) -> Sequence[str]:
        """The categories' names."""
        return self._instances.classes

    @cached_property
    def _instances(self) -> _Instances:
        file = existing(self.annotations, WHERE)
        if (length := file.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{file} has {length:,} bytes: annotations have at most {MAX_BYTES:,}")
        try:
            content = json.loads(file.read_bytes())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON: {error}; {WHERE}") from error
        try:
            return _read(content, file, shapes=self.truth == "masks")
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not what COCO calls instances: {error!r}; {WHERE}") from error


@dataclass
class _Photo:
    """A picture, with what is on it by class."""

    name: str
    size: tuple[int, int]
    boxes: dict[int, list[list[float]]] = field(default_factory=dict)
    shapes: dict[int, list[Any]] = field(default_factory=dict)
    """Polygons or run lengths, as the file has them."""


@dataclass(frozen=True)
class _Instances:
    classes: Sequence[str]
    photos: Sequence[_Photo]


def _read(content: Mapping[str, Any], file: Path, *, shapes: bool) -> _Instances:
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    labels = {number: label for label, number in enumerate(sorted(names))}
    photos = {one["id"]: _Photo(one["file_name"], (int(one["width"]), int(one["height"]))) for one in content["images"]}
    if len(photos) < len(content["images"]):
        raise ValueError(f"{file} has two images of one id")
    for one in content["annotations"]:
        if one.get("iscrowd"):
            continue
        where = f"{file}, annotation {one['id']}"
        if one["image_id"] not in photos or one["category_id"] not in labels:
            raise ValueError(f"{where}: there is no such image or category: {one['image_id']}, {one['category_id']}")
        photo, label = photos[one["image_id"]], labels[one["category_id"]]
        if len(one["bbox"]) != 4:
            raise ValueError(f"{where}: the bbox {one['bbox']} is not x, y, width, height")
        x, y, width, height = one["bbox"]
        photo.boxes.setdefault(label, []).append(box(where, [x, y, x + width, y + height]))
        if shapes:
            if not one.get("segmentation"):
                raise ValueError(f"{where} has no segmentation: use truth='boxes'")
            photo.shapes.setdefault(label, []).append(one["segmentation"])
    return _Instances([names[number] for number in labels], list(photos.values()))


def _union(shapes: Sequence[Any], size: tuple[int, int]) -> Tensor:
    """The pixels in one of the shapes, ``(height, width)`` bool."""
    from pycocotools import mask

    width, height = size
    runs = []
    for shape in shapes:
        if isinstance(shape, dict) and isinstance(shape["counts"], (str, bytes)):
            runs.append(shape)
        else:  # a list of polygons, or uncompressed runs
            found = mask.frPyObjects(shape, height, width)
            runs += found if isinstance(found, list) else [found]
    return torch.from_numpy(mask.decode(mask.merge(runs)).astype(bool))
