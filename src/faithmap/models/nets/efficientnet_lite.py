"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, ReLU6 in place of swish.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite
variants are TensorFlow's release for mobile devices.
Layout: the weights of ``efficientnet_lite_pytorch`` (``_conv_stem``, ``_blocks.N._expand_conv``, ``_fc``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

BN_EPS = 1e-3  # TensorFlow's, which these weights were trained with; torch's default of 1e-5 costs accuracy

# (expansion, channels, repeats, first stride, kernel) of each run of blocks: B0's, table 1 of the paper
BLOCKS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite classifier, by default Lite0 for ImageNet.

    The trunk ends in the module ``_relu_head``: (B, 1280, 7, 7) for Lite0 at 224 pixels.

    Args:
        classes: number of logits.
        size: input side in pixels for which the padding is exactly TensorFlow's "same". Other sides run too, and
            all multiples of 32 share the padding of 224.
        blocks: expansion, channels, repeats, first stride and kernel of each run of blocks.
        stem: channels after the first convolution.
        head: channels of the last feature map.

    Source: Tan and Le 2019, table 1, with the Lite changes named above.

    Examples:
        >>> import torch
        >>> net = EfficientNetLite(classes=10, size=32, blocks=[(1, 4, 1, 1, 3), (6, 8, 2, 2, 5)], stem=4, head=16)
        >>> net.eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int = 1000,
        size: int = 224,
        blocks: Sequence[tuple[int, int, int, int, int]] = BLOCKS,
        stem: int = 32,
        head: int = 1280,
    ) -> None:
        super().__init__()
        self._pad_stem, padding = _same_padding(size, 3, 2)
        self._conv_stem = nn.Conv2d(3, stem, 3, 2, padding, bias=False)
        self._bn0 = nn.BatchNorm2d(stem, eps=BN_EPS)
        self._relu_stem = nn.ReLU6()
        layers: list[_Block] = []
        width, side = stem, -(-size // 2)
        for expand, channels, repeats, first_stride, kernel in blocks:
            for stride in (first_stride, *[1] * (repeats - 1)):
                layers.append(_Block(width, channels, expand, kernel, stride, side))
                width, side = channels, -(-side // stride)
        self._blocks = nn.Sequential(*layers)
        self._conv_head = nn.Conv2d(width, head, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(head, eps=BN_EPS)
        self._relu_head = nn.ReLU6()
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._flatten = nn.Flatten()
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of prepared images (B, 3, H, W)."""
        x = self._relu_stem(self._bn0(self._conv_stem(self._pad_stem(x))))  # (B, stem, H/2, W/2)
        x = self._blocks(x)  # (B, 320, H/32, W/32)
        x = self._relu_head(self._bn1(self._conv_head(x)))  # (B, head, H/32, W/32)
        x = self._flatten(self._avg_pooling(x))  # (B, head)
        logits: Tensor = self._fc(self._dropout(x))  # (B, classes)
        return logits


class _Block(nn.Module):
    """Inverted residual: widen by 1x1, filter each channel, narrow by 1x1, add the input where the shapes agree."""

    def __init__(self, width_in: int, width_out: int, expand: int, kernel: int, stride: int, side: int) -> None:
        super().__init__()
        wide = width_in * expand
        self._adds = stride == 1 and width_in == width_out
        self._widens = expand != 1
        if self._widens:
            self._expand_conv = nn.Conv2d(width_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=BN_EPS)
            self._relu0 = nn.ReLU6()
        self._pad, padding = _same_padding(side, kernel, stride)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, padding, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=BN_EPS)
        self._relu1 = nn.ReLU6()
        self._project_conv = nn.Conv2d(wide, width_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        wide = self._relu0(self._bn0(self._expand_conv(x))) if self._widens else x  # (B, wide, h, w)
        wide = self._relu1(self._bn1(self._depthwise_conv(self._pad(wide))))  # (B, wide, h/stride, w/stride)
        out: Tensor = self._bn2(self._project_conv(wide))  # (B, width_out, h/stride, w/stride)
        return x + out if self._adds else out


def _same_padding(side: int, kernel: int, stride: int) -> tuple[nn.Module, int]:
    """TensorFlow's "same" padding, as a module to run before the convolution and the convolution's own padding.

    Where the total is odd, TensorFlow puts the extra pixel on the right and bottom; a convolution cannot by itself.
    """
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    return (nn.Identity(), before) if before == after else (nn.ZeroPad2d((before, after, before, after)), 0)
