"""Backgrounds of scenes: noise in two muted colours."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.float32]
RGB: TypeAlias = tuple[float, float, float]

SIDE = 96
"""Of a scene, in pixels."""


@dataclass(frozen=True)
class Background:
    """What lies behind a scene.

    Args:
        family: one of `FAMILIES`.
        colours: the two that it is woven of, each in [0, 1].
        angle: in radians, of what has a direction.
        period: in pixels, of what repeats.
        seed: of its noise.
    """

    family: str
    colours: tuple[RGB, RGB]
    angle: float
    period: float
    seed: int


def draw_background(rng: random.Random) -> Background:
    """A background: two colours of one or of neighbouring hues, apart in lightness.

    Args:
        rng: what it is drawn with.
    """
    family = list(FAMILIES)[int(rng.random() * len(FAMILIES))]
    hue, saturation, light = rng.random(), 0.05 + 0.23 * rng.random(), 0.30 + 0.42 * rng.random()
    apart, turn = 0.08 + 0.16 * rng.random(), 0.25 * (rng.random() - 0.5)
    colours = _muted(hue, saturation, light - apart / 2), _muted(hue + turn, saturation, light + apart / 2)
    return Background(family, colours, math.pi * rng.random(), 6 + 12 * rng.random(), rng.getrandbits(64))


def painted(background: Background) -> Plane:
    """The picture of a background, ``(96, 96, 3)`` in [0, 1].

    Args:
        background: what is painted.
    """
    noise = np.random.Generator(np.random.PCG64(background.seed))
    share = FAMILIES[background.family](noise, background.angle, background.period)[..., None]  # (96, 96, 1)
    low, high = (np.array(colour, np.float32) for colour in background.colours)
    return np.clip(low + (high - low) * share, 0, 1)


# -- families: how much of the second colour each pixel has, mostly in [0, 1] -----------------------------------------


def clouds(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """Noise of all sizes."""
    return 0.5 + 0.9 * _rough(noise, (3, 5, 9, 17, 33), 0.6)


def grain(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """Sand."""
    fine = noise.standard_normal((SIDE, SIDE), np.float32)
    return 0.5 + 0.28 * fine + 0.5 * _rough(noise, (3, 5), 0.6)


def weave(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """Cloth: threads over and under one another."""
    along, across = _axes(angle)
    step = 2 * math.pi / (0.4 * period + 2)
    threads = np.sin(along * step) * np.sin(across * step)
    found: Plane = 0.5 + 0.38 * threads + 0.45 * _rough(noise, (4, 25, 49), 0.8)
    return found


def stripes(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """Bands that waver."""
    along, _ = _axes(angle)
    bent = along * (2 * math.pi / period) + 2.2 * _rough(noise, (3, 6), 0.5)
    return 0.5 + 0.42 * np.sin(bent) + 0.2 * _rough(noise, (33, 49), 0.9)


def gradient(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """A slope from one side to the other."""
    along, _ = _axes(angle)
    return 0.5 + along / SIDE + 0.16 * noise.standard_normal((SIDE, SIDE), np.float32) * 0.4


def wood(noise: np.random.Generator, angle: float, period: float) -> Plane:
    """Rings of a trunk, cut lengthwise."""
    along, across = _axes(angle)
    far = np.hypot(along * 0.25, across + 1.5 * SIDE)
    bent = far * (2 * math.pi / period) + 3.5 * _rough(noise, (3, 5, 9), 0.6)
    found: Plane = 0.5 + 0.36 * np.sin(bent) + 0.25 * _rough(noise, (49,), 1)
    return found


Family: TypeAlias = Callable[[np.random.Generator, float, float], Plane]
FAMILIES: Mapping[str, Family] = {family.__name__: family for family in (clouds, grain, weave, stripes, gradient, wood)}
"""What backgrounds there are."""


def _axes(angle: float) -> tuple[Plane, Plane]:
    """Pixels along a direction and across it, from the middle."""
    x = np.arange(SIDE, dtype=np.float32) - SIDE / 2 + 0.5
    c, s = math.cos(angle), math.sin(angle)
    return x * c + x[:, None] * s, x[:, None] * c - x * s


def _rough(noise: np.random.Generator, cells: tuple[int, ...], fall: float) -> Plane:
    """Smooth noise in so many cells a side, each finer one weaker by a factor; about 0, up to about 1."""
    total, weight = np.zeros((SIDE, SIDE), np.float32), 1.0
    for count in cells:
        spread = _spread(count)
        total += weight * (spread @ noise.uniform(-1, 1, (count + 3, count + 3)).astype(np.float32) @ spread.T)
        weight *= fall
    return total


@cache
def _spread(count: int) -> Plane:
    """How much each of count + 3 knots weighs at each pixel: cubic B-splines, ``(96, count + 3)``."""
    place = (np.arange(SIDE) + 0.5) / SIDE * count
    knot = np.floor(place).astype(int)
    t = place - knot
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    found = np.zeros((SIDE, count + 3), np.float32)
    for i, piece in enumerate(pieces):
        found[np.arange(SIDE), knot + i] = piece / 6
    return found


def _muted(hue: float, saturation: float, light: float) -> RGB:
    """A colour of that hue, in turns, and of little saturation."""
    r, g, b = (light * (1 + saturation * math.cos(2 * math.pi * (hue - third / 3))) for third in range(3))
    return r, g, b
