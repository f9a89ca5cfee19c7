"""Methods for pairs of faces against literal loops over features, images and places, written from their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks import faces
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import FGGB, XSSAB, Method, ZhuDecomposition
from faithmap.models.nets import MobileFaceNet
from faithmap.pixels import blur
from faithmap.targets import Dissimilarity, DotProduct, Each, Logit, Probability, Similarity, Target
from tests import nets

THETA = 0.3
OF_ARGUMENTS = pytest.mark.parametrize("method", [FGGB(), XSSAB()], ids=lambda m: m.name)
ALL = pytest.mark.parametrize("method", [FGGB(), XSSAB(), ZhuDecomposition()], ids=lambda m: m.name)


def face(module: nn.Module | None = None, threshold: float | None = THETA) -> fm.FaceEmbedder:
    """A float64 recogniser whose batch norms have statistics of their own."""
    module = nets.Faces() if module is None else module
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
    return fm.FaceEmbedder(module.double().eval(), size=32, threshold=threshold)


def pictures(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 32, 32, dtype=torch.float64)


def references(n: int = 3) -> Tensor:
    return torch.randn(n, 6, dtype=torch.float64)


def unit(f: Tensor) -> Tensor:
    return f / f.norm()


# --- fggb


def literal_fggb(model: fm.FaceEmbedder, x: Tensor, r: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """One image and its partner's embedding: a forward and a backward for every feature."""
    plus, minus = torch.zeros(32, 32, dtype=torch.float64), torch.zeros(32, 32, dtype=torch.float64)
    for k in range(len(r)):
        leaf = x.clone().requires_grad_()
        f = unit(model.module(leaf[None])[0])
        (g,) = torch.autograd.grad(f[k], leaf)
        G = (g[0].abs() + g[1].abs() + g[2].abs()) / 3
        G = G / (G**2).sum().sqrt()
        weight = f[k].item() * unit(r)[k].item() - theta / len(r)
        if weight > 0:
            plus += weight * G
        else:
            minus -= weight * G
    return plus, minus


@pytest.mark.parametrize("at_once", [None, 1, 4, 100])
def test_fggb_is_its_sum_over_features(at_once: int | None) -> None:
    model, x, r = face(), pictures(), references()
    found = FGGB(sigma=0, at_once=at_once).run(model, x, Similarity(r))
    assert found.against is not None
    for i in range(3):
        plus, minus = literal_fggb(model, x[i], r[i], THETA)
        torch.testing.assert_close(found.maps[i], plus, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.against[i], minus, rtol=0, atol=1e-12)
    assert bool((plus > 0).any() & (minus > 0).any())


def test_fggb_smooths_both_maps_with_a_gaussian_of_5_pixels_in_25() -> None:
    model, x, r = face(), pictures(), references()
    sharp, smooth = (method.run(model, x, Similarity(r)) for method in (FGGB(sigma=0), FGGB()))
    assert sharp.against is not None
    torch.testing.assert_close(smooth.maps, blur(sharp.maps, 5, 25), rtol=0, atol=1e-12)
    torch.testing.assert_close(smooth.against, blur(sharp.against, 5, 25), rtol=0, atol=1e-12)


def test_fggb_counts_one_forward_and_a_backward_for_every_feature() -> None:
    calls: list[int] = []
    model = face()
    model.module.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    steps: list[tuple[int, int]] = []
    found = FGGB().run(model, pictures(4), Similarity(references(4)), batch_size=2, progress=lambda *d: steps.append(d))
    assert calls == [2, 2]
    assert found.cost.per_image(4) == {"forward": 1, "backward": 6}
    assert len(steps) >= 2 * 6
    assert steps[-1] == (400, 400)


@pytest.mark.parametrize("bad", [{"sigma": -1}, {"kernel": 24}, {"kernel": -1}, {"at_once": 0}, {"at_once": -3}])
def test_fggb_refuses_parameters_without_a_meaning(bad: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="odd kernel of pixels and at_once >= 1: got .*=" + str(next(iter(bad.values())))
    ):
        FGGB(**bad)


# --- xssab


@pytest.mark.parametrize("theta", [-0.5, 0.1, 0.6])
def test_xssab_goes_back_from_the_arguments_on_each_side_of_the_threshold(theta: float) -> None:
    model, x, r = face(threshold=theta), pictures(), references()
    found = XSSAB().run(model, x, Similarity(r))
    assert found.against is not None
    for i in range(3):
        for maps, similar in ((found.maps, True), (found.against, False)):
            leaf = x[i].clone().requires_grad_()
            f = unit(model.module(leaf[None])[0])
            arguments = [f[k] * unit(r[i])[k] for k in range(6)]
            kept = [v for v in arguments if (v.item() >= theta / 6) == similar]
            (g,) = torch.autograd.grad(sum(kept, torch.zeros((), dtype=torch.float64) * leaf.sum()), leaf)
            torch.testing.assert_close(maps[i], g.abs().sum(dim=0) / 3, rtol=0, atol=1e-12)
    assert found.cost.per_image(3) == {"forward": 1, "backward": 2}


