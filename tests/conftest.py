"""Where tests find real weights and photos, and what they skip without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

LONG = ("test_conformance", "test_real", "test_memory", "test_kill", "test_docs", "test_lift", "test_run", "test_demo")
"""Modules that take longest: they come first, so that no process waits for the last of them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones, in their order; `make test` has xdist keep it."""
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real weights and photos: FAITHMAP_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("FAITHMAP_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"real weights and photos are not at {root}: set FAITHMAP_DATA to their folder")
    return root


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tiny networks run on one thread, and all do beside other processes, where two are many times slower than one."""
    before = torch.get_num_threads()
    if request.node.get_closest_marker("real") is None or "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
