"""Sanity: does a map depend on what the network has learned, on the class that was asked for, and not on noise?

These are gates. A map that stays the same without the weights, or for any class, does not explain this network's
answer, however good it looks; one that changes may still be wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faithmap.metrics.agreement import rank_correlation
from faithmap.metrics.base import Better, Case, Explain, Measured, Metric, unit_scaled
from faithmap.metrics.registry import register
from faithmap.models.base import Model
from faithmap.models.frozen import freeze, twin
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Logit, first_tensor


def scrambled(model: Model, seed: int = 0) -> Model:
    """The same model without what it has learned: the entries of every weight tensor in a random order.

    All parameters of the network are shuffled, each within itself; the caller's module is not touched. What was learned
    is their arrangement, and that is gone, while their distribution stays. So does the size of activations, though
    batch norms keep their statistics: at every convolution of EfficientNet-Lite0, MobileNetV2 and SqueezeNet it stays
    within two orders of magnitude of the trained network's (three photos, four seeds). A fresh initialisation by the
    layers' own defaults leaves 4e-9 of it in the first two, 4e-5 in the third, and logits that differ from photo to
    photo by 2e-8 at most: maps of such a network are other ones for a reason that proves nothing.

    A parameter of one number, or of equal ones, stays what it is.

    Args:
        model: any.
        seed: of the orders.

    Returns:
        A model of its own, kept for as long as the weights that it was made of stay what they are.

    Source: the test is that of Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv 1810.03292; they initialise
        anew.

    Examples:
        >>> model, x = fm.load(), torch.rand(1, 3, 224, 224)
        >>> other = scrambled(model)
        >>> bool((other.network(x) == model.network(x)).any())
        False
    """
    frozen, key = twin(model.module), ("scrambled", seed)
    with frozen.lock, torch.inference_mode(False), torch.no_grad():
        digest = model.weights_digest
        if frozen.derived.get(key, (None, None))[0] != digest:
            module = freeze(model.module)
            weights = dict(module.named_parameters())
            for weight, draw in zip(weights.values(), generators(seed, "scrambled", list(weights)), strict=True):
                order = torch.randperm(weight.numel(), generator=draw).to(weight.device)
                weight.data = weight.detach().flatten()[order].view_as(weight)  # new memory: the old is the caller's
            frozen.derived[key] = digest, module
        other = copy.copy(model)
        other.module = frozen.derived[key][1]
    return other


def other_classes(classes: Tensor, count: int, draw: list[torch.Generator]) -> Tensor:
    """Another class for each sample, all others equally likely: ``(B,)``.

    Args:
        classes: ``(B,)``.
        count: of classes, at least 2.
        draw: one generator per sample.

    Examples:
        >>> other_classes(torch.tensor([0, 1]), 2, [torch.Generator(), torch.Generator()])
        tensor([1, 0])
    """
    steps = torch.stack([torch.randint(1, count, (), generator=generator) for generator in draw])
    return (classes + steps.to(classes.device)) % count


def relative_change(maps: Tensor, others: Tensor) -> Tensor:
    """How far other maps lie from these, as a share of their length: ``|M' - M| / |M|``.

    Args:
        maps: M, ``(B, H, W)``.
        others: M', ``(B, H, W)``.

    Returns:
        ``(B,)``, float64; NaN where M is empty or one of the two not finite.

    Examples:
        >>> relative_change(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 3.0]]]))
        tensor([0.2000], dtype=torch.float64)
    """
    change: Tensor = (others.double() - maps.double()).flatten(1).norm(dim=1)
    length: Tensor = maps.double().flatten(1).norm(dim=1)
    return change / torch.where(length > 0, length, torch.nan)


@register("sanity")
@dataclass(frozen=True)
class Sanity(Metric):
    """How alike the map is to one without the network's weights (mprt), and to one of a random other class.

    Spearman's rank correlation of the raw maps, in [-1, 1]. Near 1 the method has failed: its map does not depend on
    what it claims to explain, as that of an edge detector does not. Near 0 it has passed, and nothing
    more is said: of two that pass, the lower one is not the better, which is why neither end is called better. Classes
    that look alike, and layers that are active in few places, keep correlations of good maps above 0.

    Source: Adebayo et al. 2018, arXiv 1810.03292 (weights; here shuffled, see `scrambled`). The class takes
        the place of their random labels, which would need another training.

    Examples:
        >>> Sanity().parts
        {'mprt': 'neither', 'class-randomisation': 'neither'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"mprt": "neither", "class-randomisation": "neither"}
    needs = frozenset({"explain"})
    task = "classification"

    def measure(self, case: Case) -> Measured:
        """Two maps per sample; no other class where there is one alone."""
        explain = self._given(case.explain, "explain")
        without = explain(case.x, case.target, model=scrambled(case.model, case.seed))
        found = (_alike(case.maps, without), self._of_other_class(case, explain))
        return Measured(dict(zip(self.parts, found, strict=True)))

    def _of_other_class(self, case: Case, explain: Explain) -> Tensor:
        explained, count = case.score("logit"), _classes(case)
        if not isinstance(explained, Logit) or count < 2:
            return torch.full((len(case),), torch.nan, dtype=torch.float64, device=case.x.device)
        k = torch.as_tensor(explained.k).expand(len(case))
        others = other_classes(k, count, generators(case.seed, "class-randomisation", sample_ids(case.x)))
        return _alike(case.maps, explain(case.x, Logit(others)))


