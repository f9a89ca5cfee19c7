"""``python -m faithmap bench`` killed again and again: what it leaves is whole, and it ends with the same records."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import faithmap as fm
from faithmap.bench.plan import Unit, plan
from faithmap.bench.reading import read_spec
from faithmap.bench.records import without_timings
from faithmap.bench.store import Store
from faithmap.cli import main
from faithmap.files import PARTIAL

pytest.importorskip("pyarrow")
if not hasattr(os, "mkfifo"):
    pytest.skip("Windows knows no SIGKILL", allow_module_level=True)
pytestmark = pytest.mark.real  # most of a minute

SPEC = """
name: killed
models:
  lite0: {load: efficientnet-lite0, size: 64}
data:
  noise: {folder: {folder: "${FOLDER}"}}
methods: [grad-cam, {lift-cam: , limit: 3}]
metrics: [average-drop, {removal: {steps: 2}}, shap-error]
batch: 2
shards: ${SHARDS}
maps: true
"""
KILLS = 20
KINDS = ("clean", "shapley", "records")
"""The folders in which one file makes a unit whole; its maps are written before its records."""


@dataclass(frozen=True)
class Bench:
    """The command, and the folder of its run."""

    spec: Path
    pictures: Path
    folder: Path
    shards: int = 3

    @property
    def words(self) -> list[str]:
        """The command's."""
        given = ["bench", self.spec, "--out", self.folder, "--resume"]
        return [*map(str, given), "--set", f"FOLDER={self.pictures}", "--set", f"SHARDS={self.shards}"]

    def start(self) -> subprocess.Popen[str]:
        paths = [str(Path(fm.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "faithmap", *self.words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=os.environ | threads, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def finish(self) -> str:
        """Run it to its end; what it printed."""
        process = self.start()
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def kill(self, when: Callable[[], bool]) -> bool:
        """Run it until a moment; whether it was still there to be killed."""
        with self.start() as process:
            while process.poll() is None and not when():
                time.sleep(0.001)
            process.kill()
            process.wait()
        return process.returncode == -signal.SIGKILL

    def kill_fork(self, when: Callable[[], bool]) -> bool:
        """Likewise, of a process that has all it imports from its parent: it is at work at once."""
        process = _FORKS.Process(target=_forked, args=(self.words,))
        process.start()
        while process.is_alive() and not when():
            time.sleep(0.001)
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL

    @cached_property
    def units(self) -> list[Unit]:
        return plan(read_spec(self.spec, {"FOLDER": str(self.pictures), "SHARDS": str(self.shards)}))

    def store(self) -> Store:
        store = Store(self.folder)
        _ = store.manifest
        return store

    def records(self) -> list[tuple[object, ...]]:
        return without_timings(self.store().records())

    def maps(self) -> dict[tuple[str, str], Tensor]:
        """By method and sample."""
        store, units = self.store(), [unit for unit in self.units if unit.kind == "maps"]
        return {(unit.entry, sample): map for unit in units for sample, map in store.maps(unit.id).items()}

    def whole(self) -> dict[str, tuple[int, int]]:
        """The units that are there, each with what tells its file from another of that name."""
        paths = [path for kind in KINDS for path in (self.folder / kind).glob("[!.]*")]
        found = {path.stem: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
        assert len(found) == len(paths), "a unit is there twice"
        return found

    def count(self) -> int:
        """How many units are there."""
        return sum(not name.startswith(".") for kind in KINDS for name in _names(self.folder / kind))

    def partial(self) -> set[str]:
        """The files that are being written, or were when the run was killed; each process calls them otherwise."""
        folders = (self.folder / kind for kind in (*KINDS, "maps", "tables", "."))
        return {name for folder in folders for name in _names(folder) if name.endswith(PARTIAL)}


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["faithmap.cli", "faithmap.bench.command", "pyarrow.parquet", "torch"])


def _forked(words: list[str]) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        sys.exit(main(words))


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


@dataclass(frozen=True)
class Left:
    """What a kill left."""

    killed: bool
    units: dict[str, tuple[int, int]]
    writing: bool
    """Whether it fell into a write."""
    broken: dict[str, str]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Five small pictures: the last batch of two is padded."""
    root = tmp_path_factory.mktemp("kill")
    (root / "pictures").mkdir()
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "pictures" / f"{i}.png")
    (root / "spec.yaml").write_text(SPEC)
    return Bench(root / "spec.yaml", root / "pictures", root / "killed")


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Bench:
    """Never stopped."""
    straight = Bench(bench.spec, bench.pictures, bench.folder.with_name("whole"))
    straight.finish()
    return straight


@pytest.fixture(scope="module")
def kills(bench: Bench) -> list[Left]:
    """From the first moment to the last: as it starts, between two files, in the middle of a write."""
    draw, found = random.Random(0), list[Left]()
    for n in range(KILLS):
        moment = ("between", "writing", "starting", "writing", "between")[n % 5]
        more = draw.randint(moment == "between", 2)
        before = bench.partial()
        kill = bench.kill if moment == "starting" else bench.kill_fork
        killed = kill(_when(bench, moment, more, draw.uniform(0, 2.5 if moment == "starting" else 0.1)))
        store = bench.store() if (bench.folder / "manifest.json").exists() else Store(bench.folder)
        units = bench.whole()
        assert all(store.done(unit) for unit in units), store.broken
        found.append(Left(killed, units, bool(bench.partial() - before), store.broken))
    return found


def _when(bench: Bench, moment: str, more: int, delay: float) -> Callable[[], bool]:
    """Whether it is time to kill.

    Args:
        bench: a run that begins now.
        moment: "starting": after the delay; "between": that long after so many units more are there; "writing": as
            soon as a file is being written then.
        more: how many units, if there are so many.
        delay: in seconds.
    """
    count = min(len(bench.units), bench.count() + more)
    left = bench.partial()
    since = time.monotonic() if moment == "starting" else None

    def due() -> bool:
        nonlocal since
        if since is None:
            if bench.count() < count:
                return False
            since = time.monotonic()
        return bool(bench.partial() - left) if moment == "writing" else time.monotonic() - since >= delay

    return due


def test_every_kill_leaves_whole_units_and_none_is_run_again(kills: list[Left]) -> None:
    """A unit's file stays the one that it was."""
    assert sum(one.killed for one in kills) >= KILLS - 4, "too many runs ended before they were killed"
    assert any(one.writing for one in kills), "no kill fell into a write"
    assert len({len(one.units) for one in kills}) >= 5, "the kills are not spread over the run"
    for before, after in pairwise(kills):
        assert before.units.items() <= after.units.items()


def test_it_ends_with_the_records_and_maps_of_a_run_that_was_never_stopped(
    kills: list[Left], bench: Bench, whole: Bench
) -> None:
    """Bit for bit; each unit once, nothing broken, and nothing left of what was half written."""
    printed = bench.finish()
    assert f"{len(kills[-1].units)} of them done before" in printed
    assert "broken" not in printed
    assert kills[-1].units.items() <= bench.whole().items()
    assert bench.whole().keys() == {unit.id for unit in bench.units}
    names = [sorted(str(path.relative_to(one.folder)) for path in one.folder.rglob("*")) for one in (bench, whole)]
    assert names[0] == names[1]
    assert not bench.partial()
    _same(bench, whole)


def test_another_number_of_shards_has_the_same_records_and_maps(whole: Bench) -> None:
    other = Bench(whole.spec, whole.pictures, whole.folder.with_name("shards"), shards=2)
    other.finish()
    assert len(other.whole()) < len(whole.whole())
    _same(other, whole)


def _same(one: Bench, other: Bench) -> None:
    assert one.records() == other.records()
    assert len(one.records()) == (5 * 5 + 3) * 7
    mine, theirs = one.maps(), other.maps()
    assert mine.keys() == theirs.keys()
    assert len(mine) == 5 * 5 + 3
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
