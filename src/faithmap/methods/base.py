"""What all methods share: how they are called, what they may ask the network, and what they return."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.batching import Progress, chunked, default_batch
from faithmap.cut import Cut, Observed, Split, cut, observe
from faithmap.models.base import Model, require_model
from faithmap.models.face import FaceEmbedder
from faithmap.registry import Registered
from faithmap.rules import Linearised, gradient
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Target, first_tensor, stack


@dataclass
class Cost:
    """Network evaluations, summed over images. Trunk and tail together are one forward."""

    forward: float = 0
    backward: float = 0
    tail_forward: float = 0
    """Runs of the tail alone, beyond the one that belongs to a forward."""
    tail_backward: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def per_image(self, images: int) -> dict[str, float]:
        """The evaluations per image, those that are not zero."""
        return {name: count / images for name, count in dataclasses.asdict(self).items() if count}


@dataclass(frozen=True, eq=False)
class Result:
    """What a method found for B samples."""

    maps: Tensor
    """``(B, H, W)``, raw."""
    scores: Tensor | None = None
    """The number that is explained, ``(B,)``."""
    target: Target | None = None
    against: Tensor | None = None
    """What speaks against the target, ``(B, H, W)``, where the method finds it in the same run."""
    standard_error: Tensor | None = None
    """Of sampled maps, pixel by pixel, ``(B, H, W)``."""
    against_error: Tensor | None = None
    """Of `against`, where it is sampled."""
    coefficients: Tensor | None = None
    """The weights of the layer's channels, ``(B, C)``, where the map is a weighted sum of them."""
    coefficients_error: Tensor | None = None
    """Their standard errors, where they are sampled."""
    completeness_error: Tensor | None = None
    """For additive methods ``|sum of contributions - (y(A) - y(0))|``, ``(B,)``."""
    condition: Tensor | None = None
    """How badly that sum is conditioned: ``sum of |contributions| / |y(A) - y(0)|``, ``(B,)``; methods that divide by a
    sum report how much of it cancels, in the same way."""
    reasons: Sequence[str] = ()
    """What a sample's map would be constant or undefined for, where the method knows; "" elsewhere."""
    layer: str | None = None
    """The target layer, where one was read."""
    notes: dict[str, Any] = field(default_factory=dict)
    """How it was computed, for provenance; a list holds one entry per sample."""
    cost: Cost = field(default_factory=Cost)

    def rows(self, which: slice) -> Result:
        """Of some of the samples; what concerns all of them (cost, and most notes) stays."""
        per_sample: dict[str, Any] = {
            name: value[which]
            for name, value in vars(self).items()
            if isinstance(value, Tensor) or (name == "reasons" and value)
        }
        if self.target is not None:
            per_sample["target"] = self.target.select(torch.arange(len(self.maps))[which])
        per_sample["notes"] = {k: note[which] if isinstance(note, list) else note for k, note in self.notes.items()}
        return dataclasses.replace(self, **per_sample)

    def adding_up(self, parts: Tensor, whole: Tensor) -> Result:
        """With how well contributions ``(B, ...)`` add up to a whole ``(B,)``: completeness error and condition."""
        inner = tuple(range(1, parts.ndim))
        return dataclasses.replace(
            self,
            completeness_error=(parts.sum(dim=inner) - whole).abs(),
            condition=parts.abs().sum(dim=inner) / whole.abs(),
        )


