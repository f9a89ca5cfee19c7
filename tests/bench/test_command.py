"""``faithmap bench`` from a file to its tables: what it writes, refuses and says, and how it goes on."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import faithmap as fm
from faithmap.bench import engines, run, store
from faithmap.bench.records import without_timings
from faithmap.bench.store import records
from faithmap.cli import main
from faithmap.datasets.registry import DATASETS
from faithmap.methods import GradCAM
from faithmap.metrics.registry import METRICS
from tests import nets
from tests.bench.stand_ins import Area, Faces, Noise

pytest.importorskip("pyarrow")
Call = Callable[..., tuple[int, str, str]]
SPEC = """
name: three | noises
models: {tiny: tiny, deep: deep}
data: {noise: {noise: , limit: "${LIMIT}"}}
methods: [grad-cam, {lift-cam: , limit: 2}, cam]
metrics: [area, average-drop]
variables: {LIMIT: 3}
batch: 2
shards: 2
maps: true
published:
  - {data: noise, model: tiny, method: grad-cam, part: average-drop, value: 12.5, source: a paper}
"""


@pytest.fixture(scope="module", autouse=True)
def _tiny_models() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _registered(monkeypatch)
        yield


def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    room = importlib.import_module("faithmap.models.load")

    def seeded(kind: type[fm.models.Model], make: Callable[[], torch.nn.Module]) -> Callable[..., fm.models.Model]:
        def build(**settings: Any) -> fm.models.Model:
            torch.manual_seed(0)
            return kind(make().eval(), size=32, **settings)

        return build

    sources = (
        room.Source("tiny", "a classifier", seeded(fm.Classifier, nets.gap_linear)),
        room.Source("deep", "a classifier", seeded(fm.Classifier, nets.VGGLike)),
        room.Source("eyes", "a face", seeded(fm.FaceEmbedder, nets.Faces), fm.FaceEmbedder),
    )
    monkeypatch.setattr(room, "SOURCES", sources)
    monkeypatch.setitem(METRICS._classes, "area", Area)
    monkeypatch.setitem(DATASETS._classes, "faces", Faces)
    monkeypatch.setitem(DATASETS._classes, "noise", Noise)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The records of a run that is never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "bench.yaml").write_text(SPEC)
    torch.set_num_threads(1)
    assert main(["bench", str(folder / "bench.yaml"), "--out", str(folder / "run"), "--quiet"]) == 1
    return without_timings(records(folder / "run"))


def test_a_benchmark_writes_its_records_and_tables(call: Call, spec: Path, tmp_path: Path) -> None:
    """One row per sample, method and part; refusals are rows, notes and warnings, and the exit code tells."""
    folder = tmp_path / "run"
    code, printed, told = call("bench", spec, "--out", folder)
    assert code == 1, "cam refuses the deep network"
    assert "warning: cam on noise, deep: no map of 3 of 3 samples" in told
    assert "tables.md" in printed
    rows = records(folder)
    counts = {(model, method): 0 for model in ("tiny", "deep") for method in ("grad-cam", "lift-cam", "cam", "random")}
    for row in rows:
        if (row.model, row.method) in counts:
            counts[row.model, row.method] += 1
    assert {method: n for (_, method), n in counts.items()} == {"grad-cam": 9, "lift-cam": 6, "cam": 9, "random": 9}
    assert {row.part for row in rows} == {"area", "rest", "average-drop"}
    page = (folder / "tables" / "tables.md").read_text()
    assert r"# three \| noises" in page
    assert "## noise, tiny" in page
    assert "- lift-cam ran on 2 of 3 samples" in page
    assert "- cam is not in the table: " in page.partition("## noise, deep")[2]
    assert "Published of grad-cam, average-drop: 12.5 (a paper); here " in page
    table = list(csv.DictReader((folder / "tables" / "tables.csv").read_text().splitlines()))
    assert [row["method"] for row in table[:7]] == [
        "grad-cam", "lift-cam", "cam", "random", "centre-gaussian", "edges", "constant",
    ]  # fmt: skip
    assert [row["control"] for row in table[:7]] == ["False"] * 3 + ["True"] * 4
    assert len(list((folder / "maps").iterdir())) == len([*(folder / "records").iterdir()]) - 2, "all but deep's cam"


def test_the_json_document_is_all_of_stdout(call: Call, spec: Path, tmp_path: Path) -> None:
    code, printed, _ = call("bench", spec, "--out", tmp_path / "run", "--set", "LIMIT=1", "--json", "--quiet")
    document = json.loads(printed)
    assert (code, document["name"]) == (1, "three | noises")
    row = next(row for row in document["rows"] if (row["model"], row["method"], row["part"]) == ("tiny", "cam", "area"))
    assert row["samples"] == 1
    assert len(row["mean"]) == 4


@pytest.mark.parametrize("at", range(1, 22, 4))
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_records(
    at: int, straight: list[Any], call: Call, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of any unit: what is done stays, and is not run again."""
    ran: list[str] = []
    real = run.Runner.__call__

    def interrupted(self: run.Runner, unit: Any, progress: Any = None) -> run.UnitResult:
        ran.append(unit.id)
        if len(ran) == at:
            raise KeyboardInterrupt
        return real(self, unit, progress)

    folder = tmp_path / "run"
    monkeypatch.setattr(run.Runner, "__call__", interrupted)
    code, _, told = call("bench", spec, "--out", folder, "--set", "LIMIT=3")
    assert code == 130
    assert f"stopped: {at - 1} of" in told
    assert sum(" of " in line for line in told.splitlines()) == at, "a line for each unit where nobody sees a bar"
    command = told.partition("go on with faithmap ")[2].splitlines()[0].split()
    assert command == ["bench", str(spec), "--out", str(folder), "--set", "LIMIT=3", "--resume"]
    assert call(*command[:-1])[0] == 2, "without --resume what is there is left alone"
    ran.clear()
    ran.append("so that none is the one to stop at")
    at_first, at = at, -1
    code, _, _ = call(*command)
    assert code == 1
    assert without_timings(records(folder)) == straight
    ids = {path.stem for kind in ("clean", "records") for path in (folder / kind).iterdir()}
    assert len(ran) - 1 == len(ids) - (at_first - 1)


