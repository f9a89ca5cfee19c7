"""What a command line needs around its commands: what it shows, and what it checks before any work."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faithmap.words import incomplete, raised_in, said, seconds, spent

if TYPE_CHECKING:  # torch takes seconds to import: the commands do it, --help does not
    from faithmap.methods import Method
    from faithmap.models import Classifier, Model

DONE, SOME_FAILED, REFUSED, BUG, STOPPED = 0, 1, 2, 70, 130
"""Exit codes: all is done; some pictures failed; nothing was done; a traceback was printed; Ctrl-C."""


class RefusedError(Exception):
    """What was asked cannot be done; the message says what can."""


@dataclass(frozen=True)
class Screen:
    """Tables or the JSON document on stdout, bars on stderr."""

    as_json: bool
    quiet: bool

    @property
    def bar(self) -> bool:
        """Whether somebody would see a progress bar."""
        return not self.quiet and sys.stderr.isatty()

    def line(self, text: str, style: str = "") -> None:
        """A line for people."""
        if not (self.as_json or self.quiet):
            self._console().print(text, style=style, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], apart: int = 3) -> None:
        """A table for people, its columns so many spaces apart."""
        if self.as_json or self.quiet:
            return
        table = Table(box=None, padding=(0, apart, 0, 0), pad_edge=False, header_style="dim")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console().print(table)

    def definitions(self, rows: Sequence[tuple[str, str, str]], width: int) -> None:
        """Names in a column of so many letters; what each means beside it, and its details in a dim line below."""
        if self.as_json or self.quiet:
            return
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(width=width, overflow="fold")
        table.add_column(overflow="fold")
        for name, details, about in rows:
            table.add_row(name, Text.assemble(about, *([("\n" + details, "dim")] if details else [])))
        self._console().print(table)
        self._console().print()

    def explained(self, facts: Mapping[str, Any]) -> None:
        """One picture's results."""
        target, prediction, rows = facts["explained"], facts["prediction"], []
        other = "" if target == prediction else f" (predicted: {said(prediction)})"
        asked = f"{facts['question']} " if "question" in facts else ""
        self.line(f"{facts['image']}: {asked}{said(target)}{other}", style="bold")
        for about in facts["methods"]:
            error = about["completeness_error"]
            adds_up = "" if error is None else incomplete(error, about["score"])
            row = (about["method"], seconds(about["seconds"]), spent(about["evaluations"]), adds_up)
            rows.append(row)
        self.table(("method", "seconds", "evaluations", "completeness error / score"), rows)
        if "sheet" in facts:
            self.line(f"maps over the photo: {facts['sheet']}")
            self.line(f"raw maps: {', '.join(about['file'] for about in facts['methods'])}")
        self.line("")

    def agreement(self, table: Mapping[str, Mapping[str, float]], photos: int) -> None:
        """How alike the methods order the pixels: each with each, or each with all where a terminal is too narrow."""
        if len(table) < 2:
            return
        mean = "" if photos == 1 else f", mean over {photos} photos"
        self.line(f"Do they agree? Rank correlation of the raw maps{mean}", style="bold")
        numbers = [str(i) for i in range(1, len(table) + 1)]
        if len(table) <= 9:
            rows = [
                (i, a, *(f"{r:.2f}" for r in row.values())) for i, (a, row) in zip(numbers, table.items(), strict=True)
            ]
            self.table(("", "method", *numbers), rows, apart=2)
            return
        summary = []
        for name, row in table.items():
            others = sorted((r, other) for other, r in row.items() if other != name and math.isfinite(r))
            mean = f"{sum(r for r, _ in others) / len(others):.2f}" if others else "none"
            ends = [f"{r:.2f} {other}" for r, other in (others[-1], others[0])] if others else ["", ""]
            summary.append((name, mean, *ends))
        self.table(("method", "mean", "most like", "least like"), summary, apart=2)

    def document(self, content: Any) -> None:
        """The JSON document."""
        if self.as_json:
            sys.stdout.write(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")

    @staticmethod
    def _console() -> Console:
        width = None if sys.stdout.isatty() else 200  # a pipe has no width to keep to
        return Console(width=width, markup=False, emoji=False, highlight=False)


def screen_for(as_json: bool, quiet: bool, verbose: int) -> Screen:
    """Where a command shows its results, and how much it tells of its work."""
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("faithmap").setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    if quiet:
        warnings.simplefilter("ignore")  # until `main` ends
    return Screen(as_json, quiet)


def tell(kind: str, message: object) -> None:
    """One line on stderr."""
    colour = typer.colors.RED if kind == "error" else typer.colors.YELLOW
    typer.echo(f"{typer.style(f'{kind}:', fg=colour, bold=True)} {' '.join(str(message).split())}", err=True)


def refuse(message: object) -> int:
    """Say why nothing was done."""
    tell("error", message)
    return REFUSED


def exit_code(done: int, failed: Sequence[object]) -> int:
    """The code for so many pictures done and failed."""
    return DONE if not failed else SOME_FAILED if done else REFUSED


def plain(value: Any) -> Any:
    """As JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- checks before any work -------------------------------------------------------------------------------------------


@contextmanager
def asking() -> Iterator[None]:
    """Take the errors by which the library refuses for answers; a ValueError that others raise is a bug, and stays."""
    try:
        yield
    except OSError as error:
        raise RefusedError(error) from error
    except ValueError as error:
        if not raised_in(error, "faithmap"):
            raise
        raise RefusedError(error) from error


def chosen_methods(names: str, settings: Sequence[str] | None) -> list[Method]:
    """The methods by their names, each once, or "all", with the values of ``--set``."""
    from faithmap import methods
    from faithmap.registry import parsed
    from faithmap.words import did_you_mean

    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    wanted = methods.available() if wanted == ["all"] else wanted
    if not wanted:
        raise ValueError(f"--methods names no method: {did_you_mean('', methods.available())}")
    hints = {name: get_type_hints(methods.get(name)) for name in wanted}
    parameters: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        name, _, parameter = key.strip().partition(".")
        if not (equals and name and parameter):
            raise ValueError(f"--set {setting} is not METHOD.NAME=VALUE: write it as in --set fame.iterations=200")
        if name not in wanted:
            methods.get(name)
            raise ValueError(f"--set {setting}: {name} is not among the methods asked for, {', '.join(wanted)}")
        parameters[name][parameter] = parsed(text.strip(), hints[name].get(parameter, str))
    return [methods.create(name, **given) for name, given in parameters.items()]


def load_model(name: str, device: str, precision: str = "float32") -> Model:
    """The model, on a process whose allocator suits large batches."""
    from faithmap.batching import tune_allocator
    from faithmap.models import load

    tune_allocator()
    return load(name, device=device).configured(precision)  # type: ignore[arg-type]


def load_classifier(name: str, device: str, precision: str = "float32", question: str | None = None) -> Classifier:
    """The model, which must be a classifier, or answer questions and be asked one."""
    from faithmap.models import Classifier, VQAModel

    net = load_model(name, device, precision)
    if isinstance(net, VQAModel):
        if question is None:
            raise ValueError(f'{name} answers questions: give one, --question "..."')
        return net.asking(question)
    if not isinstance(net, Classifier):
        raise ValueError(f"{name} is no classifier: for a pair of faces use faithmap verify")
    if question is not None:
        raise ValueError(f"{name} takes no question: leave --question out, or take --model questions")
    return net


def check_layers(net: Model, chosen: Sequence[Method]) -> None:
    """Whether the layers that methods name exist."""
    for method in chosen:
        layer = getattr(method, "layer", None)
        if layer is not None:
            net.check_layer(layer)


def check_folder(out: Path) -> None:
    """Whether a folder can be made there: what exists of its path is one and can be written."""
    out = out.expanduser().absolute()
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"--out {out} cannot be a folder: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out {out} cannot be written: {there} is read-only for you")


def made_folder(out: Path) -> Path:
    """The folder, made and tried."""
    folder = out.expanduser()
    trial = folder / f".faithmap.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}; name a folder of yours") from error
    return folder


def free_stems(wanted: Sequence[str], ending: str, out: Path, images: Sequence[Path]) -> list[str]:
    """Names for results, numbered where two are the same or a file would take the place of a photo."""
    taken, stems = {_place(image) for image in images}, []
    for name in wanted:
        short = name.encode(errors="ignore")[:100].decode(errors="ignore") or "image"  # file systems stop at 255 bytes
        stem, number = short, 1
        while _place(out / f"{stem}{ending}") in taken:
            number += 1
            stem = f"{short}-{number}"
        taken.add(_place(out / f"{stem}{ending}"))
        stems.append(stem)
    return stems


def _place(path: Path) -> str:
    return str(path.expanduser().resolve()).casefold()  # some file systems do not tell case apart
