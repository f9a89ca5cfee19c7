"""A backward pass with replaced rules.

``linearise(function, A, reference)`` follows a function of the activations on A and on a reference at once, and returns
multipliers m with ``y(A) - y(reference) = <m, A - reference>``: DeepLIFT's chain rule. The function is first recorded
as a graph of elementary, functional tensor operations, so that modules, functionals, in-place and reused
non-linearities are all the same thing here. Each operation then computes its value as usual but passes gradients by
its rule; operations without a rule pass plain gradients, and those of them that are not linear are named.

A rule is a function ``rule(run, op, *args, **kwargs) -> Pair``, found in a table by its operation. It gets a `Pair`
wherever an argument depends on the activations; ``run(op, *args)`` applies further operations by their own rules, and
``with_gradient(value, of)`` gives a value the gradient of something else. Other backward passes are other tables, and
may ignore the reference. LRP-epsilon, for instance, is ReLU's own gradient and a rule for the linear layers; relevance
is then m * A::

    def own(run, op, x):
        return Pair(op(x.value), op(x.reference))

    def epsilon(run, op, *args):
        z = plain(run, op, *args)
        share = (z.value / (z.value + 1e-6 * z.value.sign())).detach()
        return Pair(with_gradient(z.value, of=z.value * share), z.reference)

    linearise(function, A, torch.zeros_like(A), {aten.relu: own, aten.addmm: epsilon, aten.convolution: epsilon})
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from faithmap.models.frozen import NoFastPath

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Pair:
    """A value on the activations, through which gradients flow, and the same value on the reference."""

    value: Any
    reference: Any
    normaliser: bool = False
    """Whether it is a factor that normalises (1 / norm): see `_product`."""


Rule: TypeAlias = Callable[..., Any]
Rules: TypeAlias = Mapping[Any, Rule]


@dataclass(frozen=True, eq=False)
class Linearised:
    """What `linearise` found."""

    value: Tensor
    """y(A), ``(B,)``."""
    reference: Tensor
    """y(reference), ``(B,)``."""
    multipliers: Tensor
    """m, of A's shape."""
    without_rule: tuple[str, ...]
    """What is not linear and passed a plain gradient: completeness need not hold through it."""
    runs: int
    """How often the function ran forward: to be recorded, on A, on the reference."""


def linearise(
    function: Callable[[Tensor], Tensor], A: Tensor, reference: Tensor, rules: Rules | None = None
) -> Linearised:
    """Multipliers m of a function with ``y(A) - y(reference) = sum(m * (A - reference))``.

    Source: Shrikumar et al. 2017 (Rescale rule), with rules for normalisers, softmax and pooling that keep the sum.

    Args:
        function: activations -> one score per sample ``(B,)``.
        A: activations ``(B, ...)``.
        reference: activations that stand for "nothing", of A's shape.
        rules: operation -> rule; DeepLIFT's by default.

    Examples:
        >>> A = torch.tensor([[3.0, -1.0]])
        >>> found = linearise(lambda a: F.relu(a - 1).sum(dim=1), A, torch.zeros_like(A))
        >>> (found.value - found.reference).item(), (found.multipliers * A).sum().item()
        (2.0, 2.0)
    """
    try:
        graph = record(function, A)
    except torch.cuda.OutOfMemoryError:
        raise  # a smaller batch may fit
    except Exception as error:  # whatever the caller's code raises when it is recorded: it is named in the result
        return _plain_gradient(function, A, reference, f"everything ({type(error).__name__} when it was recorded)")
    run = Interpreter(graph, DEEPLIFT if rules is None else rules)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = A.detach().clone().requires_grad_()
        y = run.follow(Pair(leaf, reference.detach().clone()))
        multipliers = _gradient(y.value, leaf)
    runs = graph.meta["runs"] + 2
    return Linearised(y.value.detach(), y.reference.detach(), multipliers, tuple(run.without_rule), runs)


