"""SHAP values of the channels of a feature map, slow and literal: the truth that LIFT-CAM approximates."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

Worth = Callable[[Tensor], Tensor]
"""Coalitions ``(n, C)``, 1 where a channel is present and 0 where its map is 0 -> scores ``(n,)``."""


Chain = Callable[[Tensor], Tensor]
"""An order of the channels ``(C,)`` -> scores ``(C + 1, ...)`` of none, the first, the first two, ... of them."""


def exact_shap(worth: Worth, channels: int) -> Tensor:
    """SHAP values ``(C,)`` by the definition, over all 2^C coalitions."""
    subsets = [frozenset(s) for size in range(channels + 1) for s in combinations(range(channels), size)]
    coalitions = torch.tensor([[float(k in s) for k in range(channels)] for s in subsets])
    value = dict(zip(subsets, worth(coalitions).tolist(), strict=True))
    shap = [0.0] * channels
    for s in subsets:
        for k in set(range(channels)) - s:
            weight = math.factorial(len(s)) * math.factorial(channels - len(s) - 1) / math.factorial(channels)
            shap[k] += weight * (value[s | {k}] - value[s])
    return torch.tensor(shap, dtype=torch.float64)


def sampled_shap(chain: Chain, channels: int, orders: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """SHAP values ``(C, ...)`` from random orders of the channels, each also backwards, with their standard errors.

    Args:
        chain: see `Chain`.
        channels: C.
        orders: how many; an order and its reverse cost 2 C + 2 evaluations.
        seed: of the orders.
    """
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(orders):
        order = torch.randperm(channels, generator=generator)
        # What each channel added when it joined, on the way up and on the way back.
        both = [chain(one).double().diff(dim=0)[one.argsort()] for one in (order, order.flip(0))]
        estimates.append((both[0] + both[1]) / 2)
    samples = torch.stack(estimates)  # (orders, C, ...)
    return samples.mean(0), samples.std(0) / math.sqrt(orders)


def chain_of(worth: Worth, channels: int) -> Chain:
    """The chains of a worth: row r of the coalitions holds the first r channels."""
    rows = torch.arange(channels + 1)[:, None]
    return lambda order: worth((order.argsort()[None] < rows).float())
