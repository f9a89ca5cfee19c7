"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Random
from faithmap.methods.fame import FAME
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.registry import available, create, get, register
from faithmap.methods.relevance import LRP, DeepLIFT, ExcitationBackprop, GuidedBackprop
from faithmap.methods.shap import OwenCAM, ShapCAM
from faithmap.methods.siblings import LIMECAM, LRPCAM

__all__ = [
    "CAM",
    "FAME",
    "LIFTCAM",
    "LIMECAM",
    "LRP",
    "LRPCAM",
    "CentreGaussian",
    "Cost",
    "DeepLIFT",
    "ExcitationBackprop",
    "GradCAM",
    "GuidedBackprop",
    "Method",
    "OwenCAM",
    "Random",
    "Result",
    "ShapCAM",
    "available",
    "create",
    "get",
    "register",
]
