"""SqueezeNet 1.0: a classifier whose head is a convolution, a ReLU and an average.

Paper: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016.
Layout: torchvision's ``squeezenet1_0`` (``features.N.squeeze``, ``features.N.expand1x1``, ``classifier.1``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 classifier with in-place ReLUs.

    The trunk ends in ``features.12``: (B, 512 * width, 13, 13) at 224 pixels.

    Args:
        classes: number of logits.
        width: factor on all channels, a multiple of 1/16; 1 is the paper's network.

    Source: Iandola et al. 2016, table 1.

    Examples:
        >>> net = SqueezeNet(classes=10, width=1 / 16).eval()
        >>> net(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        w = [round(width * channels) for channels in (96, 128, 256, 384, 512)]
        self.features = nn.Sequential(
            nn.Conv2d(3, w[0], 7, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(w[0], w[1]),
            _Fire(w[1], w[1]),
            _Fire(w[1], w[2]),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(w[2], w[2]),
            _Fire(w[2], w[3]),
            _Fire(w[3], w[3]),
            _Fire(w[3], w[4]),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(w[4], w[4]),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(w[4], classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes), never negative, of prepared images (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.features(x))  # (B, classes)
        return logits


class _Fire(nn.Module):
    """Narrow to an eighth by 1x1, then half of the output channels by 1x1 and half by 3x3."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        narrow, half = width_out // 8, width_out // 2
        self.squeeze = nn.Conv2d(width_in, narrow, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(narrow, half, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(narrow, half, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))  # (B, width_out/8, h, w)
        halves = [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))]
        return torch.cat(halves, 1)  # (B, width_out, h, w)
