"""Drops: what happens to the score when the network sees only what the map shows, or only the rest.

Y is the probability of the explained class for the picture x, O for x * M, D for x * (1 - M). Pixels in [0, 1] are
multiplied, so that what is hidden is black.

A map that shows everything has the best average drop there is, 0. Read it beside ADCC, whose complexity tells it apart,
and beside the constant control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faithmap.metrics.agreement import correlation
from faithmap.metrics.base import Better, Case, Explain, Measured, Metric, unit_scaled
from faithmap.metrics.registry import register


def average_drop(clean: Tensor, kept: Tensor) -> Tensor:
    """The share of the score that is lost when only what the map shows is kept, ``max(0, Y - O) / Y``.

    Args:
        clean: Y, ``(B,)``.
        kept: O, ``(B,)``.

    Returns:
        ``(B,)`` in [0, 1], a fraction where papers print percent; NaN where Y is not above 0.

    Source: Chattopadhay et al. 2018, Grad-CAM++, arXiv 1710.11063, section 4.1.

    Examples:
        >>> average_drop(torch.tensor([0.8, 0.8]), torch.tensor([0.2, 0.9]))
        tensor([0.7500, 0.0000])
    """
    return _share((clean - kept).clamp_min(0), clean)


def increase_in_confidence(clean: Tensor, kept: Tensor) -> Tensor:
    """Whether the score rises when only what the map shows is kept, ``[O > Y]``: 0 or 1, or NaN where one is NaN.

    Args:
        clean: Y, ``(B,)``.
        kept: O, ``(B,)``.

    Source: Chattopadhay et al. 2018, arXiv 1710.11063, section 4.1.

    Examples:
        >>> increase_in_confidence(torch.tensor([0.8, 0.8]), torch.tensor([0.2, 0.9]))
        tensor([0., 1.])
    """
    return torch.where((clean - kept).isnan(), torch.nan, (kept > clean).to(clean))


def average_drop_in_deletion(clean: Tensor, removed: Tensor) -> Tensor:
    """The share of the score that is lost when what the map shows is taken away, ``(Y - D) / Y``.

    It has no lower bound: where Y is small, D can be many times Y, and one such sample decides the mean over all.
    Samples keep their raw values; read the median.

    Args:
        clean: Y, ``(B,)``.
        removed: D, ``(B,)``.

    Returns:
        ``(B,)``, at most 1; NaN where Y is not above 0.

    Source: Jung and Oh 2021, arXiv 2102.05228.

    Examples:
        >>> average_drop_in_deletion(torch.tensor([0.8, 0.1]), torch.tensor([0.2, 0.6]))
        tensor([ 0.7500, -5.0000])
    """
    return _share(clean - removed, clean)


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """Whether a map of what the map shows is the same map: Pearson's correlation r of both, as ``(1 + r) / 2``.

    A method that does not look at the picture is perfectly coherent.

    Args:
        maps: of x, ``(B, H, W)``.
        again: of x * M, ``(B, H, W)``.

    Returns:
        ``(B,)`` in [0, 1], float64; NaN where one of the two is constant or not finite.

    Source: Poppi et al. 2021, arXiv 2104.10252.

    Examples:
        >>> maps = torch.tensor([[[0.0, 0.5, 1.0]]])
        >>> coherency(maps, 2 * maps)
        tensor([1.0000], dtype=torch.float64)
    """
    return (1 + correlation(torch.stack([maps.double(), again.double()], dim=1))[:, 0, 1]) / 2


def complexity(maps: Tensor) -> Tensor:
    """How much the map shows: its mean over pixels, ``|M|_1 / (H W)``.

    Args:
        maps: ``(B, H, W)`` in [0, 1], as `unit_scaled` gives them.

    Returns:
        ``(B,)`` in [0, 1], float64.

    Source: Poppi et al. 2021, arXiv 2104.10252.

    Examples:
        >>> complexity(torch.tensor([[[0.0, 0.5, 1.0]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    return maps.double().mean(dim=(1, 2))


def harmonic_mean(*terms: Tensor) -> Tensor:
    """``n / (1/a + 1/b + ...)`` of terms ``(B,)`` in [0, 1]; 0 where one is 0, whatever the others are or if they are.

    Examples:
        >>> harmonic_mean(torch.tensor([1.0, 0.0]), torch.tensor([0.5, torch.nan]))
        tensor([0.6667, 0.0000])
    """
    every = torch.stack(terms)
    return torch.where((every == 0).any(dim=0), 0, len(terms) / (1 / every).sum(dim=0))


def adcc(coherent: Tensor, covered: Tensor, lost: Tensor) -> Tensor:
    """The harmonic mean of coherency, 1 - complexity and 1 - average drop, ``3 / (1/a + 1/b + 1/c)``.

    Args:
        coherent: `coherency`, ``(B,)``.
        covered: `complexity`, ``(B,)``.
        lost: `average_drop`, ``(B,)``.

    Returns:
        ``(B,)`` in [0, 1]; 0 where a term is 0, whatever the others are or if they are: a constant map, which has no
        coherency, gets 0. Elsewhere NaN where a term is NaN.

    Source: Poppi et al. 2021, arXiv 2104.10252.

    Examples:
        >>> adcc(torch.tensor([1.0, torch.nan]), torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0]))
        tensor([0.6000, 0.0000])
    """
    return harmonic_mean(coherent, 1 - covered, 1 - lost)


@register("average-drop")
@dataclass(frozen=True)
class AverageDrop(Metric):
    """The share of the class's probability that is lost when only what the map shows is kept; see `average_drop`.

    A constant map loses nothing: never alone.

    Source: Chattopadhay et al. 2018, arXiv 1710.11063, section 4.1.

    Examples:
        >>> AverageDrop().parts
        {'average-drop': 'lower'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"average-drop": "lower"}
    task = "classification"
    shares = True

    def measure(self, case: Case) -> Measured:
        """One evaluation for Y and one for O, which other metrics share."""
        return self._one(average_drop(case.clean, case.kept))


@register("increase-in-confidence")
@dataclass(frozen=True)
class IncreaseInConfidence(Metric):
    """Whether the class's probability rises when only what the map shows is kept; see `increase_in_confidence`.

    Source: Chattopadhay et al. 2018, arXiv 1710.11063, section 4.1.

    Examples:
        >>> IncreaseInConfidence().parts
        {'increase-in-confidence': 'higher'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"increase-in-confidence": "higher"}
    task = "classification"
    shares = True

    def measure(self, case: Case) -> Measured:
        """One evaluation for Y and one for O, which other metrics share."""
        return self._one(increase_in_confidence(case.clean, case.kept))


@register("average-drop-in-deletion")
@dataclass(frozen=True)
class AverageDropInDeletion(Metric):
    """The share of the class's probability that is lost without what the map shows; see `average_drop_in_deletion`.

    Small probabilities make it explode: read the median.

    Source: Jung and Oh 2021, arXiv 2102.05228.

    Examples:
        >>> AverageDropInDeletion().parts
        {'average-drop-in-deletion': 'higher'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"average-drop-in-deletion": "higher"}
    task = "classification"
    shares = True

    def measure(self, case: Case) -> Measured:
        """One evaluation for Y and one for D, which other metrics share."""
        return self._one(average_drop_in_deletion(case.clean, case.removed))


@register("adcc")
@dataclass(frozen=True)
class ADCC(Metric):
    """Average drop, coherency and complexity in one number, see `adcc`, with its terms.

    Coherency compares the maps as they are shown, scaled to [0, 1]. The average drop among the terms, "adcc-drop", is
    that of `average-drop`.

    Source: Poppi et al. 2021, arXiv 2104.10252.

    Examples:
        >>> ADCC().parts
        {'adcc': 'higher', 'coherency': 'higher', 'complexity': 'lower', 'adcc-drop': 'lower'}
    """

    parts: ClassVar[Mapping[str, Better]] = {
        "adcc": "higher",
        "coherency": "higher",
        "complexity": "lower",
        "adcc-drop": "lower",
    }
    needs = frozenset({"explain"})
    task = "classification"
    shares = True

    def measure(self, case: Case) -> Measured:
        """One evaluation for Y and one for O, and a map of x * M."""
        explain = self._given(case.explain, "explain")
        terms = (coherency_of(case, explain), complexity(case.shown), average_drop(case.clean, case.kept))
        found = (adcc(*terms), *terms)
        return Measured(dict(zip(self.parts, found, strict=True)))


def coherency_of(case: Case, explain: Explain) -> Tensor:
    """`coherency` of a case's maps, ``(B,)``; one map of x * M each, for all metrics that ask."""

    def compute() -> Tensor:
        mask = case.shown.nan_to_num(nan=1.0)  # no method takes a picture of NaN; the value is NaN all the same
        again = explain(case.masked(torch.arange(len(case)), mask), case.target)
        return coherency(case.shown, unit_scaled(again))

    return case.once("coherency", compute)


def _share(lost: Tensor, clean: Tensor) -> Tensor:
    return torch.where(clean > 0, lost / clean, torch.nan)
