"""What all data sets share: a fixed order of examples, or of pairs of faces, each read when it is asked for."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor

from faithmap.images import Geometry, Picture
from faithmap.registry import Registered
from faithmap.words import did_you_mean


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the object is: boxes, or a mask, on the photo.

    Args:
        boxes: ``(k, 4)`` corners x0, y0, x1, y1 in pixels of the photo, from its top left corner; of the label's class.
        mask: reads ``(height, width)`` bool of the photo, where the object is.
    """

    boxes: Tensor | None = None
    mask: Callable[[], Tensor] | None = None

    def on(self, geometry: Geometry) -> Tensor:
        """Where the object is in the network's input, ``(H, W)`` bool: a pixel is in by its centre.

        Args:
            geometry: how the photo became an input.
        """
        if self.mask is not None:
            return geometry.mask_to_input(self.mask())
        assert self.boxes is not None
        return pixels_in(geometry.boxes_to_input(self.boxes), geometry.size)

    def first(self, geometry: Geometry) -> Tensor:
        """Likewise of the first box alone; of a mask all of it."""
        if self.boxes is None:
            return self.on(geometry)
        return pixels_in(geometry.boxes_to_input(self.boxes[:1]), geometry.size)


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
            raise ValueError(f"{self.name} is empty: {self.parameters}")
        twice = [id for id, count in Counter(one.id for one in found).items() if count > 1]
        if twice:
            raise ValueError(f"{self.name} holds {twice[0]!r} more than once")
        return found

    @cached_property
    def classes(self) -> Sequence[str] | None:
        """The names of the classes that labels count, where the data set knows them."""
        return None

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
        """
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


def all_there(paths: Sequence[Path], what: str) -> None:
    """Raise if files that a protocol names are absent: how many, and the first of them."""
    absent = [path for path in paths if not path.is_file()]
    if absent:
        folder = absent[0].parent
        near = sorted(p.name for p in folder.iterdir())[:2000] if folder.is_dir() else []
        hint = did_you_mean(absent[0].name, near).partition(" (")[0] if near else f"there is no folder {folder}"
        raise FileNotFoundError(
            f"{what} names {len(absent)} of {len(paths)} files that are absent, {absent[0]} first: {hint}"
        )
