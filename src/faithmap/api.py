"""The library in one line each: explain pictures, pairs of faces, and the places of a feature map."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from faithmap import cut, methods
from faithmap.attribution import Attribution, Face, LocationMaps, PairAttribution, Provenance, Sample, pixels_of
from faithmap.batching import Progress, chunked, default_batch
from faithmap.images import Picture
from faithmap.methods import FAME, Method, Result
from faithmap.metrics import Interval, bootstrap, cam_locality
from faithmap.metrics.locality import cell_weights
from faithmap.models.base import Inputs, Model, Pictures, Precision, require_model
from faithmap.models.classifier import Classifier
from faithmap.models.face import FaceEmbedder
from faithmap.pixels import blur
from faithmap.sampling import sample_ids
from faithmap.targets import Dissimilarity, Each, FeatureLocation, Similarity, Target


class DegenerateMapWarning(UserWarning):
    """A map says nothing: it is constant, or not finite."""


def explain(
    model: Model,
    pictures: Pictures,
    method: str | Method = "lift-cam",
    target: Any = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    compile: bool = False,
    progress: bool | Progress | None = None,
) -> Attribution:
    """Which pixels made the network say that.

    Args:
        model: from `load`, or a `Classifier` or `FaceEmbedder` around any nn.Module.
        pictures: a path, PIL image or uint8 array (H, W, 3), or a list of them; a float tensor (B, 3, H, W) is taken as
            prepared input.
        method: a name (`methods.available`), or a method with its parameters, ``FAME(iterations=100)``.
        target: what to explain: a class index or label, a `Target`, a callable ``outputs -> (B,)``, or a list with one
            for each picture; by default the predicted class.
        batch_size: pictures per network call; by default as many as suit the device.
        seed: for methods that sample.
        precision: of the network alone: "float32", or "bf16" (faster, and slightly other maps).
        compile: run iterated methods through torch.compile.
        progress: True for a bar, or a function of (done, total).

    Returns:
        An `Attribution` with one map per picture.

    Raises:
        ValueError: something given does not fit; the message says what would.
        FileNotFoundError: a picture does not exist.

    Examples:
        >>> att = explain(fm.load(), "src/faithmap/assets/photos/cat.jpg", method="lift-cam", target="Egyptian cat")
        >>> att.maps.shape, att.samples[0].label
        (torch.Size([1, 224, 224]), 'Egyptian cat')
    """
    chosen = _method(method)
    model = require_model(model).configured(precision, compile)
    inputs = model.read(pictures)
    model.target(target, len(inputs.x))  # wrong targets are named before any work
    with _progress(progress, chosen.name) as report:
        begin = time.perf_counter()
        found = chosen.run(model, inputs.x, target, seed=seed, batch_size=batch_size, progress=report)
        seconds = time.perf_counter() - begin
    return _attribution(model, inputs, chosen, found, seed, seconds, _sources(pictures, len(inputs.x)))


def explain_pair(
    model: FaceEmbedder,
    probe: Pictures,
    gallery: Pictures,
    method: str | Method = "fame",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    compile: bool = False,
    progress: bool | Progress | None = None,
) -> Any:
    """Why two faces match, or do not: what supports the match (e+) and what pushes the pair apart (e-), on both faces.

    Args:
        model: a `FaceEmbedder`.
        probe: an aligned face crop, as `explain` takes pictures; or a list of them.
        gallery: the face it is compared with; or as many.
        method: a name, or a method with its parameters.
        batch_size: pictures per network call.
        seed: for methods that sample.
        precision: of the network alone.
        compile: run iterated methods through torch.compile.
        progress: True for a bar, or a function of (done, total).

    Returns:
        A `PairAttribution`, or a list of them for lists. All maps of all pairs run in one batch.

    Raises:
        ValueError: something given does not fit.
        FileNotFoundError: a picture does not exist.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32, threshold=0.5)
        >>> pair = explain_pair(face, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), method=FAME(iterations=3))
        >>> pair.match, pair.probe.similar.maps.shape
        (True, torch.Size([1, 32, 32]))
    """
    chosen = _method(method)
    model = require_model(model).configured(precision, compile)  # type: ignore[assignment]
    if not isinstance(model, FaceEmbedder):
        raise ValueError(f"a pair of faces needs a FaceEmbedder: {model.name} is a {type(model).__name__}")
    sides = [model.read(side) for side in (probe, gallery)]
    n = len(sides[0].x)
    if len(sides[1].x) != n:
        raise ValueError(f"{n} probes came with {len(sides[1].x)} galleries: give as many of both")
    faces = Inputs(
        torch.cat([side.x for side in sides]),
        sides[0].names + sides[1].names,
        sides[0].geometries + sides[1].geometries,
    )  # (2n, 3, H, W): probes, galleries
    sources = (*_sources(probe, n), *_sources(gallery, n))
    with _progress(progress, chosen.name) as report:
        begin = time.perf_counter()
        size = batch_size or default_batch(faces.x)
        embeddings = torch.cat(list(chunked(lambda rows: model.embed(faces.x[rows]), 2 * n, size)))
        partners = embeddings.roll(n, dims=0)  # the galleries' for the probes, and the other way round
        asks: list[Target] = [Similarity(f) for f in partners]
        opposites: list[Target] = [Dissimilarity(f) for f in partners]
        both = chosen.opposite == "asked"
        x, targets = (faces.x.repeat(2, 1, 1, 1), asks + opposites) if both else (faces.x, asks)
        found = chosen.run(model, x, Each(targets), seed=seed, batch_size=batch_size, progress=report)
        found.cost.forward += 2 * n  # the embeddings
        seconds = time.perf_counter() - begin
    halves = _halves(chosen, found, Each(opposites), 2 * n)
    e_plus = _attribution(model, faces, chosen, halves[0], seed, seconds, sources)
    e_minus = None if halves[1] is None else _attribution(model, faces, chosen, halves[1], seed, seconds, sources)
    crops = [Face(e_plus[i], None if e_minus is None else e_minus[i]) for i in range(2 * n)]
    pairs = [PairAttribution(crops[i], crops[n + i], e_plus.samples[i].score, model.threshold) for i in range(n)]
    return pairs if isinstance(probe, (list, tuple)) or n > 1 else pairs[0]


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


def explain_locations(
    model: Model,
    picture: Pictures,
    layer: str | None = None,
    *,
    method: str | Method | None = None,
    batch_size: int | None = None,
    progress: bool | Progress | None = None,
) -> LocationMaps:
    """What each place of a feature map sees of a picture: the test of what CAM methods assume.

    Args:
        model: any model.
        picture: one picture.
        layer: whose feature map; the model's target layer by default.
        method: one that explains `FeatureLocation`; `FAME` with 25 steps by default.
        batch_size: places per network call.
        progress: True for a bar, or a function of (done, total).

    Returns:
        `LocationMaps` with maps ``(h, w, H, W)``.

    Raises:
        ValueError: something given does not fit.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 8, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> grid = explain_locations(fm.Classifier(net, size=32, target_layer="0"), torch.rand(1, 3, 32, 32))
        >>> grid.maps.shape
        torch.Size([4, 4, 32, 32])
    """
    model = require_model(model)
    model = model if layer is None else model.at(layer)
    inputs = model.read(picture)
    if len(inputs.x) != 1:
        raise ValueError(f"explain_locations takes one picture: got {len(inputs.x)}")
    chosen = FAME(iterations=25, sigma=2.0) if method is None else _method(method)
    h, w = _grid(model, inputs.x)
    rows, cols = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    with _progress(progress, f"{h} x {w} places") as report:
        begin = time.perf_counter()
        found = _see(model, inputs.x, rows, cols, chosen, batch_size, report)
        seconds = time.perf_counter() - begin
    maps = found.maps.cpu()
    shares = cam_locality(maps, rows, cols, (h, w)).view(h, w)
    about = _provenance(model, chosen, found, 0, seconds, h * w)
    seen = Attribution(maps[:1], [Sample("", "", {}, 0.0)], about, pixels=pixels_of(model.to_pixels(inputs.x))).seen()
    return LocationMaps(maps.view(h, w, *maps.shape[1:]), model.target_layer, shares, seen, about)


@dataclass(frozen=True)
class LayerLocality:
    """How local one layer's places are, over pictures and places."""

    layer: str
    grid: tuple[int, int]
    """Rows and columns of its feature map."""
    share: Interval
    """Of a place's map, the part in the cell that CAM assumes."""
    ceiling: float
    """What a perfectly local place would score: below 1 where the maps are blurred."""
    chance: float
    """The cell's part of the picture: what a map without any locality would score."""


