"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Random
from faithmap.methods.faces import FGGB, XSSAB, ZhuDecomposition
from faithmap.methods.fame import FAME
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.masks import RISE, SRISE, CorrRISE
from faithmap.methods.occlusion import Occlusion, XFace
from faithmap.methods.registry import available, create, get, register

__all__ = [
    "CAM",
    "FAME",
    "FGGB",
    "LIFTCAM",
    "RISE",
    "SRISE",
    "XSSAB",
    "CentreGaussian",
    "CorrRISE",
    "Cost",
    "GradCAM",
    "Method",
    "Occlusion",
    "Random",
    "Result",
    "XFace",
    "ZhuDecomposition",
    "available",
    "create",
    "get",
    "register",
]
