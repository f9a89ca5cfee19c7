"""pytorch-grad-cam 1.5.7: the same maps where it is right, and which of its results are wrong."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from faithmap.draw import overlay
from tests.peers.shared import CLASSES, at, pictures, plain_net, pooled_net, raw, shown, still


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
@pytest.mark.parametrize("make", [plain_net, pooled_net])
@pytest.mark.parametrize("name", SAME)
def test_same_maps(name: str, make: Any, layer: str) -> None:
    module, x = make(), pictures()
    given = theirs(SAME[name], module, layer, x, CLASSES)
    torch.testing.assert_close(shown(raw(name, module, x, CLASSES, layer)), given, atol=1e-5, rtol=0)


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


def test_the_with_block_swallows_the_callers_index_error(capsys: pytest.CaptureFixture[str]) -> None:
    module, x, reached = plain_net(), pictures(1), []
    with peer.GradCAM(model=module, target_layers=[module[3]]) as cam:
        reached.append(cam(input_tensor=x, targets=[ClassifierOutputTarget(99)]))
    still(not reached, "a class that does not exist ends the with-block without an error")  # only a line is printed
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
        try:
            theirs("GradCAM", module, "3", x, CLASSES)
        except RuntimeError as error:
            still("does not require grad" in str(error), f"{kind}: an error of autograd")
        else:
            still(False, f"{kind}: an error of autograd")


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


def test_the_overlay_changes_the_photo() -> None:
    """Theirs is divided by its brightest value: a grey photo with nothing over it comes out white."""
    photo, nothing = np.full((4, 4, 3), 0.25, dtype=np.float32), np.zeros((4, 4), dtype=np.float32)
    given = show_cam_on_image(photo, nothing, use_rgb=True, image_weight=1.0)
    still(bool((given == 255).all()), "the overlay's brightness is stretched, the photo's with it")
    ours = overlay(np.uint8(photo * 255), nothing)
    assert (np.asarray(ours) == 63).all()
