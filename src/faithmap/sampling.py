"""Randomness that belongs to a sample: never to its batch, its place in it, or the worker that ran it."""

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
