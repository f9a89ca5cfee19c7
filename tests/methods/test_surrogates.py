"""LIME and kernel SHAP against literal loops, exact Shapley values and linear networks; what superpixels are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import LIME, KernelSHAP, Method
from faithmap.methods.surrogates import _pairs
from faithmap.pixels import seed_grid, superpixels
from faithmap.sampling import generators, sample_ids
from tests import nets
from tests.shap import exact_shap


def classifier(module: nn.Module) -> fm.Classifier:
    return fm.Classifier(module.double().eval(), size=32)


def linear() -> fm.Classifier:
    return classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)))


def noise(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, dtype=torch.float64)


def segments_of(model: fm.Classifier, x: Tensor, segments: int) -> Tensor:
    return superpixels(model.to_pixels(x), segments)


def hidden_by_means(image: Tensor, labels: Tensor) -> Tensor:
    """One image (3, H, W), each segment in its mean colour."""
    out = torch.zeros_like(image)
    for k in labels.unique().tolist():
        for c in range(3):
            out[c][labels == k] = image[c][labels == k].mean()
    return out


def worth(model: fm.Classifier, image: Tensor, labels: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """Coalitions (n, K) -> scores (n,), one by one."""
    hidden = hidden_by_means(image, labels)

    def scores(coalitions: Tensor) -> Tensor:
        values = []
        for z in coalitions:
            picture = torch.where(z[labels].bool(), image, hidden)
            with torch.no_grad():
                values.append(model.module(picture[None])[0, k])
        return torch.stack(values)

    return scores


def values_of(map: Tensor, labels: Tensor, count: int) -> Tensor:
    """What is painted on each segment (K,); each has one value."""
    found = torch.zeros(count, dtype=map.dtype)
    for k in labels.unique().tolist():
        (found[k],) = map[labels == k].unique()
    return found


# --- superpixels


@pytest.mark.parametrize("shape", [(32, 32), (24, 60), (7, 5)])
def test_every_pixel_lies_in_a_segment_near_its_own_cell(shape: tuple[int, int]) -> None:
    H, W = shape
    labels = superpixels(torch.rand(3, 3, H, W), segments=12)
    rows, cols = seed_grid(12, H, W)
    assert labels.shape == (3, H, W)
    assert 0 <= int(labels.min()) <= int(labels.max()) < rows * cols
    for i, j in [(0, 0), (H // 2, W // 3), (H - 1, W - 1)]:
        down = labels[:, i, j] // cols - i * rows // H
        right = labels[:, i, j] % cols - j * cols // W
        assert bool((down.abs() <= 1).all())
        assert bool((right.abs() <= 1).all())


def test_without_colours_segments_are_the_cells_of_a_grid() -> None:
    labels = superpixels(torch.full((1, 3, 40, 60), 0.3), segments=24)[0]
    expected = torch.arange(40)[:, None] // 10 * 6 + torch.arange(60) // 10
    assert torch.equal(labels, expected)


def test_segments_are_the_literal_k_means() -> None:
    pixels = torch.rand(1, 3, 12, 15, dtype=torch.float64)
    rows, cols = seed_grid(6, 12, 15)
    spacing = (12 * 15 / (rows * cols)) ** 0.5
    points = {(i, j): [*pixels[0, :, i, j].tolist(), 0.3 * i / spacing, 0.3 * j / spacing] for i in range(12) for j in range(15)}  # fmt: skip # noqa: E501
    cell = {(i, j): (i * rows // 12, j * cols // 15) for i, j in points}
    label = dict(cell)
    for _ in range(4):
        centres = {}
        for c in set(cell.values()):
            members = [points[p] for p in points if label[p] == c]
            centres[c] = [sum(v) / len(members) for v in zip(*members, strict=True)]
        for p in points:
            near = [c for c in centres if abs(c[0] - cell[p][0]) <= 1 and abs(c[1] - cell[p][1]) <= 1]
            label[p] = min(near, key=lambda c: sum((a - b) ** 2 for a, b in zip(points[p], centres[c], strict=True)))
    ours = superpixels(pixels, segments=6, iterations=4)[0]
    assert all(int(ours[p]) == label[p][0] * cols + label[p][1] for p in points)


def test_segments_are_compact() -> None:
    """Their pixels lie, on average, hardly farther from their centre than those of a square."""
    labels = superpixels(torch.rand(1, 3, 64, 64) * 0.2, segments=16)[0]
    square = (16**2 / 6) ** 0.5  # of a square of that side, root mean square
    for k in labels.unique().tolist():
        places = (labels == k).nonzero().double()
        assert float((places - places.mean(dim=0)).square().sum(dim=1).mean().sqrt()) < 1.3 * square


def test_segments_adhere_to_an_edge() -> None:
    """A slanted border between two colours: no segment has both."""
    right = torch.arange(64) > 20 + torch.arange(64)[:, None] / 4
    picture = torch.where(right, torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1), torch.tensor([0.1, 0.3, 0.8]).view(3, 1, 1))  # fmt: skip # noqa: E501
    labels = superpixels(picture[None], segments=25)[0]
    assert not set(labels[right].tolist()) & set(labels[~right].tolist())


def test_segments_belong_to_the_picture_not_the_batch() -> None:
    pixels, order = torch.rand(3, 3, 32, 40), torch.tensor([2, 0, 1])
    labels = superpixels(pixels)
    assert torch.equal(superpixels(pixels[order]), labels[order])
    assert torch.equal(superpixels(pixels[1:2]), labels[1:2])


# --- LIME


def literal_lime(model: fm.Classifier, image: Tensor, k: int, method: LIME, seed: int) -> Tensor:
    """The coefficients: normal equations with a column for the intercept, coalition by coalition."""
    labels = segments_of(model, image[None], method.segments)[0]
    K = math.prod(seed_grid(method.segments, 32, 32))
    (generator,) = generators(seed, "lime", sample_ids(image[None]))
    scores = worth(model, image, labels, k)
    left, right = torch.zeros(K + 1, K + 1, dtype=torch.float64), torch.zeros(K + 1, dtype=torch.float64)
    for z in torch.rand(method.samples, K, generator=generator) < 0.5:
        ones = torch.ones(K)
        cosine = float(z.float() @ ones / (z.float().norm() * ones.norm())) if bool(z.any()) else 0.0
        kernel = math.exp(-((1 - cosine) ** 2) / method.width**2)
        row = torch.cat([z.double(), torch.ones(1, dtype=torch.float64)])
        left += kernel * row[:, None] * row
        right += kernel * row * scores(z[None])[0]
    left[:K, :K] += method.ridge * torch.eye(K)
    return torch.linalg.solve(left, right)[:K]


def test_lime_is_the_literal_regression() -> None:
    model, x, method = classifier(nets.VGGLike()), noise(2), LIME(segments=6, samples=30)
    maps = method(model, x, [3, 1], seed=4)
    for i, k in enumerate([3, 1]):
        labels = segments_of(model, x[i : i + 1], 6)[0]
        torch.testing.assert_close(values_of(maps[i], labels, 6), literal_lime(model, x[i], k, method, 4))


@pytest.mark.parametrize("fill", ["segment", "black", "mean", "blur"])
@pytest.mark.parametrize("method", [LIME(segments=9, samples=60, ridge=0), KernelSHAP(segments=9, samples=60)])
def test_on_a_linear_network_both_find_what_each_segment_adds(method: Any, fill: Any) -> None:
    model, x = linear(), noise(2)
    method = type(method)(**method.parameters | {"fill": fill})
    W = model.module[1].weight.detach().view(5, 3, 32, 32)  # type: ignore[index,union-attr,operator]
    mean, std = model.scale(x)
    labels = segments_of(model, x, 9)
    found = method.run(model, x, [4, 2])
    for i, k in enumerate([4, 2]):
        hidden = {
            "segment": hidden_by_means(x[i], labels[i]),
            "black": (-mean / std)[0].expand(3, 32, 32),
            "mean": torch.zeros(3, 32, 32),
            "blur": fm.pixels.blur(x[i], 3.2, 21),
        }[fill]
        adds = (W[k] * (x[i] - hidden)).sum(dim=0)
        expected = torch.stack([adds[labels[i] == s].sum() for s in range(9)])
        torch.testing.assert_close(values_of(found.maps[i], labels[i], 9), expected)
    assert float(found.standard_error.max()) < 1e-10  # nothing is left over


def test_a_ridge_draws_coefficients_to_zero() -> None:
    model, x = linear(), noise(1)
    sizes = [float(LIME(segments=9, samples=60, ridge=r)(model, x, 0).square().sum()) for r in (0, 1, 100)]
    assert sizes[2] < sizes[1] < sizes[0]


# --- kernel SHAP


@pytest.mark.parametrize("make", [nets.VGGLike, nets.ViTLike])
def test_few_segments_have_their_exact_shapley_values(make: Callable[[], nn.Module]) -> None:
    model, x = classifier(make()), noise(2)
    found = KernelSHAP(segments=6, samples=62).run(model, x, [0, 2])
    assert found.notes["coalitions"] == "all 62"
    assert found.standard_error is None
    for i, k in enumerate([0, 2]):
        labels = segments_of(model, x[i : i + 1], 6)[0]
        exact = exact_shap(worth(model, x[i], labels, k), 6)
        torch.testing.assert_close(values_of(found.maps[i], labels, 6), exact, atol=1e-10, rtol=1e-8)


def test_sampled_values_lie_about_the_exact_ones_as_their_errors_say() -> None:
    model, x = classifier(nets.VGGLike()), noise(24)
    exact = KernelSHAP(segments=9, samples=510).run(model, x, 0)
    found = KernelSHAP(segments=9, samples=100).run(model, x, 0, seed=2)
    assert exact.notes["coalitions"] == "all 510"
    assert found.standard_error is not None
    z = (found.maps - exact.maps) / found.standard_error
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2


@pytest.mark.parametrize("kind", [LIME, KernelSHAP])
def test_standard_errors_are_honest(kind: Any) -> None:
    """Against a run of four times the samples, of which the first are the same."""
    model, x = classifier(nets.VGGLike()), noise(12)
    few, many = (kind(segments=16, samples=n).run(model, x, 1, seed=3) for n in (200, 800))
    z = (few.maps - many.maps) / (few.standard_error * 0.75**0.5)
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2


def test_the_values_add_up_also_where_they_are_sampled() -> None:
    model, x = classifier(nets.VGGLike()), noise(3)
    found = KernelSHAP(segments=12, samples=48).run(model, x, 0)
    labels = segments_of(model, x, 12)
    for i in range(3):
        phi = values_of(found.maps[i], labels[i], 12)
        with torch.no_grad():
            y, y0 = model.module(torch.stack([x[i], hidden_by_means(x[i], labels[i])]))[:, 0]
        assert float(phi.sum()) == pytest.approx(float(y - y0), abs=1e-10)
        assert found.condition is not None
        assert float(found.condition[i]) == pytest.approx(float(phi.abs().sum() / (y - y0).abs()))


def test_coalitions_follow_the_shapley_kernel_in_pairs() -> None:
    K, seen = 7, _pairs(20000, 7, torch.Generator().manual_seed(0))
    assert torch.equal(seen[::2], ~seen[1::2])
    sizes = seen[::2].sum(dim=1)
    kernel = {s: (K - 1) / (math.comb(K, s) * s * (K - s)) * math.comb(K, s) for s in range(1, K)}
    for s, share in kernel.items():
        expected = share / sum(kernel.values())
        assert float((sizes == s).double().mean()) == pytest.approx(expected, abs=5 * (expected / 20000) ** 0.5)
    of_two = seen[::2][sizes == 2].double().mean(dim=0)
    assert float((of_two - 2 / K).abs().max()) < 5 * (2 / K / int((sizes == 2).sum())) ** 0.5


def test_a_segment_without_pixels_takes_no_part() -> None:
    """A stripe between two cells drains the cell of the colours around it: its coefficient is 0, the others' sum whole."""  # noqa: E501
    from faithmap.methods.surrogates import Pieces

    model, x = classifier(nets.VGGLike()), noise(1)
    original = Pieces.of

    def drained(query: Any, segments: int, fill: Any) -> Pieces:
        pieces = original(query, segments, fill)
        labels = pieces.labels.masked_fill(pieces.labels == 4, 5)
        present = pieces.present.clone()
        present[:, 4] = 0
        return Pieces(labels, pieces.hidden, present)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "of", drained)
        exact = KernelSHAP(segments=9, samples=510).run(model, x, 0)
        found = KernelSHAP(segments=9, samples=400).run(model, x, 0)
        lime = LIME(segments=9, samples=100, ridge=0).run(model, x, 0)
    for result in (exact, found):
        assert result.completeness_error is not None
        assert float(result.completeness_error.max()) < 1e-10
        assert len(result.maps.unique()) == 8
    assert bool(lime.maps.isfinite().all())
    assert float((found.maps - exact.maps).abs().max()) < 0.2 * float(exact.maps.abs().max())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LIME(segments=1), "segments=1"),
        (lambda: LIME(samples=100), "segments=50, samples=100"),
        (lambda: KernelSHAP(samples=100), "segments=50, samples=100"),
        (lambda: LIME(width=0), "width=0"),
        (lambda: LIME(ridge=-1), "ridge=-1"),
        (lambda: LIME(fill="red"), "'segment' or 'black' or 'mean' or 'blur'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], Method], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
