"""insightface's verification files: aligned crops and truth values of all pairs in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from faithmap.datasets.base import Dataset, Pair, existing
from faithmap.datasets.pickles import ByteArray, read_pickle
from faithmap.datasets.registry import register

WHERE = (
    "lfw.bin, cfp_fp.bin, agedb_30.bin and others come with the training sets of insightface's recognition data zoo "
    "(github.com/deepinsight/insightface), under the terms of each set"
)


@register("insightface-bin")
@dataclass(frozen=True)
class InsightfaceBin(Dataset[Pair]):
    """The pairs of one of insightface's ``.bin`` files, in its order: the first picture is the gallery.

    The file is a pickle of encoded pictures, two for each pair, and of truth values; it is read without running
    anything of it (`pickles.read_pickle`). The encoded pictures are kept; each is decoded when it is used. Who
    is on them is not known.

    The pictures are personal data of people who were not asked; take the file only where its terms allow your use.

    Args:
        file: the ``.bin`` file.

    Raises:
        ValueError: the file holds anything but such pictures and truth values.
        FileNotFoundError: it is not there; the message says where to get it.

    Source: insightface, recognition data zoo.

    Examples:
        >>> from faithmap.datasets import load
        >>> load("insightface-bin", file="lfw.bin")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file lfw.bin: lfw.bin, cfp_fp.bin, agedb_30.bin and others come with ...
    """

    file: str

    task: ClassVar[Literal["verification"]] = "verification"

    def read(self) -> Iterator[Pair]:
        """One pair for each truth value."""
        path = existing(self.file, WHERE)
        pictures, genuine = _checked(read_pickle(path), path.name)
        for i, (gallery, probe, same) in enumerate(zip(pictures[::2], pictures[1::2], genuine, strict=True)):
            yield Pair(f"{path.name} {i}", probe, gallery, same)


def _checked(data: Any, name: str) -> tuple[list[bytes], list[bool]]:
    match data:
        case (list() | tuple() as pictures, list() | tuple() as truths):
            pass
        case _:
            raise ValueError(f"{name} holds {type(data).__name__}: expected (list of pictures, list of truth values)")
    if len(pictures) != 2 * len(truths):
        raise ValueError(
            f"{name} holds {len(pictures)} pictures and {len(truths)} truth values: expected two pictures for each"
        )
    return _pictures(pictures, name), [_truth(value, name, i) for i, value in enumerate(truths)]


def _pictures(given: Sequence[Any], name: str) -> list[bytes]:
    """Encoded pictures; some files hold them as arrays of bytes."""
    plain = [one.data if isinstance(one, ByteArray) and one.dtype == "u1" else one for one in given]
    for i, one in enumerate(plain):
        if not isinstance(one, bytes) or not one:
            raise ValueError(f"{name} holds {type(one).__name__} as picture {i}: expected the bytes of a JPEG or PNG")
    return plain


def _truth(value: Any, name: str, i: int) -> bool:
    if isinstance(value, ByteArray) and value.dtype == "b1" and value.data in (b"\0", b"\1"):
        return value.data == b"\1"
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{name} holds {type(value).__name__} as truth value {i}: expected True or False")
