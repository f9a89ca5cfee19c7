"""Truth goes through exactly the model's resize and crop; data sets check what they hold and take the same of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from faithmap.datasets.base import Dataset, Example, Pair, Truth, all_there, existing, pixels_in
from faithmap.images import Geometry
from faithmap.models.labels import imagenet_labels, imagenet_wnids

GEOMETRIES = [
    Geometry.fit(photo, size, resize)
    for photo in [(64, 43), (30, 45), (97, 60), (31, 80), (24, 24)]
    for size, resize in [(24, None), (24, 26), (12, "squash"), ((10, 16), None), ((16, 10), (20, 18)), (5, "squash")]
]


def literal(boxes: list[list[float]], photo: tuple[int, int], geometry: Geometry) -> Tensor:
    """Pixel by pixel, where its centre lay in the photo, in exact fractions of it."""
    inside = torch.zeros(geometry.size, dtype=torch.bool)
    for row in range(geometry.size[0]):
        for column in range(geometry.size[1]):
            x = (2 * (column + geometry.corner[0]) + 1) * photo[0]  # times 1 / (2 * resized)
            y = (2 * (row + geometry.corner[1]) + 1) * photo[1]
            w, h = 2 * geometry.resized[0], 2 * geometry.resized[1]
            inside[row, column] = any(x0 * w <= x < x1 * w and y0 * h <= y < y1 * h for x0, y0, x1, y1 in boxes)
    return inside


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_boxes_and_their_mask_are_the_pixels_whose_centres_lay_in_them(geometry: Geometry) -> None:
    width, height = geometry.photo
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand(3, 2, 2, generator=generator) * torch.tensor([width + 0.99, height + 0.99])
        corners = corners.floor().sort(dim=1).values  # whole, as annotators have them; some are empty
        boxes = corners.flatten(1)
        expected = literal(boxes.tolist(), geometry.photo, geometry)
        truth = Truth(boxes)
        assert truth.on(geometry).equal(expected)
        assert truth.first(geometry).equal(literal(boxes[:1].tolist(), geometry.photo, geometry))
        mask = pixels_in(boxes, (height, width))
        assert Truth(mask=lambda mask=mask: mask).on(geometry).equal(expected)
        assert Truth(mask=lambda mask=mask: mask).first(geometry).equal(expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_boxes_scale_with_the_photo_x_and_y_apart(geometry: Geometry) -> None:
    """Measured in a photo three times as wide and twice as high."""
    width, height = geometry.photo
    boxes = torch.tensor([[2.0, 3.0, width - 7.0, height - 4.0], [0.0, 0.0, 3.0, 2.0]])
    measured = Truth(boxes * torch.tensor([3, 2, 3, 2]), size=(3 * width, 2 * height))
    assert measured.on(geometry).equal(Truth(boxes).on(geometry))
    assert measured.first(geometry).equal(Truth(boxes).first(geometry))


def test_pixels_in_is_a_loop_over_pixels_and_boxes() -> None:
    boxes = torch.tensor([[0.5, 0.0, 2.5, 1.0], [3.2, 1.4, 4.6, 2.51], [1.0, 1.0, 1.0, 3.0]])
    found = [
        [any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes.tolist()) for x in range(5)]
        for y in range(3)
    ]
    assert pixels_in(boxes, (3, 5)).tolist() == found
    assert sum(map(sum, found)) == 2 + 4  # where an edge is at a centre, the first is in and the last is out


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ([0, 0, 22, 10], None),
        ([-1.5, 0, 3, 3], None),
        ([0, 0, 3, 11.5], None),
        ([0, 0, 3, float("nan")], None),
        ([0, 0, 42, 20], (40, 20)),
    ],
)
def test_a_box_outside_its_photo_is_told_when_it_is_used(box: list[float], size: tuple[int, int] | None) -> None:
    photo = size or (20, 10)
    with pytest.raises(ValueError, match=rf"the box \(.*\) reaches outside its photo of {photo[0]}x{photo[1]} pixels"):
        Truth(torch.tensor([[1, 1, 2, 2], box]), size=size).on(Geometry.fit((20, 10), 8))


def test_a_pixel_outside_is_rounding() -> None:
    geometry = Geometry.fit((20, 10), (10, 20), "squash")
    assert Truth(torch.tensor([[-1.0, -1.0, 21.0, 11.0]])).on(geometry).all()


def test_a_photo_turned_since_it_was_annotated_is_told() -> None:
    with pytest.raises(ValueError, match=r"measured in 10x20 pixels and the photo has 20x10: it was turned"):
        Truth(torch.tensor([[1, 1, 2, 2]]), size=(10, 20)).on(Geometry.fit((20, 10), 8))
    assert Truth(torch.tensor([[0, 0, 20, 10]]), size=(20, 10)).on(Geometry.fit((10, 10), 8)).all()


def test_a_truth_is_boxes_or_a_mask() -> None:
    for arguments in ({}, {"boxes": torch.zeros(1, 4), "mask": lambda: torch.ones(2, 2).bool()}):
        with pytest.raises(ValueError, match=r"boxes, or a mask: got (neither|both)"):
            Truth(**arguments)  # type: ignore[arg-type]
    for shape in ((4,), (0, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"expected \(k, 4\)"):
            Truth(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"\(3, 2\): expected bool \(height, width\) = \(10, 20\)"):
        Truth(mask=lambda: torch.ones(3, 2).bool()).on(Geometry.fit((20, 10), 8))


# --- data sets


@dataclass(frozen=True)
class Labels(Dataset[Example]):
    """One example for each letter, of its class."""

    name: ClassVar[str] = "labels"
    task: ClassVar[Literal["classification"]] = "classification"
    letters: str = "aabbbc"
    names: str = "abc"
    prefix: str = ""

    def read(self) -> Iterator[Example]:
        for i, letter in enumerate(self.letters):
            yield Example(f"{self.prefix or i}", "x.png", ord(letter) - ord("a"))

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        return list(self.names)


@dataclass(frozen=True)
class Pairs(Dataset[Pair]):
    """One pair for each letter: g genuine, i impostor."""

    name: ClassVar[str] = "pairs"
    task: ClassVar[Literal["verification"]] = "verification"
    letters: str = "gggggii"

    def read(self) -> Iterator[Pair]:
        for i, letter in enumerate(self.letters):
            yield Pair(str(i), "p.png", "q.png", letter == "g")


def ids(data: Dataset[Example] | Dataset[Pair]) -> str:
    return "".join(one.id for one in data)


def test_take_spreads_evenly_and_takes_the_first_of_each_class() -> None:
    data = Labels()
    assert ids(data) == "012345"
    assert ids(data.take(3)) == "024"
    assert ids(data.take(per_class=1)) == "025"
    assert ids(data.take(2, per_class=2)) == "02"  # of 0 1 2 3 5
    assert ids(data.take(100)) == ids(data.take(per_class=9)) == ids(data.take()) == ids(data)
    assert ids(data.take(3).take(3)) == ids(data.take(3))
    assert len(data) == 6  # is as it was


def test_take_halves_pairs_as_far_as_there_are() -> None:
    assert ids(Pairs().take(4)) == "0256"
    assert ids(Pairs().take(6)) == "012356"
    assert ids(Pairs().take(per_class=1)) == "05"


def test_only_keeps_what_is_wanted_in_its_order() -> None:
    """The data set itself stays whole; classes and parameters are the same."""
    data = Labels()
    some = data.only(lambda one: one.label == 1)
    assert (ids(some), len(some), type(some)) == ("234", 3, Labels)
    assert ids(data) == "012345"
    assert (some.classes, some.parameters, some.name) == (data.classes, data.parameters, data.name)
    assert ids(some.only(lambda one: one.id != "3")) == "24"
    assert ids(some.take(2)) == ids(data.take(per_class=9).only(lambda one: one.label == 1).take(2)) == "23"
    assert ids(data.take(3).only(lambda one: one.id > "1")) == "24"
    assert [one.id for one in some[1:]] == ["3", "4"]
    assert ids(pickle.loads(pickle.dumps(some))) == "234"


def test_only_of_pairs_may_leave_one_kind() -> None:
    data = Pairs()
    genuine, impostor = data.only(lambda pair: pair.genuine), data.only(lambda pair: not pair.genuine)
    assert ids(genuine) + ids(impostor) == ids(data)
    assert ids(genuine.take(2)) == "02"
    with pytest.raises(ValueError, match="pairs holds 5 examples, and none of those that are asked for"):
        genuine.only(lambda pair: not pair.genuine)


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": -1}, {"per_class": 0}])
def test_take_takes_something(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is at least 1: got"):
        Labels().take(**arguments)


def test_what_a_data_set_holds_is_checked() -> None:
    with pytest.raises(ValueError, match=r"holds no examples"):
        Labels(letters="")
    with pytest.raises(ValueError, match=r"holds 'same' more than once"):
        Labels(prefix="same")
    with pytest.raises(ValueError, match=r"'5' has label 2, outside its 2 classes"):
        Labels(names="ab")


def test_paths_are_kept_as_text() -> None:
    data = Labels(prefix=Path("one"), letters="a")  # type: ignore[arg-type]
    assert data.prefix == "one"
    assert data.parameters["prefix"] == "one"
    assert ids(pickle.loads(pickle.dumps(data))) == "one"


def test_labels_for_a_model_go_by_name() -> None:
    class Named(Labels):
        @property
        def classes(self) -> list[str]:  # type: ignore[override]
            return ["Sea_Lion", "cat", "n02124075", "dog"]

    data = Named(letters="a")
    assert data.labels_for(["dog", "Cat", "sea lion", "dog"]) == [2, 1, None, None]
    assert data.labels_for(data.classes) == [0, 1, 2, 3]
    assert data.labels_for(imagenet_labels())[2] == 285
    assert imagenet_labels()[data.labels_for(imagenet_labels())[0] or 0] == "sea lion"


def test_wnids_are_a_thousand_in_order() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == len(imagenet_labels()) == 1000
    assert list(wnids) == sorted(wnids)


def test_absent_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "cat_01.jpg").touch()
    there, absent = tmp_path / "cat_01.jpg", [tmp_path / f"cat_0{i}.jpg" for i in range(2, 7)]
    all_there([there], "the list")
    with pytest.raises(
        FileNotFoundError, match=r"the list names 5 of 6 files that are absent: .*02.*03.*04.jpg, \.\.\.;"
    ):
        all_there([there, *absent], "the list")
    with pytest.raises(FileNotFoundError, match=r"did you mean cat_01.jpg"):
        all_there(absent[:1], "the list")
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path / 'no'}"):
        all_there([tmp_path / "no" / "x.jpg"], "the list")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*: look here"):
        existing(tmp_path, "look here")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: look here"):
        existing(there, "look here", folder=True)
