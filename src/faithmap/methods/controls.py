"""Controls: maps that know nothing of the network or its answer. A method that does not beat them has shown nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.cam import ActivationMap
from faithmap.methods.registry import register
from faithmap.pixels import edges, grey


@register("random")
@dataclass(frozen=True)
class Random(Method):
    """Independent uniform noise for each pixel, the same for the same picture and seed: what every map has to beat.

    Examples:
        >>> import faithmap as fm
        >>> maps = Random()(fm.load(), torch.zeros(2, 3, 224, 224), 0)
        >>> bool((maps[0] == maps[1]).all())
        True
    """

    at_layer = True
    control = True
    opposite = "none"

    def attribute(self, query: Query) -> Result:
        """Noise from each sample's own generator."""
        H, W = query.x.shape[-2:]
        maps = torch.stack([torch.rand(H, W, generator=g) for g in query.generators(self.name)])
        return Result(maps.to(query.x))


@register("random-cam")
@dataclass(frozen=True)
class RandomCAM(ActivationMap):
    """Channels of the target layer weighed at random, uniformly in [-1, 1]: what the weights of a CAM have to beat.

    It sees where the layer is active, as every class activation map does, and knows nothing of the target.

    Args:
        layer: target layer; the model's by default.

    Examples:
        >>> import faithmap as fm
        >>> model, x = fm.load(), torch.rand(1, 3, 224, 224)
        >>> torch.equal(RandomCAM()(model, x, 1), RandomCAM()(model, x, 2))
        True
    """

    signed = False
    control = True
    opposite = "none"

    def weights(self, query: Query) -> Tensor:
        """From each sample's own generator."""
        C = query.split.A.shape[1]
        drawn = [torch.rand(C, generator=g, dtype=torch.float64) for g in query.generators(self.name)]
        return (2 * torch.stack(drawn) - 1).to(query.x.device)


@register("centre-gaussian")
@dataclass(frozen=True)
class CentreGaussian(Method):
    """A Gaussian in the middle of the picture: photographers put objects there, and crops centre faces.

    Args:
        sigma: its width as a share of the shorter side; 50 of 224 pixels by default.

    Examples:
        >>> import faithmap as fm
        >>> map = CentreGaussian()(fm.load(), torch.zeros(1, 3, 224, 224), 0)[0]
        >>> bool(map.max() == map[112, 112])
        True
    """

    sigma: float = 50 / 224

    at_layer = True
    control = True
    opposite = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ValueError(f"centre-gaussian takes a sigma above 0, as a share of the shorter side: got {self.sigma}")

    def attribute(self, query: Query) -> Result:
        """The same map for every sample."""
        H, W = query.x.shape[-2:]
        width = self.sigma * min(H, W)
        rows, cols = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (H, W))
        squares = rows[:, None] ** 2 + cols**2  # (H, W)
        return Result(torch.exp(-0.5 * squares / width**2).to(query.x).repeat(len(query), 1, 1))


@register("edges")
@dataclass(frozen=True)
class Edges(Method):
    """How steep the picture is: the length of Sobel's gradient of the grey picture, in pixels of [0, 1].

    An explanation that looks like it may show the picture and not the network.

    Source: the control of Adebayo et al. 2018, Sanity Checks for Saliency Maps, section 5.

    Examples:
        >>> import faithmap as fm
        >>> half = torch.zeros(1, 3, 224, 224)
        >>> half[..., 112:] = 1
        >>> Edges()(fm.load(), half, 0)[0, 0].nonzero().flatten().tolist()
        [111, 112]
    """

    at_layer = True
    control = True
    opposite = "none"

    def attribute(self, query: Query) -> Result:
        """Of what the network sees."""
        maps = edges(grey(query.model.to_pixels(query.x)))
        flat = {"the picture is of one grey": (maps == 0).flatten(1).all(dim=1)}
        return Result(maps, reasons=first_cause(flat))


@register("constant")
@dataclass(frozen=True)
class Constant(Method):
    """The same everywhere: what a metric gives to a map that says nothing. Results flag it as the constant it is.

    Examples:
        >>> import faithmap as fm
        >>> bool((Constant()(fm.load(), torch.zeros(1, 3, 224, 224), 0) == 1).all())
        True
    """

    at_layer = True
    control = True
    opposite = "none"

    def attribute(self, query: Query) -> Result:
        """Ones."""
        return Result(torch.ones_like(query.x[:, 0]), reasons=["this control is meant to be"] * len(query))
