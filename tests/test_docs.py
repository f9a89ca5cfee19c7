"""Documentation is true: every example runs, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch

import faithmap as fm
from faithmap.targets import Target

MODULES = ["faithmap", *(found.name for found in pkgutil.walk_packages(fm.__path__, "faithmap."))]


def public() -> dict[str, Any]:
    """What users call: the package's own names, the methods, the targets."""
    names = {name: getattr(fm, name) for name in fm.__all__}
    names |= {f"methods.{name}": fm.methods.get(name) for name in fm.methods.available()}
    kinds = [kind for kind in vars(fm.targets).values() if isinstance(kind, type) and issubclass(kind, Target)]
    return names | {f"targets.{kind.__name__}": kind for kind in kinds if kind is not Target}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_and_print_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(module, globs={**vars(module), "fm": fm, "torch": torch}):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", sorted(public()))
def test_public_names_are_documented_with_an_example(name: str) -> None:
    thing = public()[name]
    text = inspect.getdoc(thing) or ""
    assert text
    if inspect.ismodule(thing) or (isinstance(thing, type) and issubclass(thing, Warning)):
        return
    assert "Examples:\n" in text, f"{name} has no example"
    assert ">>>" in text.partition("Examples:\n")[2], f"{name} has no example that runs"


@pytest.mark.parametrize("name", fm.methods.available())
def test_methods_name_their_source(name: str) -> None:
    method = fm.methods.get(name)
    assert method.control or "\nSource: " in (inspect.getdoc(method) or ""), f"{name} does not say where it comes from"


@pytest.mark.parametrize("name", sorted(public()))
def test_arguments_are_documented(name: str) -> None:
    thing = public()[name]
    if inspect.ismodule(thing) or (isinstance(thing, type) and issubclass(thing, Warning)):
        return
    text = inspect.getdoc(thing) or ""
    for parameter in inspect.signature(thing).parameters.values():
        if "Args:" in text:
            assert parameter.name in text, f"{name} does not describe {parameter.name}"


def test_the_page_of_methods_has_each_of_them_as_it_is() -> None:
    """Its name, where its e- comes from, and whether it is signed and additive."""
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    rows = {row[1].strip(" `"): row[2:-1] for row in (line.split("|") for line in page.splitlines()) if len(row) > 3}
    listed = {name: row for name, row in rows.items() if name in fm.methods.available()}
    assert sorted(listed) == fm.methods.available()
    e_minus = {"asked": "asked", "negated": "negative", "found": "found", "none": "none"}
    for name, row in listed.items():
        method = fm.methods.get(name)
        assert ("additive" in row[0]) == method.additive, name
        if not method.control:
            assert ("signed" in row[0]) == method.signed, name
            assert row[-1].strip() == e_minus[method.opposite], name
