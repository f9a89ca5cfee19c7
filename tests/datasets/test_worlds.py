"""What all worlds keep: samples are functions of a seed and a place, whatever their number; names in one word."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import faithmap as fm
from faithmap.datasets import Example, Pair
from faithmap.datasets.worlds.named import is_world, world
from faithmap.evaluation import as_dataset
from faithmap.images import Geometry
from faithmap.judging import network_of

WORLDS = [name for name in fm.datasets.available() if name.startswith("worlds.")]


def drawn(one: Example | Pair) -> list[np.ndarray]:
    """All pictures of a sample: its own, and what takes the cause away."""
    pictures = [one.probe, one.gallery] if isinstance(one, Pair) else [one.image]
    donors = [one.truth.donor()] if one.truth and one.truth.donor else []
    return [np.asarray(picture) for picture in [*pictures, *donors]]


@pytest.mark.parametrize("name", WORLDS)
def test_a_sample_is_a_function_of_seed_and_place(name: str) -> None:
    """The same alone, again, and in a larger world; another in another seed or place."""
    few, many, other = (fm.datasets.load(name, seed=s, size=n) for s, n in ((3, 5), (3, 9), (4, 5)))
    for i in (4, 1):
        assert few[i].id == many[i].id
        for one, again, fresh in zip(drawn(few[i]), drawn(few[i]), drawn(many[i]), strict=True):
            np.testing.assert_array_equal(one, again)
            np.testing.assert_array_equal(one, fresh)
    assert not np.array_equal(drawn(few[0])[0], drawn(other[0])[0])
    assert not np.array_equal(drawn(few[0])[0], drawn(few[1])[0])


@pytest.mark.parametrize("name", WORLDS)
def test_truths_can_be_put_to_the_test(name: str) -> None:
    """The cause is one of the parts; pasting the donor over it changes the picture there."""
    data = fm.datasets.load(name, seed=1, size=8)
    truths = [(one, one.truth) for one in data if one.truth is not None]
    assert truths
    for one, truth in truths:
        picture = drawn(one)[0]
        mask = truth.on(Geometry.fit(picture.shape[1::-1], picture.shape[:2]))
        assert truth.mask is not None
        torch.testing.assert_close(mask, truth.mask())
        assert truth.parts is not None
        regions = truth.parts()
        assert bool((regions[truth.part] == mask).all())
        assert len(truth.rivals(Geometry.fit(picture.shape[1::-1], picture.shape[:2]))) == len(regions) - 1
        assert truth.donor is not None
        donor = np.asarray(truth.donor())
        assert donor.shape == picture.shape
        assert np.abs(donor.astype(int) - picture)[mask.numpy()].mean() > 4


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 0.5}, {"size": 0}])
def test_seeds_and_sizes_that_do_not_exist(name: str, wrong: dict[str, float]) -> None:
    """Named at once."""
    with pytest.raises(ValueError, match=name):
        fm.datasets.load(name, **wrong)


def test_a_world_in_one_word(tmp_path: Path) -> None:
    """Its name, with parameters after commas, wherever a folder is asked for; a folder of that name comes first."""
    data = as_dataset("worlds.objects,variant=pair, size=3")
    assert data.parameters == {"seed": 0, "size": 3, "variant": "pair"}
    folder = tmp_path / "worlds.objects"
    assert is_world(folder.name)
    folder.mkdir()
    assert not is_world(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worlds.object", "worlds.objects"),
        ("worlds.faces,kind=twins", "kinds"),
        ("worlds.faces,twins", "key=value"),
        ("worlds.faces,size=many", "size"),
        ("worlds.objects,variant=triple", "single"),
    ],
)
def test_words_that_name_no_world(text: str, said: str) -> None:
    """The message says what would work."""
    with pytest.raises(ValueError, match=said):
        world(text)


@pytest.mark.parametrize("name", WORLDS)
def test_samples_travel_between_processes(name: str) -> None:
    """As loaders with workers need it."""
    data = fm.datasets.load(name, size=3)
    again = pickle.loads(pickle.dumps(data[2]))
    for one, two in zip(drawn(data[2]), drawn(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_sample_given_for_its_picture_is_told_apart() -> None:
    """The message says which of its fields is the picture."""
    scene, pair = fm.datasets.load("worlds.objects", size=1)[0], fm.datasets.load("worlds.faces", size=1)[0]
    with pytest.raises(ValueError, match=r"of a sample of a data set its \.image"):
        fm.explain(fm.load("objects"), scene)
    with pytest.raises(ValueError, match=r"its \.probe and \.gallery"):
        fm.explain(fm.load("faces"), pair)


def test_a_world_brings_the_network_that_has_learned_it(tmp_path: Path) -> None:
    """For commands that are told no model; folders bring none."""
    assert network_of(Path("worlds.objects,variant=tagged")) == "objects-tagged"
    for name in WORLDS:
        assert fm.load(str(network_of(Path(name))))
    assert network_of(tmp_path) is None
