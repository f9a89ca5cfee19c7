"""Trunk and tail: a network cut at a target layer.

``cut(module, layer, x)`` separates the network at any layer named by its dotted path. The trunk runs once per image,
without gradients; every question about the activations (gradients, ablations, SHAP values) then goes to the tail alone.

Two kinds of cut answer alike. A *graph* cut traces the modules around the layer with torch.fx; the tail is all that
depends on the layer's output, and what else it needs (skip connections, side inputs) is carried across. Where tracing
fails or does not compute what the module computes, a *replay* cut runs the whole forward again with the layer's output
replaced. ``Cut.kind`` says which it is, and ``Cut.reason`` why it is not a graph.
"""

from __future__ import annotations

import logging
import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from faithmap.models.frozen import NoFastPath, freeze, twin
from faithmap.models.tokens import Grid, grid_of
from faithmap.rules import LinearHead, linear_head
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
        ValueError: the layer does not exist, never runs, or has no spatial output, or images do not stay apart.

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
                frozen.derived[key] = _make(frozen.module, layer, x[:1].clone())
        made: Cut = frozen.derived[key]
        return made


@dataclass(eq=False)
class Cut(ABC):
    """A network in two parts at one layer."""

    module: nn.Module
    """The frozen twin that runs."""
    layer: str
    grid: Grid
    """How the layer's output lies over the image."""
    reason: str = field(default="", kw_only=True)
    """Why the cut is not a graph; empty for a graph."""
    kind: ClassVar[str]
    _head: tuple[Any, LinearHead | None] = field(default=(None, None), init=False)

    @abstractmethod
    def trunk(self, x: Tensor) -> tuple[Tensor, Any]:
        """The layer's raw output tensor for x, and what else the tail needs; gradients flow where they are enabled."""

    @abstractmethod
    def tail(self, output: Tensor, carried: Any, rows: Tensor, batch: int) -> Any:
        """The network's raw outputs from the layer's, whose rows belong to the samples ``rows`` of ``batch``."""

    def split(self, x: Tensor, precision: AbstractContextManager[None] | None = None) -> Split:
        """Run the trunk on x ``(B, 3, H, W)``, without gradients; a ``precision`` context concerns the trunk alone."""
        # The activations have to be able to enter autograd later, even if the caller is in inference mode.
        with torch.inference_mode(False), torch.no_grad(), precision or _full_precision(x):
            output, carried = tree_map(partial(_widened, dtype=x.dtype), self.trunk(x))
            return Split(self, output, carried, len(x))

    def activations(self, x: Tensor) -> Tensor:
        """The feature map ``(B, C, h, w)`` of the layer, with gradients to x."""
        return self.grid.take(self.trunk(x)[0])

    def linear_head(self, split: Split) -> LinearHead | None:
        """The weights of a head that is global average pooling and one linear layer; None for any other head."""
        # Weights may be computed (weight norm) from those that an optimizer's step changes in place.
        key = (split.A.shape[1:], sum(p._version for p in self.module.parameters()))
        known, head = self._head
        if known != key:
            first = torch.zeros(1, dtype=torch.long)
            head = linear_head(lambda A: first_tensor(split.tail(A, first)), split.A[:1])
            self._head = key, head
        return head


