"""Extremal perturbation: the part of the picture, of a given area, that keeps the score highest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.batching import continuous
from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.pixels import blur
from faithmap.rules import gradient

LEVELS = 8
"""Of the blur pyramid: the picture, and seven pictures more and more blurred."""
TEMPERATURE = 1 / 20
"""Of the smooth maximum."""


@register("extremal-perturbation")
@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    """The smooth mask of a given area that keeps the score highest when all outside of it is blurred.

    ``max over m of y(m x) - lambda_t mean((sort(m) - r)^2)``, where r is 0 for the share 1 - area of the pixels and 1
    for the rest, and ``m x`` blurs each pixel by ``blur (1 - m)``. The mask is a grid of values p in [0, 1], one every
    ``step`` and some beyond the borders, spread by ``m(u) = smax_v k(u - v) p(v)`` with the kernel
    ``k(d) = exp(-max(0, 2 d / sigma - 1)^2 / 4)``, flat within a disc of diameter sigma, and the smooth maximum
    ``smax f = sum f e^(f / T) / sum e^(f / T)``. p starts at 1 and takes steps along the running mean of gradients;
    lambda_t grows evenly in its logarithm. The map is m at the end.

    Gradient steps end in a local optimum: the notes hold the score of what is kept, y(m x), to be compared with others.
    Lengths are shares of the input's shorter side; of 224 pixels the defaults are a step of 7, a sigma of 21 and a blur
    of 20. Pixels that tie for the last place in the area share it.

    Args:
        area: of the mask, as a share of the picture.
        iterations: gradient steps.
        rate: of the steps.
        momentum: what the mean of gradients keeps at each step; the gradient has the rest. Momentum without that share
            of the gradient decides what to keep within a few steps, and scores lower.
        weight: lambda_0, of the area's term.
        rise: lambda at the end, in lambda_0.
        step: of the grid.
        sigma: of the kernel: masks have no finer parts.
        blur: the Gaussian's sigma where the mask is 0.

    Source: Fong et al. 2019, arXiv 1910.08485, eq. 1 to 5.

    Examples:
        >>> import faithmap as fm
        >>> map = ExtremalPerturbation(iterations=2)(fm.load(), torch.rand(1, 3, 224, 224))
        >>> bool(map.min() >= 0), bool(map.max() <= 1)
        (True, True)
    """

    area: float = 0.1
    iterations: int = 800
    rate: float = 0.01
    momentum: float = 0.9
    weight: float = 300.0
    rise: float = 16.0
    step: float = 7 / 224
    sigma: float = 21 / 224
    blur: float = 20 / 224

    continuous = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.area < 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"{self.name} takes an area and a momentum between 0 and 1: "
                f"got area={self.area}, momentum={self.momentum}"
            )
        positive = ("iterations", "rate", "weight", "rise", "step", "sigma", "blur")
        for name, value in self.parameters.items():
            if name in positive and not value > 0:
                raise ValueError(f"{self.name} takes {name} above 0: got {name}={value}")

    @property
    def steps(self) -> int:
        """The iterations."""
        return self.iterations

    def attribute(self, query: Query) -> Result:
        """Every picture's mask in one continuous batch."""
        x, target, spread = query.x, query.target, Spread.over(query.x, self.step, self.sigma)
        start = torch.zeros(len(x), 2, *spread.grid, dtype=x.dtype, device=x.device)  # the mask's grid, its velocity
        start[:, 0] = 1
        taken = torch.zeros(len(x), dtype=torch.long)
        moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        held: tuple[list[int], Tensor] = ([], x)  # the pyramids of the pictures that run at the moment

        def step(state: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal held
            here = rows.to(x.device)
            if held[0] != rows.tolist():
                held = rows.tolist(), pyramid(x[here], self.blur * min(x.shape[-2:]))
            p = state[:, 0].detach().requires_grad_()
            with torch.enable_grad():
                masks = spread(p)
                seen = masks.detach().requires_grad_()
                scores = target.select(rows)(query.model.network(blurred(held[1], seen)))
            query.cost.forward += len(rows)
            query.cost.backward += len(rows)
            up = gradient(scores, seen)
            # A score without a gradient tells no part of the picture from another: the sample ends where it begins.
            moves = up.isfinite().flatten(1).all(dim=1) & ((up != 0).flatten(1).any(dim=1) | moved[here])
            weight = self.weight * self.rise ** (taken[rows].to(p) / max(1, self.iterations - 1))
            down = weight.view(-1, 1, 1) * area_slope(seen.detach(), self.area)
            slope = torch.autograd.grad(masks, p, down - up)[0]
            velocity = self.momentum * state[:, 1] + (1 - self.momentum) * slope
            after = torch.stack([(p.detach() - self.rate * velocity).clamp(0, 1), velocity], dim=1)
            moved[here] |= moves
            taken[rows] += 1
            return torch.where(moves.view(-1, 1, 1, 1), after, state), ~moves

        ends, _ = continuous(start, step, self.iterations, query.batch_size, query.progress)
        maps = torch.where(moved.view(-1, 1, 1), spread(ends[:, 0]), 1)
        widest = self.blur * min(x.shape[-2:])
        kept = query.input_scores(
            len(x), lambda i: (blurred(pyramid(x[i.to(x.device)], widest), maps[i.to(x.device)]), i)
        )
        flat = {"the target has no gradient to the mask, or not a finite one": ~moved}
        return Result(maps, reasons=first_cause(flat), notes={"score of what is kept": kept.tolist()})


def area_slope(masks: Tensor, area: float) -> Tensor:
    """The gradient of ``mean((sort(m) - r)^2)`` to masks ``(B, H, W)``: by the value where r turns, without a sort.

    Examples:
        >>> area_slope(torch.tensor([[[0.5, 0.25], [1.0, 0.5]]]), area=0.5)
        tensor([[[0.0000, 0.1250],
                 [0.0000, 0.0000]]])
    """
    m = masks.flatten(1)
    n = m.shape[1]
    last = m.kthvalue(min(n, math.floor((1 - area) * n) + 1), dim=1, keepdim=True).values
    slack = 16 * torch.finfo(m.dtype).eps  # rounding must not decide what a whole mask keeps
    above, ties = m > last + slack, (m - last).abs() <= slack
    share = (area * n - above.sum(dim=1, keepdim=True)) / ties.sum(dim=1, keepdim=True)
    wanted = torch.where(above, 1, torch.where(ties, share.to(m.dtype), 0))
    return (2 / n * (m - wanted)).view(masks.shape)


def pyramid(x: Tensor, sigma: float) -> Tensor:
    """Pictures ``(B, C, H, W)`` blurred from not at all to ``sigma`` pixels, ``(B, L, C, H, W)``."""
    widths = [sigma * level / (LEVELS - 1) for level in range(LEVELS)]
    return torch.stack([blur(x, width, 2 * math.ceil(3 * width) + 1) for width in widths], dim=1)


def blurred(levels: Tensor, masks: Tensor) -> Tensor:
    """Pictures ``(B, C, H, W)`` as blurred at each pixel as the mask ``(B, H, W)`` is far from 1."""
    depth = (1 - masks) * (LEVELS - 1)
    below = depth.detach().floor().clamp(0, LEVELS - 2)
    at = below.long()[:, None, None].expand(-1, 1, *levels.shape[2:])
    sharp, soft = (levels.gather(1, at + more)[:, 0] for more in (0, 1))
    return sharp + (depth - below)[:, None] * (soft - sharp)


@dataclass(frozen=True, eq=False)
class Spread:
    """How a coarse grid becomes a smooth mask: a convolution with a smooth maximum for its sum."""

    grid: tuple[int, int]
    """Rows and columns of the grid, beyond the borders as far as the kernel reaches: with less, corners would be what
    a whole mask has most of, and be kept for that alone."""
    places: tuple[int, int]
    """Rows and columns of the mask's own places, which lie in the middle of its cells."""
    size: tuple[int, int]
    """H and W of the mask."""
    kernel: Tensor
    """k between places of the grid, ``(2 r + 1, 2 r + 1)``, as far as it is above 1 %."""

    @classmethod
    def over(cls, x: Tensor, step: float, sigma: float) -> Spread:
        """For pictures ``(B, C, H, W)``; step and sigma are shares of their shorter side."""
        H, W = x.shape[-2:]
        side = min(H, W)
        rows, cols = (max(1, round(length / (step * side))) for length in (H, W))
        reach = sigma * side * (1 + 2 * math.sqrt(math.log(100))) / 2  # k is 1 % there
        down, right = (
            torch.arange(-r, r + 1, dtype=torch.float64) * apart
            for apart in (H / rows, W / cols)
            for r in [math.ceil(reach / apart)]
        )
        distance = torch.hypot(down[:, None], right)  # in pixels
        kernel = torch.exp(-((2 * distance / (sigma * side) - 1).clamp_min(0) ** 2) / 4)
        grid = (rows + kernel.shape[0] - 1, cols + kernel.shape[1] - 1)
        return cls(grid, (rows, cols), (H, W), kernel.to(x))

    def __call__(self, p: Tensor) -> Tensor:
        """The masks ``(B, H, W)`` of grids ``(B, h, w)``: smooth maxima at the mask's places, bilinear in between."""
        window = F.unfold(p[:, None], tuple(self.kernel.shape))  # (B, window, places)
        f = window * self.kernel.view(-1, 1)
        places = (f * (f / TEMPERATURE).softmax(dim=1)).sum(dim=1).view(-1, 1, *self.places)
        return F.interpolate(places, self.size, mode="bilinear", align_corners=False)[:, 0]
