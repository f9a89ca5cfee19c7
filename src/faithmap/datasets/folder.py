"""Pictures of one's own: a folder, or a folder with a folder for each class; and those that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

from faithmap.datasets.base import Dataset, Example
from faithmap.datasets.registry import register


@register("photos")
@dataclass(frozen=True)
class Photos(Dataset[Example]):
    """The three photos that come with the package, with their ImageNet classes: for trying things out, offline.

    Source: scikit-image's sample pictures; see NOTICE.

    Examples:
        >>> import faithmap as fm
        >>> [(one.id, one.label) for one in fm.datasets.load("photos")]
        [('cat.jpg', 285), ('coffee.jpg', 967), ('rocket.jpg', 657)]
    """

    task: ClassVar[Literal["classification"]] = "classification"

    def read(self) -> Iterator[Example]:
        """Egyptian cat, espresso, missile."""
        folder = Path(str(files("faithmap") / "assets" / "photos"))
        for name, label in (("cat.jpg", 285), ("coffee.jpg", 967), ("rocket.jpg", 657)):
            yield Example(name, folder / name, label)
