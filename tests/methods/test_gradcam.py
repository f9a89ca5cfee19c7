"""Grad-CAM's relatives against their formulas, written out with a hook and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import (
    CAM,
    GradCAM,
    GradCAMElementwise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
    get,
)
from faithmap.targets import Similarity
from tests import nets
from tests.methods.test_cam import activations

Case = tuple[Callable[[], nn.Module], str]
CASES: list[Case] = [
    (nets.gap_linear, "4"), (nets.gap_linear, "0"), (nets.VGGLike, "conv2"), (nets.Residual, "layer1"),
    (nets.MobileLike, "block.3"), (nets.ViTLike, "blocks.0"),
]  # fmt: skip
ON_CASES = pytest.mark.parametrize(("make", "layer"), CASES)

FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam++": lambda A, g: sum(
        sum(
            (g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + g[k, i, j] ** 3 * A[k].sum())) * g[k, i, j].relu()
            for i in range(A.shape[1])
            for j in range(A.shape[2])
            if g[k, i, j] != 0
        )
        * A[k]
        for k in range(len(A))
    ),  # type: ignore[dict-item]
    "xgrad-cam": lambda A, g: sum((A[k] / A[k].sum() * g[k]).sum() * A[k] for k in range(len(A)) if A[k].sum() != 0),  # type: ignore[dict-item]
    "hires-cam": lambda A, g: sum(g[k] * A[k] for k in range(len(A))),  # type: ignore[dict-item]
    "grad-cam-elementwise": lambda A, g: sum((g[k] * A[k]).relu() for k in range(len(A))),  # type: ignore[dict-item]
    "layer-cam": lambda A, g: sum(g[k].relu() * A[k] for k in range(len(A))),  # type: ignore[dict-item]
}
"""The map (h, w) of one picture's activations and gradients (C, h, w)."""


def upsampled(map: Tensor) -> Tensor:
    return F.interpolate(map[None, None], (32, 32), mode="bilinear", align_corners=False)[0, 0]


def places(name: str, A: Tensor) -> Tensor:
    """The feature map (C, h, w) of one picture in a layer's output."""
    return A[0, 1:].T.reshape(-1, 4, 4) if name.startswith("blocks") else A[0]


@ON_CASES
@pytest.mark.parametrize("name", FORMULAS)
def test_maps_are_their_formulas(name: str, make: Callable[[], nn.Module], layer: str) -> None:
    module, x, classes = make().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64), [3, 1, 1]
    maps = get(name)(layer=layer)(fm.Classifier(module, size=32), x, classes)
    for i, k in enumerate(classes):
        A, outputs = activations(module, layer, x[i : i + 1])
        (g,) = torch.autograd.grad(outputs[:, k].sum(), A)
        expected = upsampled(FORMULAS[name](places(layer, A.detach()), places(layer, g)))
        torch.testing.assert_close(maps[i], expected, atol=1e-12 * float(expected.abs().max()), rtol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_similarities_of_faces_behind_negative_activations(name: str) -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, target_layer="last")
    x, r = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    A, f = activations(face.module, "last", x)
    assert bool((A < 0).any())
    (g,) = torch.autograd.grad(F.cosine_similarity(f, r).sum(), A)
    maps = get(name)()(face, x, Similarity(r))
    for i in range(2):
        torch.testing.assert_close(maps[i], upsampled(FORMULAS[name](A[i].detach(), g[i])), atol=1e-10, rtol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_signs_are_as_declared(name: str) -> None:
    """Behind a ReLU, what is not signed has no negative value, and what is has some."""
    model, x = fm.Classifier(nets.Residual().eval(), size=32), torch.randn(4, 3, 32, 32)
    assert (float(get(name)()(model, x, 0).min()) < 0) == get(name).signed


# --- closed forms


@pytest.mark.parametrize("target", [1, fm.targets.LogitMargin(1, 3)])
def test_behind_pooling_and_one_linear_layer_all_signed_maps_are_cam(target: object) -> None:
    """There g is the same at every place: HiRes = Grad-CAM = XGrad = CAM over the number of places."""
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for method in (HiResCAM(), GradCAM(), XGradCAM()):
        torch.testing.assert_close(method(model, x, target) * 64, CAM()(model, x, target), atol=1e-12, rtol=1e-9)


def test_there_hires_cam_adds_up_to_the_score_without_its_bias() -> None:
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    # A layer of the input's size: nothing is upsampled, and the sum of the map is the sum over places.
    wide = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    model = fm.Classifier(wide.double().eval(), size=32, target_layer="1")
    found = HiResCAM().run(model, x, [0, 1, 2])
    assert found.scores is not None
    bias = wide[4].bias.detach()[[0, 1, 2]]  # type: ignore[index]
    torch.testing.assert_close(found.maps.sum(dim=(1, 2)), found.scores - bias, atol=1e-12, rtol=1e-9)


def test_xgrad_cam_adds_up_to_what_hires_cam_does() -> None:
    """Sum w_k A_k = sum g A: conservation, whatever the head; on the layer's own places."""
    module, x = nets.VGGLike().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    model = fm.Classifier(module, size=32, target_layer="conv1")  # 32 x 32: nothing is upsampled
    sums = [method(model, x, [0, 1, 2]).sum(dim=(1, 2)) for method in (XGradCAM(), HiResCAM())]
    torch.testing.assert_close(*sums, atol=1e-12, rtol=1e-9)


def test_grad_cam_plus_plus_is_the_closed_form_of_exps_third_derivative() -> None:
    """A = Y''/(2 Y'' + sum A Y''') of Y = exp(y), by autograd, for a piecewise linear head; over exp(y)."""
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    module = nn.Sequential(nn.Conv2d(3, 2, 16, 16).double(), nn.ReLU(), *head).eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    A = module[:2](x).detach()
    expected = torch.zeros(2, dtype=torch.float64)
    for k in range(2):
        for i in range(2):
            for j in range(2):
                one = A[0, k, i, j].clone().requires_grad_()
                point = A.clone()
                point[0, k, i, j] = one
                Y = head(point)[0, 1].exp()
                (first,) = torch.autograd.grad(Y, one, create_graph=True)
                (second,) = torch.autograd.grad(first, one, create_graph=True)
                (third,) = torch.autograd.grad(second, one)
                if bool(first > 0):
                    a = second / (2 * second + A[0, k].sum() * third)
                    expected[k] += (a * first / Y).detach()
    found = GradCAMPlusPlus().run(fm.Classifier(module, size=32, target_layer="1"), x, 1)
    assert float(expected.max()) > 0
    assert found.coefficients is not None
    torch.testing.assert_close(found.coefficients[0], expected, atol=1e-12, rtol=1e-9)


# --- denominators that cancel


class _Given(nn.Module):
    """A network whose layer returns what it is told, one channel of 2 x 2 places, and weighs it as told."""

    def __init__(self, A: list[float], g: list[float]) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor(A, dtype=torch.float64).view(1, 1, 2, 2))
        self.g = nn.Parameter(torch.tensor(g, dtype=torch.float64).view(1, 1, 2, 2))
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        A = self.layer(self.A + 0 * x[:, :1, :2, :2])
        y = (A * self.g).sum(dim=(1, 2, 3))
        return torch.stack([y, -y], dim=1)


