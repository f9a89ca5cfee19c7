"""Networks whose weights faithmap can read: plain torch modules, nothing of the library in them."""

from .arcface import ARCFACE_BLOCKS, ArcFaceNet
from .efficientnet_lite import EfficientNetLite
from .facenet import SmallFaceNet
from .film import FiLM
from .iresnet import IResNet, ir_18, ir_50, ir_101
from .mobilefacenet import MobileFaceNet
from .mobilenet_v2 import MobileNetV2
from .objectnet import ObjectNet
from .squeezenet import SqueezeNet

__all__ = [
    "ARCFACE_BLOCKS",
    "ArcFaceNet",
    "EfficientNetLite",
    "FiLM",
    "IResNet",
    "MobileFaceNet",
    "MobileNetV2",
    "ObjectNet",
    "SmallFaceNet",
    "SqueezeNet",
    "ir_18",
    "ir_50",
    "ir_101",
]
