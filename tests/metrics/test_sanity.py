"""Gates: what controls and methods get; the caller's network stays what it is; noise belongs to a sample."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.common import imagenet_squashed
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import create as method
from faithmap.metrics import Case, create, rank_correlation, relative_change, scrambled, unit_scaled
from faithmap.metrics.sanity import other_classes
from faithmap.models.base import Model
from faithmap.sampling import generators
from faithmap.targets import Logit, Similarity, Target
from tests import nets


def explained(by: str | Callable[..., Tensor], model: Model, x: Tensor, target: Target, **given: Any) -> Case:
    """A case whose maps are a method's."""
    one = method(by) if isinstance(by, str) else by

    def explain(x: Tensor, target: Target, model: Model = model) -> Tensor:
        found: Tensor = one(model, x, target)
        return found

    return Case(model, x, explain(x, target), target, explain=explain, **given)


def small(net: Callable[[], nn.Module] = nets.VGGLike) -> tuple[Model, Tensor]:
    model = fm.Classifier(net().eval(), size=32)
    return model, model.from_pixels(torch.rand(4, 3, 32, 32))


def of(case: Case, name: str, **parameters: Any) -> dict[str, list[float]]:
    return {part: values.tolist() for part, values in create(name, **parameters).measure(case).values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# A network without what it has learned


@pytest.mark.parametrize("net", nets.CLASSIFIERS.values(), ids=nets.CLASSIFIERS)
def test_every_weight_tensor_holds_the_same_numbers_in_another_order(net: Callable[[], nn.Module]) -> None:
    model, x = small(net)
    for name, weight in model.module.named_parameters():
        other = dict(scrambled(model).module.named_parameters())[name]
        assert torch.equal(other.flatten().sort().values, weight.flatten().sort().values), name
        assert torch.equal(other, weight) == (len(weight.unique()) == 1), name
    for name, buffer in model.module.named_buffers():
        assert torch.equal(dict(scrambled(model).module.named_buffers())[name], buffer), name
    assert not torch.allclose(scrambled(model).network(x), model.network(x))


def test_the_callers_module_stays_what_it_is() -> None:
    model, x = small(nets.Residual)
    model.module.train()
    before = copy.deepcopy(model.module.state_dict())
    random = torch.get_rng_state()
    other = scrambled(model)
    method("grad-cam")(other, x, Logit(1))
    assert other.module is not model.module
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    assert model.module.training
    assert torch.equal(torch.get_rng_state(), random)


def test_the_seed_decides_and_the_weights() -> None:
    model, x = small()
    first = scrambled(model).network(x)
    assert scrambled(model).module is scrambled(model).module
    assert torch.equal(scrambled(fm.Classifier(copy.deepcopy(model.module), size=32)).network(x), first)
    assert not torch.equal(scrambled(model, seed=1).network(x), first)
    with torch.no_grad():
        model.module.fc2.weight.mul_(2)  # type: ignore[operator, union-attr]
    assert not torch.equal(scrambled(model).network(x), first)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x).relu()).mean(dim=(2, 3))
            return out

    module: Any = scrambled(fm.Classifier(Tied(), size=8)).module
    assert module.a.weight.data_ptr() == module.b.weight.data_ptr()


def test_activations_keep_their_size_through_a_deep_network() -> None:
    """Photos through EfficientNet-Lite0: at none of 49 convolutions are they 10 times larger or smaller."""
    model = fm.load()
    x = model.prepare([Path(fm.__file__).parent / "assets" / "photos" / f"{name}.jpg" for name in ("cat", "rocket")])

    def sizes(module: nn.Module) -> list[float]:
        found: list[float] = []
        convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        hooks = [c.register_forward_hook(lambda _, i, o: found.append(float(o.abs().mean()))) for c in convolutions]
        with torch.no_grad():
            module.eval()(x)
        for hook in hooks:
            hook.remove()
        return found

    trained = sizes(copy.deepcopy(model.module))
    assert len(trained) == 49
    for seed in range(2):
        ratios = [b / a for a, b in zip(trained, sizes(scrambled(model, seed).module), strict=True)]
        assert 0.1 < min(ratios) <= max(ratios) < 10


# ---------------------------------------------------------------------------------------------------------------------
# The gates


