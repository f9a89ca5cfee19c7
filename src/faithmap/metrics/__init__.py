"""How good maps are: one value per sample."""

from faithmap.metrics.agreement import rank_correlation
from faithmap.metrics.intervals import Interval, bootstrap
from faithmap.metrics.locality import cam_locality
from faithmap.metrics.removal import area, removal_curve

__all__ = ["Interval", "area", "bootstrap", "cam_locality", "rank_correlation", "removal_curve"]
