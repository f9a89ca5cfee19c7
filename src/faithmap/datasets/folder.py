"""Pictures of one's own: a folder, or a folder with a folder for each class; and those that come with the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

from faithmap.datasets.base import Dataset, Example, existing, holdings
from faithmap.datasets.files import folders, pictures
from faithmap.datasets.registry import register


@register("folder")
@dataclass(frozen=True)
class Folder(Dataset[Example]):
    """The pictures in a folder, without labels; or those in its folders, one for each class.

    Labels count the names of the class folders in sorted order; see `Dataset.labels_for` for the model's classes.
    Hidden files and files that are no pictures by their suffix are skipped.

    Args:
        folder: which.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("dog", "cat"):
        ...     (folder / name).mkdir()
        ...     (folder / name / "1.jpg").touch()
        >>> [(one.id, one.label) for one in Folder(str(folder))]
        [('cat/1.jpg', 0), ('dog/1.jpg', 1)]
    """

    task: ClassVar[Literal["classification"]] = "classification"

    folder: str

    def read(self) -> Iterator[Example]:
        """By folder, then by name."""
        root = self._root
        flat = pictures(root)
        inner = [(label, path) for label, within in enumerate(folders(root)) for path in pictures(within)]
        if flat and inner:
            raise ValueError(
                f"{root} holds pictures of its own, as {flat[0].name}, and folders of pictures, as "
                f"{inner[0][1].parent.name}: only one of them"
            )
        if not flat and not inner:
            raise ValueError(f"there are no pictures in {root}, nor in its folders: {holdings(root)}")
        for path in flat:
            yield Example(path.name, path)
        for label, path in inner:
            yield Example(f"{path.parent.name}/{path.name}", path, label)

    @cached_property
    def classes(self) -> Sequence[str] | None:
        """The names of the class folders, sorted; None of a folder without."""
        return None if pictures(self._root) else [path.name for path in folders(self._root)]

    @cached_property
    def _root(self) -> Path:
        return existing(self.folder, "it should hold pictures, or a folder of pictures for each class", folder=True)


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
