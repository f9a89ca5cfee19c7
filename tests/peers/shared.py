"""What the comparisons share: small networks that the others take, our maps of them, and derivations by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import Result
from faithmap.metrics import Case, Measured
from faithmap.targets import Logit

CLASSES = [3, 0, 1]
"""What the three samples of most comparisons are asked about."""


def pictures(n: int = 3) -> Tensor:
    """Inputs ``(n, 3, 32, 32)``, float64."""
    return torch.randn(n, 3, 32, 32, dtype=torch.float64)


def plain_net(channels: int = 8) -> nn.Sequential:
    """No layer works in place or is used twice; layers "2" and "3" have the input's resolution; the head has a ReLU."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, channels, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(channels * 64, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    return _loud(net)


def pooled_net() -> nn.Sequential:
    """Global average pooling and one linear layer behind layer "3", which has the input's resolution."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    return _loud(net)


def leaky_net() -> nn.Sequential:
    """`plain_net` with activations that are negative and still count."""
    net = plain_net()
    net[1], net[3], net[7] = (nn.LeakyReLU(0.3) for _ in range(3))
    return net


def _loud(net: nn.Sequential) -> nn.Sequential:
    """Float64, and with scores so large that the epsilons by which the others divide do not show."""
    net[-1].weight.data *= 300
    return net.double().eval()


class InDouble(nn.Module):
    """Float64 from here on: some of the others hand float32 to a network, whatever it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def judged_net(channels: int = 3, classes: int = 3) -> nn.Sequential:
    """A network for metrics, of pictures of any size; its probabilities are neither all alike nor 0 and 1."""
    net = nn.Sequential(
        InDouble(), nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes),
    ).double().eval()  # fmt: skip
    net[-1].weight.data *= 10
    return net


def case(module: nn.Module, x: Tensor, maps: Tensor, classes: Sequence[int], **given: Any) -> Case:
    """What our metrics judge: in float64, and with mean 0 and std 1, for the others know no normalisation."""
    channels, *size = x.shape[1:]
    model = fm.Classifier(module, size=tuple(size), mean=[0.0] * channels, std=[1.0] * channels)
    return Case(model, x.double(), maps, Logit(list(classes)), **given)


def measured(name: str, given: Case, **parameters: Any) -> Measured:
    """What one of our metrics says."""
    return fm.metrics.create(name, **parameters).measure(given)


def raw(name: str, module: nn.Module, x: Tensor, target: Any, layer: str | None = None, **parameters: Any) -> Tensor:
    """Our maps ``(B, H, W)`` as the formula gives them."""
    return found(name, module, x, target, layer, **parameters).maps


def found(name: str, module: nn.Module, x: Tensor, target: Any, layer: str | None = None, **parameters: Any) -> Result:
    """Our maps with what else is known of them."""
    model = fm.Classifier(module, size=32, target_layer=layer)
    return fm.methods.create(name, **parameters).run(model, x, model.target(target, len(x)))


def lrp(rule: str, module: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
    """Our relevance by one rule, the first layer's too, with an epsilon that does not show: ``(B, H, W)``."""
    return raw("lrp", module, x, classes, rule=rule, epsilon=1e-12, first="same")


def shown(maps: Tensor) -> Tensor:
    """Maps cut at 0 and stretched to [0, 1] each, as most of the others return them; what is constant is 0."""
    maps = maps.clamp_min(0)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0)


def at(net: nn.Sequential, layer: int, x: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A layer's activations and the gradients of the classes' scores to them, by hand: ``(B, C, h, w)`` both."""
    A = net[: layer + 1](x).detach().clone().requires_grad_()
    scores = net[layer + 1 :](A.clone())  # what follows may work in place
    (g,) = torch.autograd.grad(sum(scores[i, k] for i, k in enumerate(classes)), A)
    return A.detach(), g


def error_of(ask: Callable[[], Any]) -> str:
    """What a call raises, kind and text; "" where it does not."""
    try:
        ask()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def still(wrong: bool, what: str) -> None:
    """Fail with words where another library has mended what a test shows, so that we stop saying it."""
    assert wrong, f"mended in this version: {what}. Compare the maps instead, and take the remark out of our words"
