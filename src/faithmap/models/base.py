"""A model: a network with what belongs to it, so that photos go in and scores come out."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from faithmap.images import Geometry, Interpolation, Picture, open_image, to_tensor
from faithmap.models.frozen import twin, unwrap
from faithmap.models.layers import Layer, rank_layers
from faithmap.pixels import grey
from faithmap.targets import Custom, Each, Target
from faithmap.words import did_you_mean

Pictures: TypeAlias = "Picture | Tensor | Sequence[Picture]"
ChannelOrder: TypeAlias = Literal["rgb", "bgr"]
Precision: TypeAlias = Literal["float32", "bf16"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Inputs:
    """Prepared inputs and where they came from."""

    x: Tensor
    """``(B, 3, H, W)`` in the network's own input space, on the model's device."""
    names: tuple[str, ...]
    """Base names of files, or what kind of picture was given."""
    geometries: tuple[Geometry | None, ...]
    """How each photo became an input; None for prepared tensors."""


class Model:
    """A network with its input size, normalisation, channel order and target layer.

    The caller's module is never changed: methods run a frozen twin that shares its weights.

    Args:
        module: any nn.Module that takes ``(B, C, H, W)``, C = 3 for colour.
        target_layer: dotted path of the layer whose activations CAM methods weigh; without it, the first answer of
            `suggest_layers`.
        size: side of the square input, or (H, W), in pixels.
        mean: per channel, of pixels in [0, 1], in the order of ``channel_order``; one number for a grey network.
        std: per channel, likewise.
        channel_order: "rgb" or "bgr", of the network's input.
        resize: the shorter side's length before the centre crop, or (height, width) of the whole photo; "squash" to
            fill the input with the whole photo; None to crop as little as covers the input.
        interpolation: "bilinear" or "bicubic".
        name: how results call the model.

    Raises:
        ValueError: the module is none, its weights hold NaN, or a setting does not fit.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        target_layer: str | None = None,
        size: int | tuple[int, int] = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: ChannelOrder = "rgb",
        resize: int | tuple[int, int] | Literal["squash"] | None = None,
        interpolation: Interpolation = "bilinear",
        name: str | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(f"{type(self).__name__} wraps an nn.Module: got {type(module).__name__}")
        _check_scale(mean, std)
        sides = (size, size) if isinstance(size, int) else size
        if not (isinstance(sides, (tuple, list)) and [type(s) for s in sides] == [int, int] and min(sides) > 0):
            raise ValueError(f"size is the input's side in pixels, or (H, W): got {size!r}")
        if not isinstance(target_layer, (str, NoneType)):
            raise ValueError(f"target_layer is the dotted path of a layer, 'features.18': got {target_layer!r}")
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order is 'rgb' or 'bgr': got {channel_order!r}")
        self.module = module
        self.size = (sides[0], sides[1])
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.channel_order = channel_order
        self.resize = resize
        self.interpolation = interpolation
        self.name = name or type(unwrap(module)).__name__
        self.precision: Precision = "float32"
        self.compile = False
        _check_finite(module)
        self._named_layer = None if target_layer is None else self.check_layer(target_layer)

    def __repr__(self) -> str:
        H, W = self.size
        return f"{type(self).__name__}({self.name!r}, {H} x {W} {self.channel_order})"

    # -- the network ----------------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def weights_digest(self) -> str:
        """What the weights and buffers are, as 16 hexadecimal digits of a SHA-256: the same network has the same."""
        tensors = {n: t for n, t in sorted(unwrap(self.module).state_dict().items()) if isinstance(t, Tensor)}
        # Hashing takes longer than a small map: once for as long as nothing has been written to the weights.
        state = [(t.data_ptr(), None if t.is_inference() else t._version) for t in tensors.values()]
        frozen = twin(self.module)
        known, digest = frozen.derived.get("digest", (None, ""))
        if known != state:
            sha = hashlib.sha256()
            for name, value in tensors.items():
                sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            digest = sha.hexdigest()[:16]
            frozen.derived["digest"] = state, digest
        return str(digest)

    def network(self, x: Tensor) -> Any:
        """The network's raw outputs for prepared inputs ``(B, 3, H, W)``; gradients flow where they are enabled."""
        frozen = twin(self.module)
        run: Any = frozen.module
        if self.compile:
            with frozen.lock:
                run = frozen.derived.setdefault("compiled", torch.compile(frozen.module))
        with self.autocast():
            try:
                return run(x.to(self.dtype))
            except TypeError as error:
                if "required positional argument" not in str(error):
                    raise
                raise ValueError(
                    f"{self.name} takes more than a picture ({error}): wrap it in a module that has the rest"
                ) from error

    def autocast(self) -> AbstractContextManager[None]:
        """The network's precision, whatever the caller's own autocast says."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)

    def configured(self, precision: Precision = "float32", compile: bool = False) -> Model:
        """The same model with another precision of the network, or compiled; weights are shared."""
        if precision not in ("float32", "bf16"):
            raise ValueError(f"precision is 'float32' or 'bf16': got {precision!r}")
        if precision == "bf16" and self.dtype != torch.float32:
            raise ValueError(f"precision 'bf16' is for float32 networks: the weights of this one are {self.dtype}")
        other = copy.copy(self)
        other.precision, other.compile = precision, compile
        return other

    def at(self, layer: str) -> Model:
        """The same model with another target layer; weights are shared."""
        other = copy.copy(self)
        other._named_layer = self.check_layer(layer)
        return other

    # -- layers ---------------------------------------------------------------------------------------------------

    @property
    def target_layer(self) -> str:
        """The layer whose activations CAM methods weigh."""
        return self._named_layer or self.suggest_layers()[0].name

    def suggest_layers(self) -> list[Layer]:
        """Candidate target layers, best first, with shapes and reasons; the first is this model's target layer."""
        frozen = twin(self.module)  # kept with the twin: the copies that `configured` and `at` make ask again
        with frozen.lock:
            key = ("layers", self.size, self._named_layer)
            if key not in frozen.derived:
                frozen.derived[key] = rank_layers(self._alone(), self.size, self.channels, always=self._named_layer)
            return list(frozen.derived[key])

    def _alone(self) -> nn.Module:
        """A network of these layers that takes a picture and nothing else."""
        return self.module

    def check_layer(self, name: str) -> str:
        """The layer's name, or an error with close names."""
        names = [n for n, _ in unwrap(self.module).named_modules() if n]
        plain = name.replace("_orig_mod.", "")
        if plain not in (n.replace("_orig_mod.", "") for n in names):
            raise ValueError(f"there is no layer {name!r} in {self.name}: {did_you_mean(name, names)}")
        return plain

    # -- pictures -------------------------------------------------------------------------------------------------

    def prepare(self, pictures: Pictures) -> Tensor:
        """Photos as the network's input, ``(B, 3, H, W)`` on the model's device.

        Args:
            pictures: a path, PIL image or uint8 array, or a list of them. A float tensor is taken as prepared.
        """
        return self.read(pictures).x

    def read(self, pictures: Pictures) -> Inputs:
        """`prepare`, with each photo's name and geometry."""
        if isinstance(pictures, Tensor):
            return Inputs(self.check_input(pictures), ("tensor",) * len(pictures), (None,) * len(pictures))
        if isinstance(pictures, (list, tuple)) and any(isinstance(p, Tensor) for p in pictures):
            raise ValueError("a list holds paths, PIL images or uint8 arrays: stack tensors to one batch (B, 3, H, W)")
        many = cast("Sequence[Picture]", pictures if isinstance(pictures, (list, tuple)) else [pictures])
        if not len(many):
            raise ValueError("there is no picture to explain: the list is empty")
        rows, geometries = [], []
        for picture in many:
            photo = open_image(picture)
            geometry = Geometry.fit(photo.size, self.size, self.resize, self.interpolation)
            rows.append(self.from_pixels(to_tensor(geometry.apply(photo))[None]))
            geometries.append(geometry)
        return Inputs(torch.cat(rows).to(self.device), tuple(map(_name, many)), tuple(geometries))

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """RGB pixels in [0, 1], ``(B, 3, H, W)``, in the network's input space ``(B, C, H, W)``."""
        if self.channels == 1:
            pixels = grey(pixels)[:, None]
        elif self.channels != 3:
            raise ValueError(f"{self.name} takes {self.channels} channels, a picture has 3: give a prepared tensor")
        ordered = pixels.flip(1) if self.channel_order == "bgr" else pixels
        mean, std = self.scale(ordered)
        return (ordered - mean) / std

    def to_pixels(self, x: Tensor) -> Tensor:
        """Network inputs ``(B, C, H, W)`` as RGB pixels in [0, 1], ``(B, 3, H, W)``; grey where C is not 3."""
        mean, std = self.scale(x)
        pixels = x * std + mean
        if self.channels != 3:
            return pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        return pixels.flip(1) if self.channel_order == "bgr" else pixels

    def scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, ``(1, C, 1, 1)`` each, like x."""
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return mean, std

    def check_input(self, x: Tensor) -> Tensor:
        """Prepared inputs, checked; float32 or better."""
        if x.ndim != 4 or not x.is_floating_point() or not len(x):
            raise ValueError(
                f"a tensor is taken as prepared input (B, 3, H, W) of floats: got {tuple(x.shape)} {x.dtype}. Give a "
                "picture as a path, PIL image or uint8 array, or use model.prepare"
            )
        if x.shape[1] != self.channels:
            raise ValueError(f"{self.name} takes {self.channels} channels, as its mean and std say: got {x.shape[1]}")
        if x.device != self.device:
            raise ValueError(f"the input is on {x.device}, the model on {self.device}: move one of them")
        if not bool(x.isfinite().all()):
            raise ValueError("the input holds NaN or infinite values")
        return x if x.dtype in (torch.float32, torch.float64) else x.float()

    # -- targets --------------------------------------------------------------------------------------------------

    def target(self, given: Any, batch: int) -> Target | None:
        """What the caller wants explained, as a target for a batch of that size; None is left for `default_target`."""
        target = self._target(given)
        if target is not None:
            target.check(batch)
        return target

    def _target(self, given: Any) -> Target | None:
        if given is None or isinstance(given, Target):
            return given
        if isinstance(given, (bool, float)):
            raise ValueError(f"a target is a class index, a label, a Target or a callable: got {given!r}")
        if callable(given):
            return Custom(given)
        if isinstance(given, (list, tuple)):
            targets = [self._target(one) for one in given]
            if not targets or any(t is None for t in targets):
                raise ValueError("a list of targets holds one target per picture, none of them None")
            return Each([t for t in targets if t is not None])
        return self.class_target(given)

    def class_target(self, given: Any) -> Target:
        """The target that an index, label or tensor of indices stands for."""
        raise ValueError(f"{type(self).__name__} takes a Target or a callable: got {given!r}")

    def default_target(self, outputs: Any) -> Target:
        """The target where the caller named none."""
        raise ValueError(f"{type(self).__name__} has no default target: name one")


def require_model(model: Any) -> Model:
    """The model itself, or an error that shows how to wrap a bare module."""
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        raise ValueError(
            f"a bare {type(model).__name__} says nothing about its input: wrap it, "
            "fm.Classifier(module, size=224, mean=..., std=..., labels=[...]) or fm.FaceEmbedder(module, size=112, ...)"
        )
    if isinstance(model, str):
        raise ValueError(f"a model is due, got the text {model!r}: use fm.load({model!r})")
    raise ValueError(f"a Classifier, FaceEmbedder or VQAModel is due: got {type(model).__name__}")


def _check_scale(mean: Any, std: Any) -> None:
    try:
        centre, width = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))
        fits = centre.ndim == 1 and centre.shape == width.shape and len(centre) > 0
        fits = fits and bool((width > 0).all() and (centre + width).isfinite().all())
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(f"mean and std hold one number per channel each, std above 0: got mean={mean}, std={std}")


def _check_finite(module: nn.Module) -> None:
    broken = [name for name, p in module.named_parameters() if p.is_floating_point() and not bool(p.isfinite().all())]
    broken += [name for name, b in module.named_buffers() if b.is_floating_point() and bool(b.isnan().any())]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ValueError(
            f"the weights {', '.join(broken[:3])}{more} hold NaN or infinite values: load or train them again"
        )


def _name(picture: Picture) -> str:
    """A base name for provenance: never a path."""
    if isinstance(picture, (str, Path)):
        return Path(picture).name
    filename = getattr(picture, "filename", "")
    return Path(filename).name if filename else "array" if isinstance(picture, np.ndarray) else "image"
