"""FAME: read the change of the input that takes a score down as a map of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from faithmap.batching import continuous
from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.pixels import blur, grey
from faithmap.rules import gradient
from faithmap.targets import Target


@register("fame")
@dataclass(frozen=True)
class FAME(Method):
    """Feature Activation Map Explanation: descend the target and see which pixels had to change.

    ``x_{t+1} = x_t - step * g_t / max|g_t|`` with the gradient g_t of the target and the maximum over each sample's
    channels and pixels; the map is ``Gauss(|grey(x_N - x)|)``, grey = .2989 R + .587 G + .114 B. The absolute value
    comes after the weighted sum of channels, so that opposite changes cancel.

    Descending `Logit` shows what speaks for a class, `Similarity` what two faces share (e+), `Dissimilarity` what sets
    them apart (e-), and `FeatureLocation` the pixels that reach one place of a feature map.

    Args:
        iterations: steps N. The paper takes 500: `FAME.paper`.
        step: the largest change of a value in one step, in units of ``space``.
        sigma: of the Gaussian, in pixels; 0 leaves the map as it is.
        kernel: side of the Gaussian's window in pixels, odd.
        space: "input" steps in the network's normalised input, "pixel" in pixels of [0, 1].
        clamp: keep the iterate a picture, within [0, 1] in pixels.
        stop_below: stop a sample once its score is below; a score that starts below leaves an empty map.

    Source: Zhang and Guenther 2026, arXiv 2605.12017; the update is that of LOTS, Rozsa et al. 2017, arXiv 1611.06179.

    Examples:
        >>> import faithmap as fm
        >>> model = fm.load("efficientnet-lite0")
        >>> x = torch.rand(1, 3, 224, 224)
        >>> FAME(iterations=2)(model, x, fm.targets.Logit(285)).shape
        torch.Size([1, 224, 224])
    """

    iterations: int = 75
    step: float = 1 / 255
    sigma: float = 7.7
    kernel: int = 49
    space: Literal["input", "pixel"] = "input"
    clamp: bool = False
    stop_below: float | None = None

    at_layer = True
    continuous = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or not self.step > 0 or self.sigma < 0:
            raise ValueError(
                "fame takes iterations >= 1, step > 0 and sigma >= 0: "
                f"got iterations={self.iterations}, step={self.step}, sigma={self.sigma}"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"fame's kernel is an odd number of pixels: got {self.kernel}")

    @classmethod
    def paper(cls, **changes: Any) -> FAME:
        """The paper's settings: 500 steps of 1/255 in the network's input space, a Gaussian of 7.7 pixels in 49 x 49.

        For verification the paper also stops below a loss of 0.01: ``FAME.paper(stop_below=0.01)``.
        """
        return cls(**{"iterations": 500, "step": 1 / 255, "sigma": 7.7, "kernel": 49, "space": "input", **changes})

    @property
    def steps(self) -> int:
        """The iterations."""
        return self.iterations

    def attribute(self, query: Query) -> Result:
        """Descend every sample in one continuous batch."""
        mean, std = query.model.scale(query.x)
        start = query.x if self.space == "input" else query.x * std + mean
        target, first = query.target, torch.zeros(len(start), dtype=start.dtype, device=start.device)
        asked = torch.zeros(len(start), dtype=torch.bool)

        def step(p: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            scores, g = self._gradient(query, p, target.select(rows))
            query.cost.forward += len(rows)
            query.cost.backward += len(rows)
            new = ~asked[rows]
            first[rows[new].to(p.device)] = scores[new.to(p.device)].to(first.dtype)
            asked[rows] = True
            return self._step(query, p, scores, g)

        ends, _ = continuous(start, step, self.iterations, query.batch_size, query.progress)
        query.scores = first
        maps = blur(grey(ends - start, query.model.channel_order).abs(), self.sigma, self.kernel)
        return Result(maps, reasons=self._reasons(first, ends, start))

    def _gradient(self, query: Query, p: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """The scores of iterates p ``(m, 3, H, W)`` and their gradient."""
        p = p.detach().requires_grad_()
        with torch.enable_grad():
            mean, std = query.model.scale(p)
            x = p if self.space == "input" else (p - mean) / std
            if target.at_layer:
                with query.model.autocast():
                    scores = target(query.cut.activations(x.to(query.model.dtype)))
            else:
                scores = target(query.model.network(x))
        return scores.detach(), gradient(scores, p)

    def _step(self, query: Query, p: Tensor, scores: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The next iterates, and which samples are finished."""
        peak = g.abs().amax(dim=(1, 2, 3), keepdim=True)
        moves = (peak > 0) & peak.isfinite()  # a zero or broken gradient shows no way: the sample ends here
        if self.stop_below is not None:
            moves &= (scores >= self.stop_below).view(-1, 1, 1, 1)
        after = p - self.step * torch.where(moves, g / torch.where(moves, peak, 1), 0)
        if self.clamp:
            mean, std = query.model.scale(p)
            low, high = (0.0, 1.0) if self.space == "pixel" else (-mean / std, (1 - mean) / std)
            after = torch.where(moves, after.clamp(low, high), after)  # type: ignore[arg-type]
        return after, ~moves.flatten()

    def _reasons(self, first: Tensor, ends: Tensor, start: Tensor) -> list[str]:
        still = (ends == start).flatten(1).all(dim=1)
        low = torch.zeros_like(still) if self.stop_below is None else first < self.stop_below
        causes = {
            f"the score is below stop_below={self.stop_below} before the first step": still & low,
            "the target has no gradient to the input, or not a finite one": still,
        }
        return first_cause(causes)
