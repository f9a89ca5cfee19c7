"""Questions about scenes: the same for the same seed, true in the scene, and answered by the thing asked about."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

import faithmap as fm
from faithmap.datasets.worlds.questions import ANSWERS, ASKED, Questions, draw_inquiry
from faithmap.datasets.worlds.scenes import Thing, mask_of, parts_of
from faithmap.datasets.worlds.shapes import COLOURS, MATERIALS, SHAPES
from faithmap.images import Geometry

WORLD = Questions(seed=7, size=60)


def test_a_sample_depends_on_its_seed_and_place_alone() -> None:
    other = fm.datasets.load("worlds.questions", seed=7, size=3)
    for i in (2, 0):
        one, two = other[i], WORLD[i]
        assert (one.id, one.question, one.label) == (two.id, two.question, two.label)
        assert np.array_equal(np.asarray(one.image), np.asarray(two.image))
        assert one.truth is not None
        assert two.truth is not None
        assert np.array_equal(np.asarray(one.truth.donor()), np.asarray(two.truth.donor()))
    assert WORLD.inquiry(5) == draw_inquiry(random.Random("worlds.questions/7/5"))
    assert WORLD.inquiry(5) != Questions(seed=8).inquiry(5)


def matching(thing: Thing, question: str) -> bool:
    """Whether a question is about a thing, read word by word."""
    words = question.removesuffix("?").split()
    return words[-1] == thing.shape or (words[-1] == "thing" and words[-2] == thing.colour)


def test_the_answer_is_true_of_the_one_thing_that_the_question_is_about() -> None:
    for i, one in enumerate(WORLD):
        assert one.question is not None
        (thing,) = (thing for thing in WORLD.scene(i).things if matching(thing, one.question))
        kind = one.question.split()[1]
        assert WORLD.classes[one.label] == getattr(thing, kind)
        assert WORLD.classes[one.label] in {"colour": COLOURS, "material": MATERIALS, "shape": SHAPES}[kind]


def test_nothing_else_in_the_scene_would_do() -> None:
    for i in range(len(WORLD)):
        scene = WORLD.scene(i)
        assert 2 <= len(scene.things) <= 4
        for of in ("shape", "colour"):
            assert len({getattr(thing, of) for thing in scene.things}) == len(scene.things)
        assert not {piece.colour for piece in scene.distractors} & {*COLOURS}
        assert not [*scene.decoys, scene.glyph][1:]
        assert scene.glyph is None


def test_the_truth_is_the_thing_asked_about_and_the_rivals_are_all_others() -> None:
    for i in range(12):
        one, inquiry = WORLD[i], WORLD.inquiry(i)
        assert one.truth is not None
        mask, parts = one.truth.mask(), one.truth.parts()
        assert torch.equal(mask, torch.from_numpy(mask_of(inquiry.scene, inquiry.thing)))
        assert torch.equal(parts[one.truth.part], mask)
        assert parts.keys() == parts_of(inquiry.scene).keys()
        rivals = one.truth.rivals(Geometry.fit(one.image.size, (96, 96)))
        assert len(rivals) == len(inquiry.scene.things) + len(inquiry.scene.distractors) - 1
        assert not bool((rivals & mask).any())
        # The thing has its colour there: the mean of its pixels is nearest to it, among those of the scene's things.
        own = inquiry.scene.things[inquiry.thing]
        pixels = torch.from_numpy(np.array(one.image))[mask].double().mean(dim=0) / 255
        hue = {c.colour: _chroma(torch.tensor(COLOURS[c.colour]).double()) for c in inquiry.scene.things}
        assert min(hue, key=lambda name: float((hue[name] - _chroma(pixels)).norm())) == own.colour


def _chroma(rgb: torch.Tensor) -> torch.Tensor:
    """What is left of a colour without its grey, at length 1."""
    rest = rgb - rgb.mean()
    return rest / rest.norm()


def test_the_donor_is_the_ground_alone() -> None:
    for one in WORLD[:12]:
        assert one.truth is not None
        picture, donor = (np.asarray(image, dtype=float) for image in (one.image, one.truth.donor()))
        apart = np.abs(picture - donor).mean(axis=2)
        stands = torch.stack([*one.truth.parts().values()]).any(dim=0).numpy()
        assert 0 < apart[~stands].mean() < 12
        assert apart[one.truth.mask().numpy()].mean() > 2 * apart[~stands].mean()


def test_all_kinds_are_asked_about_as_often_and_all_answers_come() -> None:
    labels, kinds = Counter[int](), Counter[str]()
    for i in range(1500):
        inquiry = draw_inquiry(random.Random(i))
        labels[ANSWERS.index(inquiry.answer)] += 1
        kinds[inquiry.kind] += 1
    assert len(labels) == len(ANSWERS) == len({*ANSWERS})
    assert min(kinds[kind] for kind in ASKED) > 430
    for names, share in ((COLOURS, 1 / 24), (MATERIALS, 1 / 12), (SHAPES, 1 / 30)):
        for name in names:
            assert labels[ANSWERS.index(name)] / 1500 == pytest.approx(share, abs=0.02)
