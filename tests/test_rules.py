"""Replaced rules: they add up for every operation, and each is what its formula says, derived again in slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from faithmap.rules import DEEPLIFT, Interpreter, Linearised, Pair, linear_head, linearise, plain, record, with_gradient

Head = Callable[[Tensor], Tensor]
aten: Any = torch.ops.aten


def double(module: nn.Module) -> nn.Module:
    """A module with random weights in float64, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) + 0.1 * parameter.data
    return module.double().eval().requires_grad_(False)


NUMBERS = torch.rand(16 * 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def fixed(*shape: int) -> Tensor:
    """Numbers in [0, 1) that are the same every time."""
    return NUMBERS[: math.prod(shape)].view(shape)


def score(outputs: Tensor) -> Tensor:
    """One score per sample ``(B,)``, with another weight for every output."""
    flat = outputs.flatten(1)
    return flat @ (1.2 + torch.cos(torch.arange(flat.shape[1], dtype=torch.float64) * 1.7)).to(flat)


def tokens(A: Tensor) -> Tensor:
    return A.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h w, C)


def heads_of(A: Tensor) -> Tensor:
    return tokens(A).unflatten(-1, (2, -1)).transpose(1, 2)  # (B, 2 heads, h w, C / 2)


def on_tokens(module: nn.Module) -> Head:
    module = double(module)
    return lambda A: module(tokens(A))


def attend(A: Tensor, **how: Any) -> Tensor:
    return F.scaled_dot_product_attention(heads_of(A), heads_of(A) * 0.7, heads_of(A) + 0.2, **how)


def by_hand(A: Tensor, mask: Tensor | None = None, scale: float = 2**-0.5) -> Tensor:
    q, k, v = heads_of(A), heads_of(A) * 0.7, heads_of(A) + 0.2
    logits = q @ k.transpose(-1, -2) * scale
    return (logits if mask is None else logits + mask).softmax(-1) @ v


def written_over(A: Tensor) -> Tensor:
    into = torch.zeros_like(A)
    into.copy_(A)
    into[:, 0] = A[:, 1].relu()
    into += 1
    return into.clamp_(-2, 3)


def inplace_inside(function: Callable[[Tensor], Any]) -> Head:
    """A function that changes its argument, applied to a copy of A."""

    def head(A: Tensor) -> Tensor:
        t = A * 1
        function(t)
        return t

    return head


