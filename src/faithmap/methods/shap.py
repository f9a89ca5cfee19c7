"""SHAP values of channels: coefficients of a class activation map, by questions to the tail alone.

The players of the game are the C channels of the target layer, and the worth of a coalition S is the score with all
other channels set to 0, ``v(S) = y(A with channels S)``. A channel's SHAP value is what it adds when it joins, averaged
over all orders in which the channels may join; the values add up to ``y(A) - y(0)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.batching import chunked
from faithmap.methods.base import Query, Result, unruled
from faithmap.methods.cam import ActivationMap, closed_form
from faithmap.methods.coalitions import draw_ranks, ends_of, worth_of
from faithmap.methods.registry import register
from faithmap.rules import DEEPLIFT, linearise
from faithmap.sampling import Moments

LEAST_PAIRS = 8
"""Pairs of orders before shap-cam may stop: a standard error of fewer draws is too rough to stop by."""

FAINT = 1e-3
"""What is left of absent channels between owen-cam's first and last step, for there is no derivative on a dead map: a
ReLU or a max-pool has to see the channel's own shape."""


@register("shap-cam")
@dataclass(frozen=True)
class ShapCAM(ActivationMap):
    """SHAP values of the channels themselves, exact or sampled with their standard errors, as CAM coefficients.

    ``alpha_k = mean over orders of v(k and those before k) - v(those before k)``; the map is ``sum_k alpha_k up(A_k)``.

    Behind global average pooling and one linear layer the closed form w_k mean(A_k) is exact. Up to ``exact_up_to``
    channels all 2^C coalitions are asked. Otherwise orders are drawn, and each is walked backwards too, which cancels
    what a channel adds more by joining early than late: a pair of orders costs 2 (C - 1) runs of the tail. A sample
    stops once its largest standard error is below ``tolerance`` times its largest value, after 8 pairs at the earliest
    and after ``orders`` pairs at the latest. The coefficients add up to y(A) - y(0) by construction.

    Args:
        orders: the most pairs of orders per sample.
        tolerance: the standard error that is good enough, as a share of the largest coefficient; 0 never stops.
        exact_up_to: the most channels for which all coalitions are asked, at most 20.
        layer: target layer; the model's by default.

    Raises:
        ValueError: orders is below 2, tolerance negative, or exact_up_to not within 0 to 20.

    Source: Shapley 1953; Castro et al. 2009 (sampled orders); Mitchell et al. 2022, arXiv 2104.12199
        (antithetic orders); as CAM coefficients Jung and Oh 2021, arXiv 2102.05228, eq. 4 to 6.

    Examples:
        >>> import faithmap as fm
        >>> found = ShapCAM().run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> found.notes["coefficients"], float(found.coefficients_error.max())
        ('closed form', 0.0)
    """

    orders: int = 16
    tolerance: float = 0.02
    exact_up_to: int = 12

    additive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orders < 2 or self.tolerance < 0 or not 0 <= self.exact_up_to <= 20:
            raise ValueError(
                "shap-cam takes orders >= 2, tolerance >= 0 and exact_up_to from 0 to 20: "
                f"got orders={self.orders}, tolerance={self.tolerance}, exact_up_to={self.exact_up_to}"
            )

    @property
    def steps(self) -> int:
        """The pairs of orders."""
        return self.orders

    def attribute(self, query: Query) -> Result:
        """By the closed form where there is one, by enumeration of few channels, else by sampling."""
        known = closed_form(query)
        if known is not None:
            nobody, everybody = ends_of(query)
            return _exact(query, known, everybody - nobody, "closed form")
        if query.split.A.shape[1] <= max(1, self.exact_up_to):
            return _exact(query, *_enumerated(query), "enumeration")
        return self._sampled(query)

    def _sampled(self, query: Query) -> Result:
        """Pair after pair of orders for the samples that are not done."""
        ends, draw, channels = ends_of(query), query.generators(self.name), query.split.A.shape[1]
        found: list[tuple[Tensor, ...]] = [()] * len(query)
        rows, alpha, maps = torch.arange(len(query)), Moments(), Moments()
        while len(rows):
            pairs = _joined(query, rows, draw_ranks([draw[row] for row in rows.tolist()], channels), ends)
            alpha.add(pairs[None])
            maps.add(_map(query, rows, pairs)[None])
            done = self._done(alpha).cpu()
            for i in done.nonzero().flatten().tolist():
                found[int(rows[i])] = (alpha.mean[i], alpha.standard_error[i], maps.standard_error[i])
            rows, alpha, maps = rows[~done], alpha.select(~done), maps.select(~done)
            if query.progress:
                query.progress((len(query) - len(rows)) * self.orders + len(rows) * alpha.count, 0)
        mean, error, map_error = (torch.stack(parts) for parts in zip(*found, strict=True))
        return _additive(query, mean, ends[1] - ends[0], {"coefficients": "sampled orders"}, error, map_error)

    def _done(self, alpha: Moments) -> Tensor:
        """Which samples need no further pair ``(m,)``: precise enough, or broken."""
        if alpha.count >= self.orders:
            return torch.ones(len(alpha.mean), dtype=torch.bool)
        largest = alpha.mean.abs().amax(dim=1)
        precise = alpha.standard_error.amax(dim=1) <= self.tolerance * largest
        return (precise & (alpha.count >= LEAST_PAIRS)) | ~largest.isfinite()


