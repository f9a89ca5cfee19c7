"""Drawn faces: the same whenever they are drawn, and twins differ where their truth says, and nowhere else."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import faithmap as fm
from faithmap.datasets.worlds.faces import CHANGED, Faces, Portrait, resident, snapshot, twin_of
from faithmap.datasets.worlds.people import APART, PARTS, apart
from faithmap.datasets.worlds.portraits import render

TWINS = Faces(kinds="twins", size=14)


def pixels(picture: object) -> NDArray[np.int16]:
    return np.asarray(picture).astype(np.int16)


@cache
def masks(index: int) -> torch.Tensor:
    truth = TWINS[index].truth
    assert truth is not None
    assert truth.mask is not None
    return truth.mask()


@pytest.mark.parametrize("kinds", ["all", "random", "twins"])
def test_a_pair_is_the_same_alone_in_any_order_and_whatever_the_size(kinds: str) -> None:
    long, short = Faces(seed=5, size=9, kinds=kinds), Faces(seed=5, size=4, kinds=kinds)
    assert long.portraits(7) == Faces(seed=5, size=1, kinds=kinds).portraits(7)
    assert [one.id for one in long][:4] == [one.id for one in short]
    for i in (3, 0):
        assert (pixels(long[i].probe) == pixels(short[i].probe)).all()
        assert (pixels(long[i].gallery) == pixels(Faces(seed=5, size=400, kinds=kinds)[i].gallery)).all()


def test_another_seed_is_another_world() -> None:
    assert Faces(seed=0).portraits(0) != Faces(seed=1).portraits(0)


def test_groups_genuine_and_subjects_agree() -> None:
    """A pair is genuine where both subjects, and both identities, are one; subjects come back in no other pair."""
    data = Faces(size=56)
    seen: set[str] = set()
    for i, pair in enumerate(data):
        what = data.portraits(i)
        assert pair.genuine == (pair.group == "genuine") == (pair.subjects[0] == pair.subjects[1])
        assert pair.genuine == (what.probe.identity == what.gallery.identity)
        assert (pair.truth is not None) == pair.group.startswith("twin: ")
        assert not seen & {*pair.subjects}
        seen |= {*pair.subjects}
    groups = [pair.group for pair in data]
    assert (groups.count("genuine"), groups.count("impostor")) == (28, 14)
    assert sorted(groups)[-14:] == sorted(2 * [f"twin: {part}" for part in PARTS])
    assert {pair.group for pair in Faces(size=20, kinds="random")} == {"genuine", "impostor"}


@pytest.mark.parametrize("index", range(14))
def test_twins_differ_in_one_part_and_clearly(index: int) -> None:
    what = TWINS.portraits(index)
    one, other = what.probe.identity, what.gallery.identity
    differing = [part for part in PARTS if getattr(one, part) != getattr(other, part)]
    assert differing == [what.part] == [PARTS[index % 7]]
    assert TWINS[index].group == f"twin: {what.part}"
    assert apart(getattr(one, what.part), getattr(other, what.part)) >= APART
    covered = {"eyes", "brows", "nose"} if what.probe.look.glasses or what.gallery.look.glasses else set()
    covered |= {"face", "mouth", "skin"} if max(what.probe.look.scarf, what.gallery.look.scarf) >= 0 else set()
    assert what.part not in covered


@pytest.mark.parametrize("index", range(7))
def test_repairing_the_part_changes_pixels_of_the_truth_alone(index: int) -> None:
    """Rendered without noise: up to lone pixels, whose neighbours do not change."""
    what = TWINS.portraits(index)
    still = replace(what.probe.look, noise=0.0)
    before, after = (pixels(render(face, still)) for face in (what.probe.identity, what.gallery.identity))
    changed = np.abs(before - after).max(axis=2) >= CHANGED
    truth = masks(index).numpy()
    assert changed[truth].all()
    assert 0.01 < truth.mean() < 0.7
    for y, x in np.argwhere(changed & ~truth):
        assert changed[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].sum() <= 2


@pytest.mark.parametrize("index", range(7))
def test_the_donor_repairs_the_truth_and_changes_no_identity(index: int) -> None:
    """It shows the gallery's identity under the probe's pose; in other light, so that it differs elsewhere too."""
    what, truth = TWINS.portraits(index), TWINS[index].truth
    assert truth is not None
    assert truth.donor is not None
    assert (truth.against, truth.part) == (True, what.part)
    assert what.donor is not None
    lit = {"light", "slant", "warmth", "exposure", "smile", "lids", "grain"}
    kept = {key: value for key, value in asdict(what.donor).items() if key not in lit}
    assert kept == {key: value for key, value in asdict(what.probe.look).items() if key not in lit}
    donor = pixels(truth.donor())
    assert (donor == pixels(Portrait(what.gallery.identity, what.donor).image())).all()
    assert (donor != pixels(TWINS[index].probe))[~masks(index).numpy()].any()


def test_rivals_are_the_other_parts() -> None:
    """The true one is the mask; the regions of eyes, brows, nose and mouth lie where these are."""
    truth = TWINS[3].truth
    assert truth is not None
    assert truth.parts is not None
    parts = truth.parts()
    assert tuple(parts) == PARTS
    assert torch.equal(parts["nose"], masks(3))
    rows = [float(parts[part].nonzero()[:, 0].double().mean()) for part in ("brows", "eyes", "nose", "mouth")]
    assert rows == sorted(rows)
    assert truth.rivals(fm.images.Geometry.fit((112, 112), (112, 112))).shape == (6, 112, 112)


def test_who_is_trained_on_depends_on_seed_and_number_alone() -> None:
    a = resident(2, 7)
    assert a == resident(2, 7) != resident(2, 8)
    twin = twin_of(a, "mouth", 2, 7)
    assert [part for part in PARTS if getattr(twin, part) != getattr(a, part)] == ["mouth"]
    assert (snapshot(a, 2, 0) == snapshot(a, 2, 0)).all()
    assert (snapshot(a, 2, 0) != snapshot(a, 2, 1)).any()


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no kinds='twin': did you mean twins"):
        fm.datasets.load("worlds.faces", kinds="twin")
    with pytest.raises(ValueError, match="a whole number from 0: got -1"):
        fm.datasets.load("worlds.faces", seed=-1)


def test_the_network_that_ships_tells_drawn_people_apart() -> None:
    """At its threshold, of ten pairs at most one wrongly; and its body ends without an activation."""
    face = fm.load("faces")
    pairs = Faces(seed=3, size=10, kinds="random")
    scores = [face.similarity(pair.probe, pair.gallery) for pair in pairs]
    assert sum((score >= face.threshold) != pair.genuine for score, pair in zip(scores, pairs, strict=True)) <= 1
    assert face.target_layer == "body.3"
