"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Random
from faithmap.methods.fame import FAME
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.masks import RISE, SRISE, CorrRISE
from faithmap.methods.occlusion import Occlusion, XFace
from faithmap.methods.registry import available, create, get, register

__all__ = [
    "CAM",
    "FAME",
    "LIFTCAM",
    "RISE",
    "SRISE",
    "CentreGaussian",
    "CorrRISE",
    "Cost",
    "GradCAM",
    "Method",
    "Occlusion",
    "Random",
    "Result",
    "XFace",
    "available",
    "create",
    "get",
    "register",
]
