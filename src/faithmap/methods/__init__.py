"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Constant, Edges, Random
from faithmap.methods.extremal import ExtremalPerturbation
from faithmap.methods.faces import FGGB, XSSAB, ZhuDecomposition
from faithmap.methods.fame import FAME
from faithmap.methods.gradients import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.masks import RISE, SRISE, CorrRISE
from faithmap.methods.occlusion import Occlusion, XFace
from faithmap.methods.registry import available, create, get, register
from faithmap.methods.surrogates import LIME, KernelSHAP

__all__ = [
    "CAM",
    "FAME",
    "FGGB",
    "LIFTCAM",
    "LIME",
    "RISE",
    "SRISE",
    "XSSAB",
    "CentreGaussian",
    "Constant",
    "CorrRISE",
    "Cost",
    "Edges",
    "ExtremalPerturbation",
    "GradCAM",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "KernelSHAP",
    "Method",
    "Occlusion",
    "Random",
    "Result",
    "SmoothGrad",
    "XFace",
    "ZhuDecomposition",
    "available",
    "create",
    "get",
    "register",
]
