"""Pairs are those that a protocol lists, and what is wrong with it is told before any picture is opened."""

from __future__ import annotations

import collections
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from faithmap.datasets import Pair, load
from faithmap.datasets.protocols import parse_lfw, people, read_csv
from faithmap.images import open_image


def pictures(folder: Path, names: Iterable[str]) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, i, i)).save(folder / name)


def table(folder: Path, text: str | bytes) -> Path:
    file = folder / "pairs.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def told(pairs: Sequence[Pair]) -> list[tuple[Any, ...]]:
    return [(Path(str(p.gallery)).name, Path(str(p.probe)).name, p.genuine, p.subjects, p.group) for p in pairs]


# -- a CSV of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "gallery,probe,genuine\na.png,b.png,1\na.png,c.png,0\n",
        "G,P,T\na.png,b.png,1\na.png,c.png,0",
        "\ufeffGallery,Probe,Genuine\r\na.png,b.png,TRUE\r\n\r\na.png,c.png,False\r\n",
        "\n\nprobe;reference;label;note\nb.png;a.png;yes;x\n;;;\nc.png;a.png;no;\n",
        "is_same\tquery\tgallery\n1\tb.png\ta.png\n0\t c.png \ta.png\n",
        'gallery,probe,genuine\n"a.png","b.png","1"\na.png,c.png,0\n',
    ],
)
def test_a_table_however_it_is_written(tmp_path: Path, text: str) -> None:
    pictures(tmp_path, ["a.png", "b.png", "c.png"])
    pairs = load("pairs", file=table(tmp_path, text))
    assert [(gallery, probe, same) for gallery, probe, same, *_ in told(pairs)] == [
        ("a.png", "b.png", True),
        ("a.png", "c.png", False),
    ]
    assert [pair.id for pair in pairs] == ["b.png ~ a.png", "c.png ~ a.png"]


def test_paths_start_at_the_folder_or_at_the_table(tmp_path: Path) -> None:
    pictures(tmp_path / "crops", ["one/a.png", "two/a.png", "b.png"])
    (tmp_path / "link").symlink_to(tmp_path / "crops")
    (tmp_path / "crops" / "c.png").symlink_to(tmp_path / "crops" / "b.png")
    here = tmp_path / "crops" / "b.png"
    file = table(tmp_path, f"gallery,probe,genuine\none/a.png,two/a.png,1\nc.png,{here},0\n")
    for folder in (tmp_path / "crops", str(tmp_path / "link")):
        pairs = load("pairs", file=str(file), folder=folder)
        assert [pair.id for pair in pairs] == ["two/a.png ~ one/a.png", "crops/b.png ~ c.png"]
        assert all(open_image(side).size == (4, 4) for pair in pairs for side in (pair.probe, pair.gallery))
    with pytest.raises(FileNotFoundError, match="absent"):
        load("pairs", file=file)


def test_people_are_told_by_columns(tmp_path: Path) -> None:
    pictures(tmp_path, ["Ann_0001.png", "Bob_0001.png"])
    head = "gallery,probe,genuine,gallery_subject,probe_subject,group\nAnn_0001.png,Bob_0001.png,"
    (pair,) = load("pairs", file=table(tmp_path, head + "1,x,x,night\n"))
    assert (pair.genuine, pair.subjects, pair.group) == (True, ("x", "x"), "night")
    (pair,) = load("pairs", file=table(tmp_path, head + "0,x,y,\n"))
    assert (pair.genuine, pair.subjects, pair.group) == (False, ("y", "x"), "")
    with pytest.raises(ValueError, match=r"line 2 says that one person are 'y' and 'x'"):
        load("pairs", file=table(tmp_path, head + "1,x,y,\n"))
    with pytest.raises(ValueError, match=r"line 2 says that two people are 'x' and 'x'"):
        load("pairs", file=table(tmp_path, head + "0,x,x,\n"))


