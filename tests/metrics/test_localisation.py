"""Localisation against literal loops over pixels, and truths: a map that is the box, ties, no object."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, create, energy_pointing, iou, pointing_game, unit_scaled
from faithmap.sampling import generators
from faithmap.targets import Logit

METRICS = ("iou", "pointing-game", "energy-pointing")


def case_of(maps: Tensor, truth: Tensor, **given: Any) -> Case:
    H, W = maps.shape[-2:]
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = fm.Classifier(net, size=(H, W), target_layer="0")
    x = torch.rand(len(maps), 3, H, W, generator=torch.Generator().manual_seed(5))
    return Case(model, x, maps, Logit(0), truth=truth, **given)


def box(H: int, W: int, rows: slice, cols: slice) -> Tensor:
    inside = torch.zeros(1, H, W, dtype=torch.bool)
    inside[0, rows, cols] = True
    return inside


def drawn(count: int, seed: int = 0) -> list[torch.Generator]:
    return generators(seed, "test", [str(i) for i in range(count)])


def literal_iou(map: Tensor, truth: Tensor, threshold: float) -> float:
    both = either = 0
    for row in range(map.shape[0]):
        for col in range(map.shape[1]):
            hot, inside = float(map[row, col]) >= threshold, bool(truth[row, col])
            both += hot and inside
            either += hot or inside
    return both / either


def literal_hit(map: Tensor, truth: Tensor, tolerance: float) -> float:
    """Of a map with one maximum."""
    best, place = -math.inf, (0, 0)
    for row in range(map.shape[0]):
        for col in range(map.shape[1]):
            if float(map[row, col]) > best:
                best, place = float(map[row, col]), (row, col)
    return float(any(math.dist(place, inside) <= tolerance for inside in truth.nonzero().tolist()))


def literal_energy(map: Tensor, truth: Tensor) -> float:
    inside = everywhere = 0.0
    for row in range(map.shape[0]):
        for col in range(map.shape[1]):
            everywhere += float(map[row, col])
            inside += float(map[row, col]) if truth[row, col] else 0.0
    return inside / everywhere


def test_values_are_those_of_literal_loops() -> None:
    maps, truth = torch.randn(12, 9, 7), torch.rand(12, 9, 7) < 0.05
    truth[:, 4, 3] = True
    shown = unit_scaled(maps)
    for t in (0.3, 0.5, 0.7, 1.0):
        expected = [literal_iou(m, b, t) for m, b in zip(shown, truth, strict=True)]
        assert iou(shown, truth, t).tolist() == pytest.approx(expected, abs=1e-12)
    for tolerance in (0, 1, 1.5, 3):
        expected = [literal_hit(m, b, tolerance) for m, b in zip(maps, truth, strict=True)]
        assert pointing_game(maps, truth, drawn(12), tolerance).tolist() == expected
    expected = [literal_energy(m, b) for m, b in zip(shown, truth, strict=True)]
    assert energy_pointing(shown, truth).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_map_that_is_the_box_is_perfect_and_its_opposite_the_worst() -> None:
    truth = box(40, 40, slice(5, 15), slice(10, 30))
    for map, best in ((truth.float() * 3, 1.0), ((~truth).float(), 0.0)):
        case = case_of(map, truth, first=truth)
        assert [float(v) for v in create("iou").measure(case).values.values()] == [best] * 3
        assert float(create("energy-pointing").measure(case).values["energy-pointing"]) == best
    assert float(create("pointing-game").measure(case_of(truth.float(), truth)).values["pointing-game"]) == 1


def test_a_constant_map_gets_the_share_of_the_picture() -> None:
    truth = box(20, 10, slice(0, 5), slice(0, 4))
    found = create("energy-pointing").measure(case_of(torch.ones(1, 20, 10), truth)).values["energy-pointing"]
    assert float(found) == pytest.approx(20 / 200)
    assert iou(torch.ones(1, 20, 10), truth, 0.5).tolist() == [20 / 200]


def test_the_circle_reaches_15_pixels_and_not_further() -> None:
    """Straight and aslant: 9-12-15 is a right triangle."""
    truth = box(64, 64, slice(30, 31), slice(30, 31))
    for (row, col), hit in {(30, 45): 1, (30, 46): 0, (39, 42): 1, (40, 42): 0, (15, 30): 1, (14, 30): 0}.items():
        map = torch.zeros(1, 64, 64)
        map[0, row, col] = 1
        assert pointing_game(map, truth, drawn(1)).tolist() == [hit]


def test_ties_of_the_maximum_are_drawn_with_equal_chances() -> None:
    """Of 8 maxima 2 lie on the object, the first and the last in reading order do not."""
    map = torch.zeros(8, 50)
    places = [0, 7, 14, 21, 28, 35, 42, 49]
    map[0, places] = 1
    truth = torch.zeros(8, 50, dtype=torch.bool)
    truth[0, [7, 42]] = True
    n = 2000
    hits = pointing_game(map.expand(n, -1, -1), truth.expand(n, -1, -1), drawn(n), tolerance=0)
    assert float(hits.mean()) == pytest.approx(2 / 8, abs=4 * (0.25 * 0.75 / n) ** 0.5)


def test_ties_belong_to_the_sample_and_the_seed() -> None:
    maps, truth = torch.zeros(40, 30, 30), box(30, 30, slice(0, 30), slice(0, 15)).expand(40, -1, -1)
    metric, case = create("pointing-game", tolerance=0), case_of(maps, truth)
    found = metric.measure(case).values["pointing-game"]
    assert 0.2 < float(found.mean()) < 0.8
    assert torch.equal(found, metric.measure(case_of(maps, truth)).values["pointing-game"])
    assert not torch.equal(found, metric.measure(case_of(maps, truth, seed=1)).values["pointing-game"])
    order = torch.randperm(40)
    shuffled = Case(case.model, case.x[order], maps, Logit(0), truth=truth)
    assert torch.equal(metric.measure(shuffled).values["pointing-game"], found[order])


@pytest.mark.parametrize("name", METRICS)
def test_samples_without_truth_and_maps_without_numbers_have_no_value(name: str) -> None:
    maps, truth = torch.rand(4, 20, 20), torch.ones(4, 20, 20, dtype=torch.bool)
    truth[0] = False
    maps[1], maps[2, 3, 3] = torch.nan, torch.inf
    for found in create(name).measure(case_of(maps, truth, first=truth)).values.values():
        assert found.isnan().tolist() == [True, True, True, False]
        assert found.dtype == torch.float64


def test_an_empty_map_has_no_energy_and_no_overlap_and_points_at_random() -> None:
    truth = box(20, 20, slice(0, 20), slice(0, 10))
    case = case_of(-torch.ones(1, 20, 20), truth, first=truth)
    assert bool(create("energy-pointing").measure(case).values["energy-pointing"].isnan())
    assert [float(v) for v in create("iou").measure(case).values.values()] == [0, 0, 0]
    many = pointing_game(torch.zeros(500, 20, 20), truth.expand(500, -1, -1), drawn(500), tolerance=0)
    assert float(many.mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", METRICS)
def test_the_first_box_or_all_of_them(name: str) -> None:
    """The map is the second box: right where all count, wrong where the first does."""
    first, second = box(60, 60, slice(0, 9), slice(0, 9)), box(60, 60, slice(40, 60), slice(40, 60))
    case = case_of(second.float(), first | second, first=first)
    for part in create(name).parts:
        one, every = (float(create(name, boxes=boxes).measure(case).values[part]) for boxes in ("first", "all"))
        assert one == 0
        assert every == (pytest.approx(400 / 481) if name == "iou" else 1)
    default = {"iou": "first", "pointing-game": "all", "energy-pointing": "all"}[name]
    assert create(name) == create(name, boxes=default)


@pytest.mark.parametrize("name", METRICS)
def test_a_batch_is_its_samples(name: str) -> None:
    maps, truth = torch.randn(6, 30, 30), torch.rand(6, 30, 30) < 0.02
    case = case_of(maps, truth, first=truth)
    whole = create(name).measure(case).values
    for i in range(6):
        rows = slice(i, i + 1)
        one = Case(case.model, case.x[rows], maps[rows], Logit(0), truth=truth[rows], first=truth[rows])
        for part, found in create(name).measure(one).values.items():
            torch.testing.assert_close(found, whole[part][rows], equal_nan=True)


def test_localisation_asks_the_network_nothing() -> None:
    case = case_of(torch.rand(2, 20, 20), torch.ones(2, 20, 20, dtype=torch.bool), first=torch.ones(2, 20, 20) > 0)
    for name in METRICS:
        create(name).measure(case)
    assert case.forwards == 0


def test_wrong_arguments_are_named() -> None:
    maps, truth = torch.rand(2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    for wrong in (truth[0], truth[:1], truth.float(), truth[:, :4]):
        for function in (energy_pointing, lambda m, t: iou(m, t, 0.5), lambda m, t: pointing_game(m, t, drawn(2))):
            with pytest.raises(ValueError, match=r"truth \(B, H, W\) of bools: got \(2, 8, 8\) and"):
                function(maps, wrong)  # type: ignore[operator]
    for t in (0, 1.01, torch.nan):
        with pytest.raises(ValueError, match=f"above 0 and at most at 1: got {t}"):
            iou(maps, truth, t)
    with pytest.raises(ValueError, match="0 or more: got -1"):
        pointing_game(maps, truth, drawn(2), -1)
    with pytest.raises(ValueError, match="0 pixels or more: got -1"):
        create("pointing-game", tolerance=-1)
    with pytest.raises(ValueError, match="'first' or 'all': got 'second'"):
        create("iou", boxes="second")
    case = case_of(maps, truth)
    case.truth = None
    for name in METRICS:
        with pytest.raises(ValueError, match=f"{name} needs truth: this case has none"):
            create(name).measure(case)
