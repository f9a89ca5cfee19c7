"""What a benchmark finds: one row per sample, method and part of a metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

TIMINGS = ("seconds", "metric_seconds", "peak_mib")
"""The columns that differ from run to run; all others are the same bits, at equal batches."""


@dataclass(frozen=True)
class Record:
    """One value of one sample, or why there is none."""

    data: str
    model: str
    method: str
    """Its label in the benchmark."""
    metric: str
    part: str
    sample: str
    """Its id in the data set."""
    value: float | None
    """None where there is none: the metric has none for this sample, or an error."""
    curve: Sequence[float] | None = None
    """What the value sums up, where it does."""
    error: str | None = None
    """Why there is no value: the picture cannot be read, the method refused."""
    forward: float = 0
    """Network evaluations of the map, per sample; see `methods.Cost`."""
    backward: float = 0
    tail_forward: float = 0
    tail_backward: float = 0
    metric_forward: float = 0
    """Network evaluations of the metric, per sample."""
    seconds: float = 0
    """Of the map, per sample."""
    metric_seconds: float = 0
    """Of the metric, per sample."""
    peak_mib: float = 0
    """The most memory that the method's run took beyond what was taken before, for the whole batch."""


COLUMNS = tuple(f.name for f in fields(Record))


def without_timings(records: Iterable[Record]) -> list[tuple[object, ...]]:
    """What two runs of one benchmark have in common, sorted."""
    kept = [name for name in COLUMNS if name not in TIMINGS]
    return sorted((tuple(getattr(record, name) for name in kept) for record in records), key=repr)


@dataclass(frozen=True)
class Clean:
    """What a model says of one untouched sample."""

    sample: str
    sha256: str = ""
    """Of the prepared input."""
    label: int | None = None
    explained: int | None = None
    """The class that all methods explain."""
    score: float | None = None
    """Its probability; of a pair the similarity."""
    genuine: bool | None = None
    subjects: tuple[str, str] = ("", "")
    group: str = ""
    error: str | None = None
    """Why it cannot be explained: it is not read, its label is out of range, its box outside the image."""
