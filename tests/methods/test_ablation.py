"""Score-CAM and Ablation-CAM against loops over channels."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import faithmap as fm
from faithmap.methods import LIFTCAM, AblationCAM, ScoreCAM
from faithmap.targets import DotProduct, Logit, LogitMargin, Probability, Similarity
from tests import nets
from tests.methods.test_cam import activations, literal_cam
from tests.methods.test_gradcam import upsampled

CASES = pytest.mark.parametrize(
    ("make", "layer"),
    [(nets.gap_linear, "4"), (nets.VGGLike, "conv2"), (nets.Residual, "layer1"), (nets.MobileLike, "block.4")],
)


def masked_scores(score: Callable[[Tensor], Tensor], A: Tensor, x: Tensor, hidden: Tensor) -> list[Tensor | None]:
    """The score of one picture (3, H, W) behind each channel's mask; None for channels without contrast."""
    found: list[Tensor | None] = []
    for k in range(len(A)):
        up = upsampled(A[k])
        mask = (up - up.min()) / (up.max() - up.min())
        changed = mask * x + (1 - mask) * hidden
        found.append(score(changed[None])[0] if A[k].max() > A[k].min() else None)
    return found


@CASES
@pytest.mark.parametrize("fill", ["mean", "black"])
@pytest.mark.parametrize("form", ["paper", "official"])
@torch.no_grad()
def test_score_cam_is_its_formula(
    make: Callable[[], nn.Module], layer: str, fill: Literal["mean", "black"], form: Literal["paper", "official"]
) -> None:
    module, x, classes = make().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64), [3, 1, 0]
    model = fm.Classifier(module, size=32, target_layer=layer)
    maps = ScoreCAM(form=form, fill=fill)(model, x, classes)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (model.mean, model.std))
    hidden = -mean / std if fill == "black" else torch.zeros(3, 1, 1, dtype=torch.float64)
    nothing = hidden.expand(1, 3, 32, 32)
    for i, k in enumerate(classes):
        A = activations(module, layer, x[i : i + 1])[0].detach()

        def score(x: Tensor, k: int = k) -> Tensor:
            z: Tensor = module(x)
            return z[:, k] if form == "paper" else z.softmax(dim=1)[:, k]

        scores = masked_scores(score, A[0], x[i], hidden)
        used = [j for j, s in enumerate(scores) if s is not None]
        weights = torch.zeros(1, len(scores), dtype=torch.float64)
        values = torch.stack([scores[j] for j in used])  # type: ignore[misc]
        weights[0, used] = (values - score(nothing)).softmax(dim=0) if form == "paper" else values
        torch.testing.assert_close(maps[i : i + 1], literal_cam(weights, A), atol=1e-10, rtol=1e-6)


@torch.no_grad()
def test_score_cam_of_similarities_is_the_same_in_both_forms_but_for_softmax() -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, target_layer="last")
    x, r = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    A = activations(face.module, "last", x)[0]
    paper, official = (ScoreCAM(form=form).run(face, x, Similarity(r)) for form in ("paper", "official"))
    for i in range(2):
        scores = masked_scores(lambda p: F.cosine_similarity(face.module(p), r[i]), A[i], x[i], x.new_zeros(3, 1, 1))  # noqa: B023
        values = torch.stack([s for s in scores if s is not None])
        torch.testing.assert_close(official.coefficients[i], values, atol=1e-10, rtol=1e-6)  # type: ignore[index]
        torch.testing.assert_close(paper.coefficients[i], values.softmax(dim=0), atol=1e-10, rtol=1e-6)  # type: ignore[index]


def test_the_official_form_takes_probabilities_of_logits_alone() -> None:
    model, x = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(3, 3, 32, 32)
    official = ScoreCAM(form="official")
    assert torch.equal(official(model, x, [0, 1, 2]), official(model, x, Probability([0, 1, 2])))
    mixed = official(model, x, [0, LogitMargin(1, 2), 2])
    torch.testing.assert_close(mixed[1:2], official(model, x[1:2], LogitMargin(1, 2)))
    torch.testing.assert_close(mixed[::2], official(model, x[::2], [0, 2]))


