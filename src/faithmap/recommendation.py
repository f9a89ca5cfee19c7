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
from faithmap.models.base import Model, require_model
from faithmap.models.face import FaceEmbedder
from faithmap.running import Methods, able
from faithmap.targets import Logit, Similarity
from faithmap.verdict import Cost, Standing, Verdict, judged

FLAT = 1e-6
CRITERION = "lerf - morf"
"""Of the metric `removal`: insertion less deletion, with blur for what is absent."""


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
    0, 10, ..., 100 %. A method is recommended only if it beats every control on so many pictures that luck, with all
    methods together, makes it in at most 5 of 100 cases; see `verdict.judged`. Of those that these pictures do not tell
    from the best it is the one of the fewest network evaluations.
    Of pairs of faces the genuine ones are taken, and the similarity is followed.

    Args:
        model: a `Classifier`, or a `FaceEmbedder` for pairs.
        dataset: a folder of pictures, a list of them, or a data set; pairs as a data set.
        methods: names, or methods with their parameters; by default every one that can explain the model within the
            budget.
        budget: the steps of work per picture that a method may take, where none are named: FAME's iterations, RISE's
            masks; 1 for methods of one pass.
        limit: how many pictures, spread evenly. Nine is the least that can show anything of 25
            methods, and then only one that always wins.
        batch_size: pictures per network call.
        seed: of all that is random.
        progress: True for a bar, or a function of (done, total).

    Returns:
        A `Recommendation`: ``method``, None where no method beats the controls; ``str()`` says why, `figure` shows it.

    Raises:
        ValueError: something given does not fit; the message says what would.
        FileNotFoundError: the folder does not exist.

    Examples:
        >>> found = recommend(fm.load(), fm.datasets.load("photos"), ["lift-cam"], limit=1, batch_size=1)
        >>> found.method is None, found.verdict.control  # one photo shows nothing
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
    if all(entry.method.control for entry in found.spec.entries):
        raise ValueError("there is no method to judge: name some that are no controls, or give a larger budget")
    values, costs, refused = _values(found)
    read = [one for one in found.clean.samples if one.error is None]
    verdict = judged(values, CONTROLS, costs, subjects=[one.subjects for one in read] if faces else None)
    return Recommendation(
        next((entry.method for entry in found.spec.entries if entry.label == verdict.chosen), None),
        verdict,
        model.name,
        len(read),
        _WHAT[faces],
        left_out | refused,
        {one.sample: one.error for one in found.clean.samples if one.error is not None},
        all(float(of.abs().nan_to_num(0).max()) < FLAT for of in values.values()),
    )


_WHAT = {
    False: "the probability of the predicted class as the most important pixels enter a blurred picture, less that as "
    "they leave the picture",
    True: "the similarity to the gallery as the most important pixels enter a blurred probe, less that as they leave "
    "the probe",
}


def _values(found: Evaluation) -> tuple[dict[str, Tensor], dict[str, Cost], dict[str, str]]:
    """By method the criterion of each sample that was read ``(n,)``, its cost, and why some have no value at all."""
    rows: dict[str, dict[str, Record]] = {entry.label: {} for entry in found.spec.entries}
    for record in found.records:
        if record.part == CRITERION:
            rows[record.method][record.sample] = record
    read = [one.sample for one in found.clean.samples if one.error is None]
    values, costs, refused = {}, {}, {}
    for label, of in rows.items():
        got = [of[sample].value for sample in read]
        values[label] = torch.tensor([math.nan if v is None else v for v in got], dtype=torch.float64)
        ran = [record for record in of.values() if record.value is not None]
        if not ran:
            refused[label] = next((of[sample].error for sample in read if of[sample].error), None) or "it has no value"
            continue
        mean = {name: sum(getattr(record, name) for record in ran) / len(ran) for name in _COSTS}
        tail = mean["tail_forward"] + mean["tail_backward"]
        costs[label] = Cost(mean["forward"] + mean["backward"], tail, mean["seconds"])
    return values, costs, refused


_COSTS = ("forward", "backward", "tail_forward", "tail_backward", "seconds")


