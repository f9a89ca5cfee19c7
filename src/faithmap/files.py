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


PARTIAL = ".partial"
"""How names of files end that are being written; a process that is killed leaves them behind."""


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> Path:
    """Write a file under another name beside it, then give it its own: who reads it never meets a half of it.

    Args:
        path: the file; what is there is replaced.
        write: called with the path of the partial file; if it raises, what was there stays.
        durable: whether the file is on the disk when this returns, so that a power cut does not take it.

    Returns:
        The path.

    Examples:
        >>> import tempfile
        >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", lambda partial: partial.write_text("all of it")).read_text()
        'all of it'
    """
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # what the umask leaves; safetensors would take it from others
        write(partial)
        partial.chmod(mode)
        if durable:
            _sync(partial)
        os.replace(partial, path)
        if durable:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_picture(picture: Image, path: Path) -> Path:
    """Write a PNG, whole or not at all; returns its path."""
    # Large pages take seconds at the default level, for files that are hardly smaller.
    return write_whole(path, lambda partial: picture.save(partial, "PNG", compress_level=3))
