"""The library in one line each: explain pictures, pairs of faces, and the places of a feature map; compare methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from faithmap import cut
from faithmap.attribution import Attribution, LocationMaps, PairAttribution, pixels_of
from faithmap.batching import Progress, default_batch
from faithmap.comparison import Comparison, PairComparison
from faithmap.methods import FAME, Method, Result
from faithmap.methods.base import Query
from faithmap.metrics import Interval, bootstrap, cam_locality
from faithmap.metrics.locality import cell_weights
from faithmap.models.base import Model, Pictures, Precision, require_model
from faithmap.models.face import FaceEmbedder
from faithmap.pixels import blur
from faithmap.running import (
    Methods,
    able,
    as_embedder,
    as_method,
    as_methods,
    both_sides,
    by_question,
    checked,
    each,
    explained,
    explained_each,
    explained_pairs,
    provenance,
    reporting,
    sources_of,
    warn,
)
from faithmap.targets import FeatureLocation, Similarity

COMPARED = (
    "lift-cam",
    "fame",
    "grad-cam",
    "layer-cam",
    "full-grad",
    "integrated-gradients",
    "edges",
    "centre-gaussian",
)
"""What `compare` takes where nobody says: the flagships, what everybody knows, of each kind, and controls to beat."""
COMPARED_PAIRS = ("fame", "corrise", "lift-cam", "grad-cam")
"""Likewise of `compare_pair`."""
A_PAIR = Similarity(torch.ones(1))
"""What methods are asked of a pair, as far as they can check it before the embeddings are known."""


def explain(
    model: Model,
    pictures: Pictures,
    method: str | Method = "lift-cam",
    target: Any = None,
    *,
    question: str | Sequence[str] | None = None,
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
        question: what a `VQAModel` is asked about the pictures, or a list with a question for each; its answers are the
            classes.
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
    chosen = as_method(method)
    model = require_model(model).configured(precision, compile)
    inputs = model.read(pictures)
    groups = by_question(model, question, len(inputs.x))
    wanted = groups[0][0].target(target, len(inputs.x))  # wrong targets are named before any work
    with reporting(progress, chosen.name) as report:
        ask = {"seed": seed, "batch_size": batch_size, "progress": report}
        att = explained_each(groups, inputs, sources_of(pictures, len(inputs.x)), chosen, wanted, ask)
    warn(att)
    return att


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
    chosen = as_method(method)
    model = as_embedder(model, precision, compile)
    faces, sources = both_sides(model, probe, gallery)
    with reporting(progress, chosen.name) as report:
        ask = {"seed": seed, "batch_size": batch_size, "progress": report}
        pairs = explained_pairs(model, faces, sources, chosen, ask)
    warn(*(att for pair in pairs for att in pair.attributions.values()))
    return pairs if isinstance(probe, (list, tuple)) or len(pairs) > 1 else pairs[0]


def compare(
    model: Model,
    pictures: Pictures,
    methods: Methods = None,
    target: Any = None,
    *,
    question: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    compile: bool = False,
    progress: bool | Progress | None = None,
) -> Comparison:
    """Many methods on the same pictures: do they agree, and what does each cost?

    Args:
        model: as for `explain`.
        pictures: as for `explain`.
        methods: names, or methods with their parameters, which may be several of one name; "all" for every method that
            can explain this model, slow ones too; `COMPARED` by default.
        target: as for `explain`; by default the predicted class, the same for all methods.
        question: what a `VQAModel` is asked about the pictures.
        batch_size: pictures per network call.
        seed: for methods that sample.
        precision: of the network alone.
        compile: run iterated methods through torch.compile.
        progress: True for a bar over all methods, or a function of (done, total).

    Returns:
        A `Comparison`: an `Attribution` by each method's name, `figure()`, `agreement()` and `save()`. A method that
        finds only while it runs that it cannot explain this network is among its ``refused``.

    Raises:
        ValueError: something given does not fit, or no method can explain this; the message says what would.
        FileNotFoundError: a picture does not exist.

    Examples:
        >>> two = [fm.methods.FAME(iterations=2), fm.methods.FAME(iterations=4)]
        >>> list(compare(fm.load(), torch.rand(1, 3, 224, 224), ["random", *two]))
        ['random', 'fame iterations=2', 'fame iterations=4']
    """
    model = require_model(model).configured(precision, compile)
    asked = as_methods(methods, COMPARED)
    if isinstance(model, FaceEmbedder) and target is None:
        raise ValueError(f"{model.name} is a face recogniser: use compare_pair(face, probe, gallery), or name a target")
    inputs = model.read(pictures)
    if not isinstance(question, (str, NoneType)):
        raise ValueError(f"compare takes one question: got {question!r}")
    ((model, _),) = by_question(model, question, len(inputs.x))
    wanted = model.target(target, len(inputs.x))
    chosen = able(model, asked, wanted) if methods == "all" else checked(model, asked, wanted)
    if wanted is None:  # once for all, so that methods that reach the outputs by other ways cannot differ
        with torch.inference_mode(False), torch.no_grad():
            x = inputs.x.clone()
            wanted = Query(model, x, None, None, seed, batch_size or default_batch(x)).target

    def run(method: Method, report: Progress | None) -> Attribution:
        if hasattr(method, "layer"):  # cut once per layer: part of no method's seconds
            cut.cut(model.module, method.layer or model.target_layer, inputs.x.to(model.dtype))
        ask = {"seed": seed, "batch_size": batch_size, "progress": report}
        return explained(model, inputs, sources_of(pictures, len(inputs.x)), method, wanted, ask)

    compared = Comparison(*each(chosen, run, progress))
    warn(*compared.values())
    return compared


def compare_pair(
    model: FaceEmbedder,
    probe: Pictures,
    gallery: Pictures,
    methods: Methods = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    compile: bool = False,
    progress: bool | Progress | None = None,
) -> PairComparison:
    """Many methods on the same two faces.

    Args:
        model: a `FaceEmbedder`.
        probe: an aligned face crop.
        gallery: the face it is compared with.
        methods: as for `compare`; `COMPARED_PAIRS` by default.
        batch_size: pictures per network call.
        seed: for methods that sample.
        precision: of the network alone.
        compile: run iterated methods through torch.compile.
        progress: True for a bar over all methods, or a function of (done, total).

    Returns:
        A `PairComparison`: a `PairAttribution` by each method's name, `figure()`, `agreement()` and `save()`.

    Raises:
        ValueError: something given does not fit, or no method can explain this pair.
        FileNotFoundError: a picture does not exist.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face, x = fm.FaceEmbedder(net, size=32), torch.rand(2, 3, 32, 32)
        >>> list(compare_pair(face, x[:1], x[1:], ["lift-cam", "grad-cam"]))
        ['lift-cam', 'grad-cam']
    """
    model = as_embedder(model, precision, compile)
    asked = as_methods(methods, COMPARED_PAIRS)
    faces, sources = both_sides(model, probe, gallery)
    if len(faces.x) != 2:
        raise ValueError(f"compare_pair takes one pair: got {len(faces.x) // 2}")
    chosen = able(model, asked, A_PAIR) if methods == "all" else checked(model, asked, A_PAIR)

    def run(method: Method, report: Progress | None) -> PairAttribution:
        ask = {"seed": seed, "batch_size": batch_size, "progress": report}
        return explained_pairs(model, faces, sources, method, ask)[0]

    compared = PairComparison(*each(chosen, run, progress))
    warn(*(att for pair in compared.values() for att in pair.attributions.values()))
    return compared


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
    model = _without_question(model)
    model = model if layer is None else model.at(layer)
    inputs = model.read(picture)
    if len(inputs.x) != 1:
        raise ValueError(f"explain_locations takes one picture: got {len(inputs.x)}")
    chosen = FAME(iterations=25, sigma=2.0) if method is None else as_method(method)
    h, w = _grid(model, inputs.x)
    rows, cols = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    with reporting(progress, f"{h} x {w} places") as report:
        begin = time.perf_counter()
        found = _see(model, inputs.x, rows, cols, chosen, batch_size, report)
        seconds = time.perf_counter() - begin
    maps = found.maps.cpu()
    shares = cam_locality(maps, rows, cols, (h, w)).view(h, w)
    about = provenance(model, chosen, found, 0, seconds, h * w)
    seen = Image.fromarray(pixels_of(model.to_pixels(inputs.x))[0].numpy())
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
    model = _without_question(model)
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
    with reporting(progress, "locality") as report:
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


def _without_question(model: Any) -> Model:
    """A model that takes a picture and nothing else."""
    return by_question(require_model(model), None, 1)[0][0]


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
