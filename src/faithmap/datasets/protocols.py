"""Which pictures make pairs, as files of protocols say it; no picture is opened here."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from faithmap.datasets.files import read_cells

COLUMNS = {
    "gallery": ("gallery", "g", "reference"),
    "probe": ("probe", "p", "query"),
    "genuine": ("genuine", "t", "label", "same", "is_same"),
    "gallery_subject": ("gallery_subject",),
    "probe_subject": ("probe_subject",),
    "group": ("group",),
}
"""What each column of a file of pairs may be called, in any case."""

TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Row(NamedTuple):
    """A pair of a file of pairs."""

    gallery: str
    probe: str
    genuine: bool | None
    """None where the file has no such column."""
    subjects: tuple[str, str] | None
    """Who is on the probe and on the gallery; None where the file has no such columns."""
    group: str
    line: int


def read_csv(path: Path) -> list[Row]:
    r"""The pairs of a CSV file with the columns gallery and probe, and others of `COLUMNS`; blank lines are skipped.

    Args:
        path: UTF-8, with or without a byte order mark; separated by commas, semicolons or tabs, as its header is.

    Raises:
        ValueError: the file is no such table; the message names the line.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "pairs.csv"
        >>> _ = file.write_text("G,P,T\na.png,b.png,1\n")
        >>> read_csv(file)
        [Row(gallery='a.png', probe='b.png', genuine=True, subjects=None, group='', line=2)]
    """
    lines = read_cells(path)
    first = next(lines, None)
    at = _columns(first.cells if first else [], path.name)
    return [_row({name: line.cells[i] for name, i in at.items()}, line.where, line.number) for line in lines]


def _columns(header: Sequence[str], file: str) -> dict[str, int]:
    """Where each known column is."""
    names = [name.lower() for name in header]
    at = {}
    for column, known in COLUMNS.items():
        found = [i for i, name in enumerate(names) if name in known]
        if len(found) > 1:
            raise ValueError(f"{file}: columns {', '.join(header[i] for i in found)} could each be the {column}")
        if found:
            at[column] = found[0]
    if "gallery" not in at or "probe" not in at or ("gallery_subject" in at) != ("probe_subject" in at):
        raise ValueError(
            f"{file} starts with {', '.join(header)[:80] or 'nothing'}: expected a header with gallery, probe and "
            "genuine (or G,P,T), and if you know them both gallery_subject and probe_subject, and group"
        )
    return at


def _row(cells: Mapping[str, str], where: str, line: int) -> Row:
    if empty := [name for name, cell in cells.items() if not cell and name != "group"]:
        raise ValueError(f"{where} has no {empty[0]}")
    genuine = None
    if "genuine" in cells and (genuine := TRUTHS.get(cells["genuine"].lower())) is None:
        raise ValueError(f"{where}: genuine is {cells['genuine']!r}: expected 1 or 0, true or false, yes or no")
    subjects = (cells["probe_subject"], cells["gallery_subject"]) if "probe_subject" in cells else None
    if genuine is not None and subjects is not None and genuine != (subjects[0] == subjects[1]):
        said = "one person" if genuine else "two people"
        raise ValueError(f"{where} says that {said} are {subjects[0]!r} and {subjects[1]!r}")
    return Row(cells["gallery"], cells["probe"], genuine, subjects, cells.get("group", ""), line)


class LFWPair(NamedTuple):
    """A line of LFW's pairs: two pictures (name, number), and in which fold it stands."""

    gallery: tuple[str, int]
    probe: tuple[str, int]
    fold: int

    @property
    def genuine(self) -> bool:
        """Whether both are of one person."""
        return self.gallery[0] == self.probe[0]


