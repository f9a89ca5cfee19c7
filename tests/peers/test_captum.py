"""captum 0.9.0: the same maps where it is right, and which of its results are wrong."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import captum.attr as peer
import pytest
import torch
import torch.nn.functional as F
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import Tensor, nn

import faithmap as fm
from faithmap.pixels import blur, superpixels
from tests import nets
from tests.peers.shared import CLASSES, error_of, found, leaky_net, lrp, pictures, plain_net, pooled_net, raw, still

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting")

# ---------------------------------------------------------------------------------------------------------------------
# Where it is right, to rounding: float64. What it calls 0 is our "mean", the network's mean colour.


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize("make", [plain_net, pooled_net, leaky_net])
def test_same_layer_maps(make: Callable[[], nn.Sequential], layer: int) -> None:
    module, x = make(), pictures()
    grad_cam = peer.LayerGradCam(module, module[layer]).attribute(x, target=CLASSES)
    torch.testing.assert_close(raw("grad-cam", module, x, CLASSES, str(layer)), grad_cam[:, 0].detach())
    product = peer.LayerGradientXActivation(module, module[layer]).attribute(x, target=CLASSES)
    torch.testing.assert_close(raw("hires-cam", module, x, CLASSES, str(layer)), product.sum(dim=1).detach())


NETS = {
    nets.gap_linear: "2",
    nets.VGGLike: "conv2",
    nets.Residual: "layer1",
    nets.MobileLike: "block",
    nets.Faces: "bn",
}


@pytest.mark.parametrize("make", NETS)
def test_same_maps_of_networks_with_layers_in_place_used_twice_and_normed(make: Callable[[], nn.Module]) -> None:
    """Layers coarser than the picture: theirs are enlarged as ours are."""
    module, x = make().double().eval(), pictures()
    layer = module.get_submodule(NETS[make])

    def enlarged(parts: Tensor) -> Tensor:
        return F.interpolate(parts.sum(dim=1, keepdim=True), (32, 32), mode="bilinear")[:, 0].detach()

    grad_cam = peer.LayerGradCam(module, layer).attribute(x, target=CLASSES)
    torch.testing.assert_close(raw("grad-cam", module, x, CLASSES, NETS[make]), enlarged(grad_cam))
    product = peer.LayerGradientXActivation(module, layer).attribute(x, target=CLASSES)
    torch.testing.assert_close(raw("hires-cam", module, x, CLASSES, NETS[make]), enlarged(product))
    product = peer.InputXGradient(module).attribute(x, target=CLASSES).detach()
    torch.testing.assert_close(raw("gradient-x-input", module, x, CLASSES), product.sum(dim=1))


def test_same_gradients() -> None:
    module, x = plain_net(), pictures()
    saliency = peer.Saliency(module).attribute(x, target=CLASSES)
    torch.testing.assert_close(raw("gradient", module, x, CLASSES), saliency.amax(dim=1))
    product = peer.InputXGradient(module).attribute(x, target=CLASSES).detach()
    torch.testing.assert_close(raw("gradient-x-input", module, x, CLASSES), product.sum(dim=1))
    guided = peer.GuidedBackprop(module).attribute(x, target=CLASSES).detach()
    torch.testing.assert_close(raw("guided-backprop", module, x, CLASSES), guided.abs().sum(dim=1))


def test_same_integrated_gradients() -> None:
    module, x = plain_net(), pictures()
    given, off = peer.IntegratedGradients(module).attribute(x, target=CLASSES, return_convergence_delta=True, n_steps=7)
    ours = found("integrated-gradients", module, x, CLASSES, steps=7, baseline="mean")
    torch.testing.assert_close(ours.maps, given.sum(dim=1))
    torch.testing.assert_close(ours.completeness_error, off.abs(), atol=1e-5, rtol=1e-5)


def test_same_smooth_grad_within_its_standard_error() -> None:
    module, x = plain_net(), pictures(1)
    width = 0.15 * float(x.max() - x.min())
    tunnel = peer.NoiseTunnel(peer.Saliency(module))
    long = tunnel.attribute(x, target=3, abs=False, nt_samples=2000, nt_samples_batch_size=250, stdevs=width)
    ours = found("smooth-grad", module, x, 3, samples=300, sigma=0.15)
    off = (ours.maps - long.abs().amax(dim=1)) / ours.standard_error
    sure = ours.maps > 6 * ours.standard_error  # elsewhere noise decides which channel is shown
    assert sure.float().mean() > 0.2
    assert off[sure].abs().quantile(0.95) < 2.5
    assert 0.5 < off[sure].square().mean() < 2


def test_same_occlusion() -> None:
    """Patches that overlap, each pixel the mean over those that cover it."""
    module, x = plain_net(), pictures()
    given = peer.Occlusion(module).attribute(x, (3, 8, 8), (3, 4, 4), target=CLASSES, perturbations_per_eval=49)
    ours = raw("occlusion", module, x, CLASSES, patch=8 / 32, stride=4 / 32)
    torch.testing.assert_close(ours, given[:, 0].double(), atol=1e-4, rtol=1e-5)  # theirs is rounded to float32


def test_same_shapley_values_of_superpixels() -> None:
    """Theirs by all 720 orders of six segments, ours by all 62 coalitions."""
    module, x = plain_net(), pictures(1)
    pieces = superpixels(fm.Classifier(module, size=32).to_pixels(x), 6)
    shapley = peer.ShapleyValues(module)
    given = shapley.attribute(x, 0.0, 3, feature_mask=pieces[:, None], perturbations_per_eval=240)
    ours = found("kernel-shap", module, x, 3, segments=6, samples=62, fill="mean")
    assert ours.notes["coalitions"] == "all 62"
    torch.testing.assert_close(ours.maps, given[:, 0].double(), atol=1e-4, rtol=1e-5)  # rounded to float32


def test_same_shapley_values_by_regression() -> None:
    """Theirs draws coalitions and knows no error of its own: roughly."""
    module, x = plain_net(), pictures(1)
    pieces = superpixels(fm.Classifier(module, size=32).to_pixels(x), 6)
    torch.manual_seed(0)  # theirs
    given = peer.KernelShap(module).attribute(
        x, 0.0, 3, feature_mask=pieces[:, None], n_samples=1500, perturbations_per_eval=250
    )
    ours = raw("kernel-shap", module, x, 3, segments=6, samples=62, fill="mean")
    torch.testing.assert_close(ours, given[:, 0].double(), rtol=0, atol=0.25 * float(ours.abs().max()))


def test_same_shapley_values_of_channels() -> None:
    """Theirs by all 120 orders of five channels of the head's input, ours by all coalitions."""
    module, x = plain_net(channels=5), pictures()
    channel = torch.arange(5)[None, :, None, None].repeat(1, 1, 32, 32)
    shapley = peer.ShapleyValues(module[4:])
    given = shapley.attribute(module[:4](x).detach(), 0.0, CLASSES, feature_mask=channel, perturbations_per_eval=100)
    ours = found("shap-cam", module, x, CLASSES, "3").coefficients
    torch.testing.assert_close(ours, given[:, :, 0, 0].double(), atol=1e-4, rtol=1e-5)  # theirs is rounded to float32


