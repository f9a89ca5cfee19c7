"""Many methods on the same pictures: their maps on one page and one colour scale, their cost, their agreement."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from faithmap import draw
from faithmap.attribution import Attribution, PairAttribution
from faithmap.draw import Panel
from faithmap.files import save_picture
from faithmap.metrics import rank_correlation
from faithmap.words import incomplete, seconds, spent

T = TypeVar("T", Attribution, PairAttribution)
Table = dict[str, dict[str, float]]
MOST_PANELS = 1000
"""Of a page: with more it takes gigabytes."""


class _Found(Mapping[str, T]):
    """What each method found, by its label, in the order in which they were asked."""

    found: Mapping[str, T]
    refused: Mapping[str, str]

    def __getitem__(self, label: str) -> T:
        if label in self.refused:
            raise KeyError(f"{label} refused: {self.refused[label]}")
        return self.found[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def _agreement(self, maps: Sequence[Tensor]) -> Table:
        """The mean correlation over pictures, of each method's maps ``(B, H, W)``."""
        means = rank_correlation(torch.stack(list(maps), dim=1)).nanmean(dim=0).tolist()  # (M, M)
        return {a: dict(zip(self, row, strict=True)) for a, row in zip(self, means, strict=True)}

    def _saved(self, folder: str | os.PathLike[str], figure: Image.Image) -> Path:
        """The folder with each method's maps, and the page."""
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        for label, one in self.found.items():
            one.save(path / f"{_file_name(label)}.safetensors")
        save_picture(figure, path / "compare.png")
        return path


