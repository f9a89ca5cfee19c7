"""A sample's randomness is its own: not its batch's, nor its place's."""

from __future__ import annotations

import pytest
import torch

import faithmap as fm
from faithmap.methods import Random
from faithmap.sampling import Moments, generators, sample_ids
from tests import nets


def draws(seed: int, method: str, ids: list[str]) -> list[list[float]]:
    return [torch.rand(3, generator=g).tolist() for g in generators(seed, method, ids)]


def test_ids_belong_to_content_whatever_the_batch_layout_and_precision() -> None:
    x = torch.randn(4, 3, 8, 8).bfloat16().float()
    ids = sample_ids(x)
    assert len(set(ids)) == 4
    order = [2, 0, 3, 1]
    assert sample_ids(x[order]) == [ids[i] for i in order]
    assert [sample_ids(x[i : i + 1])[0] for i in range(4)] == ids
    assert sample_ids(x.to(memory_format=torch.channels_last)) == ids
    assert sample_ids(x.bfloat16()) == sample_ids(x.double()) == ids
    assert sample_ids(x[:1].expand(3, -1, -1, -1)) == [ids[0]] * 3
    with torch.inference_mode():
        assert sample_ids(x.clone()) == ids


def test_a_small_change_is_another_sample() -> None:
    x = torch.randn(1, 3, 8, 8)
    y = x.clone()
    y[0, 1, 2, 3] += 1e-6
    assert sample_ids(x) != sample_ids(y)


def test_randomness_is_that_of_seed_method_and_sample() -> None:
    a = draws(0, "rise", ["a", "b"])
    assert a == draws(0, "rise", ["a", "b"])
    assert a == list(reversed(draws(0, "rise", ["b", "a"])))
    assert draws(0, "rise", ["b"]) == a[1:]
    others = [*a, *draws(1, "rise", ["a"]), *draws(0, "lime", ["a"]), *draws(-1, "rise", ["a"])]
    assert len({tuple(o) for o in others}) == len(others)


def test_randomness_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draws(0, "rise", ["a"])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    a = draws(0, "rise", ["a"])
    torch.manual_seed(2)
    assert a == draws(0, "rise", ["a"])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_maps_of_sampling_methods_know_no_batch_and_no_order(batch_size: int) -> None:
    model, x = fm.Classifier(nets.gap_linear().eval(), size=32), torch.randn(5, 3, 32, 32)
    alone = torch.cat([Random()(model, x[i : i + 1], 0, seed=7) for i in range(5)])
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(Random().run(model, x[order], 0, seed=7, batch_size=batch_size).maps, alone[order])


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 1, 3]])
def test_moments_of_blocks_are_those_of_all_draws(sizes: list[int]) -> None:
    draws = 1e6 + torch.randn(7, 2, 3, dtype=torch.float64)
    moments = Moments()
    for block in draws.split(sizes):
        moments.add(block)
    torch.testing.assert_close(moments.mean, draws.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.standard_error, draws.std(0) / 7**0.5, rtol=1e-8, atol=0)


def test_one_draw_has_no_standard_error() -> None:
    moments = Moments()
    moments.add(torch.ones(1, 2))
    assert moments.standard_error.tolist() == [torch.inf, torch.inf]


def test_moments_of_some_entries_go_on_by_themselves() -> None:
    draws, rows = torch.randn(6, 4, 3, dtype=torch.float64), torch.tensor([True, False, True, False])
    moments = Moments()
    moments.add(draws[:4])
    some = moments.select(rows)
    some.add(draws[4:, rows])
    torch.testing.assert_close(some.mean, draws[:, rows].mean(0))
    torch.testing.assert_close(some.standard_error, draws[:, rows].std(0) / 6**0.5)
    torch.testing.assert_close(moments.mean, draws[:4].mean(0))
