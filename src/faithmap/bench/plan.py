"""What a benchmark consists of: units that are run and written whole, and the fixed batches of samples in each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from faithmap.bench.spec import Entry, Spec
from faithmap.methods import Method, ShapCAM
from faithmap.methods.cam import ActivationMap
from faithmap.models.base import Model
from faithmap.models.vqa import VQAModel

Kind = Literal["clean", "shapley", "maps"]

METRIC_STEPS = 10
"""What a metric counts in progress, in steps of a method: about as many network calls."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is run and written whole.

    Examples:
        >>> Unit("photos", "MobileNetV2", "fame iterations=50").id
        'maps-photos-mobilenetv2-fame-iterations-50-0-9424a28b'
    """

    data: str
    model: str
    entry: str = ""
    """The label of the method; of SHAP values the layer whose channels they are of; of clean scores nothing."""
    shard: int = 0
    kind: Kind = "maps"
    """What it makes: the scores of untouched samples, reference values that methods share, or maps with their metrics.
    """

    @property
    def id(self) -> str:
        """What its files are called: no two units of a benchmark share one, on systems that ignore case either."""
        parts = [self.kind, self.data, self.model, self.entry]
        words = "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)))
        digest = hashlib.sha256(json.dumps([*parts, self.shard]).encode()).hexdigest()[:8]
        return f"{words[:100]}-{self.shard}-{digest}"


def plan(spec: Spec) -> list[Unit]:
    """All units in the order in which they are run.

    First the clean scores, which all others build on, then the reference values, then the methods: controls, then those
    of few steps, each on all data and models, so that a table fills early.

    Args:
        spec: the benchmark.
    """
    pairs = [(data, model) for data in spec.data for model in spec.models]
    units = [Unit(data, model, kind="clean") for data, model in pairs]
    asked = [
        *(Unit(d, m, layer, kind="shapley") for d, m in pairs for layer in reference_layers(spec, m)),
        *(Unit(d, m, e.label) for e in sorted(spec.entries, key=_cost) for d, m in pairs),
    ]
    for unit in asked:
        shards = min(spec.shards, len(_all_batches(spec, unit)))
        units += [Unit(unit.data, unit.model, unit.entry, shard, unit.kind) for shard in range(shards)]
    return units


def batches(spec: Spec, data: str, limit: int | None = None) -> list[list[int]]:
    """The fixed batches of a data set: which of its samples, in their order, run together.

    They are formed before any sharding, from ``take(limit)``: another number of shards has the same batches. Samples of
    one batch ask the same question.

    Args:
        spec: the benchmark.
        data: the data set's name in it.
        limit: on how many samples; on all without it.
    """
    return _batched(spec, data, _samples(spec, data, limit))


def unit_batches(spec: Spec, unit: Unit) -> list[list[int]]:
    """The batches of one unit: a run of whole ones out of all that its method has."""
    found = _all_batches(spec, unit)
    shards = 1 if unit.kind == "clean" else max(1, min(spec.shards, len(found)))
    return found[len(found) * unit.shard // shards : len(found) * (unit.shard + 1) // shards]


def entry_of(spec: Spec, unit: Unit) -> Entry:
    """The method that a unit runs."""
    return next(entry for entry in spec.entries if entry.label == unit.entry)


def weight(spec: Spec, unit: Unit) -> int:
    """How much work a unit is, for progress: samples times steps of the method, and the metrics' share."""
    samples = sum(map(len, unit_batches(spec, unit)))
    if unit.kind == "maps":
        return samples * (entry_of(spec, unit).method.steps + METRIC_STEPS * len(spec.metrics))
    return samples * (reference(spec).steps if unit.kind == "shapley" else 1)


def reference(spec: Spec, layer: str | None = None) -> ShapCAM:
    """What the SHAP values come from that methods' coefficients are held against: as the metrics that need them say.

    Args:
        spec: the benchmark.
        layer: whose channels the values are of.

    Raises:
        ValueError: two metrics want other reference values.
    """
    told = ("orders", "tolerance", "exact_up_to")
    wanted = [
        {key: value for key, value in metric.parameters.items() if key in told}
        for metric in spec.metrics
        if "shapley" in metric.needs
    ]
    if any(parameters != wanted[0] for parameters in wanted):
        raise ValueError(f"all metrics share one set of SHAP values: these want {wanted[0]} and {wanted[-1]}")
    return ShapCAM(**(wanted[0] if wanted else {}), layer=layer)


def reference_layers(spec: Spec, model: str) -> list[str]:
    """The layers of a model whose channels' SHAP values some metric holds against some method's coefficients."""
    if not any("shapley" in metric.needs for metric in spec.metrics):
        return []
    layers = (layer_of(spec.models[model], entry.method) for entry in spec.entries)
    return list(dict.fromkeys(layer for layer in layers if layer is not None))


