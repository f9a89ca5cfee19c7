"""SHAP values of channels: exact where they can be, sampled with errors that are honest, estimated for few runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks import shapley
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import LIFTCAM, LIMECAM, LRPCAM, OwenCAM, Result, ShapCAM
from faithmap.methods.base import Query
from faithmap.targets import DotProduct, Logit, LogitMargin, Probability, Similarity, Target
from tests import nets
from tests.methods.test_lift import LINEAR, ask, double, embedder, worth
from tests.shap import chain_of, exact_shap, sampled_shap

ENUMERATING, SAMPLING = ShapCAM(), ShapCAM(orders=16, tolerance=0, exact_up_to=0)


def vgg(seed: int = 0) -> fm.Classifier:
    torch.manual_seed(seed)
    return fm.Classifier(double(nets.VGGLike()), size=32, target_layer="conv2")


def photos(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(query: Query) -> Tensor:
    """By the definition, photo by photo, ``(B, C)``."""
    C = query.split.A.shape[1]
    return torch.stack([exact_shap(worth(query, row), C) for row in range(len(query))])


def coefficients(found: Result) -> tuple[Tensor, Tensor]:
    assert found.coefficients is not None
    assert found.coefficients_error is not None
    return found.coefficients, found.coefficients_error


def coefficients_of(method: fm.methods.Method, model: fm.Model, x: Tensor, target: Any) -> Tensor:
    found = method.run(model, x, target).coefficients
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Exact values


@pytest.mark.parametrize("target", [Logit([1, 3]), LogitMargin(2, [0, 4]), DotProduct(torch.linspace(-1, 2, 5))])
@pytest.mark.parametrize(("make", "layer"), LINEAR)
def test_behind_a_linear_head_all_agree_without_a_question(
    make: Callable[[], nn.Module], layer: str, target: Target
) -> None:
    """Closed form = enumeration = lift-cam = the ablation difference = sum g A, for two runs of the tail in all."""
    model, x = fm.Classifier(double(make()), size=32, target_layer=layer), photos(2)
    query = ask(model, x, target)
    expected = exact(query)
    ablated = torch.stack([worth(query, row)(torch.ones(1, 8)) - worth(query, row)(1 - torch.eye(8)) for row in (0, 1)])
    torch.testing.assert_close(ablated, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close((query.tail_gradient() * query.split.A).sum((2, 3)), expected, rtol=0, atol=1e-6)
    for method in (ENUMERATING, SAMPLING, OwenCAM(), LIFTCAM()):
        found = method.run(model, x, target)
        torch.testing.assert_close(found.coefficients, expected, rtol=0, atol=1e-6)
        assert found.notes["coefficients"] == "closed form"
        assert found.cost.per_image(2) == {"forward": 1, "tail_forward": 1}
    for method in (ENUMERATING, OwenCAM()):
        assert not coefficients(method.run(model, x, target))[1].any()


def heads() -> list[Any]:
    return [
        pytest.param(lambda: (vgg(), Logit([1, 3])), id="vgg"),
        pytest.param(lambda: (vgg(), Probability([1, 3])), id="vgg, probability"),
        pytest.param(lambda: (embedder(), Similarity(photos(2, 5).flatten(1)[:, :6])), id="faces"),
    ]


@pytest.mark.parametrize("make", heads())
def test_enumeration_is_the_definition(make: Callable[[], tuple[fm.Model, Target]]) -> None:
    model, target = make()
    found = ENUMERATING.run(model, photos(2), target)
    alpha, error = coefficients(found)
    torch.testing.assert_close(alpha, exact(ask(model, photos(2), target)), rtol=0, atol=1e-6)
    assert found.notes["coefficients"] == "enumeration"
    assert not error.any()
    assert found.standard_error is not None
    assert not found.standard_error.any()
    assert found.cost.per_image(2) == {"forward": 1, "tail_forward": 2**8}


def test_what_does_not_change_has_values_of_exactly_0() -> None:
    """Whatever its size; rounding would make a map of it."""
    for method in (ENUMERATING, SAMPLING, OwenCAM(), LIMECAM()):
        assert not coefficients_of(method, vgg(), photos(2), lambda z: torch.full((len(z),), 0.3)).any()


class Shuffled(nn.Module):
    """VGG-like, its last map's channels in another order, which the layers behind undo."""

    def __init__(self, net: nets.VGGLike, order: Tensor) -> None:
        super().__init__()
        self.net, self.order = net, order
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.conv2(F.max_pool2d(net.relu(net.conv1(x)), 4))
        x = self.layer(x[:, self.order])[:, self.order.argsort()]
        return net.fc2(net.drop(net.relu(net.fc1(torch.flatten(F.max_pool2d(net.relu(x), 2), 1)))))