@dataclass(eq=False)
class Split:
    """The activations of some images at the target layer, and the tail that continues from them."""

    cut: Cut
    output: Tensor
    """What the layer returned: the tensor that holds the map, in the layer's own layout."""
    carried: Any
    batch: int

    def __post_init__(self) -> None:
        self.A = self.cut.grid.take(self.output).detach()
        """The feature map ``(B, C, h, w)``."""

    def tail(self, A: Tensor, rows: Tensor | None = None) -> Any:
        """The network's raw outputs as if the layer had returned A, with gradients to A where they are enabled.

        Args:
            A: feature maps ``(n, C, h, w)``.
            rows: which image each of them belongs to ``(n,)``; without it, n / B of them in turn for each image.

        Raises:
            ValueError: the maps have another shape than the layer's, or there is no telling whose they are.
        """
        if A.shape[1:] != self.A.shape[1:]:
            raise ValueError(f"feature maps at {self.cut.layer!r} are {tuple(self.A.shape)}: got {tuple(A.shape)}")
        rows = torch.arange(self.batch).repeat_interleave(len(A) // self.batch) if rows is None else rows.cpu()
        if len(rows) != len(A):
            raise ValueError(f"{len(A)} feature maps of {self.batch} images: name the image of each in rows")
        here = rows.to(self.output.device)
        output = self.cut.grid.put(A.to(self.output.dtype), lambda: self.output[here, : self.cut.grid.prefix])
        with _full_precision(A):
            return self.cut.tail(output.clone(), self.carried, rows, self.batch)  # the tail may work in place


# ---------------------------------------------------------------------------------------------------------------------
# Several layers in one run


@dataclass(frozen=True, eq=False)
class Observed:
    """One call of a layer in a run of the whole network."""

    name: str
    """Dotted path of the layer."""
    layer: nn.Module
    """The frozen twin of it that ran."""
    output: Tensor
    """The tensor that it returned, in its own layout; gradients of what was computed from it reach it."""
    input: Tensor | None
    """What it was given, where that was asked for; a copy without gradients, for the layer may work in place."""


def observe(
    module: nn.Module, layers: Collection[str], x: Tensor, inputs: Collection[str] = ()
) -> tuple[Any, list[Observed]]:
    """Run a network once and see several layers at work, in this thread alone, with gradients.

    Where x has no gradient, recording begins at the shallowest of the layers, and so a backward pass ends there. Of a
    layer that works in place on a tensor which others hold too, only its own readers count in the gradient.

    Args:
        module: any network; it is never touched, a frozen twin of it runs.
        layers: dotted paths.
        x: input ``(B, 3, H, W)``.
        inputs: those of the layers whose inputs are kept too.

    Returns:
        The network's raw outputs, and every call of the layers in the order in which they finish.

    Raises:
        ValueError: a layer returns no tensor, or holds it in something that cannot be rebuilt around another.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> outputs, calls = observe(net, ["0", "1"], torch.rand(2, 3, 8, 8))
        >>> [(call.name, grad.shape[1]) for call, grad in zip(calls, torch.autograd.grad(
        ...     outputs.sum(), [call.output for call in calls]), strict=True)]
        [('0', 4), ('1', 4)]
    """
    frozen, thread = twin(module).module, threading.get_ident()
    calls: list[Observed] = []
    given: dict[str, Tensor] = {}

    def before(name: str, _: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread:
            given[name] = args[0].detach().clone()

    def after(name: str, layer: nn.Module, _: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        first, leaves = first_tensor(output), tree_flatten(output)[0]
        if not any(leaf is first for leaf in leaves):
            raise ValueError(f"layer {name!r} returns a {type(output).__name__}: choose one that returns a tensor")
        seen = first if first.requires_grad else first.detach().requires_grad_()
        calls.append(Observed(name, layer, seen, given.pop(name, None)))
        passed_on = seen.clone()  # what follows may work in place
        return tree_map(lambda leaf: passed_on if leaf is first else leaf, output)

    with ExitStack() as hooks, torch.enable_grad(), NoFastPath():
        for name in inputs:
            hooks.enter_context(frozen.get_submodule(name).register_forward_pre_hook(partial(before, name)))
        for name in layers:
            hooks.enter_context(frozen.get_submodule(name).register_forward_hook(partial(after, name)))
        return frozen(x.clone()), calls


def _full_precision(x: Tensor) -> AbstractContextManager[None]:
    """What a network's own weights ask for, whatever the caller's autocast says."""
    return torch.autocast(x.device.type, enabled=False)


def _widened(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of at least that precision; anything else as it is."""
    narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < dtype.itemsize
    return value.to(dtype) if narrow else value


# ---------------------------------------------------------------------------------------------------------------------
# Graph cuts


class _UntraceableError(Exception):
    """Why a network has to be replayed."""


@dataclass(eq=False)
class GraphCut(Cut):
    """A cut whose two halves are torch.fx graphs."""

    first_half: Callable[..., list[Any]]
    """``(module, x) -> values``: the layer's output, and whatever else the second half asks for."""
    second_half: Callable[..., Any]
    """``(module, values) -> outputs``."""
    carry: list[_Carried] = field(default_factory=list)
    kind = "graph"

    def trunk(self, x: Tensor) -> tuple[Tensor, Any]:
        values = self.first_half(self.module, x.clone())  # the network may work in place
        return first_tensor(values[0]), values

    def tail(self, output: Tensor, carried: Any, rows: Tensor, batch: int) -> Any:
        leaves, structure = tree_flatten(carried)
        leaves = [_follow(how, leaf, rows, batch, output) for how, leaf in zip(self.carry, leaves, strict=True)]
        return self.second_half(self.module, tree_unflatten(leaves, structure))


class _Tracer(GraphAppendingTracer):
    """Records a forward pass; the tensors that it makes from nothing become attributes of the module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(fx.Graph())
        self.module = module

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        if isinstance(a, nn.Parameter):
            raise _UntraceableError("the network uses weights that named_parameters does not list")
        name = f"_constant_{id(a)}"
        setattr(self.module, name, a)
        return self.create_node("get_attr", name, (), {})


def _trace(module: nn.Module, layer: str) -> tuple[fx.Graph, str]:
    """The forward pass as a graph, all but the modules around the layer being single calls; and the layer's name in it.

    It is not torch.fx's own tracer that does this: that one patches nn.Module for the whole process, and other threads
    cannot run compiled networks meanwhile. Here a second twin runs whose modules merely note that they are called.
    """
    noted = freeze(module)
    tracer = _Tracer(module)
    path = layer.split(".")
    around = [noted.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    for name, part in noted.named_modules():
        for key, value in {**part.__dict__, **part._parameters, **part._buffers}.items():
            if isinstance(value, Tensor):
                part.__dict__[key] = tracer.create_proxy("get_attr", f"{name}.{key}".lstrip("."), (), {})
        # The calls that are noted will run their hooks. Those around the layer, most of which only look on, must not
        # see a recording: that one of them changes something is found when the graph is compared with the network.
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        if part not in around:
            part.__dict__["forward"] = partial(_note, tracer, name)
    outputs = noted(tracer.create_proxy("placeholder", "x", (), {}))
    tracer.create_node("output", "output", (tracer.create_arg(outputs),), {})
    for node in reversed(tracer.graph.nodes):
        if node.op == "get_attr" and not node.users:
            tracer.graph.erase_node(node)
    target = noted.get_submodule(layer)
    return tracer.graph, next(name for name, part in noted.named_modules() if part is target)


def _note(tracer: _Tracer, name: str, *args: Any, **kwargs: Any) -> fx.Proxy:
    return tracer.create_proxy("call_module", name, args, kwargs)


def _halves(module: nn.Module, layer: str, seen: _Seen) -> tuple[Callable[..., list[Any]], Callable[..., Any]]:
    """The network as two functions: ``(module, x) -> values``, ``(module, values) -> outputs``."""
    graph, name = _trace(module, layer)
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != seen.calls:
        raise _UntraceableError(f"the layer runs {seen.calls} times, its graph calls it {len(calls)} times")
    target = calls[seen.call - 1]
    behind = {target}  # all that depends on the layer's output
    for node in graph.nodes:
        if any(source in behind for source in node.all_input_nodes):
            behind.add(node)
    continues = [node for node in graph.nodes if node in behind and node is not target]
    if not continues or continues[-1].op != "output":
        raise _UntraceableError("in its graph, the outputs do not depend on the layer")
    outside = dict.fromkeys(s for node in continues for s in node.all_input_nodes if s not in behind)
    constants = [node for node in outside if node.op == "get_attr"]  # read again where used, not carried
    crossing = [target, *(node for node in outside if node.op != "get_attr")]

    trunk = fx.Graph()
    at: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in behind or node is target:
            at[node] = trunk.node_copy(node, at.__getitem__)
    trunk.output([at[node] for node in crossing])

    tail = fx.Graph()
    values = tail.placeholder("values")
    at = {node: tail.call_function(operator.getitem, (values, index)) for index, node in enumerate(crossing)}
    for node in constants + continues:
        at[node] = tail.node_copy(node, at.__getitem__)
    return _function(module, trunk), _function(module, tail)


def _function(module: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    """A graph as a function of the module and its inputs."""
    # A GraphModule's forward without the GraphModule, which copies attributes and prints what goes wrong in it.
    function: Callable[..., Any] = type(fx.GraphModule(module, graph)).forward
    return function


@dataclass(frozen=True)
class _Carried:
    """How one value that crosses the cut follows the batch."""

    axis: int | None = None
    """The dimension that grows with the batch; None for what all samples share."""
    per_sample: int = 0
    """How much of that dimension, or of a number, belongs to one sample."""
    same: bool = False
    """Whether it is the layer's output, or lies in the very memory of it (an in-place layer)."""


def _learn(one: Any, two: Any, output: Tensor) -> _Carried:
    """How a value follows the batch, learnt from a batch of one, for which the layer returns ``output``, and of two."""
    if isinstance(one, Tensor):
        if one.untyped_storage().data_ptr() == output.untyped_storage().data_ptr():
            if (one.data_ptr(), one.shape, one.stride()) != (output.data_ptr(), output.shape, output.stride()):
                raise _UntraceableError("a value that crosses the cut is a view of the layer's output")
            return _Carried(same=True)
        if one.ndim != two.ndim:
            raise _UntraceableError("a value that crosses the cut has other dimensions for a single image")
        grown = [axis for axis in range(one.ndim) if one.shape[axis] != two.shape[axis]]
        if not grown:
            return _Carried()
        if len(grown) > 1 or two.shape[grown[0]] != 2 * one.shape[grown[0]]:
            raise _UntraceableError("a value that crosses the cut does not grow by one dimension with the batch")
        return _Carried(grown[0], one.shape[grown[0]])
    if isinstance(one, int) and not isinstance(one, bool):
        return _Carried(per_sample=two - one)  # a batch size read in the trunk
    if type(one) not in (bool, float, str, type(None), torch.dtype, torch.device) or one != two:
        raise _UntraceableError(f"a {type(one).__name__} crosses the cut, which may depend on the batch")
    return _Carried()


def _follow(how: _Carried, value: Any, rows: Tensor, batch: int, output: Tensor) -> Any:
    """A carried value of ``batch`` samples for a batch that consists of the samples ``rows``."""
    if how.same:
        return output
    if isinstance(value, Tensor):
        if how.axis is None:
            return value.clone()  # the tail may work in place
        parts = torch.unflatten(value, how.axis, (batch, how.per_sample))
        return parts.index_select(how.axis, rows.to(value.device)).flatten(how.axis, how.axis + 1)
    return value + (len(rows) - batch) * how.per_sample if how.per_sample else value


# ---------------------------------------------------------------------------------------------------------------------
# Replay cuts


@dataclass(eq=False)
class ReplayCut(Cut):
    """A cut that runs the whole network again with the layer's output written over."""

    kind = "replay"

    def trunk(self, x: Tensor) -> tuple[Tensor, Any]:
        seen = _watch(self.module, self.layer, x)
        return seen.output, (x, seen.call)

    def tail(self, output: Tensor, carried: Any, rows: Tensor, batch: int) -> Any:
        x, call = carried
        return _watch(self.module, self.layer, x[rows.to(x.device)], replace=(call, output)).outputs


@dataclass
class _Seen:
    """What one run showed of a layer that may be called several times."""

    outputs: Any = None
    """The network's outputs."""
    output: Tensor = field(default_factory=lambda: torch.empty(0))
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
                seen.output, seen.call, seen.grid = first_tensor(output).clone(), seen.calls, grid
        elif seen.calls == replace[0]:
            first_tensor(output).copy_(replace[1])

    handle = module.get_submodule(layer).register_forward_hook(hook)
    try:
        with NoFastPath():
            seen.outputs = module(x.clone())  # it may work in place
    finally:
        handle.remove()
    if not seen.calls:
        raise ValueError(f"layer {layer!r} never runs in the forward pass: choose one that does")
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# Making and checking


def _make(module: nn.Module, layer: str, x: Tensor) -> Cut:
    """The best cut that computes what the network computes, found out on one image and another one."""
    wave = torch.arange(x.numel(), device=x.device).cos().to(x.dtype).view_as(x)
    two = torch.cat([x, x.flip(-1) + wave])
    with torch.no_grad(), _full_precision(x), NoFastPath():
        seen = _watch(module, layer, two)
        if seen.grid is None or len(seen.output) != 2:
            raise ValueError(
                f"layer {layer!r} returns {tuple(seen.output.shape)} for two images of {x.shape[-2]} x {x.shape[-1]} "
                "pixels, which is not a map of places for each: choose a layer with a spatial output "
                "(suggest_layers lists them)"
            )
        if isinstance(seen.outputs, Tensor) and seen.outputs.shape[:1] != (2,):
            raise ValueError(
                f"{type(module).__name__} returns {tuple(seen.outputs.shape)} for two images: its outputs have to keep "
                "the batch as their first dimension"
            )
        replay = ReplayCut(module, layer, seen.grid)
        try:
            graph = GraphCut(module, layer, seen.grid, *_halves(module, layer, seen))
            _check(graph, Split(replay, seen.output, (two, seen.call), 2), x, two)
        except Exception as error:  # whatever a network's own code raises under tracing: the reason is kept and shown
            replay.reason = str(error) if isinstance(error, _UntraceableError) else f"{type(error).__name__}: {error}"
            logger.info("%s is replayed at %s: %s", type(module).__name__, layer, replay.reason)
            return replay
    return graph


def _check(graph: GraphCut, truth: Split, x: Tensor, two: Tensor) -> None:
    """Learn what crosses the cut, and see that the graph agrees with the replayed network."""
    output, one = graph.trunk(x)
    leaves = zip(tree_flatten(one)[0], tree_flatten(graph.trunk(two)[1])[0], strict=True)
    graph.carry = [_learn(a, b, output) for a, b in leaves]
    ours = graph.split(two)
    if not _close(ours.A, truth.A):
        raise _UntraceableError("the trunk's graph, which lacks hooks around the layer, differs from the network")
    # Other activations than the network's own too, and not in the order of the images.
    A, rows = torch.cat([truth.A.flip(0), truth.A[:1] * 0.5]), torch.tensor([1, 0, 0])
    given, expected = tree_flatten(ours.tail(A, rows)), tree_flatten(truth.tail(A, rows))
    if given[1] != expected[1] or not all(map(_close, given[0], expected[0])):
        raise _UntraceableError("the tail's graph, which lacks hooks around the layer, differs from the network")


def _close(given: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor):
        if type(expected) in (bool, int, float, str, type(None)):
            return bool(given == expected)
        raise _UntraceableError(f"the network returns a {type(expected).__name__}, which no graph can be compared with")
    if given.shape != expected.shape or given.dtype != expected.dtype:
        return False
    if not expected.numel() or not expected.is_floating_point():
        return torch.equal(given, expected)
    scale = float(expected.abs().max())
    return torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
