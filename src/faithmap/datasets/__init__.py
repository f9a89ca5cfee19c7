"""Pictures and pairs of faces with what is known of them: every data set under its name, ``load("photos")``."""

from faithmap.datasets.base import Dataset, Example, Pair, Truth
from faithmap.datasets.folder import Photos
from faithmap.datasets.registry import available, get, load, register

__all__ = ["Dataset", "Example", "Pair", "Photos", "Truth", "available", "get", "load", "register"]
