"""The rules that every registered method keeps, over tiny networks; a new method is covered by its registration."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import Method, Result, available, create, get
from faithmap.models.base import Model
from tests import nets

# A method that is slow with its defaults gets smaller ones here; all others run as they are.
# Where a black fill is the default they hide with the mean colour: a dead picture is one of that colour.
TINY: dict[str, dict[str, Any]] = {
    "corrise": {"masks": 40, "fill": "mean"},
    "extremal-perturbation": {"iterations": 3, "step": 1 / 8, "sigma": 1 / 4},
    "fame": {"iterations": 3},
    "integrated-gradients": {"steps": 8, "baseline": "mean"},
    "kernel-shap": {"segments": 6, "samples": 24},
    "lime": {"segments": 6, "samples": 24},
    "occlusion": {"patch": 0.3, "stride": 0.15},
    "owen-cam": {"orders": 2, "levels": 2},
    "rise": {"masks": 40, "cells": 4},
    "s-rise": {"masks": 40, "cells": 4},
    "shap-cam": {"orders": 2, "exact_up_to": 0},
    "smooth-grad": {"samples": 4},
    "xface": {"smallest": 1 / 8, "sizes": 2, "stride": 1 / 8, "fill": "mean"},
}

# What a method may refuse, by the network: its error must name what would work.
REFUSED: dict[str, set[str]] = {
    "cam": {"vgg", "vit", "faces", "faces, dot product"},
    "fggb": {"faces, dot product"},
    "xssab": {"faces, dot product"},
}
# Methods that take only some targets, and what their error says of a callable.
PICKY: dict[str, str] = {
    "cam": "affine",
    "fggb": "Similarity",
    "xssab": "Similarity",
    "zhu-decomposition": "Similarity",
}
# What is the network's own gradient, or nothing of it, has its own resolution.
AS_GIVEN = {"gradient", "constant"}
# Additive methods whose sum is an integral by a few steps, and how far it may be from exact.
BY_STEPS: dict[str, float] = {"integrated-gradients": 0.05}
# Methods that explain what a layer sees, whatever the target: a target that says nothing leaves them their maps.
TARGETLESS = {"eigen-cam"}
# Networks with parts whose share an additive method does not know: its error is reported there, and is not small.
INCOMPLETE: dict[str, set[str]] = {"full-grad": {"vit"}}

NETS: dict[str, Callable[[], nn.Module]] = {**nets.CLASSIFIERS, "faces": nets.Faces, "faces, dot product": nets.Faces}


def refused(name: str) -> set[str]:
    classifiers = {net for net in NETS if not net.startswith("faces")}
    return REFUSED.get(name, set()) | (classifiers if get(name).faces else set())


def home(name: str, net: str = "residual") -> str:
    """A network that the method explains: the given one, or one of its own."""
    return net if net not in refused(name) else "faces" if get(name).faces else "residual"


ALL = pytest.mark.parametrize("name", available())
ON_ALL = pytest.mark.parametrize(
    ("name", "net"), [(name, net) for name in available() for net in NETS if net not in refused(name)]
)
EXPLAINING = pytest.mark.parametrize(
    "name", [name for name in available() if not (get(name).control or name in TARGETLESS)]
)
OF_CLASSES = pytest.mark.parametrize("name", [name for name in available() if not get(name).faces])


def method(name: str) -> Method:
    return create(name, **TINY.get(name, {}))


@functools.cache
def network(net: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One for all tests that change nothing in it: what is made once per network is."""
    torch.manual_seed(0)
    return NETS[net]().to(dtype).eval()


def at_home(name: str, n: int, dtype: torch.dtype = torch.float32) -> tuple[Model, Tensor, Any]:
    """A model that the method explains, samples and a target."""
    net = home(name)
    return wrap(net, NETS[net]().to(dtype).eval()), *question(net, n, dtype)


def wrap(net: str, module: nn.Module) -> Model:
    if net.startswith("faces"):
        return fm.FaceEmbedder(module, size=32, threshold=0.2)
    return fm.Classifier(module, size=32)


