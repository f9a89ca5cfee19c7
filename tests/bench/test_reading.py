"""A benchmark's file: what it says is what is run, and all that is wrong with it is told at once, with its lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import faithmap as fm
from faithmap.bench import reading
from faithmap.bench.document import SpecError
from faithmap.bench.reading import read_spec, spec_of
from faithmap.bench.spec import CONTROLS, Published, Spec
from faithmap.datasets.registry import DATASETS
from faithmap.metrics import Case
from faithmap.metrics.registry import METRICS
from faithmap.targets import Logit
from tests import nets
from tests.bench.stand_ins import Area, Boxed, Faces, Matched, Noise

pytest.importorskip("yaml")
loaded: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few metrics and data sets under names of their own; small networks for those that names stand for."""
    for metric in (Area, Boxed, Matched):
        monkeypatch.setitem(METRICS._classes, metric.name, metric)
    for data in (Noise, Faces):
        monkeypatch.setitem(DATASETS._classes, data.name, data)
    loaded.clear()

    def load(name: str, **options: Any) -> fm.models.Model:
        loaded.append((name, options))
        if name.startswith("mobilefacenet"):
            return fm.FaceEmbedder(nets.Faces().eval(), size=32)
        return fm.Classifier((nets.VGGLike if "mobilenet" in name else nets.gap_linear)().eval(), size=32)

    monkeypatch.setattr(reading, "load", load)


SMALL = """
name: small
models: {lite0: efficientnet-lite0}
data: {noise: noise}
methods: [grad-cam]
metrics: [area]
"""


def problems_of(text: str, **variables: str) -> list[str]:
    with pytest.raises(SpecError) as told:
        spec_of(text, "bench.yaml", variables)
    assert str(told.value).startswith("bench.yaml has ")
    return told.value.problems


def parts(spec: Spec) -> list[str]:
    return [part for metric in spec.metrics for part in metric.parts]


def test_a_small_file_has_the_defaults_and_the_controls() -> None:
    spec = spec_of(SMALL)
    assert [entry.label for entry in spec.entries] == ["grad-cam", *CONTROLS]
    assert (spec.explain, spec.batch, spec.shards, spec.seed, spec.maps) == ("predicted", 8, 1, 0, False)
    assert (list(spec.models), list(spec.data), spec.metrics) == (["lite0"], ["noise"], [Area()])
    assert spec.source == SMALL


def test_everything_that_can_be_said() -> None:
    spec = spec_of(
        """
name: 7 & more
explain: label
batch: 3
shards: 2
seed: 5
maps: true
models:
  a: {load: efficientnet-lite0, target_layer: "4", size: [32, 32], resize: squash, device: cpu}
  b: efficientnet-lite0
data:
  ten: {noise: {size: 10}, limit: 4}
  each: {noise: {size: 10, boxes: true}, per_class: 1}
methods:
  - fame: {iterations: 3, step: 1/255, stop_below: none}
    limit: 2
  - {fame: {iterations: 3, step: 0.5}, label: big steps}
  - fame: {iterations: 4}
  - constant
metrics: [area]
published:
  - {data: ten, model: a, method: big steps, part: area, value: 46, source: "A 2026"}
  - {data: ten, method: big steps, part: seconds, value: 1.5, source: "A 2026"}
"""
    )
    options = {"target_layer": "4", "size": (32, 32), "resize": "squash", "device": "cpu"}
    assert loaded == [("efficientnet-lite0", options), ("efficientnet-lite0", {})]
    assert [len(data) for data in spec.data.values()] == [4, 5]
    assert [entry.label for entry in spec.entries] == [
        "fame iterations=3", "big steps", "fame iterations=4", "constant", "random", "centre-gaussian", "edges",
    ]  # fmt: skip
    assert spec.entries[0].method == fm.methods.FAME(iterations=3, step=1 / 255)
    assert [entry.limit for entry in spec.entries[:2]] == [2, None]
    assert (spec.explain, spec.batch, spec.shards, spec.seed, spec.maps) == ("label", 3, 2, 5, True)
    assert spec.published == [
        Published("ten", "a", "big steps", "area", 46, "A 2026"),
        Published("ten", "", "big steps", "seconds", 1.5, "A 2026"),
    ]


