"""How good are maps on pictures of one's own: methods and metrics beside one another, in one call."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch

from faithmap import datasets, methods, metrics
from faithmap.batching import Progress
from faithmap.bench.clean import Cleaned
from faithmap.bench.engines import local
from faithmap.bench.pages import to_markdown
from faithmap.bench.plan import Unit, lacking, plan, problems
from faithmap.bench.records import Record
from faithmap.bench.run import Runner, UnitResult
from faithmap.bench.spec import CONTROLS, Entry, Spec
from faithmap.bench.tables import Row, summarize, to_csv
from faithmap.datasets import Dataset, Example
from faithmap.datasets.worlds.named import is_world, world
from faithmap.images import Picture
from faithmap.methods import Method
from faithmap.metrics import Metric
from faithmap.models.base import Model, require_model
from faithmap.models.face import FaceEmbedder
from faithmap.running import Methods, able, as_method, as_methods, checked, labels_of, reporting
from faithmap.targets import Logit, Similarity, Target

T = TypeVar("T")

EVALUATED = ("lift-cam", "fame", "grad-cam", "layer-cam", "integrated-gradients")
"""Methods that `evaluate` takes where nobody says, beside the controls."""
EVALUATED_PAIRS = ("fame", "lift-cam", "grad-cam", "corrise")
"""Likewise of pairs of faces."""
METRICS = ("removal", "average-drop", "average-drop-in-deletion", "adcc", "iou", "energy-pointing")
"""Metrics that `evaluate` takes where nobody says; those that need to know where objects are only where data does."""
METRICS_OF_PAIRS = ("verification-deletion", "verification-insertion")
"""Likewise of pairs of faces."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Examples:
        >>> found = evaluate(fm.load(), fm.datasets.load("photos"), [], ["average-drop"], batch_size=3)
        >>> len(found.records), found.to_csv().partition(",")[0]  # three photos, four controls
        (12, 'data')
    """

    spec: Spec
    """What was asked, with the controls."""
    records: Sequence[Record]
    """One for each sample, method and part of a metric."""
    clean: Cleaned
    """What the model says of the untouched samples; of pairs with the threshold."""

    def summary(self) -> list[Row]:
        """A row for each method and part of a metric: means with intervals, differences to the controls, costs."""
        people = {one.sample: one.subjects for one in self.clean.samples if one.genuine is not None}
        subjects = dict.fromkeys(self.spec.data, people) if people else None
        return summarize(self.records, self.spec.metrics, subjects=subjects)

    def to_markdown(self) -> str:
        """The summary as tables for people, with intervals, the best first."""
        title = f"{', '.join(self.spec.models)} on {', '.join(self.spec.data)}"
        return to_markdown(title, self.summary(), self.spec.metrics)

    def to_csv(self) -> str:
        """The summary with all that it holds, one line for each row."""
        return to_csv(self.summary())


def evaluate(
    model: Model,
    dataset: Dataset[Any] | str | os.PathLike[str] | Sequence[Picture],
    methods: Methods = None,
    metrics: Sequence[str | Metric] | None = None,
    *,
    explain: Literal["predicted", "label"] = "predicted",
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Evaluation:
    """How good are the maps of some methods for this model on these pictures, beside those of controls.

    A sample that cannot be read or explained gives records that say why; it never ends the evaluation.

    Args:
        model: a `Classifier`, or a `FaceEmbedder` for data sets of pairs.
        dataset: from ``fm.datasets.load``; or a folder of pictures, or a list of them.
        methods: names, or methods with their parameters; "all" for every method that can explain this model; a few by
            default. The controls are always there.
        metrics: names, or metrics with their parameters; by default those that fit the data.
        explain: which class: what the model says, or what the data set says.
        limit: on how many samples, spread evenly over the data set; all without it.
        batch_size: the most samples per batch; the last is padded to the size of the others.
        seed: of all that is random.
        progress: True for a bar, or a function of (done, total).

    Returns:
        An `Evaluation`: its records, and ``summary()``.

    Raises:
        ValueError: something given does not fit; the message tells all that does not, before any work.
        FileNotFoundError: the folder does not exist.

    Examples:
        >>> photos = fm.datasets.load("photos")
        >>> found = evaluate(fm.load(), photos, ["grad-cam"], ["average-drop"], limit=1, batch_size=1)
        >>> for row in found.summary():
        ...     print(f"{row.method}: {row.mean.mean:.1f}")
        random: 1.0
        centre-gaussian: 0.0
        edges: 1.0
        constant: 0.0
        grad-cam: 0.0
    """
    model = require_model(model)
    wrong: list[str] = []
    data = as_dataset(dataset)
    chosen = _methods(model, methods, wrong)
    judges = _metrics(model, data, metrics, wrong)
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if not (value is None and name == "limit") and not (type(value) is int and value >= 1):
            wrong.append(f"{name} is a whole number, at least 1: got {value!r}")
    if explain not in ("predicted", "label"):
        wrong.append(f"explain is 'predicted' or 'label': got {explain!r}")
    if explain == "label" and data.task == "classification" and any(one.label is None for one in data.examples):
        wrong.append(f"explain='label' needs the classes of all pictures: {data.name} lacks some")
    faces = isinstance(model, FaceEmbedder)
    if faces != (data.task == "verification"):
        wrong.append(f"{model.name} is a {type(model).__name__}, and {data.name} is for {data.task}")
    data = data if limit is None or wrong else data.take(limit)
    spec = Spec(
        name="evaluate",
        models={model.name: model},
        data={data.name: data},
        entries=_entries(chosen),
        metrics=judges,
        explain=explain,
        batch=batch_size if wrong else min(batch_size, len(data)),
        seed=seed,
    )
    wrong += problems(spec)
    if wrong:
        raise ValueError("; ".join(dict.fromkeys(wrong)))
    return _run(spec, progress)


def _run(spec: Spec, progress: bool | Progress | None) -> Evaluation:
    records, cleaned = list[Record](), list[Cleaned]()

    def save(unit: Unit, found: UnitResult) -> None:
        records.extend(found.records)
        if found.clean is not None:
            cleaned.append(found.clean)
            errors = [one.error for one in found.clean.samples]
            if all(errors):
                raise ValueError(f"no sample of {unit.data} can be explained; the first: {errors[0]}")

    with reporting(progress, f"{len(spec.entries)} methods") as report:
        local(spec, plan(spec), lambda _: False, Runner(spec), save, report)
    return Evaluation(spec, records, cleaned[0])


@dataclass(frozen=True)
class _Given(Dataset[Example]):
    """Pictures as they are given."""

    name: ClassVar[str] = "pictures"
    task: ClassVar[Literal["classification"]] = "classification"

    pictures: tuple[Any, ...]

    def read(self) -> Iterator[Example]:
        """By their base names; of one name, and without any, with their places."""
        names = [Path(p).name if isinstance(p, (str, os.PathLike)) else "picture" for p in self.pictures]
        often = Counter(names)
        for place, (name, picture) in enumerate(zip(names, self.pictures, strict=True)):
            yield Example(name if often[name] == 1 else f"{place} {name}", picture)


def as_dataset(given: Any) -> Dataset[Any]:
    """A data set as it is; a world's name, a folder or a list of pictures as one."""
    if isinstance(given, Dataset):
        return given
    if isinstance(given, (str, os.PathLike)) and is_world(given):
        return world(given)
    if isinstance(given, (str, os.PathLike)):
        return datasets.load("folder", folder=os.fspath(given))
    if isinstance(given, (list, tuple)):
        if not given:
            raise ValueError("there is no picture: the list is empty")
        return _Given(tuple(given))
    raise ValueError(
        "a data set is one of fm.datasets.load, a world's name, a folder, or a list of pictures: "
        f"got {type(given).__name__}"
    )


