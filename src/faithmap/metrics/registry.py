"""Metrics by their names."""

from __future__ import annotations

from faithmap.metrics.base import Metric
from faithmap.registry import Registry

METRICS: Registry[Metric] = Registry("metric")
register, available, get, create = METRICS.register, METRICS.available, METRICS.get, METRICS.create
