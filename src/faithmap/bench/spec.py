"""What a benchmark is to do, as one file says it; everything that is wrong with it is told at once, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from faithmap.datasets import Dataset
from faithmap.methods import Method
from faithmap.metrics import Metric
from faithmap.models.base import Model

CONTROLS = ("random", "centre-gaussian", "edges", "constant")
"""Methods that stand in every table: a map that does not beat them has shown nothing."""


@dataclass(frozen=True)
class Entry:
    """A method of a benchmark."""

    label: str
    """Unique in the benchmark: its name, and what tells it from others of that name."""
    method: Method
    limit: int | None = None
    """On how many samples it runs, spread evenly over the data; all without it."""


@dataclass(frozen=True)
class Published:
    """A figure that a paper states, to be printed beside ours."""

    data: str
    model: str
    method: str
    part: str
    """The metric's part, as tables call it."""
    value: float
    source: str


@dataclass(frozen=True)
class Spec:
    """A benchmark: every method explains every example of every data set for every model; every metric judges it."""

    name: str
    models: Mapping[str, Model]
    data: Mapping[str, Dataset[Any]]
    """All of one task."""
    entries: Sequence[Entry]
    """With the controls."""
    metrics: Sequence[Metric]
    explain: Literal["predicted", "label"] = "predicted"
    """Which class maps explain and scores follow, one for all methods: what the model says, or the data set."""
    batch: int = 8
    """Samples per batch: fixed, and padded to full size, so that records do not depend on shards and resumptions."""
    shards: int = 1
    """In how many units the samples of one method are split."""
    seed: int = 0
    maps: bool = False
    """Whether raw maps are kept."""
    published: Sequence[Published] = ()
    source: str = ""
    """The file's text, for the run's folder."""
    variables: Mapping[str, str] = field(default_factory=dict)
