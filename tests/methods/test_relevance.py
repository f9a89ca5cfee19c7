"""Relevance methods against literal re-derivations: hooks, secants, and every linear layer as a matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import faithmap as fm
from faithmap.methods import LRP, XFR, DeepLIFT, ExcitationBackprop, GuidedBackprop, Method
from faithmap.methods.base import Query
from faithmap.methods.relevance import excited
from faithmap.models.frozen import twin
from faithmap.rules import folding, record, relevance
from faithmap.rules.excitation import excitation
from faithmap.rules.folding import fold
from faithmap.rules.lrp import lrp
from faithmap.targets import Dissimilarity, Logit, LogitMargin, Similarity
from tests import nets


def double(module: nn.Module, biases: bool = True) -> nn.Module:
    """In float64 and eval mode, its batch norms with statistics of their own; without biases there are no shifts."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_var = torch.rand(part.num_features) + 0.5
            if biases:
                part.running_mean = torch.randn(part.num_features)
                part.bias = None if part.bias is None else nn.Parameter(torch.randn(part.num_features))
        if not biases and isinstance(getattr(part, "bias", None), nn.Parameter):
            nn.init.zeros_(part.bias)
    return module.double().eval()


def images(n: int = 2, size: int = 32) -> Tensor:
    """Of the size the tiny networks take, in [-1, 1], inside the box of black and white."""
    return torch.rand(n, 3, size, size, dtype=torch.float64) * 2 - 1


def classifier(module: nn.Module, **settings: Any) -> fm.Classifier:
    return fm.Classifier(module, size=32, **settings)


def query(model: fm.Model, x: Tensor, target: fm.targets.Target) -> Query:
    with torch.no_grad():
        return Query(model, x, target, None, seed=0, batch_size=len(x))


# ---------------------------------------------------------------------------------------------------------------------
# Every linear layer as a matrix: the formulas, read off the page


class Chain:
    """conv, ReLU, max-pool, conv, ReLU, flatten, linear; each linear layer as ``z = W x + b`` over flat vectors."""

    def __init__(self, biases: bool = True) -> None:
        self.net = double(
            nn.Sequential(
                nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(),
                nn.Flatten(), nn.Linear(48, 3),
            ),
            biases,
        )  # fmt: skip
        if biases:
            for part in (self.net[0], self.net[3], self.net[6]):
                nn.init.normal_(part.bias, std=0.1)
        self.model = fm.Classifier(self.net, size=16, target_layer="1")

    @staticmethod
    def matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            b = layer(torch.zeros(1, *shape).double()).flatten()
            basis = torch.eye(torch.Size(shape).numel()).double().view(-1, *shape)
            return (layer(basis).flatten(1) - b).T, b

    def down(self, x: Tensor, k: int, seed: Callable[[Tensor], Tensor], rules: list[Any], stop: int = 0) -> Tensor:
        """What arrives at the input (or, with stop 1, at the first ReLU's output) for one image ``(3, 16, 16)``."""
        with torch.no_grad():
            a = [x[None]]
            for part in self.net:
                a.append(part(a[-1]))
            _, at = F.max_pool2d(a[2], 2, return_indices=True)
        W = [
            self.matrix(self.net[0], (3, 16, 16)),
            self.matrix(self.net[3], (4, 4, 4)),
            self.matrix(self.net[6], (48,)),
        ]
        R = torch.zeros(3).double()
        R[k] = seed(a[7][0, k])
        R = rules[2](a[6].flatten(), *W[2], R)
        R = rules[1](a[3].flatten(), *W[1], R)
        R = F.max_unpool2d(R.view(1, 4, 4, 4), at, 2).flatten()
        return R.view(4, 8, 8) if stop else rules[0](x.flatten(), *W[0], R).view(3, 16, 16)


def shared(parts: Tensor, whole: Tensor, R: Tensor) -> Tensor:
    """``R_i = sum_j parts_ji / whole_j R_j``."""
    return sum(
        (parts[j] / whole[j] * R[j] for j in range(len(R)) if whole[j] != 0), torch.zeros(parts.shape[1]).double()
    )


def epsilon_rule(x: Tensor, W: Tensor, b: Tensor, R: Tensor, eps: float = 0.01) -> Tensor:
    z = W @ x + b
    return shared(W * x, z + torch.where(z < 0, -eps, eps), R)


