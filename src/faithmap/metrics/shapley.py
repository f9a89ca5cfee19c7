"""SHAP error: how near a method's coefficients come to the SHAP values of the layer's channels.

The explanation model behind a class activation map ``sum_k alpha_k up(A_k)`` is ``y(z') = phi_0 + sum_k alpha_k z'_k``,
z'_k telling whether channel k is present; its best coefficients are SHAP values (Jung and Oh 2021). What is compared
are the coefficients as they weigh the channels. Those of LIFT-CAM, SHAP-CAM, Owen-CAM, LIME-CAM and LRP-CAM are meant
as such values; those of Ablation-CAM are, as shares of the score. Grad-CAM's are scores per unit of activation, and
Score-CAM's shares of 1: their error counts the units too, and only the cosine is theirs. It forgives one factor for all
channels, but none for each channel: that a channel's weight leaves out how active it is remains a difference, for the
map then counts its activity once, and LIFT-CAM's twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faithmap.metrics.base import Better, Case, Measured, Metric
from faithmap.metrics.registry import register


def shap_error(coefficients: Tensor, values: Tensor, errors: Tensor) -> Tensor:
    """The distance of coefficients to SHAP values as a share of the values' norm, ``|alpha - phi| / |phi|``.

    The sampling variance of the values is taken off the squared distance, ``sum (alpha - phi)^2 - error^2``: exact
    coefficients have about 0 however roughly the values are known.

    Args:
        coefficients: ``(B, C)``.
        values: of reference, ``(B, C)``.
        errors: their standard errors, ``(B, C)``; 0 where they are exact.

    Returns:
        ``(B,)``, float64; NaN where the values are all 0.

    Raises:
        ValueError: the three do not have one shape.

    Examples:
        >>> values = torch.tensor([[3.0, 4.0]])
        >>> shap_error(torch.tensor([[3.0, 3.0]]), values, 0 * values)
        tensor([0.2000], dtype=torch.float64)
    """
    alpha, phi, error = _doubles(coefficients, values, errors)
    squares = ((alpha - phi) ** 2 - error**2).sum(dim=1).clamp_min(0)
    return squares.sqrt() / _positive(phi.norm(dim=1))


def shap_cosine(coefficients: Tensor, values: Tensor, errors: Tensor) -> Tensor:
    """How far coefficients point away from SHAP values, whatever their scale: ``1 - <alpha, phi> / (|alpha| |phi|)``.

    The sampling variance of the values is taken off their squared norm, which it would make too large.

    Args:
        coefficients: ``(B, C)``.
        values: of reference, ``(B, C)``.
        errors: their standard errors, ``(B, C)``; 0 where they are exact.

    Returns:
        ``(B,)`` in [0, 2], float64; NaN where the coefficients are all 0, or the values no more than their errors.

    Raises:
        ValueError: the three do not have one shape.

    Examples:
        >>> values = torch.tensor([[3.0, 4.0]])
        >>> shap_cosine(torch.tensor([[4.0, 3.0]]), values, 0 * values)
        tensor([0.0400], dtype=torch.float64)
    """
    alpha, phi, error = _doubles(coefficients, values, errors)
    norms = alpha.norm(dim=1) * (phi**2 - error**2).sum(dim=1).clamp_min(0).sqrt()
    return 1 - ((alpha * phi).sum(dim=1) / _positive(norms)).clamp(-1, 1)


@register("shap-error")
@dataclass(frozen=True)
class ShapError(Metric):
    """How far coefficients of channels lie from SHAP values: in the score's units, and whatever their scale.

    "shap-error" is a distance, see `shap_error`; "shap-cosine" forgives the scale, see `shap_cosine`; what the values
    themselves are uncertain by, ``|errors| / |values|``, comes as "shap-sampling-error". A method without one
    coefficient per channel has no value.

    Args:
        orders: pairs of random orders of the channels, each walked forwards and backwards, from which whoever measures
            samples the values where no closed form or enumeration gives them.

    Raises:
        ValueError: orders is below 2, which leaves no standard error.

    Source: coefficients held against SHAP values: Jung and Oh 2021, arXiv 2102.05228.

    Examples:
        >>> ShapError(orders=400).parts
        {'shap-error': 'lower', 'shap-cosine': 'lower', 'shap-sampling-error': 'neither'}
    """

    orders: int = 64

    parts: ClassVar[Mapping[str, Better]] = {
        "shap-error": "lower",
        "shap-cosine": "lower",
        "shap-sampling-error": "neither",
    }
    needs = frozenset({"coefficients", "shapley"})
    task = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orders < 2:
            raise ValueError(f"shap-error takes at least 2 pairs of orders: got {self.orders}")

    def measure(self, case: Case) -> Measured:
        """Of what the case holds; no evaluation."""
        values, errors = (t.double() for t in self._given(case.shapley, "shapley"))
        found = torch.full_like(values, torch.nan) if case.coefficients is None else case.coefficients
        sampling = errors.norm(dim=1) / _positive(values.norm(dim=1))
        return Measured(
            {
                "shap-error": shap_error(found, values, errors),
                "shap-cosine": shap_cosine(found, values, errors),
                "shap-sampling-error": sampling,
            }
        )


def _doubles(*given: Tensor) -> tuple[Tensor, ...]:
    shapes = [tuple(t.shape) for t in given]
    if len(set(shapes)) > 1 or given[0].ndim != 2:
        raise ValueError(f"coefficients, values and errors are (B, C) each: got {', '.join(map(str, shapes))}")
    return tuple(t.double() for t in given)


def _positive(lengths: Tensor) -> Tensor:
    """NaN where it is 0, by which nothing is divided."""
    return torch.where(lengths > 0, lengths, torch.nan)
