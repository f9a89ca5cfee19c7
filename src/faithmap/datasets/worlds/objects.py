"""Things of ten shapes among distractors: what the class follows from is known to the pixel."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faithmap.datasets.base import Example, Truth
from faithmap.datasets.registry import register
from faithmap.datasets.worlds.base import Drawn, World
from faithmap.datasets.worlds.scenes import Scene, draw_scene, parts_of, render
from faithmap.datasets.worlds.shapes import GLYPHS, SHAPES


@register("worlds.objects")
@dataclass(frozen=True)
class Objects(World[Example]):
    """Pictures of 96 x 96 pixels whose class is the shape of a thing, or a glyph on a small tag.

    The truth is that thing's pixels, or the tag's. The donor is the same background without anything on it, its light
    turned a little and with a little grain of its own: pasted over a thing it takes the thing away and leaves no
    outline. The parts are all that stands on the background.

    Args:
        seed: of all that is drawn.
        size: how many pictures.
        variant: "single", one thing; "pair", two of different shapes, of which the label is one and the other a rival;
            "tagged", one thing that says nothing, and a glyph beside decoys that says the class.

    Source: this project's.

    Examples:
        >>> data = Objects(size=3)
        >>> data[2].image.size, data.classes[data[2].label] == data.scene(2).things[0].shape
        ((96, 96), True)
        >>> sorted({data[2].truth.part} - {*data[2].truth.parts()})
        []
    """

    task: ClassVar[Literal["classification"]] = "classification"

    variant: Literal["single", "pair", "tagged"] = "single"

    @cached_property
    def classes(self) -> Sequence[str]:
        """The ten shapes; of tagged pictures the ten glyphs."""
        return GLYPHS if self.variant == "tagged" else tuple(SHAPES)

    def scene(self, index: int) -> Scene:
        """What is on a picture.

        Args:
            index: its place.
        """
        return self._told(index)[0]

    def sample(self, index: int) -> Drawn:
        """One picture, whatever the size.

        Args:
            index: its place.
        """
        scene, part = self._told(index)
        cause = part if scene.glyph is None else scene.glyph.mark
        truth = truth_of(scene, part, f"{self.name}/{self.seed}/{index}/donor")
        return Drawn(f"{self.variant}-{index}", partial(picture, scene), self.classes.index(cause), truth)

    def _told(self, index: int) -> tuple[Scene, str]:
        """The scene, and which of its parts is the cause."""
        rng = self.rng(index)
        if self.variant == "tagged":
            return draw_scene(rng, 1, glyph=GLYPHS[int(rng.random() * len(GLYPHS))]), "glyph"
        scene = draw_scene(rng, 1 if self.variant == "single" else 2)
        return scene, scene.things[int(rng.random() * len(scene.things))].shape


def picture(scene: Scene) -> Image.Image:
    """What a scene looks like.

    Args:
        scene: what is on it.
    """
    return Image.fromarray(render(scene))


def truth_of(scene: Scene, part: str, seed: str) -> Truth:
    """What is known of a scene one part of which is the cause; its donor is the background alone.

    Args:
        scene: what is on the picture.
        part: the cause, as `parts_of` names it.
        seed: of the donor's light and grain.
    """
    return Truth(
        mask=partial(_region, scene, part), donor=partial(_bare, scene, seed), parts=partial(_regions, scene), part=part
    )


def _regions(scene: Scene) -> dict[str, Tensor]:
    """All that stands on the background, as `parts_of` names it, ``(96, 96)`` bool each."""
    return {name: torch.from_numpy(mask) for name, mask in parts_of(scene).items()}


def _region(scene: Scene, part: str) -> Tensor:
    return _regions(scene)[part]


def _bare(scene: Scene, seed: str) -> Image.Image:
    """The background alone. Another light and other grain make a paste beside a thing more than no change at all."""
    rng = random.Random(seed)
    turn = (0.15 + 0.25 * rng.random()) * (1 if rng.random() < 0.5 else -1)
    c, s, (x, y, z) = math.cos(turn), math.sin(turn), scene.light
    empty = replace(scene, light=(x * c - y * s, y * c + x * s, z), distractors=(), things=(), decoys=(), glyph=None)
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64))).standard_normal((96, 96, 1))
    return Image.fromarray(np.clip(np.rint(render(empty) + 1.5 * noise), 0, 255).astype(np.uint8))
