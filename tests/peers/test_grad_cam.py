"""pytorch-grad-cam 1.5.7: the same maps where it is right, and which results are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import faithmap as fm


def plain_net() -> nn.Module:
    """No in-place layers, which overwrite what their hooks keep; a target layer "3" of the input's resolution."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8 * 64, 12), nn.ReLU(), nn.Linear(12, 5),
    ).eval()  # fmt: skip


def theirs(kind: str, module: nn.Module, layer: str, x: Tensor, classes: list[int], **settings: object) -> np.ndarray:
    """Their maps: cut at 0, scaled to [0, 1] each."""
    with getattr(peer, kind)(model=module, target_layers=[module.get_submodule(layer)], **settings) as cam:
        return cam(input_tensor=x, targets=[ClassifierOutputTarget(k) for k in classes])


def ours(name: str, module: nn.Module, layer: str, x: Tensor, classes: list[int]) -> np.ndarray:
    """Our maps as they display them."""
    model = fm.Classifier(module, size=32, target_layer=layer)
    return fm.explain(model, x, name, classes).normalized().numpy()


@pytest.mark.parametrize(("name", "kind"), [("grad-cam", "GradCAM")])
def test_maps_agree(name: str, kind: str) -> None:
    """At a layer of the input's resolution: elsewhere theirs are cut at 0 before they are upsampled, ours after."""
    module, x, classes = plain_net(), torch.randn(3, 3, 32, 32), [3, 0, 1]
    given = theirs(kind, module, "3", x, classes)
    np.testing.assert_allclose(ours(name, module, "3", x, classes), given, atol=1e-4)