def test_same_effect_of_each_channel() -> None:
    module, x = plain_net(), pictures()
    channel = torch.arange(8)[None, :, None, None].expand(1, 8, 32, 32)
    ablation = peer.LayerFeatureAblation(module, module[3])
    given = ablation.attribute(x, target=CLASSES, layer_mask=channel)[:, :, 0, 0]
    scores = module(x)[range(3), CLASSES].abs()
    torch.testing.assert_close(found("ablation-cam", module, x, CLASSES, "3").coefficients, given / scores[:, None])


def test_same_deep_lift_of_the_pixels() -> None:
    """ReLU modules, each used once: there theirs is complete."""
    module, x = pooled_net(), pictures()
    given, off = peer.DeepLift(module).attribute(x, target=CLASSES, return_convergence_delta=True)
    assert off.abs().max() < 1e-9
    torch.testing.assert_close(raw("deep-lift", module, x, CLASSES), given.sum(dim=1).detach())


@pytest.mark.parametrize("layer", [2, 3])
def test_same_deep_lift_of_a_layer(layer: int) -> None:
    """ReLU modules, each used once, and max-pooling: there theirs is complete, and its sums are LIFT-CAM's weights."""
    module, x = plain_net(), pictures()
    module[0].bias.data.zero_()
    module[2].bias.data.zero_()  # the layer is 0 where the picture is 0: their reference is ours
    given = peer.LayerDeepLift(module, module[layer]).attribute(x, target=CLASSES)
    torch.testing.assert_close(found("lift-cam", module, x, CLASSES, str(layer)).coefficients, given.sum(dim=(2, 3)))


