"""A frozen twin of a module: same weights in the same memory, in eval mode, without gradients for weights.

Methods run the twin and never the caller's module, so that its mode, flags, gradients, hooks and buffers cannot
change, on an exception either, and threads that train it are not disturbed.
"""

from __future__ import annotations

import threading
import types
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_INTERNALS = frozenset(nn.Module().__dict__)


@dataclass(eq=False)
class Twin:
    """A frozen twin and what has been derived from it (cuts); dropped as a whole when the module changes."""

    module: nn.Module
    fingerprint: tuple[Any, ...]
    derived: dict[Any, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


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
    """The frozen twin of a module, made once and again whenever its structure, settings, memory or hooks change."""
    module = unwrap(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError("a TorchScript module cannot be explained: pass the nn.Module that it was scripted from")
    fingerprint = _fingerprint(module)
    with _lock, torch.inference_mode(False), torch.no_grad():
        known = _twins.get(module)
        if known is None or known.fingerprint != fingerprint:
            _twins[module] = known = Twin(freeze(module), fingerprint)
        for ours, theirs in zip(_buffers(known.module), _buffers(module), strict=True):
            ours.copy_(theirs)  # training moves BatchNorm's statistics in place
    return known


def freeze(module: nn.Module) -> nn.Module:
    """A twin of the module that shares the memory of its weights, made anew; `twin` caches it."""
    made: dict[int, nn.Module] = {}
    frozen = _freeze(unwrap(module), made)
    for copy in made.values():
        for name, value in copy.__dict__.items():
            if name not in _INTERNALS:
                copy.__dict__[name] = _rebind(value, made)
    return frozen


class NoFastPath(TorchFunctionMode):
    """Switches torch.nn's fused fast path for encoder layers off, in this thread alone: it hides layers from hooks.

    An active mode is all it takes; torch.nn then calls each layer.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _freeze(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    if id(module) in made:  # a module used twice stays one module
        return made[id(module)]
    copy = made[id(module)] = module.__new__(type(module))
    state = copy.__dict__
    state.update(module.__dict__)
    state.update({name: state[name].copy() for name in _HOOKS})
    state.update({name: type(state[name])() for name in _BACKWARD_HOOKS})  # they would change our gradients
    state.update(training=False, _compiled_call_impl=None)
    state["_parameters"] = {name: _alias(p) for name, p in module._parameters.items()}
    # Buffers are copied: a forward pass may write to them.
    state["_buffers"] = {name: b if b is None else b.detach().clone() for name, b in module._buffers.items()}
    state["_modules"] = {name: c if c is None else _freeze(unwrap(c), made) for name, c in module._modules.items()}
    return copy


def _alias(parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    # Memory made under inference mode cannot enter autograd: that alone is copied.
    data = parameter.clone() if parameter.is_inference() else parameter.detach()
    return nn.Parameter(data, requires_grad=False)


def _rebind(value: Any, made: dict[int, nn.Module]) -> Any:
    """Attributes that refer to modules outside ``_modules``: lists of layers, a layer's bound methods."""
    if isinstance(value, nn.Module):
        return made.get(id(unwrap(value)), value)
    if type(value) in (list, tuple) and any(isinstance(item, nn.Module) for item in value):
        return type(value)(_rebind(item, made) for item in value)
    if type(value) is dict and any(isinstance(item, nn.Module) for item in value.values()):
        return {key: _rebind(item, made) for key, item in value.items()}
    if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        return types.MethodType(value.__func__, _rebind(value.__self__, made))
    return value


def _buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for _, buffer in module.named_buffers(remove_duplicate=False)]


def _fingerprint(module: nn.Module) -> tuple[Any, ...]:
    """Changes whenever a twin made earlier would no longer compute what the module computes in eval mode."""
    parts: list[Any] = []
    for name, part in module.named_modules(remove_duplicate=False):
        plain = {k: v for k, v in part.__dict__.items() if k != "training" and type(v) in (bool, int, float, str)}
        functions = {k: id(v) for k, v in part.__dict__.items() if isinstance(v, types.FunctionType)}
        tensors = [(k, _memory(t)) for k, t in (*part._parameters.items(), *part._buffers.items())]
        hooks = [tuple(part.__dict__[hook]) for hook in _HOOKS]
        parts.append((name, id(part), type(part), plain, functions, tensors, hooks))
    return tuple(parts)


def _memory(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.data_ptr(), tensor.shape, tensor.dtype, tensor.device)