def layer_of(model: Model, method: Method) -> str | None:
    """The layer whose channels a method's coefficients weigh; None where it has none, or no such layer exists."""
    if not isinstance(method, ActivationMap):
        return None
    try:
        return model.target_layer if method.layer is None else model.check_layer(method.layer)
    except ValueError:  # of another network: its unit says so for each sample
        return None


def reference_layer(spec: Spec, unit: Unit) -> str | None:
    """The layer whose SHAP values a unit of maps needs, if any."""
    layer = layer_of(spec.models[unit.model], entry_of(spec, unit).method)
    return layer if layer in reference_layers(spec, unit.model) else None


def problems(spec: Spec) -> Iterator[str]:
    """What cannot work in a benchmark, each in one sentence, found without any work on samples.

    Methods that refuse a model are no problem: their cells say so.

    Args:
        spec: the benchmark.
    """
    tasks = {data.task for data in spec.data.values()}
    if len(tasks) > 1:
        yield f"a benchmark is of one task: its data sets are for {' and '.join(sorted(tasks))}"
    labels = [entry.label for entry in spec.entries]
    yield from (f"two methods are called {label!r}" for label in dict.fromkeys(labels) if labels.count(label) > 1)
    parts = [(part, metric) for metric in spec.metrics for part in metric.parts]
    names = [part for part, _ in parts]
    yield from (f"two metrics tell a {part!r}" for part in dict.fromkeys(names) if names.count(part) > 1)
    for metric in spec.metrics:
        for name, data in spec.data.items():
            if metric.task not in ("any", data.task):
                yield f"{metric.name} is for {metric.task}: {name} is for {data.task}"
            elif (lack := lacking(metric.needs, data)) is not None:
                yield f"{metric.name} cannot judge on {name}: {lack}"
        for name, model in spec.models.items():
            if (refusal := _refusal(partial(metric.check, model))) is not None:
                yield f"{metric.name} cannot judge {name}: {refusal}"
    for name, data in spec.data.items():
        for called, model in spec.models.items():
            yield from _unanswered(called, model, name, data)
    if (refusal := _refusal(partial(reference, spec))) is not None:
        yield refusal


def lacking(needs: frozenset[Any], data: Any) -> str | None:
    """What a metric needs that a data set does not know, in words; None where it has all."""
    truths = [getattr(one, "truth", None) for one in data.examples]
    if "truth" in needs and not any(truth is not None for truth in truths):
        return "the data set does not say where objects are"
    if "donor" in needs and not any(truth is not None and truth.donor is not None for truth in truths):
        return "the data set does not say what stands where the cause is taken away: worlds do"
    return None


def _unanswered(called: str, model: Model, name: str, data: Any) -> Iterator[str]:
    """Why a model cannot be asked what a data set asks."""
    questions: dict[Any, None] = dict.fromkeys(getattr(one, "question", None) for one in data.examples)
    if not isinstance(model, VQAModel):
        if any(question is not None for question in questions):
            yield f"{name} asks questions, and {called} is a {type(model).__name__}, which takes none: a VQAModel does"
    elif None in questions:
        yield f"{called} answers questions, and {name} asks none: take one that does, or model.asking(...)"
    else:
        refusals = (_refusal(partial(model.numbers, question)) for question in questions)
        yield from (f"{name}: {refusal}" for refusal in dict.fromkeys(filter(None, refusals)))


def _all_batches(spec: Spec, unit: Unit) -> list[list[int]]:
    """The batches of all shards of a unit's kind."""
    if unit.kind == "maps":
        return batches(spec, unit.data, entry_of(spec, unit).limit)
    if unit.kind == "clean":
        return batches(spec, unit.data)
    model = spec.models[unit.model]
    limits = {entry.limit for entry in spec.entries if layer_of(model, entry.method) == unit.entry}
    samples = {i for limit in limits for i in _samples(spec, unit.data, limit)}
    return _batched(spec, unit.data, sorted(samples))


def _samples(spec: Spec, data: str, limit: int | None) -> list[int]:
    """The places in the data set of the samples that a limit leaves."""
    everything: Sequence[Any] = spec.data[data].examples
    if limit is None:
        return list(range(len(everything)))
    kept = {one.id for one in spec.data[data].take(limit).examples}
    return [i for i, one in enumerate(everything) if one.id in kept]


def _batched(spec: Spec, data: str, samples: Sequence[int]) -> list[list[int]]:
    groups: dict[str | None, list[int]] = {}
    for i in samples:
        groups.setdefault(getattr(spec.data[data][i], "question", None), []).append(i)
    return [of[begin : begin + spec.batch] for of in groups.values() for begin in range(0, len(of), spec.batch)]


def _cost(entry: Entry) -> tuple[bool, int]:
    return not entry.method.control, entry.method.steps


def _refusal(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return None
