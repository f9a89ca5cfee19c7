"""The engine: a recorded function is followed operation by operation, each by its rule from a table."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from faithmap.rules.graphs import aten, record


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
    """How often what A goes through ran forward: to be recorded, unless it was before, on A, on the reference."""


def linearise(
    function: Callable[[Tensor], Tensor],
    A: Tensor,
    reference: Tensor,
    rules: Rules,
    through: fx.GraphModule | None = None,
) -> Linearised:
    """Multipliers m of a function with ``y(A) - y(reference) = sum(m * (A - reference))``.

    Source: Shrikumar et al. 2017 (Rescale rule), with rules for normalisers, softmax and pooling that keep the sum.

    Args:
        function: activations -> one score per sample ``(B,)``.
        A: activations ``(B, ...)``.
        reference: activations that stand for "nothing", of A's shape.
        rules: operation -> rule, for instance `DEEPLIFT`.
        through: a recorded graph that A goes through first, ``y = function(through(A))``: what is large is recorded
            once, and only what changes from call to call is recorded again.

    Examples:
        >>> from faithmap.rules import DEEPLIFT
        >>> A = torch.tensor([[3.0, -1.0]])
        >>> found = linearise(lambda a: (a - 1).relu().sum(dim=1), A, torch.zeros_like(A), DEEPLIFT)
        >>> (found.value - found.reference).item(), (found.multipliers * A).sum().item()
        (2.0, 2.0)
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = A.detach().clone().requires_grad_()
        return follow_back(function, Pair(leaf, reference.detach().clone()), leaf, rules, through)


def follow_back(
    function: Callable[[Tensor], Tensor],
    pair: Pair,
    leaf: Tensor,
    rules: Rules,
    through: fx.GraphModule | None = None,
    prepare: Callable[[fx.GraphModule], fx.GraphModule] = lambda graph: graph,
) -> Linearised:
    """The function of a pair that depends on a leaf, followed by the rules, and back to the leaf.

    ``prepare`` has the function's graph in hand before it is followed; what A goes through is prepared already.
    """
    run = Interpreter(rules)
    inner = pair if through is None else run.follow(through, pair)
    try:
        graph = prepare(record(function, inner.value))
    except torch.cuda.OutOfMemoryError:
        raise  # a smaller batch may fit
    except Exception as error:  # whatever the caller's code raises when it is recorded: it is named in the result
        # A function whose flow depends on the values passes its plain gradient.
        what = "everything" if through is None else "the score"
        run.without_rule[f"{what} ({type(error).__name__} when it was recorded)"] = None
        with torch.no_grad():
            at_reference = function(inner.reference.clone())
        y, runs = Pair(function(inner.value.clone()), at_reference), 3  # it may work in place
    else:
        y, runs = run.follow(graph, inner), graph.meta["runs"] + 2
    multipliers = gradient(y.value, leaf)
    runs = runs if through is None else 2
    return Linearised(y.value.detach(), y.reference.detach(), multipliers, tuple(run.without_rule), runs)


def gradient(scores: Tensor, of: Tensor) -> Tensor:
    """The gradient of each sample's score; zero where it does not depend on ``of``, which a map's reason then tells."""
    return gradients(scores, [of])[0]


def gradients(scores: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """`gradient` to several tensors, in one backward pass."""
    if not scores.requires_grad:
        return [torch.zeros_like(one) for one in of]
    return list(torch.autograd.grad(scores, of, torch.ones_like(scores), materialize_grads=True))


class Interpreter:
    """Runs recorded graphs on a pair, operation by operation, by a table of rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.without_rule: dict[str, None] = {}
        """The names of what is not linear and passed a plain gradient, in order."""

    def follow(self, graph: fx.GraphModule, pair: Pair) -> Pair:
        """The graph's output for its input."""
        nodes = graph.graph.nodes
        values: dict[fx.Node, Any] = {}
        last_use = {source: node for node in nodes for source in node.all_input_nodes}
        for node in nodes:
            if node.op == "placeholder":
                values[node] = pair
            elif node.op == "get_attr":
                constant = getattr(graph, str(node.target))
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
        if not live_pairs(args, kwargs):
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


def own(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's own gradient, where that is the rule."""
    value = op(*values_of(args), **values_of(kwargs))
    with torch.no_grad():
        reference = op(*references_of(args), **references_of(kwargs))
    if isinstance(value, (tuple, list)):
        return type(value)(Pair(v, r) for v, r in zip(value, reference, strict=True))
    live = live_pairs(args, kwargs)
    packet = getattr(op, "overloadpacket", op)
    return Pair(value, reference, len(live) == 1 and live[0].normaliser and packet in _KEEPS_NORMALISER)


def plain(run: Interpreter, op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's own gradient: exact for linear operations; others are named as without a rule."""
    result = own(run, op, *args, **kwargs)
    live = live_pairs(args, kwargs)
    results = tree_flatten(result)[0]
    moves = any(pair.value.requires_grad for pair in live)  # where not, the gradient was lost earlier, and named there
    tensors = [pair.value for pair in (*live, *results)]
    known = always_linear(op, len(live)) and all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors)
    if moves and not known and not _acts_linearly(op, args, kwargs, values_of(result), references_of(result)):
        run.without_rule[str(getattr(op, "overloadpacket", op))] = None
    return result


def always_linear(op: Any, live: int) -> bool:
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
                slack = eps**0.5 * finite(out - out0).abs().max() + 8 * eps * finite(out).abs().max()
                if not given.allclose(_between(out, out0, t), rtol=0, atol=float(slack), equal_nan=True):
                    return False
    return True


def _between(value: Tensor, reference: Tensor, t: float) -> Tensor:
    if not (value.is_floating_point() or value.is_complex()):
        return value
    return torch.where(value == reference, value, reference + t * (value - reference))  # equal infinities stay


def live_pairs(args: Any, kwargs: Any) -> list[Pair]:
    """What depends on the activations among the arguments."""
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Pair)]


def values_of(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.value if isinstance(leaf, Pair) else leaf, tree)


def references_of(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.reference if isinstance(leaf, Pair) else leaf, tree)


def packets(names: str) -> list[Any]:
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


_LINEAR = frozenset(packets(
    "convolution mm bmm matmul mv add sub rsub neg mul sum mean cumsum cat stack clone alias lift_fresh_copy "
    "_to_copy view _unsafe_view reshape _reshape_alias permute transpose t movedim flatten expand squeeze "
    "unsqueeze repeat slice select index index_select gather unbind split split_with_sizes diagonal as_strided "
    "unfold slice_scatter select_scatter flip roll tril triu masked_fill pixel_shuffle im2col constant_pad_nd "
    "reflection_pad2d replication_pad2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d"
))  # fmt: skip
_ADDITIVE = frozenset(packets("add sub rsub cat stack slice_scatter select_scatter empty_like new_empty"))
_KEEPS_NORMALISER = frozenset(packets(
    "view _unsafe_view reshape expand squeeze unsqueeze clone alias permute transpose _to_copy slice select mul div"
))  # fmt: skip


def finite(t: Tensor) -> Tensor:
    """The tensor with 0 for what is infinite or not a number."""
    return torch.where(t.isfinite(), t, 0)
