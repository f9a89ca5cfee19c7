"""ImageNet in every layout is the same pictures, classes and boxes; what disagrees is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from faithmap.datasets import Example, ImageNet, load
from faithmap.datasets.base import pixels_in
from faithmap.images import Geometry, open_image
from faithmap.models.labels import imagenet_labels

NAMES = [f"ILSVRC2012_val_0000000{i}" for i in (1, 2, 3)]
WNIDS = ["n02124075", "n01440764", "n02124075"]  # 285, 0, 285
BOXES = [[[10, 20, 30, 40], [0, 0, 49, 50]], [[5, 5, 100, 50]], [[1, 2, 3, 4]]]
XML = (
    "<annotation><folder>val</folder><size><width>100</width><height>50</height><depth>3</depth></size>{}</annotation>"
)
OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object>"
)


def flat(root: Path) -> Path:
    (root / "flat").mkdir()
    for name in NAMES:
        Image.new("RGB", (50, 50)).save(root / "flat" / f"{name}.JPEG", "JPEG")  # squashed from 100x50
    (root / "flat" / ".DS_Store").touch()
    return root / "flat"


def by_class(root: Path) -> Path:
    for name, wnid in zip(NAMES, WNIDS, strict=True):
        (root / "classes" / wnid).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 50)).save(root / "classes" / wnid / f"{name}.JPEG", "JPEG")
    return root / "classes"


def official(root: Path) -> Path:
    (root / "xml").mkdir()
    for name, wnid, boxes in zip(NAMES, WNIDS, BOXES, strict=True):
        (root / "xml" / f"{name}.xml").write_text(XML.format("".join(OBJECT.format(wnid, *box) for box in boxes)))
    return root / "xml"


def plain(root: Path) -> Path:
    lines = ["image,label,wnid,orig_width,orig_height,x0,y0,x1,y1"]
    for name, wnid, boxes in zip(NAMES, WNIDS, BOXES, strict=True):
        lines += [f"{name}.JPEG,{285 if wnid == WNIDS[0] else 0},{wnid},100,50,{','.join(map(str, b))}" for b in boxes]
    (root / "boxes.csv").write_text("\n".join(lines))
    return root / "boxes.csv"


def kaggle(root: Path) -> Path:
    lines = ["ImageId,PredictionString"]
    for name, wnid, boxes in zip(NAMES, WNIDS, BOXES, strict=True):
        lines.append(f"{name}," + "".join(f"{wnid} {' '.join(map(str, b))} " for b in boxes))
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))
    return root / "LOC_val_solution.csv"


def told(data: ImageNet) -> list[tuple[str, int | None, list[list[float]]]]:
    return [(one.id, one.label, one.truth.boxes.tolist()) for one in data if one.truth and one.truth.boxes is not None]


@pytest.mark.parametrize("folder", [flat, by_class])
@pytest.mark.parametrize("boxes", [official, plain, kaggle])
def test_every_layout_is_the_same_data(
    tmp_path: Path, folder: Callable[[Path], Path], boxes: Callable[[Path], Path]
) -> None:
    data = load("imagenet", folder=folder(tmp_path), boxes=boxes(tmp_path))
    assert told(data) == [(f"{n}.JPEG", k, b) for n, k, b in zip(NAMES, [285, 0, 285], BOXES, strict=True)]
    assert data.classes == imagenet_labels()
    assert data.labels_for(["x"] * 1000) == list(range(1000))
    if boxes is not kaggle:  # which has no size: its boxes are for the files as they came
        assert (
            data[0]
            .truth.first(Geometry.fit((50, 50), 50))
            .equal(pixels_in(torch.tensor([[5.0, 20.0, 15.0, 40.0]]), (50, 50)))
        )
    else:
        with pytest.raises(ValueError, match=r"the box \(5, 5, 100, 50\) reaches outside its photo of 50x50"):
            data[1].truth.on(Geometry.fit((50, 50), 50))


def test_few_class_folders_have_their_places_among_the_thousand(tmp_path: Path) -> None:
    data = ImageNet(str(by_class(tmp_path)))
    assert [(one.id[-6:-5], one.label, one.truth) for one in data] == [
        ("2", 0, None),
        ("1", 285, None),
        ("3", 285, None),
    ]


def test_a_table_says_which_pictures_are_read_and_in_what_order(tmp_path: Path) -> None:
    """Of 5 per class of all, say; pictures may be named with folders, or without suffix."""
    path = tmp_path / "list.csv"
    path.write_text(
        "filename,class,xmin,ymin,xmax,ymax\n"
        f"n02124075/{NAMES[2]}.JPEG,285,1,2,3,4\n"
        f"val\\{NAMES[1]}.jpeg,n01440764,5,5,30,30\n"
    )
    data = ImageNet(str(flat(tmp_path)), str(path))
    assert told(data) == [(f"{NAMES[2]}.JPEG", 285, [[1, 2, 3, 4]]), (f"{NAMES[1]}.JPEG", 0, [[5, 5, 30, 30]])]


@pytest.mark.parametrize("boxes", [official, plain, kaggle])
def test_absent_pictures_are_an_error_unless_partial(tmp_path: Path, boxes: Callable[[Path], Path]) -> None:
    folder, source = flat(tmp_path), str(boxes(tmp_path))
    (folder / f"{NAMES[1]}.JPEG").unlink()
    with pytest.raises(
        FileNotFoundError, match=f"partial=True.* names 1 of 3 files that are absent: .*{NAMES[1]}.JPEG"
    ):
        ImageNet(str(folder), source)
    assert [one.id[:-5] for one in ImageNet(str(folder), source, partial=True)] == [NAMES[0], NAMES[2]]
    for name in (NAMES[0], NAMES[2]):
        (folder / f"{name}.JPEG").rename(folder / f"other_{name}.JPEG")
    with pytest.raises(ValueError, match=f"names none of the pictures in .*: it names {NAMES[0]} first"):
        ImageNet(str(folder), source, partial=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,label\n{0},1000\n", "has label 1000 .class 1000.: labels count the sorted synsets from 0"),
        ("image,label,wnid\n{0},490,n02124075\n", r"wnid n02124075 \(class 285\), label 490 \(class 490\)"),
        ("image,wnid\n{0},n99999999\n", "line 2: 'n99999999' is not one of the 1000 synsets"),
        ("image,label\n{0},cat\n", r"nothing says the class of .*: expected a wnid, .*, got 'cat'"),
        ("image\n{0}\n", "nothing says the class"),
        ("image,label\n{0},-1\n", "line 2: the label '-1' is not a whole number from 0"),
        ("ImageId,PredictionString\n{0},n02124075 1 2 3\n", "is not one wnid and four corners for each box"),
        ("ImageId,PredictionString\n{0},n02124075 1 2 3 4 n01440764 1 2 3 4\n", "is not one wnid and four"),
    ],
)
def test_classes_that_are_unknown_or_disagree_are_told(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(table.format(NAMES[0]))
    with pytest.raises(ValueError, match=message):
        ImageNet(str(flat(tmp_path)), str(tmp_path / "t.csv"))


def test_a_folder_and_a_table_that_disagree_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"image,label\n{NAMES[0]},7\n")
    with pytest.raises(ValueError, match=r"label 7 \(class 7\), folder n02124075 \(class 285\)"):
        ImageNet(str(by_class(tmp_path)), str(tmp_path / "t.csv"))


def test_an_annotation_of_several_classes_is_told(tmp_path: Path) -> None:
    source = official(tmp_path)
    for names, message in (((), "has objects of no class"), (WNIDS[:2], "has objects of n01440764, n02124075")):
        (source / f"{NAMES[0]}.xml").write_text(XML.format("".join(OBJECT.format(name, 1, 1, 2, 2) for name in names)))
        with pytest.raises(ValueError, match=f"{NAMES[0]}.xml {message}: expected one class"):
            ImageNet(str(flat(tmp_path) if not (tmp_path / "flat").exists() else tmp_path / "flat"), str(source))


def test_folders_that_lack_something_say_what_and_where_it_is(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    with pytest.raises(ValueError, match=r"nothing says the classes of the pictures in .*; or give boxes="):
        ImageNet(str(folder))
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere: the pictures .* are at image-net.org"):
        ImageNet(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere: boxes are .*XML files.*LOC_val_solution.csv"):
        ImageNet(str(folder), str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"there are no XML files in .*flat: .*flat holds"):
        ImageNet(str(folder), str(folder))
    with pytest.raises(ValueError, match=r"there are no pictures in .*: .* holds boxes.csv, flat/"):
        ImageNet(str(tmp_path), str(plain(tmp_path)))
    (folder / WNIDS[0]).mkdir()
    (folder / WNIDS[0] / f"{NAMES[0]}.JPEG").touch()
    with pytest.raises(ValueError, match=f"there are two pictures {NAMES[0]}"):
        ImageNet(str(folder), str(tmp_path / "boxes.csv"))


# --- the real ones


def _truth(one: Example, geometry: Geometry) -> torch.Tensor:
    assert one.truth is not None
    return one.truth.on(geometry)


@pytest.mark.real
@pytest.mark.parametrize("side", [224, 227])
def test_boxes_in_a_squashing_model_are_the_benchmarks(data: Path, side: int) -> None:
    from benchmarks.common import imagenet_squashed

    found = ImageNet(str(data / "imagenet" / "val_227"), str(data / "imagenet" / "boxes.csv"), partial=True)
    paths, classes, boxes = imagenet_squashed(data, side)
    by_path = {str(one.image): one for one in found}
    assert len(found) == 650
    assert sorted(by_path) == paths
    geometry = Geometry.fit((227, 227), side, "squash")
    for path, label, expected in zip(paths, classes.tolist(), boxes, strict=True):
        assert by_path[path].label == label
        assert _truth(by_path[path], geometry).equal(pixels_in(expected, (side, side)))


@pytest.mark.real
def test_the_whole_pictures_agree_with_the_squashed(data: Path) -> None:
    """A box covers about the same share of the input, whichever file it is read on."""
    found = ImageNet(str(data / "imagenet" / "val"), str(data / "imagenet" / "boxes.csv"), partial=True)
    assert len(found) == 15
    for one in found:
        photo = open_image(one.image).size
        assert one.truth is not None
        assert one.truth.size == photo
        squashed, whole = Geometry.fit((227, 227), 224, "squash"), Geometry.fit(photo, 224, "squash")
        assert (_truth(one, squashed) ^ _truth(one, whole)).float().mean() < 0.001
        assert _truth(one, Geometry.fit(photo, 224, 256)).any()
