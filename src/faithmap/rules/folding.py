"""BatchNorm in front of the rules: a recorded network with each of them folded into the layer before it."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from faithmap.models.frozen import twin
from faithmap.rules.engine import packets
from faithmap.rules.graphs import aten, live_nodes, record, sources_forgotten


def recorded(module: nn.Module, x: Tensor) -> tuple[fx.GraphModule | None, int]:
    """A network's graph for inputs like x, and how often the network ran for it; recorded once per shape.

    The graph reads the weights where they are, so that it follows an optimizer's steps; it lives as long as the
    frozen twin. None for a network that cannot be recorded or returns more than one tensor.
    """
    frozen = twin(module)
    key = ("recorded", tuple(x.shape), x.dtype, x.device)
    with frozen.lock:
        if key in frozen.derived:
            return frozen.derived[key], 0
        graph, runs = None, 1
        try:
            graph = fold(record(frozen.module, x))
            runs = graph.meta["runs"]
        except torch.cuda.OutOfMemoryError:
            raise  # a smaller batch may fit
        except Exception:  # whatever the network raises: who follows it without a graph meets it again, and names it
            pass
        output = None if graph is None else next(iter(reversed(graph.graph.nodes))).args[0]
        frozen.derived[key] = graph = graph if isinstance(output, fx.Node) else None
    return graph, runs


def reads_input(graph: fx.GraphModule) -> bool:
    """Whether a convolution reads the graph's input as it is, or padded."""
    nodes = list(graph.graph.nodes)
    given = nodes[:1]
    for node in nodes:
        if node.target in (aten.clone.default, aten.constant_pad_nd.default) and node.args[0] in given:
            given.append(node)
    return any(node.target is aten.convolution.default and node.args[0] in given for node in nodes)


def fold(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with biases and BatchNorms folded into the linear layers before them, in place.

    The folded weights are part of the graph, computed anew whenever it runs, and so follow an optimizer's steps. A
    BatchNorm that does not stand alone behind a linear layer stays what it is, a scale and a shift. A bias is an
    operation of its own where tokens do not lie in order, which depends on the batch's size, as rules must not.
    """
    for node in list(graph.graph.nodes):
        _join_bias(graph, node)
    live = live_nodes(graph)
    for node in list(graph.graph.nodes):
        if node.target not in _CALLS or node.args[0] not in live:
            continue
        layer, scale_and_shift, how = node.args[0], node.args[1:5], node.args[5:]
        if how[0] is True or len(layer.users) != 1 or not _folds(layer, live):
            continue
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            at_bias, at_weight, out = _PLACES[layer.target]
            args = list(layer.args)
            bias = args[at_bias] if at_bias is not None else None
            folded = call(_folded, (args[at_weight], bias, *scale_and_shift, how[-1 if len(how) == 2 else 2], out))
            weight, bias = (call(operator.getitem, (folded, part)) for part in (0, 1))
            if layer.target is aten.mm.default:
                made = call(aten.addmm.default, (bias, args[0], weight))
            else:
                args[at_bias], args[at_weight] = bias, weight
                made = call(layer.target, tuple(args))
        live.add(made)
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(made)
            graph.graph.erase_node(user)
        graph.graph.erase_node(node)
        graph.graph.erase_node(layer)
    with sources_forgotten():
        graph.recompile()
    return graph


def _join_bias(graph: fx.GraphModule, node: fx.Node) -> None:
    """``view(x @ w) + b`` as ``view(b + x @ w)``, which is one operation."""
    if node.target is not aten.add.Tensor or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
        return
    view, bias = cast("tuple[fx.Node, fx.Node]", node.args)
    if view.target is not aten._unsafe_view.default or bias.op != "get_attr" or len(view.users) > 1:
        return
    layer = view.all_input_nodes[0]
    with_bias = {aten.bmm.default: aten.baddbmm.default, aten.mm.default: aten.addmm.default}.get(layer.target)
    if with_bias is None or len(layer.users) > 1 or getattr(graph, str(bias.target)).ndim != 1:
        return
    with graph.graph.inserting_before(node):
        joined = graph.graph.call_function(with_bias, (bias, *layer.args))
        node.replace_all_uses_with(graph.graph.call_function(aten.view.default, (joined, *view.args[1:])))
    for old in (node, view, layer):
        graph.graph.erase_node(old)


def _folds(layer: fx.Node, live: set[fx.Node]) -> bool:
    """Whether the node is a linear layer with weights of its own."""
    if layer.target not in _PLACES or layer.kwargs:
        return False
    at_bias, at_weight, _ = _PLACES[layer.target]
    transposed = layer.target is aten.convolution.default and layer.args[6]
    return not transposed and layer.args[at_weight] not in live and (at_bias is None or layer.args[at_bias] not in live)


def _folded(
    weight: Tensor, bias: Tensor | None, gamma: Any, beta: Any, mean: Tensor, var: Tensor, eps: float, out: int
) -> tuple[Tensor, Tensor]:
    """``gamma (w x + b - mean) / sqrt(var + eps) + beta`` as weights and bias."""
    scale = (var + eps).rsqrt() * (1 if gamma is None else gamma)
    shift = ((0 if bias is None else bias) - mean) * scale + (0 if beta is None else beta)
    shape = [-1 if d == out else 1 for d in range(weight.ndim)]
    return (weight * scale.view(shape)).to(weight.dtype), shift.to(weight.dtype)


# Where a layer has its bias and its weight, and which dimension of the weight counts outputs.
_PLACES: dict[Any, tuple[Any, int, int]] = {
    aten.convolution.default: (2, 1, 0), aten.addmm.default: (0, 2, 1), aten.mm.default: (None, 1, 1)
}  # fmt: skip
BATCH_NORMS = packets("native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training")
_CALLS = {getattr(packet, name) for packet in BATCH_NORMS for name in packet.overloads()}
