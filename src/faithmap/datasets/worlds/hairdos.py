"""Hair of portraits: what falls behind the head, and what frames the face."""

from __future__ import annotations

import numpy as np

from faithmap.datasets.worlds.brush import Plane, Sheet, bump, distance, inside, mix, ramp, smooth_max
from faithmap.datasets.worlds.people import STYLES, Hair

HAIRS = (
    (30, 25, 28), (58, 38, 30), (98, 60, 38), (140, 66, 36), (198, 106, 50), (222, 176, 104), (238, 214, 164),
    (170, 168, 172), (120, 84, 150), (58, 128, 134), (206, 96, 128),
)  # fmt: skip
MIDDLE = 56.0
LONG = {"fringe", "curls", "curtains", "waves"}


def haircut(hair: Hair) -> str:
    """Which of `STYLES` it is."""
    return STYLES[min(int(hair.style * len(STYLES)), len(STYLES) - 1)]


def hair_behind(sheet: Sheet, hair: Hair) -> None:
    """Long hair, seen beside the neck."""
    style = haircut(hair)
    if style not in LONG:
        return
    u, v = sheet.u, sheet.v
    colour = mix(HAIRS, hair.colour)
    shape = _shape(u, v, hair, style)
    strands = _strands(u, v, hair, style)
    rgb = np.asarray(colour, np.float32).reshape(3, 1, 1) * (0.42 + 0.14 * strands)
    sheet.paint(inside(shape, 1.5), rgb)


def hair_in_front(sheet: Sheet, hair: Hair) -> None:
    """The hair on the head, with its shadow on the forehead."""
    style = haircut(hair)
    u, v = sheet.u, sheet.v
    colour = mix(HAIRS, hair.colour)
    opening = _opening(u, v, hair, style)
    shape = np.maximum(_shape(u, v, hair, style), -opening)
    if style not in LONG:
        end = 50 + 10 * hair.length
        shape = smooth_max(shape, v - np.float32(end), 3)
    strands = _strands(u, v, hair, style)
    soft = 5.0 if style == "buzz" else 1.6
    full = 0.72 if style == "buzz" else 1.0
    sheet.tint(inside(shape - 1.5, 7) * inside(opening - 1, 2) * np.float32(0.42 * full), (0.55, 0.42, 0.42))
    depth = np.clip(-shape * np.float32(0.12), 0, 1)
    lit = np.clip(sheet.shade, 0.5, 1.15) * (0.62 + 0.22 * depth + 0.24 * strands)
    band = _gleam(u, v, style) * (0.55 + 0.45 * strands)
    own = np.asarray(colour, np.float32).reshape(3, 1, 1)
    rgb = own * lit + (34 + 0.18 * own) * band
    sheet.paint(inside(shape, soft) * np.float32(full), rgb)


def _shape(u: Plane, v: Plane, hair: Hair, style: str) -> Plane:
    """The signed distance to the outline of all hair."""
    least = {"buzz": 0.5, "tied": 1.0, "crop": 2.0}.get(style, 3.0)
    volume = least + {"curls": 7, "buzz": 0.5, "tied": 1}.get(style, 4) * hair.volume
    across = u - MIDDLE
    if style == "sweep":
        across = across + np.float32((hair.parting - 0.5) * 8) * ramp(-v, -50, 0)
    wide, high = 42.5 + volume, 47 + volume
    y = v - 46
    top = distance((across / wide) ** 2 + (np.minimum(y, 0) / high) ** 2 - 1)
    if style == "curls":
        top = top + 1.6 * np.sin(u * 0.52 + 1.2 * np.sin(v * 0.33)) * np.sin(v * 0.47 + 0.8)
    if style in LONG:
        flare = (0.02 + 0.1 * hair.volume) * np.maximum(y, 0) ** 1.0
        if style == "waves":
            flare = flare + 2.2 * np.sin(v * 0.19 + 4 * hair.parting) * ramp(v, 40, 70)
        body = np.abs(across) - wide - np.minimum(flare, 7)
        if style == "curls":
            body = body + 1.8 * np.sin(v * 0.5 + 1.3 * np.sin(u * 0.4))
        top = np.where(y > 0, body, top)
        length = {"fringe": 74, "curls": 76}.get(style, 88) + 36 * hair.length
        top = smooth_max(top, v - np.float32(length) + np.float32(0.8) * np.sin(u * 0.9), 6)
    return top


