"""Randomness that belongs to a sample, never to its batch or the worker that ran it; and means of what is sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def sample_ids(x: Tensor) -> list[str]:
    """What each sample is, as a digest of its content: the same photo has the same id wherever it stands.

    Args:
        x: prepared inputs ``(B, C, H, W)``.

    Returns:
        B digests, 16 hexadecimal digits each.

    Examples:
        >>> a, b, c = sample_ids(torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1))
        >>> a == c, a == b
        (True, False)
    """
    rows = x.detach().to("cpu", torch.float32).contiguous()
    return [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in rows]


def generators(seed: int, method: str, ids: Sequence[str]) -> list[torch.Generator]:
    """One generator per sample, seeded from (seed, method, sample id).

    They live on the CPU whatever the device, so that the numbers are the same everywhere.
    """
    made = []
    for identity in ids:
        digest = hashlib.sha256(f"{seed}/{method}/{identity}".encode()).digest()
        made.append(torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    return made


def seeds_of(generator: torch.Generator, count: int) -> list[int]:
    """Seeds for draws that are made one by one, in any order and again; those of fewer draws come first among more.

    Examples:
        >>> few, many = (seeds_of(torch.Generator().manual_seed(0), count) for count in (2, 20))
        >>> many[:2] == few
        True
    """
    return torch.randint(2**62, (count,), generator=generator).tolist()


class Moments:
    """Mean and standard error of draws that come in blocks and are not kept; sums are float64.

    Examples:
        >>> moments = Moments()
        >>> for block in torch.tensor([[[1.0, 6.0]], [[2.0, 3.0]]]):
        ...     moments.add(block)
        >>> moments.mean.tolist(), round(float(moments.standard_error[0]), 3)
        ([1.5, 4.5], 0.5)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        """``(...)``; of the shape of one draw."""
        self._squares = torch.zeros(())

    def add(self, draws: Tensor) -> None:
        """Take in draws ``(n, ...)``."""
        draws, n = draws.double(), len(draws)
        mean = draws.mean(dim=0)
        squares = ((draws - mean) ** 2).sum(dim=0)
        shift, total = mean - self.mean.to(mean), self.count + n
        # Deviations from the mean so far, not sums of squares: those cancel (Chan et al. 1983).
        self._squares = self._squares.to(mean) + squares + shift**2 * self.count * n / total
        self.mean = self.mean.to(mean) + shift * n / total
        self.count = total

    def select(self, rows: Tensor) -> Moments:
        """Those of some entries of a draw's first dimension: an index or bool tensor."""
        some, here = Moments(), rows.to(self.mean.device)
        some.count, some.mean, some._squares = self.count, self.mean[here], self._squares[here]
        return some

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, ``(...)``; infinite for a single draw."""
        if self.count < 2:
            return torch.full_like(self.mean, torch.inf)
        return (self._squares / (self.count - 1) / self.count).sqrt()
