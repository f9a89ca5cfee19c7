"""Which pixels made a vision network say that, and can this map be trusted?"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithmap import attribution, datasets, draw, images, methods, metrics, models, targets
    from faithmap.api import (
        compare,
        compare_pair,
        explain,
        explain_locations,
        explain_pair,
        locality_by_layer,
    )
    from faithmap.attribution import Attribution, LocationMaps, PairAttribution
    from faithmap.comparison import Comparison, PairComparison
    from faithmap.evaluation import Evaluation, evaluate
    from faithmap.models import Classifier, FaceEmbedder, VQAModel, load
    from faithmap.recommendation import Recommendation, recommend
    from faithmap.running import DegenerateMapWarning
    from faithmap.verification import VerificationReport, verification_report

__version__ = _version("faithmap")

_MODULES = ("attribution", "datasets", "draw", "images", "methods", "metrics", "models", "targets")
_NAMES = {
    "api": (
        "compare",
        "compare_pair",
        "explain",
        "explain_locations",
        "explain_pair",
        "locality_by_layer",
    ),
    "attribution": ("Attribution", "LocationMaps", "PairAttribution"),
    "comparison": ("Comparison", "PairComparison"),
    "evaluation": ("Evaluation", "evaluate"),
    "models": ("Classifier", "FaceEmbedder", "VQAModel", "load"),
    "recommendation": ("Recommendation", "recommend"),
    "running": ("DegenerateMapWarning",),
    "verification": ("VerificationReport", "verification_report"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Attribution",
    "Classifier",
    "Comparison",
    "DegenerateMapWarning",
    "Evaluation",
    "FaceEmbedder",
    "LocationMaps",
    "PairAttribution",
    "PairComparison",
    "Recommendation",
    "VQAModel",
    "VerificationReport",
    "attribution",
    "compare",
    "compare_pair",
    "datasets",
    "draw",
    "evaluate",
    "explain",
    "explain_locations",
    "explain_pair",
    "images",
    "load",
    "locality_by_layer",
    "methods",
    "metrics",
    "models",
    "recommend",
    "targets",
    "verification_report",
]


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and the command line's help needs none of it."""
    if name in _MODULES:
        return import_module(f"faithmap.{name}")
    if name in _HOMES:
        return getattr(import_module(f"faithmap.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faithmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