MODULES: dict[str, nn.Module] = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.5, 2), "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(4), "elu": nn.ELU(0.7), "celu": nn.CELU(0.6), "selu": nn.SELU(), "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "softplus": nn.Softplus(2),
    "logsigmoid": nn.LogSigmoid(), "softsign": nn.Softsign(), "tanhshrink": nn.Tanhshrink(),
    "hardshrink": nn.Hardshrink(), "softshrink": nn.Softshrink(), "threshold": nn.Threshold(0.3, 1.5),
}  # fmt: skip
FUNCTIONS: dict[str, Head] = {
    "relu": F.relu, "relu6": F.relu6, "selu": F.selu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish, "abs": torch.abs,
    "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "logsigmoid": F.logsigmoid, "hardshrink": F.hardshrink, "softshrink": F.softshrink, "square": torch.square,
    "exp": torch.exp, "exp2": torch.exp2, "expm1": torch.expm1, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
    "hardtanh": lambda A: F.hardtanh(A, -0.5, 2), "prelu": lambda A: F.prelu(A, fixed(4)),
    "leaky_relu": lambda A: F.leaky_relu(A, 0.2), "elu": lambda A: F.elu(A, 0.7), "celu": lambda A: F.celu(A, 0.6),
    "softplus": lambda A: F.softplus(A, 2), "threshold": lambda A: F.threshold(A, 0.3, 1.5),
    "clamp": lambda A: A.clamp(-0.5, 1), "clamp_min": lambda A: A.clamp_min(0.2),
    "clamp_max": lambda A: A.clamp_max(0.4),
    "clamp with tensors": lambda A: A.clamp(-fixed(4, 1, 1), fixed(4, 1, 1)),
    "pow": lambda A: A**3, "power of 2": lambda A: 2**A,
    "pow of a tensor": lambda A: (A * A + 0.1) ** (3 * fixed(4, 1, 1)),
    "pow broadcast": lambda A: (A.mean(1, keepdim=True) ** 2 + 0.1) ** (3 * fixed(4, 1, 1)),
    **{name: lambda A, name=name: getattr(torch, name)(A * A + 0.3)
       for name in ("sqrt", "rsqrt", "reciprocal", "log", "log1p", "log2", "log10")},
}  # fmt: skip
IN_PLACE = ["relu_", "sigmoid_", "tanh_", "exp_", "abs_", "square_", "sin_", "cos_", "erf_", "expm1_", "exp2_"]
IN_PLACE_MODULES = ["relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "hardswish"]
IN_PLACE_MODULES += ["hardsigmoid", "threshold"]

HEADS: dict[str, Head] = {
    **{f"{name} module": double(module) for name, module in MODULES.items()},
    **{f"{name} functional": function for name, function in FUNCTIONS.items()},
    **{f"{name} in place": inplace_inside(lambda t, name=name: getattr(t, name)()) for name in IN_PLACE},
    **{f"{name} in-place module": inplace_inside(lambda t, name=name: in_place(MODULES[name])(t))
       for name in IN_PLACE_MODULES},
    **{f"{name} reused": lambda A, m=module: m(1 - 0.7 * m(A + 0.1)) for name, module in MODULES.items()},
    "max_pool2d": lambda A: F.max_pool2d(A, 2),
    "max_pool2d padded": lambda A: F.max_pool2d(A, 3, stride=2, padding=1),
    "max_pool2d dilated": nn.MaxPool2d(2, dilation=2, ceil_mode=True),
    "max_pool2d unbatched": lambda A: torch.stack([F.max_pool2d(one, 2) for one in A]),
    "max_pool1d": lambda A: F.max_pool1d(A.flatten(2), 3, 2),
    "max_pool3d": lambda A: F.max_pool3d(A[:, None], 2),
    "adaptive_max_pool1d": lambda A: F.adaptive_max_pool1d(A.flatten(2), 5),
    "adaptive_max_pool2d": lambda A: F.adaptive_max_pool2d(A, 3),
    "adaptive_max_pool3d": lambda A: F.adaptive_max_pool3d(A[:, None], 2),
    "amax": lambda A: A.amax((2, 3)),
    "amin": lambda A: A.amin((1, 3), keepdim=True),
    "max": lambda A: torch.stack([one.max() for one in A])[:, None],
    "min": lambda A: torch.stack([one.min() for one in A])[:, None],
    "max of a dimension": lambda A: A.max(1).values,
    "min of a dimension": lambda A: A.min(-1, keepdim=True)[0],
    "maximum": lambda A: torch.maximum(A[:, :2], A[:, 2:]),
    "maximum with a constant": lambda A: torch.maximum(A, fixed(4, 1, 1)),
    "minimum": lambda A: torch.minimum(A[:, :2], A[:, 2:]),
    "layer_norm": on_tokens(nn.LayerNorm(4)),
    "layer_norm of two dimensions": lambda A: F.layer_norm(A, (4, 4)),
    "group_norm": double(nn.GroupNorm(2, 4)),
    "batch_norm": double(nn.BatchNorm2d(4)),
    "batch_norm1d": nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), double(nn.BatchNorm1d(4))),
    "instance_norm": double(nn.InstanceNorm2d(4, affine=True)),
    "rms_norm": on_tokens(nn.RMSNorm(4)),
    "rms_norm fused": lambda A: aten._fused_rms_norm(tokens(A), [4], fixed(4), 1e-6)[0],
    "normalize": lambda A: F.normalize(A.flatten(1)),
    "normalize L1": lambda A: F.normalize(A.flatten(1), p=1),
    "normalize largest": lambda A: F.normalize(A.flatten(1), p=math.inf),
    "cosine_similarity": lambda A: F.cosine_similarity(A.flatten(1), fixed(1, 64))[:, None],
    "cosine of two": lambda A: F.cosine_similarity(A[:, :2].flatten(1), A[:, 2:].flatten(1) + 0.3)[:, None],
    "x / norm": lambda A: A.flatten(1) / A.flatten(1).norm(dim=1, keepdim=True),
    "x * rsqrt": lambda A: A * (A * A).sum((1, 2, 3), keepdim=True).add(1e-3).rsqrt(),
    "x * pow": lambda A: A * (A * A).sum((1, 2, 3), keepdim=True).add(1e-3) ** -0.5,
    "ratio": lambda A: A[:, :2] / (A[:, 2:] ** 2 + 0.5),
    "softmax": lambda A: A.softmax(1),
    "softmax by hand": lambda A: (A - A.amax(1, True)).exp() / (A - A.amax(1, True)).exp().sum(1, keepdim=True),
    "softmin": lambda A: F.softmin(A, 1),
    "softmax of a class": lambda A: (A.mean((2, 3)) @ fixed(4, 7) * 9).softmax(1)[:, 2:3],
    "log_softmax": lambda A: A.log_softmax(2),
    "logsumexp": lambda A: A.logsumexp((2, 3)),
    "squeeze and excite": lambda A: A * torch.sigmoid(A.mean((2, 3), keepdim=True)),
    "glu": lambda A: F.glu(A, 1),
    "silu by hand": lambda A: A * A.sigmoid(),
    "QK": lambda A: tokens(A) @ A.flatten(2),
    "attention by hand": by_hand,
    "einsum": lambda A: torch.einsum("bchw,bdhw->bcd", A, A.relu()),
    "mv": lambda A: torch.stack([one[0] @ one[1, 0] for one in A]),
    "dot": lambda A: torch.stack([one[0, 0].dot(one[1, 1]) for one in A])[:, None],
    "addmm": lambda A: torch.stack([torch.addmm(one[0], one[1], one[2], beta=0.5, alpha=2) for one in A]),
    "baddbmm": lambda A: torch.baddbmm(A[:, 0], A[:, 1], A[:, 2], alpha=0.3),
    "MultiheadAttention": lambda A: ATTENTION(tokens(A), tokens(A), tokens(A))[0],
    "MultiheadAttention, no weights": lambda A: ATTENTION(tokens(A), tokens(A), tokens(A), need_weights=False)[0],
    "sdpa": attend,
    "sdpa scale": lambda A: attend(A, scale=0.3),
    "sdpa causal": lambda A: attend(A, is_causal=True),
    "sdpa mask": lambda A: attend(A, attn_mask=fixed(16, 16)),
    "sdpa boolean mask": lambda A: attend(A, attn_mask=fixed(16, 16) > 0.4),
    "sdpa of unequal lengths": lambda A: F.scaled_dot_product_attention(
        tokens(A)[:, :9], tokens(A), tokens(A), is_causal=True
    ),
    "encoder layer": lambda A: ENCODERS["relu"](tokens(A)),
    "encoder layer, norm first": lambda A: ENCODERS["gelu"](tokens(A)),
    "encoder layer, masked": lambda A: ENCODERS["relu"](tokens(A), src_mask=CAUSAL),
    "var": lambda A: A.var((2, 3)),
    "var unbiased": lambda A: A.var((1, 2), unbiased=False),
    "std": lambda A: A.std((2, 3)),
    "var_mean": lambda A: torch.cat(torch.var_mean(A, (2, 3)), 1),
    "std_mean": lambda A: torch.cat(torch.std_mean(A, (2, 3)), 1),
    "written over": written_over,
    "detach": lambda A: A * A.mean((1, 2, 3), keepdim=True).detach(),
}  # fmt: skip
ATTENTION = double(nn.MultiheadAttention(4, 2, batch_first=True))
ENCODERS = {
    "relu": double(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    "gelu": double(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu", norm_first=True)),
}
CAUSAL = nn.Transformer.generate_square_subsequent_mask(16).double()


def in_place(module: nn.Module) -> nn.Module:
    clone = type(module).__new__(type(module))
    clone.__dict__.update(module.__dict__, inplace=True)
    return clone


def activations(*shape: int, seed: int = 0) -> Tensor:
    return 1.5 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SCORES: dict[str, Head] = {name: lambda A, head=head: score(head(A)) for name, head in HEADS.items()}
GRAPHS: dict[Head, fx.GraphModule] = {}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each head of the table is recorded once."""

    def record_once(function: Head, A: Tensor) -> fx.GraphModule:
        if function not in SCORES.values():
            return record(function, A)
        return GRAPHS[function] if function in GRAPHS else GRAPHS.setdefault(function, record(function, A))

    monkeypatch.setattr("faithmap.rules.engine.record", record_once)


def references(A: Tensor) -> dict[str, Tensor]:
    other = activations(*A.shape, seed=9)
    return {"zero": torch.zeros_like(A), "other": other, "half equal": torch.where(other > 0, A, other)}


def incompleteness(found: Linearised, A: Tensor, reference: Tensor) -> float:
    """The largest ``|sum m (A - A0) - (y - y0)| / |y - y0|`` of the batch; nothing of nothing is 0."""
    change = found.value - found.reference
    error = (found.multipliers * (A - reference)).flatten(1).sum(1) - change
    return float(torch.where(error == 0, 0, error.abs() / change.abs()).max())


@pytest.mark.parametrize("name", HEADS)
def test_multipliers_add_up(name: str) -> None:
    """Sum m (A - A0) = y(A) - y(A0) to 1e-9 in float64, for every head and reference, and nothing lacks a rule."""
    function, A = SCORES[name], activations(2, 4, 4, 4)
    for kind, reference in references(A).items():
        found = linearise(function, A, reference, DEEPLIFT)
        assert found.without_rule == ()
        torch.testing.assert_close(found.value, function(A), rtol=1e-9, atol=1e-9)
        if bool(torch.isfinite(function(reference)).all()):  # 0 / |0| is 0 here and NaN there
            torch.testing.assert_close(found.reference, function(reference), rtol=1e-9, atol=1e-9)
        error = incompleteness(found, A, reference)
        assert error < 1e-9, f"{name}, reference {kind}: {error:.1e}"


@pytest.mark.parametrize(
    "name", [name for name in HEADS if name not in ("detach", "cosine_similarity", "cosine of two")]
)
def test_multipliers_of_the_activations_themselves_are_the_gradient(name: str) -> None:
    """Where A equals the reference, every rule is the derivative: m = dy/dA."""
    A = activations(2, 4, 4, 4)
    found = linearise(SCORES[name], A, A.clone(), DEEPLIFT)
    leaf = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SCORES[name](leaf).sum(), leaf)
    torch.testing.assert_close(found.multipliers, gradient, rtol=1e-6, atol=1e-7)  # torch's own celu: 1e-8


@pytest.mark.parametrize("name", HEADS)
def test_nothing_at_all_gives_finite_multipliers(name: str) -> None:
    """Dead activations before a dead reference: no NaN and no infinity, also at 0 / |0|."""
    A = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    found = linearise(SCORES[name], A, A.clone(), DEEPLIFT)
    assert bool(found.multipliers.isfinite().all())
    assert bool(found.value.isfinite().all())


# ---------------------------------------------------------------------------------------------------------------------
# The table: all of it is exercised, and none of it can be left out


@pytest.fixture(scope="module")
def uses() -> dict[Any, set[str]]:
    """Which heads use which entry of the table, also from within other rules."""
    found: dict[Any, set[str]] = {packet: set() for packet in DEEPLIFT}

    def watched(packet: Any, name: str) -> Any:
        def rule(*args: Any, **kwargs: Any) -> Any:
            found[packet].add(name)
            return DEEPLIFT[packet](*args, **kwargs)

        return rule

    A = activations(2, 4, 4, 4)
    for name in HEADS:
        linearise(SCORES[name], A, torch.zeros_like(A), {packet: watched(packet, name) for packet in DEEPLIFT})
    return found


ON_GPUS = [
    getattr(aten, name)
    for name in ("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention", "cudnn_batch_norm",
                 "_scaled_dot_product_cudnn_attention", "miopen_batch_norm", "_fused_rms_norm") if hasattr(aten, name)
]  # fmt: skip


@pytest.mark.parametrize("packet", [packet for packet in DEEPLIFT if packet not in ON_GPUS], ids=str)
def test_no_rule_can_be_left_out(packet: Any, uses: dict[Any, set[str]]) -> None:
    """A plain gradient in place of any one rule breaks completeness in some head, and is named."""
    A = activations(2, 4, 4, 4)
    rules = {other: rule for other, rule in DEEPLIFT.items() if other is not packet}
    for name in sorted(uses[packet]):
        for reference in references(A).values():
            if packet is aten.copy:  # has no gradient at all
                with pytest.raises(RuntimeError, match="copy is not implemented"):
                    linearise(SCORES[name], A, reference, rules)
                return
            found = linearise(SCORES[name], A, reference, rules)
            if incompleteness(found, A, reference) > 1e-6 and str(packet) in found.without_rule:
                return
    pytest.fail(f"{packet} is used by {sorted(uses[packet])} and none of them needs its rule")


def test_kernels_of_gpus_are_what_they_compute() -> None:
    """Fused attention, RMSNorm and BatchNorm kernels that no CPU has give the multipliers of the same thing by hand."""
    mask, weight = fixed(1, 1, 16, 16), fixed(4)
    calls: dict[str, tuple[tuple[Any, ...], Head]] = {
        "_scaled_dot_product_flash_attention": ((0.0, True), lambda A: by_hand(A, CAUSAL)),
        "_scaled_dot_product_efficient_attention": ((mask, False, 0.0, False), lambda A: by_hand(A, mask)),
        "_scaled_dot_product_cudnn_attention": ((None, False, 0.0, True, False), lambda A: by_hand(A, CAUSAL)),
        "_fused_rms_norm": (([4], weight, 1e-5), lambda A: F.rms_norm(tokens(A), [4], weight, 1e-5)),
        "cudnn_batch_norm": ((weight, None, None, None, True, 0.1, 1e-5),
                             lambda A: F.instance_norm(A, weight=weight, eps=1e-5)),
        "miopen_batch_norm": ((weight, None, None, None, True, 0.1, 1e-5),
                              lambda A: F.instance_norm(A, weight=weight, eps=1e-5)),
    }  # fmt: skip
    A = activations(1, 4, 4, 4)
    reference = activations(1, 4, 4, 4, seed=9)
    inputs: dict[str, Callable[[Tensor], list[Tensor]]] = {
        "_scaled": lambda A: [heads_of(A), heads_of(A) * 0.7, heads_of(A) + 0.2],
        "_fused": lambda A: [tokens(A)],
    }
    for packet in ON_GPUS:
        name = packet._qualified_op_name.split("::")[1]
        args, same = calls[name]
        start = next((make for key, make in inputs.items() if name.startswith(key)), lambda A: [A])
        with torch.enable_grad():
            leaf = A.clone().requires_grad_()
            pairs = [Pair(t, t0) for t, t0 in zip(start(leaf), start(reference), strict=True)]
            run = Interpreter(DEEPLIFT)
            out = run(packet.default, *pairs, *args)[0]
            (gradient,) = torch.autograd.grad(score(out.value).sum(), leaf)
        expected = linearise(lambda t, same=same: score(same(t)), A, reference, DEEPLIFT)
        torch.testing.assert_close(gradient, expected.multipliers, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(score(out.reference), expected.reference, rtol=1e-9, atol=1e-9)


SAME: dict[str, tuple[Head, Head]] = {
    **{f"{name}, module and function": (HEADS[f"{name} module"], FUNCTIONS[name])
       for name in MODULES if name in FUNCTIONS and name != "prelu"},
    **{f"{name} in place": (HEADS[f"{name} in-place module"], HEADS[f"{name} module"]) for name in IN_PLACE_MODULES},
    "glu": (HEADS["glu"], lambda A: A[:, :2] * A[:, 2:].sigmoid()),
    "addmm": (HEADS["addmm"], lambda A: 0.5 * A[:, 0] + 2 * (A[:, 1] @ A[:, 2])),
    "baddbmm": (HEADS["baddbmm"], lambda A: A[:, 0] + 0.3 * (A[:, 1] @ A[:, 2])),
    "mv": (HEADS["mv"], lambda A: (A[:, 0] * A[:, 1, :1]).sum(-1)),
    "dot": (HEADS["dot"], lambda A: (A[:, 0, 0] * A[:, 1, 1]).sum(-1, keepdim=True)),
    "sdpa": (attend, by_hand),
    "sdpa scale": (HEADS["sdpa scale"], lambda A: by_hand(A, scale=0.3)),
    "sdpa mask": (HEADS["sdpa mask"], lambda A: by_hand(A, fixed(16, 16))),
    "sdpa causal": (HEADS["sdpa causal"], lambda A: by_hand(A, CAUSAL)),
    "sdpa boolean": (HEADS["sdpa boolean mask"], lambda A: by_hand(A, (fixed(16, 16) > 0.4).double().log())),
    "group_norm": (lambda A: F.group_norm(A, 2), lambda A: F.layer_norm(A.unflatten(1, (2, 2)), (2, 4, 4))),
    "instance_norm": (F.instance_norm, lambda A: F.layer_norm(A, (4, 4))),
    "rms_norm": (lambda A: F.rms_norm(A, (4,), eps=1e-5), lambda A: A * ((A * A).mean(-1, True) + 1e-5).rsqrt()),
    "amax": (HEADS["amax"], lambda A: F.max_pool2d(A, 4)),
    "amin": (HEADS["amin"], lambda A: -(-A).amax((1, 3), keepdim=True)),
    "max": (HEADS["max"], lambda A: A.amax((1, 2, 3))[:, None]),
    "max_pool1d": (HEADS["max_pool1d"], lambda A: A.flatten(2).unfold(2, 3, 2).amax(-1)),
    "maximum": (HEADS["maximum"], lambda A: A[:, :2] + F.relu(A[:, 2:] - A[:, :2])),
    "log_softmax": (lambda A: A.log_softmax(1), lambda A: A - A.logsumexp(1, keepdim=True)),
    "softmax": (HEADS["softmax"], lambda A: A.log_softmax(1).exp()),
    "var": (lambda A: A.var(3), lambda A: (A - A.mean(3, True)).square().sum(3) / 3),
    "std": (HEADS["std"], lambda A: A.var((2, 3)).sqrt()),
    "std_mean": (HEADS["std_mean"], lambda A: torch.cat([A.std((2, 3)), A.mean((2, 3))], 1)),
    "norm": (lambda A: A.norm(dim=(2, 3)), lambda A: (A * A).sum((2, 3)).sqrt()),
    "division": (HEADS["ratio"], lambda A: A[:, :2] * (A[:, 2:] ** 2 + 0.5).reciprocal()),
    "normalize": (HEADS["normalize"], lambda A: A.flatten(1) / A.flatten(1).norm(dim=1, keepdim=True)),
    "detach": (HEADS["detach"], lambda A: A * A.mean((1, 2, 3), keepdim=True)),
    "writing": (HEADS["written over"], lambda A: (torch.cat([A[:, 1:2].relu(), A[:, 1:]], 1) + 1).clamp(-2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same_thing_has_the_same_multipliers(name: str) -> None:
    """However a function is written (module, fused kernel, in place, by hand), its multipliers are the same."""
    A, reference = activations(2, 4, 4, 4), activations(2, 4, 4, 4, seed=9)
    one, other = (
        linearise(lambda t, head=head: score(head(t)), A, reference, DEEPLIFT).multipliers for head in SAME[name]
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Each rule again, in slow loops over numbers


def multipliers(function: Callable[[Tensor], Tensor], a: list[float], a0: list[float]) -> list[float]:
    """The multipliers of a function of one row of numbers."""
    A, reference = (torch.tensor([row], dtype=torch.float64) for row in (a, a0))
    found: list[float] = linearise(lambda t: function(t[0]).reshape(1), A, reference, DEEPLIFT).multipliers[0].tolist()
    return found


a, a0, w = ([*map(float, activations(6, seed=seed))] for seed in (3, 4, 5))
W = torch.tensor(w, dtype=torch.float64)
N = range(6)


@pytest.mark.parametrize(
    ("function", "scalar"),
    [(F.relu, lambda x: max(x, 0.0)), (torch.tanh, math.tanh), (torch.exp, math.exp), (torch.abs, abs),
     (F.silu, lambda x: x / (1 + math.exp(-x))), (F.relu6, lambda x: min(max(x, 0.0), 6.0)),
     (F.gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2), (lambda x: x**3, lambda x: x * x * x),
     (F.hardswish, lambda x: x * min(max(x + 3, 0.0), 6.0) / 6), (F.softplus, lambda x: math.log1p(math.exp(x)))],
)  # fmt: skip
def test_elementwise_is_the_slope_of_the_secant(function: Head, scalar: Callable[[float], float]) -> None:
    """Each multiplier is w (f(a) - f(a0)) / (a - a0), number by number."""
    slow = [w[i] * (scalar(a[i]) - scalar(a0[i])) / (a[i] - a0[i]) for i in N]
    assert multipliers(lambda t: W @ function(t), a, a0) == pytest.approx(slow, rel=1e-9)


def test_max_pool_is_the_rule_of_two_places() -> None:
    """With c = max(out, out0), c - out0 goes to the place of A's maximum, out - c to that of the reference's."""
    slow = [0.0] * 6
    for window in range(4):  # three numbers wide, overlapping
        places = range(window, window + 3)
        at, at0 = max(places, key=lambda i: a[i]), max(places, key=lambda i: a0[i])
        c = max(a[at], a0[at0])
        slow[at] += w[window] * (c - a0[at0]) / (a[at] - a0[at])
        slow[at0] += w[window] * (a[at] - c) / (a[at0] - a0[at0])
    fast = multipliers(lambda t: W[:4] @ F.max_pool1d(t[None, None], 3, 1).flatten(), a, a0)
    assert fast == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_layer_norm_is_numerator_times_normaliser() -> None:
    """d(uq) = du q(A) + u(A0) dq with u = x - mean and q = 1 / sqrt(var + eps)."""

    def parts(x: list[float]) -> tuple[list[float], float, float]:
        u = [value - sum(x) / 6 for value in x]
        v = sum(value * value for value in u) / 6
        return u, v, 1 / math.sqrt(v + 1e-5)

    (u, v, q), (u0, v0, q0) = parts(a), parts(a0)
    slow = []
    for j in N:  # du_i = sum_j (1[i = j] - 1/6) dx_j, dv = sum_k (u_k + u0_k) du_k / 6
        dv = sum((u[k] + u0[k]) * ((k == j) - 1 / 6) for k in N) / 6
        slow.append(sum(w[i] * (((i == j) - 1 / 6) * q + u0[i] * (q - q0) / (v - v0) * dv) for i in N))
    assert multipliers(lambda t: W @ F.layer_norm(t, (6,)), a, a0) == pytest.approx(slow, rel=1e-9)


def test_cosine_is_numerator_times_normaliser() -> None:
    """d(uq) = du q(A) + u(A0) dq with u = <x, w> and q = 1 / |x|."""
    s, s0 = (sum(value * value for value in x) for x in (a, a0))
    u0, dq = sum(w[i] * a0[i] for i in N), (s**-0.5 - s0**-0.5) / (s - s0)
    slow = [w[j] * s**-0.5 + u0 * dq * (a[j] + a0[j]) for j in N]
    assert multipliers(lambda t: W @ F.normalize(t, dim=0), a, a0) == pytest.approx(slow, rel=1e-9)
    norm = sum(value * value for value in w) ** 0.5
    fast = multipliers(lambda t: F.cosine_similarity(t, W, dim=0), a, a0)
    assert fast == pytest.approx([value / norm for value in slow], rel=1e-9)


def test_softmax_is_exp_of_z_minus_logsumexp() -> None:
    """Secants of exp(z - L) and of L = log sum exp z, the latter with one shift for A and the reference."""
    shift = max(*a, *a0)
    e, e0 = ([math.exp(value - shift) for value in z] for z in (a, a0))
    L, L0 = shift + math.log(sum(e)), shift + math.log(sum(e0))
    to_L = [(L - L0) / (sum(e) - sum(e0)) * (e[j] - e0[j]) / (a[j] - a0[j]) for j in N]
    outer = [(math.exp(a[i] - L) - math.exp(a0[i] - L0)) / ((a[i] - L) - (a0[i] - L0)) for i in N]
    slow = [sum(w[i] * outer[i] * ((i == j) - to_L[j]) for i in N) for j in N]
    assert multipliers(lambda t: W @ t.softmax(0), a, a0) == pytest.approx(slow, rel=1e-9)
    assert multipliers(lambda t: t.logsumexp(0), a, a0) == pytest.approx(to_L, rel=1e-9)


def test_gate_and_bilinear_form_take_the_midpoint() -> None:
    """d(uv) = du (v + v0) / 2 + (u + u0) / 2 dv, for x * sigmoid(mean x) and for x x'."""
    m, m0 = sum(a) / 6, sum(a0) / 6
    g, g0 = 1 / (1 + math.exp(-m)), 1 / (1 + math.exp(-m0))
    through_gate = sum(w[i] * (a[i] + a0[i]) / 2 for i in N) * (g - g0) / (m - m0) / 6
    slow = [w[j] * (g + g0) / 2 + through_gate for j in N]
    assert multipliers(lambda t: W @ (t * t.mean().sigmoid()), a, a0) == pytest.approx(slow, rel=1e-9)
    M = fixed(6, 6)
    slow = [sum(float(M[i, j] + M[j, i]) * (a[j] + a0[j]) / 2 for j in N) for i in N]
    assert multipliers(lambda t: (M * (t[:, None] @ t[None])).sum(), a, a0) == pytest.approx(slow, rel=1e-9)


def test_standard_deviation_is_a_secant_of_a_sum_of_squares() -> None:
    """Var has slopes (c + c0) / (n - 1) in the centred c; std adds the secant of the root."""
    c, c0 = ([value - sum(x) / 6 for value in x] for x in (a, a0))
    v, v0 = (sum(value * value for value in x) / 5 for x in (c, c0))
    slow = [(v**0.5 - v0**0.5) / (v - v0) * (c[j] + c0[j]) / 5 for j in N]
    assert multipliers(lambda t: t.std(), a, a0) == pytest.approx(slow, rel=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Where numbers are hard


KINKS = {"relu": 0.0, "relu6": 6.0, "hardtanh": -0.5, "leaky_relu": 0.0, "elu": 0.0, "celu": 0.0, "selu": 0.0}
KINKS |= {"hardswish": 3.0, "hardsigmoid": -3.0, "hardshrink": 0.5, "softshrink": 0.5, "threshold": 0.3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("distance", [1e-5, 1e-3])
@pytest.mark.parametrize("name", KINKS)
def test_a_kink_between_close_ends_costs_nothing(name: str, distance: float, dtype: torch.dtype) -> None:
    """Sums add up where A and the reference lie on both sides of a kink, however close to it."""
    A, reference = ((KINKS[name] + distance * activations(1, 500, seed=seed)).to(dtype) for seed in (1, 2))
    found = linearise(lambda t: MODULES[name](t).sum(1), A, reference, DEEPLIFT)
    parts = found.multipliers.double() * (A.double() - reference.double())
    change = (MODULES[name](A).double() - MODULES[name](reference).double()).sum()
    assert float((parts.sum() - change).abs() / parts.abs().sum()) < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", ["sqrt", "rsqrt", "reciprocal", "log", "log2", "log10"])
def test_a_pole_near_both_ends_costs_nothing(name: str) -> None:
    """Small variances and norms (1e-8 here) are no reason to take a derivative for a secant, in float32 neither."""
    A, reference = (1e-8 * (0.1 + activations(1, 500, seed=seed).abs()).float() for seed in (1, 2))
    found = linearise(lambda t: getattr(torch, name)(t).sum(1), A, reference, DEEPLIFT)
    parts = found.multipliers.double() * (A.double() - reference.double())
    change = (getattr(torch, name)(A).double() - getattr(torch, name)(reference).double()).sum()
    assert float((parts.sum() - change).abs() / parts.abs().sum()) < 1e-6


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "gelu", "tanh", "exp"])
def test_close_ends_have_the_derivative_and_not_a_quotient_of_rounding_errors(name: str) -> None:
    """With A and the reference some roundings apart, m is f' to 1e-6; a bare quotient would be off by its size."""
    reference = activations(1, 50).float()
    A = reference + 1e-7 * activations(1, 50, seed=1).float()
    slopes = linearise(lambda t: FUNCTIONS[name](t).sum(1), A, reference, DEEPLIFT).multipliers
    leaf = reference.double().requires_grad_()
    (exact,) = torch.autograd.grad(FUNCTIONS[name](leaf).sum(), leaf)
    torch.testing.assert_close(slopes.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "attention by hand", "sdpa"])
def test_logits_thousands_apart(name: str, scale: float) -> None:
    """Softmax adds up where exponentials under- and overflow, in either direction."""
    A, reference = scale * activations(2, 4, 4, 4), scale * activations(2, 4, 4, 4, seed=9)
    for one, other in ((A, torch.zeros_like(A)), (torch.zeros_like(A), A), (A, reference)):
        assert incompleteness(linearise(SCORES[name], one, other, DEEPLIFT), one, other) < 1e-9


def test_a_zero_embedding_has_cosine_zero() -> None:
    """A vector over its norm is 0 at 0, on either side, and the sum still adds up."""
    A = activations(2, 6)
    for function in (
        lambda t: t / t.norm(dim=1, keepdim=True),
        lambda t: F.normalize(t),
        lambda t: t / (t * t).sum(1, True).sqrt(),
    ):
        found = linearise(lambda t, f=function: f(t) @ W, A, torch.zeros_like(A), DEEPLIFT)
        assert found.reference.tolist() == [0, 0]
        assert incompleteness(found, A, torch.zeros_like(A)) < 1e-12


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


REAL_SIZED = {
    "conv, relu, gap": lambda: nn.Sequential(nn.Conv2d(1280, 100, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "gap, linear, softmax": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), mlp(1280, 1000), nn.Softmax(1)),
    "max-pool, mlp": lambda: nn.Sequential(nn.MaxPool2d(2), mlp(1280 * 9, 64, 64, 10)),
    "se, silu, norm": lambda: nn.Sequential(nn.Conv2d(1280, 64, 1), nn.SiLU(), nn.GroupNorm(8, 64), mlp(64 * 49, 10)),
    "embedding": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1280 * 49, 128), nn.BatchNorm1d(128)),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL_SIZED)
