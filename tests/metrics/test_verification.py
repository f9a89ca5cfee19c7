"""Error rates of verification against loops over thresholds, closed forms, and what ties and few pairs do."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from faithmap.metrics import accuracy, eer_threshold, equal_error_rate, k_fold_accuracy, roc, tar_at_fmr


def some_pairs(seed: int, n: int = 60, ties: bool = True) -> tuple[Tensor, Tensor]:
    """Overlapping similarities, rounded to tenths where there are to be ties."""
    generator = torch.Generator().manual_seed(seed)
    genuine = torch.rand(n, generator=generator) < 0.4
    genuine[:2] = torch.tensor([True, False])
    scores = torch.randn(n, generator=generator, dtype=torch.float64) / 2 + genuine * 0.6
    return (scores * 10).round() / 10 if ties else scores, genuine


def rates(scores: Tensor, genuine: Tensor, threshold: float) -> tuple[float, float]:
    """FMR and FNMR, counted pair by pair."""
    false_matches = false_non_matches = impostors = 0
    for score, same in zip(scores.tolist(), genuine.tolist(), strict=True):
        impostors += not same
        false_matches += (not same) and score >= threshold
        false_non_matches += same and score < threshold
    return false_matches / impostors, false_non_matches / (len(scores) - impostors)


def candidates(scores: Tensor) -> list[float]:
    """Every score, the middles between them, and beyond both ends."""
    values = sorted(set(scores.tolist()))
    return [values[0] - 1, *values, *((a + b) / 2 for a, b in pairwise(values)), math.inf]


def literal_eer_threshold(scores: Tensor, genuine: Tensor) -> float:
    gaps = {t: abs(a - b) for t in candidates(scores) if t < math.inf for a, b in [rates(scores, genuine, t)]}
    least = min(gaps.values())
    return max(t for t, gap in gaps.items() if gap <= least + 1e-12)


def literal_eer(scores: Tensor, genuine: Tensor) -> float:
    """Walk down the thresholds; where FMR has passed FNMR, go back along the straight line between both points."""
    before = (0.0, 1.0)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        now = rates(scores, genuine, threshold)
        if now[0] >= now[1]:
            part = (before[1] - before[0]) / ((before[1] - before[0]) + (now[0] - now[1]))
            return before[0] + part * (now[0] - before[0])
        before = now
    raise AssertionError


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_error_rates_are_those_of_the_loops_over_thresholds(seed: int, ties: bool) -> None:
    scores, genuine = some_pairs(seed, ties=ties)
    assert eer_threshold(scores, genuine) == literal_eer_threshold(scores, genuine)
    assert equal_error_rate(scores, genuine) == pytest.approx(literal_eer(scores, genuine), abs=1e-12)
    curve = roc(scores, genuine)
    assert curve.thresholds.tolist() == [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    for threshold, fmr, tar in zip(*(points.tolist() for points in curve), strict=True):
        assert (fmr, 1 - tar) == pytest.approx(rates(scores, genuine, threshold), abs=1e-12)


def test_ties_go_to_the_largest_threshold() -> None:
    """All thresholds in (0.25, 0.75] part the first pairs without error."""
    assert eer_threshold(torch.tensor([0.75, 1.0, 0.25, 0.0]), torch.tensor([True, True, False, False])) == 0.75
    scores, genuine = torch.tensor([0.5, 0.25]), torch.tensor([False, True])
    assert [rates(scores, genuine, t) for t in (0.25, 0.5)] == [(1, 0), (1, 1)]
    assert eer_threshold(scores, genuine) == 0.5
    # FMR - FNMR is 1/6 - 3/6 at 0.75 and 3/6 - 1/6 at 0.5: as far from 0, up to rounding.
    scores = torch.tensor([0.75] * 4 + [0.5] * 4 + [0.25] * 2 + [0.0] * 2)
    genuine = torch.tensor([1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0]).bool()
    assert eer_threshold(scores, genuine) == 0.75


def test_equal_scores_leave_one_threshold_and_an_error_of_a_half() -> None:
    scores, genuine = torch.full((5,), 0.3, dtype=torch.float64), torch.tensor([True, False, False, True, False])
    assert eer_threshold(scores, genuine) == 0.3
    assert equal_error_rate(scores, genuine) == 0.5


def test_the_error_of_two_normal_distributions_is_the_closed_form() -> None:
    """N(d, 1) and N(0, 1) meet at d / 2: the EER is the normal distribution's tail beyond d / 2."""
    d = 2.0
    quantiles = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    normal = torch.special.ndtri(quantiles)
    scores, genuine = torch.cat([normal, normal[::3] + d]), torch.arange(len(normal) + len(normal[::3])) >= len(normal)
    assert equal_error_rate(scores, genuine) == pytest.approx(0.5 * math.erfc(d / 2 / math.sqrt(2)), abs=2e-4)
    assert eer_threshold(scores, genuine) == pytest.approx(d / 2, abs=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_order_scale_and_direction_do_not_count(seed: int) -> None:
    """The EER depends on the order of scores alone, and is the same with both kinds and the direction exchanged."""
    scores, genuine = some_pairs(seed)
    found = equal_error_rate(scores, genuine)
    shuffled = torch.randperm(len(scores))
    assert equal_error_rate(scores[shuffled], genuine[shuffled]) == found
    assert eer_threshold(scores[shuffled], genuine[shuffled]) == eer_threshold(scores, genuine)
    assert equal_error_rate((3 * scores).exp(), genuine) == found
    assert equal_error_rate(-scores, ~genuine) == pytest.approx(found, abs=1e-12)


def test_accuracy_is_the_share_of_right_decisions_also_of_one_kind() -> None:
    scores, genuine = some_pairs(3)
    for threshold in candidates(scores):
        fmr, fnmr = rates(scores, genuine, threshold)
        wrong = fmr * int((~genuine).sum()) + fnmr * int(genuine.sum())
        assert accuracy(scores, genuine, threshold) == pytest.approx(1 - wrong / len(scores))
    assert accuracy(torch.tensor([0.2, 0.4]), torch.tensor([True, True]), 0.4) == 0.5


@pytest.mark.parametrize("fmr", [0.5, 0.1, 0.031])
def test_true_accepts_are_the_most_that_a_false_match_rate_allows(fmr: float) -> None:
    generator = torch.Generator().manual_seed(1)
    genuine = torch.arange(1300) < 300
    scores = ((torch.randn(1300, generator=generator) + 2 * genuine) * 20).round() / 20
    told = tar_at_fmr(scores, genuine, fmr)
    allowed = [1 - fnmr for t in candidates(scores) for a, fnmr in [rates(scores, genuine, t)] if a <= fmr]
    assert told.tar == pytest.approx(max(allowed), abs=1e-12)
    assert told.reason == ""
    assert told.threshold is not None
    assert rates(scores.double(), genuine, told.threshold)[0] <= fmr


def test_true_accepts_need_thirty_false_matches() -> None:
    genuine = torch.cat([torch.ones(5), torch.zeros(300)]).bool()
    scores = torch.rand(305)
    assert tar_at_fmr(scores, genuine, 0.1).tar is not None
    few = tar_at_fmr(scores[:-1], genuine[:-1], 0.1)
    assert (few.tar, few.threshold, few.reason) == (None, None, "needs 300 impostor pairs, there are 299")
    assert tar_at_fmr(scores, genuine, 1e-4).reason == "needs 300000 impostor pairs, there are 300"


def test_nothing_is_accepted_where_too_many_impostors_share_the_best_score() -> None:
    genuine = torch.cat([torch.ones(5), torch.zeros(400)]).bool()
    told = tar_at_fmr(torch.ones(405), genuine, 0.1)
    assert (told.tar, told.threshold) == (0.0, math.inf)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_of_a_fold_comes_from_the_others(seed: int) -> None:
    scores, genuine = some_pairs(seed, n=90)
    folds = [f"fold {i % 3}" for i in range(90)]
    found = k_fold_accuracy(scores, genuine, folds)
    for k in range(3):
        others = [i for i in range(90) if i % 3 != k]
        right = {t: accuracy(scores[others], genuine[others], t) for t in candidates(scores[others])}
        best = max(t for t, share in right.items() if share >= max(right.values()) - 1e-12)
        assert float(found.thresholds[k]) == best
        assert float(found.accuracies[k]) == pytest.approx(accuracy(scores[k::3], genuine[k::3], best))
    assert found.mean == pytest.approx(float(found.accuracies.mean()))
    assert found.standard_error == pytest.approx(float(found.accuracies.std()) / 3**0.5)


@pytest.mark.parametrize("function", [roc, eer_threshold, equal_error_rate])
@pytest.mark.parametrize(
    ("scores", "genuine", "says"),
    [
        ([0.1, math.nan, math.inf], [True, False, False], "2 of 3 scores are NaN or infinite"),
        ([0.1, 0.2], [True, True], "2 genuine and 0 impostor"),
        ([0.1, 0.2], [False, False], "0 genuine and 2 impostor"),
        ([0.1, 0.2], [True, False, False], r"\(2,\) and \(3,\)"),
        ([0.1, 0.2], [1, 0], "bool"),
        ([[0.1], [0.2]], [[True], [False]], r"\(2, 1\)"),
        ([], torch.zeros(0, dtype=torch.bool), "no pair"),
    ],
)
def test_wrong_input_is_named(function: Callable[..., Any], scores: Any, genuine: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        function(torch.tensor(scores), torch.as_tensor(genuine))


@pytest.mark.parametrize("fmr", [0, 1, -0.1, math.nan])
def test_a_false_match_rate_is_between_nothing_and_all(fmr: float) -> None:
    with pytest.raises(ValueError, match=f"got {fmr}"):
        tar_at_fmr(*some_pairs(0), fmr)


def test_folds_are_several_and_hold_both_kinds() -> None:
    scores, genuine = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="got 3, of 1"):
        k_fold_accuracy(scores, genuine, ["a"] * 3)
    with pytest.raises(ValueError, match="got 2, of 2"):
        k_fold_accuracy(scores, genuine, ["a", "b"])
    with pytest.raises(ValueError, match="1 genuine and 0 impostor"):
        k_fold_accuracy(scores, genuine, ["a", "a", "b"])
