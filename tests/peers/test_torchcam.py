"""torch-cam 0.5.0: the same maps where it is right, and which of its results are wrong."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchcam import methods as peer
from torchcam.utils import overlay_mask

from faithmap.draw import colour, overlay
from tests.peers.shared import CLASSES, at, leaky_net, pictures, plain_net, pooled_net, raw, still


def theirs(kind: str, module: nn.Module, layer: str, x: Tensor, classes: list[int], **settings: Any) -> Tensor:
    """Their maps, without the stretch to [0, 1]; all but CAM's are cut at 0."""
    with getattr(peer, kind)(module, layer, input_shape=(3, 32, 32), **settings) as extractor:
        scores = module(x)
        return extractor(classes, scores, normalized=False)[0]


# ---------------------------------------------------------------------------------------------------------------------
# Where it is right, to rounding: float64, at a layer of the input's resolution.

SAME = {"grad-cam": "GradCAM", "xgrad-cam": "XGradCAM", "layer-cam": "LayerCAM", "score-cam": "ScoreCAM"}


@pytest.mark.parametrize("layer", ["2", "3"])  # before and after the ReLU
@pytest.mark.parametrize("make", [plain_net, pooled_net, leaky_net])
@pytest.mark.parametrize("name", SAME)
def test_same_maps(name: str, make: Any, layer: str) -> None:
    module, x = make(), pictures()
    module[-1].weight.data /= 300  # or the softmax of score-cam has a single winner
    given = theirs(SAME[name], module, layer, x, CLASSES)
    torch.testing.assert_close(raw(name, module, x, CLASSES, layer).clamp_min(0), given, atol=1e-9, rtol=1e-5)


def test_same_cam() -> None:
    module, x = pooled_net(), pictures()
    given = theirs("CAM", module, "3", x, CLASSES, fc_layer="6")
    torch.testing.assert_close(raw("cam", module, x, CLASSES, "3"), given)


# ---------------------------------------------------------------------------------------------------------------------
# Where it is wrong.


def test_cam_of_a_head_without_average_pooling() -> None:
    """The class's weights say nothing of a maximum's places: theirs is given all the same, ours refuses."""
    module, x = pooled_net(), pictures()
    module[4] = nn.AdaptiveMaxPool2d(1)
    A, _ = at(module, 3, x, CLASSES)
    weights = module[6].weight[CLASSES]
    given = theirs("CAM", module, "3", x, CLASSES, fc_layer="6")
    as_if_averaged = torch.einsum("bc,bchw->bhw", weights, A)
    still(torch.allclose(given, as_if_averaged), "cam takes any head for average pooling")
    # What cam promises, that the map's mean is the score but for the bias, does not hold:
    scores = (module(x) - module[6].bias)[range(3), CLASSES]
    assert ((given.mean(dim=(1, 2)) - scores).abs() > 0.05 * scores.abs()).all()
    with pytest.raises(ValueError, match="global average pooling and one linear layer"):
        raw("cam", module, x, CLASSES, "3")


@pytest.mark.parametrize("name", ["grad-cam", "xgrad-cam", "score-cam"])
def test_a_relu_in_place_moves_the_target_layer_behind_it(name: str) -> None:
    """The layer that is named is the convolution, the map that is given is the ReLU's, without a word."""
    module, x = pooled_net(), pictures()
    in_place = copy.deepcopy(module)
    in_place[3].inplace = True
    here, behind = (theirs(SAME[name], module, layer, x, CLASSES) for layer in "23")
    given = theirs(SAME[name], in_place, "2", x, CLASSES)
    torch.testing.assert_close(given, behind)
    still(not torch.allclose(given, here, rtol=0.01), "a ReLU in place overwrites the activations that were kept")
    ours = raw(name, in_place, x, CLASSES, "2").clamp_min(0)
    torch.testing.assert_close(ours, here, atol=1e-6, rtol=1e-6)


def test_the_quotient_of_grad_cam_plus_plus_is_lost() -> None:
    """Their division acts on a copy: the weights are sum g^2 ReLU(g), not sum g^2 / (2 g^2 + g^3 sum A) ReLU(g)."""
    module, x = plain_net(), pictures()
    A, g = at(module, 3, x, CLASSES)
    undivided = (g**2 * g.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    given = theirs("GradCAMpp", module, "3", x, CLASSES)
    still(torch.allclose(given, (undivided * A).sum(dim=1)), "grad-cam++ without its quotient")
    quotient = g**2 / (2 * g**2 + g**3 * A.sum(dim=(2, 3), keepdim=True))
    weights = (quotient.nan_to_num(0) * g.clamp_min(0)).sum(dim=(2, 3), keepdim=True)  # 0/0 where g = 0
    truth = (weights * A).sum(dim=1)
    assert ((given / given.amax() - truth / truth.amax()).abs() > 0.05).any()
    torch.testing.assert_close(raw("grad-cam++", module, x, CLASSES, "3"), truth)


def test_what_speaks_against_a_class_is_lost() -> None:
    module, x = pooled_net(), pictures(1)
    module[-1].weight.data[2] = -module[-1].weight.data[2].abs()
    given = theirs("GradCAM", module, "3", x, [2])
    still(not given.any(), "a map that is negative everywhere is given as zeros, even without normalisation")
    assert raw("grad-cam", module, x, 2, "3").min() < 0


def test_the_overlay_squares_the_map() -> None:
    """Half of the maximum is drawn as a quarter; of an 8-bit map, as what overflow leaves."""
    photo = Image.new("RGB", (4, 4))
    table = [overlay_mask(photo, Image.fromarray(np.full((4, 4), v, np.float32)), "gray", 0.0) for v in (0.5, 0.25)]
    drawn = [picture.getpixel((0, 0))[0] for picture in table]
    still(drawn == [64, 16], "the overlay squares the map: 0.5 and 0.25 are drawn as 0.25 and 0.0625")
    half = Image.fromarray(np.full((4, 4), 128, np.uint8))
    still(overlay_mask(photo, half, "gray", 0.0).getpixel((0, 0)) == (0, 0, 0), "128 of 255 is drawn as 0")
    ours = overlay(photo, np.full((4, 4), 0.5), alpha=1, limits=(0, 1), tint=(200, 200, 200))
    assert ours.getpixel((0, 0)) == (100, 100, 100)
    assert not np.array_equal(colour(np.full((1, 1), 0.5), limits=(0, 1)), colour(np.full((1, 1), 0.25), limits=(0, 1)))
