"""Occlusion: how much the score falls when a patch hides a place of the picture, for every place. X-Face likewise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.masks import pixels
from faithmap.methods.registry import register
from faithmap.pixels import Filling, filling


@dataclass(frozen=True)
class Patches(Method):
    """A method that slides patches over the picture.

    Places start in the upper left corner, a stride apart; the last of a row or column ends at the border.
    """

    signed = True
    opposite = "negated"

    @property
    def steps(self) -> int:
        """Hundredths: how many patches there are depends on the picture."""
        return 100

    def drops(self, query: Query, sides: Sequence[int], stride: int, fill: Filling) -> tuple[list[Tensor], list[str]]:
        """For each side of patches, the mean of y(x) - y(x occluded) over those that cover a pixel, ``(B, H, W)``.

        Returns:
            The maps in float64, and why they are constant or not finite.
        """
        n, hidden = len(query), filling(query.x, fill, *query.model.scale(query.x))
        grids = [[_windows(length, side, stride, query.x) for length in query.x.shape[-2:]] for side in sides]
        counts = [n * len(rows) * len(cols) for rows, cols in grids]
        maps, changes, done = [], [], 0
        for (rows, cols), count in zip(grids, counts, strict=True):
            before = done * self.steps * n

            def make(
                i: Tensor, rows: Tensor = rows, cols: Tensor = cols, before: int = before
            ) -> tuple[Tensor, Tensor]:
                if query.progress:
                    query.progress((before + int(i[0]) * self.steps * n) // sum(counts), 0)
                whose, place = i % n, (i // n).to(query.x.device)
                here = whose.to(query.x.device)
                patch = rows[place // len(cols), :, None] * cols[place % len(cols), None, :]  # (m, H, W)
                return torch.where(patch[:, None] > 0, hidden[here], query.x[here]), whose

            occluded = query.input_scores(count, make).double().view(-1, n).T  # (B, places)
            drop = query.scores.double()[:, None] - occluded
            sums = rows.double().T @ drop.view(n, len(rows), len(cols)) @ cols.double()
            maps.append(sums / (rows.sum(dim=0)[:, None] * cols.sum(dim=0)))
            changes.append(drop)
            done += count
        return maps, _reasons(torch.cat(changes, dim=1))


@register("occlusion")
@dataclass(frozen=True)
class Occlusion(Patches):
    """How much the score falls when a patch hides the pixel: the mean over all places of the patch that do.

    ``map(p) = mean over patches R that cover p of y(x) - y(x with R hidden)``. Positive where the picture speaks for
    the target, negative where hiding it raises the score. For y = sum_j w_j x_j and hidden pixels of 0 each patch
    gives the sum of w x inside it.

    Args:
        patch: side of the patch as a share of the picture's shorter side; 32 of 224 pixels by default.
        stride: from one place to the next, likewise; at most the patch.
        fill: what is seen in hidden places: "mean", the network's mean colour; "black"; or "blur".

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2; there a pixel has one patch, here all that cover it.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> maps = Occlusion()(fm.Classifier(net, size=32), torch.rand(1, 3, 32, 32), 0)
        >>> bool((maps[0, :16, :16] > 0).all()), bool((maps[0, 20:, 20:] == 0).all())
        (True, True)
    """

    patch: float = 32 / 224
    stride: float = 16 / 224
    fill: Filling = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.stride <= self.patch <= 1:
            raise ValueError(
                "occlusion takes 0 < stride <= patch <= 1, shares of the shorter side: a larger stride leaves pixels "
                f"uncovered: got patch={self.patch}, stride={self.stride}"
            )

    def attribute(self, query: Query) -> Result:
        """One size of patches."""
        side, stride = pixels(self.patch, query.x), pixels(self.stride, query.x)
        maps, reasons = self.drops(query, [side], stride, self.fill)
        return Result(maps[0].to(query.x), reasons=reasons)


@register("xface")
@dataclass(frozen=True)
class XFace(Patches):
    """Systematic occlusion of a face by patches of several sizes: the change of cosine distance per hidden area.

    ``map(p) = mean over sizes a of 1/a^2 * mean over patches R of side a that cover p of d(x with R hidden) - d(x)``,
    where d = 1 - s is the cosine distance to the partner and areas are in pixels. Positive where hiding the pixel
    takes the faces apart (similar), negative where it brings them together (dissimilar). The partner is not occluded.

    Args:
        smallest: side of the smallest patch as a share of the picture's shorter side; 7 of 112 pixels by default.
        sizes: of patches, each twice the side of the one before: 7, 14 and 28 pixels.
        stride: from one place to the next, likewise; at most the smallest patch; 5 of 112 pixels by default.
        fill: what is seen in hidden places: "black"; "mean", the network's mean colour; or "blur".

    Source: Knoche, Teepe, Hoermann and Rigoll 2023, arXiv 2211.13735.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> face, pictures = fm.FaceEmbedder(net, size=32), torch.rand(2, 3, 32, 32)
        >>> pair = fm.explain_pair(face, pictures[:1], pictures[1:], XFace(smallest=1 / 8, stride=1 / 8))
        >>> bool((pair.probe.dissimilar.maps == -pair.probe.similar.maps).all())
        True
    """

    smallest: float = 7 / 112
    sizes: int = 3
    stride: float = 5 / 112
    fill: Filling = "black"

    faces = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes < 1 or not 0 < self.stride <= self.smallest or not self.smallest * 2 ** (self.sizes - 1) <= 1:
            raise ValueError(
                "xface takes sizes >= 1 and 0 < stride <= smallest, shares of the shorter side, whose largest patch "
                "smallest * 2^(sizes - 1) is at most 1: "
                f"got smallest={self.smallest}, sizes={self.sizes}, stride={self.stride}"
            )

    def attribute(self, query: Query) -> Result:
        """All sizes of patches."""
        sides = [pixels(self.smallest * 2**k, query.x) for k in range(self.sizes)]
        maps, reasons = self.drops(query, sides, pixels(self.stride, query.x), self.fill)
        per_area = [found / side**2 for found, side in zip(maps, sides, strict=True)]
        return Result(torch.stack(per_area).mean(dim=0).to(query.x), reasons=reasons)


# ---------------------------------------------------------------------------------------------------------------------


def _windows(length: int, side: int, stride: int, x: Tensor) -> Tensor:
    """Which pixels along one dimension each place of a patch covers, ``(places, length)`` of 0 and 1."""
    starts = torch.tensor([*range(0, length - side, stride), length - side])[:, None]
    places = torch.arange(length)
    return ((places >= starts) & (places < starts + side)).to(x)


def _reasons(drops: Tensor) -> list[str]:
    """Why the maps of drops ``(B, places)`` say nothing, where they do."""
    causes = {
        "the score is not finite under some patches": ~drops.isfinite().all(dim=1),
        "no patch changes the score": (drops == 0).all(dim=1),
    }
    return first_cause(causes)
