"""Gradients of the score to the pixels: at the picture, around it, and along the way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.pixels import filling
from faithmap.sampling import Moments, seeds_of


@register("gradient")
@dataclass(frozen=True)
class Gradient(Method):
    """How fast the score changes with each pixel: ``max_c |dy/dx_c|``, the largest over the colour channels.

    It has no sign, and the gradient of an opposite question is the same map: there is no e-.

    Source: Simonyan et al. 2014, arXiv 1312.6034, section 3.1.

    Examples:
        >>> import faithmap as fm
        >>> Gradient()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    opposite = "none"

    def attribute(self, query: Query) -> Result:
        """One forward and one backward pass."""
        g = at_the_picture(query)
        return Result(g.abs().amax(dim=1), reasons=first_cause(_flat(g)))


@register("gradient-x-input")
@dataclass(frozen=True)
class GradientXInput(Method):
    """The gradient times the input: ``sum_c x_c dy/dx_c``, with x in the network's own input space.

    Exact for networks without biases that scale with their input (ReLU): there it is `IntegratedGradients` from 0.

    Source: Shrikumar et al. 2016, arXiv 1605.01713, section 3.1.

    Examples:
        >>> import faithmap as fm
        >>> GradientXInput()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    signed = True
    opposite = "negated"

    def attribute(self, query: Query) -> Result:
        """One forward and one backward pass."""
        g = at_the_picture(query)
        return Result((g * query.x).sum(dim=1), reasons=first_cause(_flat(g)))


@register("smooth-grad")
@dataclass(frozen=True)
class SmoothGrad(Method):
    """The gradient averaged over noise, ``max_c |mean_n dy/dx_c(x + e_n)|`` with ``e_n ~ N(0, (sigma range)^2)``.

    Gradients are averaged with their signs, so that what fluctuates cancels, and then shown as `Gradient` shows its
    own. The standard error is that of the mean of the channel that is shown. Where a mean is smaller than its error,
    its absolute value says how large the noise still is, and falls with more samples.

    Args:
        sigma: of the noise, as a share of each picture's range max x - min x; the paper finds .1 to .2 best.
        samples: noisy copies of each picture; those of a smaller number are the first of a larger one's.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 3.

    Examples:
        >>> import faithmap as fm
        >>> found = SmoothGrad(samples=2).run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> found.standard_error.shape
        torch.Size([1, 224, 224])
    """

    sigma: float = 0.15
    samples: int = 50

    opposite = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0 or self.samples < 2:
            raise ValueError(
                "smooth-grad takes a sigma above 0, as a share of the picture's range, and samples >= 2: "
                f"got sigma={self.sigma}, samples={self.samples}"
            )

    @property
    def steps(self) -> int:
        """The samples."""
        return self.samples

    def attribute(self, query: Query) -> Result:
        """All noisy copies of all pictures in one queue; each has a seed of its own."""
        x, shape = query.x, query.x.shape[1:]
        seeds = [seeds_of(generator, self.samples) for generator in query.generators(self.name)]
        width = self.sigma * (x.amax(dim=(1, 2, 3)) - x.amin(dim=(1, 2, 3)))

        def noisy(rows: Tensor, n: Tensor) -> Tensor:
            drawn = [seeds[b][k] for b, k in zip(rows.tolist(), n.tolist(), strict=True)]
            noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in drawn])
            here = rows.to(x.device)
            return x[here] + width[here].view(-1, 1, 1, 1) * noise.to(x)

        moments = [Moments() for _ in x]
        for b, _, g in _by_picture(query, self.samples, noisy):
            moments[b].add(g)
        mean = torch.stack([m.mean for m in moments])  # (B, C, H, W)
        error = torch.stack([m.standard_error for m in moments])
        maps, shown = mean.abs().max(dim=1, keepdim=True)
        return Result(
            maps[:, 0].to(x.dtype),
            standard_error=error.gather(1, shown)[:, 0].to(x.dtype),
            reasons=first_cause(_flat(mean)),
        )


@register("integrated-gradients")
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """What each pixel adds to the score on the straight way from a baseline x0 to the picture.

    ``sum_c (x - x0)_c * integral of dy/dx_c(x0 + t (x - x0)) over t from 0 to 1``. The map's sum is y(x) - y(x0) up to
    the error of the integral, which comes with every map.

    The integral is Gauss and Legendre's: to rounding on smooth networks within the default steps, and no worse than
    other rules where kinks (ReLU) make every rule's error fall as 1 / steps.

    Args:
        steps: gradients along the way. Deep ReLU networks may need hundreds for an error of 1 %.
        baseline: where the way begins: "black", "mean", the network's mean colour (0 in its input space), or "blur",
            the picture blurred with a sigma of a tenth of its shorter side. What equals the baseline gets 0.

    Source: Sundararajan et al. 2017, arXiv 1703.01365, eq. 1 and 3.

    Examples:
        >>> import faithmap as fm
        >>> found = IntegratedGradients(steps=4).run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> found.completeness_error.shape
        torch.Size([1])
    """

    steps: int = 50
    baseline: Literal["black", "mean", "blur"] = "black"

    signed = True
    additive = True
    opposite = "negated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"integrated-gradients takes steps >= 1: got {self.steps}")

    def attribute(self, query: Query) -> Result:
        """All points of all ways in one queue."""
        x, x0 = query.x, filling(query.x, self.baseline, *query.model.scale(query.x))
        points, weights = (torch.from_numpy(a) / 2 for a in np.polynomial.legendre.leggauss(self.steps))
        times = (points + 0.5).to(x)

        def on_the_way(rows: Tensor, n: Tensor) -> Tensor:
            here = rows.to(x.device)
            return x0[here] + times[n.to(x.device)].view(-1, 1, 1, 1) * (x - x0)[here]

        total = torch.zeros_like(x, dtype=torch.float64)
        for b, n, g in _by_picture(query, self.steps, on_the_way):
            total[b] += torch.einsum("m,mchw->chw", weights[n].to(x.device), g.double())
        parts = ((x - x0).double() * total).sum(dim=1)  # (B, H, W)
        change = query.scores.double() - query.input_scores(len(x), lambda i: (x0[i.to(x.device)], i)).double()
        at_rest = {"the picture is its own baseline": (x == x0).flatten(1).all(dim=1)}
        return Result(parts.to(x.dtype), reasons=first_cause({**at_rest, **_flat(total)})).adding_up(parts, change)


def at_the_picture(query: Query) -> Tensor:
    """The gradient of the scores to the inputs, ``(B, 3, H, W)``; the scores are known then."""
    parts = list(query.input_gradients(len(query), lambda i: (query.x[i.to(query.x.device)], i)))
    query.__dict__.setdefault("scores", torch.cat([scores for _, scores, _ in parts]))
    return torch.cat([g for _, _, g in parts])


def _by_picture(
    query: Query, count: int, make: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The gradients at ``count`` changed copies of each picture, in turn for each picture.

    Args:
        query: the pictures.
        count: copies of each.
        make: ``rows (m,), n (m,) -> (m, 3, H, W)``: the copies number n of the pictures ``rows``.

    Yields:
        A picture, the numbers ``(k,)`` of some of its copies, and their gradients ``(k, 3, H, W)``.
    """

    def copies(i: Tensor) -> tuple[Tensor, Tensor]:
        rows, n = i // count, i % count
        return make(rows, n), rows

    for i, _, g in query.input_gradients(len(query) * count, copies):
        for b in range(int(i[0]) // count, int(i[-1]) // count + 1):
            own = i // count == b
            yield b, i[own] % count, g[own.to(g.device)]
        if query.progress:
            query.progress(int(i[-1]) + 1, 0)


def _flat(g: Tensor) -> dict[str, Tensor]:
    """Which samples have a gradient ``(B, ...)`` that is 0 everywhere."""
    return {"the target has no gradient to the input": (g == 0).flatten(1).all(dim=1)}