def question(net: str, n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Any]:
    """Some samples and a different target for each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    if not net.startswith("faces"):
        return x, fm.targets.Logit(torch.arange(n) % 5)
    references = torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, (fm.targets.DotProduct if "dot" in net else fm.targets.Similarity)(references)


def close(ours: Tensor, theirs: Tensor, share: float) -> None:
    """Equal to a share of the largest value."""
    torch.testing.assert_close(ours, theirs, atol=share * max(float(theirs.abs().max()), 1e-30), rtol=0)


def snapshot(module: nn.Module) -> dict[str, Any]:
    """All that a method may not change: module, random generators, thread's modes."""
    parts = {
        name: (part.training, [len(h) for k, h in vars(part).items() if k.endswith("_hooks")], sorted(vars(part)))
        for name, part in module.named_modules()
    }
    return {
        "parts": parts,
        "requires grad": [p.requires_grad for p in module.parameters()],
        "grad": [None if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "state": {name: value.tolist() for name, value in module.state_dict().items()},
        "memory": [t.data_ptr() for t in (*module.parameters(), *module.buffers())],
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }


# --- 1: batches


@ON_ALL
def test_a_batch_is_the_loop_whatever_its_order_and_chunks(name: str, net: str) -> None:
    iterated = get(name).continuous
    dtype, share = (torch.float64, 1e-6) if iterated else (torch.float32, 1e-4)
    model, (x, target) = wrap(net, network(net, dtype)), question(net, 3, dtype)
    maps = method(name)(model, x, target, seed=5)
    order = torch.tensor([2, 0, 1])
    for i in range(3):
        close(maps[i : i + 1], method(name)(model, x[i : i + 1], target.select(torch.tensor([i])), seed=5), share)
    close(maps[order], method(name).run(model, x[order], target.select(order), seed=5, batch_size=2).maps, share)


@ON_ALL
def test_the_same_call_gives_the_same_bits(name: str, net: str) -> None:
    model, (x, target) = wrap(net, network(net)), question(net, 2)
    first, again = (method(name).run(model, x, target, seed=3) for _ in range(2))
    assert torch.equal(first.maps, again.maps)
    assert first.scores is not None
    assert again.scores is not None
    assert torch.equal(first.scores, again.scores)


@ON_ALL
def test_scores_are_the_targets_and_costs_are_counted(name: str, net: str) -> None:
    module = network(net)
    model, (x, target) = wrap(net, module), question(net, 3)
    found = method(name).run(model, x, target, batch_size=2)
    assert found.scores is not None
    torch.testing.assert_close(found.scores, target(module(x)).detach(), atol=1e-5, rtol=1e-4)
    assert found.cost.forward >= 3
    assert [found.target.describe(i) for i in range(3)] == [target.describe(i) for i in range(3)]  # type: ignore[union-attr]


@OF_CLASSES
def test_without_a_target_the_predicted_class_is_explained(name: str) -> None:
    model, (x, _) = wrap("residual", network("residual")), question("residual", 3)
    predicted = model.module(x).argmax(dim=1).tolist()
    assert torch.equal(method(name)(model, x), method(name)(model, x, predicted))


@pytest.mark.parametrize("name", [name for name in available() if get(name).at_layer])
def test_methods_for_locations_batch_as_they_loop(name: str) -> None:
    model = fm.Classifier(nets.Residual().double().eval(), size=32, target_layer="layer1")
    x, places = torch.randn(2, 3, 32, 32, dtype=torch.float64), [(0, 3), (15, 7)]
    maps = method(name)(model, x, fm.targets.FeatureLocation([0, 15], [3, 7]))
    for i, place in enumerate(places):
        close(maps[i : i + 1], method(name)(model, x[i : i + 1], fm.targets.FeatureLocation(*place)), 1e-6)


# --- 2: precision


@ON_ALL
def test_maps_are_raw_and_float32_or_better_on_the_inputs_device(name: str, net: str) -> None:
    model, (x, target) = wrap(net, network(net)), question(net, 2)
    expected = method(name)(model, x, target)
    assert expected.dtype == torch.float32
    assert expected.shape == (2, 32, 32)
    assert not expected.requires_grad
    for dtype in (torch.float16, torch.float64, *[torch.bfloat16] * (net == home(name))):
        given = x.to(dtype)
        maps = method(name)(model, given, target)
        assert maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert maps.device == x.device
        assert torch.equal(maps, method(name)(model, given.to(maps.dtype), target))


@pytest.mark.parametrize("name", sorted(set(available()) - AS_GIVEN))
def test_half_precision_networks_have_maps_with_float32_resolution(name: str) -> None:
    """A map, a sum or an iterate in bfloat16 would leave only 8 significant bits."""
    net = home(name, "gap")
    model, (x, target) = wrap(net, NETS[net]().bfloat16().eval()), question(net, 1)
    maps = method(name)(model, x, target)
    assert maps.dtype == torch.float32
    assert not torch.equal(maps, maps.bfloat16().float())


@pytest.mark.parametrize("name", sorted(set(available()) - {"constant"}))
def test_bfloat16_maps_correlate_with_float32_maps(name: str) -> None:
    model, x, target = at_home(name, 8)
    full, half = (method(name)(model.configured(precision=p), x, target) for p in ("float32", "bf16"))
    assert half.dtype == torch.float32
    rows = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(full, half, strict=True)]
    assert float(torch.stack(rows).median()) >= 0.95


