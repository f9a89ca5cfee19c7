"""ROAD: removal where what is gone is imputed from what is left, so that the mask's shape tells nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from faithmap.metrics.base import Better, Case, Measured, Metric
from faithmap.metrics.drop import coherency_of, complexity, harmonic_mean
from faithmap.metrics.imputation import imputed
from faithmap.metrics.order import order, scores_without
from faithmap.metrics.registry import register
from faithmap.metrics.removal import measured
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Logit, Target, first_tensor


def road_imputed(x: Tensor, gone: Tensor, *, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Pictures whose removed pixels are the weighted means of their neighbours, with noise: noisy linear imputation.

    ``v_p = sum_q w_pq v_q / sum_q w_pq + noise N(0, 1)`` over the neighbours q that exist, w = 1/6 for the direct and
    1/12 for the diagonal ones. The means are solved first, all together, and noise is added to them; see `imputed`.

    Args:
        x: prepared inputs ``(B, C, H, W)``, float32 or float64.
        gone: which pixels are removed, ``(B, H, W)`` bool.
        noise: the standard deviation, in the network's input space; 0 for none.
        seed: of the noise, per sample: a picture has the same noise whatever is removed from it.

    Returns:
        ``(B, C, H, W)``, as x where it is left.

    Raises:
        ValueError: the shapes do not fit, x is not finite, or a picture has no pixel left.

    Source: Rong et al. 2022, A consistent and efficient evaluation strategy for attribution methods, section 4.

    Examples:
        >>> x, gone = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> x[..., 2, 2], gone[..., 2, 2] = 9.0, True
        >>> road_imputed(x, gone, noise=0)[0, :, 2, 2]
        tensor([0., 0., 0.])
    """
    return imputed(x, gone) + noise * _noise(x, seed) * gone[:, None]


@register("road")
@dataclass(frozen=True)
class Road(Metric):
    """The score that is left when 10, 20, ..., 90 % of the pixels are imputed, most and least relevant first.

    ``road-morf`` is its mean over the nine shares with the largest of the map removed first (lower is better),
    ``road-lerf`` with the smallest first (higher), and ``road`` = road-lerf - road-morf (higher). Removed pixels become
    what `road_imputed` says: 18 systems of equations per sample.

    Args:
        noise: the standard deviation of what is added to imputed pixels, in the network's input space.
        score: "probability" or "logit" of the explained class, or "accuracy": 1 while it is the predicted one, else 0,
            the mean of which over samples is the source's curve; of pairs of faces always the similarity.

    Source: Rong et al. 2022, sections 4 and 5.

    Examples:
        >>> fm.metrics.create("road", score="accuracy").parts["road"]
        'higher'
    """

    parts: ClassVar[Mapping[str, Better]] = {"road": "higher", "road-morf": "lower", "road-lerf": "higher"}
    noise: float = 0.01
    score: Literal["probability", "logit", "accuracy"] = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise ValueError(f"road's noise is a standard deviation: got {self.noise}")

    def is_share(self, part: str) -> bool:
        """Probabilities are, logits are not."""
        return self.score != "logit"

    def measure(self, case: Case) -> Measured:
        """18 evaluations, which other metrics share."""
        scores = case.once(("road", self.noise, self.score), lambda: self._scores(case))
        morf, lerf = scores[:, :9], scores[:, 9:]
        curves = {"road": lerf - morf, "road-morf": morf, "road-lerf": lerf}
        return measured(case, {part: (curve.mean(dim=1), curve) for part, curve in curves.items()})

    def _scores(self, case: Case) -> Tensor:
        """Most relevant first at 10, 20, ..., 90 %, then least relevant first, ``(B, 18)``."""
        x, noise = case.x, self.noise * _noise(case.x, case.seed)
        target = case.score("logit" if self.score == "accuracy" else self.score)
        if self.score == "accuracy" and isinstance(target, Logit):
            target = _Predicted(torch.as_tensor(target.k))

        def replaced(rows: Tensor, gone: Tensor) -> Tensor:
            return imputed(x[rows], gone) + noise[rows] * gone[:, None]

        states = [(False, t) for t in range(1, 10)] + [(True, t) for t in range(9, 0, -1)]
        return scores_without(case, states, 10, order(case), replaced, target)


@register("arcc")
@dataclass(frozen=True)
class ARCC(Metric):
    """ADCC with ROAD in the place of the average drop: the harmonic mean of coherency, 1 - complexity and ROAD.

    ROAD is ``max(0, mean of lerf - morf)`` over 20, 40, 60 and 80 % of the pixels, in probabilities; see `road`. A map
    of the whole picture, whose average drop is 0, gets 0 here as it does in ADCC: it has no coherency and no order.

    Args:
        noise: as for `road`.

    Source: Refine-CAM, arXiv 2605.14641, as its authors' code in pytorch-grad-cam 1.5.7 has it.

    Examples:
        >>> list(ARCC().parts)
        ['arcc', 'arcc-coherency', 'arcc-complexity', 'arcc-road']
    """

    parts: ClassVar[Mapping[str, Better]] = {
        "arcc": "higher",
        "arcc-coherency": "higher",
        "arcc-complexity": "lower",
        "arcc-road": "higher",
    }
    needs = frozenset({"explain"})
    task = "classification"
    shares = True
    noise: float = 0.01

    def measure(self, case: Case) -> Measured:
        """The evaluations of `road` and a map of x * M."""
        explain = self._given(case.explain, "explain")
        road = Road(noise=self.noise).measure(case).curves["road"][:, 1:8:2].mean(dim=1)
        terms = (coherency_of(case, explain), complexity(case.shown), road.to(case.x.device))
        found = harmonic_mean(terms[0], 1 - terms[1], terms[2].clamp_min(0))
        return Measured(dict(zip(self.parts, (found, *terms), strict=True)))


@dataclass(frozen=True, eq=False)
class _Predicted(Target):
    """Whether the class is the predicted one: 1 or 0."""

    k: Tensor

    def __call__(self, outputs: Any) -> Tensor:
        z = first_tensor(outputs)
        return (z.argmax(dim=1) == self.k.to(z.device)).to(z)


def _noise(x: Tensor, seed: int) -> Tensor:
    """Standard normal numbers like x, of each sample's own generator."""
    drawn = [torch.randn(x.shape[1:], generator=g) for g in generators(seed, "road", sample_ids(x))]
    return torch.stack(drawn).to(x)
