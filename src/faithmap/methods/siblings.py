"""LIFT-CAM's siblings: other coefficients for a layer's channels, by LIME and by relevance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Query, Result, unruled
from faithmap.methods.cam import ActivationMap
from faithmap.methods.coalitions import worth_of
from faithmap.methods.registry import register
from faithmap.rules import relevance
from faithmap.rules.lrp import Rule, lrp


@register("lime-cam")
@dataclass(frozen=True)
class LIMECAM(ActivationMap):
    """Coefficients of LIME over the channels: a linear model of the score on random coalitions, near the whole.

    ``min over b, alpha of sum_j pi_j (v(z_j) - b - <alpha, z_j>)^2 + ridge |alpha|^2`` over coalitions z_j that hold
    each channel with probability 1/2 (the first holds all), weighed by ``pi = exp(-d^2 / width^2)`` with the cosine
    distance ``d = 1 - sqrt(|z| / C)`` to the whole. Absent channels are 0. The map is ``sum_k alpha_k up(A_k)``.

    Args:
        samples: coalitions, one run of the tail each; as many as channels by default. That is one fewer than there are
            unknowns, so that the ridge decides about the rest: more samples come nearer to the channels' effects.
        width: of the kernel, in cosine distances.
        ridge: penalty on the squared coefficients; 0 takes the shortest of the best fits.
        layer: target layer; the model's by default.

    Raises:
        ValueError: samples is below 2, width not positive, or ridge negative.

    Source: Ribeiro et al. 2016, arXiv 1602.04938, eq. 1 and 2; over channels Jung and Oh 2021, arXiv 2102.05228,
        section 4 (LIME-CAM).

    Examples:
        >>> import faithmap as fm
        >>> LIMECAM(samples=20)(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    samples: int | None = None
    width: float = 0.25
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.samples is not None and self.samples < 2) or not self.width > 0 or self.ridge < 0:
            raise ValueError(
                "lime-cam takes samples >= 2 (None: as many as channels), width > 0 and ridge >= 0: "
                f"got samples={self.samples}, width={self.width}, ridge={self.ridge}"
            )

    def weights(self, query: Query) -> Tensor:
        """The linear model's coefficients."""
        channels = query.split.A.shape[1]
        count = max(2, self.samples or channels)
        present = torch.stack([torch.rand(count, channels, generator=g) < 0.5 for g in query.generators(self.name)])
        present[:, 0] = True  # (B, samples, C)
        scores = worth_of(query, len(query) * count, lambda i: (present[i // count, i % count], i // count))
        # On the CPU, for only there least squares has an answer where there are fewer equations than unknowns.
        fits = [self._fit(z.double(), v) for z, v in zip(present, scores.view(len(query), count).cpu(), strict=True)]
        return torch.stack(fits).to(scores.device)

    def _fit(self, z: Tensor, v: Tensor) -> Tensor:
        """The coefficients ``(C,)`` of scores v ``(n,)`` on coalitions z ``(n, C)``, by least squares in float64."""
        if not bool(v.isfinite().all()):
            return torch.full_like(z[0], torch.nan)  # LAPACK would refuse; the map's reason tells
        pi = torch.exp(-((1 - z.mean(dim=1).sqrt()) ** 2) / self.width**2)
        pi = pi / pi.sum()
        total = len(z)  # weights of mean 1: the ridge means the same for every width
        v = v - v[0]  # what is constant then has coefficients of exactly 0
        z, v = z - pi @ z, v - pi @ v  # fits the intercept, which carries no penalty
        root = (pi * total).sqrt()
        penalty = math.sqrt(self.ridge) * torch.eye(z.shape[1], dtype=z.dtype) if self.ridge else z[:0]
        left = torch.cat([root[:, None] * z, penalty])
        right = torch.cat([root * v, v.new_zeros(len(penalty))])
        # The ridge makes the columns independent. Not gelsy: it does not give the same bits twice.
        driver = "gels" if self.ridge else "gelsd"
        solution: Tensor = torch.linalg.lstsq(left, right[:, None], driver=driver).solution
        return solution[:, 0]


@register("lrp-cam")
@dataclass(frozen=True)
class LRPCAM(ActivationMap):
    """Coefficients by layer-wise relevance propagation through the head: what reaches each channel of the score.

    ``alpha_k = sum_ij R_kij``, the relevance of the activations A_kij when the score is handed down by the rule; the
    map is ``sum_k alpha_k up(A_k)``. The coefficients add up to the score less what biases and epsilon absorb; those of
    lift-cam add up to what the score is above that of no channels at all. Behind global average pooling and one linear
    layer both are w_k mean(A_k), up to epsilon.

    Args:
        rule: "epsilon" for all layers, "epsilon-plus" (z+ for convolutions, epsilon for dense layers), or
            "alpha1-beta0" for all layers.
        epsilon: what the epsilon rule adds to the size of every layer's outputs.
        layer: target layer; the model's by default.

    Raises:
        ValueError: epsilon is negative.

    Source: Bach et al. 2015, eq. 58 to 60 (the rules); as CAM coefficients Jung and Oh 2021, arXiv 2102.05228,
        section 4 (LRP-CAM).

    Examples:
        >>> import faithmap as fm
        >>> LRPCAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    rule: Rule = "epsilon"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise ValueError(f"lrp-cam takes epsilon >= 0: got epsilon={self.epsilon}")

    def attribute(self, query: Query) -> Result:
        """One backward pass through the tail by the rule."""
        target, A = query.target, query.split.A
        found = relevance(lambda a: target(query.split.tail(a)), A, lrp(self.rule, self.epsilon))
        query.count_tail(found)
        alpha = found.multipliers.double().sum(dim=(2, 3))
        # There is nothing to hand down of a score that is not finite; rules for 0 / 0 would make numbers of it.
        alpha = alpha.where(found.value.isfinite()[:, None], torch.nan)
        return self.weighted(query, alpha, notes=unruled(found.without_rule))
