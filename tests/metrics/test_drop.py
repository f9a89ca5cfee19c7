"""Drops by hand, on networks whose probabilities are known, and against literal loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import create as method
from faithmap.metrics import (
    Case,
    adcc,
    average_drop,
    average_drop_in_deletion,
    coherency,
    complexity,
    create,
    increase_in_confidence,
)
from faithmap.models.base import Model
from faithmap.targets import Logit, Target
from tests import nets

NAN = torch.nan
OF_MASKED = ("average-drop", "increase-in-confidence", "average-drop-in-deletion")


class Linear(nn.Module):
    """z = (sum of x, 0), so that the probability of class 0 is sigmoid(sum of x)."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def linear_case(pixels: Tensor, maps: Tensor, k: int = 0) -> Case:
    model = fm.Classifier(Linear(), size=(pixels.shape[2], pixels.shape[3]), mean=[0.0], std=[1.0])
    return Case(model, pixels, maps, Logit(k))


def explained(name: str, model: Model, x: Tensor, **given: Any) -> Case:
    """A case whose maps are a method's."""
    one = method(name)

    def explain(x: Tensor, target: Target, model: Model = model) -> Tensor:
        return one(model, x, target)

    target = Logit(1)
    return Case(model, x, explain(x, target), target, explain=explain, **given)


def vgg() -> tuple[Model, Tensor]:
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    return model, model.from_pixels(torch.rand(3, 3, 32, 32))


def of(case: Case, name: str) -> dict[str, list[float]]:
    return {part: values.tolist() for part, values in create(name).measure(case).values.items()}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_drops_of_a_linear_network_by_hand() -> None:
    """Two pixels, .6 and .3. The map shows the first alone: O = sigmoid(.6), D = sigmoid(.3), Y = sigmoid(.9)."""
    pixels = torch.tensor([[[[0.6, 0.3]]]], dtype=torch.float64)
    case = linear_case(pixels, torch.tensor([[[2.0, 0.0]]], dtype=torch.float64))
    Y, O, D = sigmoid(0.9), sigmoid(0.6), sigmoid(0.3)  # noqa: E741
    assert of(case, "average-drop") == {"average-drop": pytest.approx([(Y - O) / Y])}
    assert of(case, "increase-in-confidence") == {"increase-in-confidence": [0]}
    assert of(case, "average-drop-in-deletion") == {"average-drop-in-deletion": pytest.approx([(Y - D) / Y])}
    # Of the other class what is shown speaks against it less than the whole: nothing drops, confidence increases.
    other = linear_case(pixels, case.maps, k=1)
    assert of(other, "average-drop") == {"average-drop": [0]}
    assert of(other, "increase-in-confidence") == {"increase-in-confidence": [1]}
    expected = ((1 - Y) - (1 - D)) / (1 - Y)
    assert of(other, "average-drop-in-deletion") == {"average-drop-in-deletion": pytest.approx([expected])}
    assert expected < 0


def test_a_constant_map_loses_nothing_gains_nothing_and_has_no_adcc() -> None:
    """Exactly, in float32: what rounding adds to a score is no increase in confidence."""
    model, x = vgg()
    case = explained("constant", model, x)
    assert of(case, "average-drop")["average-drop"] == [0, 0, 0]
    assert of(case, "increase-in-confidence")["increase-in-confidence"] == [0, 0, 0]
    found = of(case, "adcc")
    assert (found["adcc"], found["complexity"], found["adcc-drop"]) == ([0] * 3, [1] * 3, [0] * 3)
    assert all(map(math.isnan, found["coherency"]))


def test_small_probabilities_explode_and_stay_raw_and_none_is_no_value() -> None:
    clean = torch.tensor([1e-6, 0.0, 0.5, NAN])
    torch.testing.assert_close(
        average_drop_in_deletion(clean, torch.tensor([0.9, 0.9, 0.1, 0.5])),
        torch.tensor([1 - 0.9e6, NAN, 0.8, NAN]), equal_nan=True, rtol=1e-5, atol=0,
    )  # fmt: skip
    torch.testing.assert_close(
        average_drop(clean, torch.tensor([0.9, 0.9, 0.1, 0.5])), torch.tensor([0, NAN, 0.8, NAN]), equal_nan=True
    )
    torch.testing.assert_close(
        increase_in_confidence(clean, torch.tensor([0.9, 0.9, 0.5, 0.5])), torch.tensor([1, 1, 0, NAN]), equal_nan=True
    )
    assert bool(increase_in_confidence(torch.tensor([0.5]), torch.tensor([NAN])).isnan())


def test_metrics_that_share_a_score_ask_it_once() -> None:
    model, x = vgg()
    case = explained("grad-cam", model, x)
    for name, evaluations in zip((*OF_MASKED, "adcc"), (2, 2, 3, 3), strict=True):
        create(name).measure(case)
        assert case.forwards == evaluations * len(x)


