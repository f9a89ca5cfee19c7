"""What worlds share: samples that are described by a seed and their place, and drawn when they are asked for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

from PIL import Image

from faithmap.datasets.base import Dataset, E, Example, Pair, Truth

MOST = 1_000_000
"""Samples of one world: their descriptions are made when it is."""
Draw = Callable[[], Image.Image]
"""Draws a picture, the same each time."""


@dataclass(frozen=True)
class World(Dataset[E], Generic[E]):
    """A generated data set: sample i is a function of (seed, i) alone, and takes no memory until it is drawn.

    Args:
        seed: of all that is drawn; another seed is another world.
        size: how many samples; a larger world begins with those of a smaller one.

    Raises:
        ValueError: the seed is negative, or the size below 1.
    """

    seed: int = 0
    size: int = 400

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"{self.name} is drawn from a seed, a whole number from 0: got {self.seed!r}")
        if type(self.size) is not int or not 1 <= self.size <= MOST:
            raise ValueError(f"{self.name}'s size is a whole number from 1 to {MOST}: got {self.size!r}")
        super().__post_init__()

    def rng(self, index: int) -> random.Random:
        """What is random of one sample: the same numbers on all machines.

        Args:
            index: the sample's place.
        """
        return random.Random(f"{self.name}/{self.seed}/{index}")

    def sample(self, index: int) -> E:
        """One sample, whatever the size.

        Args:
            index: its place.
        """
        raise NotImplementedError

    def read(self) -> Iterator[E]:
        """All of them."""
        yield from map(self.sample, range(self.size))


class Drawn(Example):
    """A picture that is drawn each time it is looked at.

    Args:
        id: what tables call it.
        draw: draws it.
        label: the class.
        truth: where the cause is.
        question: what is asked about it.
    """

    _draw: Draw

    def __init__(
        self, id: str, draw: Draw, label: int | None = None, truth: Truth | None = None, question: str | None = None
    ) -> None:
        vars(self).update(id=id, _draw=draw, label=label, truth=truth, question=question)

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return self._draw()


class DrawnPair(Pair):
    """Two faces that are drawn each time they are looked at.

    Args:
        id: what tables call it.
        probe: draws the one.
        gallery: draws the other.
        genuine: whether they are one person.
        subjects: who they are.
        group: the kind of pair.
        truth: on the probe, what joins or parts them.
    """

    _draw: Draw
    _gallery: Draw

    def __init__(
        self,
        id: str,
        probe: Draw,
        gallery: Draw,
        genuine: bool,
        subjects: tuple[str, str],
        group: str = "",
        truth: Truth | None = None,
    ) -> None:
        vars(self).update(
            id=id, _draw=probe, _gallery=gallery, genuine=genuine, subjects=subjects, group=group, truth=truth
        )

    @property
    def probe(self) -> Image.Image:
        """The face that is explained."""
        return self._draw()

    @property
    def gallery(self) -> Image.Image:
        """The face that it is compared with."""
        return self._gallery()
