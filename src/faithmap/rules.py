"""A backward pass with replaced rules.

``linearise(function, A, reference)`` follows a function of the activations on A and on a reference at once, and returns
multipliers m with ``y(A) - y(reference) = <m, A - reference>``: DeepLIFT's chain rule. The function is first recorded
as a graph of elementary, functional tensor operations, so that modules, functionals, in-place and reused
non-linearities are all the same thing here. Each operation then computes its value as usual but passes gradients by
its rule; operations without a rule pass plain gradients, and those of them that are not linear are named.

A rule is a function ``rule(run, op, *args, **kwargs) -> Pair`` found in a table by its operation; it gets a `Pair`
wherever an argument depends on the activations, and ``run(op, *args)`` applies further operations by their own rules.
Other backward passes (LRP, guided backpropagation) are other tables.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

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
    """What is not linear and passed a plain gradient: completeness does not hold through it."""


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
        interpreter = _Interpreter(record(function, A), DEEPLIFT if rules is None else rules)
    except Exception as error:  # whatever the caller's code raises when it is recorded: it is named in the result
        return _plain_gradient(function, A, reference, f"everything ({type(error).__name__} when it was recorded)")
    with torch.inference_mode(False), torch.enable_grad():
        leaf = A.detach().clone().requires_grad_()
        y = interpreter.run(Pair(leaf, reference.detach()))
        multipliers = torch.zeros_like(leaf)
        if y.value.requires_grad:
            (multipliers,) = torch.autograd.grad(y.value.sum(), leaf)
    return Linearised(y.value.detach(), y.reference.detach(), multipliers, tuple(interpreter.without_rule))


def _plain_gradient(function: Callable[[Tensor], Tensor], A: Tensor, reference: Tensor, why: str) -> Linearised:
    """The gradient at A, for functions that cannot be recorded: those whose flow depends on the values."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = A.detach().clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        with torch.no_grad():
            return Linearised(value.detach(), function(reference), gradient, (why,))


_tracing_lock = threading.RLock()


@contextmanager
def tracing() -> Iterator[None]:
    """Tracing patches nn.Module for the whole process: one at a time."""
    with _tracing_lock:
        yield


def record(function: Callable[[Tensor], Tensor], A: Tensor) -> fx.GraphModule:
    """The function at A as a graph of functional operations, without in-place writes and views' side effects."""
    with tracing(), torch.inference_mode(False), torch.no_grad(), NoFastPath():
        graph: fx.GraphModule = make_fx(functionalize(function))(A.detach().clone())
    return graph


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A head that is global average pooling and one linear layer: ``outputs = weight @ mean(A) + bias``."""

    weight: Tensor
    """``(K, C)``."""
    bias: Tensor | None


def linear_head(function: Callable[[Tensor], Tensor], A: Tensor) -> LinearHead | None:
    """The head's weights if the outputs ``(B, K)`` are linear in the spatial mean of A ``(B, C, h, w)``, else None."""
    graph = record(function, A)
    values: dict[fx.Node, Any] = {}
    layers = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            values[node] = node.target(
                *fx.node.map_arg(node.args, values.get), **fx.node.map_arg(node.kwargs, values.get)
            )
        elif node.op == "call_function" and node.target in _LINEAR_LAYERS:
            layers.append((node.target, [values.get(a) if isinstance(a, fx.Node) else a for a in node.args]))
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
            given = function(activations)
            expected = F.linear(activations.mean(dim=(2, 3)), head.weight, head.bias)
            if given.shape != expected.shape or not torch.allclose(
                given, expected, 1e-3, 1e-4 * float(given.abs().max())
            ):
                return None
    return head


_LINEAR_LAYERS: dict[Any, Callable[[list[Any]], tuple[Any, Any]]] = {
    aten.addmm.default: lambda args: (None if args[2] is None else args[2].t(), args[0]),
    aten.mm.default: lambda args: (None if args[1] is None else args[1].t(), None),
    aten.convolution.default: lambda args: (args[1], args[2]),
}


