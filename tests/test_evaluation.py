"""One call: methods and controls beside one another, and all that is wrong told before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import faithmap as fm
from faithmap.bench.spec import CONTROLS
from faithmap.evaluation import EVALUATED, EVALUATED_PAIRS, _methods, evaluate
from faithmap.targets import Logit
from tests.bench import tiny


def test_controls_stand_beside_the_methods_under_their_own_names() -> None:
    own = fm.methods.create("centre-gaussian", sigma=0.1)
    found = evaluate(tiny.classifier(), tiny.pictures(3), ["grad-cam", own, "random"], [tiny.Mean()])
    labels = [entry.label for entry in found.spec.entries]
    assert labels == [*CONTROLS, "grad-cam", "centre-gaussian sigma=0.1"]
    assert {record.method for record in found.records} == set(labels)
    assert len(found.records) == 3 * 6 * 2


def test_records_are_the_maps_of_single_calls() -> None:
    model = tiny.classifier()
    pictures = [tiny.picture(i) for i in range(3)]
    found = evaluate(model, pictures, ["lift-cam"], [tiny.Mean()], batch_size=2)
    values = {r.sample: r.value for r in found.records if r.method == "lift-cam" and r.part == "mean"}
    for i, picture in enumerate(pictures):
        x = model.prepare(picture)
        map = fm.methods.create("lift-cam")(model, x, Logit(model.module(x).argmax(dim=1)))
        assert values[f"{i} picture"] == pytest.approx(float(map.mean()), abs=1e-5)


def test_a_label_is_explained_where_it_is_asked_for() -> None:
    found = evaluate(tiny.classifier(), tiny.pictures(4), [], [tiny.Mean()], explain="label")
    assert [one.explained for one in found.clean.samples] == [1, 2, 3, 4]


def test_a_limit_takes_the_samples_that_the_data_set_takes() -> None:
    data = tiny.pictures(9)
    found = evaluate(tiny.classifier(), data, [], [tiny.Mean()], limit=4)
    assert [one.sample for one in found.clean.samples] == [one.id for one in data.take(4)]


def test_pairs_have_a_threshold() -> None:
    found = evaluate(tiny.embedder(), tiny.pairs(6), ["grad-cam"], [tiny.Mean()])
    assert found.clean.threshold is not None
    assert {record.sample for record in found.records} == {f"q{i}" for i in range(6)}


def test_defaults_are_methods_that_exist_and_not_controls() -> None:
    for names in (EVALUATED, EVALUATED_PAIRS):
        assert not [name for name in names if fm.methods.get(name).control]


def test_all_can_explain_the_model() -> None:
    model = tiny.classifier()
    found = [method.name for method in _methods(model, "all", [])]
    assert "lift-cam" in found
    assert not [name for name in found if fm.methods.get(name).faces or name in CONTROLS]


def test_everything_wrong_is_told_at_once_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fm.Classifier, "network", lambda *_: pytest.fail("it has begun to work"))
    bare = tiny.Pictures(given=[fm.datasets.Example("a", tiny.picture(0))])
    with pytest.raises(ValueError, match="limit") as told:
        evaluate(
            tiny.classifier(),
            bare,
            ["grad-cm", "zhu-decomposition", fm.methods.create("grad-cam", layer="layr1")],
            ["no-such", tiny.Inside()],
            explain="label",
            limit=0,
            batch_size=0,
        )
    parts = ("grad-cam?", "pairs of faces", "layer1", "'no-such'", "where objects are", "batch_size", "lacks some")
    assert not [part for part in parts if part not in str(told.value)], told.value


@pytest.mark.parametrize(
    ("data", "words"),
    [(3, "a data set is one of"), ([], "the list is empty"), (tiny.pairs(2), "is for verification")],
)
def test_data_that_does_not_fit_is_named(data: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(tiny.classifier(), data, [], [])  # type: ignore[arg-type]


def test_names_alone_are_no_lists() -> None:
    with pytest.raises(ValueError, match=r"methods is a list.*metrics is a list"):
        evaluate(tiny.classifier(), tiny.pictures(1), "grad-cam", "iou")  # type: ignore[arg-type]


def test_pictures_none_of_which_is_readable_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sample of pictures can be explained.*a\.png"):
        evaluate(tiny.classifier(), [tmp_path / "a.png", tmp_path / "b.png"], [], [])


def test_one_that_is_not_readable_is_a_row(tmp_path: Path) -> None:
    found = evaluate(tiny.classifier(), [tmp_path / "a.png", tiny.picture(0)], [], [tiny.Mean()])
    assert {record.sample for record in found.records if record.error} == {"a.png"}


def test_progress_ends_at_all() -> None:
    calls: list[tuple[int, int]] = []
    evaluate(tiny.classifier(), tiny.pictures(2), [], [tiny.Mean()], progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1]


def test_the_model_and_the_generators_are_left_as_they_were() -> None:
    model = tiny.classifier()
    model.module.train()
    before = torch.get_rng_state()
    evaluate(model, tiny.pictures(2), ["smooth-grad"], [tiny.Mean()])
    assert model.module.training
    assert torch.equal(before, torch.get_rng_state())
