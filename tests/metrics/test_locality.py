"""Cam locality: shares of a map by the cells that CAM assumes."""

from __future__ import annotations

import pytest
import torch

from faithmap.metrics import cam_locality
from faithmap.metrics.locality import cell_weights


def _places(h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return rows.flatten(), cols.flatten()


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (4, 4)), ((14, 10), (7, 3)), ((10, 10), (3, 7)), ((5, 5), (7, 7))]
)
def test_the_cells_share_out_every_map_whole(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Also where the edges of cells cut pixels, and where cells are smaller than pixels."""
    rows, cols = _places(*grid)
    map = torch.rand(1, *size, dtype=torch.float64)
    shares = cam_locality(map.expand(len(rows), -1, -1), rows, cols, grid)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    flat = cam_locality(torch.ones(len(rows), *size), rows, cols, grid)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / len(rows)), atol=1e-6, rtol=0)


def test_a_map_within_its_cell_has_locality_1_and_outside_0() -> None:
    maps = torch.zeros(2, 12, 12)
    maps[:, 4:8, 8:12] = torch.rand(4, 4)
    assert cam_locality(maps, torch.tensor([1, 1]), torch.tensor([2, 1]), (3, 3)).tolist() == [1, 0]


def test_a_cut_pixel_counts_by_its_part() -> None:
    """Cell 1 of 3 in 4 pixels is 1.333..2.667: two thirds of pixel 1 and of pixel 2."""
    torch.testing.assert_close(
        cell_weights(torch.tensor([1]), 3, 4), torch.tensor([[0, 2 / 3, 2 / 3, 0]], dtype=torch.float64)
    )


def test_scale_does_not_count_and_an_empty_map_has_no_locality() -> None:
    maps, place = torch.rand(1, 8, 8), torch.tensor([1])
    torch.testing.assert_close(
        cam_locality(maps * 1e-6, place, place, (2, 2)), cam_locality(maps, place, place, (2, 2)), atol=1e-6, rtol=0
    )
    assert bool(cam_locality(maps * 0, place, place, (2, 2)).isnan().all())
