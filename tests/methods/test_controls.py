"""The controls know nothing of the network and all of the picture's frame."""

from __future__ import annotations

import math

import pytest
import torch

import faithmap as fm
from faithmap.methods import CentreGaussian, Random, RandomCAM
from tests import nets
from tests.methods.test_cam import literal_cam


@pytest.fixture
def model() -> fm.Classifier:
    return fm.Classifier(nets.gap_linear().eval(), size=32)


def test_noise_is_uniform_and_belongs_to_seed_and_picture(model: fm.Classifier) -> None:
    x = torch.randn(3, 3, 32, 32)
    x[2] = x[0]
    maps = Random()(model, x, 0, seed=1)
    assert torch.equal(maps[0], maps[2])
    for other in (maps[1], Random()(model, x, 0, seed=2)[0]):
        assert abs(float(torch.corrcoef(torch.stack([maps[0].flatten(), other.flatten()]))[0, 1])) < 0.1
    levels = maps[:2].flatten().sort().values
    ideal = (torch.arange(len(levels)) + 0.5) / len(levels)
    assert float((levels - ideal).abs().max()) < 1.63 / math.sqrt(len(levels))  # Kolmogorov-Smirnov, 1 %


def test_noise_is_the_same_for_every_target_and_network(model: fm.Classifier) -> None:
    x, other = torch.randn(2, 3, 32, 32), fm.Classifier(nets.Residual().eval(), size=32)
    assert torch.equal(Random()(model, x, 0), Random()(other, x, [1, 2]))


def test_random_cam_weighs_channels_uniformly_by_seed_and_picture() -> None:
    wide = torch.nn.Conv2d(3, 2000, 8, stride=8)
    model = fm.Classifier(torch.nn.Sequential(wide, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), size=32)
    x = torch.randn(3, 3, 32, 32)
    x[2] = x[0]
    found = RandomCAM(layer="0").run(model, x, [0, 1, 2], seed=1)
    weights = found.coefficients
    assert weights is not None
    assert torch.equal(weights[0], weights[2])
    for other in (weights[1], RandomCAM(layer="0").run(model, x, 0, seed=2).coefficients[0]):  # type: ignore[index]
        assert abs(float(torch.corrcoef(torch.stack([weights[0], other]))[0, 1])) < 0.1
    levels = weights[:2].flatten().sort().values
    ideal = (torch.arange(len(levels)) + 0.5) / len(levels) * 2 - 1
    assert float((levels - ideal).abs().max()) < 2 * 1.63 / math.sqrt(len(levels))  # Kolmogorov-Smirnov, 1 %
    torch.testing.assert_close(found.maps, literal_cam(weights.float(), wide(x).detach()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_the_centre_gaussian_is_its_formula(model: fm.Classifier, shape: tuple[int, int]) -> None:
    H, W = shape
    map = CentreGaussian(sigma=0.2)(model, torch.zeros(1, 3, H, W), 0)[0]
    for row, col in [(0, 0), (H // 2, W // 2), (3, W - 1), (H - 1, 5)]:
        distance2 = (row + 0.5 - H / 2) ** 2 + (col + 0.5 - W / 2) ** 2
        assert float(map[row, col]) == pytest.approx(math.exp(-distance2 / (2 * (0.2 * min(H, W)) ** 2)), rel=1e-5)
    torch.testing.assert_close(map, map.flip(0, 1), atol=0, rtol=0)


def test_the_default_width_is_50_of_224_pixels() -> None:
    assert CentreGaussian().sigma * 224 == pytest.approx(50)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), "wide"])
def test_a_wrong_width_is_named(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma.*got {sigma!r}"):
        CentreGaussian(sigma=sigma)
