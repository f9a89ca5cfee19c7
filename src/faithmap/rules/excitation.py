"""Excitation backpropagation as a table of rules: which input wins, given the winner above it.

A winner hands its probability down in proportion to what excites it, ``P_i = sum_j x_i w_ij+ / sum_i x_i w_ij+ P_j``
for the inputs x_i > 0, without biases. The unit at the top is the score, read off the last linear layer: for a class
that layer's row w_k, for a match the sum of its rows weighed with the other face's embedding.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from faithmap.rules.engine import (
    Interpreter,
    Pair,
    Rules,
    live_pairs,
    own,
    packets,
    references_of,
    values_of,
    with_gradient,
)
from faithmap.rules.folding import BATCH_NORMS
from faithmap.rules.graphs import aten, live_nodes
from faithmap.rules.guided import guide
from faithmap.rules.shares import LAYERS, PASSING, Layer, by_layer, layer_of, ratio


def excitation(contrastive: bool = False) -> Rules:
    """A table of excitation backpropagation, for graphs with their top marked by `with_top`.

    Args:
        contrastive: take off the probabilities of the dual unit, that with the top's weights negated.

    Source: Zhang et al. 2016, eq. 3 and section 3.3.
    """
    sides = BOTH if contrastive else FOR
    return {**_EXCITED, Top: lambda run, op, *args, **kwargs: _score(run, op.of, sides, *args, **kwargs)}


def matching(sides: Sides, kept: float = 1.0) -> Rules:
    """A table of excitation backpropagation from the numbers of an embedding that agree, or disagree, with another.

    Each number f_d wins in proportion to its part of the match, ``v_d = f_d r_d / (|f| |r|)``, and hands that down to
    what makes it as large, or as negative, as it is. For graphs with their top marked by `with_top`.

    Args:
        sides: `FOR` of what agrees (v > 0), `AGAINST` of what disagrees (v < 0), `BOTH` for their difference.
        kept: the share of each side that its strongest numbers hold, to which it is truncated.
    """
    return {**_EXCITED, Top: lambda run, op, *args, **kwargs: _match(run, op.of, sides, kept, *args, **kwargs)}


Sides: TypeAlias = tuple[tuple[int, int], ...]
"""Which sign of parts wins, and the sign that its probabilities get."""
FOR: Sides = ((1, 1),)
AGAINST: Sides = ((-1, 1),)
BOTH: Sides = ((1, 1), (-1, -1))


class Top:
    """The last linear layer of a graph, marked for its rule."""

    overloadpacket: Any

    def __init__(self, of: Any) -> None:
        self.of = of
        self.overloadpacket = Top

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.of(*args, **kwargs)


def with_top(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with its last linear layer marked, in place; its input where there is none."""
    live, found = live_nodes(graph), None
    for node in graph.graph.nodes:
        places = [source in live for source in node.args if isinstance(source, fx.Node)]
        is_layer = getattr(node.target, "overloadpacket", None) in LAYERS and not node.kwargs
        found = node if is_layer and sum(places) == 1 else found
    if found is not None:
        found.target = Top(found.target)
        return graph
    entry = next(iter(graph.graph.nodes))
    with graph.graph.inserting_after(entry):
        marked = graph.graph.call_function(Top(aten.alias.default), (entry,))
    entry.replace_all_uses_with(marked, lambda user: user is not marked)
    return graph


def _score(run: Interpreter, op: Any, sides: Sides, *args: Any, **kwargs: Any) -> Pair:
    """The winners among the top's inputs: shares of what speaks for the score, less those of what speaks against it."""
    (x,), layer = live_pairs(args, kwargs), layer_of(op, args, kwargs)
    excited = x.value.clamp(min=0)
    won = guide(excited, lambda g: _won(excited.detach(), g, sides))
    value, reference = _values(run, op, args, kwargs)
    linear = won if layer is None else layer.apply(won, layer.weight, None)
    return Pair(with_gradient(value, of=linear), reference)


def _match(run: Interpreter, op: Any, sides: Sides, kept: float, *args: Any, **kwargs: Any) -> Pair:
    """The winners among the top's outputs, and below them what drives each to its side of 0."""
    (x,), layer = live_pairs(args, kwargs), layer_of(op, args, kwargs)
    value, reference = _values(run, op, args, kwargs)
    share = excited = x.value.clamp(min=0)
    if layer is not None:
        drives = [layer.apply(excited, w, None) for w in (layer.weight.clamp(min=0), layer.weight.clamp(max=0))]
        share = torch.where(value > 0, *drives)
    linear = guide(share * ratio(value, share), lambda g: _won(value, g, sides, kept))
    return Pair(with_gradient(value, of=linear), reference)


def _values(run: Interpreter, op: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    run.rules = PASSING  # above the top nothing competes: what is left is how the score reads it
    with torch.no_grad():
        return op(*values_of(args), **values_of(kwargs)), op(*references_of(args), **references_of(kwargs))


def _won(x: Tensor, g: Tensor, sides: Sides, kept: float = 1.0) -> Tensor:
    """The multipliers of numbers x ``(B, ...)`` that the score weighs with g: probabilities divided by x."""
    P = torch.zeros_like(x).flatten(1)
    for side, sign in sides:
        parts = (side * x * g).clamp(min=0).flatten(1)
        total = parts.sum(dim=1, keepdim=True)
        if kept < 1:
            strongest, places = parts.sort(dim=1, descending=True)
            strongest = strongest.where(strongest.cumsum(1) - strongest < kept * total, 0)
            parts = torch.zeros_like(parts).scatter(1, places, strongest)
            total = parts.sum(dim=1, keepdim=True)
        P = P + sign * ratio(parts, total.expand_as(parts))
    return ratio(P.view_as(x), x)


def _excite(layer: Layer) -> tuple[Tensor, Tensor]:
    share = layer.apply(layer.x.value.clamp(min=0), layer.weight.clamp(min=0), None)
    with torch.no_grad():
        z = layer.output
    return z, share * ratio(z, share)


def _pool(run: Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """Means and sums are linear layers with positive weights."""
    out = own(run, op, x, *args, **kwargs)
    share = op(x.value.clamp(min=0), *args, **kwargs)
    return Pair(with_gradient(out.value, of=share * ratio(out.value, share)), out.reference)


def _add(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Summands that are positive share; what is fixed is a bias, and takes no part."""
    out = own(run, op, *args, **kwargs)
    if not out.value.is_floating_point():
        return out
    live = live_pairs(args, kwargs)
    if len(live) == 1:
        share = live[0].value.expand_as(out.value)
    else:
        share = op(*(pair.value.clamp(min=0) for pair in live), **kwargs)
    return Pair(with_gradient(out.value, of=share * ratio(out.value, share)), out.reference)


def _scale_and_shift(run: Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """A BatchNorm that could not be folded has one input for each output, which takes all."""
    out = PASSING[aten.native_batch_norm](run, op, x, *args, **kwargs)
    first, *rest = out
    share = x.value.clamp(min=0)
    return Pair(with_gradient(first.value, of=share * ratio(first.value, share)), first.reference), *rest


_EXCITED: Rules = {
    **PASSING,
    **dict.fromkeys(LAYERS, by_layer(_excite)),
    **dict.fromkeys(packets("mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"), _pool),
    **dict.fromkeys(packets("_adaptive_avg_pool2d _adaptive_avg_pool3d"), _pool),
    **dict.fromkeys(BATCH_NORMS, _scale_and_shift),
    aten.add: _add,
}