def alpha_rule(x: Tensor, W: Tensor, b: Tensor, R: Tensor) -> Tensor:
    parts = (W * x).clamp(min=0)
    return shared(parts, parts.sum(1), R)


def excitation_rule(x: Tensor, W: Tensor, b: Tensor, R: Tensor) -> Tensor:
    parts = W.clamp(min=0) * x.clamp(min=0)
    return shared(parts, parts.sum(1), R)


def dual_top(x: Tensor, W: Tensor, b: Tensor, R: Tensor) -> Tensor:
    return excitation_rule(x, W, b, R) - excitation_rule(x, -W, b, R)


def box_rule(x: Tensor, W: Tensor, b: Tensor, R: Tensor) -> Tensor:
    pixels = (fm.models.base.IMAGENET_MEAN, fm.models.base.IMAGENET_STD)
    mean, std = (torch.tensor(t, dtype=torch.float64).repeat_interleave(256) for t in pixels)
    low, high = (0 - mean) / std, (1 - mean) / std
    parts = W * x - W.clamp(min=0) * low - W.clamp(max=0) * high
    return shared(parts, parts.sum(1), R)


@pytest.mark.parametrize(
    ("method", "rules"),
    [
        (LRP("epsilon", 0.01, "same"), [epsilon_rule] * 3),
        (LRP("epsilon-plus", 0.01, "same"), [alpha_rule, alpha_rule, epsilon_rule]),
        (LRP("alpha1-beta0", first="same"), [alpha_rule] * 3),
        (LRP("epsilon", 0.01, "box"), [box_rule, epsilon_rule, epsilon_rule]),
        (LRP("epsilon-plus", 0.01), [box_rule, alpha_rule, epsilon_rule]),
        (LRP("alpha1-beta0"), [box_rule, alpha_rule, alpha_rule]),
    ],
)
def test_lrp_is_its_formulas_with_matrices(method: LRP, rules: list[Any]) -> None:
    chain, x = Chain(), images(3, 16)
    x[:, :, 3:6] = 0  # the box rule gives inputs of 0 their part too
    maps = method(chain.model, x, Logit([0, 1, 2]))
    slow = [chain.down(x[i], i, lambda z: z, rules).sum(0) for i in range(3)]
    torch.testing.assert_close(maps, torch.stack(slow), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("contrastive", "top"), [(False, excitation_rule), (True, dual_top)])
def test_excitation_backprop_is_its_formula_with_matrices(contrastive: bool, top: Any) -> None:
    """Also for scores below 0, whose winners are those that excite it all the same."""
    chain, x = Chain(), images(3, 16)
    method = ExcitationBackprop(contrastive)
    found = method.run(chain.model, x, Logit([0, 1, 2]))
    rules = [excitation_rule, excitation_rule, top]
    slow = [chain.down(x[i], i, torch.ones_like, rules, stop=1).sum(0) for i in range(3)]
    expected = F.interpolate(torch.stack(slow)[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found.maps, expected, rtol=1e-9, atol=1e-12)
    assert found.scores is not None
    assert float(found.scores.min()) < 0


# ---------------------------------------------------------------------------------------------------------------------
# Guided backpropagation and DeepLIFT, by hooks


class Hooked(nn.Module):
    """A rectifier with hooks on what enters and what leaves it."""

    def __init__(self, rectifier: nn.Module) -> None:
        super().__init__()
        self.rectifier = rectifier

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        out = self.rectifier(x.clone())
        x.register_hook(lambda g: g * (x > 0))
        out = out.clone()
        out.register_hook(lambda g: g.clamp(min=0))
        return out


@pytest.mark.parametrize("make", [nets.gap_linear, nets.VGGLike, nets.Residual, nets.MobileLike, nets.Faces])
def test_guided_backprop_is_the_gradient_with_hooks_on_every_rectifier(make: Callable[[], nn.Module]) -> None:
    module, x = double(make()), images()
    target = Logit([0, 3])
    maps = GuidedBackprop()(classifier(module), x, target)
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, (nn.ReLU, nn.ReLU6, nn.PReLU)):
                setattr(part, name, Hooked(child))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(module(leaf)).sum(), leaf)
    torch.testing.assert_close(maps, gradient.abs().sum(1), rtol=1e-9, atol=1e-12)
    assert float(maps.max()) > 0


