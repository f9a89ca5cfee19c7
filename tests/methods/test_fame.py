"""FAME against a literal loop over images and steps, written from its formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor, nn

import faithmap as fm
from faithmap.models.base import Model
from faithmap.pixels import blur, grey
from faithmap.targets import Custom, Dissimilarity, FeatureLocation, Logit, Similarity, Target
from tests import nets

FAME = fm.methods.FAME
Score = Callable[[Tensor], Tensor]


# --- the literal formula


def gauss(map: Tensor, sigma: float, kernel: int) -> Tensor:
    """Every output pixel as a sum over its window, whose indices are mirrored at the borders by scipy."""
    r = np.arange(kernel) - kernel // 2
    window = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * sigma**2))
    return torch.from_numpy(ndimage.correlate(map.double().numpy(), window / window.sum(), mode="mirror"))


def weighted(image: Tensor, order: str) -> Tensor:
    """.2989 R + .587 G + .114 B of one image (3, H, W)."""
    r, g, b = image if order == "rgb" else image.flip(0)
    luma: Tensor = 0.2989 * r + 0.587 * g + 0.114 * b
    return luma


def literal_step(x_t: Tensor, score: Score, eta: float) -> tuple[Tensor, float]:
    """x_{t+1} of one image (3, H, W), and the score at x_t."""
    x_t = x_t.clone().requires_grad_()
    y = score(x_t[None]).sum()
    (g,) = torch.autograd.grad(y, x_t)
    return x_t.detach() - eta * g / max(abs(float(g.min())), abs(float(g.max()))), float(y.detach())


def literal(
    model: Model,
    image: Tensor,
    score: Score,
    *,
    iterations: int = 5,
    step: float = 1 / 255,
    sigma: float = 7.7,
    kernel: int = 49,
    space: str = "input",
    clamp: bool = False,
    stop_below: float = -np.inf,
) -> Tensor:
    """FAME's map of one image (3, H, W): METHODS' two lines, one step after the other."""
    mean, std = (torch.tensor(v, dtype=image.dtype).view(3, 1, 1) for v in (model.mean, model.std))
    start = image * std + mean if space == "pixel" else image

    def of(p: Tensor) -> Tensor:
        return score((p - mean) / std if space == "pixel" else p)

    x_t = start
    for _ in range(iterations):
        x_next, y = literal_step(x_t, of, step)
        if y < stop_below:
            break
        if clamp:
            pixels = x_next if space == "pixel" else x_next * std + mean
            pixels = pixels.clamp(0, 1)
            x_next = pixels if space == "pixel" else (pixels - mean) / std
        x_t = x_next
    return gauss(weighted(x_t - start, model.channel_order).abs(), sigma, kernel)


def single(method: fm.methods.FAME, model: Model, x: Tensor, targets: list[Target]) -> Tensor:
    return torch.cat([method(model, x[i : i + 1], target) for i, target in enumerate(targets)])


def classifier(net: nn.Module, **settings: Any) -> fm.Classifier:
    return fm.Classifier(net.double().eval(), size=32, **settings)


# --- whole runs, float64


@pytest.mark.parametrize("net", nets.CLASSIFIERS)
@pytest.mark.parametrize("space", ["input", "pixel"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_logit_maps_are_the_literal_loops(net: str, space: Any, order: Any) -> None:
    model = classifier(nets.CLASSIFIERS[net](), channel_order=order, mean=(0.2, 0.5, 0.7), std=(0.2, 0.25, 0.3))
    x, classes = torch.randn(3, 3, 32, 32, dtype=torch.float64), [0, 3, 4]
    maps = FAME(iterations=5, space=space)(model, x, classes)
    for i, k in enumerate(classes):
        expected = literal(model, x[i], lambda p, k=k: model.module(p)[:, k], space=space)  # type: ignore[misc]
        torch.testing.assert_close(maps[i], expected, atol=1e-6 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("space", ["input", "pixel"])
@pytest.mark.parametrize("sign", [1, -1])
def test_similarity_and_dissimilarity_maps_are_the_literal_loops(space: Any, sign: int) -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, channel_order="bgr")
    x, references = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    target = Similarity(references) if sign > 0 else Dissimilarity(references)
    maps = FAME(iterations=5, space=space)(face, x, target)
    for i in range(2):

        def score(p: Tensor, i: int = i) -> Tensor:
            return sign * F.cosine_similarity(face.module(p), references[i : i + 1])

        expected = literal(face, x[i], score, space=space)
        torch.testing.assert_close(maps[i], expected, atol=1e-6 * float(expected.max()), rtol=0)


@pytest.mark.parametrize(
    ("net", "layer"), [("residual", "layer1"), ("gap", "4"), ("vgg", "conv2"), ("vit", "blocks.0")]
)
def test_location_maps_are_the_literal_loops(net: str, layer: str) -> None:
    model = classifier(nets.CLASSIFIERS[net](), target_layer=layer)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    seen: list[Tensor] = []

    def score(p: Tensor, row: int, col: int) -> Tensor:
        handle = model.module.get_submodule(layer).register_forward_hook(lambda _, __, out: seen.append(out.clone()))
        model.module(p)
        handle.remove()
        A = seen.pop()
        A = A[:, 1:].transpose(1, 2).reshape(1, -1, 4, 4) if A.ndim == 3 else A  # past the class token
        return A[:, :, row, col].abs().sum(dim=1)

    places = [(0, 2), (3, 1)]
    maps = FAME(iterations=4)(model, x, FeatureLocation([0, 3], [2, 1]))
    for i, (row, col) in enumerate(places):
        expected = literal(model, x[i], lambda p, row=row, col=col: score(p, row, col), iterations=4)  # type: ignore[misc]
        torch.testing.assert_close(maps[i], expected, atol=1e-6 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("space", ["input", "pixel"])
def test_clamp_keeps_the_iterate_a_picture(space: Any) -> None:
    model = classifier(nets.gap_linear())
    x = model.from_pixels(torch.rand(2, 3, 32, 32, dtype=torch.float64).round())  # all at 0 or 1: half the steps clamp
    clamped = FAME(iterations=5, step=0.2, space=space, clamp=True)(model, x, 1)
    for i in range(2):
        expected = literal(model, x[i], lambda p: model.module(p)[:, 1], step=0.2, space=space, clamp=True)
        torch.testing.assert_close(clamped[i], expected, atol=1e-6 * float(expected.max()), rtol=0)
    assert float((clamped - FAME(iterations=5, step=0.2, space=space)(model, x, 1)).abs().max()) > 0.01


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_without_colour_average_their_channels(channels: int) -> None:
    net = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    model = classifier(net, mean=[0.5] * channels, std=[0.25] * channels, target_layer="1")
    x = torch.randn(1, channels, 32, 32, dtype=torch.float64)
    maps, x_t = FAME(iterations=3)(model, x, 1), x[0]
    for _ in range(3):
        x_t, _ = literal_step(x_t, lambda p: net(p)[:, 1], 1 / 255)
    torch.testing.assert_close(maps[0], gauss((x_t - x[0]).mean(dim=0).abs(), 7.7, 49), atol=1e-9, rtol=0)


def test_one_step_is_the_blurred_weighted_gradient() -> None:
    model = classifier(nets.Residual())
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    (g,) = torch.autograd.grad(model.module(x)[:, 2].sum(), x)
    expected = gauss((weighted(g[0], "rgb").abs() / g.abs().max()) / 255, 7.7, 49)
    torch.testing.assert_close(FAME(iterations=1)(model, x, 2)[0], expected, atol=1e-12, rtol=1e-9)


def test_opposite_changes_cancel() -> None:
    """The absolute value comes after the weighted sum of the channels."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[0].weight.data = torch.tensor([[0.114, 0.0, -0.2989], [1.0, 1.0, 1.0]]).view(2, 3, 1, 1)
    model = fm.Classifier(net, size=8, target_layer="0")
    maps = FAME(iterations=3, sigma=0)(model, torch.rand(1, 3, 8, 8), Logit([0]))
    assert float(maps.max()) < 1e-7
    assert float(FAME(iterations=3, sigma=0)(model, torch.rand(1, 3, 8, 8), 1).min()) > 0.01


