"""A benchmark from its file: everything that is wrong with it is told at once, before any network is loaded or run."""

from __future__ import annotations

import copy
import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from faithmap.bench.document import Document, Place, SpecError
from faithmap.bench.plan import lacking, problems
from faithmap.bench.spec import CONTROLS, Entry, Published, Spec
from faithmap.datasets import Dataset
from faithmap.datasets.base import existing
from faithmap.datasets.registry import DATASETS
from faithmap.methods import Method
from faithmap.methods.registry import METHODS
from faithmap.metrics import Case, Measured, Metric
from faithmap.metrics.registry import METRICS
from faithmap.models.base import Model
from faithmap.models.classifier import Classifier
from faithmap.models.face import FaceEmbedder
from faithmap.models.load import Source, asked, check_device, load
from faithmap.models.vqa import VQAModel
from faithmap.registry import Registered, Registry, of_type, parsed
from faithmap.running import checked, labels_of
from faithmap.targets import Logit, Similarity
from faithmap.words import did_you_mean

NEEDED = ("name", "models", "data", "methods", "metrics")
OPTIONS = ("explain", "batch", "shards", "seed", "maps")
KEYS = (*NEEDED, *OPTIONS, "published", "variables")
COSTS = ("seconds",)
"""What papers state beside metrics, as a part of `published`."""
T = TypeVar("T", bound=Registered)
TASKS: Mapping[type[Model], str] = {
    Classifier: "classification",
    FaceEmbedder: "verification",
    VQAModel: "classification",
}


def read_spec(path: str | Path, variables: Mapping[str, str] | None = None) -> Spec:
    """The benchmark that a YAML file describes; docs/benchmark.md says how.

    Args:
        path: the file.
        variables: what `${NAME}` stands for in it, before the environment and the file's own ``variables``.

    Raises:
        FileNotFoundError: there is no such file.
        SpecError: what is wrong with it, all at once, each with its line. Networks are loaded, and asked whether
            methods and metrics fit them, once nothing else is wrong.
    """
    file = existing(path, "give the YAML file of a benchmark")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(file.name, [f"it is no text in UTF-8: {error}"]) from None
    return spec_of(text, file.name, variables)


def spec_of(text: str, file: str = "the spec", variables: Mapping[str, str] | None = None) -> Spec:
    """The benchmark that a text describes: see `read_spec`."""
    return _Reader(Document(text, file, variables or {}, os.environ)).spec()


@dataclass(frozen=True)
class Told(Metric):
    """A metric whose parts tell what sets it apart: of two deletions one tells `deletion fill=black`.

    Args:
        metric: what measures.
        suffix: what its parts get.
    """

    metric: Metric
    suffix: str

    def __post_init__(self) -> None:
        told = {
            "name": self.metric.name,
            "task": self.metric.task,
            "needs": self.metric.needs,
            "parts": {self._told(part): better for part, better in self.metric.parts.items()},
        }
        for attribute, value in told.items():
            object.__setattr__(self, attribute, value)  # the instance's own, before those of the class

    @property
    def parameters(self) -> dict[str, Any]:
        """The metric's."""
        return self.metric.parameters

    def measure(self, case: Case) -> Measured:
        """The metric's values under the longer names."""
        found = self.metric.measure(case)
        values, curves = ({self._told(part): v for part, v in all.items()} for all in (found.values, found.curves))
        return Measured(values, curves)

    def is_share(self, part: str) -> bool:
        """The metric's."""
        return self.metric.is_share(part.removesuffix(f" {self.suffix}"))

    def check(self, model: Model) -> None:
        """The metric's."""
        self.metric.check(model)

    def _told(self, part: str) -> str:
        return f"{part} {self.suffix}"


