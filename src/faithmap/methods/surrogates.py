"""Surrogates: how the score depends on which superpixels of the picture are seen, as a linear model of it.

A coalition z says which segments are seen; the others are filled. Each method asks the network for the scores of many
coalitions, all pictures in one queue, and fits a linear model whose coefficients are painted on their segments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.pixels import filling, seed_grid, segment_means, superpixels


@dataclass(frozen=True)
class Surrogate(Method):
    """A method that asks for the scores of coalitions of superpixels.

    Args:
        segments: about how many superpixels.
        samples: coalitions per picture; those of a smaller number are the first of a larger one's.
        fill: what is seen of a hidden segment: "segment", its own mean colour, "black", "mean", the network's mean
            colour, or "blur", the blurred picture.
    """

    segments: int = 50
    samples: int = 1000
    fill: Literal["segment", "black", "mean", "blur"] = "segment"

    signed = True
    opposite = "negated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segments < 2 or self.samples < 4 * self.segments:
            raise ValueError(
                f"{self.name} takes segments >= 2 and samples >= 4 segments, for a fit that is determined: "
                f"got segments={self.segments}, samples={self.samples}"
            )


@register("lime")
@dataclass(frozen=True)
class LIME(Surrogate):
    """A linear model of the score near the picture, by weighted ridge regression on which superpixels are seen.

    ``min over b, a of sum_n k(z_n) (y(z_n) - a - <b, z_n>)^2 + ridge |b|^2`` with z uniform over all coalitions and
    ``k(z) = exp(-d^2 / width^2)``, d the cosine distance of z and the whole picture. The map is b_k on segment k.

    The standard error is the sampling error of the weighted regression, whether or not a linear model is right
    (heteroscedasticity-consistent); how far the linear model itself is from the network it does not tell.

    Args:
        segments: about how many superpixels.
        samples: coalitions per picture; those of a smaller number are the first of a larger one's.
        fill: what is seen of a hidden segment: "segment", its own mean colour, "black", "mean", the network's mean
            colour, or "blur", the blurred picture.
        width: of the kernel, in cosine distance.
        ridge: the penalty, 0 or more. All segments keep their coefficients: none is selected away.

    Source: Ribeiro et al. 2016, arXiv 1602.04938, eq. 2 and section 3.4.

    Examples:
        >>> import faithmap as fm
        >>> found = LIME(segments=4, samples=16).run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> len(found.maps.unique())
        4
    """

    width: float = 0.25
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width > 0 or self.ridge < 0:
            raise ValueError(f"lime takes width > 0 and ridge >= 0: got width={self.width}, ridge={self.ridge}")

    @property
    def steps(self) -> int:
        """The samples."""
        return self.samples

    def attribute(self, query: Query) -> Result:
        """Scores of uniform coalitions, and the regression in float64."""
        pieces = Pieces.of(query, self.segments, self.fill)
        draws = [torch.rand(self.samples, pieces.count, generator=g) for g in query.generators(self.name)]
        seen = torch.stack(draws) < 0.5  # (B, N, K)
        # Changes, not scores: a target that does not move then has coefficients of exactly 0.
        y = pieces.scores(query, seen) - query.scores.double()[:, None]
        z = seen.to(y) * pieces.present[:, None]
        nearness = (z.sum(dim=2) / pieces.present.sum(dim=1, keepdim=True)).sqrt()  # the cosine of z and all ones
        k = torch.exp(-(((1 - nearness) / self.width) ** 2))[..., None]  # (B, N, 1)
        z = z - (k * z).sum(dim=1, keepdim=True) / k.sum(dim=1, keepdim=True)  # the intercept a carries no penalty
        y = y[..., None] - (k * y[..., None]).sum(dim=1, keepdim=True) / k.sum(dim=1, keepdim=True)
        inverse = _inverse(z.mT @ (k * z) + self.ridge * torch.eye(pieces.count).to(z))
        b = inverse @ (z.mT @ (k * y))  # (B, K, 1)
        pull = k * (z @ inverse)  # (B, N, K), of each coalition's score on b
        leverage = (pull * z).sum(dim=2, keepdim=True) + k / k.sum(dim=1, keepdim=True)
        error = _error(pull * (y - z @ b), leverage)
        return pieces.result(query, b[..., 0], error, {"segments": pieces.count})


@register("kernel-shap")
@dataclass(frozen=True)
class KernelSHAP(Surrogate):
    """Shapley values of superpixels, by weighted regression on which of them are seen.

    ``min over phi of sum_n (y(z_n) - y(nothing) - <phi, z_n>)^2`` under ``sum_k phi_k = y(picture) - y(nothing)``, with
    coalitions drawn by the Shapley kernel ``(K - 1) / (binom(K, |z|) |z| (K - |z|))``, each with its complement. The
    map is phi_k on segment k. Where all 2^K - 2 coalitions are no more than the samples, they are enumerated and the
    values exact.

    The standard error is the sampling error of the regression, pair by pair. The sum of the values is exact by
    constraint; its error and condition come with every map.

    Args:
        segments: about how many superpixels.
        samples: coalitions per picture; those of a smaller number are the first of a larger one's.
        fill: what is seen of a hidden segment: "segment", its own mean colour, "black", "mean", the network's mean
            colour, or "blur", the blurred picture.

    Source: Lundberg and Lee 2017, arXiv 1705.07874, theorem 2; pairs and the sampled regression as in Covert and Lee
    2021, arXiv 2012.01536.

    Examples:
        >>> import faithmap as fm
        >>> found = KernelSHAP(segments=4, samples=16).run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> bool(found.completeness_error[0] < 1e-9), found.notes["coalitions"]
        (True, 'all 14')
    """

    additive = True

    @property
    def steps(self) -> int:
        """The samples, and the picture without any segment."""
        return self.samples + 1

    def attribute(self, query: Query) -> Result:
        """Scores of nothing and of the coalitions, and the regression in float64."""
        pieces = Pieces.of(query, self.segments, self.fill)
        B, K = len(query), pieces.count
        exact = self.samples >= 2**K - 2
        if exact:
            seen, kernel = _all_coalitions(K)
            seen = seen.expand(B, -1, -1)
        else:
            seen = torch.stack([_pairs(self.samples // 2, K, g) for g in query.generators(self.name)])
            kernel = torch.ones(seen.shape[1], dtype=torch.float64)  # the draw has weighed them
        y = pieces.scores(query, torch.cat([torch.zeros_like(seen[:, :1]), seen], dim=1))
        change = (query.scores.double() - y[:, 0])[:, None, None]
        y = (y[:, 1:] - y[:, :1])[..., None]  # (B, N, 1)
        z, all_ = seen.to(y) * pieces.present[:, None], pieces.present[..., None]  # (B, N, K), (B, K, 1)
        kernel = kernel.to(y)[:, None]
        inverse = _inverse(z.mT @ (kernel * z))
        along = inverse @ all_ / (all_.mT @ inverse @ all_)  # where the constraint pushes
        free = inverse @ (z.mT @ (kernel * y))
        phi = free + along * (change - all_.mT @ free)  # (B, K, 1)
        error = None
        if not exact:
            # What is drawn independently is pairs; the sum being given, a pair tells y(z) - y(not z).
            half, left = z[:, ::2], y - z @ phi
            pull = 2 * half @ (inverse - along @ (all_.mT @ inverse))
            error = _error(pull * (left[:, ::2] - left[:, 1::2]) / 2, (pull * half).sum(dim=2, keepdim=True))
        notes = {"segments": K, "coalitions": f"all {seen.shape[1]}" if exact else "sampled in pairs"}
        return pieces.result(query, phi[..., 0], error, notes).adding_up(phi, change.flatten())


@dataclass(frozen=True, eq=False)
class Pieces:
    """The superpixels of some pictures, and the pictures without them."""

    labels: Tensor
    """Each pixel's segment, ``(B, H, W)``."""
    hidden: Tensor
    """What is seen where a segment is not, ``(B, C, H, W)``."""
    present: Tensor
    """1 for segments that have pixels, 0 for others, ``(B, K)``, float64."""

    @classmethod
    def of(cls, query: Query, segments: int, fill: Literal["segment", "black", "mean", "blur"]) -> Pieces:
        """The superpixels of a query's pictures, as the network sees them."""
        x = query.x
        labels = superpixels(query.model.to_pixels(x), segments)
        count = math.prod(seed_grid(segments, *labels.shape[1:]))
        sizes = torch.stack([torch.bincount(one.flatten(), minlength=count) for one in labels])
        if fill == "segment":
            means = segment_means(x, labels, count)  # (B, C, K)
            hidden = means.gather(2, labels.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(x.shape).to(x)
        else:
            hidden = filling(x, fill, *query.model.scale(x))
        return cls(labels.to(x.device), hidden, (sizes > 0).to(x.device, torch.float64))

    @property
    def count(self) -> int:
        """K."""
        return self.present.shape[1]

    def scores(self, query: Query, seen: Tensor) -> Tensor:
        """The scores ``(B, N)``, float64, of the pictures with only the segments ``seen`` ``(B, N, K)`` left."""
        x, n = query.x, seen.shape[1]

        def make(i: Tensor) -> tuple[Tensor, Tensor]:
            if query.progress:
                query.progress(int(i[0]), 0)
            rows = i // n
            here = rows.to(x.device)
            mask = seen[rows, i % n].to(x.device).gather(1, self.labels[here].flatten(1)).view(-1, 1, *x.shape[-2:])
            return torch.where(mask, x[here], self.hidden[here]), rows

        return query.input_scores(len(x) * n, make).view(len(x), n).double()

    def result(self, query: Query, values: Tensor, error: Tensor | None, notes: dict[str, Any]) -> Result:
        """Values ``(B, K)`` and their errors, painted on the segments."""
        flat = {"the score does not change with the segments that are seen": (values == 0).all(dim=1)}
        maps, errors = self.paint(values).to(query.x), None if error is None else self.paint(error).to(query.x)
        return Result(maps, standard_error=errors, reasons=first_cause(flat), notes=notes)

    def paint(self, values: Tensor) -> Tensor:
        """Values ``(B, K)`` as maps ``(B, H, W)``."""
        return values.gather(1, self.labels.flatten(1)).view(self.labels.shape)


def _inverse(matrices: Tensor) -> Tensor:
    """Of symmetric matrices ``(B, K, K)``; segments without pixels, whose rows are 0, stay out of it."""
    inverse: Tensor = torch.linalg.pinv(matrices, hermitian=True)
    return inverse


def _error(influence: Tensor, leverage: Tensor) -> Tensor:
    """Standard errors ``(B, K)`` of coefficients, whether or not the model is right (MacKinnon and White 1985, HC3).

    Args:
        influence: of each draw on them: its residual times its pull, ``(B, N, K)``.
        leverage: how far the fit follows the draw, ``(B, N, 1)``; a draw that it meets exactly leaves no residual.
    """
    left_out = (1 - leverage).clamp_min(torch.finfo(leverage.dtype).eps)  # residuals of fits without the draw
    return (influence / left_out).square().sum(dim=1).sqrt()


def _all_coalitions(K: int) -> tuple[Tensor, Tensor]:
    """All coalitions but nothing and everything ``(2^K - 2, K)``, and their Shapley kernel, up to a factor."""
    seen = (torch.arange(1, 2**K - 1)[:, None] >> torch.arange(K)) & 1 == 1
    kernel = [1 / (math.comb(K, s) * s * (K - s)) for s in seen.sum(dim=1).tolist()]
    return seen, torch.tensor(kernel, dtype=torch.float64)


def _pairs(count: int, K: int, generator: torch.Generator) -> Tensor:
    """Coalitions drawn by the Shapley kernel, each followed by its complement: ``(2 count, K)``."""
    sizes = torch.arange(1, K, dtype=torch.float64)
    shares = (1 / (sizes * (K - sizes))).cumsum(0)
    # One row of uniform numbers for each: how many are seen, and in which order they would come.
    u = torch.rand(count, K + 1, generator=generator, dtype=torch.float64)
    size = torch.searchsorted(shares, u[:, :1] * shares[-1], right=True).clamp_max(K - 2) + 1
    seen = u[:, 1:].argsort(dim=1).argsort(dim=1) < size
    return torch.stack([seen, ~seen], dim=1).flatten(0, 1)
