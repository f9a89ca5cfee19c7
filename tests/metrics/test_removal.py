"""Removal curves against a literal loop over pictures, steps and pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import area, removal_curve
from faithmap.targets import Logit, Probability, Similarity
from tests import nets


def literal(model: fm.Model, x: Tensor, map: Tensor, k: int, insert: bool, fill: Tensor, steps: int) -> list[float]:
    """One picture, pixel by pixel, for a map without ties."""
    W = x.shape[-1]
    order = sorted(range(map.numel()), key=lambda p: -float(map.flatten()[p]))
    curve = []
    for step in range(steps + 1):
        shown = fill.clone() if insert else x.clone()
        for p in order[: -(-step * len(order) // steps)]:
            shown[0, :, p // W, p % W] = (x if insert else fill)[0, :, p // W, p % W]
        curve.append(model.module(shown).softmax(1)[0, k].item())
    return curve


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_curves_are_those_of_the_literal_loop(insert: bool, steps: int) -> None:
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(2, 3, 32, 32).double()
    maps = torch.randn(2, 32, 32)
    mean, std = torch.tensor(model.mean).view(1, 3, 1, 1), torch.tensor(model.std).view(1, 3, 1, 1)
    fill = (-mean.double() / std.double()).expand(1, 3, 32, 32)
    found = removal_curve(model, x, maps, Probability([3, 1]), insert=insert, fill="black", steps=steps, batch_size=3)
    expected = [literal(model, x[i : i + 1], maps[i], k, insert, fill, steps) for i, k in enumerate((3, 1))]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_curve_begins_and_ends_at_the_picture_and_at_the_fill() -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32)
    whole = Logit(2)(model.module(x)).detach()
    for fill in ("blur", "black", "mean"):
        out = removal_curve(model, x, maps, Logit(2), fill=fill, steps=16)  # type: ignore[arg-type]
        back = removal_curve(model, x, maps, Logit(2), fill=fill, steps=16, insert=True)  # type: ignore[arg-type]
        torch.testing.assert_close(out[:, 0], whole)
        torch.testing.assert_close(back[:, -1], whole)
        torch.testing.assert_close(out[:, -1], back[:, 0])
        # What is removed in one order is what is left when the opposite order is inserted.
        torch.testing.assert_close(
            removal_curve(model, x, -maps, Logit(2), fill=fill, steps=16, insert=True).flip(1),  # type: ignore[arg-type]
            out,
        )


def test_the_truth_of_a_linear_model_has_the_largest_insertion_area() -> None:
    """With f = sum w x, ordered by w (x - fill), the curve lies above that of every other order."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    model, x = fm.Classifier(net, size=8, target_layer="0"), torch.randn(4, 3, 8, 8)
    black = (-torch.tensor(model.mean) / torch.tensor(model.std)).view(1, 3, 1, 1)
    truth = (net[1].weight[0].view(3, 8, 8) * (x - black)).sum(1).detach()  # type: ignore[operator]

    def inserted(maps: Tensor) -> Tensor:
        return removal_curve(model, x, maps, Logit(0), fill="black", insert=True, steps=64)

    best = inserted(truth)
    for seed in range(5):
        other = inserted(torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(seed)))
        assert bool((best >= other - 1e-4).all())
        assert bool((area(best) > area(other)).all())


def test_ties_are_broken_at_random_by_the_seed_and_never_in_raster_order() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1, bias=False))
    net[1].weight.data = (torch.arange(64) < 32).float().repeat(3)[None]  # the upper half counts
    model, x = fm.Classifier(net, size=8, target_layer="0"), torch.ones(1, 3, 8, 8)
    halves = [removal_curve(model, x, torch.zeros(1, 8, 8), Logit(0), fill="black", seed=s)[0, 10] for s in range(20)]
    whole = Logit(0)(net(x)).item()
    black = Logit(0)(net(-(torch.tensor(model.mean) / torch.tensor(model.std)).view(1, 3, 1, 1).expand_as(x))).item()
    shares = [(float(h) - black) / (whole - black) for h in halves]
    assert abs(sum(shares) / 20 - 0.5) < 0.05
    assert len(set(shares)) > 1
    again = removal_curve(model, x, torch.zeros(1, 8, 8), Logit(0), fill="black", seed=0)[0, 10]
    assert float(again) == float(halves[0])


def test_faces_are_followed_by_their_similarity() -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    x, r = torch.randn(2, 3, 32, 32), torch.randn(2, 6)
    curve = removal_curve(face, x, torch.rand(2, 32, 32), Similarity(r), steps=3)
    torch.testing.assert_close(curve[:, 0], Similarity(r)(face.module(x)).detach())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"maps": torch.zeros(1, 32, 32)}, r"maps are \(B, H, W\).*\(1, 32, 32\)"),
        ({"maps": torch.full((2, 32, 32), torch.nan)}, "without NaN"),
        ({"target": None}, "name it"),
        ({"steps": 0}, "at least one step: got 0"),
        ({"fill": "grey"}, "'black', 'mean' or 'blur': got 'grey'"),
        ({"target": [1, 2, 3]}, "3 entries for a batch of 2"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], says: str) -> None:
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    given = {"x": torch.zeros(2, 3, 32, 32), "maps": torch.zeros(2, 32, 32), "target": 0, **changes}
    with pytest.raises(ValueError, match=says):
        removal_curve(model, **given)
