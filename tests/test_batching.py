"""Batches of any size give the same results, and memory that does not suffice halves them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor

import faithmap as fm
from faithmap.batching import chunked, continuous, default_batch
from faithmap.methods import FAME, GradCAM, Random
from tests import nets

ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def limited(most: int, error: Callable[[], Exception], sizes: list[int]) -> Callable[[Tensor], list[int]]:
    """A function that fits so many rows."""

    def function(rows: Tensor) -> list[int]:
        sizes.append(len(rows))
        if len(rows) > most:
            raise error()
        return rows.tolist()

    return function


@pytest.mark.parametrize("error", ERRORS)
def test_chunks_that_do_not_fit_are_halved_and_stay_so(error: Callable[[], Exception]) -> None:
    sizes: list[int] = []
    parts = list(chunked(limited(2, error, sizes), count=11, size=8))
    assert list(chain(*parts)) == list(range(11))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("error", ERRORS)
def test_a_single_row_that_does_not_fit_lets_the_error_out(error: Callable[[], Exception]) -> None:
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match=str(error())[:12].replace("[", r"\[")):
        list(chunked(limited(0, error, sizes), count=3, size=3))
    assert sizes == [3, 1]


def test_the_cpus_own_allocator_is_understood() -> None:
    def function(rows: Tensor) -> list[int]:
        torch.empty(10**17 if len(rows) > 1 else 1, dtype=torch.uint8)
        return rows.tolist()

    assert list(chunked(function, count=3, size=3)) == [[0], [1], [2]]


def test_other_errors_are_not_a_matter_of_memory() -> None:
    sizes: list[int] = []
    for error in (RuntimeError("shapes differ"), ValueError("out of memory")):
        with pytest.raises(type(error), match=str(error)):
            list(chunked(limited(0, lambda error=error: error, sizes), count=4, size=4))  # type: ignore[misc]
    assert sizes == [4, 4]


def countdown(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every sample goes down to 0 and stops there."""
    return x - 1, x - 1 <= 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_what_has_finished_leaves_and_what_waits_joins(size: int) -> None:
    x = torch.tensor([3.0, 1.0, 9.0, 2.0, 1.0, 5.0, 4.0])
    seen: list[list[int]] = []

    def step(x_t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(rows.tolist())
        return countdown(x_t, rows)

    ends, taken = continuous(x, step, steps=6, size=size)
    assert taken.tolist() == [3, 1, 6, 2, 1, 5, 4]
    assert ends.tolist() == [0, 0, 3, 0, 0, 0, 0]
    assert x.tolist() == [3, 1, 9, 2, 1, 5, 4]
    waiting = [len(set(chain(*seen[i:]))) for i in range(len(seen))]
    assert all(len(rows) == min(size, left) for rows, left in zip(seen, waiting, strict=True))  # never a gap


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("after", [0, 2])
def test_a_step_that_does_not_fit_is_halved_and_loses_nothing(error: Callable[[], Exception], after: int) -> None:
    x = torch.tensor([3.0, 1.0, 9.0, 2.0, 1.0, 5.0, 4.0])
    calls, progress = [0], [0]

    def step(x_t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        if calls[0] > after and len(rows) > 1:
            raise error()
        return countdown(x_t, rows)

    def report(done: int, total: int) -> None:
        assert progress[-1] <= done <= total == 42
        progress.append(done)

    ends, taken = continuous(x, step, steps=6, size=5, progress=report)
    assert (ends.tolist(), taken.tolist()) == ([0, 0, 3, 0, 0, 0, 0], [3, 1, 6, 2, 1, 5, 4])
    assert progress[-1] == 42


def test_progress_does_not_forget_the_steps_of_what_memory_sent_back() -> None:
    sizes: list[int] = []
    done: list[int] = []

    def step(x_t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(rows))
        if len(sizes) > 2 and len(rows) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return countdown(x_t, rows)

    continuous(torch.full((4,), 9.0), step, steps=3, size=4, progress=lambda n, total: done.append(n))
    assert sizes == [4, 4, 4, 2, 1, 1, 1, 1]
    assert done == [4, 8, 9, 10, 11, 12]


def test_one_sample_that_does_not_fit_lets_the_error_out() -> None:
    def step(x_t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        continuous(torch.zeros(4), step, steps=3, size=4)


def test_progress_counts_steps_and_cancels() -> None:
    """A sample that has finished early counts as done: 4 steps of the second are saved at the first call."""
    calls: list[tuple[int, int]] = []
    continuous(torch.tensor([9.0, 1.0, 9.0]), countdown, 4, 2, lambda done, total: calls.append((done, total)))
    assert calls == [(5, 12), (7, 12), (9, 12), (11, 12), (12, 12)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continuous(torch.ones(2), countdown, 4, 2, cancel)


class Limited(torch.nn.Module):
    """A network that fits two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.sizes = nets.Residual(), []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", [FAME(iterations=3), GradCAM(layer="net.layer1"), Random()])
@pytest.mark.parametrize("target", [None, [0, 1, 2, 3, 4]])
def test_methods_go_on_with_smaller_batches(method: fm.methods.Method, target: list[int] | None) -> None:
    module = Limited().double().eval()
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    model, free = fm.Classifier(module, size=32), fm.Classifier(module.net, size=32)
    calls: list[int] = []
    found = method.run(model, x, target, progress=lambda done, total: calls.append(done))
    inner = GradCAM(layer="layer1") if isinstance(method, GradCAM) else method
    torch.testing.assert_close(found.maps, inner(free, x, target), atol=1e-10, rtol=0)
    assert calls == sorted(calls)
    assert found.scores is not None
    assert len(found.scores) == 5


def test_batches_are_smaller_for_larger_pictures() -> None:
    small, large = (default_batch(torch.zeros(1, 3, side, side)) for side in (112, 2048))
    assert small > large == 1
