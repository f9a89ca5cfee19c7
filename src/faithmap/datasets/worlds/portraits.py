"""Portraits: drawn faces of 112 x 112 pixels, aligned as face recognisers expect them.

`render` is a function of who it is and how the picture is taken, and of nothing else. Each part of an identity paints
with its own numbers alone, so that another nose changes the pixels of the nose.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from faithmap.datasets.worlds.brush import (
    Plane,
    Sheet,
    bump,
    distance,
    inside,
    mix,
    ramp,
    scaled,
    slope_x,
    slope_y,
)
from faithmap.datasets.worlds.hairdos import hair_behind, hair_in_front
from faithmap.datasets.worlds.people import Brows, Eyes, Face, Identity, Look, Mouth, Nose, Skin

SIZE = 112
MIDDLE = 56.0
EYES = 52.0
"""The line of the eyes, from above."""

SKINS = (
    (255, 226, 206), (248, 208, 180), (236, 186, 150), (214, 156, 116), (176, 118, 82), (134, 86, 60), (98, 62, 46)
)  # fmt: skip
IRISES = ((62, 38, 26), (104, 64, 34), (158, 106, 44), (110, 128, 58), (64, 142, 112), (70, 136, 186), (126, 152, 178))
LIPS = ((150, 84, 76), (196, 108, 100), (224, 124, 130), (196, 48, 64), (140, 40, 78))
BROWS = ((30, 24, 26), (62, 40, 30), (104, 64, 40), (150, 84, 44), (190, 140, 84), (176, 172, 172))
FRECKLES = 44


def render(identity: Identity, look: Look) -> NDArray[np.uint8]:
    """The portrait ``(112, 112, 3)``.

    Args:
        identity: who it is.
        look: how it is taken.

    Examples:
        >>> from random import Random
        >>> from faithmap.datasets.worlds.people import person
        >>> render(person(Random(0)), Look()).shape
        (112, 112, 3)
    """
    sheet = _paper(look)
    hair_behind(sheet, identity.hair)
    tone = _tone(identity.skin)
    outline = _outline(sheet, identity.face)
    _body(sheet, identity.face, tone, look)
    _head(sheet, identity, outline, tone, look)
    _mouth(sheet, identity.mouth, look)
    for side in (-1, 1):
        _eye(sheet, identity.eyes, side, tone, look)
    hair_in_front(sheet, identity.hair)
    for side in (-1, 1):
        _brow(sheet, identity.brows, side)
    if look.glasses:
        _glasses(sheet, look)
    if look.scarf >= 0:
        _scarf(sheet, look)
    return _photograph(sheet.rgb, look)


def _paper(look: Look) -> Sheet:
    """The backdrop, and where on the face each pixel lies: near points of the head move further when it turns."""
    x, y, depth, corner = _grid()
    cos, sin = math.cos(look.roll), math.sin(look.roll)
    dx, dy = x - np.float32(MIDDLE + look.shift[0]), y - np.float32(64 + look.shift[1])
    u = cos * dx + sin * dy + np.float32(MIDDLE)
    v = cos * dy - sin * dx + np.float32(64)
    u, v = u - np.float32(7 * look.yaw) * depth, v - np.float32(6 * look.pitch) * depth
    low = hue(look.background, 0.35, 60 + 110 * look.backdrop)
    high = hue(look.background + 0.06, 0.2, 95 + 140 * look.backdrop)
    t = corner * np.float32(0.6) + y * np.float32(0.4 / SIZE)
    rgb = np.empty((3, SIZE, SIZE), np.float32)
    for channel in range(3):
        rgb[channel] = high[channel] + t * (low[channel] - high[channel])
    # a dome: what all heads have in common
    a, b = (u - MIDDLE) * np.float32(1 / 54), (v - 60) * np.float32(1 / 72)
    dome = np.sqrt(np.maximum(1 - a * a - b * b, 0.04))
    light = (math.sin(look.light) * look.slant, -math.cos(look.light) * look.slant)
    shade = (dome + np.float32(0.9 * light[0]) * a + np.float32(0.9 * light[1]) * b) * np.float32(0.5) + np.float32(0.6)
    return Sheet(rgb, u, v, dome * np.float32(44), shade)


@lru_cache(maxsize=1)
def _grid() -> tuple[Plane, Plane, Plane, Plane]:
    """Columns, rows, how near a head is to the viewer, and how far the pixel is from the picture's middle."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5)
    a, b = (x - MIDDLE) / 62, (y - 62) / 80
    depth = np.sqrt(np.maximum(1 - a * a - b * b, 0)) + 0.3 * bump(x - MIDDLE, y - 71, 10, 13)
    return x, y, depth.astype(np.float32), ((x - 50) ** 2 + (y - 40) ** 2) / np.float32(6000)


