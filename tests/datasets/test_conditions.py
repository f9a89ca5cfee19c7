"""Pairs of AR Face and SCface: who is on a picture, and under which condition, as its name says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from faithmap.datasets import load
from faithmap.images import open_image
from tests.datasets.test_faces import pictures, table

ARFACE = ["m-001", "m-002", "w-001", "w-002", "w-003"]


def arface(folder: Path, suffix: str = ".png", skip: tuple[str, ...] = ()) -> Path:
    names = [f"{who}-{shot:02d}" for who in ARFACE for shot in range(1, 27)]
    pictures(folder, [name + suffix for name in names if name not in skip])
    return folder


def scface(folder: Path, people: int = 4) -> Path:
    """As the database holds them: each picture in several folders."""
    names = []
    for who in range(1, people + 1):
        for at in ("mugshot_frontal_original_all", "mugshot_frontal_cropped_all", "mugshot_rotation_all"):
            names += [f"{at}/{who:03d}_frontal.jpg"]
        for cam in range(1, 8):
            for distance in (1, 2, 3):
                name = f"{who:03d}_cam{cam}_{distance}.jpg"
                names += [
                    f"surveillance_cameras_all/{name}",
                    f"surveillance_cameras_distance_{distance}/cam_{cam}/{name}",
                ]
        names += [f"surveillance_cameras_all/{who:03d}_cam8.jpg", f"mugshot_rotation_all/{who:03d}_L1.jpg"]
    pictures(folder, names)
    return folder


def check_standard(pairs: Any, condition: str, genuine: set[tuple[str, str]], gallery: str) -> None:
    """All genuine pairs, and for each probe an impostor from the same gallery."""
    stems = [(Path(str(pair.probe)).stem, Path(str(pair.gallery)).stem, pair.genuine) for pair in pairs]
    assert {(a, b) for a, b, same in stems if same} == genuine
    assert Counter(a for a, _, same in stems if not same) == Counter(a for a, _ in genuine)
    assert all(re.fullmatch(gallery, b) for _, b, _ in stems)
    for pair, (a, b, same) in zip(pairs, stems, strict=True):
        assert pair.id == f"{a} ~ {b}"
        assert pair.group == condition
        assert (pair.subjects[0] == pair.subjects[1]) == same
        assert a.startswith(pair.subjects[0])
        assert b.startswith(pair.subjects[1])
        assert open_image(pair.probe).size == (4, 4)


@pytest.mark.parametrize(("condition", "shots"), [("neutral", (14,)), ("glass", (8, 21)), ("scarf", (11, 24))])
def test_arface(tmp_path: Path, condition: str, shots: tuple[int, ...]) -> None:
    pairs = load("arface", folder=arface(tmp_path), condition=condition)
    genuine = {(f"{who}-{shot:02d}", f"{who}-01") for who in ARFACE for shot in shots}
    check_standard(pairs, condition, genuine, r"[mw]-00\d-01")
    assert len(pairs) == 2 * len(ARFACE) * len(shots)


def test_people_without_a_shot_have_no_such_pair(tmp_path: Path) -> None:
    """Without its gallery a person has none; without a probe it can still be another's impostor."""
    arface(tmp_path, skip=("m-001-01", "w-001-14"))
    pairs = load("arface", folder=tmp_path, condition="neutral")
    check_standard(pairs, "neutral", {(f"{who}-14", f"{who}-01") for who in ("m-002", "w-002", "w-003")}, r".*-01")


def test_arface_by_other_names(tmp_path: Path) -> None:
    """Upper case, in folders, beside other files."""
    pictures(
        tmp_path,
        [
            "men/M-001-01.bmp",
            "men/M-001-14.bmp",
            "women/W-002-01.bmp",
            "women/W-002-14.bmp",
            "men/x.png",
            "women/x.png",
        ],
    )
    (tmp_path / "men" / "M-003-01.raw").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "men")
    with pytest.raises(ValueError, match=r"M-001-01 is there twice, as .*: give the folder"):
        load("arface", folder=tmp_path)
    (tmp_path / "linked").unlink()
    pairs = load("arface", folder=tmp_path)
    assert [pair.id for pair in pairs] == [
        "M-001-14 ~ M-001-01",
        "M-001-14 ~ W-002-01",
        "W-002-14 ~ W-002-01",
        "W-002-14 ~ M-001-01",
    ]
    assert pairs[1].subjects == ("m-001", "w-002")
    pictures(tmp_path, ["women/w-002-14.png"])
    with pytest.raises(ValueError, match="is there twice"):
        load("arface", folder=tmp_path)


@pytest.mark.parametrize(("condition", "distance"), [("far", 1), ("medium", 2), ("close", 3)])
def test_scface(tmp_path: Path, condition: str, distance: int) -> None:
    pairs = load("scface", folder=scface(tmp_path), condition=condition)
    genuine = {(f"00{who}_cam{cam}_{distance}", f"00{who}_frontal") for who in range(1, 5) for cam in range(1, 6)}
    check_standard(pairs, condition, genuine, r"00\d_frontal")
    assert {Path(str(pair.gallery)).parent.name for pair in pairs} == {"mugshot_frontal_cropped_all"}
    assert {Path(str(pair.probe)).parent.name for pair in pairs} == {"surveillance_cameras_all"}


