"""Quantus 0.6.0: the same numbers where it is right, and which of its results are wrong."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from quantus.functions.perturb_func import batch_baseline_replacement_by_indices, noisy_linear_imputation
from quantus.functions.similarity_func import correlation_spearman
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import area, rank_correlation, removal_curve, road_imputed, unit_scaled
from faithmap.metrics.imputation import imputed
from faithmap.metrics.order import order
from faithmap.targets import Logit, Probability, Target
from tests.peers.shared import case, error_of, judged_net, measured, raw, still


def theirs(
    kind: str,
    module: nn.Module | None,
    x: Tensor,
    maps: Tensor | None,
    classes: list[int],
    truth: Tensor | None = None,
    calling: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """What a metric of theirs returns; ``calling`` goes to the call, the other settings to the metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(quantus, kind)(disable_warnings=True, **settings)(
            model=module,
            x_batch=x.numpy(),
            y_batch=np.array(classes),
            a_batch=None if maps is None else maps[:, None].numpy(),
            s_batch=None if truth is None else truth[:, None].numpy(),
            channel_first=True,
            **(calling or {}),
        )


def values(*args: Any, **settings: Any) -> Tensor:
    """The same as a float64 tensor."""
    return torch.from_numpy(np.array(theirs(*args, **settings), dtype=np.float64))


def small(n: int = 3, channels: int = 3, side: int = 8) -> Tensor:
    """Pictures in float32, for their networks see no other; in float64 they are the same to the bit."""
    return torch.randn(n, channels, side, side)


def random_maps(n: int = 3, side: int = 8) -> Tensor:
    """Signed, no two values alike."""
    return torch.randn(n, side, side, dtype=torch.float64)


def objects(n: int = 3, side: int = 8) -> Tensor:
    """Where the objects are: a box per sample, ``(n, side, side)`` bool."""
    truth = torch.zeros(n, side, side, dtype=torch.bool)
    for i in range(n):
        truth[i, i % 5 : i % 5 + 4, 2:5] = True
    return truth


