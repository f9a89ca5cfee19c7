"""What is explained: networks with what belongs to them."""

from faithmap.models.base import Model, require_model
from faithmap.models.classifier import Classifier, Prediction
from faithmap.models.face import FaceEmbedder
from faithmap.models.layers import Layer
from faithmap.models.load import available, load
from faithmap.models.vqa import VQAModel

__all__ = [
    "Classifier",
    "FaceEmbedder",
    "Layer",
    "Model",
    "Prediction",
    "VQAModel",
    "available",
    "load",
    "suggest_layers",
]


def suggest_layers(model: Model) -> list[Layer]:
    """Candidate target layers of a model, best first; the first is its default."""
    return require_model(model).suggest_layers()
