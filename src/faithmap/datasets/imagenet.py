"""ImageNet's validation pictures with their boxes, in the layouts in which people have them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from faithmap.datasets.base import Dataset, Example, all_there, existing, holdings
from faithmap.datasets.files import folders, pictures
from faithmap.datasets.pascal import read_annotation
from faithmap.datasets.registry import register
from faithmap.datasets.tables import Row, read_table, whole
from faithmap.models.labels import imagenet_labels, imagenet_wnids

WHERE = "the pictures (ILSVRC2012_img_val.tar) and boxes (ILSVRC2012_bbox_val_v3.tgz) are at image-net.org, after login"
FORMS = "ILSVRC2012_bbox_val's folder of XML files, LOC_val_solution.csv or a CSV with the columns of data set 'csv'"


@register("imagenet")
@dataclass(frozen=True)
class ImageNet(Dataset[Example]):
    """The validation pictures of ILSVRC 2012; a class is its synset's place among the sorted 1000, as in all networks.

    Pictures lie in one folder, or in one for each synset (n01440764/...). Boxes come from the official XML files (their
    folder), from LOC_val_solution.csv, or from a CSV with one or more rows per picture: image, wnid or label, and x0,
    y0, x1, y1; see `tables.COLUMNS`. They say the classes where pictures lie in one folder. A picture is known by its
    name without suffix, wherever it lies. Boxes that were measured in another size (the XML's, or orig_width and
    orig_height) are scaled to the file's, x and y apart.

    Args:
        folder: the pictures.
        boxes: where their boxes are; what it names is what is read. Without it, all of the class folders without boxes.
        partial: take those pictures that are there; else an absent one is an error.

    Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge".

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "n02124075").mkdir()
        >>> (folder / "n02124075" / "ILSVRC2012_val_00000042.JPEG").touch()
        >>> ImageNet(str(folder))[0].label
        285
    """

    task: ClassVar[Literal["classification"]] = "classification"

    folder: str
    boxes: str | None = None
    partial: bool = False

    def read(self) -> Iterator[Example]:
        """In the order of the boxes' table; else by name, or by class."""
        found = self._pictures()
        rows = [Row(path.name, stem, wnid=path.parent.name) for stem, path in found.items()]
        for row in rows if self.boxes is None else self._rows(found):
            path = found[row.image]
            yield Example(path.name, path, _label(row, path), row.truth)

    @cached_property
    def classes(self) -> Sequence[str]:
        """The names of the 1000."""
        return imagenet_labels()

    def labels_for(self, names: Sequence[str]) -> list[int | None]:
        """The same place, for a model of 1000 classes: several classes share a name."""
        return list(range(1000)) if len(names) == 1000 else super().labels_for(names)

    def _pictures(self) -> dict[str, Path]:
        """Where each is, by its name without suffix."""
        root = existing(self.folder, WHERE, folder=True)
        places = [path for path in folders(root) if path.name in _place()]
        if self.boxes is None and not places:
            raise ValueError(
                f"nothing says the classes of the pictures in {root}: it has no folder for each synset, as n01440764 "
                f"({holdings(root)}); or give boxes={FORMS}"
            )
        found: dict[str, Path] = {}
        for path in (path for place in (root, *places) for path in pictures(place)):
            if (other := found.setdefault(path.stem, path)) is not path:
                raise ValueError(f"there are two pictures {path.stem}: {other} and {path}")
        if not found:
            raise ValueError(
                f"there are no pictures in {root}, nor in folders named by synsets: {holdings(root)}; {WHERE}"
            )
        return found

    def _rows(self, found: dict[str, Path]) -> list[Row]:
        """What the boxes' files say of each picture, by its name without suffix."""
        source = Path(str(self.boxes)).expanduser()
        if not source.is_dir() and not source.is_file():
            raise FileNotFoundError(f"there is no {source}: boxes are {FORMS}; {WHERE}")
        if source.is_dir():
            stems = sorted(path.stem for path in source.iterdir() if path.suffix.lower() == ".xml")
            if not stems:
                raise ValueError(f"there are no XML files in {source}: {holdings(source)}; boxes are {FORMS}")
        else:
            table = {_stem(row): row for row in read_table(source, key=_stem)}
            stems = list(table)
        there = [stem for stem in stems if stem in found]
        if not self.partial and len(there) < len(stems):
            suffix, root = next(iter(found.values())).suffix, Path(self.folder).expanduser()
            hint = "partial=True takes those that are there"
            all_there([found.get(stem, root / f"{stem}{suffix}") for stem in stems], f"{source} ({hint})")
        if not there:
            raise ValueError(f"{source} names none of the pictures in {self.folder}: it names {stems[0]} first")
        if source.is_dir():
            return [_annotated(source / f"{stem}.xml", stem) for stem in there]
        for stem in there:
            table[stem].image = stem
        return [table[stem] for stem in there]


def _stem(row: Row) -> str:
    """A picture's name, whatever folder and suffix a table gives it."""
    return re.sub(r"\.(jpe?g|png)$", "", PurePosixPath(row.image.replace("\\", "/")).name, flags=re.IGNORECASE)


def _annotated(path: Path, stem: str) -> Row:
    """What an official XML file says: objects are named by their wnid."""
    annotation = read_annotation(path)
    names = sorted({one.name for one in annotation.objects})
    if len(names) != 1:
        raise ValueError(f"{path} has objects of {', '.join(names) or 'no class'}: expected one class per picture")
    return Row(
        path.name, stem, wnid=names[0], size=annotation.size, boxes=[list(one.box) for one in annotation.objects]
    )


def _label(row: Row, path: Path) -> int:
    """The class that the table and the folder say, each where it does."""
    said: dict[str, int] = {}
    for kind, text in (("wnid", row.wnid), ("label", row.label), ("folder", path.parent.name)):
        if text in _place():
            said[f"{kind} {text}"] = _place()[text]
        elif kind == "label" and (number := whole(row.where, text)) is not None:
            said[f"{kind} {text}"] = number
        elif kind == "wnid" and text:
            raise ValueError(f"{row.where}: {text!r} is not one of the 1000 synsets of ILSVRC 2012, as n01440764")
    if not said:
        raise ValueError(
            f"{row.where}: nothing says the class of {path.name}: expected a wnid, as n01440764, or a label 0..999"
            + (f", got {row.label!r}" if row.label else "")
        )
    if len(set(said.values())) > 1 or max(said.values()) >= len(_place()):
        words = ", ".join(f"{text} (class {k})" for text, k in said.items())
        raise ValueError(
            f"{row.where}: {path.name} has {words}: labels count the sorted synsets from 0, which is not the "
            "development kit's ILSVRC2012_ID"
        )
    return next(iter(said.values()))


@cache
def _place() -> dict[str, int]:
    return {wnid: i for i, wnid in enumerate(imagenet_wnids())}
