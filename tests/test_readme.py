"""The README's Python runs as it stands, on a bare machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import faithmap as fm
from tests.nets import gap_linear

ROOT = Path(__file__).parents[1]
PHOTOS = Path(fm.__file__).parent / "assets" / "photos"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_the_tour_of_photos_and_networks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block before the faces, whose weights a user brings, in the order of the page."""
    for photo in PHOTOS.iterdir():
        shutil.copy(photo, tmp_path)
    shutil.copytree(PHOTOS, tmp_path / "my-photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"module": gap_linear(3), "names": ["a", "b", "c"]}
    tour = [block for block in BLOCKS if "FaceEmbedder" not in block and "adaface" not in block]
    assert len(tour) == 9
    quick = {
        "iterations=100": "iterations=2",
        "masks=1000": "masks=4",
        "progress=True)\nbest": "limit=1, budget=1)\nbest",
        "limit=28": "limit=7",
        '["fame", "lift-cam"], ["known-truth"]': '["lift-cam"], ["known-truth"]',
    }
    for block in tour:
        for long, short in quick.items():
            block = block.replace(long, short)
        exec(block, names)
    assert (tmp_path / "cat.safetensors").is_file()


def test_every_picture_of_the_page_exists() -> None:
    """Links to files of the repository lead somewhere."""
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name} links to {link}"