class Flips:
    """Their way to change a picture, with a record of the pictures."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def __call__(self, arr: np.ndarray, indices: np.ndarray, **settings: Any) -> np.ndarray:
        self.pictures.append(batch_baseline_replacement_by_indices(arr, indices, **settings))
        return self.pictures[-1]


# ---------------------------------------------------------------------------------------------------------------------
# Where it is right.


@pytest.mark.parametrize(("channels", "side", "pixels"), [(1, 8, 8), (3, 6, 3)])
@pytest.mark.parametrize("score", ["probability", "logit"])
def test_same_pixel_flipping(score: str, channels: int, side: int, pixels: int) -> None:
    """Where no two values of a map are equal, with a number for a baseline, and whole pixels of RGB per step.

    Theirs begins after the first step.
    """
    module, x, maps, classes = judged_net(channels), small(3, channels, side), random_maps(3, side), [2, 0, 1]
    given = values(
        "PixelFlipping", module, x, maps, classes, calling={"softmax": score == "probability"},
        features_in_step=pixels * channels, perturb_baseline=0.0,
    )  # fmt: skip
    ours, steps = case(module, x, maps, classes), side * side // pixels
    metric = measured("deletion", ours, fill="mean", steps=steps, score=score)
    torch.testing.assert_close(metric.curves["deletion"][:, 1:], given, atol=1e-12, rtol=0)
    target = Probability(classes) if score == "probability" else Logit(classes)
    curve = removal_curve(ours.model, x.double(), maps, target, fill="mean", steps=steps)
    torch.testing.assert_close(curve[:, 1:], given, atol=1e-12, rtol=0)


def test_same_area_under_pixel_flipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs lacks the first trapezoid, and is as many times larger as there are steps."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # numpy 2.4 has it no more: see below
    module, x, maps, classes = judged_net(1), small(3, 1), random_maps(), [2, 0, 1]
    settings = {"features_in_step": 8, "perturb_baseline": 0.0, "return_auc_per_sample": True}
    given = values("PixelFlipping", module, x, maps, classes, **settings)
    found = measured("deletion", case(module, x, maps, classes), fill="mean", steps=8)
    curve = found.curves["deletion"]
    torch.testing.assert_close(found.values["deletion"] * 8, given + (curve[:, 0] + curve[:, 1]) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_same_selectivity_and_region_perturbation(channels: int) -> None:
    """Patches that fill the picture, one per step; the second is what the score has lost."""
    module, x, maps, classes = judged_net(channels), small(3, channels), random_maps(), [2, 0, 1]
    settings: dict[str, Any] = {"patch_size": 2, "perturb_baseline": 0.0}
    ours = case(module, x, maps, classes)
    found = measured("removal", ours, fill="mean", granularity="patches", side=2 / 8, steps=16).curves
    given = values("Selectivity", module, x, maps, classes, **settings)
    torch.testing.assert_close(found["morf"][:, 1:], given, atol=1e-12, rtol=0)
    for part in ("morf", "lerf"):
        given = values("RegionPerturbation", module, x, maps, classes, order=part, **settings)
        torch.testing.assert_close(found[part][:, :1] - found[part][:, 1:], given, atol=1e-12, rtol=0)


def test_same_pointing_game() -> None:
    """Without tolerance, and where the maximum is unique."""
    maps, truth = random_maps(40), objects(40)
    given = values("PointingGame", None, small(40), maps, [0] * 40, truth)
    ours = case(judged_net(), small(40), maps, [0] * 40, truth=truth)
    assert 0 < given.mean() < 1
    assert torch.equal(measured("pointing-game", ours, tolerance=0.0).values["pointing-game"], given)


def test_same_share_of_the_map_on_the_object() -> None:
    """Of maps without negative values whose minimum is 0; none has a value where there is no object."""
    maps, truth, x, classes = random_maps(4).clamp_min(0), objects(4), small(4), [0] * 4
    truth[3] = False
    found = measured("energy-pointing", case(judged_net(), x, maps, classes, truth=truth)).values["energy-pointing"]
    for kind in ("RelevanceMassAccuracy", "AttributionLocalisation"):
        given = values(kind, None, x, maps, classes, truth)
        torch.testing.assert_close(given, found, equal_nan=True)


def test_same_share_of_the_positive_part_on_the_object() -> None:
    maps, truth, x = random_maps(), objects(), small()
    found = measured("energy-pointing", case(judged_net(), x, maps, [0] * 3, truth=truth)).values["energy-pointing"]
    settings = {"abs": False, "positive_attributions": True}
    torch.testing.assert_close(values("AttributionLocalisation", None, x, maps, [0] * 3, truth, **settings), found)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_same_imputation(share: float) -> None:
    """Without noise: inside, at borders and corners, and of large holes. Ours may err by 1e-5 of the range."""
    x = torch.randn(1, 3, 7, 10, dtype=torch.float64)
    gone = torch.rand(1, 7, 10) < share
    gone[0, 0, :3], gone[0, -1, -1], gone[0, 3, 4] = True, True, False
    given = noisy_linear_imputation(x[0].numpy(), gone.flatten().nonzero()[:, 0].numpy(), noise=0.0)
    given = torch.from_numpy(given)
    torch.testing.assert_close(imputed(x, gone, tolerance=1e-13)[0], given, atol=1e-11, rtol=0)
    torch.testing.assert_close(road_imputed(x, gone, noise=0.0)[0], given, atol=1e-5 * float(x.max() - x.min()), rtol=0)


def test_same_road() -> None:
    """The accuracy over one batch of grey pictures, where shares are whole numbers of pixels."""
    module, x, maps, classes = judged_net(1), small(30, 1, 10), random_maps(30, 10), [0, 1, 2] * 10
    classes = module(x).argmax(dim=1).tolist()
    shares = list(range(10, 100, 10))
    given = theirs("ROAD", module, x, maps, classes, percentages=shares, noise=0.0)
    found = measured("road", case(module, x, maps, classes), noise=0.0, score="accuracy").curves["road-morf"]
    assert len(set(given.values())) > 2
    torch.testing.assert_close(found.mean(dim=0), torch.tensor([float(given[p]) for p in shares]).double())


def test_same_rank_correlation() -> None:
    """With ties, of which maps that were cut at 0 have many."""
    maps = random_maps(6).clamp_min(0)
    given = correlation_spearman(maps[:3].flatten(1).numpy(), maps[3:].flatten(1).numpy(), batched=True)
    ours = rank_correlation(torch.stack([maps[:3], maps[3:]], dim=1))[:, 0, 1]
    torch.testing.assert_close(ours.double(), torch.from_numpy(given.copy()), atol=1e-6, rtol=0)


def test_same_random_logit() -> None:
    """Of two classes, where there is one other class, and by the rank correlation."""
    module, x, classes = judged_net(classes=2), small(), [0, 1, 1]
    maps = raw("gradient-x-input", module, x.double(), classes)

    def explain(x: Tensor, target: Target, model: Any = None) -> Tensor:
        return raw("gradient-x-input", module, x, target)

    def explain_theirs(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return raw("gradient-x-input", model, torch.from_numpy(inputs).double(), targets.tolist())[:, None].numpy()

    given = values(
        "RandomLogit", module, x, maps, classes, calling={"explain_func": explain_theirs},
        num_classes=2, similarity_func=correlation_spearman,
    )  # fmt: skip
    found = measured("sanity", case(module, x, maps, classes, explain=explain)).values["class-randomisation"]
    torch.testing.assert_close(found, given, atol=1e-6, rtol=0)


def test_same_sensitivity() -> None:
    """Of maps scaled to [0, 1], and under the same noise: theirs is fed with the pictures that ours drew."""
    module, x, classes, draws = judged_net(), small(), [0, 2, 1], 5
    disturbed: list[Tensor] = []

    def explain(x: Tensor, target: Target, model: Any = None) -> Tensor:
        disturbed.append(x)
        return raw("gradient-x-input", module, x, target)

    maps = raw("gradient-x-input", module, x.double(), classes)
    found = measured("stability", case(module, x, maps, classes, explain=explain), noise=0.2, draws=draws).values
    assert len(disturbed) == draws

    def explain_theirs(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return raw("gradient-x-input", model, torch.from_numpy(inputs).double(), targets.tolist())[:, None].numpy()

    for kind, part in (("AvgSensitivity", "stability-mean"), ("MaxSensitivity", "stability-max")):
        again = iter(disturbed)
        given = values(
            kind, module, x, maps, classes, calling={"explain_func": explain_theirs},
            nr_samples=draws, perturb_func=lambda again=again, **_: next(again).flatten(1).numpy(),
            normalise=True, normalise_func=lambda a: unit_scaled(torch.from_numpy(a)[:, 0])[:, None].numpy(),
        )  # fmt: skip
        torch.testing.assert_close(found[part], given, atol=1e-9, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong: removal.


def test_a_pixel_loses_one_colour_at_a_time() -> None:
    """A map of pixels is copied to the three channels, whose entries are then removed one by one."""
    flips, x = Flips(), small(1).abs() + 1
    values("PixelFlipping", judged_net(), x, random_maps(1), [0], perturb_func=flips, perturb_baseline=0.0)
    lost = (torch.from_numpy(flips.pictures[0]).view(3, 64) == 0).sum(dim=0)
    still(int(lost.max()) == 1, "the first step of PixelFlipping, by default, takes one colour of one pixel")


def equals(n: int, side: int = 8) -> Tensor:
    """Maps of one pixel in the middle, everything else alike, as many a map that was cut at 0."""
    maps = torch.zeros(n, side, side, dtype=torch.float64)
    maps[:, side // 2, side // 2] = 1
    return maps


def test_equal_pixels_of_rgb_lose_some_colours_and_keep_others() -> None:
    flips, x = Flips(), small(1).abs() + 1
    settings = {"features_in_step": 32, "perturb_func": flips, "perturb_baseline": 0.0}
    values("PixelFlipping", judged_net(), x, equals(1), [0], **settings)
    lost = (torch.from_numpy(flips.pictures[2]).view(3, 64) == 0).sum(dim=0)  # half of 192 entries
    still(bool(((lost > 0) & (lost < 3)).sum() > 20), "among equal values PixelFlipping removes single colours")


class Quarters(nn.Module):
    """The mean of each quarter of the picture, as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x.double(), 2).flatten(1)


