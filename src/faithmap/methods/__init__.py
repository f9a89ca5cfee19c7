"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Constant, Edges, Random
from faithmap.methods.fame import FAME
from faithmap.methods.gradients import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
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
    "Constant",
    "CorrRISE",
    "Cost",
    "Edges",
    "GradCAM",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "Random",
    "Result",
    "SmoothGrad",
    "XFace",
    "available",
    "create",
    "get",
    "register",
]
