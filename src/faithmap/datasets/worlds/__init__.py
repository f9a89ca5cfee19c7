"""Worlds: pictures drawn from a description, so that the cause of what a network says of them is known."""

from faithmap.datasets.worlds import faces
from faithmap.datasets.worlds.faces import Faces

__all__ = ["Faces", "faces"]
