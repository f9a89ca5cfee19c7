"""FullGrad against a network written out with a bias for each place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import FullGrad
from faithmap.targets import DotProduct, Probability, Similarity
from tests import nets

Scale = Literal["layer", "channel", "none"]


def trained(module: nn.Module) -> nn.Module:
    """With statistics and weights in its batch norms, as after training."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            part.weight.data.normal_()
            part.bias.data.normal_()
    return module.double().eval()


def psi(parts: Tensor, rescale: Scale) -> Tensor:
    """|parts| (C, h, w) of one layer, scaled, at 32 x 32, channel by channel."""
    parts = parts.abs()
    if rescale == "layer":
        parts = (parts - parts.min()) / (parts.max() - parts.min())
    total = torch.zeros(32, 32, dtype=parts.dtype)
    for one in parts:
        if rescale == "channel":
            one = (one - one.min()) / (one.max() - one.min()) if one.max() > one.min() else one * 0
        total += F.interpolate(one[None, None], (32, 32), mode="bilinear", align_corners=False)[0, 0]
    return total


@pytest.mark.parametrize("rescale", ["layer", "channel", "none"])
def test_maps_are_the_formula_with_a_bias_at_each_place(rescale: Scale) -> None:
    """Biases spread over places are leaves; their gradients are read from autograd."""
    net = trained(nets.gap_linear())
    conv1, norm, conv2, dense = (net[i] for i in (0, 1, 3, 7))  # type: ignore[index]
    x, classes = torch.randn(3, 3, 32, 32, dtype=torch.float64), [4, 0, 2]
    found = FullGrad(rescale=rescale).run(fm.Classifier(net, size=32), x, classes)
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    implicit = norm.bias.detach() - norm.running_mean * scale
    for i, k in enumerate(classes):
        one = x[i : i + 1].clone().requires_grad_()
        b1 = conv1.bias.detach().view(1, -1, 1, 1).repeat(1, 1, 16, 16).requires_grad_()
        bn = implicit.view(1, -1, 1, 1).repeat(1, 1, 16, 16).requires_grad_()
        b2 = conv2.bias.detach().view(1, -1, 1, 1).repeat(1, 1, 8, 8).requires_grad_()
        a = F.conv2d(one, conv1.weight, None, 2, 1) + b1
        a = (a * scale.view(1, -1, 1, 1) + bn).relu()
        a = (F.conv2d(a, conv2.weight, None, 2, 1) + b2).relu()
        y = F.linear(a.mean(dim=(2, 3)), dense.weight, dense.bias)[0, k]
        leaves = [one, b1, bn, b2]
        parts = [(g * leaf).detach() for g, leaf in zip(torch.autograd.grad(y, leaves), leaves, strict=True)]
        expected = torch.stack([psi(part[0], rescale) for part in parts]).sum(dim=0)
        torch.testing.assert_close(found.maps[i], expected, atol=1e-10, rtol=1e-8)
        total = torch.stack([part.sum() for part in parts]).sum() + dense.bias[k].detach()  # the paper's sum
        torch.testing.assert_close(total, y.detach(), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("make", [nets.gap_linear, nets.VGGLike, nets.Residual, nets.MobileLike])
def test_the_parts_add_up_to_the_score_of_piecewise_linear_networks(make: Callable[[], nn.Module]) -> None:
    """ReLU6 that saturates, batch norm, skip connections, max-pooling, dense layers and shared ReLUs included."""
    module, x = trained(make()), 10 * torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert not isinstance(module, nets.MobileLike) or bool((module.stem(x) == 6).any())
    for target in ([0, 1, 2, 3], Probability(1)):
        found = FullGrad().run(fm.Classifier(module, size=32), x, target)
        assert found.completeness_error is not None
        assert float(found.completeness_error.max()) < 1e-9


@pytest.mark.parametrize("target", [Similarity, DotProduct])
def test_the_parts_add_up_for_faces(target: type) -> None:
    face, x = fm.FaceEmbedder(trained(nets.Faces()), size=32), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found = FullGrad().run(face, x, target(torch.randn(3, 6, dtype=torch.float64)))
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-9


@pytest.mark.parametrize(
    "curved",
    [nn.GELU(), nn.SiLU(inplace=True), nn.Hardswish(inplace=True), nn.ELU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus()],
)
def test_smooth_non_linearities_have_implicit_biases(curved: nn.Module) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), curved, nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.GroupNorm(1, 8), nn.Identity(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    net[3] = nn.Identity()  # normalisation by a picture's own statistics is not linear
    found = FullGrad().run(fm.Classifier(net.double(), size=32), torch.randn(2, 3, 32, 32, dtype=torch.float64), 1)
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-9


@pytest.mark.parametrize(("inner", "likeness"), [(torch.float32, 1 - 1e-9), (torch.bfloat16, 0.95)])
def test_gradients_reach_an_input_that_the_network_takes_in_another_precision(
    inner: torch.dtype, likeness: float
) -> None:
    module, x = trained(nets.Residual()), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    exact = FullGrad()(fm.Classifier(module, size=32), x, 1)
    found = FullGrad().run(fm.Classifier(module.to(inner), size=32), x, 1)
    assert found.maps.dtype == torch.float64
    for ours, theirs in zip(found.maps, exact, strict=True):
        assert float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]) > likeness
    # The input's own term, which alone needs the gradient to reach so far, is a large part of the sum.
    assert found.completeness_error is not None
    assert found.scores is not None
    assert bool((found.completeness_error < 0.05 * found.scores.abs()).all())


def test_what_is_no_layer_is_missing_and_the_error_says_how_much() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean(dim=(2, 3))) + 7

    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = FullGrad().run(fm.Classifier(Shifted().double(), size=32), x, 0)
    torch.testing.assert_close(found.completeness_error, torch.full((2,), 7.0, dtype=torch.float64))


def test_one_forward_one_backward_and_one_resize_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls, resized = trained(nets.Residual()), [], []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    real = fm.methods.base.Query.upsample
    monkeypatch.setattr(fm.methods.base.Query, "upsample", lambda q, maps: (resized.append(1), real(q, maps))[1])
    found = FullGrad().run(fm.Classifier(module, size=32), torch.randn(4, 3, 32, 32).double(), 0)
    assert len(calls) == 1
    assert found.cost.per_image(4) == {"forward": 1, "backward": 1}
    assert len(resized) == 1 + 7  # the input; the stem, and two convolutions and a norm in each of two blocks


def test_a_layer_whose_parts_are_alike_everywhere_shows_no_place() -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    maps = FullGrad()(fm.Classifier(net, size=32), x, 0)
    net[0].bias.data.zero_()  # type: ignore[union-attr]
    assert torch.equal(maps, FullGrad()(fm.Classifier(net, size=32), x, 0))


def test_a_wrong_scale_is_named() -> None:
    with pytest.raises(ValueError, match="rescale is 'layer' or 'channel' or 'none': got 'image'"):
        FullGrad(rescale="image")  # type: ignore[arg-type]


@pytest.mark.real
def test_the_parts_of_mobilenet_add_up(data: object) -> None:
    model = fm.load(f"mobilenet_v2@{data}/weights/mobilenet_v2.pth")
    model.module.double()
    found = FullGrad().run(model, torch.randn(1, 3, 224, 224, dtype=torch.float64), 285)
    assert found.completeness_error is not None
    assert float(found.completeness_error[0]) < 1e-9
