"""COCO: every category on a picture is one example, without crowds; masks are the union of its instances."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from faithmap.datasets import COCO
from faithmap.images import Geometry

RUNS = {"size": [6, 8], "counts": [0, 6, 42]}  # the first column, uncompressed


def content() -> dict[str, Any]:
    """Categories out of order and with gaps, a crowd, a picture without objects."""

    def one(id: int, image: int, category: int, bbox: list[float], segmentation: Any, crowd: int = 0) -> dict[str, Any]:
        numbers = {"id": id, "image_id": image, "category_id": category, "iscrowd": crowd}
        return {**numbers, "bbox": bbox, "segmentation": segmentation}

    return {
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "images": [
            {"id": 9, "file_name": "09.jpg", "width": 8, "height": 6},
            {"id": 4, "file_name": "04.jpg", "width": 8, "height": 6},
            {"id": 5, "file_name": "05.jpg", "width": 8, "height": 6},
        ],
        "annotations": [
            one(1, 4, 18, [2, 1, 3, 4], [[2, 1, 5, 1, 5, 5, 2, 5]]),
            one(2, 4, 1, [0, 0, 8, 6], RUNS, crowd=1),
            one(3, 4, 18, [0, 0, 1, 6], RUNS),
            one(4, 9, 1, [4, 0, 4.5, 6.5], [[4, 0, 8, 0, 8, 2, 4, 2], [4, 4, 8, 4, 8, 6, 4, 6]]),
            one(5, 4, 3, [1, 1, 0, 0], [[1, 1, 1, 1, 1, 1]]),
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("04", "09"):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "instances.json").write_text(json.dumps(content()))
    return tmp_path


def coco(root: Path, truth: Any = "boxes") -> COCO:
    return COCO(str(root), str(root / "instances.json"), truth)


def test_every_category_on_a_picture_is_an_example(root: Path) -> None:
    data = coco(root)
    assert data.classes == ["person", "car", "dog"]
    assert [(one.id, one.label) for one in data] == [("09/person", 0), ("04/car", 1), ("04/dog", 2)]
    dog = data[2].truth
    assert dog is not None
    assert dog.boxes is not None
    assert dog.boxes.tolist() == [[2, 1, 5, 5], [0, 0, 1, 6]]
    seen = dog.on(Geometry.fit((8, 6), (6, 8)))
    assert seen[1:5, 2:5].all()
    assert seen[:, 0].all()
    assert seen.sum() == 12 + 6


def test_masks_are_the_union_of_polygons_and_runs(root: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    geometry = Geometry.fit((8, 6), (6, 8))
    person, _, dog = coco(root, "masks")
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:5, 2:5] = expected[:, 0] = True
    assert dog.truth is not None
    assert dog.truth.on(geometry).equal(expected)
    both = torch.zeros(6, 8, dtype=torch.bool)
    both[:2, 4:] = both[4:, 4:] = True
    assert person.truth is not None
    assert person.truth.on(geometry).equal(both)

    changed = content()  # run lengths compressed into text, as results have them
    packed = mask.frPyObjects(RUNS, 6, 8)
    changed["annotations"] = [
        {**changed["annotations"][2], "segmentation": {**packed, "counts": packed["counts"].decode()}}
    ]
    (root / "instances.json").write_text(json.dumps(changed))
    (one,) = coco(root, "masks")
    assert one.truth is not None
    assert one.truth.on(geometry).sum() == 6


def test_masks_without_pycocotools_say_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(coco(root)) == 3
    with pytest.raises(ValueError, match=r"pip install 'faithmap\[coco\]'"):
        coco(root, "masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda all: all["annotations"][0].update(image_id=77),
            "annotation 1: there is no such image or category: 77, 18",
        ),
        (
            lambda all: all["annotations"][0].update(category_id=2),
            "annotation 1: there is no such image or category: 4, 2",
        ),
        (
            lambda all: all["annotations"][0].update(bbox=[1, 2, -3, 4]),
            "annotation 1: the box .* ends before it starts",
        ),
        (lambda all: all["annotations"][0].update(bbox=[1, 2]), "annotation 1: the bbox .* is not x, y, width, height"),
        (lambda all: all["annotations"][0].pop("bbox"), "not what COCO calls instances: KeyError"),
        (lambda all: all["images"].append(all["images"][0]), "two images of one id"),
        (lambda all: all["images"][0].update(file_name="../x.jpg"), "'../x.jpg' leads out of"),
        (lambda all: all.pop("images"), "not what COCO calls instances: KeyError"),
        (lambda all: all.update(annotations=[3]), "not what COCO calls instances"),
        (lambda all: all.update(annotations=[]), "coco holds no examples"),
    ],
)
def test_broken_files_are_named(root: Path, change: Any, message: str) -> None:
    broken = content()
    change(broken)
    (root / "instances.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=message):
        coco(root)


def test_other_files_are_told(root: Path) -> None:
    for text, message in (
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "not what COCO calls instances"),
        ("\xff", "is no JSON|not what"),
    ):
        (root / "instances.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=message):
            coco(root)
    with pytest.raises(FileNotFoundError, match=r"no file .*no.json: val2017.zip and"):
        COCO(str(root), str(root / "no.json"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*no: val2017.zip and"):
        COCO(str(root / "no"), str(root / "instances.json"))


def test_absent_pictures_are_told(root: Path) -> None:
    (root / "09.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 1 of 2 files that are absent: .*09.jpg"):
        coco(root)
