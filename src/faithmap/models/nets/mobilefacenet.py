"""MobileFaceNet: a face embedder of a million parameters.

Paper: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices",
CCBR 2018.
Layout: the keys ``conv1``, ``dw_conv1``, ``blocks.N.conv.M``, ``conv2``, ``linear7``, ``linear1``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

# (expansion, channels, repeats, first stride) of each run of bottlenecks: table 1 of the paper
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(nn.Module):
    """Face embedder for RGB faces, prepared as (x - 127.5) / 128; the embedding is raw.

    The trunk ends in ``conv2``: (B, head, size/16, size/16). It ends in a PReLU, so activations can be negative.

    Args:
        embedding: length of the embedding.
        size: input side in pixels, a multiple of 16 for the default bottlenecks.
        bottlenecks: expansion, channels, repeats and first stride of each run.
        stem: channels after the first convolution.
        head: channels of the last feature map.

    Source: Chen et al. 2018, table 1.

    Examples:
        >>> import torch
        >>> net = MobileFaceNet(embedding=8, size=16, bottlenecks=[(2, 4, 2, 2)], stem=4, head=6).eval()
        >>> net(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        embedding: int = 128,
        size: int = 112,
        bottlenecks: Sequence[tuple[int, int, int, int]] = BOTTLENECKS,
        stem: int = 64,
        head: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, stem, 3, stride=2, padding=1)
        self.dw_conv1 = _conv(stem, stem, 3, padding=1, groups=stem)
        blocks: list[_Bottleneck] = []
        width, side = stem, size // 2
        for expand, channels, repeats, first_stride in bottlenecks:
            for stride in (first_stride, *[1] * (repeats - 1)):
                blocks.append(_Bottleneck(width, channels, expand, stride))
                width = channels
            side //= first_stride
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _conv(width, head, 1)
        self.linear7 = _conv(head, head, side, groups=head, activate=False)  # one weight per place and channel
        self.linear1 = _conv(head, embedding, 1, activate=False)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Raw embeddings (B, embedding) of prepared faces (B, 3, size, size)."""
        x = self.blocks(self.dw_conv1(self.conv1(x)))  # (B, 128, size/16, size/16)
        x = self.linear7(self.conv2(x))  # (B, head, 1, 1)
        embeddings: Tensor = self.flatten(self.linear1(x))  # (B, embedding)
        return embeddings


class _Bottleneck(nn.Module):
    def __init__(self, width_in: int, width_out: int, expand: int, stride: int) -> None:
        super().__init__()
        wide = width_in * expand
        self._adds = stride == 1 and width_in == width_out
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)  # (B, width_out, h/stride, w/stride)
        return x + out if self._adds else out


def _conv(
    width_in: int,
    width_out: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activate: bool = True,
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(width_in, width_out, kernel, stride, padding, groups=groups, bias=False),
        bn=nn.BatchNorm2d(width_out),
    )
    if activate:
        layers["prelu"] = nn.PReLU(width_out)
    return nn.Sequential(layers)
