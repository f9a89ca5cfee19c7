"""What a benchmark found, in tables: means with intervals, beside controls, costs and what papers state."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from faithmap.bench.records import Record
from faithmap.bench.spec import CONTROLS, Published
from faithmap.metrics import Interval, Metric, bootstrap
from faithmap.metrics.base import Better

Verdict = Literal["beats", "ties", "loses", ""]
"""Whether the interval of the paired difference lies on the better side of 0, holds it, or lies on the worse side.
Nothing where neither side is better, or samples are too few."""
Subjects = Mapping[str, Mapping[str, tuple[str, str]]]
"""By data set and sample, who is on the probe and on the gallery."""

FEWEST = 6
"""Samples of a verdict: of 5 all differences have one sign by chance more often than once in 20 times."""
MEDIANS = ("average-drop-in-deletion",)
"""Metrics whose means single samples decide: the median stands beside."""
COSTS = ("forward", "backward", "tail_forward", "tail_backward", "seconds", "peak_mib")
METRIC_COSTS = ("metric_forward", "metric_seconds")


@dataclass(frozen=True)
class Row:
    """What one method reached in one part of a metric, on one data set and model."""

    data: str
    model: str
    method: str
    metric: str
    part: str
    better: Better
    control: bool
    mean: Interval | None
    """None where no sample has a value."""
    median: float | None
    samples: int
    """That it was asked for, those without a value too."""
    errors: int
    reason: str
    """The most frequent one."""
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """To each control, of the samples that both have a value for: this method's minus the control's."""
    random: Verdict = ""
    """Against random maps."""
    best_control: str = ""
    """The control of the best mean."""
    best: Verdict = ""
    """Against it; random maps and the best control are the least that a method has to beat."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Per sample: evaluations and seconds of the map and of the metric; memory of the batch."""
    published: Sequence[Published] = ()
    """Of this part, and of the method's costs."""


def summarize(
    records: Iterable[Record],
    metrics: Sequence[Metric],
    *,
    subjects: Subjects | None = None,
    published: Sequence[Published] = (),
    controls: Sequence[str] = CONTROLS,
) -> list[Row]:
    """A row for each data set, model, part and method, in the order in which the records come.

    Args:
        records: of whole units; their order does not change the numbers.
        metrics: those that made them.
        subjects: of pairs of faces; intervals draw people then.
        published: figures of papers.
        controls: the labels of methods that know nothing of the network; the random one is called so.

    Returns:
        The rows.
    """
    tells = {part: (metric.name, better) for metric in metrics for part, better in metric.parts.items()}
    cells: dict[tuple[str, str, str], dict[str, dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.part in tells:
            cells[record.data, record.model, record.part][record.method][record.sample] = record
    rows = []
    for (data, model, part), methods in cells.items():
        metric, better = tells[part]
        people = (subjects or {}).get(data)
        beside = _Controls(methods, [label for label in controls if label in methods], better, people)
        for method, found in methods.items():
            given = [p for p in published if (p.data, p.method) == (data, method) and p.part in (part, *COSTS)]
            values = _values(found)
            reasons = Counter(record.error for record in found.values() if record.error is not None)
            random, best_control, best, differences = beside.against(method)
            rows.append(
                Row(
                    *(data, model, method, metric, part, better, method in controls),
                    mean=_interval(values, people),
                    median=statistics.median(values.values()) if values else None,
                    samples=len(found),
                    errors=sum(reasons.values()),
                    reason=reasons.most_common(1)[0][0] if reasons else "",
                    differences=differences,
                    random=random,
                    best_control=best_control,
                    best=best,
                    costs=_costs(list(found.values())),
                    published=[p for p in given if p.model in ("", model)],
                )
            )
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """Every row with all that it holds, one line each."""
    controls = list(dict.fromkeys(control for row in rows for control in row.differences))
    names = ["data", "model", "method", "control", "metric", "part", "better", "mean", "low", "high", "values"]
    names += ["median", "samples", "errors", "reason", "against random", "best control", "against best control"]
    names += [f"minus {control}{end}" for control in controls for end in ("", " low", " high")]
    names += [*COSTS, *METRIC_COSTS, "published", "source"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        told: dict[str, object] = {name: getattr(row, name) for name in ("data", "model", "method", "metric", "part")}
        told |= {"control": row.control, "better": row.better, "median": row.median, "samples": row.samples}
        told |= {"errors": row.errors, "reason": row.reason, "against random": row.random, **row.costs}
        told |= {"best control": row.best_control, "against best control": row.best}
        if row.mean is not None:
            told |= dict(zip(("mean", "low", "high", "values"), row.mean, strict=True))
        for control, one in row.differences.items():
            ends = (f"minus {control}{end}" for end in ("", " low", " high"))
            told |= dict(zip(ends, one[:3], strict=True))
        figures = [one for one in row.published if one.part == row.part]
        told["published"] = "; ".join(f"{one.value:g}" for one in figures)
        told["source"] = "; ".join(one.source for one in figures)
        writer.writerow(told)
    return buffer.getvalue()


@dataclass
class _Controls:
    """The controls of one cell, and how methods stand to them."""

    methods: Mapping[str, Mapping[str, Record]]
    labels: Sequence[str]
    better: Better
    subjects: Mapping[str, tuple[str, str]] | None

    def against(self, method: str) -> tuple[Verdict, str, Verdict, dict[str, Interval]]:
        """The verdict against random maps, the best control, that against it, and the differences to all."""
        mine, differences = _values(self.methods[method]), {}
        theirs = {label: _values(self.methods[label]) for label in self.labels if label != method}
        for label, values in theirs.items():
            paired = {sample: value - values[sample] for sample, value in mine.items() if sample in values}
            paired = {sample: value for sample, value in paired.items() if not math.isnan(value)}  # both infinite
            if (interval := _interval(paired, self.subjects)) is not None:
                differences[label] = interval
        if self.better == "neither" or not differences:
            return "", "", "", differences
        sign = 1 if self.better == "higher" else -1
        # The best on the samples that the method has: where it beats it by least.
        best = min(differences, key=lambda label: sign * differences[label].mean)
        random = next((label for label in differences if label.split()[0] == "random"), None)
        told = self._verdict(differences[random]) if random is not None else ""
        return told, best, self._verdict(differences[best]), differences

    def _verdict(self, difference: Interval) -> Verdict:
        if difference.samples < FEWEST:
            return ""
        if difference.low <= 0 <= difference.high:
            return "ties"
        return "beats" if (difference.low > 0) == (self.better == "higher") else "loses"


def _values(found: Mapping[str, Record]) -> dict[str, float]:
    """Of the samples that have one."""
    return {
        sample: record.value
        for sample, record in sorted(found.items())
        if record.value is not None and not math.isnan(record.value)
    }


def _interval(values: Mapping[str, float], subjects: Mapping[str, tuple[str, str]] | None) -> Interval | None:
    if not values:
        return None
    people = None if subjects is None else [subjects[sample] for sample in values]
    return bootstrap(torch.tensor(list(values.values()), dtype=torch.float64), subjects=people)


def _costs(found: Sequence[Record]) -> dict[str, float]:
    """Means over the samples that were explained; of memory the most."""
    ran = [record for record in found if record.error is None]
    if not ran:
        return {}
    costs = {name: statistics.fmean(getattr(record, name) for record in ran) for name in (*COSTS, *METRIC_COSTS)}
    return costs | {"peak_mib": max(record.peak_mib for record in ran)}
