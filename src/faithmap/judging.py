"""The commands ``recommend`` and ``verify --pairs``: they judge methods, or a recogniser, and tell the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faithmap import datasets
from faithmap.datasets import Dataset
from faithmap.evaluation import as_dataset
from faithmap.files import save_picture, write_whole
from faithmap.metrics import Interval
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.recommendation import Recommendation, Standing, recommend
from faithmap.running import Methods
from faithmap.terminal import Screen, asking, exit_code, made_folder, tell
from faithmap.verification import verification_report
from faithmap.words import seconds


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
    chart = save_picture(found.figure(), folder / "recommend.png")
    sheet = write_whole(folder / "recommend.md", lambda path: path.write_text(_page(found), encoding="utf-8"))
    verdict = found.verdict
    about = {"model": found.model, "samples": found.samples, "criterion": found.what, "control": verdict.control}
    about |= {"chosen": verdict.chosen, "best": verdict.best, "not tried": dict(found.left_out)}
    standings = [asdict(one) for one in verdict.standings]
    screen.document({**about, "standings": standings, "chart": str(chart), "sheet": str(sheet)})
    screen.table(_HEADS, [_row(one) for one in verdict.standings])
    screen.line("")
    screen.line(str(found), style="bold" if verdict.chosen else "")
    screen.line(f"\nchart: {chart}\ntable: {sheet}")
    return exit_code(1, [])


def pairs_of(file: Path, pictures: Path | None) -> Dataset[Any]:
    """The data set of a CSV of pairs, whose pictures lie in the folder, or beside it."""
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
    chart = save_picture(report.figure(), folder / "verification.png")
    page = write_whole(folder / "verification.md", lambda path: path.write_text(report.markdown(), encoding="utf-8"))
    for one in report.unread:
        tell("error", one)
    screen.document({"report": report.markdown(), "chart": str(chart), "page": str(page)})
    screen.line(str(report))
    screen.line(f"\nchart: {chart}\nreport: {page}")
    return exit_code(len(data) - len(report.unread), list(report.unread))


_HEADS = ("method", "score x 100", "ahead of the best control", "evaluations", "seconds", "")


def _row(one: Standing) -> tuple[str, ...]:
    sign = "control" if one.control else "as good as the best" if one.tied else "better" if one.better else ""
    cost = (f"{one.evaluations:.4g}", seconds(one.seconds))
    return one.label, _hundredths(one.score), _hundredths(one.ahead), *cost, sign


def _page(found: Recommendation) -> str:
    rows = [_HEADS, ["---"] * len(_HEADS), *map(_row, found.verdict.standings)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# Which method to trust for {found.model}\n\n{found}\n\n{table}\n"


def _hundredths(one: Interval) -> str:
    return f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