def test_a_map_of_nan_has_no_value_and_leaves_others_alone() -> None:
    model, x = vgg()
    case = explained("grad-cam", model, x)
    broken = Case(model, x, case.maps.clone(), case.target, explain=case.explain)
    broken.maps[1, 0, 0] = NAN
    for name in (*OF_MASKED, "adcc"):
        for part, values in of(broken, name).items():
            assert math.isnan(values[1])
            expected = of(case, name)[part]
            assert [values[0], values[2]] == pytest.approx([expected[0], expected[2]], abs=1e-6)


@pytest.mark.parametrize("name", [*OF_MASKED, "adcc"])
def test_a_batch_is_its_samples(name: str) -> None:
    model, x = vgg()
    whole = of(explained("grad-cam", model, x), name)
    for i in range(len(x)):
        for part, (value,) in of(explained("grad-cam", model, x[i : i + 1]), name).items():
            assert value == pytest.approx(whole[part][i], abs=1e-5), part


# ---------------------------------------------------------------------------------------------------------------------
# ADCC


def literal_pearson(a: Tensor, b: Tensor) -> float:
    u, v = a.flatten().tolist(), b.flatten().tolist()
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    cov = sum((p - mean_u) * (q - mean_v) for p, q in zip(u, v, strict=True))
    return cov / math.sqrt(sum((p - mean_u) ** 2 for p in u) * sum((q - mean_v) ** 2 for q in v))


def test_coherency_is_pearsons_correlation_from_0_to_1() -> None:
    a, b = torch.rand(5, 4, 6), torch.rand(5, 4, 6)
    expected = [(1 + literal_pearson(p, q)) / 2 for p, q in zip(a, b, strict=True)]
    assert coherency(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert coherency(a, 3 * a + 1).tolist() == pytest.approx([1] * 5)
    assert coherency(a, -a).tolist() == pytest.approx([0] * 5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, torch.nan])
def test_a_constant_or_broken_map_has_no_coherency(value: float) -> None:
    """Of a constant no rounding may make a correlation: in float64 the mean of equal numbers can miss them."""
    flat, other = torch.full((1, 37, 41), value, dtype=torch.float64), torch.rand(1, 37, 41)
    assert bool(coherency(flat, other).isnan())
    assert bool(coherency(other, flat).isnan())


def test_complexity_is_the_mean_over_pixels() -> None:
    map = torch.rand(1, 5, 3)
    assert float(complexity(map)) == pytest.approx(sum(map.flatten().tolist()) / 15)


def test_adcc_is_the_harmonic_mean_of_its_terms() -> None:
    a, b, c = torch.rand(3, 7, dtype=torch.float64)
    for found, terms in zip(adcc(a, b, c), zip(a, 1 - b, 1 - c, strict=True), strict=True):
        assert float(found) == pytest.approx(3 / sum(1 / float(term) for term in terms))
    assert adcc(torch.ones(1), torch.zeros(1), torch.zeros(1)).tolist() == [1]
    one = torch.ones(1)
    assert [
        float(adcc(*terms)) for terms in ((0 * one, one / 2, one / 2), (one, one, 0 * one), (one, 0 * one, one))
    ] == [0] * 3
    assert bool(adcc(NAN * one, one / 2, one / 2).isnan())


def test_adcc_is_made_of_its_parts_on_a_network() -> None:
    model = fm.Classifier(nets.Residual().eval(), size=32)
    x = model.from_pixels(torch.rand(3, 3, 32, 32))
    case = explained("hires-cam", model, x)
    assert bool((case.maps < 0).flatten(1).any(dim=1).all())  # what is below zero is not shown, the second time neither
    found = of(case, "adcc")
    assert found["adcc-drop"] == of(case, "average-drop")["average-drop"]
    for i in range(len(x)):
        map = case.maps[i].clamp_min(0)
        M = (map - map.min()) / (map.max() - map.min())
        pixels = model.to_pixels(x[i : i + 1])
        masked = model.from_pixels(pixels * M)
        again = method("hires-cam")(model, masked, Logit(1))[0].clamp_min(0)
        terms = ((1 + literal_pearson(M, again)) / 2, 1 - float(M.mean()), 1 - found["adcc-drop"][i])
        assert (found["coherency"][i], found["complexity"][i]) == pytest.approx((terms[0], 1 - terms[1]), abs=1e-4)
        assert found["adcc"][i] == pytest.approx(3 / sum(1 / term for term in terms), abs=1e-4)


def test_a_method_that_ignores_the_picture_is_coherent_and_noise_is_not() -> None:
    model, x = vgg()
    assert of(explained("centre-gaussian", model, x), "adcc")["coherency"] == pytest.approx([1, 1, 1])
    assert of(explained("random", model, x), "adcc")["coherency"] == pytest.approx([0.5] * 3, abs=0.06)


def test_adcc_needs_the_method() -> None:
    model, x = vgg()
    with pytest.raises(ValueError, match="adcc needs explain: this case has none"):
        create("adcc").measure(Case(model, x, torch.rand(3, 32, 32), Logit(0)))
