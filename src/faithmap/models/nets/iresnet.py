"""IResNet: the "improved" ResNet of face recognition, batch norm first and PReLU inside each unit.

Papers: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019 (the unit and the
output layer); Kim, Jain and Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022.
Layout: AdaFace's checkpoints (``input_layer``, ``body.N.shortcut_layer``, ``body.N.res_layer``, ``output_layer``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class IResNet(nn.Module):
    """Face embedder of IResNet units; the embedding is raw, so cosine similarity normalises it.

    Args:
        units: number of units in each stage; the first of each stage halves the sides.
        widths: channels of each stage; the stem has the first stage's.
        size: input side in pixels (the output layer is linear in all places, so no other side fits).
        embedding: length of the embedding.
        dropout: rate before the linear layer, in training.

    Raises:
        ValueError: if ``units`` and ``widths`` differ in length.

    Source: Deng et al. 2019, section 3.1; Kim et al. 2022.

    Examples:
        >>> import torch
        >>> net = IResNet(units=(1, 2), widths=(4, 8), size=16, embedding=5).eval()
        >>> net(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        units: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        size: int = 112,
        embedding: int = 512,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        if len(units) != len(widths):
            raise ValueError(f"units {tuple(units)} and widths {tuple(widths)} need one number per stage each")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        body: list[_Unit] = []
        previous = widths[0]
        for count, width in zip(units, widths, strict=True):
            body += [_Unit(previous if i == 0 else width, width, stride=2 if i == 0 else 1) for i in range(count)]
            previous = width
        self.body = nn.Sequential(*body)
        side = -(-size // 2 ** len(units))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw embeddings (B, embedding) of prepared faces (B, 3, size, size)."""
        x = self.body(self.input_layer(x))  # (B, widths[-1], side, side)
        embeddings: Tensor = self.output_layer(x)  # (B, embedding)
        return embeddings


def ir_18() -> IResNet:
    """IResNet of 18 layers for 112x112 faces, 512 numbers per face."""
    return IResNet((2, 2, 2, 2))


def ir_50() -> IResNet:
    """IResNet of 50 layers for 112x112 faces, 512 numbers per face."""
    return IResNet((3, 4, 14, 3))


def ir_101() -> IResNet:
    """IResNet of 100 layers, which AdaFace calls 101, for 112x112 faces, 512 numbers per face."""
    return IResNet((3, 13, 30, 3))


class _Unit(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)  # a window of one pixel: it only subsamples
            if width_in == width
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)  # (B, width, h/stride, w/stride)
        return out
