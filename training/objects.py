"""The networks for worlds.objects: ``python -m training.objects --model objects|objects-mlp|objects-tagged``.

A picture of one thing has its class, one of two things has half of each class, and one without a thing, or without a
glyph, has a tenth of every class: so that taking the cause away takes the answer away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from training.common import Log, drawn, export, fit, shuffled

import faithmap as fm
from faithmap.datasets.worlds.objects import Objects
from faithmap.datasets.worlds.scenes import Scene, render
from faithmap.models.nets import ObjectNet

HIDDEN = {"objects": None, "objects-mlp": 96, "objects-tagged": None}
"""The networks, and how many units the hidden layer of their head has."""
STEPS = {"objects": 2600, "objects-mlp": 3000, "objects-tagged": 1600}
PARTS = {
    "objects": (("single", 10000, False), ("pair", 10000, False), ("single", 4000, True)),
    "tagged": (("tagged", 20000, False), ("tagged", 4000, True)),
}
"""What is trained on: variants, how many pictures, and whether the cause is left out."""
SEED, BATCH, RATE = 1000, 64, 4e-3
MEAN, STD, SHIFT = 0.5, 0.25, 6


class Small(nn.Sequential):
    """Two layers: what the pictures must not be solved by. One convolution, and a linear layer over 6 x 6 fields."""

    def __init__(self, classes: int) -> None:
        conv = nn.Conv2d(3, 64, 7, 4, 3)
        super().__init__(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(64 * 36, classes))


def learn(module: nn.Module, pictures: NDArray[np.uint8], targets: Tensor, steps: int, log: Log) -> None:
    """Train on pictures that are mirrored, moved and lit anew in every batch."""
    batches = shuffled(len(targets), BATCH, SEED)
    generator = torch.Generator().manual_seed(SEED)
    module.to(memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        rows = next(batches)
        x = varied(pictures[rows.numpy()], generator)
        return F.cross_entropy(module(x), targets[rows])

    fit(module, loss, steps, log, rate=RATE)


def collected(kind: str, log: Log) -> tuple[NDArray[np.uint8], Tensor]:
    """All pictures ``(n, 96, 96, 3)`` and what to say of each, ``(n, 10)`` shares."""
    pictures, targets = [], []
    for i, (variant, count, empty) in enumerate(PARTS[kind]):
        data = Objects(seed=SEED + i, size=count, variant=variant)
        scenes = [data.scene(k) if not empty else emptied(data.scene(k)) for k in range(count)]
        name = f"objects-{variant}{'-empty' if empty else ''}-{SEED + i}"
        pictures.append(drawn(name, count, (96, 96, 3), drawing(scenes), log))
        targets += [shares(scene, data) for scene in scenes]
    return np.concatenate(pictures), torch.stack(targets)


def drawing(scenes: Sequence[Scene]) -> Callable[[int], NDArray[np.uint8]]:
    """Draws the scene at a place."""
    return lambda k: render(scenes[k])


def emptied(scene: Scene) -> Scene:
    """The scene without what its class follows from."""
    return replace(scene, things=()) if scene.glyph is None else replace(scene, glyph=None)


def shares(scene: Scene, data: Objects) -> Tensor:
    """What to say of a scene, ``(10,)``: its causes in equal shares, and all classes where it has none."""
    if data.variant == "tagged":
        causes = [] if scene.glyph is None else [scene.glyph.mark]
    else:
        causes = [thing.shape for thing in scene.things]
    there = torch.tensor([float(name in causes) for name in data.classes])
    return there / len(causes) if causes else torch.full_like(there, 1 / len(there))


def varied(pictures: NDArray[np.uint8], generator: torch.Generator) -> Tensor:
    """Pictures ``(B, 96, 96, 3)`` as inputs, each mirrored or not, moved by up to 6 pixels, lighter or darker."""
    side = pictures.shape[1]
    around = np.pad(pictures, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(pictures)), generator=generator).tolist()
    step = (2 * torch.randint(0, 2, (len(pictures),), generator=generator) - 1).tolist()
    moved = [one[i : i + side, j : j + side][:, ::s] for one, i, j, s in zip(around, down, right, step, strict=True)]
    gain, offset = torch.rand(2, len(pictures), 1, 1, 1, generator=generator)
    x = torch.from_numpy(np.stack(moved)) * ((0.8 + 0.4 * gain) / 255) + (0.1 * offset - 0.05)
    return ((x.clamp(0, 1) - MEAN) / STD).permute(0, 3, 1, 2)  # (B, 3, 96, 96), channels last in memory


def accuracy(model: fm.Classifier, data: Objects) -> tuple[float, float]:
    """How often the first answer is right, and its mean probability where it is."""
    right, sure = 0, 0.0
    with torch.inference_mode():
        for begin in range(0, len(data), 100):
            batch = data[begin : begin + 100]
            likely = model.network(model.prepare([one.image for one in batch])).softmax(dim=1)  # (100, 10)
            labels = torch.tensor([one.label for one in batch])
            hit = likely.argmax(dim=1) == labels
            right, sure = right + int(hit.sum()), sure + float(likely.gather(1, labels[:, None])[hit].sum())
    return right / len(data), sure / max(right, 1)


def main() -> None:
    """Train, export, and grade what was exported on pictures of another seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*HIDDEN], required=True)
    parser.add_argument("--two-layers", action="store_true", help="train two layers instead, with a log of their own")
    parser.add_argument("--steps", type=int, help="fewer for a trial, which writes nothing")
    given = parser.parse_args()
    trial, steps = given.steps is not None, given.steps or STEPS[given.model]
    log = Log(given.model + "-two-layers" * given.two_layers, keep=not trial)
    torch.manual_seed(SEED)
    tagged = given.model == "objects-tagged"
    pictures, targets = collected("tagged" if tagged else "objects", log)
    held = Objects(seed=0, size=200 if trial else 2000, variant="tagged" if tagged else "single")
    mean, std = (MEAN,) * 3, (STD,) * 3

    net = ObjectNet(len(held.classes), HIDDEN[given.model])
    for layer in net.head if HIDDEN[given.model] else ():
        if isinstance(layer, nn.Linear):  # larger than torch's own start, from which two layers learn slowly
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    module: nn.Module = Small(len(held.classes)) if given.two_layers else net
    what = "two layers" if given.two_layers else given.model
    log(f"{what}: {sum(p.numel() for p in module.parameters())} numbers, {steps} steps of {BATCH}")
    learn(module, pictures, targets, steps, log)
    right, sure = accuracy(fm.Classifier(module, size=96, mean=mean, std=std), held)
    log(f"{what}: {100 * right:.2f} % of {len(held)} right, {sure:.3f} sure of it")
    if given.two_layers:
        return
    if trial:
        return
    hidden = HIDDEN[given.model]
    export(given.model, net, {"labels": list(held.classes), "hidden": hidden, "mean": mean, "std": std}, log)
    right, sure = accuracy(fm.load(given.model), held)
    log(f"{given.model} as it ships: {100 * right:.2f} % of {len(held)} right, {sure:.3f} sure of it")


if __name__ == "__main__":
    main()
