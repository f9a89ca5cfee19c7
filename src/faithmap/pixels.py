"""What is done to pictures and maps as tensors: grey, blur, edges, patches, superpixels."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Filling: TypeAlias = Literal["black", "mean", "blur"]
"""What stands in for a picture: black, the network's mean colour, or the picture blurred."""

Granularity: TypeAlias = Literal["pixels", "patches", "superpixels"]
"""What moves as one: pixels by themselves, squares, or compact pieces of one colour."""

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


def filling(x: Tensor, how: Filling, mean: Tensor, std: Tensor) -> Tensor:
    """What stands in for prepared inputs ``(B, C, H, W)`` where they are taken away, of the same shape.

    Args:
        x: inputs, normalised with mean and std.
        how: "black", "mean", which is 0, or "blur", with a sigma of a tenth of the shorter side.
        mean: of the normalisation, ``(1, C, 1, 1)``.
        std: likewise.
    """
    if how == "blur":
        sigma = min(x.shape[-2:]) / 10
        return blur(x, sigma, 2 * math.ceil(3 * sigma) + 1)
    return torch.zeros_like(x) if how == "mean" else (-mean / std).expand_as(x)


def edges(maps: Tensor) -> Tensor:
    """How steep maps ``(B, H, W)`` are: the length of Sobel's gradient, with the border repeated beyond it.

    Examples:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 4)
        >>> edges(step)[0, 1]
        tensor([0., 4., 4., 0.])
    """
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    # Differences first: they are exactly 0 on what is flat.
    across, down = padded[..., 2:] - padded[..., :-2], padded[:, 2:] - padded[:, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return torch.hypot(across, down)


def superpixels(pixels: Tensor, segments: int = 50, compactness: float = 0.3, iterations: int = 10) -> Tensor:
    """Compact pieces of one colour each, by k-means over colour and place from a grid of seeds (after SLIC).

    A pixel p belongs to the nearest centre c by ``|colour_p - colour_c|^2 + (compactness |place_p - place_c| / s)^2``,
    s the seeds' distance, out of the 3 x 3 seeds around it: pieces stay local, and the cost does not grow with their
    number. Centres start at the means of the grid's cells and move to the means of their pieces. Pieces need not be
    connected; one that loses all its pixels stays empty.

    Args:
        pixels: pictures ``(B, C, H, W)``, in [0, 1].
        segments: about how many pieces; there are as many as `seed_grid` has cells.
        compactness: how much place counts against colour: one seed distance weighs as much as that change of colour.
        iterations: of k-means.

    Returns:
        The piece of each pixel, ``(B, H, W)`` from 0 to rows * columns - 1, on the CPU, where sums have one order: the
        same picture has the same pieces everywhere.

    Source: Achanta et al. 2012, SLIC superpixels, in RGB and without its step that enforces connectivity.

    Examples:
        >>> halves = torch.zeros(1, 3, 8, 8)
        >>> halves[..., 5:] = 1
        >>> superpixels(halves, segments=4)[0, 0]
        tensor([0, 0, 0, 0, 0, 1, 1, 1])
    """
    pixels = pixels.detach().to("cpu", torch.float64)
    B, _, H, W = pixels.shape
    rows, cols = seed_grid(segments, H, W)
    row, col = torch.arange(H) * rows // H, torch.arange(W) * cols // W  # whose cell a pixel lies in
    labels = (row[:, None] * cols + col).repeat(B, 1, 1)  # (B, H, W)
    spacing = math.sqrt(H * W / (rows * cols))
    place = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")) * (compactness / spacing)
    points = torch.cat([pixels, place.expand(B, 2, H, W)], dim=1)  # (B, C + 2, H, W)
    centres = segment_means(points, labels, rows * cols)
    for _ in range(iterations):
        best = torch.full((B, H, W), torch.inf, dtype=torch.float64)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near = (row + down).clamp(0, rows - 1)[:, None] * cols + (col + right).clamp(0, cols - 1)
                distance = (points - centres[:, :, near]).square().sum(dim=1)
                labels = torch.where(distance < best, near, labels)
                best = torch.minimum(distance, best)
        centres = segment_means(points, labels, rows * cols, empty=centres)
    return labels


def patches(H: int, W: int, side: int) -> Tensor:
    """Squares of ``side`` pixels from the upper left corner, cut off at the other borders: whose pixel is whose.

    Returns:
        ``(H, W)``, counted row by row from 0.

    Examples:
        >>> patches(2, 5, 2)
        tensor([[0, 0, 1, 1, 2],
                [0, 0, 1, 1, 2]])
    """
    return (torch.arange(H) // side)[:, None] * -(-W // side) + torch.arange(W) // side


def seed_grid(segments: int, H: int, W: int) -> tuple[int, int]:
    """The rows and columns of a grid of about that many cells, nearly squares, over H x W pixels.

    Examples:
        >>> seed_grid(50, 224, 224), seed_grid(50, 100, 200)
        ((7, 7), (5, 10))
    """
    rows = min(H, max(1, round(math.sqrt(segments * H / W))))
    return rows, min(W, max(1, round(segments / rows)))


def segment_means(values: Tensor, labels: Tensor, count: int, empty: Tensor | None = None) -> Tensor:
    """The means of values ``(B, C, H, W)`` over segments ``(B, H, W)``: ``(B, C, count)``, on the CPU.

    Args:
        values: of each pixel.
        labels: each pixel's segment, below ``count``.
        count: of segments.
        empty: the means of segments without pixels, ``(B, C, count)``; 0 without it.
    """
    B, C = values.shape[:2]
    own = torch.arange(B * C).view(B, C, 1) * count + labels.flatten(1)[:, None]  # (B, C, H W): a bin of its own
    flat = values.detach().to("cpu", torch.float64)
    sums = torch.bincount(own.flatten(), flat.flatten(), minlength=B * C * count).view(B, C, count)
    sizes = torch.bincount(own.flatten(), minlength=B * C * count).view(B, C, count)
    return torch.where(sizes > 0, sums / sizes.clamp_min(1), 0 if empty is None else empty)


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
