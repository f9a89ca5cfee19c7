"""Which method to trust for one's own model: the evidence, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from faithmap.charts import interval_chart
from faithmap.methods import Method
from faithmap.metrics import Interval, bootstrap

Subjects = Sequence[tuple[str, str]] | None


@dataclass(frozen=True)
class Recommendation:
    """The method to take for this model, with the evidence; or that none is better than a control.

    ``str()`` says it in words, `figure` draws it, and `verdict` holds every number.
    """

    method: Method | None
    """The cheapest of those that are as good as the best; None where no method beats the controls."""
    verdict: Verdict
    model: str
    samples: int
    what: str
    """What the criterion is, in words."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that were not tried, and why."""

    def __str__(self) -> str:
        return "\n".join(_words(self))

    def figure(self) -> Image.Image:
        """Every method's score with its interval, the best first; controls are hollow."""
        found = self.verdict
        rows = [
            (one.label, 100 * one.score.mean, 100 * one.score.low, 100 * one.score.high, one.control)
            for one in found.standings
        ]
        mark = next(100 * one.score.mean for one in found.standings if one.label == found.control)
        says = f"take {found.chosen}" if found.chosen else f"none is better than {found.control}"
        return interval_chart(
            rows, f"{self.model}, {self.samples} samples: {says}", f"{self.what}, x 100", mark, found.control
        )


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


def _words(found: Recommendation) -> list[str]:
    verdict = found.verdict
    ranked = {one.label: one for one in verdict.standings}
    tried = sum(not one.control for one in verdict.standings)
    control = ranked[verdict.control]
    lines = []
    if verdict.chosen is None:
        lines.append(
            f"None of {tried} methods is better than the control {verdict.control} for {found.model} on these "
            f"{found.samples} samples: {_MEANING.get(verdict.control, verdict.control)} explains them as well. "
            "A method may still be better on others: give more samples, or trust no map here."
        )
        leader = next((one for one in verdict.standings if not one.control), None)
        if leader is not None:
            lines.append(f"Nearest is {leader.label}, {_ahead(leader)} of {verdict.control}.")
    else:
        chosen = ranked[verdict.chosen]
        lines.append(
            f"Take {verdict.chosen} for {found.model}: on {found.samples} samples it is {_ahead(chosen)} of "
            f"{verdict.control}, the best control ({100 * control.score.mean:.1f})."
        )
        others = [one for one in verdict.standings if one.tied and one.label != verdict.chosen]
        if others:
            named = ", ".join(f"{one.label} ({one.evaluations:.3g})" for one in others[:6])
            more = f" and {len(others) - 6} more" if len(others) > 6 else ""
            lines.append(
                f"These samples do not tell it from the best; it is the cheapest, at {chosen.evaluations:.3g} network "
                f"evaluations per sample. As good: {named}{more}."
            )
        beaten = sum(not one.control and one.ahead.low <= 0 for one in verdict.standings)
        if beaten:
            lines.append(f"{beaten} of {tried} methods are not shown to be better than {verdict.control}.")
    lines.append(f"Criterion, x 100: {found.what}. Intervals are 95 %, over samples, for all methods at once.")
    if found.left_out:
        lines.append(f"Not tried: {', '.join(found.left_out)}.")
    return lines


_MEANING = {
    "centre-gaussian": "a Gaussian in the middle of the picture",
    "edges": "the edges of the picture",
    "constant": "a map that is the same everywhere",
    "random": "a random order of the pixels",
}


def _ahead(one: Standing) -> str:
    where = "ahead" if one.ahead.mean >= 0 else "behind"
    low, high = (100 * end for end in (one.ahead.low, one.ahead.high))
    return f"{abs(100 * one.ahead.mean):.1f} [{low:.1f}, {high:.1f}] {where}"


def candidates(fitting: Sequence[Method], budget: int) -> tuple[list[Method], dict[str, str]]:
    """The methods that take at most so many steps per sample, without controls; and why others are left out.

    Args:
        fitting: methods that can explain the model.
        budget: steps of work per sample.

    Examples:
        >>> import faithmap as fm
        >>> kept, left_out = candidates([fm.methods.create(n) for n in ("lift-cam", "rise", "random")], budget=100)
        >>> [method.name for method in kept], left_out
        (['lift-cam'], {'rise': '4000 steps per sample, more than the budget of 100'})
    """
    asked = [method for method in fitting if not method.control]
    left_out = {
        method.name: f"{method.steps} steps per sample, more than the budget of {budget}"
        for method in asked
        if method.steps > budget
    }
    return [method for method in asked if method.steps <= budget], left_out
