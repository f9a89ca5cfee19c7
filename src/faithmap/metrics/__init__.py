"""How good maps are: one value per sample. Pure functions, and every metric under its name, ``create("iou")``."""

from faithmap.metrics.agreement import rank_correlation
from faithmap.metrics.base import Case, Measured, Metric, unit_scaled
from faithmap.metrics.faces import ranking_auc
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.locality import cam_locality
from faithmap.metrics.registry import available, create, get, register
from faithmap.metrics.removal import area, removal_curve
from faithmap.metrics.verification import accuracy, eer_threshold, equal_error_rate, k_fold_accuracy, roc, tar_at_fmr

__all__ = [
    "Case",
    "Interval",
    "Measured",
    "Metric",
    "accuracy",
    "area",
    "available",
    "bootstrap",
    "cam_locality",
    "create",
    "eer_threshold",
    "equal_error_rate",
    "get",
    "k_fold_accuracy",
    "rank_correlation",
    "ranking_auc",
    "register",
    "removal_curve",
    "roc",
    "tar_at_fmr",
    "unit_scaled",
]
