"""The commands ``recommend`` and ``verify --pairs``: they judge methods, or a recogniser, and tell the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faithmap import datasets
from faithmap.datasets import Dataset
from faithmap.datasets.worlds.named import is_world, world
from faithmap.evaluation import as_dataset
from faithmap.files import save_picture, write_whole
from faithmap.metrics import Interval
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.recommendation import Recommendation, recommend
from faithmap.running import Methods
from faithmap.terminal import RefusedError, Screen, asking, exit_code, made_folder, tell
from faithmap.verdict import Standing
from faithmap.verification import verification_report
from faithmap.words import seconds, table


def recommended(
    screen: Screen, net: Model, given: Path, pictures: Path | None, out: Path, methods: Methods, ask: Mapping[str, Any]
) -> int:
    """Find which method to trust, tell it and write the evidence; the exit code.

    Args:
        screen: where it is told.
        net: the model.
        given: a folder of pictures; of a face recogniser a CSV of pairs.
        pictures: where those of the CSV are, if not beside it.
        out: the folder for the chart and the table.
        methods: those to try, or None.
        ask: budget, limit, batch_size and seed.
    """
    with asking():
        data = pairs_of(given, pictures) if isinstance(net, FaceEmbedder) else _pictures_of(given, pictures)
        folder = made_folder(out)
        found = recommend(net, data, methods, **ask, progress=screen.bar)
    verdict = found.verdict
    screen.table(_HEADS, [_row(one) for one in verdict.standings])
    screen.line("")
    screen.line(str(found), style="bold" if verdict.chosen else "")
    for sample, why in found.unread.items():
        tell("error", f"{sample}: {why}")
    with _written(folder):  # after all is told: a full disk must not take the answer
        chart = save_picture(found.figure(), folder / "recommend.png")
        sheet = write_whole(folder / "recommend.md", lambda path: path.write_text(_page(found), encoding="utf-8"))
    about = {"model": found.model, "samples": found.samples, "criterion": found.what, "control": verdict.control}
    about |= {"chosen": verdict.chosen, "best": verdict.best, "not_tried": dict(found.left_out)}
    about |= {"unread": dict(found.unread), "fewest": verdict.fewest}
    screen.document(
        {**about, "standings": [_told(one) for one in verdict.standings], "chart": str(chart), "sheet": str(sheet)}
    )
    screen.line(f"\nchart: {chart}\ntable: {sheet}")
    return exit_code(found.samples, list(found.unread))


def network_of(given: Path) -> str | None:
    """The network that has learned a world, if a world is given."""
    if not is_world(given):
        return None
    data = world(given)
    tagged = getattr(data, "variant", None) == "tagged"
    return "objects-tagged" if tagged else data.name.removeprefix("worlds.")


def pairs_of(file: Path, pictures: Path | None) -> Dataset[Any]:
    """The data set of a CSV of pairs, whose pictures lie in the folder, or beside it; or a world of pairs."""
    if is_world(file):
        return world(file)
    if file.suffix.lower() != ".csv":
        raise ValueError(f"a face recogniser is judged on pairs: give a CSV with gallery, probe, genuine, not {file}")
    return datasets.load("pairs", file=file, folder=pictures)


def _pictures_of(folder: Path, pictures: Path | None) -> Dataset[Any]:
    if pictures is not None:
        raise ValueError("--pictures says where those of a CSV of pairs are, for a face recogniser")
    return as_dataset(folder)


def reported(
    screen: Screen, net: FaceEmbedder, pairs: Path, pictures: Path | None, out: Path, batch_size: int | None
) -> int:
    """Tell how well a recogniser verifies pairs, and write the report and its histogram; the exit code.

    Args:
        screen: where it is told.
        net: the recogniser, with its threshold if it has one.
        pairs: a CSV.
        pictures: where its pictures are, if not beside it.
        out: the folder for both files.
        batch_size: pictures per network call.
    """
    with asking():
        data = pairs_of(pairs, pictures)
        folder = made_folder(out)
        report = verification_report(net, data, batch_size=batch_size, progress=screen.bar)
    screen.line(str(report))
    for one in report.unread:
        tell("error", one)
    with _written(folder):
        chart = save_picture(report.figure(), folder / "verification.png")
        page = write_whole(folder / "verification.md", lambda p: p.write_text(report.markdown(), encoding="utf-8"))
    screen.document({"report": report.markdown(), "chart": str(chart), "page": str(page)})
    screen.line(f"chart: {chart}\nreport: {page}")
    return exit_code(len(data) - len(report.unread), list(report.unread))


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Take what the system says of a write for an answer."""
    try:
        yield
    except OSError as error:
        raise RefusedError(f"{folder} cannot be written: {error.strerror}; what was found is told above") from error


_HEADS = ("method", "score x 100", "ahead of the best control", "wins", "evaluations", "tail", "seconds", "")


def _row(one: Standing) -> tuple[str, ...]:
    says = "ties with the best" if one.tied else "better" if one.beats else "not shown to be better"
    says = "control" if one.control else says
    wins = "" if one.control else f"{one.wins} of {one.of}"
    cost = (f"{one.cost.evaluations:.4g}", f"{one.cost.tail:.4g}", seconds(one.cost.seconds))
    return one.label, _hundredths(one.score), _hundredths(one.ahead), wins, *cost, says


def _told(one: Standing) -> dict[str, Any]:
    """For the JSON document."""
    return asdict(one) | {"score": one.score._asdict(), "ahead": one.ahead._asdict()}


def _page(found: Recommendation) -> str:
    standings = table(_HEADS, map(_row, found.verdict.standings))
    return f"# Which method to trust for {found.model}\n\n{found}\n\n{standings}\n"


def _hundredths(one: Interval) -> str:
    return f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
