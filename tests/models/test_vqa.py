"""Models that answer questions: while one is asked they are classifiers of the same weights and layers."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.cut import GraphCut, cut
from faithmap.models import nets as known
from faithmap.models import vqa
from faithmap.models.frozen import twin

ANSWERS, WORDS = (
    ("red", "blue", "cube", "ball"),
    ("what", "colour", "shape", "is", "the", "cube", "ball", "thing", "red"),
)


class Tiny(nn.Module):
    """What breaks rules: a scale and shift, a gate, a softmax over places, weights of its own at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.embed, self.film = nn.Embedding(len(WORDS) + 1, 8, padding_idx=0), nn.Linear(8, 16)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("prior", torch.randn(len(ANSWERS)))
        self.head = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, len(ANSWERS)))

    def forward(self, x: Tensor, question: Tensor) -> Tensor:
        context = self.embed(question).sum(dim=1)
        scale, shift = self.film(context)[:, :, None, None].chunk(2, dim=1)
        a = torch.relu(self.trunk(x) * (1 + scale) + shift)
        fit = (a * context[:, :, None, None]).sum(dim=1, keepdim=True).flatten(2) * self.temperature
        seen = (a.flatten(2) * fit.softmax(dim=2)).sum(dim=2)
        return self.head(seen * torch.sigmoid(seen + context)) + self.prior


def tiny(**settings: Any) -> fm.VQAModel:
    torch.manual_seed(0)
    return fm.VQAModel(Tiny().eval(), answers=ANSWERS, words=WORDS, max_words=6, **{"size": 32, **settings})


def numbers(*words: str) -> Tensor:
    return torch.tensor([[WORDS.index(word) + 1 for word in words] + [0] * (6 - len(words))])


def test_what_is_asked_is_the_network_with_the_question() -> None:
    model, x = tiny(), torch.randn(3, 3, 32, 32)
    asked = model.asking("What COLOUR is the cube?")
    assert type(asked) is fm.Classifier
    assert asked.labels == ANSWERS
    expected = model.module(x, numbers("what", "colour", "is", "the", "cube"))
    torch.testing.assert_close(asked.network(x), expected)
    other = model.module(x, numbers("what", "shape", "is", "the", "red", "thing"))
    torch.testing.assert_close(model.asking("what shape is the red thing").network(x), other)
    assert not torch.allclose(expected, other)


def test_layers_have_the_same_names_whatever_is_asked() -> None:
    model = tiny()
    asked = model.asking("what is the cube")
    assert [n for n, _ in asked.module.named_modules()] == [n for n, _ in model.module.named_modules()]
    assert [n for n, _ in asked.module.named_parameters()] == [n for n, _ in model.module.named_parameters()]
    assert model.suggest_layers() == asked.suggest_layers()
    assert model.at("trunk.2").asking("what is the cube").target_layer == "trunk.2"
    with pytest.raises(ValueError, match=r"trunk\.9"):
        model.at("trunk.9")


def test_settings_and_weights_are_those_of_the_model() -> None:
    model = tiny(size=(32, 48), mean=(0.1, 0.2, 0.3), channel_order="bgr", name="mine")
    x, before = torch.randn(1, 3, 32, 48), model.asking("what is the cube")
    assert (before.size, before.mean, before.channel_order, before.name) == ((32, 48), (0.1, 0.2, 0.3), "bgr", "mine")
    assert before.weights_digest == model.weights_digest == model.asking("what is the ball").weights_digest
    assert model.configured("bf16").asking("what is the cube").precision == "bf16"
    scores = before.network(x)
    with torch.no_grad():
        model.module.head[2].bias += 1
        model.module.temperature.fill_(0)
    model.module.prior = model.module.prior + 1  # a buffer that is replaced, as `to` does
    after = model.module(x, numbers("what", "is", "the", "cube"))
    torch.testing.assert_close(before.network(x), after)
    assert not torch.allclose(scores, after)


def test_a_question_that_comes_again_finds_what_was_derived_for_it() -> None:
    model = tiny()
    first, again = model.asking("what is the cube"), model.asking("What is the cube?")
    assert first.module is again.module
    assert twin(first.module) is twin(again.module)
    made = cut(first.module, "trunk", torch.randn(1, 3, 32, 32))
    assert cut(again.module, "trunk", torch.randn(2, 3, 32, 32)) is made
    assert model.asking("what is the ball").module is not first.module
    assert copy.copy(model).asking("what is the cube").module is first.module


