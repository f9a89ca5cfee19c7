"""pytorch-grad-cam 1.5.7: the same maps where it is right, and which of its results are wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from faithmap.draw import overlay
from tests.peers.shared import (
    CLASSES,
    at,
    error_of,
    found,
    leaky_net,
    pictures,
    plain_net,
    pooled_net,
    raw,
    shown,
    still,
)


def theirs(kind: str, module: nn.Module, layer: str, x: Tensor, classes: list[int], **settings: Any) -> Tensor:
    """Their maps: cut at 0 and stretched to [0, 1] each, then brought to the input's size, and float32."""
    with getattr(peer, kind)(model=module, target_layers=[module.get_submodule(layer)], **settings) as cam:
        return torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(k) for k in classes])).double()


# ---------------------------------------------------------------------------------------------------------------------
# Where it is right. At the input's resolution: elsewhere theirs are cut at 0 before they are enlarged, ours after.

SAME = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "xgrad-cam": "XGradCAM",
    "hires-cam": "HiResCAM",
    "grad-cam-elementwise": "GradCAMElementWise",
    "layer-cam": "LayerCAM",
}


@pytest.mark.parametrize("layer", ["2", "3"])  # before and after the ReLU
@pytest.mark.parametrize("make", [plain_net, pooled_net, leaky_net])
@pytest.mark.parametrize("name", SAME)
def test_same_maps(name: str, make: Any, layer: str) -> None:
    module, x = make(), pictures()
    module[-1].weight.data *= 1000  # drowns the epsilon of their grad-cam++: see below
    given = theirs(SAME[name], module, layer, x, CLASSES)
    torch.testing.assert_close(shown(raw(name, module, x, CLASSES, layer)), given, atol=1e-5, rtol=0)


def test_same_maps_of_coarse_layers() -> None:
    """Where nothing is cut off, for then the order does not matter."""
    module, x = nn.Sequential(nn.AvgPool2d(4), *pooled_net()), pictures()
    module[-1].weight.data.abs_()
    given = theirs("GradCAM", module, "4", x, CLASSES)
    torch.testing.assert_close(shown(raw("grad-cam", module, x, CLASSES, "4")), given, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [plain_net, pooled_net])
def test_same_score_cam(make: Callable[[], nn.Sequential]) -> None:
    """The softmax over channels does not see whether the score of nothing was taken off before, as the paper does."""
    module, x = make(), pictures()
    module[-1].weight.data /= 300  # or the softmax has a single winner
    given = theirs("ScoreCAM", module, "3", x, CLASSES)
    torch.testing.assert_close(shown(raw("score-cam", module, x, CLASSES, "3")), given, atol=1e-5, rtol=0)


def test_same_ablation_cam() -> None:
    """Behind a ReLU, and of classes whose scores are above 0."""
    module, x = plain_net(), pictures()
    module[-1].bias.data += 2 * module(x).detach().abs().max()
    given = theirs("AblationCAM", module, "3", x, CLASSES)
    torch.testing.assert_close(shown(raw("ablation-cam", module, x, CLASSES, "3")), given, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "kind"), [("eigen-cam", "EigenCAM"), ("eigen-grad-cam", "EigenGradCAM")])
def test_same_eigen_maps_up_to_the_sign_that_they_leave_to_chance(name: str, kind: str) -> None:
    """They centre each channel, which the paper does not: with channels of mean 0 there is no difference."""
    module, x = pooled_net(), pictures(8)
    module[3] = nn.InstanceNorm2d(8)
    given = theirs(kind, module, "3", x, [2] * 8)
    ours = raw(name, module, x, 2, "3")
    turned = ((given - shown(ours)).abs() > 1e-5).flatten(1).any(dim=1)
    signs = torch.where(turned, -1, 1)[:, None, None]
    torch.testing.assert_close(shown(signs * ours), given, atol=1e-5, rtol=0)


