"""How near do coefficients come to SHAP values of the channels, and at what cost?

    python -m benchmarks.shapley [--photos N] [--orders N]

Prints a table for each network and target: how many runs of the tail an estimator takes per photo, forward and
backward, and how far from the SHAP values its coefficients lie, as a share of the values' norm. The values come from
many random orders, each also backwards; their sampling error is taken off the squared distances, and printed above the
table. Medians over photos, with their 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.common import DATA, face_pairs, imagenet_squashed
from torch import Tensor

import faithmap as fm
from faithmap.methods import LIFTCAM, LIMECAM, LRPCAM, Cost, Method, OwenCAM
from faithmap.methods.base import Query
from faithmap.sampling import Moments
from faithmap.targets import Logit, Probability, Similarity, Target
from faithmap.words import table

Found = tuple[Tensor, Cost]
"""Coefficients ``(n, C)`` and what they cost."""


@dataclass(frozen=True)
class Head:
    """Photos at a layer, with questions about them."""

    name: str
    model: fm.Model
    layer: str
    x: Tensor
    targets: dict[str, Target]
    chain: Callable[[int, Tensor], Tensor]
    """A photo, an order of the channels ``(C,)`` -> outputs ``(C + 1, K)`` of none, the first, the first two, ... of
    them; the tail itself, but far cheaper than C + 1 runs of it."""

    def query(self, target: Target, seed: int = 0) -> Query:
        return Query(self.model, self.x, target, self.layer, seed, batch_size=len(self.x))


def squeezenet(data: Path, photos: int) -> Head:
    """The mean of ReLU(W A + b) over 13 x 13 places, asked for the predicted class."""
    model = fm.load(f"squeezenet1_0@{data / 'weights' / 'squeezenet1_0.pth'}", resize="squash")
    x = model.prepare(imagenet_squashed(data, 224)[0][:: 650 // photos][:photos])
    k = model.network(x).argmax(dim=1)
    layer: Any = model.module.classifier[1]  # type: ignore[union-attr, index]
    weight, bias = layer.weight.detach().flatten(1), layer.bias.detach()
    parts = Query(model, x, Logit(k), "features.12", 0, photos).split.A.flatten(2)  # (n, C, places)

    def chain(row: int, order: Tensor) -> Tensor:
        z = bias[:, None].repeat(1, parts.shape[2])  # (K, places)
        after = [F.relu(z.addr_(weight[:, c], parts[row, c])).mean(dim=1) for c in order.tolist()]
        return torch.stack([F.relu(bias), *after])

    return Head("SqueezeNet", model, "features.12", x, {"Logit": Logit(k), "Probability": Probability(k)}, chain)


def mobilefacenet(data: Path, photos: int) -> Head:
    """The cosine of an embedding that is affine in the channels; half of the pairs are genuine."""
    face = fm.load(f"mobilefacenet@{data / 'weights' / 'mobilefacenet_112.pth'}")
    assert isinstance(face, fm.FaceEmbedder)
    pairs = [pair for genuine in (True, False) for pair in face_pairs(data, genuine)[: photos // 2]]
    x = face.prepare([probe for probe, _ in pairs])
    target = Similarity(face.embed([gallery for _, gallery in pairs]))
    split = Query(face, x, target, "conv2", 0, photos).split
    nothing: Tensor = split.tail(torch.zeros_like(split.A[:1]), torch.zeros(1, dtype=torch.long))
    channels = torch.eye(split.A.shape[1])[:, :, None, None]
    parts = [
        torch.cat([split.tail(A * some, torch.full((len(some),), row)) for some in channels.split(32)]) - nothing
        for row, A in enumerate(split.A)
    ]  # what each channel adds to the embedding, (C, D)

    def chain(row: int, order: Tensor) -> Tensor:
        return torch.cat([nothing, nothing + parts[row][order].cumsum(dim=0)])

    return Head("MobileFaceNet", face, "conv2", x, {"Similarity": target}, chain)


def sampled(head: Head, orders: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By target: the SHAP values ``(n, C)`` from random orders, each also backwards, and their standard errors."""
    generator = torch.Generator().manual_seed(seed)
    channels = head.query(next(iter(head.targets.values()))).split.A.shape[1]
    moments = {name: [Moments() for _ in head.x] for name in head.targets}
    for row in range(len(head.x)):
        for _ in range(orders):
            order = torch.randperm(channels, generator=generator)
            ways = [(one.argsort(), head.chain(row, one)) for one in (order, order.flip(0))]
            rows = torch.full((channels + 1,), row)
            for name, target in head.targets.items():
                added = [target.select(rows)(outputs).double().diff()[ranks] for ranks, outputs in ways]
                moments[name][row].add((added[0] + added[1])[None] / 2)
    return {
        name: (torch.stack([m.mean for m in found]), torch.stack([m.standard_error for m in found]))
        for name, found in moments.items()
    }


