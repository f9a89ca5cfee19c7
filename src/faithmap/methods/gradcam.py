"""Class activation maps by gradients: Grad-CAM's relatives, each from one backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from faithmap.methods.base import Query, Result, first_cause
from faithmap.methods.cam import ActivationMap
from faithmap.methods.registry import register
from faithmap.models.base import Model
from faithmap.models.tokens import Grid, grid_of
from faithmap.rules import gradients
from faithmap.targets import Target


@register("xgrad-cam")
@dataclass(frozen=True)
class XGradCAM(ActivationMap):
    """Channels weighed by their gradients where they are active: ``w_k = sum_ij (A_kij / sum A_k) dy/dA_kij``.

    Where a channel's activations cancel, sum A_k = 0, its weight does not exist: the channel is left out. Where they
    nearly cancel, which needs negative activations, the weight explodes. ``Result.condition`` tells: it is the largest
    ``sum|A_k| / |sum A_k|`` of the channels, 1 behind a ReLU.

    Args:
        layer: target layer; the model's by default.

    Source: Fu et al. 2020, arXiv 2008.02312, section 3.

    Examples:
        >>> import faithmap as fm
        >>> XGradCAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def attribute(self, query: Query) -> Result:
        """One backward pass through the tail."""
        g, A = query.tail_gradient().double(), query.split.A.double()
        mass = A.sum(dim=(2, 3))  # (B, C)
        weights = torch.where(mass == 0, 0, (A * g).sum(dim=(2, 3)) / mass)
        cancelled = f"the activations of every channel of layer {query.layer!r} add up to 0"
        return self.weighted(
            query,
            weights,
            because={cancelled: (mass == 0).all(dim=1)},
            condition=_cancelling(A.abs().sum(dim=(2, 3)), mass),
        )


@register("hires-cam")
@dataclass(frozen=True)
class HiResCAM(ActivationMap):
    """Each place of a channel weighed by its own gradient: ``sum_k dy/dA_k * A_k``.

    Behind pooling and one linear layer it is CAM over the number of places, and summed over the layer's places it is
    the score itself, up to the bias.

    Args:
        layer: target layer; the model's by default.

    Source: Draelos and Carin 2020, arXiv 2011.08891, section 3.

    Examples:
        >>> import faithmap as fm
        >>> HiResCAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def weights(self, query: Query) -> Tensor:
        """One backward pass through the tail."""
        return query.tail_gradient()


@register("grad-cam++")
@dataclass(frozen=True)
class GradCAMPlusPlus(ActivationMap):
    """Channels weighed by their positive gradients, each place so that large and small instances count alike.

    ``w_k = sum_ij a_kij ReLU(g_kij)`` with ``a = g^2 / (2 g^2 + g^3 sum A_k)`` and g = dy/dA. The closed form is that
    of exp(y) behind a piecewise linear head; the factor exp(y) would scale the whole map and is left out.

    Where activations are negative, a has a pole at ``g sum A_k = -2``: weights explode near it and turn their sign
    beyond it. ``Result.condition`` tells: it is the largest ``(2 + |g sum A_k|) / |2 + g sum A_k|`` where g > 0, 1
    behind a ReLU. Exactly on the pole the map is infinite, and its reason says so.

    Args:
        layer: target layer; the model's by default.

    Source: Chattopadhyay et al. 2018, arXiv 1710.11063, section 3.

    Examples:
        >>> import faithmap as fm
        >>> GradCAMPlusPlus()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    signed = False
    opposite = "asked"

    def attribute(self, query: Query) -> Result:
        """One backward pass through the tail."""
        g, mass = query.tail_gradient().double(), query.split.A.double().sum(dim=(2, 3), keepdim=True)
        rise = g * mass
        # a = 1 / (2 + g sum A); where g = 0 it is 0 / 0, but ReLU(g) is 0 there whatever a is.
        weights = torch.where(g <= 0, 0, g / (2 + rise)).sum(dim=(2, 3))
        counts = torch.where(g <= 0, torch.nan, 2 + rise)
        on_pole = {"2 + g sum A_k, by which it is divided, is 0 at a place": (counts == 0).flatten(1).any(dim=1)}
        return supporting(query, g, weights, because=on_pole, condition=_cancelling(2 + rise.abs(), counts))


@register("grad-cam-elementwise")
@dataclass(frozen=True)
class GradCAMElementwise(ActivationMap):
    """What each place of each channel adds to the score, where it adds: ``sum_k ReLU(dy/dA_k * A_k)``.

    Args:
        layer: target layer; the model's by default.

    Source: Pillai and Pirsiavash 2021, Explainable Models with Consistent Interpretations, AAAI, section 3.

    Examples:
        >>> import faithmap as fm
        >>> bool(GradCAMElementwise()(fm.load(), torch.rand(1, 3, 224, 224)).min() >= 0)
        True
    """

    signed = False
    opposite = "asked"

    def attribute(self, query: Query) -> Result:
        """One backward pass through the tail."""
        g = query.tail_gradient()
        return supporting(query, g, torch.where(g * query.split.A <= 0, 0, g))