def test_a_clamp_that_does_not_cut_at_0_is_no_rectifier() -> None:
    module, x = nn.Sequential(nn.Hardtanh(-0.5, 0.5), nn.Flatten(), nn.Linear(3072, 5)).double(), images()
    maps = GuidedBackprop()(classifier(module, target_layer="0"), x, 1)
    expected = (module[2].weight[1].view(3, 32, 32).abs() * (x.abs() < 0.5)).sum(1)
    torch.testing.assert_close(maps, expected.detach())


class Secant(torch.autograd.Function):
    """A ReLU over image and baseline, stacked, whose gradient is the secant between them."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return both.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        a, a0 = ctx.saved_tensors[0].chunk(2)
        slope = (a.relu() - a0.relu()) / (a - a0)
        return gradients[0] * slope.repeat(2, 1, 1, 1)


@pytest.mark.parametrize("baseline", ["zero", "black", "blur"])
def test_deep_lift_over_pixels_has_the_secants_of_every_relu(baseline: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor, relu: Any = torch.relu) -> Tensor:
            return self.fc(relu(self.b(relu(self.a(x)))).mean((2, 3)))

    module, x = double(Net()), images()
    model = classifier(module)
    found = DeepLIFT(baseline).run(model, x, Logit([1, 4]))
    reference = {
        "zero": torch.zeros_like(x),
        "black": model.from_pixels(torch.zeros_like(x)),
        "blur": fm.pixels.blur(x, 10, 61),
    }[baseline]
    leaf = x.clone().requires_grad_()
    score = module(torch.cat([leaf, reference]), Secant.apply)[:2][[0, 1], [1, 4]]
    (m,) = torch.autograd.grad(score.sum(), leaf)
    torch.testing.assert_close(found.maps, (m * (x - reference)).sum(1), rtol=1e-9, atol=1e-12)
    change = (module(x) - module(reference))[[0, 1], [1, 4]]
    torch.testing.assert_close(found.maps.sum((1, 2)), change.detach(), rtol=1e-9, atol=1e-12)


def test_deep_lift_of_the_baseline_itself_says_so() -> None:
    model = classifier(double(nets.VGGLike()))
    with pytest.warns(fm.DegenerateMapWarning, match="the image is the baseline itself"):
        fm.explain(model, torch.zeros(1, 3, 32, 32).double(), method="deep-lift", target=0)


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms and conservation


WITHOUT_BIASES: list[Callable[[], nn.Module]] = [nets.gap_linear, nets.VGGLike, nets.Residual]


@pytest.mark.parametrize("make", WITHOUT_BIASES)
def test_lrp_without_epsilon_and_biases_is_gradient_times_input_and_complete(make: Callable[[], nn.Module]) -> None:
    module, x, target = double(make(), biases=False), images(), Logit([0, 3])
    found = LRP("epsilon", 0, "same").run(classifier(module), x, target)
    leaf = x.clone().requires_grad_()
    scores = target(module(leaf))
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    torch.testing.assert_close(found.maps, (gradient * x).sum(1), rtol=1e-8, atol=1e-12)
    assert found.completeness_error is not None
    assert float((found.completeness_error / scores.detach().abs()).max()) < 1e-9


@pytest.mark.parametrize("first", ["box", "same"])
@pytest.mark.parametrize("rule", ["epsilon-plus", "alpha1-beta0"])
@pytest.mark.parametrize("make", WITHOUT_BIASES)
def test_relevance_is_conserved_without_biases(make: Callable[[], nn.Module], rule: Any, first: Any) -> None:
    found = LRP(rule, 0, first).run(classifier(double(make(), biases=False)), images(), Logit([0, 3]))
    assert found.completeness_error is not None
    assert found.scores is not None
    assert float((found.completeness_error / found.scores.abs()).max()) < 1e-9
    torch.testing.assert_close(found.maps.sum((1, 2)), found.scores, rtol=1e-9, atol=0)


@pytest.mark.parametrize("gate", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.ReLU6(), nn.Tanh()])
def test_relevance_passes_nonlinearities_gates_and_normalisers_whole(gate: nn.Module) -> None:
    """Without biases nothing is lost in a transformer, behind a gate, or in the cosine of an embedding."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.fc = nets.ViTLike(classes=6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            z = gate(self.vit(x)) * self.vit(x.flip(-1)).sigmoid()
            return self.fc(F.layer_norm(z, (6,)) * z.softmax(1))

    module = double(Gated())
    for name, parameter in module.named_parameters():
        if "bias" in name or "position" in name or "cls" in name:
            parameter.data.zero_()
    model = fm.FaceEmbedder(module, size=32, target_layer="vit.patch")
    found = LRP("epsilon", 0, "same").run(model, images(), Similarity(torch.randn(2, 6).double()))
    assert found.completeness_error is not None
    assert found.scores is not None
    assert "plain gradient through" not in found.notes
    assert float((found.completeness_error / found.scores.abs()).max()) < 1e-8