def test_values_move_with_their_channels() -> None:
    order, model = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4]), vgg()
    shuffled = fm.Classifier(Shuffled(model.module, order).eval(), size=32, target_layer="layer")  # type: ignore[arg-type]
    alpha, moved = (coefficients(ENUMERATING.run(m, photos(2), 2))[0] for m in (model, shuffled))
    torch.testing.assert_close(moved, alpha[:, order], rtol=1e-9, atol=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Sampled values


@pytest.mark.parametrize("make", heads())
def test_sampled_values_are_right_within_honest_errors(make: Callable[[], tuple[fm.Model, Target]]) -> None:
    """64 pairs, 20 seeds, 2 photos and 8 channels: within 4.5 standard errors, and as far off as they say.

    One seed alone is within 4; so is the mean of all, whose errors are 4.5 times smaller: there is no bias.
    """
    model, target = make()
    expected, x = exact(ask(model, photos(2), target)), photos(2)
    method = ShapCAM(orders=64, tolerance=0, exact_up_to=0)
    runs = [coefficients(method.run(model, x, target, seed=seed)) for seed in range(20)]
    alpha, error = (torch.stack(parts) for parts in zip(*runs, strict=True))
    live = expected != 0
    assert bool((alpha[:, ~live].abs() < 1e-15).all())  # their maps are 0: the rest is rounding
    z = ((alpha - expected) / error)[:, live]
    assert float(z[0].abs().max()) < 4
    assert float(z.abs().max()) < 4.5
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2
    assert float(((alpha.mean(0) - expected) / (error**2).mean(0).sqrt() * 20**0.5)[live].abs().max()) < 4


def test_a_pixels_standard_error_is_that_of_the_map() -> None:
    """Against the spread of the maps of 60 seeds, and against a literal loop over the pairs of one of them."""
    model, x = vgg(), photos(1)
    runs = [SAMPLING.run(model, x, Logit(1), seed=seed) for seed in range(60)]
    spread = torch.stack([run.maps for run in runs]).std(0)
    said = torch.stack([run.standard_error.square() for run in runs]).mean(0).sqrt()  # type: ignore[union-attr]
    ratio = (said / spread).flatten()
    assert 0.85 < float(ratio.median()) < 1.15


def test_an_order_and_its_reverse_are_what_a_literal_loop_makes_of_them() -> None:
    query = ask(vgg(), photos(2), Logit([0, 4]))
    found = ShapCAM(orders=5, tolerance=0, exact_up_to=0).attribute(query)
    up = F.interpolate(query.split.A, (32, 32), mode="bilinear", align_corners=False)
    for row, generator in enumerate(query.generators("shap-cam")):
        draws = []
        for _ in range(5):
            ranks = torch.randperm(8, generator=generator)
            ways = [chain_of(worth(query, row), 8)(order) for order in (ranks.argsort(), ranks.argsort().flip(0))]
            draws.append((ways[0].diff()[ranks] + ways[1].diff()[7 - ranks]) / 2)
        pairs = torch.stack(draws)
        alpha, error = (t[row] for t in coefficients(found))
        torch.testing.assert_close(alpha, pairs.mean(0), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(error, pairs.std(0) / 5**0.5, rtol=1e-6, atol=1e-9)
        maps = torch.einsum("nc,chw->nhw", pairs, up[row])
        torch.testing.assert_close(found.maps[row], maps.mean(0), rtol=1e-6, atol=1e-9)
        assert found.standard_error is not None
        torch.testing.assert_close(found.standard_error[row], maps.std(0) / 5**0.5, rtol=1e-6, atol=1e-9)
    assert query.cost.tail_forward == 2 * (1 + 5 * 2 * 7)


@pytest.mark.parametrize("make", heads())
def test_walking_back_is_worth_its_cost(make: Callable[[], tuple[fm.Model, Target]]) -> None:
    """16 orders and their reverses err less than 32 orders, over 25 seeds: the mean square error of all channels."""
    model, target = make()
    query = ask(model, photos(1), target.select(torch.tensor([0])))
    expected, chain = exact(query)[0], chain_of(worth(query, 0), 8)
    both = [sampled_shap(chain, 8, 16, seed)[0] for seed in range(25)]
    alone = []
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(8, generator=generator) for _ in range(32)]
        alone.append(torch.stack([chain(o).double().diff()[o.argsort()] for o in orders]).mean(0))
    errors = [(torch.stack(found) - expected).square().mean() for found in (both, alone)]
    assert errors[0] < errors[1]


def test_it_stops_when_it_is_sure_and_is_as_sure_as_it_says() -> None:
    """Loose tolerances take fewer pairs; the errors are below the tolerance, and true, though it is they that stop it.

    As root mean squares over photos, channels and 10 seeds, the real ones are .8 to 1.2 times those that are told.
    """
    model, x = vgg(), photos(3)
    expected, pairs = exact(ask(model, x, Logit(1))), []
    for tolerance in (1.0, 0.02, 0.01):
        method = ShapCAM(orders=2000, tolerance=tolerance, exact_up_to=0)
        real, told = [], []
        for seed in range(10):
            found = method.run(model, x, Logit(1), seed=seed)
            alpha, error = coefficients(found)
            assert bool((error.amax(1) <= tolerance * alpha.abs().amax(1)).all())
            scale = expected.abs().amax(1, keepdim=True)
            real.append((alpha - expected) / scale)
            told.append(error / scale)
        ratio = torch.stack(real).square().mean().sqrt() / torch.stack(told).square().mean().sqrt()
        assert 0.8 < float(ratio) < 1.2, tolerance
        pairs.append((found.cost.tail_forward / 3 - 1) / 14)
    assert pairs[0] == 8
    assert 8 < pairs[1] < pairs[2] < 2000


def test_what_is_done_leaves_and_the_others_go_on_as_if_alone() -> None:
    model, x, method = vgg(), photos(4), ShapCAM(orders=400, tolerance=0.06, exact_up_to=0)
    together = method.run(model, x, Logit([0, 1, 2, 3]))
    alone = [method.run(model, x[i : i + 1], Logit(i)) for i in range(4)]
    assert len({run.cost.tail_forward for run in alone}) > 1
    assert together.cost.tail_forward == sum(run.cost.tail_forward for run in alone)
    torch.testing.assert_close(together.coefficients, torch.cat([coefficients(run)[0] for run in alone]))


@pytest.mark.parametrize("method", [ENUMERATING, SAMPLING, OwenCAM(), OwenCAM(orders=1, levels=3)])
@pytest.mark.parametrize("make", heads())
def test_values_add_up(make: Callable[[], tuple[fm.Model, Target]], method: fm.methods.Method) -> None:
    model, target = make()
    found, query = method.run(model, photos(2), target), ask(model, photos(2), target)
    assert found.coefficients is not None
    with torch.no_grad():
        change = query.scores - query.tail_scores(torch.zeros_like(query.split.A))
    torch.testing.assert_close(found.coefficients.sum(1), change, rtol=1e-9, atol=1e-12)


def test_chunks_make_no_difference_and_progress_counts_pairs() -> None:
    model, x = vgg(), photos(3)
    calls: list[int] = []
    whole = SAMPLING.run(model, x, 1, progress=lambda done, total: calls.append(done))
    for method in (SAMPLING, OwenCAM()):
        one, three = (method.run(model, x, 1, batch_size=size) for size in (1, 3))
        torch.testing.assert_close(one.coefficients, three.coefficients, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.coefficients_error, three.coefficients_error, rtol=1e-9, atol=1e-12)
    assert calls == [*range(3, 49, 3), 48]
    assert whole.notes["coefficients"] == "sampled orders"


# ---------------------------------------------------------------------------------------------------------------------
# Multipliers between coalitions


@pytest.mark.parametrize("make", heads())
def test_one_level_is_lift_cam(make: Callable[[], tuple[fm.Model, Target]]) -> None:
    model, target = make()
    ours, theirs = (m.run(model, photos(2), target).coefficients for m in (OwenCAM(orders=2, levels=1), LIFTCAM()))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_multipliers_between_coalitions_are_those_of_a_literal_loop() -> None:
    """One ReLU layer: the secant's slope between the coalitions, unit by unit; absent channels are there to 1/1000."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 9), nn.ReLU(), nn.Linear(9, 5))
    model = fm.Classifier(nn.Sequential(nn.Conv2d(3, 6, 4, 4), head).double(), size=32, target_layer="0")
    query = ask(model, photos(2), Logit([1, 2]))
    found = OwenCAM(orders=3, levels=2).attribute(query)
    first, last = head[1], head[3].weight
    for row, generator in enumerate(query.generators("owen-cam")):
        A, draws = query.split.A[row], []
        for _ in range(3):
            ranks = torch.randperm(6, generator=generator)
            alpha = torch.zeros(6, dtype=torch.float64)
            for order in (ranks, 5 - ranks):
                for level in (0, 1):
                    there = [torch.zeros(6), torch.where(order < 3, 1, 1e-3), torch.ones(6)][level : level + 2]
                    z0, z1 = (first((A * one.double()[:, None, None]).flatten()) for one in there)
                    slope = torch.where(z0 == z1, (z1 > 0).double(), (z1.relu() - z0.relu()) / (z1 - z0))
                    multipliers = (last[row + 1] * slope) @ first.weight  # (C h w)
                    alpha += (multipliers.view_as(A) * A).sum((1, 2)).detach() / 4
            change = query.scores[row] - query.tail_scores(torch.zeros_like(query.split.A))[row]
            draws.append(alpha + (change.detach() - alpha.sum()) / 6)
        pairs = torch.stack(draws)
        alpha, error = (t[row] for t in coefficients(found))
        torch.testing.assert_close(alpha, pairs.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(error, pairs.std(0) / 3**0.5, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "question", "ratio"),
    [
        (vgg, lambda: Logit([0, 1, 2, 3]), 1.7),
        (vgg, lambda: Probability([0, 1, 2, 3]), 1.5),
        (embedder, lambda: Similarity(photos(4, 9).flatten(1)[:, :6]), 1.7),
    ],
    ids=["vgg", "vgg, probability", "faces"],
)
def test_it_comes_nearer_to_the_values_than_lift_cam(
    make: Callable[[int], fm.Model], question: Callable[[], Target], ratio: float
) -> None:
    """5 random networks x 4 photos, exact values: how many times larger LIFT-CAM's root mean square error is."""
    squares = {LIFTCAM: 0.0, OwenCAM: 0.0}
    for seed in range(5):
        model, x, target = make(seed), photos(4, seed), question()
        expected = exact(ask(model, x, target))
        for method in squares:
            squares[method] += float((coefficients_of(method(), model, x, target) - expected).square().sum())
    assert (squares[LIFTCAM] / squares[OwenCAM]) ** 0.5 > ratio


@pytest.mark.real
def test_on_a_real_face_embedder_it_comes_nearer_than_lift_cam(data: Path) -> None:
    """MobileFaceNet, conv2, Similarity, 2 genuine and 2 impostor LFW pairs: nearer for each of them.

    On 8 pairs, medians of .13 and .31 of the values' norm.
    """
    with torch.no_grad():
        head = shapley.mobilefacenet(data, 4)
        target = head.targets["Similarity"]
        truth = shapley.sampled(head, 150, seed=0)["Similarity"]
        ours, theirs = (shapley.of_method(head, target, method)[0] for method in (OwenCAM(), LIFTCAM()))
    assert bool((shapley.distances(ours, *truth) < shapley.distances(theirs, *truth)).all())
    assert float(shapley.distances(ours, *truth).mean() / shapley.distances(theirs, *truth).mean()) < 0.6


def test_a_channels_own_pooling_counts_while_it_is_absent() -> None:
    """A head that is linear in how much there is of each channel has its SHAP values exactly, by any coalitions.

    Its own ReLU and max-pool see the channel's shape also where it is absent: a map of zeros would have no slope.
    """
    torch.manual_seed(0)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = fm.Classifier(nn.Sequential(nn.Conv2d(3, 8, 4, 4), head).double(), size=32, target_layer="0")
    expected = exact(ask(model, photos(2), Logit([1, 2])))
    for orders in (1, 3):
        found = coefficients_of(OwenCAM(orders=orders), model, photos(2), Logit([1, 2]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_channels_that_are_zero_share_nothing() -> None:
    """What is missing goes to the others: a channel that adds nothing to any coalition has the value 0."""
    model = vgg()
    conv: Any = model.module.conv2  # type: ignore[union-attr]
    conv.weight.data[3], conv.bias.data[3] = 0, 0
    for method in (OwenCAM(), ENUMERATING, SAMPLING):
        alpha = coefficients(method.run(model, photos(2), Logit(1)))[0]
        assert bool((alpha[:, 3].abs() < 1e-12).all())
        assert bool((alpha[:, :3] != 0).all())


# ---------------------------------------------------------------------------------------------------------------------
# LIME


def test_lime_is_the_weighted_ridge_of_its_formula() -> None:
    """Normal equations with an intercept that is not penalised, written out."""
    query = ask(vgg(), photos(2), Probability([0, 4]))
    method = LIMECAM(samples=30, width=0.4, ridge=0.7)
    found = method.weights(query)
    for row, generator in enumerate(query.generators("lime-cam")):
        z = (torch.rand(30, 8, generator=generator) < 0.5).double()
        z[0] = 1
        v = worth(query, row)(z).double()
        pi = torch.tensor([float(torch.exp(-((1 - (one.sum() / 8).sqrt()) ** 2) / 0.4**2)) for one in z]).double()
        pi, design = torch.diag(pi * 30 / pi.sum()), torch.cat([torch.ones(30, 1).double(), z], 1)
        penalty = 0.7 * torch.diag(torch.tensor([0.0] + [1.0] * 8).double())
        expected = torch.linalg.solve(design.T @ pi @ design + penalty, design.T @ pi @ v)[1:]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("make", "layer"), LINEAR)
def test_lime_is_exact_behind_a_linear_head(make: Callable[[], nn.Module], layer: str) -> None:
    model = fm.Classifier(double(make()), size=32, target_layer=layer)
    found = LIMECAM(samples=40, ridge=0).run(model, photos(2), Logit([1, 3])).coefficients
    torch.testing.assert_close(found, exact(ask(model, photos(2), Logit([1, 3]))), rtol=0, atol=1e-6)


def test_lime_has_an_answer_with_fewer_coalitions_than_channels() -> None:
    for ridge in (0.0, 1.0):
        found = LIMECAM(samples=4, ridge=ridge).run(vgg(), photos(2), Logit(1))
        assert found.coefficients is not None
        assert bool(found.coefficients.isfinite().all())
        assert found.cost.per_image(2) == {"forward": 1, "tail_forward": 4}


# ---------------------------------------------------------------------------------------------------------------------
# LRP


def test_lrp_of_two_layers_is_what_the_formula_says() -> None:
    """Relevance written out, unit by unit: R_i = sum_j x_i w_ij / (z_j + eps sign z_j) R_j, down to the channels."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 9), nn.ReLU(), nn.Linear(9, 5))
    model = fm.Classifier(nn.Sequential(nn.Conv2d(3, 6, 4, 4), head).double(), size=32, target_layer="0")
    query = ask(model, photos(2), Logit([1, 2]))
    found = LRPCAM(epsilon=0.01).attribute(query)
    first, last = head[1], head[3]
    for row in range(2):
        x = query.split.A[row].flatten()
        z1 = first(x)
        h = z1.relu()
        z2 = last(h)[row + 1]
        upper = h * last.weight[row + 1] / (z2 + 0.01 * z2.sign()) * z2  # (9,)
        lower = [sum(x[i] * first.weight[j, i] / (z1[j] + 0.01 * z1[j].sign()) * upper[j] for j in range(9))
                 for i in range(6 * 64)]  # fmt: skip
        alpha = torch.stack(lower).view(6, 64).sum(1).detach()
        torch.testing.assert_close(found.coefficients[row], alpha, rtol=1e-6, atol=1e-9)  # type: ignore[index]


@pytest.mark.parametrize(("make", "layer"), LINEAR)
def test_lrp_is_lift_cam_behind_a_linear_head(make: Callable[[], nn.Module], layer: str) -> None:
    model = fm.Classifier(double(make()), size=32, target_layer=layer)
    ours, theirs = (method.run(model, photos(2), Logit([1, 3])).coefficients for method in (LRPCAM(), LIFTCAM()))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


def test_a_score_that_is_not_finite_has_no_relevance_to_hand_down() -> None:
    """0 / 0 by LRP's rules would be a number."""
    assert bool(coefficients_of(LRPCAM(), vgg(), photos(2), lambda z: z[:, 0] / (z[:, 1] * 0)).isnan().all())


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        (ShapCAM, {"orders": 1}, "orders >= 2.*got orders=1"),
        (ShapCAM, {"tolerance": -0.1}, "tolerance >= 0.*tolerance=-0.1"),
        (ShapCAM, {"exact_up_to": 21}, "exact_up_to from 0 to 20.*exact_up_to=21"),
        (OwenCAM, {"orders": 0}, "orders >= 1.*got orders=0"),
        (OwenCAM, {"levels": 0}, "levels >= 1.*levels=0"),
        (LIMECAM, {"samples": 1}, "samples >= 2.*got samples=1"),
        (LIMECAM, {"width": 0}, "width > 0.*width=0"),
        (LIMECAM, {"ridge": -1}, "ridge >= 0.*ridge=-1"),
        (LRPCAM, {"epsilon": -1}, "epsilon >= 0.*epsilon=-1"),
        (LRPCAM, {"rule": "gamma"}, "lrp-cam's rule.*'gamma'"),
    ],
)
def test_settings_that_make_no_sense_are_named(method: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        method(**settings)
