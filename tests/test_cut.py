"""Trunk and tail are the network, at every layer of every kind of network, and the network stays as it was."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from faithmap.cut import cut, observe
from faithmap.models.frozen import twin
from faithmap.models.nets import IResNet
from faithmap.targets import first_tensor
from tests.nets import Faces, Residual, VGGLike, ViTLike, gap_linear


def conv(width_in: int = 3, stride: int = 4) -> nn.Conv2d:
    return nn.Conv2d(width_in, 4, 3, stride, padding=1)


class Small(nn.Module):
    """A stem, a layer and a linear head; subclasses say what happens between them."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.layer, self.after, self.fc = conv(), layer or conv(4, 1), conv(4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.after(self.layer(self.stem(x))))

    def head(self, a: Tensor) -> Tensor:
        return self.fc(a.mean(dim=(2, 3)))


class Dense(Small):
    """Every layer reads all that came before it."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = torch.cat([a[:, :2], self.layer(F.relu(a))[:, :2]], dim=1)
        return self.head(torch.cat([a[:, 2:], b[:, 1:2], self.after(b)[:, :1]], dim=1))


class ConvHead(nn.Module):
    """SqueezeNet's head: a convolution to the classes, a ReLU, the average."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(), nn.ReLU(inplace=True), conv(4, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(4, 3, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Alias(Small):
    """An in-place layer whose input is used again: it is the layer's output by then."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        return self.head(a + self.after(self.layer(a)))


class Pair(nn.Module):
    """A layer that returns a map and what belongs to it, the latter not batch-first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 1)

    def forward(self, a: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.conv(a), {"scale": a.mean(dim=(2, 3)).t(), "shared": a.new_ones(2)}


class Tuple(Small):
    def __init__(self) -> None:
        super().__init__(Pair())

    def forward(self, x: Tensor) -> Tensor:
        a, more = self.layer(self.stem(x))
        return self.head(self.after(a) * more["scale"].t()[:, :, None, None] + more["shared"].sum())


class Sizes(Small):
    """Batch sizes, sides and numbers that are read in the trunk and used in the tail."""

    def forward(self, x: Tensor) -> Tensor:
        batch, size, root = x.shape[0], x.size(), x.shape[-1] ** 0.5
        flat = self.layer(self.stem(x)).reshape(batch, -1) / root
        return self.head(self.after(flat.view(batch, 4, 8, 8)) / size[2] + size.numel() / batch)


class StarredSizes(Small):
    """Unpacks a shape, which torch.fx cannot record."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        return self.head(self.after(self.layer(a).reshape(x.shape[0], -1).view(x.shape[0], *a.shape[1:])))


class SequenceFirst(Small):
    """What crosses the cut is (places, batch, channels), and flattened with the batch outside."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        sequence, flat = a.flatten(2).permute(2, 0, 1), a.flatten(2).transpose(1, 2).reshape(-1, 4)
        b = self.layer(a)
        b = b + (sequence * 2).permute(1, 2, 0).view_as(b)
        return self.head(self.after(b + flat.view(-1, 64, 4).transpose(1, 2).view_as(b)))


class BatchInside(Small):
    """What crosses the cut is flattened with the batch inside: rows of different images lie between one another."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        flat = a.flatten(2).permute(2, 0, 1).reshape(-1, 4)
        b = self.layer(a)
        return self.head(self.after(b + flat.view(64, -1, 4).permute(1, 2, 0).view_as(b)))


class Positions(Small):
    """A bias of the places that all images share, a constant of the forward pass, and numbers as settings."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.temperature = nn.Parameter(torch.randn(1, 4, 8, 8)), 2.0
        self.register_buffer("offset", torch.randn(4, 1, 1))

    def forward(self, x: Tensor, flag: bool = True) -> Tensor:
        x = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) * self.temperature
        bias = self.position.sigmoid() * self.offset
        a = self.layer(self.stem(x)) + bias if flag else x
        return self.head(self.after(a) + torch.tensor(0.5))


