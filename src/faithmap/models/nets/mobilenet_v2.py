"""MobileNetV2: inverted residuals with linear bottlenecks.

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
Layout: torchvision's ``mobilenet_v2`` (``features.N.conv.M``, ``features.18``, ``classifier.1``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# (expansion, channels, repeats, first stride) of each run of blocks: table 2 of the paper
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNetV2 classifier, by default width 1.0; the trunk ends in ``features.18``: (B, 1280, 7, 7) at 224 pixels.

    Args:
        classes: number of logits.
        blocks: expansion, channels, repeats and first stride of each run of blocks.
        stem: channels after the first convolution.
        head: channels of the last feature map.

    Source: Sandler et al. 2018, table 2.

    Examples:
        >>> import torch
        >>> net = MobileNetV2(classes=10, blocks=[(1, 4, 1, 1), (6, 8, 2, 2)], stem=4, head=16).eval()
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int = 1000,
        blocks: Sequence[tuple[int, int, int, int]] = BLOCKS,
        stem: int = 32,
        head: int = 1280,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, stem, 3, stride=2)]
        width = stem
        for expand, channels, repeats, first_stride in blocks:
            for stride in (first_stride, *[1] * (repeats - 1)):
                layers.append(_InvertedResidual(width, channels, expand, stride))
                width = channels
        self.features = nn.Sequential(*layers, _conv(width, head, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of prepared images (B, 3, H, W)."""
        x = self.features(x)  # (B, head, H/32, W/32)
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))  # (B, classes)
        return logits


class _InvertedResidual(nn.Module):
    def __init__(self, width_in: int, width_out: int, expand: int, stride: int) -> None:
        super().__init__()
        wide = width_in * expand
        self._adds = stride == 1 and width_in == width_out
        self.conv = nn.Sequential(
            *([_conv(width_in, wide, 1)] if expand != 1 else []),
            _conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)  # (B, width_out, h/stride, w/stride)
        return x + out if self._adds else out


def _conv(width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU6(),
    )
