"""Class activation maps: sums of a layer's activation maps with weights for the channels, or for each place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.targets import first_tensor


@dataclass(frozen=True)
class ActivationMap(Method):
    """A method whose map is ``sum_k w_k up(A_k)``: one weight per channel of the target layer, or one per place of it.

    Args:
        layer: target layer; the model's by default.
    """

    layer: str | None = None

    signed = True
    opposite: ClassVar[Literal["asked", "negated", "found", "none"]] = "negated"

    def attribute(self, query: Query) -> Result:
        """The sum, by the method's weights."""
        return self.weighted(query, self.weights(query))

    def weights(self, query: Query) -> Tensor:
        """What the activations are weighed with: ``(B, C)``, or ``(B, C, h, w)``."""
        raise NotImplementedError

    @staticmethod
    def weighted(query: Query, weights: Tensor, because: Mapping[str, Tensor] | None = None, **known: Any) -> Result:
        """The maps of weights ``(B, C)`` or ``(B, C, h, w)``, with causes of `why_constant` and what else is known."""
        found, A = (t.to(query.x.dtype) for t in (weights, query.split.A))
        index = "bc" if weights.ndim == 2 else "bchw"
        # Upsampling is linear, so that it comes after the sum.
        maps = query.upsample(torch.einsum(f"{index},bchw->bhw", found, A))
        coefficients = weights if weights.ndim == 2 else None
        return Result(maps, coefficients=coefficients, reasons=why_constant(query, weights, because), **known)


@register("cam")
@dataclass(frozen=True)
class CAM(ActivationMap):
    """The class's own weights of a head that is global average pooling and one linear layer: ``sum_k w_ck A_k``.

    Args:
        layer: target layer; the model's by default.

    Raises:
        ValueError: the head is another one, or the target is not affine in the network's outputs.

    Source: Zhou et al. 2016, eq. 1 and 2.

    Examples:
        >>> import faithmap as fm
        >>> CAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def weights(self, query: Query) -> Tensor:
        """Those of the linear layer."""
        found = class_weights(query)
        if found is None:
            raise ValueError(
                f"cam needs a head of global average pooling and one linear layer behind {query.layer!r}, and a target "
                f"that is affine in its outputs (Logit, LogitMargin, DotProduct; here {type(query.target).__name__}): "
                "use lift-cam or grad-cam, which take any"
            )
        return found


@register("grad-cam")
@dataclass(frozen=True)
class GradCAM(ActivationMap):
    """Channels weighed by their mean gradient: ``w_k = mean_ij dy/dA_kij``.

    Args:
        layer: target layer; the model's by default.

    Source: Selvaraju et al. 2017, eq. 1 and 2 (without the ReLU, which belongs to display).

    Examples:
        >>> import faithmap as fm
        >>> GradCAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def weights(self, query: Query) -> Tensor:
        """One backward pass through the tail."""
        return query.tail_gradient().mean(dim=(2, 3))


def why_constant(query: Query, weights: Tensor, because: Mapping[str, Tensor] | None = None) -> list[str]:
    """Why each map would be constant or undefined: the first cause that holds for a sample, "" where none does.

    Args:
        query: whose samples they are.
        weights: ``(B, C)`` or ``(B, C, h, w)``: dead activations, and weights without anything to weigh, are causes.
        because: further causes by what they say, and for which samples they hold ``(B,)``.
    """
    layer = f"layer {query.layer!r}"
    causes = {
        f"all activations of {layer} are 0": (query.split.A == 0).flatten(1).all(dim=1),
        **(because or {}),
        f"the target does not depend on {layer}": (weights == 0).flatten(1).all(dim=1),
    }
    return first_cause(causes)


def class_weights(query: Query) -> Tensor | None:
    """What each channel's mean adds to the score, ``(B, C)``, where head and target are linear; else None."""
    split = query.split  # first: the target may need the outputs, which then come from the tail
    head = query.cut.linear_head(split) if query.target.affine else None
    if head is None:
        return None
    outputs = first_tensor(query.outputs).detach().clone().requires_grad_()
    with torch.enable_grad():  # the same wherever an affine target is asked
        (direction,) = torch.autograd.grad(query.target(outputs).sum(), outputs)
    weights: Tensor = direction @ head.weight
    return weights


def closed_form(query: Query) -> Tensor | None:
    """What each channel adds to the score, ``w_k mean(A_k)``, ``(B, C)`` in float64, where head and target are linear.

    There it is the channel's SHAP value, and what the score loses without it; elsewhere None.
    """
    weights = class_weights(query)
    return None if weights is None else weights.double() * query.split.A.double().mean(dim=(2, 3))
