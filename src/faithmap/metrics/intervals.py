"""Intervals: how sure a mean over samples is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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
        subjects: who is on the probe and on the gallery of each pair. "" is not known, so a person of its own; a pair
            of which neither is known is drawn by itself.

    Raises:
        ValueError: no sample has a value, or there are not as many pairs of subjects as values.

    Source: Snijders and Borgatti 1999, the bootstrap over vertices; here people are the vertices and pairs the edges.

    Examples:
        >>> bootstrap(torch.ones(10))
        Interval(mean=1.0, low=1.0, high=1.0, samples=10)
        >>> bootstrap(torch.ones(2), subjects=[("ann", "ann"), ("ann", "bob")]).high
        1.0
    """
    values = values.detach().cpu().double().flatten()
    if subjects is not None and len(subjects) != len(values):
        raise ValueError(f"each of {len(values)} values has a pair of subjects: got {len(subjects)}")
    known = ~values.isnan()
    if not bool(known.any()):
        raise ValueError("no sample has a value to average")
    values = values[known]
    if subjects is None:
        counts = _counts(len(values), draws, seed)
    else:
        named = tuple(pair for pair, k in zip(subjects, known.tolist(), strict=True) if k)
        counts = _pair_counts(named, draws, seed)
    means = torch.cat([_means(some.double(), values) for some in torch.split(counts, 128)])
    means = means[~means.isnan()]  # few people: some draws leave no pair
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails).tolist() if len(means) else (float("-inf"), float("inf"))
    return Interval(float(values.mean()), low, high, len(values))


def _means(counts: Tensor, values: Tensor) -> Tensor:
    """The means ``(m,)`` of values ``(n,)`` that count so often, ``(m, n)``; what does not count may be infinite."""
    finite = bool(values.isfinite().all())
    sums = counts @ values if finite else torch.where(counts > 0, counts * values, 0).sum(dim=1)
    return sums / counts.sum(dim=1)


# Tables ask for hundreds of intervals over the same samples: the draws, which take most of the time, are kept.


@lru_cache(maxsize=2)
def _counts(n: int, draws: int, seed: int) -> Tensor:
    """How often each of n is drawn in each draw of n, ``(draws, n)`` int16."""
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(draws, n, dtype=torch.int16).scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.int16))


@lru_cache(maxsize=2)
def _pair_counts(subjects: tuple[tuple[str, str], ...], draws: int, seed: int) -> Tensor:
    """How often each pair counts in each draw of as many people as there are, ``(draws, n)`` int16."""
    ids = [(name or f"\0{row}", other or f"\0{row}") for row, (name, other) in enumerate(subjects)]
    people = {person: row for row, person in enumerate(sorted({person for pair in ids for person in pair}))}
    a, b = (torch.tensor([people[pair[side]] for pair in ids]) for side in (0, 1))
    counts = _counts(len(people), draws, seed)
    return torch.where(a == b, counts[:, a], counts[:, a] * counts[:, b])
