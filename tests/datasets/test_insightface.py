"""insightface's files give the pairs that were packed, and decode a picture when it is used."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import faithmap as fm
from faithmap.datasets import load
from faithmap.images import open_image
from tests import nets
from tests.datasets.test_pickles import Call, python2

GREYS = [10, 60, 110, 160, 210, 250]


def encoded(grey: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (grey, grey, grey)).save(out, kind)
    return out.getvalue()


def packed(folder: Path, data: Any, protocol: int = 4) -> Path:
    file = folder / "small.bin"
    file.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol))
    return file


TRUTHS = [True, False, True]


@pytest.mark.parametrize(
    "data",
    [
        ([encoded(grey) for grey in GREYS], TRUTHS),
        ([encoded(grey, "PNG") for grey in GREYS], [1, 0, 1]),
        (tuple(encoded(grey) for grey in GREYS), tuple(TRUTHS)),
        [[np.frombuffer(encoded(grey), np.uint8) for grey in GREYS], [np.bool_(truth) for truth in TRUTHS]],
        python2([encoded(grey) for grey in GREYS], TRUTHS),
    ],
)
def test_pairs_are_those_that_were_packed(tmp_path: Path, data: Any) -> None:
    pairs = load("insightface-bin", file=packed(tmp_path, data, 2))
    assert [pair.genuine for pair in pairs] == TRUTHS
    assert [pair.id for pair in pairs] == ["small.bin 0", "small.bin 1", "small.bin 2"]
    for pair, gallery, probe in zip(pairs, GREYS[::2], GREYS[1::2], strict=True):
        for picture, grey in ((pair.gallery, gallery), (pair.probe, probe)):
            assert open_image(picture).size == (16, 16)
            assert abs(open_image(picture).getpixel((8, 8))[0] - grey) <= 1
        assert pair.subjects == ("", "")
        assert pair.group == ""


def test_take_keeps_both_kinds(tmp_path: Path) -> None:
    data = ([encoded(grey) for grey in GREYS * 6], [True] * 15 + [False] * 3)
    some = load("insightface-bin", file=packed(tmp_path, data)).take(4)
    assert [pair.genuine for pair in some] == [True, True, False, False]
    assert [pair.id for pair in some] == ["small.bin 0", "small.bin 7", "small.bin 15", "small.bin 16"]


def test_models_take_its_pictures(tmp_path: Path) -> None:
    pair = load("insightface-bin", file=packed(tmp_path, ([encoded(10), encoded(10)], [True])))[0]
    model = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    assert model.similarity(pair.probe, pair.gallery) == pytest.approx(1)


def test_a_damaged_picture_fails_when_it_is_used(tmp_path: Path) -> None:
    """So that the others can be."""
    pairs = load(
        "insightface-bin", file=packed(tmp_path, ([encoded(10), encoded(20)[:-80], b"no", b"?"], [True, False]))
    )
    assert open_image(pairs[0].gallery).size == (16, 16)
    for picture in (pairs[0].probe, pairs[1].probe):
        with pytest.raises(ValueError, match="the encoded picture"):
            open_image(picture)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([b"a", b"b", b"c"], [True]), "small.bin holds 3 pictures and 1 truth values: expected two"),
        (([b"a", b"b"], [2]), "int as truth value 0"),
        (([b"a", b"b"], [None]), "NoneType as truth value 0"),
        (([b"a", "b"], [True]), "str as picture 1"),
        (([b"a", b""], [True]), "bytes as picture 1"),
        (([b"a", np.zeros(2, dtype=bool)], [True]), "ByteArray as picture 1"),
        (([b"a", b"b"], [np.frombuffer(b"ab", np.uint8)]), "ByteArray as truth value 0"),
        (([b"a", b"b"], [np.zeros(2, dtype=bool)]), "ByteArray as truth value 0"),
        ([b"a", b"b", b"c"], "small.bin holds list: expected"),
        (b"\x80\x02N.", "small.bin holds NoneType"),
        (([], []), "insightface-bin holds no examples"),
        (([b"a", b"b"], [Call(eval, "1")]), "asks for 'builtins.eval'"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("insightface-bin", file=packed(tmp_path, data))


def test_an_absent_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*lfw\.bin: .*data zoo"):
        load("insightface-bin", file=tmp_path / "lfw.bin")
