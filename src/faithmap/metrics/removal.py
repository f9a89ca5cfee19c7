"""Removal: does the score follow the pixels in the order that a map gives them?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from faithmap.batching import Progress
from faithmap.metrics.base import Better, Case, Measured, Metric, Score
from faithmap.metrics.order import check_side, order, scores_without, side_in_pixels
from faithmap.metrics.registry import register
from faithmap.models.base import Model, require_model
from faithmap.pixels import Filling, Granularity, filling
from faithmap.words import did_you_mean


def removal_curve(
    model: Model,
    x: Tensor,
    maps: Tensor,
    target: Any,
    *,
    insert: bool = False,
    fill: Filling = "blur",
    granularity: Granularity = "pixels",
    side: float = 1 / 28,
    steps: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The score as pixels leave the picture, or enter it, the largest of the map first.

    At step t the share t / steps of the pixels has been replaced by the fill (deletion), or brought back into a picture
    that is all fill (insertion). Patches and superpixels move as a whole, ordered by the mean of the map in them, at
    the first step whose share holds more than half of the piece: so what has moved is as near to the share as pieces
    allow, and inserting in one order is removing in the opposite order, read backwards.

    Black and mean fills show the network pictures that it has never seen, and scattered black pixels destroy any
    picture: a random order then looks best. Blur is the fill that tells maps apart.

    Args:
        model: a `Classifier` or `FaceEmbedder`.
        x: prepared inputs ``(B, 3, H, W)``.
        maps: ``(B, H, W)``, signed or not: only their order counts. Ties are broken at random, by the seed.
        target: the score, ``Probability(k)`` for instance; it takes B samples.
        insert: pixels enter instead of leaving.
        fill: "blur" (a Gaussian of a tenth of the shorter side), "black", or "mean" (the network's mean colour).
        granularity: what moves as one: "pixels", "patches" (squares) or "superpixels" (about 50).
        side: of a patch, as a share of the picture's shorter side: 8 pixels of 224, 4 of 112.
        steps: of equal shares.
        seed: of the order among ties, per sample.
        batch_size: pictures per network call.
        progress: called with (done, total) network evaluations.

    Returns:
        ``(B, steps + 1)``, float64.

    Raises:
        ValueError: the maps are not those of the inputs, or not finite; a setting does not exist.

    Source: Samek et al. 2017 (deletion); Petsiuk et al. 2018 (insertion, blurred fill).

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
        >>> model, x = fm.Classifier(net, size=8), torch.ones(1, 3, 8, 8)
        >>> removal_curve(model, x, torch.rand(1, 8, 8), fm.targets.Logit(0), fill="mean", steps=2).tolist()
        [[1.0, 0.5, 0.0]]
    """
    model, x = require_model(model), model.check_input(x)
    asked = model.target(target, len(x))
    if asked is None:
        raise ValueError("a removal curve follows a score: name it, fm.targets.Probability(classes)")
    if maps.shape != (len(x), *x.shape[-2:]) or not bool(maps.isfinite().all()):
        raise ValueError(f"maps are (B, H, W) of the {tuple(x.shape)} inputs, and finite: got {tuple(maps.shape)}")
    for value, options, what in ((fill, Filling, "fill"), (granularity, Granularity, "granularity")):
        if value not in get_args(options):
            raise ValueError(f"there is no {what} {value!r}: {did_you_mean(str(value), get_args(options))}")
    if steps < 1:
        raise ValueError(f"a removal curve has at least one step: got {steps}")
    check_side(side)
    case = Case(model, x, maps, asked, seed=seed, batch_size=batch_size)
    states = [(insert, t) for t in range(steps + 1)]
    return scores_without(case, states, steps, order(case, granularity, side), _by(case, fill), asked, progress)


