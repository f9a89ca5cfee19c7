"""DeepLIFT as a table of rules: secants for non-linearities, exact splits for maxima, normalisers and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from faithmap.rules.engine import (
    Interpreter,
    Pair,
    Rules,
    finite,
    live_pairs,
    packets,
    plain,
    values_of,
    with_gradient,
)
from faithmap.rules.graphs import aten

# ---------------------------------------------------------------------------------------------------------------------
# Rules of DeepLIFT: elementwise operations and products


def _elementwise(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The slope of the secant; the derivative at the midpoint where the ends coincide or are too close to divide."""
    live = [place for place, arg in enumerate(args) if isinstance(arg, Pair)]
    if len(live) != 1 or len(live_pairs(args, kwargs)) != 1 or not args[live[0]].value.is_floating_point():
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
    slope = slope_of(f, a.detach(), a0, out - out0, reach)
    inverse = packet in (aten.rsqrt, aten.reciprocal) or (op is aten.pow.Tensor_Scalar and args[1] in (-0.5, -1))
    return Pair(with_gradient(out, of=slope * a), out0, inverse)


def slope_of(
    f: Callable[[Tensor], Tensor], a: Tensor, a0: Tensor, change: Tensor, reach: Tensor | float = 1.0
) -> Tensor:
    """Of the secant of f from a0 to a; f's derivative in the middle where they are closer than ``reach`` allows."""
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
            at_u = finite(u.value) if u.normaliser else u.reference
            at_v = finite(v.value) if v.normaliser else v.reference
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
    return run(aten.expand.default, source, list(values_of(into).shape))


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
    slope = slope_of(torch.log, total.value.detach(), total.reference, out - out0, size)
    return Pair(with_gradient(out, of=slope * total.value), out0)


def _attention(
    run: Interpreter, op: Any, q: Any, k: Any, v: Any, *args: Any, scale: float | None = None, **kwargs: Any
) -> Any:
    """A fused attention kernel as what it computes: ``softmax(q k' scale + mask) v``."""
    given = {a.name: value for a, value in zip(op._schema.arguments[3:], args, strict=False)} | kwargs
    like, rows, columns = values_of(q), values_of(q).shape[-2], values_of(k).shape[-2]
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


def _axes(x: Pair, dims: Any) -> list[int]:
    """Dimensions as an operation takes them: one, several, or none for all."""
    return [dims] if isinstance(dims, int) else list(dims or range(x.value.ndim))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


_KINKED = packets(
    "relu hardtanh leaky_relu _prelu_kernel clamp clamp_min clamp_max threshold abs hardsigmoid hardswish "
    "hardshrink softshrink elu celu"
)
_SMOOTH = packets("gelu silu mish sigmoid tanh softplus log_sigmoid exp expm1 exp2 erf sin cos")
_SINGULAR = packets("sqrt rsqrt reciprocal pow log log1p log2 log10")
DEEPLIFT: Rules = {
    **dict.fromkeys(_KINKED + _SMOOTH + _SINGULAR, _elementwise),
    **dict.fromkeys(packets("log_sigmoid_forward"), _log_sigmoid),
    **dict.fromkeys(packets("mul mm bmm matmul mv dot"), _product),
    **dict.fromkeys(packets("addmm baddbmm"), _add_product),
    aten.div: _divide,
    aten.glu: _glu,
    aten.detach: _unchanged,
    aten.copy: _copied,
    aten._softmax: _softmax,
    **dict.fromkeys(packets("_safe_softmax"), _safe_softmax),
    aten._log_softmax: _log_softmax,
    aten.logsumexp: _logsumexp,
    **dict.fromkeys(
        packets(
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
            "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        ),
        _attention,
    ),
    **dict.fromkeys(
        packets("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d"), _max_pool
    ),
    aten.amax: _amax,
    aten.amin: _amin,
    aten.max: _max,
    aten.min: _min,
    aten.maximum: _larger,
    aten.minimum: _smaller,
    aten.native_layer_norm: _layer_norm,
    **dict.fromkeys(packets("_fused_rms_norm"), _rms_norm),
    aten.native_group_norm: _group_norm,
    **dict.fromkeys(packets("native_batch_norm cudnn_batch_norm miopen_batch_norm"), _batch_norm),
    **dict.fromkeys(packets("var std var_mean std_mean"), _variance),
    aten.linalg_vector_norm: _vector_norm,
}
