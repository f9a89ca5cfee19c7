"""How many samples run at once: chunks, continuous batches, and the one out-of-memory policy."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (done, total); raising from it cancels the work."""

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(x_t (m, ...), rows (m,)) -> (x_{t+1} (m, ...), finished (m,) bool)``."""

# Pixels per network call. On a CPU a larger batch brings no speed and costs cache; a GPU wants to be filled.
_PIXELS = {"cpu": 8 * 224 * 224, "cuda": 64 * 224 * 224}


def default_batch(x: Tensor) -> int:
    """How many samples like those of x ``(B, C, H, W)`` run at once when the caller does not say."""
    pixels = _PIXELS.get(x.device.type, _PIXELS["cuda"])
    return max(1, pixels // max(1, x.shape[-1] * x.shape[-2]))


def chunked(function: Callable[[Tensor], T], count: int, size: int) -> Iterator[T]:
    """Results of ``function(rows)`` over consecutive index tensors; a chunk that does not fit memory is halved.

    Args:
        function: called with an index tensor of at most ``size`` rows, on the CPU.
        count: rows in all.
        size: rows per call to begin with; stays halved once halved.

    Examples:
        >>> [rows.tolist() for rows in chunked(lambda rows: rows, count=5, size=2)]
        [[0, 1], [2, 3], [4]]
    """
    begin = 0
    while begin < count:
        rows = torch.arange(begin, min(begin + size, count))
        result = _attempt(function, rows)
        if result is None:
            size = len(rows) // 2
            continue
        begin += len(rows)
        yield result[0]


def continuous(x: Tensor, step: Step, steps: int, size: int, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
    """Iterate every sample at most ``steps`` times in a continuous batch: what has finished leaves, what waits joins.

    Args:
        x: starting points ``(n, ...)``.
        step: one step for the samples ``rows``; samples that it calls finished leave the batch.
        steps: the most steps per sample.
        size: samples per call to begin with.
        progress: called with (steps done or saved, steps in all).

    Returns:
        The iterates ``(n, ...)`` and how many steps each took ``(n,)``.

    Examples:
        >>> ends, taken = continuous(torch.tensor([3.0, 1.0]), lambda x, rows: (x - 1, x <= 1), steps=9, size=1)
        >>> ends.tolist(), taken.tolist()
        ([0.0, 0.0], [3, 1])
    """
    state, taken = x.clone(), torch.zeros(len(x), dtype=torch.long)
    queue, rows = torch.arange(len(x)), torch.arange(0)

    def advance(rows: Tensor) -> tuple[Tensor, Tensor]:
        return step(state[rows.to(x.device)], rows)

    while len(rows) or len(queue):
        room = size - len(rows)
        rows, queue = torch.cat([rows, queue[:room]]), queue[room:]
        result = _attempt(advance, rows)
        if result is None:
            size = len(rows) // 2
            rows, queue = rows[:size], torch.cat([rows[size:], queue])
            continue
        state[rows.to(x.device)], finished = result[0]
        taken[rows] += 1
        done = finished.cpu() | (taken[rows] >= steps)
        rows = rows[~done]
        if progress:
            pending = torch.cat([rows, queue])  # what memory sent back to the queue has taken steps too
            progress(steps * (len(x) - len(pending)) + int(taken[pending].sum()), steps * len(x))
    return state, taken


def tune_allocator() -> bool:
    """Keep glibc from handing large blocks back to the system between calls; a program may do this at its start.

    It halves the time of large batches on a CPU, and changes the whole process: the command line calls it, the
    library never does by itself.

    Returns:
        Whether this system has the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mmap_threshold, trim_threshold = -3, -1
    return bool(libc.mallopt(mmap_threshold, 2**30) and libc.mallopt(trim_threshold, 2**31 - 1))


def _attempt(function: Callable[[Tensor], T], rows: Tensor) -> tuple[T] | None:
    """The result in a tuple, or None where memory did not suffice; a single row lets its error out."""
    try:
        return (function(rows),)
    except RuntimeError as error:
        if len(rows) == 1 or not out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator says so: CUDA's, MPS's, the CPU's on Windows, the CPU's elsewhere, cuBLAS's."""
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)