def locality_by_layer(
    model: Model,
    pictures: Pictures,
    layers: Sequence[str] | None = None,
    *,
    places: int = 16,
    method: FAME | None = None,
    batch_size: int | None = None,
    progress: bool | Progress | None = None,
) -> list[LayerLocality]:
    """Does a place of a feature map see the cell that CAM assumes? FAME's central claim, layer by layer.

    Args:
        model: any model.
        pictures: one or several.
        layers: dotted paths, from shallow to deep; the model's suggested layers by default.
        places: per layer and picture, spread evenly over the feature map.
        method: `FAME`, by default with 25 steps and without blur.
        batch_size: places per network call.
        progress: True for a bar, or a function of (done, total).

    Returns:
        One row per layer, in the order of ``layers``.

    Raises:
        ValueError: something given does not fit.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 8, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> rows = locality_by_layer(fm.Classifier(net, size=32, target_layer="0"), torch.rand(1, 3, 32, 32), ["0"])
        >>> rows[0].grid
        (4, 4)
    """
    model = require_model(model)
    chosen = FAME(iterations=25, sigma=0) if method is None else method
    if not isinstance(chosen, FAME):
        raise ValueError(f"locality is measured by FAME, FAME(iterations=25, sigma=0): got {chosen!r}")
    if isinstance(layers, str):
        raise ValueError(f"layers is a list of names: give [{layers!r}]")
    if places < 1:
        raise ValueError(f"places is at least 1: got {places}")
    if layers is None:
        layers = [layer.name for layer in sorted(model.suggest_layers(), key=lambda s: -s.shape[1] * s.shape[2])]
    at = [model.at(layer) for layer in layers]
    inputs = model.read(pictures)
    rows = []
    with _progress(progress, "locality") as report:
        for done, (layer, there) in enumerate(zip(layers, at, strict=True)):
            h, w = _grid(there, inputs.x)
            row, col = _spread(h, w, places)
            shares = [
                cam_locality(_see(there, x[None], row, col, chosen, batch_size, None).maps.cpu(), row, col, (h, w))
                for x in inputs.x
            ]
            H, W = inputs.x.shape[-2:]
            cells = cell_weights(row, h, H)[:, :, None] * cell_weights(col, w, W)[:, None]  # (places, H, W)
            smooth = blur(cells, chosen.sigma, chosen.kernel)
            ceiling = float(cam_locality(smooth, row, col, (h, w)).mean())
            rows.append(LayerLocality(layer, (h, w), bootstrap(torch.cat(shares)), ceiling, 1 / (h * w)))
            if report:
                report(done + 1, len(layers))
    return rows


