"""The samples of a benchmark as networks take them: read batch by batch, and padded to full size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithmap.batching import chunked
from faithmap.bench.guard import guarded
from faithmap.bench.records import Clean
from faithmap.bench.spec import Spec
from faithmap.datasets import Example, Pair, Truth
from faithmap.images import Geometry
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.models.vqa import VQAModel
from faithmap.sampling import sample_ids
from faithmap.targets import Logit, Similarity, Target, first_tensor

KEPT_BYTES = 256 * 2**20
"""The prepared batches that stay in memory: quick methods need not wait until pictures are read again."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B prepared samples of which some may be padding: repeats of the first that can be used."""

    ids: Sequence[str]
    """Of the samples, at most B."""
    good: Sequence[int] = ()
    """The slots of those that can be used."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """By slot, why a sample cannot be used."""
    digests: Mapping[int, str] = field(default_factory=dict)
    """By slot, of the prepared input; of pairs of both."""
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    """``(B, C, H, W)``; of pairs the probes."""
    partners: Tensor | None = None
    """Of pairs the galleries."""
    truth: Tensor | None = None
    """``(B, H, W)`` bool; None where the data set knows none."""
    first: Tensor | None = None
    donors: Tensor | None = None
    """Like x; NaN where a sample has none."""
    rivals: Sequence[Tensor] | None = None
    against: Tensor | None = None
    genuine: Tensor | None = None
    target: Target | None = None
    """What all methods explain, once clean scores are known."""
    model: Model | None = None
    """Who is asked: see `model_of`."""

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))


class Reader:
    """Reads the samples of a benchmark, and keeps as many prepared batches as a fixed amount of memory holds.

    What does not fit is read again, in the same order for every method: keeping the latest would never help then.

    Args:
        spec: the benchmark.
        room: bytes of prepared batches that are kept.
    """

    def __init__(self, spec: Spec, room: int = KEPT_BYTES) -> None:
        self.spec, self._room = spec, room
        self._kept: dict[tuple[str, str, tuple[int, ...]], Batch] = {}
        self._with_truth = {
            name: any(getattr(one, "truth", None) is not None for one in data.examples)
            for name, data in spec.data.items()
        }

    def untouched(self, data: str, model: str, indices: Sequence[int]) -> Batch:
        """Samples as they are read for the first time, with what is wrong with each.

        Args:
            data: the data set's name in the benchmark.
            model: likewise, of the model.
            indices: of the samples.
        """
        return self._read(data, model, indices, None)

    def known(self, data: str, model: str, indices: Sequence[int], clean: Sequence[Clean]) -> Batch:
        """Samples whose clean scores are known, with what is to be explained of each.

        Args:
            data: as for `untouched`.
            model: likewise.
            indices: likewise.
            clean: of all samples of the data set.
        """
        key = (data, model, tuple(indices))
        if key in self._kept:
            return self._kept[key]
        batch = self._read(data, model, indices, [clean[i] for i in indices])
        if batch.bytes <= self._room:
            self._room -= batch.bytes
            self._kept[key] = batch
        return batch

    def _read(self, data: str, name: str, indices: Sequence[int], clean: Sequence[Clean] | None) -> Batch:
        examples = [self.spec.data[data][i] for i in indices]
        model = model_of(self.spec.models[name], examples[0])
        rows, errors = {}, {}
        for slot, example in enumerate(examples):
            if clean is not None and (error := clean[slot].error) is not None:
                errors[slot] = error
                continue
            found = guarded(partial(_prepared, model, example, self._with_truth[data]))
            if isinstance(found, _Row) and clean is not None and found.digest != clean[slot].sha256:
                found = "it is not the picture that it was when its clean score was taken"
            if isinstance(found, _Row):
                rows[slot] = found
            else:
                errors[slot] = _without_path(found, example)
        ids = [example.id for example in examples]
        if not rows:
            return Batch(ids, errors=errors)
        source = padded(list(rows), self.spec.batch)

        def stacked(part: str) -> Tensor | None:
            parts = [getattr(rows[slot], part) for slot in source]
            return None if parts[0] is None else torch.stack(parts)

        x, partners = stacked("x"), stacked("partner")
        assert x is not None
        return Batch(
            ids,
            tuple(rows),
            errors,
            {slot: row.digest for slot, row in rows.items()},
            x,
            partners,
            stacked("truth"),
            stacked("first"),
            stacked("donor"),
            [rows[slot].rivals for slot in source] if self._with_truth[data] else None,  # type: ignore[misc]
            stacked("against"),
            _genuine(examples, source, x) if partners is not None else None,
            None if clean is None else _question(model, source, clean, partners),
            model=model,
        )


def model_of(model: Model, example: Example | Pair) -> Model:
    """Who is asked about a sample: the model, or of one that answers questions the classifier for the sample's."""
    if not isinstance(model, VQAModel):
        return model
    assert isinstance(example, Example)
    assert example.question is not None
    return model.asking(example.question)


