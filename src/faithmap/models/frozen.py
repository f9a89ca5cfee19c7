"""A frozen twin of a module: same weights in the same memory, in eval mode, without gradients for weights.

Methods run the twin and never the caller's module, so that its mode, flags, gradients, hooks and buffers cannot
change, on an exception either, and threads that train it are not disturbed.
"""

from __future__ import annotations

import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(eq=False)
class Twin:
    """A frozen twin and what has been derived from it (cuts); dropped as a whole when the module changes."""

    module: nn.Module
    fingerprint: Any
    same: Callable[[], bool] | None
    """A quick way to see that the fingerprint has not changed, where there is one."""
    copies: list[tuple[weakref.ref[Tensor], Tensor]]
    """What the twin holds as a copy, because a forward pass may write to it: buffers, above all. The copy's data: no
    other thread's backward pass takes a new value for a change of its own."""
    derived: dict[Any, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def follow(self) -> bool:
        """Bring the copies up to date, for training moves BatchNorm's statistics; False if one lost its original."""
        for original, ours in self.copies:
            tensor = original()
            if tensor is None:
                return False
            ours.copy_(tensor)
        return True


_twins: weakref.WeakKeyDictionary[nn.Module, Twin] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's, DataParallel's and DistributedDataParallel's wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def twin(module: nn.Module) -> Twin:
    """The frozen twin of a module, made once and again whenever its structure, settings, memory or hooks change.

    Raises:
        ValueError: the module is a TorchScript module, or holds one.
    """
    module = unwrap(module)
    with _lock, torch.inference_mode(False), torch.no_grad():
        known = _twins.get(module)
        if known is not None:
            unchanged = known.same is not None and known.same()
            if not unchanged and known.fingerprint == _mark(module, set()):
                unchanged, known.same = True, known.same and _watch(module)
            if unchanged and known.follow():
                return known
        freezer = _Freezer()
        same, fingerprint = _watch(module), _mark(module, set())
        _twins[module] = known = Twin(freezer(module), fingerprint, same, freezer.copies)
    return known


def freeze(module: nn.Module) -> nn.Module:
    """A twin of the module that shares the memory of its weights, made anew; `twin` caches it."""
    with torch.inference_mode(False), torch.no_grad():
        frozen: nn.Module = _Freezer()(module)
    return frozen


class NoFastPath(TorchFunctionMode):
    """Switches torch.nn's fused fast path for encoder layers off, in this thread alone: it hides layers from hooks.

    An active mode is all it takes; torch.nn then calls each layer.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Freezer:
    """Copies a module with all that refers to modules or is written to; what else it holds is shared.

    Each thing is copied once: a layer, a weight or a list that is used twice stays one.
    """

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.copies: list[tuple[weakref.ref[Tensor], Tensor]] = []

    def __call__(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            value = unwrap(value)
        if id(value) in self.made:
            return self.made[id(value)]
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if type(value) is list:
            copy = self.made[id(value)] = []
            copy.extend(map(self, value))
            return copy
        if type(value) in (dict, OrderedDict):
            copy = self.made[id(value)] = type(value)()
            copy.update((key, self(item)) for key, item in tuple(value.items()))
            return copy
        if type(value) in (tuple, set):
            return type(value)(map(self, tuple(value)))
        if type(value) is types.MethodType:
            return types.MethodType(value.__func__, self(value.__self__))
        if type(value) is partial:
            return partial(self(value.func), *self(value.args), **self(value.keywords))
        return value

    def module(self, module: nn.Module) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError("a TorchScript module cannot be explained: pass the nn.Module that it was scripted from")
        copy: nn.Module = object.__new__(type(module))
        self.made[id(module)] = copy
        for name, value in tuple(module.__dict__.items()):
            copy.__dict__[name] = type(value)() if name in _BACKWARD_HOOKS else self(value)
        copy.__dict__.update(training=False, _compiled_call_impl=None)
        return copy

    def tensor(self, tensor: Tensor) -> Tensor:
        copy = tensor.detach()
        is_weight = isinstance(tensor, nn.Parameter)
        if not is_weight or tensor.is_inference():  # memory made under inference mode cannot enter autograd
            copy = copy.clone()
            self.copies.append((weakref.ref(tensor), copy.data))
        self.made[id(tensor)] = copy = nn.Parameter(copy, requires_grad=False) if is_weight else copy
        return copy


_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")  # they would change our gradients
_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_IRRELEVANT = frozenset(nn.Module().__dict__).difference(["_parameters", "_buffers", "_modules", *_FORWARD_HOOKS])
_PLAIN = (bool, int, float, str, type(None))
_HOLDERS = (list, tuple, set, dict, types.MethodType, partial)
"""What is marked by what is in it."""


def _mark(value: Any, seen: set[int]) -> Any:
    """Something that changes whenever a twin made earlier would no longer compute what the module does in eval mode.

    The twin holds the things that are marked by their id, so that no other can take their place.
    """
    if isinstance(value, nn.Module):
        value = unwrap(value)
    if type(value) in _PLAIN:
        return value
    if id(value) in seen:
        return id(value)
    seen.add(id(value))
    if isinstance(value, nn.Module):
        state = tuple(value.__dict__.items())
        return id(value), type(value), [(k, _mark(v, seen)) for k, v in state if k not in _IRRELEVANT]
    if isinstance(value, Tensor):
        return _place(value)
    if type(value) in (list, tuple, set):
        return [_mark(item, seen) for item in tuple(value)]
    if type(value) in (dict, OrderedDict):
        return [(key, _mark(item, seen)) for key, item in tuple(value.items())]
    if type(value) is types.MethodType:
        return id(value.__func__), _mark(value.__self__, seen)
    if type(value) is partial:
        return [_mark(part, seen) for part in (value.func, value.args, value.keywords)]
    return id(value)


def _place(tensor: Tensor) -> Any:
    return id(tensor), tensor.data_ptr(), tensor.shape, tensor.dtype, tensor.device


def _watch(module: nn.Module) -> Callable[[], bool] | None:
    """A function that says whether `_mark` is still the same, and takes a fifth of the time: it compares in place.

    It may say no where nothing has changed, never yes where something has, and refers to no module. None for a module
    that holds others where torch does not look for them.
    """
    watched: list[_Part] = []
    ahead, seen = [module], {id(module)}
    while ahead:
        part = ahead.pop()
        state = {name: value for name, value in tuple(part.__dict__.items()) if name not in _IRRELEVANT}
        children = [child for child in state["_modules"].values() if child is not None]
        if any(unwrap(child) is not child for child in children):
            return None
        if not all(_no_module(value) for name, value in state.items() if name != "_modules"):
            return None
        watched.append(_Part.of(part, state))
        new = {id(child): child for child in children if id(child) not in seen}
        seen |= new.keys()
        ahead += new.values()
    return lambda: all(map(_Part.same, watched))


@dataclass(eq=False)
class _Part:
    """One module of a network as it was, without those that it consists of: they are parts themselves."""

    module: weakref.ref[nn.Module]
    kind: type
    names: list[str]
    ids: list[int]
    """Of its attributes. None passes for another: plain values are held here, what is shared with the twin there."""
    held: list[Any]
    empty: list[str]
    """Tables with nothing in them."""
    inner: list[tuple[str, Callable[[Any], Any], Any]]
    """What else can change inside: how it is marked, and the mark."""

    @classmethod
    def of(cls, module: nn.Module, state: dict[str, Any]) -> _Part:
        """The module, and those of its attributes that count."""
        whole = dict(module.__dict__)
        held = [value for value in whole.values() if _constant(value)]
        empty = [name for name, value in state.items() if type(value) in (dict, OrderedDict) and not value]
        inner = []
        for name, value in state.items():
            if isinstance(value, (Tensor, *_HOLDERS)) and name not in empty and not _constant(value):
                mark = _TABLES.get(name, _alone)
                inner.append((name, mark, mark(value)))
        return cls(weakref.ref(module), type(module), list(whole), list(map(id, whole.values())), held, empty, inner)

    def same(self) -> bool:
        """Whether it is still like that."""
        module = self.module()
        if module is None or type(module) is not self.kind:
            return False
        state = module.__dict__
        if self.names != list(state) or self.ids != list(map(id, state.values())):
            return False
        if any(map(state.__getitem__, self.empty)):
            return False
        for name, mark, before in self.inner:  # noqa: SIM110 (a generator takes longer than most marks)
            if mark(state[name]) != before:
                return False
        return True


def _alone(value: Any) -> Any:
    return _mark(value, set())


def _tensors(table: dict[str, Tensor | None]) -> Any:
    return [(name, None if one is None else _place(one)) for name, one in tuple(table.items())]


def _modules(table: dict[str, nn.Module | None]) -> Any:
    return [(name, id(one)) for name, one in tuple(table.items())]  # as long as all of them live, no other has its id


_TABLES: dict[str, Callable[[Any], Any]] = {"_parameters": _tensors, "_buffers": _tensors, "_modules": _modules}


def _constant(value: Any) -> bool:
    """Whether it never changes inside."""
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_constant, value)))


def _no_module(value: Any) -> bool:
    """Whether `_mark` finds no module in it."""
    if type(value) in (list, tuple, set):
        return all(map(_no_module, tuple(value)))
    if type(value) in (dict, OrderedDict):
        return all(map(_no_module, tuple(value.values())))
    if type(value) is types.MethodType:
        return _no_module(value.__self__)
    if type(value) is partial:
        return all(map(_no_module, (value.func, value.args, value.keywords)))
    return not isinstance(value, nn.Module)
