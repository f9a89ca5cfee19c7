"""``faithmap list``: what the registries hold, with parameters, and what models and layers there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from itertools import groupby
from typing import Any

from faithmap.datasets.registry import DATASETS
from faithmap.methods.registry import METHODS
from faithmap.metrics.registry import METRICS
from faithmap.models.load import sources
from faithmap.registry import Registry, family
from faithmap.terminal import Screen, load_model
from faithmap.words import did_you_mean


def listed(screen: Screen, what: str, model: str) -> None:
    """Show all of one kind.

    Args:
        screen: where.
        what: methods, metrics, datasets, models or layers.
        model: whose layers.

    Raises:
        ValueError: there is no such kind.
    """
    known: dict[str, Callable[[Screen, str], None]]
    known = {"methods": _methods, "metrics": _metrics, "datasets": _datasets, "models": _models, "layers": _layers}
    if what not in known:
        raise ValueError(f"there are no {what!r} to list: {did_you_mean(what, known)}")
    known[what](screen, model)


def _methods(screen: Screen, _: str) -> None:
    _registered(screen, METHODS, lambda method: {})


def _metrics(screen: Screen, _: str) -> None:
    """With what each tells, which way is better, and what it needs."""
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}

    def about(metric: type[Any]) -> dict[str, str]:
        needs = [*sorted(metric.needs), *([metric.task] if metric.task != "any" else [])]
        parts = ", ".join(f"{part}{arrows[better]}" for part, better in metric.parts.items())
        return {"tells": parts, **({"needs": ", ".join(needs)} if needs else {})}

    _registered(screen, METRICS, about, lambda metric: {"parts": dict(metric.parts)})
    screen.line("↑ higher is better, ↓ lower is better")


def _datasets(screen: Screen, _: str) -> None:
    _registered(screen, DATASETS, lambda data: {"task": data.task})


def _registered(
    screen: Screen,
    registry: Registry[Any],
    facts: Callable[[type[Any]], dict[str, str]],
    more: Callable[[type[Any]], dict[str, Any]] = lambda kind: {},
) -> None:
    """By families, with parameters and what else there is to know; a parameter without a default shows as NAME=..."""
    kinds = sorted((registry.get(name) for name in registry.available()), key=lambda kind: (kind.__module__, kind.name))
    listed = []
    for _, some in groupby(kinds, key=lambda kind: kind.__module__):
        members = list(some)
        screen.line(family(members[0]), style="bold")
        rows = []
        for kind in members:
            about = " ".join((kind.__doc__ or "").split("\n\n")[0].replace("``", "").split())
            defaults = {f.name: "..." if f.default is MISSING else f.default for f in fields(kind)}
            told = {"name": kind.name, "family": family(kind), "about": about, "parameters": defaults}
            listed.append({**told, **facts(kind), **more(kind)})
            shown = (f"{value:.4g}" if isinstance(value, float) else f"{value}" for value in defaults.values())
            lines = ["  ".join(map("=".join, zip(defaults, shown, strict=True)))]
            lines += [f"{name}: {fact}" for name, fact in facts(kind).items()]
            rows.append((kind.name, "\n".join(filter(None, lines)), about))
        screen.definitions(rows, width=max(len(kind.name) for kind in kinds))
    screen.document(listed)


def _models(screen: Screen, _: str) -> None:
    screen.document([{"name": source.pattern, "about": source.about} for source in sources()])
    screen.table(("model", "what it is"), [(source.pattern, source.about) for source in sources()])
    screen.line("\nFILE is the path of a checkpoint; nothing in it is executed.")


def _layers(screen: Screen, model: str) -> None:
    net = load_model(model, "cpu")
    layers = net.suggest_layers()
    screen.document([asdict(layer) for layer in layers])
    screen.line(f"Layers of {net.name} that can be explained, best first; the first is its target layer", style="bold")
    rows = [(layer.name, layer.kind, "{} x {} x {}".format(*layer.shape), layer.why) for layer in layers]
    screen.table(("layer", "kind", "channels x rows x columns", "why"), rows)
