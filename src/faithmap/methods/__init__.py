"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Random
from faithmap.methods.fame import FAME
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.registry import available, create, get, register
from faithmap.methods.relevance import LRP, XFR, DeepLIFT, ExcitationBackprop, GuidedBackprop

__all__ = [
    "CAM",
    "FAME",
    "LIFTCAM",
    "LRP",
    "XFR",
    "CentreGaussian",
    "Cost",
    "DeepLIFT",
    "ExcitationBackprop",
    "GradCAM",
    "GuidedBackprop",
    "Method",
    "Random",
    "Result",
    "available",
    "create",
    "get",
    "register",
]