def test_equal_pixels_leave_in_the_order_of_the_array() -> None:
    """Whose picture has its object above is judged otherwise than whose has it below. Drawn at random, none is.

    Of a map that says nothing, a quarter's mean falls evenly: 1 - t / T on average.
    """
    n = 200
    x, maps, classes = torch.ones(n, 1, 8, 8), equals(n), [i % 4 for i in range(n)]
    given = values(
        "PixelFlipping", Quarters().eval(), x, maps, classes, calling={"softmax": False, "batch_size": n},
        features_in_step=8, perturb_baseline=0.0,
    )  # fmt: skip
    even = 1 - torch.arange(1, 9) / 8
    off = (given[:4] - even).abs().amax(dim=1)
    still(bool((off > 0.2).any()), "among equal values, the curve depends on where in the picture the object is")
    x = x + torch.arange(n)[:, None, None, None] * 1e-6  # each picture has its own order
    ours = measured("deletion", case(Quarters().eval(), x, maps, classes), fill="mean", steps=8, score="logit")
    for quarter in range(4):
        found = ours.curves["deletion"][quarter::4, 1:].mean(dim=0)
        torch.testing.assert_close(found, even.double(), atol=0.06, rtol=0)


def test_equal_pixels_leave_in_the_same_order_in_all_pictures() -> None:
    """So that chance does not average out over samples."""
    flips, x = Flips(), small(2, 1).abs() + 1
    settings = {"features_in_step": 8, "perturb_func": flips, "perturb_baseline": 0.0}
    values("PixelFlipping", judged_net(1), x, equals(2), [0, 0], **settings)
    same = all(np.array_equal(a == 0, b == 0) for a, b in flips.pictures)
    still(same, "equal values are removed in one order, the same for every picture")
    places = order(case(judged_net(1), x, equals(2), [0, 0]))
    assert not torch.equal(places[0], places[1])