def _tone(skin: Skin) -> tuple[float, float, float]:
    r, g, b = mix(SKINS, skin.tone)
    warm = (skin.warmth - 0.5) * 0.14
    return (min(r * (1 + 0.4 * warm), 255), g * (1 - 0.2 * warm), b * (1 - warm))


def _outline(sheet: Sheet, face: Face) -> Plane:
    """The signed distance to the outline of the face: |u/w|^q + t^p = 1 below the eyes, a cranium above."""
    width = 35.5 + 6.5 * face.width
    chin = 103.5 + 7.0 * face.chin
    p, q = 2.0 + 1.5 * face.jaw, 2.5 - 0.95 * face.pointed
    across = np.abs(sheet.u - MIDDLE)
    t = (sheet.v - 46) * np.float32(1 / (chin - 46))
    broad = 41 + (width - 41) * ramp(sheet.v, 34, 62)
    broad = broad * (1 + np.float32(0.07 * (face.cheeks - 0.4)) * bump(t, t - 0.38, 1e3, 0.2))
    below = np.maximum(t, 0)
    above = np.maximum(-(sheet.v - 46), 0) * np.float32(1 / 46)
    level = (across / broad) ** np.float32(q) + below ** np.float32(p) + above * above - 1
    return distance(level)


def _body(sheet: Sheet, face: Face, tone: tuple[float, float, float], look: Look) -> None:
    """Clothes, neck and ears."""
    low = sheet.window(-20, 84, 132, 132)
    around = np.abs(low.u - MIDDLE)
    low.paint(inside(around - 23 - 0.1 * (low.v - 100)), scaled(tone, 0.66))
    collar = 116 - 0.2 * around + 0.0035 * (around - 20) ** 2
    low.paint(inside(collar - low.v), hue(look.clothes, 0.45, 150))
    size = 0.8 + 0.45 * face.ears
    for side in (-1, 1):
        centre = MIDDLE + side * 41.5
        ear = sheet.window(centre - 12, 42, centre + 12, 78)
        x, y = side * (ear.u - centre) - 0.12 * (60 - ear.v), ear.v - 60
        shape = distance((x / (6.2 * size)) ** 2 + (y / (10.5 * size)) ** 2 - 1)
        ear.paint(inside(shape), scaled(tone, 0.9))
        ear.tint(inside(shape + 2.2, 2.5) * 0.6, (0.76, 0.62, 0.58))


def _head(sheet: Sheet, identity: Identity, outline: Plane, tone: tuple[float, float, float], look: Look) -> None:
    """The skin of the face, lit from the side."""
    height = sheet.height
    height += 9 - 9 * np.exp(np.minimum(outline, 0) * np.float32(1 / 7))
    _relief(sheet, identity, look)
    hx, hy = slope_x(height), slope_y(height)
    norm = 1 / np.sqrt(1 + hx * hx + hy * hy)
    lx, ly, lz = _light(look)
    light = (lz - hx * np.float32(lx) - hy * np.float32(ly)) * norm
    lit = np.clip(light * np.float32(0.78) + np.float32(0.30), 0, 1.15)
    dark, bright = (0.50, 0.37, 0.36), (1.06, 1.05, 1.03)
    skin = np.empty_like(sheet.rgb)
    for channel in range(3):
        skin[channel] = tone[channel] * (dark[channel] + (bright[channel] - dark[channel]) * lit)
    # a soft gleam halfway between the light and the viewer
    gx, gy, gz = lx * 0.55, ly * 0.55, 0.5 + 0.5 * lz
    length = math.sqrt(gx * gx + gy * gy + gz * gz)
    gleam = np.maximum((gz - hx * np.float32(gx) - hy * np.float32(gy)) * norm * np.float32(1 / length), 0)
    for _ in range(4):
        gleam *= gleam
    skin += gleam * np.float32(26)
    face = Sheet(skin, sheet.u, sheet.v, height, sheet.shade)
    _complexion(face, identity.skin, tone)
    _nostrils(face, identity.nose)
    sheet.paint(inside(outline, 1.2), skin)