def _plain_gradient(function: Callable[[Tensor], Tensor], A: Tensor, reference: Tensor, why: str) -> Linearised:
    """The gradient at A, for functions that cannot be recorded: those whose flow depends on the values."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = A.detach().clone().requires_grad_()
        value = function(leaf.clone())  # it may work in place
        with torch.no_grad():
            at_reference = function(reference.detach().clone())
        return Linearised(value.detach(), at_reference, _gradient(value, leaf), (why,), runs=3)


def _gradient(y: Tensor, leaf: Tensor) -> Tensor:
    found = torch.autograd.grad(y.sum(), leaf, allow_unused=True)[0] if y.requires_grad else None
    return torch.zeros_like(leaf) if found is None else found


_tracing = threading.RLock()  # tracing patches nn.Module for the whole process: one at a time


def record(function: Callable[[Tensor], Tensor], A: Tensor) -> fx.GraphModule:
    """The function at A as a graph of functional operations, without in-place writes and views' side effects."""
    with _tracing, torch.inference_mode(False), torch.no_grad(), NoFastPath():
        # Of a clone: the graph of a function that works in place would write to its input.
        graph: fx.GraphModule = make_fx(lambda a: function(a.clone()))(A.detach().clone())
        _replace_simple_writes(graph)
        in_place = any(_writes(node.target) for node in graph.graph.nodes)
        if in_place:
            # Only now, for functionalize does not look inside composite operations (selu_, cosine_similarity).
            graph = make_fx(functionalize(_with_copied_constants(graph)))(A.detach().clone())
        graph.meta["runs"] = 1 + in_place
    return graph


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
    live: set[fx.Node] = set()
    written = []
    for node in graph.graph.nodes:
        if node.op == "placeholder" or any(source in live for source in node.all_input_nodes):
            live.add(node)
        if _writes(node.target) and node.args[0] not in live:
            written.append(node.args[0])
    for node in written:  # grows: what a written constant was made from
        written += [source for source in node.all_input_nodes if source not in written]
    for constant in written:
        if constant.op == "get_attr":
            with graph.graph.inserting_after(constant):
                copy = graph.graph.call_function(aten.lift_fresh_copy.default, (constant,))
            constant.replace_all_uses_with(copy, lambda user, copy=copy: user is not copy)
    graph.recompile()
    return graph


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
            elif not _always_linear(node.target, live):
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


class Interpreter:
    """Runs a recorded graph on a pair, operation by operation, by a table of rules."""

    def __init__(self, graph: fx.GraphModule, rules: Rules) -> None:
        self.graph = graph
        self.rules = rules
        self.without_rule: dict[str, None] = {}
        """The names of what is not linear and passed a plain gradient, in order."""

    def follow(self, pair: Pair) -> Pair:
        """The graph's output for its input."""
        nodes = self.graph.graph.nodes
        values: dict[fx.Node, Any] = {}
        last_use = {source: node for node in nodes for source in node.all_input_nodes}
        for node in nodes:
            if node.op == "placeholder":
                values[node] = pair
            elif node.op == "get_attr":
                constant = getattr(self.graph, str(node.target))
                values[node] = constant.detach() if isinstance(constant, Tensor) else constant
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                if node.op == "output":
                    break
                values[node] = self(node.target, *args, **kwargs)
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    del values[source]
        result = args[0]
        return result if isinstance(result, Pair) else Pair(result, result)

    def __call__(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply one operation by its rule."""
        if not _live(args, kwargs):
            with torch.no_grad():
                return op(*args, **kwargs)
        if op is operator.getitem:
            return args[0][args[1]]
        if op in (aten.view.default, aten._unsafe_view.default):
            op = aten.reshape.default  # strides may differ from those that were recorded
        rule: Rule = self.rules.get(getattr(op, "overloadpacket", op), plain)
        return rule(self, op, *args, **kwargs)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, of: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def with_gradient(value: Tensor, of: Tensor) -> Tensor:
    """The given value, with the gradient of another tensor of its shape; how rules say what they pass on.

    Examples:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> y = with_gradient(x * x, of=10 * x)
        >>> y.item(), torch.autograd.grad(y, x)[0].item()
        (9.0, 10.0)
    """
    return cast(Tensor, _WithGradient.apply(value.detach(), of))  # type: ignore[no-untyped-call]


def plain(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's own gradient: exact for linear operations; others are named as without a rule."""
    live = _live(args, kwargs)
    value = op(*_values(args), **_values(kwargs))
    with torch.no_grad():
        reference = op(*_references(args), **_references(kwargs))
    packet = getattr(op, "overloadpacket", op)
    moves = any(pair.value.requires_grad for pair in live)  # where not, the gradient was lost earlier, and named there
    tensors = [*(pair.value for pair in live), *tree_flatten(value)[0]]
    known = _always_linear(op, len(live)) and all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors)
    if moves and not known and not _acts_linearly(op, args, kwargs, value, reference):
        run.without_rule[str(packet)] = None
    if isinstance(value, (tuple, list)):
        return type(value)(Pair(v, r) for v, r in zip(value, reference, strict=True))
    normaliser = len(live) == 1 and live[0].normaliser and packet in _KEEPS_NORMALISER
    return Pair(value, reference, normaliser)


