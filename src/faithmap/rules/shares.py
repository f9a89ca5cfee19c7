"""What relevance methods share: relevance as a share of the score, and how all but linear layers hand it down.

Relevance R of a value x travels as its multiplier m, ``R = m x``, which is what the engine's gradients are. So what a
sum of several values hands down is in proportion to them by itself, and a rule has to say only how an operation's
multiplier becomes that of its inputs. `PASSING` does so for everything but linear layers:

- a non-linearity f hands all that lies above f(0) to its input, ``m_x = m (f(x) - f(0)) / x``: for ReLU its gradient;
- a maximum hands all to the winner;
- a factor that normalises or gates (1 / norm, sigmoid, softmax) is taken for fixed, so that LayerNorm and attention
  are linear in what they weigh; of two other factors each gets half;
- whatever shifts a value (biases, position embeddings) absorbs what it added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from faithmap.rules.deeplift import DEEPLIFT, slope_of
from faithmap.rules.engine import (
    Interpreter,
    Linearised,
    Pair,
    Rule,
    Rules,
    follow_back,
    live_pairs,
    own,
    packets,
    plain,
    references_of,
    with_gradient,
)
from faithmap.rules.folding import BATCH_NORMS, fold
from faithmap.rules.graphs import aten


@dataclass(frozen=True)
class Leaf(Pair):
    """The very input, and the shares of it that stand before its values."""

    share: Tensor | None = None


def relevance(
    function: Callable[[Tensor], Tensor],
    A: Tensor,
    rules: Rules,
    through: fx.GraphModule | None = None,
    prepare: Callable[[fx.GraphModule], fx.GraphModule] = fold,
) -> Linearised:
    """The relevance of every number of A for the score; `Linearised.multipliers` holds it, of A's shape.

    The relevance of a value x is ``x dy/dx`` under the rules. It is taken as the derivative to a share t of x,
    ``t dy/dt`` where ``t = 1``, so that a rule may give a value of 0 its part too, as the box rule does.

    Args:
        function: activations -> one score per sample ``(B,)``.
        A: activations ``(B, ...)``.
        rules: a table, for instance `lrp()`.
        through: a recorded graph that A goes through first, its BatchNorms folded: see `linearise`.
        prepare: what is done to the function's own graph before it is followed.
    """
    with torch.inference_mode(False), torch.enable_grad():
        share = torch.ones_like(A).requires_grad_()
        leaf = Leaf(A.detach() * share, torch.zeros_like(A), share=share)
        return follow_back(function, leaf, share, rules, through, prepare)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` as a number, and 0 where there is no whole to share."""
    with torch.no_grad():
        return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))