def given(A: list[float], g: list[float]) -> fm.Classifier:
    return fm.Classifier(_Given(A, g), size=32, target_layer="layer")


X = torch.zeros(1, 3, 32, 32, dtype=torch.float64)


def test_on_its_pole_grad_cam_plus_plus_says_so_and_near_it_its_condition_does() -> None:
    with pytest.warns(fm.DegenerateMapWarning):
        att = fm.explain(given([-1.0, -2.0, 0.5, 0.5], [1.0, 0.5, 0.1, 0.1]), X, "grad-cam++", 0)  # 2 + 1 * -2 = 0
    assert att.degenerate[0] is not None
    assert "NaN or infinite" in att.degenerate[0]
    assert "2 + g sum A_k, by which it is divided, is 0" in att.degenerate[0]
    near = GradCAMPlusPlus().run(given([-1.0, -2.0, 0.5, 0.5], [1.001, 0.5, 0.1, 0.1]), X, 0)
    assert near.condition is not None
    assert float(near.condition[0]) == pytest.approx((2 + 2.002) / 0.002, rel=1e-6)
    away = GradCAMPlusPlus().run(given([-1.0, -2.0, 0.5, 0.5], [-1.0, 0.5, 0.1, 0.1]), X, 0)  # the pole's g is cut off
    assert away.condition is not None
    assert float(away.condition[0]) == pytest.approx((2 + 1) / (2 - 1))


def test_xgrad_cam_leaves_out_channels_that_cancel_and_tells_of_those_that_nearly_do() -> None:
    with pytest.warns(fm.DegenerateMapWarning):
        att = fm.explain(given([1.0, -1.0, 2.0, -2.0], [1.0, 0.5, 0.1, 0.1]), X, "xgrad-cam", 0)
    assert att.degenerate[0] == "the map is constant: the activations of every channel of layer 'layer' add up to 0"
    near = XGradCAM().run(given([1.0, -1.0, 2.0, -1.999], [1.0, 0.5, 0.1, 0.1]), X, 0)
    assert near.condition is not None
    assert float(near.condition[0]) == pytest.approx(5.999 / 0.001, rel=1e-6)


