"""Charts: how figures of layers, methods and pairs lie beside one another. Numbers in, pictures out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from faithmap.draw import DISSIMILAR, FAINT, INK, RULE, SIMILAR

_BLUE, _VERMILION, _INK, _FAINT, _RULE = (
    "#{:02x}{:02x}{:02x}".format(*colour) for colour in (SIMILAR, DISSIMILAR, INK, FAINT, RULE)
)
Numbers: TypeAlias = "NDArray[Any] | Tensor"
_STYLE: dict[str, Any] = {"fontfamily": "DejaVu Sans", "color": _INK, "parse_math": False}


def interval_chart(
    rows: Sequence[tuple[str, float, float, float, bool]], title: str, about: str, mark: float, mark_name: str
) -> Image.Image:
    """Means with their intervals, one below the other in the given order.

    Args:
        rows: name, mean, low, high, and whether it is a control: those are hollow.
        title: above the chart.
        about: what the numbers are, below it.
        mark: where a line stands that all are to be compared with.
        mark_name: what the line is.

    Raises:
        ValueError: there is no row.

    Examples:
        >>> rows = [("fame", 0.4, 0.3, 0.5, False), ("random", 0.1, 0.0, 0.2, True)]
        >>> interval_chart(rows, "FAME is ahead", "insertion", 0.1, "random").mode
        'RGB'
    """
    if not rows:
        raise ValueError("a chart of intervals needs at least one row")
    names, means, lows, highs, hollow = zip(*rows, strict=True)
    y = -np.arange(len(rows))
    figure, axes = _chart(1.6 + 0.27 * len(rows))
    axes.axvline(mark, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(mark_name, (mark, 0.7), (4, 0), textcoords="offset points", color=_FAINT, fontsize=9.5, va="bottom")
    axes.hlines(y, lows, highs, color=[_FAINT if empty else _BLUE for empty in hollow], linewidth=1.6)
    for empty, colour in ((False, _BLUE), (True, _FAINT)):
        at = [i for i, is_hollow in enumerate(hollow) if is_hollow == empty]
        face = "white" if empty else colour
        axes.plot([means[i] for i in at], y[at], "o", color=colour, markerfacecolor=face, markersize=6)
    axes.set_yticks(y, names, **_STYLE)
    axes.set_ylim(y[-1] - 0.7, 1.3)
    axes.grid(axis="x", color=_RULE, linewidth=0.6)
    axes.set_xlabel(textwrap.fill(about, 96), fontsize=10, labelpad=8, **_STYLE)
    return _drawn(figure, axes, title)


def locality_chart(rows: Sequence[Mapping[str, Any]], title: str = "") -> Image.Image:
    """How local each layer's places are: the share of a place's map inside the cell that CAM assumes, layer by layer.

    Args:
        rows: per layer a mapping with ``layer`` (name), ``depth`` (0..1, which orders them), ``share`` with its
            interval ``low`` and ``high``, ``ceiling`` (the most that the measure can give) and ``chance``, all 0..1;
            optionally ``grid`` (h, w), the layer's places.
        title: above the chart.

    Raises:
        ValueError: there is no row, or one lacks an entry.

    Examples:
        >>> row = {"layer": "layer4", "depth": 1, "share": 0.2, "low": 0.1, "high": 0.3}
        >>> locality_chart([{**row, "ceiling": 0.8, "chance": 0.02}]).mode
        'RGB'
    """
    needed = ("layer", "depth", "share", "low", "high", "ceiling", "chance")
    for index, row in enumerate(rows):
        if missing := [key for key in needed if key not in row]:
            raise ValueError(f"row {index} lacks {', '.join(missing)}: expected {', '.join(needed)}")
    if not rows:
        raise ValueError("a chart of locality needs at least one row, one per layer")
    rows = sorted(rows, key=lambda row: float(row["depth"]))
    x = np.arange(len(rows))
    line = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in needed[2:]}
    names = [row["layer"] + ("\n{} × {}".format(*row["grid"]) if row.get("grid") else "") for row in rows]
    slanted = sum(max(map(len, name.split("\n"))) for name in names) > 90
    figure, axes = _chart(5.9 if slanted else 5.0)
    axes.fill_between(x, line["low"], line["high"], color=_BLUE, alpha=0.18, linewidth=0)
    axes.vlines(x, line["low"], line["high"], color=_BLUE, linewidth=1)
    axes.plot(x, line["share"], color=_BLUE, linewidth=2, marker="o", markersize=5)
    for name in ("ceiling", "chance"):
        at, value = np.array([-0.3, *x, x[-1] + 0.3]), line[name][[0, *x, -1]]  # visible for a single layer too
        axes.plot(at, value, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), clip_on=False)
        axes.annotate(name, (at[-1], value[-1]), (6, -3), textcoords="offset points", color=_FAINT, fontsize=10)
    turn: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    labels = [name.replace("\n", "  ·  ") for name in names] if slanted else names
    every = 1 + len(rows) // 36  # so many slanted labels do not touch
    axes.set_xticks(x[::every], labels[::every], **_STYLE, **turn)
    axes.set_xlim(-0.3, len(rows) - 0.7)
    top = min(1.0, 1.12 * float(np.nanmax([line["high"], line["ceiling"], line["share"]])))
    axes.set_ylim(0, max(top, 0.05))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_ylabel("share of the map inside the place's cell", fontsize=10.5, labelpad=8, **_STYLE)
    return _drawn(figure, axes, title)


def similarity_chart(
    genuine: Numbers, impostor: Numbers, threshold: float, title: str = "", subtitle: str = ""
) -> Image.Image:
    """How similar genuine and impostor pairs are: two histograms of equal area, and the threshold between them.

    Args:
        genuine: similarities ``(n,)``, -1..1.
        impostor: likewise.
        threshold: from which pairs match.
        title: above the chart.
        subtitle: below the title, smaller.

    Raises:
        ValueError: a kind has no pair.

    Examples:
        >>> similarity_chart(np.array([0.6, 0.7]), np.array([0.1]), threshold=0.3).mode
        'RGB'
    """
    given = (("genuine", genuine, _BLUE), ("impostor", impostor, _VERMILION))
    kinds = {name: (np.asarray(values, dtype=np.float64), tint) for name, values, tint in given}
    if any(values.size == 0 for values, _ in kinds.values()):
        raise ValueError("a chart of similarities needs at least one genuine and one impostor pair")
    every = np.concatenate([values for values, _ in kinds.values()])
    bins = min(60, max(12, round(2 * min(values.size for values, _ in kinds.values()) ** 0.5)))
    step = max(float(every.max() - every.min()), 0.01) / bins
    first, last = (int((float(end) - threshold) // step) for end in (every.min(), every.max()))
    edge = threshold + step * np.arange(min(first, 0), max(last, 0) + 2)  # no bar lies on both sides of the threshold
    figure, axes = _chart(4.6)
    for name, (values, tint) in kinds.items():
        counts = np.histogram(values, edge)[0] / values.size
        label = f"{name}, {values.size} pair{'s' if values.size != 1 else ''}"
        axes.stairs(counts, edge, fill=True, color=tint, alpha=0.3)
        axes.stairs(counts, edge, color=tint, linewidth=1.6, label=label)
    axes.axvline(threshold, color=_INK, linewidth=1.4, linestyle=(0, (4, 3)))
    words, right = f"threshold {threshold:.3f}", threshold > (edge[0] + edge[-1]) / 2
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    axes.annotate(
        words, (threshold, 1), (-6 if right else 6, -4), ha="right" if right else "left", fontsize=10, **place, **_STYLE
    )
    axes.set_ylim(0, 1.2 * axes.dataLim.y1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_xlabel("similarity", fontsize=10.5, labelpad=6, **_STYLE)
    axes.set_ylabel("share of the pairs of a kind", fontsize=10.5, labelpad=8, **_STYLE)
    axes.legend(frameon=False, fontsize=10, labelcolor=_INK, loc="upper left" if right else "upper right")
    return _drawn(figure, axes, f"{title}\n{subtitle}".strip())


def _chart(height: float) -> tuple[Any, Any]:
    """An empty chart of so many inches, 9.2 wide."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.16)
    figure = Figure(figsize=(9.2, height), dpi=200, facecolor="white", layout=layout)
    axes = figure.add_subplot(facecolor="white")
    axes.tick_params(colors=_INK, labelsize=9.5, length=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_RULE)
    return figure, axes


def _drawn(figure: Any, axes: Any, title: str) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if title:
        lines = "\n".join(textwrap.fill(line, 76) for line in title.splitlines())
        axes.set_title(lines, loc="left", fontsize=13, fontweight="bold", pad=12, **_STYLE)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
