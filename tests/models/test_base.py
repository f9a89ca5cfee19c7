"""What belongs to a network is checked when it is wrapped; and which weights it has is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import faithmap as fm
from tests import nets


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mean": 0.5}, r"one number per channel each.*mean=0\.5"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0\.5, 0\.5\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std above 0"),
        ({"std": (1.0, float("nan"), 1.0)}, r"std above 0"),
        ({"mean": "imagenet"}, "mean=imagenet"),
        ({"size": "224"}, r"the input's side in pixels, or \(H, W\): got '224'"),
        ({"size": 0}, "got 0"),
        ({"size": (32, 2.5)}, r"got \(32, 2\.5\)"),
        ({"size": (3, 32, 32)}, r"got \(3, 32, 32\)"),
        ({"target_layer": 4}, "dotted path of a layer, 'features.18': got 4"),
        ({"channel_order": "grb"}, "'rgb' or 'bgr': got 'grb'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fm.Classifier(nets.gap_linear(), **{"size": 32, **settings})


def test_sizes_and_scales_come_in_the_usual_forms() -> None:
    one = fm.Classifier(nets.gap_linear(), size=[32, 40], mean=[0.5] * 3, std=torch.full((3,), 0.5))  # type: ignore[arg-type]
    assert (one.size, one.mean, one.std) == ((32, 40), (0.5,) * 3, (0.5,) * 3)


def test_the_digest_of_weights_follows_every_change_of_them_and_nothing_else() -> None:
    module = nets.gap_linear()
    model = fm.Classifier(module, size=32)
    before = model.weights_digest
    module.train()
    assert model.weights_digest == fm.Classifier(module, size=32, name="other").weights_digest == before
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 1e-3  # type: ignore[index]
    changed = model.weights_digest
    assert changed != before
    module[1].running_mean[0] = 9.0  # type: ignore[index]
    assert model.weights_digest not in (before, changed)
    att = fm.explain(model, torch.zeros(1, 3, 32, 32), "random", 0)
    assert att.provenance["weights"] == model.weights_digest


class TwoInputs(torch.nn.Module):
    """A picture and something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3)) + meta


@pytest.mark.parametrize("method", ["fame", "gradient", "random", "grad-cam"])
def test_a_network_that_takes_more_than_a_picture_is_told_to_be_wrapped(method: str) -> None:
    model = fm.Classifier(TwoInputs(), size=32)
    with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'meta'.*module that has the rest"):
        fm.explain(model, torch.zeros(1, 3, 32, 32), method, 0)
