"""Class activation maps without gradients: each channel weighed by what the score does with it, or without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from faithmap.methods.base import Query, Result
from faithmap.methods.cam import ActivationMap, closed_form
from faithmap.methods.registry import register
from faithmap.pixels import filling
from faithmap.targets import Each, Logit, Probability, Target

_TICKS = 1000  # how finely progress is told: how many channels there are is not known before


@register("score-cam")
@dataclass(frozen=True)
class ScoreCAM(ActivationMap):
    """Channels weighed by the score of the picture where only they are active.

    ``y_k = y(x masked by norm(up(A_k)))``, norm being min-max to [0, 1]. In the paper's form w is the softmax of the
    increases y_k - y(nothing) over the channels, where y(nothing) cancels; y is the target's own value, a logit by
    default. In the form of the authors' code ``w_k = y_k`` is the probability of the class. Channels without any
    contrast have no mask: they weigh nothing. The map is ``sum_k w_k up(A_k)``.

    One forward of the network for each channel with contrast; masks exist a chunk at a time. Where no mask changes the
    score at all, softmax would weigh all channels alike: the map is constant instead, and says why.

    Args:
        layer: target layer; the model's by default.
        form: "paper", or "official" for that of the authors' code.
        fill: what is seen where a mask is 0: "mean", zero in the network's input space, or "black".

    Source: Wang et al. 2020, arXiv 1910.01279, section 3 and algorithm 1.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> found = ScoreCAM(layer="0").run(fm.Classifier(net, size=32), torch.rand(2, 3, 32, 32), 1)
        >>> [round(float(total), 6) for total in found.coefficients.sum(dim=1)]
        [1.0, 1.0]
        >>> found.cost.per_image(2)
        {'forward': 5.0}
    """

    form: Literal["paper", "official"] = "paper"
    fill: Literal["mean", "black"] = "mean"

    signed = False
    opposite = "asked"

    @property
    def steps(self) -> int:
        """Thousandths of the channels."""
        return _TICKS

    def attribute(self, query: Query) -> Result:
        """One forward for each channel."""
        x, A = query.x, query.split.A
        hidden = filling(x, self.fill, *query.model.scale(x))
        contrast = A.amax(dim=(2, 3)) > A.amin(dim=(2, 3))  # (B, C)

        def masked(rows: Tensor, channels: Tensor) -> Tensor:
            up = query.upsample(A[rows, channels].to(x.dtype))
            low, high = up.amin(dim=(1, 2), keepdim=True), up.amax(dim=(1, 2), keepdim=True)
            mask = torch.where(high > low, (up - low) / (high - low), 0)[:, None]
            return hidden[rows] + mask * (x[rows] - hidden[rows])

        # What is asked of the masks may be another target than the one explained; evaluations count in the same place.
        asked = query if self.form == "paper" else dataclasses.replace(query, given=as_probability(query.target))
        whole = asked.target(query.outputs).double()[:, None]
        y = torch.where(contrast, _by_channel(query, contrast, asked.input_scores, masked), whole)
        weights = y.masked_fill(~contrast, -torch.inf).softmax(dim=1) if self.form == "paper" else y
        unmoved = (y == whole).all(dim=1)
        weights = torch.where(contrast & ~unmoved[:, None], weights, 0)
        no_mask = f"no channel of layer {query.layer!r} has a contrast that could be a mask"
        because = {no_mask: ~contrast.any(dim=1), "no mask changes the score": unmoved}
        return self.weighted(query, weights, because)


@register("ablation-cam")
@dataclass(frozen=True)
class AblationCAM(ActivationMap):
    """Channels weighed by how much of the score is lost without them: ``w_k = (y - y(A without k)) / |y|``.

    A channel is taken away by setting it to 0, and the tail alone is asked again: once for each channel that is not 0
    already. Behind global average pooling and one linear layer the losses are known, ``w_ck mean(A_k)``, without any
    evaluation. |y| instead of the paper's y keeps the map's sign where the score is negative.

    Args:
        layer: target layer; the model's by default.

    Source: Desai and Ramaswamy 2020, Ablation-CAM, WACV, section 3.

    Examples:
        >>> import faithmap as fm
        >>> found = AblationCAM().run(fm.load(), torch.rand(1, 3, 224, 224))
        >>> found.notes["coefficients"], found.cost.per_image(1)
        ('closed form', {'forward': 1.0})
    """

    opposite = "asked"  # the e- of a pair is divided by its own score

    @property
    def steps(self) -> int:
        """Thousandths of the channels."""
        return _TICKS

    def attribute(self, query: Query) -> Result:
        """In closed form where there is one, else one run of the tail for each channel."""
        lost, how = losses(query)
        y = query.scores.double()[:, None]
        # What loses nothing weighs nothing, whatever the score: 0 / 0 too.
        weights = torch.where(lost == 0, 0, lost / y.abs())
        by_zero = {"the score is 0, by which the weights are divided": ((y == 0) & (lost != 0)).any(dim=1)}
        return self.weighted(query, weights, by_zero, notes={"coefficients": how})


def losses(query: Query) -> tuple[Tensor, str]:
    """What the score loses without each channel, ``y - y(A without k)``, ``(B, C)`` in float64, and how it is known."""
    known, A = closed_form(query), query.split.A
    if known is not None:
        return known, "closed form"
    present = (A != 0).flatten(2).any(dim=2)  # (B, C)

    def without(rows: Tensor, channels: Tensor) -> Tensor:
        changed = A[rows]  # a copy
        changed[torch.arange(len(rows)), channels] = 0
        return changed

    y = query.scores.double()[:, None]
    return torch.where(present, y - _by_channel(query, present, query.coalition_scores, without), 0), "ablation"


def _by_channel(
    query: Query, which: Tensor, ask: Callable[..., Tensor], make: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The scores ``(B, C)`` in float64 of what ``make(rows, channels)`` gives for some channels of each sample.

    Args:
        query: whose samples they are.
        which: channels of each sample, ``(B, C)``; those of others are 0.
        ask: the query's `input_scores` or `coalition_scores`.
        make: ``rows (m,), channels (m,) -> inputs or activations (m, ...)``, a chunk at a time.
    """
    rows, channels = which.cpu().nonzero(as_tuple=True)
    scores = torch.zeros(which.shape, dtype=torch.float64, device=query.x.device)

    def chunk(i: Tensor) -> tuple[Tensor, Tensor]:
        if query.progress:
            query.progress(len(query) * _TICKS * int(i[0]) // len(rows), 0)
        return make(rows[i], channels[i]), rows[i]

    if len(rows):
        scores[rows, channels] = ask(len(rows), chunk).double()
    return scores


def as_probability(target: Target) -> Target:
    """The class's probability where the target is its logit; other targets as they are.

    Examples:
        >>> as_probability(Logit(3)).describe(0)
        {'target': 'Probability', 'k': 3}
    """
    if isinstance(target, Each):
        return Each([as_probability(one) for one in target.targets])
    return Probability(target.k) if isinstance(target, Logit) else target
