"""Pictures and pairs of faces with what is known of them: every data set under its name, ``load("photos")``."""

from faithmap.datasets import worlds
from faithmap.datasets.base import Dataset, Example, Pair, Truth
from faithmap.datasets.coco import COCO
from faithmap.datasets.conditions import ARFace, SCFace
from faithmap.datasets.faces import CFP, LFW, Pairs
from faithmap.datasets.folder import Folder, Photos
from faithmap.datasets.imagenet import ImageNet
from faithmap.datasets.insightface import InsightfaceBin
from faithmap.datasets.registry import available, get, load, register
from faithmap.datasets.tables import Csv
from faithmap.datasets.voc import VOC

__all__ = [
    "CFP",
    "COCO",
    "LFW",
    "VOC",
    "ARFace",
    "Csv",
    "Dataset",
    "Example",
    "Folder",
    "ImageNet",
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
    "worlds",
]