def test_pixel_space_is_input_space_where_every_channel_has_the_same_std() -> None:
    """Steps of s pixels are steps of s / std inputs then, and the map is in pixels."""
    model = classifier(nets.MobileLike(), mean=(0.1, 0.4, 0.6), std=(0.25,) * 3)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    pixel = FAME(iterations=6, step=0.01, space="pixel")(model, x, 0)
    torch.testing.assert_close(pixel, FAME(iterations=6, step=0.04)(model, x, 0) * 0.25, atol=1e-9, rtol=1e-6)


def test_papers_settings() -> None:
    assert FAME.paper() == FAME(
        iterations=500, step=1 / 255, sigma=7.7, kernel=49, space="input", clamp=False, stop_below=None
    )
    assert FAME.paper(stop_below=0.01).stop_below == 0.01
    assert FAME.paper(space="pixel", iterations=3).iterations == 3


# --- single steps of real networks, float32


@pytest.mark.real
@pytest.mark.parametrize("space", ["input", "pixel"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilefacenet"])
def test_a_batched_step_of_a_real_network_is_the_literal_step(data: Path, name: str, space: Any) -> None:
    if name == "mobilenet_v2":
        model = fm.load(f"mobilenet_v2@{data}/weights/mobilenet_v2.pth")
        x = model.prepare(sorted((data / "imagenet/val").iterdir())[:3])
        k = model.module.eval()(x).argmax(dim=1)
        target: Target = Logit(k)
        scores = [lambda p, i=i: model.module(p)[:, k[i]] for i in range(3)]
    else:
        model = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
        x = model.prepare(sorted((data / "lfw/crops").iterdir())[:3])
        references = model.module.eval()(x).detach().roll(1, 0)
        target = Similarity(references)
        scores = [lambda p, i=i: F.cosine_similarity(model.module(p), references[i : i + 1]) for i in range(3)]
    mean, std = model.scale(x)

    def of(score: Score) -> Score:
        return (lambda p: score((p - mean) / std)) if space == "pixel" else score

    x_t = x
    for t in range(4):  # each step from the literal loop's own x_t
        states = x_t * std + mean if space == "pixel" else x_t
        ours = FAME(iterations=1, step=1.0, sigma=0, space=space)(model, x_t, target)
        stepped = [literal_step(one, of(score), 1.0)[0] for one, score in zip(states, scores, strict=True)]
        for i in range(3):
            expected = weighted(stepped[i] - states[i], "rgb").abs()
            torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0, msg=lambda m, t=t: f"step {t}: {m}")  # type: ignore[misc]
        states = states + (torch.stack(stepped) - states) / 255
        x_t = (states - mean) / std if space == "pixel" else states


# --- stopping, and maps that say nothing


def test_samples_stop_by_themselves_and_results_equal_single_calls() -> None:
    model = classifier(nets.Residual())
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    start, end = model.module(x)[:, 0].detach(), None
    free = FAME(iterations=12, step=0.05)
    stop = float(start.sort().values[1:3].mean())  # two begin below, others pass it on their way or never
    method = FAME(iterations=12, step=0.05, stop_below=stop)
    end = method.run(model, x, 0, batch_size=2)
    for i in range(5):
        expected = literal(model, x[i], lambda p: model.module(p)[:, 0], iterations=12, step=0.05, stop_below=stop)
        torch.testing.assert_close(end.maps[i], expected, atol=1e-6 * max(float(expected.max()), 1), rtol=0)
    torch.testing.assert_close(end.maps, single(method, model, x, [Logit(0)] * 5), atol=1e-12, rtol=0)
    assert [bool(m.any()) for m in end.maps] == [bool(s >= stop) for s in start]
    assert [bool(r) for r in end.reasons] == [bool(s < stop) for s in start]
    assert end.cost.forward < free.run(model, x, 0).cost.forward
    torch.testing.assert_close(end.scores, start, atol=1e-12, rtol=0)


def test_a_score_at_the_stop_value_goes_on() -> None:
    model = classifier(nets.gap_linear())
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    at = float(model.network(x)[0, 0])
    assert FAME(iterations=1, stop_below=at)(model, x, 0).any()
    assert not FAME(iterations=1, stop_below=at + 1e-9)(model, x, 0).any()


def test_an_empty_map_is_flagged_with_the_stop_rule() -> None:
    model = classifier(nets.gap_linear())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    scores = model.network(x)[:, 0]
    method = FAME(iterations=2, stop_below=float(scores.mean()))
    with pytest.warns(fm.DegenerateMapWarning, match="stop_below"):
        att = fm.explain(model, x, method, 0)
    low = int(scores.argmin())
    assert "below stop_below" in str(att.degenerate[low])
    assert att.degenerate[1 - low] is None
    assert att.provenance["parameters"]["stop_below"] == method.stop_below


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z[:, 0] * 0,
        lambda z: (z[:, 0] * 0).sqrt(),  # its gradient is 0 x infinity
        lambda z: (z[:, 0] > 0).double(),  # cut from the graph
        lambda z: torch.ones(len(z)),
    ],
)
def test_a_target_without_gradient_leaves_an_empty_map_that_is_flagged(function: Any) -> None:
    model = classifier(nets.gap_linear())
    with pytest.warns(fm.DegenerateMapWarning, match="no gradient to the input, or not a finite one"):
        att = fm.explain(model, torch.randn(2, 3, 32, 32, dtype=torch.float64), FAME(iterations=3), function)
    assert not att.maps.any()


