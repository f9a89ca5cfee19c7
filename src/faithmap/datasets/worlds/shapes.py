"""What stands in a scene: signed distances of shapes and marks, their surfaces, and how materials take the light.

All is told in a thing's own frame: its circle has radius 1, u points right and v down, z towards the eye. A distance is
below 0 inside and measured in that radius; a surface is the unit normal at each point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.float32]
RGB: TypeAlias = tuple[float, float, float]
Distance: TypeAlias = Callable[[Plane, Plane], Plane]

COLOURS: Mapping[str, RGB] = {
    "red": (0.86, 0.13, 0.14),
    "orange": (0.98, 0.53, 0.08),
    "yellow": (0.98, 0.86, 0.16),
    "green": (0.18, 0.62, 0.22),
    "cyan": (0.20, 0.80, 0.84),
    "blue": (0.14, 0.30, 0.86),
    "purple": (0.50, 0.20, 0.70),
    "pink": (1.00, 0.58, 0.76),
}
"""The colours of things, each in [0, 1]."""
NEUTRALS: Mapping[str, RGB] = {
    "black": (0.13, 0.13, 0.15),
    "grey": (0.50, 0.51, 0.53),
    "white": (0.93, 0.92, 0.90),
}
"""Colours that no thing has."""
MATERIALS = ("rubber", "metal", "striped", "dotted")
"""What things are made of."""


class Surface(NamedTuple):
    """A shape at some points: how far they are from its rim, and where it looks."""

    distance: Plane
    x: Plane
    y: Plane
    z: Plane


# -- shapes -----------------------------------------------------------------------------------------------------------


def ball(u: Plane, v: Plane) -> Surface:
    """A sphere."""
    radius = 0.88
    x, y = u / radius, v / radius
    inside = x * x + y * y
    return Surface((np.sqrt(inside) - 1) * radius, x, y, np.sqrt(np.maximum(1 - inside, 0)))


def cube(u: Plane, v: Plane) -> Surface:
    """A cube seen at one of its corners: three faces."""
    half = 0.56
    distance, depth = [], []
    for (ax, ay, _), (bx, by, _) in zip(_CUBE, _CUBE[1:] + _CUBE[:1], strict=True):
        # The outline is a hexagon whose sides are parallel to the three axes as they are seen, in pairs.
        length = math.hypot(ax, ay)
        across = np.abs(u * (ay / length) - v * (ax / length))
        third = next(axis for axis in _CUBE if axis[:2] not in ((ax, ay), (bx, by)))
        reach = (abs(bx * ay - by * ax) + abs(third[0] * ay - third[1] * ax)) / length * half
        distance.append(across - reach)
    for ax, ay, az in _CUBE:
        depth.append((half - u * ax - v * ay) / az)  # of the plane that holds the face
    shares = np.exp(-24 * (np.stack(depth) - np.minimum(np.minimum(depth[0], depth[1]), depth[2])))  # (3, h, w)
    shares /= shares.sum(axis=0)
    normals = np.tensordot(np.array(_CUBE, np.float32).T, shares, 1)  # (3, h, w); edges are a little rounded
    return Surface(np.maximum(np.maximum(distance[0], distance[1]), distance[2]), *normals)


def cylinder(u: Plane, v: Plane) -> Surface:
    """An upright cylinder seen from a little above."""
    width, half, rise = 0.62, 0.60, 0.22
    x = np.clip(u / width, -1, 1)
    z = np.sqrt(1 - x * x)
    distance = np.maximum(np.abs(u) - width, (np.abs(v) - half - rise * z) * 0.92)
    cap = _step((1 - np.hypot(u / width, (v + half) / rise)) * 3)
    return Surface(distance, x * (1 - cap), -0.85 * cap - 0.08 * (1 - cap), z * (1 - cap) + 0.53 * cap)


def cone(u: Plane, v: Plane) -> Surface:
    """An upright cone seen from a little above."""
    width, top, base, rise = 0.74, -0.96, 0.58, 0.24
    slope = width / (base - top)
    x = np.clip(u / np.maximum((v - top) * slope, 1e-3), -1, 1)
    bow = np.sqrt(np.maximum(1 - (u / width) ** 2, 0))
    side = (np.abs(u) - (v - top) * slope) / math.hypot(1, slope)
    tilt = slope / math.hypot(1, slope)
    flat = math.sqrt(1 - tilt**2)
    return Surface(np.maximum(side, v - base - rise * bow), x * flat, np.full_like(u, -tilt), np.sqrt(1 - x * x) * flat)


def ring(u: Plane, v: Plane) -> Surface:
    """A torus, tilted a little."""
    middle, tube, squash = 0.70, 0.27, 0.80
    y = v / squash
    far = np.maximum(np.hypot(u, y), 1e-3)
    out = (far - middle) / tube
    side = np.clip(out, -1, 1)
    # How fast the far of a point grows: it is a distance only where that is 1.
    stretch = np.maximum(np.hypot(u, y / squash) / far, 1e-3)
    z = np.sqrt(1 - side * side)
    return Surface((np.abs(out) - 1) * tube / stretch, u / far * side, y / far * side, z)


def star(u: Plane, v: Plane) -> Plane:
    """Five points."""
    inner = 0.46
    fold = math.pi / 5
    far = np.hypot(u, v)
    angle = np.abs(np.mod(np.arctan2(u, -v) + fold, 2 * fold) - fold)
    x, y = far * np.cos(angle), far * np.sin(angle)
    dx, dy = inner * math.cos(fold) - 1, inner * math.sin(fold)  # from a point to the next notch
    return np.asarray(((x - 1) * dy - y * dx) / math.hypot(dx, dy), np.float32)


def heart(u: Plane, v: Plane) -> Plane:
    """A square on its corner with a half disc on each of its upper sides."""
    half = 0.54
    x, y = np.abs(u), 0.14 - v
    a, b = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    found: Plane = np.minimum(np.maximum(np.abs(a), np.abs(b)) - half, np.hypot(a - half, b) - half)
    return found


def cross(u: Plane, v: Plane) -> Plane:
    """Four equal arms."""
    x, y = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(x, y) - 0.94, np.minimum(x, y) - 0.29)


def moon(u: Plane, v: Plane) -> Plane:
    """A crescent."""
    x = u - 0.16
    found: Plane = np.maximum(np.hypot(x, v) - 0.96, 0.80 - np.hypot(x - 0.48, v))
    return found


def arrow(u: Plane, v: Plane) -> Plane:
    """A shaft and a head."""
    y = np.abs(v)
    slope = 0.74
    head = np.maximum(-0.02 - u, (y - (0.98 - u) * slope) / math.hypot(1, slope))
    found: Plane = np.minimum(head, np.maximum(np.abs(u + 0.42) - 0.5, y - 0.23))
    return found


def pillow(shape: Distance) -> Callable[[Plane, Plane], Surface]:
    """A flat shape, cut out of something thick, with a round rim."""

    def surface(u: Plane, v: Plane) -> Surface:
        distance = shape(u, v)
        x, y = np.gradient(distance, axis=1), np.gradient(distance, axis=0)
        # Points of the plane lie in rows and columns that are turned: back into the shape's own frame.
        du, dv = u[0, 1] - u[0, 0], v[0, 1] - v[0, 0]
        x, y = x * du - y * dv, x * dv + y * du
        steep = 0.85 * np.clip(1 + distance / 0.24, 0, 1) / np.maximum(np.hypot(x, y), 1e-6)
        x, y = x * steep + 0.22 * u, y * steep + 0.22 * v
        longer = np.maximum(np.hypot(x, y) / 0.95, 1)
        x, y = x / longer, y / longer
        return Surface(distance, x, y, np.sqrt(1 - x * x - y * y))

    return surface


SHAPES: Mapping[str, tuple[Callable[[Plane, Plane], Surface], float]] = {
    "cube": (cube, 0.6),
    "ball": (ball, math.pi),
    "cylinder": (cylinder, 0.6),
    "cone": (cone, 0.6),
    "ring": (ring, math.pi),
    "star": (pillow(star), math.pi),
    "heart": (pillow(heart), 0.7),
    "cross": (pillow(cross), math.pi),
    "moon": (pillow(moon), math.pi),
    "arrow": (pillow(arrow), math.pi),
}
"""Each shape's surface, and by how much it is turned at most, either way, in radians."""


