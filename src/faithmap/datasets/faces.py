"""Pairs of faces that a file lists: a CSV of one's own, LFW, CFP.

They are pictures of people, most of whom were not asked: take them only where their terms allow your use. Nothing is
downloaded, copied or written; ids are the files' own names, never their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from faithmap.datasets.base import Dataset, Pair, all_there, existing
from faithmap.datasets.files import pictures, read_text
from faithmap.datasets.protocols import (
    named_people,
    parse_lfw,
    parse_list,
    parse_numbers,
    people,
    read_csv,
)
from faithmap.datasets.registry import register


@register("pairs")
@dataclass(frozen=True)
class Pairs(Dataset[Pair]):
    r"""Pairs of one's own: a CSV file with the columns gallery, probe and genuine (or G,P,T), one line for each pair.

    Who is on them are the columns gallery_subject and probe_subject. Without them: where all files are called as LFW's
    and no pair contradicts it, ``Name_0001.jpg`` is a picture of Name; else pictures that genuine pairs join are of one
    person and each other picture is of its own, so that one person may count as several (`protocols.people`). The
    column group is the part of the protocol; others are passed over.

    Args:
        file: the CSV file, UTF-8; genuine is 1 or 0, true or false, yes or no.
        folder: where its relative paths start; by default where the file is.

    Raises:
        ValueError: the file is no such table, or has a pair twice.
        FileNotFoundError: it, the folder or pictures are not there.

    Examples:
        >>> import tempfile
        >>> from faithmap.datasets import load
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "b.png"):
        ...     Image.new("RGB", (4, 4)).save(folder / name)
        >>> _ = (folder / "pairs.csv").write_text("gallery,probe,genuine\na.png,b.png,1\n")
        >>> [(pair.id, pair.genuine) for pair in load("pairs", file=folder / "pairs.csv")]
        [('b.png ~ a.png', True)]
    """

    file: str
    folder: str | None = None

    task: ClassVar[Literal["verification"]] = "verification"

    def read(self) -> Iterator[Pair]:
        """One pair for each line."""
        path = existing(self.file, "expected a CSV file with the columns gallery, probe and genuine")
        root = path.parent
        if self.folder is not None:
            root = existing(self.folder, f"the paths in {path.name} start there", folder=True)
        rows = read_csv(path)
        genuine = [bool(row.genuine) for row in rows]
        if any(row.genuine is None for row in rows):
            raise ValueError(f"{path.name} has no column genuine (or T): 1 where both are one person, else 0")
        files = [(root / row.probe, root / row.gallery) for row in rows]
        all_there(_distinct(files), path.name)
        who = [row.subjects for row in rows if row.subjects is not None]
        if not who:
            who = named_people([(row.probe, row.gallery) for row in rows], genuine) or people(files, genuine)
        names = _short_names(dict.fromkeys(name for row in rows for name in (row.probe, row.gallery)))
        for row, (probe, gallery), subjects in zip(rows, files, who, strict=True):
            yield Pair(
                pair_id(names[row.probe], names[row.gallery]), probe, gallery, bool(row.genuine), subjects, row.group
            )


@register("lfw")
@dataclass(frozen=True)
class LFW(Dataset[Pair]):
    """Labeled Faces in the Wild: 6000 pairs in 10 folds; the group is the fold.

    The folder holds ``Name/Name_0001.jpg`` as published, or ``Name_0001.jpg`` itself, or crops of either kind as PNG.

    Get it at http://vis-www.cs.umass.edu/lfw (images and ``pairs.txt``), for research, as its page says.

    Args:
        folder: the pictures.
        pairs: LFW's ``pairs.txt``, or ``pairsDevTest.txt``; None: ``pairs.txt`` in the folder.

    Raises:
        ValueError: the file is no such list; or a picture is there twice.
        FileNotFoundError: the folder, the file or pictures are not there.

    Source: Huang et al., Labeled Faces in the Wild, UMass Amherst TR 07-49 (2007).

    Examples:
        >>> from faithmap.datasets import load
        >>> load("lfw", folder="lfw")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder lfw: get LFW's images and pairs.txt at ...
    """

    folder: str
    pairs: str | None = None

    task: ClassVar[Literal["verification"]] = "verification"

    def read(self) -> Iterator[Pair]:
        """The pairs in the order of the file: of each fold first the genuine ones."""
        hint = "get LFW's images and pairs.txt at http://vis-www.cs.umass.edu/lfw"
        root = existing(self.folder, hint, folder=True)
        path = existing(root / "pairs.txt" if self.pairs is None else self.pairs, hint)
        pairs = parse_lfw(read_text(path), path.name)
        sides = dict.fromkeys(side for pair in pairs for side in (pair.probe, pair.gallery))
        stems = {f"{name}_{number:04d}": (name, number) for name, number in sides}
        found = by_name((path for path in pictures(root, depth=2) if path.stem in stems), lambda path: path.stem)
        file = {side: found.get(stem, root / side[0] / f"{stem}.jpg") for stem, side in stems.items()}
        all_there(list(file.values()), path.name)
        for pair in pairs:
            probe, gallery = file[pair.probe], file[pair.gallery]
            subjects = (pair.probe[0], pair.gallery[0])
            yield Pair(pair_id(probe.stem, gallery.stem), probe, gallery, pair.genuine, subjects, str(pair.fold))


@register("cfp")
@dataclass(frozen=True)
class CFP(Dataset[Pair]):
    """Celebrities in Frontal-Profile: 7000 pairs in 10 folds; the gallery is frontal, and the group is the fold.

    Get it at http://www.cfpw.io, for research, as its page says.

    Args:
        folder: what holds ``Protocol`` and ``Data``.
        split: "FF": the probes are frontal too; "FP": they are profiles.
        images: another folder with ``001/frontal/01.jpg`` and so on, such as aligned crops, as JPEG or PNG; None:
            ``Data/Images``.

    Raises:
        ValueError: a file of the protocol is not what it should be.
        FileNotFoundError: a file is not there.

    Source: Sengupta et al., Frontal to Profile Face Verification in the Wild, WACV 2016.

    Examples:
        >>> from faithmap.datasets import load
        >>> load("cfp", folder="cfp-dataset", split="FP")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder cfp-dataset: get CFP at http://www.cfpw.io...
    """

    folder: str
    split: Literal["FF", "FP"] = "FP"
    images: str | None = None

    task: ClassVar[Literal["verification"]] = "verification"

    def read(self) -> Iterator[Pair]:
        """The folds in order, of each first the genuine pairs."""
        hint = "get CFP at http://www.cfpw.io, a folder with Protocol and Data"
        root = existing(self.folder, hint, folder=True)
        images = existing(root / "Data" / "Images" if self.images is None else self.images, hint, folder=True)
        lists = {side: existing(root / "Protocol" / f"Pair_list_{side}.txt", hint) for side in set(self.split)}
        numbered = {side: _listed(path, images) for side, path in lists.items()}
        gallery, probes = (numbered[side] for side in self.split)
        folds = existing(root / "Protocol" / "Split" / self.split, hint, folder=True)
        pairs = []
        for fold in sorted(entry for entry in folds.iterdir() if entry.name.isdecimal()):
            for kind in ("same", "diff"):
                path = existing(fold / f"{kind}.txt", hint)
                name = f"{self.split}/{fold.name}/{path.name}"
                for k, (i, j) in enumerate(parse_numbers(read_text(path), name), 1):
                    if i not in gallery or j not in probes:
                        raise ValueError(f"{name} names {i},{j}: there is no such number in its Pair_list")
                    subjects = (probes[j].parts[-3], gallery[i].parts[-3])
                    if (subjects[0] == subjects[1]) != (kind == "same"):
                        raise ValueError(f"{name} names {i},{j}, which are people {subjects[1]} and {subjects[0]}")
                    id = f"{self.split}-{fold.name}-{kind}-{k:03d}"
                    pairs.append(Pair(id, probes[j], gallery[i], kind == "same", subjects, fold.name))
        all_there(_distinct((pair.probe, pair.gallery) for pair in pairs), f"CFP's {self.split}")
        yield from pairs


def pair_id(probe: str, gallery: str) -> str:
    """What tables call the pair of these two."""
    return f"{probe} ~ {gallery}"


def by_name(
    paths: Iterable[Path], name: Callable[[Path], str], rank: Callable[[Path], int] = lambda path: 0
) -> dict[str, Path]:
    """Pictures by what their names say; of several that say the same the one of the lowest rank.

    Raises:
        ValueError: two are of one name and rank.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths, key=rank):
        other = found.setdefault(name(path), path)
        if other != path and rank(other) == rank(path):
            raise ValueError(f"{path.stem} is there twice, as {other} and {path}: give the folder of one of them")
    return found


def _distinct(pairs: Iterable[tuple[Any, Any]]) -> list[Path]:
    return list(dict.fromkeys(file for pair in pairs for file in pair))


def _short_names(given: Iterable[str]) -> dict[str, str]:
    """Each path's last part, or as many of its last parts as tell all of them apart."""
    paths = {name: PurePath(name).parts for name in given}
    for count in range(1, max(map(len, paths.values()), default=1)):
        short = {name: "/".join(parts[-count:]) for name, parts in paths.items()}
        if len(set(short.values())) == len(set(paths.values())):
            return short
    return {name: "/".join(parts) for name, parts in paths.items()}


def _listed(path: Path, images: Path) -> dict[int, Path]:
    """CFP's pictures by number, with the suffix that the first of them has."""
    names = parse_list(read_text(path), path.name)
    files = {i: images.joinpath(*PurePath(name).parts[-3:]) for i, name in names.items()}
    first = next(iter(files.values()), path)
    if first.is_file() or not first.parent.is_dir():
        return files
    suffix = next((other.suffix for other in pictures(first.parent) if other.stem == first.stem), first.suffix)
    return {i: file.with_suffix(suffix) for i, file in files.items()}
