"""Memory does not grow with calls: nothing of a finished explanation is kept, no graph, no activation."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faithmap.methods import available
from tests.methods.test_conformance import at_home, method

CALLS = 80
GROWTH = 6
"""MiB that the allocator may take for itself; kept graphs of the tiny network would take several times as much."""
LEAK = "graphs that are kept"

pytestmark = pytest.mark.real


def resident() -> float:
    """This process's memory in MiB: now, where the system tells, else at its peak."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def growth(call: Callable[[], object]) -> float:
    """How much the memory grows in 80 calls after some first ones, in MiB."""
    for _ in range(CALLS // 2):
        call()
    before = resident()
    for _ in range(CALLS):
        call()
    return resident() - before


def measure() -> dict[str, float]:
    """The growth of each method, and of a leak that is made on purpose."""
    torch.set_num_threads(1)
    found = {}
    for name in available():
        model, x, target = at_home(name, 4)
        found[name] = growth(lambda name=name, model=model, x=x, target=target: method(name)(model, x, target))  # type: ignore[misc]
    model, x, target = at_home("grad-cam", 4)
    kept: list[torch.Tensor] = []
    found[LEAK] = growth(lambda: kept.append(target(model.module(x.clone().requires_grad_()))))
    return found


@pytest.fixture(scope="module")
def grown() -> dict[str, float]:
    """Measured in a process of its own: one that has freed memory could leak into that unseen."""
    code = "import json; from tests.test_memory import measure; print(json.dumps(measure()))"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=here)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", available())
def test_many_calls_take_no_more_memory_than_a_few(grown: dict[str, float], name: str) -> None:
    assert grown[name] < GROWTH


def test_a_kept_graph_would_be_seen(grown: dict[str, float]) -> None:
    """The measure can fail."""
    assert grown[LEAK] > 2 * GROWTH