class Encoder(nn.Module):
    """torch.nn's own encoder behind patches; 16 tokens, the head is their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, stride=8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(dim=1))


class ChannelsLast(Small):
    """A layer that works on (B, h, w, C)."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.layer(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


class Writes(Small):
    """Works in place on its own input, on the layer's output and on what crosses the cut."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        skip = self.stem(x.mul_(2))
        a = self.layer(skip * 1)
        skip += 1
        a *= 2
        a += skip
        return self.head(self.after(F.relu(a, inplace=True)))


class Branches(Small):
    """Control flow that depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.layer(self.stem(x))
        return self.head(self.after(a * 2 if bool(x.isfinite().all()) else a))


class FunctionalDropout(Small):
    def forward(self, x: Tensor) -> Tensor:
        a = F.dropout(self.layer(self.stem(x)), 0.9, training=self.training)
        return self.head(F.dropout(self.after(a), 0.9, self.training))


@dataclass
class Output:
    logits: Tensor
    note: str = ""


class Dataclass(Small):
    def forward(self, x: Tensor) -> Output:
        return Output(super().forward(x))


class Dictionary(Small):
    def forward(self, x: Tensor) -> dict[str, Any]:
        a = self.layer(self.stem(x))
        return {"features": [a, {"mean": a.mean()}], "logits": self.head(self.after(a)), "name": "this"}


NETS: dict[str, Callable[[], nn.Module]] = {
    "gap_linear": gap_linear,
    "vgg": VGGLike,
    "residual": Residual,
    "faces": Faces,
    "vit": ViTLike,
    "iresnet": lambda: IResNet((1, 1), (4, 8), size=32, embedding=5),
    "dense": Dense,
    "conv head": ConvHead,
    "alias": Alias,
    "tuple": Tuple,
    "sizes": Sizes,
    "starred sizes": StarredSizes,
    "sequence first": SequenceFirst,
    "batch inside": BatchInside,
    "positions": Positions,
    "encoder": Encoder,
    "channels last": ChannelsLast,
    "writes": Writes,
    "branches": Branches,
    "functional dropout": FunctionalDropout,
    "dataclass": Dataclass,
    "dictionary": Dictionary,
}


def made(name: str) -> nn.Module:
    """The network with statistics, biases and scales that are not the initial ones, in training mode."""
    torch.manual_seed(1)
    net = NETS[name]()
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand_like(tensor) * 0.2)
    return net.train()


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def outputs_of(net: nn.Module, layer: str, x: Tensor) -> list[Tensor]:
    """What the layer returned at each of its calls, by a plain hook on a copy in eval mode."""
    plain, seen = copy.deepcopy(net).eval(), []
    plain.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(first_tensor(output).clone()))
    plain(x.clone())
    return seen


def places(raw: Tensor) -> bool:
    """Whether a layer of these networks returned a map of places."""
    return raw.ndim == 3 or (raw.ndim == 4 and raw.shape[2] * raw.shape[3] > 1)


def spatial_layers(name: str) -> list[str]:
    net = made(name)
    names = [layer for layer, _ in net.named_modules() if layer]
    return [layer for layer in names if any(map(places, outputs_of(net, layer, pictures())))]


def with_output(net: nn.Module, layer: str, x: Tensor, raw: Tensor, call: int, write: bool) -> Any:
    """The network's outputs when a plain hook on a copy replaces what the layer returns at one of its calls."""
    plain = copy.deepcopy(net).eval().requires_grad_(False)
    calls = iter(range(100))

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if next(calls) != call:
            return output
        if write:  # all that shares the output's memory sees it
            return first_tensor(output).copy_(raw)
        return (raw.clone(), *output[1:]) if isinstance(output, tuple) else raw.clone()

    plain.get_submodule(layer).register_forward_hook(hook)
    return plain(x.clone())


def grid(raw: Tensor, layout: str) -> Tensor:
    """A layer's raw output as a feature map."""
    if raw.ndim == 3:
        prefix = raw.shape[1] % 16
        return raw[:, prefix:].transpose(1, 2).reshape(len(raw), -1, 4, 4)
    return raw.permute(0, 3, 1, 2) if layout == "last" else raw


