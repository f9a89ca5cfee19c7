"""Gradients of the pixels against autograd picture by picture, closed forms, and honest sampling errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import Constant, Edges, Gradient, GradientXInput, IntegratedGradients, Method, SmoothGrad
from faithmap.sampling import generators, sample_ids, seeds_of
from tests import nets

NETS: list[Callable[[], nn.Module]] = [nets.gap_linear, nets.VGGLike, nets.Residual, nets.MobileLike, nets.ViTLike]


def classifier(module: nn.Module, **settings: Any) -> fm.Classifier:
    return fm.Classifier(module.double().eval(), size=32, **settings)


def linear() -> fm.Classifier:
    return classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)))


def noise(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, dtype=torch.float64)


def autograd(model: fm.Classifier, image: Tensor, k: int) -> Tensor:
    """D z_k / dx of one image (3, H, W)."""
    image = image.clone().requires_grad_()
    return torch.autograd.grad(model.module(image[None])[0, k], image)[0]


def share(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- at the picture


@pytest.mark.parametrize("make", NETS)
def test_gradients_are_autograds_one_picture_at_a_time(make: Callable[[], nn.Module]) -> None:
    model, x, classes = classifier(make()), noise(3), [3, 0, 1]
    steepest, product = Gradient()(model, x, classes), GradientXInput()(model, x, classes)
    for i, k in enumerate(classes):
        g = autograd(model, x[i], k)
        for row, col in [(0, 0), (13, 21), (31, 30)]:
            assert float(steepest[i, row, col]) == pytest.approx(max(abs(float(g[c, row, col])) for c in range(3)))
            total = sum(float(g[c, row, col]) * float(x[i, c, row, col]) for c in range(3))
            assert float(product[i, row, col]) == pytest.approx(total, abs=1e-15)


def test_the_score_comes_with_the_gradient_and_costs_no_forward_of_its_own() -> None:
    model, x = classifier(nets.Residual()), noise(3)
    cost = Gradient().run(model, x, 2, batch_size=2).cost
    assert (cost.forward, cost.backward) == (3, 3)


# --- around the picture


def literal_smooth_grad(model: fm.Classifier, image: Tensor, k: int, method: SmoothGrad, seed: int) -> Tensor:
    (generator,) = generators(seed, "smooth-grad", sample_ids(image[None]))
    width, total = method.sigma * (image.max() - image.min()), torch.zeros_like(image)
    for one in seeds_of(generator, method.samples):
        e = torch.randn(image.shape, generator=torch.Generator().manual_seed(one)).double()
        total += autograd(model, image + width * e, k)
    return (total / method.samples).abs().amax(dim=0)


@pytest.mark.parametrize("make", NETS)
def test_smooth_grad_is_the_literal_loop(make: Callable[[], nn.Module]) -> None:
    model, x, method = classifier(make()), noise(2), SmoothGrad(samples=5)
    maps = method(model, x, [4, 2], seed=7)
    for i, k in enumerate([4, 2]):
        assert share(maps[i], literal_smooth_grad(model, x[i], k, method, 7)) < 1e-10


def test_noise_has_the_width_that_is_asked_for() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x.mean(dim=(2, 3))

    x = torch.rand(1, 3, 32, 32) * 7 - 3
    SmoothGrad(samples=40, sigma=0.2)(fm.Classifier(Spy(), size=32), x, lambda z: z[:, 0], seed=1)
    noise = torch.cat(seen) - x
    noise = noise[noise.flatten(1).any(dim=1)]  # without the picture itself
    assert len(noise) == 40
    width = 0.2 * float(x.max() - x.min())
    assert float(noise.std()) == pytest.approx(width, rel=0.01)
    assert abs(float(noise.mean())) < 5 * width / noise.numel() ** 0.5
    assert abs(float((noise[0] * noise[1]).mean())) < 5 * width**2 / noise[0].numel() ** 0.5  # independent


def test_on_a_linear_network_noise_changes_nothing() -> None:
    model, x = linear(), noise(2)
    found = SmoothGrad(samples=3).run(model, x, 1)
    assert share(found.maps, Gradient()(model, x, 1)) < 1e-12
    assert found.standard_error is not None
    assert float(found.standard_error.max()) < 1e-12


def test_little_noise_on_a_piecewise_linear_network_gives_its_gradient() -> None:
    model, x = classifier(nets.VGGLike()), noise(2)
    assert share(SmoothGrad(samples=3, sigma=1e-9)(model, x, 1), Gradient()(model, x, 1)) < 1e-9


def test_its_standard_error_is_honest() -> None:
    """Against a run of four times the samples, of which the first are the same."""
    model, x = classifier(nets.VGGLike()), noise(3)
    few = SmoothGrad(samples=60).run(model, x, 1, seed=1)
    many = SmoothGrad(samples=240).run(model, x, 1, seed=1)
    assert few.standard_error is not None
    clear = many.maps > 3 * few.standard_error  # where the absolute value does not bend
    z = ((few.maps - many.maps) / (few.standard_error * 0.75**0.5))[clear]
    assert len(z) > 300
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2


class _Small(nn.Module):
    """A network whose memory holds two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.largest = nets.VGGLike(), 2

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.largest:
            raise RuntimeError("out of memory")
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", [SmoothGrad(samples=5), IntegratedGradients(steps=5), GradientXInput()])
def test_what_does_not_fit_memory_is_asked_again_with_the_same_noise(method: Method) -> None:
    small = _Small()
    model, x = classifier(small), noise(3)
    maps = method(model, x, 1)
    small.largest = 100
    assert share(maps, method(model, x, 1)) < 1e-12


# --- along the way


