"""What all data sets share: a fixed order of examples, or of pairs of faces, each read when it is asked for."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

import torch
from PIL import Image
from torch import Tensor

from faithmap.images import Geometry, Picture
from faithmap.models.labels import imagenet_wnids
from faithmap.registry import Registered
from faithmap.words import did_you_mean


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the cause is: boxes, or a mask, on the photo.

    Of photos it is where the object is, which need not be what the network looked at. Worlds know more: what else the
    cause could have been, and what the picture holds where the cause is taken away.

    Args:
        boxes: ``(k, 4)`` corners x0, y0, x1, y1 in pixels of the photo, from its top left corner; of the label's class.
        mask: reads ``(height, width)`` bool of the photo, where the object is.
        size: (width, height) of the photo in which boxes were measured: they scale with it where the photo has another
            size, x and y apart. Without it they were measured in the photo as it is.
        donor: draws a picture of the same size, without the cause: a region is taken away by pasting the donor's.
        parts: draws the regions that could have been the cause, by their names, like the mask.
        part: which of them it is.
        against: of pairs of faces, whether the cause parts them (e-) rather than joins them (e+).

    Raises:
        ValueError: there are both boxes and a mask, or neither, or boxes are not ``(k, 4)`` with k at least 1.
    """

    boxes: Tensor | None = None
    mask: Callable[[], Tensor] | None = None
    size: tuple[int, int] | None = None
    donor: Callable[[], Image.Image] | None = None
    parts: Callable[[], Mapping[str, Tensor]] | None = None
    part: str = ""
    against: bool = False

    def __post_init__(self) -> None:
        if (self.boxes is None) == (self.mask is None):
            raise ValueError("a truth is boxes, or a mask: got " + ("neither" if self.mask is None else "both"))
        if self.boxes is not None and (self.boxes.dim() != 2 or self.boxes.shape[1] != 4 or not len(self.boxes)):
            raise ValueError(f"boxes are {tuple(self.boxes.shape)}: expected (k, 4) with x0, y0, x1, y1")

    def on(self, geometry: Geometry) -> Tensor:
        """Where the object is in the network's input, ``(H, W)`` bool: a pixel is in by its centre.

        Args:
            geometry: how the photo became an input.

        Raises:
            ValueError: a box reaches more than a pixel outside the photo or ends before it starts; or the mask is not
                of the photo's size, or cannot be read.
            FileNotFoundError: the mask's file is gone.
        """
        if self.mask is not None:
            return geometry.mask_to_input(self.mask())
        assert self.boxes is not None
        return self._inside(self.boxes, geometry)

    def first(self, geometry: Geometry) -> Tensor:
        """Likewise of the first box alone; of a mask all of it."""
        return self.on(geometry) if self.boxes is None else self._inside(self.boxes[:1], geometry)

    def rivals(self, geometry: Geometry) -> Tensor:
        """The regions that could have been the cause and were not, in the network's input, ``(n, H, W)`` bool."""
        others = [region for name, region in (self.parts() if self.parts else {}).items() if name != self.part]
        found = [geometry.mask_to_input(region) for region in others]
        return torch.stack(found) if found else torch.zeros(0, *geometry.size, dtype=torch.bool)

    def _inside(self, boxes: Tensor, geometry: Geometry) -> Tensor:
        """The pixels of the input in boxes of the photo, ``(H, W)`` bool."""
        photo, size = geometry.photo, self.size or geometry.photo
        if size != photo and size == photo[::-1]:
            raise ValueError(
                f"the boxes were measured in {size[0]}x{size[1]} pixels and the photo has {photo[0]}x{photo[1]}: it "
                "was turned since, by itself or by its EXIF orientation"
            )
        limit = boxes.new_tensor(size) + 1  # annotators round
        fits = (boxes[:, :2] >= -1).all(dim=1) & (boxes[:, 2:] <= limit).all(dim=1)  # NaN does not
        if not fits.all():
            box = ", ".join(f"{value:g}" for value in boxes[~fits][0].tolist())
            raise ValueError(f"the box ({box}) reaches outside its photo of {size[0]}x{size[1]} pixels")
        scale = torch.tensor([photo[0] / size[0], photo[1] / size[1]] * 2, dtype=torch.float64)
        return pixels_in(geometry.boxes_to_input(boxes.double() * scale), geometry.size)


