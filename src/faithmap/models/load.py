"""Names to models: ``load("efficientnet-lite0")``, ``load("adaface:ir_101@FILE")``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from faithmap.models import nets
from faithmap.models.base import Model
from faithmap.models.checkpoints import efficientnet_lite0_weights, load_into, read_state_dict
from faithmap.models.classifier import Classifier
from faithmap.models.face import FaceEmbedder
from faithmap.models.labels import imagenet_labels
from faithmap.words import did_you_mean

DEFAULT = "efficientnet-lite0"


@dataclass(frozen=True)
class Source:
    """A name that `load` understands."""

    pattern: str
    """How it is written: ``NAME`` stands for a variant, ``FILE`` for a path."""
    about: str
    make: Callable[..., Model]
    kind: type[Model] = Classifier
    """The class of model that it makes."""
    variants: tuple[str, ...] = ()


def load(
    name: str = DEFAULT, *, device: str | int | torch.device | None = None, weights: str | None = None, **settings: Any
) -> Model:
    """A model by its name.

    Args:
        name: one of `available`, for instance "efficientnet-lite0", "torchvision:resnet50", or
            "adaface:ir_101@FILE" with the path of a checkpoint after the @.
        device: "cpu", "cuda", "cuda:1", "mps", or the number of a CUDA device; the CPU by default.
        weights: which of torchvision's weights ("IMAGENET1K_V2"), for ``torchvision:NAME``.
        **settings: what the model's class takes: target_layer, threshold, resize and more.

    Raises:
        ValueError: the name is unknown, the checkpoint does not fit or could run code, or the device is absent.
        FileNotFoundError: there is no file after the @.

    Examples:
        >>> load("efficientnet-lite0").target_layer
        '_relu_head'
    """
    place = check_device(device)
    head, _, file = str(name).partition("@")
    kind, _, variant = head.partition(":")
    source = next((s for s in SOURCES if s.pattern.partition("@")[0].partition(":")[0] == kind), None)
    if source is None:
        raise ValueError(f"there is no model {name!r}: {did_you_mean(head, (s.pattern for s in SOURCES))}")
    arguments: dict[str, Any] = {"weights": weights} if weights is not None else {}
    if weights is not None and kind != "torchvision":
        raise ValueError(f"weights= is for torchvision:NAME; {kind} is written {source.pattern}")
    if ("@" in source.pattern) != bool(file):
        need = "needs the path of its weights" if "@" in source.pattern else "takes no file"
        raise ValueError(f"the model {head!r} {need}: write {source.pattern}")
    if (":" in source.pattern) != bool(variant):
        need = "needs a variant" if ":" in source.pattern else "has no variants"
        raise ValueError(f"the model {head!r} {need}: write {source.pattern}")
    if source.variants and variant not in source.variants:
        raise ValueError(f"{kind} has no {variant!r}: {did_you_mean(variant, source.variants)}")
    if file:
        arguments["file"] = file
    if variant:
        arguments["variant"] = variant
    model = source.make(**arguments, **settings)
    model.module.to(place)
    model.name = head
    return model


def available() -> list[str]:
    """How the models that `load` knows are written.

    Examples:
        >>> available()[0]
        'efficientnet-lite0'
    """
    return [source.pattern for source in SOURCES]


def check_device(device: str | int | torch.device | None) -> torch.device:
    """The device asked for, or an error that says what there is."""
    try:
        wanted = torch.device("cpu" if device is None else f"cuda:{device}" if isinstance(device, int) else device)
    except RuntimeError:
        raise ValueError(f"there is no device {str(device)!r}: use 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        found = f"torch sees {count} CUDA devices" if count else "this torch sees no CUDA device"
        raise ValueError(f"device {str(device)!r} was asked for, but {found}: use device='cpu'")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but this torch has none: use device='cpu'")
    return wanted


def _classifier(module: nn.Module, defaults: dict[str, Any], settings: dict[str, Any]) -> Classifier:
    return Classifier(module, **{"labels": imagenet_labels(), **defaults, **settings})


def _efficientnet_lite0(**settings: Any) -> Model:
    path = efficientnet_lite0_weights()
    module = nets.EfficientNetLite()
    load_into(module, read_state_dict(path), source=path.name)
    scale = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "interpolation": "bicubic"}
    return _classifier(module, scale, settings)


def _squeezenet(file: str, **settings: Any) -> Model:
    module = nets.SqueezeNet()
    load_into(module, read_state_dict(file), source=file)
    return _classifier(module, {}, settings)


def _mobilenet_v2(file: str, **settings: Any) -> Model:
    module = nets.MobileNetV2()
    load_into(module, read_state_dict(file), source=file)
    return _classifier(module, {"mean": [0.5] * 3, "std": [0.5] * 3}, settings)


def _mobilefacenet(file: str, **settings: Any) -> Model:
    module = nets.MobileFaceNet()
    load_into(module, read_state_dict(file), source=file)
    return FaceEmbedder(module, **{"mean": (0.5, 0.5, 0.5), "std": (128 / 255,) * 3, **settings})


def _adaface(variant: str, file: str, **settings: Any) -> Model:
    module: nets.IResNet = getattr(nets, variant)()
    load_into(module, read_state_dict(file, strip=["model."]), source=file, ignore=["head."])
    return FaceEmbedder(module, **{"channel_order": "bgr", "target_layer": f"body.{len(module.body) - 1}", **settings})


def _torchvision(variant: str, weights: str = "DEFAULT", **settings: Any) -> Model:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ValueError(
            f"torchvision:NAME needs a torchvision that fits torch {torch.__version__} ({error}): "
            "pip install 'faithmap[torchvision]'"
        ) from error
    names = models.list_models(module=models)
    if variant not in names:
        raise ValueError(f"torchvision has no classifier {variant!r}: {did_you_mean(variant, names)}")
    known = models.get_model_weights(variant)
    if weights not in (*known.__members__, "DEFAULT"):
        raise ValueError(f"{variant} has no weights {weights!r}: {did_you_mean(weights, known.__members__)}")
    chosen = known[weights]
    how = chosen.transforms()
    defaults: dict[str, Any] = {
        "size": how.crop_size[0],
        "resize": how.resize_size[0],
        "mean": how.mean,
        "std": how.std,
    }
    defaults |= {"labels": chosen.meta["categories"]}
    defaults |= {"interpolation": "bicubic" if how.interpolation.value == "bicubic" else "bilinear"}
    return Classifier(models.get_model(variant, weights=chosen), **{**defaults, **settings})


_FACES = ("ir_18", "ir_50", "ir_101")
SOURCES = (
    Source(
        "efficientnet-lite0", "ImageNet classifier, the default: its weights come with the package", _efficientnet_lite0
    ),
    Source("torchvision:NAME", "torchvision's ImageNet classifiers: their weights are downloaded", _torchvision),
    Source("squeezenet1_0@FILE", "SqueezeNet 1.0 for ImageNet, torchvision's layout", _squeezenet),
    Source("mobilenet_v2@FILE", "MobileNetV2 for ImageNet, torchvision's layout, mean and std 0.5", _mobilenet_v2),
    Source("mobilefacenet@FILE", "MobileFaceNet, a small face recogniser", _mobilefacenet, FaceEmbedder),
    Source("adaface:NAME@FILE", "AdaFace's face recognisers ir_18, ir_50, ir_101", _adaface, FaceEmbedder, _FACES),
)
