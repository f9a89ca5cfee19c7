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
from faithmap.metrics.faces import ranking_auc
from faithmap.metrics.inpainting import blended
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.localisation import energy_pointing, iou, pointing_game
from faithmap.metrics.locality import cam_locality
from faithmap.metrics.registry import available, create, get, register
from faithmap.metrics.removal import area, removal_curve
from faithmap.metrics.road import road_imputed
from faithmap.metrics.sanity import relative_change, scrambled
from faithmap.metrics.shapley import shap_cosine, shap_error
from faithmap.metrics.truth import found_among
from faithmap.metrics.verification import accuracy, eer_threshold, equal_error_rate, k_fold_accuracy, roc, tar_at_fmr

__all__ = [
    "Case",
    "Interval",
    "Measured",
    "Metric",
    "accuracy",
    "adcc",
    "area",
    "available",
    "average_drop",
    "average_drop_in_deletion",
    "blended",
    "bootstrap",
    "cam_locality",
    "coherency",
    "complexity",
    "create",
    "eer_threshold",
    "energy_pointing",
    "equal_error_rate",
    "found_among",
    "get",
    "increase_in_confidence",
    "iou",
    "k_fold_accuracy",
    "pointing_game",
    "rank_correlation",
    "ranking_auc",
    "register",
    "relative_change",
    "removal_curve",
    "road_imputed",
    "roc",
    "scrambled",
    "shap_cosine",
    "shap_error",
    "tar_at_fmr",
    "unit_scaled",
]
