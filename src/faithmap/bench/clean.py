"""What models say of untouched samples: the scores that all maps and metrics of a benchmark build on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from faithmap.batching import Progress
from faithmap.bench.plan import batches
from faithmap.bench.records import Clean
from faithmap.bench.samples import Batch, Reader, embeddings, model_of, outputs_of
from faithmap.bench.spec import Spec
from faithmap.datasets import Dataset, Example, Pair
from faithmap.metrics import eer_threshold
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.targets import Logit, Probability, Similarity


@dataclass(frozen=True)
class Cleaned:
    """What a model says of a whole untouched data set."""

    samples: Sequence[Clean]
    """In the data set's order."""
    threshold: float | None = None
    """Of pairs, the similarity from which they match: the model's, else that of equal error rates on these pairs."""


def clean(
    spec: Spec, data: str, model: str, *, reader: Reader | None = None, progress: Progress | None = None
) -> Cleaned:
    """Read every sample of a data set and ask the model about it; one that cannot be explained says why.

    Args:
        spec: the benchmark.
        data: the data set's name in it.
        model: likewise, of the model.
        reader: of the samples.
        progress: called with (done, total) batches.

    Raises:
        ValueError: the model's outputs are none that can be explained.
    """
    reader, asked, found = reader or Reader(spec), spec.models[model], dict[int, Clean]()
    todo, label = batches(spec, data), _labels(model_of(asked, spec.data[data][0]), spec.data[data])
    for n, indices in enumerate(todo):
        batch = reader.untouched(data, model, indices)
        examples = [spec.data[data][i] for i in indices]
        if isinstance(asked, FaceEmbedder):
            said = _pairs(asked, examples, batch)
        else:
            answers = model_of(asked, examples[0])
            said = _classes(spec, answers, examples, [label(one.label) for one in examples], batch)
        found.update(zip(indices, said, strict=True))
        if progress:
            progress(n + 1, len(todo))
    threshold = asked.threshold if isinstance(asked, FaceEmbedder) else None
    samples = [found[i] for i in sorted(found)]
    return Cleaned(tuple(samples), threshold if threshold is not None else _threshold(samples))


def _classes(
    spec: Spec, model: Model, examples: Sequence[Example], labels: Sequence[int | None], batch: Batch
) -> list[Clean]:
    """Of a batch of pictures: the class that is explained, and its probability."""
    errors, classes, scores = dict(batch.errors), [0] * len(batch.ids), [0.0] * len(batch.ids)
    if batch.good:
        outputs = outputs_of(model, batch.x)  # (B, K)
        target = model.default_target(outputs)
        assert isinstance(target, Logit)
        classes = torch.as_tensor(target.k).tolist()
        for slot in batch.good:
            label = labels[slot]
            if label is not None and not 0 <= label < outputs.shape[1]:
                errors[slot] = f"there is no class {label}: {model.name} has {outputs.shape[1]}, from 0"
            elif spec.explain == "label" and label is None:
                errors[slot] = f"it has no label among the classes of {model.name}"
            elif spec.explain == "label" and label is not None:
                classes[slot] = label
        scores = Probability(classes)(outputs).double().tolist()
    return [
        _one(batch, slot, errors, Clean(one.id, label=labels[slot], explained=classes[slot], score=scores[slot]))
        for slot, one in enumerate(examples)
    ]


def _labels(model: Model, data: Dataset[Any]) -> Callable[[int | None], int | None]:
    """The model's class for a label of the data set: by its name where both know names, else the label itself."""
    names = getattr(model, "labels", None)
    if names is None or data.classes is None:
        return lambda label: label
    known: list[int | None] = data.labels_for(names)
    return lambda label: None if label is None else known[label]


def _pairs(model: FaceEmbedder, examples: Sequence[Pair], batch: Batch) -> list[Clean]:
    """Of a batch of pairs: their similarities."""
    errors, scores = dict(batch.errors), [0.0] * len(examples)
    if batch.good:
        assert batch.partners is not None
        probes, galleries = embeddings(model, batch.x), embeddings(model, batch.partners)  # (B, D)
        broken = [~(f.isfinite().all(dim=1) & f.any(dim=1)) for f in (probes, galleries)]
        galleries = torch.where(broken[1][:, None], torch.ones_like(galleries), galleries)
        scores = Similarity(galleries)(probes).double().tolist()
        for slot in batch.good:
            if any(bool(side[slot]) for side in broken):
                errors[slot] = "the embedding of one of its faces is zero or not finite"
    return [
        _one(
            batch,
            slot,
            errors,
            Clean(one.id, score=scores[slot], genuine=one.genuine, subjects=one.subjects, group=one.group),
        )
        for slot, one in enumerate(examples)
    ]


def _one(batch: Batch, slot: int, errors: Mapping[int, str], found: Clean) -> Clean:
    """With the digest of what was read, or with what is wrong instead of what was found."""
    error, digest = errors.get(slot), batch.digests.get(slot, "")
    if error is None and not math.isfinite(found.score or 0.0):
        error = f"its score is {found.score}: the network or the picture is broken"
    if error is None:
        return replace(found, sha256=digest)
    return replace(found, sha256=digest, explained=None, score=None, error=error)


def _threshold(found: Sequence[Clean]) -> float | None:
    """The similarity of equal error rates; None without pairs of both kinds."""
    pairs = [(one.score, one.genuine) for one in found if one.score is not None and one.genuine is not None]
    if len({genuine for _, genuine in pairs}) < 2:
        return None
    scores, genuine = zip(*pairs, strict=True)
    return eer_threshold(torch.tensor(scores, dtype=torch.float64), torch.tensor(genuine))