def raw_of(A: Tensor, like: Tensor, layout: str) -> Tensor:
    """A feature map in the layout of a layer's raw output, whose tokens beside the grid are kept."""
    if like.ndim == 3:
        return torch.cat([like[:, : like.shape[1] % 16], A.flatten(2).transpose(1, 2)], dim=1)
    return A.permute(0, 2, 3, 1) if layout == "last" else A


def scores(outputs: Any) -> Tensor:
    return first_tensor(outputs)


def same(given: Any, expected: Any) -> None:
    torch.testing.assert_close(scores(given), scores(expected), rtol=1e-4, atol=1e-5)


EVERYWHERE = [(name, layer) for name in NETS for layer in spatial_layers(name)]


@pytest.mark.parametrize(("name", "layer"), EVERYWHERE)
def test_the_tail_is_the_network_with_the_output_replaced(name: str, layer: str) -> None:
    """On own activations, on others in turn for each image, and on others of any image; so are its gradients."""
    net, x = made(name), pictures()
    layout = "last" if (name, layer) == ("channels last", "layer") else "first"
    write = name == "alias"
    call, raw = [(i, seen) for i, seen in enumerate(outputs_of(net, layer, x)) if places(seen)][-1]
    parts = cut(net, layer, x).split(x)
    torch.testing.assert_close(parts.A, grid(raw, layout), rtol=1e-4, atol=1e-5)
    same(parts.tail(parts.A), copy.deepcopy(net).eval()(x.clone()))
    for rows in (None, torch.tensor([1, 0, 0, 1, 1])):
        of = torch.arange(2).repeat_interleave(3) if rows is None else rows
        A = torch.randn(len(of), *parts.A.shape[1:])
        ours, plain = A.clone().requires_grad_(), A.clone().requires_grad_()
        given = parts.tail(ours, rows)
        expected = with_output(net, layer, x[of], raw_of(plain, raw[of], layout), call, write)
        same(given, expected)
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)  # the tail does not write to what it is given
        torch.testing.assert_close(
            *(torch.autograd.grad(scores(out).square().sum(), a)[0] for out, a in ((given, ours), (expected, plain))),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


REPLAYED = {
    "starred sizes": "cannot be iterated",
    "branches": "control flow",
    "dataclass": "returns a Output",
}


@pytest.mark.parametrize("name", NETS)
def test_a_graph_wherever_the_forward_pass_can_be_recorded(name: str) -> None:
    """And a replay that says why elsewhere: inside torch.nn's encoder layers, whose forward has control flow."""
    for layer in [layer for net, layer in EVERYWHERE if net == name][:4] + ["encoder.layers.0"] * (name == "encoder"):
        made_cut = cut(made(name), layer, pictures())
        inside = "self_attn" in layer or "encoder.layers" in layer
        reason = "control flow" if inside else REPLAYED.get(name, "")
        assert made_cut.kind == ("replay" if reason else "graph"), (layer, made_cut.reason)
        assert reason in made_cut.reason
        assert bool(reason) == bool(made_cut.reason)


@pytest.mark.parametrize(
    ("place", "kind"), [("", "replay"), ("layer1", "replay"), ("layer1.conv1", "graph"), ("layer2", "graph")]
)
def test_hooks_around_the_layer(place: str, kind: str) -> None:
    """A graph lacks them: one that changes outputs is replayed, one that looks on is not, and sees no recording."""
    x, seen = pictures(), []
    for change, expected in ((lambda output: output * 3, kind), (seen.append, "graph")):
        net = made("residual").eval()
        net.get_submodule(place).register_forward_hook(lambda _m, _i, output, change=change: change(output))
        parts = cut(net, "layer1.bn", x)
        assert parts.kind == expected
        assert ("hooks" in parts.reason) == (expected == "replay")
        same(parts.split(x).tail(parts.split(x).A), net(x))
    assert all(type(output) is Tensor for output in seen)


class Counted(Small):
    """Counts its forward passes, and those of stem and head."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__(layer)
        self.calls: Counter[str] = Counter()
        for name in ("stem", "fc"):
            self.get_submodule(name).register_forward_hook(lambda *_, name=name: self.calls.update([name]))


def test_the_trunk_runs_once() -> None:
    """Per split, and never with the tail of a graph."""
    net, x = Counted(), pictures()
    made_cut = cut(net, "layer", x)
    net.calls.clear()
    parts = made_cut.split(x)
    assert net.calls == {"stem": 1}
    parts.tail(parts.A)
    parts.tail(parts.A.repeat(3, 1, 1, 1))
    assert net.calls == {"stem": 1, "fc": 2}
    made_cut.activations(x)
    assert net.calls == {"stem": 2, "fc": 2}


def test_activations_have_gradients_to_the_image() -> None:
    """Those of a plain forward pass, whichever kind of cut."""
    for name in ("residual", "branches"):
        net, x = made(name).eval(), pictures().requires_grad_()
        layer = "layer2" if name == "residual" else "layer"
        (ours,) = torch.autograd.grad(cut(net, layer, x).activations(x).square().sum(), x)
        (plain,) = torch.autograd.grad(outputs_of(net, layer, x)[0].square().sum(), x)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The caller's module and surroundings


def snapshot(net: nn.Module) -> dict[str, Any]:
    """All that a caller could find changed."""
    state: dict[str, Any] = {"rng": torch.get_rng_state(), "grad mode": torch.is_grad_enabled()}
    for name, part in net.named_modules():
        state[name] = (
            part.training,
            sorted(part.__dict__),
            [list(part.__dict__[k]) for k in part.__dict__ if k.endswith("_hooks")],
        )
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        state[f"{name}:"] = tensor.detach().clone(), tensor.requires_grad, tensor.grad, tensor._version
    return state


class Fails(nn.Module):
    """Raises at one of its calls."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        self.calls["all"] += 1
        if self.calls["all"] == self.at:
            raise RuntimeError("in the middle")
        return x


@pytest.mark.parametrize("fails", [None, 1, 2, 3, 4, 5, 6])
def test_the_module_stays_as_it_was(fails: int | None) -> None:
    """Mode, flags, gradients, hooks, buffers and random state, also when something raises in the middle."""
    net = nn.Sequential(
        conv(), nn.BatchNorm2d(4), nn.ReLU(True), Fails(0), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2)
    )
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[0].register_forward_hook(lambda *_: None)
    net[6].register_full_backward_hook(lambda *_: None)
    net(pictures()).sum().backward()
    net[3].calls.clear()
    net[3].at = fails
    before, x = snapshot(net), pictures()
    try:
        parts = cut(net, "2", x).split(x)
        A = parts.A.clone().requires_grad_()
        parts.tail(A).sum().backward()
    except RuntimeError:
        assert fails
    for after, was in zip(tree_leaves(snapshot(net)), tree_leaves(before), strict=True):
        assert torch.equal(after, was) if isinstance(was, Tensor) else after == was
    torch.testing.assert_close(x, pictures(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["residual", "branches", "writes"])
def test_the_input_stays_as_it_was(name: str) -> None:
    """Also where the network works on it in place."""
    net, x = made(name), pictures()
    parts = cut(net, "stem", x).split(x)
    parts.tail(parts.A)
    torch.testing.assert_close(x, pictures(), rtol=0, atol=0)


def wrapped(kind: str) -> nn.Module:
    net = made("residual").eval()
    if kind == "frozen":
        return net.requires_grad_(False)
    if kind == "compiled":
        return torch.compile(net, backend="eager")  # type: ignore[return-value]
    if kind == "compiled in place":
        net.compile(backend="eager")
    if kind == "compiled inside":
        net.layer1 = torch.compile(net.layer1, backend="eager")
        net.layer2.conv1 = torch.compile(net.layer2.conv1, backend="eager")
    if kind == "data parallel":
        return nn.DataParallel(torch.compile(net, backend="eager"))  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("kind", ["frozen", "compiled", "compiled in place", "compiled inside", "data parallel"])
def test_wrapped_networks_are_cut_like_bare_ones(kind: str) -> None:
    """As graphs, by the bare network's names and by those with the wrapper's."""
    plain, net, x = made("residual").eval(), wrapped(kind), pictures()
    for layer in ("layer1.conv1", "layer2.conv1", "layer2"):
        ours, truth = cut(net, layer, x), cut(plain, layer, x).split(x)
        assert ours.kind == "graph"
        A = torch.randn_like(truth.A)
        same(ours.split(x).tail(A), truth.tail(A))
    assert cut(net, "layer2._orig_mod.conv1" if kind == "compiled inside" else "layer2.conv1", x).kind == "graph"


@pytest.mark.parametrize("name", ["residual", "branches"])
def test_under_no_grad_and_inference_mode(name: str) -> None:
    """Whatever mode the caller, the input and the weights come from, the tail has gradients where they are enabled."""
    plain, layer = made(name), "stem"
    A = torch.randn_like(cut(plain, layer, pictures()).split(pictures()).A)
    truth = cut(plain, layer, pictures()).split(pictures())
    leaf = A.clone().requires_grad_()
    (expected,) = torch.autograd.grad(scores(truth.tail(leaf)).square().sum(), leaf)
    for inside in (torch.no_grad, torch.inference_mode):
        with inside():
            net, x = made(name), pictures()
            made_cut = cut(net, layer, x)
            parts = made_cut.split(x)
            same(parts.tail(A), truth.tail(A))
            assert not scores(parts.tail(A)).requires_grad
        assert made_cut.kind == cut(plain, layer, pictures()).kind
        leaf = A.clone().requires_grad_()
        (given,) = torch.autograd.grad(scores(parts.tail(leaf)).square().sum(), leaf)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_the_callers_autocast_stays_outside() -> None:
    """Trunk and tail compute in the weights' precision; a precision that is asked for concerns the trunk alone."""
    net, x = made("residual"), pictures()
    expected = cut(made("residual"), "layer1", x).split(x)
    with torch.autocast("cpu", torch.bfloat16):
        made_cut = cut(net, "layer1", x)
        parts = made_cut.split(x)
        outputs = parts.tail(parts.A)
    assert made_cut.kind == "graph"
    torch.testing.assert_close(parts.A, expected.A, rtol=0, atol=0)
    torch.testing.assert_close(outputs, expected.tail(expected.A), rtol=0, atol=0)
    with torch.inference_mode():
        narrow = made_cut.split(x, torch.autocast("cpu", torch.bfloat16))
    assert not narrow.A.is_inference()
    assert narrow.A.dtype == torch.float32
    assert not torch.equal(narrow.A, expected.A)
    torch.testing.assert_close(narrow.A, expected.A, rtol=0.05, atol=0.05)
    torch.testing.assert_close(narrow.tail(expected.A), expected.tail(expected.A), rtol=0.05, atol=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# Threads


def in_threads(*work: Callable[[], None]) -> None:
    """Run all at once, and raise what they raise."""
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


def test_threads_do_not_disturb_one_another() -> None:
    """Cuts at different layers of one module, each with the truth as its answer, while the module runs in training."""
    net, x = made("residual"), pictures()
    net.layer1.bn.momentum = 0.0  # training keeps the statistics, so that the truth stays the truth
    net.layer2.bn.momentum = 0.0
    layers = ["stem", "layer1.conv1", "layer1", "layer2.bn"]
    raws = {layer: outputs_of(net, layer, x)[0].detach() for layer in layers}
    truths = {layer: with_output(net, layer, x, raws[layer].flip(0), 0, False) for layer in layers}
    finished = threading.Event()

    def explain(layer: str) -> None:
        for _ in range(5):
            fresh = cut(net, layer, x).split(x)
            leaf = fresh.A.flip(0).requires_grad_()
            outputs = fresh.tail(leaf)
            same(outputs, truths[layer])
            torch.autograd.grad(outputs.sum(), leaf)

    def train() -> None:
        while not finished.is_set():
            net(x).sum().backward()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        in_threads(*(partial(explain, layer) for layer in layers))
    finally:
        finished.set()
        trainer.join()


class Waits(Small):
    """Waits in the middle of being recorded until another thread has finished."""

    def __init__(self, recording: threading.Event, finished: threading.Event) -> None:
        super().__init__()
        self.events = SimpleNamespace(recording=recording, finished=finished)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        if isinstance(a, torch.fx.Proxy):
            self.events.recording.set()
            assert self.events.finished.wait(20)
        return self.head(self.after(self.layer(a)))


def test_other_threads_compute_while_a_network_is_recorded() -> None:
    """The same network, others, and compiled ones: nothing is patched for the whole process."""
    recording, finished = threading.Event(), threading.Event()
    net, x = Waits(recording, finished), pictures()
    compiled = torch.compile(nn.Conv2d(3, 2, 3), backend="eager")
    expected, compiled_expected = net(x), compiled(x)

    def other() -> None:
        assert recording.wait(20)
        try:
            same(net(x), expected)
            same(compiled(x), compiled_expected)
        finally:
            finished.set()

    def recorded() -> None:
        assert cut(net, "layer", x).kind == "graph"

    in_threads(other, recorded)


def test_statistics_may_move_during_a_backward_pass() -> None:
    """Another thread's look at the module does not break a gradient that is being computed."""
    net, x = made("residual"), pictures()
    parts = cut(net, "layer1", x).split(x)
    leaf = parts.A.clone().requires_grad_()
    outputs = parts.tail(leaf)
    net(x)  # moves the statistics
    cut(net, "layer1", x)
    assert torch.autograd.grad(outputs.sum(), leaf)[0].isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def test_one_cut_per_module_layer_and_shape() -> None:
    """The second question finds the first one's cut; batch, values and mode do not matter."""
    net, x = made("residual"), pictures()
    compiled = torch.compile(net, backend="eager")
    first = cut(net, "layer1", x)
    assert cut(net.eval(), "layer1", pictures(5) * 2) is first
    assert cut(compiled, "layer1", x) is first
    assert cut(net, "layer2", x) is not first
    assert cut(net, "layer1", x[..., :24, :24]) is not first
    assert cut(copy.deepcopy(net), "layer1", x) is not first
    assert cut(net, "layer1", x) is first


class Settings(Small):
    def __init__(self) -> None:
        super().__init__(nn.LeakyReLU(0.1))
        self.gains, self.function, self.table = [1.0, 2.0], torch.sigmoid, {"power": (1, 2)}
        self.scale = torch.ones(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.function(self.layer(self.stem(x))) * self.gains[1] * self.scale
        return self.head(self.after(a) ** self.table["power"][1])


def _register(net: Any) -> None:
    net.after.register_forward_hook(lambda _m, _i, output: output + 1)


def _patch(net: Any) -> None:
    original = net.after.forward
    net.after.forward = MethodType(lambda self, a: original(a) + self.bias.sum(), net.after)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a submodule": lambda net: setattr(net, "after", conv(4, 1)),
    "a submodule without weights": lambda net: setattr(net, "layer", nn.ReLU()),
    "a weight": lambda net: setattr(net.fc, "weight", nn.Parameter(torch.randn(3, 4))),
    "a weight's memory": lambda net: setattr(net.fc.weight, "data", torch.randn(3, 4)),
    "no bias": lambda net: setattr(net.fc, "bias", None),
    "a slope": lambda net: setattr(net.layer, "negative_slope", 0.5),
    "a tuple": lambda net: setattr(net.after, "dilation", (1, 1)) or setattr(net.after, "padding", (3, 3)),
    "a list": lambda net: net.gains.__setitem__(1, 3.0),
    "a nested setting": lambda net: net.table.update(power=(1, 3)),
    "a function": lambda net: setattr(net, "function", torch.tanh),
    "a tensor": lambda net: setattr(net, "scale", torch.rand(4, 1, 1)),
    "a tensor in place": lambda net: net.scale.mul_(2),
    "a hook": _register,
    "forward": _patch,
    "a weight in place": lambda net: net.fc.weight.data.mul_(2),
    "a parametrization": lambda net: parametrizations.orthogonal(net.after),
    "dtype": lambda net: net.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_cut_follows_the_module(change: str) -> None:
    """Whatever is changed in a module, the next cut of it computes what it computes now."""
    net, x = Settings(), pictures()
    before = cut(net, "layer", x).split(x)
    CHANGES[change](net)
    x = x.to(net.fc.weight.dtype)
    after = cut(net, "layer", x).split(x)
    assert after.cut.kind == before.cut.kind == "graph"
    with torch.no_grad():
        expected = net(x)
    same(after.tail(after.A), expected)
    changed = not torch.allclose(before.tail(before.A).to(x.dtype), expected)
    assert changed or "in place" in change or change == "dtype"
    assert (after.cut is before.cut) == ("in place" in change)


def test_the_cut_follows_training() -> None:
    """An optimizer's steps and moving statistics need no new cut."""
    net, x = made("residual"), pictures()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = cut(net, "layer1.conv1", x)
    for _ in range(2):
        optimizer.zero_grad()
        net.train()(x).square().sum().backward()
        optimizer.step()
        parts = cut(net, "layer1.conv1", x).split(x)
        assert parts.cut is first
        same(parts.tail(parts.A), net.eval()(x))


def test_a_linear_head_follows_training() -> None:
    """Also where its weights are computed from others."""
    net, x = made("gap_linear"), pictures()
    parametrizations.weight_norm(net[7])
    for _ in range(2):
        parts = cut(net, "4", x).split(x)
        head = parts.cut.linear_head(parts)
        assert head is not None
        torch.testing.assert_close(head.weight, net[7].weight, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            net[7].parametrizations.weight.original0.mul_(1.01)


@pytest.mark.parametrize("name", ["residual", "vgg", "branches"])
def test_cuts_are_freed_with_the_module(name: str) -> None:
    """Nothing keeps a module or its twin alive."""
    net, x = made(name), pictures()
    layer = "relu" if name == "vgg" else "stem"
    made_cut = cut(net, layer, x)
    gone = [weakref.ref(net), weakref.ref(made_cut.module), weakref.ref(made_cut)]
    del net, made_cut
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


# ---------------------------------------------------------------------------------------------------------------------
# Errors


class BatchLost(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.layer(self.stem(x)))).mean(dim=0)


class LayerLosesBatch(Small):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.layer(self.stem(x)).view(-1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("net", "layer", "said"),
    [
        (Residual(), "layer1.conv", ["no layer 'layer1.conv' in Residual", "layer1.conv1"]),
        (Residual(), "Layer1", ["no layer 'Layer1'", "did you mean layer1"]),
        (Residual(), "", ["no layer ''", "available"]),
        (Residual(), "fc", ["'fc'", "(2, 5)", "not a map of places", "suggest_layers"]),
        (LayerLosesBatch(), "layer", ["'layer'", "(8, 8, 8)", "two images", "suggest_layers"]),
        (BatchLost(), "layer", ["BatchLost returns (3,) for two images", "first dimension"]),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.ModuleList([nn.ReLU()])), "1.0", ["NotImplementedError"]),
        (Faces(), "head.2", ["(2, 128)", "not a map of places"]),
    ],
)
def test_what_cannot_be_cut_is_named(net: nn.Module, layer: str, said: list[str]) -> None:
    """With what would work."""
    with pytest.raises((ValueError, NotImplementedError)) as error:
        cut(net, layer, pictures())
    for part in said:
        assert part in str(error.value) + error.typename


class Unused(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.stem(x)))