@pytest.mark.parametrize("baseline", ["black", "mean", "blur"])
def test_on_a_linear_network_integrated_gradients_are_gradient_times_change(baseline: Any) -> None:
    model, x = linear(), noise(2)
    mean, std = model.scale(x)
    x0 = {"black": (-mean / std).expand_as(x), "mean": torch.zeros_like(x), "blur": fm.pixels.blur(x, 3.2, 21)}
    W = model.module[1].weight.detach().view(5, 3, 32, 32)  # type: ignore[index,union-attr,operator]
    found = IntegratedGradients(steps=1, baseline=baseline).run(model, x, [4, 2])
    for i, k in enumerate([4, 2]):
        assert share(found.maps[i], ((x[i] - x0[baseline][i]) * W[k]).sum(dim=0)) < 1e-12
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-12


@pytest.mark.parametrize("make", NETS)
def test_integrated_gradients_are_the_literal_sum(make: Callable[[], nn.Module]) -> None:
    model, x = classifier(make(), mean=(0.2, 0.5, 0.7), std=(0.2, 0.25, 0.3)), noise(2)
    black = torch.tensor([-0.2 / 0.2, -0.5 / 0.25, -0.7 / 0.3], dtype=torch.float64).view(3, 1, 1)
    places, weights = np.polynomial.legendre.leggauss(6)  # on [-1, 1]
    maps = IntegratedGradients(steps=6)(model, x, [0, 3])
    for i, k in enumerate([0, 3]):
        total = torch.zeros_like(x[i])
        for place, weight in zip(places, weights, strict=True):
            total += weight / 2 * autograd(model, black + (1 + place) / 2 * (x[i] - black), k)
        assert share(maps[i], ((x[i] - black) * total).sum(dim=0)) < 1e-10


@pytest.mark.parametrize("make", NETS)
def test_more_steps_make_the_sum_complete(make: Callable[[], nn.Module]) -> None:
    model, x = classifier(make()), noise(8)
    medians = []
    for steps in (5, 50, 300):
        found = IntegratedGradients(steps=steps, baseline="mean").run(model, x, 1)
        assert found.completeness_error is not None
        assert found.condition is not None
        change = found.maps.abs().sum(dim=(1, 2)) / found.condition
        medians.append(float((found.completeness_error / change).median()))
    assert medians[2] < medians[1] < medians[0]
    assert medians[1] < (1e-6 if make is nets.ViTLike else 0.03)
    assert medians[2] < 0.01


def test_the_completeness_error_is_that_of_the_map() -> None:
    model, x = classifier(nets.VGGLike()), noise(3)
    found = IntegratedGradients(steps=7, baseline="mean").run(model, x, 1)
    with torch.no_grad():
        change = model.module(x)[:, 1] - model.module(torch.zeros_like(x))[:, 1]
    assert found.completeness_error is not None
    assert found.condition is not None
    torch.testing.assert_close(found.completeness_error, (found.maps.sum(dim=(1, 2)) - change).abs())
    torch.testing.assert_close(found.condition, found.maps.abs().sum(dim=(1, 2)) / change.abs())


def test_a_picture_that_is_its_own_baseline_says_so() -> None:
    model, x = classifier(nets.VGGLike()), noise(2)
    x[0] = 0
    found = IntegratedGradients(steps=2, baseline="mean").run(model, x, 0)
    assert list(found.reasons) == ["the picture is its own baseline", ""]


@pytest.mark.parametrize("name", ["gradient", "gradient-x-input", "integrated-gradients", "smooth-grad"])
def test_a_target_without_a_gradient_says_so(name: str) -> None:
    found = fm.methods.create(name).run(classifier(nets.gap_linear()), noise(1), lambda z: z[:, 0] * 0)
    assert list(found.reasons) == ["the target has no gradient to the input"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SmoothGrad(sigma=0), "sigma=0"),
        (lambda: SmoothGrad(samples=1), "samples=1"),
        (lambda: IntegratedGradients(steps=0), "got 0"),
        (lambda: IntegratedGradients(baseline="white"), "'black' or 'mean' or 'blur'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], Method], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.real
def test_integrated_gradients_of_a_photo_are_nearly_complete(data: Path) -> None:
    model = fm.load(f"squeezenet1_0@{data / 'weights' / 'squeezenet1_0.pth'}")
    found = IntegratedGradients().run(model, model.prepare("src/faithmap/assets/photos/cat.jpg"))
    assert found.completeness_error is not None
    assert found.condition is not None
    change = found.maps.double().abs().sum(dim=(1, 2)) / found.condition
    assert float((found.completeness_error / change)[0]) < 0.1


# --- controls


def test_edges_are_sobels() -> None:
    scipy = pytest.importorskip("scipy.ndimage")
    model, x = classifier(nets.gap_linear(), channel_order="bgr"), noise(2)
    maps = Edges()(model, x, 0)
    mean, std = model.scale(x)
    blue, green, red = (x * std + mean).unbind(1)
    picture = (0.2989 * red + 0.587 * green + 0.114 * blue).numpy()
    for i in range(2):
        across, down = (scipy.sobel(picture[i], axis=axis, mode="nearest") for axis in (1, 0))
        torch.testing.assert_close(maps[i], torch.from_numpy(np.sqrt(across**2 + down**2)))


def test_a_flat_picture_has_no_edges_and_a_constant_is_flagged_as_one() -> None:
    model, x = classifier(nets.gap_linear()), torch.full((1, 3, 32, 32), 0.3, dtype=torch.float64)
    flat, constant = (fm.explain(model, x, control, 0) for control in (Edges(), Constant()))
    assert not flat.maps.any()
    assert flat.degenerate == ("the map is constant: the picture is of one grey",)
    assert bool((constant.maps == 1).all())
    assert constant.degenerate == ("the map is constant: this control is meant to be",)
