"""How much memory a piece of work takes at its peak, beyond what was taken before."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Peak:
    """What was measured."""

    mib: float = float("nan")
    """NaN where the system does not tell."""


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure the most memory in use during a block, in MiB more than before it: of the GPU, else of this process.

    On a GPU it is what tensors occupy. On Linux it is resident memory; memory that the allocator keeps of earlier work
    is handed back to the system first, or work that takes it again would seem to need none: the block then runs slower
    for a moment. Elsewhere it is NaN.

    Args:
        device: where the work is done.

    Examples:
        >>> with peak(torch.device("cpu")) as taken:
        ...     numbers = torch.zeros(2**24)
        >>> taken.mib != taken.mib or taken.mib > 32  # they take 64; the system may take back others meanwhile
        True
    """
    found = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        torch.cuda.synchronize(device)
        found.mib = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    resettable = device.type == "cpu" and _reset()
    resident = _status("VmRSS") if resettable else 0.0
    yield found
    if resettable:
        found.mib = max(0.0, _status("VmHWM") - resident)


def _reset() -> bool:
    """Hand free memory back, and let the high-water mark start from what is left; whether the system can."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    try:
        _RESET.write_text("5")
        return _status("VmHWM") > 0
    except OSError:  # a container may forbid it
        return False


def _status(name: str) -> float:
    """An entry of the process's status, in MiB; 0 where it has none."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next((int(line[1]) / 1024 for line in lines if line and line[0] == f"{name}:"), 0.0)