def test_a_layer_that_never_runs_is_named() -> None:
    """And the module is left without a hook."""
    net = Unused()
    with pytest.raises(ValueError, match=r"'layer' never runs .* choose one that does"):
        cut(net, "layer", pictures())


@pytest.mark.parametrize(
    ("maps", "rows", "said"),
    [
        (torch.zeros(3, 8, 16, 16), None, "3 feature maps of 2 images"),
        (torch.zeros(3, 8, 16, 16), torch.zeros(2, dtype=torch.long), "3 feature maps of 2 images"),
        (torch.zeros(2, 8, 8, 8), None, r"\(2, 8, 16, 16\): got \(2, 8, 8, 8\)"),
    ],
)
def test_feature_maps_that_do_not_fit_are_refused(maps: Tensor, rows: Tensor | None, said: str) -> None:
    """Before anything is computed."""
    net, x = made("residual"), pictures()
    parts = cut(net, "layer1", x).split(x)
    with pytest.raises(ValueError, match=said):
        parts.tail(maps, rows)


# --- several layers in one run


def test_layers_observed_in_one_run_have_the_gradients_of_the_network() -> None:
    module, x = VGGLike().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    outputs, calls = observe(module, ["conv1", "conv2", "fc1"], x)
    assert torch.equal(outputs, module(x))
    assert [call.name for call in calls] == ["conv1", "conv2", "fc1"]
    found = torch.autograd.grad(outputs[:, 1].sum(), [call.output for call in calls])
    first = module.conv1(x).detach().requires_grad_()
    second = module.conv2(F.max_pool2d(first.relu(), 4))
    third = module.fc1(F.max_pool2d(second.relu(), 2).flatten(1))
    expected = torch.autograd.grad(module.fc2(third.relu())[:, 1].sum(), [first, second, third])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-15, rtol=1e-9)


