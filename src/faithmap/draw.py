"""Pictures of maps: colours, overlays, titled grids, and the figures for pairs, places and layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from faithmap.images import open_image, to_array

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]
Map: TypeAlias = "Tensor | NDArray[Any]"
Photo: TypeAlias = "Image.Image | Bytes | Tensor"
RGB: TypeAlias = tuple[int, int, int]

SIMILAR: RGB = (0, 114, 178)  # blue and vermilion of Okabe and Ito: told apart by colour-blind readers
DISSIMILAR: RGB = (213, 94, 0)
INK, FAINT, RULE, UNSEEN, CELL = (28, 28, 30), (112, 114, 120), (206, 208, 213), (178, 178, 178), (92, 232, 255)
PALE: RGB = (240, 240, 242)
WIDTH, MARGIN, GAP = 1880, 40, 20  # of a page, in pixels, for display at half size on a fine screen


class Panel(NamedTuple):
    """One picture of a grid, with a title above and words below, whose lines are wrapped where they are long."""

    title: str
    image: Photo
    subtitle: str = ""


def colour(map: Map, *, signed: bool = False, limits: tuple[float, float] | None = None) -> Bytes:
    """A map as colours of even brightness steps: dark to bright, or blue over white at zero to red; NaN is grey.

    Args:
        map: (H, W).
        signed: whether values below zero mean something; else they are drawn as zero.
        limits: the values at both ends; by default (0, maximum), or (-m, m) with m the largest magnitude.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the map is not (H, W), or the limits do not rise or, where signed, are not symmetric.

    Examples:
        >>> colour(np.array([[0.0, 1.0, np.nan]]))[0].tolist()
        [[0, 0, 4], [252, 255, 164], [178, 178, 178]]
    """
    values = _map(map)
    low, high = _limits(values, signed, limits)
    place = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low), 0, 1) * 255
    table = _table("RdBu_r" if signed else "inferno")
    colours = np.stack([np.interp(place, np.arange(256), table[:, channel]) for channel in range(3)], axis=-1)
    return np.where(np.isnan(values)[..., None], UNSEEN, np.rint(colours)).astype(np.uint8)


def overlay(
    image: Photo,
    map: Map,
    *,
    alpha: float = 0.65,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    tint: RGB | None = None,
) -> Image.Image:
    """A map over its photo: each pixel takes the map's colour with weight alpha · |value| / limit.

    So what does not count stays photo. Where the map is NaN (outside the network's crop) the photo is dimmed.

    Args:
        image: the photo, (H, W).
        map: (H, W), of the photo's size.
        alpha: the weight of the strongest colour, 0..1.
        signed: whether values below zero are drawn, in blue.
        limits: the values of no and of full weight, as in ``colour``.
        tint: one RGB colour for all values instead of a colour scale.

    Raises:
        ValueError: the sizes differ, alpha is not within 0..1, or as in ``colour``.

    Examples:
        >>> overlay(Image.new("RGB", (2, 1)), np.array([[0.0, 1.0]]), alpha=1, tint=(9, 9, 9)).getpixel((1, 0))
        (9, 9, 9)
    """
    photo, values = _photo(image), _map(map)
    if photo.shape[:2] != values.shape:
        raise ValueError(
            f"the photo is {_by(photo.shape)} pixels and the map {_by(values.shape)} (height x width): "
            "bring the map to the photo's size first (Geometry.map_to_photo)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: expected 0..1")
    low, high = _limits(values, signed, limits)
    strength = np.abs(np.nan_to_num(values, nan=0.0)) / high if signed else (values - low) / (high - low)
    strength = np.nan_to_num(np.clip(strength, 0, 1), nan=0.0)[..., None]  # (H, W, 1)
    if tint is not None:
        colours: Bytes = np.array(tint, dtype=np.uint8)
    elif signed:  # one red and one blue: paler colours towards zero would weaken a small value twice
        colours = colour(0.8 * np.sign(values), signed=True, limits=(-1, 1))
    else:
        colours = colour(values, limits=(low, high))
    blended = photo + alpha * strength * (colours - photo.astype(np.float32))
    return Image.fromarray(np.rint(np.where(np.isnan(values)[..., None], _dim(photo, 0.55), blended)).astype(np.uint8))


def grid(
    rows: Sequence[Sequence[Panel | tuple[str, Photo] | tuple[str, Photo, str]]],
    *,
    labels: Sequence[str] = (),
    title: str = "",
    bar: Literal["unsigned", "signed"] | None = None,
) -> Image.Image:
    """A page of pictures in rows, each with a title above and words below.

    Args:
        rows: panels, or tuples (title, image) or (title, image, words below); a row may be shorter than others.
        labels: one per row, at its left.
        title: above everything.
        bar: the colour scale that all maps share.

    Raises:
        ValueError: there is no panel, or the labels do not match the rows.

    Examples:
        >>> grid([[("photo", Image.new("RGB", (40, 30)), "cat"), ("map", Image.new("RGB", (40, 30)))]]).mode
        'RGB'
    """
    panels = [[Panel(*item) for item in row] for row in rows]
    columns = max((len(row) for row in panels), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one panel: give rows of (title, image)")
    if labels and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows: give one each")
    photos = [[Image.fromarray(_photo(panel.image)) for panel in row] for row in panels]
    side = 52 if any(labels) else 0
    width = min(480, (WIDTH - 2 * MARGIN - side - (columns - 1) * GAP) // columns)
    width = max(width, 120)
    heights = [min(round(width * max((p.height / p.width for p in row), default=0)), 2 * width) for row in photos]
    titles = _Lines([[panel.title for panel in row] for row in panels], 26, width, bold=True)
    words = _Lines([[panel.subtitle for panel in row] for row in panels], 22, width)
    above = [16 + lines * titles.leading if lines else 0 for lines in titles.most]
    below = [18 + lines * words.leading if lines else 8 for lines in words.most]
    page_width = max(2 * MARGIN + side + columns * width + (columns - 1) * GAP, 560 if bar else 0, _title_width(title))
    head, foot = (72 if title else 0), (76 if bar else 0)
    page = _Page(page_width, 2 * MARGIN + head + foot + sum(heights) + sum(above) + sum(below) + GAP * (len(rows) - 1))
    page.text(MARGIN, MARGIN, title, 34, bold=True, anchor="la", width=page_width - 2 * MARGIN)
    y = MARGIN + head
    for index in range(len(panels)):
        if labels:
            page.sideways(MARGIN + 16, y + above[index] + heights[index] // 2, labels[index], 26, heights[index])
        for column, photo in enumerate(photos[index]):
            x = MARGIN + side + column * (width + GAP)
            titles.write(page, x, y + above[index] - 16, (index, column), INK, up=True)
            bottom = page.picture(photo, x, y + above[index], width, heights[index])
            words.write(page, x, bottom + 8 + words.leading, (index, column), FAINT)
        y += above[index] + heights[index] + below[index] + GAP
    if bar:
        _colour_bar(page, page_width - MARGIN - 480, page.height - MARGIN - 48, bar)
    return page.image


def note(text: str, size: tuple[int, int]) -> Image.Image:
    """A pale picture of (width, height) pixels that holds words, for a panel that has no map.

    Examples:
        >>> note("random has no e-", (200, 100)).size
        (200, 100)
    """
    width, height = size
    image = Image.new("RGB", size, PALE)
    for points in range(max(10, width // 14), 5, -1):  # as large as fits
        font = _font(points, False)
        words = "\n".join(_wrapped(text, font, 0.86 * width))
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), words, font, align="center")
        if right - left <= 0.9 * width and bottom - top <= 0.9 * height:
            break
    draw.multiline_text((width / 2, height / 2), words, FAINT, font, anchor="mm", align="center")
    return image


def tinted(photo: Photo, map: Map, tint: RGB) -> Image.Image:
    """A map in one colour over its photo in grey: skin is orange, and a tint must not be taken for it.

    Examples:
        >>> tinted(Image.new("RGB", (2, 1), (200, 150, 100)), np.array([[0.0, 1.0]]), SIMILAR).getpixel((0, 0))
        (159, 159, 159)
    """
    return overlay(Image.fromarray(_photo(photo)).convert("L").convert("RGB"), map, alpha=0.8, tint=tint)


def pair_figure(
    probe: Photo,
    gallery: Photo,
    similar: tuple[Map, Map],
    dissimilar: tuple[Map, Map] | None,
    score: float,
    threshold: float | None,
    title: str = "",
) -> Image.Image:
    """What speaks for and against two photos showing the same person, with the score and the decision.

    Args:
        probe: the photo in question, as the network sees it.
        gallery: the known photo, as the network sees it.
        similar: the maps of what is alike (e+) on the probe and on the gallery photo, each of its photo's size.
        dissimilar: the maps of what differs (e-), or None.
        score: cosine similarity, -1..1.
        threshold: a score from here on is a match; None: no decision.
        title: above everything.

    Raises:
        ValueError: a map is not of its photo's size, or score or threshold are not within -1..1.

    Examples:
        >>> face, map = Image.new("RGB", (8, 8)), np.ones((8, 8))
        >>> pair_figure(face, face, (map, map), None, score=0.6, threshold=0.31).mode
        'RGB'
    """
    for name, value in (("score", score), ("threshold", threshold)):
        if value is not None and not -1.001 <= value <= 1.001:
            raise ValueError(f"the {name} is {value}: expected a cosine within -1..1")
    photos = (Image.fromarray(_photo(probe)), Image.fromarray(_photo(gallery)))
    columns = [("photo", INK, photos)]
    for name, tint, maps in (("alike  e+", SIMILAR, similar), ("different  e−", DISSIMILAR, dissimilar)):
        if maps is not None:
            columns.append((name, tint, (tinted(photos[0], maps[0], tint), tinted(photos[1], maps[1], tint))))
    side, width, head = 52, 400, (76 if title else 0)
    heights = [min(round(width * photo.height / photo.width), 2 * width) for photo in photos]
    page_width = max(2 * MARGIN + side + len(columns) * (width + GAP) - GAP, _title_width(title))
    page = _Page(page_width, MARGIN + head + 52 + sum(heights) + GAP + 246)
    page.text(MARGIN, MARGIN, title, 34, bold=True, anchor="la", width=page_width - 2 * MARGIN)
    for column, (name, ink, pictures) in enumerate(columns):
        x, y = MARGIN + side + column * (width + GAP), MARGIN + head
        page.text(x + width // 2, y + 34, name, 26, ink, bold=True, anchor="ms", width=width)
        y += 52
        for picture, height, role in zip(pictures, heights, ("probe", "gallery"), strict=True):
            page.picture(picture, x, y, width, height)
            if column == 0:
                page.sideways(MARGIN + 16, y + height // 2, role, 26, height)
            y += height + GAP
    _gauge(page, MARGIN, page.height - 236, page_width - 2 * MARGIN, score, threshold)
    return page.image


def location_sheet(image: Photo, maps: Map, locality: Map | None = None, title: str = "") -> Image.Image:
    """What each place of a feature map sees: its map over the dimmed photo, and the cell that CAM assumes.

    The photo is divided evenly into h x w cells; place (r, c) is assumed to see rows r·H/h to (r+1)·H/h and columns
    c·W/w to (c+1)·W/w. Each map has its own maximum.

    Args:
        image: the photo, (H, W).
        maps: (h, w, H, W), not negative.
        locality: (h, w) share of each map inside its cell, 0..1; written on the tiles.
        title: above everything.

    Raises:
        ValueError: the shapes do not fit together.

    Examples:
        >>> location_sheet(Image.new("RGB", (8, 8)), np.ones((2, 2, 8, 8)), title="layer4").mode
        'RGB'
    """
    photo, stack = _photo(image), _floats(maps)
    if stack.ndim != 4 or stack.shape[2:] != photo.shape[:2] or 0 in stack.shape:
        raise ValueError(
            f"maps are {stack.shape} for a photo of {_by(photo.shape)}: expected (h, w, {_by(photo.shape, ', ')})"
        )
    h, w, H, W = stack.shape
    shares = None if locality is None else _floats(locality)
    if shares is not None and shares.shape != (h, w):
        raise ValueError(f"locality is {shares.shape}: expected one value per place, {(h, w)}")
    axis, gap, head = 44, (6 if w <= 16 else 2), (128 if title else 76)
    width = max(min(420, (WIDTH - 2 * MARGIN - axis - (w - 1) * gap) // w), 24)
    height = max(round(width * H / W), 16)
    page_width = 2 * MARGIN + axis + w * (width + gap) - gap
    page = _Page(max(page_width, 900, _title_width(title)), MARGIN + head + axis + h * (height + gap) + MARGIN - gap)
    page.text(MARGIN, MARGIN, title, 34, bold=True, anchor="la", width=page.width - 2 * MARGIN)
    key = MARGIN + head - 46
    page.draw.rectangle((MARGIN, key - 20, MARGIN + 26, key + 2), fill=(52, 52, 56), outline=CELL, width=3)
    known = np.zeros(0) if shares is None else shares[np.isfinite(shares)]
    mean = f"   ·   share of the map inside it: mean {known.mean():.0%}" if known.size else ""
    key_text = f"the cell that CAM assumes for this place, {h} × {w}{mean}"
    page.text(MARGIN + 40, key, key_text, 24, FAINT, anchor="ls", width=page.width - 2 * MARGIN - 40)
    base = Image.fromarray(_dim(photo, 0.5)).resize((width, height), Image.Resampling.LANCZOS)
    left, top = MARGIN + axis, MARGIN + head + axis
    for row in range(h):
        if row % (1 + 36 // height) == 0:  # where tiles are small, not each has room for its number
            page.text(left - 14, top + row * (height + gap) + height // 2, str(row), 22, FAINT, anchor="rm")
        for column in range(w):
            x, y = left + column * (width + gap), top + row * (height + gap)
            if row == 0 and column % (1 + 36 // width) == 0:
                page.text(x + width // 2, top - 14, str(column), 22, FAINT, anchor="ms")
            tile = Image.fromarray(stack[row, column]).resize((width, height), Image.Resampling.BILINEAR)
            page.image.paste(overlay(base, np.asarray(tile), alpha=0.9), (x, y))
            cell = (column * width / w, row * height / h, (column + 1) * width / w, (row + 1) * height / h)
            page.frame(*(round(edge + start) for edge, start in zip(cell, (x, y, x, y), strict=True)))
            if shares is not None and np.isfinite(shares[row, column]) and min(width, height) >= 72:
                page.stamp(x, y, width, height, f"{shares[row, column]:.0%}", high=row >= h / 2)
    return page.image


class _Page:
    """A white page, laid out in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width, height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        ink: RGB = INK,
        *,
        bold: bool = False,
        anchor: str,
        width: float = 1e9,
    ) -> None:
        """A line of text, smaller and then shortened where it is wider than ``width``."""
        font = _font(_size_for([text], size, width, bold=bold), bold)
        if font.getlength(text) > width:
            while text and font.getlength(text + "…") > width:
                text = text[:-1]
            text = text.rstrip() + "…"
        self.draw.text((x, y), text, ink, font, anchor)

    def sideways(self, x: int, y: int, text: str, size: int, length: int) -> None:
        """A line that reads upwards, centred on (x, y)."""
        strip = _Page(length, 2 * size)
        strip.text(length // 2, size, text, size, bold=True, anchor="mm", width=length)
        turned = strip.image.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(turned, (x - size, y - length // 2))

    def picture(self, picture: Image.Image, x: int, y: int, width: int, height: int) -> int:
        """A picture as large as it fits, centred from left to right; returns where it ends."""
        scale = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        self.image.paste(picture.resize(size, resample), (x + (width - size[0]) // 2, y))
        return y + size[1]

    def frame(self, left: int, top: int, right: int, bottom: int) -> None:
        """A thin bright rectangle, with a dark rim where there is room, so that it shows on any ground."""
        edges, roomy = (left, top, max(left, right - 1), max(top, bottom - 1)), min(right - left, bottom - top) > 12
        if roomy:
            self.draw.rectangle(edges, outline=(0, 0, 0), width=3)
        self.draw.rectangle(edges, outline=CELL, width=2 if roomy else 1)

    def stamp(self, x: int, y: int, width: int, height: int, text: str, *, high: bool) -> None:
        """Small white text in a tile's right corner: the upper one where ``high``, else the lower one."""
        size = max(15, min(24, width // 8))
        at, anchor = ((x + width - 6, y + 5), "ra") if high else ((x + width - 6, y + height - 6), "rd")
        self.draw.text(
            at, text, (255, 255, 255), _font(size, bold=False), anchor, stroke_width=2, stroke_fill=(20, 20, 20)
        )


class _Lines:
    """The words of a grid's panels, row by row, as lines of one size that keep to the width of a column."""

    def __init__(self, texts: Sequence[Sequence[str]], size: int, width: int, *, bold: bool = False) -> None:
        lines = [line for row in texts for text in row for line in text.split("\n")]
        small = _font(round(0.7 * size), bold)
        fitting = [line for line in lines if small.getlength(line) <= width]  # the others are wrapped in any case
        self.size, self.width, self.bold = _size_for(fitting, size, width, bold=bold), width, bold
        self.leading = round(1.25 * self.size)
        self.lines = [[self._wrapped(text) for text in row] for row in texts]
        self.most = [max(map(len, row), default=0) for row in self.lines]
        """Lines of the longest text of each row."""

    def write(self, page: _Page, x: int, y: int, place: tuple[int, int], ink: RGB, *, up: bool = False) -> None:
        """The text of (row, column) in the column that begins at x: its first line on y or, ``up``, its last one."""
        lines = self.lines[place[0]][place[1]]
        y -= (len(lines) - 1) * self.leading if up else 0
        for number, line in enumerate(lines):
            at = (x + self.width // 2, y + number * self.leading)
            page.text(*at, line, self.size, ink, bold=self.bold, anchor="ms", width=self.width)

    def _wrapped(self, text: str, most: int = 8) -> list[str]:
        lines = _wrapped(text, _font(self.size, self.bold), self.width) if text else []
        return lines if len(lines) <= most else [*lines[: most - 1], " ".join(lines[most - 1 :])]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than ``width``, broken at spaces; a longer word stays whole."""
    lines = []
    for line in text.split("\n"):
        first, *others = line.split(" ")
        for word in others:
            longer = f"{first} {word}"
            if font.getlength(longer) <= width:
                first = longer
            else:
                lines.append(first)
                first = word
        lines.append(first)
    return lines


def _size_for(texts: Sequence[str], size: int, width: float, *, bold: bool = False) -> int:
    """The largest size, from ``size`` down to 70 % of it, at which all texts fit in ``width``."""
    smallest = round(0.7 * size)
    fitting = (s for s in range(size, smallest, -1) if all(_font(s, bold).getlength(t) <= width for t in texts))
    return next(fitting, smallest)


def _title_width(title: str) -> int:
    """How wide a page must be to hold its title at full size, within reason."""
    return min(WIDTH, 2 * MARGIN + round(_font(34, bold=True).getlength(title)) + 1) if title else 0


def _gauge(page: _Page, x: int, y: int, width: int, score: float, threshold: float | None) -> None:
    decision = "no threshold set" if threshold is None else "match" if score >= threshold else "no match"
    ink = FAINT if threshold is None else SIMILAR if score >= threshold else DISSIMILAR
    page.text(x, y + 44, decision, 40, ink, bold=True, anchor="ls")
    page.text(x + width, y + 44, f"similarity {_signed(score)}", 30, ink, bold=True, anchor="rs")

    def at(value: float) -> float:
        return x + (min(max(value, -1), 1) + 1) / 2 * width

    top, bottom = y + 118, y + 142
    page.draw.rectangle((x, top, x + width, bottom), fill=(236, 237, 240))
    start = at(0 if threshold is None else threshold)
    page.draw.rectangle((min(start, at(score)), top, max(start, at(score)), bottom), fill=ink)
    page.draw.rectangle((at(score) - 3, top - 12, at(score) + 3, bottom + 12), fill=ink)
    if threshold is not None:
        page.draw.rectangle((at(threshold) - 2, top - 12, at(threshold) + 2, bottom + 12), fill=INK)
        centre = min(max(at(threshold), x + 110), x + width - 110)
        page.text(centre, top - 22, f"threshold {_signed(threshold)}", 22, INK, anchor="ms")
    for value in (-1, 0, 1):
        page.text(at(value), bottom + 40, _signed(value, 0), 22, FAINT, anchor={-1: "ls", 0: "ms", 1: "rs"}[value])


def _colour_bar(page: _Page, x: int, y: int, kind: Literal["unsigned", "signed"]) -> None:
    ramp = np.linspace(-1 if kind == "signed" else 0, 1, 480)[None].repeat(20, axis=0)
    page.image.paste(Image.fromarray(colour(ramp, signed=kind == "signed")), (x, y))
    left, right = ("against", "for") if kind == "signed" else ("none", "strongest")
    page.text(x, y + 46, left, 22, FAINT, anchor="ls")
    page.text(x + 480, y + 46, right, 22, FAINT, anchor="rs")
    if kind == "signed":
        page.text(x + 240, y + 46, "0", 22, FAINT, anchor="ms")


def _photo(image: Photo) -> Bytes:
    return to_array(image) if isinstance(image, Tensor) else np.asarray(open_image(image))


def _floats(values: Map) -> Floats:
    array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.astype(np.float32, copy=False)


def _map(map: Map) -> Floats:
    values = _floats(map)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"the map is {values.shape}: expected (H, W)")
    return values


def _limits(values: Floats, signed: bool, limits: tuple[float, float] | None) -> tuple[float, float]:
    if limits is None:
        finite = values[np.isfinite(values)]
        top = float((np.abs(finite) if signed else finite).max(initial=0)) or 1.0  # nothing to show: any scale will do
        return (-top if signed else 0.0), top
    if not limits[0] < limits[1] or (signed and limits[0] != -limits[1]):
        raise ValueError(
            f"limits {limits}: expected {'(-m, m) with m > 0' if signed else '(low, high) with low < high'}"
        )
    return limits


def _dim(photo: Bytes, brightness: float) -> Bytes:
    grey = photo @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    faded = brightness * (0.35 * photo + 0.65 * grey[..., None])
    return np.rint(faded).astype(np.uint8)


@lru_cache(maxsize=4)
def _table(name: str) -> Floats:
    from matplotlib import colormaps

    return (np.asarray(colormaps[name](np.linspace(0, 1, 256)))[:, :3] * 255).astype(np.float32)


@lru_cache(maxsize=64)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / name, size)


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _unit(colour: RGB) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _by(shape: tuple[int, ...], sign: str = "x") -> str:
    return f"{shape[0]}{sign}{shape[1]}"