def _light(look: Look) -> tuple[float, float, float]:
    x, y, z = math.sin(look.light) * look.slant, -math.cos(look.light) * look.slant, 0.8
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _relief(sheet: Sheet, identity: Identity, look: Look) -> None:
    """What rises from the head: cheeks, chin, brow, nose; and the sockets of the eyes."""
    face, nose = identity.face, identity.nose
    for side in (-1, 1):
        cheek = sheet.window(MIDDLE + side * 24 - 22, 54, MIDDLE + side * 24 + 22, 98)
        cheek.height[...] += (1.6 + 3.0 * face.cheeks + 1.4 * look.smile) * bump(
            cheek.u - MIDDLE - side * 25, cheek.v - 74 + 2 * look.smile, 12, 10
        )
        socket = sheet.window(MIDDLE + side * 18 - 22, 34, MIDDLE + side * 18 + 22, 70)
        socket.height[...] -= 4.2 * bump(socket.u - MIDDLE - side * 17.5, socket.v - 50.5, 11, 7.5)
    chin = sheet.window(34, 88, 78, 120)
    chin.height[...] += 2.6 * bump(chin.u - MIDDLE, chin.v - (96.5 + 7 * face.chin), 9, 5.5)
    lip = sheet.window(34, 78, 78, 108)
    lip.height[...] += 2.6 * bump(lip.u - MIDDLE, lip.v - 91, 14, 8)
    box = sheet.window(36, 44, 76, 88)
    length, width = _nose_size(nose)
    x, y = box.u - MIDDLE, box.v - length
    rise = ramp(box.v, 42, length) * np.float32(6.0 + 4.0 * nose.bridge) * (1 - ramp(y, 0.5, 6.5))
    ridge = rise * np.exp(-((x / (3.2 + 1.6 * nose.width + 2.6 * ramp(box.v, 56, length))) ** 2))
    tip = (3.0 + 2.4 * nose.tip) * bump(x, y + 0.5, 4.2 + 1.6 * nose.tip, 4.4)
    wings = 3.6 * bump(np.abs(x) - width, y - 1.2, 3.4, 3.6)
    box.height[...] += ridge + tip + wings


def _nose_size(nose: Nose) -> tuple[float, float]:
    """The line of its tip, and how far its wings are from the middle."""
    return 66.5 + 8.5 * nose.length, 5.6 + 4.2 * nose.width


def _nostrils(face: Sheet, nose: Nose) -> None:
    box = face.window(38, 58, 74, 92)
    length, width = _nose_size(nose)
    x, y = np.abs(box.u - MIDDLE), box.v - length
    box.tint(bump(x, y - 6.8, width + 2.0, 2.6) * 0.30, (0.62, 0.45, 0.45))
    hole = bump(x - width * 0.52, y - (4.6 - 0.8 * nose.tip), 2.1 + 0.5 * nose.width, 1.35)
    box.tint(hole * 0.85, (0.38, 0.22, 0.22))
    crease = np.abs(np.sqrt((x - width + 0.4) ** 2 + (y - 1.4) ** 2) - 3.6)
    box.tint(inside(crease - 0.35, 2.2) * ramp(x, width, width + 2.4) * 0.38, (0.58, 0.40, 0.38))


def _complexion(face: Sheet, skin: Skin, tone: tuple[float, float, float]) -> None:
    """Blush, freckles, a beard's shadow, a mole."""
    u, v = face.u, face.v
    across = np.abs(u - MIDDLE)
    face.tint(bump(across - 25, v - 73, 11, 8) * np.float32(0.25 + 0.75 * skin.blush), (1.02, 0.80, 0.82))
    face.tint(bump(across, v - 71, 9, 8) * np.float32(0.3 * skin.blush), (1.01, 0.82, 0.82))
    if skin.beard > 0.6:
        full = (skin.beard - 0.6) / 0.4
        jaw = ramp(v - 0.012 * (34 - np.minimum(across, 34)) ** 2, 70, 84)
        clear = bump(across, v - 91, 13, 5.5) * 0.8
        stubble = 0.86 + 0.14 * np.sin(u * 2.9 + 1.3 * np.sin(v * 1.7)) * np.sin(v * 2.6 + 1.1 * np.sin(u * 1.9))
        face.tint(jaw * (1 - clear) * stubble * np.float32(0.30 + 0.45 * full), (0.42, 0.40, 0.42))
    if skin.freckles > 0.5:
        count = int(FRECKLES * (0.35 + 1.3 * (skin.freckles - 0.5)))
        for k in range(count):
            place = (k * 0.61803399 + 0.17) % 1.0, (k * 0.75487767 + 0.41) % 1.0
            x, y = MIDDLE + 62 * (place[0] - 0.5), 62 + 18 * place[1] + 10 * abs(place[0] - 0.5)
            dot = face.window(x - 2.5, y - 2.5, x + 2.5, y + 2.5)
            dot.tint(bump(dot.u - x, dot.v - y, 1.0, 0.9) * 0.55, (0.70, 0.52, 0.42))
    if skin.mole > 0.45:
        angle = (skin.mole - 0.45) / 0.55 * 2 * math.pi
        x, y = MIDDLE + 25 * math.sin(angle), 79 - 13 * math.cos(angle)
        dot = face.window(x - 4, y - 4, x + 4, y + 4)
        dot.paint(bump(dot.u - x, dot.v - y, 1.4, 1.4), (70.0, 42.0, 34.0))