def test_same_full_grad() -> None:
    """They stretch each channel's part to [0, 1], the letter of the paper's equation; ours can."""
    module, x = plain_net(), pictures()
    given = theirs("FullGrad", module, "3", x, CLASSES)
    ours = raw("full-grad", module, x, CLASSES, rescale="channel")
    torch.testing.assert_close(shown(ours - ours.amin(dim=(1, 2), keepdim=True)), given, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong.


def test_one_target_for_a_batch() -> None:
    """Targets are zipped with the samples: the rest of the batch is dropped from the score, and its maps are 0."""
    module, x = plain_net(), pictures(4)
    given = theirs("GradCAM", module, "3", x, [2])
    still(not given[1:].any() and bool(given[0].any()), "one target explains the first sample of a batch alone")
    A, g = at(module, 3, x, [2, 2, 2, 2])
    truth = (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1)
    assert truth.flatten(1).any(dim=1).all()
    torch.testing.assert_close(raw("grad-cam", module, x, 2, "3"), truth)
    with pytest.raises(ValueError, match="holds 2 entries for a batch of 4"):
        raw("grad-cam", module, x, [2, 2], "3")


def test_the_with_block_swallows_the_callers_index_error() -> None:
    """A class that does not exist: a line is printed, and what follows runs without a map."""
    module, x, reached = plain_net(), pictures(1), []

    def ask() -> None:
        with peer.GradCAM(model=module, target_layers=[module[3]]) as cam:
            reached.append(cam(input_tensor=x, targets=[ClassifierOutputTarget(99)]))

    still(error_of(ask) == "" and not reached, "a class that does not exist ends the with-block without an error")
    with pytest.raises(ValueError, match="class 99 does not exist: the network has 5 outputs"):
        raw("grad-cam", module, x, 99, "3")

    def broken(outputs: Tensor) -> Tensor:
        return outputs[:, 99]

    with pytest.raises(IndexError):
        raw("grad-cam", module, x, broken, "3")


def test_gradients_of_parameters_are_thrown_away_and_filled() -> None:
    """In training: what was gathered so far is lost, and the next step of the optimiser takes the explanation's."""
    module, x = plain_net(), pictures()
    module(x).square().sum().backward()
    gathered = [p.grad.clone() for p in module.parameters()]
    raw("grad-cam", module, x, CLASSES, "3")
    for p, before in zip(module.parameters(), gathered, strict=True):
        assert torch.equal(p.grad, before)
    theirs("GradCAM", module, "3", x, CLASSES)
    changed = [not torch.equal(p.grad, before) for p, before in zip(module.parameters(), gathered, strict=True)]
    still(all(changed), "every parameter's .grad is replaced")


def test_the_network_is_left_in_eval_mode() -> None:
    module, x = plain_net().insert(6, nn.Dropout()).train(), pictures()
    module[3].eval()  # as some do with batch normalisation
    expected = raw("grad-cam", copy.deepcopy(module).eval(), x, CLASSES, "3")
    torch.testing.assert_close(raw("grad-cam", module, x, CLASSES, "3"), expected)  # without dropout's noise
    assert module.training
    assert module[6].training
    assert not module[3].training
    theirs("GradCAM", module, "3", x, CLASSES)
    still(not module.training and not module[6].training, "train mode is gone for good")


@pytest.mark.parametrize("kind", ["frozen", "no_grad"])
def test_frozen_networks_and_callers_without_gradients(kind: str) -> None:
    module, x = plain_net(), pictures()
    expected = raw("grad-cam", module, x, CLASSES, "3")
    module.requires_grad_(kind != "frozen")
    with torch.set_grad_enabled(kind == "frozen"):
        torch.testing.assert_close(raw("grad-cam", module, x, CLASSES, "3"), expected)
        error = error_of(lambda: theirs("GradCAM", module, "3", x, CLASSES))
        still("does not require grad" in error, f"{kind}: an error of autograd")


def test_networks_in_half_precision() -> None:
    module, x = plain_net().bfloat16(), pictures().bfloat16()
    error = error_of(lambda: theirs("GradCAM", module, "3", x, CLASSES))
    still("BFloat16" in error, "an error of numpy, which knows no bfloat16")
    full = raw("grad-cam", copy.deepcopy(module).float(), x.float(), CLASSES, "3")
    ours = raw("grad-cam", module, x, CLASSES, "3")
    assert ours.dtype == torch.float32
    assert torch.corrcoef(torch.stack([ours.flatten(), full.flatten()]))[0, 1] > 0.999


def test_a_relu_in_place_after_the_target_layer_changes_what_they_read() -> None:
    """Their activations are the ReLU's, their gradients the convolution's: a mixture that explains neither."""
    module = pooled_net()
    in_place = copy.deepcopy(module)
    in_place[3].inplace = True
    x = pictures()
    A, g = at(module, 2, x, CLASSES)
    truth = (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1)
    torch.testing.assert_close(raw("grad-cam", module, x, CLASSES, "2"), truth)
    torch.testing.assert_close(raw("grad-cam", in_place, x, CLASSES, "2"), truth)
    torch.testing.assert_close(theirs("GradCAM", module, "2", x, CLASSES), shown(truth), atol=1e-5, rtol=0)
    off = [(theirs("GradCAM", in_place, layer, x, CLASSES) - shown(truth)).abs().max() for layer in "23"]
    still(bool(off[0] > 0.05 and off[1] > 0.05), "a ReLU in place overwrites the activations that were kept")
    mixture = (g.mean(dim=(2, 3), keepdim=True) * A.clamp_min(0)).sum(dim=1)
    torch.testing.assert_close(theirs("GradCAM", in_place, "2", x, CLASSES), shown(mixture), atol=1e-5, rtol=0)


def test_what_speaks_against_a_class_and_by_how_much_is_lost() -> None:
    """A map below zero everywhere comes back as zeros; a map a thousand times larger comes back the same."""
    module, x = pooled_net(), pictures(1)
    module[-1].weight.data[2] = -module[-1].weight.data[2].abs()
    given = theirs("GradCAM", module, "3", x, [2])
    still(not given.any(), "a map that is negative everywhere is given as zeros, without a word")
    A, g = at(module, 3, x, [2])
    truth = (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1)
    assert truth.min() < 0
    assert truth.max() <= 0
    torch.testing.assert_close(raw("grad-cam", module, x, 2, "3"), truth)
    before = theirs("GradCAM", module, "3", x, [3]), raw("grad-cam", module, x, 3, "3")
    module[-1].weight.data *= 1000
    after = theirs("GradCAM", module, "3", x, [3]), raw("grad-cam", module, x, 3, "3")
    torch.testing.assert_close(after[1], before[1] * 1000)
    still(torch.allclose(after[0], before[0], atol=1e-5), "maps have no scale: each is stretched to [0, 1]")


def losses(module: nn.Sequential, A: Tensor, k: int) -> Tensor:
    """What the score of class k loses without each channel of layer "3", one after the other: ``(C,)``."""
    lost = []
    for channel in range(A.shape[1]):
        without = A.clone()
        without[:, channel] = 0
        lost.append(module[4:](A)[0, k] - module[4:](without)[0, k])
    return torch.stack(lost).detach()


def test_ablation_of_activations_that_can_be_negative() -> None:
    """A channel is replaced by -10,000,000, the next one by that less 10,000,000, and so on, not by 0."""
    module, x, lowest = leaky_net(), pictures(1), []
    best = module(x).argmax(dim=1).tolist()
    look = module[4].register_forward_hook(lambda _, given, out: lowest.append(given[0].amin(dim=(1, 2, 3)).tolist()))
    given = theirs("AblationCAM", module, "3", x, best)
    look.remove()
    eight = lowest[-1]  # the rows of the last question: one for each channel
    still(eight[0] < -0.9e7 and eight[7] < -7.9e7, "channels are ablated to ever lower values")
    A, _ = at(module, 3, x, best)
    weights = losses(module, A, best[0]) / module(x)[0, best[0]].detach()
    truth = torch.einsum("c,bchw->bhw", weights, A)
    torch.testing.assert_close(raw("ablation-cam", module, x, best, "3"), truth)
    off = (given - shown(truth)).abs().max()
    still(bool(off > 0.05), "maps of activations that can be negative are not those of ablation to 0")


def test_ablation_where_the_score_is_negative() -> None:
    """A loss divided by a negative score is a gain: what supports the class is what they show as against it."""
    module, x = plain_net(), pictures(1)
    module[-1].bias.data -= 2 * module(x).detach().abs().max()
    worst = module(x).argmin(dim=1).tolist()
    ours = raw("ablation-cam", module, x, worst, "3")
    given = theirs("AblationCAM", module, "3", x, worst)
    still(torch.allclose(given, shown(-ours), atol=1e-5), "the map of a negative score has the wrong sign")
    A, _ = at(module, 3, x, worst)
    direction = torch.einsum("c,bchw->bhw", losses(module, A, worst[0]), A)
    torch.testing.assert_close(ours * module(x)[0, worst[0]].detach().abs(), direction)


def test_an_error_leaves_the_network_broken() -> None:
    """Their ablation puts a layer of its own in the network's place, and an error on the way leaves it there."""
    module, x = plain_net(), pictures(1)
    before = module(x)

    class Broken:
        asked = 0

        def __call__(self, outputs: Tensor) -> Tensor:
            self.asked += 1
            if self.asked > 1:  # not with the whole, but with the first ablated channel
                raise ArithmeticError
            return outputs[..., 0]

    with pytest.raises(ArithmeticError):
        raw("ablation-cam", module, x, Broken(), "3")
    assert isinstance(module[3], nn.ReLU)
    assert torch.equal(module(x), before)
    with pytest.raises(ArithmeticError), peer.AblationCAM(model=module, target_layers=[module[3]]) as cam:
        cam(input_tensor=x, targets=[Broken()])
    still(not isinstance(module[3], nn.ReLU), "the target layer is gone after an error")


def test_guided_backpropagation_replaces_the_networks_relus() -> None:
    """Afterwards one new ReLU stands in all places: what was set on the old ones (in place, hooks, names) is gone."""
    module, x = plain_net(), pictures(1)
    relus = [module[1], module[3], module[7]]
    ours = raw("guided-backprop", module, x, 2)
    assert [module[1], module[3], module[7]] == relus
    given = peer.GuidedBackpropReLUModel(model=module)(x.clone(), target_category=2)  # (H, W, 3)
    torch.testing.assert_close(ours[0], torch.from_numpy(given).abs().sum(dim=2))
    still(module[1] is module[3] is module[7] and module[1] is not relus[0], "the network's ReLUs are replaced")


def test_the_sign_of_eigen_cam_is_left_to_chance() -> None:
    """About half of their maps show where the layer is least active; ours, like the paper's, need no centring."""
    module, x = plain_net(), pictures(16)
    A = module[:4](x).detach()
    given = theirs("EigenCAM", module, "3", x, [0] * 16)
    active = A.sum(dim=1)
    along = [torch.corrcoef(torch.stack([g.flatten(), a.flatten()]))[0, 1] for g, a in zip(given, active, strict=True)]
    against = sum(bool(c < 0) for c in along)
    still(2 <= against <= 14, "EigenCAM's sign is as the decomposition happens to return it")
    ours = raw("eigen-cam", module, x, 0, "3")
    for map, a in zip(ours, A, strict=True):
        places = a.flatten(1).T.numpy()  # (places, C), not centred
        projection = places @ np.linalg.svd(places, full_matrices=False)[2][0]
        np.testing.assert_allclose(map.flatten(), np.abs(projection), rtol=1e-6)  # of one sign where A >= 0


def test_an_epsilon_decides_grad_cam_plus_plus_where_gradients_are_small() -> None:
    """1e-6 is added to g^2 (2 + g sum A): behind average pooling of 1024 places, g^2 is smaller than that."""
    module, x = pooled_net(), pictures()
    module[-1].weight.data /= 300  # as usual
    A, g = at(module, 3, x, CLASSES)
    quotient = torch.where(g > 0, 1 / (2 + g * A.sum(dim=(2, 3), keepdim=True)), 0)
    truth = ((quotient * g).sum(dim=(2, 3), keepdim=True) * A).sum(dim=1)
    torch.testing.assert_close(raw("grad-cam++", module, x, CLASSES, "3"), truth)
    off = (theirs("GradCAMPlusPlus", module, "3", x, CLASSES) - shown(truth)).abs().amax(dim=(1, 2))
    still(bool((off > 0.02).any()), "grad-cam++ with small gradients is that of an epsilon")


def test_the_biases_of_full_grad_have_no_size() -> None:
    """Each channel is stretched to [0, 1] before they are added: a thousand times the bias gives the same map."""
    module, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 1024, 5)).double(), pictures()
    _, g = at(module, 0, x, CLASSES)
    (to_x,) = torch.autograd.grad(module[0](x.requires_grad_()), x, g)
    x = x.detach()
    given, maps = [], []
    for _ in range(2):
        bias = module[0].bias.detach()[:, None, None]
        truth = (x * to_x).abs().sum(dim=1) + (bias * g).abs().sum(dim=1)  # linear: the gradients stay what they are
        ours = found("full-grad", module, x, CLASSES, rescale="none")
        torch.testing.assert_close(ours.maps, truth)
        assert ours.completeness_error.max() < 1e-9
        given.append(theirs("FullGrad", module, "0", x, CLASSES))
        maps.append(shown(ours.maps))
        module[0].bias.data *= 1000
    assert ((maps[0] - maps[1]).abs() > 0.2).any()
    still(torch.allclose(*given, atol=1e-3), "FullGrad does not see how large the biases are")


def test_the_overlay_changes_the_photo() -> None:
    """Theirs is divided by its brightest value: a grey photo with nothing over it comes out white."""
    photo, nothing = np.full((4, 4, 3), 0.25, dtype=np.float32), np.zeros((4, 4), dtype=np.float32)
    given = show_cam_on_image(photo, nothing, use_rgb=True, image_weight=1.0)
    still(bool((given == 255).all()), "the overlay's brightness is stretched, the photo's with it")
    ours = overlay(np.uint8(photo * 255), nothing)
    assert (np.asarray(ours) == 63).all()
