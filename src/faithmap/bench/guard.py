"""One bad sample never ends a run: what fails for a batch is asked for sample by sample, and errors become words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from faithmap.batching import Progress

T = TypeVar("T")
Tried = tuple[dict[int, tuple[T, int]], dict[int, str]]
"""By slot, what was found and in which row of it; and by slot, why nothing was found."""


def guarded(ask: Callable[[], T]) -> T | str:
    """What is asked for, or in words why it cannot be had; what stops a program passes."""
    try:
        return ask()
    except Exception as error:  # whatever a decoder, a network or a metric raises concerns one sample, not the run
        return worded(error)


def worded(error: Exception) -> str:
    """An error in one line, the same on every machine; its type is told where it is no refusal in our words.

    Examples:
        >>> worded(ValueError("no box")), worded(KeyError("no box"))
        ('no box', "KeyError: 'no box'")
    """
    text = " ".join(str(error).split())[:500]
    return text if text and isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def tried(
    ask: Callable[[Tensor], T], good: Sequence[int], size: int, refusal: Callable[[], str | None] = lambda: None
) -> Tried[T]:
    """What is found for each good sample of a batch; where the batch fails, each is asked for alone.

    Alone, a sample fills the whole batch: kernels choose by size how they round.

    Args:
        ask: slots ``(size,)`` -> what is found, with one row for each.
        good: the slots that are asked for; the others hold padding.
        size: of the batch.
        refusal: the words, if any, in which all samples are refused: then none is asked for alone.

    Returns:
        By slot, what was found and in which row of it; and by slot, why nothing was found.
    """
    if not good:
        return {}, {}
    whole = guarded(lambda: ask(torch.arange(size)))
    if not isinstance(whole, str):
        return {slot: (whole, slot) for slot in good}, {}
    if len(good) == 1 or whole == refusal():
        return {}, dict.fromkeys(good, whole)
    alone = {slot: guarded(partial(ask, torch.full((size,), slot))) for slot in good}
    errors = {slot: found for slot, found in alone.items() if isinstance(found, str)}
    return {slot: (found, slot) for slot, found in alone.items() if not isinstance(found, str)}, errors


class _Cancelled(BaseException):
    """What a caller's progress function raised: it ends the work, and is no error of a sample."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


@contextmanager
def cancellable(progress: Progress | None) -> Iterator[Progress | None]:
    """The progress function, whose exceptions reach the caller through all that catches those of samples."""

    def report(done: int, total: int) -> None:
        assert progress
        try:
            progress(done, total)
        except BaseException as error:
            raise _Cancelled(error) from error

    try:
        yield report if progress else None
    except _Cancelled as stop:
        raise stop.cause from None


def portion(progress: Progress, before: int, steps: int, total: int) -> Progress:
    """Progress of some of the steps of a larger work, as that of the whole: in thousandths of a step."""
    return lambda done, of: progress(before * 1000 + 1000 * steps * done // max(of, 1), total * 1000)