def test_float32_on_heads_of_real_size(name: str) -> None:
    """1280 x 7 x 7 activations in float32: the error stays below 1e-6 of sum |alpha|."""
    torch.set_num_threads(2)
    head = REAL_SIZED[name]().eval()
    A = F.relu(torch.randn(2, 1280, 7, 7))
    found = linearise(lambda t: F.normalize(head(t))[:, 3], A, torch.zeros_like(A), DEEPLIFT)
    alpha = (found.multipliers * A).sum((2, 3), dtype=torch.float64)  # (B, C)
    change = found.value.double() - found.reference.double()
    error = (alpha.sum(1) - change).abs() / alpha.abs().sum(1)
    condition = alpha.abs().sum(1) / change.abs()
    assert float(error.max()) < 1e-6, f"{name}: error {error.tolist()} of sum |alpha|, condition {condition.tolist()}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_its_digits(dtype: torch.dtype) -> None:
    """float16 and bfloat16 heads run in their own precision: the sum is good to their few digits, alpha resembles."""
    head = nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.GELU(), nn.MaxPool2d(2), nn.GroupNorm(2, 16), mlp(64, 16, 5), nn.Softmax(1)
    )
    A = F.relu(torch.randn(4, 8, 6, 6))
    exact = linearise(lambda t: head(t)[:, 1], A, torch.zeros_like(A), DEEPLIFT).multipliers * A
    low = A.to(dtype)
    found = linearise(lambda t: head.to(dtype)(t)[:, 1].float(), low, torch.zeros_like(low), DEEPLIFT)
    parts = found.multipliers.float() * A
    error = (parts.flatten(1).sum(1) - (found.value - found.reference)).abs() / parts.abs().flatten(1).sum(1)
    assert found.multipliers.dtype == dtype
    assert found.without_rule == ()
    assert float(error.max()) < 8 * torch.finfo(dtype).eps
    assert float(F.cosine_similarity(parts.flatten(), exact.flatten(), dim=0)) > 0.99


