"""A folder of pictures, or of class folders; what is no picture is skipped, and nothing at all is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from faithmap.datasets import Folder
from faithmap.datasets.files import pictures


def make(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (root / name).touch()
    return str(root)


def test_class_folders_count_in_order(tmp_path: Path) -> None:
    (tmp_path / "b_empty").mkdir()
    data = Folder(
        make(tmp_path, "c/2.JPEG", "c/1.png", "a/1.webp", "a/notes.txt", ".git/x.png", "c/.hidden.jpg", "README")
    )
    assert data.classes == ["a", "b_empty", "c"]  # an empty one is a class too: labels do not move
    assert [(one.id, one.label) for one in data] == [("a/1.webp", 0), ("c/1.png", 2), ("c/2.JPEG", 2)]
    assert data[0].image == tmp_path / "a" / "1.webp"


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    data = Folder(make(tmp_path, "b.jpg", "a.PNG", "notes.txt", "texts/read.me", "._a.png"))
    assert data.classes is None
    assert [(one.id, one.label, one.truth) for one in data] == [("a.PNG", None, None), ("b.jpg", None, None)]


def test_a_broken_link_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert [one.id for one in Folder(str(tmp_path))] == ["gone.jpg"]  # its absence is told when it is read


def test_what_a_folder_without_pictures_holds_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pictures in .*: the folder .* is empty"):
        Folder(str(tmp_path))
    with pytest.raises(ValueError, match=r"no pictures in .*, nor in its folders: .* holds a.txt, b/, c.pdf"):
        Folder(make(tmp_path, "a.txt", "b/deep/1.png", "c.pdf"))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere: it should hold pictures"):
        Folder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*a.txt"):
        Folder(str(tmp_path / "a.txt"))


def test_pictures_beside_folders_of_pictures_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pictures of its own, as 1.png, and folders of pictures, as a"):
        Folder(make(tmp_path, "1.png", "a/1.png"))


@pytest.mark.real
def test_cifar10(data: Path) -> None:
    found = Folder(str(data / "cifar10"))
    assert len(found) == 100
    assert " ".join(found.classes or ()) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert [one.label for one in found.take(per_class=1)] == list(range(10))


def test_pictures_of_inner_folders_come_behind_a_folders_own(tmp_path: Path) -> None:
    """By name, through links too; hidden files and folders, and what is no picture by its suffix, are passed over."""
    make(tmp_path, "b.png", "a.JPG", "._a.jpg", "notes.txt", "one/c.webp", "one/deep/d.png", ".trash/e.png")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    found = {depth: [str(path.relative_to(tmp_path)) for path in pictures(tmp_path, depth)] for depth in (1, 2, 3)}
    assert found[1] == ["a.JPG", "b.png"]
    assert found[2] == ["a.JPG", "b.png", "one/c.webp", "two/c.webp"]
    assert found[3] == ["a.JPG", "b.png", "one/c.webp", "one/deep/d.png", "two/c.webp", "two/deep/d.png"]