@pytest.mark.parametrize("kind", ["PixelFlipping", "Selectivity"])
def test_a_map_of_nan_spoils_the_maps_of_all_others(kind: str) -> None:
    """All maps are divided by the largest value of any: they become NaN too, and the numbers look like any others."""
    module, x, maps, classes = judged_net(1), small(3, 1), random_maps(), [2, 0, 1]
    settings = {"features_in_step": 8} if kind == "PixelFlipping" else {"patch_size": 2}
    whole = values(kind, module, x, maps, classes, perturb_baseline=0.0, **settings)
    good = measured("deletion", case(module, x, maps, classes), fill="mean").values["deletion"]
    maps[1, 0, 0] = torch.nan
    given = values(kind, module, x, maps, classes, perturb_baseline=0.0, **settings)
    changed = bool(given.isfinite().all()) and not any(torch.allclose(given[i], whole[i]) for i in (0, 2))
    still(changed, "one NaN in one map changes the curves of all samples, and none of them is NaN")
    found = measured("deletion", case(module, x, maps, classes), fill="mean").values["deletion"]
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[[0, 2]], good[[0, 2]])


def test_black_is_the_darkest_value_of_the_picture() -> None:
    flips, x = Flips(), torch.rand(1, 1, 8, 8) / 2 + 0.5
    values("PixelFlipping", judged_net(1), x, random_maps(1), [0], features_in_step=8, perturb_func=flips)
    still(np.allclose(flips.pictures[-1], x.min()), "'black', the default, is the smallest value in the picture")


def test_the_mean_is_that_of_what_is_left() -> None:
    """With pixels of the same picture already replaced, and over all colours."""
    flips, x = Flips(), torch.rand(1, 1, 8, 8)
    settings = {"features_in_step": 8, "perturb_func": flips, "perturb_baseline": "mean"}
    values("PixelFlipping", judged_net(1), x, x[0].double(), [0], **settings)  # the brightest first
    fills = {
        float(p[p != q][0]) for p, q in zip(flips.pictures, [x.view(1, -1).numpy(), *flips.pictures], strict=False)
    }
    still(max(fills) - min(fills) > 0.1, "the baseline 'mean' changes from step to step")


