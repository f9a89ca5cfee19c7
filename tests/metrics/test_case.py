"""What metrics share: maps scaled to [0, 1], pixels that are masked, scores that are asked once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import faithmap as fm
from faithmap.metrics import Case, unit_scaled
from faithmap.targets import Each, Logit, LogitMargin, Probability, Similarity
from tests import nets


def case_of(maps: Tensor, target: Any = None, **changes: Any) -> Case:
    """A small network of 5 classes, asked for class 1 of random pictures."""
    model = fm.Classifier(nets.VGGLike().double().eval(), size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    x = model.from_pixels(torch.rand(len(maps), 3, 32, 32, dtype=torch.float64))
    return Case(model, x, maps, target or Logit(1), **changes)


def literally(model: fm.Model, x: Tensor, mask: Tensor, k: int) -> float:
    """One picture: back to pixels in [0, 1], times the mask, normalised again, the class's probability."""
    shown = torch.empty_like(x)
    for c in range(3):
        for row in range(x.shape[1]):
            for col in range(x.shape[2]):
                pixel = x[c, row, col] * model.std[c] + model.mean[c]
                shown[c, row, col] = (pixel * mask[row, col] - model.mean[c]) / model.std[c]
    z = model.module(shown[None])[0].detach()
    return float(z[k].exp() / z.exp().sum())


def test_kept_and_removed_are_pixels_times_the_mask_in_the_networks_normalisation() -> None:
    maps, classes = torch.randn(3, 32, 32).double(), [1, 4, 0]
    case = case_of(maps, Logit(classes), batch_size=2)
    for i, k in enumerate(classes):
        M = unit_scaled(maps[i : i + 1])[0]
        ones = torch.ones_like(M)
        for found, mask in ((case.clean, ones), (case.kept, M), (case.removed, 1 - M)):
            assert float(found[i]) == pytest.approx(literally(case.model, case.x[i], mask, k), abs=1e-12)


def test_a_blacked_out_picture_is_black_whatever_the_normalisation() -> None:
    case = case_of(torch.zeros(2, 32, 32))
    black = case.masked(torch.arange(2), case.shown)
    torch.testing.assert_close(case.model.to_pixels(black), torch.zeros_like(black), atol=1e-15, rtol=0)


def test_what_a_map_of_ones_shows_is_the_picture_to_the_bit() -> None:
    case = case_of(torch.ones(3, 32, 32))
    assert torch.equal(case.masked(torch.tensor([2, 0]), case.shown), case.x[[2, 0]])
    assert torch.equal(case.kept, case.clean)


def test_each_score_is_asked_once_and_counted() -> None:
    case = case_of(torch.rand(5, 32, 32), batch_size=2)
    assert case.forwards == 0
    for name, counted in (("clean", 5), ("kept", 10), ("removed", 15), ("clean", 15), ("kept", 15), ("removed", 15)):
        getattr(case, name)
        assert case.forwards == counted


def test_a_chunk_that_did_not_fit_memory_is_counted_once() -> None:
    case = case_of(torch.rand(4, 32, 32), batch_size=4)
    network, calls = case.model.network, []

    def small(x: Tensor) -> Any:
        calls.append(len(x))
        if len(x) > 2:
            raise RuntimeError("out of memory")
        return network(x)

    case.model.network = small  # type: ignore[method-assign]
    assert len(case.clean) == 4
    assert (calls, case.forwards) == ([4, 2, 2], 4)


def test_scores_in_a_batch_are_those_of_single_samples() -> None:
    maps = torch.rand(4, 32, 32)
    case = case_of(maps, Logit([0, 1, 2, 3]))
    for i in range(4):
        one = Case(case.model, case.x[i : i + 1], maps[i : i + 1], Logit(i))
        for name in ("clean", "kept", "removed"):
            torch.testing.assert_close(getattr(one, name), getattr(case, name)[i : i + 1], rtol=0, atol=1e-12)


def test_scores_follow_the_class_whatever_names_it() -> None:
    """Many entries, one for all, one target each (what methods return for several batches): always the probability."""
    maps = torch.rand(2, 32, 32)
    case = case_of(maps, Logit([3, 2]))
    others: list[Any] = [Probability([3, 2]), Each([Logit(3), Logit(2)]), Each([Logit(3), Probability(2)])]
    for target in (*others, LogitMargin([3, 2], 0)):
        torch.testing.assert_close(Case(case.model, case.x, maps, target).clean, case.clean)
    outputs = case.model.module(case.x).detach()
    torch.testing.assert_close(case.score("logit")(outputs), outputs[torch.arange(2), torch.tensor([3, 2])])
    one = Case(case.model, case.x, maps, Logit(3)).score("probability")
    torch.testing.assert_close(one(outputs), outputs.softmax(dim=1)[:, 3])


def test_pairs_are_followed_by_their_similarity() -> None:
    face, r = fm.FaceEmbedder(nets.Faces().eval(), size=32), torch.randn(2, 6)
    case = Case(face, torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32), Similarity(r))
    torch.testing.assert_close(case.clean, Similarity(r)(face.module(case.x)).detach().double())


def test_the_module_and_the_callers_modes_do_not_matter() -> None:
    case = case_of(torch.rand(2, 32, 32))
    again = copy.copy(case)
    case.model.module.train()
    with torch.inference_mode():
        kept = case.kept
    assert case.model.module.training
    case.model.module.eval()
    assert torch.equal(kept, again.kept)
    assert not kept.requires_grad


def test_maps_are_cut_at_zero_and_scaled_from_minimum_to_maximum() -> None:
    maps = torch.randn(4, 6, 7)
    for one, found in zip(maps, unit_scaled(maps), strict=True):
        positive = [[max(float(v), 0.0) for v in row] for row in one]
        low, high = min(map(min, positive)), max(map(max, positive))
        expected = torch.tensor([[(v - low) / (high - low) for v in row] for row in positive])
        torch.testing.assert_close(found, expected)
        assert float(found.max()) == 1
    torch.testing.assert_close(unit_scaled(7 * maps), unit_scaled(maps))


@pytest.mark.parametrize(("value", "becomes"), [(3.0, 1.0), (1e-30, 1.0), (0.0, 0.0), (-2.0, 0.0)])
def test_a_constant_map_shows_everything_or_nothing(value: float, becomes: float) -> None:
    assert unit_scaled(torch.full((1, 4, 4), value)).unique().tolist() == [becomes]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_is_nan_everywhere_and_leaves_others_alone(value: float) -> None:
    maps = torch.rand(2, 4, 4)
    fine = unit_scaled(maps)[1]
    maps[0, 1, 2] = value
    assert bool(unit_scaled(maps)[0].isnan().all())
    assert torch.equal(unit_scaled(maps)[1], fine)
