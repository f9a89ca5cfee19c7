"""What stands behind the library's one-line functions: methods run, and what they find gets its provenance."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from faithmap import methods
from faithmap.attribution import Attribution, Face, PairAttribution, Provenance, Sample, joined, pixels_of
from faithmap.batching import Progress, chunked, default_batch, out_of_memory
from faithmap.images import Picture
from faithmap.methods import Method, Result
from faithmap.models.base import Inputs, Model, Pictures, Precision, require_model
from faithmap.models.classifier import Classifier
from faithmap.models.face import FaceEmbedder
from faithmap.models.vqa import VQAModel
from faithmap.registry import Registered
from faithmap.sampling import sample_ids
from faithmap.targets import Dissimilarity, Each, Similarity, Target
from faithmap.words import raised_in

T = TypeVar("T")
Methods = Sequence["str | Method"] | Literal["all"] | None


class DegenerateMapWarning(UserWarning):
    """A map says nothing: it is constant, or not finite."""


def able(model: Model, chosen: Sequence[Method], target: Target | None) -> list[Method]:
    """Those of the methods that do not refuse this model and target before any work.

    Args:
        model: what is explained.
        chosen: methods.
        target: what is asked, or None for the model's default.
    """

    def fits(method: Method) -> bool:
        try:
            method.check(model, target)
        except ValueError:
            return False
        return method.at_layer or target is None or not target.at_layer

    return [method for method in chosen if fits(method)]


def as_method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return methods.create(method)
    raise ValueError(f"a method is a name or a method with parameters, 'fame' or FAME(iterations=50): got {method!r}")


def as_methods(given: Methods, default: Sequence[str]) -> list[Method]:
    """The methods, each once."""
    if isinstance(given, (str, Method)) and given != "all":
        raise ValueError(f"methods is a list, or 'all': give [{given!r}]")
    names = methods.available() if given == "all" else default if given is None else given
    asked = list(dict.fromkeys(map(as_method, names)))
    if not asked:
        raise ValueError(
            f"there is no method to compare: the list is empty; available: {', '.join(methods.available())}"
        )
    return asked


def checked(model: Model, chosen: list[Method], target: Target | None) -> list[Method]:
    """The methods, each asked whether it can explain this: the first that cannot raises."""
    for method in chosen:
        method.check(model, target)
        if (layer := getattr(method, "layer", None)) is not None:
            model.check_layer(layer)
    return chosen


def labels_of(chosen: Sequence[Registered]) -> list[str]:
    """Their names; those of one name are told apart by the parameters in which they differ."""

    def label(one: Registered, short: bool) -> str:
        twins = [other.parameters for other in chosen if other.name == one.name]
        differing = (
            f"{key}={value:.4g}" if short and isinstance(value, float) else f"{key}={value}"
            for key, value in one.parameters.items()
            if any(twin[key] != value for twin in twins)
        )
        return " ".join((one.name, *differing))

    found = [label(one, short=True) for one in chosen]
    return found if len(set(found)) == len(found) else [label(one, short=False) for one in chosen]


def each(
    chosen: Sequence[Method], run: Callable[[Method, Progress | None], T], progress: bool | Progress | None
) -> tuple[dict[str, T], dict[str, str]]:
    """What each method finds, by its label, and why others refuse; an error that is no refusal stays one."""
    found: dict[str, T] = {}
    refused: dict[str, str] = {}
    done, total = 0, sum(method.steps for method in chosen)
    with reporting(progress, f"{len(chosen)} methods") as report:
        for label, method in zip(labels_of(chosen), chosen, strict=True):
            before, steps = done, method.steps  # a step costs about the same, whosever it is

            def share(ready: int, of: int, before: int = before, steps: int = steps) -> None:
                assert report
                report(before + ready * steps // of, total)

            try:
                found[label] = run(method, share if report else None)
            except (ValueError, RuntimeError) as error:
                ours = isinstance(error, ValueError) and raised_in(error, "faithmap", type(method).__module__)
                if not (ours or (isinstance(error, RuntimeError) and out_of_memory(error))):
                    raise
                refused[label] = str(error)
            done += steps
            if report:
                report(done, total)
    if not found:
        raise ValueError(next(iter(refused.values())))
    return found, refused


def explained(
    model: Model, inputs: Inputs, sources: Sequence[Picture | None], method: Method, target: Any, ask: dict[str, Any]
) -> Attribution:
    """The maps of prepared pictures."""
    begin = time.perf_counter()
    found = method.run(model, inputs.x, target, **ask)
    seconds = time.perf_counter() - begin
    return _attribution(model, inputs, method, found, ask["seed"], seconds, sources)


def by_question(model: Model, question: str | Sequence[str] | None, count: int) -> list[tuple[Model, list[int]]]:
    """Who answers, and for which of so many pictures: the model itself, or a classifier for each question.

    Raises:
        ValueError: the model answers questions and there is none, or the other way round; or there are not as many
            questions as pictures, or one of them cannot be asked.
    """
    if not isinstance(model, VQAModel):
        if question is not None:
            raise ValueError(f"{model.name} is a {type(model).__name__} and takes no question: a VQAModel does")
        return [(model, list(range(count)))]
    if question is None:
        raise ValueError(model.unasked)
    questions = [question] * count if isinstance(question, str) else list(question)
    if len(questions) != count:
        raise ValueError(f"{len(questions)} questions came with {count} pictures: give one for all, or one for each")
    places: dict[str, list[int]] = {}
    for place, one in enumerate(questions):
        places.setdefault(one, []).append(place)
    return [(model.asking(one), rows) for one, rows in places.items()]


def explained_each(
    groups: Sequence[tuple[Model, list[int]]],
    inputs: Inputs,
    sources: Sequence[Picture | None],
    method: Method,
    target: Target | None,
    ask: dict[str, Any],
) -> Attribution:
    """The maps of prepared pictures, each of which is explained for the model of its group."""
    if len(groups) == 1:
        return explained(groups[0][0], inputs, sources, method, target, ask)
    parts, done, report = [], 0, ask["progress"]
    for model, places in groups:

        def share(ready: int, _: int, before: int = done * method.steps) -> None:
            report(before + ready, len(inputs.x) * method.steps)

        rows = torch.tensor(places)
        names, geometries = [inputs.names[i] for i in places], [inputs.geometries[i] for i in places]
        some = Inputs(inputs.x[rows.to(inputs.x.device)], tuple(names), tuple(geometries))
        wanted = None if target is None else target.select(rows)
        how = {**ask, "progress": share if report else None}
        parts.append(explained(model, some, [sources[i] for i in places], method, wanted, how))
        done += len(places)
    return joined(parts, [place for _, places in groups for place in places])


def as_embedder(model: Any, precision: Precision, compile: bool) -> FaceEmbedder:
    model = require_model(model).configured(precision, compile)
    if not isinstance(model, FaceEmbedder):
        raise ValueError(f"a pair of faces needs a FaceEmbedder: {model.name} is a {type(model).__name__}")
    return model


def both_sides(model: FaceEmbedder, probe: Pictures, gallery: Pictures) -> tuple[Inputs, Sequence[Picture | None]]:
    """Prepared probes and galleries in one batch ``(2n, 3, H, W)``, probes first, and the pictures themselves."""
    one, other = model.read(probe), model.read(gallery)
    n = len(one.x)
    if len(other.x) != n:
        raise ValueError(f"{n} probes came with {len(other.x)} galleries: give as many of both")
    both = Inputs(torch.cat([one.x, other.x]), one.names + other.names, one.geometries + other.geometries)
    return both, (*sources_of(probe, n), *sources_of(gallery, n))


def explained_pairs(
    model: FaceEmbedder, faces: Inputs, sources: Sequence[Picture | None], method: Method, ask: dict[str, Any]
) -> list[PairAttribution]:
    """The maps of prepared pairs, all in one run."""
    begin, n = time.perf_counter(), len(faces.x) // 2
    size = ask["batch_size"] or default_batch(faces.x)
    embeddings = torch.cat(list(chunked(lambda rows: model.embed(faces.x[rows]), 2 * n, size)))
    partners = embeddings.roll(n, dims=0)  # the galleries' for the probes, and the other way round
    asks: list[Target] = [Similarity(f) for f in partners]
    opposites: list[Target] = [Dissimilarity(f) for f in partners]
    both = method.opposite == "asked"
    x, targets = (faces.x.repeat(2, 1, 1, 1), asks + opposites) if both else (faces.x, asks)
    found = method.run(model, x, Each(targets), **ask)
    found.cost.forward += 2 * n  # the embeddings
    seconds = time.perf_counter() - begin
    halves = _halves(method, found, Each(opposites), 2 * n)
    e_plus, e_minus = (
        None if half is None else _attribution(model, faces, method, half, ask["seed"], seconds, sources)
        for half in halves
    )
    assert e_plus is not None
    crops = [Face(e_plus[i], None if e_minus is None else e_minus[i]) for i in range(2 * n)]
    return [PairAttribution(crops[i], crops[n + i], e_plus.samples[i].score, model.threshold) for i in range(n)]


def _halves(method: Method, found: Result, opposites: Target, n: int) -> tuple[Result, Result | None]:
    """What speaks for n similarities, and what speaks against them where the method tells."""
    assert found.scores is not None
    if method.opposite == "asked":
        return found.rows(slice(0, n)), found.rows(slice(n, None))
    if method.opposite == "none":
        return dataclasses.replace(found, notes=found.notes | {"e-": f"{method.name} has none"}), None
    negated = method.opposite == "negated"
    against, error = (-found.maps, found.standard_error) if negated else (found.against, found.against_error)
    assert against is not None
    notes = found.notes | {"e-": "the negative of e+" if negated else "found in the run of e+"}
    return found, dataclasses.replace(
        found, maps=against, standard_error=error, scores=1 - found.scores, target=opposites, notes=notes
    )


def warn(*attributions: Attribution) -> None:
    """Warn of maps that say nothing, where the caller of the library stands; controls never say anything."""
    for att in attributions:
        if methods.get(att.method).control:
            continue
        for sample in att.samples:
            if sample.degenerate:
                message = f"{att.method} on {sample.name}: {sample.degenerate}"
                warnings.warn(message, DegenerateMapWarning, stacklevel=3)


def _attribution(
    model: Model,
    inputs: Inputs,
    method: Method,
    found: Result,
    seed: int,
    seconds: float,
    sources: Sequence[Picture | None],
) -> Attribution:
    assert found.scores is not None
    assert found.target is not None
    maps = found.maps.detach().cpu()
    samples = []
    for i, (name, identity) in enumerate(zip(inputs.names, sample_ids(inputs.x), strict=True)):
        target = found.target.describe(i)
        k = target.get("k")
        samples.append(
            Sample(
                name=name,
                sha256=identity,
                target=target,
                score=float(found.scores[i]),
                label=model.label(k) if isinstance(model, Classifier) and isinstance(k, int) else None,
                completeness_error=_item(found.completeness_error, i),
                condition=_item(found.condition, i),
                degenerate=_degenerate(maps[i], float(found.scores[i]), found.reasons[i] if found.reasons else ""),
                question=model.question if isinstance(model, Classifier) else None,
                geometry=inputs.geometries[i],
            )
        )
    about = provenance(model, method, found, seed, seconds, len(maps))
    error = None if found.standard_error is None else found.standard_error.detach().cpu()
    pixels = pixels_of(model.to_pixels(inputs.x))
    return Attribution(maps, samples, about, standard_error=error, pictures=sources, pixels=pixels)


def provenance(model: Model, method: Method, found: Result, seed: int, seconds: float, images: int) -> Provenance:
    return Provenance(
        method=method.name,
        parameters=method.parameters,
        signed=method.signed,
        model=model.name,
        weights=model.weights_digest,
        layer=found.layer,
        seed=seed,
        precision=model.precision,
        device=str(model.device),
        evaluations=found.cost.per_image(images),
        seconds=seconds,
        images=images,
        versions={
            "faithmap": version("faithmap"),
            "torch": str(torch.__version__),
            "numpy": version("numpy"),
            "pillow": version("pillow"),
            "python": platform.python_version(),
        },
        notes=found.notes,
    )


def _degenerate(map: Tensor, score: float, reason: str) -> str | None:
    """Why a map says nothing; None where it does."""
    if not bool(map.isfinite().all()):
        return f"the map holds NaN or infinite values{f': {reason}' if reason else ''}"
    if bool((map == map.flatten()[0]).all()):
        return f"the map is constant{f': {reason}' if reason else ''}"
    if not math.isfinite(score):
        return f"the score is {score}: the network or its input is broken"
    return None


def _item(values: Tensor | None, i: int) -> float | None:
    return None if values is None else float(values[i])


def sources_of(pictures: Pictures, count: int) -> Sequence[Picture | None]:
    """The pictures themselves, to draw on later; none for tensors."""
    if isinstance(pictures, Tensor):
        return [None] * count
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]  # type: ignore[list-item]


@contextmanager
def reporting(wanted: bool | Progress | None, name: str) -> Iterator[Progress | None]:
    """The caller's function, a bar on the terminal, or nothing."""
    if wanted is None or wanted is False:
        yield None
        return
    if wanted is not True:
        yield wanted
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TimeRemainingColumn

    columns = (*Bar.get_default_columns()[:-1], TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name)
        yield lambda done, total: bar.update(task, completed=done, total=total)