def test_what_biases_absorb_is_the_completeness_error() -> None:
    """One linear layer: relevance at the pixels is w x, the bias keeps b."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).double()
    model = fm.Classifier(module, size=8, target_layer="0")
    found = LRP("epsilon", 0, "same").run(model, images(2, 8), Logit([0, 1]))
    assert found.completeness_error is not None
    torch.testing.assert_close(found.completeness_error, module[1].bias.detach().abs(), rtol=1e-9, atol=1e-12)


LAYERS = [
    (nets.gap_linear, ["0", "2", "3", "4"]),
    (nets.VGGLike, ["conv1", "conv2", "relu"]),
    (nets.Residual, ["stem", "layer1", "layer2.conv1", "layer2"]),
]


@pytest.mark.parametrize(("make", "layer"), [(make, layer) for make, layers in LAYERS for layer in layers])
def test_winning_probabilities_add_up_to_one_at_every_layer(make: Callable[[], nn.Module], layer: str) -> None:
    module = double(make(), biases=False)
    asked = query(classifier(module, target_layer=layer), images(), LogitMargin([0, 3], 2))
    P = found_at_layer(ExcitationBackprop(), asked)
    assert float(P.min()) >= 0
    torch.testing.assert_close(P.sum((1, 2, 3)), torch.ones(2).double(), rtol=1e-9, atol=0)
    dual = found_at_layer(ExcitationBackprop(contrastive=True), asked)
    torch.testing.assert_close(dual.sum((1, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-9)


def found_at_layer(method: ExcitationBackprop, asked: Query) -> Tensor:
    """The probabilities before they are summed over channels and upsampled."""
    return excited(asked, excitation(method.contrastive)).multipliers


def test_contrast_tells_classes_apart() -> None:
    """Excited by much the same units, two classes have unlike maps only by contrast; and a rival's is not the own."""
    model, x = classifier(double(nets.VGGLike())), images(1)
    plain, contrast = (
        torch.stack([ExcitationBackprop(c)(model, x, k).flatten() for k in range(5)]) for c in (False, True)
    )
    assert float(torch.corrcoef(contrast).sum()) < float(torch.corrcoef(plain).sum())


def test_what_speaks_against_a_match_is_what_excites_its_dual() -> None:
    """For faces the top unit is the match; that of the distance has the same weights negated."""
    model, x = fm.FaceEmbedder(double(nets.Faces()), size=32), images()
    reference = torch.randn(2, 6).double()
    plus, minus = (ExcitationBackprop(True)(model, x, t(reference)) for t in (Similarity, Dissimilarity))
    torch.testing.assert_close(minus, -plus)
    assert float(ExcitationBackprop()(model, x, Similarity(reference)).abs().max()) > 0


