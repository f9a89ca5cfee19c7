"""How the units of a benchmark are run: one after another, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from faithmap.batching import Progress
from faithmap.bench.plan import Unit, weight
from faithmap.bench.run import UnitResult
from faithmap.bench.spec import Spec

Run = Callable[[Unit, "Progress | None"], UnitResult]


def local(
    spec: Spec,
    units: Iterable[Unit],
    done: Callable[[str], bool],
    run: Run,
    save: Callable[[Unit, UnitResult], None],
    progress: Progress | None = None,
) -> None:
    """Run in order what is not done, and save each unit as soon as it is whole.

    Args:
        spec: the benchmark.
        units: see `plan`.
        done: whether the unit of an id has been saved, by an earlier run perhaps.
        run: see `run.Runner`.
        save: keeps what a unit found.
        progress: called with (done, total) of the work that was not done before, in steps of methods: the time that is
            left is estimated from what this run has done.
    """
    todo = [unit for unit in units if not done(unit.id)]
    weights = [weight(spec, unit) for unit in todo]
    total, before = sum(weights), 0
    for unit, own in zip(todo, weights, strict=True):

        def share(ready: int, of: int, before: int = before, own: int = own) -> None:
            assert progress
            progress(before + ready * own // max(of, 1), total)

        save(unit, run(unit, share if progress else None))
        before += own
        if progress:
            progress(before, total)
