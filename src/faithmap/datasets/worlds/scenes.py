"""Scenes: things on a background, among distractors, described and then drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from faithmap.datasets.worlds.shapes import (
    COLOURS,
    DECOYS,
    DISTRACTORS,
    MARKS,
    MATERIALS,
    NEUTRALS,
    RGB,
    SHAPES,
    Plane,
    shaded,
    tag,
)
from faithmap.datasets.worlds.textures import SIDE, Background, draw_background, painted

Mask: TypeAlias = NDArray[np.bool_]
Place: TypeAlias = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """One of the ten shapes.

    Args:
        shape: one of `SHAPES`.
        material: one of `MATERIALS`.
        colour: one of `COLOURS`.
        centre: x and y in pixels.
        radius: of the circle that holds it, in pixels.
        angle: by which it is turned, in radians, clockwise.
    """

    shape: str
    material: str
    colour: str
    centre: Place
    radius: float
    angle: float


@dataclass(frozen=True)
class Distractor:
    """A smaller thing that is none of the ten.

    Args:
        kind: one of `DISTRACTORS`.
        colour: one of `COLOURS` or `NEUTRALS`.
        centre: x and y in pixels.
        radius: of the circle that holds it, in pixels.
        angle: by which it is turned, in radians, clockwise.
    """

    kind: str
    colour: str
    centre: Place
    radius: float
    angle: float


@dataclass(frozen=True)
class Tag:
    """A small label with a mark on it.

    Args:
        mark: one of `MARKS`.
        dark: whether the mark is dark on light.
        centre: x and y in pixels.
        radius: of the circle that holds it, in pixels.
        angle: by which it is turned, in radians, clockwise.
    """

    mark: str
    dark: bool
    centre: Place
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """What is on a picture, from back to front.

    Args:
        background: what it lies on.
        light: where the light comes from, of length 1: right, down, towards the eye.
        distractors: what is none of the ten shapes.
        things: what is.
        decoys: tags that stand for nothing.
        glyph: the tag that stands for a class, if there is one.
    """

    background: Background
    light: RGB
    distractors: tuple[Distractor, ...] = ()
    things: tuple[Thing, ...] = ()
    decoys: tuple[Tag, ...] = ()
    glyph: Tag | None = None

    @property
    def pieces(self) -> Iterator[Piece]:
        """All that stands on the background, from back to front."""
        yield from self.distractors
        yield from self.things
        yield from self.decoys
        if self.glyph is not None:
            yield self.glyph


Piece: TypeAlias = Thing | Distractor | Tag


def draw_scene(
    rng: random.Random,
    things: int | Sequence[str] = 1,
    *,
    glyph: str | None = None,
    vivid: bool = True,
    diameters: tuple[float, float] = (0.18, 0.40),
) -> Scene:
    """A scene whose pieces do not touch one another; its things have different shapes and different colours.

    Args:
        rng: what it is drawn with.
        things: how many, up to 8, or which shapes, from the first to the last of `Scene.things`.
        glyph: one of `GLYPHS`, which a tag shows among decoys; None for neither.
        vivid: whether distractors may have the things' colours, rather than grey ones alone.
        diameters: of things, the smallest and the largest, as shares of the picture's side. Where there is no room for
            a thing it becomes smaller.
    """
    shapes = _some(rng, list(SHAPES), things) if isinstance(things, int) else list(things)
    colours = _some(rng, list(COLOURS), len(shapes))
    background, light = draw_background(rng), _light(rng)
    sizes = sorted((diameters[0] + (diameters[1] - diameters[0]) * rng.random()) / 2 * SIDE for _ in shapes)[::-1]
    room = _Room()
    places = [room.place(rng, radius) for radius in sizes]
    order = _some(rng, places, len(places))  # the first thing is not always the largest
    stand = tuple(
        Thing(shape, _one(rng, MATERIALS), colour, centre, radius, SHAPES[shape][1] * (2 * rng.random() - 1))
        for shape, colour, (centre, radius) in zip(shapes, colours, order, strict=True)
    )
    tags = [] if glyph is None else [_tag(rng, room, mark) for mark in (glyph, *_some(rng, DECOYS, 2))]
    near = [*COLOURS, *NEUTRALS] if vivid else [*NEUTRALS]
    others = []
    for _ in range(2 + int(4 * rng.random())):
        centre, radius = room.place(rng, 4.5 + 4.5 * rng.random())
        others.append(Distractor(_one(rng, [*DISTRACTORS]), _one(rng, near), centre, radius, _angle(rng)))
    return Scene(background, light, tuple(others), stand, tuple(tags[1:]), tags[0] if tags else None)


def render(scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene, ``(96, 96, 3)``.

    Args:
        scene: what is on it.

    Examples:
        >>> scene = draw_scene(random.Random(0), ["star", "cube"])
        >>> render(scene).shape
        (96, 96, 3)
    """
    picture = painted(scene.background)
    x = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    picture *= (1 + 0.14 * (scene.light[0] * x + scene.light[1] * x[:, None]))[..., None]
    for piece in scene.pieces:
        box, u, v = _frame(piece)
        distance, colours = _looks(piece, u, v, scene.light)
        cover = np.clip(0.5 - distance * piece.radius, 0, 1)[..., None]
        picture[box] += cover * (colours - picture[box])
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def mask_of(scene: Scene, k: int) -> Mask:
    """The pixels that show the k-th thing, ``(96, 96)`` bool: all that it touches, unless another covers more of them.

    Args:
        scene: what is on the picture.
        k: which of its things.
    """
    return _shown(scene)[len(scene.distractors) + range(len(scene.things))[k]]