@register("layer-cam")
@dataclass(frozen=True)
class LayerCAM(ActivationMap):
    """Each place of a channel weighed by its own gradient, where that is positive: ``sum_k ReLU(dy/dA_k) * A_k``.

    It makes maps of shallow layers too, where a channel's mean gradient means nothing, and several layers can be asked
    at once: one forward and one backward of the network serve all. Their maps M are fused as the paper does: negative
    values are cut off, the deepest layer's map is divided by its maximum, those of shallower layers, whose values are
    small, become ``tanh(gain M / max M)``; the largest of the upsampled maps counts at each pixel.

    Args:
        layer: target layer; the model's by default.
        layers: several layers instead, their dotted paths separated by commas.
        gain: how much the maps of shallower layers are raised.

    Raises:
        ValueError: layer and layers are given both, or a layer is unknown, given twice or without places.

    Source: Jiang et al. 2021, LayerCAM, IEEE Transactions on Image Processing 30, section III.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2),
        ...                           torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> LayerCAM(layers="1,2")(fm.Classifier(net, size=32), torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 32, 32])
    """

    layers: str | None = None
    gain: float = 2.0

    signed = False
    opposite = "asked"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None and (self.layer is not None or len(set(self.names)) < len(self.names)):
            given = f"layer={self.layer!r}, layers={self.layers!r}"
            raise ValueError(f"layer-cam takes one layer, or several different ones in layers: got {given}")
        if not self.gain > 0:
            raise ValueError(f"layer-cam takes a gain above 0: got {self.gain}")

    @property
    def names(self) -> list[str]:
        """The several layers."""
        return [] if self.layers is None else [name.strip() for name in self.layers.split(",")]

    def check(self, model: Model, target: Target | None) -> None:
        """Whether the layers exist."""
        super().check(model, target)
        for name in self.names:
            model.check_layer(name)

    def attribute(self, query: Query) -> Result:
        """One backward pass: through the tail, or for several layers through the network down to the shallowest."""
        if self.layers is not None:
            return self._fused(query)
        g = query.tail_gradient()
        return supporting(query, g, torch.where(g <= 0, 0, g))

    def _fused(self, query: Query) -> Result:
        names = [query.model.check_layer(name) for name in self.names]
        size = (query.x.shape[-2], query.x.shape[-1])
        scores, _, calls = query.observe(names)
        seen: dict[str, tuple[Tensor, Grid]] = {}  # a layer that runs more than once is read at its last map
        for call in calls:  # from shallow to deep
            if grid := grid_of(tuple(call.output.shape), size):
                seen.pop(call.name, None)
                seen[call.name] = call.output, grid
        if missing := [name for name in names if name not in seen]:
            raise ValueError(f"layer {missing[0]!r} returns no map of places: choose layers with a spatial output")
        found = gradients(scores, [output for output, _ in seen.values()])
        query.cost.backward += len(query)

        fused = torch.zeros_like(query.x[:, 0])
        for name, (output, grid), gradient in zip(seen, seen.values(), found, strict=True):
            A, g = (grid.take(t.detach()).to(query.x.dtype) for t in (output, gradient))
            M = (torch.where(g <= 0, 0, g) * A).sum(dim=1).relu()  # (B, h, w)
            top = M.amax(dim=(1, 2), keepdim=True)
            share = torch.where(top == 0, 0, M / top)  # a layer where nothing speaks for the target adds nothing
            deepest = name == list(seen)[-1]
            fused = torch.maximum(fused, query.upsample(share if deepest else torch.tanh(self.gain * share)))
        silent = (fused == 0).flatten(1).all(dim=1)
        depends = torch.stack([(g != 0).flatten(1).any(dim=1) for g in found]).any(dim=0)
        causes = {
            "the target does not depend on the layers": silent & ~depends,
            "nothing in the layers speaks for the target": silent,
        }
        return Result(fused, reasons=first_cause(causes), notes={"layers": list(seen)})


def supporting(
    query: Query, g: Tensor, weights: Tensor, because: Mapping[str, Tensor] | None = None, **known: Any
) -> Result:
    """The map of weights that keep what speaks for the target alone; where nothing does, it says so."""
    against = (weights == 0).flatten(1).all(dim=1) & (g != 0).flatten(1).any(dim=1)
    nothing = f"nothing at layer {query.layer!r} speaks for the target"
    return ActivationMap.weighted(query, weights, because={**(because or {}), nothing: against}, **known)


def _cancelling(parts: Tensor, sums: Tensor) -> Tensor:
    """How much the sums ``(B, ...)`` cancel, at worst: ``(B,)``; sums of 0 or nan stand for none."""
    worst = torch.where((sums == 0) | sums.isnan(), 1, parts / sums.abs())
    return worst.flatten(1).amax(dim=1)
