"""Recognising a head that is global average pooling and one linear layer: closed forms hold there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from faithmap.rules.engine import always_linear
from faithmap.rules.graphs import aten, record


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A head that is global average pooling and one linear layer: ``outputs = weight @ mean(A) + bias``."""

    weight: Tensor
    """``(K, C)``."""
    bias: Tensor | None


def linear_head(function: Callable[[Tensor], Tensor], A: Tensor) -> LinearHead | None:
    """The head's weights if the outputs ``(B, K)`` are linear in the spatial mean of A ``(B, C, h, w)``, else None."""
    try:
        graph = record(function, A)
    except torch.cuda.OutOfMemoryError:
        raise  # a smaller batch may fit
    except Exception:  # code whose flow depends on the values cannot be recorded: nothing is known of such a head
        return None
    constants: dict[fx.Node, Any] = {}
    layers = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constants[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and all(source in constants for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
            constants[node] = node.target(*args, **kwargs)
        elif node.op == "call_function":
            live = sum(source not in constants for source in node.all_input_nodes)
            if node.target in _LINEAR_LAYERS:
                layers.append((node.target, [constants.get(a) if isinstance(a, fx.Node) else a for a in node.args]))
            elif not always_linear(node.target, live):
                return None
    if len(layers) != 1:
        return None
    op, args = layers[0]
    weight, bias = _LINEAR_LAYERS[op](args)
    if weight is None or weight[0].numel() != A.shape[1]:
        return None
    head = LinearHead(weight.flatten(1), bias)
    # The pattern is a guess; that the head computes just this, on other activations too, is the proof.
    with torch.no_grad():
        probe = torch.cos(torch.arange(A.numel(), device=A.device, dtype=torch.float64)).to(A.dtype).view_as(A) + A
        for activations in (A, probe):
            given = function(activations.clone())
            expected = F.linear(activations.mean(dim=(2, 3)), head.weight, head.bias)
            if given.shape != expected.shape or not bool(given.isfinite().all()):
                return None
            if not torch.allclose(given, expected, 1e-3, 1e-4 * float(given.abs().max())):
                return None
    return head


_LINEAR_LAYERS: dict[Any, Callable[[list[Any]], tuple[Any, Any]]] = {
    aten.addmm.default: lambda args: (None if args[2] is None else args[2].t(), args[0]),
    aten.mm.default: lambda args: (None if args[1] is None else args[1].t(), None),
    aten.convolution.default: lambda args: (args[1], args[2]),
}
