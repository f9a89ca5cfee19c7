"""A run's folder: what is in it is whole, on the disk, and of this run, whenever and however the run was stopped."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from faithmap.bench.extra import extra
from faithmap.bench.manifest import comparable, described, differences, digest, session, shared
from faithmap.bench.records import Clean, Record
from faithmap.bench.spec import Spec
from faithmap.files import PARTIAL, write_whole

MANIFEST, SPEC, LOCK = "manifest.json", "spec.yaml", ".lock"
KEY = b"faithmap"
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quotas
R = TypeVar("R", Record, Clean)


class DiskFullError(OSError):
    """There is no room for a file; what was written before is whole."""


@contextmanager
def opened(folder: str | Path, spec: Spec, *, resume: bool = False, arguments: Sequence[str] = ()) -> Iterator[Store]:
    """A run's folder for writing, by this process alone.

    Args:
        folder: made if it is not there.
        spec: the benchmark.
        resume: whether a run of the same benchmark goes on, on the same weights and data; methods may have joined it or
            left it. What a killed process left half written is removed.
        arguments: of the command, for the manifest.

    Raises:
        ValueError: the folder holds something else, or a run of another benchmark; the message tells the differences.
    """
    store = Store(folder)
    about = described(spec)
    before = store.check(about, resume)
    store.folder.mkdir(parents=True, exist_ok=True)
    with _alone(store.folder):
        for left in store.folder.rglob(f".*{PARTIAL}"):
            left.unlink()
        about |= {"methods": before.get("benchmark", {}).get("methods", {}) | about["methods"]}  # those that left too
        store.digest = digest(shared(about))
        sessions = [*before.get("sessions", ()), session(arguments)]
        manifest = {"name": spec.name, "digest": store.digest, "benchmark": about, "sessions": sessions}
        store.write(store.folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        store.write(store.folder / SPEC, spec.source.encode())
        yield store


class Store:
    """The files of a run; units are known by their ids.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.digest = ""
        """Of what all units share: files hold it, so that none of another run is taken for one of this."""
        self.broken: dict[str, str] = {}
        """Units whose files were found broken, and why: they are run again."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was asked, and where it ran.

        Raises:
            ValueError: the folder holds no run.
        """
        path = self.folder / MANIFEST
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
            self.digest = str(found["digest"])
            return found
        except FileNotFoundError:
            raise ValueError(f"{self.folder} is no run of a benchmark: it holds no {MANIFEST}") from None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} cannot be read ({error!r}): begin another run") from None

    def check(self, about: Mapping[str, Any], resume: bool) -> dict[str, Any]:
        """The manifest of the run that goes on; {} where one begins."""
        there = [] if not self.folder.is_dir() else [path.name for path in self.folder.iterdir()]
        if not [name for name in there if name != LOCK and not name.endswith(PARTIAL)]:
            return {}
        if not resume and MANIFEST in there:
            raise ValueError(f"{self.folder} holds a run: go on with it by --resume, or name another folder by --out")
        if not resume:
            raise ValueError(f"{self.folder} is not empty: name another folder by --out")
        manifest = self.manifest
        if unlike := list(differences(*comparable(manifest.get("benchmark"), about))):
            more = f"; and {len(unlike) - 8} differences more" if len(unlike) > 8 else ""
            raise ValueError(
                f"{self.folder} holds a run of another benchmark: {'; '.join(unlike[:8])}{more}. "
                "Name another folder by --out"
            )
        return manifest

    # -- units ----------------------------------------------------------------------------------------------------

    def save_records(self, unit: str, records: Sequence[Record], maps: Mapping[str, Tensor] | None = None) -> None:
        """What a unit found, and its maps ``(H, W)`` by sample; the records come last, and make it whole."""
        if maps:
            self._save_tensors(self._maps(unit), unit, list(maps), {"maps": [one.float() for one in maps.values()]})
        self.write(self._records(unit), self._parquet(unit, records, Record, maps=bool(maps)))

    def save_clean(self, unit: str, samples: Sequence[Clean], threshold: float | None = None) -> None:
        """What a model says of a whole untouched data set."""
        self.write(self._clean(unit), self._parquet(unit, samples, Clean, threshold=threshold))

    def save_shapley(self, unit: str, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """By sample, SHAP values and their standard errors, ``(C,)`` each."""
        pairs = list(values.values())
        parts = {"values": [value for value, _ in pairs], "errors": [error for _, error in pairs]}
        self._save_tensors(self._shapley(unit), unit, list(values), parts)

    def clean(self, unit: str) -> tuple[list[Clean], float | None]:
        """What `save_clean` was given."""
        rows, about = self._rows(self._clean(unit), unit, Clean)
        return rows, about["threshold"]

    def shapley(self, unit: str) -> dict[str, tuple[Tensor, Tensor]]:
        """What `save_shapley` was given."""
        samples, parts = self._tensors(self._shapley(unit), unit)
        return {one: (parts["values"][i], parts["errors"][i]) for i, one in enumerate(samples)}

    def maps(self, unit: str) -> dict[str, Tensor]:
        """The raw maps ``(H, W)`` of a unit, by sample."""
        samples, parts = self._tensors(self._maps(unit), unit)
        return {one: parts["maps"][i] for i, one in enumerate(samples)}

    def done(self, unit: str) -> bool:
        """Whether a unit is there and whole; one that is there and broken is noted in `broken`."""
        records, clean, shapley = self._records(unit), self._clean(unit), self._shapley(unit)
        try:
            if records.exists() and self._rows(records, unit, Record)[1]["maps"]:
                self._tensors(self._maps(unit), unit)
            if clean.exists():
                self._rows(clean, unit, Clean)
            if shapley.exists():
                self._tensors(shapley, unit)
        except ValueError as error:
            self.broken[unit] = str(error)
            return False
        return records.exists() or clean.exists() or shapley.exists()

    def records(self, units: Iterable[str] | None = None) -> list[Record]:
        """What the given units found, or all of them; of those that are not there yet nothing.

        Raises:
            ValueError: a file is broken, or not of this run.
        """
        paths = map(self._records, units) if units is not None else sorted(self._records("").parent.glob("*.parquet"))
        return [record for path in paths if path.exists() for record in self._rows(path, path.stem, Record)[0]]

    # -- files ----------------------------------------------------------------------------------------------------

    def write(self, path: Path, content: bytes) -> None:
        """A file of the run: whole and on the disk, or not there.

        Raises:
            DiskFullError: there is no room for it.
        """
        try:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, lambda partial: partial.write_bytes(content), durable=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise DiskFullError(
                f"the disk is full: no room for {path.name} in {self.folder}. Free some, and go on with --resume"
            ) from error

    def _save_tensors(self, path: Path, unit: str, samples: list[str], parts: Mapping[str, Sequence[Tensor]]) -> None:
        stacked = {name: torch.stack([*map(_plain, part)]) if part else torch.empty(0) for name, part in parts.items()}
        self.write(path, save(stacked, {"run": self.digest, "unit": unit, "samples": json.dumps(samples)}))

    def _tensors(self, path: Path, unit: str) -> tuple[list[str], dict[str, Tensor]]:
        try:
            with safe_open(path, "pt") as file:  # holds the file's length against its header
                about = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path.name} is broken: {error}") from None
        self._ours(path, unit, about)
        return json.loads(about["samples"]), found

    def _parquet(self, unit: str, rows: Sequence[Any], kind: type[Any], **about: Any) -> bytes:
        return to_parquet(rows, kind, {"run": self.digest, "unit": unit, "rows": len(rows), **about})

    def _rows(self, path: Path, unit: str, kind: type[R]) -> tuple[list[R], dict[str, Any]]:
        rows, about = from_parquet(path, kind)
        self._ours(path, unit, about)
        if about["rows"] != len(rows):
            raise ValueError(f"{path.name} holds {len(rows)} rows of {about['rows']}")
        return rows, about

    def _ours(self, path: Path, unit: str, about: Mapping[str, Any]) -> None:
        if not self.digest:
            _ = self.manifest
        if (about.get("run"), about.get("unit")) != (self.digest, unit):
            raise ValueError(f"{path.name} was not written by this run")

    def _records(self, unit: str) -> Path:
        return self.folder / "records" / f"{unit}.parquet"

    def _maps(self, unit: str) -> Path:
        return self.folder / "maps" / f"{unit}.safetensors"

    def _clean(self, unit: str) -> Path:
        return self.folder / "clean" / f"{unit}.parquet"

    def _shapley(self, unit: str) -> Path:
        return self.folder / "shapley" / f"{unit}.safetensors"