def _eye(sheet: Sheet, eyes: Eyes, side: int, tone: tuple[float, float, float], look: Look) -> None:
    centre = MIDDLE + side * (16.6 + 2.8 * eyes.spacing)
    box = sheet.window(centre - 17, EYES - 15, centre + 17, EYES + 13)
    half = 8.2 + 2.6 * eyes.size
    x = side * (box.u - centre)
    y = box.v - EYES + x * np.float32(0.16 * (eyes.tilt - 0.4))
    s = x * np.float32(1 / half)
    bow = 1 - s * s
    up = half * (0.40 + 0.24 * eyes.roundness) * look.lids - 0.12 * half * max(look.smile, 0) * 0.4
    down = half * (0.27 + 0.14 * eyes.roundness) * (1 - 0.25 * max(look.smile, 0))
    top = -up * bow * (1 - 0.16 * s)
    bottom = down * bow * (1 + 0.22 * s)
    flat = 1 / np.sqrt(1 + (2 * (up + down) / 2 / half * s) ** 2)
    opening = np.maximum(top - y, y - bottom) * flat
    cover = inside(opening)
    # the lid above, its crease, and the shadow below
    gap = 1.6 + 3.2 * eyes.lids
    lid = inside(np.maximum(top - gap * np.maximum(bow, 0) ** 0.7 - y, y - bottom) * flat, 2.0)
    box.tint(lid * inside(np.abs(s) * half - half - 1, 2) * 0.55, (0.88, 0.76, 0.76))
    crease = np.abs(y - top + gap * np.maximum(bow, 0) ** 0.5) - 0.25
    box.tint(inside(crease, 1.5) * ramp(1.12 - np.abs(s), 0, 0.3) * 0.7, (0.52, 0.38, 0.36))
    box.tint(bump(x, y - bottom - 2.6, half * 0.8, 1.5) * 0.25, (0.75, 0.62, 0.64))
    # white, iris, pupil, lights
    white = np.empty_like(box.rgb)
    shade = np.clip(0.70 + (y - top) * np.float32(0.085), 0.5, 1.0) * np.clip(1.06 - 0.16 * s * s, 0, 1)
    shade = shade * np.clip(box.shade, 0.75, 1.05)
    for channel, value in enumerate((250, 244, 240)):
        white[channel] = value * shade
    eye = Sheet(white, box.u, box.v, box.height, box.shade)
    radius = half * 0.50 + 0.4
    y0 = (down - up) * 0.30
    r = np.sqrt(x**2 + (y - y0) ** 2)
    colour = scaled(mix(IRISES, eyes.iris), 0.70 + 0.55 * eyes.shade)
    eye.paint(inside(r - radius), scaled(colour, 0.42))
    eye.paint(inside(r - radius + 1.1, 1.6), scaled(colour, 0.92))
    glow = bump(x, y - y0 - radius * 0.5, radius * 0.6, radius * 0.5) * inside(r - radius + 1.2)
    eye.paint(glow * 0.75, scaled(colour, 1.55))
    eye.paint(inside(r - radius * 0.46, 1.2), (18.0, 12.0, 14.0))
    eye.tint(ramp(-(y - top), -3.4, -0.4) * 0.55, (0.50, 0.46, 0.48))
    lx = box.u - centre + radius * 0.34
    eye.paint(inside(np.sqrt(lx * lx + (y - y0 + radius * 0.38) ** 2) - radius * 0.25, 1.0), (255.0, 255.0, 255.0))
    eye.paint(bump(box.u - centre - radius * 0.4, y - y0 - radius * 0.4, 1.1, 1.1) * 0.45, (255.0, 255.0, 255.0))
    box.paint(cover, white)
    corner = bump(s + 0.93, y, 0.10, 1.2) * cover
    box.paint(corner * 0.6, (206.0, 120.0, 112.0))
    # lashes
    lash = np.abs(y - top + 0.3) * flat - (0.75 + 0.45 * np.clip(s + 0.4, 0, 1.2))
    ends = ramp(1.10 - np.abs(s), 0.0, 0.12)
    box.paint(inside(lash) * ends * 0.95, (38.0, 24.0, 24.0))
    low = np.abs(y - bottom) * flat - 0.2
    box.paint(inside(low) * ramp(1.04 - np.abs(s), 0, 0.3) * 0.45, (84.0, 50.0, 46.0))


