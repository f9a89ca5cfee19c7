"""Trunk and tail: a network cut at a target layer.

``cut(module, layer, x)`` separates the network at any layer named by its dotted path. The trunk runs once per image,
without gradients; every question about the activations (gradients, ablations, SHAP values) then goes to the tail alone.

Two kinds of cut answer alike. A *graph* cut traces the modules around the layer with torch.fx; the tail is all that
depends on the layer's output, and what else it needs (skip connections, side inputs) is carried across. Where tracing
fails or does not compute what the module computes, a *replay* cut runs the whole forward again with the layer's output
replaced. ``Cut.kind`` says which it is, and ``Cut.reason`` why it is not a graph.
"""

from __future__ import annotations

import inspect
import logging
import operator
import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from faithmap.models.frozen import NoFastPath, Twin, twin
from faithmap.models.tokens import Grid, grid_of
from faithmap.rules import LinearHead, linear_head, tracing
from faithmap.targets import first_tensor
from faithmap.words import did_you_mean

logger = logging.getLogger(__name__)


def cut(module: nn.Module, layer: str, x: Tensor) -> Cut:
    """Cut a network in two at a layer; cached for as long as the module lives and does not change.

    Args:
        module: any network; it is never touched, a frozen twin of it runs.
        layer: dotted path of the target layer, as ``named_modules`` lists it. A layer that runs more than once is cut
            at its last call that returns a map of places.
        x: input ``(B, 3, H, W)``; its first sample is used to check the cut, once.

    Raises:
        ValueError: the layer does not exist, never runs, or has no spatial output.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> x = torch.rand(2, 3, 8, 8)
        >>> parts = cut(net, "1", x).split(x)
        >>> parts.A.shape, torch.equal(parts.tail(parts.A), net(x))
        (torch.Size([2, 4, 6, 6]), True)
    """
    frozen = twin(module)
    layer = layer.replace("_orig_mod.", "")
    names = dict(frozen.module.named_modules(remove_duplicate=False))
    if layer not in names or not layer:
        raise ValueError(
            f"there is no layer {layer!r} in {type(frozen.module).__name__}: {did_you_mean(layer, filter(None, names))}"
        )
    key = ("cut", layer, tuple(x.shape[1:]), x.dtype, x.device)
    with frozen.lock:
        if key not in frozen.derived:
            with torch.inference_mode(False):
                frozen.derived[key] = _make(frozen, layer, x[:1].clone())
        made: Cut = frozen.derived[key]
        return made


