"""VOC: every class on a picture is one example, its boxes count from 1, and its XML is not trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faithmap.datasets import VOC
from faithmap.datasets.pascal import read_annotation
from faithmap.images import Geometry

PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


def xml(
    *objects: tuple[str, tuple[float, ...], int], size: str = "<size><width>8</width><height>6</height></size>"
) -> str:
    found = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + f"</bndbox>{PART}</object>"
        for name, box, difficult in objects
    )
    return f"<?xml version='1.0'?><annotation>{size}{found}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in ("one", "two"):
        Image.new("RGB", (8, 6)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
    one = xml(
        ("dog", (1, 1, 4, 3), 0), ("cat", (3, 2, 8, 6), 0), ("dog", (7.0, 4.5, 8, 6), 0), ("car", (1, 1, 2, 2), 1)
    )
    (tmp_path / "Annotations" / "one.xml").write_text(one)
    (tmp_path / "Annotations" / "two.xml").write_text(xml(("cat", (1, 1, 8, 6), 1), ("cat", (2, 2, 2, 2), 0)))
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("two\n\n")
    (tmp_path / "ImageSets" / "Main" / "cat_val.txt").write_text("two  1\n")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("one\n")
    levels = np.zeros((6, 8), dtype=np.uint8)
    levels[:3, :4], levels[3:, 4:], levels[2, 3] = 12, 8, 255
    mask = Image.fromarray(levels).convert("P")
    mask.putpalette([7] * 768)
    mask.save(tmp_path / "SegmentationClass" / "one.png")
    return tmp_path


def test_every_class_on_a_picture_is_an_example(root: Path) -> None:
    data = VOC(str(root))
    assert [(one.id, one.label) for one in data] == [("one/cat", 7), ("one/dog", 11), ("two/cat", 7)]
    assert [data.classes[one.label or 0] for one in data] == ["cat", "dog", "cat"]
    truth = data[1].truth
    assert truth is not None
    assert truth.boxes is not None
    assert truth.boxes.tolist() == [[0, 0, 4, 3], [6, 3.5, 8, 6]]  # pixels 1..4 are 0..4
    assert truth.size == (8, 6)
    seen = truth.first(Geometry.fit((8, 6), (6, 8)))
    assert seen[:3, :4].all()
    assert seen.sum() == 12


def test_difficult_objects_count_if_asked(root: Path) -> None:
    data = VOC(str(root), difficult=True)
    assert [one.id for one in data] == ["one/car", "one/cat", "one/dog", "two/cat"]
    assert [len(one.truth.boxes) for one in data if one.truth and one.truth.boxes is not None] == [1, 1, 2, 2]


def test_splits_are_lists_of_pictures(root: Path) -> None:
    assert [one.id for one in VOC(str(root), split="val")] == ["two/cat"]
    with pytest.raises(FileNotFoundError, match=r"no list .*Main/vla.txt: did you mean val\? \(available: val\)"):
        VOC(str(root), split="vla")
    with pytest.raises(ValueError, match=r"cat_val.txt has 'two  1': expected a picture's name per line"):
        VOC(str(root), split="cat_val")
    (root / "ImageSets" / "Main" / "val.txt").write_text("two\nthree\n")
    with pytest.raises(FileNotFoundError, match=r"names 2 of 4 files that are absent: .*three.jpg, .*three.xml"):
        VOC(str(root), split="val")
    (root / "ImageSets" / "Main" / "val.txt").write_text("../two\n")
    with pytest.raises(ValueError, match=r"has '../two'"):
        VOC(str(root), split="val")


@pytest.mark.parametrize("split", [None, "val"])
def test_masks_are_the_pixels_of_the_class(root: Path, split: str | None) -> None:
    cat, dog = VOC(str(root), split, truth="masks")
    geometry = Geometry.fit((8, 6), (6, 8))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:3, :4], expected[2, 3] = True, False  # void is outside
    assert dog.truth is not None
    assert dog.truth.on(geometry).equal(expected)
    assert cat.truth is not None
    assert cat.truth.on(geometry)[3:, 4:].all()
    assert cat.truth.on(geometry).sum() == 12


def test_another_folder_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*/JPEGImages/Annotations: VOC is at .* give the folder with"
    ):
        VOC(str(root / "JPEGImages"))
    for path in (root / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no .xml files in .*Annotations: the folder .* is empty"):
        VOC(str(root))


BOMB = "<!DOCTYPE a [<!ENTITY x '1'><!ENTITY y '&x;&x;&x;'>]><annotation><object><name>&y;</name></object></annotation>"
FILE = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "declares a document type"),
        (FILE, "declares a document type"),
        (FILE.encode("utf-16"), "no XML in UTF-8"),
        ("<?xml version='1.0' encoding='utf-16'?>" + FILE, "declares a document type"),
        ("<?xml version='1.0' encoding='utf-7'?>+ADwAIQ-DOCTYPE a+AD4-<annotation/>", "no XML in UTF-8"),
        ("<annotation><object>", "no XML in UTF-8"),
        ("", "no XML in UTF-8"),
        ("<svg/>", "holds <svg>: expected PASCAL VOC's <annotation>"),
        ("<annotation><object><name>dog</name></object></annotation>", "an object without a <bndbox>"),
        ("<annotation><object><bndbox/></object></annotation>", "an object without a name"),
        (xml(("dog", (4, 1, 2, 2), 0)), r"one.xml: the box .* ends before it starts"),
        (xml(("dog", (1, 1, float("inf"), 2), 0)), "<xmax> in <bndbox>: 'inf' is no number"),
        (xml(("dog", (1, 1, 2, 2), 0)).replace(">8</width", ">inf</width"), "<width> in <size>: 'inf' is no number"),
        (xml(("dgo", (1, 1, 2, 2), 0)), r"one.xml has an object 'dgo': did you mean dog"),
        (
            xml(("dog", (1, 1, 2, 2), 0)).replace("<xmax>2<", "<xmax>two<"),
            "<xmax> in <bndbox>: 'two' is no number",
        ),
    ],
)
def test_broken_annotations_are_named(root: Path, text: str | bytes, message: str) -> None:
    (root / "Annotations" / "one.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        VOC(str(root))


def test_annotations_have_a_limit_and_may_lack_their_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "Annotations" / "one.xml"
    for size in ("", "<size><width>0</width><height>0</height></size>"):
        path.write_text(xml(("dog", (1, 1, 2, 2), 0), size=size))
        assert read_annotation(path).size is None
    monkeypatch.setattr("faithmap.datasets.pascal.MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"an annotation has at most 10"):
        read_annotation(path)


@pytest.mark.real
def test_real_pictures(data: Path) -> None:
    from faithmap.images import open_image

    found = VOC(str(data / "voc"))
    assert len({one.id.partition("/")[0] for one in found}) == 50
    assert (len(found), len(VOC(str(data / "voc"), difficult=True))) == (74, 86)
    for one in found:
        geometry = Geometry.fit(open_image(one.image).size, 64, "squash")
        assert one.truth is not None
        assert one.truth.on(geometry).any(), one.id
