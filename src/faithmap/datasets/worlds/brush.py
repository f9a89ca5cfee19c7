"""What portraits are painted with: sheets of coordinates and colours, soft edges, palettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.floating[Any]]
Colour: TypeAlias = "tuple[float, float, float] | Plane"


@dataclass(frozen=True, eq=False)
class Sheet:
    """A part of the picture: its colours, the face's coordinates under each pixel, and its height over the paper."""

    rgb: Plane
    """``(3, h, w)``, 0 to 255."""
    u: Plane
    """``(h, w)``: to the right, in pixels of the face seen from the front."""
    v: Plane
    """``(h, w)``: down."""
    height: Plane
    """``(h, w)``: towards the viewer, in pixels."""
    shade: Plane
    """``(h, w)``: how much light falls here, 1 in the open."""

    def window(self, left: float, top: float, right: float, bottom: float) -> Sheet:
        """The pixels around a box of the face; what is painted there is painted here."""
        rows = (self.v > top) & (self.v < bottom)
        inside = rows & (self.u > left) & (self.u < right)
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(ys):
            ys = xs = np.zeros(1, dtype=np.intp)
        y, x = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
        return Sheet(self.rgb[:, y, x], self.u[y, x], self.v[y, x], self.height[y, x], self.shade[y, x])

    def paint(self, cover: Plane, colour: Colour) -> None:
        """Lay a colour over what is there.

        Args:
            cover: ``(h, w)``, 0 where nothing is painted, 1 where what was there is gone.
            colour: one for all pixels, or ``(3, h, w)``.
        """
        paint = np.asarray(colour, np.float32).reshape(3, 1, 1) if isinstance(colour, tuple) else colour
        self.rgb[...] += cover * (paint - self.rgb)

    def tint(self, cover: Plane, factors: tuple[float, float, float]) -> None:
        """Multiply what is there: shadows and blushes.

        Args:
            cover: ``(h, w)``, how much.
            factors: of each channel where cover is 1.
        """
        self.rgb[...] *= 1 + cover * (np.asarray(factors, np.float32).reshape(3, 1, 1) - 1)


def inside(distance: Plane, softness: float = 1.0) -> Plane:
    """How much of a pixel lies within an outline: 1 inside, 0 outside.

    Args:
        distance: signed, negative inside, in pixels.
        softness: the width of the edge.
    """
    cover: Plane = np.clip(0.5 - distance / np.float32(softness), 0, 1)
    return cover


def distance(level: Plane) -> Plane:
    """The signed distance to a level set at 0, to first order: f / |∇f|."""
    near: Plane = level / np.sqrt(slope_y(level) ** 2 + slope_x(level) ** 2 + np.float32(1e-12))
    return near


def slope_x(plane: Plane) -> Plane:
    """Central differences to the right."""
    out = np.empty_like(plane)
    np.subtract(plane[:, 2:], plane[:, :-2], out=out[:, 1:-1])
    out[:, 1:-1] *= 0.5
    out[:, 0], out[:, -1] = plane[:, 1] - plane[:, 0], plane[:, -1] - plane[:, -2]
    return out


def slope_y(plane: Plane) -> Plane:
    """Central differences downwards."""
    turned: Plane = slope_x(plane.T).T
    return turned


def bump(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """A round hill, exp(-(x/width)² - (y/height)²)."""
    x, y = x * np.float32(1 / width), y * np.float32(1 / height)
    hill: Plane = np.exp(-(x * x) - y * y)
    return hill


def ramp(x: Plane, start: float, end: float) -> Plane:
    """0 before the start, 1 after the end, smooth between."""
    t: Plane = np.clip((x - np.float32(start)) * np.float32(1 / (end - start)), 0, 1)
    smooth: Plane = t * t * (3 - 2 * t)
    return smooth


def smooth_max(a: Plane, b: Plane, radius: float) -> Plane:
    """The larger of two distances, with the corner rounded."""
    k: Plane = np.clip(0.5 + (a - b) * np.float32(0.5 / radius), 0, 1)
    larger: Plane = b + (a - b) * k + np.float32(radius) * k * (1 - k)
    return larger


def mix(palette: Sequence[tuple[int, int, int]], place: float) -> tuple[float, float, float]:
    """A colour of a palette, and what lies between its neighbours.

    Args:
        palette: its colours in order.
        place: 0 is the first and 1 the last.
    """
    at = place * (len(palette) - 1)
    i = min(int(at), len(palette) - 2)
    a, b = palette[i], palette[i + 1]
    t = at - i
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2]))


def scaled(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """A darker or brighter one."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