def test_metrics_of_one_name_tell_which_they_are() -> None:
    spec = spec_of(SMALL.replace("[area]", "[area, {area: {level: 0.25}}]"))
    assert parts(spec) == ["area level=0.5", "rest level=0.5", "area level=0.25", "rest level=0.25"]
    assert [metric.parameters for metric in spec.metrics] == [{"level": 0.5}, {"level": 0.25}]
    model = spec.models["lite0"]
    case = Case(model, torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32), Logit([0, 1]))
    for metric, plain in zip(spec.metrics, (Area(0.5), Area(0.25)), strict=True):
        told, known = metric.measure(case), plain.measure(case)
        assert list(told.values) == list(metric.parts)
        assert list(told.curves) == list(metric.parts)[:1]
        assert [v.tolist() for v in told.values.values()] == [v.tolist() for v in known.values.values()]
        assert (metric.name, metric.task, metric.needs) == ("area", "any", frozenset())


EVERYTHING = """
nam: small
models:
  lite0: {load: efficientnet-lite0, resiz: 32}
  absent: mobilenet_v2@nowhere/there.pth
  unknown: efficientnet-lite9
  gone: {load: efficientnet-lite0, device: cuda:99}
  odd: 3
data:
  noise: {noise: {size: many, sides: 3}, limit: 0}
  noises: noise
  fotos: fotos
  faces: faces
  where: {noise: {size: "${SIZE}"}}
methods:
  - grad-kam
  - {fame: {iterations: 2.5, stap: 1}, limit: x}
  - {fame: , lift-cam: }
  - cam
  - cam
metrics:
  - are
  - area
  - area
  - boxed
batch: many
explain: labels
maps: 1
published:
  - {data: nois, method: cam, part: area, value: high}
  - 3
noise: 1
name: twice
name: thrice
"""


def test_all_problems_are_told_at_once_in_order_with_lines() -> None:
    told = problems_of(EVERYTHING, TYPO="1")
    expected = [
        ("--set TYPO:", "no such variable"),
        ("line 2, nam:", "did you mean name?"),
        ("line 4, models.lite0.resiz:", "did you mean resize"),
        ("line 5, models.absent:", "there is no file nowhere/there.pth"),
        ("line 6, models.unknown:", "did you mean efficientnet-lite0?"),
        ("line 7, models.gone.device:", "cuda:99"),
        ("line 8, models.odd:", "write odd: NAME"),
        ("line 9, data:", "data sets are of one task"),
        ("line 10, data.noise.noise.size:", "a whole number: got 'many'"),
        ("line 10, data.noise.noise.sides:", "no parameter 'sides'"),
        ("line 10, data.noise.limit:", "at least 1: got 0"),
        ("line 12, data.fotos:", "did you mean photos?"),
        ("line 14, data.where.noise.size:", "${SIZE} has no value: give --set SIZE=..."),
        ("line 16, methods[0]:", "did you mean grad-cam"),
        ("line 17, methods[1].fame.iterations:", "a whole number: got 2.5"),
        ("line 17, methods[1].fame.stap:", "did you mean step?"),
        ("line 17, methods[1].limit:", "at least 1: got 'x'"),
        ("line 18, methods[2]:", "write a name, or"),
        ("line 20, methods[4]:", "cam stands there twice"),
        ("line 22, metrics[0]:", "did you mean area,"),
        ("line 24, metrics[2]:", "area stands there twice"),
        ("line 25, metrics[3]:", "boxed is for classification, which faces is not"),
        ("line 26, batch:", "a whole number: got 'many'"),
        ("line 27, explain:", "'predicted' or 'label': got 'labels'"),
        ("line 28, maps:", "True or False: got 1"),
        ("line 30, published[0].data:", "the spec has no data 'nois'"),
        ("line 30, published[0].value:", "a finite number: got 'high'"),
        ("line 30, published[0].source:", "needs its source"),
        ("line 31, published[1]:", "a figure holds"),
        ("line 32, noise:", "there is no key 'noise'"),
        ("line 34, name:", "stands there twice"),
    ]
    unmatched = [text for text in told if not any(text.startswith(at) and why in text for at, why in expected)]
    missing = [one for one in expected if not any(text.startswith(one[0]) and one[1] in text for text in told)]
    assert not unmatched
    assert not missing
    lines = [int(text.split(",")[0].removeprefix("line ")) for text in told[1:]]
    assert lines == sorted(lines)
    assert not loaded, "no network is loaded for a file that cannot be run"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("metrics: [area]", "metrics: [boxed]"), "boxed needs the boxes or masks of objects: none in noise"),
        (("metrics: [area]", "metrics: [matched]"), "matched is for verification, which noise is not"),
        (("noise: noise", "faces: faces"), "the data sets are for verification: lite0 is a Classifier"),
        (("metrics: [area]", "metrics: []"), "metrics: is empty"),
        (("name: small", ""), "name: is missing"),
        (("name: small", "name: 3"), "name is a text: got 3"),
        (("noise: noise", "noise: {noise: {unlabelled: true}}"), "explain: label needs the classes of all"),
        (("grad-cam", "fggb"), "no model takes fggb: lite0: fggb explains pairs of faces"),
        (("grad-cam", "{grad-cam: {layer: nowhere}}"), "there is no layer 'nowhere'"),
        (("[grad-cam]", "grad-cam"), "methods holds names of methods, as a list: got 'grad-cam'"),
        (("grad-cam", "{grad-cam: , label: random}, random"), "random stands there twice"),
        (("grad-cam", "{grad-cam: , label: 3}"), "label is a text: got 3"),
        (("small", "!!python/object:os.system x"), "is no value"),
        (("small", "[a"), "it is no YAML"),
        (("noise: noise", "noise: {noise: {size: ${SIZE}}}"), 'within {...} and [...] write "${NAME}", with quotes'),
        ((SMALL, "- 3"), "it holds no keys"),
        ((SMALL, "a: &a [*a]"), "it holds itself"),
        (
            ("small", "small\npublished: [{data: noise, method: fame, part: area, value: 1, source: x}]"),
            "no method 'fame'",
        ),
        (("small", "small\npublished: [{dat: noise}]"), "a figure has no 'dat'"),
        (("efficientnet-lite0", "{load: efficientnet-lite0, weights: V1}"), "weights= is for torchvision:NAME"),
    ],
)
def test_each_problem_in_its_words(change: tuple[str, str], told: str) -> None:
    text = SMALL.replace(*change)
    text += "explain: label\n" if "unlabelled" in text else ""
    assert any(told in problem for problem in problems_of(text)), problems_of(text)