def test_the_area_grows_with_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not over the share of pixels, and of a single step it is 0 for any map."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    module, x, maps, classes = judged_net(1), small(3, 1), random_maps(), [2, 0, 1]
    settings = {"perturb_baseline": 0.0, "return_auc_per_sample": True}
    fine, coarse, one = (
        values("PixelFlipping", module, x, maps, classes, features_in_step=n, **settings) for n in (1, 8, 64)
    )
    still(bool((fine > 6 * coarse).all()), "PixelFlipping's area is proportional to the number of steps")
    still(not one.any(), "PixelFlipping's area leaves out the untouched picture")
    ours = case(module, x, maps, classes)
    areas = [measured("deletion", ours, fill="mean", steps=n).values["deletion"] for n in (64, 8)]
    torch.testing.assert_close(*areas, atol=0.05, rtol=0)


@pytest.mark.skipif(hasattr(np, "trapz"), reason="numpy before 2.4 has trapz")
def test_the_area_needs_an_old_numpy() -> None:
    module, x, maps = judged_net(1), small(1, 1), random_maps(1)
    error = error_of(lambda: values("PixelFlipping", module, x, maps, [0], return_auc_per_sample=True))
    still("no attribute 'trapz'" in error, "areas raise an AttributeError since numpy 2.4")
    assert area(torch.tensor([[0.0, 1.0]])) == 0.5


def test_road_raises_on_colours() -> None:
    module, x, maps = judged_net(), small(), random_maps()
    error = error_of(lambda: theirs("ROAD", module, x, maps, [0, 1, 2]))
    still("IndexError" in error, "ROAD of RGB pictures is an IndexError")
    assert measured("road", case(module, x, maps, [0, 1, 2])).values["road"].isfinite().all()


def test_road_scores_the_first_batch_alone() -> None:
    """65 samples in batches of 64, their default, are 64."""
    module, x, maps = judged_net(1), small(6, 1, 10), random_maps(6, 10)
    classes = module(x).argmax(dim=1).tolist()
    wrong = [*classes[:3], *((k + 1) % 3 for k in classes[3:])]  # the second half is never right while it is whole

    def ask(classes: list[int]) -> Any:
        return theirs("ROAD", module, x, maps, classes, calling={"batch_size": 3}, percentages=[1, 50], noise=0.0)

    still(ask(classes) == ask(wrong), "ROAD does not see what comes after the first batch")
    assert ask(wrong)[1] == 1
    parts = [measured("road", case(module, x, maps, k), noise=0.0, score="accuracy").curves for k in (classes, wrong)]
    same = [torch.equal(a, b) for a, b in zip(*(curves["road-morf"] for curves in parts), strict=True)]
    assert all(same[:3])
    assert not any(same[3:])


def test_road_keeps_the_size_of_the_first_pictures_it_saw() -> None:
    module, metric = judged_net(1), quantus.ROAD(percentages=[50], noise=0.0, perturb_func=(flips := Holes()))
    for side in (4, 8):
        x = small(2, 1, side).numpy()
        metric(module, x, np.array([0, 1]), random_maps(2, side)[:, None].numpy(), channel_first=True)
    still(flips.removed == [8, 8, 8, 8], "a ROAD that has seen 4 x 4 pixels removes 8 of 64, and calls it 50 %")


