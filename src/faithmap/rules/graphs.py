"""Recording a function as a graph of elementary, functional tensor operations."""

from __future__ import annotations

import linecache
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import graph_module
from torch.fx.experimental.proxy_tensor import make_fx

from faithmap.models.frozen import NoFastPath

aten: Any = torch.ops.aten

_tracing = threading.RLock()  # tracing patches nn.Module for the whole process: one at a time


def record(function: Callable[[Tensor], Tensor], A: Tensor) -> fx.GraphModule:
    """The function at A as a graph of functional operations, without in-place writes and views' side effects."""
    with _tracing, sources_forgotten(), _one_fake_mode(), torch.inference_mode(False), torch.no_grad(), NoFastPath():
        # Of a clone: the graph of a function that works in place would write to its input.
        graph: fx.GraphModule = make_fx(lambda a: function(a.clone()))(A.detach().clone())
        _replace_simple_writes(graph)
        in_place = any(_writes(node.target) for node in graph.graph.nodes)
        if in_place:
            # Only now, for functionalize does not look inside composite operations (selu_, cosine_similarity).
            graph = make_fx(functionalize(_with_copied_constants(graph)))(A.detach().clone())
        graph.meta["runs"] = 1 + in_place
    return graph


def live_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """What in a graph depends on its input."""
    live: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or any(source in live for source in node.all_input_nodes):
            live.add(node)
    return live


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """torch.fx keeps the source of each graph that it compiles, for tracebacks, and would do so for every recording."""
    kept: dict[str, str] = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    before = set(kept)
    try:
        yield
    finally:
        for name in set(kept) - before:
            kept.pop(name, None)
            linecache.cache.pop(name, None)


@contextmanager
def _one_fake_mode() -> Iterator[None]:
    """torch.fx describes each value by a fake tensor; without one mode for all of them it would make one for each."""
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        yield


def _writes(op: Any) -> bool:
    return isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable


def _replace_simple_writes(graph: fx.GraphModule) -> None:
    """In-place operations on a tensor that nothing else sees become those that return a new one.

    That is what in-place ReLUs are: it saves them the second recording.
    """
    for node in graph.graph.nodes:
        if _writes(node.target):
            source = node.args[0]
            made = isinstance(source.target, torch._ops.OpOverload) and source.target is not aten._unsafe_view.default
            if made and len(source.users) == 1 and not any(r.alias_info for r in source.target._schema.returns):
                node.target = _pure(node.target)


def _pure(op: Any) -> Any:
    """The operation that returns what this one writes; itself where there is none."""
    packet = getattr(aten, op._schema.name.removeprefix("aten::").removesuffix("_"), None)
    takes = [(a.name, str(a.type)) for a in op._schema.arguments]
    others = [] if packet is None else [getattr(packet, name) for name in packet.overloads()]
    same = [o for o in others if [(a.name, str(a.type)) for a in o._schema.arguments] == takes and not _writes(o)]
    return same[0] if same else op


def _with_copied_constants(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with copies of those constants that it writes to, for functionalize wants to wrap what is written."""
    live = live_nodes(graph)
    written = [node.args[0] for node in graph.graph.nodes if _writes(node.target) and node.args[0] not in live]
    for node in written:  # grows: what a written constant was made from
        written += [source for source in node.all_input_nodes if source not in written]
    for constant in written:
        if constant.op == "get_attr":
            with graph.graph.inserting_after(constant):
                copy = graph.graph.call_function(aten.lift_fresh_copy.default, (constant,))
            constant.replace_all_uses_with(copy, lambda user, copy=copy: user is not copy)
    graph.recompile()
    return graph
