"""Pairs of faces: does the decision follow the map, and does the map find what is known to join or part two faces?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faithmap.metrics.base import Better, Case, Measured, Need
from faithmap.metrics.pairs import OfPairs, opposites, references_of, strangers
from faithmap.metrics.registry import register
from faithmap.metrics.removal import Removal, area
from faithmap.metrics.verification import decided_right
from faithmap.pixels import Filling
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Similarity


@dataclass(frozen=True)
class _Decisions(OfPairs):
    """Correctness of the decision over eleven shares of the probe."""

    insert: ClassVar[bool]
    fill: Filling = "black"

    def measure(self, case: Case) -> Measured:
        """Areas over 0, 10, ..., 100 % of the pixels."""
        genuine, threshold = self.decision(case)
        similarity = _followed(case, self.insert, self.fill, steps=10)  # (B, 11)
        right = decided_right(similarity, genuine[:, None], threshold).double()
        right = torch.where(similarity.isnan(), torch.nan, right)
        whole = area(right)
        values = {
            "": whole,
            " genuine": torch.where(genuine, whole, torch.nan),
            " impostor": torch.where(genuine, torch.nan, whole),
            "@.2": area(right[:, :3]),
            " similarity": area(similarity),
        }
        return Measured(
            {self.name + part: value for part, value in values.items()},
            {self.name: right, f"{self.name} similarity": similarity},
        )


@register("verification-deletion")
@dataclass(frozen=True)
class VerificationDeletion(_Decisions):
    """Whether a pair is still decided right as the probe's pixels are removed in the order of e+.

    ``right(P) = [s(P) >= t] == genuine`` with P = 0, 10, ..., 100 % of the pixels replaced by the fill, and t fixed on
    clean pairs. The value is the area under right(P) by the trapezoid rule, 0 to 1; its mean over pairs is the area
    under the accuracy. Tables print it times 100. Where half of the pairs are genuine, all are right when clean and
    removal lowers every similarity, it is 52.5 % or more: a genuine pair's P = 0 alone is 1/20 of its area.

    Parts, beside the area over all pairs:
    genuine, impostor: the area of that kind alone, NaN for the other. An impostor pair is right as long as it does not
    match. e+ is what makes it match: removing that keeps the pair right whatever the map, and sets right soonest a pair
    that matched falsely. So for impostors neither way is better, and the area over all pairs, which papers print, is
    a mixture: read genuine pairs and the similarity.
    @.2: the area over P = 0, 10, 20 %, divided by its width: what follows removes most of the face.
    similarity: the area under s(P). e+ supports every pair, so it should fall early for both kinds.

    Args:
        fill: what pixels are replaced by: "black", as in the papers, "mean" or "blur". Scattered black pixels destroy
            any picture, so that a random order looks good: compare with the control rows.

    Source: the evaluation of Lu et al. 2024, arXiv 2305.08546, and Zhang and Guenther 2026, arXiv 2605.12017, Tab. 2.

    Examples:
        >>> fm.metrics.create("verification-deletion", fill="blur")
        VerificationDeletion(fill='blur')
    """

    insert = False
    parts: ClassVar[Mapping[str, Better]] = {
        "verification-deletion": "lower",
        "verification-deletion genuine": "lower",
        "verification-deletion impostor": "neither",
        "verification-deletion@.2": "lower",
        "verification-deletion similarity": "lower",
    }


@register("verification-insertion")
@dataclass(frozen=True)
class VerificationInsertion(_Decisions):
    """Whether a pair is decided right as the probe's pixels enter a picture that is all fill, in the order of e+.

    ``right(P) = [s(P) >= t] == genuine`` with P = 0, 10, ..., 100 % of the pixels shown, and t fixed on clean pairs.
    The value is the area under right(P) by the trapezoid rule, 0 to 1; see `VerificationDeletion` for its parts.
    A faithful e+ makes genuine pairs match early, and sooner lets in an impostor that matches falsely: for impostors
    neither way is better.

    Args:
        fill: what stands where no pixel has entered: "black", as in the papers, "mean" or "blur".

    Source: the evaluation of Lu et al. 2024, arXiv 2305.08546, and Zhang and Guenther 2026, arXiv 2605.12017, Tab. 2.

    Examples:
        >>> fm.metrics.create("verification-insertion").parts["verification-insertion genuine"]
        'higher'
    """

    insert = True
    parts: ClassVar[Mapping[str, Better]] = {
        "verification-insertion": "higher",
        "verification-insertion genuine": "higher",
        "verification-insertion impostor": "neither",
        "verification-insertion@.2": "higher",
        "verification-insertion similarity": "higher",
    }


@register("hiding-game")
@dataclass(frozen=True)
class HidingGame(OfPairs):
    """How much of a hidden probe must be shown, the largest of e+ first, until a genuine pair matches.

    The least share P of 0, 1/steps, ..., 1 of the pixels with ``s(P) >= t``, all other pixels being hidden by the fill.
    NaN for impostors, and for genuine pairs that do not match when nothing is hidden. 0 says that the hidden probe
    matches by itself, so that no map could be told from another.

    The published game follows a classifier; here a pair is followed, and the share is told at which its decision is
    back.

    Args:
        fill: what hides pixels: "blur" (a Gaussian of a tenth of the shorter side), "black" or "mean".
        steps: of equal shares.

    Raises:
        ValueError: steps is below 2.

    Source: after Castanon and Byrne 2018, the hiding game; the share is this project's.

    Examples:
        >>> fm.metrics.create("hiding-game", steps=50)
        HidingGame(fill='blur', steps=50)
    """

    parts: ClassVar[Mapping[str, Better]] = {"hiding-game": "lower"}
    fill: Filling = "blur"
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ValueError(f"hiding-game's steps are 2 or more, or all maps have one value: got {self.steps}")

    def measure(self, case: Case) -> Measured:
        """The first share at which the pair matches."""
        genuine, threshold = self.decision(case)
        curve = _followed(case, True, self.fill, self.steps)
        matches = curve >= threshold
        first = matches.double().argmax(dim=1).double() / self.steps
        return self._one(torch.where(genuine & matches[:, -1], first, torch.nan), curve)


@register("patch-swap")
@dataclass(frozen=True)
class PatchSwap(OfPairs):
    """Does the map find the patch that was put into the probe to part a genuine pair, or to join an impostor pair?

    Genuine: a square of the probe is replaced by the same square of another person's face, which lowers the similarity
    to the gallery: e-, asked of the changed probe, should lie there. Impostor: the square comes from the gallery
    itself, which raises the similarity: e+ should lie there. Crops are aligned, so that an eye replaces an eye.

    ``value = P(map inside > map outside) + P(equal) / 2`` over pixels inside and outside the square: the area under the
    ROC of the map as a detector of the square. 0.5 by chance and for a constant map, 1 where all of the square leads.
    NaN where the swap moves the similarity by less than ``effect`` in its direction, since nothing is then known; where
    no other person's face is in the batch; and where the method has no e-.

    The square's place comes from the seed and the probe, with its centre in the middle half of the picture, where faces
    are: so a map that knows nothing of the swap but lies in the middle stands above 0.5 too. Therefore gain, the value
    less that of the same question's map of the unchanged probe: 0 for every map that does not look at the picture.

    The other person is drawn from the galleries of the batch whose similarity to the pair's own gallery is below the
    threshold: it depends on the batch, which benchmarks keep fixed. The square's rim shows, and `edges` in the control
    rows tells how much that alone is worth.

    Parts, beside the value: genuine and impostor, NaN for the other kind; gain; effect, by how much the swap moved the
    similarity in its direction, for every pair that was swapped.

    The benchmark of Huber et al. has another protocol and other numbers: here the map itself is judged, pair by pair.

    Args:
        side: of the square, as a share of the picture's shorter side, above 0 and at most a half.
        effect: the least change of the similarity that makes the square a known truth.

    Raises:
        ValueError: side or effect are out of range; the case does not explain, or has no galleries.

    Source: after Patch-LFW, Huber et al. 2024, arXiv 2304.13409; the value is this project's.

    Examples:
        >>> fm.metrics.create("patch-swap", side=0.3)
        PatchSwap(side=0.3, effect=0.05)
    """

    parts: ClassVar[Mapping[str, Better]] = {
        "patch-swap": "higher",
        "patch-swap genuine": "higher",
        "patch-swap impostor": "higher",
        "patch-swap gain": "higher",
        "patch-swap effect": "neither",
    }
    needs: ClassVar[frozenset[Need]] = frozenset({"explain"})
    side: float = 0.25
    effect: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.side <= 0.5 or self.effect < 0:
            raise ValueError(
                f"patch-swap takes a side above 0 and at most 0.5, and effect >= 0: got {self.side} and {self.effect}"
            )

    def measure(self, case: Case) -> Measured:
        """Swap, ask again, compare with the square."""
        genuine, threshold = self.decision(case)
        if case.explain is None or case.partners is None:
            raise ValueError("patch-swap asks for maps of changed probes: give Case(explain=..., partners=...)")
        references = references_of(case)  # (B, D)
        inside = squares(case.x, self.side, case.seed)
        others = strangers(case, references, threshold, "patch-swap donor")
        givers = torch.where(genuine, others, torch.arange(len(case), device=others.device))
        swapped = torch.where(inside[:, None], case.partners[givers.clamp_min(0)], case.x)
        rows = (givers >= 0).nonzero().flatten()
        after = torch.full_like(case.clean, torch.nan)
        if len(rows):
            asked = Similarity(references)
            after[rows] = case.scores(len(rows), lambda i: (swapped[rows[i.to(rows.device)]], rows[i].cpu()), asked)
        effect = torch.where(genuine, case.clean - after, after - case.clean)
        moved = effect >= self.effect  # never where NaN
        clean, changed = (torch.full(case.maps.shape, torch.nan, device=case.x.device) for _ in range(2))
        if len(some := (genuine & moved).nonzero().flatten()):
            both = torch.cat([case.x[some], swapped[some]])
            clean[some], changed[some] = opposites(case, both, references[some].repeat(2, 1)).to(clean).chunk(2)
        if len(some := (~genuine & moved).nonzero().flatten()):
            clean[some] = case.maps[some].to(clean)
            changed[some] = case.explain(swapped[some], Similarity(references[some])).to(clean)
        found = ranking_auc(changed, inside)
        values = {
            "": found,
            " genuine": torch.where(genuine, found, torch.nan),
            " impostor": torch.where(genuine, torch.nan, found),
            " gain": found - ranking_auc(clean, inside),
            " effect": effect.double(),
        }
        return Measured({self.name + part: value for part, value in values.items()})


def ranking_auc(maps: Tensor, inside: Tensor) -> Tensor:
    """How well a map ranks the pixels of a region before all others: ``P(inside > outside) + P(equal) / 2``.

    Args:
        maps: ``(B, H, W)``, signed or not: only their order counts.
        inside: the region, ``(B, H, W)`` bool.

    Returns:
        ``(B,)`` float64 in [0, 1], 0.5 by chance; NaN where a map is not finite, or the region is empty or everything.

    Source: the statistic of Mann and Whitney 1947.

    Examples:
        >>> inside = torch.tensor([[[True, False], [False, False]]])
        >>> ranking_auc(torch.tensor([[[2.0, 3.0], [2.0, 0.0]]]), inside).tolist()
        [0.5]
    """
    found = torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
    for i, (map, region) in enumerate(zip(maps, inside, strict=True)):
        region, others = map[region].contiguous(), map[~region].sort().values
        if len(region) and len(others) and bool(map.isfinite().all()):
            below, upto = (torch.searchsorted(others, region, right=right).double() for right in (False, True))
            found[i] = (below + upto).mean() / (2 * len(others))
    return found


def squares(x: Tensor, side: float, seed: int) -> Tensor:
    """A square of each picture, drawn from the seed and the picture, with its centre in the middle half.

    Args:
        x: prepared inputs ``(B, C, H, W)``.
        side: as a share of the shorter side, at most a half.
        seed: of the places.

    Returns:
        ``(B, H, W)`` bool.

    Examples:
        >>> squares(torch.zeros(1, 3, 8, 8), 0.25, seed=0).sum().item()
        4
    """
    H, W = x.shape[-2:]
    length = max(1, math.floor(side * min(H, W)))
    inside = torch.zeros(len(x), H, W, dtype=torch.bool)
    for i, generator in enumerate(generators(seed, "patch-swap", sample_ids(x))):
        # The first row and column, such that the centre lies from a quarter to three quarters of each side.
        top, left = (
            math.ceil(size / 4 - length / 2) + int(torch.randint(size // 2 + 1, (1,), generator=generator))
            for size in (H, W)
        )
        top, left = min(max(top, 0), H - length), min(max(left, 0), W - length)
        inside[i, top : top + length, left : left + length] = True
    return inside.to(x.device)


def _followed(case: Case, insert: bool, fill: Filling, steps: int) -> Tensor:
    """Similarities as the probe's pixels go, or come, in the order of the map, ``(B, steps + 1)`` float64.

    The curves of `Removal`, which all metrics of a case share; NaN where the map is not finite.
    """
    removal = Removal(fill=fill, steps=steps)
    curve = removal.inserted(case) if insert else removal.removed(case)
    broken = ~case.maps.isfinite().all(dim=(1, 2)).to(curve.device)
    return curve.masked_fill(broken[:, None], torch.nan)
