"""The game of a layer's channels: coalitions of them, what they are worth, and orders in which they join.

The worth of a coalition is the score as if all other channels of the target layer were 0, asked of the tail alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from faithmap.methods.base import Query

Coalitions = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``i (m,) -> which channels are present (m, C) bool, rows (m,)``: some coalitions, and whose sample each is."""


def worth_of(query: Query, count: int, coalitions: Coalitions) -> Tensor:
    """The scores ``(count,)`` of coalitions, whose feature maps exist a chunk at a time; float64."""
    A = query.split.A

    def make(i: Tensor) -> tuple[Tensor, Tensor]:
        present, rows = coalitions(i)
        return A[rows.to(A.device)] * present.to(A.device)[..., None, None], rows

    return query.coalition_scores(count, make).double()


def ends_of(query: Query) -> tuple[Tensor, Tensor]:
    """The scores of no channel, y(0), and of all, y(A), ``(B,)``; float64."""
    everyone, channels = torch.arange(len(query)), query.split.A.shape[1]
    nobody = torch.zeros(len(query), channels, dtype=torch.bool)
    return worth_of(query, len(query), lambda i: (nobody[i], everyone[i])), query.scores.double()


def draw_ranks(draw: Sequence[torch.Generator], channels: int) -> Tensor:
    """A random order for each generator and the same backwards, ``(m, 2, C)``: when each channel joins, from 0."""
    forth = torch.stack([torch.randperm(channels, generator=generator) for generator in draw])
    return torch.stack([forth, channels - 1 - forth], dim=1)
