"""Guided backpropagation as a table of one rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from faithmap.rules.deeplift import DEEPLIFT
from faithmap.rules.engine import Interpreter, Pair, Rules, own, packets, plain


class _Guide(torch.autograd.Function):
    """The same value; its gradient changed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None


def guide(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """X itself, with ``change`` applied to the gradient that comes back to it."""
    return cast(Tensor, _Guide.apply(x, change))  # type: ignore[no-untyped-call]


def _guided(run: Interpreter, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A rectifier passes what is positive in both directions: ``m_x = f'(x) [x > 0] max(m, 0)``."""
    if not isinstance(x, Pair):
        return plain(run, op, x, *args, **kwargs)
    positive = x.value.detach() > 0
    entering = Pair(guide(x.value, lambda g: torch.where(positive, g, 0)), x.reference)
    out = own(run, op, entering, *args, **kwargs)
    return Pair(guide(out.value, lambda g: g.clamp(min=0)), out.reference)


def _clamped(run: Interpreter, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A clamp is a rectifier where it cuts at 0 (ReLU6, ``clamp(min=0)``)."""
    return (_guided if args and args[0] == 0 else own)(run, op, x, *args, **kwargs)


# Rectifiers, those that leak included; all else passes its own gradient, which is the method's.
GUIDED: Rules = {
    **dict.fromkeys(DEEPLIFT, own),
    **dict.fromkeys(packets("relu leaky_relu _prelu_kernel elu celu gelu silu mish hardswish"), _guided),
    **dict.fromkeys(packets("hardtanh clamp clamp_min threshold"), _clamped),
}
