"""One method on some batches: its maps, what every metric says of them, and what both cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from faithmap.batching import Progress
from faithmap.bench.guard import Tried, cancellable, guarded, portion, tried
from faithmap.bench.memory import Peak, peak
from faithmap.bench.plan import METRIC_STEPS, Unit, entry_of, lacking, unit_batches
from faithmap.bench.records import Clean, Record
from faithmap.bench.samples import Batch, Reader, padded
from faithmap.bench.spec import Spec
from faithmap.methods import Cost, Method, Result
from faithmap.metrics import Case, Metric
from faithmap.models.base import Model
from faithmap.targets import Dissimilarity, Similarity, Target

Shapley = Mapping[str, "tuple[Tensor, Tensor]"]
"""By sample, the SHAP values of a layer's channels and their standard errors, ``(C,)`` float64 each."""

WARM_UP = 100
"""The most steps of a method that runs on one sample first, so that what is made once per network is not timed."""
REHEARSAL = 10
"""The most steps of a method whose memory is measured in a run of its own: measuring slows quick ones."""


@dataclass(eq=False)
class MethodRun:
    """One method on the batches of a unit.

    Evaluations and seconds are those of a batch, divided by its slots: padding, which costs what a sample does, adds
    nothing to a sample's share. What several metrics need of the network is counted for the first that asks.

    Args:
        spec: the benchmark.
        unit: of maps.
        clean: of all samples of the data set.
        threshold: of pairs.
        shapley: of the layer's channels, where metrics need them.
        reader: of the samples.
    """

    spec: Spec
    unit: Unit
    clean: Sequence[Clean]
    threshold: float | None
    shapley: Shapley | None
    reader: Reader
    records: list[Record] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    _peak: Peak | None = field(default=None, init=False)
    """Of the unit's first run."""

    def run(self, progress: Progress | None = None) -> None:
        """Fill `records`, and `maps` where the benchmark keeps them."""
        todo = unit_batches(self.spec, self.unit)
        with cancellable(progress) as report:
            self._warm_up()
            for n, indices in enumerate(todo):
                batch = self.reader.known(self.unit.data, self.unit.model, indices, self.clean)
                self._batch(batch, report and portion(report, n, 1, len(todo)))

    # -- the method -----------------------------------------------------------------------------------------------

    @cached_property
    def method(self) -> Method:
        """What explains."""
        return entry_of(self.spec, self.unit).method

    @cached_property
    def model(self) -> Model:
        """What is explained; of one that answers questions, each batch has its own: `Batch.model`."""
        return self.spec.models[self.unit.model]

    def _explain(self, batch: Batch, rows: Tensor, progress: Progress | None = None) -> _Run:
        """One run on the samples in these slots ``(B,)``."""
        assert batch.target is not None
        assert batch.model is not None
        model, x, target = batch.model, batch.x[rows], batch.target.select(rows)

        def run(progress: Progress | None = None) -> Result:
            found = self.method.run(
                model, x, target, seed=self.spec.seed, batch_size=self.spec.batch, progress=progress
            )
            found.maps.flatten()[:1].tolist()  # reading a number waits for the device: the clock reads work, not starts
            return found

        if self._peak is None and self.method.steps <= REHEARSAL:
            with peak(x.device) as self._peak:
                run()
        with peak(x.device) if self._peak is None else nullcontext(self._peak) as self._peak:
            begin = time.perf_counter()
            found = run(progress)
            return _Run(found, time.perf_counter() - begin)

    def _warm_up(self) -> None:
        """On the first sample of all, whatever the shard; what it raises, batches will raise."""
        if self.method.steps <= WARM_UP and (batch := self._alone(0)) is not None:
            assert batch.target is not None
            assert batch.model is not None
            one = batch.model, batch.x[:1], batch.target.select(torch.tensor([0]))
            guarded(lambda: self.method.run(*one, seed=self.spec.seed, batch_size=1))

    def _alone(self, rank: int) -> Batch | None:
        """A batch of one sample, the first or last (-1) good one of the whole data set."""
        good = [i for i, clean in enumerate(self.clean) if clean.error is None]
        if not good:
            return None
        batch = self.reader.known(self.unit.data, self.unit.model, [good[rank]], self.clean)
        return batch if batch.good else None

    @cached_property
    def _refusal(self) -> str | None:
        """In what words the method refuses this model: those for the first and the last sample of the data set."""
        words: set[str] = set()
        for rank in (0, -1):
            if (batch := self._alone(rank)) is None:
                return None
            found = guarded(partial(self._explain, batch, torch.arange(self.spec.batch)))
            if not isinstance(found, str):
                return None
            words.add(found)
        return words.pop() if len(words) == 1 else None

    def _explained(self, batch: Batch, progress: Progress | None) -> tuple[_Explained | None, dict[int, str]]:
        """The maps of those samples of a batch that have one, and why others have none."""
        runs, errors = tried(
            lambda rows: self._explain(batch, rows, progress), batch.good, self.spec.batch, lambda: self._refusal
        )
        errors = dict(batch.errors) | errors
        if not runs:
            return None, errors
        source = padded(list(runs), self.spec.batch)

        def stacked(part: str) -> Tensor | None:
            rows = [(getattr(run.result, part), row) for run, row in (runs[slot] for slot in source)]
            return None if any(whole is None for whole, _ in rows) else torch.stack([whole[row] for whole, row in rows])

        maps = stacked("maps")
        assert maps is not None
        about = maps.detach(), stacked("coefficients"), stacked("against")
        return _Explained(batch, torch.tensor(source), runs, *about), errors

    # -- the metrics ----------------------------------------------------------------------------------------------

    def _batch(self, batch: Batch, progress: Progress | None) -> None:
        steps, per_metric = self.method.steps * self.spec.batch, METRIC_STEPS * self.spec.batch
        total = steps + per_metric * len(self.spec.metrics)
        found, errors = self._explained(batch, progress and portion(progress, 0, steps, total))
        judged: list[Tried[_Judged]] = []
        shared = None if found is None else self._case(found, torch.arange(self.spec.batch))
        for n, metric in enumerate(self.spec.metrics):
            judged.append(({}, {}) if found is None or shared is None else self._judged(metric, found, shared))
            if progress:
                portion(progress, steps + per_metric * n, per_metric, total)(1, 1)
        for slot, sample in enumerate(batch.ids):
            run = None if found is None else found.runs.get(slot)
            if found is not None and run is not None and self.spec.maps:
                self.maps[sample] = found.maps[slot].float().cpu().clone()
            degenerate = None if found is None or run is None else _degenerate(found.maps[slot])
            for metric, (values, refused) in zip(self.spec.metrics, judged, strict=True):
                error = errors.get(slot, refused.get(slot))
                self._record(metric, sample, None if run is None else run[0], values.get(slot), error, degenerate)

    def _judged(self, metric: Metric, found: _Explained, shared: Case) -> Tried[_Judged]:
        """What a metric says of each sample that has a map, or why it says nothing."""
        if (reason := self._unfit(metric, found)) is not None:
            return {}, dict.fromkeys(found.runs, reason)
        everything = torch.arange(self.spec.batch)

        def ask(rows: Tensor) -> _Judged:
            case = shared if torch.equal(rows, everything) else self._case(found, rows)
            before, begin = _evaluations(case), time.perf_counter()
            with torch.inference_mode(False), torch.no_grad():
                measured = metric.measure(case)
            values = {part: measured.values[part].double().tolist() for part in metric.parts}
            curves = {part: curve.double().tolist() for part, curve in measured.curves.items()}
            seconds, slots = time.perf_counter() - begin, len(rows)
            return _Judged(values, curves, (_evaluations(case) - before) / slots, seconds / slots)

        return tried(ask, list(found.runs), self.spec.batch)

    def _unfit(self, metric: Metric, found: _Explained) -> str | None:
        """Why a metric cannot judge this method's maps of this model on this data."""
        if (reason := self._misfits.get(metric)) is not None:
            return reason
        if not metric.needs & {"coefficients", "shapley"}:
            return None
        if found.coefficients is None:
            return f"{self.method.name} has no coefficients of channels"
        return None if self.shapley or "shapley" not in metric.needs else "there are no SHAP values of the channels"

    @cached_property
    def _misfits(self) -> dict[Metric, str]:
        """Why metrics cannot judge maps of this model on this data, whatever the method."""
        data = self.spec.data[self.unit.data]
        found: dict[Metric, str | None] = {}
        for metric in self.spec.metrics:
            if metric.task not in ("any", data.task):
                found[metric] = f"{metric.name} is for {metric.task}"
            else:
                found[metric] = guarded(partial(metric.check, self.model)) or lacking(metric.needs, data)
        return {metric: reason for metric, reason in found.items() if reason is not None}

    def _case(self, found: _Explained, rows: Tensor) -> Case:
        """The case of the samples in these slots ``(B,)``."""
        batch, source = found.batch, found.rows[rows]  # slots without a map hold another's

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[source]

        assert batch.target is not None
        assert batch.model is not None
        x, target = batch.x[source], batch.target.select(source)
        against = None if found.against is None else found.against[rows]
        explain = _Explain(self.method, batch.model, self.spec, x, target, found.maps[rows], against)
        return Case(
            batch.model,
            x,
            found.maps[rows],
            target,
            truth=of(batch.truth),
            first=of(batch.first),
            donors=of(batch.donors),
            rivals=None if batch.rivals is None else [batch.rivals[i] for i in source.tolist()],
            against=of(batch.against),
            coefficients=None if found.coefficients is None else found.coefficients[rows],
            shapley=self._references(found, source),
            explain=explain,
            genuine=of(batch.genuine),
            partners=of(batch.partners),
            threshold=self.threshold,
            seed=self.spec.seed,
            batch_size=self.spec.batch,
        )

    def _references(self, found: _Explained, source: Tensor) -> tuple[Tensor, Tensor] | None:
        """SHAP values and their errors ``(B, C)``; NaN where a sample has none."""
        if not self.shapley or found.coefficients is None:
            return None
        unknown = found.coefficients.new_full(found.coefficients.shape[1:], torch.nan, dtype=torch.float64)
        ids = found.batch.ids
        rows = [self.shapley.get(ids[slot], (unknown, unknown)) for slot in source.tolist()]
        values, errors = (torch.stack([row[part].to(unknown) for row in rows]) for part in (0, 1))
        return values, errors

    def _record(
        self,
        metric: Metric,
        sample: str,
        run: _Run | None,
        judged: tuple[_Judged, int] | None,
        error: str | None,
        degenerate: str | None,
    ) -> None:
        """One row for each part of a metric: of a map that it cannot judge with what the map cost."""
        slots, cost = self.spec.batch, Cost() if run is None else run.result.cost
        for part in metric.parts:
            value, curve = math.nan, None
            if judged is not None:
                said, row = judged
                value = said.values[part][row]
                curve = tuple(said.curves[part][row]) if part in said.curves and not math.isnan(value) else None
            none = math.isnan(value)
            self.records.append(
                Record(
                    self.unit.data,
                    self.unit.model,
                    self.unit.entry,
                    metric.name,
                    part,
                    sample,
                    value=None if none else value,
                    curve=curve,
                    error=error or (degenerate if none else None),
                    forward=cost.forward / slots,
                    backward=cost.backward / slots,
                    tail_forward=cost.tail_forward / slots,
                    tail_backward=cost.tail_backward / slots,
                    metric_forward=0 if judged is None else judged[0].forward,
                    seconds=0 if run is None else run.seconds / slots,
                    metric_seconds=0 if judged is None else judged[0].seconds,
                    peak_mib=0 if run is None or self._peak is None else self._peak.mib,
                )
            )


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a method on a whole batch."""

    result: Result
    seconds: float


@dataclass(frozen=True, eq=False)
class _Explained:
    """The maps of one batch; a slot that has none repeats the first that has."""

    batch: Batch
    rows: Tensor
    """For each slot whose sample stands there, ``(B,)``."""
    runs: Mapping[int, tuple[_Run, int]]
    """By slot, for samples with a map: the run, and which of its rows."""
    maps: Tensor
    coefficients: Tensor | None
    against: Tensor | None


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a metric said of a batch, and its cost per slot."""

    values: Mapping[str, Sequence[float]]
    curves: Mapping[str, Sequence[Sequence[float]]]
    forward: float
    seconds: float


