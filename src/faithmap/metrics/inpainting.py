"""The inpainting game: twins of faces that differ from them in one region alone, which a map has to find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.batching import chunked, default_batch
from faithmap.metrics.base import Better, Case, Measured, Need
from faithmap.metrics.faces import ranking_auc
from faithmap.metrics.imputation import imputed
from faithmap.metrics.order import order as order_of
from faithmap.metrics.pairs import OfPairs, opposites, references_of, strangers
from faithmap.metrics.registry import register
from faithmap.metrics.removal import area
from faithmap.metrics.truth import is_earned, with_others
from faithmap.models.base import Model
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Similarity, first_tensor

# In the 112 x 112 crop that puts the eyes at (38.3, 51.7) and (73.5, 51.5), the nose at (56.0, 71.7) and the corners of
# the mouth at (41.5, 92.4) and (70.7, 92.2). Each holds its feature with the few pixels by which crops differ.
REGIONS: Mapping[str, tuple[int, int, int, int]] = {
    "brows": (24, 34, 88, 45),
    "left eye": (24, 36, 54, 62),
    "right eye": (58, 36, 88, 62),
    "nose": (42, 52, 70, 82),
    "mouth": (36, 82, 76, 104),
}
"""left, top, right, bottom of each, the latter two beyond its last pixel; sides as in the picture."""
PLACES = 4
"""Other regions of equal size that another face is pasted into, to see that the region is not any place."""


@register("inpainting-game")
@dataclass(frozen=True)
class InpaintingGame(OfPairs):
    """Does e- of a genuine probe's twin lie in the one region by which the twin differs, and does giving it back do?

    The twin is the probe with one of `REGIONS` taken over from another person's face, blended without a seam; see
    `blended`. It is less like the gallery, and all that makes it so lies in the region: e-, asked of the twin, should
    lead to it.

    The value: the twin's pixels are given back those of the probe in the order of e-. Outside the region that changes
    nothing, so each such pixel is a false alarm. At the share a of false alarms the picture y(a) holds the probe's
    pixels wherever the map has them flagged; its identity is back if ``cos(y, probe) > cos(y, twin)`` of embeddings.
    The area under ``[identity is back](a)``, a = 0, 1/steps, ..., 1, by trapezoids: 1 where the region leads, about a
    half for random orders. Where the identity comes back once, it is 1 less the false alarms until then.

    **Truth is earned**, as in `known-truth`: the twin is played only if it loses ``effect`` of the similarity to the
    gallery or more, and the same face blended into each of 4 other regions of exactly that size, drawn outside of it,
    costs less. The first region that earns it is played, in an order from the seed and the probe.
    All values but earned are NaN for other pairs, impostors among them; where the method has no e-, effect is left.

    Parts, beside the value: ranking, `ranking_auc` of the region in e-, 0.5 by chance; gain, ranking less that of e- of
    the untouched probe: 0 for every map that does not look at the picture, while one that lies in the middle leads in
    the value and in ranking; effect, by how much the similarity fell; earned, 1 or 0, whether a genuine pair is played:
    its mean is their share.

    The other person is drawn from the galleries of the batch whose similarity to the pair's own gallery is below the
    threshold: it depends on the batch, which benchmarks keep fixed.

    After the paper: faces that differ by one inpainted characteristic, known as the truth that maps have to find. This
    project's: twins from the crops at hand, where the paper has a curated set of synthetic ones; the direction, from
    the twin back to the probe; when the identity is back, and whose truth is earned; the area, ranking and gain.
    Figures are not comparable.

    Args:
        effect: the least fall of the similarity that makes the region a known truth, above 0.
        steps: of the share of false alarms.

    Raises:
        ValueError: effect or steps are out of range; the crop is too small; the case does not explain, or has no
            galleries.

    Source: after Williford et al. 2020, arXiv 2008.00916; blending after Perez et al. 2003, Poisson image editing.

    Examples:
        >>> fm.metrics.create("inpainting-game", effect=0.05)
        InpaintingGame(effect=0.05, steps=20)
    """

    parts: ClassVar[Mapping[str, Better]] = {
        "inpainting-game": "higher",
        "inpainting-game ranking": "higher",
        "inpainting-game gain": "higher",
        "inpainting-game effect": "neither",
        "inpainting-game earned": "neither",
    }
    needs: ClassVar[frozenset[Need]] = frozenset({"explain"})
    effect: float = 0.1
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.effect <= 0 or self.steps < 2:
            raise ValueError(
                f"inpainting-game takes an effect above 0 and 2 steps or more: got {self.effect} and {self.steps}"
            )

    def check(self, model: Model) -> None:
        super().check(model)
        regions_of(*model.size)

    def measure(self, case: Case) -> Measured:
        """Make twins, keep those that the network tells apart, ask for e- of both, play."""
        genuine, threshold = self.decision(case)
        if case.explain is None or case.partners is None:
            raise ValueError("inpainting-game asks for maps of twins: give Case(explain=..., partners=...)")
        references = references_of(case)
        donors = strangers(case, references, threshold, "inpainting-game donor").masked_fill(~genuine, -1)
        inside, effect = self._played(case, references, donors)
        rows = effect.isfinite().nonzero().flatten()
        twins = case.x.clone()
        clean, changed = (torch.full(case.maps.shape, torch.nan, device=case.x.device) for _ in range(2))
        if len(rows):
            twins[rows] = twin(case.model, case.x[rows], case.partners[donors[rows]], inside[rows])
            both = torch.cat([case.x[rows], twins[rows]])
            clean[rows], changed[rows] = opposites(case, both, references[rows].repeat(2, 1)).to(clean).chunk(2)
        curve = self._returns(case, twins, inside, changed)
        ranking = ranking_auc(changed, inside)
        values = {
            "": area(curve),
            " ranking": ranking,
            " gain": ranking - ranking_auc(clean, inside),
            " effect": effect,
            " earned": torch.where(genuine, effect.isfinite().double(), torch.nan),
        }
        return Measured({self.name + part: value for part, value in values.items()}, {self.name: curve})

    def _played(self, case: Case, references: Tensor, donors: Tensor) -> tuple[Tensor, Tensor]:
        """Each pair's region ``(B, H, W)`` and what it costs the similarity ``(B,)``; empty and NaN where none does."""
        H, W = case.x.shape[-2:]
        inside = torch.zeros(len(case), H, W, dtype=torch.bool, device=case.x.device)
        effect = torch.full((len(case),), torch.nan, dtype=torch.float64, device=case.x.device)
        rows = (donors >= 0).nonzero().flatten()
        if not len(rows):
            return inside, effect
        ids, regions = sample_ids(case.x[rows]), regions_of(H, W).to(case.x.device)
        n, R, P = len(rows), len(regions), 1 + PLACES
        places = torch.stack(
            [with_others(region.expand(n, -1, -1), PLACES, case.seed, ids) for region in regions], dim=1
        )
        galleries = case.partners
        assert galleries is not None

        def make(i: Tensor) -> tuple[Tensor, Tensor]:
            k = i.to(case.x.device)
            row = rows[k // (R * P)]
            found = twin(case.model, case.x[row], galleries[donors[row]], places.view(-1, H, W)[k])
            return found, row.cpu()

        after = case.scores(n * R * P, make, Similarity(references)).view(n, R, P).to(effect)
        falls = case.clean[rows, None, None].to(effect) - after
        earned = is_earned(falls, self.effect)  # (n, R)
        for k, generator in enumerate(generators(case.seed, self.name, ids)):
            order = torch.randperm(R, generator=generator).tolist()
            region = next((r for r in order if bool(earned[k, r])), None)
            if region is not None:
                inside[rows[k]], effect[rows[k]] = regions[region], falls[k, region, 0]
        return inside, effect

    def _returns(self, case: Case, twins: Tensor, inside: Tensor, maps: Tensor) -> Tensor:
        """Whether the identity is back at each share of false alarms, ``(B, steps + 1)``; NaN where nothing is played.

        With all pixels flagged the twin is the probe: that is not asked of the network.
        """
        curve = torch.full((len(case), self.steps + 1), torch.nan, dtype=torch.float64, device=case.x.device)
        rows = (inside.any(dim=(1, 2)) & maps.isfinite().all(dim=(1, 2))).nonzero().flatten()
        if not len(rows):
            return curve
        x, others, region = case.x[rows], twins[rows], inside[rows]
        f, g = (F.normalize(_embedded(case, pictures), dim=1) for pictures in (x, others))
        # Nearer to f than to g: cos(y, f) - cos(y, g) has the sign of the cosine of y and f - g.
        game = Case(case.model, others, maps[rows], Similarity(f - g), seed=case.seed, batch_size=case.batch_size)
        before = false_alarms(order_of(game), region)
        wrong = (~region).sum(dim=(1, 2))

        def make(i: Tensor) -> tuple[Tensor, Tensor]:
            row, step = (i // self.steps).to(x.device), (i % self.steps).to(x.device)
            back = region[row] & (before[row] * self.steps <= (step * wrong[row])[:, None, None])
            return torch.where(back[:, None], x[row], others[row]), i // self.steps

        curve[rows] = 1
        curve[rows, :-1] = (game.scores(len(rows) * self.steps, make).view(len(rows), -1) > 0).to(curve)
        case.forwards += game.forwards
        return curve


def blended(pixels: Tensor, donors: Tensor, region: Tensor) -> Tensor:
    """Pictures with a region of others in them, without a seam: the others' gradients, one's own colours at the border.

    Inside the region v solves Poisson's equation ``sum_q w_pq (v_p - v_q) = sum_q w_pq (d_p - d_q)`` over the eight
    neighbours q of p, d the other picture, with v the picture itself outside. v - d is then what `imputed` finds of
    the difference of both: the equations are solved, not iterated for a while. What leaves [0, 1] is cut off.

    Args:
        pixels: ``(B, C, H, W)`` in [0, 1], float32 or float64.
        donors: likewise.
        region: ``(B, H, W)`` bool; not all of a picture.

    Returns:
        ``(B, C, H, W)`` in [0, 1] inside the region, the pixels themselves outside.

    Source: Perez, Gangnet and Blake 2003, Poisson image editing.

    Examples:
        >>> dark, bright = torch.full((1, 1, 3, 3), 0.2), torch.full((1, 1, 3, 3), 0.7)
        >>> bright[..., 1, 1] += 0.1
        >>> region = torch.zeros(1, 3, 3, dtype=torch.bool)
        >>> region[:, 1, 1:] = True
        >>> blended(dark, bright, region)[0, 0, 1]
        tensor([0.2000, 0.3000, 0.2000])
    """
    hidden = region[:, None]
    shift = imputed((pixels - donors).masked_fill(hidden, 0), region)
    return torch.where(hidden, (donors + shift).clamp(0, 1), pixels)


def twin(model: Model, x: Tensor, donors: Tensor, region: Tensor) -> Tensor:
    """Prepared inputs ``(B, C, H, W)`` with a region of others in them; exactly themselves outside."""
    found = model.from_pixels(blended(model.to_pixels(x), model.to_pixels(donors), region))
    return torch.where(region[:, None], found, x)


def regions_of(H: int, W: int) -> Tensor:
    """`REGIONS` in a crop of H x W pixels, ``(R, H, W)`` bool.

    Raises:
        ValueError: the crop is so small that one of them has no pixel.

    Examples:
        >>> regions_of(56, 56).sum(dim=(1, 2))
        tensor([192, 195, 195, 210, 220])
    """
    found = torch.zeros(len(REGIONS), H, W, dtype=torch.bool)
    for region, (name, box) in zip(found, REGIONS.items(), strict=True):
        left, top, right, bottom = (
            math.floor(at * size / 112 + 0.5) for at, size in zip(box, (W, H, W, H), strict=True)
        )
        if left >= right or top >= bottom:
            raise ValueError(f"a crop of {H} x {W} pixels has none for the {name}: inpainting-game takes larger ones")
        region[top:bottom, left:right] = True
    return found


def false_alarms(places: Tensor, inside: Tensor) -> Tensor:
    """How many pixels outside a region come before each pixel, ``(B, H, W)`` int64.

    Args:
        places: when each pixel's turn is, ``(B, H, W)``, all different.
        inside: the region, ``(B, H, W)`` bool.

    Examples:
        >>> false_alarms(torch.tensor([[[3, 0, 1, 2]]]), torch.tensor([[[True, False, True, False]]]))
        tensor([[[2, 0, 1, 1]]])
    """
    ranked = places.flatten(1).argsort(dim=1)
    wrong = (~inside).flatten(1).long().gather(1, ranked)
    return torch.zeros_like(wrong).scatter_(1, ranked, wrong.cumsum(dim=1) - wrong).view(inside.shape)


def _embedded(case: Case, x: Tensor) -> Tensor:
    """Embeddings ``(n, D)``, counted."""

    def embed(i: Tensor) -> Tensor:
        f = first_tensor(case.model.network(x[i.to(x.device)])).double()
        case.forwards += len(i)
        return f

    with torch.inference_mode(False), torch.no_grad():
        return torch.cat(list(chunked(embed, len(x), case.batch_size or default_batch(x))))