# -- materials --------------------------------------------------------------------------------------------------------


def shaded(surface: Surface, u: Plane, v: Plane, material: str, colour: RGB, light: RGB, up: RGB) -> Plane:
    """The colours ``(h, w, 3)`` of a surface.

    Args:
        surface: what is lit, ``(h, w)``.
        u: where its points are, ``(h, w)``.
        v: likewise.
        material: one of `MATERIALS`.
        colour: its own, in [0, 1].
        light: where the light comes from, of length 1, in the thing's frame.
        up: where the sky is, which metal mirrors, likewise.
    """
    _, x, y, z = surface
    lit = np.maximum(x * light[0] + y * light[1] + z * light[2], 0)
    longer = math.sqrt(2 + 2 * light[2])  # of light + eye; half way between them a mirror shows the light
    glance = np.maximum((x * light[0] + y * light[1] + z * (light[2] + 1)) / longer, 0)
    base = np.array(colour, np.float32)
    if material == "metal":
        sky = 2 * z * (x * up[0] + y * up[1])  # how far up a mirrored ray goes
        tone = 0.34 + 0.36 * lit + 0.34 * _step(4 * sky) - 0.22 * np.exp(-((sky + 0.12) ** 2) * 40)
        gloss = 0.85 * glance**40 + 0.10 * np.maximum(sky, 0)
    else:
        tone = 0.36 + 0.74 * lit
        gloss = 0.10 * glance**10
    painted = tone[..., None] * base
    if material in ("striped", "dotted"):
        bent = v - 0.3 * z  # patterns follow a round body
        wave = np.sin(9.5 * bent + 0.6) if material == "striped" else 1.6 * np.cos(8 * u) * np.cos(8 * bent) - 0.5
        pale = 0.75 * _step(np.asarray(wave * 1.6 - 0.25, np.float32))
        painted += pale[..., None] * tone[..., None] * (np.float32(0.97) - base)
    found: Plane = np.minimum(painted + gloss[..., None], 1)
    return found