def area(curve: Tensor) -> Tensor:
    """The area under curves ``(B, steps + 1)`` over shares from 0 to 1, by the trapezoid rule: ``(B,)``.

    Examples:
        >>> area(torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([0.7500])
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1))


@dataclass(frozen=True)
class _Removing(Metric):
    """Metrics of removal and insertion curves: their parameters, and the curves, which they share within a case."""

    fill: Filling = "blur"
    granularity: Granularity = "pixels"
    side: float = 1 / 28
    steps: int = 10
    score: Score = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ValueError(f"{self.name}'s steps are 2 or more, or all maps have one value: got {self.steps}")
        check_side(self.side)

    def is_share(self, part: str) -> bool:
        """Probabilities are, logits are not."""
        return self.score == "probability"

    def check(self, model: Model) -> None:
        if self.granularity == "patches":
            side_in_pixels(self.side, *model.size)

    def measure(self, case: Case) -> Measured:
        return measured(case, self._summed(case))

    @abstractmethod
    def _summed(self, case: Case) -> dict[str, tuple[Tensor, Tensor]]:
        """The value ``(B,)`` and the curve of each part."""

    def removed(self, case: Case) -> Tensor:
        """The scores as the first pixels leave, ``(B, steps + 1)``."""
        whole, empty = self._ends(case)
        return torch.cat([whole, self._between(case, inserted=False), empty], dim=1)

    def inserted(self, case: Case) -> Tensor:
        """The scores as the first pixels enter, ``(B, steps + 1)``; backwards those as the last ones leave."""
        whole, empty = self._ends(case)
        return torch.cat([empty, self._between(case, inserted=True), whole], dim=1)

    def _between(self, case: Case, inserted: bool) -> Tensor:
        """Without the ends, ``(B, steps - 1)``."""

        def compute() -> Tensor:
            states = [(inserted, t) for t in range(1, self.steps)]
            places = order(case, self.granularity, self.side)
            return scores_without(case, states, self.steps, places, _by(case, self.fill), case.score(self.score))

        return case.once(("between", inserted, *astuple(self)), compute)

    def _ends(self, case: Case) -> tuple[Tensor, Tensor]:
        """The scores of the pictures and of their fills, ``(B, 1)`` each; the order does not matter to them."""

        def empty() -> Tensor:
            nothing = filling(case.x, self.fill, *case.model.scale(case.x))
            return case.scores(len(case), lambda i: (nothing[i.to(case.x.device)], i), score)

        def whole() -> Tensor:
            return case.scores(len(case), lambda i: (case.x[i.to(case.x.device)], i), score)

        score = case.score(self.score)
        full = case.clean if self.score == "probability" else case.once(("whole", self.score), whole)
        return full[:, None], case.once(("empty", self.fill, self.score), empty)[:, None]


@register("deletion")
@dataclass(frozen=True)
class Deletion(_Removing):
    """The area under the score's curve as pixels leave the picture, those of the largest map first.

    ``integral_0^1 s(x without the share p of its pixels) dp``, by trapezoids over equal steps. Lower is better.

    Args:
        fill: what takes their place: "blur", "black" or "mean".
        granularity: what leaves as one: "pixels", "patches" or "superpixels"; see `removal_curve`.
        side: of a patch, as a share of the picture's shorter side.
        steps: of equal shares; the curve has one point more.
        score: "probability" or "logit" of the explained class; of pairs of faces always the similarity.

    Source: Samek et al. 2017, area over the perturbation curve; Petsiuk et al. 2018, deletion.

    Examples:
        >>> fm.metrics.create("deletion", fill="black", granularity="patches").parts
        {'deletion': 'lower'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"deletion": "lower"}

    def _summed(self, case: Case) -> dict[str, tuple[Tensor, Tensor]]:
        curve = self.removed(case)
        return {"deletion": (area(curve), curve)}


