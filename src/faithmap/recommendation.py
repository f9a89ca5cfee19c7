"""Which method to trust for one's own model: the evidence, and what it does not show."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from faithmap import methods as registered
from faithmap.batching import Progress
from faithmap.bench.records import Record
from faithmap.bench.spec import CONTROLS
from faithmap.charts import interval_chart
from faithmap.datasets import Dataset
from faithmap.evaluation import Evaluation, as_dataset, evaluate
from faithmap.images import Picture
from faithmap.methods import Method
from faithmap.metrics import Interval, bootstrap
from faithmap.models.base import Model, require_model
from faithmap.models.face import FaceEmbedder
from faithmap.running import Methods, able
from faithmap.targets import Logit, Similarity

Subjects = Sequence[tuple[str, str]] | None
CRITERION = "lerf - morf"
"""Of the metric `removal`: insertion less deletion, with blur for what is absent."""
ROUNDING = 1e-6
"""A difference of scores that is no larger is float32's: two methods may order pixels alike up to it."""


def recommend(
    model: Model,
    dataset: Dataset[Any] | str | os.PathLike[str] | Sequence[Picture],
    methods: Methods = None,
    *,
    budget: int = 100,
    limit: int = 24,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Recommendation:
    """Which method to trust for this model on these pictures; no labels or boxes are needed.

    Every method explains every picture, and its order of the pixels is tested: the probability of the predicted class
    as the most important pixels enter a blurred picture, less that as they leave the picture, averaged over shares of
    0, 10, ..., 100 %. A method is recommended only if it beats the best control with an interval that holds for all
    methods at once; of those that these pictures do not tell from the best, the one of the fewest network evaluations.
    Of pairs of faces the genuine ones are taken, and the similarity is followed.

    Args:
        model: a `Classifier`, or a `FaceEmbedder` for pairs.
        dataset: a folder of pictures, a list of them, or a data set; pairs as a data set.
        methods: names, or methods with their parameters; by default every one that can explain the model within the
            budget.
        budget: the steps of work per picture that a method may take, where none are named: FAME's iterations, RISE's
            masks; 1 for methods of one pass.
        limit: how many pictures, spread evenly. With fewer than 24 hardly anything can be shown.
        batch_size: pictures per network call.
        seed: of all that is random.
        progress: True for a bar, or a function of (done, total).

    Returns:
        A `Recommendation`: ``method``, None where no method beats the controls; ``str()`` says why, `figure` shows it.

    Raises:
        ValueError: something given does not fit; the message says what would.
        FileNotFoundError: the folder does not exist.

    Examples:
        >>> found = recommend(fm.load(), fm.datasets.load("photos"), ["lift-cam"], batch_size=3)
        >>> found.method is None, found.verdict.control  # three photos show nothing
        (True, 'centre-gaussian')
    """
    model = require_model(model)
    if budget < 1 or limit < 1:
        raise ValueError(f"budget and limit are at least 1: got {budget} and {limit}")
    data, faces = as_dataset(dataset), isinstance(model, FaceEmbedder)
    if faces and data.task == "verification":
        data = data.only(lambda pair: pair.genuine)
    left_out: dict[str, str] = {}
    if methods is not None and not methods:
        raise ValueError("there is no method to try, the list is empty: leave it out for every one that fits")
    if methods is None:
        everything = [registered.create(name) for name in registered.available()]
        fitting = able(model, everything, Similarity(torch.ones(1)) if faces else Logit(0))
        methods, left_out = candidates(fitting, budget)
    ask: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "seed": seed, "progress": progress}
    found = evaluate(model, data, methods, ["removal"], **ask)
    values, costs, refused = _values(found)
    pairs = [one.subjects for one in found.clean.samples] if faces else None
    verdict = judged(values, CONTROLS, costs, subjects=pairs)
    chosen = next((entry.method for entry in found.spec.entries if entry.label == verdict.chosen), None)
    return Recommendation(chosen, verdict, model.name, len(found.clean.samples), _WHAT[faces], left_out | refused)


_WHAT = {
    False: "the probability of the predicted class as the most important pixels enter a blurred picture, less that as "
    "they leave the picture",
    True: "the similarity to the gallery as the most important pixels enter a blurred probe, less that as they leave "
    "the probe",
}


def _values(found: Evaluation) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]], dict[str, str]]:
    """By method the criterion of each sample ``(n,)``, what it costs, and why some have no value at all."""
    rows: dict[str, dict[str, Record]] = {entry.label: {} for entry in found.spec.entries}
    for record in found.records:
        if record.part == CRITERION:
            rows[record.method][record.sample] = record
    values, costs, refused = {}, {}, {}
    for label, of in rows.items():
        got = [of[one.sample].value for one in found.clean.samples]
        values[label] = torch.tensor([math.nan if v is None else v for v in got], dtype=torch.float64)
        ran = [record for record in of.values() if record.value is not None]
        if not ran:
            refused[label] = next((record.error for record in of.values() if record.error), "it has no value")
            continue
        spent = sum(record.forward + record.backward for record in ran) / len(ran)
        costs[label] = spent, sum(record.seconds for record in ran) / len(ran)
    return values, costs, refused


