"""Importing torchvision where its compiled operators do not load: a CUDA build without CUDA."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_held: list[torch.library.Library] = []  # the names go with the library that defines them


def make_torchvision_importable() -> bool:
    """Whether torchvision is there; its import needs only the names of two operators."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    if "torchvision" not in sys.modules and not _held and not _loads(Path(spec.origin).parent):
        names = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        names.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        names.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _held.append(names)
    return True


def _loads(package: Path) -> bool:
    libraries = [*package.glob("_C*.so"), *package.glob("_C*.pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)
