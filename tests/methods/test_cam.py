"""CAM and Grad-CAM against their formulas, written out with a hook and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import CAM, LIFTCAM, GradCAM
from faithmap.targets import DotProduct, Logit, LogitMargin, Similarity, Target
from tests import nets


def activations(module: nn.Module, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer returns, with gradients, and the network's outputs."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        seen.append(out)
        return out.clone()  # what follows may work in place

    handle = module.get_submodule(layer).register_forward_hook(hook)
    outputs = module(x)
    handle.remove()
    return seen[-1], outputs


def literal_cam(weights: Tensor, A: Tensor) -> Tensor:
    """sum_k w_k up(A_k), channel by channel."""
    up = [F.interpolate(A[:, k : k + 1], (32, 32), mode="bilinear", align_corners=False) for k in range(A.shape[1])]
    return sum(weights[:, k, None, None] * up[k][:, 0] for k in range(A.shape[1]))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("make", "layer", "head"),
    [(nets.gap_linear, "4", "7"), (nets.Residual, "layer2", "fc"), (nets.MobileLike, "last", "classifier.1")],
)
def test_cam_weighs_channels_with_the_classes_own_weights(make: Callable[[], nn.Module], layer: str, head: str) -> None:
    module, x = make().eval(), torch.randn(3, 3, 32, 32)
    A, _ = activations(module, layer, x)
    W = module.get_parameter(f"{head}.weight").detach()
    model = fm.Classifier(module, size=32, target_layer=layer)
    torch.testing.assert_close(CAM()(model, x, [4, 0, 2]), literal_cam(W[[4, 0, 2]], A.detach()), atol=1e-5, rtol=1e-4)
    margin = CAM()(model, x, LogitMargin(1, [2, 3, 4]))
    torch.testing.assert_close(margin, literal_cam(W[1] - W[[2, 3, 4]], A.detach()), atol=1e-5, rtol=1e-4)
    mixed = CAM()(model, x, [3, LogitMargin(3, 1), 1])
    weights = torch.stack([W[3], W[3] - W[1], W[1]])
    torch.testing.assert_close(mixed, literal_cam(weights, A.detach()), atol=1e-5, rtol=1e-4)


def test_cam_explains_dot_products_of_pooled_embeddings() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.PReLU(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    face, x, references = (
        fm.FaceEmbedder(module, size=32, target_layer="1"),
        torch.randn(2, 3, 32, 32),
        torch.randn(2, 6),
    )
    A, _ = activations(module, "1", x)
    expected = literal_cam(references @ module[4].weight.detach(), A.detach())  # type: ignore[operator]
    torch.testing.assert_close(CAM()(face, x, DotProduct(references)), expected, atol=1e-5, rtol=1e-4)


def test_cam_refuses_a_target_that_is_not_affine_and_names_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    face = fm.FaceEmbedder(module, size=32, target_layer="0")
    for target in (Similarity(torch.ones(6)), lambda z: z[:, 0]):
        with pytest.raises(ValueError, match=r"global average pooling.*Logit, LogitMargin, DotProduct.*use lift-cam"):
            CAM()(face, torch.randn(1, 3, 32, 32), target)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (nets.gap_linear, "4"), (nets.gap_linear, "0"), (nets.VGGLike, "conv2"), (nets.Residual, "layer1"),
        (nets.Residual, "layer2"), (nets.MobileLike, "block.3"),
    ],
)  # fmt: skip
def test_grad_cam_weighs_channels_with_their_mean_gradients(make: Callable[[], nn.Module], layer: str) -> None:
    module, x, classes = make().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64), [3, 1]
    maps = GradCAM(layer=layer)(fm.Classifier(module, size=32), x, classes)
    for i, k in enumerate(classes):
        A, outputs = activations(module, layer, x[i : i + 1])
        (g,) = torch.autograd.grad(outputs[:, k].sum(), A)
        expected = literal_cam(g.mean(dim=(2, 3)), A.detach())
        torch.testing.assert_close(maps[i : i + 1], expected, atol=1e-12, rtol=1e-6)


def test_grad_cam_explains_similarities() -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, target_layer="last")
    x, r = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    A, f = activations(face.module, "last", x)
    (g,) = torch.autograd.grad(F.cosine_similarity(f, r).sum(), A)
    torch.testing.assert_close(
        GradCAM()(face.at("last"), x, Similarity(r)), literal_cam(g.mean(dim=(2, 3)), A.detach()), atol=1e-12, rtol=1e-6
    )


def test_behind_pooling_and_one_linear_layer_grad_cam_is_cam_over_the_number_of_places() -> None:
    model, x = fm.Classifier(nets.MobileLike().eval(), size=32), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(GradCAM()(model, x, 0) * 8 * 8, CAM()(model, x, 0), atol=1e-5, rtol=1e-4)


def test_maps_are_signed_and_raw() -> None:
    model, x = fm.Classifier(nets.Residual().eval(), size=32), torch.randn(4, 3, 32, 32)
    for method in (CAM(), GradCAM(), LIFTCAM()):
        assert method.signed
        assert float(method(model, x, 0).min()) < 0 < float(method(model, x, 0).max())


def test_the_layer_of_the_method_goes_before_the_models() -> None:
    model, x = fm.Classifier(nets.Residual().eval(), size=32, target_layer="layer2"), torch.randn(1, 3, 32, 32)
    early = GradCAM(layer="stem").run(model, x, 0)
    assert early.layer == "stem"
    assert torch.equal(early.maps, GradCAM()(model.at("stem"), x, 0))
    assert not torch.equal(early.maps, GradCAM()(model, x, 0))


@pytest.mark.parametrize("method", [CAM(), GradCAM(), LIFTCAM()])
@pytest.mark.parametrize("target", [Logit(0), None])
def test_why_a_map_is_constant_is_told(method: fm.methods.Method, target: Target | None) -> None:
    module = nets.gap_linear().eval()
    module[3].bias.data.fill_(-100.0)  # type: ignore[index]
    model, x = fm.Classifier(module, size=32, target_layer="4"), torch.randn(2, 3, 32, 32)
    with pytest.warns(fm.DegenerateMapWarning):
        dead = fm.explain(model, x, method, target)
    assert dead.degenerate == ("the map is constant: all activations of layer '4' are 0",) * 2
    module[3].bias.data.zero_()  # type: ignore[index]
    module[7].weight.data.zero_()  # type: ignore[index]
    with pytest.warns(fm.DegenerateMapWarning):
        ignored = fm.explain(model, x, method, target)
    assert ignored.degenerate == ("the map is constant: the target does not depend on layer '4'",) * 2
