"""Tables of pictures, as CSV: their labels, boxes and masks, whatever the columns are called; and ``load("csv")``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from faithmap.datasets.base import Dataset, Example, Truth, all_there, existing, within
from faithmap.datasets.files import read_cells
from faithmap.datasets.registry import register
from faithmap.images import open_levels

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "filename", "filepath", "file", "path", "imagepath", "imagefile", "imagename", "imageid", "img"),
    "label": ("label", "class", "target", "labelid", "classid", "classindex", "classidx", "classname"),
    "wnid": ("wnid", "synset", "synsetid", "wordnetid"),
    "mask": ("mask", "maskfile", "maskpath", "segmentation"),
    "x0": ("x0", "xmin", "left"),
    "y0": ("y0", "ymin", "top"),
    "x1": ("x1", "xmax", "right"),
    "y1": ("y1", "ymax", "bottom"),
    "bbox": ("bbox", "box", "boxes", "boundingbox"),
    "prediction": ("predictionstring",),
    "width": ("origwidth", "originalwidth", "imagewidth", "imgwidth", "width"),
    "height": ("origheight", "originalheight", "imageheight", "imgheight", "height"),
}
"""What columns may be called, first choice first, without case, spaces, - and _; next to x2 and y2, x1 means x0."""

CORNERS = ("x0", "y0", "x1", "y1")


@dataclass
class Row:
    """What a table says of one picture, in one row or in several."""

    where: str
    """The file's name and line, for messages."""
    image: str
    label: str = ""
    wnid: str = ""
    mask: str = ""
    size: tuple[int, int] | None = None
    """(width, height) of the picture in which boxes were measured."""
    boxes: list[list[float]] = field(default_factory=list)

    @property
    def truth(self) -> Truth | None:
        """The boxes, if any."""
        return Truth(torch.tensor(self.boxes, dtype=torch.float64), size=self.size) if self.boxes else None


def read_table(path: Path, key: Callable[[Row], str] = lambda row: row.image) -> list[Row]:
    """The pictures of a CSV file, in the order in which they first stand there.

    The first line names the columns: see `COLUMNS`. Commas, semicolons or tabs part them. A box has columns for its
    four corners, or one (bbox) with x0, y0, x1, y1; of ILSVRC's LOC_val_solution.csv the PredictionString is read. Rows
    of one picture add up its boxes; in the rest they agree.

    Args:
        path: UTF-8, with or without a byte order mark.
        key: what rows of one picture have in common.

    Raises:
        ValueError: a column, a cell or the encoding is not what it should be; the message names the line.
    """
    found: dict[str, Row] = {}
    for row in _rows(path):
        known = found.setdefault(key(row), row)
        if known is row:
            continue
        for name in ("label", "wnid", "mask", "size"):
            a, b = getattr(known, name), getattr(row, name)
            if a != b:
                raise ValueError(f"{row.where}: {row.image!r} has {name} {b!r}, and {a!r} in {known.where}")
        known.boxes += row.boxes
    if not found:
        raise ValueError(f"{path} names no picture: it has no row below its header")
    return list(found.values())


@register("csv")
@dataclass(frozen=True)
class Csv(Dataset[Example]):
    r"""Pictures that a CSV file lists, with what it says of them.

    It needs a column ``image``. ``label`` is a whole number, or for all rows a name: names count in their sorted order.
    Boxes are ``x0, y0, x1, y1`` or ``bbox``, one per row, in pixels of the picture, or of one of ``orig_width`` x
    ``orig_height`` pixels if these columns are there. ``mask`` is a file of the picture's size that is not 0 where the
    object is; a picture that has a mask needs no boxes. Other usual names of these columns are understood.

    Args:
        file: the table, UTF-8.
        folder: where its relative paths start; by default where the table is.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "cat.png").write_bytes(b"")  # opened when it is explained
        >>> _ = (folder / "all.csv").write_text("filename,label,xmin,ymin,xmax,ymax\ncat.png,285,0,0,9,9\n")
        >>> Csv(str(folder / "all.csv"))[0].truth.boxes.tolist()
        [[0.0, 0.0, 9.0, 9.0]]
    """

    task: ClassVar[Literal["classification"]] = "classification"

    file: str
    folder: str | None = None

    def read(self) -> Iterator[Example]:
        """In the table's order."""
        pictures = [within(self._root, row.image, row.where) for row in self._listed]
        masks = [within(self._root, row.mask, row.where) if row.mask else None for row in self._listed]
        all_there([*pictures, *filter(None, masks)], str(self.file))
        names = {name: i for i, name in enumerate(self.classes or ())}
        for row, path, mask in zip(self._listed, pictures, masks, strict=True):
            label = None if not row.label else names[row.label] if names else whole(row.where, row.label)
            truth = Truth(mask=partial(_not_zero, mask)) if mask else row.truth
            inside = path.is_relative_to(self._root)
            yield Example(path.relative_to(self._root).as_posix() if inside else path.name, path, label, truth)

    @cached_property
    def classes(self) -> Sequence[str] | None:
        """The names in the label column, sorted; None where it has numbers."""
        rows = [row for row in self._listed if row.label]
        numbers = [whole(row.where, row.label) is not None for row in rows]
        if any(numbers) and not all(numbers):
            odd = rows[numbers.index(not numbers[0])]
            raise ValueError(
                f"{odd.where}: the label {odd.label!r} is a {'name' if numbers[0] else 'number'}, and "
                f"{rows[0].label!r} in {rows[0].where} is none: labels are all numbers or all names"
            )
        return None if not rows or numbers[0] else sorted({row.label for row in rows})

    @cached_property
    def _root(self) -> Path:
        if self.folder is None:
            return Path(self.file).expanduser().parent
        return existing(self.folder, "the pictures of the table should lie there", folder=True)

    @cached_property
    def _listed(self) -> list[Row]:
        path = existing(self.file, "it should list pictures, as CSV with a column 'image'")
        return read_table(path, key=lambda row: str(within(self._root, row.image, row.where)))