def _step(x: Plane) -> Plane:
    """From 0 to 1 as x goes from -1/2 to 1/2, smoothly."""
    t = np.clip(x + 0.5, 0, 1)
    found: Plane = t * t * (3 - 2 * t)
    return found


# -- what is none of the shapes ---------------------------------------------------------------------------------------


def strokes(*lines: tuple[float, ...], width: float) -> Distance:
    """A mark of straight strokes with round ends.

    Args:
        *lines: the corners of each, u and v in turn.
        width: of the strokes.
    """
    pieces = [(*line[i : i + 4],) for line in lines for i in range(0, len(line) - 2, 2)]

    def distance(u: Plane, v: Plane) -> Plane:
        found = []
        for au, av, bu, bv in pieces:
            du, dv = bu - au, bv - av
            along = np.clip(((u - au) * du + (v - av) * dv) / (du * du + dv * dv), 0, 1)
            found.append(np.hypot(u - au - along * du, v - av - along * dv))
        nearest: Plane = np.minimum.reduce(found) - width / 2
        return nearest

    return distance


def arc(u: Plane, v: Plane) -> Plane:
    """A third of a thin circle."""
    reach = 1.1
    end = 0.8 * math.cos(reach), 0.8 * math.sin(reach)
    y = np.abs(v)
    inside = np.arctan2(y, u + 0.45) < reach
    on, off = np.abs(np.hypot(u + 0.45, y) - 0.8), np.hypot(u + 0.45 - end[0], y - end[1])
    found: Plane = np.where(inside, on, off) - 0.15
    return found


def blob(u: Plane, v: Plane) -> Plane:
    """A puddle."""
    angle = np.arctan2(v, u)
    found: Plane = (np.hypot(u, v) - 0.62 - 0.16 * np.sin(2 * angle + 1) - 0.14 * np.sin(3 * angle)) * 0.8
    return found


def dots(u: Plane, v: Plane) -> Plane:
    """Four discs."""
    centres = ((-0.55, -0.45), (0.5, -0.6), (-0.35, 0.6), (0.6, 0.35))
    nearest: Plane = np.minimum.reduce([np.hypot(u - x, v - y) for x, y in centres]) - 0.27
    return nearest


DISTRACTORS: Mapping[str, Distance] = {
    "bar": strokes((-0.8, 0, 0.8, 0), width=0.4),
    "arc": arc,
    "blob": blob,
    "dots": dots,
    "zigzag": strokes((-0.85, 0.3, -0.3, -0.4, 0.3, 0.4, 0.85, -0.3), width=0.26),
}
"""Smaller things that are none of the shapes."""


# -- tags -------------------------------------------------------------------------------------------------------------

_GLYPHS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "T": ((-1, -1, 1, -1), (0, -1, 0, 1)),
    "L": ((-1, -1, -1, 1, 1, 1),),
    "X": ((-1, -1, 1, 1), (-1, 1, 1, -1)),
    "V": ((-1, -1, 0, 1, 1, -1),),
    "H": ((-1, -1, -1, 1), (1, -1, 1, 1), (-1, 0, 1, 0)),
    "Z": ((-1, -1, 1, -1, -1, 1, 1, 1),),
    "square": ((-1, -1, 1, -1, 1, 1, -1, 1, -1, -1),),
    "angle": ((1, -1, -1, 0, 1, 1),),
    "bars": ((-1, -1, 1, -1), (-1, 0, 1, 0), (-1, 1, 1, 1)),
    "triangle": ((0, -1, 1, 1, -1, 1, 0, -1),),
}
_DECOYS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "upright": ((0, -1, 0, 1),),
    "level": ((-1, 0, 1, 0),),
    "slash": ((-1, 1, 1, -1),),
    "backslash": ((-1, -1, 1, 1),),
}
MARKS: Mapping[str, Distance] = {
    name: strokes(*(tuple(0.47 * c for c in line) for line in lines), width=0.24)
    for name, lines in (*_GLYPHS.items(), *_DECOYS.items())
}
"""What is written on tags."""
GLYPHS = tuple(_GLYPHS)
"""The marks that give a class away."""
DECOYS = tuple(_DECOYS)
"""The marks that stand for nothing: single strokes."""


def tag(u: Plane, v: Plane) -> Plane:
    """A square with round corners."""
    x, y = np.abs(u) - 0.5, np.abs(v) - 0.5
    return np.asarray(np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - 0.29, np.float32)


def _turned(yaw: float, pitch: float) -> list[tuple[float, float, float]]:
    """The three axes of a body turned about the upright, then towards the eye: those that point at it."""
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return [(c, s * sp, s * cp), (-s, c * sp, c * cp), (0.0, -cp, sp)]


_CUBE = _turned(0.66, 0.55)