def parts_of(scene: Scene) -> dict[str, Mask]:
    """The pixels of each piece by its name, ``(96, 96)`` bool each, no two of which share any.

    Things are called by their shapes, the glyph "glyph", decoys and distractors by what they are; the second of a name
    has a number.

    Args:
        scene: what is on the picture.
    """
    found: dict[str, Mask] = {}
    counts: dict[str, int] = {}
    for piece, mask in zip(scene.pieces, _shown(scene), strict=True):
        name = _name(piece, scene)
        counts[name] = counts.get(name, 0) + 1
        found[name if counts[name] == 1 else f"{name} {counts[name]}"] = mask
    return found


# -- painting ---------------------------------------------------------------------------------------------------------


def _frame(piece: Piece) -> tuple[tuple[slice, slice], Plane, Plane]:
    """The rows and columns that a piece may touch, and where their pixels are in its own frame."""
    (x, y), reach = piece.centre, piece.radius + 1
    columns = slice(max(math.floor(x - reach), 0), min(math.ceil(x + reach), SIDE))
    rows = slice(max(math.floor(y - reach), 0), min(math.ceil(y + reach), SIDE))
    right = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - x) / piece.radius
    down = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - y)[:, None] / piece.radius
    c, s = math.cos(piece.angle), math.sin(piece.angle)
    return (rows, columns), right * c + down * s, down * c - right * s


def _looks(piece: Piece, u: Plane, v: Plane, light: RGB) -> tuple[Plane, Plane]:
    """How far points ``(h, w)`` are from a piece's rim, in its radius, and their colours ``(h, w, 3)``."""
    if isinstance(piece, Thing):
        surface = SHAPES[piece.shape][0](u, v)
        c, s = math.cos(piece.angle), math.sin(piece.angle)
        turned = (light[0] * c + light[1] * s, light[1] * c - light[0] * s, light[2])
        return surface.distance, shaded(surface, u, v, piece.material, COLOURS[piece.colour], turned, (-s, -c, 0.0))
    if isinstance(piece, Distractor):
        colour = np.array({**COLOURS, **NEUTRALS}[piece.colour], np.float32)
        return DISTRACTORS[piece.kind](u, v), np.broadcast_to(colour * 0.88, (*u.shape, 3))
    ink, paper = (np.float32(0.10), np.float32(0.94)) if piece.dark else (np.float32(0.96), np.float32(0.13))
    written = np.clip(0.5 - MARKS[piece.mark](u, v) * piece.radius, 0, 1)
    return tag(u, v), np.broadcast_to((paper + (ink - paper) * written)[..., None], (*u.shape, 3))


def _shown(scene: Scene) -> list[Mask]:
    """The pixels of each piece: those of which it covers some, and no piece before it more."""
    left = np.ones((SIDE, SIDE), np.float32)
    most = np.zeros((SIDE, SIDE), np.float32)
    owner = np.full((SIDE, SIDE), -1)
    pieces = list(scene.pieces)
    for i in reversed(range(len(pieces))):
        box, u, v = _frame(pieces[i])
        cover = np.clip(0.5 - _looks(pieces[i], u, v, scene.light)[0] * pieces[i].radius, 0, 1)
        seen = cover * left[box]
        owner[box] = np.where(seen > most[box], i, owner[box])
        most[box] = np.maximum(most[box], seen)
        left[box] *= 1 - cover
    return [owner == i for i in range(len(pieces))]


def _name(piece: Piece, scene: Scene) -> str:
    if isinstance(piece, Thing):
        return piece.shape
    if isinstance(piece, Distractor):
        return piece.kind
    return "glyph" if piece is scene.glyph else "decoy"


# -- drawing lots -----------------------------------------------------------------------------------------------------


class _Room:
    """Where something stands already."""

    def __init__(self) -> None:
        self._taken: list[tuple[Place, float]] = []

    def place(self, rng: random.Random, radius: float) -> tuple[Place, float]:
        """A free place, and the radius, which shrinks until there is one."""
        while True:
            for _ in range(40):
                span = SIDE - 2 * radius - 3
                centre = radius + 1.5 + span * rng.random(), radius + 1.5 + span * rng.random()
                if all(math.dist(centre, other) > radius + far + 2 for other, far in self._taken):
                    self._taken.append((centre, radius))
                    return centre, radius
            radius *= 0.9


def _tag(rng: random.Random, room: _Room, mark: str) -> Tag:
    centre, radius = room.place(rng, 9.3 + 1.2 * rng.random())
    return Tag(mark, rng.random() < 0.5, centre, radius, 0.4 * (rng.random() - 0.5))


def _light(rng: random.Random) -> RGB:
    """From above, in front of the picture."""
    round_, height = math.pi * (0.1 + 0.8 * rng.random()), 0.6 + 0.25 * rng.random()
    flat = math.sqrt(1 - height**2)
    return flat * math.cos(round_), -flat * math.sin(round_), height


def _angle(rng: random.Random) -> float:
    return 2 * math.pi * rng.random()


def _one(rng: random.Random, names: Sequence[str]) -> str:
    return names[int(rng.random() * len(names))]


def _some(rng: random.Random, of: Sequence[T], count: int) -> list[T]:
    """So many of them, in a random order."""
    left = list(of)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]