# ---------------------------------------------------------------------------------------------------------------------
# What has no rule, what needs none, and what cannot be recorded


NAMED: dict[str, Head] = {
    "sort": lambda A: A.flatten(1).sort(1).values, "topk": lambda A: A.flatten(1).topk(5).values,
    "cumprod": lambda A: A.cumprod(1), "prod": lambda A: A.prod(1), "median": lambda A: A.median(1).values,
    "sign": torch.sign, "round": torch.round, "div": lambda A: A.div(0.3, rounding_mode="floor"),
    "_to_copy": lambda A: A.long().double(), "gt": lambda A: A * (A > 0.5), "addcmul": lambda A: torch.addcmul(A, A, A),
    "pow": lambda A: (A * A + 1) ** A, "convolution": lambda A: F.conv2d(A[:1], A[1:, :, :3, :3]).expand(2, -1, -1, -1),
    "native_batch_norm": lambda A: F.batch_norm(A, None, None, training=True),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_linear_and_has_no_rule_is_named(name: str) -> None:
    """A plain gradient through something that is not linear never goes unsaid."""
    A = activations(2, 4, 4, 4)
    found = linearise(lambda t: score(NAMED[name](t)), A, activations(2, 4, 4, 4, seed=9), DEEPLIFT)
    assert f"aten.{name}" in found.without_rule
    assert bool(found.multipliers.isfinite().all())


LINEAR: dict[str, Head] = {
    "bilinear": lambda A: F.interpolate(A, scale_factor=2, mode="bilinear"),
    "bicubic": lambda A: F.interpolate(A, size=7, mode="bicubic"),
    "nearest": lambda A: F.interpolate(A, size=3),
    "area": lambda A: F.interpolate(A, size=3, mode="area"),
    "grid_sample": lambda A: F.grid_sample(A, fixed(2, 3, 3, 2), align_corners=False),
    "pixel_shuffle": lambda A: F.pixel_shuffle(A, 2),
    "pixel_unshuffle": lambda A: F.pixel_unshuffle(A, 2),
    "channel_shuffle": lambda A: F.channel_shuffle(A, 2),
    "unfold": lambda A: F.unfold(A, 3),
    "fold": lambda A: F.fold(F.unfold(A, 3), (4, 4), 3),
    "roll, flip, rot": lambda A: A.roll(1, 2).flip(3).rot90(1, (2, 3)),
    "reflect": lambda A: F.pad(A, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda A: F.pad(A, (1, 1, 1, 1), mode="replicate"),
    "circular": lambda A: F.pad(A, (1, 1, 1, 1), mode="circular"),
    "avg_pool": lambda A: F.avg_pool2d(A, 3, 1, 1),
    "adaptive_avg_pool": lambda A: F.adaptive_avg_pool2d(A, 3),
    "lp pool of 1": lambda A: F.avg_pool2d(A, 2) * 4,
    "conv": lambda A: F.conv2d(A, fixed(2, 4, 3, 3), fixed(2)),
    "conv_transpose": lambda A: F.conv_transpose2d(A, fixed(4, 2, 3, 3)),
    "grouped conv": lambda A: F.conv2d(A, fixed(4, 1, 3, 3), groups=4, dilation=1, padding=1),
    "linear": lambda A: F.linear(A.mean((2, 3)), fixed(3, 4), fixed(3)),
    "bilinear form with a constant": lambda A: torch.einsum("bchw,cd->bdhw", A, fixed(4, 4)),
    "batch_norm": double(nn.BatchNorm2d(4)),
    "tril": lambda A: A.tril(),
    "cumsum": lambda A: A.cumsum(2),
    "diff": lambda A: A.diff(dim=2),
    "masked_fill": lambda A: A.masked_fill(fixed(4, 4) > 0.5, 0.0),
    "where": lambda A: torch.where(fixed(4, 4) > 0.5, A, -A),
    "scatter": lambda A: torch.zeros_like(A).scatter(1, fixed(2, 4, 4, 4).argsort(1), A),
    "index_add": lambda A: torch.zeros(2, 4, 4, 4).double().index_add(1, torch.tensor([1, 1, 0, 3]), A),
    "index_put": lambda A: A.index_put((torch.tensor([0]),), torch.ones(4, 4, 4).double()),
    "gather": lambda A: A.gather(1, (fixed(2, 4, 4, 4) * 4).long()),
    "index": lambda A: A[:, [2, 0], 1:, ::2],
    "chunk, cat, stack": lambda A: torch.stack([torch.cat(A.chunk(2, 1)[::-1], 1), A], 1),
    "repeat": lambda A: A.repeat_interleave(2, 1).tile(1, 1, 2, 1),
    "fft": lambda A: torch.fft.irfft2(torch.fft.rfft2(A) * fixed(4, 3), s=(4, 4)),
    "lerp": lambda A: torch.lerp(A, fixed(4, 4), 0.3),
    "trace, diagonal": lambda A: A.diagonal(0, 2, 3).sum(-1),
    "unique use of shapes": lambda A: A / A.shape[1] + A.numel() - A.new_zeros(2, 4, 1, 1),
    "isnan": lambda A: A.nan_to_num() if A.shape[0] else A,
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_never_named(name: str) -> None:
    """Linear operations need no rule: they add up with their own gradient, and no warning cries wolf."""
    A, reference = activations(2, 4, 4, 4), activations(2, 4, 4, 4, seed=9)
    found = linearise(lambda t: score(LINEAR[name](t)), A, reference, DEEPLIFT)
    assert found.without_rule == ()
    assert incompleteness(found, A, reference) < 1e-9


def test_flow_that_depends_on_values_gets_a_plain_gradient_and_says_so() -> None:
    """A branch on the activations cannot be recorded: the gradient at A comes back, with that as its name."""
    A = activations(2, 4, 4, 4)
    found = linearise(lambda t: score(t.relu_() if t.sum() > -1e9 else t), A, torch.zeros_like(A), DEEPLIFT)
    leaf = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf.relu()).sum(), leaf)
    torch.testing.assert_close(found.multipliers, gradient)
    assert found.without_rule == ("everything (RuntimeError when it was recorded)",)


def test_an_error_of_the_function_is_not_hidden() -> None:
    """What the caller's own function raises is raised, not turned into a gradient."""

    def broken(t: Tensor) -> Tensor:
        raise ValueError("class 99 does not exist")

    with pytest.raises(ValueError, match="class 99"):
        linearise(broken, activations(1, 4), activations(1, 4), DEEPLIFT)


def test_a_score_that_ignores_the_activations_has_no_multipliers() -> None:
    """Nothing depends on A: zeros, and no error."""
    A = activations(2, 4)
    found = linearise(lambda t: torch.ones(2, dtype=torch.float64), A, torch.zeros_like(A), DEEPLIFT)
    assert not found.multipliers.any()
    assert found.value.tolist() == [1, 1]


def test_a_function_may_be_recorded_in_two_parts() -> None:
    """What is large is recorded once, what changes from call to call again: the multipliers are those of the whole."""
    net = double(nn.Sequential(nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)))
    A, reference = activations(2, 4, 4, 4), activations(2, 4, 4, 4, seed=9)
    whole = linearise(lambda t: score(net(t).softmax(1)), A, reference, DEEPLIFT)
    parts = linearise(lambda z: score(z.softmax(1)), A, reference, DEEPLIFT, record(net, A))
    torch.testing.assert_close(parts.multipliers, whole.multipliers)
    torch.testing.assert_close(parts.value, whole.value)
    assert (parts.runs, whole.runs) == (2, 3)