class Holes:
    """Counts the pixels that are to go."""

    def __init__(self) -> None:
        self.removed: list[int] = []

    def __call__(self, arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        self.removed.append(len(indices))
        return arr + 1


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong: localisation.


def test_a_picture_without_an_object_is_a_hit() -> None:
    """NaN is written into an array of bools, where it is True."""
    maps, truth, x = random_maps(), objects(), small()
    truth[1] = False
    given = theirs("PointingGame", None, x, maps, [0] * 3, truth)
    still(bool(given[1]), "where there is nothing to point at, PointingGame counts a hit")
    found = measured("pointing-game", case(judged_net(), x, maps, [0] * 3, truth=truth)).values["pointing-game"]
    assert found.isnan().tolist() == [False, True, False]


def test_a_map_that_is_the_same_everywhere_always_hits() -> None:
    """Any of several maxima will do. Drawn among them, a constant map hits as often as the object is large."""
    n = 400
    maps, truth, x = torch.ones(n, 8, 8, dtype=torch.float64), objects(1).expand(n, 8, 8), torch.randn(n, 3, 8, 8)
    maps[0, 0, 0] = 2  # or it refuses the batch: see below
    given = values("PointingGame", None, x, maps, [0] * n, truth)
    still(bool(given[1:].all()), "PointingGame gives a constant map every hit")
    ours = case(judged_net(), x, maps, [0] * n, truth=truth)
    hits = measured("pointing-game", ours, tolerance=0.0).values["pointing-game"][1:].mean()
    assert abs(float(hits) - 12 / 64) < 0.08


def test_weighted_pointing_raises() -> None:
    maps, truth, x = objects().double() + 0.1 * torch.rand(3, 8, 8), objects(), small()
    error = error_of(lambda: theirs("PointingGame", None, x, maps, [0] * 3, truth, weighted=True))
    still(error != "", "PointingGame(weighted=True) raises where anything hits")


def test_a_constant_map_is_an_error_alone_and_none_in_company() -> None:
    maps, truth, x = random_maps(2), objects(2), small(2)
    maps[0] = 1.0
    company = error_of(lambda: theirs("PointingGame", None, x, maps, [0, 0], truth))
    alone = error_of(lambda: theirs("PointingGame", None, x[:1], maps[:1], [0], truth[:1]))
    still(company == "" and "AssertionError" in alone, "whether a constant map is refused depends on the batch")
    found = [
        measured("energy-pointing", case(judged_net(), x[:n], maps[:n], [0] * n, truth=truth[:n])).values
        for n in (1, 2)
    ]
    assert found[0]["energy-pointing"][0] == found[1]["energy-pointing"][0] == 12 / 64


def test_maps_that_speak_against_the_class_everywhere_are_refused() -> None:
    module, x, maps = judged_net(1), small(1, 1), -random_maps(1).abs() - 0.1
    error = error_of(lambda: values("PixelFlipping", module, x, maps, [0]))
    still("should not all be less than zero" in error, "maps below zero are an AssertionError")
    ours = measured("deletion", case(module, x, maps, [0]), fill="mean").values["deletion"]
    torch.testing.assert_close(
        ours, measured("deletion", case(module, x, maps + 9, [0]), fill="mean").values["deletion"]
    )


def test_a_share_that_is_none() -> None:
    """What is negative outside makes the sum small: the share of the relevance on the object is 20, or infinite."""
    truth, maps, x = objects(2), torch.zeros(2, 8, 8, dtype=torch.float64), small(2)
    maps[:, 2, 2], maps[0, 7, 7], maps[1, 7, 7] = 1, -0.95, -1
    given = values("RelevanceMassAccuracy", None, x, maps, [0, 0], truth)
    still(bool((given > 19).all()), "the share of a signed map on the object is not in [0, 1]")
    found = measured("energy-pointing", case(judged_net(), x, maps, [0, 0], truth=truth)).values["energy-pointing"]
    assert found.tolist() == [1, 1]


def test_the_neighbours_in_a_batch_decide_upon_small_maps() -> None:
    """Maps are divided by the largest value of the batch, and their sums get 1e-9 on top."""
    truth, x = objects(2), small(2)
    maps = truth.double() * torch.tensor([1e-10, 1.0])[:, None, None].double()
    together = values("AttributionLocalisation", None, x, maps, [0, 0], truth)
    alone = values("AttributionLocalisation", None, x[:1], maps[:1], [0], truth[:1])
    torch.testing.assert_close(alone, torch.ones(1).double())
    still(bool(together[0] < 0.6), "an epsilon takes the place of a small map's sum")
    found = measured("energy-pointing", case(judged_net(), x, maps, [0, 0], truth=truth)).values["energy-pointing"]
    assert found.tolist() == [1, 1]


def test_the_weight_of_an_object_depends_on_the_size_of_the_batch() -> None:
    """Its size is divided by that of all pictures from the third on, not by a picture's."""
    truth, maps, x = objects(5), random_maps(5).abs(), small(5, 1)
    found = [
        values("AttributionLocalisation", None, x[:n], maps[:n], [0] * n, truth[:n], weighted=True)[0]
        for n in (2, 3, 5)
    ]
    wrong = bool(found[0].isinf()) and bool((found[1] / found[2] - 3).abs() < 1e-6)
    still(
        wrong, "AttributionLocalisation(weighted=True) is infinite for 2 samples, and a third for 5 of what it is for 3"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong: randomisation, and what is left behind.


class Asked:
    """Explains by the input, and keeps the networks and classes that it was asked about."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.classes: list[int] = []

    def __call__(self, model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        self.classes += targets.tolist()
        return np.asarray(inputs)[:, :1]


class Shifted(nn.Module):
    """A parameter of its own, as class tokens and position embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def randomised() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """A network, and its weights when all of its layers have been randomised by theirs."""
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), Shifted(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    asked = Asked()
    theirs("MPRT", module, small(2, 1), random_maps(2).float(), [0, 1], calling={"explain_func": asked})
    return module, asked.weights[-1]


def test_randomised_layers_are_copies_of_one_another() -> None:
    """Before each layer the generator gets the same seed."""
    module, weights = randomised()
    still(torch.equal(weights["1.weight"], weights["2.weight"]), "MPRT gives layers of one shape the same weights")
    ours = fm.metrics.scrambled(fm.Classifier(module, size=8, mean=[0.0], std=[1.0])).module
    assert not torch.equal(ours[1].weight, ours[2].weight)


def test_parameters_outside_of_layers_stay_trained() -> None:
    module, weights = randomised()
    same = torch.equal(weights["3.shift"], module[3].shift)
    still(same, "MPRT randomises what has reset_parameters(), and calls the rest randomised too")
    ours = fm.metrics.scrambled(fm.Classifier(module, size=8, mean=[0.0], std=[1.0])).module
    assert not torch.equal(ours[3].shift, module[3].shift)


def test_the_generators_of_the_caller_are_reset() -> None:
    """Whoever trains beside it draws the same numbers again and again."""
    module, x, maps, drawn = judged_net(1), small(2, 1), random_maps(2), []
    for _ in range(2):
        theirs("MPRT", module, x, maps, [0, 1], calling={"explain_func": Asked()})
        theirs("RandomLogit", module, x, maps, [0, 1], calling={"explain_func": Asked()}, num_classes=3)
        drawn.append((float(torch.rand(())), float(np.random.rand())))
    still(drawn[0] == drawn[1], "torch's and numpy's global generators are left at the metric's seed")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    measured("sanity", case(module, x, maps, [0, 1], explain=lambda x, target, model=None: x[:, 0]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_other_class_depends_on_the_batch() -> None:
    """The generator is reset for each batch: one by one, all samples of a class are given the same other class."""
    module, x, maps, classes = judged_net(1, classes=50), small(8, 1), random_maps(8), [0] * 8
    found = []
    for batch in (8, 1):
        asked = Asked()
        calling = {"explain_func": asked, "batch_size": batch}
        theirs("RandomLogit", module, x, maps, classes, calling=calling, num_classes=50)
        found.append(asked.classes)
    still(len(set(found[0])) > 3 and len(set(found[1])) == 1, "RandomLogit in batches is not that of its samples")
    ours: list[list[int]] = []

    def explain(x: Tensor, target: Target, model: Any = None) -> Tensor:
        if model is None:
            ours[-1] += torch.as_tensor(target.k).tolist()
        return x[:, 0]

    for size in (8, 1):
        ours.append([])
        for i in range(0, 8, size):
            part = slice(i, i + size)
            measured("sanity", case(module, x[part], maps[part], classes[part], explain=explain))
    assert ours[0] == ours[1]


@pytest.mark.parametrize("judge", ["theirs", "ours"])
def test_networks_are_never_freed(judge: str) -> None:
    """Their wrapper keeps every network that it has seen, in a cache of the class that nothing empties."""
    module, x, maps = judged_net(1), small(2, 1), random_maps(2)
    kept = weakref.ref(module)
    if judge == "theirs":
        values("PixelFlipping", module, x, maps, [0, 1], features_in_step=8)
    else:
        measured("deletion", case(module, x, maps, [0, 1]))
    del module
    gc.collect()
    if judge == "theirs":
        still(kept() is not None, "a network that was measured once stays in memory")
    else:
        assert kept() is None
