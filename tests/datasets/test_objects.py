"""The world of objects: what a sample says of its picture is what the picture shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import faithmap as fm
from faithmap.datasets.worlds.objects import Objects
from faithmap.datasets.worlds.scenes import Scene, render
from faithmap.datasets.worlds.shapes import GLYPHS, SHAPES

VARIANTS = ("single", "pair", "tagged")


def pixels(picture: Image.Image) -> NDArray[np.int16]:
    return np.asarray(picture).astype(np.int16)


def seen(sample: Any) -> tuple[Any, ...]:
    """All that a sample tells, as bytes."""
    parts = {name: mask.numpy().tobytes() for name, mask in sample.truth.parts().items()}
    mask, donor = sample.truth.mask().numpy().tobytes(), sample.truth.donor().tobytes()
    return sample.id, sample.label, sample.image.tobytes(), mask, donor, parts, sample.truth.part


def without_the_cause(scene: Scene, part: str) -> Scene:
    if part == "glyph":
        return replace(scene, glyph=None)
    return replace(scene, things=tuple(thing for thing in scene.things if thing.shape != part))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_is_a_function_of_seed_and_place(variant: Any) -> None:
    """The same bits alone, in any order and in a world of any size; other bits at another place or seed."""
    small, large = Objects(seed=3, size=4, variant=variant), Objects(seed=3, size=9, variant=variant)
    forwards = [seen(one) for one in small]
    assert [seen(large[i]) for i in (3, 1, 0, 2)] == [forwards[i] for i in (3, 1, 0, 2)]
    assert seen(Objects(seed=3, size=1, variant=variant).sample(2)) == forwards[2] == seen(small[2])
    assert large.scene(2) == small.scene(2)
    assert len({one[2] for one in forwards}) == 4
    assert small[0].image.tobytes() != Objects(seed=4, size=1, variant=variant)[0].image.tobytes()


def test_pictures_are_the_same_on_every_machine() -> None:
    """What is drawn does not change unnoticed: trained networks and stored results know these pictures."""
    means = [pixels(Objects(size=2, variant=variant)[1].image).mean(axis=(0, 1)) for variant in VARIANTS]
    known = [[201.77, 133.57, 171.29], [184.18, 160.73, 180.39], [115.61, 78.22, 106.09]]
    np.testing.assert_allclose(means, known, atol=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_truth_is_where_the_picture_is_another_one_without_the_cause(variant: Any) -> None:
    """No pixel outside; of those inside only a few of the rim, which the cause touches and hardly colours."""
    data = Objects(seed=5, size=30, variant=variant)
    for i, one in enumerate(data):
        bare = render(without_the_cause(data.scene(i), one.truth.part))
        moved = torch.from_numpy((pixels(one.image) != bare).any(axis=2))
        mask = one.truth.mask()
        assert not (moved & ~mask).any(), one.id
        assert int((mask & ~moved).sum()) <= 0.03 * int(mask.sum()) + 1, one.id
        assert 40 <= int(mask.sum()) <= 96 * 96 / 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_say_what_is_there_and_every_class_comes_up(variant: Any) -> None:
    """About as often as any other."""
    data = Objects(seed=6, size=400, variant=variant)
    assert tuple(data.classes) == (GLYPHS if variant == "tagged" else tuple(SHAPES))
    for i, one in enumerate(data):
        scene, cause = data.scene(i), data.classes[one.label]
        shapes = [thing.shape for thing in scene.things]
        if variant == "tagged":
            assert scene.glyph is not None
            assert (scene.glyph.mark, one.truth.part, len(shapes), len(scene.decoys)) == (cause, "glyph", 1, 2)
        else:
            assert scene.glyph is None
            assert not scene.decoys
            assert one.truth.part == cause in shapes
            assert len({*shapes}) == len(shapes) == (2 if variant == "pair" else 1)
    counts = np.bincount([one.label for one in data], minlength=10)
    assert counts.min() >= 20
    assert counts.max() <= 65


def test_of_a_pair_either_thing_is_the_cause() -> None:
    """Neither the first nor the larger one always."""
    data = Objects(size=200, variant="pair")
    first = [data.scene(i).things[0].shape == one.truth.part for i, one in enumerate(data)]
    assert 70 < sum(first) < 130
    larger = [max(data.scene(i).things, key=lambda t: t.radius).shape == one.truth.part for i, one in enumerate(data)]
    assert 70 < sum(larger) < 130


def test_the_shape_says_nothing_of_the_glyph() -> None:
    """Guessing the glyph from the shape, with the best guess for each, is little better than chance."""
    data = Objects(size=1000, variant="tagged")
    table = np.zeros((10, 10))
    for i, one in enumerate(data):
        table[list(SHAPES).index(data.scene(i).things[0].shape), one.label] += 1
    assert table.max(axis=1).sum() / table.sum() < 0.22


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_are_all_that_stands_there_and_apart(variant: Any) -> None:
    """The cause among them under its name; they cover all that is not background."""
    data = Objects(seed=7, size=20, variant=variant)
    for i, one in enumerate(data):
        scene, parts = data.scene(i), one.truth.parts()
        assert torch.equal(parts[one.truth.part], one.truth.mask())
        stacked = torch.stack(list(parts.values()))
        assert len(stacked) == len(list(scene.pieces))
        assert stacked.flatten(1).any(dim=1).all()
        assert int(stacked.sum(dim=0).max()) == 1
        bare = render(replace(scene, things=(), distractors=(), decoys=(), glyph=None))
        assert not ((pixels(one.image) != bare).any(axis=2) & ~stacked.any(dim=0).numpy()).any()
        assert {"single": 1, "pair": 2, "tagged": 1}[variant] == sum(name in SHAPES for name in parts)
        if variant == "tagged":
            assert {"glyph", "decoy", "decoy 2"} <= {*parts}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_donor_is_the_background_alone_and_leaves_no_outline(variant: Any) -> None:
    """It is close to the picture wherever nothing stands, and yet another picture there."""
    for one in Objects(seed=8, size=20, variant=variant):
        donor, picture = pixels(one.truth.donor()), pixels(one.image)
        free = ~torch.stack(list(one.truth.parts().values())).any(dim=0).numpy()
        apart = np.abs(donor - picture)
        assert apart[free].mean() < 4
        assert apart[free].max() < 20
        assert (apart[free] > 0).mean() > 0.3
        assert apart[one.truth.mask().numpy()].mean() > 12


def test_the_truth_reaches_a_networks_input() -> None:
    """Mask, donor and rivals at another size."""
    one = Objects(size=1, variant="pair")[0]
    model = fm.Classifier(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU()), size=48)
    (geometry,) = model.read([one.image]).geometries
    assert geometry is not None
    assert one.truth.on(geometry).shape == (48, 48)
    assert abs(4 * int(one.truth.on(geometry).sum()) - int(one.truth.mask().sum())) < 60
    assert len(one.truth.rivals(geometry)) == len(one.truth.parts()) - 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "a whole number from 0: got -1"),
        ({"seed": 1.5}, "seed"),
        ({"size": 0}, "a whole number from 1"),
        ({"variant": "triple"}, "'single' or 'pair' or 'tagged': got 'triple'"),
    ],
)
def test_what_cannot_be_drawn_is_said(given: dict[str, Any], message: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(ValueError, match=message):
        fm.datasets.load("worlds.objects", **given)
