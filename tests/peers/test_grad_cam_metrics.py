"""The metrics of pytorch-grad-cam 1.5.7: the same numbers where they are right, and which of them are wrong."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange, DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, adcc, coherency, complexity, road_imputed, unit_scaled
from faithmap.metrics.imputation import imputed
from faithmap.targets import Logit, Target
from tests.peers.shared import case, error_of, judged_net, measured, plain_net, raw, still

CLASSES = [2, 0, 1]


def theirs(metric: Any, module: nn.Module, x: Tensor, maps: Tensor, classes: list[int] = CLASSES) -> Tensor:
    """What a metric of theirs says of the classes' probabilities, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        targets = [ClassifierOutputSoftmaxTarget(k) for k in classes]
        return torch.from_numpy(metric(x, maps.numpy(), targets, module)).double()


def small(n: int = 3, side: int = 10) -> Tensor:
    """Pictures in float32, the only ones whose holes they fill; in float64 they are the same to the bit."""
    return torch.randn(n, 3, side, side)


def masks(n: int = 3, side: int = 10) -> Tensor:
    """In [0, 1], no two values alike, from 0 to 1 each."""
    return unit_scaled(torch.rand(n, side, side, dtype=torch.float64))


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ROAD takes no noise: it is the imputer's default."""
    monkeypatch.setattr(road.NoisyLinearImputer.__init__, "__defaults__", (0.0, road.neighbors_weights))


# ---------------------------------------------------------------------------------------------------------------------
# Where they are right.


def test_same_increase_in_confidence() -> None:
    """Where the network's mean is 0 and its std 1, so that what they multiply are pixels."""
    module, x, maps, classes = judged_net(), small(40), masks(40), [0, 1] * 20
    found = measured("increase-in-confidence", case(module, x, maps, classes)).values["increase-in-confidence"]
    assert 0 < found.mean() < 1
    assert torch.equal(theirs(IncreaseInConfidence(), module, x, maps, classes), found)


def test_same_drop_once_it_is_divided_by_the_score() -> None:
    module, x, maps = judged_net(), small(), masks()
    ours = case(module, x, maps, CLASSES)
    found = measured("average-drop", ours).values["average-drop"]
    assert found.any()
    given = theirs(DropInConfidence(), module, x, maps) / ours.clean
    torch.testing.assert_close(found, given, atol=1e-5, rtol=0)


