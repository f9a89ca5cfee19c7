"""A verdict on many methods that were tried on the same samples, beside controls: claims that luck does not make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.metrics import Interval, bootstrap

Subjects = Sequence[tuple[str, str]] | None
ROUNDING = 1e-6
"""A difference of scores that is no larger is float32's: methods that order pixels alike agree up to it."""


@dataclass(frozen=True)
class Cost:
    """What a method takes per sample."""

    evaluations: float
    """Forward and backward passes of the whole network."""
    tail: float = 0
    """Runs of the part behind the target layer, either way."""
    seconds: float = 0


@dataclass(frozen=True)
class Standing:
    """How one method did."""

    label: str
    control: bool
    score: Interval
    """Of the criterion; higher is better."""
    ahead: Interval
    """Of what it is above the control with the highest mean, sample by sample."""
    hardest: str
    """The control that it beats on the fewest samples; of a control itself the best control."""
    wins: int
    """On how many samples it is above that control."""
    of: int
    """Of how many on which they differ."""
    cost: Cost
    beats: bool = False
    """Whether it is shown to be better than every control."""
    tied: bool = False
    """Whether it is, and is not shown to be worse than the best."""


@dataclass(frozen=True)
class Verdict:
    """What the scores of methods and controls on the same samples say."""

    chosen: str | None
    """The cheapest of those that tie with the best; None where no method is shown to beat the controls."""
    best: str | None
    """The highest mean among those that beat the controls."""
    control: str
    """The control with the highest mean."""
    fewest: int
    """Samples that any claim about so many methods takes: with fewer even a method that always wins shows nothing."""
    standings: tuple[Standing, ...]
    """The highest mean first."""


def judged(
    values: Mapping[str, Tensor],
    controls: Sequence[str],
    costs: Mapping[str, Cost],
    *,
    subjects: Subjects = None,
    level: float = 0.95,
) -> Verdict:
    """Which methods beat every control, and which of them tie with the best.

    A method beats a control if it is above it on so many samples as chance alone, a coin for each sample, gives with a
    probability of at most ``(1 - level) / m``, m the number of methods (the sign test, with Bonferroni's correction for
    trying many), and its mean is higher. That assumes nothing of how differences are distributed, and holds for few
    samples; intervals of means do not: of 24 skewed differences that are 0 on average, the best of 30 methods would
    seem better in four of ten cases. A method ties with the best unless the best is above it on so many samples as
    chance gives with a probability of at most ``1 - level``.

    Samples that are equal, up to rounding, do not count. Of pairs of faces each person has one vote, by the mean of its
    pairs.

    Args:
        values: one value per sample ``(n,)`` for each method and control; higher is better; NaN has none.
        controls: which of them are controls.
        costs: of each.
        subjects: of genuine pairs of faces, who is on them.
        level: of the whole claim.

    Raises:
        ValueError: no control has a value.

    Examples:
        >>> noise = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> found = judged({"good": 1 + noise, "dear": 1 + noise, "random": noise}, ["random"],
        ...                {"good": Cost(1), "dear": Cost(9), "random": Cost(0)})
        >>> found.chosen, found.control, [one.tied for one in found.standings]
        ('good', 'random', [True, True, False])
    """
    means = {label: bootstrap(v, subjects=subjects) for label, v in values.items() if bool((~v.isnan()).any())}
    rivals = [label for label in means if label in controls]
    if not rivals:
        raise ValueError(f"no control has a value: {', '.join(controls)}")
    control = max(rivals, key=lambda label: means[label].mean)
    methods = [label for label in means if label not in controls]
    strict = (1 - level) / max(1, len(methods))
    votes = {label: _by_person(values[label], subjects) for label in means}

    def above(label: str, other: str) -> tuple[float, int, int]:
        """The chance of so many wins, the wins, and of how many; certain where its mean is not higher."""
        difference = votes[label] - votes[other]
        difference = torch.where(difference.abs() > ROUNDING, difference, 0 * difference)
        chance, wins, of = sign_test(difference)
        return (chance if float(difference.nanmean()) > 0 else 1.0), wins, of

    hardest = {m: max(rivals, key=lambda c, m=m: above(m, c)[0]) for m in methods}  # type: ignore[misc]
    beating = [m for m in methods if above(m, hardest[m])[0] <= strict]
    best = max(beating, key=lambda label: means[label].mean, default=None)
    tied = [m for m in beating if m == best or (best is not None and above(best, m)[0] > 1 - level)]
    standings = []
    for label in sorted(means, key=lambda label: -means[label].mean):
        _, wins, of = above(label, against := hardest.get(label, control))
        ahead = bootstrap(values[label] - values[control], subjects=subjects)
        about = (label, label in rivals, means[label], ahead, against, wins, of, costs[label])
        standings.append(Standing(*about, label in beating, label in tied))
    # Not the measured seconds: they would choose otherwise the next time.
    chosen = min(tied, key=lambda m: (costs[m].evaluations, costs[m].tail, -means[m].mean), default=None)
    return Verdict(chosen, best, control, math.ceil(math.log2(1 / strict)), tuple(standings))


def sign_test(differences: Tensor) -> tuple[float, int, int]:
    """The chance that a coin gives so many differences above 0, or more; how many there are, and of how many not 0.

    Args:
        differences: ``(n,)``; 0 and NaN do not count.

    Examples:
        >>> sign_test(torch.tensor([1.0, 2.0, 3.0, -1.0, 0.0]))
        (0.3125, 3, 4)
    """
    wins, of = int((differences > 0).sum()), int((differences != 0).sum() - differences.isnan().sum())
    return sum(math.comb(of, k) for k in range(wins, of + 1)) / 2**of, wins, of


def _by_person(values: Tensor, subjects: Subjects) -> Tensor:
    """The mean of each person's pairs; the values themselves where nobody is known."""
    if subjects is None:
        return values
    people: dict[object, list[int]] = {}
    for row, (person, _) in enumerate(subjects):
        people.setdefault(person or row, []).append(row)
    return torch.stack([values[rows].nanmean() for rows in people.values()])