@register("stability")
@dataclass(frozen=True)
class Stability(Metric):
    """How much the map changes when the picture is disturbed by noise that nobody sees; see `relative_change`.

    ``|M(x + n) - M(x)| / |M(x)|`` of maps scaled to [0, 1], with Gaussian n: its mean and its maximum over draws.

    Never alone: a map that ignores the picture is perfectly stable, be it constant, a centred Gaussian or frozen noise.
    Methods that sample draw anew for each picture: what changes then is their sampling error too.

    Args:
        noise: standard deviation of n, in pixels of [0, 1].
        draws: how many disturbed pictures per sample, one map each.

    Raises:
        ValueError: noise is not above 0, or draws below 1.

    Source: the maximum is a relative form of Yeh et al. 2019's max-sensitivity, arXiv 1901.09392, with Gaussian noise.

    Examples:
        >>> Stability(draws=8).parameters
        {'noise': 0.02, 'draws': 8}
    """

    noise: float = 0.02
    draws: int = 4

    parts: ClassVar[Mapping[str, Better]] = {"stability-mean": "lower", "stability-max": "lower"}
    needs = frozenset({"explain"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise > 0 or self.draws < 1:
            raise ValueError(f"stability takes noise > 0 and draws >= 1: got noise={self.noise}, draws={self.draws}")

    def measure(self, case: Case) -> Measured:
        """One map per sample and draw; the noise belongs to the seed and the sample."""
        explain, draw = self._given(case.explain, "explain"), generators(case.seed, self.name, sample_ids(case.x))
        _, std = case.model.scale(case.x)
        changes = []
        for _ in range(self.draws):
            n = torch.stack([torch.randn(case.x.shape[1:], generator=generator) for generator in draw]).to(case.x)
            changes.append(
                relative_change(case.shown, unit_scaled(explain(case.x + self.noise * n / std, case.target)))
            )
        found = torch.stack(changes)  # (draws, B)
        return Measured({"stability-mean": found.mean(dim=0), "stability-max": found.amax(dim=0)})


def _alike(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's correlation of each two, ``(B,)``."""
    return rank_correlation(torch.stack([maps, others], dim=1))[:, 0, 1]


def _classes(case: Case) -> int:
    """How many classes the network has: one evaluation tells."""
    with torch.inference_mode(False), torch.no_grad():
        case.forwards += 1
        return int(first_tensor(case.model.network(case.x[:1])).shape[-1])
