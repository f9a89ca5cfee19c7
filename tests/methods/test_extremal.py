"""Extremal perturbation against a literal loop, and on networks whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import ExtremalPerturbation
from faithmap.methods.extremal import Spread, area_slope, blurred, pyramid
from tests import nets


def classifier(module: nn.Module) -> fm.Classifier:
    return fm.Classifier(module.double().eval(), size=32)


def reach_of(sigma: float, apart: float) -> int:
    """How many places away the kernel is 1 %."""
    return math.ceil(sigma * (1 + 2 * math.sqrt(math.log(100))) / 2 / apart)


def literal_mask(p: Tensor, sigma: float, size: int, apart: float) -> Tensor:
    """The mask (H, W) of a grid that goes beyond the borders: place by place, the smooth maximum over all in reach."""
    reach = reach_of(sigma, apart)
    n = len(p) - 2 * reach
    rows = []
    for i in range(n):
        for j in range(n):
            f = []
            for a in range(i - reach, i + reach + 1):
                for b in range(j - reach, j + reach + 1):
                    d = apart * math.hypot(a - i, b - j)
                    f.append(math.exp(-(max(0.0, 2 * d / sigma - 1) ** 2) / 4) * p[a + reach, b + reach])
            values = torch.stack(f)
            rows.append((values * (values * 20).exp()).sum() / (values * 20).exp().sum())
    coarse = torch.stack(rows).view(1, 1, n, n)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)[0, 0]


def literal(model: fm.Classifier, image: Tensor, k: int, method: ExtremalPerturbation) -> Tensor:
    """The mask of one image (3, 32, 32)."""
    n, sigma, widest = round(1 / method.step), method.sigma * 32, method.blur * 32
    levels = [fm.pixels.blur(image, widest * l / 7, 2 * math.ceil(3 * widest * l / 7) + 1) for l in range(8)]  # noqa: E741
    wide = n + 2 * reach_of(sigma, 32 / n)
    p, velocity = torch.ones(wide, wide, dtype=torch.float64), torch.zeros(wide, wide, dtype=torch.float64)
    for t in range(method.iterations):
        weight = method.weight * method.rise ** (t / (method.iterations - 1))
        p.requires_grad_()
        m = literal_mask(p, sigma, 32, 32 / n)
        depth = 7 * (1 - m)
        picture = sum(levels[l] * (1 - (depth - l).abs()).clamp_min(0) for l in range(8))  # noqa: E741
        y = model.module(picture[None])[0, k]  # type: ignore[index]
        r = torch.zeros(32 * 32, dtype=torch.float64)
        r[-round(method.area * 32 * 32) :] = 1
        loss = -y + weight * (m.flatten().sort().values - r).square().mean()
        (g,) = torch.autograd.grad(loss, p)
        velocity = method.momentum * velocity + (1 - method.momentum) * g
        p = (p.detach() - method.rate * velocity).clamp(0, 1)
    return literal_mask(p, sigma, 32, 32 / n)


@pytest.mark.parametrize("make", [nets.VGGLike, nets.ViTLike])
def test_masks_are_the_literal_loops(make: Callable[[], nn.Module]) -> None:
    """With an area of whole pixels; the first steps leave no ties at its border."""
    model, x = classifier(make()), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    method = ExtremalPerturbation(area=0.25, iterations=4, weight=1e-9, rise=1e9, rate=0.5, step=1 / 8, sigma=1 / 4)
    maps = method(model, x, [3, 1])
    for i, k in enumerate([3, 1]):
        torch.testing.assert_close(maps[i], literal(model, x[i], k, method), atol=1e-8, rtol=0)


def test_the_areas_slope_is_that_of_the_sorted_mask() -> None:
    m = torch.rand(3, 20, 20, dtype=torch.float64, requires_grad=True)
    r = torch.zeros(400, dtype=torch.float64)
    r[-40:] = 1
    loss = (m.flatten(1).sort(dim=1).values - r).square().mean(dim=1).sum()
    torch.testing.assert_close(area_slope(m.detach(), 0.1), torch.autograd.grad(loss, m)[0])


def test_pixels_that_tie_are_treated_alike() -> None:
    slope = area_slope(torch.ones(1, 10, 10), 0.1)
    torch.testing.assert_close(slope, torch.full((1, 10, 10), 2 / 100 * 0.9))


def test_where_the_mask_is_whole_the_picture_is_whole_and_slopes_into_its_blur() -> None:
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    levels, masks = pyramid(x, 3.0), torch.ones(1, 32, 32, dtype=torch.float64, requires_grad=True)
    out = blurred(levels, masks)
    assert torch.equal(out, x)
    (g,) = torch.autograd.grad(out[0, 0, 5, 6], masks)
    assert float(g[0, 5, 6]) == pytest.approx(float(7 * (levels[0, 0, 0, 5, 6] - levels[0, 1, 0, 5, 6])))
    torch.testing.assert_close(blurred(levels, torch.zeros(1, 32, 32).double()), fm.pixels.blur(x, 3.0, 19))


def test_one_place_of_the_grid_is_a_blob_of_the_kernels_size() -> None:
    """Flat within sigma / 2, half at (1 + 2 sqrt(ln 2)) sigma / 2."""
    spread = Spread.over(torch.zeros(1, 3, 224, 224, dtype=torch.float64), 7 / 224, 21 / 224)
    assert spread.places == (32, 32)
    p = torch.zeros(1, *spread.grid, dtype=torch.float64)
    p[0, 16 + 8, 16 + 8] = 1  # eight places beyond each border; its middle is at 16.5 * 7 = 115.5
    mask = spread(p)[0]
    assert float(mask[115, 108:123].min()) > 0.97
    half = 21 / 2 * (1 + 2 * math.sqrt(math.log(2)))
    assert float(mask.gt(0.5).sum()) == pytest.approx(math.pi * half**2, rel=0.15)


def test_a_whole_mask_is_the_same_everywhere() -> None:
    """Or its border, or its corners, would be kept or lost before the network has been asked."""
    spread = Spread.over(torch.zeros(1, 3, 224, 160), 7 / 224, 21 / 224)
    masks = spread(torch.ones(1, *spread.grid))
    torch.testing.assert_close(masks, masks[:, :1, :1].expand_as(masks), rtol=0, atol=1e-6)
    slope = area_slope(masks, 0.1)
    torch.testing.assert_close(slope, slope[:, :1, :1].expand_as(slope), rtol=1e-3, atol=0)


class Square(nn.Module):
    """Sees one square alone: how much of a texture is left in it."""

    def __init__(self, texture: Tensor, top: int, left: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(texture))
        rows, cols = slice(top, top + side), slice(left, left + side)
        self.weight.data[:, rows, cols] = texture[:, rows, cols] * 20 / (3 * side**2)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("top", "left"), [(4, 36), (20, 22)])
def test_the_mask_finds_the_square_that_decides(top: int, left: int) -> None:
    x, side = torch.randn(1, 3, 64, 64), 20
    model = fm.Classifier(Square(x[0], top, left, side).eval(), size=64)
    area = side**2 / 64**2
    method: Any = ExtremalPerturbation(area=area)
    found = method.run(model, x, 0)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[top : top + side, left : left + side] = True
    mask = found.maps[0] > 0.5
    assert float((mask & inside).sum() / (mask | inside).sum()) > 0.7
    assert float(found.maps.mean()) == pytest.approx(area, rel=0.3)  # with the smooth border
    kept = blurred(pyramid(x, method.blur * 64), found.maps)
    assert found.notes["score of what is kept"] == pytest.approx(model.module(kept)[:, 0].tolist())


def test_a_score_without_a_gradient_leaves_the_mask_whole_and_says_so() -> None:
    method = ExtremalPerturbation(iterations=2, step=1 / 8, sigma=1 / 4)
    model, x = classifier(nets.gap_linear()), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    found = method.run(model, x, lambda z: z[:, 0] * 0)
    assert bool((found.maps == 1).all())
    assert list(found.reasons) == ["the target has no gradient to the mask, or not a finite one"]


@pytest.mark.parametrize(
    "given",
    [{"area": 0.0}, {"area": 1.0}, {"momentum": 1.0}, {"iterations": 0}, {"rate": 0.0}, {"step": 0.0}, {"blur": -1.0}],
)
def test_wrong_parameters_are_named(given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ExtremalPerturbation(**given)
