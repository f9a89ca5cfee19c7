"""Memory does not grow with calls: nothing of a finished explanation is kept, no graph, no activation."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import pytest

from faithmap.methods import available
from tests.methods.test_conformance import at_home, method

CALLS = 200
GROWTH = 8
"""MiB that the allocator may take for itself; kept graphs of the tiny network would take several times as much."""


def resident() -> float:
    """This process's memory in MiB: now, where the system tells, else at its peak."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@pytest.mark.real
@pytest.mark.parametrize("name", available())
def test_two_hundred_calls_take_no_more_memory_than_a_few(name: str) -> None:
    model, x, target = at_home(name, 2)
    for _ in range(CALLS // 5):
        method(name)(model, x, target)
    before = resident()
    for _ in range(CALLS):
        method(name)(model, x, target)
    assert resident() - before < GROWTH


@pytest.mark.real
def test_a_kept_graph_would_be_seen() -> None:
    """The measure can fail: results with their graphs, kept."""
    model, x, target = at_home("grad-cam", 2)
    before = resident()
    kept = [target(model.module(x.clone().requires_grad_())) for _ in range(CALLS)]
    assert resident() - before > 2 * GROWTH
    assert len(kept) == CALLS