@dataclass
class _Reader:
    """Each part of the file as what it describes; problems are noted in the document."""

    doc: Document

    def spec(self) -> Spec:
        doc, tree = self.doc, self.doc.tree
        for key in tree:
            if key not in KEYS:
                doc.wrong((key,), f"there is no key {key!r}: {did_you_mean(key, KEYS)}")
        for key in NEEDED:
            if not tree.get(key):
                doc.wrong((key,), "is missing" if key not in tree else "is empty")
        options = self._options()
        sources, data = self._sources(), self._data()
        entries, judges = self._entries(), self._metrics()
        self._one_task(sources, data)
        self._fit_data(judges, data)
        if options.get("explain") == "label":
            self._all_labelled(data)
        figures = self._published(sources, data, entries, judges)
        self._place("variables", dict, "names with their values")
        doc.close()
        models = self._loaded(sources)
        doc.close()
        self._fit_models(models, entries, judges)
        if options.get("explain") == "label":
            self._same_classes(models, data)
        doc.close()
        found = Spec(
            models=models,
            data=data,
            entries=[entry for entry, _ in entries],
            metrics=[metric for metric, _ in judges],
            published=figures,
            source=doc.text,
            variables=doc.variables,
            **options,
        )
        for problem in problems(found):
            doc.wrong(("metrics",), problem)
        doc.close()
        return found

    # -- parts of the file ----------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        hints, found = get_type_hints(Spec), {}
        for key in ("name", *OPTIONS):
            if key in self.doc.tree:
                with self.doc.trying((key,)):
                    found[key] = of_type(self.doc.tree[key], hints[key], key)
                    if key in ("batch", "shards") and found[key] < 1:
                        self.doc.wrong((key,), f"{key} is at least 1: got {found[key]}")
        return found

    def _sources(self) -> dict[str, tuple[Source, dict[str, Any]]]:
        """What makes each model, and what `load` takes."""
        found = {}
        for label, given in self._place("models", dict, "labels with what fm.load takes").items():
            place: Place = ("models", label)
            asks = {"load": given} if isinstance(given, str) else given
            if not isinstance(asks, dict) or not isinstance(asks.get("load"), str):
                if self.doc.whole(place):
                    self.doc.wrong(
                        place, f"write {label}: NAME, or {label}: {{load: NAME, resize: 232}}: got {given!r}"
                    )
                continue
            asks = {key: _tuples(value) for key, value in asks.items()}
            with self.doc.trying((*place, "load") if isinstance(given, dict) else place):
                source, arguments = asked(asks["load"], asks.get("weights"))
                if "file" in arguments:
                    existing(arguments["file"], "the weights that the model's name asks for")
                known = ["load", "device", *(["weights"] if "weights" in arguments else []), *_settings(source.kind)]
                for option in asks:
                    if option not in known:
                        self.doc.wrong(
                            (*place, option), f"{label} has no {option!r}: {did_you_mean(option, known[1:])}"
                        )
                with self.doc.trying((*place, "device")):
                    check_device(asks.get("device"))
                found[label] = source, asks
        return found

    def _data(self) -> dict[str, Dataset[Any]]:
        found = {}
        for label, given in self._place("data", dict, "labels with data sets").items():
            place: Place = ("data", label)
            named = self._named(given, place, ("limit", "per_class"))
            if named is None:
                continue
            name, parameters, options = named
            limit, per_class = (self._count(options, key, place) for key in ("limit", "per_class"))
            data = self._created(DATASETS, name, parameters, place, bare=isinstance(given, str))
            if data is not None and self.doc.whole(place):
                found[label] = data if limit is per_class is None else data.take(limit, per_class=per_class)
        return found

    def _entries(self) -> list[tuple[Entry, Place]]:
        """The methods under labels of their own, then the controls that are not among them."""
        asks: list[tuple[Method, str | None, int | None, Place]] = []
        for i, given in enumerate(self._place("methods", list, "names of methods")):
            place: Place = ("methods", i)
            if (named := self._named(given, place, ("limit", "label"))) is None:
                continue
            name, parameters, options = named
            limit, label = self._count(options, "limit", place), options.get("label")
            if label is not None and not (isinstance(label, str) and label.strip()):
                self.doc.wrong((*place, "label"), f"label is a text: got {label!r}")
                label = None
            method = self._created(METHODS, name, parameters, place, bare=isinstance(given, str))
            if method is not None:
                asks.append((method, label, limit, place))
        for name in CONTROLS:
            if name not in [method.name for method, *_ in asks]:
                asks.append((METHODS.create(name), None, None, ("methods",)))
        unnamed = iter(labels_of([method for method, label, *_ in asks if label is None]))
        found = [(Entry(label or next(unnamed), method, limit), place) for method, label, limit, place in asks]
        for i, (entry, place) in enumerate(found):
            if entry.label in [earlier.label for earlier, _ in found[:i]]:
                self.doc.wrong(place, f"{entry.label} stands there twice: give one of them a label of its own")
        return found

    def _metrics(self) -> list[tuple[Metric, Place]]:
        """The metrics; where several are of one name, their parts tell which."""
        found: list[tuple[Metric, Place]] = []
        for i, given in enumerate(self._place("metrics", list, "names of metrics")):
            place: Place = ("metrics", i)
            if (named := self._named(given, place, ())) is None:
                continue
            metric = self._created(METRICS, *named[:2], place, bare=isinstance(given, str))
            if metric is not None and metric in [earlier for earlier, _ in found]:
                self.doc.wrong(place, f"{metric.name} stands there twice, with the same parameters")
            elif metric is not None:
                found.append((metric, place))
        suffixes = [label.partition(" ")[2] for label in labels_of([metric for metric, _ in found])]
        told = [(Told(m, suffix) if suffix else m, place) for (m, place), suffix in zip(found, suffixes, strict=True)]
        shared = [part for part, count in Counter(part for m, _ in told for part in m.parts).items() if count > 1]
        for part in shared:
            self.doc.wrong(("metrics",), f"several metrics tell a {part!r}: leave all but one of them out")
        return told

    def _published(
        self,
        models: Mapping[str, object],
        data: Mapping[str, object],
        entries: Sequence[tuple[Entry, Place]],
        judges: Sequence[tuple[Metric, Place]],
    ) -> list[Published]:
        tree = self.doc.tree
        known: dict[str, list[str]] = {
            "data": list(tree["data"]) if isinstance(tree.get("data"), dict) else [],
            "model": list(tree["models"]) if isinstance(tree.get("models"), dict) else [],
            "method": [entry.label for entry, _ in entries],
            "part": [*COSTS, *(part for metric, _ in judges for part in metric.parts)],
        }
        # A method or metric that could not be read is a problem already; its figures are not another.
        known = {k: v for k, v in known.items() if self.doc.whole(("methods" if k == "method" else "metrics",))} | {
            k: known[k] for k in ("data", "model")
        }
        found = []
        hints = get_type_hints(Published)
        for i, given in enumerate(self._place("published", list, "figures")):
            place: Place = ("published", i)
            if not isinstance(given, dict):
                self.doc.wrong(place, f"a figure holds data, method, part, value, source, and the model: got {given!r}")
                continue
            values = {"model": "", **given}
            for key, hint in hints.items():
                if key not in values:
                    self.doc.wrong((*place, key), f"a published figure needs its {key}")
                    continue
                with self.doc.trying((*place, key)):
                    values[key] = of_type(values[key], hint, key)
                if key in known and key in given and values[key] not in known[key]:
                    self.doc.wrong(
                        (*place, key),
                        f"the spec has no {key} {values[key]!r}: {did_you_mean(str(values[key]), known[key])}",
                    )
            for key in given:
                if key not in hints:
                    self.doc.wrong((*place, key), f"a figure has no {key!r}: {did_you_mean(key, hints)}")
            if self.doc.whole(place):
                found.append(Published(**values))
        return found

    # -- whether the parts fit one another ------------------------------------------------------------------------

    def _one_task(self, sources: Mapping[str, tuple[Source, Any]], data: Mapping[str, Dataset[Any]]) -> None:
        tasks = {label: one.task for label, one in data.items()}
        if len(set(tasks.values())) > 1:
            told = ", ".join(f"{label} is {task}" for label, task in tasks.items())
            self.doc.wrong(("data",), f"data sets are of one task, {told}: write a file for each")
        elif tasks:
            (task,) = set(tasks.values())
            for label, (source, _) in sources.items():
                if TASKS[source.kind] != task:
                    kind = source.kind.__name__
                    self.doc.wrong(("models", label), f"the data sets are for {task}: {label} is a {kind}")

    def _fit_data(self, judges: Sequence[tuple[Metric, Place]], data: Mapping[str, Dataset[Any]]) -> None:
        for metric, place in judges:
            strange = [label for label, one in data.items() if metric.task not in ("any", one.task)]
            blind = [label for label, one in data.items() if lacking(metric.needs, one) is not None]
            if strange:
                self.doc.wrong(place, f"{metric.name} is for {metric.task}, which {', '.join(strange)} is not")
            elif blind:
                self.doc.wrong(place, f"{metric.name} needs the boxes or masks of objects: none in {', '.join(blind)}")

    def _all_labelled(self, data: Mapping[str, Dataset[Any]]) -> None:
        for label, one in data.items():
            if one.task == "classification" and any(example.label is None for example in one):
                self.doc.wrong(("explain",), f"explain: label needs the classes of all pictures: {label} lacks some")

    def _same_classes(self, models: Mapping[str, Model], data: Mapping[str, Dataset[Any]]) -> None:
        """Labels are found among a network's classes by name: without one in common nothing can be explained."""
        for name, one in data.items():
            for label, model in models.items():
                known = getattr(model, "labels", None)
                if known is not None and one.classes is not None and not _some(one.labels_for(known)):
                    told = f"{name} and {label} share none"
                    self.doc.wrong(("explain",), f"explain: label needs networks of the data's classes: {told}")

    def _loaded(self, sources: Mapping[str, tuple[Source, Mapping[str, Any]]]) -> dict[str, Model]:
        found = {}
        for label, (_, asks) in sources.items():
            with self.doc.trying(("models", label)):
                found[label] = load(asks["load"], **{key: value for key, value in asks.items() if key != "load"})
        return found

    def _fit_models(
        self,
        models: Mapping[str, Model],
        entries: Sequence[tuple[Entry, Place]],
        judges: Sequence[tuple[Metric, Place]],
    ) -> None:
        """A metric has to fit all models, a method one: the others' tables tell why they lack it."""
        for metric, place in judges:
            for label, model in models.items():
                if reason := _told(partial(metric.check, model)):
                    self.doc.wrong(place, f"{metric.name} cannot judge {label}: {reason}")
        for entry, place in entries:
            refusals = {label: reason for label, model in models.items() if (reason := _refusal(model, entry.method))}
            if len(refusals) == len(models):
                told = "; ".join(f"{label}: {reason}" for label, reason in refusals.items())
                self.doc.wrong(place, f"no model takes {entry.label}: {told}")

    # -- values ---------------------------------------------------------------------------------------------------

    def _place(self, key: str, kind: type[Any], what: str) -> Any:
        """A list or mapping at the top of the file; an empty one where it is absent or something else."""
        given = self.doc.tree.get(key)
        if given is not None and not isinstance(given, kind):
            self.doc.wrong((key,), f"{key} holds {what}, as a {'list' if kind is list else 'mapping'}: got {given!r}")
        return given if isinstance(given, kind) else kind()

    def _named(
        self, given: Any, place: Place, options: Sequence[str]
    ) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        """A name, its parameters and what stands beside it: ``fame``, or ``{fame: {iterations: 50}, limit: 100}``."""
        if isinstance(given, str):
            return given, {}, {}
        names = [key for key in given if key not in options] if isinstance(given, dict) else []
        if len(names) != 1 or not isinstance(given[names[0]], dict | None):
            beside = "".join(f", {option}: ..." for option in options)
            self.doc.wrong(place, f"write a name, or {{name: {{parameter: value}}{beside}}}: got {given!r}")
            return None
        (name,) = names
        return name, given[name] or {}, {key: given[key] for key in options if key in given}

    def _count(self, options: Mapping[str, Any], key: str, place: Place) -> int | None:
        count = options.get(key)
        count = parsed(count, int) if isinstance(count, str) else count  # of a variable, within quotes
        if count is None or (isinstance(count, int) and not isinstance(count, bool) and count >= 1):
            return count
        self.doc.wrong((*place, key), f"{key} is a whole number, at least 1: got {count!r}")
        return None

    def _created(self, registry: Registry[T], name: str, given: dict[str, Any], place: Place, bare: bool) -> T | None:
        """What is registered under the name, with each parameter that does not fit a problem of its own."""
        at = place if bare else (*place, name)
        with self.doc.trying(at):
            cls: type[Registered] = registry.get(name)
            hints, values = get_type_hints(cls), {}
            known = [f.name for f in fields(cls)]
            for parameter, value in given.items():
                with self.doc.trying((*at, parameter)):
                    if parameter not in known:
                        hint = did_you_mean(parameter, known) if known else "it has none"
                        self.doc.wrong((*at, parameter), f"{name} has no parameter {parameter!r}: {hint}")
                        continue
                    hint = hints[parameter]
                    value = parsed(value, hint) if isinstance(value, str) and hint is not str else _tuples(value)
                    values[parameter] = of_type(value, hint, f"{name}'s {parameter}")
            if self.doc.whole(place):
                return registry.create(name, **values)
        return None


def _tuples(value: Any) -> Any:
    """Lists as tuples: parameters are hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _settings(kind: type[Model]) -> list[str]:
    """What a model's class takes beyond its module."""
    names = [name for cls in (kind, Model) for name in inspect.signature(cls.__init__).parameters]
    return [name for name in dict.fromkeys(names) if name not in ("self", "module", "settings", "name")]


def _some(found: Sequence[int | None]) -> bool:
    return any(one is not None for one in found)


def _refusal(model: Model, method: Method) -> str:
    """Why a method cannot explain a model; "" where it can."""
    if isinstance(model, FaceEmbedder) and model.threshold is None:
        model = copy.copy(model)
        model.threshold = 0.0  # the run fixes it on clean pairs
    target = Similarity(torch.ones(1)) if isinstance(model, FaceEmbedder) else Logit(0)
    return _told(lambda: checked(model, [method], target))


def _told(check: Callable[[], object]) -> str:
    """Why a check refuses; "" where it does not."""
    try:
        check()
    except ValueError as error:
        return str(error)
    return ""