def padded(good: Sequence[int], size: int) -> list[int]:
    """For each of so many slots the one whose sample stands there: its own, else the first good one's.

    Examples:
        >>> padded([1, 3], 5)
        [1, 1, 1, 3, 1]
    """
    return [slot if slot in good else good[0] for slot in range(size)]


def outputs_of(model: Model, x: Tensor) -> Tensor:
    """The network's outputs ``(B, K)`` of prepared inputs."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat(list(chunked(lambda rows: first_tensor(model.network(x[rows])), len(x), len(x))))


def embeddings(model: FaceEmbedder, x: Tensor) -> Tensor:
    """Of prepared faces, ``(B, D)``, in float32 or better."""
    return torch.cat(list(chunked(lambda rows: model.embed(x[rows]), len(x), len(x))))


@dataclass(frozen=True, eq=False)
class _Row:
    """One sample, prepared."""

    x: Tensor
    digest: str
    partner: Tensor | None = None
    truth: Tensor | None = None
    first: Tensor | None = None
    donor: Tensor | None = None
    rivals: Tensor | None = None
    against: Tensor | None = None


def _prepared(model: Model, example: Example | Pair, with_truth: bool) -> _Row:
    pair = isinstance(example, Pair)
    inputs = model.read([example.probe, example.gallery] if isinstance(example, Pair) else [example.image])
    x, geometry = inputs.x, inputs.geometries[0]  # (1 or 2, C, H, W)
    assert geometry is not None
    row = _Row(x[0], sample_ids(x.flatten(0, 1)[None])[0], x[1] if pair else None)
    return _with_truth(row, model, example.truth, geometry) if with_truth else row


def _with_truth(row: _Row, model: Model, truth: Truth | None, geometry: Geometry) -> _Row:
    """A row with what is known of its sample's cause."""
    where = row.x.device
    donor, nowhere = torch.full_like(row.x, torch.nan), torch.zeros(row.x.shape[-2:], dtype=torch.bool, device=where)
    if truth is None:
        against = torch.tensor(False, device=where)
        return replace(row, truth=nowhere, first=nowhere, donor=donor, rivals=nowhere[None][:0], against=against)
    return replace(
        row,
        truth=truth.on(geometry).to(where),
        first=truth.first(geometry).to(where),
        donor=donor if truth.donor is None else model.read([truth.donor()]).x[0],
        rivals=truth.rivals(geometry).to(where),
        against=torch.tensor(truth.against, device=where),
    )


def _genuine(examples: Sequence[Pair], source: Sequence[int], x: Tensor) -> Tensor:
    return torch.tensor([examples[slot].genuine for slot in source], device=x.device)


def _question(model: Model, source: Sequence[int], clean: Sequence[Clean], partners: Tensor | None) -> Target:
    """What is explained of each slot: the class, or the similarity to the gallery."""
    if partners is not None:
        assert isinstance(model, FaceEmbedder)
        return Similarity(embeddings(model, partners))
    return Logit([clean[slot].explained or 0 for slot in source])


def _without_path(error: str, example: Any) -> str:
    """An error that names files by their base names: results tell nothing of the machine."""
    pictures = [example.probe, example.gallery] if isinstance(example, Pair) else [example.image]
    for picture in pictures:
        if isinstance(picture, (str, os.PathLike)) and (path := Path(picture).expanduser()).is_absolute():
            error = error.replace(str(path), path.name).replace(f"{path.parent}{os.sep}", "")
            error = error.replace(str(path.parent), path.parent.name)
    return error
