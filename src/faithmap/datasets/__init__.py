"""Pictures and pairs of faces with what is known of them: every data set under its name, ``load("photos")``."""

from faithmap.datasets.base import Dataset, Example, Pair, Truth
from faithmap.datasets.conditions import ARFace, SCFace
from faithmap.datasets.faces import CFP, LFW, Pairs
from faithmap.datasets.folder import Photos
from faithmap.datasets.insightface import InsightfaceBin
from faithmap.datasets.registry import available, get, load, register

__all__ = [
    "CFP",
    "LFW",
    "ARFace",
    "Dataset",
    "Example",
    "InsightfaceBin",
    "Pair",
    "Pairs",
    "Photos",
    "SCFace",
    "Truth",
    "available",
    "get",
    "load",
    "register",
]
