"""Worlds: pictures drawn from a description, so that the cause of what a network says of them is known."""

from faithmap.datasets.worlds.faces import Faces
from faithmap.datasets.worlds.objects import Objects
from faithmap.datasets.worlds.questions import Questions

__all__ = ["Faces", "Objects", "Questions"]