def records(folder: str | Path) -> list[Record]:
    """All that a run has found so far.

    Args:
        folder: of the run.

    Raises:
        ValueError: the folder holds no run, or a file is broken.
    """
    store = Store(folder)
    _ = store.manifest
    return store.records()


# -- parquet ----------------------------------------------------------------------------------------------------------


def _schema(kind: type[Any]) -> Any:
    """The columns, typed; texts that repeat are stored once by parquet's dictionaries, and read as texts."""
    pa = extra("pyarrow")
    types = {
        "str": pa.string(),
        "str | None": pa.string(),
        "float": pa.float64(),
        "float | None": pa.float64(),
        "int | None": pa.int64(),
        "bool | None": pa.bool_(),
        "Sequence[float] | None": pa.list_(pa.float64()),
        "tuple[str, str]": pa.list_(pa.string()),
    }
    return pa.schema([(f.name, types[str(f.type)]) for f in fields(kind)])


def to_parquet(rows: Sequence[Any], kind: type[Any], about: Mapping[str, Any]) -> bytes:
    """A parquet file of dataclasses, with what is to be known of it; NaN, which is no value, becomes null."""
    pa, pq = extra("pyarrow"), extra("pyarrow.parquet")
    schema = _schema(kind)
    columns = [pa.array([getattr(row, c.name) for row in rows], c.type, from_pandas=True) for c in schema]
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata({KEY: json.dumps(about).encode()}))
    texts = [column.name for column in schema if column.type == pa.string()]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=texts, write_page_checksum=True)
    return buffer.getvalue()


def from_parquet(path: Path, kind: type[R]) -> tuple[list[R], dict[str, Any]]:
    """What `to_parquet` was given; every page is held against its checksum.

    Raises:
        ValueError: the file is broken, or of something else.
    """
    pa, pq = extra("pyarrow"), extra("pyarrow.parquet")
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} is broken: {' '.join(str(error).split())[:200]}") from None
    if not table.schema.equals(_schema(kind)):
        raise ValueError(f"{path.name} was not written by this run")
    about = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    columns = {name: _column(table.column(name)) for name in table.column_names}
    return [kind(*values) for values in zip(*columns.values(), strict=True)], about


def _column(column: Any) -> list[Any]:
    """The values; a text that repeats is one object."""
    if str(column.type).startswith("list"):
        return [one if one is None else tuple(one) for one in column.to_pylist()]
    if str(column.type) != "string":
        return list(column.to_pylist())
    encoded = column.combine_chunks().dictionary_encode()
    texts = [*encoded.dictionary.to_pylist(), None]
    return [texts[-1 if i is None else i] for i in encoded.indices.to_pylist()]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the same run; the system lets go of the lock when this one dies."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {folder}: wait for it, or name another folder") from None
        yield