def test_same_coherency_and_complexity() -> None:
    """Of a CAM of each picture, cut at 0 and scaled to [0, 1] by both."""
    module, x = plain_net(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    targets = [ClassifierOutputTarget(k) for k in CLASSES]
    with peer.GradCAM(model=module, target_layers=[module[3]]) as cam:
        grey = cam(input_tensor=x, targets=targets)
        again = torch.from_numpy(Coherency()(x, grey, targets, module, cam)).double()

    def explain(x: Tensor, target: Target, model: Any = None) -> Tensor:
        return raw("grad-cam", module, x, target, "3")

    ours = case(module, x, explain(x, Logit(CLASSES)), CLASSES, explain=explain)
    found = measured("adcc", ours).values
    assert found["coherency"].std() > 0
    torch.testing.assert_close(found["coherency"], again, atol=1e-4, rtol=0)
    shown = torch.from_numpy(Complexity()(grey)).double()
    torch.testing.assert_close(found["complexity"], shown, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_same_imputation(share: float) -> None:
    """Without noise: inside, at borders and corners, and of large holes. Theirs returns float32."""
    x, gone = torch.randn(1, 3, 7, 10), torch.rand(1, 7, 10) < share
    gone[0, 0, :3], gone[0, -1, -1], gone[0, 3, 4] = True, True, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = road.NoisyLinearImputer(noise=0.0)(x[0], (~gone[0]).float()).double()
    ours = imputed(x.double(), gone, tolerance=1e-13)[0]
    torch.testing.assert_close(ours, given, atol=1e-6, rtol=0)
    within = 1e-5 * float(x.max() - x.min())
    torch.testing.assert_close(road_imputed(x.double(), gone, noise=0.0)[0], given, atol=within, rtol=0)


@pytest.mark.usefixtures("noiseless")
def test_same_road() -> None:
    """Where no two values are equal and shares are whole numbers of pixels; theirs are what has been lost or gained.

    Their percentile says what is kept: most relevant first at 80 removes a fifth of the pixels.
    """
    module, x, maps = judged_net(), small(), masks()
    ours = case(module, x, maps, CLASSES)
    found = measured("road", ours, noise=0.0)
    for part, kind in (("road-morf", "ROADMostRelevantFirst"), ("road-lerf", "ROADLeastRelevantFirst")):
        lost = found.curves[part] - ours.clean[:, None]
        for t in range(1, 10):
            given = theirs(getattr(road, kind)(percentile=100 - 10 * t), module, x, maps)
            torch.testing.assert_close(lost[:, t - 1], given, atol=1e-4, rtol=0)
        given = theirs(getattr(road, kind + "Average")(), module, x, maps)
        torch.testing.assert_close(found.values[part] - ours.clean, given, atol=1e-4, rtol=0)
    given = theirs(road.ROADCombined(), module, x, maps)
    torch.testing.assert_close(found.values["road"] / 2, given, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Where they are wrong.


class Sum(nn.Module):
    """Two classes; the probability of the first is the sigmoid of the sum of the input."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def test_the_drop_is_no_share() -> None:
    """Grad-CAM++'s average drop is divided by the score: losing 95 % of it is not better than losing 6 %."""
    x = torch.tensor([[-6.0, 3.0], [2.2, 0.8]]).double().view(2, 1, 1, 2)  # from sigmoid(-3) and (3) ...
    maps = torch.tensor([[[1.0, 0.0]]] * 2).double()  # ... to sigmoid(-6) and (2.2)
    found = measured("average-drop", case(Sum().eval(), x, maps, [0, 0])).values["average-drop"]
    y, o = torch.tensor([-3.0, 3.0]).double().sigmoid(), torch.tensor([-6.0, 2.2]).double().sigmoid()
    torch.testing.assert_close(found, (y - o) / y)
    given = theirs(DropInConfidence(), Sum().eval(), x, maps, [0, 0])
    torch.testing.assert_close(given, y - o, atol=1e-6, rtol=0)
    still(bool(given[0] < given[1]) and bool(found[0] > 16 * found[1]), "DropInConfidence is not divided by the score")


def test_what_is_hidden_has_the_mean_colour() -> None:
    """They multiply what the network sees, after normalisation: what a map hides is grey, not black."""
    module, mean, std = judged_net(), [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]
    model = fm.Classifier(module, size=10, mean=mean, std=std)
    x = model.from_pixels(torch.rand(3, 3, 10, 10))
    maps = torch.zeros(3, 10, 10, dtype=torch.float64)
    shown = seen(CamMultImageConfidenceChange(), module, x, maps).float()
    grey = torch.tensor(mean)[:, None, None].expand(3, 10, 10)
    still(torch.allclose(model.to_pixels(shown)[0], grey, atol=1e-6), "a map of zeros hides by the mean colour")
    black = Case(model, x.double(), maps, Logit(CLASSES)).masked(torch.arange(3), maps)
    torch.testing.assert_close(model.to_pixels(black), torch.zeros_like(black), atol=1e-15, rtol=0)


METRICS = [DropInConfidence, IncreaseInConfidence, road.ROADMostRelevantFirst, road.ROADCombined]


@pytest.mark.parametrize("kind", METRICS)
def test_one_target_for_a_batch(kind: Any) -> None:
    """Targets are zipped with the samples: the rest of the batch has no value."""
    module, x, maps = judged_net(), small(4), masks(4)
    still(len(theirs(kind(), module, x, maps, [1])) == 1, f"{kind.__name__} with one target scores one sample of four")
    model = case(module, x, maps, [1] * 4).model
    for name in ("average-drop", "increase-in-confidence", "road"):
        found = measured(name, Case(model, x.double(), maps, Logit(1))).values[name]
        assert torch.equal(found, measured(name, case(module, x, maps, [1] * 4)).values[name])


def cut_off(share: float) -> Tensor:
    """Maps of which a share is 0, as their own CAMs are after the ReLU."""
    maps = masks()
    return unit_scaled(maps - maps.flatten(1).quantile(share, dim=1)[:, None, None])


@pytest.mark.usefixtures("noiseless")
def test_most_relevant_first_removes_the_whole_picture_where_a_map_is_0() -> None:
    """What is kept lies below a percentile, and nothing lies below 0: not even the least relevant pixels are left."""
    module, x, maps = judged_net(), small(), cut_off(0.3)
    still(not seen(road.ROADMostRelevantFirst(percentile=20), module, x, maps).any(), "at 80 % removed nothing is left")
    ours = case(module, x, maps, CLASSES)
    found = measured("road", ours, noise=0.0).curves["road-morf"] - ours.clean[:, None]
    below = theirs(road.ROADMostRelevantFirst(percentile=80), module, x, maps)
    torch.testing.assert_close(found[:, 1], below, atol=1e-4, rtol=0)  # where no zero is touched
    blank = theirs(road.ROADMostRelevantFirst(percentile=20), module, x, maps)
    assert ((found[:, 7] - blank).abs() > 1e-3).all()


@pytest.mark.usefixtures("noiseless")
def test_maps_of_nan_get_numbers() -> None:
    module, x, maps = judged_net(), small(), masks()
    maps[1, 0, 0] = torch.nan
    given = [theirs(kind(), module, x, maps)[1] for kind in METRICS[1:]]
    still(
        not any(value.isnan() for value in given),
        "of a map with NaN confidence has not increased, and ROAD is a number",
    )
    ours = case(module, x, maps, CLASSES)
    for name in ("increase-in-confidence", "road"):
        assert measured(name, ours).values[name].isnan().tolist() == [False, True, False]


def test_the_same_maps_get_another_score_each_time() -> None:
    """The noise of ROAD is drawn from torch's global generator, and can be neither seeded apart nor switched off."""
    module, x, maps = judged_net(), small(), masks()
    given = [theirs(road.ROADCombined(), module, x, maps) for _ in range(2)]
    still(not torch.equal(*given), "two calls of ROADCombined differ")
    found = [measured("road", case(module, x, maps, CLASSES)).values["road"] for _ in range(2)]
    assert torch.equal(*found)


def test_inputs_in_double_precision() -> None:
    module, x, maps = judged_net(), small(), masks()
    error = error_of(lambda: theirs(road.ROADCombined(), module, x.double(), maps))
    still("RuntimeError" in error, "ROAD of float64 inputs is an error about an index put")
    assert measured("road", case(module, x, maps, CLASSES)).values["road"].isfinite().all()


def test_a_network_in_train_mode_is_judged_with_dropout() -> None:
    module, x, maps = judged_net().insert(3, nn.Dropout(0.5)).train(), small(), masks()
    given = [theirs(DropInConfidence(), module, x, maps) for _ in range(2)]
    still(not torch.equal(*given), "the same maps of a network in train mode get other scores each time")
    found = [measured("average-drop", case(module, x, maps, CLASSES)).values["average-drop"] for _ in range(2)]
    assert torch.equal(*found)
    assert module.training


def coherent(maps: Tensor, again: Tensor) -> Tensor:
    """Their coherency of maps with what is said to be the maps of the masked pictures."""
    x, targets = small(len(maps)), [ClassifierOutputTarget(0)] * len(maps)
    return torch.from_numpy(Coherency()(x, maps.numpy(), targets, nn.Identity(), lambda **_: again.numpy()))


def test_a_constant_map_is_half_coherent() -> None:
    """There is no correlation with what does not vary; an epsilon makes it 0, which counts as 1/2."""
    maps = torch.ones(2, 10, 10, dtype=torch.float64) / 2
    still(coherent(maps, masks(2)).tolist() == [0.5, 0.5], "a constant map has coherency 1/2")
    found = coherency(maps, masks(2))
    assert found.isnan().all()
    assert adcc(found, complexity(maps), torch.zeros(2).double()).isnan().all()


def test_coherency_depends_on_the_size_of_the_values() -> None:
    """The same epsilon outweighs maps of small values, as raw gradients are: they are not even like themselves."""
    maps = masks(2) * 1e-5
    still(bool((coherent(maps, maps) < 0.6).all()), "a map of values around 1e-5 is hardly coherent with itself")
    torch.testing.assert_close(coherency(maps, maps), torch.ones(2).double())


def test_complexity_of_maps_that_are_not_scaled() -> None:
    """Above 1, where ARCC takes 1 - complexity for a share."""
    unit = masks()
    maps = 255 * unit
    still(bool((torch.from_numpy(Complexity()(maps.numpy())) > 1).all()), "a complexity above 1 is none of its errors")
    torch.testing.assert_close(complexity(case(judged_net(), small(), maps, CLASSES).shown), complexity(unit))


@pytest.mark.usefixtures("noiseless")
def test_arcc_takes_logits_for_probabilities() -> None:
    """One list of targets serves the CAM and ROAD, and CAMs explain logits: what is far outside of 1/2 is cut off."""
    module, x = plain_net().float(), torch.randn(3, 3, 32, 32)
    module[-1].weight.data *= 10
    targets = [ClassifierOutputTarget(k) for k in CLASSES]
    with warnings.catch_warnings(), peer.GradCAM(model=module, target_layers=[module[3]]) as cam:
        warnings.simplefilter("ignore")
        grey = cam(input_tensor=x, targets=targets)
        given = ARCC(cam)(x, grey, targets, module)
        terms = [Coherency()(x, grey, targets, module, cam), 1 - Complexity()(grey)]
        gained = road.ROADCombined(percentiles=[20, 40, 60, 80])(x, grey, targets, module)
    third = 3 / given - sum(1 / term for term in terms)  # 1 / ROAD as it was counted
    cut = np.where(gained > 0, np.abs(third - 1) < 1e-3, third > 1e6)
    still(bool(cut.all()) and np.abs(gained).max() > 5, "ARCC of logits counts ROAD as 0 or 1, however far beyond")


def seen(metric: Any, module: nn.Module, x: Tensor, maps: Tensor) -> Tensor:
    """The pictures that one of their metrics shows the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        targets = [ClassifierOutputSoftmaxTarget(0)] * len(x)
        return metric(x, maps.numpy(), targets, module, return_visualization=True)[1]