@dataclass(frozen=True, eq=False)
class Comparison(_Found[Attribution]):
    """The maps of several methods for the same pictures and targets: a mapping of `Attribution` by the methods' names.

    A method that is asked for with different parameters goes by its name and what differs, "fame iterations=10".

    Examples:
        >>> both = fm.compare(fm.load(), "src/faithmap/assets/photos/cat.jpg", ["lift-cam", "grad-cam"])
        >>> both["grad-cam"].samples[0].label, f"{both.agreement()['grad-cam']['lift-cam']:.2f}"
        ('Egyptian cat', '0.99')
        >>> both.figure().mode
        'RGB'
    """

    found: Mapping[str, Attribution]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why other methods gave no map."""

    def agreement(self) -> Table:
        """Do the methods agree? Spearman's rank correlation of every two methods' raw maps, the mean over pictures.

        1 where two maps order the pixels alike, 0 where they have nothing in common, -1 where one is the other upside
        down; NaN where a map is constant. ``agreement()["fame"]["lift-cam"]``; pandas.DataFrame takes it as it is.
        """
        return self._agreement([att.maps for att in self.found.values()])

    def figure(self, title: str | None = None, *, signed: bool = False) -> Image.Image:
        """One page: every method's map over the photo, its cost below; a row for each picture, or as many as needed.

        All maps share the colours, each scaled by itself: from its smallest to its largest value, negative ones cut
        off, or ``signed`` by its largest magnitude.

        Args:
            title: above everything; by default what was explained.
            signed: show what speaks against the target too, in blue; what speaks for it is red.

        Raises:
            ValueError: the page would hold too many maps, or maps were loaded from files and hold no pictures.
        """
        first = next(iter(self.found.values()))
        check_panels(len(first), len(self.found) + len(self.refused))
        columns = _columns(1 + len(self.found) + len(self.refused))
        rows = []
        for i in range(len(first)):
            panels = self._panels(i, signed)
            rows += [panels[begin : begin + columns] for begin in range(0, len(panels), columns)]
        if title is None:
            known = {sample.label or "that" for sample in first.samples}
            where = f"in {first.samples[0].name}" if len(first) == 1 else f"in {len(first)} pictures"
            title = f"Which pixels say {known.pop() if len(known) == 1 else 'that'}, {where}"
            if first.samples[0].question is not None:
                title = f"{first.samples[0].question} {title}"
        return draw.grid(rows, title=title, bar="signed" if signed else "unsigned")

    def save(self, folder: str | os.PathLike[str], *, signed: bool = False) -> Path:
        """Write ``compare.png``, which shows the photos, and each method's ``NAME.safetensors``, which does not.

        Args:
            folder: where to; made if it is not there.
            signed: as for `figure`.

        Returns:
            The folder.
        """
        return self._saved(folder, self.figure(signed=signed))

    def _panels(self, i: int, signed: bool) -> list[Panel]:
        """The picture number i, its maps, and the words of those who refused."""
        ones = {label: att[i] for label, att in self.found.items()}
        first = next(iter(ones.values()))
        sample = first.samples[0]
        base: Image.Image = first.seen() if sample.geometry is None else first.photo()
        base.thumbnail(_PANEL)
        panels = [Panel(sample.name, base, _lines(sample.label, f"score {sample.score:.4g}"))]
        for label, att in ones.items():
            over = att.overlay(signed=signed) if sample.geometry is None else att.photo_overlay(base, signed=signed)
            name, changed = _parts(label)
            empty = att.samples[0].degenerate if signed else att.nothing_shown[0]
            panels.append(Panel(name, over, _lines(changed, empty, *_cost(att))))
        return panels + [_refusal(label, why, base) for label, why in self.refused.items()]


@dataclass(frozen=True, eq=False)
class PairComparison(_Found[PairAttribution]):
    """The maps of several methods for the same two faces: a mapping of `PairAttribution` by the methods' names.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face, x = fm.FaceEmbedder(net, size=32), torch.rand(2, 3, 32, 32)
        >>> both = fm.compare_pair(face, x[:1], x[1:], ["lift-cam", "random"])
        >>> both["random"].probe.dissimilar is None, both.figure().mode
        (True, 'RGB')
    """

    found: Mapping[str, PairAttribution]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why other methods gave no maps."""

    def agreement(self) -> Table:
        """As `Comparison.agreement`, of the maps of what supports the match (e+), the mean over both faces."""
        pairs = self.found.values()
        return self._agreement([torch.cat([p.probe.similar.maps, p.gallery.similar.maps]) for p in pairs])

    def figure(self, title: str | None = None) -> Image.Image:
        """One page with a row for each method: what supports the match (e+), and what pushes the faces apart (e-).

        Args:
            title: above everything; by default similarity and decision.

        Raises:
            ValueError: maps were loaded from files and hold no pictures.
        """
        first = next(iter(self.found.values()))
        faces = (first.probe.similar.seen(), first.gallery.similar.seen())
        rows = [[Panel("probe", faces[0]), Panel("gallery", faces[1])]]
        for pair in self.found.values():
            panels = []
            for kind, (name, tint, nothing) in _KINDS.items():
                for side, seen in zip((pair.probe, pair.gallery), faces, strict=True):
                    att: Attribution | None = getattr(side, kind)
                    if att is not None:
                        over = draw.tinted(seen, att.displayed()[0], tint)
                        empty = att.samples[0].degenerate or (nothing if att.nothing_shown[0] else "")
                        panels.append(Panel(name, over, empty))
            if pair.probe.dissimilar is None:
                panels.append(Panel("", draw.note(f"{pair.method} has no e−", (400, 400))))
            panels[0] = panels[0]._replace(subtitle=_lines(panels[0].subtitle, *_cost(pair.probe.similar, images=2)))
            rows.append(panels)
        rows += [[Panel("", draw.note(why, (400, 400)))] for why in self.refused.values()]
        if title is None:
            decision = "" if first.match is None else ": match" if first.match else ": no match"
            threshold = "" if first.threshold is None else f", threshold {first.threshold:.3f}"
            title = f"Similarity {first.score:.3f}{threshold}{decision}"
        return draw.grid(rows, labels=["", *self.found, *self.refused], title=title)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``compare.png``, which shows both faces, and each method's ``NAME.safetensors``, which does not.

        Args:
            folder: where to; made if it is not there.

        Returns:
            The folder.
        """
        return self._saved(folder, self.figure())


_KINDS = {
    "similar": ("alike  e+", draw.SIMILAR, "nothing supports the match"),
    "dissimilar": ("different  e−", draw.DISSIMILAR, "nothing pushes the faces apart"),
}
_PANEL = (520, 1040)
"""The most pixels that a panel shows."""


def check_panels(pictures: int, methods: int) -> None:
    """Raise where a page cannot hold so many maps."""
    panels = pictures * (1 + methods)
    if panels > MOST_PANELS:
        raise ValueError(
            f"{pictures} pictures with {methods} maps each are {panels} panels, more than the {MOST_PANELS} of a page: "
            "compare fewer pictures at a time"
        )


def _columns(panels: int) -> int:
    """How many panels stand in a row: few enough for readable words, and such that the last row is not left bare."""
    rows = math.ceil(panels / (5 if panels <= 20 else 6))
    return math.ceil(panels / rows)


def _cost(att: Attribution, images: int = 1) -> tuple[str, str]:
    """What the maps of so many images cost, and whether their parts add up."""
    how, sample = att.provenance, att.samples[0]
    evaluations = {name: round(count * images, 1) for name, count in how["evaluations"].items()}
    took = f"{seconds(how['seconds'] * images / how['images'])} s"
    error = sample.completeness_error
    return spent(evaluations), took if error is None else f"{took} · error {incomplete(error, sample.score)} of score"


def _refusal(label: str, why: str, base: Image.Image) -> Panel:
    name, changed = _parts(label)
    return Panel(name, draw.note(why, (_PANEL[0], round(_PANEL[0] * base.height / base.width))), changed)


def _parts(label: str) -> tuple[str, str]:
    """A method's name, and its parameters where they tell it from others."""
    name, _, changed = label.partition(" ")
    return name, changed


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.+=,-]+", "_", label)


def _lines(*lines: str | None) -> str:
    return "\n".join(line for line in lines if line)