@dataclass(eq=False)
class Cut(ABC):
    """A network in two parts at one layer."""

    layer: str
    grid: Grid
    """How the layer's output lies over the image."""
    kind: ClassVar[str]
    reason: str = field(default="", kw_only=True)
    """Why the cut is not a graph; empty for a graph."""
    _heads: dict[Any, LinearHead | None] = field(default_factory=dict, init=False)

    @abstractmethod
    def trunk(self, x: Tensor) -> tuple[Any, Any]:
        """The layer's raw output for x, and what else the tail needs; gradients flow where they are enabled."""

    @abstractmethod
    def tail(self, output: Any, carried: Any, rows: Tensor, batch: int) -> Any:
        """The network's raw outputs from the layer's, whose rows belong to the samples ``rows`` of ``batch``."""

    def split(self, x: Tensor, precision: AbstractContextManager[None] | None = None) -> Split:
        """Run the trunk on x ``(B, 3, H, W)``, without gradients; a ``precision`` context concerns the trunk alone."""
        with torch.no_grad(), precision or nullcontext():
            trunk = self.trunk(x)
        output, carried = tree_map(
            lambda t: t.to(x.dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, trunk
        )
        return Split(self, output, carried, len(x))

    def activations(self, x: Tensor) -> Tensor:
        """The feature map ``(B, C, h, w)`` of the layer, with gradients to x."""
        return self.grid.take(first_tensor(self.trunk(x)[0]))

    def linear_head(self, split: Split) -> LinearHead | None:
        """The weights of a head that is global average pooling and one linear layer; None for any other head."""
        key = tuple(split.A.shape[1:])
        if key not in self._heads:
            first = torch.zeros(1, dtype=torch.long)
            self._heads[key] = linear_head(lambda A: first_tensor(split.tail(A, first)), split.A[:1])
        return self._heads[key]


@dataclass(eq=False)
class Split:
    """The activations of some images at the target layer, and the tail that continues from them."""

    cut: Cut
    output: Any
    carried: Any
    batch: int

    def __post_init__(self) -> None:
        self.A = self.cut.grid.take(first_tensor(self.output)).detach()
        """The feature map ``(B, C, h, w)``."""

    def tail(self, A: Tensor, rows: Tensor | None = None) -> Any:
        """The network's raw outputs as if the layer had returned A, with gradients to A where they are enabled.

        Args:
            A: feature maps ``(n, C, h, w)``.
            rows: which image each of them belongs to ``(n,)``; without it, n / B of them in turn for each image.
        """
        rows = torch.arange(self.batch).repeat_interleave(len(A) // self.batch) if rows is None else rows.cpu()
        raw = first_tensor(self.output)
        here = rows.to(raw.device)
        restored = self.cut.grid.put(A.to(raw.dtype), lambda: raw[here, : self.cut.grid.prefix])
        # A copy, for the tail may work in place.
        output = _with_first(_rows(self.output, here, self.batch), restored.clone())
        return self.cut.tail(output, self.carried, rows, self.batch)


def _rows(output: Any, rows: Tensor, batch: int) -> Any:
    """The samples ``rows`` of a layer's raw output, whatever structure it has."""
    return tree_map(lambda t: t[rows] if isinstance(t, Tensor) and t.ndim and len(t) == batch else t, output)


def _with_first(output: Any, tensor: Tensor) -> Any:
    """A layer's raw output with another first tensor."""
    if isinstance(output, Tensor):
        return tensor
    first = first_tensor(output)
    leaves, spec = tree_flatten(output)
    return tree_unflatten([tensor if leaf is first else leaf for leaf in leaves], spec)


# ---------------------------------------------------------------------------------------------------------------------
# Graph cuts


class _UntraceableError(Exception):
    """Why a network has to be replayed."""


@dataclass(eq=False)
class GraphCut(Cut):
    """A cut whose two halves are torch.fx graphs."""

    first_half: fx.GraphModule
    second_half: fx.GraphModule
    carry: list[Any]
    kind = "graph"

    def trunk(self, x: Tensor) -> tuple[Any, Any]:
        output, carried = self.first_half(x)
        return output, carried

    def tail(self, output: Any, carried: Any, rows: Tensor, batch: int) -> Any:
        values = [_follow(how, value, rows, batch, output) for how, value in zip(self.carry, carried, strict=True)]
        return self.second_half(output, values)


class _Tracer(fx.Tracer):
    """Traces only the modules around the target layer: all others stay single calls."""

    def __init__(self, around: set[nn.Module]) -> None:
        super().__init__()
        self.around = around
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.around

    # While fx traces, every module call of the process passes through here: those of other threads are not ours.
    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _halves(root: nn.Module, layer: str, seen: _Seen) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The network as two graphs: trunk ``x -> (output, carried)``, tail ``(output, carried) -> outputs``."""
    path = layer.split(".")
    around = {root.get_submodule(".".join(path[:depth])) for depth in range(len(path))}
    optional = list(inspect.signature(root.forward).parameters.values())[1:]
    with tracing():
        graph = _Tracer(around).trace(root, {p.name: p.default for p in optional if p.default is not p.empty})
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != seen.calls:
        raise _UntraceableError(f"the layer runs {seen.calls} times, its graph calls it {len(calls)} times")
    target = calls[seen.call - 1]
    behind = {target}  # all that depends on the layer's output
    for node in graph.nodes:
        if any(source in behind for source in node.all_input_nodes):
            behind.add(node)
    continues = [node for node in graph.nodes if node in behind and node is not target]
    outside = dict.fromkeys(s for node in continues for s in node.all_input_nodes if s not in behind)
    constants = [node for node in outside if node.op == "get_attr"]  # read again where used, not carried
    crossing = [node for node in outside if node.op != "get_attr"]

    trunk = fx.Graph()
    at: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in behind or node is target:
            at[node] = trunk.node_copy(node, at.__getitem__)
    trunk.output((at[target], [at[node] for node in crossing]))

    tail = fx.Graph()
    at = {target: tail.placeholder("activation")}
    carried = tail.placeholder("carried")
    for index, node in enumerate(crossing):
        at[node] = tail.call_function(operator.getitem, (carried, index))
    for node in constants + continues:
        at[node] = tail.node_copy(node, at.__getitem__)
    return fx.GraphModule(root, trunk), fx.GraphModule(root, tail)


@dataclass(frozen=True)
class _Carried:
    """How one value that crosses the cut follows the batch."""

    axis: int | None = None
    """The dimension that grows with the batch; None for what all samples share."""
    per_sample: int = 0
    """How much of that dimension, or of a number, belongs to one sample."""
    same: bool = False
    """Whether it lies in the very memory of the layer's output (an in-place layer)."""


def _learn(one: Any, two: Any, output: Tensor) -> Any:
    """How carried values follow the batch, learnt from a batch of one and a batch of two."""
    if isinstance(one, (list, tuple)):
        return [_learn(a, b, output) for a, b in zip(one, two, strict=True)]
    if isinstance(one, Tensor):
        if one.untyped_storage().data_ptr() == output.untyped_storage().data_ptr():
            if one.shape != output.shape or one.stride() != output.stride():
                raise _UntraceableError("a value that crosses the cut is a view of the layer's output")
            return _Carried(same=True)
        grown = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        if len(grown) > 1:
            raise _UntraceableError("a value that crosses the cut grows with the batch in two dimensions")
        return _Carried(grown[0], one.shape[grown[0]]) if grown else _Carried()
    if isinstance(one, int) and not isinstance(one, bool):
        return _Carried(per_sample=two - one)  # a batch size read in the trunk
    if one is not two and one != two:
        raise _UntraceableError(f"a {type(one).__name__} that crosses the cut changes with the batch")
    return _Carried()


def _follow(how: Any, value: Any, rows: Tensor, batch: int, output: Any) -> Any:
    """A carried value of ``batch`` samples for a batch that consists of the samples ``rows``."""
    if isinstance(value, (list, tuple)):
        return [_follow(h, v, rows, batch, output) for h, v in zip(how, value, strict=True)]
    if how.same:
        return first_tensor(output)
    if isinstance(value, Tensor):
        if how.axis is None:
            return value.clone()  # the tail may work in place
        before, after = value.shape[: how.axis], value.shape[how.axis + 1 :]
        parts = value.reshape(*before, batch, how.per_sample, *after)
        return parts.index_select(how.axis, rows.to(value.device)).flatten(how.axis, how.axis + 1)
    return value + (len(rows) - batch) * how.per_sample if how.per_sample else value


# ---------------------------------------------------------------------------------------------------------------------
# Replay cuts


@dataclass(eq=False)
class ReplayCut(Cut):
    """A cut that runs the whole network again with the layer's output written over."""

    module: nn.Module
    kind = "replay"

    def trunk(self, x: Tensor) -> tuple[Any, Any]:
        seen = _watch(self.module, self.layer, x)
        return seen.output, (x, seen.call)

    def tail(self, output: Any, carried: Any, rows: Tensor, batch: int) -> Any:
        x, call = carried
        seen = _watch(self.module, self.layer, x[rows.to(x.device)], replace=(call, first_tensor(output)))
        return seen.outputs


@dataclass
class _Seen:
    """What one run showed of a layer that may be called several times."""

    outputs: Any = None
    """The network's outputs."""
    output: Any = None
    """The layer's last output that is a map of places, else its last output."""
    call: int = 0
    """Which call that was, from 1."""
    calls: int = 0
    grid: Grid | None = None


def _watch(module: nn.Module, layer: str, x: Tensor, replace: tuple[int, Tensor] | None = None) -> _Seen:
    """Run a frozen twin and see the layer at work, in this thread alone.

    With ``replace = (call, tensor)`` the output of that call is written over: in place, so that all who share its
    memory see it.
    """
    seen, thread = _Seen(), threading.get_ident()

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return
        seen.calls += 1
        if replace is None:
            grid = grid_of(tuple(first_tensor(output).shape), (x.shape[-2], x.shape[-1]))
            if grid is not None or seen.grid is None:
                seen.output = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, output)
                seen.call, seen.grid = seen.calls, grid
        elif seen.calls == replace[0]:
            first_tensor(output).copy_(replace[1])

    handle = module.get_submodule(layer).register_forward_hook(hook)
    try:
        with NoFastPath():
            seen.outputs = module(x)
    finally:
        handle.remove()
    if not seen.calls:
        raise ValueError(f"layer {layer!r} never runs in the forward pass: choose one that does")
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# Making and checking


def _make(frozen: Twin, layer: str, x: Tensor) -> Cut:
    """The best cut that computes what the network computes."""
    with torch.no_grad():
        seen = _watch(frozen.module, layer, x)
        shape = tuple(first_tensor(seen.output).shape)
        if seen.grid is None or shape[0] != 1:
            raise ValueError(
                f"layer {layer!r} returns {shape} for one image of {x.shape[-2]} x {x.shape[-1]} pixels, "
                "which is not a map of places: choose a layer with a spatial output (suggest_layers lists them)"
            )
        replay = ReplayCut(layer, seen.grid, frozen.module)
        try:
            first, second = _halves(frozen.module, layer, seen)
            return _checked(GraphCut(layer, seen.grid, first, second, carry=[]), replay, x)
        except Exception as error:  # whatever a network's own code raises under tracing: the reason is kept and shown
            replay.reason = str(error) if isinstance(error, _UntraceableError) else f"{type(error).__name__}: {error}"
            logger.info("%s is replayed at %s: %s", type(frozen.module).__name__, layer, replay.reason)
    return replay


def _checked(graph: GraphCut, replay: ReplayCut, x: Tensor) -> GraphCut:
    """The graph, once it agrees with the replayed network: on the network's own activations and on others."""
    output, carried = graph.trunk(x)
    if carried:
        _, carried_twice = graph.trunk(torch.cat([x, x]))
        graph.carry = _learn(carried, carried_twice, first_tensor(output))
    ours, theirs = graph.split(x), replay.split(x)
    if not torch.allclose(ours.A, theirs.A, rtol=1e-3, atol=1e-4 * float(theirs.A.abs().max()), equal_nan=True):
        raise _UntraceableError("the trunk's graph differs from the network")
    A, rows = torch.cat([theirs.A, theirs.A * 0.5]), torch.zeros(2, dtype=torch.long)
    for given, expected in zip(tree_flatten(ours.tail(A, rows))[0], tree_flatten(theirs.tail(A, rows))[0], strict=True):
        if isinstance(expected, Tensor) and expected.is_floating_point():
            scale = float(expected.abs().max())
            if not torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * scale, equal_nan=True):
                raise _UntraceableError("the tail's graph differs from the network")
    return graph
