"""What benchmarks need beyond the rest of the library."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PACKAGES = {"yaml": "pyyaml", "pyarrow": "pyarrow", "pyarrow.parquet": "pyarrow"}


def extra(module: str) -> Any:
    """A module of the extra packages, or an error with the line that installs them.

    Examples:
        >>> extra("yaml").safe_load("a: 1")
        {'a': 1}
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"a benchmark needs {PACKAGES[module]} ({error}): pip install 'faithmap[bench]'") from error