@dataclass(frozen=True)
class Recommendation:
    """The method to take for this model, with the evidence; or that none is better than a control.

    ``str()`` says it in words, `figure` draws it, and `verdict` holds every number.

    Examples:
        >>> found = recommend(fm.load(), fm.datasets.load("photos"), ["lift-cam"], limit=1, batch_size=1)
        >>> print(str(found).splitlines()[0])
        None of 1 method is shown to be better than every control for efficientnet-lite0 on 1 sample.
    """

    method: Method | None
    """The cheapest of those that are as good as the best; None where no method beats the controls."""
    verdict: Verdict
    model: str
    samples: int
    """That could be read and explained."""
    what: str
    """What the criterion is, in words."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that were not tried, and why."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Samples that could not be used, and why."""
    flat: bool = False
    """Whether the network's answer hardly changes, whatever is removed."""

    def __str__(self) -> str:
        return "\n".join(_words(self))

    def figure(self) -> Image.Image:
        """How far each method is ahead of the best control, with 95 % intervals; controls are hollow."""
        found = self.verdict
        rows = [
            (one.label, 100 * one.ahead.mean, 100 * one.ahead.low, 100 * one.ahead.high, one.control)
            for one in found.standings
        ]
        says = f"take {found.chosen}" if found.chosen else "none is shown to be better than the controls"
        about = f"ahead of {found.control}, x 100, sample by sample: {self.what}"
        return interval_chart(rows, f"{self.model}, {_samples(self.samples)}: {says}", about, 0, found.control)


def _words(found: Recommendation) -> list[str]:
    verdict = found.verdict
    methods = [one for one in verdict.standings if not one.control]
    count = f"{len(methods)} method{'s' if len(methods) != 1 else ''}"
    lines, samples = [], _samples(found.samples)
    if not methods:
        refusals = [f"{name}: {why}" for name, why in found.left_out.items()]
        lines.append(f"No method can explain {found.model} on {samples}: {_named(refusals, most=1)}.")
    elif verdict.chosen is None:
        lines.append(f"None of {count} is shown to be better than every control for {found.model} on {samples}.")
        if found.samples < verdict.fewest:
            lines.append(f"So few can show nothing: about {count} it takes at least {verdict.fewest}.")
        elif found.flat:
            lines.append("The network's answer hardly changes with their pixels: there is nothing to explain here.")
        else:
            who = _MEANING.get(verdict.control, verdict.control)
            lines.append(f"The best control is {verdict.control}, {who}: as far as these tell, it does as well.")
        lines.append(f"Nearest is {methods[0].label}: {_ahead(methods[0], verdict.control)}.")
    else:
        chosen = next(one for one in methods if one.label == verdict.chosen)
        lines.append(f"Take {chosen.label} for {found.model}, from {samples}: {_ahead(chosen, verdict.control)}.")
        others = [f"{one.label} ({_cost(one.cost)})" for one in methods if one.tied and one.label != verdict.chosen]
        if others:
            lines.append(
                f"It is the cheapest ({_cost(chosen.cost)}) of those that tie with the best: {_named(others)}."
            )
        rest = [one.label for one in methods if not one.beats]
        if rest:
            lines.append(f"Not shown to be better than every control: {_named(rest)}.")
    lines.append(
        f"Criterion, x 100: {found.what}. Better is what wins on so many samples that chance, for all {count} at once, "
        "makes it in at most 5 of 100 cases."
    )
    if found.unread:
        shown = "; ".join(f"{sample}: {why}" for sample, why in list(found.unread.items())[:3])
        lines.append(f"Left out, {len(found.unread)} that could not be used: {shown}.")
    if found.left_out:
        lines.append(f"Not tried: {_named(list(found.left_out))}.")
    return lines


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count != 1 else ''}"


def _ahead(one: Standing, control: str) -> str:
    """Where it stands to the best control, and on how many samples it wins against the hardest one."""
    where = "ahead of" if one.ahead.mean >= 0 else "behind"
    ends = sorted(100 * (end if one.ahead.mean >= 0 else -end) for end in (one.ahead.low, one.ahead.high))
    wins = f"it wins on {one.wins} of {one.of}"
    against = "" if one.hardest == control else f" against {one.hardest}"
    return f"{abs(100 * one.ahead.mean):.1f} [{ends[0]:.1f}, {ends[1]:.1f}] {where} {control}, and {wins}{against}"


def _cost(cost: Cost) -> str:
    return f"{cost.evaluations:.3g} evaluations" + (f" + {cost.tail:.3g} of the tail" if cost.tail else "")


_MEANING = {
    "centre-gaussian": "a Gaussian in the middle of the picture",
    "edges": "a map of the picture's edges",
    "constant": "a map that is the same everywhere",
    "random": "a random order of the pixels",
}


def _named(names: Sequence[str], most: int = 6) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
