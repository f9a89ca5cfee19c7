"""Which parts tables print x 100: what is told as a share lies in [0, 1], or is a difference of two that do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import faithmap as fm
from faithmap.bench.reading import Told
from faithmap.metrics import Case, create
from faithmap.models.base import Model
from faithmap.targets import Logit, Target
from tests import nets
from tests.metrics import test_truth as truths
from tests.metrics.test_faces import case_of, pairs_of_patterns, parts, patterns
from tests.metrics.test_inpainting import game_of, noise, sees_the_nose

DIFFERENCES = {"lerf - morf", "road", "arcc-road", "patch-swap gain", "inpainting-game gain"}
"""Of two shares: from -1 to 1."""
UNBOUNDED_BELOW = {"average-drop-in-deletion"}
"""A share of the score that is lost; where it rises instead, there is no bound to it."""
NO_SHARES = {
    "logit-drop",
    "mprt",
    "class-randomisation",
    "stability-mean",
    "stability-max",
    "shap-error",
    "shap-cosine",
    "shap-sampling-error",
    "verification-deletion similarity",
    "verification-insertion similarity",
    "patch-swap effect",
    "inpainting-game effect",
    "truth-effect",
}
"""Logits, correlations, changes, distances, similarities."""
KINDS = ("method", "noise", "opposite", "constant", "nothing")
CLASSIFIED = [name for name in fm.metrics.available() if create(name).task != "verification"]
VERIFIED = [name for name in fm.metrics.available() if create(name).task == "verification"]


def maps_of(kind: str, maps: Tensor) -> Tensor:
    """A method's maps, or others of their shape: noise, what speaks against, the whole picture, none of it."""
    changed = {
        "method": maps,
        "noise": torch.randn_like(maps),
        "opposite": -maps,
        "constant": torch.ones_like(maps),
        "nothing": -torch.ones_like(maps),
    }
    return changed[kind]


def classified(kind: str, name: str) -> Case:
    """Four pictures of which three have boxes; one cause where a network can be seen to follow it."""
    if name == "known-truth":
        maps = maps_of(kind, torch.rand(2, truths.SIDE, truths.SIDE))
        return truths.case(maps, rivals=[torch.stack([truths.OTHER, truths.THIRD])] * 2)
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    x, target = model.from_pixels(torch.rand(4, 3, 32, 32)), Logit(torch.tensor([0, 1, 2, 3]))

    def explain(x: Tensor, target: Target, model: Model = model) -> Tensor:
        return fm.methods.create("hires-cam")(model, x, target)

    truth = torch.zeros(4, 32, 32, dtype=torch.bool)
    truth[0, :10, 4:20] = truth[1, 3:30, 5:9] = truth[2] = True
    values = torch.randn(4, 8)
    return Case(
        model,
        x,
        maps_of(kind, explain(x, target)),
        target,
        truth=truth,
        first=truth,
        coefficients=values + torch.randn(4, 8),
        shapley=(values, 0.01 * torch.rand(4, 8)),
        explain=explain,
    )


def verified(kind: str, name: str) -> Case:
    """Pairs of faces; twins of such as a network can tell apart."""
    if name == "inpainting-game":
        return game_of(sees_the_nose(), lambda x, target, model=None: maps_of(kind, noise(x, target)), impostors=2)
    face, (x, galleries, genuine) = patterns(), pairs_of_patterns()
    return case_of(face, x, galleries, genuine, maps_of(kind, parts(face, x, face.embed(galleries))))


def check(name: str, case: Case) -> None:
    metric = create(name)
    found = metric.measure(case)
    for part, values in found.values.items():
        known = values[~values.isnan()]
        if part in NO_SHARES:
            assert not metric.is_share(part)
            continue
        low = -float("inf") if part in UNBOUNDED_BELOW else -1 if part in DIFFERENCES else 0
        assert metric.is_share(part), part
        assert bool(((known >= low - 1e-9) & (known <= 1 + 1e-9)).all()), (part, known)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSIFIED)
def test_shares_of_a_classifier_lie_between_0_and_1(name: str, kind: str) -> None:
    check(name, classified(kind, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VERIFIED)
def test_shares_of_pairs_lie_between_0_and_1(name: str, kind: str) -> None:
    check(name, verified(kind, name))


@pytest.mark.parametrize("name", fm.metrics.available())
def test_a_method_has_values_for_every_part(name: str) -> None:
    """Else the bounds above would hold of nothing."""
    metric = create(name)
    found = metric.measure(verified("method", name) if metric.task == "verification" else classified("method", name))
    assert found.values.keys() == metric.parts.keys()
    assert all(bool((~values.isnan()).any()) for values in found.values.values())


def test_parts_are_unique_and_the_lists_above_name_some_of_them() -> None:
    every = [part for name in fm.metrics.available() for part in create(name).parts]
    assert len(set(every)) == len(every)
    assert (DIFFERENCES | UNBOUNDED_BELOW | NO_SHARES).issubset(every)


@pytest.mark.parametrize("name", ["deletion", "insertion", "removal", "road"])
def test_logits_are_no_shares(name: str) -> None:
    probability, logit = create(name), create(name, score="logit")
    assert all(probability.is_share(part) and not logit.is_share(part) for part in probability.parts)


def test_a_metric_that_tells_its_parameters_has_the_same_shares() -> None:
    """Of two deletions, one in logits, whose parts have longer names."""
    assert Told(create("deletion"), "fill=blur").is_share("deletion fill=blur")
    assert not Told(create("deletion", score="logit"), "score=logit").is_share("deletion score=logit")
    pairs = Told(create("verification-deletion"), "fill=blur")
    assert pairs.is_share("verification-deletion genuine fill=blur")
    assert not pairs.is_share("verification-deletion similarity fill=blur")