def test_a_method_that_only_some_models_refuse_is_no_problem() -> None:
    """VGG's head has several layers, which cam cannot read; its table tells so."""
    spec = spec_of(SMALL.replace("lite0}", "lite0, vgg: 'mobilenet_v2@pyproject.toml'}").replace("grad-cam", "cam"))
    assert spec.entries[0].label == "cam"


def test_faces_get_their_threshold_later() -> None:
    text = SMALL.replace("lite0: efficientnet-lite0", "face: mobilefacenet@pyproject.toml")
    spec = spec_of(text.replace("noise: noise", "faces: faces").replace("grad-cam", "fggb"))
    assert spec.models["face"].threshold is None  # type: ignore[attr-defined]


def test_classes_of_another_list_are_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "classes", list("vwxyz"))
    monkeypatch.setattr(
        reading, "load", lambda name: fm.Classifier(nets.gap_linear().eval(), size=32, labels=list("abcde"))
    )
    assert "noise and lite0 share none" in problems_of(SMALL + "explain: label\n")[0]
    spec_of(SMALL)


def test_variables_come_from_the_caller_then_the_environment_then_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL.replace("noise: noise", "noise: {noise: {size: '${SIZE}'}, limit: '${LIMIT}'}").replace(
        "name: small", "name: ${NAME}-${NAME}\nvariables: {SIZE: 5, LIMIT: 2, NAME: x}\nseed: ${SEED}"
    )
    monkeypatch.setenv("SIZE", "6")
    monkeypatch.setenv("LIMIT", "3")
    spec = spec_of(text, variables={"LIMIT": "4", "SEED": "9"})
    assert (spec.data["noise"].size, len(spec.data["noise"]), spec.name, spec.seed) == (6, 4, "x-x", 9)
    assert spec.variables == {"SIZE": "6", "LIMIT": "4", "NAME": "x", "SEED": "9"}


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*bench\.yaml: give the YAML file"):
        read_spec(tmp_path / "bench.yaml")
    (tmp_path / "bench.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="no text in UTF-8"):
        read_spec(tmp_path / "bench.yaml")
    (tmp_path / "bench.yaml").write_text(SMALL)
    assert read_spec(tmp_path / "bench.yaml").name == "small"


def test_without_the_extra_packages_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ValueError, match=r"needs pyyaml .*: pip install 'faithmap\[bench\]'"):
        spec_of(SMALL)
