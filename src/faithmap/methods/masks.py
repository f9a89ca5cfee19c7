"""Random masks: what a network says of pictures seen through them, by RISE, S-RISE and CorrRISE.

One set of masks serves every picture: it depends on the seed, the parameters and the input's size alone. Masks come as
a stream of blocks of fixed size, so that a run with N masks uses the first N of a longer run's, whatever the batches,
and no more than one block exists at a time.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.registry import register
from faithmap.pixels import Filling, filling
from faithmap.sampling import generators

BLOCK = 64
"""Masks drawn at once; another number would draw other masks."""


@dataclass(frozen=True)
class Masks(Method):
    """A method that asks for the scores of pictures under random masks."""

    masks: int

    least: ClassVar[int] = 2
    """Masks, for there to be a standard error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks < self.least:
            raise ValueError(f"{self.name} takes at least {self.least} masks: got masks={self.masks}")

    @property
    def steps(self) -> int:
        """The masks."""
        return self.masks

    @abstractmethod
    def draw(self, generator: torch.Generator, count: int, x: Tensor) -> Tensor:
        """Some masks ``(count, H, W)`` for inputs like x: 1 shows, 0 hides. What is random is drawn on the CPU."""

    def stream(self, query: Query) -> Iterator[Tensor]:
        """All masks, block by block, ``(k, H, W)``; the same ones each time."""
        generator = generators(query.seed, self.name, ["masks"])[0]
        for begin in range(0, self.masks, BLOCK):
            yield self.draw(generator, BLOCK, query.x)[: self.masks - begin]

    def scored(self, query: Query, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All masks with the scores under them, block by block: ``(k, H, W)``, and ``(k, B)`` in float64."""
        done = 0
        for masks in self.stream(query):
            yield masks, masked_scores(query, masks, hidden)
            done += len(masks)
            if query.progress:
                query.progress(done * len(query), 0)


@register("rise")
@dataclass(frozen=True)
class RISE(Masks):
    """Randomized input sampling: the mean of random masks, weighted by the score of the picture under each of them.

    ``map = 1 / (N keep) * sum_i y(x * m_i) m_i``. A mask is a grid of cells x cells, each visible with probability
    ``keep``, enlarged bilinearly to cells + 1 times the cell's side and cropped at a random place. All pictures see the
    same masks, which depend on the seed alone. The map comes with its standard error, pixel by pixel.

    It is the score to expect where the pixel is seen, not a weight: for y = sum_j w_j x_j it tends to
    ``keep y + 1/keep sum_j cov(m_i, m_j) w_j x_j``. The paper explains the class's probability, ``Probability(k)``;
    the target decides, and by default it is `Logit`.

    The larger the mean score beside its changes, the more the masks' own unevenness shows. ``centred``, the default,
    takes it out, ``mean y + 1 / (N keep) * sum_i (y_i - mean y) m_i``: the same limit, as a rule with a far smaller
    error (``python -m benchmarks.masks``). ``centred=False`` is the paper's estimator.

    Args:
        masks: how many, N.
        cells: of a mask's grid, along each side.
        keep: probability of a cell to be visible, p.
        fill: what is seen in hidden places: "mean", the network's mean colour, as in the paper; "black"; or "blur".
        centred: weigh by the scores less their mean; the paper does not.

    Source: Petsiuk, Das and Saenko 2018, arXiv 1806.07421, eq. 6 and section 3.2.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> found = RISE(masks=20, cells=4).run(fm.Classifier(net, size=32), torch.rand(1, 3, 32, 32), 0)
        >>> found.maps.shape, bool((found.standard_error > 0).all())
        (torch.Size([1, 32, 32]), True)
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    fill: Filling = "mean"
    centred: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells < 1:
            raise ValueError(f"{self.name} takes cells >= 1: got cells={self.cells}")
        if not 0 < self.keep < 1:
            raise ValueError(f"{self.name}'s keep is a probability between 0 and 1: got keep={self.keep}")

    def draw(self, generator: torch.Generator, count: int, x: Tensor) -> Tensor:
        """Enlarged grids, cropped at random places."""
        grids = torch.rand(count, self.cells, self.cells, generator=generator) < self.keep
        rows, cols = (self._crops(generator, count, x, side) for side in x.shape[-2:])
        return rows @ grids.to(x) @ cols.mT

    def _crops(self, generator: torch.Generator, count: int, x: Tensor, side: int) -> Tensor:
        """What share the pixels along one side of a cropped mask have in each cell, ``(count, side, cells)``."""
        cell = math.ceil(side / self.cells)
        cells = torch.eye(self.cells, dtype=x.dtype, device=x.device)[None]
        shares = F.interpolate(cells, (self.cells + 1) * cell, mode="linear")[0].T  # of the enlarged, uncropped grid
        places = torch.randint(cell, (count, 1), generator=generator) + torch.arange(side)
        return shares[places.to(x.device)]

    def attribute(self, query: Query) -> Result:
        """The masks' mean, weighted by the score."""
        maps, errors, reasons = self.weighted(query, lambda y: y)
        return Result(maps, standard_error=errors, reasons=reasons)

    def weighted(self, query: Query, weights: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, list[str]]:
        """The masks' means with their standard errors, ``(n, H, W)`` each, and why some are constant.

        Args:
            query: what is asked.
            weights: ``scores (k, B) -> weights (k, n)`` of some masks.
        """
        first = second = torch.zeros((), dtype=torch.float64, device=query.x.device)
        known = []
        for masks, y in self.scored(query, filling(query.x, self.fill, *query.model.scale(query.x))):
            w, m = weights(y), masks.flatten(1).double()  # (k, n), (k, H W)
            one = torch.ones_like(w[:, :1])
            first = first + torch.cat([w, one], dim=1).T @ m
            second = second + torch.cat([w**2, w, one], dim=1).T @ m**2
            known.append(w)
        w = torch.cat(known)  # (N, n)
        n, N = w.shape[1], self.masks
        centre = (w.mean(dim=0) if self.centred else torch.zeros_like(w[0]))[:, None]
        # Of the draws (w - centre) m: their mean, and that of their squares.
        mean = (first[:n] - centre * first[n]) / N
        square = (second[:n] - 2 * centre * second[n:-1] + centre**2 * second[-1]) / N
        errors = ((square - mean**2).clamp(min=0) / (N - 1)).sqrt() / self.keep
        # Under one and the same score only the masks' own mean is left, whose expectation is known: flat.
        same = (w == w[0]).all(dim=0)[:, None]
        maps, errors = torch.where(same, w[0][:, None], centre + mean / self.keep), torch.where(same, 0, errors)
        return as_maps(maps, query), as_maps(errors, query), unmoved(w)


@register("s-rise")
@dataclass(frozen=True)
class SRISE(RISE):
    """RISE for pairs of faces: the mean of random masks, weighted by the similarity of the masked face to the other.

    ``map = 1 / (N keep) * sum_i s(x * m_i, partner) m_i``, the similarity to expect where the pixel is seen. Masks,
    fill, centring and standard error are those of `RISE`.

    What speaks against a match, e-, comes from the same scores: the mean of masks weighted by 1 - s. It is 1 - e+
    (without ``centred`` only in the limit), so that it ranks the pixels the other way round and holds no news of its
    own.

    Args:
        masks: how many, N.
        cells: of a mask's grid, along each side.
        keep: probability of a cell to be visible.
        fill: what is seen in hidden places: "mean", the network's mean colour; "black"; or "blur".
        centred: weigh by the similarities less their mean.

    Source: Lu and Ebrahimi 2023, arXiv 2304.06118; the masks are those of Petsiuk et al. 2018, arXiv 1806.07421.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> face, pictures = fm.FaceEmbedder(net, size=32), torch.rand(2, 3, 32, 32)
        >>> pair = fm.explain_pair(face, pictures[:1], pictures[1:], SRISE(masks=20))
        >>> pair.probe.similar.maps.shape
        torch.Size([1, 32, 32])
    """

    masks: int = 1000
    cells: int = 7
    keep: float = 0.5
    fill: Filling = "mean"
    centred: bool = True

    faces = True
    opposite = "found"

    def attribute(self, query: Query) -> Result:
        """The masks' means, weighted by the similarity and by 1 less it."""
        n = len(query)
        maps, errors, reasons = self.weighted(query, lambda s: torch.cat([s, 1 - s], dim=1))
        e_plus, e_minus = slice(0, n), slice(n, None)
        return Result(
            maps[e_plus],
            against=maps[e_minus],
            standard_error=errors[e_plus],
            against_error=errors[e_minus],
            reasons=reasons[e_plus],
        )


@register("corrise")
@dataclass(frozen=True)
class CorrRISE(Masks):
    """The correlation, over random masks, of whether a pixel is seen with the similarity of the masked face.

    ``map(p) = corr_i(m_i(p), s(x * m_i, partner))``: positive where showing the pixel goes with a higher similarity,
    negative where it goes with a lower one. A mask hides a few square patches at random places, which may overlap. All
    pairs see the same masks, which depend on the seed alone. Any other target's score is correlated alike.

    A pixel that every mask shows, or none, has no correlation: its value is 0 with the error 1, "nothing known".
    Elsewhere the standard error is ``sqrt((1 - r^2) / (N - 2))``.

    Args:
        masks: how many.
        patches: that a mask hides.
        patch: their side as a share of the picture's shorter one; 30 of 112 pixels by default.
        correlation: "spearman", of the scores' ranks, ties sharing their average rank; or "pearson", of the scores.
        fill: what is seen in hidden places: "black"; "mean", the network's mean colour; or "blur".

    Source: Lu, Xu and Ebrahimi 2024, arXiv 2305.08546.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())
        >>> face, pictures = fm.FaceEmbedder(net, size=32), torch.rand(2, 3, 32, 32)
        >>> pair = fm.explain_pair(face, pictures[:1], pictures[1:], CorrRISE(masks=50))
        >>> bool((pair.probe.similar.maps.abs() <= 1).all())
        True
    """

    masks: int = 500
    patches: int = 3
    patch: float = 30 / 112
    correlation: Literal["spearman", "pearson"] = "spearman"
    fill: Filling = "black"

    signed = True
    opposite = "negated"
    least = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches < 1 or not 0 < self.patch <= 1:
            raise ValueError(
                "corrise takes patches >= 1 and a patch above 0 and up to 1, a share of the shorter side: "
                f"got patches={self.patches}, patch={self.patch}"
            )

    def draw(self, generator: torch.Generator, count: int, x: Tensor) -> Tensor:
        """Pictures with patches, all of them inside, hidden."""
        side = pixels(self.patch, x)
        inside = []
        for length in x.shape[-2:]:
            start = torch.randint(length - side + 1, (count, self.patches, 1), generator=generator)
            places = torch.arange(length)
            inside.append(((places >= start) & (places < start + side)).to(x))  # (count, patches, length)
        return (inside[0].mT @ inside[1] == 0).to(x)

    def attribute(self, query: Query) -> Result:
        """The scores under all masks, then, with the masks drawn again, their moments at each pixel."""
        scores = torch.cat(
            [y for _, y in self.scored(query, filling(query.x, self.fill, *query.model.scale(query.x)))]
        )  # (N, B)
        # The mask's own ranks at a pixel are two numbers: correlating with them or with the mask is the same.
        z = standardised(average_ranks(scores) if self.correlation == "spearman" else scores)
        together = seen = torch.zeros((), dtype=torch.float64, device=z.device)
        for masks, some in zip(self.stream(query), torch.split(z, BLOCK), strict=True):
            m = masks.flatten(1).double()  # (k, H W)
            together, seen = together + some.T @ m, seen + m.sum(dim=0)
        share = seen / self.masks
        known = (share > 0) & (share < 1) & (z != 0).any(dim=0)[:, None]  # (B, H W)
        r = torch.where(known, together / self.masks / torch.where(known, share * (1 - share), 1).sqrt(), 0)
        errors = torch.where(known, ((1 - r**2).clamp(min=0) / (self.masks - 2)).sqrt(), 1)
        return Result(as_maps(r, query), standard_error=as_maps(errors, query), reasons=unmoved(scores))


# ---------------------------------------------------------------------------------------------------------------------


def pixels(share: float, x: Tensor) -> int:
    """A share of the shorter side of x ``(B, C, H, W)`` in whole pixels, at least one."""
    return max(1, round(share * min(x.shape[-2:])))


def masked_scores(query: Query, masks: Tensor, hidden: Tensor) -> Tensor:
    """The scores of every picture under every mask, ``(k, B)`` in float64.

    Args:
        query: what is asked.
        masks: ``(k, H, W)``.
        hidden: what is seen where they are 0, ``(B, C, H, W)``.
    """
    x, n = query.x, len(query)

    def make(i: Tensor) -> tuple[Tensor, Tensor]:
        rows = i % n
        here, which = rows.to(x.device), (i // n).to(x.device)
        return torch.lerp(hidden[here], x[here], masks[which, None]), rows

    return query.input_scores(len(masks) * n, make).double().view(len(masks), n)


def as_maps(values: Tensor, query: Query) -> Tensor:
    """Values ``(n, H W)`` as maps ``(n, H, W)`` in the input's precision."""
    return values.to(query.x).view(-1, *query.x.shape[-2:])


def unmoved(scores: Tensor) -> list[str]:
    """Why the maps from scores ``(N, n)`` under all masks say nothing, where they do."""
    causes = {
        "the score is not finite under some masks": ~scores.isfinite().all(dim=0),
        "the score is the same under every mask": (scores == scores[0]).all(dim=0),
    }
    return first_cause(causes)


def average_ranks(scores: Tensor) -> Tensor:
    """Ranks from 1 within each column of ``(N, B)``, ties sharing their average; NaN where a score is not finite."""
    columns = scores.T.contiguous()
    order = columns.sort(dim=1).values
    below, up_to = (torch.searchsorted(order, columns, right=right) for right in (False, True))
    return ((below + up_to + 1) / 2 + 0 * columns).T  # 0 * x is NaN where x is not finite


def standardised(values: Tensor) -> Tensor:
    """Columns of ``(N, B)`` with mean 0 and mean square 1; zeros where all values are the same."""
    centred = values - values.mean(dim=0)
    return torch.where((values == values[0]).all(dim=0), 0, centred / centred.square().mean(dim=0).sqrt())