def _brow(sheet: Sheet, brows: Brows, side: int) -> None:
    centre = MIDDLE + side * 18.5
    box = sheet.window(centre - 16, 26, centre + 16, 50)
    x = side * (box.u - centre)
    s = x * np.float32(1 / 11.5)
    y = box.v - (41.0 - 3.0 * brows.height)
    middle = -(0.8 + 4.6 * brows.arch) * (1 - (s - 0.25) ** 2) + 2.0 - (4.4 * (brows.angle - 0.5)) * s
    thick = (0.9 + 2.1 * brows.thickness) * np.clip(1.0 - 0.55 * np.clip(s, -0.2, 2) ** 1, 0.15, 1.1)
    body = np.abs(y - middle) - thick
    ends = ramp(1.08 - s, 0, 0.4) * ramp(s + 1.08, 0, 0.3)
    strokes = 0.86 + 0.14 * np.sin(2.4 * x + 1.1 * y)
    box.paint(inside(body, 1.7) * ends * strokes * 0.92, mix(BROWS, brows.colour))


def _mouth(sheet: Sheet, mouth: Mouth, look: Look) -> None:
    smile, wide = look.smile, 13.2 + 3.4 * mouth.width + 2.2 * look.smile
    box = sheet.window(32, 76, 80, 112)
    x, y = box.u - MIDDLE, box.v - 91.0
    s = x * np.float32(1 / wide)
    bow = np.maximum(1 - s * s, 0)
    lift = 5.0 * (mouth.curve - 0.5) + 4.4 * smile
    line = (0.55 - s * s) * np.float32(lift) + 0.5 * np.cos(s * 6) * bow
    gap = 7.5 * look.open * bow**0.8
    rim = bow**0.75
    above = (1.4 + 3.0 * mouth.upper) * rim * (1 - 0.34 * np.exp(-((s / 0.15) ** 2))) * (1.12 - 0.35 * np.abs(s))
    below = (2.0 + 3.4 * mouth.lower) * rim
    top, bottom = line - 0.25 * gap, line + 0.75 * gap
    upper = np.maximum(top - above - y, y - top)
    lower = np.maximum(bottom - y, y - bottom - below)
    within = inside(np.abs(x) - np.float32(wide), 1.5)
    colour = mix(LIPS, mouth.colour)
    light = np.clip(box.shade, 0.6, 1.1)[None]
    box.tint(bump(x, y - bottom - below - 2.6, wide * 0.6, 2.0) * 0.30, (0.68, 0.52, 0.52))
    flesh = np.asarray(colour, np.float32).reshape(3, 1, 1) * light
    box.paint(inside(upper, 1.3) * within, flesh * 0.82)
    box.paint(inside(lower, 1.3) * within, flesh * (0.92 + 0.16 * np.clip((y - bottom) / 6, 0, 1)))
    shine = bump(x + 4 * math.sin(-look.light) * look.slant, y - bottom - below * 0.42, wide * 0.38, 1.1)
    box.paint(shine * inside(lower, 2) * 0.42, (255.0, 235.0, 230.0))
    if look.open > 0.02:
        mouth_hole = inside(np.maximum(top - y, y - bottom)) * within
        box.paint(mouth_hole, (78.0, 22.0, 28.0))
        teeth = inside(y - top - np.minimum(gap * 0.55, 3.6)) * mouth_hole * ramp(0.86 - np.abs(s), 0, 0.12)
        box.paint(teeth, (246.0, 242.0, 234.0))
    seam = inside(np.abs(y - top) - 0.35, 1.3) * within
    box.paint(seam * np.float32(0.85 if look.open < 0.1 else 0.4), scaled(colour, 0.36))
    for side in (-1, 1):
        end_y = 0.55 * lift - lift
        box.tint(bump(x - side * (wide + 0.6), y - end_y, 2.0, 1.8) * 0.5, (0.55, 0.38, 0.38))


