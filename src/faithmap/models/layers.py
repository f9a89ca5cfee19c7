"""Which layer to explain: candidate target layers of a network, ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faithmap.models.frozen import NoFastPath, freeze
from faithmap.models.tokens import Grid, grid_of
from faithmap.targets import first_tensor


@dataclass(frozen=True)
class Layer:
    """A candidate target layer."""

    name: str
    """Dotted path, as ``named_modules`` lists it."""
    kind: str
    """The module's class."""
    shape: tuple[int, int, int]
    """Channels, rows and columns of its feature map."""
    why: str


@dataclass(eq=False)
class _Seen:
    name: str
    kind: str
    output: Tensor
    grid: Grid
    channels: int
    passive: bool
    """Whether it is a layer without parts that only pools, pads, drops or moves what another one made."""
    maker: bool
    """Whether it is a layer without parts that made its output, or wrote over it."""

    @property
    def depth(self) -> int:
        return self.name.count(".")

    @property
    def places(self) -> tuple[int, int]:
        return self.grid.h, self.grid.w

    def layer(self, why: str) -> Layer:
        return Layer(self.name, self.kind, (self.channels, *self.places), why)


def rank_layers(
    module: nn.Module, size: tuple[int, int], channels: int = 3, limit: int = 8, always: str | None = None
) -> list[Layer]:
    """Candidate target layers of a network, best first: the last feature map before the head, then earlier stages.

    One forward and one backward pass of a frozen twin on noise show which layers return a map of places and whether
    the output depends on more than one of its places (a transformer's last block is read at its class token alone).

    Args:
        module: any network that takes one image tensor.
        size: (H, W) of its input.
        channels: of its input.
        limit: the most candidates.
        always: a layer to list in any case, as the one named for this network.

    Raises:
        ValueError: no layer returns a feature map that the output depends on.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> [(layer.name, layer.shape) for layer in rank_layers(net, (32, 32))]
        [('1', (8, 30, 30))]
    """
    with torch.inference_mode(False), torch.enable_grad(), NoFastPath():
        seen, flat, outputs = _run(module, size, channels)
        scores = first_tensor(outputs)
        if not scores.requires_grad or not seen:
            raise ValueError(f"{type(module).__name__} has no layer with a spatial output to explain")
        # NaN reaches all that the outputs depend on, through weights that are zero as well.
        nan = torch.full_like(scores, torch.nan)
        grads = torch.autograd.grad(scores, [s.output for s in seen], nan, allow_unused=True)
    live = [s for s, g in zip(seen, grads, strict=True) if g is not None and _uses_places(s.grid.take(g))]
    class_maps = [s for s in live if _is_class_map(s, scores)]
    pooled = {id(s.output): s.passive for s in live if s.maker}  # a part of the network may end in a pooling layer
    maps = [s for s in live if not (s.passive or pooled.get(id(s.output)) or s in class_maps)]
    maps = [s for s in maps if s.grid.fits(size)] or maps
    ranked: list[Layer] = []
    if maps:
        end = _before_head(maps, flat)
        last = _outermost([s for s in maps if s.output is end.output], maps)
        ranked.append(last.layer("the last feature map before the head"))
        earlier = dict.fromkeys(s.places for s in reversed(maps) if s.places != last.places)
        ends = [min(reversed([s for s in maps if s.places == place]), key=lambda s: s.depth) for place in earlier]
        ranked += [end.layer("an earlier, finer map: parts rather than objects") for end in ends]
    for s in class_maps[-1:]:
        ranked.append(s.layer("the class scores at each place: its channels are the classes, one of them is the map"))
    named = next((s for s in reversed(seen) if s.name == always), None)
    if named is not None:
        ranked = [named.layer("named for this model"), *(layer for layer in ranked if layer.name != always)]
    if not ranked:
        raise ValueError(f"no layer of {type(module).__name__} returns a feature map that its output depends on")
    return ranked[:limit]


def _run(module: nn.Module, size: tuple[int, int], channels: int) -> tuple[list[_Seen], set[str], Any]:
    """Every layer that returns a map of places, in the order in which they finish; the others' names; the outputs."""
    network = freeze(module)
    seen: dict[str, _Seen] = {}
    flat: set[str] = set()

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            first = _first(output)
            grid = None if first is None else grid_of(tuple(first.shape), size)
            if first is None or grid is None or len(first) != 1:
                flat.add(name)
            elif first.requires_grad:
                kind, leaf = type(layer).__name__, not any(layer.children())
                passive = leaf and any(word in kind for word in _PASSIVE)
                maker = leaf and not (passive and any(first is arg for arg in args))
                seen.pop(name, None)  # a layer that runs more than once is explained at its last map
                seen[name] = _Seen(name, kind, first, grid, grid.take(first).shape[1], passive, maker)

        layer.register_forward_hook(hook)

    for name, layer in network.named_modules():
        if name:
            watch(name, layer)
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        outputs = network(noise.requires_grad_())
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} does not run on one image of {channels} x {size[0]} x {size[1]} ({error}): "
            "name its size, or its target_layer; or wrap what takes more than a picture in a module that has the rest"
        ) from error
    return list(seen.values()), flat, outputs


_PASSIVE = ("Pool", "Pad", "Drop", "StochasticDepth", "Identity", "Permute", "SwapAxes", "Flatten")


def _first(output: Any) -> Tensor | None:
    try:
        return first_tensor(output)
    except ValueError:
        return None  # not a tensor: no candidate


def _uses_places(gradient: Tensor) -> bool:
    """Whether more than one place of a feature map ``(B, C, h, w)`` has a gradient."""
    return int((gradient != 0).any(dim=1).sum()) > 1


def _is_class_map(seen: _Seen, scores: Tensor) -> bool:
    """Whether the network's outputs are the means of this map: its channels are the classes then."""
    if scores.ndim != 2 or seen.channels != scores.shape[1]:
        return False
    return torch.allclose(seen.grid.take(seen.output).mean(dim=(2, 3)), scores, rtol=1e-3, atol=1e-5)


def _before_head(maps: list[_Seen], flat: set[str]) -> _Seen:
    """The last map, or where it lies in a part that returns none (a head that begins with a norm), the last before."""
    outside = [s for s in maps if not any(s.name.startswith(f"{name}.") for name in flat)]
    return next((s for s in reversed(outside) if s.places == maps[-1].places), maps[-1])


def _outermost(same: list[_Seen], maps: list[_Seen]) -> _Seen:
    """Of layers that return the same tensor, the outermost that works at one resolution: the stage, not the trunk."""
    for s in sorted(same, key=lambda s: (s.depth, -maps.index(s))):
        if all(inner.places == s.places for inner in maps if inner.name.startswith(s.name + ".")):
            return s
    return same[-1]