def _methods(model: Model, given: Methods, wrong: list[str]) -> list[Method]:
    """The methods that are asked for; what is wrong with them is added to the list."""
    faces = isinstance(model, FaceEmbedder)
    target: Target = Similarity(torch.ones(1)) if faces else Logit(0)
    if given is None or given == "all":
        asked = as_methods(given, EVALUATED_PAIRS if faces else EVALUATED)
        return able(model, [method for method in asked if method.name not in CONTROLS], target)
    if isinstance(given, (str, Method)):
        wrong.append(f"methods is a list, or 'all': give [{given!r}]")
        return []
    found = [_tried(lambda one=one: checked(model, [as_method(one)], target)[0], wrong) for one in given]  # type: ignore[misc]
    return [method for method in dict.fromkeys(found) if method is not None and method not in _controls()]


def _controls() -> list[Method]:
    return [methods.create(name) for name in CONTROLS]


def _entries(chosen: Sequence[Method]) -> list[Entry]:
    """The controls under their names, then the methods, each under what tells it from all others."""
    controls = _controls()
    labels = [*CONTROLS, *labels_of([*controls, *chosen])[len(controls) :]]
    return [Entry(label, method) for label, method in zip(labels, [*controls, *chosen], strict=True)]


def _metrics(model: Model, data: Dataset[Any], given: Sequence[str | Metric] | None, wrong: list[str]) -> list[Metric]:
    """The metrics that are asked for; what is wrong with them is added to the list."""
    if given is None:
        names = METRICS_OF_PAIRS if isinstance(model, FaceEmbedder) else METRICS
        return [metric for metric in map(metrics.create, names) if lacking(metric.needs, data) is None]
    if isinstance(given, (str, Metric)):
        wrong.append(f"metrics is a list: give [{given!r}]")
        return []
    found = [_tried(lambda one=one: _metric(one), wrong) for one in given]  # type: ignore[misc]
    return [metric for metric in dict.fromkeys(found) if metric is not None]


def _metric(given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return metrics.create(given)
    raise ValueError(f"a metric is a name or a metric with parameters, 'iou' or Removal(steps=10): got {given!r}")


def _tried(ask: Callable[[], T], wrong: list[str]) -> T | None:
    try:
        return ask()
    except ValueError as error:
        wrong.append(str(error))
    return None
