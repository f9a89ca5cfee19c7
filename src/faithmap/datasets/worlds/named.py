"""Worlds in one word: what commands and functions take where others give a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_type_hints

from faithmap.datasets.base import Dataset
from faithmap.datasets.registry import DATASETS
from faithmap.registry import parsed


def is_world(given: str | os.PathLike[str]) -> bool:
    """Whether a text names a world rather than a folder or a file.

    Examples:
        >>> is_world("worlds.faces,seed=1"), is_world("photos/")
        (True, False)
    """
    return os.fspath(given).startswith("worlds.") and not Path(given).exists()


def world(text: str | os.PathLike[str]) -> Dataset[Any]:
    """A world by its name, with parameters after commas.

    Args:
        text: for instance ``worlds.objects,variant=tagged,size=50``.

    Raises:
        ValueError: there is no such world or parameter, or a value does not fit.

    Examples:
        >>> len(world("worlds.objects,seed=3,size=5"))
        5
    """
    name, *rest = os.fspath(text).split(",")
    hints = get_type_hints(DATASETS.get(name.strip()))
    parameters = {}
    for setting in rest:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"a parameter of a world is written key=value: got {setting!r} in {os.fspath(text)!r}")
        parameters[key.strip()] = parsed(value.strip(), hints.get(key.strip(), str))
    return DATASETS.create(name.strip(), **parameters)
