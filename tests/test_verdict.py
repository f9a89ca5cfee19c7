"""Which method to trust: what the verdict says of scores whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from faithmap.verdict import Cost, judged, sign_test

CONTROLS = ("random", "centre-gaussian")


def noise(n: int, seed: int) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def costs(values: dict[str, Tensor]) -> dict[str, Cost]:
    """The later the dearer."""
    return {label: Cost(float(i)) for i, label in enumerate(values)}


def test_none_is_chosen_where_a_control_is_as_good_as_all() -> None:
    base = noise(40, 0)
    values = {"a": base + noise(40, 1), "b": base - 1, "random": base - 2, "centre-gaussian": base + 0.2}
    found = judged(values, CONTROLS, costs(values))
    assert (found.chosen, found.best, found.control) == (None, None, "centre-gaussian")
    assert not any(one.tied or one.beats for one in found.standings)


def test_every_control_has_to_be_beaten_not_the_best_alone() -> None:
    """Random has the lower mean by a few samples, and is above the method on most."""
    base = noise(40, 0)
    random = base + 0.1
    random[:6] -= 9
    values = {"a": base, "random": random, "centre-gaussian": base - 1}
    found = judged(values, CONTROLS, costs(values))
    assert found.control == "centre-gaussian"
    assert found.chosen is None
    (one,) = (one for one in found.standings if not one.control)
    assert (one.hardest, one.wins, one.of) == ("random", 6, 40)


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
    assert next(one for one in found.standings if one.label == "worse").beats


def test_the_choice_does_not_hang_on_the_clock() -> None:
    """Of equal evaluations the tail decides."""
    base = noise(40, 0)
    values = {"a": base + 1, "b": base + 1 + 0.01 * noise(40, 1), "random": base - 1}
    for slow in (0.1, 9.0):
        found = judged(values, ["random"], {"a": Cost(1, 0, slow), "b": Cost(1, 3, 1), "random": Cost(0)})
        assert found.chosen == "a"


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
    with pytest.raises(ValueError, match="no control has a value: random"):
        judged({"a": base}, ["random"], costs({"a": base}))


@pytest.mark.parametrize(("n", "methods"), [(6, 1), (7, 2), (24, 30)])
@pytest.mark.parametrize("skewed", [False, True])
def test_luck_is_seldom_taken_for_merit(n: int, methods: int, skewed: bool) -> None:
    """Methods above and below the control equally often: however differences are distributed, 5 % at most."""
    wrong = 0
    for run in range(100):
        base = noise(n, 77_000 + run)
        draws = [noise(n, 1000 * run + i) for i in range(methods)]
        draws = [torch.where(d > 0, d, 0.1 * d) if skewed else d for d in draws]  # a mean above 0, by a long tail
        values = {f"m{i}": base + d for i, d in enumerate(draws)} | {"random": base}
        wrong += judged(values, ["random"], costs(values)).chosen is not None
    assert wrong <= 11  # of 5 expected at most


@pytest.mark.parametrize("methods", [1, 25])
def test_so_few_samples_show_nothing(methods: int) -> None:
    """A method that always wins is believed from the least number on, and that is told."""
    fewest = math.ceil(math.log2(methods / 0.05))
    for n in (fewest - 1, fewest):
        base = noise(n, 0)
        values = {f"m{i}": base - 1 for i in range(methods - 1)} | {"a": base + 1, "random": base}
        found = judged(values, ["random"], costs(values))
        assert found.fewest == fewest
        assert (found.chosen == "a") == (n == fewest)


def test_each_person_has_one_vote() -> None:
    """Sixty pairs of five people are five votes: too few for three methods."""
    subjects = [(f"p{i % 5}", f"p{i % 5}") for i in range(60)]
    base = noise(60, 0)
    values = {"a": base + 1, "b": base - 1, "c": base - 2, "random": base}
    assert judged(values, ["random"], costs(values)).chosen == "a"
    found = judged(values, ["random"], costs(values), subjects=subjects)
    assert found.chosen is None
    assert next(one for one in found.standings if one.label == "a").of == 5


def test_the_sign_test_is_the_binomial_tail() -> None:
    assert sign_test(torch.ones(5)) == (1 / 32, 5, 5)
    assert sign_test(-torch.ones(3)) == (1.0, 0, 3)
    assert sign_test(torch.zeros(4)) == (1.0, 0, 0)
    assert sign_test(torch.tensor([1.0, -1.0, torch.nan, 0.0])) == (0.75, 1, 2)