@pytest.mark.parametrize("method", [XGradCAM(), GradCAMPlusPlus()])
def test_behind_a_relu_nothing_cancels(method: fm.methods.Method) -> None:
    found = method.run(fm.Classifier(nets.Residual().double().eval(), size=32), torch.randn(3, 3, 32, 32).double(), 0)
    assert found.condition is not None
    torch.testing.assert_close(found.condition, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("method", [GradCAMPlusPlus(), GradCAMElementwise(), LayerCAM(), LayerCAM(layers="layer")])
def test_where_nothing_speaks_for_the_target_the_map_is_constant_and_says_so(method: fm.methods.Method) -> None:
    model = given([1.0, 2.0, 0.0, 3.0], [1.0, 0.5, 0.1, 0.1])
    with pytest.warns(fm.DegenerateMapWarning, match="nothing .* speaks for the target"):
        att = fm.explain(model, X, method, 1)
    assert not att.maps.any()


# --- Layer-CAM of several layers


def literal_fusion(module: nn.Module, layers: list[str], x: Tensor, k: int, gain: float) -> Tensor:
    """Each layer by a run and a backward pass of its own; the last of the layers is the deepest."""
    parts = []
    for layer in layers:
        A, outputs = activations(module, layer, x)
        (g,) = torch.autograd.grad(outputs[:, k].sum(), A)
        M = (places(layer, g).relu() * places(layer, A.detach())).sum(dim=0).relu()
        parts.append(upsampled(M / M.max() if layer == layers[-1] else torch.tanh(gain * M / M.max())))
    return torch.stack(parts).amax(dim=0)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (nets.Residual, ["stem", "layer1", "layer2"]), (nets.MobileLike, ["block.1", "block.3", "last"]),
        (nets.ViTLike, ["patch", "blocks.0"]), (nets.VGGLike, ["conv1", "conv2"]),
        (nets.Residual, ["layer1.conv1", "layer1.relu", "layer2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("gain", [2.0, 0.7])
def test_several_layers_are_fused_as_the_formula_says(
    make: Callable[[], nn.Module], layers: list[str], gain: float
) -> None:
    module, x, classes = make().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64), [3, 1, 0]
    given_order = ", ".join(reversed(layers))
    found = LayerCAM(layers=given_order, gain=gain).run(fm.Classifier(module, size=32), x, classes)
    assert found.notes["layers"] == layers
    for i, k in enumerate(classes):
        expected = literal_fusion(module, layers, x[i : i + 1], k, gain)
        torch.testing.assert_close(found.maps[i], expected, atol=1e-10, rtol=1e-6)


def test_a_layer_that_runs_more_than_once_is_read_and_ordered_by_its_last_map() -> None:
    """The ReLU runs behind conv1, behind conv2, and behind the dense layer, where there are no places."""
    module, x = nets.VGGLike().double().eval(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    found = LayerCAM(layers="relu,conv2").run(fm.Classifier(module, size=32), x, 2)
    assert found.notes["layers"] == ["conv2", "relu"]
    maps = []
    for layer in ("conv2", "relu"):
        A = module.conv2(F.max_pool2d(module.conv1(x).relu(), 4)).detach()  # type: ignore[operator]
        A = (A.relu() if layer == "relu" else A).requires_grad_()
        (g,) = torch.autograd.grad(module.fc2(module.fc1(F.max_pool2d(A.relu(), 2).flatten(1)).relu())[0, 2], A)  # type: ignore[operator]
        M = (g.relu() * A).sum(dim=1)[0].detach().relu()
        maps.append(upsampled(M / M.max() if layer == "relu" else torch.tanh(2 * M / M.max())))
    torch.testing.assert_close(found.maps[0], torch.maximum(*maps), atol=1e-10, rtol=1e-6)


def test_several_layers_take_one_forward_and_one_backward() -> None:
    module, calls = nets.Residual().eval(), []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    found = LayerCAM(layers="stem,layer1,layer2").run(fm.Classifier(module, size=32), torch.randn(4, 3, 32, 32))
    assert len(calls) == 1
    assert found.cost.per_image(4) == {"forward": 1, "backward": 1}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"layers": "stem,stem"}, "several different ones.*layers='stem,stem'"),
        ({"layers": "stem", "layer": "stem"}, "layer='stem', layers='stem'"),
        ({"gain": 0.0}, "gain above 0: got 0.0"),
        ({"layers": 3}, "layers is a text or None: got 3"),
    ],
)
def test_wrong_settings_are_named(parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LayerCAM(**parameters)  # type: ignore[arg-type]


def test_layers_that_are_none_are_named() -> None:
    model, x = fm.Classifier(nets.Residual().eval(), size=32), torch.randn(1, 3, 32, 32)
    cases = {
        "layer1,layer3": "no layer 'layer3'.*did you mean",
        "layer1,": "no layer ''",
        "layer1,fc": "'fc' returns no map",
    }
    for layers, says in cases.items():
        with pytest.raises(ValueError, match=says):
            LayerCAM(layers=layers)(model, x, 0)