@register("owen-cam")
@dataclass(frozen=True)
class OwenCAM(ActivationMap):
    """SHAP values of the channels by a few backward passes: DeepLIFT between coalitions that grow along random orders.

    A SHAP value is an integral over Owen's multilinear extension, ``phi_k = int_0^1 E[dv/dz_k at Z_t] dt`` with
    coalitions Z_t that hold a share t of the channels. Along an order the coalition grows in ``levels`` equal steps,
    and DeepLIFT's multipliers m from one step's coalition to the next stand for the derivative in between, for all
    channels at once: ``alpha_k = mean over orders and steps of <m, A_k>``. Every order is walked backwards too. What is
    missing from y(A) - y(0) is shared equally among the channels that are not 0, which can only bring alpha nearer
    to values that add up to it.

    One order of one level is LIFT-CAM. Behind global average pooling and one linear layer the closed form
    w_k mean(A_k) is exact. Elsewhere the estimate has a bias, for a channel's own part of the curvature is taken along
    the coalition's; the standard errors know the sampling alone. Against sampled SHAP values, `benchmarks/shapley.py`,
    median distances as shares of their norm, with 97 runs of the tail forward and 32 back, lift-cam's in brackets: .05
    (.08) for SqueezeNet's logits, .30 (.36) for its probabilities, .13 (.31) for MobileFaceNet's similarities.

    Args:
        orders: pairs of orders; a pair costs 2 levels runs of DeepLIFT.
        levels: steps from no channel to all.
        layer: target layer; the model's by default.

    Raises:
        ValueError: orders or levels is below 1.

    Source: Owen 1972 (multilinear extension); Okhrati and Lipani 2021, arXiv 2010.12082 (sampling it, each coalition
        with its complement); the step by DeepLIFT follows Jung and Oh 2021, arXiv 2102.05228, eq. 7; equal shares of
        what is missing: Ruiz et al. 1998.

    Examples:
        >>> import faithmap as fm
        >>> att = fm.explain(fm.load(), torch.rand(1, 3, 224, 224), method="owen-cam")
        >>> bool(att.completeness_error[0] < 1e-4)
        True
    """

    orders: int = 4
    levels: int = 4

    additive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orders < 1 or self.levels < 1:
            raise ValueError(
                f"owen-cam takes orders >= 1 and levels >= 1: got orders={self.orders}, levels={self.levels}"
            )

    def attribute(self, query: Query) -> Result:
        """By the closed form where there is one, else by multipliers along drawn orders."""
        known, A, (nobody, everybody) = closed_form(query), query.split.A, ends_of(query)
        change = everybody - nobody
        if known is not None:
            return _exact(query, known, change, "closed form")
        everyone, draw = torch.arange(len(query)), query.generators(self.name)
        ranks = torch.stack([draw_ranks(draw, A.shape[1]) for _ in range(self.orders)], dim=1)  # (B, orders, 2, C)
        pairs, notes = self._followed(query, ranks)
        live = (A != 0).flatten(2).any(dim=2)[:, None]  # (B, 1, C); a channel that is 0 adds nothing to any coalition
        missing = change[:, None] - pairs.sum(dim=2)  # (B, orders)
        pairs = pairs + live * (missing / live.sum(dim=2).clamp_min(1))[..., None]
        alpha, maps = Moments(), Moments()
        for pair in pairs.unbind(dim=1):
            alpha.add(pair[None])
            maps.add(_map(query, everyone, pair)[None])
        errors = (alpha.standard_error, maps.standard_error) if self.orders > 1 else (None, None)
        return _additive(query, alpha.mean, change, notes, *errors)

    def _followed(self, query: Query, ranks: Tensor) -> tuple[Tensor, dict[str, str]]:
        """What each pair of orders gives ``(B, orders, C)``, and what had no rule."""
        A, target = query.split.A, query.target
        shape = (*ranks.shape[:3], self.levels)  # of all runs: sample, pair, direction, level
        without_rule: dict[str, None] = {}

        def run(i: Tensor) -> Tensor:
            rows, pair, way, level = torch.unravel_index(i, shape)
            rank, whole = ranks[rows, pair, way], A[rows.to(A.device)]
            lower, upper = (whole * self._present(rank, level + up).to(A)[..., None, None] for up in (0, 1))
            asked = target.select(rows)  # not while it is recorded: a target looks at its indices
            found = linearise(lambda a: asked(query.split.tail(a, rows)), upper, lower, DEEPLIFT)
            query.cost.tail_forward += found.runs * len(i)
            query.cost.tail_backward += len(i)
            without_rule.update(dict.fromkeys(found.without_rule))
            return (found.multipliers.double() * whole).sum(dim=(2, 3))  # (m, C)

        # Each run holds two feature maps, and what its way back needs.
        parts = torch.cat(list(chunked(run, math.prod(shape), max(1, query.tail_batch // 2))))
        notes = {"coefficients": "multipliers between coalitions", **unruled(without_rule)}
        return parts.view(*shape, -1).mean(dim=(2, 3)), notes

    def _present(self, rank: Tensor, level: Tensor) -> Tensor:
        """How much of each channel there is ``(m, C)`` at levels ``(m,)`` of orders ``(m, C)``; absent is `FAINT`."""
        share = level[:, None] / self.levels
        return torch.where(rank < share * rank.shape[1], 1.0, FAINT) * (share > 0)


# ---------------------------------------------------------------------------------------------------------------------
# The game


def _enumerated(query: Query) -> tuple[Tensor, Tensor]:
    """The SHAP values ``(B, C)`` by their definition, and the change they add up to ``(B,)``."""
    B, C = query.split.A.shape[:2]
    members = (torch.arange(2**C)[:, None] >> torch.arange(C) & 1).bool()  # (2^C, C)

    def coalitions(i: Tensor) -> tuple[Tensor, Tensor]:
        return members[i % 2**C], i // 2**C

    worth = worth_of(query, B * 2**C, coalitions).view(B, -1)
    # That a channel finds s others is s! (C - 1 - s)! of the C! orders.
    found = torch.tensor([1 / (C * math.comb(C - 1, s)) for s in range(C)], dtype=torch.float64)
    size = members.sum(dim=1, keepdim=True)
    parts = torch.where(members, found[(size - 1).clamp_min(0)], -found[size.clamp_max(C - 1)])
    worth = worth - worth[:, :1]  # what is constant then adds exactly 0
    return worth @ parts.to(worth.device), worth[:, -1]


def _joined(query: Query, rows: Tensor, ranks: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """What each channel of the samples ``rows (m,)`` adds when it joins, the mean of both ways, ``(m, C)``."""
    shape = (*ranks.shape[:2], ranks.shape[2] - 1)

    def coalitions(i: Tensor) -> tuple[Tensor, Tensor]:
        sample, way, before = torch.unravel_index(i, shape)
        return ranks[sample, way] <= before[:, None], rows[sample]

    between = worth_of(query, math.prod(shape), coalitions).view(shape)
    nobody, everybody = (end[rows.to(end.device)][:, None, None].expand(-1, 2, 1) for end in ends)
    added = torch.cat([nobody, between, everybody], dim=2).diff(dim=2)  # by rank
    return added.gather(2, ranks.to(added.device)).mean(dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# What comes of it


def _map(query: Query, rows: Tensor, alpha: Tensor) -> Tensor:
    """The maps of coefficients ``(m, C)`` of the samples ``rows (m,)``, ``(m, H, W)``; float64."""
    A = query.split.A[rows.to(alpha.device)].double()
    return query.upsample(torch.einsum("bc,bchw->bhw", alpha, A))


def _exact(query: Query, alpha: Tensor, change: Tensor, how: str) -> Result:
    error = torch.zeros_like(alpha)
    return _additive(query, alpha, change, {"coefficients": how}, error, torch.zeros_like(query.x[:, 0]))


def _additive(
    query: Query, alpha: Tensor, change: Tensor, notes: dict[str, str], error: Tensor | None, map_error: Tensor | None
) -> Result:
    """The maps of coefficients ``(B, C)`` with their errors, and how well they add up to the change ``(B,)``."""
    return ActivationMap.weighted(
        query,
        alpha,
        coefficients_error=error,
        standard_error=None if map_error is None else map_error.to(query.x.dtype),
        notes=notes,
    ).adding_up(alpha, change)