def test_side_inputs_keep_their_values_in_both_passes() -> None:
    """What else crosses the cut (a skip connection) is the photo's own on the reference too."""
    A, side = activations(2, 4, 4, 4), activations(2, 4, 4, 4, seed=7)
    found = linearise(lambda t: score(F.relu(t + side) * side.sigmoid()), A, torch.zeros_like(A), DEEPLIFT)
    torch.testing.assert_close(found.reference, score(F.relu(side) * side.sigmoid()))
    assert incompleteness(found, A, torch.zeros_like(A)) < 1e-12


def test_weights_that_want_gradients_and_the_input_stay_as_they_are() -> None:
    """Nothing is written to the activations, the reference or the weights, in-place layers included."""
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3), nn.SELU(inplace=True)).double()
    A, reference = activations(2, 4, 4, 4), activations(2, 4, 4, 4, seed=9)
    before = A.clone(), reference.clone()
    found = linearise(lambda t: score(net(t)), A, reference, DEEPLIFT)
    assert incompleteness(found, A, reference) < 1e-9
    assert torch.equal(A, before[0])
    assert torch.equal(reference, before[1])
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_head_with_anything_not_linear_is_no_linear_head() -> None:
    """The closed form is for pooling and one linear layer alone, also where a clamp would never bite."""
    A = activations(1, 4, 4, 4)
    pooled: Head = lambda t: F.linear(t.mean((2, 3)), fixed(3, 4), fixed(3))  # noqa: E731
    head = linear_head(pooled, A)
    assert head is not None
    torch.testing.assert_close(head.weight, fixed(3, 4))
    assert linear_head(lambda t: pooled(t).clamp(-1e6, 1e6), A) is None
    assert linear_head(lambda t: pooled(F.relu(t + 1e6) - 1e6), A) is None
    assert linear_head(lambda t: pooled(t * t.mean()), A) is None