@pytest.mark.parametrize("kept", [1.0, 0.6])
def test_xfr_hands_down_what_agrees_and_what_disagrees(kept: float) -> None:
    """In loops: numbers win by their part of the match, and hand down to what drives them to their side of 0."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 6), nn.BatchNorm1d(6))
    module, x, reference = double(net), images(2, 16), torch.randn(2, 6).double()
    model = fm.FaceEmbedder(module, size=16, target_layer="1")
    with torch.no_grad():
        A = module[:2](x)
        f = module(x)
        folded = fuse_linear_bn_eval(module[3], module[4])
    expected = []
    for i in range(2):
        v = [float(f[i, d] * reference[i, d]) for d in range(6)]
        for side in (1, -1):
            order = sorted((d for d in range(6) if side * v[d] > 0), key=lambda d: -abs(v[d]))
            total, held, winners = sum(abs(v[d]) for d in order), 0.0, []
            while held < kept * total * (1 - 1e-12):
                winners.append(order[len(winners)])
                held += abs(v[winners[-1]])
            P = torch.zeros(256).double()
            for d in winners:
                drive = (A[i].flatten() * folded.weight[d].detach() * f[i, d].sign()).clamp(min=0)
                P += abs(v[d]) / held * drive / drive.sum()
            expected.append(P.view(4, 8, 8).sum(0))
    maps = F.interpolate(torch.stack(expected)[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    alone = XFR(contrastive=False, kept=kept).run(model, x, Similarity(reference))
    torch.testing.assert_close(alone.maps, maps[::2], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(alone.against, maps[1::2], rtol=1e-9, atol=1e-12)
    both = XFR(kept=kept).run(model, x, Similarity(reference))
    torch.testing.assert_close(both.maps, maps[::2] - maps[1::2], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(both.against, -both.maps)


def test_the_relevance_of_channels_by_the_head_alone() -> None:
    """What LRP-CAM weighs channels with: behind pooling and a linear layer without bias ``w_k mean(A_k)``."""
    module, x = double(nets.gap_linear(), biases=False), images()
    asked = query(classifier(module, target_layer="4"), x, Logit([1, 3]))
    found = relevance(lambda a: asked.target(asked.split.tail(a)), asked.split.A, lrp("epsilon", 0))
    expected = asked.split.A.mean((2, 3)) * module[7].weight[[1, 3]]
    torch.testing.assert_close(found.multipliers.sum((2, 3)), expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.value, asked.scores)


# ---------------------------------------------------------------------------------------------------------------------
# BatchNorm, and graphs that are kept


@pytest.mark.parametrize(
    "make",
    [
        nets.gap_linear,
        nets.VGGLike,
        nets.Residual,
        nets.MobileLike,
        nets.Faces,
        nets.ViTLike,
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4, bias=False), nn.BatchNorm1d(4, affine=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, groups=1, bias=False), nn.InstanceNorm2d(8, affine=True)),
    ],
)
def test_folding_leaves_the_function_as_it_is(make: Callable[[], nn.Module]) -> None:
    module, x = double(make()), images()
    with torch.no_grad():
        graph = fold(record(twin(module).module, x))
        torch.testing.assert_close(graph(x), module(x), rtol=1e-9, atol=1e-12)
    left = [str(node.target) for node in graph.graph.nodes if "batch_norm" in str(node.target)]
    stays = {nn.BatchNorm2d: 2, nn.Conv2d: 1}  # before or behind a layer that is no plain convolution; of its input
    assert len(left) == (stays.get(type(module[0]), 0) if isinstance(module, nn.Sequential) and len(module) < 5 else 0)


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-plus", "alpha1-beta0"])
def test_lrp_sees_a_batch_norm_as_part_of_its_convolution(rule: Any) -> None:
    module, x = double(nets.gap_linear()), images()
    folded = nn.Sequential(fuse_conv_bn_eval(module[0], module[1]), *list(module)[2:])
    ours, theirs = (LRP(rule)(classifier(net), x, Logit([0, 3])) for net in (module, folded))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [LRP(), DeepLIFT(), GuidedBackprop()])
def test_a_network_is_recorded_once_and_its_training_followed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and statistics that change in place are those of the next map."""
    recordings = []
    monkeypatch.setattr(folding, "record", lambda *args: recordings.append(1) or record(*args))
    module, x, target = double(nets.gap_linear()), images(), Logit([0, 3])
    model = classifier(module)
    first, second = (method.run(model, x, target) for _ in range(2))
    assert recordings == [1]
    assert second.cost.forward == 2 * 2  # on the image and on nothing
    assert first.cost.forward == 2 * 4  # recorded too, twice, for it works in place
    assert torch.equal(first.maps, second.maps)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        module.train()(images(8))  # moves BatchNorm's statistics
    after = method(model, x, target)
    assert recordings == [1]
    fresh = double(nets.gap_linear())
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(after, method(classifier(fresh), x, target), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after, first.maps)


