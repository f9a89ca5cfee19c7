"""Networks of other libraries, to compare with."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.shims import make_torchvision_importable


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    """torchvision.models, also where torchvision's compiled operators do not load."""
    if not make_torchvision_importable():
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models")