def _glasses(sheet: Sheet, look: Look) -> None:
    box = sheet.window(-10, 34, 122, 76)
    across = np.abs(box.u - MIDDLE)
    x, y = across - 19, box.v - 54
    if look.glasses == "round":
        ring = np.sqrt(x * x + y * y) - 13.5
    else:
        qx, qy = np.abs(x) - 9.5, np.abs(y) - 6.5
        ring = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2) + np.minimum(np.maximum(qx, qy), 0) - 5
    frame = np.abs(ring) - 1.0
    bridge = np.maximum(np.abs(y + 2 + 0.06 * across * across - 1) - 0.8, across - 6)
    arms = np.maximum(np.abs(y + 4) - 0.9, 33 - across)
    arms = np.maximum(arms, across - 46)
    box.tint(inside(ring) * 0.16, (0.80, 0.88, 0.95))
    streak = np.abs(box.u * 0.7 + y - MIDDLE * 0.7 + 4 * np.sign(box.u - MIDDLE)) - 1.6
    box.paint(inside(ring + 2) * inside(streak, 3) * 0.16, (255.0, 255.0, 255.0))
    box.tint(inside(np.abs(ring - 1.5) - 1.2, 2.5) * 0.22, (0.5, 0.45, 0.45))
    box.paint(inside(np.minimum(np.minimum(frame, bridge), arms)), hue(look.clothes + 0.45, 0.6, 70))


def _scarf(sheet: Sheet, look: Look) -> None:
    box = sheet.window(-20, 70, 132, 132)
    across = (box.u - MIDDLE) * np.float32(1 / 50)
    y = box.v - (83 - 5 * across * across + 1.2 * np.sin(box.u * 0.21))
    cloth = inside(-y)
    fold = 0.85 + 0.13 * np.sin((box.v + 5 * across * across) * 0.62 + 0.9 * np.sin(box.u * 0.09))
    fold = fold + 0.05 * np.sin(box.u * 1.5) * np.sin(box.v * 1.5)
    base = np.asarray(hue(look.scarf, 0.6, 205), np.float32).reshape(3, 1, 1) * fold * np.clip(box.shade, 0.65, 1.1)
    stripe = inside(np.abs((y % 15) - 9) - 2.2, 1.5)[None]
    box.tint(inside(-y - 3, 5) * 0.3, (0.6, 0.5, 0.5))
    box.paint(cloth, base + stripe * (np.float32(235) * fold - base) * 0.7)


def hue(angle: float, saturation: float, value: float) -> tuple[float, float, float]:
    """A colour by its hue, 0 to 1 around the circle."""
    r, g, b = (0.5 + 0.5 * math.cos(2 * math.pi * (angle - third)) for third in (0, 1 / 3, 2 / 3))
    return (value * (1 - saturation * (1 - r)), value * (1 - saturation * (1 - g)), value * (1 - saturation * (1 - b)))


def _photograph(rgb: Plane, look: Look) -> NDArray[np.uint8]:
    """The camera: colour of the light, blur, noise."""
    gains = np.asarray([1 + 0.07 * look.warmth, 1.0, 1 - 0.09 * look.warmth], np.float32) * np.float32(look.exposure)
    out = _blurred(rgb * gains.reshape(3, 1, 1), look.blur)
    if look.noise:
        grain = np.random.Generator(np.random.PCG64(look.grain)).standard_normal((SIZE, SIZE), np.float32)
        out += grain * np.float32(look.noise)
    levels: NDArray[np.uint8] = np.clip(out + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()
    return levels


def _blurred(rgb: Plane, sigma: float) -> Plane:
    """With a Gaussian of at most 7 taps, edges repeated."""
    reach = min(3, math.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(reach + 1) / max(sigma, 1e-3)) ** 2)
    taps = (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)
    for axis in (1, 2):
        n = rgb.shape[axis]
        padded = np.pad(rgb, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        at = [(slice(None),) * axis + (slice(k, k + n),) for k in range(2 * reach + 1)]
        rgb = padded[at[reach]] * taps[0]
        for k in range(1, reach + 1):
            rgb += (padded[at[reach - k]] + padded[at[reach + k]]) * taps[k]
    return rgb