class Several(nn.Module):
    """Returns several things."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.VGGLike()

    def forward(self, x: Tensor) -> Any:
        return self.net(x), x.mean()


class Branching(nn.Module):
    """Looks at its input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.VGGLike()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if x.sum() > -1e9 else -x)


@pytest.mark.parametrize("method", [LRP(), DeepLIFT(), GuidedBackprop()])
def test_networks_that_return_several_things_have_the_same_maps(method: Method) -> None:
    module, x = double(Several()), images()
    ours, theirs = (method(classifier(net, target_layer=layer), x, Logit([0, 3]))
                    for net, layer in ((module, "net.conv2"), (module.net, "conv2")))  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [LRP(), DeepLIFT(), GuidedBackprop()])
def test_networks_that_cannot_be_recorded_say_that_they_got_a_plain_gradient(method: Method) -> None:
    module, x = double(Branching()), images()
    found = method.run(classifier(module, target_layer="net.conv2"), x, Logit([0, 3]))
    assert "everything" in found.notes["plain gradient through"]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Logit([0, 3])(module(leaf)).sum(), leaf)
    expected = gradient.abs() if isinstance(method, GuidedBackprop) else gradient * x
    torch.testing.assert_close(found.maps, expected.sum(1), rtol=1e-9, atol=1e-12)


def test_a_target_that_cannot_be_recorded_is_named_and_the_network_keeps_its_rules() -> None:
    model, x = classifier(double(nets.VGGLike())), images()
    strange = DeepLIFT().run(model, x, lambda z: z[:, 1] if z.sum() > -1e9 else z[:, 0])
    assert "the score" in strange.notes["plain gradient through"]
    torch.testing.assert_close(strange.maps, DeepLIFT()(model, x, 1), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters, and networks whose first layer is none


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"epsilon is 0 or more: got -1"):
        LRP(epsilon=-1)
    with pytest.raises(ValueError, match=r"'epsilon-plus'.*got 'gamma'"):
        LRP(rule="gamma")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'blur'.*got 'white'"):
        DeepLIFT(baseline="white")  # type: ignore[arg-type]
    for kept in (0, 1.5):
        with pytest.raises(ValueError, match=f"kept is a share.*got {kept}"):
            XFR(kept=kept)
    depth = fm.Classifier(nn.Sequential(nn.Conv2d(4, 4, 3)), size=8, mean=(0.5,) * 4, std=(0.5,) * 4, target_layer="0")
    for method in (LRP(), DeepLIFT("black")):
        with pytest.raises(ValueError, match="takes 4 channels, use"):
            method(depth, torch.rand(1, 4, 8, 8), 0)


def test_the_box_reads_through_padding_and_says_where_it_cannot() -> None:
    padded = double(nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 5)))
    inside = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *list(padded)[2:]).double()
    inside[0].load_state_dict(padded[1].state_dict())
    x = images()
    ours, theirs = (
        LRP().run(classifier(net, target_layer=layer), x, 0) for net, layer in ((padded, "2"), (inside, "1"))
    )
    torch.testing.assert_close(ours.maps, theirs.maps, rtol=1e-9, atol=1e-12)
    assert "first" not in ours.notes
    pooled = double(nn.Sequential(nn.AvgPool2d(2), *list(inside)[:2], nn.Flatten(), nn.Linear(256, 5)))
    assert "no box rule" in LRP().run(classifier(pooled, target_layer="2"), x, 0).notes["first"]


@pytest.mark.real
def test_relevance_reaches_the_pixels_of_a_real_network(data: Path) -> None:
    """In SqueezeNet some input speaks for every unit that is excited: z+ loses nothing to its biases."""
    model = fm.load(f"squeezenet1_0@{data / 'weights' / 'squeezenet1_0.pth'}")
    x = model.from_pixels(torch.rand(1, 3, 224, 224))
    for method in (LRP(), DeepLIFT()):
        found = method.run(model, x, 1)
        assert found.completeness_error is not None
        assert found.scores is not None
        assert float((found.completeness_error / found.scores.abs()).max()) < 1e-3