@dataclass(frozen=True)
class Recommendation:
    """The method to take for this model, with the evidence; or that none is better than a control.

    ``str()`` says it in words, `figure` draws it, and `verdict` holds every number.

    Examples:
        >>> found = recommend(fm.load(), fm.datasets.load("photos"), ["lift-cam"], batch_size=3)
        >>> print(str(found).partition(":")[0])
        None of 1 method is better than the control centre-gaussian for efficientnet-lite0 on these 3 samples
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
        says = f"take {found.chosen}" if found.chosen else f"none is shown to be better than {found.control}"
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
    better: bool = False
    """Shown to be better than every control: `ahead` is above 0, on as many samples as that takes."""
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
    fewest: int
    """How many samples it takes to show that one of so many methods is better."""
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
    a control by luck. For the same reason it takes at least ``1 + log2(m / (1 - level))`` samples.

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
    # So few samples have all differences of one sign by chance too often for any claim.
    fewest = math.ceil(1 + math.log2(1 / (1 - strict)))

    def over(label: str, other: str, at: float) -> Interval:
        # Far out in the tails stand few draws: take more.
        return bootstrap(values[label] - values[other], subjects=subjects, level=at, draws=10_000)

    ahead = {label: over(label, control, strict) for label in means}
    winners = [label for label in methods if ahead[label].low > ROUNDING and ahead[label].samples >= fewest]
    best = max(winners, key=lambda label: means[label].mean, default=None)
    behind = {label: None if best is None else over(best, label, level) for label in means}
    tied = [label for label in winners if (gap := behind[label]) is not None and gap.low <= ROUNDING]
    standings = tuple(
        Standing(
            label,
            label in controls,
            means[label],
            ahead[label],
            behind[label],
            *costs[label],
            better=label in winners,
            tied=label in tied,
        )
        for label in sorted(means, key=lambda label: -means[label].mean)
    )
    return Verdict(min(tied, key=lambda label: costs[label], default=None), best, control, fewest, standings)


def _words(found: Recommendation) -> list[str]:
    verdict = found.verdict
    ranked = {one.label: one for one in verdict.standings}
    tried = [one for one in verdict.standings if not one.control]
    control = ranked[verdict.control]
    count = f"{len(tried)} {'method' if len(tried) == 1 else 'methods'}"
    lines = []
    if not tried:
        lines.append(f"No method can explain {found.model} on these {found.samples} samples: {_first(found.left_out)}")
    elif verdict.chosen is None and any(one.ahead.low > ROUNDING for one in tried):
        which = tried[0].label if len(tried) == 1 else f"one of {count}"
        lines.append(
            f"{found.samples} {'sample is' if found.samples == 1 else 'samples are'} too few to show that {which} is "
            f"better than the control {verdict.control} for {found.model}: it takes {verdict.fewest}."
        )
    elif verdict.chosen is None:
        lines.append(
            f"None of {count} is better than the control {verdict.control} for {found.model} on these {found.samples} "
            f"samples: "
            f"{_MEANING.get(verdict.control, verdict.control)} explains them as well. A method may still be better on "
            "others: give more samples, or trust no map here."
        )
    else:
        chosen = ranked[verdict.chosen]
        lines.append(
            f"Take {verdict.chosen} for {found.model}: on {found.samples} samples it is "
            f"{_ahead(chosen, verdict.control)}, the best control ({100 * control.score.mean:.1f})."
        )
        others = [one for one in verdict.standings if one.tied and one.label != verdict.chosen]
        if others:
            cost = f"{chosen.evaluations:.3g} network evaluation{'s' if chosen.evaluations != 1 else ''}"
            named = _named([f"{one.label} ({one.evaluations:.3g})" for one in others])
            lines.append(f"It is the cheapest, at {cost} per sample, of those that tie with the best: {named}.")
        rest = [one.label for one in tried if not one.better]
        if rest:
            lines.append(f"Not shown to be better than {verdict.control}: {_named(rest)}.")
    if tried and verdict.chosen is None:
        lines.append(f"Nearest is {tried[0].label}, {_ahead(tried[0], verdict.control)}.")
    lines.append(f"Criterion, x 100: {found.what}. Intervals are 95 %, over samples, for all methods at once.")
    if found.left_out:
        lines.append(f"Not tried: {_named(list(found.left_out))}.")
    return lines


_MEANING = {
    "centre-gaussian": "a Gaussian in the middle of the picture",
    "edges": "a map of the picture's edges",
    "constant": "a map that is the same everywhere",
    "random": "a random order of the pixels",
}


def _named(names: Sequence[str], most: int = 6) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first(reasons: Mapping[str, str]) -> str:
    """The first of the methods with its reason, and how many more there are."""
    name, why = next(iter(reasons.items()))
    return _named([f"{name}: {why}", *list(reasons)[1:]], most=1)


def _ahead(one: Standing, control: str) -> str:
    sign, where = (1, "ahead of") if one.ahead.mean >= 0 else (-1, "behind")
    low, high = sorted(100 * sign * end for end in (one.ahead.low, one.ahead.high))
    return f"{100 * sign * one.ahead.mean:.1f} [{low:.1f}, {high:.1f}] {where} {control}"


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
