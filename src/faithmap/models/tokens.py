"""Feature maps in whatever layout a layer returns them: channels first, channels last, or a row of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens


@dataclass(frozen=True)
class Grid:
    """How a layer's output becomes a feature map ``(B, C, h, w)`` and how such a map is put back."""

    layout: str
    h: int
    w: int
    prefix: int = 0
    """Tokens before the grid (class, registers): they stay what they are."""

    def fits(self, image: tuple[int, int]) -> bool:
        """Whether it has the proportions of an image of (H, W) pixels, up to the rounding of strides."""
        return _fits(self.h, self.w, *image)

    def take(self, output: Tensor) -> Tensor:
        """The feature map ``(B, C, h, w)`` in a layer's output."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)  # (B, h, w, C) -> (B, C, h, w)
        tokens = output[:, self.prefix :].transpose(1, 2)  # (B, N, C) -> (B, C, hw)
        return tokens.reshape(*tokens.shape[:2], self.h, self.w)

    def put(self, A: Tensor, prefix: Callable[[], Tensor]) -> Tensor:
        """The layer's output with the feature map A; ``prefix()`` gives the tokens ``(B, p, C)`` before it."""
        if self.layout == "channels first":
            return A
        if self.layout == "channels last":
            return A.permute(0, 2, 3, 1)
        tokens = A.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, hw, C)
        return torch.cat([prefix(), tokens], dim=1) if self.prefix else tokens


def grid_of(shape: tuple[int, ...], image: tuple[int, int]) -> Grid | None:
    """How an output of that shape lies over an image of (H, W) pixels; None where it has no places.

    Examples:
        >>> grid_of((1, 512, 7, 7), (224, 224))
        Grid(layout='channels first', h=7, w=7, prefix=0)
        >>> grid_of((1, 197, 768), (224, 224))
        Grid(layout='tokens', h=14, w=14, prefix=1)
        >>> grid_of((1, 1000), (224, 224)) is None
        True
    """
    H, W = image
    if len(shape) == 4:
        first = _fits(shape[2], shape[3], H, W)
        last = _fits(shape[1], shape[2], H, W)
        if last and not first:
            return Grid("channels last", shape[1], shape[2]) if shape[1] * shape[2] > 1 else None
        return Grid("channels first", shape[2], shape[3]) if shape[2] * shape[3] > 1 else None
    if len(shape) == 3:
        for prefix in range(min(_MOST_PREFIX_TOKENS, shape[1] - 1)):
            places = shape[1] - prefix
            h = round(math.sqrt(places * H / W))
            if h and places % h == 0 and places > 1 and _fits(h, places // h, H, W):
                return Grid("tokens", h, places // h, prefix)
    return None


def _fits(h: int, w: int, H: int, W: int) -> bool:
    return abs(h * W - w * H) < max(H, W)
