"""Layer-wise relevance propagation as tables of rules.

The relevance of a layer's channels by the head alone, which is what LRP-CAM weighs activation maps with, is

    from faithmap.rules import relevance
    from faithmap.rules.lrp import lrp

    found = relevance(lambda a: target(split.tail(a)), split.A, lrp("epsilon"))
    alpha = found.multipliers.sum(dim=(2, 3))       # (B, C); they already are multipliers times A

``found.value`` is the score; ``alpha.sum(dim=1)`` differs from it by what biases and epsilon absorb.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from faithmap.rules.engine import Rules
from faithmap.rules.graphs import aten
from faithmap.rules.shares import LAYERS, PASSING, Layer, Leaf, by_layer, ratio

Rule: TypeAlias = Literal["epsilon", "epsilon-plus", "alpha1-beta0"]


def lrp(rule: Rule = "epsilon", epsilon: float = 1e-6, box: tuple[Tensor, Tensor] | None = None) -> Rules:
    """A table of layer-wise relevance propagation; everything but linear layers goes by `PASSING`.

    Args:
        rule: "epsilon" for all layers, "epsilon-plus" (z+ for convolutions, epsilon for dense layers), or
            "alpha1-beta0" for all layers.
        epsilon: what the epsilon rule adds to the size of every output, in the network's own units.
        box: the least and largest input there is, for the box rule in a convolution that reads the input itself.

    Source: Bach et al. 2015, eq. 58 to 60 (epsilon; alpha-beta, whose biases take no share here); Montavon et al. 2017
    (z+, box).
    """
    stable, positive = by_layer(lambda layer: _epsilon(layer, epsilon)), by_layer(_positive)
    rules = dict.fromkeys(LAYERS, positive if rule == "alpha1-beta0" else stable)
    convolution = stable if rule == "epsilon" else positive
    if box is not None:
        low, high = box
        inner, boxed = convolution, by_layer(lambda layer: _box(layer, low, high))

        def convolution(run: Any, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            return (boxed if isinstance(x, Leaf) else inner)(run, op, x, *args, **kwargs)

    return {**PASSING, **rules, aten.convolution: convolution}


def _epsilon(layer: Layer, epsilon: float) -> tuple[Tensor, Tensor]:
    """``R_i = sum_j x_i w_ij / (z_j + eps sign z_j) R_j``; the bias absorbs its own share, and so does epsilon."""
    z = layer.output
    return z, z * ratio(z, z + torch.where(z < 0, -epsilon, epsilon).to(z))


def _positive(layer: Layer) -> tuple[Tensor, Tensor]:
    """``R_i = sum_j (x_i w_ij)+ / sum_i (x_i w_ij)+ R_j``; for inputs that are not negative this is z+.

    Biases take no share. With one, those that BatchNorm leaves behind absorb all but a millionth of the score on the
    way through EfficientNet-Lite0.
    """
    x, w = layer.x.value, layer.weight
    share = layer.apply(x.clamp(min=0), w.clamp(min=0), None)
    if bool((x < 0).any()):
        share = share + layer.apply(x.clamp(max=0), w.clamp(max=0), None)
    with torch.no_grad():
        z = layer.output
    return z, share * ratio(z, share)


def _box(layer: Layer, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """``R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) / sum_i (the same) R_j``, all inputs lying in [l, h]."""
    x, w = layer.x, layer.weight
    assert isinstance(x, Leaf)
    assert x.share is not None
    share = layer.apply(x.value, w, None)
    share = share - layer.apply(low * x.share, w.clamp(min=0), None) - layer.apply(high * x.share, w.clamp(max=0), None)
    with torch.no_grad():
        z = layer.output
    return z, share * ratio(z, share)
