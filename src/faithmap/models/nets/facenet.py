"""A small face embedder of pre-activated residual units, for faces of 112 x 112 pixels.

Paper: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019 (the unit, which here
halves the sides in its first convolution: half of the operations).
Layout: this project's (``input_layer``, ``body.N``, ``output_layer``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallFaceNet(nn.Module):
    """Face embedder whose head is an average over places and a linear layer; the embedding is raw.

    The body ends without an activation, at 1/16 of the input's sides, so that activations can be negative.

    Args:
        widths: channels of the stem and of the last three stages; the stem and each stage halve the sides.
        embedding: length of the embedding.

    Source: Deng et al. 2019, section 3.1, for the units.

    Examples:
        >>> import torch
        >>> net = SmallFaceNet(widths=(4, 6, 8, 8), embedding=5).eval()
        >>> net(torch.zeros(2, 3, 112, 112)).shape
        torch.Size([2, 5])
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), embedding: int = 128) -> None:
        super().__init__()
        stem, low, middle, high = widths
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        self.body = nn.Sequential(
            _Unit(stem, low, 2), _Unit(low, middle, 2), _Unit(middle, middle, 1), _Unit(middle, high, 2)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(high),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(high, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw embeddings (B, embedding) of prepared faces (B, 3, H, W)."""
        x = self.body(self.input_layer(x))  # (B, widths[-1], H/16, W/16)
        embeddings: Tensor = self.output_layer(x)  # (B, embedding)
        return embeddings


class _Unit(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.Identity()
            if width_in == width and stride == 1
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)  # (B, width, h/stride, w/stride)
        return out
