"""Pairs of faces under conditions that files' names tell: AR Face and SCface.

Their pictures are given to researchers on request alone: keep to what you signed.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, Literal, NamedTuple

import torch

from faithmap.datasets.base import Dataset, Pair, existing
from faithmap.datasets.faces import by_name, pair_id
from faithmap.datasets.files import pictures
from faithmap.datasets.protocols import read_csv
from faithmap.datasets.registry import register
from faithmap.sampling import generators


class Shot(NamedTuple):
    """A picture and what its name says of it."""

    file: Path
    person: str
    condition: str
    """"gallery", a condition of the data set, or empty."""


@dataclass(frozen=True)
class _Conditions(Dataset[Pair]):
    """One gallery picture of each person, and probes under a condition."""

    task: ClassVar[Literal["verification"]] = "verification"
    where: ClassVar[str]
    """Where to get it."""
    twice: ClassVar[Sequence[str]] = ()
    """How folders start that hold pictures of one name, the preferred first; a user's own come before all."""

    folder: str
    condition: str = ""
    protocol: str | None = None
    seed: int = 0

    @abstractmethod
    def said(self, stem: str) -> tuple[str, str] | None:
        """The person and the condition, as a file's lowercase name says; None for files of others."""

    def read(self) -> Iterator[Pair]:
        """Each genuine pair and its impostor; or the lines of the protocol."""
        root = existing(self.folder, self.where, folder=True)
        said = {file: told for file in pictures(root, depth=3) if (told := self.said(_stem(file))) is not None}
        shots = {stem: Shot(file, *said[file]) for stem, file in sorted(by_name(said, _stem, self._rank).items())}
        if not shots:
            raise FileNotFoundError(f"there are no pictures of {self.name} in {root}: {self.where}")
        for probe, gallery in self._standard(shots) if self.protocol is None else self._given(shots, self.protocol):
            id = pair_id(probe.file.stem, gallery.file.stem)
            subjects = (probe.person, gallery.person)
            yield Pair(id, probe.file, gallery.file, probe.person == gallery.person, subjects, self.condition)

    def _rank(self, file: Path) -> int:
        known = (i for i, start in enumerate(self.twice, 1) if any(part.startswith(start) for part in file.parts))
        return next(known, 0)

    def _standard(self, shots: Mapping[str, Shot]) -> Iterator[tuple[Shot, Shot]]:
        """Each probe with its own person's gallery picture, and with that of another, drawn for this probe."""
        gallery = {shot.person: shot for shot in shots.values() if shot.condition == "gallery"}
        probes = {
            stem: shot for stem, shot in shots.items() if shot.condition == self.condition and shot.person in gallery
        }
        if not probes or len(gallery) < 2:
            raise ValueError(
                f"{self.name} has {len(probes)} probes {self.condition!r} of people with a gallery picture, and "
                f"{len(gallery)} such people: pairs of both kinds take a probe and two people"
            )
        for shot, generator in zip(probes.values(), generators(self.seed, self.name, list(probes)), strict=True):
            others = [other for person, other in gallery.items() if person != shot.person]
            yield shot, gallery[shot.person]
            yield shot, others[int(torch.randint(len(others), (1,), generator=generator))]

    def _given(self, shots: Mapping[str, Shot], protocol: str) -> Iterator[tuple[Shot, Shot]]:
        """The pairs of a protocol; pictures are found by their names, whatever their folder and suffix."""
        path = existing(protocol, "expected a CSV file with the columns gallery and probe (or G,P,T)")
        rows = read_csv(path)
        named = dict.fromkeys(_stem(file) for row in rows for file in (row.gallery, row.probe))
        if absent := [stem for stem in named if stem not in shots]:
            raise FileNotFoundError(
                f"{path.name} names {len(absent)} of {len(named)} pictures that are absent, {absent[0]} first: "
                f"they are found by names such as {next(iter(shots))}"
            )
        for row in rows:
            probe, gallery = shots[_stem(row.probe)], shots[_stem(row.gallery)]
            if probe.condition not in (self.condition, "gallery", ""):
                raise ValueError(f"{path.name}, line {row.line}: a probe {probe.condition!r}, not {self.condition!r}")
            if row.genuine not in (None, probe.person == gallery.person):
                people = f"{gallery.person} and {probe.person}"
                raise ValueError(f"{path.name}, line {row.line}: genuine is {row.genuine}, of people {people}")
            yield probe, gallery


