"""How good maps are: one value per sample. Pure functions, and every metric under its name, ``create("iou")``."""

from faithmap.metrics.agreement import rank_correlation
from faithmap.metrics.base import Case, Measured, Metric, unit_scaled
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.locality import cam_locality
from faithmap.metrics.registry import available, create, get, register
from faithmap.metrics.removal import area, removal_curve
from faithmap.metrics.road import road_imputed

__all__ = [
    "Case",
    "Interval",
    "Measured",
    "Metric",
    "area",
    "available",
    "bootstrap",
    "cam_locality",
    "create",
    "get",
    "rank_correlation",
    "register",
    "removal_curve",
    "road_imputed",
    "unit_scaled",
]