def _see(
    model: Model, x: Tensor, rows: Tensor, cols: Tensor, method: Method, size: int | None, progress: Progress | None
) -> Result:
    """The maps of places of one prepared picture ``(1, 3, H, W)``."""
    return method.run(
        model, x.expand(len(rows), -1, -1, -1), FeatureLocation(rows, cols), batch_size=size, progress=progress
    )


def _grid(model: Model, x: Tensor) -> tuple[int, int]:
    """Rows and columns of the target layer's feature map."""
    made = cut.cut(model.module, model.target_layer, x[:1].to(model.dtype))
    return made.grid.h, made.grid.w


def _spread(h: int, w: int, places: int) -> tuple[Tensor, Tensor]:
    """About ``places`` places spread evenly over an h x w grid: rows and columns."""
    side = max(1, round(places**0.5))
    rows, cols = (((torch.arange(min(side, n)) + 0.5) * n / min(side, n)).long() for n in (h, w))
    grid = torch.meshgrid(rows, cols, indexing="ij")
    return grid[0].flatten(), grid[1].flatten()


# ---------------------------------------------------------------------------------------------------------------------


def _method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return methods.create(method)
    raise ValueError(f"a method is a name or a method with parameters, 'fame' or FAME(iterations=50): got {method!r}")


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
        degenerate = _degenerate(maps[i], float(found.scores[i]), found.reasons[i] if found.reasons else "")
        if degenerate:
            warnings.warn(f"{method.name} on {name}: {degenerate}", DegenerateMapWarning, stacklevel=3)
        samples.append(
            Sample(
                name=name,
                sha256=identity,
                target=target,
                score=float(found.scores[i]),
                label=model.label(k) if isinstance(model, Classifier) and isinstance(k, int) else None,
                completeness_error=_item(found.completeness_error, i),
                condition=_item(found.condition, i),
                degenerate=degenerate,
                geometry=inputs.geometries[i],
            )
        )
    about = _provenance(model, method, found, seed, seconds, len(maps))
    error = None if found.standard_error is None else found.standard_error.detach().cpu()
    pixels = pixels_of(model.to_pixels(inputs.x))
    return Attribution(maps, samples, about, standard_error=error, pictures=sources, pixels=pixels)


def _provenance(model: Model, method: Method, found: Result, seed: int, seconds: float, images: int) -> Provenance:
    return Provenance(
        method=method.name,
        parameters=method.parameters,
        signed=method.signed,
        model=model.name,
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


def _sources(pictures: Pictures, count: int) -> Sequence[Picture | None]:
    """The pictures themselves, to draw on later; none for tensors."""
    if isinstance(pictures, Tensor):
        return [None] * count
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]  # type: ignore[list-item]


@contextmanager
def _progress(wanted: bool | Progress | None, name: str) -> Iterator[Progress | None]:
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
