"""What all metrics share: the batch of maps that they judge, and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from faithmap.batching import chunked, default_batch
from faithmap.models.base import Model
from faithmap.pixels import filling
from faithmap.registry import Registered
from faithmap.targets import Logit, Probability, Target, singles

T = TypeVar("T")
Better = Literal["higher", "lower", "neither"]
Score = Literal["probability", "logit"]
Need = Literal["truth", "donor", "coefficients", "shapley", "explain"]


class Explain(Protocol):
    """Maps ``(B, H, W)`` of other inputs, targets or models, by the method whose maps are judged."""

    def __call__(self, x: Tensor, target: Target, model: Model | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Measured:
    """What a metric says of B maps: one value per sample under each of its parts."""

    values: Mapping[str, Tensor]
    """``(B,)`` each, float64; NaN where a sample has no value."""
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    """``(B, points)`` each, of those parts that sum up a curve."""


@dataclass(eq=False)
class Case:
    """One batch of maps to judge, with what belongs to it; what several metrics need is computed once and counted.

    Args:
        model: whose answers the maps explain.
        x: prepared inputs ``(B, C, H, W)``; of pairs of faces the probes.
        maps: ``(B, H, W)``, raw; of pairs what supports the match (e+).
        target: what they explain, one entry per sample: `Logit` of a class, or `Similarity` to the gallery's embedding.
        truth: where the object is, ``(B, H, W)`` bool, all boxes or the mask; a sample that has none is all False.
        first: the first box alone, likewise.
        donors: like x, without the cause, for replacing regions; a sample that has none is NaN.
        rivals: of each sample the regions that could have been the cause and were not, ``(n, H, W)`` bool.
        against: of pairs, whether the truth is what parts the two, ``(B,)`` bool.
        coefficients: of the layer's channels, ``(B, C)``, where the method has them.
        shapley: the channels' SHAP values and their standard errors, ``(B, C)`` each.
        explain: the method itself, for metrics that need maps of other inputs.
        genuine: of pairs, whether both faces are one person's, ``(B,)`` bool.
        partners: of pairs, the prepared galleries ``(B, C, H, W)``.
        threshold: of pairs, the similarity from which they match.
        seed: of what is random: ties, noise.
        batch_size: inputs per network call.
    """

    model: Model
    x: Tensor
    maps: Tensor
    target: Target
    truth: Tensor | None = None
    first: Tensor | None = None
    donors: Tensor | None = None
    rivals: Sequence[Tensor] | None = None
    against: Tensor | None = None
    coefficients: Tensor | None = None
    shapley: tuple[Tensor, Tensor] | None = None
    explain: Explain | None = None
    genuine: Tensor | None = None
    partners: Tensor | None = None
    threshold: float | None = None
    seed: int = 0
    batch_size: int | None = None
    forwards: int = 0
    """Network evaluations so far, summed over samples; without those of `explain`, which counts its own."""
    _known: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def scores(
        self, count: int, make: Callable[[Tensor], tuple[Tensor, Tensor]], target: Target | None = None
    ) -> Tensor:
        """The scores ``(count,)`` of changed inputs, which exist a batch at a time.

        Args:
            count: of inputs in all.
            make: ``i (m,) -> inputs (m, C, H, W), rows (m,)``: some of the inputs, and whose sample each is.
            target: the score; by default `score` as a probability.
        """
        asked = target or self.score("probability")

        def score(i: Tensor) -> Tensor:
            changed, rows = make(i)
            found = asked.select(rows)(self.model.network(changed)).double()
            self.forwards += len(rows)  # afterwards: a chunk that does not fit memory is asked for again
            return found

        with torch.inference_mode(False), torch.no_grad():
            return torch.cat(list(chunked(score, count, self.batch_size or default_batch(self.x))))

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What several metrics ask for, computed for the first of them.

        Args:
            key: all that it depends on beyond the case.
            compute: finds it.
        """
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def score(self, kind: Score) -> Target:
        """The number that metrics follow: the explained class's probability or logit; of pairs the similarity."""
        classes = [k for one in singles(self.target, len(self)) if isinstance(k := getattr(one, "k", None), Tensor)]
        if len(classes) < len(self):
            return self.target
        return Probability(torch.cat(classes)) if kind == "probability" else Logit(torch.cat(classes))

    @cached_property
    def clean(self) -> Tensor:
        """Y: the probability (or similarity) of the untouched inputs, ``(B,)``."""
        return self.scores(len(self), lambda i: (self.x[i.to(self.x.device)], i))

    @cached_property
    def shown(self) -> Tensor:
        """M: the maps scaled to [0, 1], ``(B, H, W)``; see `unit_scaled`."""
        return unit_scaled(self.maps)

    @cached_property
    def kept(self) -> Tensor:
        """O: the score of x * M, what the map shows, ``(B,)``."""
        return self.scores(len(self), lambda i: (self.masked(i, self.shown), i))

    @cached_property
    def removed(self) -> Tensor:
        """D: the score of x * (1 - M), what the map leaves, ``(B,)``."""
        return self.scores(len(self), lambda i: (self.masked(i, 1 - self.shown), i))

    def masked(self, i: Tensor, mask: Tensor) -> Tensor:
        """Some inputs ``(m, C, H, W)`` with their pixels, in [0, 1], times a mask ``(B, H, W)``: black where it is 0.

        Exactly the inputs where it is 1: a map that shows everything must not raise a score by rounding.
        """
        here = i.to(self.x.device)
        x, m = self.x[here], mask[here][:, None].to(self.x)
        return x * m + filling(x, "black", *self.model.scale(x)) * (1 - m)