@pytest.mark.parametrize("control", ["random", "centre-gaussian", "edges"])
def test_controls_do_not_pass(control: str) -> None:
    """They do not look at the network: their maps stay the same without its weights and for every class."""
    model, x = small()
    found = of(explained(control, model, x, Logit(1)), "sanity")
    assert found["mprt"] == pytest.approx([1] * 4)
    assert found["class-randomisation"] == pytest.approx([1] * 4)


def test_a_cam_with_random_weights_does_not_ask_for_the_class() -> None:
    model, x = small()
    assert of(explained("random-cam", model, x, Logit(1)), "sanity")["class-randomisation"] == pytest.approx([1] * 4)


def test_a_gradient_passes_where_the_weights_are_all_there_is() -> None:
    """Z = W x: the gradient is a row of W, of numbers without order. Shuffled, or of another class, it is another."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    model = fm.Classifier(net, size=32, target_layer="0")

    def gradient(model: Model, x: Tensor, target: Target) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(target(model.network(x)).sum(), x)
        return found.sum(dim=1)

    found = of(explained(gradient, model, torch.rand(4, 3, 32, 32), Logit([0, 1, 2, 3])), "sanity")
    assert max(map(abs, found["mprt"] + found["class-randomisation"])) < 4 / 32  # four standard errors


def test_both_are_rank_correlations_of_the_raw_maps() -> None:
    model, x = small(nets.Residual)
    case = explained("grad-cam", model, x, Logit([0, 1, 2, 3]), seed=3)
    found, one = of(case, "sanity"), method("grad-cam")
    without = one(scrambled(model, seed=3), x, case.target)
    assert found["mprt"] == rank_correlation(torch.stack([case.maps, without], dim=1))[:, 0, 1].tolist()
    for i, value in enumerate(found["class-randomisation"]):
        others = [one(model, x[i : i + 1], Logit(k)) for k in range(5) if k != i]
        possible = [float(rank_correlation(torch.stack([case.maps[i], o[0]])[None])[0, 0, 1]) for o in others]
        assert min(abs(value - p) for p in possible) < 1e-3


def test_the_other_class_is_never_the_same_and_all_others_are_as_likely() -> None:
    draw = generators(0, "test", [str(i) for i in range(4000)])
    found = other_classes(torch.full((4000,), 2), 5, draw)
    counts = torch.bincount(found, minlength=5).tolist()
    assert counts[2] == 0
    assert [c / 4000 for c in counts if c] == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


@pytest.mark.parametrize("name", ["sanity", "stability"])
def test_a_sample_has_its_own_randomness_wherever_it_stands(name: str) -> None:
    model, x = small()
    whole = of(explained("grad-cam", model, x, Logit([0, 1, 2, 3])), name)
    for i in (3, 1):
        for part, (value,) in of(explained("grad-cam", model, x[i : i + 1], Logit(i)), name).items():
            assert value == pytest.approx(whole[part][i], abs=1e-3), part
    again = of(explained("grad-cam", model, x, Logit([0, 1, 2, 3])), name)
    assert again == whole
    assert of(explained("grad-cam", model, x, Logit([0, 1, 2, 3]), seed=1), name) != whole


def test_one_class_has_no_other_and_counting_classes_is_counted() -> None:
    model = fm.Classifier(nets.gap_linear(classes=1).eval(), size=32)
    case = explained("grad-cam", model, torch.rand(2, 3, 32, 32), Logit(0))
    found = of(case, "sanity")
    assert all(map(math.isnan, found["class-randomisation"]))
    assert not any(map(math.isnan, found["mprt"]))
    assert case.forwards == 1


@pytest.mark.parametrize("name", ["sanity", "stability"])
def test_maps_without_numbers_have_no_value_and_a_method_is_needed(name: str) -> None:
    model, x = small()
    case = explained("grad-cam", model, x, Logit(1))
    case.maps[2] = torch.nan
    for values in of(case, name).values():
        assert [math.isnan(v) for v in values] == [False, False, True, False]
    case.explain = None
    with pytest.raises(ValueError, match=f"{name} needs explain"):
        create(name).measure(case)


# ---------------------------------------------------------------------------------------------------------------------
# Stability


def test_the_change_is_a_share_of_the_maps_length() -> None:
    a, b = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    for found, m, n in zip(relative_change(a, b), a, b, strict=True):
        far = math.sqrt(sum((p - q) ** 2 for p, q in zip(m.flatten().tolist(), n.flatten().tolist(), strict=True)))
        assert float(found) == pytest.approx(far / math.sqrt(sum(p**2 for p in m.flatten().tolist())))
    assert bool(relative_change(0 * a, b).isnan().all())


def test_what_ignores_the_picture_is_perfectly_stable_and_noise_is_not() -> None:
    model, x = small()
    for control in ("constant", "centre-gaussian"):
        assert of(explained(control, model, x, Logit(1)), "stability") == {
            "stability-mean": [0] * 4, "stability-max": [0] * 4,
        }  # fmt: skip
    # Two independent uniform maps: E|a - b|^2 / E|a|^2 = (1/6) / (1/3).
    assert of(explained("random", model, x, Logit(1)), "stability")["stability-mean"] == pytest.approx(
        [0.5**0.5] * 4, abs=0.03
    )


def test_the_noise_is_gaussian_in_pixels_and_drawn_anew() -> None:
    """Seen by a method that keeps what it is given; std is another one for each channel."""
    model = fm.Classifier(nets.VGGLike().eval(), size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.5, 0.1))
    x, seen = model.from_pixels(torch.rand(2, 3, 32, 32)), []

    def spy(model: Model, x: Tensor, target: Target) -> Tensor:
        seen.append(model.to_pixels(x))
        return x[:, 0]

    case = explained(spy, model, x, Logit(1))
    found = of(case, "stability", noise=0.05, draws=6)
    noise = torch.stack(seen[1:]) - seen[0]  # (draws, B, 3, H, W)
    for c in range(3):
        assert float(noise[:, :, c].std()) == pytest.approx(0.05, rel=0.05)
        assert abs(float(noise[:, :, c].mean())) < 0.003
    assert len({float(n.sum()) for n in noise.flatten(0, 1)}) == 12
    channels = [model.from_pixels(picture)[:, 0] for picture in seen]
    changes = torch.stack([relative_change(case.shown, unit_scaled(map)) for map in channels[1:]])
    assert found["stability-mean"] == pytest.approx(changes.mean(dim=0).tolist(), rel=1e-3)
    assert found["stability-max"] == pytest.approx(changes.amax(dim=0).tolist(), rel=1e-3)


def test_more_noise_changes_more_and_faces_are_disturbed_too() -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    case = explained("grad-cam", face, torch.randn(2, 3, 32, 32), Similarity(torch.randn(2, 6)))
    little, much = (of(case, "stability", noise=noise)["stability-mean"] for noise in (0.001, 0.1))
    assert all(0 < a < b for a, b in zip(little, much, strict=True))


@pytest.mark.parametrize("name", ["sanity", "stability", "adcc"])
def test_the_callers_mode_does_not_matter(name: str) -> None:
    model, x = small()
    with torch.inference_mode():
        found = of(explained("grad-cam", model, x, Logit(1)), name)
    assert found == of(explained("grad-cam", model, x, Logit(1)), name)


@pytest.mark.real
def test_gates_open_for_cams_of_a_real_network_and_not_for_controls(data: Path) -> None:
    """MobileNetV2 and 6 photos: means over them, for the class that is there."""
    model = fm.load(f"mobilenet_v2@{data}/weights/mobilenet_v2.pth", resize="squash")
    paths, classes, _ = imagenet_squashed(data, 224)
    x, k = model.prepare(paths[::110]), Logit(classes[::110])
    for name in ("lift-cam", "grad-cam"):
        found = create("sanity").measure(explained(name, model, x, k)).values
        assert max(float(values.mean()) for values in found.values()) < 0.5
    for name in ("centre-gaussian", "edges"):
        found = create("sanity").measure(explained(name, model, x, k)).values
        assert min(float(values.min()) for values in found.values()) > 0.999


@pytest.mark.parametrize("wrong", [{"noise": 0.0}, {"draws": 0}])
def test_wrong_parameters_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="noise > 0 and draws >= 1: got noise="):
        create("stability", **wrong)
