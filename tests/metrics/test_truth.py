"""The metric of known causes: truth is earned on the network itself, and grading is what a loop over pixels says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import faithmap as fm
from faithmap.datasets import Example, Truth
from faithmap.metrics.base import Case
from faithmap.metrics.truth import KnownTruth, elsewhere, found_among, ranked
from faithmap.sampling import sample_ids
from faithmap.targets import Logit, Similarity

SIDE = 12


class Sees(nn.Module):
    """Class 1 against class 0 by the mean of the pixels in one region, and of nothing else."""

    def __init__(self, region: Tensor, gain: float = 8.0) -> None:
        super().__init__()
        self.register_buffer("region", region.float() / region.sum())
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        z = self.gain * (x.mean(dim=1) * self.region).sum(dim=(1, 2))  # (B,)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def box(top: int, left: int, side: int = 4) -> Tensor:
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[top : top + side, left : left + side] = True
    return region


CAUSE, OTHER, THIRD = box(1, 2), box(7, 6), box(1, 8, 3)


def case(maps: Tensor, sees: Tensor = CAUSE, truth: Tensor = CAUSE, donor: float = 0.0, **more: object) -> Case:
    """Pictures of ones that a network calls 1 by one region; the donor is dark."""
    model = fm.Classifier(Sees(sees), size=SIDE, mean=[0.0] * 3, std=[1.0] * 3, target_layer=None)
    x = torch.ones(len(maps), 3, SIDE, SIDE) + 0.001 * torch.arange(len(maps))[:, None, None, None]
    given = {"truth": truth.expand(len(maps), -1, -1), "donors": torch.full_like(x, donor)} | more
    return Case(model, x, maps, Logit([1] * len(maps)), **given)


def test_a_map_of_the_cause_is_right_and_one_of_another_place_is_wrong() -> None:
    """Precision, recall, energy, rank: 1 for the cause itself, 0 for another region; a constant map is chance."""
    maps = torch.stack([CAUSE, OTHER, torch.ones(SIDE, SIDE)]).float()
    rivals = [torch.stack([OTHER, THIRD])] * 3
    found = KnownTruth().measure(case(maps, rivals=rivals)).values
    share = int(CAUSE.sum()) / SIDE**2
    for part, values in {
        "truth-precision": [1, 0, share],
        "truth-energy": [1, 0, share],
        "truth-rank": [1, 0.25, 0.5],
        "truth-first": [1, 0, 0],
        "truth-earned": [1, 1, 1],
    }.items():
        torch.testing.assert_close(found[part], torch.tensor(values, dtype=torch.float64), msg=part)
    # Of the other region twice as many pixels are asked for: those beyond it all tie, the cause among them.
    rest = SIDE**2 - int(OTHER.sum())
    expected = [1, int(CAUSE.sum()) / rest, 2 * share]
    torch.testing.assert_close(found["truth-recall"], torch.tensor(expected, dtype=torch.float64))


def test_truth_has_to_be_earned() -> None:
    """A cause that the network does not follow, or that it follows everywhere, grades no map."""
    maps = CAUSE.float()[None]
    blind = KnownTruth().measure(case(maps, sees=OTHER)).values  # looks elsewhere
    assert blind["truth-earned"].tolist() == [0]
    assert blind["truth-effect"].abs().item() < 1e-6
    everywhere = KnownTruth(effect=1e-4).measure(case(maps, sees=torch.ones(SIDE, SIDE))).values
    assert everywhere["truth-effect"].item() > 1e-4
    assert everywhere["truth-earned"].tolist() == [0]  # other regions move it as much
    for values in (blind, everywhere):
        graded = [part for part in KnownTruth.parts if part not in ("truth-earned", "truth-effect")]
        assert all(math.isnan(values[part].item()) for part in graded)


def test_the_effect_is_that_of_pasting_the_donor() -> None:
    """By a loop: the probability of the class before, less that after; every other region likewise."""
    given = case(CAUSE.float()[None].repeat(2, 1, 1), donor=0.4)
    found = KnownTruth(effect=0.05, places=3).measure(given)
    places = elsewhere(CAUSE[None].repeat(2, 1, 1), 3, 0, sample_ids(given.x))
    assert given.forwards == 2 * (1 + 1 + 3)
    for i in range(2):

        def probability(x: Tensor) -> float:
            return float(given.model.module(x[None]).softmax(dim=1)[0, 1])

        x = given.x[i]
        drops = []
        for region in [CAUSE, *places[i]]:
            pasted = x.clone()
            pasted[:, region] = 0.4
            drops.append(probability(x) - probability(pasted))
        assert math.isclose(found.values["truth-effect"][i].item(), drops[0], abs_tol=1e-6)
        assert bool(found.values["truth-earned"][i]) == (drops[0] >= 0.05 and max(drops[1:]) < 0.05)


def test_what_lacks_a_donor_or_fills_the_picture_is_unknown() -> None:
    """NaN in every part, without a network call for it."""
    maps = torch.rand(3, SIDE, SIDE)
    truth = torch.stack([CAUSE, torch.ones_like(CAUSE), torch.zeros_like(CAUSE)])
    given = case(maps, truth=truth[0], donor=0.0)
    given.truth = truth
    assert given.donors is not None
    given.donors[0] = torch.nan
    found = KnownTruth().measure(given).values
    assert all(bool(value.isnan().all()) for value in found.values())
    assert given.forwards == 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_found_among_is_the_mean_over_all_orders_of_ties(times: int) -> None:
    """The literal mean over random orders of equal values of the share of T among the first ones."""
    generator = torch.Generator().manual_seed(0)
    map = torch.randint(0, 4, (4, 5), generator=generator).float()
    truth = torch.rand(4, 5, generator=generator) < 0.25
    size = int(truth.sum())
    hits = 0.0
    for _ in range(4000):
        order = torch.randperm(20, generator=generator)
        order = order[map.flatten()[order].argsort(descending=True, stable=True)]
        hits += float(truth.flatten()[order[: times * size]].sum())
    assert math.isclose(found_among(map[None], truth[None], times).item(), hits / 4000 / size, abs_tol=0.02)


def test_regions_elsewhere_are_as_large_and_apart() -> None:
    """Exactly the size of the truth, outside of it, in one piece around a point; the same alone and in a batch."""
    truth = torch.stack([CAUSE, OTHER | THIRD])
    found = elsewhere(truth, 5, 3, ["a", "b"])
    assert (found.sum(dim=(2, 3)) == truth.sum(dim=(1, 2))[:, None]).all()
    assert not (found & truth[:, None]).any()
    torch.testing.assert_close(elsewhere(truth[1:], 5, 3, ["b"])[0], found[1])
    assert len({tuple(region.flatten().tolist()) for region in found[0]}) > 1


def test_rank_counts_rivals_below() -> None:
    """Equal ones by half; empty regions are no rivals; without rivals there is no rank."""
    maps = torch.rand(1, SIDE, SIDE)
    maps[0][CAUSE], maps[0][OTHER] = 0.5, 0.5
    nothing = torch.zeros_like(CAUSE)
    share, first = ranked(maps, CAUSE[None], [torch.stack([OTHER, nothing])])
    assert (share.item(), first.item()) == (0.5, 0.0)
    assert ranked(maps, CAUSE[None], [nothing[None]])[0].isnan().all()


def test_of_pairs_that_are_parted_the_opposite_is_graded() -> None:
    """Similarity rises when the cause is repaired; e- is asked of the same probe, and e+ is left alone."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 4, bias=False))
    torch.manual_seed(0)
    with torch.no_grad():
        net[1].weight.view(4, 3, SIDE, SIDE)[:, :, ~CAUSE] *= 0.02
    face = fm.FaceEmbedder(net, size=SIDE, threshold=0.5)
    gallery = torch.rand(2, 3, SIDE, SIDE)
    probe = torch.where(CAUSE, torch.rand(2, 3, SIDE, SIDE), gallery)
    asked: list[Tensor] = []

    def explain(x: Tensor, target: object, model: object = None) -> Tensor:
        asked.append(x)
        return CAUSE.float().expand(len(x), -1, -1)

    given = Case(
        face, probe, OTHER.float().expand(2, -1, -1), Similarity(face.embed(gallery)),
        truth=CAUSE.expand(2, -1, -1), donors=gallery, against=torch.tensor([True, False]),
        explain=explain, genuine=torch.tensor([False, False]), partners=gallery, threshold=0.5,
    )  # fmt: skip
    found = KnownTruth(effect=0.01).measure(given).values
    effect = 1 - torch.nn.functional.cosine_similarity(face.embed(probe), face.embed(gallery)).double()
    torch.testing.assert_close(found["truth-effect"], torch.stack([effect[0], -effect[1]]), atol=1e-5, rtol=0)
    assert found["truth-earned"].tolist() == [1, 0]
    assert found["truth-precision"][0].item() == 1  # e- is the cause; the e+ that the case holds is not
    assert [len(x) for x in asked] == [1]


@pytest.mark.parametrize("wrong", [{"effect": 0.0}, {"effect": -1.0}, {"places": 0}])
def test_wrong_parameters(wrong: dict[str, float]) -> None:
    """Named before any work."""
    with pytest.raises(ValueError, match="known-truth takes"):
        KnownTruth(**wrong)  # type: ignore[arg-type]


def test_data_without_causes_are_refused() -> None:
    """A metric that needs donors says which data sets have them."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    picture = Image.new("RGB", (32, 32))

    @dataclass(frozen=True)
    class Boxed(fm.datasets.Dataset[Example]):
        name: ClassVar[str] = "boxed"
        task: ClassVar[Literal["classification"]] = "classification"

        def read(self) -> Iterator[Example]:
            yield Example("a", picture, 0, Truth(torch.tensor([[0, 0, 9, 9]])))

    with pytest.raises(ValueError, match="what stands where the cause is taken away: worlds do"):
        fm.evaluate(fm.Classifier(net, size=32), Boxed(), ["gradient"], ["known-truth"])