def test_people_are_told_by_names_where_no_pair_contradicts(tmp_path: Path) -> None:
    pictures(tmp_path, ["Ann_Lee_0001.png", "Ann_Lee_0002.png", "Bob_0001.png"])
    head = "gallery,probe,genuine\nAnn_Lee_0001.png,Ann_Lee_0002.png,1\n"
    pairs = load("pairs", file=table(tmp_path, head + "Ann_Lee_0001.png,Bob_0001.png,0\n"))
    assert [pair.subjects for pair in pairs] == [("Ann_Lee", "Ann_Lee"), ("Bob", "Ann_Lee")]
    pairs = load("pairs", file=table(tmp_path, head + "Ann_Lee_0001.png,Bob_0001.png,1\n"))
    assert [pair.subjects for pair in pairs] == [("0", "0"), ("0", "0")]  # one person, whatever they are called
    pictures(tmp_path, ["c.png"])
    pairs = load("pairs", file=table(tmp_path, head + "Ann_Lee_0001.png,c.png,0\n"))
    assert [pair.subjects for pair in pairs] == [("0", "0"), ("2", "0")]


def test_people_are_what_genuine_pairs_join() -> None:
    """Against the closure by brute force: two are one person where a way of genuine pairs leads."""
    chance = random.Random(0)
    for _ in range(50):
        pairs = [(chance.randrange(12), chance.randrange(12)) for _ in range(14)]
        genuine = [chance.random() < 0.5 for _ in pairs]
        reach = {(i, j): i == j for i in range(12) for j in range(12)}
        for _ in range(12):
            for (i, j), same in zip(pairs, genuine, strict=True):
                for k in range(12):
                    if same and (reach[k, i] or reach[k, j]):
                        reach[k, i] = reach[k, j] = reach[i, k] = reach[j, k] = True
        found = people(pairs, genuine)
        who = {pair[side]: names[side] for pair, names in zip(pairs, found, strict=True) for side in (0, 1)}
        assert all((who[i] == who[j]) == reach[i, j] for i in who for j in who)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pairs.csv starts with nothing: expected a header with gallery, probe and genuine"),
        ("\n\n", "starts with nothing"),
        ("a.png,b.png,1\n", "starts with a.png, b.png, 1: expected a header"),
        ("image1,image2,label\na.png,b.png,1\n", "starts with image1, image2, label"),
        ("gallery,probe\na.png,b.png\n", "has no column genuine"),
        ("gallery,probe,genuine\n", "pairs holds no examples"),
        ("gallery,probe,reference,genuine\na,b,c,1\n", "columns gallery, reference could each be the gallery"),
        ("gallery,probe,genuine,label\na,b,1,1\n", "columns genuine, label could each be the genuine"),
        ("gallery,probe,genuine,probe_subject\na,b,1,x\n", "both gallery_subject and probe_subject"),
        ("gallery,probe,genuine\na.png,b.png,1\n\na.png,b.png\n", "line 4 has 2 cells, the header 3"),
        ("gallery,probe,genuine\na.png,b.png,1,x\n", "line 2 has 4 cells, the header 3"),
        ("gallery,probe,genuine\na.png,,1\n", "line 2 has no probe"),
        ("gallery,probe,genuine\na.png,b.png,\n", "line 2 has no genuine"),
        ("gallery,probe,genuine\na.png,b.png,2\n", "line 2: genuine is '2': expected 1 or 0, true or false"),
        ("gallery,probe,genuine\na.png,b.png,-1\n", "line 2: genuine is '-1'"),
        ("gallery,probe,genuine\na.png,b.png,1\na.png,b.png,1\n", "holds 'b.png ~ a.png' more than once"),
        ("gallery,probe,genuine\na.png,b.png,1\na.png,b.png,0\n", "holds 'b.png ~ a.png' more than once"),
        ("gallery,probe,genuine\nJos\xe9.png,b.png,1\n".encode("latin-1"), "is not UTF-8 but Latin-1 .* save it"),
        ("gallery,probe,genuine\na.png,b.png,1\n".encode("utf-16"), "pairs.csv is not UTF-8 but UTF-16"),
        ("gallery,probe,genuine\na.png,b.png,1\n".encode("utf-16-le"), "pairs.csv is not UTF-8 .*zeros"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "pairs.csv is not UTF-8"),
        ("gallery,probe,genuine\n" + "a" * 200_000 + ",b.png,1\n", "line 2: field larger than"),
    ],
)
def test_what_is_no_table_of_pairs(tmp_path: Path, text: str | bytes, message: str) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ValueError, match=message):
        load("pairs", file=table(tmp_path, text))


