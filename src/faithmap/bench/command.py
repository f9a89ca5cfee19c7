"""``faithmap bench``: a benchmark from its file to its tables; a run that was stopped goes on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import typer

from faithmap.batching import tune_allocator
from faithmap.bench.clean import Cleaned
from faithmap.bench.document import SpecError
from faithmap.bench.engines import local
from faithmap.bench.extra import PACKAGES, extra
from faithmap.bench.manifest import described
from faithmap.bench.pages import to_markdown
from faithmap.bench.plan import Unit, plan
from faithmap.bench.reading import read_spec
from faithmap.bench.run import Runner, UnitResult
from faithmap.bench.spec import Spec
from faithmap.bench.store import DiskFullError, Store, opened
from faithmap.bench.tables import Row, summarize, to_csv
from faithmap.running import reporting
from faithmap.terminal import REFUSED, STOPPED, Screen, asking, check_folder, exit_code, tell


def bench(
    screen: Screen, path: Path, out: Path, settings: Sequence[str], *, resume: bool = False, tables_only: bool = False
) -> int:
    """Run what is not done yet, then write the tables; the exit code is that of the command line.

    Args:
        screen: where it is told.
        path: the YAML file.
        out: the run's folder.
        settings: values of its variables, ``NAME=VALUE``.
        resume: whether a run in the folder goes on.
        tables_only: whether nothing is run, and the tables are written from what is there.
    """
    with asking():
        for module in PACKAGES:
            extra(module)
        if not tables_only:
            check_folder(out)
        variables = _variables(settings)
        tune_allocator()
        try:
            spec = read_spec(path, variables)
        except SpecError as error:
            for problem in error.problems:
                tell("error", f"{path.name}, {problem}")
            return REFUSED
    units = plan(spec)
    if tables_only:
        with asking():
            store = Store(out)
            _ = store.manifest
            store.check(described(spec), resume=True)
        return _tables(screen, spec, store, units)
    command = ["faithmap", "bench", str(path), "--out", str(out)]
    command += [word for setting in settings for word in ("--set", setting)]
    with ExitStack() as stack:
        with asking():
            store = stack.enter_context(opened(out, spec, resume=resume, arguments=command[1:]))
        done = {unit.id for unit in units if store.done(unit.id)}
        for reason in store.broken.values():
            tell("warning", f"{reason}: its unit is run again")
        screen.line(f"{spec.name}: {len(units)} units of work, {len(done)} of them done before", style="bold")
        try:
            _run(screen, spec, store, units, done)
        except KeyboardInterrupt:
            tell("stopped", f"{len(done)} of {len(units)} units are done; go on with {shlex.join(command)} --resume")
            return STOPPED
        except DiskFullError as error:
            tell("error", error)
            return exit_code(len(done), [error])
        return _tables(screen, spec, store, units)


def _run(screen: Screen, spec: Spec, store: Store, units: Sequence[Unit], done: set[str]) -> None:
    """All units that are not done; those that become so join them."""

    def save(unit: Unit, found: UnitResult) -> None:
        if found.clean is not None:
            store.save_clean(unit.id, found.clean.samples, found.clean.threshold)
        elif unit.kind == "shapley":
            store.save_shapley(unit.id, found.shapley)
        else:
            store.save_records(unit.id, found.records, found.maps)
        done.add(unit.id)
        if not screen.bar and not screen.quiet:  # a log, where nobody sees a bar
            place = " ".join(filter(None, (unit.kind, unit.data, unit.model, unit.entry)))
            typer.echo(f"{len(done)} of {len(units)}: {place}", err=True)

    def load(unit: Unit) -> UnitResult:
        if unit.kind == "clean":
            return UnitResult(clean=Cleaned(*store.clean(unit.id)))
        return UnitResult(shapley=store.shapley(unit.id))

    before = frozenset(done)
    with reporting(screen.bar, spec.name) as report:
        local(spec, units, before.__contains__, Runner(spec, load), save, report)


def _tables(screen: Screen, spec: Spec, store: Store, units: Sequence[Unit]) -> int:
    """The tables of what is there, written and told."""
    with asking():
        rows = summary(spec, store, units)
    page, sheet = (store.folder / "tables" / f"tables.{kind}" for kind in ("md", "csv"))
    try:
        store.write(page, to_markdown(spec.name, rows, spec.metrics).encode())
        store.write(sheet, to_csv(rows).encode())
    except DiskFullError as error:
        tell("error", error)
        return exit_code(len(rows), [error])
    failed = _failed(rows)
    for row in failed:
        where = f"{row.method} on {row.data}, {row.model}"
        tell("warning", f"{where}: no map of {row.errors} of {row.samples} samples: {row.reason}")
    about = {"name": spec.name, "run": str(store.folder), "page": str(page), "sheet": str(sheet)}
    screen.document({**about, "rows": [asdict(row) for row in rows]})
    screen.line(f"tables: {page}\nall figures: {sheet}\nrecords: {store.folder / 'records'}")
    return exit_code(len(rows), failed)


def _failed(rows: Sequence[Row]) -> list[Row]:
    """Of methods that have errors in all parts, so on samples that were not explained, the part with the fewest."""
    fewest: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = (row.data, row.model, row.method)
        if key not in fewest or row.errors < fewest[key].errors:
            fewest[key] = row
    return [row for row in fewest.values() if row.errors and not row.control]  # a control may have no coefficients


def summary(spec: Spec, store: Store, units: Sequence[Unit]) -> list[Row]:
    """The rows of all data sets and models, one of each in memory at a time, in the order of the benchmark."""
    controls = [entry.label for entry in spec.entries if entry.method.control]
    rows = []
    for data in spec.data:
        for model in spec.models:
            mine = [unit for unit in units if (unit.data, unit.model) == (data, model)]
            clean = next(unit.id for unit in mine if unit.kind == "clean")
            if not store.done(clean):
                continue
            people = {data: {one.sample: one.subjects for one in store.clean(clean)[0]}}
            found = store.records(unit.id for unit in mine if unit.kind == "maps")
            pairs = spec.data[data].task == "verification"
            subjects = people if pairs else None
            rows += summarize(found, spec.metrics, subjects=subjects, published=spec.published, controls=controls)
    places: Mapping[str, int] = {part: i for i, part in enumerate(p for m in spec.metrics for p in m.parts)}
    ranks: Mapping[str, int] = {entry.label: i for i, entry in enumerate(spec.entries)}
    blocks = {pair: i for i, pair in enumerate((d, m) for d in spec.data for m in spec.models)}
    return sorted(rows, key=lambda row: (blocks[row.data, row.model], places[row.part], ranks[row.method]))


def _variables(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (equals and name.strip()):
            raise ValueError(f"--set {setting} is not NAME=VALUE: write it as in --set IMAGENET=/data/imagenet")
        found[name.strip()] = value
    return found
