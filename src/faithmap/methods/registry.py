"""Methods by their names."""

from __future__ import annotations

from faithmap.methods.base import Method
from faithmap.registry import Registry

METHODS: Registry[Method] = Registry("method")
register, available, get, create = METHODS.register, METHODS.available, METHODS.get, METHODS.create