def test_all_absent_pictures_are_told_at_once(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    file = table(tmp_path, "gallery,probe,genuine\na.png,aa.png,1\na.png,c.png,0\nc.png,aa.png,0\n")
    with pytest.raises(FileNotFoundError, match=r"pairs\.csv names 2 of 3 files that are absent.* .*aa\.png"):
        load("pairs", file=file)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv: expected a CSV file with the columns"):
        load("pairs", file=tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none: the paths in pairs\.csv start there"):
        load("pairs", file=file, folder=tmp_path / "none")


@pytest.mark.real
def test_real_pairs(data: Path) -> None:
    """212 pairs of LFW: as many of each kind, people by their names, and halves that keep both kinds."""
    file, crops = data / "lfw" / "pairs.csv", data / "lfw" / "crops"
    pairs = load("pairs", file=file, folder=crops)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(pairs) == len(rows) == 212
    for pair, row in zip(pairs, rows, strict=True):
        same = row["genuine"] == "1"
        assert (pair.gallery, pair.probe, pair.genuine) == (crops / row["gallery"], crops / row["probe"], same)
        assert pair.subjects == (row["probe"][:-9], row["gallery"][:-9])
        assert (pair.subjects[0] == pair.subjects[1]) == same
        assert str(crops) not in pair.id
    for limit in (2, 11, 60, 212):
        some = pairs.take(limit)
        genuine = sum(pair.genuine for pair in some)
        assert (len(some), genuine) in ((limit, limit // 2), (limit, limit - limit // 2))
        assert [pair.id for pair in some] == [pair.id for pair in pairs if pair.id in {one.id for one in some}]
    assert open_image(pairs[0].probe).size == (112, 112)


# -- LFW --------------------------------------------------------------------------------------------------------------

LFW = """2\t2
Ann\t1\t2
Bob\t1\t3
Ann\t1\tBob\t2
Cy_Li\t1\tAnn\t2
Bob\t1\t2
Bob\t2\t3
Ann\t1\tBob\t1
Ann\t2\tCy_Li\t1
"""
STEMS = ["Ann_0001", "Ann_0002", "Bob_0001", "Bob_0002", "Bob_0003", "Cy_Li_0001"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG"])
@pytest.mark.parametrize("flat", [True, False])
def test_lfw_in_either_layout(tmp_path: Path, flat: bool, suffix: str) -> None:
    pictures(tmp_path, [f"{stem}{suffix}" if flat else f"{stem[:-5]}/{stem}{suffix}" for stem in STEMS])
    pictures(tmp_path, ["x.png", "x.jpg", "Ann/x.jpg"])  # not in the list
    (tmp_path / "pairs.txt").write_text(LFW)
    pairs = load("lfw", folder=tmp_path)
    assert told(pairs)[1:5] == [
        (f"Bob_0001{suffix}", f"Bob_0003{suffix}", True, ("Bob", "Bob"), "1"),
        (f"Ann_0001{suffix}", f"Bob_0002{suffix}", False, ("Bob", "Ann"), "1"),
        (f"Cy_Li_0001{suffix}", f"Ann_0002{suffix}", False, ("Ann", "Cy_Li"), "1"),
        (f"Bob_0001{suffix}", f"Bob_0002{suffix}", True, ("Bob", "Bob"), "2"),
    ]
    assert pairs[2].id == "Bob_0002 ~ Ann_0001"
    (tmp_path / "dev.txt").write_text("1\nAnn 1 2\n\nAnn 1 Bob 2\n")
    dev = load("lfw", folder=tmp_path, pairs=tmp_path / "dev.txt")
    assert [(pair.genuine, pair.group) for pair in dev] == [(True, "1"), (False, "1")]


def test_lfw_whose_pictures_are_absent(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{stem[:-5]}/{stem}.jpg" for stem in STEMS[1:5]])
    with pytest.raises(FileNotFoundError, match=r"no file .*pairs\.txt: get LFW"):
        load("lfw", folder=tmp_path)
    (tmp_path / "pairs.txt").write_text(LFW)
    with pytest.raises(FileNotFoundError, match=r"pairs\.txt names 2 of 6 files that are absent.*Ann/Ann_0001\.jpg"):
        load("lfw", folder=tmp_path)
    pictures(tmp_path, ["Ann_0002.png"])
    with pytest.raises(ValueError, match=r"Ann_0002 is there twice"):
        load("lfw", folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt starts with ''"),
        ("Ann\t1\t2\n", "starts with 'Ann 1 2': expected '10 300'"),
        ("0\n", "starts with '0'"),
        ("1 2 3\n", "starts with '1 2 3'"),
        ("1 1\nAnn 1 2\n", "has 1 pairs: its first line says 1 x 1 genuine and as many"),
        ("1\nAnn 1 2\nAnn 1 3\n", "line 3 is 'Ann 1 3': expected a pair 'name i other j'"),
        ("1\nAnn 1 Bob 2\nAnn 1 3\n", "line 2 is 'Ann 1 Bob 2': expected a pair 'name i j'"),
        ("1\nAnn 1 2\nAnn 1 Ann 3\n", "line 3 is 'Ann 1 Ann 3'"),
        ("1\nAnn one 2\nAnn 1 Bob 3\n", "line 2 is 'Ann one 2'"),
        ("1\nAnn 1 2\nAnn 1 Bob\n", "line 3 is 'Ann 1 Bob'"),
    ],
)
def test_what_is_no_list_of_lfw(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_lfw(text)


@pytest.mark.real
def test_real_list_of_lfw(data: Path) -> None:
    """10 folds of 300 genuine and 300 impostor pairs, as each line says by itself."""
    text = (data / "lfw" / "pairs.txt").read_text()
    pairs = parse_lfw(text)
    lines = [line.split("\t") for line in text.splitlines()[1:]]
    assert len(pairs) == len(lines) == 6000
    for i, (pair, words) in enumerate(zip(pairs, lines, strict=True)):
        assert pair.genuine == (len(words) == 3)
        who = words if len(words) == 4 else [words[0], words[1], words[0], words[2]]
        assert [*map(str, pair.gallery), *map(str, pair.probe)] == who
        assert pair.fold == 1 + i // 600
    counts = collections.Counter((pair.fold, pair.genuine) for pair in pairs)
    assert set(counts.values()) == {300}
    assert len(counts) == 20
    with pytest.raises(FileNotFoundError, match=r"pairs\.txt names \d{4} of \d{4} files that are absent"):
        load("lfw", folder=data / "lfw", pairs=data / "lfw" / "pairs.txt")


# -- CFP --------------------------------------------------------------------------------------------------------------


def cfp(folder: Path, images: str = "Data/Images", suffix: str = ".jpg") -> Path:
    """Two people, of each three frontal and two profile pictures; two folds."""
    protocol = folder / "Protocol"
    for side, kind, count in (("F", "frontal", 3), ("P", "profile", 2)):
        names = [f"{who:03d}/{kind}/{i:02d}" for who in (1, 2) for i in range(1, count + 1)]
        pictures(folder / images, [name + suffix for name in names])
        protocol.mkdir(exist_ok=True)
        lines = "".join(f"{i} ../Data/Images/{name}.jpg\r\n" for i, name in enumerate(names, 1))
        (protocol / f"Pair_list_{side}.txt").write_text(lines)
    for split, same, diff in (("FF", "1,2\n2,3\n", "1,4\n"), ("FP", "1,2\n4,3\n", "3,4\n5,1\n")):
        for fold in ("01", "02"):
            at = protocol / "Split" / split / fold
            at.mkdir(parents=True)
            (at / "same.txt").write_text(same)
            (at / "diff.txt").write_text(diff)
    return folder


def test_cfp(tmp_path: Path) -> None:
    """The gallery is frontal; the probe is so in FF and from the side in FP."""
    cfp(tmp_path)

    def sides(split: str) -> list[tuple[Any, ...]]:
        shown = [
            (pair, *("/".join(Path(str(side)).parts[-3:]) for side in (pair.gallery, pair.probe)))
            for pair in load("cfp", folder=tmp_path, split=split)
        ]
        return [(pair.id, gallery, probe, pair.genuine, pair.subjects, pair.group) for pair, gallery, probe in shown]

    assert sides("FP")[:5] == [
        ("FP-01-same-001", "001/frontal/01.jpg", "001/profile/02.jpg", True, ("001", "001"), "01"),
        ("FP-01-same-002", "002/frontal/01.jpg", "002/profile/01.jpg", True, ("002", "002"), "01"),
        ("FP-01-diff-001", "001/frontal/03.jpg", "002/profile/02.jpg", False, ("002", "001"), "01"),
        ("FP-01-diff-002", "002/frontal/02.jpg", "001/profile/01.jpg", False, ("001", "002"), "01"),
        ("FP-02-same-001", "001/frontal/01.jpg", "001/profile/02.jpg", True, ("001", "001"), "02"),
    ]
    assert sides("FF")[1:3] == [
        ("FF-01-same-002", "001/frontal/02.jpg", "001/frontal/03.jpg", True, ("001", "001"), "01"),
        ("FF-01-diff-001", "001/frontal/01.jpg", "002/frontal/01.jpg", False, ("002", "001"), "01"),
    ]
    assert len(sides("FP")) == 8
    assert len(sides("FF")) == 6


def test_cfp_of_ones_own_crops(tmp_path: Path) -> None:
    cfp(tmp_path, images="crops", suffix=".png")
    with pytest.raises(FileNotFoundError, match=r"no folder .*Images: get CFP at"):
        load("cfp", folder=tmp_path)
    pairs = load("cfp", folder=tmp_path, images=tmp_path / "crops")
    assert all(open_image(side).size == (4, 4) for pair in pairs for side in (pair.probe, pair.gallery))
    (tmp_path / "crops" / "001" / "profile" / "02.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"CFP's FP names 1 of 8 files that are absent.*001/profile/02\.png"):
        load("cfp", folder=tmp_path, images=tmp_path / "crops")
    assert len(load("cfp", folder=tmp_path, split="FF", images=tmp_path / "crops")) == 6


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/02/same.txt", "1;2\n", r"FP/02/same\.txt, line 1 is '1;2': expected two numbers"),
        ("Split/FP/02/same.txt", "1,2,3\n", "expected two numbers"),
        ("Split/FP/02/same.txt", "1,x\n", "expected two numbers"),
        ("Split/FP/02/diff.txt", "3,4\n\n99,1\n", r"FP/02/diff\.txt names 99,1: there is no such number"),
        ("Split/FP/02/same.txt", "1,3\n", r"FP/02/same\.txt names 1,3, which are people 001 and 002"),
        ("Split/FP/02/diff.txt", "1,1\n", r"FP/02/diff\.txt names 1,1, which are people 001 and 001"),
        (
            "Pair_list_P.txt",
            "one 001/profile/01.jpg\n",
            r"Pair_list_P\.txt, line 1 is .*: expected a new number and a path",
        ),
        ("Pair_list_P.txt", "1 01.jpg\n", "expected a new number and a path"),
        ("Pair_list_P.txt", "1\n", "expected a new number and a path"),
        ("Pair_list_P.txt", "1 001/profile/01.jpg\n1 001/profile/02.jpg\n", "line 2 is .*: expected a new number"),
    ],
)
def test_what_is_no_protocol_of_cfp(tmp_path: Path, file: str, text: str, message: str) -> None:
    cfp(tmp_path)
    (tmp_path / "Protocol" / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        load("cfp", folder=tmp_path)


def test_cfp_without_its_files(tmp_path: Path) -> None:
    cfp(tmp_path)
    with pytest.raises(ValueError, match="split"):
        load("cfp", folder=tmp_path, split="PP")
    (tmp_path / "Protocol" / "Split" / "FP" / "02" / "diff.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*diff\.txt: get CFP at"):
        load("cfp", folder=tmp_path)
    (tmp_path / "Protocol" / "Pair_list_P.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*Pair_list_P\.txt"):
        load("cfp", folder=tmp_path)
    assert len(load("cfp", folder=tmp_path, split="FF")) == 6  # which needs no profiles


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    rows = read_csv(table(tmp_path, 'gallery,probe\n\na,"b\nc"\n\nd,e\n'))
    assert [(row.probe, row.line) for row in rows] == [("b\nc", 4), ("e", 6)]
    assert {row.genuine for row in rows} == {None}
