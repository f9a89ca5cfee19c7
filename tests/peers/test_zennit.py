"""zennit 0.5.1: the same relevance where it is right, and where it is wrong without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
)
from zennit.core import Composite
from zennit.layer import Sum

from tests.peers.shared import CLASSES, pictures, plain_net, pooled_net, raw, still


def theirs(module: nn.Module, composite: Composite, x: Tensor, classes: list[int], scored: bool = True) -> Tensor:
    """Their maps ``(B, H, W)``, summed over colours: from the scores, or from 1."""
    chosen = torch.eye(5, dtype=x.dtype)[classes]
    with Gradient(model=module, composite=composite) as attributor:
        return attributor(x, (lambda scores: scores * chosen) if scored else chosen)[1].sum(dim=1).detach()


class Shortcut(nn.Module):
    """A residual network; its sum and its ReLU as functions, or as the modules that zennit looks for."""

    def __init__(self, modules: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu1, self.relu2 = (nn.ReLU(), nn.ReLU()) if modules else (torch.relu, torch.relu)
        self.sum = Sum() if modules else (lambda both: both[..., 0] + both[..., 1])
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.sum(torch.stack([x, self.relu2(self.conv2(x))], dim=-1))
        return self.fc(self.flatten(self.pool(x)))