@ALL
def test_compiled_networks_have_the_same_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dynamo's tracing, but without waiting for a compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model, x, target = at_home(name, 3)
    maps = method(name).run(model.configured(compile=True), x, target, batch_size=2).maps
    close(maps, method(name).run(model, x, target, batch_size=2).maps, 1e-5)


@pytest.mark.real
def test_networks_compiled_for_this_machine_have_the_same_maps() -> None:
    model, (x, target) = wrap("gap", nets.gap_linear().eval()), question("gap", 2)
    close(method("fame")(model.configured(compile=True), x, target), method("fame")(model, x, target), 1e-3)


# --- 3: the module is the same afterwards


class _TargetError(Exception):
    pass


def _raise(outputs: Any) -> Tensor:
    raise _TargetError


@ON_ALL
def test_everything_is_the_same_afterwards_also_on_an_exception(name: str, net: str) -> None:
    module = NETS[net]().train()
    for p in list(module.parameters())[::2]:
        p.grad = torch.ones_like(p)
    next(iter(module.parameters())).requires_grad_(False)
    module.register_forward_hook(lambda *_: None)
    model, (x, target) = wrap(net, module), question(net, 2)
    x.requires_grad_()
    given, before = x.detach().clone(), snapshot(module)
    method(name)(model, x, target)
    assert snapshot(module) == before
    with pytest.raises(ValueError if name in PICKY else _TargetError):
        method(name)(model, x, _raise)
    assert snapshot(module) == before
    assert x.grad is None
    assert torch.equal(x.detach(), given)


# --- 4: modules and callers of all kinds


@ALL
@pytest.mark.parametrize("net", ["residual", "gap"])
def test_wrapped_and_frozen_modules_have_the_same_maps(name: str, net: str) -> None:
    net = home(name, net)
    module = NETS[net]().eval()
    x, target = question(net, 2)
    expected = method(name)(wrap(net, module), x, target)
    kinds = {
        "compiled": torch.compile(module, backend="eager"),
        "data parallel": nn.DataParallel(module),
        "training": module.train(),
        "frozen": module.requires_grad_(False),
    }
    for kind, wrapped in kinds.items():
        maps = method(name)(wrap(net, wrapped), x, target)  # type: ignore[arg-type]
        torch.testing.assert_close(maps, expected, atol=0, rtol=0, msg=kind)


@ALL
@pytest.mark.parametrize("net", ["vgg", "vit", "gap"])
def test_callers_in_any_mode_get_the_same_bits(name: str, net: str) -> None:
    net = home(name, net)
    module = NETS[net]().eval()
    expected = method(name)(wrap(net, module), *question(net, 2))
    modes: dict[str, AbstractContextManager[Any]] = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
        "enable_grad": torch.enable_grad(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "nothing": nullcontext(),
    }
    for mode, context in modes.items():
        with context:  # model, input and target are made under the caller's mode too
            maps = method(name)(wrap(net, module), *question(net, 2))
        torch.testing.assert_close(maps, expected, atol=0, rtol=0, msg=mode)
        assert not maps.is_inference()


@ALL
def test_a_network_made_under_inference_mode_can_be_explained(name: str) -> None:
    with torch.inference_mode():
        model, x, target = at_home(name, 2)
        maps = method(name)(model, x, target)
    assert bool(maps.isfinite().all())


