"""Bootstrap intervals: repeatable, and as sure as they say."""

from __future__ import annotations

import pytest
import torch

from faithmap.metrics import bootstrap


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(300):
        found = bootstrap(torch.randn(60, generator=generator) + 2, draws=400, seed=seed)
        hits += found.low <= 2 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_an_interval_is_about_two_standard_errors_wide_on_each_side() -> None:
    values = torch.randn(500, dtype=torch.float64)
    found = bootstrap(values)
    error = float(values.std() / 500**0.5)
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.15)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.15)


def test_the_same_seed_draws_the_same_samples() -> None:
    values = torch.rand(20)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_samples_without_a_value_are_left_out() -> None:
    nan = float("nan")
    assert bootstrap(torch.tensor([1.0, nan, 3.0, nan])) == bootstrap(torch.tensor([1.0, 3.0]))
    assert bootstrap(torch.tensor([1.0, nan])).samples == 1
    for empty in (torch.tensor([nan]), torch.tensor([])):
        with pytest.raises(ValueError, match="no sample has a value"):
            bootstrap(empty)


def test_one_sample_is_its_own_interval_and_order_does_not_count() -> None:
    assert bootstrap(torch.tensor([0.3], dtype=torch.float64)) == (0.3, 0.3, 0.3, 1)
    assert bootstrap(torch.tensor([[1, 2], [3, 4]])).mean == 2.5
