"""Targets: which number of a network's output is explained, one per sample.

A target maps the network's outputs to scores, ``(B,)``. It holds one entry for the whole batch or exactly one
per sample. Any callable ``outputs -> (B,)`` is a target too (`Custom`), for detection, segmentation or answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

Indices: TypeAlias = int | Sequence[int] | Tensor


class Target(ABC):
    """A score per sample. Tensor fields hold one entry for the batch or one per sample, in dimension 0."""

    affine: ClassVar[bool] = False
    """Whether the score is affine in the network's outputs: closed forms need that."""
    at_layer: ClassVar[bool] = False
    """Whether the score reads the target layer's activations instead of the network's outputs."""
    largest: int = -1
    """The largest class index or place that it picks, known without asking the device; -1 where it picks none."""

    @abstractmethod
    def __call__(self, outputs: Any) -> Tensor:
        """Scores ``(B,)`` of the outputs of B samples."""

    def _entries(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __len__(self) -> int:
        """The number of entries; 1 serves a batch of any size."""
        return max((len(entry) for entry in self._entries().values()), default=1)

    def select(self, rows: Tensor) -> Target:
        """The target of the samples ``rows``, an index tensor ``(n,)``."""
        if len(self) == 1:
            return self
        entries = {name: entry[rows.to(entry.device)] for name, entry in self._entries().items()}
        return cast(Target, replace(cast(Any, self), **entries))

    def check(self, batch: int) -> None:
        """Raise unless this target fits a batch of that size."""
        if len(self) not in (1, batch):
            raise ValueError(
                f"{type(self).__name__} holds {len(self)} entries for a batch of {batch}: give one for all, "
                "or exactly one per sample"
            )

    def describe(self, row: int) -> dict[str, Any]:
        """What provenance says of one sample's target: small numbers, never an embedding."""
        row = 0 if len(self) == 1 else row
        numbers = {name: entry[row].item() for name, entry in self._entries().items() if entry.ndim == 1}
        return {"target": type(self).__name__, **numbers}


@dataclass(frozen=True, eq=False)
class Logit(Target):
    """The score z_k before softmax; the usual target of classification.

    Args:
        k: class index, or one per sample.

    Examples:
        >>> Logit([0, 2])(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        tensor([1., 6.])
    """

    k: Indices
    affine = True

    def __post_init__(self) -> None:
        _set_indices(self, k=self.k)

    def __call__(self, outputs: Any) -> Tensor:
        return _pick(_matrix(outputs, self), self, self.k)


@dataclass(frozen=True, eq=False)
class Probability(Target):
    """The class probability softmax(z)_k.

    Args:
        k: class index, or one per sample.

    Examples:
        >>> Probability(0)(torch.zeros(1, 4))
        tensor([0.2500])
    """

    k: Indices

    def __post_init__(self) -> None:
        _set_indices(self, k=self.k)

    def __call__(self, outputs: Any) -> Tensor:
        z = _matrix(outputs, self)
        if z.shape[1] == 1:
            raise ValueError(
                "the softmax of a single output is always 1: explain Logit(0), or give a callable, "
                "lambda z: z.sigmoid().squeeze(1)"
            )
        return _pick(z.softmax(dim=1), self, self.k)


@dataclass(frozen=True, eq=False)
class LogitMargin(Target):
    """The contrastive score z_k - z_rival: why k rather than rival.

    Args:
        k: class index, or one per sample.
        rival: the class it is held against, or one per sample.

    Examples:
        >>> LogitMargin(2, 0)(torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([3.])
    """

    k: Indices
    rival: Indices
    affine = True

    def __post_init__(self) -> None:
        _set_indices(self, k=self.k, rival=self.rival)

    def __call__(self, outputs: Any) -> Tensor:
        z = _matrix(outputs, self)
        return _pick(z, self, self.k) - _pick(z, self, self.rival)


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """The cosine of the embedding f(x) and a reference: what supports a match (e+).

    ``s = <f, r> / (|f| |r|)``; the gradient flows through the norm of f; a zero embedding has cosine 0.

    Args:
        reference: embedding ``(D,)``, or one per sample ``(B, D)``; any length but zero.

    Examples:
        >>> Similarity(torch.tensor([2.0, 0.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([0.6000])
    """

    reference: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _reference(self.reference, self))

    def __call__(self, outputs: Any) -> Tensor:
        return _cosine(_matrix(outputs, self), self.reference, self)


