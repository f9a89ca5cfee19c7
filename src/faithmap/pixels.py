"""What is done to pictures and maps as tensors: grey, blur."""

from __future__ import annotations

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)
"""What red, green and blue weigh in grey."""


def grey(x: Tensor, channel_order: str = "rgb") -> Tensor:
    """The weighted sum of colour channels, ``(B, 3, H, W) -> (B, H, W)``; the mean for other channel counts."""
    if x.shape[1] != 3:
        return x.mean(dim=1)
    weights = x.new_tensor(GREY if channel_order == "rgb" else GREY[::-1])
    return torch.einsum("bchw,c->bhw", x, weights)


def blur(maps: Tensor, sigma: float, kernel: int) -> Tensor:
    """A Gaussian of ``kernel`` x ``kernel`` pixels over maps ``(..., H, W)``, mirrored at the borders.

    As two matrix products, since it is separable: exact for maps smaller than the window too.
    """
    if sigma == 0:
        return maps
    rows, cols = (_smoothing(size, sigma, kernel).to(maps) for size in maps.shape[-2:])
    return rows @ maps @ cols.T


def _smoothing(size: int, sigma: float, kernel: int) -> Tensor:
    """The matrix ``(size, size)`` that smooths one dimension."""
    offsets = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = torch.arange(size)[:, None] + offsets.long()  # (size, kernel), before mirroring
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    places = torch.where(places < size, places, period - places)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(size, kernel))
