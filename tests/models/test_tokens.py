"""Feature maps are found in every layout, and put back as they were taken."""

from __future__ import annotations

import pytest
import torch

from faithmap.models.tokens import Grid, grid_of

KNOWN = [
    ((1, 512, 7, 7), (224, 224), Grid("channels first", 7, 7)),
    ((1, 7, 7, 512), (224, 224), Grid("channels last", 7, 7)),  # swin
    ((1, 8, 8, 8), (32, 32), Grid("channels first", 8, 8)),  # both fit: the common layout
    ((1, 1000, 13, 13), (224, 224), Grid("channels first", 13, 13)),
    ((1, 64, 5, 9), (64, 128), Grid("channels first", 5, 9)),  # no layout fits: the common one
    ((1, 16, 8, 12), (256, 384), Grid("channels first", 8, 12)),
    ((1, 8, 12, 16), (256, 384), Grid("channels last", 8, 12)),
    ((1, 197, 768), (224, 224), Grid("tokens", 14, 14, 1)),  # ViT
    ((1, 198, 768), (224, 224), Grid("tokens", 14, 14, 2)),  # DeiT, distilled
    ((1, 201, 768), (224, 224), Grid("tokens", 14, 14, 5)),  # registers
    ((1, 196, 768), (224, 224), Grid("tokens", 14, 14, 0)),
    ((1, 97, 8), (256, 384), Grid("tokens", 8, 12, 1)),
    ((1, 1280, 1, 1), (224, 224), None),
    ((1, 1, 1, 1280), (224, 224), None),
    ((1, 1000), (224, 224), None),
    ((1, 2, 768), (224, 224), None),
    ((1, 44, 768), (224, 224), None),
    ((1, 3, 4, 7, 7), (224, 224), None),
    ((), (224, 224), None),
]


@pytest.mark.parametrize(("shape", "image", "grid"), KNOWN)
def test_the_layout_is_told_by_the_shape(shape: tuple[int, ...], image: tuple[int, int], grid: Grid | None) -> None:
    """And by the image's proportions."""
    assert grid_of(shape, image) == grid


@pytest.mark.parametrize(("shape", "image", "grid"), [known for known in KNOWN if known[2] is not None])
def test_what_is_taken_is_put_back(shape: tuple[int, ...], image: tuple[int, int], grid: Grid) -> None:
    """The map has the channels first and its places in reading order; the other tokens stay what they are."""
    raw = torch.arange(2 * torch.Size(shape[1:]).numel(), dtype=torch.float32).view(2, *shape[1:])
    A = grid.take(raw)
    assert A.shape[2:] == (grid.h, grid.w)
    assert torch.equal(grid.put(A, lambda: raw[:, : grid.prefix]), raw)
    row, column = grid.h - 1, 1
    if grid.layout == "tokens":
        expected = raw[:, grid.prefix + row * grid.w + column]
    else:
        expected = raw[:, row, column] if grid.layout == "channels last" else raw[:, :, row, column]
    assert torch.equal(A[:, :, row, column], expected)