@dataclass(eq=False)
class _Explain:
    """The method itself, for metrics that ask it for other maps; counts what it costs."""

    method: Method
    model: Model
    spec: Spec
    x: Tensor
    target: Target
    maps: Tensor
    against: Tensor | None
    evaluations: float = 0
    """Of the whole network, forward and backward."""

    def __call__(self, x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        """Raw maps ``(B, H, W)``; what speaks against a pair comes about as the method's `opposite` says."""
        if not isinstance(target, Dissimilarity) or self.method.opposite == "asked":
            return self._run(x, target, model).maps
        if self.method.opposite == "none" and not self.method.control:
            return torch.full_like(x[:, 0], torch.nan)
        same = model is None and x is self.x and isinstance(self.target, Similarity)
        same = same and torch.equal(self.target.reference, target.reference)  # type: ignore[attr-defined]
        if self.method.control:  # its map is the same whatever is asked
            return self.maps if same else self._run(x, Similarity(target.reference), model).maps
        if same and self.method.opposite == "negated":
            return -self.maps
        if same and self.against is not None:
            return self.against
        found = self._run(x, Similarity(target.reference), model)
        if self.method.opposite == "negated":
            return -found.maps
        assert found.against is not None
        return found.against

    def _run(self, x: Tensor, target: Target, model: Model | None) -> Result:
        found = self.method.run(model or self.model, x, target, seed=self.spec.seed, batch_size=self.spec.batch)
        self.evaluations += found.cost.forward + found.cost.backward
        return found


def _evaluations(case: Case) -> float:
    """Network evaluations for a case so far, those of maps that metrics asked for among them."""
    return case.forwards + (case.explain.evaluations if isinstance(case.explain, _Explain) else 0)


def _degenerate(map: Tensor) -> str | None:
    """Why a map says nothing; None where it does."""
    if not bool(map.isfinite().all()):
        return "the map holds NaN or infinite values"
    return "the map is constant" if bool((map == map.flatten()[0]).all()) else None
