"""The command line, ``faithmap explain cat.jpg``: checks everything that was asked before it computes anything."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithmap.demo import Explained, explained_twins, write_demo
from faithmap.demo import sheet as page_of
from faithmap.files import save_picture
from faithmap.terminal import (
    BUG,
    DONE,
    REFUSED,
    STOPPED,
    RefusedError,
    Screen,
    asking,
    check_folder,
    check_layers,
    chosen_methods,
    exit_code,
    free_stems,
    load_classifier,
    load_model,
    made_folder,
    refuse,
    screen_for,
    tell,
)
from faithmap.words import percent, seconds, spent

if TYPE_CHECKING:  # torch takes seconds to import: the commands do it, --help does not
    from torch import Tensor

    from faithmap.methods import Method
    from faithmap.models import Classifier, FaceEmbedder, Model

MODEL, OUT = "efficientnet-lite0", Path("faithmap-out")
MOST_PLACES = 1024
"""Of a sheet of locations: with more, a tile is a few pixels wide and the maps take gigabytes."""

Option, Argument = typer.Option, typer.Argument
Images = Annotated[list[Path], Argument(metavar="IMAGE", help="Photos in any common format.")]
Pictures = Annotated[
    Path | None,
    Option("--pictures", metavar="DIR", help="Where the pictures of a CSV of pairs are, if not beside it."),
]
ModelName = Annotated[str, Option("--model", "-m", metavar="M", help="See [bold]faithmap list models[/].")]
Methods = Annotated[str, Option("--methods", metavar="A,B", help="See [bold]faithmap list methods[/].")]
Setting = Annotated[
    list[str] | None, Option("--set", metavar="NAME=VALUE", help="As in --set fame.iterations=200; may be repeated.")
]
Question = Annotated[
    str | None,
    Option("--question", metavar="TEXT", help="For a model that answers questions: its answer is explained."),
]
Device = Annotated[str, Option("--device", metavar="D", help="cpu, cuda, cuda:1 or mps.")]
Out = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Where files go; made if it is not there.")]
Seed = Annotated[int, Option("--seed", metavar="N", help="For methods that sample.")]
BatchSize = Annotated[int | None, Option("--batch-size", min=1, metavar="N", help="Per network call, else what fits.")]
Precision = Annotated[str, Option("--precision", metavar="P", help="float32, or bf16: faster, slightly other maps.")]
AsJSON = Annotated[bool, Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print errors alone, and the JSON document if asked.")]
Verbose = Annotated[int, Option("--verbose", "-v", count=True, help="Log what happens; -vv in detail.")]

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's; typer holds it under another name in each version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        The exit code: 0 all is done, 1 some pictures failed, 2 nothing was done because what was asked cannot be,
        70 an unexpected error, 130 stopped by Ctrl-C.

    Examples:
        >>> main(["explain", "cat.jpg", "--no-such-option"])
        2
    """
    # Idle OpenMP threads must not spin: beside other processes they make torch a hundred times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what the terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tell("warning", message)
            code = typer.main.get_command(app).main(arguments, "faithmap", standalone_mode=False)
    except RefusedError as error:
        logging.getLogger(__name__).debug("refused", exc_info=error)
        return refuse(error)
    except _UsageError as error:
        path = error.ctx.command_path if error.ctx else "faithmap"
        return refuse(f"{error.format_message().rstrip('.')}: see {path} --help")
    except typer.Abort as error:  # older typers turn Ctrl-C into it, and EOFError too
        if not isinstance(error.__cause__, KeyboardInterrupt):
            traceback.print_exc()
            return BUG
        code = STOPPED
    except Exception:
        traceback.print_exc()
        return BUG
    if code == STOPPED:
        tell("stopped", "what had been written is whole")
    return int(code or DONE)


