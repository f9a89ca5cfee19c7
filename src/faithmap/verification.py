"""Verification reports: how often a face recogniser decides pairs right, how sure that is, and for whom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faithmap import charts
from faithmap.batching import Progress, chunked, default_batch
from faithmap.datasets.base import Pair
from faithmap.images import Picture
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.verification import TrueAccepts, decided_right, eer_threshold, equal_error_rate, tar_at_fmr
from faithmap.models.face import FaceEmbedder
from faithmap.running import reporting
from faithmap.words import percent, table

RATES = (1e-3, 1e-4)
"""The false match rates at which the true accept rate is told."""


@dataclass(frozen=True)
class Unread:
    """A pair that has no similarity, and why."""

    number: int
    """Which pair it is, from 1."""
    side: Literal["probe", "gallery"]
    error: Exception = field(repr=False)
    """Its message may name files, and files may name people: no report prints it."""

    def __str__(self) -> str:
        return f"no. {self.number} ({self.side}: {type(self.error).__name__})"


@dataclass(frozen=True, eq=False)
class VerificationReport:
    """What a face recogniser makes of a list of pairs: errors at a threshold, with intervals over people.

    ``print(report)`` is its text, `figure` its picture; neither names people or files.

    Args:
        model: how the model calls itself.
        threshold: from which pairs match.
        own: whether the threshold is the model's own; else it is the EER's, of these pairs.
        scores: similarities ``(n,)``, float64, of the pairs that could be read.
        genuine: whether both are one person, ``(n,)`` bool.
        subjects: who is on the probe and on the gallery; "" is not known.
        groups: the part of the protocol that each pair belongs to; "" for none.
        same: how many genuine pairs compare a picture with itself.
        unread: the pairs that have no similarity.

    Examples:
        >>> people = tuple((str(i), str(i)) for i in range(4)) + tuple((str(i), str(i + 1)) for i in range(4))
        >>> scores = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.3, 0.2, 0.0, -0.1]).double()
        >>> report = VerificationReport("small", 0.25, True, scores, torch.arange(8) < 4, people, ("",) * 8)
        >>> report.fmr.mean, report.fnmr.mean, round(report.eer, 3)
        (0.25, 0.25, 0.25)
    """

    model: str
    threshold: float
    own: bool
    scores: Tensor = field(repr=False)
    genuine: Tensor = field(repr=False)
    subjects: Sequence[tuple[str, str]] = field(repr=False)
    groups: Sequence[str] = field(repr=False)
    same: int = 0
    unread: Sequence[Unread] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def eer(self) -> float:
        """The equal error rate; see `metrics.equal_error_rate`."""
        return equal_error_rate(self.scores, self.genuine)

    @cached_property
    def accuracy(self) -> Interval:
        """The share of pairs that are decided right at the threshold."""
        return self._mean(self._right, torch.ones_like(self.genuine))

    @cached_property
    def fmr(self) -> Interval:
        """The false match rate at the threshold, the share of impostors that match."""
        return self._mean(1 - self._right, ~self.genuine)

    @cached_property
    def fnmr(self) -> Interval:
        """The false non-match rate at the threshold, the share of genuine pairs that do not match."""
        return self._mean(1 - self._right, self.genuine)

    @cached_property
    def true_accepts(self) -> Sequence[TrueAccepts]:
        """The true accept rate at false match rates of 0.1 and 0.01 %, or how many impostors that takes."""
        return [tar_at_fmr(self.scores, self.genuine, rate) for rate in RATES]

    def similarity(self, *, genuine: bool) -> Interval:
        """The mean similarity of genuine or of impostor pairs."""
        return self._mean(self.scores, self.genuine == genuine)

    def quantiles(self, *, genuine: bool) -> tuple[float, float, float]:
        """The similarities below which 5, 50 and 95 % of genuine or of impostor pairs lie."""
        shares = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        low, middle, high = self.scores[self.genuine == genuine].quantile(shares).tolist()
        return low, middle, high

    @cached_property
    def by_group(self) -> dict[str, VerificationReport]:
        """Each group's own report at the same threshold; empty where there are fewer than two groups."""
        names = sorted(set(self.groups))
        return {name: self._of(name) for name in names} if len(names) > 1 else {}

    def markdown(self) -> str:
        """The report as Markdown, which a terminal shows well too; it names no person and no file."""
        tables = [self._errors(), self._similarities(), *([self._group_rows()] if self.by_group else [])]
        blocks = [
            f"# Verification: {self.model}",
            self._pairs(),
            self._where(),
            *(table(heads, rows, aligned=True) for heads, *rows in tables),
        ]
        if any(cell.endswith("*") for rows in tables for row in rows for cell in row):
            blocks.append("(*) none or all: the bound of 95 % confidence if pairs were independent.")
        if self.unread:
            shown, more = ", ".join(map(str, self.unread[:5])), len(self.unread) - 5
            tail = f" and {more} more" if more > 0 else ""
            blocks.append(f"Left out, since a picture could not be read: {shown}{tail}.")
        return "\n\n".join(blocks) + "\n"

    __str__ = markdown

    def figure(self, title: str | None = None) -> Image.Image:
        """Histograms of genuine and impostor similarities with the threshold.

        Args:
            title: instead of the model's name.
        """
        rates = f"FMR {percent(self.fmr.mean)}   ·   FNMR {percent(self.fnmr.mean)}   ·   EER {percent(self.eer)}"
        kinds = (self.scores[self.genuine], self.scores[~self.genuine])
        return charts.similarity_chart(*kinds, self.threshold, self.model if title is None else title, rates)

    # -- parts ----------------------------------------------------------------------------------------------------

    @cached_property
    def _right(self) -> Tensor:
        return decided_right(self.scores, self.genuine, self.threshold).double()

    def _mean(self, values: Tensor, some: Tensor) -> Interval:
        if not bool(some.any()):
            return Interval(float("nan"), float("nan"), float("nan"), 0)
        subjects = [pair for pair, chosen in zip(self.subjects, some.tolist(), strict=True) if chosen]
        return bootstrap(values[some], subjects=subjects)

    def _of(self, group: str) -> VerificationReport:
        rows = torch.tensor([name == group for name in self.groups])
        subjects = [pair for pair, chosen in zip(self.subjects, rows.tolist(), strict=True) if chosen]
        names = (group,) * len(subjects)
        return VerificationReport(
            group, self.threshold, self.own, self.scores[rows], self.genuine[rows], subjects, names
        )

    @property
    def _kinds(self) -> tuple[int, int]:
        return int(self.genuine.sum()), int((~self.genuine).sum())

    def _pairs(self) -> str:
        genuine, impostor = self._kinds
        people = {person for pair in self.subjects for person in pair if person}
        unknown = sum("" in pair for pair in self.subjects)
        text = f"{_count(len(self), 'pair')}, {genuine} genuine and {impostor} impostor"
        text += f", of {_count(len(people), 'person', 'people')}." if people else "."
        if self.unread:
            text += f" {_count(len(self.unread), 'more pair')} could not be read."
        if unknown:
            text += f" Of {_count(unknown, 'pair')} it is not known who is on them: intervals take them as independent."
        if self.same:
            text += f" {_count(self.same, 'genuine pair')} of a picture with itself: similar without any skill."
        return text

    def _where(self) -> str:
        if self.own:
            found = eer_threshold(self.scores, self.genuine)
            return f"Threshold {self.threshold:.3f}, the model's own. (The EER of these pairs lies at {found:.3f}.)"
        return (
            f"Threshold {self.threshold:.3f}, the EER's of these {len(self)} pairs. It was chosen on the pairs that it "
            "is judged by:\naccuracy, FMR and FNMR at it are optimistic. Give the model a threshold from other pairs."
        )

    def _errors(self) -> list[list[str]]:
        genuine, impostor = self._kinds
        wrong = 1 - self._right
        counts = (
            f"{len(self) - int(wrong.sum())} of {len(self)}",
            f"{int(wrong[~self.genuine].sum())} of {impostor}",
            f"{int(wrong[self.genuine].sum())} of {genuine}",
        )
        names = ("accuracy", "false match rate (FMR)", "false non-match rate (FNMR)")
        intervals = (self.accuracy, self.fmr, self.fnmr)
        rows = [
            [name, percent(found.mean, 2), _rates(found), count]
            for name, found, count in zip(names, intervals, counts, strict=True)
        ]
        rows.append(["equal error rate (EER)", percent(self.eer, 2), "", "no threshold"])
        for told in self.true_accepts:
            name = f"true accepts at FMR {100 * told.fmr:g} %"
            rows.append([name, "", "", told.reason] if told.tar is None else [name, percent(told.tar, 2), "", ""])
        return [["at the threshold", "rate", "95 % interval", "pairs"], *rows]

    def _similarities(self) -> list[list[str]]:
        rows = [["similarity", "mean", "95 % interval", "5 %", "50 %", "95 %"]]
        for name, kind in (("genuine", True), ("impostor", False)):
            found = self.similarity(genuine=kind)
            numbers = [f"{value:.3f}" for value in self.quantiles(genuine=kind)]
            rows.append([name, f"{found.mean:.3f}", f"{found.low:.3f} to {found.high:.3f}", *numbers])
        return rows

    def _group_rows(self) -> list[list[str]]:
        rows = [["group", "genuine", "impostor", "accuracy", "FMR", "95 % interval", "FNMR", "95 % interval", "EER"]]
        for name, part in self.by_group.items():
            kinds = part._kinds
            rows.append([name or "(none)", *map(str, kinds), percent(part.accuracy.mean)])
            for found in (part.fmr, part.fnmr):
                rows[-1] += [percent(found.mean), _rates(found, digits=1)] if found.samples else ["", ""]
            rows[-1].append(percent(part.eer) if all(kinds) else "")
        return rows


