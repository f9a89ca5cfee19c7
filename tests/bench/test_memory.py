"""Peak memory: what a block takes at once, whatever the allocator kept of earlier work."""

from __future__ import annotations

import math

import pytest
import torch

from faithmap.batching import tune_allocator
from faithmap.bench.memory import peak


@pytest.mark.parametrize("mib", [64, 200])
def test_a_block_that_takes_memory_is_seen_each_time(mib: int) -> None:
    for _ in range(3):
        with peak(torch.device("cpu")) as taken:
            torch.ones(mib, 2**18).sum()
        if math.isnan(taken.mib):
            pytest.skip("this system does not tell")
        assert mib * 0.9 < taken.mib < mib * 1.5 + 16


def test_memory_that_the_allocator_kept_counts_again() -> None:
    if not tune_allocator():
        pytest.skip("this system has no such allocator")
    for _ in range(3):
        with peak(torch.device("cpu")) as taken:
            torch.ones(64, 2**18).sum()
        assert math.isnan(taken.mib) or taken.mib > 57


def test_an_error_inside_passes() -> None:
    with pytest.raises(KeyError), peak(torch.device("cpu")):
        raise KeyError