def test_tables_alone_are_written_without_running(
    call: Call, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    call("bench", spec, "--out", folder)
    before = {path.name: path.read_text() for path in (folder / "tables").iterdir()}
    shutil.rmtree(folder / "tables")
    monkeypatch.setattr(GradCAM, "run", None)
    monkeypatch.setattr(engines, "local", None)
    assert call("bench", spec, "--out", folder, "--tables-only")[0] == 1
    assert {path.name: path.read_text() for path in (folder / "tables").iterdir()} == before
    assert "no run of a benchmark" in call("bench", spec, "--out", tmp_path / "none", "--tables-only")[2]
    told = call("bench", spec, "--out", folder, "--tables-only", "--set", "LIMIT=2")[2]
    assert "samples was 3 and is 2" in told


def test_broken_files_are_told_and_run_again(call: Call, spec: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    call("bench", spec, "--out", folder)
    before = records(folder)
    path = sorted((folder / "records").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-40])
    assert "broken" in call("bench", spec, "--out", folder, "--tables-only")[2]
    code, _, told = call("bench", spec, "--out", folder, "--resume")
    assert f"warning: {path.name} is broken" in told
    assert code == 1
    assert without_timings(records(folder)) == without_timings(before)


def test_a_full_disk_stops_in_words(call: Call, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = store.write_whole, []

    def full(path: Path, *args: Any, **asks: Any) -> Path:
        writes.append(path)
        if len(writes) == 9:
            raise OSError(28, "No space left on device")
        return real(path, *args, **asks)

    monkeypatch.setattr(store, "write_whole", full)
    code, _, told = call("bench", spec, "--out", tmp_path / "run")
    assert (code, "the disk is full" in told, "--resume" in told) == (1, True, True)
    assert call("bench", spec, "--out", tmp_path / "run", "--resume")[0] == 1
    assert len({path for path in writes if path.suffix == ".parquet"}) == len(
        [*(tmp_path / "run" / "records").iterdir(), *(tmp_path / "run" / "clean").iterdir()]
    )


def test_pairs_of_faces_get_intervals_over_people(call: Call, tmp_path: Path) -> None:
    spec = tmp_path / "faces.yaml"
    spec.write_text("name: faces\nmodels: {e: eyes}\ndata: {f: faces}\nmethods: [grad-cam]\nmetrics: [area]\n")
    code, _, told = call("bench", spec, "--out", tmp_path / "run")
    assert code == 0, told
    (clean,) = (tmp_path / "run" / "clean").iterdir()
    found = store.Store(tmp_path / "run")
    _ = found.manifest
    samples, threshold = found.clean(clean.stem)
    assert threshold is not None
    assert [one.subjects for one in samples][:2] == [("ann", "ann"), ("ann", "bob")]


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (("grad-cam", "grad-kam"), (), "error: bench.yaml, line 5, methods[0]: there is no method 'grad-kam'"),
        (("", ""), ("--set", "LIMIT"), "--set LIMIT is not NAME=VALUE"),
        (("", ""), ("--set", "NONE=1"), "the file uses no such variable"),
        (("", ""), ("--out", "bench.yaml"), "cannot be a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    change: tuple[str, str],
    arguments: tuple[str, ...],
    told: str,
    call: Call,
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(spec.parent)
    spec.write_text(SPEC.replace(*change))
    code, printed, said = call("bench", spec.name, "--out", "run", *arguments)
    assert (code, printed) == (2, "")
    assert told in said
    assert not Path("run").exists()


@pytest.mark.parametrize("what", ["metrics", "datasets"])
def test_lists_tell_what_the_registries_hold(what: str, call: Call) -> None:
    registry = {"metrics": METRICS, "datasets": DATASETS}[what]
    listed = {one["name"]: one for one in json.loads(call("list", what, "--json")[1])}
    assert sorted(listed) == registry.available()
    shown = call("list", what)[1]
    assert all(name in shown for name in listed)
    if what == "metrics":
        assert listed["area"]["parts"] == {"area": "higher", "rest": "lower"}
        assert listed["area"]["parameters"] == {"level": 0.5}
        assert "tells: area ↑, rest ↓" in shown
    else:
        assert listed["imagenet"]["parameters"]["folder"] == "..."
        assert "folder=..." in shown
        assert listed["faces"]["task"] == "verification"