@register("arface")
@dataclass(frozen=True)
class ARFace(_Conditions):
    """AR Face: a neutral gallery and neutral, sunglassed or scarfed probes; the group is the condition.

    Files are called ``m-001-01`` (men) or ``w-001-01`` (women): person and shot. The gallery is shot 01, neutral, of
    the first session. Probes are the shots in even light: "neutral" 14, of the second session; "glass" 08 and 21;
    "scarf" 11 and 24. Without a protocol each probe makes a genuine pair with its person's gallery picture, and an
    impostor pair with that of another person, drawn for this probe from the seed. FAME's Tab. 2 names the conditions,
    not the pairs: its figures need its authors' protocol.

    Get it from its authors (A. M. Martinez, Ohio State University), on request and for research alone. Convert
    ``.raw`` files to PNG.

    Args:
        folder: the pictures, or folders of them.
        condition: of the probes.
        protocol: a CSV file with the columns gallery, probe and perhaps genuine (or G,P,T), instead of all pairs.
        seed: draws the impostors.

    Raises:
        ValueError: the protocol contradicts the files' names, or there are too few people.
        FileNotFoundError: the folder, the protocol or pictures are not there.

    Source: Martinez & Benavente, The AR Face Database, CVC TR 24 (1998).

    Examples:
        >>> from faithmap.datasets import load
        >>> load("arface", folder="arface", condition="scarf")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder arface: ask the AR Face Database's authors for it...
    """

    condition: Literal["neutral", "glass", "scarf"] = "neutral"
    where: ClassVar[str] = "ask the AR Face Database's authors for it (A. M. Martinez, Ohio State University)"

    def said(self, stem: str) -> tuple[str, str] | None:
        """Sex and number are the person; shots count from 01 and from 14 in the two sessions."""
        if (found := re.fullmatch(r"([mwf])-(\d{2,3})-(\d{2})", stem)) is None:
            return None
        of = {1: "gallery", 14: "neutral", 8: "glass", 21: "glass", 11: "scarf", 24: "scarf"}
        return f"{found[1]}-{found[2]}", of.get(int(found[3]), "")


@register("scface")
@dataclass(frozen=True)
class SCFace(_Conditions):
    """SCface: mugshots as the gallery, surveillance cameras at three distances as probes; the group is the distance.

    Files are called ``001_frontal`` (mugshots) and ``001_cam1_3`` (person, camera, distance: 1 is "far", 4.2 m; 2
    "medium", 2.6 m; 3 "close", 1 m). Probes are those of cameras 1 to 5, in visible light. Pairs are made as those of
    `ARFace`, and differ from those of FAME's Tab. 2 in the same way. Of pictures that the database holds twice, a
    cropped mugshot comes before a whole one; crops of your own come before both.

    Get it at https://www.scface.org, on request and for research alone.

    Args:
        folder: the pictures, or folders of them.
        condition: how far the probes are.
        protocol: a CSV file with the columns gallery, probe and perhaps genuine (or G,P,T), instead of all pairs.
        seed: draws the impostors.

    Raises:
        ValueError: the protocol contradicts the files' names, or there are too few people.
        FileNotFoundError: the folder, the protocol or pictures are not there.

    Source: Grgic, Delac & Grgic, SCface, Multimedia Tools and Applications 51 (2011).

    Examples:
        >>> from faithmap.datasets import load
        >>> load("scface", folder="scface", condition="far")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no folder scface: ask for SCface at https://www.scface.org...
    """

    condition: Literal["close", "medium", "far"] = "close"
    where: ClassVar[str] = "ask for SCface at https://www.scface.org"
    twice: ClassVar[Sequence[str]] = (
        "surveillance_cameras_all",
        "surveillance_cameras_distance_",
        "mugshot_frontal_cropped_all",
        "mugshot_frontal_original_all",
        "mugshot_rotation_all",
    )

    def said(self, stem: str) -> tuple[str, str] | None:
        """Cameras 6 and 7 see infrared light: probes of no condition."""
        if (found := re.fullmatch(r"(\d{3})_(frontal|cam(\d)_([123]))", stem)) is None:
            return None
        if found[2] == "frontal":
            return found[1], "gallery"
        return found[1], ("far", "medium", "close")[int(found[4]) - 1] if int(found[3]) <= 5 else ""


def _stem(file: str | Path) -> str:
    return PurePath(file).stem.lower()
