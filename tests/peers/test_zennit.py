"""zennit 0.5.1: the same relevance where it is right, and where it is wrong without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import (
    EpsilonPlus,
    ExcitationBackprop,
    GuidedBackprop,
    SpecialFirstLayerMapComposite,
    layer_map_base,
)
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, ZBox, ZPlus
from zennit.types import Convolution, Linear

from faithmap.rules import lrp
from tests.peers.shared import CLASSES, by_rules, pictures, plain_net, pooled_net, raw, still


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


# ---------------------------------------------------------------------------------------------------------------------
# Where it is right: its stabilizer, added to every sum, is set so small that it does not show.

TINY = 1e-12


def composite(rule: Any, of: Any = Convolution, first: Any = None) -> Composite:
    """A rule for some layers and epsilon for the dense ones; another for the first convolution if wanted."""
    rules = [*layer_map_base(stabilizer=TINY), (of, rule), (nn.Linear, Epsilon(TINY))]
    return SpecialFirstLayerMapComposite(rules, [(Convolution, first)] if first else [])


SAME = {
    "epsilon": (lrp("epsilon", TINY), lambda: composite(Epsilon(TINY))),
    "epsilon-plus": (lrp("epsilon-plus", TINY), lambda: EpsilonPlus(TINY, TINY, layer_map_base(stabilizer=TINY))),
    "alpha1-beta0": (lrp("alpha1-beta0", TINY), lambda: composite(AlphaBeta(1, 0, TINY), Linear)),
}


@pytest.mark.parametrize("make", [plain_net, pooled_net])
@pytest.mark.parametrize("name", SAME)
def test_same_relevance(name: str, make: Any) -> None:
    module, x = make(), pictures()
    rules, given = SAME[name]
    torch.testing.assert_close(
        by_rules(module, rules, x, CLASSES).sum(dim=1), theirs(module, given(), x, CLASSES), rtol=0, atol=1e-7
    )


def test_same_relevance_by_the_box_rule() -> None:
    module, x = plain_net(), pictures()
    low, high = torch.full_like(x, -4.5), torch.full_like(x, 6)
    given = theirs(module, composite(ZPlus(TINY), first=ZBox(low, high, TINY)), x, CLASSES)
    ours = by_rules(module, lrp("epsilon-plus", TINY, (low, high)), x, CLASSES).sum(dim=1)
    torch.testing.assert_close(ours, given, rtol=0, atol=1e-7)
