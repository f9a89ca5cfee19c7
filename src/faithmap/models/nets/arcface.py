"""The IResNet of insightface's ArcFace, and of MagFace: batch norm first in each block, PReLU inside.

Papers: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019; Meng et al.,
"MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR 2021.
Layout: insightface's arcface_torch (``conv1``, ``layer1`` to ``layer4``, ``fc``, ``features``). AdaFace's IResNet, in
`iresnet`, has other names and a first stage without a convolution on its shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ARCFACE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
"""Blocks in each of the four stages, by the published depth."""


class ArcFaceNet(nn.Module):
    """Face embedder of insightface's layout; the embedding is raw.

    Args:
        blocks: number of blocks in each stage; the first of each halves the sides.
        widths: channels of each stage; the stem has the first stage's.
        size: input side in pixels (the linear layer reads all places, so no other side fits).
        embedding: length of the embedding.

    Source: Deng et al. 2019, section 3.1.

    Examples:
        >>> import torch
        >>> net = ArcFaceNet((1, 2, 1, 1), widths=(4, 4, 8, 8), size=32, embedding=5).eval()
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        blocks: Sequence[int] = ARCFACE_BLOCKS[50],
        widths: Sequence[int] = (64, 128, 256, 512),
        size: int = 112,
        embedding: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(_Block(before if i == 0 else width, width, i == 0) for i in range(count)))
            for before, width, count in zip((widths[0], *widths), widths, blocks, strict=False)
        )
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.dropout = nn.Dropout()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1] * (-(-size // 16)) ** 2, embedding)
        self.features = nn.BatchNorm1d(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Raw embeddings (B, embedding) of prepared faces (B, 3, size, size)."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, widths[-1], size/16, size/16)
        embeddings: Tensor = self.features(self.fc(self.flatten(self.dropout(self.bn2(x)))))  # (B, embedding)
        return embeddings


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, first: bool) -> None:
        super().__init__()
        stride = 2 if first else 1
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        shortcut = (nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if first else ()
        self.downsample = nn.Sequential(*shortcut)  # of nothing: the input itself

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        out: Tensor = branch + self.downsample(x)  # (B, width, h/stride, w/stride)
        return out
