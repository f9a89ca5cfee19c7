"""Data sets by their names."""

from __future__ import annotations

from typing import Any

from faithmap.datasets.base import Dataset
from faithmap.registry import Registry

DATASETS: Registry[Dataset[Any]] = Registry("data set")
register, available, get, load = DATASETS.register, DATASETS.available, DATASETS.get, DATASETS.create
