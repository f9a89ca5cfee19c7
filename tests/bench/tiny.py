"""A benchmark in small: 32 x 32 pictures, networks of a few channels, metrics that are easy to check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import faithmap as fm
from faithmap.bench.engines import local
from faithmap.bench.plan import Unit, plan
from faithmap.bench.records import Record
from faithmap.bench.run import Cleaned, Runner, UnitResult
from faithmap.bench.spec import Entry, Spec
from faithmap.datasets import Dataset, Example, Pair, Truth
from faithmap.methods import Method, Result
from faithmap.methods.base import Query
from faithmap.metrics import Case, Measured, Metric
from tests import nets


def picture(i: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Pictures(Dataset[Any]):
    """What tests put in."""

    name: ClassVar[str] = "tiny"
    given: Sequence[Any] = ()
    task: Any = "classification"

    def read(self) -> Iterator[Any]:
        yield from self.given


def pictures(n: int, **changed: Example) -> Pictures:
    """Pictures with labels and boxes; ``_3=...`` stands in for the fourth."""
    made = [
        Example(f"p{i}", picture(i), i % 5, Truth(torch.tensor([[2.0, 3.0, 2.0 + i, 20.0]]))) for i in range(1, n + 1)
    ]
    for key, example in changed.items():
        made[int(key[1:])] = example
    return Pictures(given=made)


def pairs(n: int) -> Pictures:
    """Pairs; a genuine one's gallery is its probe with a little noise."""
    made = []
    for i in range(n):
        genuine = i % 2 == 0
        noise = np.random.default_rng(100 + i).integers(-60, 60, (32, 32, 3))
        near = np.clip(picture(i) + noise, 0, 255).astype(np.uint8)
        made.append(Pair(f"q{i}", picture(i), near if genuine else picture(1000 + i), genuine, (f"s{i}", "x"), "g"))
    return Pictures(given=made, task="verification")


def classifier(net: str = "residual") -> fm.Classifier:
    torch.manual_seed(3)
    return fm.Classifier(nets.CLASSIFIERS[net]().eval(), size=32)


def embedder(threshold: float | None = None) -> fm.FaceEmbedder:
    torch.manual_seed(3)
    return fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=threshold)


@dataclass(frozen=True)
class Mean(Metric):
    """The map's mean, and what the model says of the picture that it shows."""

    name: ClassVar[str] = "mean"
    parts: ClassVar[Any] = {"mean": "neither", "kept": "higher"}

    def measure(self, case: Case) -> Measured:
        curve = case.maps.flatten(1)[:, :3]
        return Measured({"mean": case.maps.double().mean(dim=(1, 2)), "kept": case.kept}, {"mean": curve})


@dataclass(frozen=True)
class Inside(Metric):
    """The map's share in the boxes; none where it is not positive."""

    name: ClassVar[str] = "inside"
    parts: ClassVar[Any] = {"inside": "higher"}
    needs: ClassVar[Any] = frozenset({"truth"})

    def measure(self, case: Case) -> Measured:
        assert case.truth is not None
        maps = case.shown.double()
        return self._one((maps * case.truth).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)))


@dataclass(frozen=True)
class Apart(Metric):
    """How far coefficients are from SHAP values."""

    name: ClassVar[str] = "apart"
    parts: ClassVar[Any] = {"apart": "lower"}
    needs: ClassVar[Any] = frozenset({"coefficients", "shapley"})
    orders: int = 3

    def measure(self, case: Case) -> Measured:
        assert case.coefficients is not None
        assert case.shapley is not None
        return self._one((case.coefficients.double() - case.shapley[0]).norm(dim=1))


@dataclass(frozen=True)
class Opposite(Metric):
    """The mean of what speaks against."""

    name: ClassVar[str] = "opposite"
    parts: ClassVar[Any] = {"opposite": "neither"}

    def measure(self, case: Case) -> Measured:
        assert case.explain is not None
        assert isinstance(case.target, fm.targets.Similarity)
        maps = case.explain(case.x, fm.targets.Dissimilarity(case.target.reference))
        return self._one(maps.double().mean(dim=(1, 2)))


@dataclass(frozen=True)
class Picky(Metric):
    """Raises on a map whose first value is above a bound."""

    name: ClassVar[str] = "picky"
    parts: ClassVar[Any] = {"picky": "neither"}
    bound: float = 0.0

    def measure(self, case: Case) -> Measured:
        if bool((case.maps[:, 0, 0] > self.bound).any()):
            raise RuntimeError("too bright")
        return self._one(case.maps[:, 0, 0])


@dataclass(frozen=True)
class Grey(Method):
    """The picture itself; raises on some, and remembers how often it was asked."""

    name: ClassVar[str] = "grey"
    opposite = "none"
    refuse: Any = None
    """``x (B, C, H, W) ->`` what is wrong with it, an exception, or None."""
    calls: Any = field(default_factory=list)

    def attribute(self, query: Query) -> Result:
        self.calls.append(len(query))
        if self.refuse is not None and (error := self.refuse(query.x)) is not None:
            raise error
        return Result(query.x.mean(dim=1))


def spec_of(
    data: Dataset[Any], chosen: Sequence[Method], metrics: Sequence[Metric], model: fm.Model | None = None, **more: Any
) -> Spec:
    entries = [Entry(method.name, method) for method in chosen]
    more = {"batch": 4, "maps": True} | more
    return Spec("tiny", {"net": model or classifier()}, {"tiny": data}, entries, metrics, **more)


class Memory:
    """A store that keeps results in memory, whole units at a time."""

    def __init__(self) -> None:
        self.found: dict[str, UnitResult] = {}

    def done(self, unit: str) -> bool:
        return unit in self.found

    def load(self, unit: Unit) -> UnitResult:
        return self.found[unit.id]

    def save(self, unit: Unit, found: UnitResult) -> None:
        assert unit.id not in self.found
        self.found[unit.id] = found

    @property
    def records(self) -> list[Record]:
        return [record for found in self.found.values() for record in found.records]

    @property
    def maps(self) -> dict[tuple[str, str], Tensor]:
        return {(key, sample): map for key, one in self.found.items() for sample, map in one.maps.items()}


def run(spec: Spec, memory: Memory | None = None, progress: Any = None) -> Memory:
    memory = memory or Memory()
    local(spec, plan(spec), memory.done, Runner(spec, memory.load), memory.save, progress)
    return memory


def only(memory: Memory, **which: str) -> dict[str, Record]:
    """By sample, the records with these fields."""
    found = [r for r in memory.records if all(getattr(r, key) == value for key, value in which.items())]
    assert len({r.sample for r in found}) == len(found)
    return {r.sample: r for r in found}


def cleaned(memory: Memory) -> Cleaned:
    (found,) = [one.clean for one in memory.found.values() if one.clean is not None]
    return found