def test_where_all_features_are_on_one_side_the_empty_map_says_so() -> None:
    """With a reference equal to the embedding, all arguments are squares: none is below a negative share."""
    for method in (FGGB(), XSSAB()):
        model, x = face(threshold=-1), pictures(2)
        found = method.run(model, x, Similarity(model.embed(x)))
        assert found.against is not None
        assert not found.against.any()
        assert bool(found.maps.any())
        assert list(found.reasons) == ["all features are on the same side of their share of the threshold"] * 2


# --- zhu-decomposition


@pytest.mark.parametrize("kind", [DotProduct, Similarity, Dissimilarity])
def test_zhu_is_the_product_place_by_place(kind: type[Target]) -> None:
    """Each place's activations through batch norm's scale, the linear layer's columns of this place, batch norm."""
    model, x, r = face(), pictures(), references()
    found = ZhuDecomposition().run(model, x, kind(r))  # type: ignore[call-arg]
    module: Any = model.module
    bn, linear, last = module.head[0], module.head[3], module.head[4]
    with torch.no_grad():
        A, f = module.last(module.act(module.bn(module.conv(x)))), module(x)  # (3, 8, 4, 4), (3, 6)
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        after = last.weight / (last.running_var + last.eps).sqrt()
        W = linear.weight.view(6, 8, 4, 4)
        for i in range(3):
            parts = torch.zeros(4, 4, dtype=torch.float64)
            for row in range(4):
                for col in range(4):
                    parts[row, col] = (after * (W[:, :, row, col] @ (scale * A[i, :, row, col]))) @ r[i]
            parts /= 1 if kind is DotProduct else f[i].norm() * r[i].norm()
            parts *= -1 if kind is Dissimilarity else 1
            expected = F.interpolate(parts[None, None], (32, 32), mode="bilinear", align_corners=False)[0, 0]
            torch.testing.assert_close(found.maps[i], expected, rtol=0, atol=1e-12)
            score = (f[i] @ r[i]) / (1 if kind is DotProduct else f[i].norm() * r[i].norm())
            whole = parts.sum() + found.notes["the bias's part"][i]
            torch.testing.assert_close(whole.abs(), score.abs(), rtol=0, atol=1e-12)
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-9


def test_zhu_takes_targets_of_several_kinds_and_keeps_what_belongs_to_a_sample_in_its_place() -> None:
    model, x, r = face(), pictures(), references()
    kinds = [Dissimilarity, DotProduct, Similarity]
    together = ZhuDecomposition().run(
        model, x, Each([kind(one) for kind, one in zip(kinds, r, strict=True)]), batch_size=2
    )
    for i, kind in enumerate(kinds):
        alone = ZhuDecomposition().run(model, x[i : i + 1], kind(r[i]))
        torch.testing.assert_close(together.maps[i : i + 1], alone.maps, rtol=0, atol=1e-12)
        notes = (together.notes["the bias's part"][i], together.rows(slice(i, i + 1)).notes["the bias's part"][0])
        assert notes == pytest.approx([alone.notes["the bias's part"][0]] * 2)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
        nn.Sequential(nn.Conv2d(8, 8, 8, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Flatten()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6)),
    ],
    ids=["pooled", "depthwise", "convolution"],
)
def test_zhu_is_complete_behind_affine_heads_of_many_kinds(head: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.PReLU(8), head)
    model, x, r = face(net).at("1"), pictures(), references()
    found = ZhuDecomposition().run(model, x, Similarity(r))
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-9
    whole = (found.scores - torch.tensor(found.notes["the bias's part"], dtype=torch.float64)).tolist()  # type: ignore[operator]
    module: Any = model.module
    with torch.no_grad():
        A = module[1](module[0](x)).requires_grad_()
        with torch.enable_grad():
            f = module[2](A)
            f = (f * r / (f.norm(dim=1, keepdim=True) * r.norm(dim=1, keepdim=True)).detach()).sum()
        assert (A * torch.autograd.grad(f, A)[0]).sum(dim=(1, 2, 3)).tolist() == pytest.approx(whole)


