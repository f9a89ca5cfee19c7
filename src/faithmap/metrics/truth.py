"""Causes that are known: does the map show what the network is shown to follow?

A picture that was drawn tells where its cause is, and an intervention on the very network that is explained tells
whether that is so. Only then is a map graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faithmap.metrics.base import Better, Case, Measured, Metric, Need, unit_scaled
from faithmap.metrics.localisation import energy_pointing
from faithmap.metrics.pairs import opposites, references_of
from faithmap.metrics.registry import register
from faithmap.sampling import generators, sample_ids


@register("known-truth")
@dataclass(frozen=True)
class KnownTruth(Metric):
    """Does the map find the cause T that a world knows, where the network is shown to follow it?

    **Truth is earned.** A sample is graded only if replacing T by the donor's pixels, which lack the cause, moves the
    score by ``effect`` or more in the cause's direction, and replacing other regions of exactly T's size, drawn outside
    T, does not. The score is the probability of the explained class, which falls; of pairs the similarity, which falls
    where the cause joins the two faces and rises where it parts them. All other samples are NaN, and so are those whose
    cause fills more than half of the picture. truth-earned is the share that qualifies: it is the network's and the
    world's, not the method's.

    Of pairs whose cause parts them e- is asked and graded, else the map itself.

    truth-precision: of as many leading pixels as T has, the share in T; by chance T's share of the picture.
    truth-recall: the share of T among twice as many leading pixels.
    truth-energy: the share of M's sum that lies in T; see `energy_pointing`.
    truth-rank: the share of the rival regions, which could have been the cause, whose mean of the map is below that of
    T; equal ones count half. 1/2 by chance. NaN without rivals.
    truth-first: whether all of them are below.
    truth-effect: by how much replacing T moved the score in its direction, for every sample with a known cause.

    Equal values share the places that they take, so that a constant map is graded as chance.

    Args:
        effect: how much of the score makes a cause; by default 0.2 of a probability, 0.05 of a similarity.
        places: how many other regions have to leave the score as it is.

    Raises:
        ValueError: effect is not above 0, or there are no places.

    Source: this project's.

    Examples:
        >>> sorted(KnownTruth().parts)[:3]
        ['truth-earned', 'truth-effect', 'truth-energy']
    """

    parts: ClassVar[Mapping[str, Better]] = {
        "truth-precision": "higher",
        "truth-recall": "higher",
        "truth-energy": "higher",
        "truth-rank": "higher",
        "truth-first": "higher",
        "truth-earned": "neither",
        "truth-effect": "neither",
    }
    needs: ClassVar[frozenset[Need]] = frozenset({"truth", "donor", "explain"})
    effect: float | None = None
    places: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.effect is not None and not self.effect > 0) or self.places < 1:
            raise ValueError(
                f"known-truth takes an effect above 0 and at least 1 place: got {self.effect} and {self.places}"
            )

    def is_share(self, part: str) -> bool:
        """All but the change of the score, which may be a similarity's."""
        return part != "truth-effect"

    def measure(self, case: Case) -> Measured:
        """Replace, then grade."""
        truth = self._given(case.truth, "truth")
        moved = self._moved(case, truth)  # (B, 1 + places)
        least = self.effect if self.effect is not None else 0.2 if case.partners is None else 0.05
        earned = is_earned(moved, least)
        maps = self._maps(case, earned)
        hot = unit_scaled(maps)
        rank, first = ranked(maps, truth, case.rivals or [truth[:0]] * len(case))
        graded = {
            "truth-precision": found_among(maps, truth, 1),
            "truth-recall": found_among(maps, truth, 2),
            "truth-energy": energy_pointing(hot, truth),
            "truth-rank": rank,
            "truth-first": first,
        }
        values = {part: torch.where(earned, value, torch.nan) for part, value in graded.items()}
        known = moved[:, 0].isfinite()
        values["truth-earned"] = torch.where(known, earned.double(), torch.nan)
        values["truth-effect"] = moved[:, 0]
        return Measured(values)

    def _moved(self, case: Case, truth: Tensor) -> Tensor:
        """How far replacing T, then other regions, moves the score in the cause's direction; NaN where none is known.

        ``(B, 1 + places)`` float64.
        """
        donors = self._given(case.donors, "donor")
        regions = with_others(truth, self.places, case.seed, sample_ids(case.x))
        size = truth.flatten(1).sum(dim=1)
        known = (size > 0) & (2 * size <= truth[0].numel()) & donors.flatten(1).isfinite().all(dim=1)
        rows, count = known.nonzero().flatten(), 1 + self.places
        moved = torch.full((len(case), count), torch.nan, dtype=torch.float64, device=truth.device)
        if not len(rows):
            return moved

        def replaced(i: Tensor) -> tuple[Tensor, Tensor]:
            row, place = rows[i.to(rows.device) // count], (i % count).to(rows.device)
            return torch.where(regions[row, place][:, None], donors[row], case.x[row]), row.cpu()

        after = case.scores(len(rows) * count, replaced).view(-1, count).to(moved)
        moved[rows] = case.clean.to(moved)[rows, None] - after
        return moved if case.against is None else torch.where(case.against[:, None], -moved, moved)

    def _maps(self, case: Case, earned: Tensor) -> Tensor:
        """What is graded: of causes that part a pair e-, ``(B, H, W)``."""
        if case.against is None or not (some := (case.against & earned).nonzero().flatten()).numel():
            return case.maps
        maps = case.maps.clone()
        maps[some] = opposites(case, case.x[some], references_of(case)[some]).to(maps)
        return maps


def found_among(maps: Tensor, truth: Tensor, times: int) -> Tensor:
    """The share of the truth's pixels among the leading ``times |T|`` pixels of the map, whatever the order of equals.

    Of the pixels that share the last value with a place among the leading ones, each is taken in part.

    Args:
        maps: ``(B, H, W)``, raw: only their order counts.
        truth: ``(B, H, W)`` bool.
        times: how many leading pixels, in sizes of the truth.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN where there is no truth, or a map is not finite.

    Examples:
        >>> found_among(torch.tensor([[[3.0, 2.0], [2.0, 0.0]]]), torch.tensor([[[True, True], [False, False]]]), 1)
        tensor([0.7500], dtype=torch.float64)
    """
    values, inside = maps.double().flatten(1), truth.flatten(1)
    size = inside.sum(dim=1)
    leading = (times * size).clamp(1, values.shape[1])  # (B,)
    last = values.sort(dim=1, descending=True).values.gather(1, leading[:, None] - 1)  # (B, 1)
    above, level = values > last, values == last
    share = (leading - above.sum(dim=1)).double() / level.sum(dim=1)
    hits = (above & inside).sum(dim=1) + share * (level & inside).sum(dim=1)
    known = (size > 0) & values.isfinite().all(dim=1)
    return torch.where(known, hits / size, torch.nan)


def ranked(maps: Tensor, truth: Tensor, rivals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where the truth stands among its rivals by the map's mean in each region.

    Args:
        maps: ``(B, H, W)``, raw.
        truth: ``(B, H, W)`` bool.
        rivals: of each sample ``(n, H, W)`` bool; empty ones do not count.

    Returns:
        The share of rivals below the truth, equal ones by half, and whether all are below, ``(B,)`` float64 each; NaN
        where there are no rivals, no truth, or a map is not finite.

    Examples:
        >>> maps = torch.tensor([[[3.0, 2.0, 1.0]]])
        >>> ranked(maps, maps == 2, [torch.stack([maps[0] == 1, maps[0] == 3])])
        (tensor([0.5000], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    share, first = (torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device) for _ in range(2))
    for i, (map, region, others) in enumerate(zip(maps.double(), truth, rivals, strict=True)):
        others = others[others.flatten(1).any(dim=1)] if len(others) else others
        if not len(others) or not bool(region.any()) or not bool(map.isfinite().all()):
            continue
        own, theirs = map[region].mean(), torch.stack([map[other].mean() for other in others])
        share[i] = ((theirs < own).double() + (theirs == own).double() / 2).mean()
        first[i] = (theirs < own).all()
    return share, first


def is_earned(moved: Tensor, effect: float) -> Tensor:
    """Whether replacing a region moves the score by the effect or more, and replacing no other region does.

    Args:
        moved: how far each moves it in the cause's direction, ``(..., 1 + places)``, the region's own first.
        effect: the least that counts.

    Returns:
        ``(...)`` bool; False where something is NaN.

    Examples:
        >>> is_earned(torch.tensor([[0.4, 0.1], [0.4, 0.3]]), 0.2).tolist()
        [True, False]
    """
    return (moved[..., 0] >= effect) & (moved[..., 1:] < effect).all(dim=-1)


def with_others(truth: Tensor, count: int, seed: int, ids: list[str]) -> Tensor:
    """Each region before others of its size: see `elsewhere`.

    Args:
        truth: ``(B, H, W)`` bool.
        count: as for `elsewhere`.
        seed: likewise.
        ids: likewise.

    Returns:
        ``(B, 1 + count, H, W)`` bool.

    Examples:
        >>> with_others(torch.tensor([[[True, False, False]]]), 2, 0, ["a"]).shape
        torch.Size([1, 3, 1, 3])
    """
    return torch.cat([truth[:, None], elsewhere(truth, count, seed, ids)], dim=1)


def elsewhere(truth: Tensor, count: int, seed: int, ids: list[str]) -> Tensor:
    """Regions of exactly the truth's size outside of it: the pixels nearest to a point that is drawn there.

    Args:
        truth: ``(B, H, W)`` bool.
        count: how many of each sample.
        seed: of the points.
        ids: what the samples are, so that the same sample has the same regions in any batch.

    Returns:
        ``(B, count, H, W)`` bool; smaller where the truth leaves less than its size.

    Examples:
        >>> elsewhere(torch.tensor([[[True, False, False]]]), 2, 0, ["a"]).sum(dim=(2, 3))
        tensor([[1, 1]])
    """
    B, H, W = truth.shape
    found = torch.zeros(B, count, H, W, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for i, generator in enumerate(generators(seed, "known-truth", ids)):
        inside = truth[i].cpu()
        free, size = (~inside).nonzero(), int(inside.sum())
        for k in range(count if len(free) else 0):
            row, col = free[int(torch.randint(len(free), (1,), generator=generator))]
            away = ((y - row) ** 2 + (x - col) ** 2)[~inside]
            region = torch.zeros(len(free), dtype=torch.bool)
            region[away.argsort(stable=True)[:size]] = True
            found[i, k][~inside] = region
    return found.to(truth.device)