def parse_lfw(text: str, name: str = "pairs.txt") -> list[LFWPair]:
    r"""The pairs of LFW's ``pairs.txt``, or of one like it.

    The first line says how many folds there are and how many pairs of each kind a fold has, or in ``pairsDevTest.txt``
    only the latter. Each fold is its genuine pairs, ``name i j``, and then its impostors, ``name i name j``.

    Args:
        text: what is in the file.
        name: how messages call it.

    Raises:
        ValueError: a line is no pair, or their number is not what the first line says.

    Examples:
        >>> [(pair.genuine, pair.probe) for pair in parse_lfw("1\nAnn 1 2\nAnn 1 Bob 3")]
        [(True, ('Ann', 2)), (False, ('Bob', 3))]
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    head = lines[0][1] if lines else []
    if len(head) not in (1, 2) or not all(word.isdecimal() and int(word) > 0 for word in head):
        raise ValueError(
            f"{name} starts with {' '.join(head)[:80]!r}: expected '10 300' (folds, pairs of each kind) or '500'"
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else map(int, head)
    if len(lines) - 1 != folds * each * 2:
        raise ValueError(
            f"{name} has {len(lines) - 1} pairs: its first line says {folds} x {each} genuine and as many impostors"
        )
    pairs = []
    for i, (number, words) in enumerate(lines[1:]):
        wanted = "name i j" if i // each % 2 == 0 else "name i other j"
        match words:
            case [who, first, second] if i // each % 2 == 0:
                other = who
            case [who, first, other, second] if i // each % 2 == 1 and who != other:
                pass
            case _:
                raise ValueError(f"{name}, line {number} is {' '.join(words)[:80]!r}: expected a pair {wanted!r}")
        if not (first.isdecimal() and second.isdecimal()):
            raise ValueError(f"{name}, line {number} is {' '.join(words)[:80]!r}: expected a pair {wanted!r}")
        pairs.append(LFWPair((who, int(first)), (other, int(second)), i // (2 * each) + 1))
    return pairs


def parse_numbers(text: str, name: str) -> list[tuple[int, int]]:
    r"""Lines ``i,j`` of CFP's ``same.txt`` and ``diff.txt``.

    Raises:
        ValueError: a line is something else.

    Examples:
        >>> parse_numbers("1,11\n2,12\n", "same.txt")
        [(1, 11), (2, 12)]
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            words = [word.strip() for word in line.split(",")]
            if len(words) != 2 or not all(word.isdecimal() for word in words):
                raise ValueError(f"{name}, line {number} is {line[:80]!r}: expected two numbers, '1,11'")
            pairs.append((int(words[0]), int(words[1])))
    return pairs


def parse_list(text: str, name: str) -> dict[int, str]:
    """Lines ``number path`` of CFP's ``Pair_list_F.txt`` and ``Pair_list_P.txt``.

    Raises:
        ValueError: a line is something else, or a number comes twice.

    Examples:
        >>> parse_list("1 ../Data/Images/001/frontal/01.jpg", "Pair_list_F.txt")
        {1: '../Data/Images/001/frontal/01.jpg'}
    """
    paths: dict[int, str] = {}
    for line_number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            number, path = (*line.split(maxsplit=1), "")[:2]
            if not number.isdecimal() or len(PurePath(path).parts) < 3 or int(number) in paths:
                raise ValueError(
                    f"{name}, line {line_number} is {line[:80]!r}: expected a new number and a path, "
                    "'1 ../Data/Images/001/frontal/01.jpg'"
                )
            paths[int(number)] = path.strip()
    return paths


def named_people(pictures: Sequence[tuple[str, str]], genuine: Sequence[bool]) -> list[tuple[str, str]] | None:
    """Who is on pictures that are called as LFW's: ``Name_0001.jpg`` is of Name.

    Args:
        pictures: the files of each pair.
        genuine: whether they show one person.

    Returns:
        The names of each pair; None if a file is called otherwise, or a name contradicts a pair.

    Examples:
        >>> named_people([("Ann_Lee_0001.png", "Ann_Lee_0002.png")], [True])
        [('Ann_Lee', 'Ann_Lee')]
        >>> named_people([("frame_0001.png", "frame_0002.png")], [False]) is None
        True
    """
    found = []
    for pair, same in zip(pictures, genuine, strict=True):
        a, b = (re.fullmatch(r"(.+)_\d{4}", Path(file).stem) for file in pair)
        if a is None or b is None or (a[1] == b[1]) != same:
            return None
        found.append((a[1], b[1]))
    return found


def people(pictures: Sequence[tuple[Hashable, Hashable]], genuine: Sequence[bool]) -> list[tuple[str, str]]:
    """Who may be on pictures of unknown people: pictures that genuine pairs join are of one, each other is its own.

    Two people are never taken for one; one person may be taken for several, whose pictures no genuine pair joins.

    Args:
        pictures: the two pictures of each pair: anything that is equal for the same picture.
        genuine: whether they show one person.

    Returns:
        A number, as text, for each picture's person.

    Examples:
        >>> people([("a", "b"), ("c", "b"), ("d", "a")], [True, True, False])
        [('0', '0'), ('0', '0'), ('3', '0')]
    """
    number = {picture: i for i, picture in enumerate(dict.fromkeys(one for pair in pictures for one in pair))}
    leader = list(range(len(number)))

    def led(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]  # halves the way for the next
            i = leader[i]
        return i

    for (a, b), same in zip(pictures, genuine, strict=True):
        if same:
            low, high = sorted((led(number[a]), led(number[b])))
            leader[high] = low
    return [(str(led(number[a])), str(led(number[b]))) for a, b in pictures]