@register("insertion")
@dataclass(frozen=True)
class Insertion(_Removing):
    """The area under the score's curve as pixels enter a picture that is all fill, those of the largest map first.

    ``integral_0^1 s(fill with the share p of the pixels of x) dp``, by trapezoids over equal steps. Higher is better.

    Args:
        fill: what they replace: "blur", "black" or "mean".
        granularity: what enters as one: "pixels", "patches" or "superpixels"; see `removal_curve`.
        side: of a patch, as a share of the picture's shorter side.
        steps: of equal shares; the curve has one point more.
        score: "probability" or "logit" of the explained class; of pairs of faces always the similarity.

    Source: Petsiuk et al. 2018, insertion.

    Examples:
        >>> fm.metrics.create("insertion", steps=20).parts
        {'insertion': 'higher'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"insertion": "higher"}

    def _summed(self, case: Case) -> dict[str, tuple[Tensor, Tensor]]:
        curve = self.inserted(case)
        return {"insertion": (area(curve), curve)}


@register("removal")
@dataclass(frozen=True)
class Removal(_Removing):
    """The areas under the score's curves as pixels leave, the most relevant first and the least relevant first.

    ``morf`` is the deletion, ``lerf`` the same with the opposite order, which is the insertion read backwards, and
    ``lerf - morf`` the area between the two curves: what a fill does to any picture cancels in it.

    Args:
        fill: what takes their place: "blur", "black" or "mean".
        granularity: what leaves as one: "pixels", "patches" or "superpixels"; see `removal_curve`.
        side: of a patch, as a share of the picture's shorter side.
        steps: of equal shares; the curves have one point more.
        score: "probability" or "logit" of the explained class; of pairs of faces always the similarity.

    Source: Samek et al. 2017 (MoRF); Ancona et al. 2018 (LeRF).

    Examples:
        >>> list(fm.metrics.create("removal").parts)
        ['morf', 'lerf', 'lerf - morf']
    """

    parts: ClassVar[Mapping[str, Better]] = {"morf": "lower", "lerf": "higher", "lerf - morf": "higher"}

    def _summed(self, case: Case) -> dict[str, tuple[Tensor, Tensor]]:
        morf, lerf = self.removed(case), self.inserted(case).flip(1)
        curves = {"morf": morf, "lerf": lerf, "lerf - morf": lerf - morf}
        return {part: (area(curve), curve) for part, curve in curves.items()}


@register("logit-drop")
@dataclass(frozen=True)
class LogitDrop(Metric):
    """How far the logit drops as the pixels of the largest map become black, on average over their share.

    ``integral_0^1 z(x) - z(x with the first share p black) dp``, by trapezoids over 0, 10, ..., 100 %; z is the logit
    of the explained class, of pairs of faces their similarity. Higher is better.

    Its source calls it ROAD-Delete. It is not ROAD: nothing is imputed, see the metric "road".

    Source: FAME (Zhang and Guenther 2026), deletion on ImageNet.

    Examples:
        >>> fm.metrics.create("logit-drop").parts
        {'logit-drop': 'higher'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"logit-drop": "higher"}

    def measure(self, case: Case) -> Measured:
        scores = Deletion(fill="black", score="logit").removed(case)
        drops = scores[:, :1] - scores
        return measured(case, {"logit-drop": (area(drops), drops)})


def measured(case: Case, parts: Mapping[str, tuple[Tensor, Tensor]]) -> Measured:
    """Values ``(B,)`` and curves; NaN for samples whose map is not finite, which orders nothing."""
    broken = ~case.maps.isfinite().flatten(1).all(dim=1)
    values = {part: value.masked_fill(broken.to(value.device), torch.nan) for part, (value, _) in parts.items()}
    curves = {
        part: curve.masked_fill(broken[:, None].to(curve.device), torch.nan) for part, (_, curve) in parts.items()
    }
    return Measured(values, curves)


def _by(case: Case, fill: Filling) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces pixels by a fill; see `scores_without`."""
    x, filled = case.x, filling(case.x, fill, *case.model.scale(case.x))
    return lambda rows, gone: torch.where(gone[:, None], filled[rows], x[rows])
