"""Things by their names: methods, metrics and data sets are frozen sets of parameters, registered under a name."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from faithmap.words import did_you_mean


@dataclass(frozen=True)
class Registered:
    """A frozen set of parameters, checked where they enter.

    Raises:
        ValueError: a parameter is not of its declared type, or not finite.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value = of_type(getattr(self, f.name), hints[f.name], f"{getattr(self, 'name', type(self))}'s {f.name}")
            object.__setattr__(self, f.name, value)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name."""
        return dataclasses.asdict(self)


T = TypeVar("T", bound=Registered)
C = TypeVar("C", bound=type[Registered])


class Registry(Generic[T]):
    """Classes of one kind by their kebab-case names.

    Examples:
        >>> shapes: Registry[Registered] = Registry("shape")
        >>> @shapes.register("square")
        ... @dataclass(frozen=True)
        ... class Square(Registered):
        ...     side: int = 1
        >>> shapes.create("square", side=2)
        Square(side=2)
        >>> shapes.create("circle")
        Traceback (most recent call last):
        ...
        ValueError: there is no shape 'circle': available: square
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Make a class known under a name: in Python, on the command line and in every table."""

        def add(cls: C) -> C:
            if name in self._classes:
                raise ValueError(f"there is a {self.kind} {name!r} already: {self._classes[name].__qualname__}")
            cls.name = name
            self._classes[name] = cast("type[T]", cls)
            return cls

        return add

    def available(self) -> list[str]:
        """The names of all."""
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            ValueError: there is none.
        """
        if name not in self._classes:
            raise ValueError(f"there is no {self.kind} {name!r}: {did_you_mean(str(name), self.available())}")
        return self._classes[name]

    def create(self, name: str, **parameters: Any) -> T:
        """One with the given parameters; the others keep their defaults.

        Raises:
            ValueError: the name or a parameter does not exist, one is missing, or a value does not fit.
        """
        cls = self.get(name)
        fields = dataclasses.fields(cls)
        known = [f.name for f in fields]
        for parameter in parameters:
            if parameter not in known:
                hint = did_you_mean(parameter, known) if known else "it has none"
                raise ValueError(f"{name} has no parameter {parameter!r}: {hint}")
        missing = dataclasses.MISSING
        needed = [f.name for f in fields if f.default is missing and f.default_factory is missing]
        if lacking := [parameter for parameter in needed if parameter not in parameters]:
            raise ValueError(f"{name} needs {', '.join(lacking)}")
        return cls(**parameters)


_KINDS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a finite number"),
    bool: (bool, "True or False"),
    str: (str, "a text"),
    NoneType: (NoneType, "None"),
}


def family(kind: type[Any]) -> str:
    """What a class belongs to: the first words of its file, up to a colon, else the file's name.

    Examples:
        >>> family(Registry)
        'Things by their names'
    """
    title, colon, _words = (sys.modules[kind.__module__].__doc__ or "").partition(":")
    found = title if colon and len(title) < 60 else kind.__module__.rpartition(".")[2]
    return f"{found[:1].upper()}{found[1:]}"


def parsed(text: str, hint: Any) -> Any:
    """A text as a value of its hint: "none", "true", numbers, "1/255"; a text that is none of them stays one.

    Examples:
        >>> parsed("1/4", float), parsed("none", int | None), parsed("blur", str)
        (0.25, None, 'blur')
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = {"none": (NoneType, None), "true": (bool, True), "false": (bool, False)}
    kind, value = words.get(text.lower(), (None, None))
    if kind in kinds:
        return value
    try:
        if int in kinds:
            return int(text)
        if float in kinds:
            top, _, bottom = text.partition("/")  # 1/255 reads better than 0.0039
            return float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        return text
    return text


def of_type(value: Any, hint: Any, name: str) -> Any:
    """The value if its hint allows it, numbers as Python's own; hints beyond `_KINDS` and Literal allow all."""
    words = []
    for option in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        number = option in (int, float)
        if get_origin(option) is Literal:
            allowed, word = value in get_args(option), " or ".join(map(repr, get_args(option)))
        else:
            kind, word = _KINDS.get(option, (object, ""))
            allowed = isinstance(value, kind) and not (number and (isinstance(value, bool) or not math.isfinite(value)))
        if allowed:
            return option(value) if number else value
        words.append(word)
    raise ValueError(f"{name} is {' or '.join(words)}: got {value!r}")