def test_one_sample_without_gradient_does_not_touch_the_others() -> None:
    model = classifier(nets.gap_linear())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    targets: list[Target] = [Logit(1), Custom(lambda z: (z[:, 0] * 0).sqrt()), Logit(2)]
    maps = FAME(iterations=3)(model, x, targets)
    assert not maps[1].any()
    torch.testing.assert_close(maps[[0, 2]], FAME(iterations=3)(model, x[[0, 2]], [1, 2]), atol=1e-12, rtol=0)


# --- batches


@pytest.mark.parametrize("capacity", [1, 2, 5, 100])
def test_capacity_does_not_change_maps(capacity: int) -> None:
    model = classifier(nets.MobileLike())
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    targets = [0, 1, 2, 3, 4]
    found = FAME(iterations=6).run(model, x, targets, batch_size=capacity)
    torch.testing.assert_close(
        found.maps, single(FAME(iterations=6), model, x, [Logit(k) for k in targets]), atol=1e-10, rtol=0
    )
    assert found.cost.forward == found.cost.backward == 30


def test_progress_rises_to_the_total() -> None:
    model = classifier(nets.gap_linear())
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    stop = float(model.network(x)[:, 0].mean())
    calls: list[tuple[int, int]] = []
    FAME(iterations=4, stop_below=stop).run(
        model, x, 0, batch_size=2, progress=lambda done, total: calls.append((done, total))
    )
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert {total for _, total in calls} == {20}
    assert done[-1] == 20


