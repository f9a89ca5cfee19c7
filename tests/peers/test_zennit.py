"""zennit 0.5.1: the same relevance where it is right, and where it is wrong without a word."""

from __future__ import annotations

from collections.abc import Callable
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
    LayerMapComposite,
    SpecialFirstLayerMapComposite,
    layer_map_base,
)
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, ZBox, ZPlus
from zennit.types import Convolution, Linear

import faithmap as fm
from tests.peers.shared import CLASSES, lrp, pictures, plain_net, pooled_net, raw, still


def theirs(
    module: nn.Module, composite: Composite, x: Tensor, classes: list[int], scored: bool = True, size: bool = False
) -> Tensor:
    """Their maps ``(B, H, W)``: from the scores, or from 1; sums over the channels, or over their absolute values."""
    chosen = torch.eye(5, dtype=x.dtype)[classes]
    with Gradient(model=module, composite=composite) as attributor:
        parts = attributor(x, (lambda scores: scores * chosen) if scored else chosen)[1].detach()
    return (parts.abs() if size else parts).sum(dim=1)


class Shortcut(nn.Module):
    """A residual network; its ReLUs and its sum as the modules that zennit looks for, or as functions."""

    def __init__(self, relus: bool = True, sums: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu1, self.relu2 = (nn.ReLU(), nn.ReLU()) if relus else (torch.relu, torch.relu)
        self.sum = Sum() if sums else (lambda both: both[..., 0] + both[..., 1])
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        for layer in (self.conv1, self.conv2, self.fc):
            layer.bias.data.zero_()  # so that relevance is conserved
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.sum(torch.stack([x, self.relu2(self.conv2(x))], dim=-1))
        return self.fc(self.flatten(self.pool(x)))


# ---------------------------------------------------------------------------------------------------------------------
# Where it is right: its stabilizer, added to every sum, is set so small that it does not show.

TINY = 1e-12
UNBIASED = "bias"  # positive shares are the inputs' alone, unless it is asked to give the bias one too


def composite(rule: Any, of: Any = Convolution, first: Any = None) -> Composite:
    """A rule for some layers and epsilon for the dense ones; another for the first convolution if wanted."""
    rules = [*layer_map_base(stabilizer=TINY), (of, rule), (nn.Linear, Epsilon(TINY))]
    return SpecialFirstLayerMapComposite(rules, [(Convolution, first)] if first else [])


SAME = {
    "epsilon": lambda: composite(Epsilon(TINY)),
    "epsilon-plus": lambda: composite(ZPlus(TINY, UNBIASED)),
    "alpha1-beta0": lambda: composite(AlphaBeta(1, 0, TINY, UNBIASED), Linear),
}


@pytest.mark.parametrize("make", [plain_net, pooled_net])
@pytest.mark.parametrize("name", SAME)
def test_same_relevance(name: str, make: Callable[[], nn.Sequential]) -> None:
    module, x = make(), pictures()
    given = theirs(module, SAME[name](), x, CLASSES)
    torch.testing.assert_close(lrp(name, module, x, CLASSES), given, rtol=0, atol=1e-7)


def test_same_relevance_by_an_epsilon_that_shows() -> None:
    module, x = plain_net(), pictures()
    epsilon = float(module(x).detach().abs().mean()) / 10
    rules = LayerMapComposite([*layer_map_base(stabilizer=TINY), (Linear, Epsilon(epsilon))])
    ours = raw("lrp", module, x, CLASSES, rule="epsilon", epsilon=epsilon, first="same")
    torch.testing.assert_close(ours, theirs(module, rules, x, CLASSES))
    assert (ours - lrp("epsilon", module, x, CLASSES)).abs().max() > 0.1 * ours.abs().max()


def test_same_relevance_by_the_box_rule() -> None:
    """Between black and white."""
    module, x = plain_net(), pictures()
    black, white = (fm.Classifier(module, size=32).from_pixels(torch.full_like(x, level)) for level in (0, 1))
    given = theirs(module, composite(ZPlus(TINY, UNBIASED), first=ZBox(black, white, TINY, UNBIASED)), x, CLASSES)
    torch.testing.assert_close(raw("lrp", module, x, CLASSES, epsilon=TINY), given, rtol=0, atol=1e-7)


def normed_net(eps: float) -> nn.Sequential:
    """`pooled_net` with batch norms that have seen something."""
    net = pooled_net()
    for place in (3, 1):
        norm = nn.BatchNorm2d(8, eps=eps).double().eval()
        norm.weight.data, norm.bias.data = torch.randn_like(norm.weight), torch.randn_like(norm.bias) / 4
        norm.running_mean, norm.running_var = torch.randn_like(norm.bias) / 4, torch.rand_like(norm.weight) + 0.5
        net.insert(place, norm)
    return net


@pytest.mark.parametrize("name", SAME)
def test_same_relevance_with_batch_norms_folded(name: str) -> None:
    module, x = normed_net(eps=1e-12), pictures()  # so small for what the last test of this file shows
    given = SAME[name]()
    given.canonizers = [SequentialMergeBatchNorm()]
    ours = lrp(name, module, x, CLASSES)
    torch.testing.assert_close(ours, theirs(module, given, x, CLASSES), rtol=0, atol=1e-7)
    still(not torch.allclose(theirs(module, SAME[name](), x, CLASSES), ours, rtol=0.1), "unasked, norms are passed by")


@pytest.mark.parametrize("make", [plain_net, pooled_net])
def test_same_guided_gradients(make: Callable[[], nn.Sequential]) -> None:
    module, x = make(), pictures()
    given = theirs(module, GuidedBackprop(), x, CLASSES, scored=False, size=True)
    torch.testing.assert_close(raw("guided-backprop", module, x, CLASSES), given)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("make", [plain_net, pooled_net])
def test_same_winning_probabilities(make: Callable[[], nn.Sequential], layer: int) -> None:
    """At a layer: theirs of the network from there."""
    module, x = make(), pictures()
    above, A = module[layer + 1 :], module[: layer + 1](x).detach()
    winner = ExcitationBackprop(TINY, layer_map_base(stabilizer=TINY), zero_params=UNBIASED)
    given = theirs(above, winner, A, CLASSES, scored=False)
    ours = raw("excitation-backprop", module, x, CLASSES, str(layer))
    torch.testing.assert_close(ours, given, rtol=0, atol=1e-7)
    total = ours.sum(dim=(1, 2))  # 1, or 0 where nothing excites the class
    torch.testing.assert_close(total, total.round())


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong: it replaces the backward pass of modules, and what is written as a function keeps its own.


def written(modules: Shortcut, **how: bool) -> Shortcut:
    """The same network in other words."""
    same = Shortcut(**how)
    same.load_state_dict(modules.state_dict())
    return same


def test_guided_backpropagation_through_functional_relus() -> None:
    """Unseen: the map is the plain gradient's. The same network with modules is the truth."""
    modules, x = Shortcut(), pictures()
    same = written(modules, relus=False)
    truth, given = (theirs(net, GuidedBackprop(), x, CLASSES, scored=False, size=True) for net in (modules, same))
    scores = same(x.requires_grad_())[range(3), CLASSES]
    plain = torch.autograd.grad(scores.sum(), x)[0].abs().sum(dim=1)
    still(torch.allclose(given, plain), "guided backpropagation does not see functional ReLUs")
    assert (truth - plain).abs().max() > 0.1 * truth.max()
    torch.testing.assert_close(raw("guided-backprop", same, x, CLASSES), truth)


def test_relevance_doubles_at_a_sum() -> None:
    """Both branches get all of it, where they should share: with each shortcut there is twice as much to hand down."""
    modules, x = Shortcut(), pictures()
    same = written(modules, sums=False)
    scores = modules(x)[range(3), CLASSES].detach()
    truth, given = (theirs(net, SAME["epsilon-plus"](), x, CLASSES) for net in (modules, same))
    torch.testing.assert_close(truth.sum(dim=(1, 2)), scores)
    still(torch.allclose(given.sum(dim=(1, 2)), 2 * scores), "relevance doubles at a sum that is no module")
    ours = lrp("epsilon-plus", same, x, CLASSES)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-7 * float(truth.abs().max()))
    torch.testing.assert_close(ours.sum(dim=(1, 2)), scores)


def test_folded_batch_norms_are_another_network() -> None:
    """The norm that is left behind divides by sqrt(1 + eps) once more: with EfficientNet's eps, 0.05 % a layer."""
    module, x = normed_net(eps=1e-3), pictures()
    scores = module(x).detach()
    with EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]).context(module) as modified:
        merged = modified(x).detach()
    off = ((merged - scores) / scores).abs().amax()
    still(bool(off > 1e-4), "merged batch norms change the scores")
    relevance = lrp("epsilon", module, x, CLASSES)
    gradient = raw("gradient-x-input", module, x, CLASSES)  # equal by theorem, of the network that was given
    torch.testing.assert_close(relevance, gradient, rtol=0, atol=1e-7 * float(gradient.abs().max()))