def test_only_so_many_questions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqa, "KEPT", 2)
    model = tiny()
    seen = [weakref.ref(model.asking(f"what is the {word}").module) for word in ("cube", "ball", "thing", "red")]
    gc.collect()
    assert [ref() is not None for ref in seen] == [False, False, True, True]


@pytest.mark.parametrize("name", ["lift-cam", "deep-lift", "owen-cam", "shap-cam"])
@pytest.mark.parametrize("layer", ["trunk", "trunk.2"])
def test_contributions_add_up_through_scale_gate_and_softmax(name: str, layer: str) -> None:
    att = fm.explain(tiny(target_layer=layer), torch.randn(4, 3, 32, 32), name, question="what colour is the cube?")
    assert att.completeness_error is not None
    assert bool((att.completeness_error < 1e-5).all())


def test_the_network_is_cut_as_a_graph_and_the_question_is_in_its_tail() -> None:
    asked = tiny().asking("what is the red thing")
    x = torch.randn(3, 3, 32, 32)
    made = cut(asked.module, "trunk", x)
    assert isinstance(made, GraphCut)
    split = made.split(x)
    torch.testing.assert_close(split.tail(split.A), asked.network(x))
    torch.testing.assert_close(split.tail(split.A[[2, 0]], torch.tensor([2, 0])), asked.network(x[[2, 0]]))


def test_the_network_that_ships_is_cut_and_adds_up() -> None:
    net = known.FiLM(len(ANSWERS), len(WORDS), width=16, context=8).eval()
    model = fm.VQAModel(net, answers=ANSWERS, words=WORDS, max_words=6, size=96, target_layer="act")
    att = fm.explain(model, torch.randn(2, 3, 96, 96), question="what is the cube", target=[0, 1])
    assert att.provenance["notes"]["cut"] == "graph"
    assert bool((att.completeness_error < 1e-5).all())
    assert model.suggest_layers()[0].shape == (16, 12, 12)


def test_answers_come_best_first() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    (first, *_), _ = found = model.answer(x, "what is the cube", top=3)
    scores = model.module(x, numbers("what", "is", "the", "cube")).detach().softmax(dim=1)
    assert [len(one) for one in found] == [3, 3]
    assert first.index == int(scores[0].argmax())
    assert first.label == ANSWERS[first.index]
    assert first.probability == pytest.approx(float(scores[0].max()), abs=1e-6)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("", "no words"),
        ("?!", "no words"),
        (3, "a text"),
        ("what colur is the cube", "'colur': did you mean colour"),
        ("what is a big cube", "words 'a', 'big'"),
        ("what is the red ball what is", "up to 6 words: got 7"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(question: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        tiny().asking(question)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"answers": []}, "answers"),
        ({"answers": ["red", "red"]}, "answers"),
        ({"answers": "red"}, "answers"),
        ({"words": ["what", "what"]}, "words"),
        ({"words": ["What"]}, "lower case"),
        ({"words": ["ice cream"]}, "single"),
        ({"max_words": 0}, "max_words"),
        ({"target_layer": "no"}, "no layer"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fm.VQAModel(Tiny(), **{"answers": ANSWERS, "words": WORDS, "max_words": 6, "size": 32, **settings})


def test_without_a_question_nothing_is_explained() -> None:
    model, x = tiny(), torch.randn(1, 3, 32, 32)
    for ask in (
        lambda: fm.explain(model, x),
        lambda: fm.compare(model, x, ["grad-cam"]),
        lambda: fm.explain_locations(model, x),
        lambda: fm.methods.GradCAM()(model, x),
        lambda: model.network(x),
    ):
        with pytest.raises(ValueError, match=r"question=\.\.\."):
            ask()


def test_answers_have_to_be_as_many_as_scores() -> None:
    model = fm.VQAModel(Tiny().eval(), answers=ANSWERS[:3], words=WORDS, max_words=6, size=32)
    with pytest.raises(ValueError, match="4 scores"):
        model.answer(torch.randn(1, 3, 32, 32), "what is the cube")
