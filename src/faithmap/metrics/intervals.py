"""Intervals: how sure a mean over samples is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval and the number of samples."""

    mean: float
    low: float
    high: float
    samples: int


def bootstrap(values: Tensor, *, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of one value per sample, with the 95 % percentile interval over samples drawn with replacement.

    For a paired comparison of two methods give the differences per sample.

    Args:
        values: ``(n,)``; NaN (no value) is left out.
        draws: how many bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: no sample has a value.

    Examples:
        >>> bootstrap(torch.ones(10))
        Interval(mean=1.0, low=1.0, high=1.0, samples=10)
    """
    values = values.detach().cpu().double().flatten()
    values = values[~values.isnan()]
    if not len(values):
        raise ValueError("no sample has a value to average")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[picks].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high, len(values))