@dataclass(frozen=True, eq=False)
class Dissimilarity(Target):
    """The cosine distance 1 - s: what pushes a pair apart (e-).

    Args:
        reference: embedding ``(D,)``, or one per sample ``(B, D)``.

    Examples:
        >>> Dissimilarity(torch.tensor([2.0, 0.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([0.4000])
    """

    reference: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _reference(self.reference, self))

    def __call__(self, outputs: Any) -> Tensor:
        return 1 - _cosine(_matrix(outputs, self), self.reference, self)


@dataclass(frozen=True, eq=False)
class DotProduct(Target):
    """The inner product of the embedding f(x) and a reference, affine in f: exact splits of affine heads need it.

    Args:
        reference: vector ``(D,)``, or one per sample ``(B, D)``, taken as it is.

    Examples:
        >>> DotProduct(torch.tensor([2.0, 1.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([10.])
    """

    reference: Tensor
    affine = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _reference(self.reference, self))

    def __call__(self, outputs: Any) -> Tensor:
        f = _matrix(outputs, self)
        return (f * _like(self.reference, f, self)).sum(dim=1)


@dataclass(frozen=True, eq=False)
class FeatureLocation(Target):
    """The strength of one place of a feature map, sum_c |A[c, row, col]|: which pixels reach it.

    It reads the activations ``(B, C, h, w)`` of the target layer, not the network's outputs.

    Args:
        row, col: place in the feature map, counted from its upper left corner, or one per sample.

    Examples:
        >>> FeatureLocation(0, 1)(torch.tensor([[[[1.0, -2.0]], [[0.0, 3.0]]]]))
        tensor([5.])
    """

    row: Indices
    col: Indices
    at_layer = True

    def __post_init__(self) -> None:
        _set_indices(self, row=self.row, col=self.col)

    def __call__(self, outputs: Any) -> Tensor:
        A: Tensor = outputs  # (B, C, h, w)
        if not isinstance(A, Tensor) or A.ndim != 4:
            raise ValueError("FeatureLocation reads a feature map (B, C, h, w): it needs a layer with a spatial output")
        self.check(len(A))
        row, col = (entry.to(A.device).expand(len(A)) for entry in self._entries().values())
        if int(row.max()) >= A.shape[2] or int(col.max()) >= A.shape[3]:
            place = (int(row.max()), int(col.max()))
            raise ValueError(
                f"place {place} lies outside the {A.shape[2]} x {A.shape[3]} feature map; both count from 0"
            )
        return _precise(A[torch.arange(len(A), device=A.device), :, row, col]).abs().sum(dim=1)


@dataclass(frozen=True, eq=False)
class Custom(Target):
    """Any callable that turns the network's raw outputs into one score per sample.

    Args:
        function: outputs of B samples -> scores ``(B,)``.

    Examples:
        >>> Custom(lambda z: z.sum(dim=1))(torch.ones(2, 3))
        tensor([3., 3.])
    """

    function: Callable[[Any], Tensor]

    def __call__(self, outputs: Any) -> Tensor:
        scores = self.function(outputs)
        batch = batch_of(outputs)
        if not isinstance(scores, Tensor) or scores.shape != (batch,):
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"a callable target must return one score per sample, ({batch},): it returned {given}")
        return scores

    def describe(self, row: int) -> dict[str, Any]:
        return {"target": getattr(self.function, "__qualname__", type(self.function).__name__)}


