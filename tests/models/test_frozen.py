"""A frozen twin computes what the module computes in eval mode, from the same memory, and leaves it alone."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from faithmap.models.frozen import NoFastPath, freeze, twin, unwrap
from tests.nets import Residual, ViTLike, gap_linear


class Hidden(nn.Module):
    """Holds layers where named_modules does not look, and refers to registered ones by other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.table = {"norms": [nn.BatchNorm2d(4)], "self": (self.norm,)}
        self.method, self.part, self.me = self.norm.forward, partial(self.conv.forward), [self]
        self.log: list[int] = []
        self.logs = {"also": self.log}

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(1)
        assert self.logs["also"] is self.log
        assert self.me[0] is self
        return self.table["self"][0](self.table["norms"][0](self.method(self.part(x)))).mean(dim=(2, 3))


class Tied(nn.Module):
    """One layer under two names, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b = self.a
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x[:, 0, 0, :4])))


class NonLeaf(nn.Module):
    """Plain tensors as attributes, one of which belongs to a graph and one of which the forward pass writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))
        self.twice, self.steps = self.weight * 2, torch.zeros(1)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("none", None)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.seen += 1
        return x[:, 0, 0, :4] @ self.twice


def old_norms() -> nn.Module:
    net = nn.Sequential(old_weight_norm(nn.Conv2d(3, 4, 3)), old_spectral_norm(nn.Conv2d(4, 4, 3)), nn.Flatten())
    net(torch.rand(1, 3, 8, 8))
    return net


def new_norms() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten())
    parametrizations.weight_norm(net[0])
    parametrizations.spectral_norm(net[1])
    parametrizations.orthogonal(net[2])
    return net


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm:FutureWarning",
    "ignore:.*jit.script:DeprecationWarning",  # they are still in use
)

NETS: dict[str, Callable[[], nn.Module]] = {
    "gap_linear": gap_linear,
    "vit": ViTLike,
    "hidden": Hidden,
    "tied": Tied,
    "non-leaf": NonLeaf,
    "old norms": old_norms,
    "new norms": new_norms,
    "dropout": lambda: nn.Sequential(nn.Dropout(0.9), nn.Flatten()),
}


def picture() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def expected(net: nn.Module, x: Tensor) -> Tensor:
    """What the module gives in eval mode, hidden layers too; it is put back afterwards."""
    hidden = [net.table["norms"][0]] if isinstance(net, Hidden) else []
    for part in (net, *hidden):
        part.eval()
    with torch.no_grad():
        outputs = net(x)
    for part in (net, *hidden):
        part.train()
    return outputs.clone()


@pytest.mark.parametrize("name", NETS)
def test_the_twin_computes_the_same(name: str) -> None:
    """In eval mode whatever the module's mode, and its own forward passes change nothing in the module."""
    net, x = NETS[name]().train(), picture()
    truth = expected(net, x)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    logs = len(getattr(net, "log", [])), float(getattr(net, "steps", torch.zeros(1)))
    frozen = twin(net)
    for _ in range(3):
        torch.testing.assert_close(frozen.module(x), truth, rtol=1e-5, atol=1e-6)
    assert net.training
    assert not any(part.training for part in frozen.module.modules())
    assert not any(p.requires_grad for p in frozen.module.parameters())
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert logs == (len(getattr(net, "log", [])), float(getattr(net, "steps", torch.zeros(1))))


@pytest.mark.parametrize("name", NETS)
def test_the_twin_follows_training(name: str) -> None:
    """Optimizer steps, moving statistics and whatever else a training forward pass moves."""
    net, x = NETS[name]().train(), picture()
    twin(net)
    for _ in range(2):
        loss = net(x).square().sum()
        if loss.requires_grad and name != "non-leaf":
            loss.backward()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.rand_like(p) * 0.1)
        torch.testing.assert_close(twin(net).module(x), expected(net, x), rtol=1e-4, atol=1e-5)


