"""A YAML file as a tree that knows its lines, and all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from faithmap.bench.extra import extra
from faithmap.words import did_you_mean, raised_in

Place = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""
VARIABLE = re.compile(r"\$\{(\w+)\}")


class SpecError(ValueError):
    """All that is wrong with a file, each with its place."""

    def __init__(self, file: str, problems: list[str]) -> None:
        self.problems = problems
        many = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        super().__init__("\n  ".join([f"{file} has {many}:", *problems]))


@dataclass
class Document:
    """What a file says, with `${NAME}` replaced.

    Args:
        text: YAML. Anchors work; a key that stands twice is a problem, as it hides what was said first.
        file: its name, for messages.
        given: values of variables, before those of the environment and the file's own `variables`.
        environment: where variables are looked up next.
    """

    text: str
    file: str
    given: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Lines, and what is wrong there."""
    variables: dict[str, str] = field(default_factory=dict)
    """Those that the file uses, with their values."""
    tree: Any = None
    _lines: dict[Place, int] = field(default_factory=dict)
    _defaults: dict[str, str] = field(default_factory=dict)
    _broken: set[Place] = field(default_factory=set)

    def __post_init__(self) -> None:
        yaml = extra("yaml")
        loader = yaml.SafeLoader(self.text)
        try:
            node = loader.get_single_node()
        except yaml.YAMLError as error:
            why = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
            hint = '; within {...} and [...] write "${NAME}", with quotes' if "${" in why else ""
            raise SpecError(self.file, [f"it is no YAML: {why}{hint}"]) from None
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(self.file, ["it holds no keys: write name:, models:, data:, methods:, metrics:"])
        for key, value in node.value:
            if key.value == "variables" and isinstance(value, yaml.MappingNode):
                self._defaults = {k.value: str(v.value) for k, v in value.value}
        self.tree = self._value(yaml, loader, node, (), ())
        for name in self.given:
            if name not in self.variables:
                known = [*self._defaults, *self.variables]
                hint = did_you_mean(name, known) if known else "it uses none"
                self.problems.append((0, f"--set {name}: the file uses no such variable: {hint}"))

    def at(self, place: Place) -> str:
        """A place in words: ``line 7, methods[1].limit``."""
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
        return ", ".join(filter(None, (f"line {self._line(place)}", path)))

    def wrong(self, place: Place, message: object) -> None:
        """Note a problem, unless one stands there already: the first is the cause."""
        if place not in self._broken:
            self._broken.add(place)
            self.problems.append((self._line(place), f"{self.at(place)}: {' '.join(str(message).split())}"))

    def whole(self, place: Place) -> bool:
        """Whether there is no problem at a place, nor within it."""
        return not any(broken[: len(place)] == place for broken in self._broken)

    @contextmanager
    def trying(self, place: Place) -> Iterator[None]:
        """Note what the library refuses; an error that is no refusal stays one."""
        try:
            yield
        except OSError as error:
            self.wrong(place, error)
        except ValueError as error:
            if not raised_in(error, "faithmap"):
                raise
            self.wrong(place, error)

    def close(self) -> None:
        """Raise if there are problems."""
        if self.problems:
            raise SpecError(self.file, [text for _, text in sorted(self.problems, key=lambda one: one[0])])

    def _line(self, place: Place) -> int:
        """Of the value, or of the nearest that holds it."""
        return next((self._lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self._lines), 1)

    def _value(self, yaml: Any, loader: Any, node: Any, place: Place, above: tuple[int, ...]) -> Any:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in above:
            self.wrong(place, "it holds itself")
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                name = str(key.value)
                inner = (*place, name)
                self._lines[inner] = key.start_mark.line + 1
                if name in found:
                    self.wrong(inner, "the key stands there twice")
                else:
                    found[name] = self._value(yaml, loader, value, inner, above)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._value(yaml, loader, one, (*place, i), above) for i, one in enumerate(node.value)]
        if VARIABLE.search(node.value) and place[:1] != ("variables",):
            node.value = VARIABLE.sub(lambda match: self._variable(match[1], place), node.value)
            if not self.whole(place):
                return None
            if node.style is None:  # without quotes a number stays a number
                node.tag = loader.resolve(yaml.ScalarNode, node.value, (True, False))
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.wrong(place, f"{node.value!r} is no value: {' '.join(str(error).split())}")
            return None

    def _variable(self, name: str, place: Place) -> str:
        for values in (self.given, self.environment, self._defaults):
            if name in values:
                self.variables[name] = values[name]
                return values[name]
        self.wrong(place, f"${{{name}}} has no value: give --set {name}=..., or set it in the environment")
        return ""
