"""Networks that ship: they load, they are what was shipped, and they can do what their cards say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import faithmap as fm
from faithmap.datasets.worlds.shapes import GLYPHS, SHAPES
from faithmap.models import shipped

NAMES = ("objects", "objects-mlp", "objects-tagged")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, to break."""
    folder = tmp_path / "models"
    shutil.copytree(shipped.FOLDER, folder)
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(shipped, "DIGESTS", folder / shipped.DIGESTS.name)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_networks_load_with_what_belongs_to_them(name: str) -> None:
    """Labels, size, and the last feature map as target layer, 12 x 12 places that are never below 0."""
    model = fm.load(name)
    assert isinstance(model, fm.Classifier)
    assert model.labels == (GLYPHS if name == "objects-tagged" else tuple(SHAPES))
    assert (model.name, model.size, model.suggest_layers()[0].name) == (name, (96, 96), model.target_layer)
    assert model.suggest_layers()[0].shape[-2:] == (12, 12)
    assert not any(module.training for module in model.module.modules())
    data = fm.datasets.load("worlds.objects", size=1, variant="tagged" if name == "objects-tagged" else "single")
    assert list(data.classes) == list(model.labels)


@pytest.mark.parametrize("name", NAMES)
def test_networks_know_their_world(name: str) -> None:
    """On pictures that neither training nor grading has seen."""
    model = fm.load(name)
    data = fm.datasets.load("worlds.objects", seed=2, size=64, variant="tagged" if "tagged" in name else "single")
    found = model.predict([one.image for one in data], top=1)
    right = [answer[0].index == one.label for answer, one in zip(found, data, strict=True)]
    assert sum(right) >= 0.9 * len(right)


@pytest.mark.parametrize("name", NAMES)
def test_taking_the_cause_away_takes_the_answer_away(name: str) -> None:
    """Without a thing, or a glyph, the answer is close to a tenth for each class."""
    model = fm.load(name)
    data = fm.datasets.load("worlds.objects", seed=2, size=32, variant="tagged" if "tagged" in name else "single")
    x = model.prepare([one.image for one in data])
    donors, masks = model.prepare([one.truth.donor() for one in data]), [one.truth.mask() for one in data]
    pasted = torch.where(torch.stack(masks)[:, None], donors, x)
    labels = torch.tensor([one.label for one in data])[:, None]
    before, after = (model.network(given).softmax(dim=1).gather(1, labels) for given in (x, pasted))
    assert before.median() > 0.9
    assert after.median() < 0.25


def test_files_are_small() -> None:
    """At most 3 MB each, and each with its digest."""
    files = {path.name: path.stat().st_size for path in shipped.FOLDER.glob("*.safetensors")}
    assert {f"{name}.safetensors" for name in NAMES} <= {*files}
    assert max(files.values()) <= 3e6
    assert {line.split()[1] for line in shipped.DIGESTS.read_text().splitlines()} == {*files}


@pytest.mark.usefixtures("copied")
def test_copies_load_too() -> None:
    """So that what the next tests break is what they mean to break."""
    fm.load("objects")


def test_a_damaged_file_is_not_used(copied: Path) -> None:
    """One bit, and the error says how to get the file back."""
    path = copied / "objects.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"objects\.safetensors is damaged.*pip install --force-reinstall"):
        fm.load("objects")


def test_a_file_that_is_gone_is_named(copied: Path) -> None:
    """Likewise."""
    (copied / "objects.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"objects\.safetensors is gone.*pip install --force-reinstall"):
        fm.load("objects")


def test_names_that_do_not_ship_are_unknown() -> None:
    """With the closest that do."""
    with pytest.raises(ValueError, match="did you mean objects"):
        shipped.shipped("objetcs")