def test_every_call_of_an_observed_layer_is_seen_with_its_input_before_it_worked_in_place() -> None:
    module, x = VGGLike().eval(), torch.randn(2, 3, 32, 32)
    calls = observe(module, ["relu"], x, inputs=["relu"])[1]
    assert [call.output.shape[1] for call in calls] == [8, 8, 12]
    torch.testing.assert_close(calls[0].input, module.conv1(x).detach())
    for call in calls:
        assert call.input is not None
        assert not call.input.requires_grad
        assert bool((call.input < 0).any())
        assert torch.equal(call.output, call.input.relu())


def test_gradients_reach_an_observed_input_and_the_recording_begins_at_the_shallowest_layer_otherwise() -> None:
    module, x = Residual().eval(), torch.randn(1, 3, 32, 32)
    plain = observe(module, ["layer2", "fc"], x)[1]
    assert plain[0].output.is_leaf
    assert not plain[1].output.is_leaf
    x.requires_grad_()
    outputs, calls = observe(module, ["stem"], x)
    assert not calls[0].output.is_leaf
    ours, theirs = (torch.autograd.grad(z.sum(), x)[0] for z in (outputs, module(x)))
    torch.testing.assert_close(ours, theirs)


def test_observing_leaves_no_trace_and_sees_its_own_thread_alone() -> None:
    module, x = Residual().eval(), torch.randn(1, 3, 32, 32)
    frozen, inside, seen = twin(module).module, threading.Event(), threading.Event()

    def wait(_: nn.Module, __: object) -> None:
        if threading.current_thread() is not other and not inside.is_set():
            inside.set()
            assert seen.wait(10)

    other = threading.Thread(target=lambda: (inside.wait(10), frozen(x), seen.set()))
    handle = frozen.fc.register_forward_pre_hook(wait)
    other.start()
    calls = observe(module, ["stem", "fc"], x)[1]
    other.join()
    handle.remove()
    assert [call.name for call in calls] == ["stem", "fc"]
    for broken in (torch.randn(1, 4, 32, 32), x):
        with pytest.raises((RuntimeError, AttributeError)):
            observe(module, ["stem", "nowhere"] if broken is x else ["stem"], broken, inputs=["stem"])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in frozen.modules())


def test_an_observed_layer_has_to_return_a_tensor_that_can_be_replaced() -> None:
    class Box:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Box:
            return Box(x.mean(dim=(2, 3)))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).logits

    with pytest.raises(ValueError, match="layer 'inner' returns a Box: choose one"):
        observe(Outer(), ["inner"], torch.randn(1, 3, 8, 8))
