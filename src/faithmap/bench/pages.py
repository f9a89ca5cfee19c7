"""Tables of a benchmark to be read, in Markdown: best first, controls marked; what is missing told below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from faithmap.bench.tables import MEDIANS, Row
from faithmap.metrics import Interval, Metric
from faithmap.registry import family
from faithmap.words import spent, table

WIDEST = 6
"""Parts in one table; with more, each family of metrics has tables of its own."""
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
LEGEND = (
    "▲ beats random maps and the best control, △ random maps alone, ▽ loses to random maps: the 95 % interval of the "
    "difference per sample lies on one side of 0. *Controls* know nothing of the network. Shares are told x 100."
)


def to_markdown(title: str, rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    """A page with tables for each data set and model.

    Args:
        title: of the page.
        rows: of `tables.summarize`.
        metrics: those of the rows, in the order of the columns.
    """
    lines = [f"# {_cell(title)}", "", LEGEND, ""]
    for data, model in dict.fromkeys((row.data, row.model) for row in rows):
        here = [row for row in rows if (row.data, row.model) == (data, model)]
        lines += [f"## {_cell(data)}, {_cell(model)}", "", *_section(here, metrics)]
    return "\n".join(lines).rstrip() + "\n"


def _section(rows: Sequence[Row], metrics: Sequence[Metric]) -> Iterator[str]:
    shares = {part for metric in metrics for part in metric.parts if metric.is_share(part)}
    refused = {row.method for row in rows} - {row.method for row in rows if row.errors < row.samples}
    shown = [row for row in rows if row.method not in refused]
    costs = True
    for heading, parts in _tables(metrics, {row.part for row in shown}):
        columns = {part: {row.method: row for row in shown if row.part == part} for part in parts}
        if heading:
            yield from (f"### {_cell(heading)}", "")
        yield from _table(columns, shares, costs)
        yield ""
        costs = False  # once: they are the method's, not the metric's
    yield from (f"- {note}" for note in _notes(rows, refused, shares))
    yield ""


def _tables(metrics: Sequence[Metric], present: set[str]) -> Iterator[tuple[str, list[str]]]:
    """The parts of each table and its heading."""
    groups: dict[str, list[list[str]]] = {}
    for metric in metrics:
        parts = [part for part in metric.parts if part in present]
        kind = type(getattr(metric, "metric", metric))
        if parts:
            groups.setdefault(family(kind), []).append(parts)
    if sum(len(parts) for all in groups.values() for parts in all) <= WIDEST:
        if groups:
            yield "", [part for all in groups.values() for parts in all for part in parts]
        return
    for heading, all in groups.items():
        here: list[str] = []
        for parts in all:
            if here and len(here) + len(parts) > WIDEST:
                yield heading, here
                here = []
            here = here + parts
        yield heading, here


def _table(columns: dict[str, dict[str, Row]], shares: set[str], costs: bool) -> Iterator[str]:
    some = {m: row for column in columns.values() for m, row in column.items() if row.mean is not None}
    better = {part: next(iter(column.values())).better for part, column in columns.items()}
    leading = next((part for part in columns if better[part] != "neither"), None)

    def rank(method: str) -> tuple[bool, float]:
        row = None if leading is None else columns[leading].get(method)
        if row is None or row.mean is None or math.isnan(row.mean.mean):
            return True, 0.0
        return False, row.mean.mean if row.better == "lower" else -row.mean.mean

    heads = ["method", *(f"{part}{ARROWS[better[part]]}" for part in columns)]
    heads += ["evaluations", "seconds", "MiB"] if costs else []
    lines = []
    for method in sorted(some, key=rank):
        name = f"*{_cell(method)}*" if some[method].control else _cell(method)
        cells = [_value(column.get(method), part in shares) for part, column in columns.items()]
        if costs:
            spend = some[method].costs
            told = {
                key: round(spend.get(key, 0), 1) for key in ("forward", "backward", "tail_forward", "tail_backward")
            }
            cells += [spent(told), f"{spend.get('seconds', 0):.3g}", f"{spend.get('peak_mib', 0):.0f}"]
        lines.append([name, *cells])
    yield table([*map(_cell, heads)], lines)
    if leading is not None:
        yield ""
        yield f"Best first by {_cell(leading)}."


def _value(row: Row | None, share: bool) -> str:
    if row is None or row.mean is None:
        return "–"
    sign = ""
    if not row.control:
        sign = {"loses": " ▽", "beats": " ▲" if row.best == "beats" else " △"}.get(row.random, "")
    middle = ""
    if row.metric in MEDIANS and row.median is not None:
        middle = f", median {_number(row.median, share)}"
    return f"{_interval(row.mean, share)}{middle}{sign}"


def _notes(rows: Sequence[Row], refused: set[str], shares: set[str]) -> Iterator[str]:
    asked = {row.method: row.samples for row in rows}
    most = max(asked.values(), default=0)
    known = max((row.mean.samples for row in rows if row.mean is not None), default=0)
    of = f"{known} of {most}" if known < most else f"{most}"
    yield f"Means over {of} samples, with 95 % bootstrap intervals."
    for method, count in asked.items():
        if count < most and method not in refused:
            yield f"{_cell(method)} ran on {count} of {most} samples; its differences to controls are on those."
    for method in sorted(refused):
        reason = next(row.reason for row in rows if row.method == method)
        yield f"{_cell(method)} is not in the table: {_cell(reason)}"
    lacking: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.errors and row.method not in refused:
            # A metric that takes none of a method's maps says so in the method's name: one line for all of them.
            key = (row.metric, f"none of {row.samples}" if row.errors == row.samples else row.reason)
            methods = lacking.setdefault(key, [])
            if row.method not in methods:
                methods.append(row.method)
    for (metric, _), methods in lacking.items():
        some = next(row for row in rows if row.metric == metric and row.method == methods[0] and row.errors)
        where = "any sample" if some.errors == some.samples else f"{some.errors} of {some.samples} samples"
        yield f"{_cell(metric)} has no value on {where} for {', '.join(map(_cell, methods))}: {_cell(some.reason)}"
    yield from dict.fromkeys(_published(rows, shares))


def _published(rows: Sequence[Row], shares: set[str]) -> Iterator[str]:
    for row in rows:
        for one in row.published:
            if one.part != row.part:  # a cost
                ours = f"{row.costs[one.part]:.3g}" if one.part in row.costs else "none"
            else:
                ours = "none" if row.mean is None else _interval(row.mean, row.part in shares)
            label, part, source = map(_cell, (row.method, one.part, one.source))
            yield f"Published of {label}, {part}: {one.value:g} ({source}); here {ours}."


def _interval(found: Interval, share: bool) -> str:
    mean, low, high = (_number(value, share) for value in found[:3])
    return f"{mean} [{low}, {high}]"


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.1f}" if share else f"{value:.3g}"


def _cell(text: str) -> str:
    """A text that ends no cell and begins no tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