def _opening(u: Plane, v: Plane, hair: Hair, style: str) -> Plane:
    """The signed distance to where the hair leaves the face free."""
    line = 13.0 + 13.0 * hair.line
    side = 33.0 + 1.5 * hair.volume
    x = u - MIDDLE
    if style == "crop":
        edge = line + 4 * (np.abs(x) / 34) ** 4 + 0.7 * np.sin(u * 0.8 + 5 * hair.parting) + 0.5 * np.sin(u * 1.9)
    elif style == "sweep":
        part = (hair.parting - 0.5) * 36
        d = x - np.float32(part)
        turn = 1.0 if hair.parting < 0.5 else -1.0
        edge = line - 3 + np.maximum(d * turn, 0) * 0.30 + np.maximum(-d * turn, 0) ** 2 * 0.03 + 0.5 * np.sin(u * 0.9)
    elif style == "fringe":
        ends = np.sin(u * 0.75 + 1) * np.sin(u * 0.31 + 4 * hair.parting)
        edge = 27 + 7.5 * hair.line + 1.6 * np.cos(x * 0.05) + 0.9 * ends
    elif style == "curls":
        edge = line + 2 + 2.0 * np.sin(u * 0.45 + 6 * hair.parting) + 0.004 * x * x
    elif style == "curtains":
        part = (hair.parting - 0.5) * 10
        edge = line - 7 + np.abs(x - np.float32(part)) ** 1.35 * 0.30
    elif style == "waves":
        part = (hair.parting - 0.5) * 40
        edge = line - 5 + np.abs(x - np.float32(part)) ** 1.2 * 0.34
    else:
        edge = line - 1 + 5 * (np.abs(x) / 36) ** 3 - (1.2 * bump(x, x, 8, 8) if style == "tied" else 0)
    if style in LONG:
        wall: Plane = side + 0.03 * np.maximum(v - 60, 0)
        if style == "waves":
            wall = wall + 1.5 * np.sin(v * 0.19 + 4 * hair.parting)
        if style == "curls":
            wall = wall + 1.2 * np.sin(v * 0.55)
    else:
        wall = 36.5 + 3.0 * ramp(v, 40, 62)
    return smooth_max((edge - v) * np.float32(0.9), np.abs(x) - wall, 6 if style not in ("crop", "buzz") else 4)


def _strands(u: Plane, v: Plane, hair: Hair, style: str) -> Plane:
    """Light and dark along the strands, about -1 to 1."""
    x = u - MIDDLE
    if style == "curls":
        rings = np.sin(u * 0.62 + 1.6 * np.sin(v * 0.41)) * np.sin(v * 0.66 + 1.6 * np.sin(u * 0.37))
        curled: Plane = rings * 0.9 + 0.2 * np.sin(u * 1.7 + v)
        return curled
    if style in ("curtains", "waves", "fringe"):
        part = {"curtains": 10, "waves": 40}.get(style, 0) * (hair.parting - 0.5)
        d = x - np.float32(part)
        across: Plane = np.abs(d) + 0.35 * np.minimum(v - 46, 0) * np.float32(-0.6)
        if style == "fringe":
            across = np.where(np.abs(x) < 34, x * (1 + 0.002 * v), across)
        elif style == "waves":
            across = across + 2.0 * np.sin(v * 0.19 + 4 * hair.parting)
        phase = across
    elif style == "sweep":
        phase = v * 1.0 + 0.35 * x * (1 if hair.parting > 0.5 else -1) + 0.01 * x * x
    else:
        phase = np.arctan2(x, 84 - v) * 48
    waves: Plane = 0.5 * np.sin(phase * 0.9) + 0.3 * np.sin(phase * 1.9 + 0.04 * v + 1) + 0.3 * np.sin(phase * 0.37 + 2)
    return waves


def _gleam(u: Plane, v: Plane, style: str) -> Plane:
    """A band of light around the head."""
    if style in ("buzz", "curls"):
        return 0.3 * bump(u - 44, v - 8, 20, 8)
    height = 9 + 0.006 * (u - MIDDLE) ** 2
    band: Plane = np.exp(-(((v - height) * np.float32(1 / 5)) ** 2)) * ramp(-np.abs(u - 48), -44, -8)
    return band
