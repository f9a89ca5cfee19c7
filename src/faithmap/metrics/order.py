"""In which order the pixels of pictures move, and the scores when some of them are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from faithmap.batching import Progress
from faithmap.metrics.base import Case
from faithmap.pixels import Granularity, patches, segment_means, superpixels
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Target

State: TypeAlias = tuple[bool, int]
"""What is gone from a picture: (False, t) the first t shares of its pixels, (True, t) all but these."""


def scores_without(
    case: Case,
    states: Sequence[State],
    steps: int,
    places: Tensor,
    replaced: Callable[[Tensor, Tensor], Tensor],
    target: Target,
    progress: Progress | None = None,
) -> Tensor:
    """The scores of pictures of which some pixels are gone, in batches over samples and states alike.

    Args:
        case: the samples.
        states: what is gone; see `State`.
        steps: how many shares the picture has.
        places: when its pixels move, ``(B, H, W)``; see `order`.
        replaced: ``rows (m,), gone (m, H, W) bool -> inputs (m, C, H, W)``: some samples without some pixels.
        target: the score.
        progress: called with (done, total) network evaluations.

    Returns:
        ``(B, states)``, float64.
    """
    pixels, count, device = places[0].numel(), len(states), case.x.device
    rest = torch.tensor([rest for rest, _ in states], device=device)
    # Places are whole numbers: below 2 pixels t / steps is below that rounded up.
    limits = torch.tensor([-(-2 * pixels * t // steps) for _, t in states], device=device)

    def make(i: Tensor) -> tuple[Tensor, Tensor]:
        if progress:
            progress(int(i[0]), len(case) * count)
        rows, state = (i // count).to(device), (i % count).to(device)
        first = places[rows] < limits[state][:, None, None]  # (m, H, W)
        return replaced(rows, first ^ rest[state][:, None, None]), i // count

    found = case.scores(len(case) * count, make, target).view(len(case), count)
    if progress:
        progress(found.numel(), found.numel())
    return found


def order(case: Case, granularity: Granularity = "pixels", side: float = 1 / 28) -> Tensor:
    """When each pixel moves: twice the place of its piece's middle among all pixels, in their order.

    A piece has moved at step t of T if its middle lies below the share: ``T place < 2 H W t``. Pieces are ordered by
    the mean of the map in them, the largest first; ties are broken at random, by the seed and the picture.

    Returns:
        ``(B, H, W)``, int64.
    """
    key = ("order", granularity, side if granularity == "patches" else None)
    return case.once(key, lambda: _places(case, _pieces(case, granularity, side)))


def check_side(side: float) -> None:
    """Raise unless it is a share."""
    if not 0 < side <= 1:
        raise ValueError(f"a patch's side is a share of the picture's, above 0 and at most 1: got {side:g}")


def side_in_pixels(side: float, H: int, W: int) -> int:
    """Of a patch, or an error where it would have none."""
    pixels = round(side * min(H, W))
    if pixels < 1:
        raise ValueError(f"a patch of {side:g} of the shorter side of {H} x {W} pixels is none: make it larger")
    return pixels


def _pieces(case: Case, granularity: Granularity, side: float) -> Tensor | None:
    """The piece of each pixel, ``(B, H, W)`` on the CPU; None for pixels by themselves."""
    B, _, H, W = case.x.shape
    if granularity == "pixels":
        return None
    if granularity == "superpixels":
        return superpixels(case.model.to_pixels(case.x))
    return patches(H, W, side_in_pixels(side, H, W)).expand(B, H, W)


def _places(case: Case, pieces: Tensor | None) -> Tensor:
    maps = case.maps
    if pieces is None:
        values, sizes = maps.flatten(1), torch.ones(maps[0].numel(), dtype=torch.int64).expand(len(maps), -1)
    else:
        count = int(pieces.max()) + 1
        # Rounded, so that equal means are equal whatever the order of their sums.
        values = segment_means(maps[:, None], pieces, count)[:, 0].float()
        sizes = torch.stack([torch.bincount(one.flatten(), minlength=count) for one in pieces])
    places = []
    for value, size, generator in zip(values, sizes, generators(case.seed, "ties", sample_ids(case.x)), strict=True):
        shuffled = torch.randperm(len(value), generator=generator).to(value.device)
        ranked = shuffled[value[shuffled].argsort(descending=True, stable=True)]
        moved = size.to(value.device)[ranked]
        places.append(torch.empty_like(moved).scatter_(0, ranked, 2 * moved.cumsum(0) - moved))
    found = torch.stack(places)  # (B, pieces)
    return (found if pieces is None else found.gather(1, pieces.flatten(1))).view(maps.shape).to(case.x.device)
