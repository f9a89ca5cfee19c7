"""LIFT-CAM: SHAP values of activation maps, by DeepLIFT, as the coefficients of a class activation map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Query, Result
from faithmap.methods.cam import ActivationMap, class_weights
from faithmap.methods.registry import register
from faithmap.rules import DEEPLIFT, linearise


@register("lift-cam")
@dataclass(frozen=True)
class LIFTCAM(ActivationMap):
    """SHAP values of the activation maps, approximated by DeepLIFT through the head, as CAM coefficients.

    The explanation model is additive in the channels, ``y(A with channels z') = phi_0 + sum_k phi_k z'_k``. Its
    coefficients are SHAP values, approximated by ``alpha_k = sum_ij`` of DeepLIFT's contribution of A_kij with
    reference 0; the map is ``sum_k alpha_k up(A_k)``.

    Behind global average pooling and one linear layer, alpha_k = w_k mean(A_k) are the SHAP values themselves, without
    a backward pass. Through every other head one backward pass with replaced rules gives coefficients that add up to
    y(A) - y(0); the error of that sum, and its condition sum|alpha| / |y(A) - y(0)|, come with every map.

    Args:
        layer: target layer; the model's by default.

    Source: Jung and Oh 2021, arXiv 2102.05228, eq. 4 to 8.

    Examples:
        >>> import faithmap as fm
        >>> att = fm.explain(fm.load(), torch.rand(1, 3, 224, 224), method="lift-cam")
        >>> bool(att.completeness_error[0] < 1e-4)
        True
    """

    additive = True

    def attribute(self, query: Query) -> Result:
        """Coefficients by the closed form where there is one, else by replaced rules."""
        alpha, change, notes = coefficients(query)
        return self.weighted(
            query,
            alpha,
            completeness_error=(alpha.sum(dim=1) - change).abs(),
            condition=alpha.abs().sum(dim=1) / change.abs(),
            notes=notes,
        )


def coefficients(query: Query) -> tuple[Tensor, Tensor, dict[str, str]]:
    """LIFT-CAM's coefficients ``(B, C)``, the change y(A) - y(0) they add up to ``(B,)``, both float64, and how."""
    A = query.split.A.double()
    weights = class_weights(query)
    if weights is not None:
        nothing = query.tail_scores(torch.zeros_like(query.split.A))
        query.cost.tail_forward += len(query)
        change = query.scores.double() - nothing.double()
        return weights.double() * A.mean(dim=(2, 3)), change, {"coefficients": "closed form"}
    target = query.target
    found = linearise(lambda a: target(query.split.tail(a)), query.split.A, torch.zeros_like(query.split.A), DEEPLIFT)
    # One run of the tail belongs to the forward: that which gave the outputs, where they were asked for.
    query.cost.tail_forward += (found.runs - ("outputs" not in query.__dict__)) * len(query)
    query.cost.tail_backward += len(query)
    query.__dict__.setdefault("scores", found.value)
    how = {"coefficients": "replaced rules"}
    if found.without_rule:
        how["plain gradient through"] = ", ".join(found.without_rule)
    return (found.multipliers.double() * A).sum(dim=(2, 3)), found.value.double() - found.reference.double(), how