def pixels_in(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels whose centre lies in one of the boxes ``(k, 4)``: ``(H, W)`` bool.

    Examples:
        >>> pixels_in(torch.tensor([[0.0, 0.4, 1.0, 2.0]]), (2, 2)).tolist()
        [[True, False], [True, False]]
    """
    y, x = (torch.arange(length, dtype=torch.float64) + 0.5 for length in size)
    across = (x >= boxes[:, None, 0]) & (x < boxes[:, None, 2])  # (k, W)
    down = (y >= boxes[:, None, 1]) & (y < boxes[:, None, 3])  # (k, H)
    return (down[:, :, None] & across[:, None, :]).any(dim=0)


@dataclass(frozen=True, eq=False)
class Example:
    """A picture with its class and, where known, where the object is."""

    id: str
    """What tables call it: unique in its data set, without the folder's path."""
    image: Picture
    label: int | None = None
    """The class, an index of `Dataset.classes`."""
    truth: Truth | None = None
    question: str | None = None
    """What is asked about the picture; the label is then the answer."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures of faces, and whether they show one person."""

    id: str
    probe: Picture
    gallery: Picture
    genuine: bool
    subjects: tuple[str, str] = ("", "")
    """Who is on the probe and on the gallery; intervals draw people, not pairs."""
    group: str = ""
    """The part of the protocol: its fold, its distance, its occlusion."""
    truth: Truth | None = None
    """On the probe, where it is known."""


E = TypeVar("E", Example, Pair)
D = TypeVar("D", bound="Dataset[Any]")


@dataclass(frozen=True)
class Dataset(Registered, Sequence[E], ABC, Generic[E]):
    """Examples in a fixed order. What it is read from is checked when it is made; pictures are read one by one.

    Raises:
        ValueError: a parameter or a protocol file is not what it should be.
        FileNotFoundError: a file is not there; the message says where to get it, or which ones lack.
    """

    task: ClassVar[Literal["classification", "verification"]]

    def __post_init__(self) -> None:
        for f in fields(self):
            if isinstance(path := getattr(self, f.name), os.PathLike):
                object.__setattr__(self, f.name, os.fspath(path))  # parameters are what a file can say
        super().__post_init__()
        _ = self.examples  # reads and checks the index

    @cached_property
    def examples(self) -> Sequence[E]:
        """All of them, without their pixels."""
        found = list(self.read())
        if not found:
            read = ", ".join(f"{key} {value}" for key, value in self.parameters.items() if value is not None)
            raise ValueError(f"{self.name} holds no examples: {read or 'nothing was given to read'}")
        twice = [id for id, count in Counter(one.id for one in found).items() if count > 1]
        if twice:
            raise ValueError(f"{self.name} holds {twice[0]!r} more than once")
        if self.classes is not None:
            labels = ((one.id, one.label) for one in found if isinstance(one, Example) and one.label is not None)
            for id, label in labels:
                if not 0 <= label < len(self.classes):
                    raise ValueError(f"{self.name}'s {id!r} has label {label}, outside its {len(self.classes)} classes")
        return found

    @cached_property
    def classes(self) -> Sequence[str] | None:
        """The names of the classes that labels count, where the data set knows them."""
        return None

    def labels_for(self, names: Sequence[str]) -> list[int | None]:
        """Which class of a model each label is, by its name or its WordNet identifier, whatever the case.

        Args:
            names: the model's classes.

        Returns:
            For each of `classes` an index of names; None where the model has none of that name, or several.

        Raises:
            ValueError: the data set does not know the names of its classes.
        """
        if self.classes is None:
            raise ValueError(f"{self.name} does not know the names of its classes")
        if list(names) == list(self.classes):
            return list(range(len(names)))
        indices: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            indices.setdefault(_plain(name), []).append(i)
        if len(names) == 1000:
            indices |= {wnid: [i] for i, wnid in enumerate(imagenet_wnids())}
        found = (indices.get(_plain(name), []) for name in self.classes)
        return [one[0] if len(one) == 1 else None for one in found]

    @abstractmethod
    def read(self) -> Iterator[E]:
        """The examples, in their order."""

    @overload
    def __getitem__(self, i: int) -> E: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[E]: ...
    def __getitem__(self, i: int | slice) -> E | Sequence[E]:
        return self.examples[i]

    def __len__(self) -> int:
        return len(self.examples)

    def take(self: D, limit: int | None = None, *, per_class: int | None = None) -> D:
        """The same data set with fewer examples, spread evenly over its order: always the same ones.

        Args:
            limit: how many in all; of pairs half genuine and half impostor, as far as there are.
            per_class: how many of each label, the first ones; of pairs of each kind.

        Raises:
            ValueError: a number is below 1.
        """
        for name, count in (("limit", limit), ("per_class", per_class)):
            if count is not None and count < 1:
                raise ValueError(f"{name} is at least 1: got {count}")
        kept = list(range(len(self)))
        if per_class is not None:
            kept = sorted(i for group in self._kinds(kept) for i in group[:per_class])
        if limit is not None:
            groups = self._kinds(kept) if self.task == "verification" else [kept]
            shares = _shares([len(group) for group in groups], limit)
            kept = sorted(i for group, n in zip(groups, shares, strict=True) for i in _spread(group, n))
        some = copy.copy(self)
        some.__dict__["examples"] = [self.examples[i] for i in kept]
        return some

    def only(self: D, keep: Callable[[Any], bool]) -> D:
        """The same data set with those examples alone that are to be kept.

        Args:
            keep: tells of each example whether it is.

        Raises:
            ValueError: none is kept.
        """
        some = copy.copy(self)
        some.__dict__["examples"] = [one for one in self.examples if keep(one)]
        if not some.examples:
            raise ValueError(f"{self.name} holds {len(self)} examples, and none of those that are asked for")
        return some

    def _kinds(self, rows: Sequence[int]) -> list[list[int]]:
        """The rows of each label, or of genuine and impostor pairs."""
        kinds: dict[object, list[int]] = {}
        for i in rows:
            one = self.examples[i]
            kinds.setdefault(one.genuine if isinstance(one, Pair) else one.label, []).append(i)
        return list(kinds.values())


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """How many of each group make up the limit: as equal as their sizes allow."""
    shares, left = [0] * len(sizes), limit
    for rank, group in enumerate(sorted(range(len(sizes)), key=lambda g: sizes[g])):
        shares[group] = min(sizes[group], left // (len(sizes) - rank))
        left -= shares[group]
    return shares


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """So many of them, evenly from first to last."""
    return [rows[k * len(rows) // count] for k in range(count)]


def existing(path: str | os.PathLike[str], hint: str, *, folder: bool = False) -> Path:
    """The path, or an error that says what should be there and where to get it."""
    found = Path(path).expanduser()
    if not (found.is_dir() if folder else found.is_file()):
        kind = "folder" if folder else "file"
        raise FileNotFoundError(f"there is no {kind} {found}: {hint}")
    return found


def within(folder: Path, name: str, where: str) -> Path:
    """The path that a protocol's file names: absolute, or inside the folder."""
    path, depth = Path(name), 0
    for part in () if path.is_absolute() else path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ValueError(f"{where}: {name!r} leads out of {folder}: give its absolute path")
    return folder / path


def all_there(paths: Sequence[Path], what: str) -> None:
    """Raise if files that a protocol names are absent: how many, and the first of them."""
    absent = [path for path in paths if not path.is_file()]
    if absent:
        folder = absent[0].parent
        near = sorted(p.name for p in folder.iterdir())[:2000] if folder.is_dir() else []
        hint = did_you_mean(absent[0].name, near, limit=1).partition(" (")[0] if near else holdings(folder)
        first = ", ".join(map(str, absent[:3])) + (", ..." if len(absent) > 3 else "")
        raise FileNotFoundError(f"{what} names {len(absent)} of {len(paths)} files that are absent: {first}; {hint}")


def holdings(folder: Path) -> str:
    """What is in a folder, as the end of an error message."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    if not names:
        return f"the folder {folder} is empty"
    return f"{folder} holds {', '.join(names[:6])}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ")
