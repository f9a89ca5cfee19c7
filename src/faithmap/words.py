"""Wording shared by messages, tables and pictures."""

from __future__ import annotations

import difflib
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def did_you_mean(given: str, options: Iterable[str], limit: int = 5) -> str:
    """Names close to ``given``, worded as the end of an error message; all options where few exist.

    Examples:
        >>> did_you_mean("fame2", ["fame", "lift-cam", "cam"])
        'did you mean fame? (available: fame, lift-cam, cam)'
        >>> did_you_mean("zzz", ["fame", "cam"])
        'available: fame, cam'
    """
    names = list(dict.fromkeys(options))
    lowered = {name.lower(): name for name in reversed(names)}
    close = [lowered[key] for key in difflib.get_close_matches(given.lower(), lowered, n=limit, cutoff=0.55)]
    close += [name for name in names if given and given.lower() in name.lower() and name not in close][
        : limit - len(close)
    ]
    available = f"available: {', '.join(names)}" if len(names) <= 24 else f"{len(names)} names are available"
    return f"did you mean {', '.join(close)}? ({available})" if close else available


def said(prediction: Mapping[str, Any]) -> str:
    """A class and its probability in words.

    Examples:
        >>> said({"label": "tabby", "probability": 0.25})
        'tabby, 25.0 %'
    """
    return f"{prediction['label']}, {percent(prediction['probability'])}"


def percent(value: float, digits: int = 1) -> str:
    """A share in words.

    Examples:
        >>> percent(0.0204, digits=2)
        '2.04 %'
    """
    return f"{100 * value:.{digits}f} %"


def seconds(value: float) -> str:
    """Seconds with the digits that mean something.

    Examples:
        >>> seconds(0.123), seconds(12.34)
        ('0.12', '12.3')
    """
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spent(evaluations: Mapping[str, float]) -> str:
    """Network evaluations in words: "tail" are runs of the part behind the target layer, either way.

    Examples:
        >>> spent({"forward": 1, "tail_forward": 2, "tail_backward": 1})
        '1 forward, 3 tail'
    """
    counts = {name: evaluations.get(name, 0) for name in ("forward", "backward")}
    counts["tail"] = evaluations.get("tail_forward", 0) + evaluations.get("tail_backward", 0)
    return ", ".join(f"{count:g} {name}" for name, count in counts.items() if count) or "none"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False) -> str:
    """A Markdown table.

    Args:
        heads: of the columns.
        rows: their cells, as Markdown.
        aligned: for terminals: the first column to the left, those behind it, of numbers, to the right.

    Examples:
        >>> print(table(["method", "score"], [["fame", "7"]]))
        | method | score |
        | --- | --- |
        | fame | 7 |
        >>> print(table(["method", "score"], [["fame", "7"]], aligned=True))
        | method | score |
        |--------|------:|
        | fame   |     7 |
    """
    lines, rule = [heads, *rows], " --- |" * len(heads)
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
        rule = "".join([f"{'-' * (widths[0] + 2)}|", *(f"{'-' * (width + 1)}:|" for width in widths[1:])])
    head, *others = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{rule}", *others])


def raised_in(error: BaseException, *modules: str) -> bool:
    """Whether the code that raised it stands in one of these modules or packages: there it is a refusal, else a bug.

    Examples:
        >>> try:
        ...     did_you_mean(0, [])
        ... except AttributeError as error:
        ...     raised_in(error, "faithmap"), raised_in(error, "torch", "faith")
        (True, False)
    """
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    name = f"{frame.f_globals.get('__name__')}."
    return any(name.startswith(f"{module}.") for module in modules)


def incomplete(error: float, score: float) -> str:
    """How far the parts of a score are from adding up to it, as a share of the score.

    Examples:
        >>> incomplete(8.6, 9.0), incomplete(3e-7, 9.0)
        ('96 %', '3e-08')
    """
    share = abs(error / score) if score else math.inf
    return f"{100 * share:.0f} %" if share >= 0.005 else f"{share:.0e}"
