"""Which method to trust: what the verdict says of scores, and of networks, whose truth is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import faithmap as fm
from faithmap.datasets import Pair
from faithmap.metrics import area, removal_curve
from faithmap.recommendation import Recommendation, judged, recommend
from faithmap.running import able
from faithmap.targets import Logit, Probability, Similarity
from tests import nets
from tests.bench import tiny

CONTROLS = ("random", "centre-gaussian")


def noise(n: int, seed: int) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def costs(values: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """The later the dearer."""
    return {label: (float(i), 0.0) for i, label in enumerate(values)}


def test_none_is_chosen_where_a_control_is_as_good_as_all() -> None:
    base = noise(40, 0)
    values = {"a": base + noise(40, 1), "b": base - 1, "random": base - 2, "centre-gaussian": base + 0.2}
    found = judged(values, CONTROLS, costs(values))
    assert (found.chosen, found.best, found.control) == (None, None, "centre-gaussian")
    assert all(one.behind is None and not one.tied for one in found.standings)


def test_the_cheapest_of_those_that_tie_is_chosen() -> None:
    base = noise(40, 0)
    values = {
        "cheap": base + 1 + 0.01 * noise(40, 1),
        "dear": base + 1 + 0.01 * noise(40, 2),
        "worse": base + 0.5,
        "random": base,
        "centre-gaussian": base - 1,
    }
    found = judged(values, CONTROLS, costs(values))
    assert found.chosen == "cheap"
    assert {one.label for one in found.standings if one.tied} == {"cheap", "dear"}
    worse = next(one for one in found.standings if one.label == "worse")
    assert worse.ahead.low > 0  # it beats the controls
    assert worse.behind is not None
    assert worse.behind.low > 0  # and is behind the best


def test_standings_are_ordered_and_hold_paired_differences() -> None:
    base = 100 * noise(30, 3)
    values = {"a": base + 1, "random": base, "centre-gaussian": base - 1}
    found = judged(values, CONTROLS, costs(values))
    assert [one.label for one in found.standings] == ["a", "random", "centre-gaussian"]
    assert [one.ahead.mean for one in found.standings] == pytest.approx([1, 0, -1])
    assert found.chosen == "a"  # pairing: the samples' own spread is a hundred times larger


def test_samples_without_a_value_are_left_out_and_a_method_without_any_does_not_stand() -> None:
    base = noise(20, 0)
    holes = base + 1
    holes[::3] = torch.nan
    values = {"a": holes, "failed": torch.full((20,), torch.nan, dtype=torch.float64), "random": base}
    found = judged(values, CONTROLS, costs(values))
    assert found.chosen == "a"
    assert "failed" not in [one.label for one in found.standings]
    assert next(one for one in found.standings if one.label == "a").score.samples == 13


def test_luck_is_seldom_taken_for_merit() -> None:
    """Twenty methods that are no better than the control: at most about one run in twenty names one."""
    wrong = 0
    for run in range(40):
        values = {f"m{i}": noise(30, 1000 * run + i) for i in range(20)} | {"random": noise(30, 1000 * run + 99)}
        wrong += judged(values, CONTROLS, costs(values)).chosen is not None
    assert wrong <= 6  # 5 % of 40 are 2; a single interval of 95 % each would name one in a third of the runs


def test_pairs_that_share_people_have_wider_intervals() -> None:
    per_person = noise(6, 0)
    subjects = [(f"p{i % 6}", f"p{i % 6}") for i in range(60)]
    base = per_person.repeat(10)
    values = {"a": base, "random": torch.zeros(60, dtype=torch.float64)}
    found = [judged(values, CONTROLS, costs(values), subjects=s).standings for s in (None, subjects)]
    free, tied = (next(one.score for one in standings if one.label == "a") for standings in found)
    assert tied.high - tied.low > 2 * (free.high - free.low)


def test_what_rounding_makes_decides_nothing() -> None:
    """Neither that a method is better than a control, nor that of two alike the dearer is better."""
    base = noise(30, 0)
    values = {"cheap": base, "dear": base + 1e-9, "random": base - 1, "centre-gaussian": base - 1e-9}
    found = judged(values, CONTROLS, costs(values))
    assert (found.chosen, found.control) == (None, "centre-gaussian")
    del values["centre-gaussian"]
    found = judged(values, CONTROLS, costs(values))
    assert (found.chosen, found.best) == ("cheap", "dear")


@pytest.mark.parametrize("methods", [1, 2, 3, 4, 20])
def test_it_takes_so_many_samples_that_all_of_one_sign_is_no_luck(methods: int) -> None:
    """Of n differences that are as often below 0 as above, all are of one sign in 2 of 2^n draws."""
    fewest = next(n for n in range(1, 20) if 2 / 2**n <= 0.05 / methods)
    for n in (fewest - 1, fewest):
        base = noise(n, 0)
        values = {f"m{i}": base + 1 for i in range(methods)} | {"random": base}
        found = judged(values, CONTROLS, costs(values))
        assert found.fewest == fewest
        assert (found.chosen is not None) == (n == fewest)


# ---------------------------------------------------------------------------------------------------------------------
# Networks whose truth is known


class Contrast(nn.Module):
    """Class 0 by how far from grey the pixels are, each with its weight; class 1 is a constant."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 2, 1, bias=False), nn.ReLU()
        self.register_buffer("weights", weights / weights.sum())
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1 / 3, -1 / 3])[:, None, None, None].expand(2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        far = self.relu(self.conv(x)).sum(dim=1)  # (B, H, W)
        z = 12 * (far * self.weights).sum(dim=(1, 2))
        return torch.stack([z, torch.ones_like(z)], dim=1)


class CornerFaces(nn.Module):
    """The pixels of one corner, less grey, are the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.last.weight, 1 / 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)[:, 0, :10, :10].flatten(1)


GREY: dict[str, Any] = {"size": 32, "mean": (0.5,) * 3, "std": (1.0,) * 3}
"""Inputs that are 0 where the picture is grey."""


def contrast(weights: Tensor) -> fm.Classifier:
    return fm.Classifier(Contrast(weights).eval(), target_layer="relu", **GREY)


def corner() -> fm.Classifier:
    weights = torch.zeros(32, 32)
    weights[:10, :10] = 1
    return contrast(weights)


def middle() -> fm.Classifier:
    """Weights that are the map of the control."""
    return contrast(fm.methods.create("centre-gaussian")(corner(), torch.zeros(1, 3, 32, 32), 0)[0])


def boards(n: int) -> list[Any]:
    """Chessboards, each equally far from grey everywhere; blurred they are grey."""
    white = (np.indices((32, 32)).sum(axis=0) % 2)[..., None].repeat(3, axis=2)
    return [np.where(white, 188 + 4 * i, 67 - 4 * i).astype(np.uint8) for i in range(n)]


def faces(n: int) -> tiny.Pictures:
    """Noise; on the second and third of every three pairs both faces have one corner, and are one person's."""
    made = []
    for i in range(n):
        probe, gallery = np.random.default_rng(i).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        genuine = i % 3 > 0
        gallery[:10, :10] = probe[:10, :10] if genuine else gallery[:10, :10]
        made.append(Pair(f"q{i}", probe, gallery, genuine, (f"s{i % 6}", f"s{i % 6}" if genuine else "x")))
    return tiny.Pictures(given=made, task="verification")


def embedder() -> fm.FaceEmbedder:
    return fm.FaceEmbedder(CornerFaces().eval(), target_layer="last", **GREY)


FINDING = ["hires-cam", "gradient", "occlusion", "grad-cam"]
"""The first two order pixels as the networks here weigh them, the third does nearly, the last knows channels alone."""


def test_of_a_network_that_looks_at_one_corner_a_method_that_finds_it_is_chosen() -> None:
    """The cheapest of two that put the pixels in the same order; what looks elsewhere is behind."""
    found = recommend(corner(), boards(12), FINDING)
    ranked = {one.label: one for one in found.verdict.standings}
    assert found.method == fm.methods.create("hires-cam")
    assert {label for label, one in ranked.items() if one.tied} == {"hires-cam", "gradient"}
    assert {label for label, one in ranked.items() if one.better} == {"hires-cam", "gradient", "occlusion"}
    assert found.verdict.control != "centre-gaussian"
    assert ranked["centre-gaussian"].ahead.high < 0
    assert (ranked["hires-cam"].evaluations, ranked["gradient"].evaluations) == (1, 2)
    said = str(found)
    assert said.startswith("Take hires-cam for Contrast: on 12 samples it is ")
    assert (
        "It is the cheapest, at 1 network evaluation per sample, of those that tie with the best: gradient (2)" in said
    )
    assert f"Not shown to be better than {found.verdict.control}: grad-cam." in said


def test_where_a_network_looks_at_the_middle_no_method_is_better_than_a_gaussian() -> None:
    """It is the best map there is: two methods put the pixels in its order, the others in worse ones."""
    found = recommend(middle(), boards(12), FINDING)
    ranked = {one.label: one for one in found.verdict.standings}
    assert (found.method, found.verdict.best, found.verdict.control) == (None, None, "centre-gaussian")
    assert ranked["hires-cam"].ahead.mean == pytest.approx(0, abs=1e-6)
    assert ranked["occlusion"].ahead.high < 0
    assert ranked["hires-cam"].score.mean > 10 * abs(ranked["random"].score.mean)  # the network does tell maps apart
    said = str(found)
    assert said.startswith("None of 4 methods is better than the control centre-gaussian for Contrast on these 12")
    assert "a Gaussian in the middle of the picture explains them as well" in said
    (nearest,) = (line for line in said.splitlines() if line.startswith("Nearest is "))
    best = next(one for one in found.verdict.standings if not one.control)
    assert nearest.startswith(f"Nearest is {best.label}, ")
    assert nearest.endswith(" centre-gaussian.")


def test_the_criterion_is_insertion_less_deletion_of_the_predicted_class() -> None:
    """Picture by picture, with blur for what is absent."""
    model, pictures = corner(), boards(3)
    found = recommend(model, pictures, ["occlusion"], batch_size=2)
    values = []
    for picture in pictures:
        x = model.prepare(picture)
        target = Probability(model.module(x).argmax(dim=1))
        map = fm.methods.create("occlusion")(model, x, target)
        gain = [area(removal_curve(model, x, map, target, insert=insert, steps=10)) for insert in (True, False)]
        values.append(float(gain[0] - gain[1]))
    (standing,) = (one for one in found.verdict.standings if one.label == "occlusion")
    assert standing.score.mean == pytest.approx(sum(values) / 3, abs=1e-3)  # ties are broken by other seeds
    assert found.samples == standing.score.samples == 3


@pytest.mark.parametrize(("limit", "chosen"), [(7, None), (8, "hires-cam")])
def test_fewer_samples_than_the_claim_needs_choose_none(limit: int, chosen: str | None) -> None:
    """Of 4 methods at 95 % the differences of 1 + log2(4 / .05) = 7.3 samples have one sign by chance too often."""
    found = recommend(corner(), boards(12), FINDING, limit=limit)
    assert (found.verdict.chosen, found.verdict.fewest, found.samples) == (chosen, 8, limit)
    standing = next(one for one in found.verdict.standings if one.label == "hires-cam")
    assert standing.ahead.low > 0.1
    assert standing.better == (chosen is not None)
    few = f"7 samples are too few to show that one of 4 methods is better than the control {found.verdict.control} "
    assert str(found).startswith(few) == (chosen is None)


def test_of_pairs_the_genuine_ones_are_judged_and_a_method_that_finds_the_corner_is_chosen() -> None:
    found = recommend(embedder(), faces(18), ["occlusion", "grad-cam"])
    assert (found.verdict.chosen, found.samples) == ("occlusion", 12)
    ranked = {one.label: one for one in found.verdict.standings}
    assert ranked["centre-gaussian"].ahead.high < 0
    assert ranked["grad-cam"].ahead.low <= 0
    assert "the similarity to the gallery" in str(found)
    assert "probability" not in str(found)


def test_people_are_drawn_not_pairs() -> None:
    """Of pairs of one person each, or of three people in all."""
    free, few = faces(18), faces(18)
    pairs = [Pair(one.id, one.probe, one.gallery, one.genuine, (f"p{i % 3}",) * 2) for i, one in enumerate(few)]
    few = tiny.Pictures(given=pairs, task="verification")
    pairs = [Pair(one.id, one.probe, one.gallery, one.genuine, (f"p{i}",) * 2) for i, one in enumerate(free)]
    free = tiny.Pictures(given=pairs, task="verification")
    found = [recommend(embedder(), data, ["gradient"]).verdict.standings for data in (few, free)]
    scores = [next(one.score for one in standings if one.label == "gradient") for standings in found]
    assert scores[0].mean == scores[1].mean
    assert scores[0][1:3] != scores[1][1:3]


@pytest.mark.parametrize("faces_too", [False, True])
def test_without_names_every_method_within_the_budget_is_tried(faces_too: bool) -> None:
    """Those that are dearer, and those alone, are left out, with their steps."""
    model, data = (embedder(), faces(4)) if faces_too else (corner(), boards(2))
    found = recommend(model, data, budget=1, limit=1, batch_size=1)
    tried = {one.label for one in found.verdict.standings if not one.control}
    steps = {name: fm.methods.create(name).steps for name in fm.methods.available()}
    assert {"grad-cam", "hires-cam", "gradient", "lift-cam"} <= tried
    assert all(steps[name] == 1 for name in tried)
    every = [fm.methods.create(name) for name in fm.methods.available()]
    target = Similarity(torch.ones(1)) if faces_too else Logit(0)
    fitting = {method.name for method in able(model, every, target) if not method.control}
    assert tried | found.left_out.keys() == fitting
    assert not tried & found.left_out.keys()
    dear = {name for name, why in found.left_out.items() if "more than the budget of 1" in why}
    assert {"fame", "rise", "smooth-grad"} <= dear
    assert all(f"{steps[name]} steps per sample" in found.left_out[name] for name in dear)
    assert all(fm.methods.get(name).faces <= faces_too for name in tried)
    assert str(found).splitlines()[-1].startswith("Not tried: ")


def test_a_method_that_refuses_is_left_out_with_its_reason() -> None:
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    found = recommend(model, boards(3), ["cam", "grad-cam"])
    assert "cam needs a head" in found.left_out["cam"]
    assert "cam" not in [one.label for one in found.verdict.standings]
    assert str(found).splitlines()[-1] == "Not tried: cam."
    alone = recommend(model, boards(3), ["cam"])
    assert alone.method is None
    assert str(alone).startswith("No method can explain VGGLike on these 3 samples: cam: cam needs a head")


def test_what_is_behind_is_told_with_its_interval_turned_round() -> None:
    """A method 2 below the control: 2 behind, between 1 and 3."""
    base = 5 * noise(40, 0)
    values = {"a": base - 0.02 + 0.005 * noise(40, 1), "random": base}
    verdict = judged(values, CONTROLS, costs(values))
    said = str(Recommendation(None, verdict, "net", 40, "a score"))
    (words,) = (line for line in said.splitlines() if line.startswith("Nearest is a, "))
    mean, low, high = map(float, re.findall(r"-?[0-9.]+[0-9]", words))
    assert words.endswith("] behind random.")
    assert 1 < low < mean < high < 3


@pytest.mark.parametrize("net", [corner, middle])
def test_the_figure_shows_methods_and_controls(net: Any) -> None:
    """A row for each, whatever the verdict says."""
    found = recommend(net(), boards(8), ["hires-cam", "grad-cam"])
    few, many = found.figure(), recommend(net(), boards(8), FINDING).figure()
    assert many.height > few.height
    assert len(set(few.convert("L").tobytes())) > 10


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([], {}, ValueError, "a data set is one of"),
        ("no-such-folder", {}, FileNotFoundError, "there is no folder no-such-folder"),
        (boards(1), {"budget": 0}, ValueError, "budget and limit are at least 1: got 0 and 24"),
        (boards(1), {"limit": 0}, ValueError, "budget and limit are at least 1: got 100 and 0"),
        (boards(1), {"batch_size": 0}, ValueError, "batch_size is a whole number"),
        (boards(1), {"methods": ["grad-cm"]}, ValueError, "did you mean grad-cam"),
        (boards(1), {"methods": []}, ValueError, "there is no method to try"),
        (boards(1), {"methods": "grad-cam"}, ValueError, "methods is a list"),
        (faces(3), {}, ValueError, "Contrast is a Classifier, and tiny is for verification"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    given: Any, options: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = corner()
    monkeypatch.setattr(fm.Classifier, "network", lambda *_: pytest.fail("it has begun to work"))
    with pytest.raises(error, match=words):
        recommend(model, given, **{"methods": ["grad-cam"]} | options)


def test_a_face_recogniser_is_judged_on_genuine_pairs(tmp_path: Path) -> None:
    """Not on a folder of pictures, nor on impostors alone."""
    Image.fromarray(boards(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="CornerFaces is a FaceEmbedder, and folder is for classification"):
        recommend(embedder(), tmp_path)
    impostors = faces(9).only(lambda pair: not pair.genuine)
    with pytest.raises(ValueError, match="tiny holds 3 examples, and none of those that are asked for"):
        recommend(embedder(), impostors)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no pictures in"):
        recommend(corner(), tmp_path)


def test_a_bare_module_is_shown_how_to_be_wrapped() -> None:
    with pytest.raises(ValueError, match="Classifier"):
        recommend(corner().module, boards(1))  # type: ignore[arg-type]


def test_a_folder_is_the_list_of_its_pictures(tmp_path: Path) -> None:
    for i, board in enumerate(boards(3)):
        Image.fromarray(board).save(tmp_path / f"{i}.png")
    listed: Sequence[Any] = [tmp_path / f"{i}.png" for i in range(3)]
    found = [recommend(corner(), given, ["gradient"]).verdict for given in (tmp_path, str(tmp_path), listed)]
    scores = [[(one.label, one.score, one.ahead) for one in verdict.standings] for verdict in found]
    assert scores[0] == scores[1] == scores[2]


def test_progress_ends_at_all() -> None:
    calls: list[tuple[int, int]] = []
    recommend(corner(), boards(2), ["gradient"], progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] > 0