@dataclass(eq=False)
class Query:
    """One batch of samples with the question asked about them; counts what is asked of the network."""

    model: Model
    x: Tensor
    """``(B, 3, H, W)``, prepared, float32 or better."""
    given: Target | None
    """The target, or None for the model's default."""
    named_layer: str | None
    seed: int
    batch_size: int
    progress: Progress | None = None
    """Called with the steps done of this batch's samples; see `Method.steps`."""
    cost: Cost = field(default_factory=Cost)

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def layer(self) -> str:
        """The target layer: the method's own, or the model's."""
        return self.named_layer or self.model.target_layer

    @cached_property
    def cut(self) -> Cut:
        """The network cut at the layer."""
        return cut(self.model.module, self.layer, self.x.to(self.model.dtype))

    @cached_property
    def split(self) -> Split:
        """The activations at the layer and the tail from there; the trunk runs once."""
        self.cost.forward += len(self)
        return self.cut.split(self.x.to(self.model.dtype), self.model.autocast())

    @cached_property
    def outputs(self) -> Any:
        """The network's raw outputs: from the tail where the trunk has run, else from a forward."""
        with torch.no_grad():
            if "split" in self.__dict__:
                return self.split.tail(self.split.A)
            parts = list(chunked(self._forward, len(self), self.batch_size))
        return parts[0] if len(parts) == 1 else torch.cat([first_tensor(part) for part in parts])

    def _forward(self, rows: Tensor) -> Any:
        self.cost.forward += len(rows)
        return self.model.network(self.x[rows.to(self.x.device)])

    @cached_property
    def target(self) -> Target:
        """What is explained."""
        return self.model.default_target(self.outputs) if self.given is None else self.given

    @cached_property
    def scores(self) -> Tensor:
        """The number that is explained, ``(B,)``."""
        if self.target.at_layer:
            return self.target(self.split.A)
        with torch.no_grad():
            return self.target(self.outputs)

    def tail_scores(self, A: Tensor) -> Tensor:
        """The scores as if the layer had returned A."""
        return self.target(self.split.tail(A))

    def tail_gradient(self) -> Tensor:
        """The gradient of the scores to the activations, ``(B, C, h, w)``; one run of the tail and back."""
        A = self.split.A.clone().requires_grad_()
        with torch.enable_grad():
            outputs = self.split.tail(A)
            self.__dict__.setdefault("outputs", _detached(outputs))
            scores = self.target(outputs)
        self.__dict__.setdefault("scores", scores.detach())
        self.cost.tail_backward += len(self)
        return gradient(scores, A).to(self.x.dtype)

    def count_tail(self, found: Linearised) -> None:
        """Count a pass through the tail and back by replaced rules, and keep its scores."""
        # One run of the tail belongs to the forward: that which gave the outputs, where they were asked for.
        fresh = "outputs" not in self.__dict__ and "scores" not in self.__dict__
        self.cost.tail_forward += (found.runs - fresh) * len(self)
        self.cost.tail_backward += len(self)
        self.__dict__.setdefault("scores", found.value)

    def observe(
        self, layers: Collection[str], x: Tensor | None = None, inputs: Collection[str] = ()
    ) -> tuple[Tensor, Any, list[Observed]]:
        """The scores, the raw outputs and the calls of some layers in one forward of the whole network, with gradients.

        Args:
            layers: dotted paths.
            x: the samples themselves, where gradients have to reach them.
            inputs: those of the layers whose inputs are kept too.
        """
        x = self.x if x is None else x
        with torch.enable_grad(), self.model.autocast():
            outputs, calls = observe(self.model.module, layers, x.to(self.model.dtype), inputs)
        self.cost.forward += len(self)
        self.__dict__.setdefault("outputs", _detached(outputs))
        with torch.enable_grad():
            scores = self.target(outputs)
        self.__dict__.setdefault("scores", scores.detach())
        return scores, outputs, calls

    def input_scores(self, count: int, make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """The scores ``(count,)`` of changed inputs, which exist a chunk at a time.

        Args:
            count: of inputs in all.
            make: ``i (m,) -> inputs (m, 3, H, W), rows (m,)``: some of the inputs, and whose sample each is.
        """

        def ask(inputs: Tensor, rows: Tensor) -> Any:
            self.cost.forward += len(rows)
            return self.model.network(inputs)

        return self._asked(count, make, ask, self.batch_size)

    def input_gradients(
        self, count: int, make: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The gradients of the scores of changed inputs, a chunk at a time: for sums, which need not keep them.

        Args:
            count: of inputs in all.
            make: as for `input_scores`; a chunk that does not fit memory is asked for again, in halves.

        Yields:
            Which of the inputs ``(m,)``, their scores ``(m,)``, and the gradients ``(m, 3, H, W)``.
        """
        target = self.target  # first: it may need the outputs

        def ask(i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            changed, rows = make(i)
            changed = changed.detach().requires_grad_()
            self.cost.forward += len(rows)
            self.cost.backward += len(rows)
            with torch.enable_grad():
                scores = target.select(rows)(self.model.network(changed))
            return i, scores.detach(), gradient(scores, changed)

        return chunked(ask, count, self.batch_size)

    def coalition_scores(self, count: int, make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """The scores ``(count,)`` as if the layer had returned other activations, by the tail alone.

        Args:
            count: of feature maps in all.
            make: ``i (m,) -> activations (m, C, h, w), rows (m,)``: some of them, and whose sample each is.
        """

        def ask(A: Tensor, rows: Tensor) -> Any:
            self.cost.tail_forward += len(rows)
            return self.split.tail(A, rows)

        return self._asked(count, make, ask, self.tail_batch)

    @property
    def tail_batch(self) -> int:
        """How many feature maps go through the tail at once: as many numbers as a batch of inputs."""
        return max(1, self.batch_size * self.x[0].numel() // self.split.A[0].numel())

    def _asked(self, count: int, make: Callable[..., Any], ask: Callable[..., Any], size: int) -> Tensor:
        target = self.target  # first: it may need the outputs

        def score(i: Tensor) -> Tensor:
            changed, rows = make(i)
            return target.select(rows)(ask(changed, rows))

        return torch.cat(list(chunked(score, count, size)))

    def completed(self, found: Result) -> Result:
        """What the method found, with what the query knows: target, scores, layer and cost."""
        notes = dict(found.notes)
        layer = self.layer if "cut" in self.__dict__ else None
        if layer is not None:
            notes |= {"cut": self.cut.kind} | ({"replayed because": self.cut.reason} if self.cut.reason else {})
        return dataclasses.replace(
            found, target=self.target, scores=self.scores, layer=layer, notes=notes, cost=self.cost
        )

    def generators(self, method: str) -> list[torch.Generator]:
        """One random generator per sample, of its own."""
        return generators(self.seed, method, sample_ids(self.x))

    def upsample(self, maps: Tensor) -> Tensor:
        """Maps ``(B, h, w)`` of the layer's places at the input's size, bilinear: ``(B, H, W)``."""
        size = (self.x.shape[-2], self.x.shape[-1])
        return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True)
class Method(Registered, ABC):
    """A way to explain: a frozen set of hyper-parameters, called as ``method(model, x, target)``.

    Raises:
        ValueError: a parameter is not of its declared type, or not finite.
    """

    signed: ClassVar[bool] = False
    """Whether its maps tell what speaks against the target by a minus sign."""
    additive: ClassVar[bool] = False
    """Whether its parts add up to the score; it then reports how well they do."""
    at_layer: ClassVar[bool] = False
    """Whether it can explain a place of a feature map (`FeatureLocation`)."""
    control: ClassVar[bool] = False
    """Whether it knows nothing of the network and stands in tables to be beaten."""
    faces: ClassVar[bool] = False
    """Whether it explains pairs of faces alone."""
    opposite: ClassVar[Literal["asked", "negated", "found", "none"]] = "asked"
    """Where a pair's e- comes from: asking for `Dissimilarity`, the negative of e+, `Result.against`, or nowhere."""
    continuous: ClassVar[bool] = False
    """Whether it batches by itself and takes all samples at once."""

    def __call__(self, model: Model, x: Tensor, target: Any = None, *, seed: int = 0) -> Tensor:
        """The raw maps ``(B, H, W)`` of prepared inputs.

        Args:
            model: a `Classifier` or `FaceEmbedder`.
            x: ``(B, 3, H, W)``, from ``model.prepare``.
            target: what to explain; by default the predicted class.
            seed: for methods that sample.
        """
        return self.run(model, x, target, seed=seed).maps

    def run(
        self,
        model: Model,
        x: Tensor,
        target: Any = None,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """The maps with what is known about them; arguments as for a call.

        Raises:
            ValueError: the model, the input, the target or the layer does not fit; nothing has been computed then.
        """
        model = require_model(model)
        if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
            raise ValueError(f"batch_size is a whole number, at least 1: got {batch_size!r}")
        # Whatever mode the caller is in: autograd needs normal tensors, sums and maps full precision.
        full_precision = torch.autocast(model.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), full_precision:
            x = model.check_input(x).detach()
            x = x.clone() if x.is_inference() else x
            wanted = model.target(target, len(x))
            if wanted is not None and wanted.at_layer and not self.at_layer:
                raise ValueError(f"{self.name} explains a network's outputs: for FeatureLocation use fame")
            self.check(model, wanted)
            layer = getattr(self, "layer", None)
            layer = layer if layer is None else model.check_layer(layer)
            size = batch_size or default_batch(x)

            def ask(rows: Tensor) -> Result:
                here, before = rows.to(x.device), int(rows[0]) * self.steps
                some = wanted if wanted is None or len(rows) == len(x) else wanted.select(rows)
                query = Query(model, x[here], some, layer, seed, size)
                if progress:
                    query.progress = lambda done, _=0: progress(before + done, len(x) * self.steps)
                found = query.completed(self.attribute(query))
                if query.progress and not self.continuous:
                    query.progress(len(rows) * self.steps, 0)
                return found

            if self.continuous:
                return ask(torch.arange(len(x)))
            return _joined(list(chunked(ask, len(x), size)))

    @abstractmethod
    def attribute(self, query: Query) -> Result:
        """The maps of one batch."""

    def check(self, model: Model, target: Target | None) -> None:
        """Raise, before any work, if the method cannot explain this target of this model."""
        if self.faces and not isinstance(model, FaceEmbedder):
            raise ValueError(f"{self.name} explains pairs of faces: {model.name} is a {type(model).__name__}")

    @property
    def steps(self) -> int:
        """The steps of work per sample that progress counts."""
        return 1


def first_cause(causes: Mapping[str, Tensor]) -> list[str]:
    """The first cause that holds for each sample, "" where none does.

    Args:
        causes: what they say, and for which samples they hold ``(B,)``.

    Examples:
        >>> first_cause({"broken": torch.tensor([False, True]), "flat": torch.tensor([False, True])})
        ['', 'broken']
    """
    held = torch.stack([which.cpu() for which in causes.values()], dim=1).tolist()
    return [next((cause for cause, holds in zip(causes, row, strict=True) if holds), "") for row in held]


def unruled(operations: Collection[str]) -> dict[str, str]:
    """What a backward pass has no rule for, for provenance."""
    return {"plain gradient through": ", ".join(operations)} if operations else {}


def _detached(outputs: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, outputs)


def _joined(results: list[Result]) -> Result:
    """The results of consecutive batches as one."""
    if len(results) == 1:
        return results[0]

    def cat(name: str) -> Tensor | None:
        parts = [getattr(result, name) for result in results]
        return None if parts[0] is None else torch.cat(parts)

    targets = [result.target for result in results if result.target is not None]
    return Result(
        maps=torch.cat([result.maps for result in results]),
        scores=cat("scores"),
        against=cat("against"),
        standard_error=cat("standard_error"),
        against_error=cat("against_error"),
        coefficients=cat("coefficients"),
        coefficients_error=cat("coefficients_error"),
        target=stack(targets, [len(result.maps) for result in results]),
        completeness_error=cat("completeness_error"),
        condition=cat("condition"),
        reasons=[reason for r in results for reason in (r.reasons or [""] * len(r.maps))],
        layer=results[0].layer,
        notes={
            name: [entry for r in results for entry in r.notes[name]] if isinstance(note, list) else note
            for name, note in results[0].notes.items()
        },
        cost=sum((result.cost for result in results), Cost()),
    )
