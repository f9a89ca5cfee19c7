"""A small residual network for drawn pictures.

Residual blocks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (16, 32, 80, 80)


class ObjectNet(nn.Module):
    """Classifier for RGB pictures of 96 x 96 pixels.

    The last feature map ``features.N`` has (B, 80, 12, 12) activations, none below 0.

    Args:
        classes: how many.
        hidden: units of a hidden layer between the map's mean and the classes; without it they are linear in the mean.
        widths: channels of the stem and of each block; the first two blocks halve the sides.

    Examples:
        >>> import torch
        >>> ObjectNet(10, hidden=96).eval()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, hidden: int | None = None, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks = (Residual(a, b, 2 if i < 2 else 1) for i, (a, b) in enumerate(pairwise(widths)))
        self.features = nn.Sequential(stem, *blocks)
        layers: list[nn.Module] = [nn.Linear(widths[-1], classes)]
        if hidden is not None:
            layers = [nn.Linear(widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, classes)]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of prepared pictures (B, 3, 96, 96)."""
        logits: Tensor = self.head(self.features(x))  # features: (B, 80, 12, 12)
        return logits


class Residual(nn.Module):
    """ReLU(x + two convolutions of x); where the shape changes, x goes through one of a single pixel."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride > 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width_out, h / stride, w / stride)``."""
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        activated: Tensor = self.relu2(out + self.shortcut(x))
        return activated