class Each(Target):
    """Another target for each sample, of any kinds: targets of one kind are evaluated together.

    Args:
        targets: one target per sample, each holding one entry; a single one serves a batch of any size.

    Raises:
        ValueError: there are none, one holds several entries, or only some read a feature map.

    Examples:
        >>> Each([Logit(0), Probability(1)])(torch.zeros(2, 2))
        tensor([0.0000, 0.5000])
    """

    @torch.inference_mode(False)
    def __init__(self, targets: Sequence[Target]) -> None:
        if not len(targets):
            raise ValueError("a list of targets holds one target per sample: it is empty")
        for target in targets:
            if not isinstance(target, Target):
                raise ValueError(f"a list of targets holds Targets, Logit(3) or Custom(function): got {target!r}")
            if len(target) != 1:
                raise ValueError(
                    f"a list of targets takes one entry per sample: {type(target).__name__} holds {len(target)}"
                )
        self.targets = list(targets)
        groups: dict[Any, list[int]] = {}
        for row, target in enumerate(self.targets):
            groups.setdefault(_kind(target), []).append(row)
        self._groups = [(torch.tensor(rows), _stack([self.targets[r] for r in rows])) for rows in groups.values()]
        self.affine = all(target.affine for target in self.targets)  # type: ignore[misc]
        self.at_layer = all(target.at_layer for target in self.targets)  # type: ignore[misc]
        if not self.at_layer and any(target.at_layer for target in self.targets):
            raise ValueError(
                "FeatureLocation cannot share a batch with targets on the network's outputs: explain it alone"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Tensor) -> Target:
        return self if len(self) == 1 else Each([self.targets[row] for row in rows.tolist()])

    def __call__(self, outputs: Any) -> Tensor:
        self.check(batch_of(outputs))
        if len(self) == 1:
            return self.targets[0](outputs)
        order = torch.cat([rows for rows, _ in self._groups])
        parts = [target(rows_of(outputs, rows)) for rows, target in self._groups]
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def describe(self, row: int) -> dict[str, Any]:
        return self.targets[0 if len(self) == 1 else row].describe(0)


def stack(targets: Sequence[Target], sizes: Sequence[int]) -> Target:
    """One target for consecutive batches of the given sizes that had a target each."""
    rows = [t.select(torch.tensor([row])) for t, n in zip(targets, sizes, strict=True) for row in range(n)]
    return Each(rows)


def singles(target: Target, batch: int) -> list[Target]:
    """The target of each of ``batch`` samples by itself, whether the target holds one for all, one each, or `Each`.

    Examples:
        >>> [type(one).__name__ for one in singles(Each([Logit(0), Probability(1)]), batch=2)]
        ['Logit', 'Probability']
    """
    rows = [target.select(torch.tensor([row])) for row in range(batch)]
    return [one for row in rows for one in (singles(row.targets[0], 1) if isinstance(row, Each) else [row])]


def first_tensor(outputs: Any) -> Tensor:
    """The tensor of scores or embeddings in a network's raw outputs: itself, ``.logits``, or the first of a tuple."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(getattr(outputs, "logits", None), Tensor):
        return outputs.logits  # type: ignore[no-any-return]
    values = list(outputs.values()) if isinstance(outputs, dict) else outputs
    if isinstance(outputs, dict) and isinstance(outputs.get("logits"), Tensor):
        return outputs["logits"]  # type: ignore[no-any-return]
    if isinstance(values, (list, tuple)) and values:
        return first_tensor(values[0])
    raise ValueError(f"the network returned {type(outputs).__name__}: pass a callable target that reads it")


def batch_of(outputs: Any) -> int:
    """The number of samples in a network's raw outputs."""
    return len(first_tensor(outputs))


def rows_of(outputs: Any, rows: Tensor) -> Any:
    """The given samples of a network's raw outputs."""
    batch = batch_of(outputs)

    def pick(leaf: Any) -> Any:
        per_sample = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch  # not a loss, nor anchors
        return leaf[rows.to(leaf.device)] if per_sample else leaf

    return tree_map(pick, outputs)