def _not_zero(mask: Path) -> Tensor:
    return open_levels(mask) > 0


def _rows(path: Path) -> Iterator[Row]:
    """One by one, with the boxes of each."""
    lines = read_cells(path)
    columns = _columns(path, first.cells) if (first := next(lines, None)) else {}
    for line in lines:
        yield _row(line.where, {name: line.cells[i] for name, i in columns.items()})


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Where each column that is understood stands."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    if twice := [name for name in plain if name and plain.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}: {', '.join(header)}")
    if {"x2", "y2"} <= set(plain) and not {"x0", "y0"} & set(plain):
        plain = [{"x1": "x0", "y1": "y0", "x2": "x1", "y2": "y1"}.get(name, name) for name in plain]
    found = {}
    for name, aliases in COLUMNS.items():
        if there := [alias for alias in aliases if alias in plain]:
            found[name] = plain.index(there[0])
    if "image" not in found:
        raise ValueError(
            f"{path} has no column for the picture: its first line has {', '.join(header)!r}; expected "
            f"{', '.join(COLUMNS['image'])}, and as needed label, wnid, x0, y0, x1, y1 (or bbox), mask"
        )
    for group in (CORNERS, ("width", "height")):
        if lacking := [name for name in group if name not in found]:
            if len(lacking) < len(group) and group is CORNERS:
                raise ValueError(f"{path} has columns for some corners of a box and none for {', '.join(lacking)}")
            found = {name: i for name, i in found.items() if name not in group}
    return found


def _row(where: str, cells: Mapping[str, str]) -> Row:
    if not cells["image"]:
        raise ValueError(f"{where} names no picture")
    label, wnid, mask = (cells.get(name, "") for name in ("label", "wnid", "mask"))
    row = Row(where, cells["image"], label, wnid, mask)
    numbers: list[float] = []
    if corners := [cells[name] for name in CORNERS if cells.get(name)]:
        if len(corners) < len(CORNERS):
            raise ValueError(f"{where} has {len(corners)} of the 4 corners {', '.join(CORNERS)} of a box")
        numbers = [number(where, corner) for corner in corners]
    elif cells.get("bbox"):
        numbers = [number(where, text) for text in re.split(r"[\s,;()\[\]]+", cells["bbox"]) if text]
    elif cells.get("prediction"):
        words = cells["prediction"].split()
        if len(words) % 5 or len(set(words[::5])) != 1:
            raise ValueError(f"{where}: {cells['prediction']!r} is not one wnid and four corners for each box")
        row.wnid, numbers = words[0], [number(where, word) for i, word in enumerate(words) if i % 5]
    if len(numbers) % 4:
        raise ValueError(f"{where} has a box of {len(numbers)} numbers: expected x0, y0, x1, y1")
    row.boxes = [box(where, numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
    sides = [number(where, cells[name]) for name in ("width", "height") if cells.get(name)]
    if len(sides) == 2:
        if min(sides) < 1:
            raise ValueError(f"{where}: a picture of {sides[0]:g}x{sides[1]:g} pixels has no pixels")
        row.size = int(sides[0]), int(sides[1])
    return row


def whole(where: str, text: str) -> int | None:
    """A label that is a number, as 285 or 285.0; None of a name.

    Raises:
        ValueError: it is a number that counts nothing.
    """
    if re.fullmatch(r"[0-9]{1,9}(\.0*)?", text):
        return int(float(text))
    if re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text, re.IGNORECASE):
        raise ValueError(f"{where}: the label {text!r} is not a whole number from 0")
    return None


def box(where: str, corners: Sequence[float]) -> list[float]:
    """The corners x0, y0, x1, y1, if they are some."""
    x0, y0, x1, y1 = corners
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"{where}: the box {tuple(corners)} is not of finite numbers")
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f"{where}: the box {tuple(corners)} ends before it starts: expected x0, y0, x1, y1 (not x, y, width, "
            "height)"
        )
    return list(corners)


def number(where: str, text: str) -> float:
    """What the text says, if it is a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {text!r} is no number")
    return value
