"""How good maps are: one value per sample. Pure functions, and every metric under its name, ``create("iou")``."""

from faithmap.metrics.agreement import rank_correlation
from faithmap.metrics.base import Case, Measured, Metric, unit_scaled
from faithmap.metrics.drop import (
    adcc,
    average_drop,
    average_drop_in_deletion,
    coherency,
    complexity,
    increase_in_confidence,
)
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.localisation import energy_pointing, iou, pointing_game
from faithmap.metrics.locality import cam_locality
from faithmap.metrics.registry import available, create, get, register
from faithmap.metrics.removal import area, removal_curve
from faithmap.metrics.road import road_imputed
from faithmap.metrics.sanity import relative_change, scrambled
from faithmap.metrics.shapley import shap_cosine, shap_error

__all__ = [
    "Case",
    "Interval",
    "Measured",
    "Metric",
    "adcc",
    "area",
    "available",
    "average_drop",
    "average_drop_in_deletion",
    "bootstrap",
    "cam_locality",
    "coherency",
    "complexity",
    "create",
    "energy_pointing",
    "get",
    "increase_in_confidence",
    "iou",
    "pointing_game",
    "rank_correlation",
    "register",
    "relative_change",
    "removal_curve",
    "road_imputed",
    "scrambled",
    "shap_cosine",
    "shap_error",
    "unit_scaled",
]
