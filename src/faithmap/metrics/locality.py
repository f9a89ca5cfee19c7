"""Cam locality: does a place of a feature map see the cell of the picture that CAM assumes it sees?"""

from __future__ import annotations

import torch
from torch import Tensor


def cam_locality(maps: Tensor, rows: Tensor, cols: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each place's map that lies in the place's own cell of the picture.

    ``sum of the map in the cell / sum of the map``. CAM upsamples a feature map to the picture, as if the place
    (r, c) of h x w saw the cell of rows rH/h to (r+1)H/h and columns cW/w to (c+1)W/w, and nothing else. Pixels that
    the edge of a cell cuts count by their part.

    Args:
        maps: ``(n, H, W)``, not negative.
        rows: of the places, ``(n,)``.
        cols: of the places, ``(n,)``.
        grid: (h, w) of the feature map.

    Returns:
        ``(n,)`` in [0, 1]; NaN where a map is empty.

    Source: the claim is FAME's (Zhang and Guenther 2026, Fig. 1); the number is this project's.

    Examples:
        >>> maps = torch.zeros(1, 4, 4)
        >>> maps[0, 0, 0], maps[0, 3, 3] = 3.0, 1.0
        >>> cam_locality(maps, torch.tensor([0]), torch.tensor([0]), (2, 2))
        tensor([0.7500])
    """
    H, W = maps.shape[-2:]
    inside = cell_weights(rows, grid[0], H).to(maps)[:, :, None] * cell_weights(cols, grid[1], W).to(maps)[:, None, :]
    return (maps * inside).sum(dim=(1, 2)) / maps.sum(dim=(1, 2))


def cell_weights(index: Tensor, cells: int, length: int) -> Tensor:
    """How much of each of ``length`` pixels lies in the given one of ``cells`` equal parts, ``(n, length)``."""
    edges = torch.arange(length + 1, dtype=torch.float64)
    begin, end = ((index.cpu().double() + k)[:, None] * length / cells for k in (0, 1))  # (n, 1)
    return (torch.minimum(edges[1:], end) - torch.maximum(edges[:-1], begin)).clamp_min(0)