# ---------------------------------------------------------------------------------------------------------------------
# Linear layers: what rules need to know of them


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation that is linear in one live argument, with fixed weights."""

    x: Pair
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """The operation with another input, other weights and another bias."""

    @property
    def output(self) -> Tensor:
        """What it returns, with gradients."""
        return self.apply(self.x.value, self.weight, self.bias)


def layer_of(op: Any, args: Any, kwargs: Any) -> Layer | None:
    """The linear layer that an operation is; None where weights are live too, or there is none."""
    live = [place for place, arg in enumerate(args) if isinstance(arg, Pair)]
    packet = getattr(op, "overloadpacket", op)
    if len(live) != 1 or kwargs or packet not in _OPERANDS:
        return None
    place, (first, second) = live[0], _OPERANDS[packet]
    if place not in (first, second):
        return None
    other = second if place == first else first
    at_bias = {aten.convolution: 2, aten.addmm: 0, aten.baddbmm: 0}.get(packet)
    if packet is aten.convolution and place != 0:
        return None

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        given = list(args)
        given[place], given[other] = x, weight
        if at_bias is not None:
            # addmm has to have a bias
            given[at_bias] = bias if bias is not None or packet is aten.convolution else x.new_zeros(1)
        result: Tensor = op(*given)
        return result

    return Layer(args[place], args[other], None if at_bias is None else args[at_bias], apply)


_OPERANDS = {
    aten.convolution: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2), aten.mm: (0, 1), aten.bmm: (0, 1),
    aten.matmul: (0, 1), aten.mv: (0, 1), aten.dot: (0, 1),
}  # fmt: skip
LAYERS = list(_OPERANDS)


def by_layer(rule: Callable[[Layer], tuple[Tensor, Tensor]]) -> Rule:
    """A rule ``layer -> its output, what gives it its gradient`` for linear layers; other products go by `PASSING`."""

    def apply(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
        layer = layer_of(op, args, kwargs)
        if layer is None or not layer.x.value.requires_grad:
            otherwise: Rule = PASSING.get(getattr(op, "overloadpacket", op), plain)
            return otherwise(run, op, *args, **kwargs)
        with torch.no_grad():
            reference: Tensor = op(*references_of(args))
        output, of = rule(layer)
        return Pair(with_gradient(output, of), reference)

    return apply


# ---------------------------------------------------------------------------------------------------------------------
# Everything but linear layers


def _passed(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """A non-linearity hands down all that lies above its value at 0."""
    live = [place for place, arg in enumerate(args) if isinstance(arg, Pair)]
    if len(live) != 1 or len(live_pairs(args, kwargs)) != 1 or not args[live[0]].value.is_floating_point():
        return plain(run, op, *args, **kwargs)
    place, x = live[0], args[live[0]]

    def f(t: Tensor) -> Tensor:
        result: Tensor = op(*args[:place], t, *args[place + 1 :], **kwargs)
        return result

    with torch.no_grad():
        out, out0 = f(x.value), f(x.reference)
        a = x.value.expand_as(out)
        nothing = torch.zeros_like(a)
        change = out - f(nothing)
    slope = slope_of(f, a.detach(), nothing, change)
    factor = getattr(op, "overloadpacket", op) in _FACTORS or (op is aten.pow.Tensor_Scalar and args[1] in (-0.5, -1))
    return Pair(with_gradient(out, of=slope * x.value), out0, factor)


def _factor(run: Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """Softmax: fixed where it weighs something; where it is the score, each probability stands on its own logit."""
    with torch.no_grad():
        out, out0 = op(x.value, *args, **kwargs), op(x.reference, *args, **kwargs)
    return Pair(with_gradient(out, of=x.value * ratio(out, x.value)), out0, normaliser=True)


def _product(run: Interpreter, op: Any, u: Any, v: Any) -> Any:
    """One of two live factors is fixed if it normalises or gates; else each gets half."""
    if not all(isinstance(p, Pair) and p.value.requires_grad for p in (u, v)):
        return plain(run, op, u, v)
    with torch.no_grad():
        out, out0 = op(u.value, v.value), op(u.reference, v.reference)
    share = 0.5 if u.normaliser == v.normaliser else 1.0
    parts = []
    if u.normaliser <= v.normaliser:
        parts.append(op(u.value, v.value.detach()))
    if v.normaliser <= u.normaliser:
        parts.append(op(u.value.detach(), v.value))
    return Pair(with_gradient(out, of=share * sum(parts[1:], parts[0])), out0)


def _batch_norm(run: Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """A scale and a shift; with statistics of its own input (InstanceNorm) it is a normaliser."""
    of_input = len(args) > 4 and args[4] is True
    return (DEEPLIFT[aten.native_batch_norm] if of_input else own)(run, op, x, *args, **kwargs)


def _same(run: Interpreter, op: Any, x: Any, **kwargs: Any) -> Any:
    return x


def _padded(run: Interpreter, op: Any, x: Any, pad: list[int], value: float = 0) -> Any:
    """The input with a border of zeros is still the input, with no share of its border."""
    out = own(run, op, x, pad, value)
    return Leaf(out.value, out.reference, share=op(x.share, pad, 0)) if isinstance(x, Leaf) and value == 0 else out


_FACTORS = set(packets("sigmoid hardsigmoid rsqrt reciprocal"))
_ELEMENTWISE = [packet for packet, rule in DEEPLIFT.items() if rule is DEEPLIFT[aten.relu]]
# What DeepLIFT takes apart (attention, layer norm, division) is taken apart here too, and its parts go by these rules.
PASSING: Rules = {
    **DEEPLIFT,
    **dict.fromkeys(_ELEMENTWISE, _passed),
    **dict.fromkeys(packets("relu leaky_relu _prelu_kernel"), own),  # which is what the secant from 0 is
    **dict.fromkeys(packets("mul mm bmm matmul mv dot"), _product),
    **dict.fromkeys(packets("_softmax _safe_softmax"), _factor),
    **dict.fromkeys(packets("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d"), own),
    **dict.fromkeys(packets("adaptive_max_pool3d amax amin max min maximum minimum"), own),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    aten.clone: _same,
    aten.constant_pad_nd: _padded,
}
