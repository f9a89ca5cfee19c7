"""Eigen-CAM against a full singular value decomposition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import EigenCAM, EigenGradCAM, HiResCAM
from faithmap.methods.eigen import first_component
from tests import nets
from tests.methods.test_cam import activations
from tests.methods.test_gradcam import upsampled


def literal(A: Tensor) -> Tensor:
    """The projection (h, w) of one picture's maps (C, h, w) on their first right singular vector."""
    C, h, w = A.shape
    M = A.reshape(C, h * w).T
    map = M @ torch.linalg.svd(M, full_matrices=False).Vh[0]
    return (map * torch.sign((map * M.mean(dim=1)).sum())).reshape(h, w)


@pytest.mark.parametrize(
    ("make", "layer"), [(nets.Residual, "layer2"), (nets.MobileLike, "block.4"), (nets.gap_linear, "3")]
)
def test_maps_are_the_first_singular_vectors_projection(make: Callable[[], nn.Module], layer: str) -> None:
    module, x = make().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    A, outputs = activations(module, layer, x)
    (g,) = torch.autograd.grad(outputs[:, 2].sum(), A)
    model = fm.Classifier(module, size=32, target_layer=layer)
    for method, maps in ((EigenCAM(), A.detach()), (EigenGradCAM(), g * A.detach())):
        found = method(model, x, 2)
        for i in range(3):
            expected = upsampled(literal(maps[i]))
            torch.testing.assert_close(found[i], expected, atol=1e-8 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("shape", [(4, 8, 8, 8), (4, 64, 3, 3), (4, 9, 3, 3), (2, 1, 5, 5), (2, 5, 1, 2)])
def test_either_gram_matrix_gives_the_singular_vector(shape: tuple[int, ...]) -> None:
    A = torch.randn(shape, dtype=torch.float64)
    v = first_component(A)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(len(v), dtype=torch.float64))
    for i in range(len(A)):
        map = torch.einsum("k,kij->ij", v[i], A[i])
        torch.testing.assert_close(map, literal(A[i]), atol=1e-8, rtol=1e-6)


def test_activations_that_are_not_negative_have_maps_that_are_not() -> None:
    A = torch.rand(5, 6, 4, 4, dtype=torch.float64)
    assert float(torch.einsum("bk,bkij->bij", first_component(A), A).min()) >= 0


def test_a_broken_or_dead_sample_leaves_the_others_alone() -> None:
    A = torch.randn(3, 6, 4, 4)
    alone = first_component(A[2:])
    A[0], A[1, 0, 0, 0] = 0, torch.nan
    v = first_component(A)
    assert not v[0].any()
    assert bool(v[1].isnan().all())
    torch.testing.assert_close(v[2:], alone)


def test_eigen_grad_cam_turns_its_sign_with_the_target_and_follows_hires_cam() -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, target_layer="last")
    x, r = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    model = fm.Classifier(nets.VGGLike().double().eval(), size=32, target_layer="conv1")  # nothing is upsampled
    maps, hires = (method(model, x, [0, 1, 2]) for method in (EigenGradCAM(), HiResCAM()))
    assert bool(((maps * hires).sum(dim=(1, 2)) > 0).all())
    plus, minus = (EigenGradCAM()(face, x, t(r)) for t in (fm.targets.Similarity, fm.targets.Dissimilarity))
    torch.testing.assert_close(minus, -plus)
