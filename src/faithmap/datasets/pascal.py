"""Annotation files as PASCAL VOC has them, and ImageNet likewise: the objects of a picture and their boxes, as XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from faithmap.datasets.tables import box, number

MAX_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Object:
    """One object: its class, its corners as the file has them, and whether it is hard to recognise."""

    name: str
    box: Sequence[float]
    difficult: bool = False


@dataclass(frozen=True)
class Annotation:
    """What a file says of its picture."""

    objects: Sequence[Object]
    size: tuple[int, int] | None = None
    """(width, height) of the picture, where the file has them."""


def read_annotation(path: Path) -> Annotation:
    """The objects of an XML file, in its order, without their parts.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: it is no such file; or it declares a document type, through which it could have entities expanded.
    """
    try:
        text = _text(path)
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is no XML in UTF-8: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} holds <{root.tag}>: expected PASCAL VOC's <annotation>")
    objects = []
    for found in root.findall("object"):
        name, at = (found.findtext("name") or "").strip(), found.find("bndbox")
        if not name or at is None:
            raise ValueError(f"{path} has an object without {'a name' if not name else 'a <bndbox>'}")
        corners = [_inner(path, at, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
        objects.append(Object(name, box(str(path), corners), (found.findtext("difficult") or "").strip() == "1"))
    size = root.find("size")
    width, height = (0, 0) if size is None else (int(_inner(path, size, tag)) for tag in ("width", "height"))
    return Annotation(objects, (width, height) if min(width, height) > 0 else None)


def _text(path: Path) -> str:
    if (length := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {length:,} bytes: an annotation has at most {MAX_BYTES:,}")
    text = path.read_bytes().decode("utf-8-sig")
    if "<!DOCTYPE" in text:  # entities are declared there; what is decoded here is what the parser sees
        raise ValueError(f"{path} declares a document type, which annotations do not have: it is not read")
    return text


def _inner(path: Path, element: ElementTree.Element, tag: str) -> float:
    return number(f"{path}, <{tag}> in <{element.tag}>", (element.findtext(tag) or "").strip())