def test_cancelling_leaves_the_module_as_it_was() -> None:
    net = nets.Residual().train()
    model = fm.Classifier(net, size=32)
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def cancel(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAME(iterations=5).run(model, torch.randn(2, 3, 32, 32), 0, progress=cancel)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(part._forward_hooks for part in net.modules())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


# --- the Gaussian and the grey


@pytest.mark.parametrize("shape", [(56, 60), (49, 25), (24, 24), (7, 5), (1, 9), (2, 2), (1, 1)])
@pytest.mark.parametrize(("sigma", "kernel"), [(7.7, 49), (2.0, 13), (1.3, 5)])
def test_the_gaussian_is_scipys_with_mirrored_borders(shape: tuple[int, int], sigma: float, kernel: int) -> None:
    maps = torch.rand(2, *shape, dtype=torch.float64)
    expected = torch.stack([gauss(map, sigma, kernel) for map in maps])
    torch.testing.assert_close(blur(maps, sigma, kernel), expected, atol=1e-12, rtol=0)


def test_the_gaussian_is_a_literal_convolution() -> None:
    """Where torch's reflection padding is defined, it is that and a convolution with an outer product of Gaussians."""
    map, r = torch.rand(1, 1, 40, 30, dtype=torch.float64), torch.arange(-12, 13, dtype=torch.float64)
    line = torch.exp(-(r**2) / (2 * 4.0**2))
    window = torch.outer(line, line) / line.sum() ** 2
    expected = F.conv2d(F.pad(map, (12, 12, 12, 12), mode="reflect"), window[None, None])
    torch.testing.assert_close(blur(map, 4.0, 25), expected, atol=1e-12, rtol=0)


def test_a_blurred_constant_stays_constant_and_sigma_zero_changes_nothing() -> None:
    torch.testing.assert_close(blur(torch.ones(1, 9, 4), 7.7, 49), torch.ones(1, 9, 4), atol=1e-6, rtol=0)
    map = torch.rand(1, 9, 4)
    assert blur(map, 0, 49) is map


def test_grey_follows_the_channel_order_and_is_the_mean_of_other_channel_counts() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(grey(x, "rgb"), grey(x.flip(1), "bgr"), atol=1e-12, rtol=0)
    torch.testing.assert_close(grey(x[:, :2]), x[:, :2].mean(dim=1), atol=1e-12, rtol=0)
    torch.testing.assert_close(grey(torch.ones(1, 3, 1, 1)), torch.tensor([[[0.9999]]]), atol=1e-6, rtol=0)


# --- parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0}, {"iterations": 2.5}, {"iterations": "ten"}, {"iterations": True}, {"step": 0},
        {"step": float("nan")}, {"step": -1 / 255}, {"sigma": -1}, {"sigma": float("inf")}, {"kernel": 48},
        {"kernel": 0}, {"space": "rgb"}, {"clamp": "yes"}, {"stop_below": "never"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"(?s){name}.*{value if not isinstance(value, float) else ''}"):
        FAME(**wrong)
