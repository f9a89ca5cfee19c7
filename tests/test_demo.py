"""The demo: a page that works by itself, whose pictures exist and whose commands run."""

from __future__ import annotations

import re
import shlex
from html import unescape
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import faithmap as fm
from faithmap import cli
from faithmap.demo import Explained, Twins, explained_twins, sheet, write_demo
from faithmap.words import spent
from tests import nets

PHOTOS = Path(str(files("faithmap") / "assets" / "photos"))
METHODS = (fm.methods.FAME(iterations=2), fm.methods.LIFTCAM(), fm.methods.GradCAM())


@pytest.fixture(scope="module")
def found() -> list[Explained]:
    torch.manual_seed(0)
    labels = ["<b>&", "bee", "cat", "dog", "eel"]
    net = fm.Classifier(nets.gap_linear().eval(), size=32, labels=labels)
    explained = []
    for name in ("cat.jpg", "rocket.jpg"):
        maps = [fm.explain(net, PHOTOS / name, method, target=0) for method in METHODS]
        explained.append(Explained(PHOTOS / name, maps, net.predict(PHOTOS / name)))
    return explained


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return explained_twins(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def page(found: list[Explained], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a demo")
    return write_demo(found, explained_twins(folder), folder)


def test_the_twins_are_told_apart_by_what_differs(twins: Twins) -> None:
    """The network sees two people, and most of what FAME names is the part."""
    assert twins.pair.match is False
    assert twins.part == "eyes"
    assert twins.found > 0.6


def test_the_page_needs_nothing_but_its_folder(page: Path) -> None:
    """Every picture and link is a file beside it, with text for those who do not see it; no script, no address."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) == 2 * 9 + 1
    assert all((page.parent / link).is_file() for link in links)
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', text))
    assert text.count("<img ") == 9
    assert not re.search(r"https?:|<script|url\(|\$", text)


def test_labels_cannot_break_the_page(page: Path) -> None:
    """A class called <b>& is shown as it is."""
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in text
    assert "<b>&" not in text.replace("<b>&lt;", "")


def test_every_command_on_the_page_is_understood(page: Path) -> None:
    """Those that begin with faithmap parse, and name photos that are there."""
    commands = [unescape(line) for line in re.findall(r"<code>(faithmap .*?)</code>", page.read_text(encoding="utf-8"))]
    assert len(commands) >= 5
    group = typer.main.get_command(cli.app)
    for command in commands:
        _, name, *arguments = shlex.split(command)
        with group.make_context("faithmap", [name]) as context:
            parsed = group.get_command(context, name).make_context(name, arguments)  # type: ignore[attr-defined]
        named = [*parsed.params.get("images", []), parsed.params.get("probe"), parsed.params.get("gallery")]
        photos = [photo for photo in named if photo is not None and photo.name != "YOUR_PHOTO.jpg"]
        assert all(photo.is_file() for photo in photos)


def test_overlays_have_the_size_of_the_photo_and_large_photos_are_made_smaller(
    found: list[Explained], tmp_path: Path
) -> None:
    """The map lies at the same place of a photo and of the photo five times as large."""
    photo = Image.open(found[0].photo)
    large = tmp_path / "large.png"
    photo.resize((5 * photo.width, 5 * photo.height)).save(large)
    att = found[0].maps[0]
    assert found[0].picture(att).size == photo.size
    net = fm.Classifier(nets.gap_linear().eval(), size=32)
    enlarged = Explained(large, [fm.explain(net, large, "centre-gaussian", 0)], net.predict(large))
    normal = Explained(found[0].photo, [fm.explain(net, found[0].photo, "centre-gaussian", 0)], net.predict(large))
    small = enlarged.picture(enlarged.maps[0])
    assert max(small.size) == 1000
    greys = [np.asarray(p.convert("L").resize((90, 60)), float) for p in (small, normal.picture(normal.maps[0]))]
    assert np.corrcoef(greys[0].ravel(), greys[1].ravel())[0, 1] > 0.99


def test_a_sheet_has_rows_of_four(found: list[Explained]) -> None:
    """Four maps and the photo need two rows, three maps one."""
    one = found[0]
    assert sheet(Explained(one.photo, [*one.maps, one.maps[0]], one.predictions)).height > sheet(one).height


def test_a_method_that_asks_nothing_of_the_network_costs_nothing() -> None:
    """In words, not as an empty text."""
    assert spent({}) == "none"


@pytest.mark.real
def test_the_demo_recognises_its_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the installed package alone; the last line says where the pictures are."""
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(label in printed for label in ("Egyptian cat", "espresso", "missile"))
    assert str(tmp_path / "index.html") in printed.splitlines()[-1]