def _always_linear(op: Any, live: int) -> bool:
    """Whether the operation is linear in so many arguments that depend on the activations, whatever their values."""
    packet = getattr(op, "overloadpacket", op)
    return op is operator.getitem or packet in _ADDITIVE or (packet in _LINEAR and live == 1)


def _acts_linearly(op: Any, args: Any, kwargs: Any, value: Any, reference: Any) -> bool:
    """Whether the gradient explains the change from reference to value: all on the way between lies on a line.

    Asked of values alone, for many linear operations have no forward derivative.
    """
    outs, outs0 = (tree_flatten(tree)[0] for tree in (value, reference))
    # What has no gradient (indices, conditions) must not change.
    if any(
        isinstance(o, Tensor) and not o.requires_grad and not o.equal(o0) for o, o0 in zip(outs, outs0, strict=True)
    ):
        return False
    leaves, spec = tree_flatten((args, kwargs))
    for t in (0.0, 0.3, 0.77):  # at 0 for the conditions, which stay those of the value
        way = [_between(p.value.detach(), p.reference, t) if isinstance(p, Pair) else p for p in leaves]
        positional, named = tree_unflatten(way, spec)
        with torch.no_grad():
            between = tree_flatten(op(*positional, **named))[0]
        for given, out, out0 in zip(between, outs, outs0, strict=True):
            if isinstance(out, Tensor) and out.requires_grad and out.numel():
                eps, out = torch.finfo(out.dtype).eps, out.detach()
                slack = eps**0.5 * _finite(out - out0).abs().max() + 8 * eps * _finite(out).abs().max()
                if not given.allclose(_between(out, out0, t), rtol=0, atol=float(slack), equal_nan=True):
                    return False
    return True


def _between(value: Tensor, reference: Tensor, t: float) -> Tensor:
    if not (value.is_floating_point() or value.is_complex()):
        return value
    return torch.where(value == reference, value, reference + t * (value - reference))  # equal infinities stay


# ---------------------------------------------------------------------------------------------------------------------
# Rules of DeepLIFT: elementwise operations and products


