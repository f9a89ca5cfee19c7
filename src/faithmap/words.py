"""Wording shared by error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
