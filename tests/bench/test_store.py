"""A run's folder: whatever stops a run, what is in it is whole, and going on loses one unit and doubles none."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import faithmap as fm
from faithmap import files
from faithmap.bench import store as room
from faithmap.bench.records import Clean, Record, without_timings
from faithmap.bench.spec import Entry, Spec
from faithmap.bench.store import DiskFullError, Store, opened, records
from tests.bench.stand_ins import Noise, record, spec
from tests.nets import gap_linear

pytest.importorskip("pyarrow")
UNITS = [f"maps-noise-tiny-{i}" for i in range(6)]


class Killed(BaseException):
    """What no handler of errors catches, as a kill."""


def found(unit: str) -> list[Record]:
    """Three records, which only their unit decides."""
    n = UNITS.index(unit)
    return [record(sample=f"{n}-{i}.png", value=n + i / 7, curve=(0.5, n / 3), seconds=i + 0.1) for i in range(3)]


def run(folder: Path, resume: bool = False) -> Store:
    """A benchmark of six units that keep maps."""
    with opened(folder, spec(maps=True), resume=resume) as store:
        for unit in UNITS:
            if not store.done(unit):
                maps = {one.sample: torch.full((2, 3), float(i)) for i, one in enumerate(found(unit))}
                store.save_records(unit, found(unit), maps)
    return store


def stop(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """A run that the error stops at that of its file operations; how many it came to."""
    count = 0

    def counting(name: str, half: bool) -> Callable[..., Any]:
        real = getattr(os, name) if name != "write_bytes" else Path.write_bytes

        def operation(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                if half:  # as the disk is left in the middle of a write
                    real(args[0], args[1][: len(args[1]) // 2])
                raise error
            return real(*args)

        return operation

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", counting("write_bytes", half=True))
        for name in ("replace", "fsync"):
            patch.setattr(files.os, name, counting(name, half=False))
        if isinstance(error, Killed):
            patch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # nothing tidies up after a kill
        try:
            run(folder)
        except type(error):
            pass
    return count


@pytest.mark.parametrize("part", range(20))
def test_a_run_killed_anywhere_goes_on_to_the_same_records(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a write, between write and rename, after it: at 20 points that cover the run."""
    whole = run(tmp_path / "whole")
    operations = stop(tmp_path / "counted", 0, monkeypatch, Killed())
    at = 1 + part * (operations - 1) // 19
    stop(tmp_path / "run", at, monkeypatch, Killed())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("records/*.parquet")}
    store = run(tmp_path / "run", resume=True)
    assert without_timings(store.records()) == without_timings(whole.records())
    assert len(store.records()) == 3 * len(UNITS)
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert not store.broken
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "a whole unit was run again"
    names = [{str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")} for n in ("run", "whole")]
    assert names[0] == names[1]


def test_a_full_disk_stops_the_run_in_words_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    operations = stop(tmp_path / "counted", 0, monkeypatch, Killed())
    for at in range(7, operations, 5):
        folder = tmp_path / str(at)
        stop(folder, at, monkeypatch, full)
        assert not list(folder.rglob("*.partial"))
        assert all(path.stem in UNITS for path in folder.glob("records/*"))
        assert len(run(folder, resume=True).records()) == 3 * len(UNITS)
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(DiskFullError, match=r"the disk is full: no room for manifest\.json.*--resume"):
        run(tmp_path / "none")


def test_another_error_of_the_disk_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error") as told:
        run(tmp_path / "run")
    assert not isinstance(told.value, DiskFullError)


def damages() -> dict[str, Callable[[Path], None]]:
    def cut(share: float) -> Callable[[Path], None]:
        return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    def exchange(path: Path) -> None:
        path.write_bytes((path.parent / f"{UNITS[0]}{path.suffix}").read_bytes())

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[60] ^= 0xFF  # within the first page of data
        path.write_bytes(content)

    return {
        "empty": cut(0),
        "half": cut(0.5),
        "all but the end": cut(0.999),
        "a flipped byte": flip,
        "text": lambda path: path.write_text("not of this kind") and None,
        "another unit's": lambda path: (
            path.write_bytes((path.parent / f"{UNITS[0]}{path.suffix}").read_bytes()) and None
        ),
    }


@pytest.mark.parametrize("damage", damages())
@pytest.mark.parametrize("kind", ["records", "maps"])
def test_a_broken_file_is_found_told_and_run_again(kind: str, damage: str, tmp_path: Path) -> None:
    if (kind, damage) == ("maps", "a flipped byte"):
        pytest.skip("maps carry no checksum")
    whole = run(tmp_path).records()
    (path,) = (tmp_path / kind).glob(f"{UNITS[3]}.*")
    damages()[damage](path)
    if kind == "records":
        with pytest.raises(ValueError, match=UNITS[3]):
            records(tmp_path)
    store = run(tmp_path, resume=True)
    assert list(store.broken) == [UNITS[3]]
    assert UNITS[3] in store.broken[UNITS[3]]
    assert store.records() == whole
    assert len(store.maps(UNITS[3])) == 3


def test_a_file_of_another_run_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    with opened(tmp_path / "a", spec(seed=1)) as other:
        other.save_records(UNITS[0], found(UNITS[0]))
    run(tmp_path / "b")
    strange = tmp_path / "b" / "records" / f"{UNITS[0]}.parquet"
    strange.write_bytes((tmp_path / "a" / "records" / strange.name).read_bytes())
    store = run(tmp_path / "b", resume=True)
    assert "was not written by this run" in store.broken[UNITS[0]]


def test_maps_that_were_taken_away_are_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "maps" / f"{UNITS[1]}.safetensors").unlink()
    assert list(run(tmp_path, resume=True).broken) == [UNITS[1]]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """Also texts beyond ASCII, no values, no curves, infinities; NaN is no value."""
    rows = [
        record(value=None, error="cannot be read: ü|\n"),
        record(value=-float("inf"), curve=(), sample="ß"),
        record(value=1 / 3, curve=(0.1, 1 / 3), forward=2.5, tail_backward=1, peak_mib=12.5),
    ]
    samples = [
        Clean("a", "12ab", 3, 4, 0.25),
        Clean("b", score=-0.5, genuine=False, subjects=("ann", "böb"), group="far"),
        Clean("c", error="no box"),
    ]
    values = {"a": (torch.rand(5).double(), torch.rand(5).double()), "b": (torch.zeros(5), torch.ones(5))}
    with opened(tmp_path, spec()) as store:
        store.save_records("u", [*rows, record(value=float("nan"))])
        store.save_clean("c", samples, threshold=0.3125)
        store.save_clean("d", samples)
        values["b"] = (values["b"][0].double(), values["b"][1].double())
        store.save_shapley("s", values)
        store.save_records("nothing", [])
    assert records(tmp_path) == [*rows, record(value=None)]
    assert store.records(["nothing", "absent"]) == []
    assert store.clean("c") == (samples, 0.3125)
    assert store.clean("d") == (samples, None)
    back = store.shapley("s")
    assert list(back) == ["a", "b"]
    assert all(torch.equal(back[one][i], values[one][i]) for one in values for i in (0, 1))
    assert [store.done(unit) for unit in ("u", "c", "s", "nothing", "absent")] == [True, True, True, True, False]


def test_records_are_plain_parquet_with_types(tmp_path: Path) -> None:
    """Texts are texts, numbers are numbers, and names that repeat are stored once: DuckDB and polars read them so."""
    import pyarrow.parquet as pq

    with opened(tmp_path, spec()) as store:
        store.save_records("u", [record(sample=f"{i}.png") for i in range(1000)])
    path = tmp_path / "records" / "u.parquet"
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types["method"] == types["error"] == "string"
    assert types["value"] == types["seconds"] == "double"
    assert types["curve"] == "list<element: double>"
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert all(columns[name].has_dictionary_page for name in ("data", "model", "method", "metric", "part"))


def test_the_manifest_tells_what_ran_where_and_no_path(tmp_path: Path) -> None:
    secret = tmp_path / "secret-folder" / "x"
    arguments = ["bench", f"{secret}.yaml", "--set", f"ROOT={secret}", "--out", str(tmp_path)]
    with opened(tmp_path / "run", spec(), arguments=arguments):
        pass
    with opened(tmp_path / "run", spec(), resume=True, arguments=["bench", "--resume"]):
        pass
    text = (tmp_path / "run" / "manifest.json").read_text()
    told = json.loads(text)
    assert "secret-folder" not in text
    assert str(tmp_path) not in text
    assert [one["arguments"][1] for one in told["sessions"]] == ["x.yaml", "--resume"]
    assert told["sessions"][0]["arguments"][3] == "ROOT=x"
    assert told["sessions"][0]["versions"]["torch"] == torch.__version__
    assert told["benchmark"]["models"]["tiny"]["weights"] == spec().models["tiny"].weights_digest
    assert told["benchmark"]["data"]["noise"]["samples"] == 4
    assert (tmp_path / "run" / "spec.yaml").read_text() == "name: small\n"


def changed() -> dict[str, tuple[Spec, str]]:
    torch.manual_seed(7)
    other = fm.Classifier(gap_linear().eval(), size=32, name="tiny")
    entries: Sequence[Entry] = [Entry("grad-cam", fm.methods.create("grad-cam"), limit=3), *spec().entries[1:]]
    return {
        "weights": (spec(models={"tiny": other}), r"models\.tiny\.weights was .* and is"),
        "data": (spec(data={"noise": Noise(size=5)}), r"data\.noise\.parameters\.size was 4 and is 5"),
        "boxes": (spec(data={"noise": Noise(boxes=True)}), r"data\.noise\.digest was"),
        "limit": (spec(entries=entries), r"methods\.grad-cam\.limit was None and is 3"),
        "batch": (spec(batch=4), "batch was 8 and is 4"),
    }


@pytest.mark.parametrize("what", changed())
def test_a_run_does_not_go_on_with_something_else(what: str, tmp_path: Path) -> None:
    with opened(tmp_path, spec()):
        pass
    other, told = changed()[what]
    with pytest.raises(ValueError, match=told), opened(tmp_path, other, resume=True):
        pass


def test_methods_may_join_and_leave_a_run_but_not_change_in_it(tmp_path: Path) -> None:
    """What is there stays whole; one that comes back must be the one that left, whose records may still be there."""
    everything, few = spec(), spec(entries=spec().entries[:1])
    with opened(tmp_path, few) as store:
        store.save_records("unit", [])
    with opened(tmp_path, everything, resume=True) as store:
        assert store.done("unit")
    with opened(tmp_path, few, resume=True) as store:
        assert store.done("unit")
    other = [few.entries[0], Entry("random", fm.methods.create("centre-gaussian"))]
    with pytest.raises(ValueError, match=r"methods\.random\.name"), opened(tmp_path, spec(entries=other), resume=True):
        pass


def test_words_and_figures_of_the_spec_may_change(tmp_path: Path) -> None:
    """They decide no record; the folder holds the newest."""
    with opened(tmp_path, spec()):
        pass
    with opened(tmp_path, spec(name="new", source="name: new\n"), resume=True):
        pass
    assert (tmp_path / "spec.yaml").read_text() == "name: new\n"


def test_folders_that_are_not_empty_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume, told in ((False, "is not empty"), (True, r"no run of a benchmark: it holds no manifest\.json")):
        with pytest.raises(ValueError, match=told), opened(tmp_path, spec(), resume=resume):
            pass
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        records(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with opened(tmp_path / "run", spec(), resume=True):  # nothing there yet: it begins
        pass
    with pytest.raises(ValueError, match="holds a run: go on with it by --resume"), opened(tmp_path / "run", spec()):
        pass
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"), opened(tmp_path / "run", spec(), resume=True):
        pass


def test_one_process_writes_a_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    again = opened(tmp_path, spec(), resume=True)
    with opened(tmp_path, spec()), pytest.raises(ValueError, match="another process is writing"), again:
        pass
    with opened(tmp_path, spec(), resume=True):
        pass


def test_a_rename_is_on_the_disk_when_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then name, then folder: in that order."""
    order: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in real:
        monkeypatch.setattr(files.os, name, lambda *a, name=name: (order.append(name), real[name](*a))[1])
    Store(tmp_path).write(tmp_path / "a", b"content")
    assert order == ["fsync", "replace", "fsync"]


def test_without_the_extra_packages_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow .*: pip install 'faithmap\[bench\]'"):
        room.to_parquet([], Record, {})
