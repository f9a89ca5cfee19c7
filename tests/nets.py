"""Tiny networks with the traits that break explanation code: 32 x 32 inputs, at most 8 channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gap_linear(classes: int = 5) -> nn.Module:
    """Convolutions, global average pooling, one linear layer: closed forms hold."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


class VGGLike(nn.Module):
    """A multi-layer head with one ReLU module used three times, in place, and a max-pool."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.fc1, self.fc2 = nn.Linear(8 * 16, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.conv1(x)), 4)
        x = F.max_pool2d(self.relu(self.conv2(x)), 2)
        return self.fc2(self.drop(self.relu(self.fc1(torch.flatten(x, 1)))))


class Residual(nn.Module):
    """Two residual blocks, an in-place sum, cut anywhere: skip connections cross the cut."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
            self.bn = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            identity = x
            out = self.bn(self.conv2(self.relu(self.conv1(x))))
            out += identity
            return self.relu(out)

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1, self.layer2 = self.Block(8), self.Block(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(x.mean(dim=(2, 3)))


class Faces(nn.Module):
    """IResNet's head in small: PReLU, negative activations, flatten, linear, batch norm; 6 numbers a face."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.PReLU(8)
        self.last = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Sequential(
            nn.BatchNorm2d(8), nn.Dropout(0.4), nn.Flatten(), nn.Linear(8 * 16, 6), nn.BatchNorm1d(6)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.act(self.bn(self.conv(x)))))


class ViTLike(nn.Module):
    """Patches, a class token, two encoder layers read at the class token alone: 16 places."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, stride=8)
        self.cls, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) * 0.1)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, activation="gelu") for _ in range(2))
        )
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens], dim=1) + self.position
        return self.fc(self.norm(self.blocks(tokens))[:, 0])


class MobileLike(nn.Module):
    """MobileNetV2 in small: an inverted residual, depthwise, with ReLU6; then pooling and one linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(4, 8, 1), nn.ReLU6(inplace=True), nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU6(inplace=True), nn.Conv2d(8, 4, 1),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(x + self.block(x))
        return self.classifier(x.mean(dim=(2, 3)))


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "gap": gap_linear,
    "vgg": VGGLike,
    "residual": Residual,
    "mobile": MobileLike,
    "vit": ViTLike,
}