@pytest.mark.parametrize(
    "bend",
    [nn.PReLU(8), nn.ReLU(), nn.Tanh(), nn.MaxPool2d(2), nn.GroupNorm(2, 8), nn.Hardtanh(-0.5, 0.5), nn.Sigmoid()],
    ids=lambda bend: type(bend).__name__,
)
def test_zhu_refuses_heads_that_bend(bend: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), bend, nn.Flatten(), nn.LazyLinear(6))
    net(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"needs a head that is affine in the activations of '0' .* use lift-cam"):
        ZhuDecomposition(layer="0")(face(net), pictures(), Similarity(references()))


def test_zhu_says_where_a_cosine_has_no_parts() -> None:
    """An embedding of zeros: the others of the batch keep their maps."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6, False)
    )
    model, x, r = face(net).at("0"), pictures(), references()
    x[1] = 0
    with pytest.warns(fm.DegenerateMapWarning, match="the embedding is 0"):
        att = fm.explain(model, x, ZhuDecomposition(), Similarity(r))
    assert bool(att.maps[[0, 2]].isfinite().all())


# --- all of them


@ALL
def test_swapping_probe_and_gallery_swaps_the_maps(method: Method) -> None:
    model, (a, b) = face(), pictures(2).split(1)
    one, other = fm.explain_pair(model, a, b, method), fm.explain_pair(model, b, a, method)
    assert one.score == pytest.approx(other.score)
    for ours, theirs in ((one.probe, other.gallery), (one.gallery, other.probe)):
        torch.testing.assert_close(ours.similar.maps, theirs.similar.maps, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.dissimilar.maps, theirs.dissimilar.maps, rtol=0, atol=1e-12)
    assert not torch.equal(one.probe.similar.maps, one.gallery.similar.maps)


@ALL
def test_the_length_of_the_reference_does_not_matter(method: Method) -> None:
    model, x, r = face(), pictures(), references()
    one, other = (method.run(model, x, Similarity(length * r)) for length in (1, 37.5))
    torch.testing.assert_close(one.maps, other.maps, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.against, other.against, rtol=0, atol=1e-12)


@ALL
def test_one_reference_serves_all_samples_and_a_list_each(method: Method) -> None:
    model, x, r = face(), pictures(), references(1)
    expected = method(model, x, Similarity(r.expand(3, -1)))
    for target in (Similarity(r), Similarity(r[0]), Each([Similarity(r)]), [Similarity(r)] * 3):
        torch.testing.assert_close(method(model, x, target), expected, rtol=0, atol=1e-12)


@OF_ARGUMENTS
def test_without_a_threshold_it_is_said_where_to_give_one(method: Method) -> None:
    with pytest.raises(ValueError, match=r"Faces has none: give FaceEmbedder\(threshold=\.\.\.\)"):
        method(face(threshold=None), pictures(), Similarity(references()))


@ALL
def test_classifiers_and_other_targets_are_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="explains pairs of faces: VGGLike is a Classifier"):
        method(fm.Classifier(nets.VGGLike(), size=32), pictures().float(), Logit(0))
    r = references(1)
    for target in (Probability(0), lambda z: z[:, 0], [Similarity(r), Logit(1), Similarity(r)]):
        with pytest.raises(
            ValueError, match=r"needs Similarity.* for a target.*got (Probability|Custom|Logit)\. Use fame"
        ):
            method(face(), pictures(), target)


@ALL
def test_references_of_another_length_are_named(method: Method) -> None:
    with pytest.raises(ValueError, match="a reference of 4 numbers, the network's outputs have 6"):
        method(face(), pictures(), Similarity(torch.ones(4)))


def test_zhu_fits_mobilefacenets_head() -> None:
    """A depthwise convolution over all places, batch norms and a 1 x 1 convolution, at the suggested layer."""
    net = MobileFaceNet(6, 32, [(2, 4, 2, 2), (4, 8, 1, 2)], stem=4, head=8)
    found = ZhuDecomposition().run(face(net), pictures(), Similarity(references()))
    assert found.layer == "conv2"
    assert found.completeness_error is not None
    assert float(found.completeness_error.max()) < 1e-9


@pytest.mark.real
@pytest.mark.parametrize("method", [FGGB(), XSSAB(), ZhuDecomposition()], ids=lambda m: m.name)
def test_on_real_faces_e_plus_takes_the_similarity_down_faster_than_random(method: Method, data: Path) -> None:
    """By deletion with a box blur, on each of 2 genuine LFW pairs."""
    model = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth", threshold=0.3)
    assert isinstance(model, fm.FaceEmbedder)
    assert bool((faces.similar_beats_random(model, method, data, limit=2) > 0).all())
