"""Methods by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from faithmap.methods.base import Method
from faithmap.words import did_you_mean

M = TypeVar("M", bound=type[Method])
_methods: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[M], M]:
    """Make a method known under a kebab-case name: in Python, on the command line and in every table."""

    def add(method: M) -> M:
        if name in _methods:
            raise ValueError(f"there is a method {name!r} already: {_methods[name].__qualname__}")
        method.name = name
        _methods[name] = method
        return method

    return add


def available() -> list[str]:
    """The names of all methods.

    Examples:
        >>> "lift-cam" in available()
        True
    """
    return sorted(_methods)


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _methods:
        raise ValueError(f"there is no method {name!r}: {did_you_mean(name, available())}")
    return _methods[name]


def create(name: str, **parameters: Any) -> Method:
    """A method with the given parameters; the others keep their defaults.

    Raises:
        ValueError: the method or a parameter does not exist, or a value does not fit.

    Examples:
        >>> create("fame", iterations=10).iterations
        10
    """
    method = get(name)
    known = [field.name for field in dataclasses.fields(method)]
    for parameter in parameters:
        if parameter not in known:
            hint = did_you_mean(parameter, known) if known else "it has none"
            raise ValueError(f"{name} has no parameter {parameter!r}: {hint}")
    return method(**parameters)