def verification_report(
    face: FaceEmbedder,
    pairs: Sequence[Pair],
    batch_size: int | None = None,
    progress: bool | Progress | None = None,
) -> VerificationReport:
    """Embed each distinct picture once, compare each pair, and tell how well the threshold decides.

    Without a threshold of its own the model is judged at that of the pairs' EER, and the report says so.

    Args:
        face: the recogniser.
        pairs: a data set of pairs, or a list of `datasets.Pair`.
        batch_size: pictures per network call.
        progress: True for a bar, or a function of (done, total) pictures.

    Raises:
        ValueError: the model is no face recogniser, or of one kind of pairs there is none, or none that could be read.

    Examples:
        >>> import numpy as np
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> a, b, c = (np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(3))
        >>> pairs = [Pair("1", a, a, True), Pair("2", a, b, False), Pair("3", "no-such-file.png", c, False)]
        >>> report = verification_report(fm.FaceEmbedder(net, size=32), pairs)
        >>> len(report), report.eer, str(report.unread[0])
        (2, 0.0, 'no. 3 (probe: FileNotFoundError)')
    """
    if not isinstance(face, FaceEmbedder):
        raise ValueError(f"a FaceEmbedder is due: got {type(face).__name__}")
    if (other := next((pair for pair in pairs if not isinstance(pair, Pair)), None)) is not None:
        raise ValueError(f"pairs of faces are due, a data set for verification: got {type(other).__name__}")
    _require_both([pair.genuine for pair in pairs], "")
    sides = [(pair.probe, pair.gallery) for pair in pairs]  # once: worlds draw anew each time
    pictures = {_key(picture): picture for faces in sides for picture in faces}
    with reporting(progress, f"{len(pictures)} faces") as report:
        embeddings = dict(zip(pictures, _embedded(face, list(pictures.values()), batch_size, report), strict=True))
    kept, scores, unread = [], [], []
    for number, (pair, faces) in enumerate(zip(pairs, sides, strict=True), start=1):
        probe, gallery = (embeddings[_key(picture)] for picture in faces)
        if isinstance(probe, Exception):
            unread.append(Unread(number, "probe", probe))
        elif isinstance(gallery, Exception):
            unread.append(Unread(number, "gallery", gallery))
        else:
            kept.append(pair)
            scores.append(probe @ gallery)
    _require_both([pair.genuine for pair in kept], f" that could be read; {', '.join(map(str, unread[:3]))}")
    similarities, genuine = torch.stack(scores), torch.tensor([bool(pair.genuine) for pair in kept])
    return VerificationReport(
        face.name,
        eer_threshold(similarities, genuine) if face.threshold is None else face.threshold,
        face.threshold is not None,
        similarities,
        genuine,
        [pair.subjects for pair in kept],
        [pair.group for pair in kept],
        sum(pair.genuine and _key(pair.probe) == _key(pair.gallery) for pair in kept),
        unread,
    )


