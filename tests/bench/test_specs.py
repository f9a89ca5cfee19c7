"""The specs that come with faithmap, and those that the documentation shows, name what there is."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import faithmap as fm
from faithmap.bench import reading
from faithmap.bench.document import VARIABLE
from faithmap.bench.reading import spec_of
from faithmap.bench.spec import CONTROLS, Spec
from faithmap.datasets import Dataset, Example, Pair, Truth
from faithmap.datasets.registry import DATASETS
from faithmap.metrics.registry import METRICS
from faithmap.models.load import asked
from tests import nets
from tests.shims import make_torchvision_importable

pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "benchmarks" / "specs").glob("*.yaml"))
PAGE = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "benchmark.md").read_text(), flags=re.S)
TEXTS = {path.stem: path.read_text() for path in SPECS} | {f"page-{i}": text for i, text in enumerate(PAGE)}


def pictures(self: Dataset[Example]) -> Iterator[Example]:
    for i in range(3):
        yield Example(f"{i}", np.zeros((32, 32, 3), np.uint8), i, Truth(torch.tensor([[0.0, 0.0, 8.0, 8.0]])))


def pairs(self: Dataset[Pair]) -> Iterator[Pair]:
    face = np.zeros((32, 32, 3), np.uint8)
    return (Pair(f"{i}", face, face, i == 0, ("ann", "ann" if i == 0 else "bob")) for i in range(3))


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data sets without files, but for worlds, which need none; small networks; the registries' names."""
    for name in (name for name in DATASETS.available() if name != "photos" and not name.startswith("worlds.")):
        real = DATASETS.get(name)
        columns = [(f.name, Any, field(default=None if f.default is MISSING else f.default)) for f in fields(real)]
        about = {"read": pairs if real.task == "verification" else pictures, "task": real.task, "name": name}
        made = make_dataclass("StandIn", columns, bases=(Dataset,), namespace=about, frozen=True)
        monkeypatch.setitem(DATASETS._classes, name, made)
    monkeypatch.setattr(reading, "load", stand_in)
    monkeypatch.setattr(reading, "existing", lambda path, hint: Path(path))
    for name in {name for text in TEXTS.values() for name in VARIABLE.findall(text)} - {"DEVICE", "LIMIT", "PER_CLASS"}:
        monkeypatch.setenv(name, str(tmp_path))


def stand_in(name: str, *, weights: str | None = None, device: str = "cpu", **settings: Any) -> fm.models.Model:
    """A small network in the place of the one that is asked for, whose layer and weights exist."""
    source, arguments = asked(name, weights)
    layer = settings.pop("target_layer", None)
    if name.startswith("torchvision"):
        check_torchvision(arguments["variant"], weights, layer)
    if source.kind is fm.VQAModel:
        return fm.load(name)
    if source.kind is fm.FaceEmbedder:
        return fm.FaceEmbedder(nets.Faces().eval(), size=32)
    return fm.Classifier(nets.gap_linear().eval(), size=32)


def check_torchvision(variant: str, weights: str | None, layer: str) -> None:
    if not make_torchvision_importable():
        return
    models = importlib.import_module("torchvision").models
    assert weights in models.get_model_weights(variant).__members__
    with torch.device("meta"):
        net: nn.Module = models.get_model(variant, weights=None)
    assert layer in dict(net.named_modules()), f"{variant} has no {layer}"


@pytest.mark.parametrize("name", TEXTS)
def test_a_spec_is_read_without_a_problem(name: str) -> None:
    spec = spec_of(TEXTS[name], name)
    labels = [entry.label for entry in spec.entries]
    assert set(CONTROLS) <= set(labels)
    assert len(labels) == len(set(labels))


def test_the_smoke_spec_needs_nothing_but_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables, no boxes; every metric that needs none is in it, with its defaults."""
    spec = spec_of(TEXTS["smoke"])
    assert not spec.variables
    able = {
        name
        for name in METRICS.available()
        if METRICS.get(name).task != "verification" and "truth" not in METRICS.get(name).needs
    }
    assert able == {metric.name for metric in spec.metrics}


def read(name: str) -> Spec:
    return spec_of(TEXTS[name])


def test_the_papers_settings_are_those_that_are_known() -> None:
    """Five per class, both resizes, layers and steps of FAME; its published figures and no others."""
    one, two, three = (read(f"fame-table{i}") for i in (1, 2, 3))
    assert re.findall(r"resize: (\d+)", TEXTS["fame-table1"]) == ["232"] * 5
    assert "PER_CLASS: 5" in TEXTS["fame-table1"]
    (paper,) = (entry.method for entry in one.entries if entry.label == "fame 500")
    assert paper == fm.methods.FAME.paper()
    assert [(p.part, p.value) for p in one.published] == [("iou@.3", 46.09)]
    figures = {p.data: p.value for p in two.published}
    assert figures == {
        "AR glass": 53.06, "AR neutral": 50.77, "AR scarf": 55.13, "SCface close": 58.31, "SCface medium": 57.19,
        "SCface far": 53.43, "CFP-FF": 65.7, "CFP-FP": 55.82,
    }  # fmt: skip
    assert three.published[0].value == pytest.approx(2.12e3 / 700, abs=0.005)
    assert not read("lift-cam-classification").published
    assert not read("lift-cam-pointing").published


def test_the_page_describes_every_key_and_column() -> None:
    from faithmap.bench.records import COLUMNS

    page = (ROOT / "docs" / "benchmark.md").read_text()
    for key in reading.KEYS:
        assert f"| `{key}` |" in page
    for column in COLUMNS:
        assert f"`{column}`" in page.partition("| column |")[2]
    options = [name for name in reading._settings(fm.FaceEmbedder) if name != "name"]
    row = next(line for line in page.splitlines() if line.startswith("| `models` |"))
    assert all(f"`{option}`" in row for option in options)
