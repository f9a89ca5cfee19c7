"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under another name beside it, then give it its own: who reads it never meets a half of it.

    Args:
        path: the file; what is there is replaced.
        write: called with the path of the partial file; if it raises, what was there stays.

    Returns:
        The path.

    Examples:
        >>> import tempfile
        >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", lambda partial: partial.write_text("all of it")).read_text()
        'all of it'
    """
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.touch()
        mode = stat.S_IMODE(
            partial.stat().st_mode
        )  # what the umask leaves: safetensors writes files for the owner alone
        write(partial)
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def save_picture(picture: Image, path: Path) -> Path:
    """Write a PNG, whole or not at all; returns its path."""
    return write_whole(path, lambda partial: picture.save(partial, "PNG"))