@pytest.mark.parametrize("make", [plain_net, pooled_net])
def test_same_relevance_by_epsilon(make: Callable[[], nn.Sequential]) -> None:
    """A network of ReLUs by a vanishing epsilon: the gradient times the input, by theorem."""
    module, x = make(), pictures()
    module[5].rule = EpsilonRule()  # it has none for Flatten
    given = peer.LRP(module).attribute(x, target=CLASSES).sum(dim=1).detach()
    ours = lrp("epsilon", module, x, CLASSES)
    torch.testing.assert_close(ours, given, atol=1e-3 * float(ours.abs().max()), rtol=0)
    torch.testing.assert_close(ours, raw("gradient-x-input", module, x, CLASSES), atol=1e-5, rtol=0)


def test_same_relevance_of_channels() -> None:
    module, x = plain_net(), pictures()
    module[5].rule = EpsilonRule()
    given = peer.LayerLRP(module, module[2]).attribute(x, target=CLASSES).sum(dim=(2, 3)).detach()
    ours = found("lrp-cam", module, x, CLASSES, "2", epsilon=1e-9).coefficients
    torch.testing.assert_close(ours, given, atol=1e-4 * float(ours.abs().max()), rtol=0)


def positive_rules(module: nn.Sequential) -> nn.Sequential:
    """Alpha 1, beta 0 for the convolutions, epsilon for the rest."""
    module[0].rule, module[2].rule, module[5].rule = Alpha1_Beta0_Rule(True), Alpha1_Beta0_Rule(True), EpsilonRule()
    return module


def unbiased_net() -> nn.Sequential:
    module = pooled_net()
    for layer in (0, 2, 6):
        module[layer].bias.data.zero_()
    return module


