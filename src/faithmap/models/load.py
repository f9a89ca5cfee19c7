"""Names to models: ``load("efficientnet-lite0")``, ``load("adaface:ir_101@FILE")``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from faithmap.models import nets
from faithmap.models.base import Model
from faithmap.models.checkpoints import efficientnet_lite0_weights, load_into, read_state_dict, unwrapped
from faithmap.models.classifier import Classifier
from faithmap.models.face import FaceEmbedder
from faithmap.models.labels import imagenet_labels
from faithmap.models.shipped import shipped
from faithmap.models.vqa import VQAModel
from faithmap.words import did_you_mean

DEFAULT = "efficientnet-lite0"


@dataclass(frozen=True)
class Source:
    """A name that `load` understands."""

    pattern: str
    """How it is written: ``NAME`` stands for a variant, ``FILE`` for a path, ``[...]`` for what may be left out."""
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
        name: one of `available`, for instance "efficientnet-lite0", "torchvision:resnet50", "timm:convnext_tiny", or
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
    source, arguments = asked(name, weights)
    model = source.make(**arguments, **settings)
    model.module.to(place)
    model.name = str(name).partition("@")[0]
    return model


def available() -> list[str]:
    """How the models that `load` knows are written.

    Examples:
        >>> available()[0]
        'efficientnet-lite0'
    """
    return [source.pattern for source in sources()]


def sources() -> tuple[Source, ...]:
    """What `load` knows, each with what it is."""
    return SOURCES


def asked(name: str, weights: str | None = None) -> tuple[Source, dict[str, Any]]:
    """What a name stands for, without loading it; arguments as for `load`.

    Returns:
        Its source, and what its maker takes of the name.

    Raises:
        ValueError: the name is unknown, or not written as its source is.
    """
    head, _, file = str(name).partition("@")
    kind, _, variant = head.partition(":")
    source = next((s for s in SOURCES if s.pattern.partition("@")[0].partition(":")[0] == kind), None)
    if source is None:
        raise ValueError(f"there is no model {name!r}: {did_you_mean(head, (s.pattern for s in SOURCES))}")
    arguments: dict[str, Any] = {"weights": weights} if weights is not None else {}
    if weights is not None and kind != "torchvision":
        raise ValueError(f"weights= is for torchvision:NAME; {kind} is written {source.pattern}")
    if "[@" not in source.pattern and ("@" in source.pattern) != bool(file):
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
    return source, arguments


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


def _objects(name: str, **settings: Any) -> Model:
    found = shipped(name)
    module = nets.ObjectNet(len(found.about["labels"]), found.about["hidden"])
    found.load_into(module)
    known = {key: found.about[key] for key in ("labels", "mean", "std")}
    return Classifier(
        module, **{"size": 96, "target_layer": f"features.{len(module.features) - 1}", **known, **settings}
    )


def _faces(**settings: Any) -> Model:
    found = shipped("faces")
    module = nets.SmallFaceNet()
    found.load_into(module)
    known = {"threshold": found.about["threshold"], "target_layer": f"body.{len(module.body) - 1}"}
    return FaceEmbedder(module, **{**known, **settings})


def _load(module: nn.Module, file: str, ignore: Sequence[str] = ()) -> None:
    """The weights of a file, whatever wrapped the network when it was saved."""
    state = unwrapped(read_state_dict(file), next(iter(module.state_dict())))
    load_into(module, state, source=file, ignore=ignore)


def _squeezenet(file: str, **settings: Any) -> Model:
    module = nets.SqueezeNet()
    _load(module, file)
    return _classifier(module, {}, settings)


def _mobilenet_v2(file: str, **settings: Any) -> Model:
    module = nets.MobileNetV2()
    _load(module, file)
    return _classifier(module, {"mean": [0.5] * 3, "std": [0.5] * 3}, settings)


def _mobilefacenet(file: str, **settings: Any) -> Model:
    module = nets.MobileFaceNet()
    _load(module, file)
    return FaceEmbedder(module, **{"mean": (0.5, 0.5, 0.5), "std": (128 / 255,) * 3, **settings})


def _questions(**settings: Any) -> Model:
    found = shipped("questions")
    module = nets.FiLM(len(found.about["answers"]), len(found.about["words"]))
    found.load_into(module)
    return VQAModel(module, **{**found.about, "target_layer": "act", **settings})


def _adaface(variant: str, file: str, **settings: Any) -> Model:
    module: nets.IResNet = getattr(nets, variant)()
    _load(module, file, ignore=["head."])
    return FaceEmbedder(module, **{"channel_order": "bgr", "target_layer": f"body.{len(module.body) - 1}", **settings})


def _arcface(variant: str, file: str, **settings: Any) -> Model:
    return _insightface("arcface:r", int(variant.removeprefix("r")), file, settings)


def _magface(variant: str, file: str, **settings: Any) -> Model:
    pixels = {"channel_order": "bgr", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return _insightface("magface:iresnet", int(variant.removeprefix("iresnet")), file, pixels | settings)


def _insightface(kind: str, depth: int, file: str, settings: dict[str, Any]) -> Model:
    """A network of insightface's layout, whose depth the file has to have."""
    state = unwrapped(read_state_dict(file), "conv1.weight")
    held = next((d for d, blocks in nets.ARCFACE_BLOCKS.items() if blocks == _blocks(state)), depth)
    if held != depth:
        raise ValueError(f"{file} holds the weights of {kind}{held}, not of {kind}{depth}: write {kind}{held}@FILE")
    module = nets.ArcFaceNet(nets.ARCFACE_BLOCKS[depth])
    load_into(module, state, source=file)
    return FaceEmbedder(module, **{"target_layer": f"layer4.{len(module.layer4) - 1}", **settings})