class _Interpreter:
    """Runs a recorded graph on a pair, operation by operation, by a table of rules."""

    def __init__(self, graph: fx.GraphModule, rules: Rules) -> None:
        self.graph = graph
        self.rules = rules
        self.without_rule: dict[str, None] = {}

    def run(self, pair: Pair) -> Pair:
        values: dict[fx.Node, Any] = {}
        last_use = {source: node for node in self.graph.graph.nodes for source in node.all_input_nodes}
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = pair
            elif node.op == "get_attr":
                values[node] = getattr(self.graph, str(node.target))
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
        if not any(isinstance(leaf, Pair) for leaf in tree_flatten((args, kwargs))[0]):
            with torch.no_grad():
                return op(*args, **kwargs)
        if op is operator.getitem:
            return args[0][args[1]]
        if op in (aten.view.default, aten._unsafe_view.default):
            op = aten.reshape.default  # strides may differ from those that were recorded
        rule = self.rules.get(getattr(op, "overloadpacket", op), plain)
        return rule(self, op, *args, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Rules of DeepLIFT


def plain(run: _Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's own gradient: exact for linear operations; others are named as without a rule."""
    live = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Pair)]
    value = op(*_values(args), **_values(kwargs))
    with torch.no_grad():
        reference = op(*_references(args), **_references(kwargs))
    packet = getattr(op, "overloadpacket", op)
    known = packet in _ADDITIVE or (packet in _LINEAR and len(live) == 1)
    if not known and not _acts_linearly(op, args, kwargs, value, reference):
        run.without_rule[str(packet)] = None
    if isinstance(value, (tuple, list)):
        return type(value)(Pair(v, r) for v, r in zip(value, reference, strict=True))
    normaliser = len(live) == 1 and live[0].normaliser and packet in _KEEPS_NORMALISER
    return Pair(value, reference, normaliser)


