"""LIFT-CAM: SHAP values of activation maps, by DeepLIFT, as the coefficients of a class activation map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Query, Result, unruled
from faithmap.methods.cam import ActivationMap, closed_form
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
        return self.weighted(query, alpha, notes=notes).adding_up(alpha, change)


def coefficients(query: Query) -> tuple[Tensor, Tensor, dict[str, str]]:
    """LIFT-CAM's coefficients ``(B, C)``, the change y(A) - y(0) they add up to ``(B,)``, both float64, and how."""
    known, A = closed_form(query), query.split.A
    nothing = torch.zeros_like(A)
    if known is not None:
        query.cost.tail_forward += len(query)
        return known, query.scores.double() - query.tail_scores(nothing).double(), {"coefficients": "closed form"}
    target = query.target
    found = linearise(lambda a: target(query.split.tail(a)), A, nothing, DEEPLIFT)
    query.count_tail(found)
    alpha = (found.multipliers.double() * A.double()).sum(dim=(2, 3))
    notes = {"coefficients": "replaced rules", **unruled(found.without_rule)}
    return alpha, found.value.double() - found.reference.double(), notes