def _blocks(state: dict[str, Tensor]) -> tuple[int, ...]:
    """How many blocks each of the four stages has, by the names of their weights."""
    return tuple(len({n.split(".")[1] for n in state if n.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4))


def _timm(variant: str, file: str | None = None, **settings: Any) -> Model:
    try:
        timm: Any = import_module("timm")  # whose functions are partly untyped
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision was built for another torch
        raise ValueError(
            f"timm:NAME needs timm, with a torchvision that fits torch {torch.__version__} ({error}): "
            "pip install 'faithmap[timm]'"
        ) from error
    published = timm.list_models(pretrained=True)
    names = [*timm.list_models(), *published]
    if variant not in names:
        raise ValueError(f"timm has no model {variant!r}: {did_you_mean(variant, names)}")
    if file is None and not any(variant in (name, name.partition(".")[0]) for name in published):
        raise ValueError(f"timm has no weights for {variant}: write timm:{variant}@FILE")
    module = timm.create_model(variant, pretrained=file is None)
    if file is not None:
        _load(module, file)
    labels = imagenet_labels() if getattr(module, "num_classes", None) == 1000 else None
    return Classifier(
        module, **{"labels": labels, **_timm_inputs(timm.data.resolve_model_data_config(module)), **settings}
    )


def _timm_inputs(data: dict[str, Any]) -> dict[str, Any]:
    """How timm's own evaluation prepares a photo: a resize, then the crop. Where it pads ("border"), this crops."""
    size = tuple(data["input_size"][1:])
    side = tuple(math.floor(length / data["crop_pct"]) for length in size)
    resize = side if data["crop_mode"] == "squash" else side[0]  # without squashing, timm's inputs are squares
    interpolation = "bicubic" if data["interpolation"] == "bicubic" else "bilinear"
    return {"size": size, "resize": resize, "interpolation": interpolation, "mean": data["mean"], "std": data["std"]}


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


_ADAFACE = ("ir_18", "ir_50", "ir_101")
_ARCFACE = tuple(f"r{depth}" for depth in nets.ARCFACE_BLOCKS)
_MAGFACE = tuple(f"iresnet{depth}" for depth in nets.ARCFACE_BLOCKS)
SOURCES = (
    Source(
        "efficientnet-lite0", "ImageNet classifier, the default: its weights come with the package", _efficientnet_lite0
    ),
    Source("objects", "small classifier of the ten shapes in worlds.objects", partial(_objects, "objects")),
    Source("objects-mlp", "likewise, with a head that is not linear", partial(_objects, "objects-mlp")),
    Source("objects-tagged", "likewise for its tagged pictures: ten glyphs", partial(_objects, "objects-tagged")),
    Source("questions", "answers questions about scenes; its weights come with the package", _questions, VQAModel),
    Source("torchvision:NAME", "torchvision's ImageNet classifiers: their weights are downloaded", _torchvision),
    Source("timm:NAME[@FILE]", "timm's ImageNet classifiers: their weights are downloaded, or read from a file", _timm),
    Source("squeezenet1_0@FILE", "SqueezeNet 1.0 for ImageNet, torchvision's layout", _squeezenet),
    Source("mobilenet_v2@FILE", "MobileNetV2 for ImageNet, torchvision's layout, mean and std 0.5", _mobilenet_v2),
    Source("faces", "small face recogniser for worlds.faces: it knows drawn faces alone", _faces, FaceEmbedder),
    Source("mobilefacenet@FILE", "MobileFaceNet, a small face recogniser", _mobilefacenet, FaceEmbedder),
    Source("adaface:NAME@FILE", "AdaFace's face recognisers ir_18, ir_50, ir_101", _adaface, FaceEmbedder, _ADAFACE),
    Source(
        "arcface:NAME@FILE", f"insightface's face recognisers {', '.join(_ARCFACE)}", _arcface, FaceEmbedder, _ARCFACE
    ),
    Source("magface:NAME@FILE", f"MagFace's face recognisers {', '.join(_MAGFACE)}", _magface, FaceEmbedder, _MAGFACE),
)
