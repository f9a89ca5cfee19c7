"""What a run was asked and where it ran: enough to tell whether it may go on, and no path of the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from faithmap.bench.spec import Spec
from faithmap.datasets import Dataset, Pair
from faithmap.models.base import Model


def described(spec: Spec) -> dict[str, Any]:
    """What decides the records of a benchmark: two runs that differ in it must not share a folder."""
    about = {
        "models": {label: _model(model) for label, model in spec.models.items()},
        "data": {label: _data(data) for label, data in spec.data.items()},
        "methods": {
            entry.label: {"name": entry.method.name, "parameters": entry.method.parameters, "limit": entry.limit}
            for entry in spec.entries
        },
        "metrics": {
            f"{metric.name}: {', '.join(metric.parts)}": {"parameters": metric.parameters} for metric in spec.metrics
        },
        **{key: getattr(spec, key) for key in ("explain", "batch", "shards", "seed", "maps")},
    }
    return dict(json.loads(json.dumps(pathless(about), default=str)))


def shared(about: Mapping[str, Any]) -> dict[str, Any]:
    """The part of what `described` tells that decides the records of every method.

    Methods do not touch one another's records, unless reference values are taken on the samples of all of them.
    """
    together = any(name.startswith("shap-error") for name in about["metrics"])
    return {key: value for key, value in about.items() if key != "methods" or together}


def comparable(before: Any, now: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What has to be the same of two benchmarks whose records share a folder: what is shared, and methods of both."""
    if not isinstance(before, dict) or "methods" in shared(now):
        return before, dict(now)
    known = {label: method for label, method in before.get("methods", {}).items() if label in now["methods"]}
    return before | {"methods": known}, dict(now) | {"methods": {label: now["methods"][label] for label in known}}


def digest(about: Mapping[str, Any]) -> str:
    """Of what `described` tells."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def session(arguments: Sequence[str]) -> dict[str, Any]:
    """Where and with what a run begins, or goes on."""
    packages = ("faithmap", "torch", "numpy", "pillow", "pyarrow", "safetensors")
    machine = {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": [pathless(argument) for argument in arguments],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {**machine, "threads": torch.get_num_threads(), "gpus": gpus},
    }


def differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """What is not the same, in words.

    Examples:
        >>> list(differences({"batch": 8, "seed": 0}, {"batch": 4, "seed": 0}))
        ['batch was 8 and is 4']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            inner = f"{place}.{key}" if place else str(key)
            if key not in now:
                yield f"{inner} is gone"
            elif key not in before:
                yield f"{inner} is new"
            else:
                yield from differences(before[key], now[key], inner)
    elif before != now:
        yield f"{place} was {before} and is {now}"


def pathless(value: Any) -> Any:
    """The value with base names in the place of paths, those of `NAME=PATH` and `MODEL@PATH` too.

    Examples:
        >>> pathless(["/home/ann/photos", "ROOT=~/photos", 3])
        ['photos', 'ROOT=photos', 3]
    """
    if isinstance(value, Mapping):
        return {key: pathless(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [pathless(one) for one in value]
    if isinstance(value, os.PathLike):
        return Path(value).name
    if isinstance(value, str) and os.sep in value:
        mark = max(value.rfind("=", 0, value.index(os.sep)), value.rfind("@", 0, value.index(os.sep)))
        return value[: mark + 1] + Path(value[mark + 1 :]).name
    return value


def _model(model: Model) -> dict[str, Any]:
    told = ("size", "resize", "mean", "std", "channel_order", "interpolation", "precision", "target_layer")
    return {
        "name": model.name,
        "weights": model.weights_digest,
        "threshold": getattr(model, "threshold", None),
        **{name: getattr(model, name) for name in told},
    }


def _data(data: Dataset[Any]) -> dict[str, Any]:
    sha = hashlib.sha256()
    for one in data:
        if isinstance(one, Pair):
            facts = [one.id, one.genuine, one.subjects, one.group, _size(one.probe), _size(one.gallery)]
        else:
            boxes = None if one.truth is None or one.truth.boxes is None else one.truth.boxes.tolist()
            facts = [one.id, one.label, boxes, one.truth is not None, _size(one.image)]
        sha.update(json.dumps(facts).encode() + b"\n")
    return {"name": data.name, "parameters": data.parameters, "samples": len(data), "digest": sha.hexdigest()[:16]}


def _size(picture: Any) -> int | None:
    """Of a file, in bytes: told without reading it. The digest of what it shows is with the clean scores."""
    try:
        return Path(picture).expanduser().stat().st_size if isinstance(picture, (str, os.PathLike)) else None
    except OSError:  # a sample that is not there is a row with its error
        return None
