"""The tables of docs/leaderboard.md and docs/worlds.md from the runs of their specs.

    faithmap bench benchmarks/specs/leaderboard-faces.yaml --out runs/leaderboard-faces --set DATA=../shared/data
    python -m benchmarks.leaderboard runs

Rewrites what stands between ``<!-- RUN: PARTS -->`` and ``<!-- end -->``: a table of those parts, from the run's
tables/tables.csv. A part may be followed by ``:: HEADING``. The best first by the first part. Of several data sets or
models ``<!-- RUN (DATA, MODEL): PARTS -->`` names those meant. A run that has not ended leaves its tables as they are.

With ``--compare lift-cam grad-cam`` it prints instead how two methods differ, paired by sample, in each run.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.common import percent

from faithmap.bench.store import records
from faithmap.metrics import bootstrap
from faithmap.metrics.registry import METRICS
from faithmap.words import table

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "leaderboard.md", DOCS / "worlds.md")
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
Row = dict[str, str]


def rows_of(run: Path, data: str | None, model: str | None) -> dict[str, dict[str, Row]]:
    """By part and method what a run found, on one of its data sets and models."""
    found: dict[str, dict[str, Row]] = {}
    with (run / "tables" / "tables.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if data in (None, row["data"]) and model in (None, row["model"]):
                found.setdefault(row["part"], {})[row["method"]] = row
    return found


def cell(row: Row | None) -> str:
    """A mean with its interval, and whether it beats the controls."""
    if row is None or not row["mean"]:
        return ""
    share = METRICS.create(row["metric"]).is_share(row["part"].partition(" fill=")[0])
    mean, low, high = (
        f"{100 * float(row[k]):.1f}" if share else f"{float(row[k]):.2f}" for k in ("mean", "low", "high")
    )
    beats = "▲" if row["against best control"] == "beats" else "△"
    sign = {"beats": f" {beats}", "loses": " ▽"}.get(row["against random"], "") if row["control"] == "False" else ""
    middle = f", median {100 * float(row['median']):.1f}" if row["metric"] == "average-drop-in-deletion" else ""
    return f"{mean} [{low}, {high}]{middle}{sign}"


def made(found: dict[str, dict[str, Row]], parts: Sequence[str]) -> str:
    """One table: a row for each method, the best first; subsets are told beside the name."""
    columns = [[word.strip() for word in part.split("::")] for part in parts]
    names = [(words[0], words[-1]) for words in columns]
    leading = found[names[0][0]]
    sign = 1 if next(iter(leading.values()))["better"] == "lower" else -1
    order = sorted((m for m in leading if leading[m]["mean"]), key=lambda m: sign * float(leading[m]["mean"]))
    most = max(int(row["samples"]) for row in leading.values())
    lines = []
    for method in order:
        row = leading[method]
        name = f"*{method}*" if row["control"] == "True" else method
        few = "" if int(row["samples"]) == most else f" ({row['samples']})"
        evaluations = float(row["forward"]) + float(row["backward"])
        cost = [f"{evaluations:.0f}", f"{float(row['seconds']):.2g}"]
        lines.append([name + few, *(cell(found[part].get(method)) for part, _ in names), *cost])
    heads = [f"{heading}{ARROWS[next(iter(found[part].values()))['better']]}" for part, heading in names]
    return table(["method", *heads, "evaluations", "seconds"], lines)


def compared(run: Path, one: str, other: str) -> str:
    """By part how much one method is above another on the samples that both have, with the interval, x 100."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for record in records(run):
        if record.value is not None:
            values.setdefault(record.part, {}).setdefault(record.method, {})[record.sample] = record.value
    lines = []
    for part, by_method in values.items():
        if one in by_method and other in by_method:
            theirs = by_method[other]
            differences = [value - theirs[sample] for sample, value in by_method[one].items() if sample in theirs]
            lines.append([part, percent(bootstrap(torch.tensor(differences)))])
    return table([f"{run.name}: {one} less {other}", "x 100"], lines)


def main() -> None:
    """Rewrite the pages, or compare two methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--compare", nargs=2, metavar="METHOD", help="print how two methods differ, in each run")
    given = parser.parse_args()
    runs = given.runs
    if given.compare:
        print("\n\n".join(compared(run.parent, *given.compare) for run in sorted(runs.glob("*/manifest.json"))))
        return

    def replaced(match: re.Match[str]) -> str:
        run, data, model, parts = match.groups()
        if not (runs / run / "tables" / "tables.csv").is_file():
            print(f"{run} has no tables: left as it is")
            return match[0]
        head = match[0].partition("-->")[0]
        found = rows_of(runs / run, data, model)
        return f"{head}-->\n\n{made(found, [part.strip() for part in parts.split('|')])}\n\n<!-- end -->"

    marker = re.compile(r"<!-- ([\w-]+)(?: \(([^,]*), ([^)]*)\))?: (.*?) -->.*?<!-- end -->", flags=re.S)
    for page in filter(Path.is_file, PAGES):
        page.write_text(marker.sub(replaced, page.read_text()))


if __name__ == "__main__":
    main()