# ---------------------------------------------------------------------------------------------------------------------
# Other tables: a newcomer's LRP, guided backpropagation and excitation backpropagation


def own(run: Interpreter, op: Any, x: Pair) -> Pair:
    return Pair(op(x.value), op(x.reference))


def epsilon(run: Interpreter, op: Any, *args: Any) -> Pair:
    z = plain(run, op, *args)
    share = (z.value / (z.value + 0.01 * z.value.sign())).detach()
    return Pair(with_gradient(z.value, of=z.value * share), z.reference)


def positive(run: Interpreter, op: Any, bias: Tensor, x: Pair, weight: Tensor) -> Pair:
    """Alpha 1, beta 0: shares by the positive weights alone, for inputs that are not negative."""
    z = plain(run, op, bias, x, weight)
    share = x.value @ weight.clamp(min=0)
    return Pair(with_gradient(z.value, of=share * (z.value / share).detach()), z.reference)


def guided(run: Interpreter, op: Any, x: Pair) -> Pair:
    incoming = op(x.value)
    incoming.register_hook(lambda gradient: gradient.clamp(min=0))
    return Pair(incoming, op(x.reference))


def two_layers() -> tuple[Tensor, Tensor, Tensor, Tensor, Head]:
    W1, b1, W2, b2 = fixed(5, 6) - 0.5, fixed(5) - 0.5, fixed(1, 5) - 0.3, fixed(1)
    return W1, b1, W2, b2, lambda t: F.linear(F.relu(F.linear(t, W1, b1)), W2, b2)[:, 0]


