"""Metrics, data sets and benchmarks that are small enough to reckon by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

import faithmap as fm
from faithmap.bench.records import Record
from faithmap.bench.spec import Entry, Spec
from faithmap.datasets import Dataset, Example, Pair, Truth
from faithmap.metrics import Case, Measured, Metric
from tests.nets import gap_linear


@dataclass(frozen=True)
class Area(Metric):
    """How much of the picture is above a level: two parts, and a parameter."""

    level: float = 0.5

    name = "area"
    parts = {"area": "higher", "rest": "lower"}  # noqa: RUF012

    def measure(self, case: Case) -> Measured:
        share = (case.shown >= self.level).double().mean(dim=(1, 2))
        return Measured({"area": share, "rest": 1 - share}, {"area": share[:, None]})


@dataclass(frozen=True)
class Boxed(Metric):
    """Asks for boxes or masks, and for classifiers."""

    name = "boxed"
    parts = {"boxed": "higher"}  # noqa: RUF012
    needs = frozenset({"truth"})
    task = "classification"

    def measure(self, case: Case) -> Measured:
        return self._one(torch.zeros(len(case)))


@dataclass(frozen=True)
class Matched(Metric):
    """Asks for pairs."""

    name = "matched"
    parts = {"matched": "neither"}  # noqa: RUF012
    task = "verification"

    def measure(self, case: Case) -> Measured:
        return self._one(torch.zeros(len(case)))


@dataclass(frozen=True)
class Noise(Dataset[Example]):
    """Pictures of noise in five classes; with boxes where asked."""

    size: int = 4
    boxes: bool = False
    unlabelled: bool = False

    name = "noise"
    task = "classification"

    def read(self) -> Iterator[Example]:
        for i in range(self.size):
            picture = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            truth = Truth(torch.tensor([[0.0, 0.0, 16.0, 16.0]])) if self.boxes else None
            yield Example(f"{i}.png", picture, None if self.unlabelled else i % 5, truth)


@dataclass(frozen=True)
class Faces(Dataset[Pair]):
    """Pairs of noise."""

    size: int = 4

    name = "faces"
    task = "verification"

    def read(self) -> Iterator[Pair]:
        for i in range(self.size):
            a, b = np.random.default_rng(i).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
            yield Pair(f"pair {i}", a, b, i % 2 == 0, ("ann", "ann" if i % 2 == 0 else "bob"))


def spec(**changes: object) -> Spec:
    """A benchmark of one small network."""
    torch.manual_seed(0)
    model = fm.Classifier(gap_linear().eval(), size=32, name="tiny")
    entries = [Entry(name, fm.methods.create(name)) for name in ("grad-cam", "random")]
    asks = {"name": "small", "models": {"tiny": model}, "data": {"noise": Noise()}, "entries": entries}
    return Spec(**{**asks, "metrics": [Area()], "source": "name: small\n", **changes})  # type: ignore[arg-type]


def record(method: str = "grad-cam", sample: str = "0.png", value: float | None = 0.5, **changes: object) -> Record:
    asks = {"data": "noise", "model": "tiny", "metric": "area", "part": "area"}
    return Record(**{**asks, "method": method, "sample": sample, "value": value, **changes})  # type: ignore[arg-type]
