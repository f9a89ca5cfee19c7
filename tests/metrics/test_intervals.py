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


# -- over people ------------------------------------------------------------------------------------------------------


def test_people_are_drawn_and_pairs_counted_as_the_literal_loop_does() -> None:
    """As many people as there are, with replacement; a pair counts as often as its person, or the product of both."""
    subjects = [("ann", "ann"), ("ann", "bob"), ("cid", "bob"), ("bob", "bob"), ("dan", "ann")]
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    people = ["ann", "bob", "cid", "dan"]
    picks = torch.randint(4, (500, 4), generator=torch.Generator().manual_seed(3))
    means = []
    for draw in picks.tolist():
        drawn = [people[k] for k in draw]
        total = weight = 0.0
        for (a, b), value in zip(subjects, values.tolist(), strict=True):
            times = drawn.count(a) if a == b else drawn.count(a) * drawn.count(b)
            total, weight = total + times * value, weight + times
        if weight:
            means.append(total / weight)
    low, high = torch.tensor(means).double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    found = bootstrap(values, draws=500, seed=3, subjects=subjects)
    assert found == pytest.approx((6.2, low, high, 5), abs=1e-6)


def test_intervals_over_people_hold_the_truth_where_pairs_of_a_person_are_alike() -> None:
    """Ten pairs of each of 30 people whose values are the person's own: drawing pairs is far too sure of itself."""
    generator = torch.Generator().manual_seed(0)
    subjects = [(str(p), str(p)) for p in range(30) for _ in range(10)]
    hits = {"people": 0, "pairs": 0}
    for seed in range(200):
        of_people = torch.randn(30, generator=generator)
        values = (of_people[:, None] + 0.2 * torch.randn(30, 10, generator=generator)).flatten()
        for name, given in (("people", subjects), ("pairs", None)):
            found = bootstrap(values, draws=300, seed=seed, subjects=given)
            hits[name] += found.low <= 0 <= found.high
    assert 0.88 <= hits["people"] / 200 <= 0.98
    assert hits["pairs"] / 200 < 0.6


def test_intervals_over_people_hold_the_truth_for_impostor_pairs() -> None:
    """Every two of 16 people, each of whom brings an effect of their own to all pairs."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.triu_indices(16, 16, offset=1)
    subjects = [(str(p), str(q)) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    hits = 0
    for seed in range(150):
        effect = torch.randn(16, generator=generator)
        found = bootstrap(effect[a] + effect[b], draws=300, seed=seed, subjects=subjects)
        hits += found.low <= 0 <= found.high
    assert hits / 150 >= 0.88


def test_the_order_of_pairs_and_the_sides_of_a_pair_do_not_count() -> None:
    subjects, values = [("b", "a"), ("c", "c"), ("a", "c"), ("b", "b")], torch.rand(4, dtype=torch.float64)
    found = bootstrap(values, subjects=subjects)
    assert bootstrap(values.flip(0), subjects=subjects[::-1]) == pytest.approx(found)
    assert bootstrap(values, subjects=[(b, a) for a, b in subjects]) == pytest.approx(found)


def test_people_who_are_not_known_are_people_of_their_own() -> None:
    """As if each had a name; and nobody's pair is drawn as if all were one person's."""
    values = torch.randn(40, dtype=torch.float64)
    unknown, named = (bootstrap(values, subjects=[(n, n) for n in names]) for names in ([""] * 40, map(str, range(40))))
    assert unknown.low < unknown.mean < unknown.high
    assert unknown.high - unknown.low == pytest.approx(named.high - named.low, rel=0.15)
    half = bootstrap(values[:2], subjects=[("ann", ""), ("ann", "")])
    assert half.low < half.high


def test_pairs_without_a_value_take_no_part_and_counts_must_agree() -> None:
    nan = float("nan")
    subjects = [("a", "a"), ("b", "b"), ("c", "c")]
    found = bootstrap(torch.tensor([1.0, nan, 3.0]), subjects=subjects)
    assert found == bootstrap(torch.tensor([1.0, 3.0]), subjects=[subjects[0], subjects[2]])
    with pytest.raises(ValueError, match="each of 2 values has a pair of subjects: got 3"):
        bootstrap(torch.tensor([1.0, 3.0]), subjects=subjects)


def test_many_pairs_are_weighed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values, subjects = torch.rand(9, dtype=torch.float64), [(str(i // 2), str(i // 3)) for i in range(9)]
    whole = bootstrap(values, subjects=subjects)
    split = torch.split
    monkeypatch.setattr(torch, "split", lambda tensor, size: split(tensor, 7))
    assert bootstrap(values, subjects=subjects) == pytest.approx(whole)