def test_lrp_epsilon_is_a_table_of_two_rules() -> None:
    """LRP-epsilon: R_i = sum_j x_i w_ij / (z_j + eps sign z_j) R_j, layer by layer in loops, equals m x."""
    W1, b1, W2, b2, function = two_layers()
    x = torch.tensor([a], dtype=torch.float64)
    found = linearise(function, x, torch.zeros_like(x), {aten.relu: own, aten.addmm: epsilon})
    z1 = [sum(a[i] * float(W1[j, i]) for i in N) + float(b1[j]) for j in range(5)]
    h = [max(z, 0.0) for z in z1]
    y = sum(h[j] * float(W2[0, j]) for j in range(5)) + float(b2)
    R = [h[j] * float(W2[0, j]) / (y + 0.01 * math.copysign(1, y)) * y for j in range(5)]
    slow = [sum(a[i] * float(W1[j, i]) / (z1[j] + 0.01 * math.copysign(1, z1[j])) * R[j] for j in range(5)) for i in N]
    assert (found.multipliers[0] * x[0]).tolist() == pytest.approx(slow, rel=1e-9)


def test_lrp_alpha_beta_and_excitation_backprop_are_tables_of_two_rules() -> None:
    """Alpha 1, beta 0 (excitation backpropagation's shares): R_i = sum_j x_i w+_ij / sum_k x_k w+_kj R_j."""
    W1, b1, W2, _, function = two_layers()
    x = torch.tensor([a], dtype=torch.float64).abs()
    found = linearise(function, x, torch.zeros_like(x), {aten.relu: own, aten.addmm: positive})
    p1, p2 = W1.clamp(min=0), W2.clamp(min=0)
    h = F.relu(x[0] @ W1.T + b1)
    R = [float(h[j] * p2[0, j] / (h @ p2[0]) * function(x)) for j in range(5)]
    slow = [sum(float(x[0, i] * p1[j, i] / (x[0] @ p1[j])) * R[j] for j in range(5)) for i in N]
    assert (found.multipliers[0] * x[0]).tolist() == pytest.approx(slow, rel=1e-9)


def test_guided_backprop_is_a_table_of_one_rule() -> None:
    """Guided backpropagation: ReLU passes what is positive in both directions."""
    W1, b1, W2, _, function = two_layers()
    x = torch.tensor([a], dtype=torch.float64)
    found = linearise(function, x, torch.zeros_like(x), {aten.relu: guided})
    open_ = (x[0] @ W1.T + b1 > 0) & (W2[0] > 0)
    slow = [sum(float(W2[0, j] * W1[j, i]) for j in range(5) if open_[j]) for i in N]
    assert found.multipliers[0].tolist() == pytest.approx(slow, rel=1e-9)
