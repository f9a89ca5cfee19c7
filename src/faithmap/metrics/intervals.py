"""Intervals: how sure a mean over samples is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval and the number of samples."""

    mean: float
    low: float
    high: float
    samples: int


def bootstrap(
    values: Tensor,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    subjects: Sequence[tuple[str, str]] | None = None,
) -> Interval:
    """The mean of one value per sample, with the percentile interval over samples drawn with replacement.

    For a paired comparison of two methods give the differences per sample.

    Of pairs of faces people are drawn, not pairs: pairs that share a person are no independent samples. A pair of one
    person counts as often as that person was drawn, a pair of two as the product of both counts.

    Args:
        values: ``(n,)``; NaN (no value) is left out.
        draws: how many bootstrap samples.
        seed: of the draws.
        level: of the interval.
        subjects: who is on the probe and on the gallery of each pair.

    Raises:
        ValueError: no sample has a value.

    Examples:
        >>> bootstrap(torch.ones(10))
        Interval(mean=1.0, low=1.0, high=1.0, samples=10)
        >>> bootstrap(torch.ones(2), subjects=[("ann", "ann"), ("ann", "bob")]).high
        1.0
    """
    values = values.detach().cpu().double().flatten()
    known = ~values.isnan()
    if not bool(known.any()):
        raise ValueError("no sample has a value to average")
    generator = torch.Generator().manual_seed(seed)
    if subjects is None:
        values, n = values[known], int(known.sum())
        picks = torch.randint(n, (draws, n), generator=generator)
        means = values[picks].mean(dim=1)
    else:
        weights = _pair_weights([pair for pair, k in zip(subjects, known.tolist(), strict=True) if k], draws, generator)
        values = values[known]
        means = weights @ values / weights.sum(dim=1)
        means = means[means.isfinite()]  # few people: some draws leave no pair
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails).tolist() if len(means) else (float("-inf"), float("inf"))
    return Interval(float(values.mean()), low, high, len(values))


def _pair_weights(subjects: Sequence[tuple[str, str]], draws: int, generator: torch.Generator) -> Tensor:
    """How often each pair counts in each draw of as many people as there are, ``(draws, n)`` float64."""
    people = {person: row for row, person in enumerate(sorted({person for pair in subjects for person in pair}))}
    picks = torch.randint(len(people), (draws, len(people)), generator=generator)
    counts = torch.zeros(draws, len(people), dtype=torch.float64)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))
    a, b = (torch.tensor([people[pair[side]] for pair in subjects]) for side in (0, 1))
    return torch.where(a == b, counts[:, a], counts[:, a] * counts[:, b])
