"""What data sets are read from: pictures in folders, texts, and the cells of tables."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from faithmap.images import FORMATS

MAX_BYTES = 512 * 2**20


def pictures(folder: Path, depth: int = 1) -> list[Path]:
    """The files of a folder that are pictures by their suffix, sorted by name, without hidden ones.

    Args:
        folder: which; links are followed.
        depth: 2 for those in its folders too, behind its own, and so on.
    """
    with os.scandir(folder) as entries:
        names = [one.name for one in entries if not one.is_dir() and one.name[0] != "."]  # a broken link is one too
    found = [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in _suffixes()]
    below = folders(folder) if depth > 1 else []
    return found + [path for within in below for path in pictures(within, depth - 1)]


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(one.name for one in entries if one.is_dir()) if name[0] != "."]


def read_text(path: Path) -> str:
    """What a text file holds, which is UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is something else, or too long for a text.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: a text has at most {MAX_BYTES:,}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        likely = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1 or Windows-1252, as it seems"
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8 but {likely}: byte {data[error.start]:#04x} in line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} is not UTF-8 but UTF-16, as it seems, for it holds zeros: save it as UTF-8")
    return text


class Line(NamedTuple):
    """A row of a table."""

    where: str
    """The file's name and line, for messages."""
    number: int
    cells: list[str]


def read_cells(path: Path) -> Iterator[Line]:
    r"""The rows of a CSV file, its header first, without blank ones; cells without the space around them.

    Args:
        path: UTF-8; separated by commas, semicolons or tabs, as its header is.

    Raises:
        ValueError: the file is no such table; the message names the line.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "table.csv"
        >>> _ = file.write_text("image;label\n\na.png; 3\n")
        >>> [(line.number, line.cells) for line in read_cells(file)]
        [(1, ['image', 'label']), (3, ['a.png', '3'])]
    """
    text = read_text(path)
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {reader.line_num}: {error}") from error
        if cells is None:
            return
        line = Line(f"{path.name}, line {reader.line_num}", reader.line_num, [cell.strip() for cell in cells])
        if not any(line.cells):
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise ValueError(f"{line.where} has {len(cells)} cells, the header {width}")
        yield line


@cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