def test_same_relevance_by_alpha_and_beta() -> None:
    """Of inputs that are not negative."""
    module, x = unbiased_net(), pictures().abs()
    given = peer.LRP(positive_rules(module)).attribute(x, target=CLASSES).sum(dim=1).detach()
    ours = lrp("epsilon-plus", module, x, CLASSES)
    torch.testing.assert_close(ours, given, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong.


def curved(activation: Callable[[], nn.Module], norm: bool = False) -> nn.Sequential:
    """A convolution "0", and a head with two activations, and a layer norm if wanted."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.LayerNorm(128) if norm else nn.Identity(), nn.Linear(128, 12), activation(), nn.Linear(12, 5),
    ).double().eval()  # fmt: skip


def rescaled(layers: Sequence[nn.Module], A: Tensor, classes: list[int]) -> Tensor:
    """DeepLIFT-Rescale against 0, by hand: delta out / delta in through activations, the weights through the rest.

    What a maximum of activations >= 0 adds to that of zeros comes from where it is: its gradient.
    """
    steps = []
    a, a0 = A, torch.zeros_like(A)
    for layer in layers:
        steps.append((layer, a, a0))
        a, a0 = layer(a), layer(a0)
    m = F.one_hot(torch.tensor(classes), a.shape[1]).to(a)
    for layer, a, a0 in reversed(steps):
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity)):
            m = torch.autograd.functional.vjp(layer, a, m)[1]
        else:
            m = m * (layer(a) - layer(a0)) / (a - a0)
    return m * A


def off_by(parts: Tensor, module: nn.Module, A: Tensor, classes: list[int], reference: Tensor | None = None) -> Tensor:
    """How far parts ``(B, ...)`` are from adding up to y(A) - y(reference), as a share of it; the reference is 0."""
    reference = torch.zeros_like(A) if reference is None else reference
    change = (module(A) - module(reference))[range(len(A)), classes]
    return ((parts.flatten(1).sum(dim=1) - change) / change).abs().detach()


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU6, nn.PReLU])
def test_deep_lift_through_activations_it_does_not_know(activation: Callable[[], nn.Module]) -> None:
    """Incomplete by percents to multiples; the warning that it gives with every network does not name them."""
    module, x = curved(activation), 3 * pictures()
    A, head = module[0](x).detach(), module[1:]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = peer.DeepLift(head).attribute(A, target=CLASSES)
    missing = off_by(given, head, A, CLASSES)
    silent = not any(activation.__name__ in str(warning.message) for warning in said)
    still(bool((missing > 0.02).any()) and silent, f"DeepLift is incomplete through {activation.__name__}, silently")
    by_hand = rescaled(head, A, CLASSES).detach()
    assert (off_by(by_hand, head, A, CLASSES) < 1e-9).all()
    ours = found("lift-cam", module, x, CLASSES, "0")
    torch.testing.assert_close(ours.coefficients, by_hand.sum(dim=(2, 3)), rtol=1e-3, atol=1e-5)
    assert (off_by(ours.coefficients, head, A, CLASSES) < 1e-7).all()


def test_deep_lift_through_a_layer_norm() -> None:
    module, x = curved(nn.ReLU, norm=True), pictures()
    A, head = module[0](x).detach(), module[1:]
    missing = off_by(peer.DeepLift(head).attribute(A, target=CLASSES), head, A, CLASSES)
    still(bool((missing > 0.02).any()), "DeepLift is incomplete through LayerNorm")
    ours = found("lift-cam", module, x, CLASSES, "0")
    assert (off_by(ours.coefficients, head, A, CLASSES) < 1e-7).all()


def test_deep_lift_through_a_softmax_depends_on_the_batch() -> None:
    """Their rule takes off a mean over the whole batch: a sample's map changes with its neighbours, and its sum too."""
    module, x = nn.Sequential(*pooled_net(), nn.Softmax(dim=1)), pictures()
    module[6].weight.data /= 60
    A, head = module[:4](x).detach(), module[4:]
    together = peer.DeepLift(head).attribute(A, target=CLASSES).detach()
    alone = torch.cat([peer.DeepLift(head).attribute(A[i][None], target=k).detach() for i, k in enumerate(CLASSES)])
    change = (together - alone).abs().amax(dim=(1, 2, 3)) / alone.abs().amax(dim=(1, 2, 3))
    still(bool((change > 0.01).any()), "DeepLift's softmax rule mixes the samples of a batch")
    still(bool((off_by(alone, head, A, CLASSES) > 0.02).any()), "DeepLift is incomplete through Softmax")
    ours = found("lift-cam", module, x, CLASSES, "3").coefficients
    assert (off_by(ours, head, A, CLASSES) < 1e-7).all()
    single = [found("lift-cam", module, x[i][None], k, "3").coefficients for i, k in enumerate(CLASSES)]
    torch.testing.assert_close(torch.cat(single), ours)


def test_deep_lift_through_max_pooling_whose_windows_overlap() -> None:
    """Where windows share their maximum, all but one of their parts are overwritten."""
    module, x = plain_net(), pictures()
    module[4] = nn.MaxPool2d(7, stride=4, padding=3)
    A, head = module[:4](x).detach(), module[4:]
    given = peer.DeepLift(head).attribute(A, target=CLASSES)
    still(bool((off_by(given, head, A, CLASSES) > 0.02).any()), "DeepLift loses parts in windows that overlap")
    by_hand = rescaled(head, A, CLASSES).detach()
    assert (off_by(by_hand, head, A, CLASSES) < 1e-9).all()
    torch.testing.assert_close(found("lift-cam", module, x, CLASSES, "3").coefficients, by_hand.sum(dim=(2, 3)))


def test_deep_lift_through_max_pooling_right_behind_a_relu() -> None:
    """The ReLU is handed the plain gradient, not what the pooling's rule makes of it: it shows where baselines vary."""
    module, x, other = plain_net(), pictures(), pictures()
    given = peer.DeepLift(module).attribute(x, other, target=CLASSES)
    missing = off_by(given, module, x, CLASSES, other)
    still(bool((missing > 0.02).any()), "DeepLift forgets the rule of max-pooling behind a ReLU")
    smooth = blur(x, 10, 61)
    given = peer.DeepLift(module).attribute(x, smooth, target=CLASSES)
    still(bool((off_by(given, module, x, CLASSES, smooth) > 1e-4).any()), "with a blurred baseline too")
    ours = raw("deep-lift", module, x, CLASSES, baseline="blur")
    assert (off_by(ours, module, x, CLASSES, smooth) < 1e-9).all()


class Reused(nn.Module):
    """`curved(nn.ReLU)` with one ReLU for both places, as a module or as a function."""

    def __init__(self, like: nn.Sequential, functional: bool) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = copy.deepcopy(like[0]), copy.deepcopy(like[5]), copy.deepcopy(like[7])
        self.relu = F.relu if functional else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.relu(self.conv(x)), 4)
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