def _kinked(run: _Interpreter, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Elementwise and piecewise linear: the slope of the secant; the derivative only where both ends coincide."""
    return _secant(run, op, x, args, kwargs, tolerance=0.0)


def _smooth(run: _Interpreter, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Elementwise: the slope of the secant; the derivative at the midpoint where the ends are too close to divide."""
    return _secant(run, op, x, args, kwargs, tolerance=torch.finfo(_values(x).dtype).eps ** 0.5)


def _secant(run: _Interpreter, op: Any, x: Any, args: Any, kwargs: Any, tolerance: float) -> Any:
    if not isinstance(x, Pair) or any(isinstance(leaf, Pair) for leaf in tree_flatten((args, kwargs))[0]):
        return plain(run, op, x, *args, **kwargs)
    a, a0 = x.value.detach(), x.reference
    middle = ((a + a0) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(op(middle, *args, **kwargs).sum(), middle)
    with torch.no_grad():
        out, out0 = op(a, *args, **kwargs), op(a0, *args, **kwargs)
        step = a - a0
        close = step.abs() <= tolerance * (1 + a.abs() + a0.abs())
        slope = torch.where(close, slope, (out - out0) / torch.where(close, 1, step))
    inverse = op.overloadpacket in (aten.rsqrt, aten.reciprocal) or (
        op.overloadpacket is aten.pow and args[0] in (-0.5, -1)
    )
    return Pair(_through(out, (x.value, slope)), out0, normaliser=inverse)


def _product(run: _Interpreter, op: Any, u: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
    """Two live factors: the midpoint shares the change evenly; a normaliser's change acts on the reference's numerator.

    Midpoint: ``d(uv) = du (v + v0)/2 + (u + u0)/2 dv``. Normaliser q: ``d(uq) = du q + u0 dq``.
    """
    if not (isinstance(u, Pair) and isinstance(v, Pair)):
        return plain(run, op, u, v, *args, **kwargs)
    if u.normaliser and not v.normaliser:
        at_u, at_v = u.value.detach(), v.reference
    elif v.normaliser and not u.normaliser:
        at_u, at_v = u.reference, v.value.detach()
    else:
        at_u, at_v = ((p.value.detach() + p.reference) / 2 for p in (u, v))
    with torch.no_grad():
        out, out0 = op(u.value, v.value, *args, **kwargs), op(u.reference, v.reference, *args, **kwargs)
    change = op(u.value, at_v, *args, **kwargs) + op(at_u, v.value, *args, **kwargs)
    return Pair(out + (change - change.detach()), out0)


def _divide(run: _Interpreter, op: Any, u: Any, n: Any, **kwargs: Any) -> Any:
    """A live denominator is a normaliser: ``u / n = u * (1/n)``."""
    if not isinstance(n, Pair) or kwargs.get("rounding_mode"):
        return plain(run, op, u, n, **kwargs)
    return run(aten.mul.Tensor, run(aten.reciprocal.default, n), u)


def _add_product(run: _Interpreter, op: Any, bias: Any, u: Any, v: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``beta * bias + alpha * (u @ v)``."""
    product = run(aten.mm.default if op.overloadpacket is aten.addmm else aten.bmm.default, u, v)
    product = product if alpha == 1 else run(aten.mul.Tensor, product, alpha)
    return run(aten.add.Tensor, product, bias if beta == 1 else run(aten.mul.Tensor, bias, beta))


def _attention(
    run: _Interpreter, op: Any, q: Any, k: Any, v: Any, *args: Any, scale: float | None = None, **kwargs: Any
) -> Any:
    """A fused attention kernel as what it computes: ``softmax(q k' scale + mask) v``."""
    given = {a.name: value for a, value in zip(op._schema.arguments[3:], args, strict=False)} | kwargs
    rows, dim = (_values(q).shape[-2], _values(q).shape[-1])
    logits = run(aten.matmul.default, q, run(aten.transpose.int, k, -2, -1))
    logits = run(aten.mul.Tensor, logits, dim**-0.5 if scale is None else scale)
    mask = given.get("attn_mask", given.get("attn_bias"))
    if given.get("is_causal"):
        mask = torch.full((rows, rows), -math.inf, dtype=_values(q).dtype, device=_values(q).device).triu(1)
    if mask is not None:
        logits = run(aten.add.Tensor, logits, mask)
    return (run(aten.matmul.default, run(aten._softmax.default, logits, -1, False), v), *[None] * 8)


def _copied(run: _Interpreter, op: Any, into: Any, source: Any, *args: Any) -> Any:
    """Writing over a whole tensor."""
    return run(aten.expand.default, source, list(_values(into).shape))


def _softmax(run: _Interpreter, op: Any, z: Pair, dim: int, half_to_float: bool) -> Any:
    """``softmax = exp(z - log sum exp z)``, elementwise, with one shift for both values: they stay comparable."""
    u = _log_softmax(run, op, z, dim, half_to_float)
    return run(aten.exp.default, u)


def _log_softmax(run: _Interpreter, op: Any, z: Pair, dim: int, half_to_float: bool) -> Any:
    return run(aten.sub.Tensor, z, _logsumexp(run, op, z, [dim], True))


def _logsumexp(run: _Interpreter, op: Any, z: Pair, dims: list[int], keepdim: bool = False) -> Any:
    dtype = z.value.dtype
    # In float64 the exponentials survive a reference whose logits lie hundreds away.
    z = run(aten._to_copy.default, z, dtype=dtype if z.value.device.type == "mps" else torch.float64)
    shift = torch.maximum(z.value.detach(), z.reference).amax(dims, keepdim=True)
    total = run(aten.sum.dim_IntList, run(aten.exp.default, run(aten.sub.Tensor, z, shift)), dims, keepdim)
    shift = shift if keepdim else shift.sum(dims)  # one element per place: drops the kept dimensions
    return run(aten._to_copy.default, run(aten.add.Tensor, run(aten.log.default, total), shift), dtype=dtype)


def _max_pool(run: _Interpreter, op: Any, x: Pair, *args: Any, **kwargs: Any) -> Any:
    """With c = max(out, out0): c - out0 belongs to the argmax of A, out - c to the argmax of the reference."""
    with torch.no_grad():
        (out, at), (out0, at0) = op(x.value, *args, **kwargs), op(x.reference, *args, **kwargs)
    spatial = x.value.ndim - 2  # windows lie in the last two (or three) dimensions; (B, C) come first
    pooled = _peaks(x, out, out0, at.flatten(-spatial), at0.flatten(-spatial), lambda t: t.flatten(-spatial))
    return pooled, Pair(at, at0)


def _amax(run: _Interpreter, op: Any, x: Pair, dims: Any = (), keepdim: bool = False) -> Any:
    """The largest value along dimensions, by the rule of max-pooling."""
    ndim = x.value.ndim
    axes = sorted(d % ndim for d in ([dims] if isinstance(dims, int) else dims or range(ndim)))
    kept = [d for d in range(ndim) if d not in axes]

    def rows(t: Tensor) -> Tensor:
        return t.permute(*kept, *axes).flatten(len(kept))  # (kept..., everything that the maximum is over)

    flat, flat0 = rows(x.value.detach()), rows(x.reference)
    at, at0 = flat.argmax(-1, keepdim=True), flat0.argmax(-1, keepdim=True)
    with torch.no_grad():
        out, out0 = x.value.amax(axes, keepdim=keepdim), x.reference.amax(axes, keepdim=keepdim)
    return _peaks(x, out, out0, at, at0, rows)


def _max(run: _Interpreter, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """aten.max in its three forms: of all values, along one dimension, of two tensors."""
    if op is aten.max.dim:
        at, at0 = x.value.argmax(args[0], *args[1:]), x.reference.argmax(args[0], *args[1:])
        return _amax(run, op, x, *args), Pair(at, at0)
    if op is aten.max.default:
        return _amax(run, op, x)
    return _larger(run, op, x, *args)


def _larger(run: _Interpreter, op: Any, a: Any, b: Any) -> Any:
    """``max(a, b) = a + relu(b - a)``."""
    return run(aten.add.Tensor, a, run(aten.relu.default, run(aten.sub.Tensor, b, a)))


def _smaller(run: _Interpreter, op: Any, a: Any, b: Any) -> Any:
    """``min(a, b) = a - relu(a - b)``."""
    return run(aten.sub.Tensor, a, run(aten.relu.default, run(aten.sub.Tensor, a, b)))


def _peaks(x: Pair, out: Tensor, out0: Tensor, at: Tensor, at0: Tensor, rows: Callable[[Tensor], Tensor]) -> Pair:
    """The rule of maxima, given where both have their peak in ``rows(x)``."""
    live, fixed, fixed0 = rows(x.value), rows(x.value.detach()), rows(x.reference)
    top = torch.maximum(out, out0)
    parts = []
    for index, change in ((at, top - out0), (at0, out - top)):
        moved = (fixed.gather(-1, index) - fixed0.gather(-1, index)).view_as(out)
        slope = torch.where(change == 0, 0, change / torch.where(change == 0, 1, moved))
        parts.append((live.gather(-1, index).view_as(out), slope))
    return Pair(_through(out, *parts), out0)


def _layer_norm(run: _Interpreter, op: Any, x: Pair, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    out = _normalise(run, x, [-1 - d for d in range(len(shape))], eps)
    return _affine(run, out, weight, bias), None, None


def _group_norm(
    run: _Interpreter, op: Any, x: Pair, weight: Any, bias: Any, N: int, C: int, places: int, groups: int, eps: float
) -> Any:
    shape = list(x.value.shape)
    out = _normalise(run, run(aten.reshape.default, x, [N, groups, -1]), [-1], eps)
    per_channel = [1, C] + [1] * (len(shape) - 2)
    weight, bias = (None if t is None else t.view(per_channel) for t in (weight, bias))
    return _affine(run, run(aten.reshape.default, out, shape), weight, bias), None, None


def _batch_norm(run: _Interpreter, op: Any, x: Pair, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
    """With its running statistics it is affine; with the batch's own it mixes samples and gets a plain gradient."""
    training, eps = (rest[0], rest[2]) if op.overloadpacket is aten.native_batch_norm else (False, rest[1])
    if training or mean is None:
        return plain(run, op, x, weight, bias, mean, var, *rest)
    shape = [1, -1] + [1] * (x.value.ndim - 2)
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    return _affine(run, x, scale.view(shape), shift.view(shape)), None, None


def _variance(
    run: _Interpreter, op: Any, x: Pair, dims: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Any:
    axes = list(range(x.value.ndim)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    count = math.prod(x.value.shape[d] for d in axes) - (1 if correction is None else correction)
    mean = run(aten.mean.dim, x, axes, True)
    centred = run(aten.sub.Tensor, x, mean)
    squares = run(aten.sum.dim_IntList, run(aten.mul.Tensor, centred, centred), axes, keepdim)
    var = run(aten.div.Tensor, squares, max(count, 0))
    if op.overloadpacket is aten.std:
        return run(aten.sqrt.default, var)
    return (var, run(aten.mean.dim, x, axes, keepdim)) if op.overloadpacket is aten.var_mean else var


def _vector_norm(
    run: _Interpreter, op: Any, x: Pair, ord: Any = 2, dims: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    axes = list(range(x.value.ndim)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    if ord != 2:
        return plain(run, op, x, ord, dims, keepdim, **kwargs)
    return run(aten.sqrt.default, run(aten.sum.dim_IntList, run(aten.mul.Tensor, x, x), axes, keepdim))


def _normalise(run: _Interpreter, x: Pair, axes: list[int], eps: float) -> Any:
    """``(x - mean) / sqrt(var + eps)`` over the axes."""
    centred = run(aten.sub.Tensor, x, run(aten.mean.dim, x, axes, True))
    var = run(aten.mean.dim, run(aten.mul.Tensor, centred, centred), axes, True)
    return run(aten.mul.Tensor, centred, run(aten.rsqrt.default, run(aten.add.Tensor, var, eps)))


def _affine(run: _Interpreter, x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else run(aten.mul.Tensor, x, weight)
    return x if bias is None else run(aten.add.Tensor, x, bias)


def _through(out: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """A tensor with the values of ``out`` whose gradient to each part's tensor is that part's slope."""
    for live, slope in parts:
        out = out + slope * (live - live.detach())
    return out


def _values(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.value if isinstance(leaf, Pair) else leaf, tree)


def _references(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.reference if isinstance(leaf, Pair) else leaf, tree)


def _acts_linearly(op: Any, args: Any, kwargs: Any, value: Any, reference: Any) -> bool:
    """Whether the operation's derivative explains its own change from reference to value."""
    outs = [v for v in tree_flatten(value)[0] if isinstance(v, Tensor)]
    if not any(out.is_floating_point() for out in outs):
        return True  # indices and conditions pass no gradient
    leaves, spec = tree_flatten((args, kwargs))
    live = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Pair) and leaf.value.is_floating_point()]

    def of_live(*tensors: Tensor) -> list[Tensor]:
        filled = [leaf.value if isinstance(leaf, Pair) else leaf for leaf in leaves]
        for i, tensor in zip(live, tensors, strict=True):
            filled[i] = tensor
        positional, named = tree_unflatten(filled, spec)
        return [
            out
            for out in tree_flatten(op(*positional, **named))[0]
            if isinstance(out, Tensor) and out.is_floating_point()
        ]

    at = tuple(leaves[i].value.detach() for i in live)
    step = tuple(leaves[i].value.detach() - leaves[i].reference for i in live)
    try:
        change = torch.func.jvp(of_live, at, step)[1]
    except (RuntimeError, NotImplementedError):
        return False  # no derivative to ask: it is named
    outs = [out for out in outs if out.is_floating_point()]
    outs0 = [out for out in tree_flatten(reference)[0] if isinstance(out, Tensor) and out.is_floating_point()]
    return all(
        torch.allclose(out.detach() - out0, c, rtol=1e-3, atol=1e-4 * float((out.detach() - out0).abs().max()))
        for out, out0, c in zip(outs, outs0, change, strict=True)
    )


def _packets(names: str) -> list[Any]:
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


_KINKED = _packets(
    "relu relu6 hardtanh leaky_relu _prelu_kernel prelu clamp clamp_min clamp_max threshold abs hardsigmoid"
)
_SMOOTH = _packets(
    "elu celu selu gelu silu mish hardswish sigmoid tanh softplus rsqrt sqrt reciprocal pow square exp expm1 exp2 log "
    "log1p log2 log10 erf sin cos log_sigmoid softsign"
)
_LINEAR = frozenset(_packets(
    "convolution mm bmm matmul mv add sub rsub neg mul div sum mean cumsum cat stack clone alias detach lift_fresh_copy "
    "_to_copy view _unsafe_view reshape _reshape_alias permute transpose t movedim flatten expand squeeze unsqueeze repeat "
    "slice select index index_select gather unbind split split_with_sizes diagonal as_strided unfold slice_scatter "
    "select_scatter flip roll tril triu masked_fill pixel_shuffle im2col constant_pad_nd reflection_pad2d replication_pad2d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d"
))  # fmt: skip
_ADDITIVE = frozenset(_packets("add sub rsub cat stack"))
_KEEPS_NORMALISER = frozenset(_packets(
    "view _unsafe_view reshape expand squeeze unsqueeze clone alias permute transpose _to_copy slice select mul div"
))  # fmt: skip

DEEPLIFT: Rules = {
    **dict.fromkeys(_KINKED, _kinked),
    **dict.fromkeys(_SMOOTH, _smooth),
    **dict.fromkeys(_packets("mul mm bmm matmul"), _product),
    **dict.fromkeys(_packets("addmm baddbmm"), _add_product),
    aten.div: _divide,
    **dict.fromkeys(
        _packets(
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
            "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        ),
        _attention,
    ),
    aten.copy: _copied,
    aten._softmax: _softmax,
    aten._log_softmax: _log_softmax,
    aten.logsumexp: _logsumexp,
    **dict.fromkeys(_packets("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d"), _max_pool),
    aten.amax: _amax,
    aten.max: _max,
    aten.maximum: _larger,
    aten.minimum: _smaller,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    **dict.fromkeys(_packets("native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(_packets("var std var_mean"), _variance),
    aten.linalg_vector_norm: _vector_norm,
}