@app.callback(invoke_without_command=True)
def _faithmap(
    context: typer.Context,
    show_version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    """Which pixels made a vision network say that, and can this map be trusted?

    Start with [bold]faithmap demo[/], then [bold]faithmap explain YOUR_PHOTO[/].
    """
    if show_version:
        typer.echo(f"faithmap {version('faithmap')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def explain(
    images: Images,
    model: ModelName = MODEL,
    methods: Methods = "lift-cam,fame",
    target: Annotated[
        str | None, Option("--target", "-t", metavar="K|NAME", help="Class, by index or name; else the predicted one.")
    ] = None,
    question: Question = None,
    device: Device = "cpu",
    out: Out = OUT,
    setting: Setting = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show which pixels made a classifier say what it says.

    Writes one PNG per photo with every map over it, and for each method the raw
    map and how it was made as a .safetensors file.
    """
    screen = screen_for(as_json, quiet, verbose)
    with asking():
        chosen = chosen_methods(methods, setting)
        check_folder(out)
        net = load_classifier(model, device, precision, question)
        check_layers(net, chosen)
        net.target(target, 1)
    images = list(dict.fromkeys(images))
    stems = dict(zip(images, free_stems([image.stem for image in images], ".maps.png", out, images), strict=True))
    ask = {"target": target, "batch_size": batch_size, "seed": seed, "precision": precision, "progress": screen.bar}
    told: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for one in _explanations(net, images, out, chosen, ask, failed):
        path = out.expanduser() / f"{stems[one.photo]}.maps.png"
        facts = {**one.facts(), "sheet": str(save_picture(page_of(one), path))}
        for att, about in zip(one.maps, facts["methods"], strict=True):
            about["file"] = str(att.save(path.with_name(f"{stems[one.photo]}.{att.method}.safetensors")))
        told.append(facts)
        screen.explained(facts)
    screen.document({"model": net.name, "images": told, "failed": failed})
    return exit_code(len(told), failed)


@app.command()
def compare(
    images: Images,
    model: ModelName = MODEL,
    methods: Annotated[
        str | None,
        Option("--methods", metavar="A,B|all", help="By default a few; all: every one that fits, slow ones too."),
    ] = None,
    target: Annotated[
        str | None, Option("--target", "-t", metavar="K|NAME", help="Class, by index or name; else the predicted one.")
    ] = None,
    question: Question = None,
    signed: Annotated[bool, Option("--signed", help="Show what speaks against the class too, in blue.")] = False,
    device: Device = "cpu",
    out: Out = OUT,
    setting: Setting = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show many methods on the same photos: one page, what each method costs, and whether they agree.

    Writes one PNG with a row for each photo, and for each photo and method the
    raw map and how it was made as a .safetensors file.
    """
    screen = screen_for(as_json, quiet, verbose)
    with asking():
        from faithmap import api, running
        from faithmap.comparison import check_panels

        chosen = chosen_methods(methods or ",".join(api.COMPARED), setting)
        check_folder(out)
        net = load_classifier(model, device, precision, question)
        wanted = net.target(target, 1)
        chosen = running.able(net, chosen, wanted) if methods == "all" else chosen
        check_layers(net, chosen)
        for method in chosen:
            method.check(net, wanted)
        check_panels(len(images), len(chosen))
    failed: list[dict[str, str]] = []
    photos = list(_readable(net, images, failed))
    if not photos:
        screen.document({"model": net.name, "images": [], "failed": failed})
        return REFUSED
    with asking():
        folder = made_folder(out)
        ask: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "precision": precision, "progress": screen.bar}
        found = api.compare(net, photos, chosen, target, **ask)
        page = found.figure(signed=signed)
    stems = free_stems([photo.stem for photo in photos], ".compare.png", out, images)
    told = []
    for i, (photo, stem, predictions) in enumerate(zip(photos, stems, net.predict(photos, top=2**31), strict=True)):
        facts = Explained(photo, [att[i] for att in found.values()], predictions).facts()
        for att, about in zip(found.values(), facts["methods"], strict=True):
            about["file"] = str(att[i].save(folder / f"{stem}.{att.method}.safetensors"))
        told.append(facts)
        screen.explained(facts)
    for name, why in found.refused.items():
        tell("warning" if methods == "all" else "error", f"{name}: {why}")
    more = f"-and-{len(stems) - 1}-more" if len(stems) > 1 else ""
    path = save_picture(page, folder / f"{stems[0]}{more}.compare.png")
    agreement = found.agreement()
    about = {"model": net.name, "images": told, "refused": found.refused, "agreement": agreement}
    screen.document({**about, "sheet": str(path), "failed": failed})
    screen.agreement(agreement, len(photos))
    screen.line(f"all maps: {path}\nraw maps: {folder}, a .safetensors file for each photo and method")
    unasked = [] if methods == "all" else list(found.refused)
    return exit_code(len(told), [*failed, *unasked])


@app.command()
def recommend(
    folder: Annotated[
        Path,
        Argument(metavar="FOLDER", help="Pictures of yours; for faces a CSV of pairs; or a world.", show_default=False),
    ],
    model: Annotated[
        str | None,
        Option("--model", "-m", metavar="M", help=f"By default {MODEL}; of a world the network that has learned it."),
    ] = None,
    methods: Annotated[
        str | None, Option("--methods", metavar="A,B", help="By default every one that fits the model and the budget.")
    ] = None,
    budget: Annotated[
        int, Option(min=1, metavar="N", help="Steps per picture that a method may take: 1 pass, 75 of FAME.")
    ] = 100,
    limit: Annotated[int, Option(min=1, metavar="N", help="On how many of the pictures, spread evenly.")] = 24,
    pictures: Pictures = None,
    device: Device = "cpu",
    out: Out = OUT,
    setting: Setting = None,
    seed: Seed = 0,
    batch_size: Annotated[int, Option("--batch-size", min=1, metavar="N", help="Pictures per network call.")] = 8,
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Say which method to trust for this model, from pictures of yours: with intervals, cost, and controls to beat.

    No labels are needed. Every method explains every picture, and the order in
    which it puts the pixels is tested on the network. Where none is better than
    a Gaussian in the middle of the picture, that is the answer.
    """
    screen = screen_for(as_json, quiet, verbose)
    with asking():
        chosen = None if methods is None else chosen_methods(methods, setting)
        if methods is None and setting:
            raise ValueError("--set needs --methods: name the methods whose parameters it sets")
        check_folder(out)
        from faithmap.judging import network_of, recommended

        net = load_model(model or network_of(folder) or MODEL, device)
    ask = {"budget": budget, "limit": limit, "batch_size": batch_size, "seed": seed}
    return recommended(screen, net, folder, pictures, out, chosen, ask)


@app.command()
def verify(
    probe: Annotated[Path | None, Argument(help="An aligned face crop.", show_default=False)] = None,
    gallery: Annotated[Path | None, Argument(help="The face it is compared with.", show_default=False)] = None,
    pairs: Annotated[
        Path | None,
        Option("--pairs", metavar="CSV", help="Instead of two faces: gallery, probe, genuine in each row; or a world."),
    ] = None,
    pictures: Pictures = None,
    model: Annotated[
        str, Option("--model", "-m", metavar="M", help="A face recogniser: see [bold]faithmap list models[/].")
    ] = "faces",
    threshold: Annotated[
        float | None, Option("--threshold", metavar="T", help="The cosine from which two faces match.")
    ] = None,
    methods: Methods = "fame",
    device: Device = "cpu",
    out: Out = OUT,
    setting: Setting = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show why two faces match, or do not: what is alike (e+) and what differs (e-).

    With --pairs: how well the recogniser verifies a list of pairs, with error
    rates, intervals over people, and where the threshold comes from.

    Faces are personal data. The figures in --out show both faces, since you ask
    for them; the .safetensors files hold maps and how they were made, no pixels
    and no embeddings. Nothing leaves this machine.
    """
    screen = screen_for(as_json, quiet, verbose)
    with asking():
        faces = [face for face in (probe, gallery) if face is not None]
        if len(faces) != (2 if pairs is None else 0):
            raise ValueError("verify takes two faces, PROBE GALLERY, or a list of pairs, --pairs pairs.csv")
        if pictures is not None and pairs is None:
            raise ValueError("--pictures says where those of --pairs are: give both")
        chosen = chosen_methods(methods, setting)
        check_folder(out)
        net = _recogniser(model, threshold, device, precision)
    if pairs is not None:
        from faithmap.judging import reported

        return reported(screen, net, pairs, pictures, out, batch_size)
    assert probe is not None
    assert gallery is not None
    with asking():
        from faithmap import api, running

        chosen = running.able(net, chosen, api.A_PAIR) if methods == "all" else chosen
        check_layers(net, chosen)
    ask: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "precision": precision, "progress": screen.bar}
    return _draw_pair(screen, net, (probe, gallery), out, chosen, ask, all_asked=methods == "all")


@app.command()
def locations(
    images: Images,
    model: ModelName = MODEL,
    layer: Annotated[
        str | None, Option("--layer", metavar="L", help="Whose places; by default the model's target layer.")
    ] = None,
    all_layers: Annotated[
        bool, Option("--all-layers", help="Measure how local each layer is, over all photos.")
    ] = False,
    places: Annotated[int | None, Option(min=1, metavar="N", help="Per layer and photo with --all-layers: 16.")] = None,
    iterations: Annotated[int, Option(min=1, metavar="N", help="FAME's steps for each place.")] = 25,
    device: Device = "cpu",
    out: Out = OUT,
    batch_size: BatchSize = None,
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Show what each place of a feature map sees: the cell of the photo behind it, as CAM methods assume, or more."""
    screen = screen_for(as_json, quiet, verbose)
    with asking():
        if all_layers and layer:
            raise ValueError("--layer asks for one layer and --all-layers for every one: give one of them")
        if places and not all_layers:
            raise ValueError("--places goes with --all-layers: a sheet shows all places of its layer")
        if len(images) > 1 and not all_layers:
            raise ValueError(
                f"a sheet shows one photo, got {len(images)}: give one, or measure several by --all-layers"
            )
        check_folder(out)
        net = load_model(model, device)
        net = net if layer is None else net.at(layer)
    ask = {"batch_size": batch_size, "progress": screen.bar}
    if all_layers:
        return _measure_layers(screen, net, images, out, places or 16, iterations, ask)
    return _draw_places(screen, net, images[0], out, iterations, ask)


@app.command()
def bench(
    spec: Annotated[Path, Argument(metavar="SPEC", help="A YAML file: see docs/benchmark.md.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", metavar="RUN", help="The run's folder.", show_default=False)],
    resume: Annotated[bool, Option("--resume", help="Go on with the run that is there.")] = False,
    setting: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="What ${NAME} is in the file; may be repeated.")
    ] = None,
    tables_only: Annotated[
        bool, Option("--tables-only", help="Run nothing, write the tables of what is there.")
    ] = False,
    as_json: AsJSON = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Measure many methods on many samples, with intervals and controls, in a run that goes on after any stop.

    Writes one row for each sample, method and part of a metric as parquet
    files, and tables in Markdown and CSV.
    """
    screen = screen_for(as_json, quiet, verbose)
    from faithmap.bench import command

    return command.bench(screen, spec, out, setting or (), resume=resume, tables_only=tables_only)


@app.command(name="list")
def list_(
    what: Annotated[str, Argument(metavar="methods|metrics|models|datasets|layers")],
    model: ModelName = MODEL,
    as_json: AsJSON = False,
    verbose: Verbose = 0,
) -> int:
    """List the methods, metrics or data sets with their parameters, the models, or the layers of a model."""
    screen = screen_for(as_json, False, verbose)
    with asking():
        from faithmap.listing import listed

        listed(screen, what, model)
    return DONE


@app.command()
def demo(out: Out = Path("faithmap-demo"), quiet: Quiet = False, verbose: Verbose = 0) -> int:
    """Explain three photos and two drawn faces, offline, and write a page that tells how to read the maps."""
    screen = screen_for(False, quiet, verbose)
    with asking():
        check_folder(out)
        net, chosen = load_classifier(MODEL, "cpu"), chosen_methods("fame,lift-cam,grad-cam", None)
    with as_file(files("faithmap") / "assets" / "photos") as photos:
        found = []
        images = [photos / f"{name}.jpg" for name in ("cat", "coffee", "rocket")]
        for one in _explanations(net, images, out, chosen, {"progress": screen.bar}, []):
            screen.explained({**one.facts(), "image": one.photo.name})
            found.append(one)
        twins = explained_twins(out.expanduser())
        page = write_demo(found, twins, out.expanduser())
    match = "match" if twins.pair.match else "no match"
    screen.line(
        f"two drawn people, alike but for the {twins.part}: similarity {twins.pair.score:.2f}, {match}", style="bold"
    )
    screen.line(f"The pictures are in {page.parent}: open {page} in a browser.")
    return DONE


# -- the commands' work ---------------------------------------------------------------------------------------------


def _explanations(
    net: Classifier,
    images: Sequence[Path],
    out: Path,
    chosen: Sequence[Method],
    ask: dict[str, Any],
    failed: list[dict[str, str]],
) -> Iterator[Explained]:
    """Photos with their maps, a batch at a time; those that cannot be read are told and noted."""
    import torch

    from faithmap import explain
    from faithmap.batching import default_batch
    from faithmap.cut import cut

    layers = {getattr(method, "layer", None) or net.target_layer for method in chosen if hasattr(method, "layer")}
    size = ask.get("batch_size") or default_batch(torch.empty(1, 3, *net.size, device=net.device))
    for begin in range(0, len(images), size):
        inputs = _readable(net, images[begin : begin + size], failed)
        if not inputs:
            continue
        x = torch.cat(list(inputs.values()))
        predictions = net.predict(x, top=2**31)  # all: the target may be any class
        with asking():  # what only a run can tell, such as a head that the method does not know
            for layer in layers:
                cut(net.module, layer, x[:1].to(net.dtype))  # once per model: part of no method's seconds
            made_folder(out)
            found = [explain(net, list(inputs), method, **ask) for method in chosen]
        for row, path in enumerate(inputs):
            yield Explained(path, [att[row] for att in found], predictions[row])


def _readable(net: Model, images: Sequence[Path], failed: list[dict[str, str]]) -> dict[Path, Tensor]:
    """Prepared inputs ``(1, C, H, W)`` of the pictures that can be read."""

    def read(image: Path) -> Tensor | None:
        try:
            return net.prepare(image)
        except (ValueError, OSError) as error:
            tell("error", error)
            failed.append({"image": str(image), "error": str(error)})
            return None

    return {image: x for image in dict.fromkeys(images) if (x := read(image)) is not None}


def _recogniser(model: str, threshold: float | None, device: str, precision: str) -> FaceEmbedder:
    """The face recogniser with its threshold."""
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"--threshold is a cosine, -1 to 1: got {threshold}")
    from faithmap.models import FaceEmbedder
    from faithmap.models.load import sources

    known = ", ".join(source.pattern for source in sources() if source.kind is FaceEmbedder)
    net = load_model(model, device, precision)
    if not isinstance(net, FaceEmbedder):
        raise ValueError(f"{model} is no face recogniser: use {known}")
    net.threshold = net.threshold if threshold is None else threshold
    return net


def _draw_pair(
    screen: Screen,
    net: FaceEmbedder,
    faces: tuple[Path, Path],
    out: Path,
    chosen: Sequence[Method],
    ask: dict[str, Any],
    *,
    all_asked: bool,
) -> int:
    from faithmap import compare_pair

    probe, gallery = faces
    with asking():
        net.read([probe, gallery])
        folder = made_folder(out)
        found = compare_pair(net, probe, gallery, chosen, **ask)
    explained = list(found.values())
    (stem,) = free_stems([f"{probe.stem}-{gallery.stem}"], f".{chosen[0].name}.png", out, [probe, gallery])
    sheet = None if len(chosen) == 1 else save_picture(found.figure(), folder / f"{stem}.compare.png")
    told = []
    for pair in explained:
        how = pair.probe.similar.provenance
        path = save_picture(pair.figure(f"{net.name}, {pair.method}"), folder / f"{stem}.{pair.method}.png")
        about = {"method": pair.method, "parameters": how["parameters"], "seconds": how["seconds"]}
        about["evaluations"] = {name: round(count * how["images"]) for name, count in how["evaluations"].items()}
        about["degenerate"] = {name: one["samples"][0].get("degenerate") for name, one in pair.provenance.items()}
        told.append({**about, "figure": str(path), "file": str(pair.save(path.with_suffix(".safetensors")))})
    score, match = explained[0].score, explained[0].match
    answer = {"score": score, "threshold": net.threshold, "match": match}
    about = {"model": net.name, "probe": str(probe), "gallery": str(gallery), **answer, "methods": told}
    agreement = found.agreement()
    screen.document({**about, "refused": found.refused, "agreement": agreement, "sheet": sheet and str(sheet)})
    for name, why in found.refused.items():
        tell("warning" if all_asked else "error", f"{name}: {why}")
    decision = "no decision without --threshold" if match is None else "match" if match else "no match"
    against = "" if net.threshold is None else f", threshold {net.threshold:.3f}"
    screen.line(f"{probe} and {gallery}: similarity {score:.3f}{against}: {decision}", style="bold")
    rows = [(t["method"], seconds(t["seconds"]), spent(t["evaluations"]), f"{t['figure']}\n{t['file']}") for t in told]
    screen.table(("method", "seconds", "evaluations", "files"), rows)
    if sheet is not None:
        screen.agreement(agreement, 2)
        screen.line(f"all maps: {sheet}")
    return exit_code(len(told), [] if all_asked else list(found.refused))


def _draw_places(screen: Screen, net: Model, image: Path, out: Path, iterations: int, ask: dict[str, Any]) -> int:
    from faithmap import explain_locations
    from faithmap.cut import cut
    from faithmap.methods import FAME

    with asking():
        grid = cut(net.module, net.target_layer, net.prepare(image).to(net.dtype)).grid
        places = f"{grid.h} x {grid.w}"
        if grid.h * grid.w > MOST_PLACES:
            raise ValueError(
                f"layer {net.target_layer!r} has {places} places, more than the {MOST_PLACES} of a sheet: "
                "name a deeper one (faithmap list layers), or measure a sample of each layer's with --all-layers"
            )
        folder = made_folder(out)
        found = explain_locations(net, image, method=FAME(iterations=iterations, sigma=2.0), **ask)
    (stem,) = free_stems([image.stem], ".locations.png", out, [image])
    figure = found.figure(f"{image.name}: what each of {places} places of {found.layer} sees")
    path = save_picture(figure, folder / f"{stem}.locations.png")
    share, chance, took = float(found.shares.nanmean()), 1 / found.shares.numel(), found.provenance.seconds
    about = {"model": net.name, "image": str(image), "layer": found.layer, "iterations": iterations, "seconds": took}
    screen.document({**about, "share": share, "chance": chance, "shares": found.shares.tolist(), "sheet": str(path)})
    screen.line(f"{image}: of what a place of {found.layer} sees, {percent(share)} lies in its own cell", style="bold")
    screen.line(f"{percent(chance)} would by chance. {places} places took {seconds(took)} s.\nall places: {path}")
    return DONE


def _measure_layers(
    screen: Screen, net: Model, images: Sequence[Path], out: Path, places: int, iterations: int, ask: dict[str, Any]
) -> int:
    from faithmap import locality_by_layer
    from faithmap.charts import locality_chart
    from faithmap.methods import FAME

    failed: list[dict[str, str]] = []
    readable = list(_readable(net, images, failed))
    about = {"model": net.name, "images": [str(image) for image in readable], "failed": failed}
    if not readable:
        screen.document(about)
        return REFUSED
    with asking():
        folder = made_folder(out)
        method = FAME(iterations=iterations, sigma=0)
        measured = locality_by_layer(net, readable, places=places, method=method, **ask)
    rows = []
    for i, one in enumerate(measured):
        row = {"layer": one.layer, "grid": one.grid, "depth": i / max(1, len(measured) - 1), "share": one.share.mean}
        rows.append({**row, "low": one.share.low, "high": one.share.high, "chance": one.chance, "ceiling": one.ceiling})
    (stem,) = free_stems(["locality"], ".png", out, images)
    title = f"{net.name}: how much of what a place sees lies in its own cell"
    path = save_picture(locality_chart(rows, title=title), folder / f"{stem}.png")
    screen.document({**about, "places": places, "iterations": iterations, "layers": rows, "chart": str(path)})
    photos = "1 photo" if len(readable) == 1 else f"{len(readable)} photos"
    screen.line(f"{net.name}: of what a place sees, the share in its own cell, over {photos}", style="bold")
    table = []
    for one in measured:
        share, low, high, _ = one.share
        interval = f"{100 * low:.1f} to {percent(high)}"
        grid = "{} x {}".format(*one.grid)
        table.append((one.layer, grid, percent(share), interval, percent(one.chance, 2), percent(one.ceiling)))
    screen.table(("layer", "places", "share", "95 % interval", "by chance", "at most"), table)
    screen.line(f"chart: {path}")
    return exit_code(len(readable), failed)