def _embedded(
    face: FaceEmbedder, pictures: Sequence[Picture], batch_size: int | None, progress: Progress | None
) -> list[Tensor | Exception]:
    """The unit embedding of each picture, ``(D,)`` float64 on the CPU, or why it has none."""

    def embed(rows: Tensor) -> list[Tensor | Exception]:
        prepared = [_prepared(face, pictures[row]) for row in rows.tolist()]
        x = [one for one in prepared if isinstance(one, Tensor)]
        found = F.normalize(face.embed(torch.cat(x)).double(), dim=1).cpu() if x else torch.empty(0, 0)
        units = iter(found)
        if progress:
            progress(int(rows[-1]) + 1, len(pictures))
        return [one if isinstance(one, Exception) else _finite(next(units)) for one in prepared]

    size = batch_size or default_batch(torch.empty(1, face.channels, *face.size, device=face.device))
    return [one for part in chunked(embed, len(pictures), size) for one in part]


def _prepared(face: FaceEmbedder, picture: Picture) -> Tensor | Exception:
    try:
        return face.prepare(picture)
    except (ValueError, OSError) as error:
        return error


def _finite(embedding: Tensor) -> Tensor | Exception:
    if bool(embedding.isfinite().all()):
        return embedding
    return ValueError("the network's embedding of it holds NaN or infinite values")


def _key(picture: Picture) -> object:
    """Equal for the same file or the same object."""
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else id(picture)


def _require_both(genuine: Sequence[bool], which: str) -> None:
    kinds = sum(map(bool, genuine)), sum(not one for one in genuine)
    if 0 in kinds:
        raise ValueError(
            f"a verification report needs genuine and impostor pairs: got {kinds[0]} and {kinds[1]}{which}"
        )


def _rates(found: Interval, digits: int = 2) -> str:
    """An interval of a rate; where no pair or every pair is of it the bootstrap knows nothing, but the count does."""
    if found.mean in (0, 1):
        bound = 1 - 0.05 ** (1 / found.samples)
        return f"below {percent(bound, digits)} *" if found.mean == 0 else f"above {percent(1 - bound, digits)} *"
    return f"{percent(found.low, digits).removesuffix(' %')} to {percent(found.high, digits)}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