@ALL
def test_threads_do_not_disturb_one_another(name: str) -> None:
    model, x, target = at_home(name, 4)
    one = [target.select(torch.tensor([i])) for i in range(4)]
    alone = [method(name)(model, x[i : i + 1], one[i]) for i in range(4)]
    fresh = NETS[home(name)]().eval()
    fresh.load_state_dict(model.module.state_dict())
    model, found, start = wrap(home(name), fresh), {}, threading.Barrier(4)

    def work(i: int) -> None:
        torch.set_num_threads(1)
        start.wait()
        found[i] = [method(name)(model, x[i : i + 1], one[i]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        for maps in found[i]:
            assert torch.equal(maps, alone[i])


# --- 5: maps that say nothing


@EXPLAINING
@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda z: z[:, 0] * 0, "constant"),
        (lambda z: torch.ones(len(z)), "constant"),
        (lambda z: z[:, 0] / (z[:, 0] * 0), "constant|NaN"),
    ],
    ids=["no influence", "a constant", "not finite"],
)
def test_maps_that_say_nothing_are_flagged(name: str, function: Any, says: str) -> None:
    model, x, _ = at_home(name, 2)
    if name in PICKY:
        with pytest.raises(ValueError, match=PICKY[name]):
            fm.explain(model, x, method(name), function)
        return
    with pytest.warns(fm.DegenerateMapWarning, match=says):
        att = fm.explain(model, x, method(name), function)
    for reason in att.degenerate:
        assert reason is not None
        assert any(word in reason for word in says.split("|"))
    assert not att.normalized().any()


@ALL
def test_one_broken_sample_leaves_the_others_their_maps(name: str) -> None:
    """A dead picture in the batch: all activations 0."""
    model, x, target = at_home(name, 3, torch.float64)
    for part in model.module.modules():
        if isinstance(part, (nn.Conv2d, nn.BatchNorm2d)) and part.bias is not None:
            part.bias.data.zero_()
        if isinstance(part, nn.PReLU):
            part.weight.data.zero_()  # else a gradient passes at 0
    x[1] = 0
    maps = method(name)(model, x, target)
    if not get(name).control:
        assert bool((maps[1] == maps[1, 0, 0]).all())
    others = torch.tensor([0, 2])
    close(maps[others], method(name)(model, x[others], target.select(others)), 1e-6)


# --- 6: additive methods


@pytest.mark.parametrize(
    ("name", "net"), [(n, net) for n in available() if get(n).additive for net in NETS if net not in refused(n)]
)
def test_additive_methods_report_that_their_parts_add_up(name: str, net: str) -> None:
    model, (x, target) = wrap(net, network(net, torch.float64)), question(net, 3, torch.float64)
    found: Result = method(name).run(model, x, target, batch_size=2)
    assert found.completeness_error is not None
    assert found.condition is not None
    slack = BY_STEPS.get(name, 1e-8)
    assert (float(found.completeness_error.max()) < slack) == (net not in INCOMPLETE.get(name, set()))
    assert float(found.condition.min()) >= 1 - slack


# --- 7: wrong input


def _counted(net: str) -> tuple[Model, list[int]]:
    """A model whose network counts its evaluations."""
    module, calls = NETS[net]().eval(), []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return wrap(net, module), calls


