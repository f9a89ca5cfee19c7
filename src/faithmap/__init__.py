"""Which pixels made a vision network say that, and can this map be trusted?"""

from importlib.metadata import version as _version

from faithmap import attribution, draw, images, methods, metrics, models, targets
from faithmap.api import DegenerateMapWarning, explain, explain_locations, explain_pair, locality_by_layer
from faithmap.attribution import Attribution, LocationMaps, PairAttribution
from faithmap.models import Classifier, FaceEmbedder, load

__all__ = [
    "Attribution",
    "Classifier",
    "DegenerateMapWarning",
    "FaceEmbedder",
    "LocationMaps",
    "PairAttribution",
    "attribution",
    "draw",
    "explain",
    "explain_locations",
    "explain_pair",
    "images",
    "load",
    "locality_by_layer",
    "methods",
    "metrics",
    "models",
    "targets",
]

__version__ = _version("faithmap")