def _elementwise(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The slope of the secant; the derivative at the midpoint where the ends coincide or are too close to divide."""
    live = [place for place, arg in enumerate(args) if isinstance(arg, Pair)]
    if len(live) != 1 or len(_live(args, kwargs)) != 1 or not args[live[0]].value.is_floating_point():
        return plain(run, op, *args, **kwargs)
    place, x = live[0], args[live[0]]

    def f(t: Tensor) -> Tensor:
        return cast(Tensor, op(*args[:place], t, *args[place + 1 :], **kwargs))

    with torch.no_grad():
        out, out0 = f(x.value), f(x.reference)
    a, a0 = x.value.expand_as(out), x.reference.expand_as(out)  # the other arguments may be the larger ones
    packet = op.overloadpacket
    # How close is too close: a kink may lie between any two ends, a pole at 0 asks for a share of their size.
    reach = 0.0 if packet in _KINKED else 1.0 if packet in _SMOOTH else a.detach().abs() + a0.abs()
    slope = _slope(f, a.detach(), a0, out - out0, reach)
    inverse = packet in (aten.rsqrt, aten.reciprocal) or (op is aten.pow.Tensor_Scalar and args[1] in (-0.5, -1))
    return Pair(with_gradient(out, of=slope * a), out0, inverse)


def _slope(f: Callable[[Tensor], Tensor], a: Tensor, a0: Tensor, change: Tensor, reach: Tensor | float) -> Tensor:
    step = a - a0
    close = step.abs() <= torch.finfo(a.dtype).eps ** 0.5 * reach
    slope = change / step
    if bool(close.any()):
        middle = (a0 + step / 2).requires_grad_()
        (derivative,) = torch.autograd.grad(f(middle).sum(), middle)
        slope = torch.where(close, derivative, slope)
    # Nothing passes at a pole, as through PyTorch's norm at 0, nor between infinities.
    return slope.nan_to_num_(0, 0, 0)


def _log_sigmoid(run: Interpreter, op: Any, x: Pair) -> Any:
    return run(aten.log_sigmoid.default, x), None


def _glu(run: Interpreter, op: Any, x: Pair, dim: int = -1) -> Any:
    half = x.value.shape[dim] // 2
    a, b = (run(aten.slice.Tensor, x, dim, begin, begin + half) for begin in (0, half))
    return run(aten.mul.Tensor, a, run(aten.sigmoid.default, b))


def _product(run: Interpreter, op: Any, u: Any, v: Any) -> Any:
    """Two live factors: the midpoint shares the change evenly; a normaliser's change acts on the reference's numerator.

    Midpoint: ``d(uv) = du (v + v0)/2 + (u + u0)/2 dv``. Normaliser q: ``d(uq) = du q + u0 dq``; 0 normalised is 0.
    """
    if not all(isinstance(p, Pair) and p.value.requires_grad for p in (u, v)):
        return plain(run, op, u, v)
    with torch.no_grad():
        out, out0 = op(u.value, v.value), op(u.reference, v.reference)
        if u.normaliser == v.normaliser:
            at_u, at_v = ((p.value + p.reference) / 2 for p in (u, v))
        else:
            at_u = _finite(u.value) if u.normaliser else u.reference
            at_v = _finite(v.value) if v.normaliser else v.reference
            if op.overloadpacket is aten.mul:  # 0 times 1 / 0
                out = out.masked_fill((u.value == 0) | (v.value == 0), 0)
                out0 = out0.masked_fill((u.reference == 0) | (v.reference == 0), 0)
    return Pair(with_gradient(out, of=op(u.value, at_v) + op(at_u, v.value)), out0)


def _divide(run: Interpreter, op: Any, u: Any, n: Any, **how: Any) -> Any:
    """A live denominator is a normaliser: ``u / n = u * (1/n)``."""
    if not isinstance(n, Pair) or how.get("rounding_mode"):
        return plain(run, op, u, n, **how)
    return run(aten.mul.Tensor, run(aten.reciprocal.default, n), u)


def _add_product(run: Interpreter, op: Any, bias: Any, u: Any, v: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``beta * bias + alpha * (u @ v)``."""
    product = run(aten.mm.default if op.overloadpacket is aten.addmm else aten.bmm.default, u, v)
    product = product if alpha == 1 else run(aten.mul.Tensor, product, alpha)
    return run(aten.add.Tensor, product, bias if beta == 1 else run(aten.mul.Tensor, bias, beta))


def _unchanged(run: Interpreter, op: Any, x: Any) -> Any:
    """``detach`` stops gradients, not the values that are explained here."""
    return x


def _copied(run: Interpreter, op: Any, into: Any, source: Any, *args: Any) -> Any:
    """Writing over a whole tensor."""
    return run(aten.expand.default, source, list(_values(into).shape))


# ---------------------------------------------------------------------------------------------------------------------
# Rules of DeepLIFT: softmax, attention, maxima


def _softmax(run: Interpreter, op: Any, z: Pair, dim: int, half_to_float: bool) -> Any:
    """``softmax = exp(z - log sum exp z)``, elementwise."""
    return run(aten.exp.default, _log_softmax(run, op, z, dim, half_to_float))


def _safe_softmax(run: Interpreter, op: Any, z: Pair, dim: int, dtype: torch.dtype | None = None) -> Any:
    """The softmax inside attention: 0 for rows that are masked altogether."""
    z = z if dtype is None else run(aten._to_copy.default, z, dtype=dtype)
    empty = (z.value == -math.inf).all(dim, keepdim=True)
    return run(aten.masked_fill.Scalar, _softmax(run, op, z, dim, False), empty, 0)


def _log_softmax(run: Interpreter, op: Any, z: Pair, dim: int, half_to_float: bool) -> Any:
    z = run(aten._to_copy.default, z, dtype=torch.float32) if half_to_float else z
    return run(aten.sub.Tensor, z, _logsumexp(run, op, z, [dim], True))


def _logsumexp(run: Interpreter, op: Any, z: Pair, dims: list[int], keepdim: bool = False) -> Any:
    """With one shift for both values, for exponentials must stay comparable; the logarithms have a shift each.

    Where the logits lie hundreds apart one of the sums is 0, and its logarithm still finite.
    """
    shift = torch.maximum(z.value.detach(), z.reference).amax(dims, keepdim=True)
    total = run(aten.sum.dim_IntList, run(aten.exp.default, run(aten.sub.Tensor, z, shift)), dims, keepdim)
    with torch.no_grad():
        out, out0 = z.value.logsumexp(dims, keepdim), z.reference.logsumexp(dims, keepdim)
        size = total.value + total.reference
    slope = _slope(torch.log, total.value.detach(), total.reference, out - out0, size)
    return Pair(with_gradient(out, of=slope * total.value), out0)


def _attention(
    run: Interpreter, op: Any, q: Any, k: Any, v: Any, *args: Any, scale: float | None = None, **kwargs: Any
) -> Any:
    """A fused attention kernel as what it computes: ``softmax(q k' scale + mask) v``."""
    given = {a.name: value for a, value in zip(op._schema.arguments[3:], args, strict=False)} | kwargs
    like, rows, columns = _values(q), _values(q).shape[-2], _values(k).shape[-2]
    logits = run(aten.matmul.default, q, run(aten.transpose.int, k, -2, -1))
    logits = run(aten.mul.Tensor, logits, like.shape[-1] ** -0.5 if scale is None else scale)
    mask = given.get("attn_mask", given.get("attn_bias"))
    if given.get("is_causal"):
        mask = torch.full((rows, columns), -math.inf, dtype=like.dtype, device=like.device).triu(1)
    if mask is not None:
        logits = run(aten.add.Tensor, logits, mask)
    weights = run(aten._safe_softmax.default, logits, -1)
    return run(aten.matmul.default, weights, v), *[None] * 8


def _max_pool(run: Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """With c = max(out, out0): c - out0 belongs to the argmax of A, out - c to the argmax of the reference."""
    with torch.no_grad():
        (out, at), (out0, at0) = op(x.value, *args, **kwargs), op(x.reference, *args, **kwargs)
    places = 3 if "3d" in op.name() else 2  # indices count through the last dimensions
    pooled = _peaks(x, out, out0, at.flatten(-places), at0.flatten(-places), lambda t: t.flatten(-places))
    return pooled, Pair(at, at0)


def _amax(run: Interpreter, op: Any, x: Pair, dims: Any = (), keepdim: bool = False) -> Any:
    """The largest value along dimensions, by the rule of max-pooling."""
    axes = sorted(d % x.value.ndim for d in _axes(x, dims))
    kept = [d for d in range(x.value.ndim) if d not in axes]

    def rows(t: Tensor) -> Tensor:
        return t.permute(*kept, *axes).flatten(len(kept))  # (kept..., everything that the maximum is over)

    at, at0 = (rows(t).argmax(-1, keepdim=True) for t in (x.value.detach(), x.reference))
    with torch.no_grad():
        out, out0 = x.value.amax(axes, keepdim=keepdim), x.reference.amax(axes, keepdim=keepdim)
    return _peaks(x, out, out0, at, at0, rows)


def _max(run: Interpreter, op: Any, x: Pair, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest of all values; along one dimension, with the places of the largest."""
    largest = _amax(run, op, x, dim, keepdim)
    return largest if dim == () else (largest, Pair(*(t.argmax(dim, keepdim) for t in (x.value, x.reference))))


def _amin(run: Interpreter, op: Any, x: Pair, *args: Any) -> Any:
    """``min x = -max -x``."""
    return run(aten.neg.default, _amax(run, op, run(aten.neg.default, x), *args))


def _min(run: Interpreter, op: Any, x: Pair, *args: Any) -> Any:
    smallest = _max(run, op, run(aten.neg.default, x), *args)
    return (run(aten.neg.default, smallest[0]), smallest[1]) if args else run(aten.neg.default, smallest)


def _larger(run: Interpreter, op: Any, a: Any, b: Any) -> Any:
    """``max(a, b) = a + relu(b - a)``."""
    return run(aten.add.Tensor, a, run(aten.relu.default, run(aten.sub.Tensor, b, a)))


def _smaller(run: Interpreter, op: Any, a: Any, b: Any) -> Any:
    """``min(a, b) = a - relu(a - b)``."""
    return run(aten.sub.Tensor, a, run(aten.relu.default, run(aten.sub.Tensor, a, b)))


def _peaks(x: Pair, out: Tensor, out0: Tensor, at: Tensor, at0: Tensor, rows: Callable[[Tensor], Tensor]) -> Pair:
    """The rule of maxima, given where both have their peak in ``rows(x)``; where nothing moves, the gradient."""
    live, fixed, fixed0 = rows(x.value), rows(x.value.detach()), rows(x.reference)
    top = torch.maximum(out, out0)
    parts = torch.zeros_like(out)
    for index, change, still in ((at, top - out0, out == out0), (at0, out - top, torch.zeros_like(out) > 0)):
        moved = (fixed.gather(-1, index) - fixed0.gather(-1, index)).view_as(out)
        slope = torch.where(moved == 0, still.to(out.dtype), change / torch.where(moved == 0, 1, moved))
        parts = parts + slope * live.gather(-1, index).view_as(out)
    return Pair(with_gradient(out, of=parts), out0)


# ---------------------------------------------------------------------------------------------------------------------
# Rules of DeepLIFT: normalisers


def _layer_norm(run: Interpreter, op: Any, x: Pair, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    out = _normalise(run, x, [-1 - d for d in range(len(shape))], eps)
    return _affine(run, out, weight, bias), None, None


def _rms_norm(run: Interpreter, op: Any, x: Pair, shape: list[int], weight: Any, eps: float | None) -> Any:
    squares = run(aten.mean.dim, run(aten.mul.Tensor, x, x), [-1 - d for d in range(len(shape))], True)
    eps = torch.finfo(x.value.dtype).eps if eps is None else eps
    out = run(aten.mul.Tensor, x, run(aten.rsqrt.default, run(aten.add.Tensor, squares, eps)))
    return _affine(run, out, weight, None), None


def _group_norm(
    run: Interpreter, op: Any, x: Pair, weight: Any, bias: Any, N: int, C: int, places: int, groups: int, eps: float
) -> Any:
    shape = list(x.value.shape)
    out = _normalise(run, run(aten.reshape.default, x, [N, groups, -1]), [-1], eps)
    weight, bias = (None if t is None else t.view([C] + [1] * (len(shape) - 2)) for t in (weight, bias))
    return _affine(run, run(aten.reshape.default, out, shape), weight, bias), None, None


def _batch_norm(
    run: Interpreter, op: Any, x: Pair, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> Any:
    """Affine with running statistics; with those of its input it is how InstanceNorm runs, all samples in one row."""
    if not training or len(x.value) > 1:
        return plain(run, op, x, weight, bias, mean, var, training, *rest)
    out = _normalise(run, x, [d for d in range(x.value.ndim) if d != 1], rest[1])
    weight, bias = (None if t is None else t.view([-1] + [1] * (x.value.ndim - 2)) for t in (weight, bias))
    return _affine(run, out, weight, bias), None, None, None


def _variance(run: Interpreter, op: Any, x: Pair, dims: Any = (), *, correction: Any = 1, keepdim: bool = False) -> Any:
    axes = _axes(x, dims)
    count = math.prod(x.value.shape[d] for d in axes) - (1 if correction is None else correction)
    mean = run(aten.mean.dim, x, axes, True)
    centred = run(aten.sub.Tensor, x, mean)
    squares = run(aten.sum.dim_IntList, run(aten.mul.Tensor, centred, centred), axes, keepdim)
    found = run(aten.div.Tensor, squares, max(count, 0))
    if op.overloadpacket in (aten.std, aten.std_mean):
        found = run(aten.sqrt.default, found)
    return (found, run(aten.mean.dim, x, axes, keepdim)) if "mean" in op.name() else found


def _vector_norm(
    run: Interpreter, op: Any, x: Pair, ord: Any = 2, dims: Any = (), keepdim: bool = False, **kwargs: Any
) -> Any:
    axes = _axes(x, dims)
    if ord == 2:
        return run(aten.sqrt.default, run(aten.sum.dim_IntList, run(aten.mul.Tensor, x, x), axes, keepdim))
    size = run(aten.abs.default, x)
    if ord == 1:
        return run(aten.sum.dim_IntList, size, axes, keepdim)
    if ord == math.inf:
        return run(aten.amax.default, size, axes, keepdim)
    return plain(run, op, x, ord, dims or None, keepdim, **kwargs)


def _normalise(run: Interpreter, x: Pair, axes: list[int], eps: float) -> Any:
    """``(x - mean) / sqrt(var + eps)`` over the axes."""
    centred = run(aten.sub.Tensor, x, run(aten.mean.dim, x, axes, True))
    var = run(aten.mean.dim, run(aten.mul.Tensor, centred, centred), axes, True)
    return run(aten.mul.Tensor, centred, run(aten.rsqrt.default, run(aten.add.Tensor, var, eps)))


def _affine(run: Interpreter, x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else run(aten.mul.Tensor, x, weight)
    return x if bias is None else run(aten.add.Tensor, x, bias)


# ---------------------------------------------------------------------------------------------------------------------
# Helpers


def _live(args: Any, kwargs: Any) -> list[Pair]:
    """What depends on the activations among the arguments."""
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Pair)]


def _values(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.value if isinstance(leaf, Pair) else leaf, tree)


def _references(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.reference if isinstance(leaf, Pair) else leaf, tree)


def _axes(x: Pair, dims: Any) -> list[int]:
    """Dimensions as an operation takes them: one, several, or none for all."""
    return [dims] if isinstance(dims, int) else list(dims or range(x.value.ndim))


def _finite(t: Tensor) -> Tensor:
    return torch.where(t.isfinite(), t, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _packets(names: str) -> list[Any]:
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


_KINKED = _packets(
    "relu hardtanh leaky_relu _prelu_kernel clamp clamp_min clamp_max threshold abs hardsigmoid hardswish "
    "hardshrink softshrink elu celu"
)
_SMOOTH = _packets("gelu silu mish sigmoid tanh softplus log_sigmoid exp expm1 exp2 erf sin cos")
_SINGULAR = _packets("sqrt rsqrt reciprocal pow log log1p log2 log10")
_LINEAR = frozenset(_packets(
    "convolution mm bmm matmul mv add sub rsub neg mul sum mean cumsum cat stack clone alias lift_fresh_copy "
    "_to_copy view _unsafe_view reshape _reshape_alias permute transpose t movedim flatten expand squeeze "
    "unsqueeze repeat slice select index index_select gather unbind split split_with_sizes diagonal as_strided "
    "unfold slice_scatter select_scatter flip roll tril triu masked_fill pixel_shuffle im2col constant_pad_nd "
    "reflection_pad2d replication_pad2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d"
))  # fmt: skip
_ADDITIVE = frozenset(_packets("add sub rsub cat stack slice_scatter select_scatter empty_like new_empty"))
_KEEPS_NORMALISER = frozenset(_packets(
    "view _unsafe_view reshape expand squeeze unsqueeze clone alias permute transpose _to_copy slice select mul div"
))  # fmt: skip

DEEPLIFT: Rules = {
    **dict.fromkeys(_KINKED + _SMOOTH + _SINGULAR, _elementwise),
    **dict.fromkeys(_packets("log_sigmoid_forward"), _log_sigmoid),
    **dict.fromkeys(_packets("mul mm bmm matmul mv dot"), _product),
    **dict.fromkeys(_packets("addmm baddbmm"), _add_product),
    aten.div: _divide,
    aten.glu: _glu,
    aten.detach: _unchanged,
    aten.copy: _copied,
    aten._softmax: _softmax,
    **dict.fromkeys(_packets("_safe_softmax"), _safe_softmax),
    aten._log_softmax: _log_softmax,
    aten.logsumexp: _logsumexp,
    **dict.fromkeys(
        _packets(
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
            "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        ),
        _attention,
    ),
    **dict.fromkeys(
        _packets("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d"), _max_pool
    ),
    aten.amax: _amax,
    aten.amin: _amin,
    aten.max: _max,
    aten.min: _min,
    aten.maximum: _larger,
    aten.minimum: _smaller,
    aten.native_layer_norm: _layer_norm,
    **dict.fromkeys(_packets("_fused_rms_norm"), _rms_norm),
    aten.native_group_norm: _group_norm,
    **dict.fromkeys(_packets("native_batch_norm cudnn_batch_norm miopen_batch_norm"), _batch_norm),
    **dict.fromkeys(_packets("var std var_mean std_mean"), _variance),
    aten.linalg_vector_norm: _vector_norm,
}
