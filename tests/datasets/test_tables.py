"""A CSV is read whatever its columns are called, and what is wrong with it is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faithmap.datasets import Csv, load
from faithmap.datasets.tables import read_table
from faithmap.images import Geometry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "in/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "image,label,x0,y0,x1,y1\na.png,7,1,2,3,4\n",
        "\ufeffFileName;Class;X_Min;Y-Min;xMax;y max\r\na.png;7;1;2;3;4\r\n",
        "path\ttarget\tbbox\na.png\t7\t[1, 2, 3.0, 4e0]\n",
        '\ufeff"Image",label,bbox\na.png,7.0,1 2 3 4\n',  # labels as tables with gaps write them
        'ImageId,class_id,box\n"a.png",7,"1 2 3 4"\n',
        "y2,x2,y1,x1,class idx,img\n4,3,2,1,7,a.png\n",
        "left,top,right,bottom,class,file,note\n\n,,,,,,\n1,2,3,4,7,a.png,not needed\n\n",
        "label,image,class,x0,y0,x1,y1\n7,a.png,9,1,2,3,4\n",  # the first choice of two
    ],
)
def test_the_usual_names_of_columns_mean_the_same(folder: Path, text: str) -> None:
    (one,) = Csv(table(folder, text))  # type: ignore[arg-type]
    assert (one.id, one.image, one.label) == ("a.png", folder / "a.png", 7)
    assert one.truth is not None
    assert one.truth.boxes is not None
    assert one.truth.boxes.tolist() == [[1, 2, 3, 4]]


def test_rows_of_one_picture_are_its_boxes(folder: Path) -> None:
    text = "image,label,xmin,ymin,xmax,ymax,width,height\n"
    text += "in/c.png,1,0,0,1,1,16,12\na.png,,,,,,,\n./in/c.png,1,2,2,8,6,16,12\nb.png,0,,,,,16,12\n"
    c, a, b = load("csv", file=str(table(folder, text)))
    assert [one.id for one in (c, a, b)] == ["in/c.png", "a.png", "b.png"]
    assert [one.label for one in (c, a, b)] == [1, None, 0]
    assert (a.truth, b.truth) == (None, None)
    assert c.truth.boxes.tolist() == [[0, 0, 1, 1], [2, 2, 8, 6]]
    geometry = Geometry.fit((8, 6), (6, 8))
    assert c.truth.on(geometry)[1:3, 1:4].all()
    assert c.truth.on(geometry).sum() == 6  # the first box ends where its pixel has its centre
    assert c.truth.first(geometry).sum() == 0


def test_names_count_in_their_order(folder: Path) -> None:
    data = Csv(str(table(folder, "image,label\na.png,dog\nb.png,cat\nin/c.png,\n")))
    assert data.classes == ["cat", "dog"]
    assert [one.label for one in data] == [1, 0, None]
    assert Csv(str(table(folder, "image,label\na.png,3\n"))).classes is None


def test_masks_are_where_a_file_is_not_0(folder: Path) -> None:
    levels = np.zeros((6, 8), dtype=np.uint8)
    levels[2:4, 1:5] = 1
    palette = Image.fromarray(levels).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # black and black: indices count, not colours
    palette.save(folder / "p.png")
    Image.fromarray(levels * 255).convert("RGB").save(folder / "rgb.png")
    Image.fromarray(levels.astype(bool)).save(folder / "bits.png")
    data = Csv(str(table(folder, "image,mask,bbox\na.png,p.png,0 0 1 1\nb.png,rgb.png,\nin/c.png,bits.png,\n")))
    for one in data:
        assert one.truth is not None
        assert one.truth.on(Geometry.fit((8, 6), (6, 8))).equal(torch.from_numpy(levels > 0))


def test_relative_paths_start_at_the_folder_and_absolute_ones_are_allowed(folder: Path) -> None:
    path = table(folder, f"image\n{folder / 'a.png'}\nc.png\n")
    data = Csv(str(path), str(folder / "in"))
    assert [one.id for one in data] == ["a.png", "c.png"]
    assert [one.image for one in data] == [folder / "a.png", folder / "in" / "c.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no picture: it has no row"),
        ("image,label\n\n", "names no picture: it has no row"),
        ("a.png,7\nb.png,8\n", "no column for the picture: its first line has 'a.png, 7'; expected image, filename"),
        ("image,x0,y0,x1\na.png,1,2,3\n", "some corners of a box and none for y1"),
        ("image,label,Label\na.png,1,2\n", "two columns 'label'"),
        ("image,label\na.png\n", "line 2 has 1 cells, the header 2"),
        ("image,label\n\na.png,1,2\n", "line 3 has 3 cells, the header 2"),
        ("image,label\n,1\n", "line 2 names no picture"),
        ("image,x0,y0,x1,y1\na.png,1,2,three,4\n", "line 2: 'three' is no number"),
        ("image,x0,y0,x1,y1\na.png,1,2,nan,4\n", "line 2: 'nan' is no number"),
        ("image,x0,y0,x1,y1\na.png,1,2,,4\n", "line 2 has 3 of the 4 corners"),
        ("image,x0,y0,x1,y1\na.png,0,0,1,1\na.png,5,5,3,9\n", r"line 3: the box .* \(not x, y, width, height\)"),
        ("image,bbox\na.png,1 2 3\n", "line 2 has a box of 3 numbers"),
        ("image,bbox,width,height\na.png,1 2 3 4,0,5\n", "line 2: a picture of 0x5 pixels has no pixels"),
        ("image,label\na.png,1\na.png,2\n", "line 3: 'a.png' has label '2', and '1' in table.csv, line 2"),
        ("image,label\na.png,1\nb.png,cat\n", "line 3: the label 'cat' is a name, and '1' in table.csv, line 2"),
        ("image,label\na.png,-1\nb.png,-2\n", "line 2: the label '-1' is not a whole number from 0"),
        ("image,label\na.png,1.5\n", "the label '1.5' is not a whole number from 0"),
        ("image,bbox,width,height\na.png,1 2 3 4,inf,5\n", "line 2: 'inf' is no number"),
        ("image\n../a.png\n", "line 2: '../a.png' leads out of"),
        ("image\nin/../../a.png\n", "leads out of .*: give its absolute path"),
        ("image,mask\na.png,../../etc/passwd\n", "leads out of"),
        ('image,label\n"a.png,1\n', "line 2: unexpected end of data"),
        ("image,label\n" + "a" * 200_000 + ",1\n", "line 2: field larger than field limit"),
        ("image,label\na.png,café\n".encode("latin-1"), "is not UTF-8 but Latin-1 .*: byte 0xe9 in line 2; save it"),
        ("image,label\na.png,1\n".encode("utf-16"), "is not UTF-8 but UTF-16"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Csv(str(table(folder, text)))


def test_absent_files_are_told_together(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"names 2 of 3 files that are absent: .*x.png, .*y.png"):
        Csv(str(table(folder, "image\na.png\nx.png\ny.png\n")))
    with pytest.raises(FileNotFoundError, match=r"names 1 of 2 files that are absent: .*m.png"):
        Csv(str(table(folder, "image,mask\na.png,m.png\n")))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no.csv: it should list pictures"):
        Csv(str(folder / "no.csv"))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*no: the pictures of the table"):
        Csv(str(table(folder, "image\na.png\n")), str(folder / "no"))


def test_a_mask_of_another_size_or_damaged_is_told_when_it_is_used(folder: Path) -> None:
    Image.new("L", (4, 4)).save(folder / "small.png")
    (folder / "bad.png").write_bytes((folder / "small.png").read_bytes()[:40])
    for name, message in (
        ("small", r"expected bool \(height, width\) = \(6, 8\)"),
        ("bad", "cannot be decoded|not a picture"),
    ):
        (one,) = Csv(str(table(folder, f"image,mask\na.png,{name}.png\n")))
        assert one.truth is not None
        with pytest.raises(ValueError, match=message):
            one.truth.on(Geometry.fit((8, 6), 4))


def test_a_table_has_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faithmap.datasets.files.MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"19 bytes: a text has at most 10"):
        read_table(table(folder, "image,label\na.png,1"))