@torch.inference_mode(False)  # autograd keeps these tensors
def _set_indices(target: Target, **given: Indices) -> None:
    """Store class indices or places as index tensors ``(n,)`` of equal length, and the largest of them."""
    tensors = {name: _tensor(value, name).cpu().reshape(-1) for name, value in given.items()}
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.is_complex():
            raise ValueError(f"{name} must be one integer or several: got {given[name]!r}")
        if int(tensor.min()) < 0:
            raise ValueError(f"{name} counts from 0: got {int(tensor.min())}")
    rows = max(len(tensor) for tensor in tensors.values())
    if any(len(tensor) not in (1, rows) for tensor in tensors.values()):
        counts = " and ".join(f"{len(tensor)} entries of {name}" for name, tensor in tensors.items())
        raise ValueError(f"{type(target).__name__} got {counts}: give as many of each, or one")
    for name, tensor in tensors.items():
        object.__setattr__(target, name, tensor.long().expand(rows))
    object.__setattr__(target, "largest", max(int(tensor.max()) for tensor in tensors.values()))


@torch.inference_mode(False)
def _reference(value: Tensor, target: Target) -> Tensor:
    """A reference embedding as ``(n, D)``, checked."""
    name = type(target).__name__
    tensor = _tensor(value, f"the reference of {name}")
    tensor = tensor[None] if tensor.ndim == 1 else tensor
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} takes an embedding (D,) or one per sample (B, D): got {tuple(tensor.shape)} {tensor.dtype}"
        )
    if not bool(tensor.isfinite().all()) or not bool(tensor.any(dim=1).all()):
        raise ValueError(f"the reference of {name} holds NaN, infinities or only zeros")
    return tensor


def _tensor(value: Any, name: str) -> Tensor:
    """The value as a tensor that autograd may keep: one made under inference mode is copied."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number, a tensor or a list of numbers: got {value!r}") from error
    return tensor.clone() if tensor.is_inference() else tensor


def _matrix(outputs: Any, target: Target) -> Tensor:
    """The network's outputs as ``(B, K)``, in float32 or better."""
    z = first_tensor(outputs)
    if z.ndim != 2:
        raise ValueError(
            f"{type(target).__name__} needs outputs (B, K), this network returns {tuple(z.shape)}: "
            "pass a callable target that turns them into one score per sample"
        )
    target.check(len(z))
    return _precise(z)


def _precise(t: Tensor) -> Tensor:
    """In float32 or better."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


def _pick(z: Tensor, target: Target, k: Any) -> Tensor:
    if target.largest >= z.shape[1]:
        raise ValueError(
            f"class {target.largest} does not exist: the network has {z.shape[1]} outputs, 0 to {z.shape[1] - 1}"
        )
    return z.gather(1, k.to(z.device).expand(len(z))[:, None]).squeeze(1)


def _cosine(f: Tensor, reference: Tensor, target: Target) -> Tensor:
    """The cosines ``(B,)`` of embeddings ``(B, D)``: numerator times normaliser; 0 where f is 0."""
    r = F.normalize(_like(reference, f, target), dim=1)
    squares = (f * f).sum(dim=1).clamp_min(torch.finfo(f.dtype).tiny ** 0.5)
    return (f * r).sum(dim=1) * squares.rsqrt()


def _like(reference: Tensor, f: Tensor, target: Target) -> Tensor:
    if reference.shape[1] != f.shape[1]:
        raise ValueError(
            f"{type(target).__name__} has a reference of {reference.shape[1]} numbers, "
            f"the network's outputs have {f.shape[1]}"
        )
    return reference.to(f)


def _kind(target: Target) -> Any:
    """Targets with equal kinds can be stacked to one."""
    if isinstance(target, Each):
        return id(target)
    values = (getattr(target, f.name) for f in fields(cast(Any, target)))
    return type(target), *(value.shape[1:] if isinstance(value, Tensor) else id(value) for value in values)


def _stack(targets: list[Target]) -> Target:
    first = targets[0]
    if len(targets) == 1 or not first._entries():
        return first
    entries = {name: torch.cat([t._entries()[name] for t in targets]) for name in first._entries()}
    return cast(Target, replace(cast(Any, first), **entries))