def test_channels_without_contrast_weigh_nothing_and_are_not_asked() -> None:
    module = nets.gap_linear().eval()
    module[3].weight.data[:3], module[3].bias.data[:3] = 0, torch.tensor([2.0, 0.0, -1.0])  # type: ignore[index]
    module[3].bias.data[3:] = 1.0  # type: ignore[index]
    found = ScoreCAM(layer="4").run(fm.Classifier(module, size=32), torch.randn(2, 3, 32, 32), 0)
    assert found.coefficients is not None
    assert not found.coefficients[:, :3].any()
    assert bool((found.coefficients[:, 3:] > 0).all())
    torch.testing.assert_close(found.coefficients.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert found.cost.per_image(2) == {"forward": 1 + 5}


def test_why_a_score_cam_says_nothing() -> None:
    module = nets.gap_linear().eval()
    model, x = fm.Classifier(module, size=32, target_layer="4"), torch.randn(2, 3, 32, 32)
    with pytest.warns(fm.DegenerateMapWarning, match="no mask changes the score"):
        fm.explain(model, x, "score-cam", lambda z: z[:, 0] * 0 + 3)
    module[3].weight.data.zero_()  # type: ignore[index]
    module[3].bias.data.fill_(1.0)  # type: ignore[index]
    with pytest.warns(fm.DegenerateMapWarning, match="no channel of layer '4' has a contrast"):
        fm.explain(model, x, "score-cam", 0)
    module[3].bias.data.fill_(-1.0)  # type: ignore[index]
    with pytest.warns(fm.DegenerateMapWarning, match="all activations of layer '4' are 0"):
        fm.explain(model, x, "score-cam", 0)


class _Alive(TorchDispatchMode):
    """How many numbers the tensors that exist hold, at most, of those made under it."""

    alive = peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not any(leaf is arg for arg in tree_leaves(args)):
                self.alive += leaf.numel()
                weakref.finalize(leaf, self.freed, leaf.numel())
        self.peak = max(self.peak, self.alive)
        return out

    def freed(self, numbers: int) -> None:
        self.alive -= numbers


@pytest.mark.parametrize("method", [ScoreCAM(), AblationCAM()])
def test_memory_does_not_grow_with_the_number_of_channels(method: fm.methods.Method) -> None:
    """All masks of 256 channels at once would be 512 x 1024 numbers, and all masked inputs three times that."""
    peaks = []
    for width in (16, 256):
        module = nn.Sequential(
            nn.Conv2d(3, width, 1, stride=16), nn.PReLU(), nn.Flatten(), nn.Linear(4 * width, 8), nn.ReLU(),
            nn.Linear(8, 5),
        ).eval()  # fmt: skip
        model, x, batches = fm.Classifier(module, size=32, target_layer="1"), torch.randn(2, 3, 32, 32), []
        module.register_forward_pre_hook(lambda _, args, seen=batches: seen.append(len(args[0])))
        method.run(model, x, 0)  # makes the cut, and checks it on three pictures
        batches.clear()
        with _Alive() as memory:
            found = method.run(model, x, 0, batch_size=2)
        assert max(batches, default=0) <= 2
        assert found.cost.forward + found.cost.tail_forward == 2 * (1 + width)
        peaks.append(memory.peak)
    assert peaks[1] < 2 * peaks[0]


# --- Ablation-CAM


@CASES
@torch.no_grad()
def test_ablation_cam_is_its_formula(make: Callable[[], nn.Module], layer: str) -> None:
    """Each channel set to 0 in the whole network, by a hook; scores of both signs."""
    module, x, classes = make().double().eval(), torch.randn(5, 3, 32, 32, dtype=torch.float64), [0, 1, 2, 3, 4]
    maps = AblationCAM()(fm.Classifier(module, size=32, target_layer=layer), x, classes)
    signs = set()
    for i, k in enumerate(classes):
        one = x[i : i + 1]
        A, outputs = activations(module, layer, one)
        y, weights = outputs[0, k], []
        signs.add(bool(y > 0))
        for channel in range(A.shape[1]):

            def ablate(_: nn.Module, __: object, out: Tensor, channel: int = channel) -> Tensor:
                out = out.clone()
                out[:, channel] = 0
                return out

            handle = module.get_submodule(layer).register_forward_hook(ablate)
            weights.append((y - module(one)[0, k]) / y.abs())
            handle.remove()
        expected = literal_cam(torch.stack(weights)[None], A)
        torch.testing.assert_close(maps[i : i + 1], expected, atol=1e-10, rtol=1e-6)
    assert signs == {True, False}


@torch.no_grad()
def test_ablation_cam_sets_channels_to_0_where_activations_are_negative_too() -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, target_layer="last")
    x, r = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    A = activations(face.module, "last", x)[0]
    found = AblationCAM().run(face, x, Similarity(r))
    for channel in range(8):
        without = A.clone()
        without[:, channel] = 0
        y = found.scores
        assert y is not None
        lost = y - F.cosine_similarity(face.module.head(without), r)  # type: ignore[operator]
        torch.testing.assert_close(found.coefficients[:, channel], lost / y.abs(), atol=1e-10, rtol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("target", [Logit([0, 1, 2]), LogitMargin(1, [0, 2, 3])])
def test_behind_pooling_and_one_linear_layer_ablation_is_lift_cam_and_gradient_times_activation(
    target: fm.targets.Target,
) -> None:
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found, lift = (method.run(model, x, target) for method in (AblationCAM(), LIFTCAM()))
    assert found.notes["coefficients"] == "closed form"
    assert found.cost.per_image(3) == {"forward": 1}
    assert found.scores is not None
    lost = found.coefficients * found.scores.abs()[:, None]  # type: ignore[operator]
    torch.testing.assert_close(lost, lift.coefficients, atol=1e-12, rtol=1e-9)
    A, outputs = activations(model.module, "last", x)
    (g,) = torch.autograd.grad(target(outputs).sum(), A)
    torch.testing.assert_close(lost, (g * A).sum(dim=(2, 3)), atol=1e-12, rtol=1e-9)


def test_the_closed_form_is_what_ablation_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    closed = AblationCAM().run(model, x, [0, 1, 2])
    monkeypatch.setattr("faithmap.methods.ablation.closed_form", lambda query: None)
    asked = AblationCAM().run(model, x, [0, 1, 2])
    assert (closed.notes["coefficients"], asked.notes["coefficients"]) == ("closed form", "ablation")
    torch.testing.assert_close(closed.maps, asked.maps, atol=1e-12, rtol=1e-8)


def test_dot_products_of_pooled_embeddings_have_the_closed_form_too() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.PReLU(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    face, x, r = fm.FaceEmbedder(module, size=32, target_layer="1"), torch.randn(2, 3, 32, 32), torch.randn(2, 6)
    assert AblationCAM().run(face, x, DotProduct(r)).notes["coefficients"] == "closed form"
    assert AblationCAM().run(face, x, Similarity(r)).notes["coefficients"] == "ablation"


def test_each_channel_that_is_there_takes_one_run_of_the_tail() -> None:
    module = nets.VGGLike().eval()
    module.conv2.weight.data[:3], module.conv2.bias.data[:3] = 0, 0.0  # three dead channels
    model = fm.Classifier(module, size=32, target_layer="conv2")
    found = AblationCAM().run(model, torch.randn(2, 3, 32, 32), 0)
    assert found.cost.per_image(2) == {"forward": 1, "tail_forward": 5}
    assert not found.coefficients[:, :3].any()  # type: ignore[index]


def test_a_score_of_0_divides_nothing_in_silence() -> None:
    model, x = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(1, 3, 32, 32)
    usual = float(model.module(x)[0, 0].detach())
    with pytest.warns(fm.DegenerateMapWarning, match="the score is 0, by which the weights are divided"):
        fm.explain(model, x, "ablation-cam", lambda z: (z[:, 0] > usual + 1e-3).float())


@pytest.mark.parametrize("method", [ScoreCAM(), AblationCAM()])
def test_progress_is_told_within_a_batch(method: fm.methods.Method) -> None:
    model, done = fm.Classifier(nets.VGGLike().eval(), size=32), []
    method.run(model, torch.randn(4, 3, 32, 32), 0, batch_size=2, progress=lambda d, t: done.append(d / t))
    assert done == sorted(done)
    assert len(set(done)) > 4
    assert done[-1] == 1
