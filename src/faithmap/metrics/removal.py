"""Removal: does the score follow the pixels in the order that a map gives them?"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from faithmap.batching import Progress, chunked, default_batch
from faithmap.models.base import Model, require_model
from faithmap.pixels import Filling, filling
from faithmap.sampling import generators, sample_ids


def removal_curve(
    model: Model,
    x: Tensor,
    maps: Tensor,
    target: Any,
    *,
    insert: bool = False,
    fill: Filling = "blur",
    steps: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The score as pixels leave the picture, or enter it, the largest of the map first.

    At step t the share t / steps of the pixels has been replaced by the fill (deletion), or brought back into a picture
    that is all fill (insertion). Black and mean fills show the network pictures that it has never seen, and scattered
    black pixels destroy any picture: a random order then looks best. Blur is the fill that tells maps apart.

    Args:
        model: a `Classifier` or `FaceEmbedder`.
        x: prepared inputs ``(B, 3, H, W)``.
        maps: ``(B, H, W)``, signed or not: only their order counts. Ties are broken at random, by the seed.
        target: the score, ``Probability(k)`` for instance; it takes B samples.
        insert: pixels enter instead of leaving.
        fill: "blur" (a Gaussian of a tenth of the shorter side), "black", or "mean" (the network's mean colour).
        steps: of equal shares.
        seed: of the order among ties.
        batch_size: pictures per network call.
        progress: called with (done, total) network evaluations.

    Returns:
        ``(B, steps + 1)``.

    Raises:
        ValueError: the maps are not those of the inputs, or hold NaN; the fill or the number of steps does not exist.

    Source: Samek et al. 2017 (deletion); Petsiuk et al. 2018 (insertion, blurred fill).

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
        >>> model, x = fm.Classifier(net, size=8), torch.ones(1, 3, 8, 8)
        >>> removal_curve(model, x, torch.rand(1, 8, 8), fm.targets.Logit(0), fill="mean", steps=2)
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    model, x = require_model(model), model.check_input(x)
    asked = model.target(target, len(x))
    if asked is None:
        raise ValueError("a removal curve follows a score: name it, fm.targets.Probability(classes)")
    if maps.shape != (len(x), *x.shape[-2:]) or bool(maps.isnan().any()):
        raise ValueError(f"maps are (B, H, W) of the {tuple(x.shape)} inputs, without NaN: got {tuple(maps.shape)}")
    if fill not in get_args(Filling):
        raise ValueError(f"a fill is 'black', 'mean' or 'blur': got {fill!r}")
    if steps < 1:
        raise ValueError(f"a removal curve has at least one step: got {steps}")
    ranks, filled = _ranks(x, maps, seed), filling(x, fill, *model.scale(x))
    pixels, size = ranks[0].numel(), batch_size or default_batch(x)

    def score(i: Tensor) -> Tensor:
        sample, step = (i // (steps + 1)).to(x.device), (i % (steps + 1)).to(x.device)
        moved = ranks[sample] < (step * pixels / steps)[:, None, None]  # (m, H, W)
        shown = torch.where((moved if insert else ~moved)[:, None], x[sample], filled[sample])
        found = asked.select(i // (steps + 1))(model.network(shown))
        if progress:
            progress(int(i[-1]) + 1, len(x) * (steps + 1))
        return found

    with torch.inference_mode(False), torch.no_grad():
        return torch.cat(list(chunked(score, len(x) * (steps + 1), size))).view(len(x), steps + 1)


def area(curve: Tensor) -> Tensor:
    """The area under curves ``(B, steps + 1)`` over shares from 0 to 1, by the trapezoid rule: ``(B,)``.

    Examples:
        >>> area(torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([0.7500])
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1))


def _ranks(x: Tensor, maps: Tensor, seed: int) -> Tensor:
    """The rank of each pixel, the largest value first, ``(B, H, W)``."""
    order = []
    for map, generator in zip(maps, generators(seed, "ties", sample_ids(x)), strict=True):
        shuffled = torch.randperm(map.numel(), generator=generator).to(map.device)
        order.append(shuffled[map.flatten()[shuffled].argsort(descending=True, stable=True)])
    return torch.stack(order).argsort(dim=1).view_as(maps).to(x.device)