@pytest.mark.parametrize("functional", [True, False])
def test_deep_lift_through_one_relu_for_all_places(functional: bool) -> None:
    """Unseen as a function, an error as a module: the same network with modules of its own is the truth."""
    module, x = curved(nn.ReLU), pictures()
    same = Reused(module, functional).eval()
    torch.testing.assert_close(same(x), module(x))
    truth = peer.DeepLift(module).attribute(x, target=CLASSES)
    assert (off_by(truth, module, x, CLASSES) < 1e-9).all()
    if functional:
        missing = off_by(peer.DeepLift(same).attribute(x, target=CLASSES), module, x, CLASSES)
        still(bool((missing > 0.02).any()), "DeepLift does not see a functional ReLU")
    else:
        error = error_of(lambda: peer.DeepLift(same).attribute(x, target=CLASSES))
        still("input/output attributes" in error, "DeepLift raises where one ReLU is used twice")
    expected = found("lift-cam", module, x, CLASSES, "0").coefficients
    torch.testing.assert_close(found("lift-cam", same, x, CLASSES, "conv").coefficients, expected)
    torch.testing.assert_close(raw("deep-lift", same, x, CLASSES), truth.sum(dim=1))


def test_guided_backpropagation_through_functional_relus() -> None:
    """Unseen: the map is the plain gradient's."""
    module, x = curved(nn.ReLU), pictures()
    same = Reused(module, functional=True).eval()
    truth = peer.GuidedBackprop(module).attribute(x, target=CLASSES).detach()
    given = peer.GuidedBackprop(same).attribute(x, target=CLASSES).detach()
    plain = peer.Saliency(same).attribute(x, target=CLASSES, abs=False)
    still(torch.equal(given, plain), "guided backpropagation does not see functional ReLUs")
    assert (truth - plain).abs().max() > 0.1 * truth.abs().max()
    torch.testing.assert_close(raw("guided-backprop", same, x, CLASSES), truth.abs().sum(dim=1))


def z_plus(layer: nn.Conv2d, x: Tensor, R: Tensor) -> Tensor:
    """What a convolution's inputs get of its outputs' relevance: shares of the positive parts (x w)+, by hand."""
    up, down = layer.weight.detach().clamp_min(0), layer.weight.detach().clamp_max(0)
    parts = F.conv2d(x.clamp_min(0), up, padding=1) + F.conv2d(x.clamp_max(0), down, padding=1)
    R = R / torch.where(parts == 0, 1, parts)
    at_up, at_down = (F.conv_transpose2d(R, w, padding=1) for w in (up, down))
    return x.clamp_min(0) * at_up + x.clamp_max(0) * at_down


def test_relevance_of_negative_inputs_by_alpha_and_beta() -> None:
    """What is positive is x w, not w: theirs divides by sums of x w+, which cancel, and the relevance explodes."""
    module, x = unbiased_net(), pictures()
    given = peer.LRP(positive_rules(module)).attribute(x, target=CLASSES).sum(dim=1).detach()
    ours = lrp("epsilon-plus", module, x, CLASSES)
    a = module[:2](x).detach()
    b = module[2:4](a).detach()
    parts = b.mean(dim=(2, 3)) * module[6].weight.detach()[CLASSES]  # what each channel adds to the score
    R = b / b.sum(dim=(2, 3), keepdim=True) * parts[:, :, None, None]
    truth = z_plus(module[0], x, z_plus(module[2], a, R)).sum(dim=1)
    torch.testing.assert_close(ours, truth)
    still(bool((given - truth).abs().max() > 10 * truth.abs().max()), "alpha-beta takes the inputs to be positive")


def test_relevance_rules_are_gone_after_one_call() -> None:
    """The second call falls back to epsilon where there is a default, without a word: another map by far."""
    module, x = positive_rules(unbiased_net()), pictures().abs()
    first = peer.LRP(module).attribute(x, target=CLASSES).detach()
    still(not hasattr(module[0], "rule"), "rules that the caller set are deleted by the first call")
    module[5].rule = EpsilonRule()
    second = peer.LRP(module).attribute(x, target=CLASSES).detach()
    assert (second - first).abs().max() > 0.5 * first.abs().max()


def test_relevance_through_a_sum() -> None:
    """A shortcut's sum is no module: relevance goes down both ways in full, and by the wrong factors."""
    module, x = Shortcut().double().eval(), pictures()
    truth = raw("gradient-x-input", module, x, CLASSES)  # what a vanishing epsilon gives
    given = peer.LRP(module).attribute(x, target=CLASSES).sum(dim=1).detach()
    still(bool((given - truth).abs().max() > 10 * truth.abs().max()), "LRP is wrong through sums, without a word")
    torch.testing.assert_close(lrp("epsilon", module, x, CLASSES), truth, atol=1e-9, rtol=0)


class Shortcut(nn.Module):
    """A residual network of modules, but for its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu1, self.relu2, self.pool, self.fc = nn.ReLU(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = x + self.relu2(self.conv2(x))
        return self.fc(self.pool(x).flatten(1))