@OF_CLASSES
@pytest.mark.parametrize(
    ("x", "target", "says"),
    [
        (torch.zeros(3, 32, 32), 0, r"prepared input \(B, 3, H, W\).*got \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0, "torch.uint8"),
        (torch.zeros(0, 3, 32, 32), 0, r"\(0, 3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), 0, "takes 3 channels, as its mean and std say: got 1"),
        (torch.full((1, 3, 32, 32), torch.nan), 0, "NaN or infinite"),
        (torch.full((1, 3, 32, 32), -torch.inf), 0, "NaN or infinite"),
        (torch.zeros(2, 3, 32, 32), [0, 1, 2], "3 entries for a batch of 2"),
        (torch.zeros(2, 3, 32, 32), fm.targets.Logit([0, 1, 2]), "3 entries for a batch of 2"),
        (torch.zeros(2, 3, 32, 32), -1, "no class -1"),
        (torch.zeros(2, 3, 32, 32), 0.5, "class index, a label, a Target or a callable: got 0.5"),
        (torch.zeros(2, 3, 32, 32), True, "got True"),
        (torch.zeros(2, 3, 32, 32), "cat", "knows no class names"),
        (torch.zeros(2, 3, 32, 32), [], "one target per picture"),
        (torch.zeros(2, 3, 32, 32), [None, 1], "one target per picture"),
        (torch.zeros(2, 3, 32, 32), [0, fm.targets.FeatureLocation(0, 0)], "cannot share a batch"),
    ],
)
def test_wrong_input_is_named_before_the_network_runs(name: str, x: Tensor, target: Any, says: str) -> None:
    model, calls = _counted("residual")
    for explain in (method(name), functools.partial(fm.explain, method=method(name))):
        with pytest.raises(ValueError, match=says):
            explain(model, x, target=target)
    assert not calls


@ALL
def test_wrong_settings_are_named_before_the_network_runs(name: str) -> None:
    model, calls = _counted(home(name))
    x, target = question(home(name), 1)
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"batch_size .* got {size}"):
            method(name).run(model, x, target, batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"wrap it.*fm\.Classifier"):
        method(name)(model.module, x, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fm\.load\('resnet50'\)"):
        method(name)("resnet50", x, target)  # type: ignore[arg-type]
    if "layer" in method(name).parameters:
        with pytest.raises(ValueError, match=r"no layer 'layer3' .*(did you mean|available)"):
            create(name, **TINY.get(name, {}), layer="layer3")(model, x, target)
    assert not calls


@ALL
def test_faces_need_a_question(name: str) -> None:
    model, _ = _counted("faces")
    x = torch.zeros(1, 3, 32, 32)
    for target in (None, 3):
        with pytest.raises(ValueError, match="explain_pair"):
            method(name)(model, x, target)


@ALL
def test_what_a_method_does_not_explain_it_refuses_by_naming_what_does(name: str) -> None:
    if not get(name).at_layer:
        model, calls = _counted(home(name))
        with pytest.raises(ValueError, match="use fame"):
            method(name)(model, torch.zeros(1, 3, 32, 32), fm.targets.FeatureLocation(0, 0))
        assert not calls
    for net in refused(name):
        with pytest.raises(ValueError, match=r"use |needs |explains pairs of faces"):
            method(name)(wrap(net, NETS[net]().eval()), *question(net, 2))


@pytest.mark.parametrize("name", [name for name in available() if get(name).opposite == "negated"])
def test_what_speaks_against_a_match_is_the_negative_where_a_method_says_so(name: str) -> None:
    model, (x, _) = wrap("faces", nets.Faces().double().eval()), question("faces", 2, torch.float64)
    if "faces" not in refused(name):
        references = torch.randn(2, 6, dtype=torch.float64)
        plus, minus = (method(name)(model, x, t(references)) for t in (fm.targets.Similarity, fm.targets.Dissimilarity))
        close(minus, -plus, 1e-6)


@ALL
def test_pairs_of_faces_are_explained_or_say_why_not(name: str) -> None:
    model, (x, _) = wrap("faces", nets.Faces().eval()), question("faces", 2)
    if "faces" in refused(name):
        return
    pair = fm.explain_pair(model, x[:1], x[1:], method(name))
    how = pair.probe.similar.provenance["notes"]
    assert (pair.probe.dissimilar is None) == (get(name).opposite == "none") == ("has none" in str(how.get("e-")))
    assert bool(pair.gallery.similar.maps.isfinite().all())


@OF_CLASSES
@pytest.mark.parametrize("k", [5, 99])
def test_a_class_that_does_not_exist_is_named(name: str, k: int) -> None:
    model, (x, _) = wrap("residual", nets.Residual().eval()), question("residual", 2)
    with pytest.raises(ValueError, match=f"class {k} does not exist: the network has 5 outputs, 0 to 4"):
        method(name)(model, x, fm.targets.Logit([0, k]))


# --- progress


@ALL
def test_progress_rises_to_the_total_and_cancels(name: str) -> None:
    model, x, target = at_home(name, 5)
    calls: list[tuple[int, int]] = []
    method(name).run(model, x, target, batch_size=2, progress=lambda done, total: calls.append((done, total)))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = snapshot(model.module)
    with pytest.raises(KeyboardInterrupt):
        method(name).run(model, x, target, batch_size=2, progress=cancel)
    assert snapshot(model.module) == before
