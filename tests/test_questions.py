"""Questions through the whole library: explained, compared, on the command line, and in benchmarks."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import faithmap as fm
from faithmap.bench.plan import Unit, batches, plan, problems, unit_batches
from faithmap.bench.spec import Entry, Spec
from faithmap.cli import main
from faithmap.datasets.worlds.questions import ANSWERS, ASKED, Questions
from faithmap.datasets.worlds.shapes import COLOURS, SHAPES
from faithmap.evaluation import evaluate
from faithmap.models import nets
from tests.bench import tiny

WORDS = ("what", *ASKED, "is", "the", "thing", *SHAPES, *COLOURS)
CUBE, BALL = "what colour is the cube?", "what material is the ball?"


def answerer(seed: int = 0) -> fm.VQAModel:
    torch.manual_seed(seed)
    net = nets.FiLM(len(ANSWERS), len(WORDS), width=8, context=8).eval()
    torch.nn.init.normal_(net.out.weight, std=2)
    return fm.VQAModel(
        net, answers=ANSWERS, words=WORDS, max_words=6, size=96, mean=(0.5,) * 3, std=(0.25,) * 3, target_layer="act"
    )


def pictures(count: int) -> list[Image.Image]:
    return [one.image for one in Questions(size=count)]


# -- explain and compare ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lift-cam", fm.methods.FAME(iterations=3), fm.methods.RISE(masks=20)])
def test_a_question_for_each_picture_gives_the_maps_of_single_calls(method: Any) -> None:
    model, photos, asked = answerer(), pictures(4), [CUBE, BALL, CUBE, BALL]
    att = fm.explain(model, photos, method, ["red", "metal", "blue", 9], question=asked)
    assert [sample.question for sample in att.samples] == asked
    assert [sample.label for sample in att.samples] == ["red", "metal", "blue", ANSWERS[9]]
    for i, target in enumerate(["red", "metal", "blue", 9]):
        alone = fm.explain(model, photos[i], method, target, question=asked[i])
        scale = float(alone.maps.abs().max())
        torch.testing.assert_close(att.maps[i], alone.maps[0], rtol=0, atol=1e-4 * scale)
        assert att.samples[i].sha256 == alone.samples[0].sha256
        assert att.samples[i].score == pytest.approx(alone.samples[0].score, rel=1e-4, abs=1e-4)
        assert att.provenance["evaluations"] == pytest.approx(alone.provenance["evaluations"])
    assert att.provenance["images"] == 4
    assert len(att.overlay()) == 4


def test_one_question_serves_all_and_the_predicted_answer_is_explained() -> None:
    model, photos = answerer(), pictures(3)
    att = fm.explain(model, photos, "grad-cam", question=CUBE)
    asked = fm.explain(model.asking(CUBE), photos, "grad-cam")
    assert torch.equal(att.maps, asked.maps)
    assert att.provenance["samples"] == asked.provenance["samples"]
    assert [s.label for s in att.samples] == [one[0].label for one in model.answer(photos, CUBE)]


def test_the_question_is_saved_with_the_map(tmp_path: Path) -> None:
    att = fm.explain(answerer(), pictures(2), "grad-cam", question=[CUBE, BALL])
    again = fm.Attribution.load(att.save(tmp_path / "maps.safetensors"))
    assert [sample.question for sample in again.samples] == [CUBE, BALL]
    assert again.provenance["weights"] == answerer().weights_digest


def test_progress_ends_at_its_total_once() -> None:
    seen: list[tuple[int, int]] = []
    ask = fm.methods.FAME(iterations=3)
    fm.explain(answerer(), pictures(3), ask, question=[CUBE, BALL, CUBE], progress=lambda *at: seen.append(at))
    assert {total for _, total in seen} == {9}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (9, 9)


def test_compare_takes_one_question() -> None:
    model, photos = answerer(), pictures(2)
    found = fm.compare(model, photos, ["lift-cam", "grad-cam"], question=CUBE)
    assert {s.question for att in found.values() for s in att.samples} == {CUBE}
    assert torch.equal(found["grad-cam"].maps, fm.explain(model, photos, "grad-cam", question=CUBE).maps)
    with pytest.raises(ValueError, match="one question"):
        fm.compare(model, photos, ["grad-cam"], question=[CUBE, BALL])  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", [fm.explain, fm.compare])
@pytest.mark.parametrize(
    ("model", "question", "words"),
    [
        (answerer, None, r"question=\.\.\."),
        (answerer, "", "no words"),
        (answerer, "what colour is the cub?", "'cub': did you mean cube"),
        (answerer, "what is the colour of the cube", "'of'"),
        (answerer, "what what what what is the cube", "up to 6 words: got 7"),
        (tiny.classifier, CUBE, "takes no question"),
    ],
)
def test_questions_that_do_not_fit_are_refused_before_any_work(
    ask: Callable[..., Any],
    model: Callable[[], fm.models.Model],
    question: str | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = model()
    monkeypatch.setattr(torch.nn.Conv2d, "forward", None)
    with pytest.raises(ValueError, match=words):
        ask(made, Image.new("RGB", (96, 96)), question=question)


def test_there_are_as_many_questions_as_pictures() -> None:
    with pytest.raises(ValueError, match="3 questions came with 2 pictures"):
        fm.explain(answerer(), pictures(2), question=[CUBE, CUBE, BALL])


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    room = importlib.import_module("faithmap.models.load")
    sources = (
        room.Source("answerer", "answers", lambda **_: answerer(), fm.VQAModel),
        room.Source("tiny", "says classes", lambda **_: tiny.classifier()),
    )
    monkeypatch.setattr(room, "SOURCES", sources)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (picture,) = pictures(1)
    picture.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.usefixtures("_known")
@pytest.mark.parametrize("command", ["explain", "compare"])
def test_the_command_line_asks(command: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = [command, str(photo), "--model", "answerer", "--question", CUBE, "--methods", "lift-cam,grad-cam"]
    assert main([*arguments, "--target", "cyan", "--json", "--out", str(out)]) == 0
    (told,) = json.loads(capsys.readouterr().out)["images"]
    assert told["question"] == CUBE
    assert told["explained"]["label"] == "cyan"
    saved = fm.Attribution.load(told["methods"][0]["file"])
    model = answerer()
    assert torch.equal(saved.maps, fm.explain(model, photo, "lift-cam", "cyan", question=CUBE).maps)


@pytest.mark.usefixtures("_known")
@pytest.mark.parametrize("command", ["explain", "compare"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "answerer"], "--question"),
        (["--model", "answerer", "--question", "what color is the cube"], "did you mean colour"),
        (["--model", "answerer", "--question", CUBE, "--target", "read"], "did you mean red"),
        (["--model", "tiny", "--question", CUBE], "takes no question"),
    ],
)
def test_the_command_line_refuses(
    command: str, arguments: list[str], words: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(photo), *arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -- benchmarks -------------------------------------------------------------------------------------------------------


def spec(model: fm.models.Model, data: Any, methods: Sequence[str] = ("grad-cam",), **settings: Any) -> Spec:
    entries = [Entry(name, fm.methods.create(name)) for name in methods]
    given = {"metrics": [tiny.Mean()], "batch": 4, "seed": 0, "explain": "predicted", **settings}
    return Spec(name="questions", models={"model": model}, data={"data": data}, entries=entries, **given)


def test_the_samples_of_a_batch_ask_one_question_whatever_the_shards() -> None:
    world = Questions(size=80)
    asked = spec(answerer(), world)
    whole = batches(asked, "data")
    assert sorted(i for batch in whole for i in batch) == list(range(80))
    for batch in whole:
        assert len({world[i].question for i in batch}) == 1
        assert len(batch) <= 4
    assert max(map(len, whole)) > 1
    sharded = replace(asked, shards=3)
    units = [unit for unit in plan(sharded) if unit.kind == "maps"]
    assert len(units) == 3
    assert [batch for unit in units for batch in unit_batches(sharded, unit)] == whole
    assert unit_batches(sharded, Unit("data", "model", kind="clean")) == whole


def test_evaluate_asks_each_sample_its_own_question() -> None:
    model, world = answerer(), Questions(size=4)
    found = evaluate(model, world, ["lift-cam"], [tiny.Mean(), "energy-pointing", "known-truth"], batch_size=2)
    assert [one.sample for one in found.clean.samples] == [one.id for one in world]
    assert not [record.error for record in found.records if record.method == "lift-cam" and record.error]
    for one, said in zip(world, found.clean.samples, strict=True):
        (best,) = model.answer(one.image, one.question or "", top=1)
        assert (said.explained, said.label) == (best.index, one.label)
        assert said.score == pytest.approx(best.probability, abs=1e-5)
        map = fm.explain(model, one.image, "lift-cam", question=one.question).maps
        of = [r for r in found.records if (r.sample, r.method, r.part) == (one.id, "lift-cam", "mean")]
        assert [r.value for r in of] == [pytest.approx(float(map.mean()), rel=1e-3, abs=1e-6)]


def test_values_that_methods_share_are_found_for_each_question() -> None:
    found = evaluate(answerer(), Questions(size=3), ["lift-cam"], ["shap-error"], batch_size=2)
    values = [record.value for record in found.records if record.method == "lift-cam"]
    assert values
    assert None not in values


def test_models_and_data_that_do_not_go_together_are_problems() -> None:
    world = Questions(size=4)
    assert list(problems(spec(answerer(), world))) == []
    (lack,) = problems(spec(tiny.classifier(), world))
    assert "data asks questions, and model is a Classifier" in lack
    (lack,) = problems(spec(answerer(), tiny.pictures(3)))
    assert "model answers questions, and data asks none" in lack
    small = answerer()
    few = fm.VQAModel(small.module, answers=ANSWERS, words=[*WORDS][:8], max_words=6, size=96)
    assert "does not know the word" in next(iter(problems(spec(few, world))))
    with pytest.raises(ValueError, match="asks questions"):
        evaluate(tiny.classifier(), world, ["grad-cam"], [tiny.Mean()])
    with pytest.raises(ValueError, match="asks none"):
        evaluate(answerer(), tiny.pictures(3), ["grad-cam"], [tiny.Mean()])


# -- the network that ships -------------------------------------------------------------------------------------------


def test_the_network_that_ships_answers_by_the_thing_that_is_asked_about() -> None:
    """On scenes that neither training nor grading has seen; and without the thing it is no longer sure."""
    model = fm.load("questions")
    assert isinstance(model, fm.VQAModel)
    assert (model.name, model.size, model.suggest_layers()[0].name) == ("questions", (96, 96), model.target_layer)
    assert model.suggest_layers()[0].shape == (96, 12, 12)
    assert list(model.answers) == list(Questions(size=1).classes)
    right, moved = [], []
    for one in Questions(seed=2, size=48):
        assert one.question is not None
        assert one.label is not None
        assert one.truth is not None
        taken = Image.composite(one.truth.donor(), one.image, Image.fromarray(one.truth.mask().numpy()))
        asked, x = model.asking(one.question), model.prepare([one.image, taken])
        before, after = asked.network(x).softmax(dim=1)
        right.append(int(before.argmax()) == one.label)
        moved.append(float(before.max() - after[before.argmax()]))
    assert sum(right) >= 0.9 * len(right)
    assert sum(change > 0.2 for change in moved) >= 0.7 * len(moved)


def test_what_lift_cam_finds_on_the_network_that_ships_adds_up() -> None:
    world = Questions(seed=2, size=4)
    att = fm.explain(fm.load("questions"), [one.image for one in world], question=[one.question or "" for one in world])
    assert att.completeness_error is not None
    assert bool((att.completeness_error < 1e-4 * att.scores.abs()).all())
