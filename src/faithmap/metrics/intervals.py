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
    generator = torch.Generator().manual_seed(seed)
    if subjects is None:
        values, n = values[known], int(known.sum())
        picks = torch.randint(n, (draws, n), generator=generator)
        means = values[picks].mean(dim=1)
    else:
        named = [pair for pair, k in zip(subjects, known.tolist(), strict=True) if k]
        values = values[known]
        means = _means_over_people(values, named, draws, generator)
        means = means[means.isfinite()]  # few people: some draws leave no pair
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails).tolist() if len(means) else (float("-inf"), float("inf"))
    return Interval(float(values.mean()), low, high, len(values))


def _means_over_people(
    values: Tensor, subjects: Sequence[tuple[str, str]], draws: int, generator: torch.Generator
) -> Tensor:
    """The mean in each draw of as many people as there are, ``(draws,)``; NaN where it leaves no pair."""
    ids = [(name or f"\0{row}", other or f"\0{row}") for row, (name, other) in enumerate(subjects)]
    people = {person: row for row, person in enumerate(sorted({person for pair in ids for person in pair}))}
    a, b = (torch.tensor([people[pair[side]] for pair in ids]) for side in (0, 1))
    picks = torch.randint(len(people), (draws, len(people)), generator=generator)
    means = []
    for some in torch.split(picks, max(1, 2**22 // len(ids))):  # so that the weights of many pairs fit memory
        counts = torch.zeros(some.shape, dtype=torch.float64)
        counts.scatter_add_(1, some, torch.ones_like(some, dtype=torch.float64))
        weights = torch.where(a == b, counts[:, a], counts[:, a] * counts[:, b])  # how often each pair counts
        means.append(weights @ values / weights.sum(dim=1))
    return torch.cat(means)