def of_method(head: Head, target: Target, method: Method) -> Found:
    """A method's own coefficients."""
    query = head.query(target)
    found = method.attribute(query)
    assert found.coefficients is not None
    return found.coefficients.double(), query.cost


def gradient_times_activation(head: Head, target: Target) -> Found:
    """Sum g A: what LIFT-CAM would be with gradients for multipliers."""
    query = head.query(target)
    return (query.tail_gradient() * query.split.A).sum(dim=(2, 3)).double(), query.cost


def kernel_shap(head: Head, target: Target, coalitions: int) -> Found:
    """Kernel SHAP: a linear model of paired random coalitions, sizes drawn by the Shapley kernel, made to add up."""
    query = head.query(target)
    A, (B, C) = query.split.A, query.split.A.shape[:2]
    sizes = torch.arange(1, C)
    likely = 1.0 / (sizes * (C - sizes))
    picks = []
    for generator in query.generators("kernel-shap"):
        size = sizes[torch.multinomial(likely, coalitions // 2, replacement=True, generator=generator)]
        half = torch.rand(coalitions // 2, C, generator=generator).argsort(dim=1) < size[:, None]
        picks.append(torch.cat([half, ~half, torch.zeros(1, C, dtype=torch.bool)]))
    z, n = torch.stack(picks), coalitions + 1  # (B, n, C); the last is nobody

    scores = query.coalition_scores(B * n, lambda i: (A[i // n] * z[i // n, i % n][..., None, None], i // n))
    v = scores.double().view(B, n)
    v, change = v[:, :-1] - v[:, -1:], query.scores.double() - v[:, -1]
    fits = []
    for z_b, v_b, change_b in zip(z[:, :-1].double(), v, change, strict=True):
        # In deviations from equal shares, which add up to 0: the last channel is minus all others.
        left, right = z_b[:, :-1] - z_b[:, -1:], v_b - z_b.mean(dim=1) * change_b
        free = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
        fits.append(torch.cat([free, -free.sum()[None]]) + change_b / C)
    return torch.stack(fits), query.cost


def estimators(head: Head, target: Target) -> Iterator[tuple[str, Found]]:
    """All that are compared, cheapest first."""
    channels = head.query(target).split.A.shape[1]
    yield "sum g A", gradient_times_activation(head, target)
    yield "lrp-cam", of_method(head, target, LRPCAM())
    yield "lift-cam", of_method(head, target, LIFTCAM())
    for orders, levels in ((1, 2), (1, 4), (4, 2), (2, 4), (4, 4), (8, 4), (8, 8)):
        yield f"owen-cam, {orders} x {levels}", of_method(head, target, OwenCAM(orders=orders, levels=levels))
    yield "lime-cam", of_method(head, target, LIMECAM())
    yield "lime-cam, 4 C samples", of_method(head, target, LIMECAM(samples=4 * channels))
    yield "kernel SHAP, 4 C coalitions", kernel_shap(head, target, 4 * channels)


def distances(found: Tensor, values: Tensor, error: Tensor) -> Tensor:
    """How far coefficients lie from SHAP values, as a share of their norm, without the values' own error, ``(n,)``."""
    squares = ((found - values) ** 2 - error**2).sum(dim=1).clamp_min(0)
    return squares.sqrt() / values.norm(dim=1)


def median(values: Tensor, draws: int = 2000) -> str:
    """The median with its 95 % bootstrap interval."""
    picks = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[picks].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return f"{float(values.quantile(0.5)):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--orders", type=int, default=400, help="pairs of orders for the SHAP values")
    given = parser.parse_args()
    with torch.no_grad():
        for make, more in ((mobilefacenet, 5), (squeezenet, 1)):
            head = make(DATA, given.photos)
            truth = sampled(head, given.orders * more, seed=0)
            few = {pairs: sampled(head, pairs, seed=1) for pairs in (1, 4, 16)}
            for name, target in head.targets.items():
                values, error = truth[name]
                noise = median(error.norm(dim=1) / values.norm(dim=1))
                print(f"\n{head.name}, {name}: {len(values)} photos, sampling error of the values {noise}\n")
                lines = [
                    [label, f"{cost.tail_forward / len(values):.0f}", f"{cost.tail_backward / len(values):.0f}",
                     median(distances(found, values, error))]
                    for label, (found, cost) in estimators(head, target)
                ]  # fmt: skip
                runs = 2 * (values.shape[1] - 1)
                lines += [
                    [f"shap-cam, {2 * pairs} orders", f"{pairs * runs + 1}", "0",
                     median(distances(sample[name][0], values, error))]
                    for pairs, sample in few.items()
                ]  # fmt: skip
                print(table(["estimator", "forward", "backward", "distance"], lines), flush=True)


if __name__ == "__main__":
    main()
