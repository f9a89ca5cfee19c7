"""The small networks that come with the package: their weights, checked before they are used, and what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor, nn

from faithmap.models.checkpoints import load_into
from faithmap.words import did_you_mean

FOLDER = Path(str(files("faithmap") / "assets" / "models"))
DIGESTS = FOLDER / "SHA256SUMS"
"""What each file's content is, as sha256sum writes it."""


@dataclass(frozen=True, eq=False)
class Shipped:
    """One network's weights as they are stored, in half precision, with what its training wrote beside them."""

    name: str
    state: dict[str, Tensor]
    about: dict[str, Any]
    """What has to be known of it: labels, threshold, words."""

    def load_into(self, module: nn.Module) -> None:
        """Copy the weights into a module that matches them, in its own precision."""
        load_into(module, self.state, source=f"{self.name}.safetensors")


def shipped(name: str) -> Shipped:
    """The weights of a network that comes with the package.

    Args:
        name: of its file in the package's ``assets/models``, without the ending.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not what was shipped; the message says how to get it back.

    Examples:
        >>> shipped("objects").about["labels"][:2]
        ['cube', 'ball']
    """
    known = {}
    for line in DIGESTS.read_text().splitlines() if DIGESTS.is_file() else ():
        digest, file = line.split()
        known[file.removesuffix(".safetensors")] = digest
    again = "reinstall it, pip install --force-reinstall --no-deps faithmap"
    if not known:
        raise FileNotFoundError(f"faithmap's file {DIGESTS} is gone: {again}")
    if name not in known:
        raise ValueError(f"no network {name!r} comes with faithmap: {did_you_mean(name, known)}")
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"faithmap's file {path} is gone: {again}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != known[name]:
        raise ValueError(f"faithmap's file {path} is damaged, its SHA-256 is not that of what was shipped: {again}")
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})["about"])
    return Shipped(name, load(content), about)