def test_ones_own_crops_come_first(tmp_path: Path) -> None:
    scface(tmp_path)
    pictures(tmp_path / "112", ["001_frontal.png", "001_cam1_3.png"])
    pairs = {pair.id: pair for pair in load("scface", folder=tmp_path)}
    pair = pairs["001_cam1_3 ~ 001_frontal"]
    assert (pair.probe, pair.gallery) == (tmp_path / "112" / "001_cam1_3.png", tmp_path / "112" / "001_frontal.png")
    assert Path(str(pairs["001_cam2_3 ~ 001_frontal"].probe)).parent.name == "surveillance_cameras_all"


def test_impostors_are_drawn_from_the_seed_and_the_probe(tmp_path: Path) -> None:
    folder = scface(tmp_path / "a", people=9)

    def impostors(seed: int) -> dict[str, str]:
        pairs = load("scface", folder=folder, seed=seed)
        return {Path(str(pair.probe)).stem: pair.subjects[1] for pair in pairs if not pair.genuine}

    assert impostors(0) == impostors(0)
    assert sum(impostors(0)[probe] != other for probe, other in impostors(1).items()) > 20
    drawn = Counter(impostors(0).values())
    assert len(drawn) == 9
    assert max(drawn.values()) < 14  # 45 draws from 9: 5 each
    before = impostors(0)
    for file in folder.rglob("00*_cam2_3.jpg"):
        file.unlink()
    assert impostors(0) == {probe: other for probe, other in before.items() if "_cam2_" not in probe}


@pytest.mark.parametrize("head", ["gallery,probe,genuine", "G,P,T"])
def test_a_protocol_takes_the_place_of_all_pairs(tmp_path: Path, head: str) -> None:
    arface(tmp_path / "pictures", suffix=".jpg")
    file = table(tmp_path, f"{head}\nm-001-01.bmp,m-001-08.bmp,1\nx/w-001-01,m-001-21.png,0\nm-001-02,m-001-09,1\n")
    pairs = load("arface", folder=tmp_path / "pictures", condition="glass", protocol=file)
    assert [(pair.id, pair.genuine, pair.subjects, pair.group) for pair in pairs] == [
        ("m-001-08 ~ m-001-01", True, ("m-001", "m-001"), "glass"),
        ("m-001-21 ~ w-001-01", False, ("m-001", "w-001"), "glass"),
        ("m-001-09 ~ m-001-02", True, ("m-001", "m-001"), "glass"),
    ]


def test_a_protocol_without_truths(tmp_path: Path) -> None:
    scface(tmp_path / "pictures")
    file = table(tmp_path, "probe,gallery\n001_cam1_1.jpg,001_frontal.jpg\n002_cam5_1.jpg,001_frontal.jpg\n")
    pairs = load("scface", folder=tmp_path / "pictures", condition="far", protocol=file)
    assert [pair.genuine for pair in pairs] == [True, False]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("m-001-01,m-001-11,1", ValueError, r"pairs\.csv, line 2: a probe 'scarf', not 'glass'"),
        ("m-001-01,w-001-08,1", ValueError, r"line 2: genuine is True, of people m-001 and w-001"),
        ("m-001-01,m-001-08,0", ValueError, r"line 2: genuine is False, of people m-001 and m-001"),
        ("m-001-01,m-009-08,1", FileNotFoundError, r"names 1 of 2 pictures that are absent, m-009-08 first.* m-001-01"),
        ("m-001-01,,1", ValueError, "line 2 has no probe"),
    ],
)
def test_a_protocol_that_contradicts_the_names(tmp_path: Path, line: str, error: Any, message: str) -> None:
    arface(tmp_path)
    file = table(tmp_path, f"gallery,probe,genuine\n{line}\n")
    with pytest.raises(error, match=message):
        load("arface", folder=tmp_path, condition="glass", protocol=file)


def test_what_is_absent_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    for name, where in (("arface", "Martinez"), ("scface", r"www\.scface\.org")):
        with pytest.raises(FileNotFoundError, match=rf"no folder .*none.*{where}"):
            load(name, folder=tmp_path / "none")
        with pytest.raises(FileNotFoundError, match=rf"no pictures of {name} in .*{where}"):
            load(name, folder=tmp_path)
        with pytest.raises(ValueError, match="condition"):
            load(name, folder=tmp_path, condition="smile")
    pictures(tmp_path, ["m-001-01.png", "m-001-08.png"])
    with pytest.raises(ValueError, match=r"arface has 1 probes 'glass' .* and 1 such people"):
        load("arface", folder=tmp_path, condition="glass")
    with pytest.raises(ValueError, match=r"arface has 0 probes 'scarf'"):
        load("arface", folder=tmp_path, condition="scarf")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv"):
        load("arface", folder=tmp_path, protocol=tmp_path / "none.csv")
