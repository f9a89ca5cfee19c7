"""FullGrad: the score as what the input adds and what every bias of the network adds, as a map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from faithmap.cut import Observed
from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.models.frozen import twin
from faithmap.models.tokens import Grid, grid_of
from faithmap.rules import gradients
from faithmap.targets import first_tensor


@register("full-grad")
@dataclass(frozen=True)
class FullGrad(Method):
    """The parts of ``y = x dy/dx + sum_b b dy/db``, over the input and the biases b of all layers, as a map.

    ``map = psi(x dy/dx) + sum over layers of up(sum_c psi(b_c dy/db_c))``, psi being the absolute value, rescaled to
    [0, 1]. A bias has a gradient at every place of its layer's output. Batch norm has the implicit bias
    ``beta - gamma mean / sqrt(var + eps)``, and a non-linearity f the implicit bias ``f(z) - f'(z) z``, which is 0 for
    ReLU and its leaky kin.

    One forward and one backward of the network. The parts add up to the score where the network is piecewise linear and
    its biases are those of layers; ``completeness_error`` and ``condition`` tell how well they do. Dense layers have no
    places, and neither has the target, ``y - z dy/dz`` for outputs z: their parts count in that sum alone. Functional
    biases, attention, gates and normalisation by a picture's own statistics are not seen, and show as an error.

    Args:
        rescale: over what psi scales each picture's parts to [0, 1]: the whole "layer", as the authors' code does; each
            "channel", which is the letter of their equation and makes a channel of nearly nothing count like any other;
            or "none".

    Source: Srinivas and Fleuret 2019, arXiv 1905.00780, sections 3 and 4.

    Examples:
        >>> import faithmap as fm
        >>> found = FullGrad().run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> bool(found.completeness_error[0] < 1e-3)
        True
    """

    rescale: Literal["layer", "channel", "none"] = "layer"

    additive = True
    opposite = "none"  # absolute values: the map of the opposite target is the same

    def attribute(self, query: Query) -> Result:
        """All gradients from one backward pass."""
        x = query.x.detach().clone().requires_grad_()
        biased, curved = biased_layers(query.model.module)
        scores, outputs, calls = query.observe([*biased, *curved], x, inputs=curved)
        z = first_tensor(outputs)
        found = gradients(scores, [x, z, *(call.output for call in calls)])
        query.cost.backward += len(query)

        y = scores.detach().double()
        own = y - _sums(z.detach() * found[1])  # the target's own part
        total, weight = own, own.abs()
        maps = torch.zeros_like(query.x[:, 0])
        silent = torch.ones_like(y, dtype=torch.bool)
        for part, grid in self._parts(x, found, calls):
            amounts = part.abs()
            rows = _sums(amounts.reshape(len(x), -1))
            total, weight = total + _sums(part.reshape(len(x), -1)), weight + rows
            if grid is not None:
                maps += query.upsample(self._places(grid.take(amounts)))
                silent &= rows == 0
        return Result(
            maps,
            completeness_error=(total - y).abs(),
            condition=weight / y.abs(),
            reasons=first_cause({"the target does not depend on the input": silent}),
            notes={"biases of layers": len(biased), "implicit biases of non-linearities": len(curved)},
        )

    def _parts(
        self, x: Tensor, found: Sequence[Tensor], calls: Sequence[Observed]
    ) -> Iterator[tuple[Tensor, Grid | None]]:
        """What the input and each call of a layer add to the score, in the layer's layout, and their places if any."""
        size = (x.shape[-2], x.shape[-1])
        yield x.detach() * found[0], Grid("channels first", *size)
        for call, gradient in zip(calls, found[2:], strict=True):
            part = bias_of(call).to(x.dtype) * gradient.to(x.dtype)
            if len(part) % len(x) == 0:  # else there is no telling whose it is: the completeness error shows it
                yield part, grid_of(tuple(part.shape), size) if len(part) == len(x) else None

    def _places(self, amounts: Tensor) -> Tensor:
        """The amounts ``(B, C, h, w)`` of a layer's channels, rescaled and added up: ``(B, h, w)``."""
        if self.rescale == "none":
            return amounts.sum(dim=1)
        over = (1, 2, 3) if self.rescale == "layer" else (2, 3)
        low, high = amounts.amin(dim=over, keepdim=True), amounts.amax(dim=over, keepdim=True)
        share = torch.where(high == low, 0, 1 / (high - low))  # what is alike everywhere shows no place
        low, share = (t.expand(*amounts.shape[:2], 1, 1)[:, :, 0, 0] for t in (low, share))  # (B, C)
        # The sum of (amount - low) / (high - low), without another copy of the layer for each operation.
        return torch.einsum("bchw,bc->bhw", amounts, share) - (low * share).sum(dim=1)[:, None, None]


def biased_layers(module: nn.Module) -> tuple[list[str], list[str]]:
    """The layers of a network that have a bias, and the non-linearities that act as if they had one.

    Examples:
        >>> biased_layers(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.GELU()))
        (['1'], ['3'])
    """
    parts = [(name, part) for name, part in twin(module).module.named_modules() if name]
    biased = [name for name, part in parts if isinstance(part, _AFFINE) and _bias(part) is not None]
    return biased, [name for name, part in parts if isinstance(part, _CURVED)]


def bias_of(call: Observed) -> Tensor:
    """The bias in one call of a layer, explicit or implicit, of a shape that broadcasts over the layer's output."""
    if call.input is not None:
        with torch.enable_grad():
            z = call.input.requires_grad_()
            values: Tensor = call.layer(z.clone())  # it may work in place
            (slope,) = torch.autograd.grad(values.sum(), z)
        return values.detach() - slope * z.detach()
    bias, shape = _bias(call.layer), call.output.shape
    assert bias is not None
    last = isinstance(call.layer, (nn.Linear, nn.LayerNorm)) and shape[len(shape) - bias.ndim :] == bias.shape
    return bias if last else bias.flatten().view(-1, *[1] * (len(shape) - 2))  # (C,) or (C, 1, 1)


def _bias(layer: Any) -> Tensor | None:
    """Of a layer, batch norm's implicit one included; None where it has none."""
    bias: Tensor | None = layer.bias
    mean: Tensor | None = getattr(layer, "running_mean", None)
    if mean is None:
        return bias
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift: Tensor = -mean * scale
    return shift if bias is None else bias + shift


def _sums(values: Tensor) -> Tensor:
    """Of each sample's values ``(B, ...)``, in float64."""
    return values.flatten(1).sum(dim=1, dtype=torch.float64)


_AFFINE = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_CURVED = (
    nn.Hardtanh, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid,
    nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