def unit_scaled(maps: Tensor) -> Tensor:
    """Maps as metrics take them, in [0, 1]: negative values cut off, then each scaled from its minimum to its maximum.

    A constant map says that all pixels matter alike: it becomes 1 where it is above 0, else 0. A map that holds NaN or
    infinities says nothing: it becomes NaN.

    Args:
        maps: ``(B, H, W)``, raw.

    Examples:
        >>> unit_scaled(torch.tensor([[[-1.0, 1.0], [2.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]])).flatten(1)
        tensor([[0.0000, 0.5000, 1.0000, 0.0000],
                [1.0000, 1.0000, 1.0000, 1.0000]])
    """
    finite = maps.isfinite().flatten(1).all(dim=1)[:, None, None]
    maps = maps.clamp_min(0)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = torch.where(high > low, high - low, 1)
    return torch.where(finite, torch.where(high > low, (maps - low) / spread, (maps > 0).to(maps)), torch.nan)


@dataclass(frozen=True)
class Metric(Registered, ABC):
    """A way to judge maps: a frozen set of parameters that turns a `Case` into one value per sample.

    Raises:
        ValueError: a parameter is not of its declared type, or not finite.
    """

    parts: ClassVar[Mapping[str, Better]]
    """What it tells, and which way is better; a metric of one value calls it by its own name."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What a case must hold for it, beyond model, inputs, maps and target."""
    task: ClassVar[Literal["classification", "verification", "any"]] = "any"
    shares: ClassVar[bool] = False
    """Whether its values are shares, which tables print x 100; see `is_share`."""

    @abstractmethod
    def measure(self, case: Case) -> Measured:
        """One value per sample and part."""

    def is_share(self, part: str) -> bool:
        """Whether a part is a share of something."""
        return self.shares

    def check(self, model: Model) -> None:
        """Raise, before any work, if this model's maps cannot be judged by it."""

    def _given(self, value: T | None, need: Need) -> T:
        """What it needs of a case, or an error that says that the case lacks it."""
        if value is None:
            raise ValueError(f"{self.name} needs {need}: this case has none")
        return value

    def _one(self, values: Tensor, curve: Tensor | None = None) -> Measured:
        """The only value of a metric, under its own name."""
        return Measured({self.name: values.double()}, {} if curve is None else {self.name: curve.double()})