def test_weights_share_memory_and_buffers_do_not() -> None:
    """A weight of the twin is the module's in other clothes; statistics are a copy that follows."""
    net = gap_linear()
    frozen = twin(net).module
    for ours, theirs in zip(frozen.parameters(), net.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
    for ours, theirs in zip(frozen.buffers(), net.buffers(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


def test_what_is_one_stays_one() -> None:
    """Shared layers, weights and lists are shared in the twin too, and none of them is the module's."""
    tied = freeze(Tied())
    assert tied.a is tied.b
    assert tied.a.weight is tied.c.weight
    net = Hidden()
    frozen: Any = freeze(net)
    assert frozen.table["self"][0] is frozen.norm is frozen.method.__self__
    assert frozen.part.func.__self__ is frozen.conv is not net.conv
    assert frozen.me[0] is frozen
    assert frozen.log is frozen.logs["also"] is not net.log
    assert frozen.table["norms"][0] is not net.table["norms"][0]


def test_backward_hooks_are_dropped_and_forward_hooks_kept() -> None:
    """The former would change our gradients, the latter belong to what the network computes."""
    net, x = gap_linear().eval(), picture()
    net[0].register_full_backward_hook(lambda _m, grads, _o: tuple(g and g * 0 for g in grads))
    net[0].register_full_backward_pre_hook(lambda _m, grads: tuple(g * 0 for g in grads))
    net[3].register_forward_hook(lambda _m, _i, output: output * 2)
    net[3].register_forward_pre_hook(lambda _m, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
    leaf, frozen = x.clone().requires_grad_(), twin(net).module
    torch.testing.assert_close(frozen(x), net(x), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(frozen(leaf).sum(), leaf)
    assert gradient.abs().max() > 0


def test_a_hook_that_is_a_method_belongs_to_the_twin() -> None:
    """It reads and writes the twin's state, not the module's."""

    class Counts(nn.Conv2d):
        def count(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
            self.count_of = getattr(self, "count_of", 0) + 1
            return output

    net = Counts(3, 2, 3)
    net.register_forward_hook(net.count)
    frozen: Any = twin(net).module
    frozen(picture())
    assert frozen.count_of == 1
    assert not hasattr(net, "count_of")


def test_a_hook_on_the_twin_is_none_on_the_module() -> None:
    """The twin's tables of hooks are its own."""
    net = gap_linear()
    twin(net).module[0].register_forward_hook(lambda *_: None, with_kwargs=True, always_call=True)
    assert not net[0]._forward_hooks
    assert not net[0]._forward_hooks_with_kwargs
    assert not net[0]._forward_hooks_always_called


def test_one_twin_until_something_changes() -> None:
    """Training, gradients, modes and wrappers do not change what is computed; structure does."""
    net = Residual()
    first = twin(net)
    net.eval().requires_grad_(False)
    net.train().requires_grad_(True)(picture()).sum().backward()
    assert twin(net) is first
    assert twin(nn.DataParallel(net)) is first
    net.layer1.relu = nn.ReLU()
    assert twin(net) is not first
    assert twin(net) is twin(net)


def test_a_hidden_layer_counts_as_structure() -> None:
    """A change of one that named_modules does not list makes a new twin."""
    net = Hidden()
    first = twin(net)
    net.table["norms"][0].eps = 0.5
    assert twin(net) is not first
    first = twin(net)
    net.table["norms"][0] = nn.BatchNorm2d(4)
    assert twin(net) is not first


class Settings(nn.Module):
    """Attributes of all kinds that a forward pass could read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.scale, self.sides, self.steps, self.table = 1.0, (1, 2), [1, 2], {"a": 1, "b": [2]}
        self.activation, self.reduce, self.shift = torch.relu, partial(torch.mean, dim=1), torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def rename(net: Any) -> None:
    net.scale_of = net.__dict__.pop("scale")


def swap(table: Any, key: str) -> None:
    table[key] = table.pop(key)


CHANGES: dict[str, Callable[[Any], object]] = {
    "number": lambda net: setattr(net, "scale", 2.0),
    "number of an inner layer": lambda net: setattr(net.norm, "eps", 0.5),
    "tensor for a number that it equals": lambda net: setattr(net, "scale", torch.tensor(1.0)),
    "tuple": lambda net: setattr(net, "sides", (1, 3)),
    "list inside": lambda net: net.steps.append(3),
    "table inside": lambda net: net.table["b"].append(3),
    "order of a table": lambda net: swap(net.table, "a"),
    "name": rename,
    "function": lambda net: setattr(net, "activation", torch.tanh),
    "partial": lambda net: net.reduce.keywords.update(dim=2),
    "tensor": lambda net: setattr(net, "shift", torch.zeros(3)),
    "class": lambda net: setattr(net, "__class__", type("Other", (Settings,), {})),
    "class of an inner layer": lambda net: setattr(net.norm, "__class__", nn.SyncBatchNorm),
    "layer": lambda net: setattr(net, "norm", nn.BatchNorm2d(4)),
    "layer that is new": lambda net: setattr(net, "more", nn.ReLU()),
    "layer that is gone": lambda net: delattr(net, "norm"),
    "order of layers": lambda net: swap(net._modules, "conv"),
    "weight": lambda net: setattr(net.conv, "weight", nn.Parameter(net.conv.weight.detach().clone())),
    "memory of a weight": lambda net: setattr(net.conv.weight, "data", net.conv.weight.data.clone()),
    "precision": lambda net: net.double(),
    "bias that is gone": lambda net: setattr(net.conv, "bias", None),
    "buffer": lambda net: net.norm.register_buffer("running_mean", torch.zeros(4)),
    "memory of a buffer": lambda net: setattr(net.norm.running_mean, "data", torch.zeros(4)),
    "hook": lambda net: net.norm.register_forward_hook(lambda *_: None),
    "hook before": lambda net: net.norm.register_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_what_is_computed_makes_another_twin(change: str) -> None:
    """At a quick look, too."""
    net = Settings()
    first = twin(net)
    assert twin(net) is first
    assert first.same is not None
    assert first.same()
    CHANGES[change](net)
    second = twin(net)
    assert second is not first
    assert twin(net) is second


def test_a_number_is_seen_to_change_wherever_it_lies_in_memory() -> None:
    """Also where a new one takes the place of one that is gone."""
    net = Settings()
    for _ in range(50):
        first = twin(net)
        for _ in range(3):
            net.scale = net.scale * 1.5
        assert twin(net) is not first


def test_modes_cost_one_long_look() -> None:
    """The quick look is that of the mode that it meets."""
    net = Settings()
    first = twin(net)
    for mode in (False, True):
        net.train(mode)
        assert first.same is not None
        assert not first.same()
        assert twin(net) is first
        assert first.same()


def test_parametrizations_come_and_go() -> None:
    """The twin follows the module through both."""
    net, x = gap_linear(), picture()
    for change in (parametrizations.weight_norm, lambda m: parametrize.remove_parametrizations(m, "weight")):
        twin(net)
        change(net[3])
        with torch.no_grad():
            net[3].bias.add_(1)
        torch.testing.assert_close(twin(net).module(x), expected(net, x), rtol=1e-5, atol=1e-6)


def test_weights_made_under_inference_mode() -> None:
    """They are copied, enter autograd, and are followed when they are written to."""
    with torch.inference_mode():
        net = gap_linear()
    leaf = picture().requires_grad_()
    torch.autograd.grad(twin(net).module(leaf).sum(), leaf)
    with torch.inference_mode():
        net[7].bias.add_(1)
        truth = expected(net, picture())
    torch.testing.assert_close(twin(net).module(picture()), truth, rtol=1e-5, atol=1e-6)


def test_wrappers_are_taken_off() -> None:
    """Around the network and inside it, in any order."""
    net = Residual()
    inner = torch.compile(nn.DataParallel(torch.compile(net, backend="eager")), backend="eager")
    assert unwrap(inner) is net
    net.layer1 = torch.compile(net.layer1, backend="eager")
    assert type(twin(net).module.layer1) is Residual.Block


def test_torchscript_is_refused() -> None:
    """At the root and inside."""
    scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    for net in (scripted, nn.Sequential(nn.Conv2d(3, 2, 1), scripted)):
        with pytest.raises(ValueError, match=r"TorchScript.*pass the nn.Module"):
            twin(net)


@pytest.mark.parametrize("name", NETS)
def test_twins_are_freed_with_the_module(name: str) -> None:
    """Nothing in a twin refers to the module."""
    net = NETS[name]()
    gone = [weakref.ref(net), weakref.ref(twin(net))]
    del net
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_copies_of_a_module_have_twins_of_their_own() -> None:
    """A deep copy computes with its own weights."""
    net = gap_linear()
    twin(net)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[7].bias.add_(1)
    torch.testing.assert_close(twin(other).module(picture()), twin(net).module(picture()) + 1, rtol=1e-5, atol=1e-5)


def test_no_fast_path_shows_the_layers_inside_an_encoder_layer() -> None:
    """torch.nn fuses an encoder layer in eval mode without gradients, and then calls none of its parts."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    calls: list[int] = []
    layer.linear1.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(2, 5, 8)
    with torch.no_grad(), NoFastPath():
        torch.testing.assert_close(layer(x), layer.requires_grad_(False)(x), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2
