"""Which method to trust: what the verdict says of scores whose truth is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from faithmap.recommendation import judged

CONTROLS = ("random", "centre-gaussian")


def noise(n: int, seed: int) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def costs(values: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """The later the dearer."""
    return {label: (float(i), 0.0) for i, label in enumerate(values)}


def test_none_is_chosen_where_a_control_is_as_good_as_all() -> None:
    base = noise(40, 0)
    values = {"a": base + noise(40, 1), "b": base - 1, "random": base - 2, "centre-gaussian": base + 0.2}
    found = judged(values, CONTROLS, costs(values))
    assert (found.chosen, found.best, found.control) == (None, None, "centre-gaussian")
    assert all(one.behind is None and not one.tied for one in found.standings)


def test_the_cheapest_of_those_that_tie_is_chosen() -> None:
    base = noise(40, 0)
    values = {
        "cheap": base + 1 + 0.01 * noise(40, 1),
        "dear": base + 1 + 0.01 * noise(40, 2),
        "worse": base + 0.5,
        "random": base,
        "centre-gaussian": base - 1,
    }
    found = judged(values, CONTROLS, costs(values))
    assert found.chosen == "cheap"
    assert {one.label for one in found.standings if one.tied} == {"cheap", "dear"}
    worse = next(one for one in found.standings if one.label == "worse")
    assert worse.ahead.low > 0  # it beats the controls
    assert worse.behind is not None
    assert worse.behind.low > 0  # and is behind the best


def test_standings_are_ordered_and_hold_paired_differences() -> None:
    base = 100 * noise(30, 3)
    values = {"a": base + 1, "random": base, "centre-gaussian": base - 1}
    found = judged(values, CONTROLS, costs(values))
    assert [one.label for one in found.standings] == ["a", "random", "centre-gaussian"]
    assert [one.ahead.mean for one in found.standings] == pytest.approx([1, 0, -1])
    assert found.chosen == "a"  # pairing: the samples' own spread is a hundred times larger


def test_samples_without_a_value_are_left_out_and_a_method_without_any_does_not_stand() -> None:
    base = noise(20, 0)
    holes = base + 1
    holes[::3] = torch.nan
    values = {"a": holes, "failed": torch.full((20,), torch.nan, dtype=torch.float64), "random": base}
    found = judged(values, CONTROLS, costs(values))
    assert found.chosen == "a"
    assert "failed" not in [one.label for one in found.standings]
    assert next(one for one in found.standings if one.label == "a").score.samples == 13


def test_luck_is_seldom_taken_for_merit() -> None:
    """Twenty methods that are no better than the control: at most about one run in twenty names one."""
    wrong = 0
    for run in range(40):
        values = {f"m{i}": noise(30, 1000 * run + i) for i in range(20)} | {"random": noise(30, 1000 * run + 99)}
        wrong += judged(values, CONTROLS, costs(values)).chosen is not None
    assert wrong <= 6  # 5 % of 40 are 2; a single interval of 95 % each would name one in a third of the runs


def test_pairs_that_share_people_have_wider_intervals() -> None:
    per_person = noise(6, 0)
    subjects = [(f"p{i % 6}", f"p{i % 6}") for i in range(60)]
    base = per_person.repeat(10)
    values = {"a": base, "random": torch.zeros(60, dtype=torch.float64)}
    found = [judged(values, CONTROLS, costs(values), subjects=s).standings for s in (None, subjects)]
    free, tied = (next(one.score for one in standings if one.label == "a") for standings in found)
    assert tied.high - tied.low > 2 * (free.high - free.low)
