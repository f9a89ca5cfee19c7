"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.ablation import AblationCAM, ScoreCAM
from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Random, RandomCAM
from faithmap.methods.eigen import EigenCAM, EigenGradCAM
from faithmap.methods.fame import FAME
from faithmap.methods.fullgrad import FullGrad
from faithmap.methods.gradcam import GradCAMElementwise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.registry import available, create, get, register

__all__ = [
    "CAM",
    "FAME",
    "LIFTCAM",
    "AblationCAM",
    "CentreGaussian",
    "Cost",
    "EigenCAM",
    "EigenGradCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementwise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "Method",
    "Random",
    "RandomCAM",
    "Result",
    "ScoreCAM",
    "XGradCAM",
    "available",
    "create",
    "get",
    "register",
]
