"""Agreement of maps: correlations by their definition, and what has none."""

from __future__ import annotations

import numpy as np
import torch

from faithmap.metrics import coherency, rank_correlation
from faithmap.metrics.agreement import correlation


def test_correlation_is_numpys() -> None:
    maps = torch.randn(3, 4, 5, 6) + 100
    for picture, found in zip(maps, correlation(maps), strict=True):
        np.testing.assert_allclose(found.numpy(), np.corrcoef(picture.flatten(1).double().numpy()), atol=1e-9)


def test_coherency_is_half_of_one_and_correlation_and_ranks_have_one_of_their_own() -> None:
    a, b = torch.rand(2, 3, 5, 6)
    r = [np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1] for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(coherency(a, b).numpy(), (1 + np.array(r)) / 2, atol=1e-6)
    ranked = rank_correlation(torch.stack([a, a.exp()], dim=1))
    torch.testing.assert_close(ranked, torch.ones(3, 2, 2, dtype=torch.float64))


def test_maps_that_are_constant_or_not_finite_have_none() -> None:
    maps = torch.rand(1, 4, 5, 6)
    maps[0, 1], maps[0, 2, 0, 0], maps[0, 3, 0, 0] = 0.1, torch.nan, torch.inf
    for found in (correlation(maps), rank_correlation(maps)):
        assert found[0].isnan().tolist() == [[i > 0 or j > 0 for j in range(4)] for i in range(4)]
