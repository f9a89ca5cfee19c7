"""Localisation: does the map lie on the object?

A map of the right evidence may lie elsewhere, for networks look at more than objects; and photographers put objects in
the middle. These numbers say something beside those of a centred Gaussian, and nothing alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from faithmap.metrics.base import Better, Case, Measured, Metric
from faithmap.metrics.registry import register
from faithmap.sampling import generators, sample_ids

Boxes = Literal["first", "all"]
"""What is held to be the truth: the first box alone, or all of them; of a mask all of it."""


def iou(maps: Tensor, truth: Tensor, threshold: float) -> Tensor:
    """Intersection over union of the truth and what the map shows, ``|{M >= t} & T| / |{M >= t} | T|``.

    Args:
        maps: ``(B, H, W)`` in [0, 1], as `unit_scaled` gives them.
        truth: where the object is, ``(B, H, W)`` bool.
        threshold: t, above 0 and at most 1.

    Returns:
        ``(B,)`` in [0, 1], float64; NaN where there is no truth, or a map is not finite.

    Raises:
        ValueError: the truth is not that of the maps, or the threshold not in range.

    Source: the box as it is against the thresholded map: Zhang and Guenther 2026, arXiv 2605.12017, Table 1.

    Examples:
        >>> iou(torch.tensor([[[0.9, 0.4, 0.1]]]), torch.tensor([[[True, False, False]]]), 0.3)
        tensor([0.5000], dtype=torch.float64)
    """
    _check(maps, truth)
    if not 0 < threshold <= 1:
        raise ValueError(f"a map in [0, 1] is cut above 0 and at most at 1: got {threshold}")
    hot = maps >= threshold
    both, either = (pixels.flatten(1).sum(dim=1).double() for pixels in (hot & truth, hot | truth))
    return _where_known(both / either, maps, truth)


def pointing_game(maps: Tensor, truth: Tensor, draw: Sequence[torch.Generator], tolerance: float = 15) -> Tensor:
    """Whether the map's maximum lies within the tolerance of the truth: a circle around it touches the object.

    One of several equal maxima is drawn at random. The first in reading order would lie at the top of the picture, and
    a constant map would then never hit, or always.

    Args:
        maps: ``(B, H, W)``, raw: only their maxima count.
        truth: where the object is, ``(B, H, W)`` bool.
        draw: one generator per sample, for ties.
        tolerance: the circle's radius in pixels, between centres of pixels.

    Returns:
        ``(B,)`` of 0 and 1, float64; NaN where there is no truth, or a map is not finite.

    Raises:
        ValueError: the truth is not that of the maps, or the tolerance negative.

    Source: Zhang et al. 2016, Top-down Neural Attention by Excitation Backprop, arXiv 1608.00507, section 4.1.

    Examples:
        >>> maps, truth = torch.zeros(2, 1, 32), torch.zeros(2, 1, 32, dtype=torch.bool)
        >>> maps[:, 0, 0], truth[0, 0, 15], truth[1, 0, 16] = 1.0, True, True
        >>> pointing_game(maps, truth, [torch.Generator(), torch.Generator()])
        tensor([1., 0.], dtype=torch.float64)
    """
    _check(maps, truth)
    if not tolerance >= 0:
        raise ValueError(f"the tolerance is a radius in pixels, 0 or more: got {tolerance}")
    rows, cols = (torch.arange(length, device=maps.device) for length in maps.shape[1:])
    hits = torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
    for i, (map, inside, generator) in enumerate(zip(maps, truth, draw, strict=True)):
        peaks = (map == map.max()).nonzero()  # (n, 2); none of NaN
        if len(peaks):
            row, col = peaks[int(torch.randint(len(peaks), (), generator=generator))]
            near = (rows[:, None] - row) ** 2 + (cols - col) ** 2 <= tolerance**2
            hits[i] = (near & inside).any()
    return _where_known(hits, maps, truth)


def energy_pointing(maps: Tensor, truth: Tensor) -> Tensor:
    """The share of the map's sum that lies on the truth, ``sum of M in T / sum of M``.

    Args:
        maps: ``(B, H, W)`` in [0, 1], as `unit_scaled` gives them.
        truth: where the object is, ``(B, H, W)`` bool.

    Returns:
        ``(B,)`` in [0, 1], float64; NaN where there is no truth, a map is empty, or not finite.

    Raises:
        ValueError: the truth is not that of the maps.

    Source: Wang et al. 2020, Score-CAM, arXiv 1910.01279, section 4.3.

    Examples:
        >>> energy_pointing(torch.tensor([[[0.75, 0.25]]]), torch.tensor([[[True, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    _check(maps, truth)
    inside, everywhere = ((maps.double() * weight).sum(dim=(1, 2)) for weight in (truth, 1))
    return _where_known(inside / everywhere, maps, truth)


@dataclass(frozen=True)
class _Localised(Metric):
    """A metric that holds maps against where the object is."""

    boxes: Boxes = "all"

    needs = frozenset({"truth"})
    task = "classification"
    shares = True

    def _truth(self, case: Case) -> Tensor:
        return self._given(case.first if self.boxes == "first" else case.truth, "truth")


@register("iou")
@dataclass(frozen=True)
class IoU(_Localised):
    """Intersection over union of the object's first box and the map, cut at .3, .5 and .7; see `iou`.

    Args:
        boxes: "first", as FAME's tables have it, or "all".

    Source: Zhang and Guenther 2026, arXiv 2605.12017, Table 1.

    Examples:
        >>> list(IoU().parts)
        ['iou@.3', 'iou@.5', 'iou@.7']
    """

    boxes: Boxes = "first"

    parts: ClassVar[Mapping[str, Better]] = {"iou@.3": "higher", "iou@.5": "higher", "iou@.7": "higher"}

    def measure(self, case: Case) -> Measured:
        """At all thresholds."""
        truth = self._truth(case)
        return Measured({part: iou(case.shown, truth, t) for part, t in zip(self.parts, (0.3, 0.5, 0.7), strict=True)})


@register("pointing-game")
@dataclass(frozen=True)
class PointingGame(_Localised):
    """Whether the map's maximum lies on the object, or beside it by no more than the tolerance; see `pointing_game`.

    Args:
        boxes: "all", for an object is found on any of its instances, or "first".
        tolerance: in pixels of the network's input. 15 belongs to pictures of about 224 pixels: for other sizes say
            another one.

    Raises:
        ValueError: the tolerance is negative.

    Source: Zhang et al. 2016, arXiv 1608.00507, section 4.1.

    Examples:
        >>> PointingGame().tolerance
        15.0
    """

    tolerance: float = 15.0

    parts: ClassVar[Mapping[str, Better]] = {"pointing-game": "higher"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance < 0:
            raise ValueError(f"pointing-game takes a tolerance of 0 pixels or more: got {self.tolerance}")

    def measure(self, case: Case) -> Measured:
        """Ties are drawn by the case's seed and the sample."""
        draw = generators(case.seed, self.name, sample_ids(case.x))
        return self._one(pointing_game(case.maps, self._truth(case), draw, self.tolerance))


@register("energy-pointing")
@dataclass(frozen=True)
class EnergyPointing(_Localised):
    """The share of the map's sum that lies on the object; see `energy_pointing`.

    A constant map gives the object's share of the picture: what a map has to beat.

    Args:
        boxes: "all", or "first".

    Source: Wang et al. 2020, arXiv 1910.01279, section 4.3.

    Examples:
        >>> EnergyPointing(boxes="first").parameters
        {'boxes': 'first'}
    """

    parts: ClassVar[Mapping[str, Better]] = {"energy-pointing": "higher"}

    def measure(self, case: Case) -> Measured:
        """Of the map scaled to [0, 1]."""
        return self._one(energy_pointing(case.shown, self._truth(case)))


def _check(maps: Tensor, truth: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != truth.shape or truth.dtype != torch.bool:
        raise ValueError(
            "maps (B, H, W) are held against a truth (B, H, W) of bools: "
            f"got {tuple(maps.shape)} and {tuple(truth.shape)} {truth.dtype}"
        )


def _where_known(values: Tensor, maps: Tensor, truth: Tensor) -> Tensor:
    """The values ``(B,)``; NaN where there is nothing to find, or a map says nothing."""
    known = truth.flatten(1).any(dim=1) & maps.isfinite().flatten(1).all(dim=1)
    return torch.where(known, values, torch.nan)
