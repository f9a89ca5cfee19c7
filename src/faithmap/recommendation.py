"""Which method to trust for one's own model: the evidence, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from faithmap.metrics import Interval, bootstrap

Subjects = Sequence[tuple[str, str]] | None


@dataclass(frozen=True)
class Standing:
    """How one method did."""

    label: str
    control: bool
    score: Interval
    """Of the criterion; higher is better."""
    ahead: Interval
    """Of what it is above the best control, sample by sample; at a level at which all methods hold at once."""
    behind: Interval | None
    """Of what it is below the best method, sample by sample, where there is a best."""
    evaluations: float
    """Of the network, per sample."""
    seconds: float
    """Per sample."""
    tied: bool = False
    """Better than every control, and not shown to be worse than the best."""


@dataclass(frozen=True)
class Verdict:
    """What the scores of methods and controls on the same samples say."""

    chosen: str | None
    """The cheapest of those that are as good as the best; None where no method beats the controls."""
    best: str | None
    """The highest mean among those that beat the controls."""
    control: str
    """The control with the highest mean."""
    standings: tuple[Standing, ...]
    """The highest mean first."""


def judged(
    values: Mapping[str, Tensor],
    controls: Sequence[str],
    costs: Mapping[str, tuple[float, float]],
    *,
    subjects: Subjects = None,
    level: float = 0.95,
) -> Verdict:
    """Which methods beat the best control, and which of them are as good as the best.

    A method beats the controls if the interval of its difference to the best of them, paired by sample, is above 0.
    With m methods the interval has the level ``1 - (1 - level) / m`` (Bonferroni): else the best of many would be above
    a control by luck.

    Args:
        values: one value per sample ``(n,)`` for each method and control; higher is better.
        controls: which of them are controls.
        costs: network evaluations and seconds per sample of each.
        subjects: of pairs of faces, who is on them; see `metrics.bootstrap`.
        level: of the whole claim.

    Examples:
        >>> noise = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> found = judged({"good": 1 + noise, "dear": 1 + noise, "random": noise}, ["random"],
        ...                {"good": (1, 0), "dear": (9, 0), "random": (0, 0)})
        >>> found.chosen, found.control, [one.tied for one in found.standings]
        ('good', 'random', [True, True, False])
    """
    means = {label: bootstrap(v, subjects=subjects) for label, v in values.items() if bool((~v.isnan()).any())}
    control = max((label for label in means if label in controls), key=lambda label: means[label].mean)
    methods = [label for label in means if label not in controls]
    strict = 1 - (1 - level) / max(1, len(methods))

    def over(label: str, other: str, at: float) -> Interval:
        # Far out in the tails stand few draws: take more.
        return bootstrap(values[label] - values[other], subjects=subjects, level=at, draws=10_000)

    ahead = {label: over(label, control, strict) for label in means}
    winners = [label for label in methods if ahead[label].low > 0]
    best = max(winners, key=lambda label: means[label].mean, default=None)
    behind = {label: None if best is None else over(best, label, level) for label in means}
    tied = [label for label in winners if (gap := behind[label]) is not None and gap.low <= 0]
    standings = [
        Standing(label, label in controls, means[label], ahead[label], behind[label], *costs[label], label in tied)
        for label in sorted(means, key=lambda label: -means[label].mean)
    ]
    return Verdict(min(tied, key=lambda label: costs[label], default=None), best, control, tuple(standings))
