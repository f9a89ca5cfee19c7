"""How maps are made: every method under its name, ``create("lift-cam")``, or as its class, ``LIFTCAM()``."""

from faithmap.methods.ablation import AblationCAM, ScoreCAM
from faithmap.methods.base import Cost, Method, Result
from faithmap.methods.cam import CAM, GradCAM
from faithmap.methods.controls import CentreGaussian, Constant, Edges, Random, RandomCAM
from faithmap.methods.eigen import EigenCAM, EigenGradCAM
from faithmap.methods.extremal import ExtremalPerturbation
from faithmap.methods.faces import FGGB, XSSAB, ZhuDecomposition
from faithmap.methods.fame import FAME
from faithmap.methods.fullgrad import FullGrad
from faithmap.methods.gradcam import GradCAMElementwise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from faithmap.methods.gradients import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
from faithmap.methods.lift import LIFTCAM
from faithmap.methods.masks import RISE, SRISE, CorrRISE
from faithmap.methods.occlusion import Occlusion, XFace
from faithmap.methods.registry import available, create, get, register
from faithmap.methods.relevance import LRP, XFR, DeepLIFT, ExcitationBackprop, GuidedBackprop
from faithmap.methods.shap import OwenCAM, ShapCAM
from faithmap.methods.siblings import LIMECAM, LRPCAM
from faithmap.methods.surrogates import LIME, KernelSHAP

__all__ = [
    "CAM",
    "FAME",
    "FGGB",
    "LIFTCAM",
    "LIME",
    "LIMECAM",
    "LRP",
    "LRPCAM",
    "RISE",
    "SRISE",
    "XFR",
    "XSSAB",
    "AblationCAM",
    "CentreGaussian",
    "Constant",
    "CorrRISE",
    "Cost",
    "DeepLIFT",
    "Edges",
    "EigenCAM",
    "EigenGradCAM",
    "ExcitationBackprop",
    "ExtremalPerturbation",
    "FullGrad",
    "GradCAM",
    "GradCAMElementwise",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientXInput",
    "GuidedBackprop",
    "HiResCAM",
    "IntegratedGradients",
    "KernelSHAP",
    "LayerCAM",
    "Method",
    "Occlusion",
    "OwenCAM",
    "Random",
    "RandomCAM",
    "Result",
    "ScoreCAM",
    "ShapCAM",
    "SmoothGrad",
    "XFace",
    "XGradCAM",
    "ZhuDecomposition",
    "available",
    "create",
    "get",
    "register",
]
