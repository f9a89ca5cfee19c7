"""Whether maps agree: how alike they order the pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_correlation(maps: Tensor) -> Tensor:
    """Spearman's rank correlation of every two maps: of their ranks, with ties at their mean rank, Pearson's.

    It asks for the order of the pixels alone, so that maps of different scales can be compared.

    Args:
        maps: ``(B, M, ...)``, raw: M maps of each of B pictures.

    Returns:
        ``(B, M, M)`` in [-1, 1], float64; NaN where one of the two is constant or not finite.

    Examples:
        >>> maps = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 10.0, 100.0], [3.0, 2.0, 1.0]]])
        >>> [round(r, 3) for r in rank_correlation(maps)[0, 0].tolist()]
        [1.0, 1.0, -1.0]
    """
    B, M = maps.shape[:2]
    ranks = torch.stack([_ranks(map) for map in maps.reshape(B * M, -1)]).view(B, M, -1)  # (B, M, pixels)
    return correlation(ranks)


def correlation(maps: Tensor) -> Tensor:
    """Pearson's correlation of every two maps: the cosine of both less their means.

    Args:
        maps: ``(B, M, ...)``: M maps of each of B pictures.

    Returns:
        ``(B, M, M)`` in [-1, 1], float64; NaN where one of the two is constant or not finite.

    Examples:
        >>> maps = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 10.0, 100.0], [3.0, 2.0, 1.0]]])
        >>> [round(r, 3) for r in correlation(maps)[0, 0].tolist()]
        [1.0, 0.904, -1.0]
    """
    flat = maps.double().flatten(2)  # (B, M, pixels)
    flat = flat - flat[..., :1]  # a constant map is then exactly 0, which its mean may miss by rounding
    flat = flat - flat.mean(dim=2, keepdim=True)
    spread = flat.norm(dim=2, keepdim=True)
    unit = flat / torch.where(spread > 0, spread, torch.nan)
    return (unit @ unit.mT).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    """From 1, in float64; NaN where the values are not finite."""
    if not bool(values.isfinite().all()):
        return torch.full(values.shape, torch.nan, dtype=torch.float64, device=values.device)
    place: Tensor
    counts: Tensor
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - (counts.double() - 1) / 2)[place]
