"""One unit of a benchmark: the scores of untouched samples, SHAP values, or a method's maps and what metrics say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from faithmap.batching import Progress
from faithmap.bench.clean import Cleaned, clean
from faithmap.bench.guard import cancellable, portion, tried
from faithmap.bench.maps import MethodRun, Shapley
from faithmap.bench.plan import Unit, plan, reference, reference_layer, unit_batches
from faithmap.bench.records import Record
from faithmap.bench.samples import Reader
from faithmap.bench.spec import Spec

__all__ = ["Cleaned", "Runner", "Shapley", "UnitResult", "clean", "run_unit", "shapley_values"]


@dataclass(frozen=True)
class UnitResult:
    """What one unit found: by its kind clean scores, SHAP values, or records and maps."""

    records: Sequence[Record] = ()
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """By sample ``(H, W)``, where the benchmark keeps them."""
    clean: Cleaned | None = None
    shapley: Shapley = field(default_factory=dict)


def run_unit(
    spec: Spec,
    unit: Unit,
    cleaned: Cleaned,
    shapley: Shapley | None = None,
    progress: Progress | None = None,
    *,
    reader: Reader | None = None,
) -> UnitResult:
    """A method's maps of some batches of a data set, and what every metric says of them.

    A sample that cannot be read, or that the method or a metric fails on, gives records that say why; an exception from
    ``progress`` ends the unit.

    Args:
        spec: the benchmark.
        unit: of maps.
        cleaned: see `clean`.
        shapley: see `shapley_values`; for metrics that need them.
        progress: called with (done, total).
        reader: of the samples.
    """
    work = MethodRun(spec, unit, cleaned.samples, cleaned.threshold, shapley, reader or Reader(spec))
    work.run(progress)
    return UnitResult(tuple(work.records), work.maps)


def shapley_values(
    spec: Spec,
    data: str,
    model: str,
    batch: Sequence[int],
    cleaned: Cleaned,
    layer: str,
    *,
    reader: Reader | None = None,
    progress: Progress | None = None,
) -> Shapley:
    """The SHAP values of a layer's channels for the samples of one batch, drawn with a seed that no method has.

    Args:
        spec: the benchmark; its metrics say from how many orders.
        data: the data set's name in it.
        model: likewise, of the model.
        batch: the samples' places in the data set.
        cleaned: see `clean`.
        layer: whose channels.
        reader: of the samples.
        progress: called with (done, total).

    Returns:
        By sample, values and their standard errors; samples for which there are none are left out.
    """
    read = (reader or Reader(spec)).known(data, model, batch, cleaned.samples)
    method = reference(spec, layer)

    def ask(rows: Tensor) -> tuple[Tensor, Tensor]:
        assert read.target is not None
        assert read.model is not None
        found = method.run(
            read.model,
            read.x[rows],
            read.target.select(rows),
            seed=spec.seed + 1,
            batch_size=spec.batch,
            progress=progress,
        )
        assert found.coefficients is not None
        assert found.coefficients_error is not None
        return found.coefficients.double().cpu(), found.coefficients_error.double().cpu()

    runs, _ = tried(ask, read.good, spec.batch)
    return {
        read.ids[slot]: (values[row].clone(), errors[row].clone()) for slot, ((values, errors), row) in runs.items()
    }


class Runner:
    """Runs units of any kind, each with what it needs of earlier ones.

    Args:
        spec: the benchmark.
        load: the saved result of a unit that was run before, by another process perhaps; without it what later units
            need is kept in memory.
    """

    def __init__(self, spec: Spec, load: Callable[[Unit], UnitResult] | None = None) -> None:
        self.spec, self._load = spec, load
        self._reader = Reader(spec)
        self._references = [unit for unit in plan(spec) if unit.kind == "shapley"]
        self._kept: dict[Unit, UnitResult] = {}
        self._latest: tuple[tuple[str, str, str], Shapley] = ("", "", ""), {}

    def __call__(self, unit: Unit, progress: Progress | None = None) -> UnitResult:
        """What the unit finds."""
        if unit.kind == "clean":
            found = UnitResult(clean=clean(self.spec, unit.data, unit.model, reader=self._reader, progress=progress))
        elif unit.kind == "shapley":
            found = UnitResult(shapley=self._values(unit, progress))
        else:
            cleaned, values = self._cleaned(unit), self._shapley(unit)
            return run_unit(self.spec, unit, cleaned, values, progress, reader=self._reader)
        if unit.kind == "clean" or self._load is None:
            self._kept[unit] = found
        return found

    def _values(self, unit: Unit, progress: Progress | None) -> Shapley:
        todo, cleaned = unit_batches(self.spec, unit), self._cleaned(unit)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        with cancellable(progress) as report:
            for n, batch in enumerate(todo):
                share = report and portion(report, n, 1, len(todo))
                about = (unit.data, unit.model, batch, cleaned, unit.entry)
                found |= shapley_values(self.spec, *about, reader=self._reader, progress=share)
        return found

    def _cleaned(self, unit: Unit) -> Cleaned:
        known = self._known(Unit(unit.data, unit.model, kind="clean"))
        assert known.clean is not None
        return known.clean

    def _shapley(self, unit: Unit) -> Shapley | None:
        """All values for the unit's data, model and layer; those of one layer stay in memory."""
        layer = reference_layer(self.spec, unit)
        if layer is None:
            return None
        key = (unit.data, unit.model, layer)
        if self._latest[0] != key:
            shards = [u for u in self._references if (u.data, u.model, u.entry) == key]
            self._latest = key, {k: v for shard in shards for k, v in self._known(shard).shapley.items()}
        return self._latest[1]

    def _known(self, unit: Unit) -> UnitResult:
        """What an earlier unit found."""
        if unit not in self._kept:
            if self._load is None:
                raise ValueError(f"{unit.id} has not been run, and units of maps build on it: see plan")
            found = self._load(unit)
            if unit.kind != "clean":
                return found
            self._kept[unit] = found
        return self._kept[unit]
