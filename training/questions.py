"""The network that answers questions about scenes: ``python -m training.questions``.

It is trained on scenes of a world with another seed than the one it is tested on, and on all questions that can be
asked about them. Of a thing that is not there it learns to say nothing in particular: so that taking the cause away
takes the answer away. Beside the answers its trunk learns to say what stands where, by a layer that does not ship: the
answers alone teach it that too, but many times slower. What the questions alone give away is learned for comparison.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from training.common import Log, drawn, export, fit, shuffled

from faithmap.datasets.worlds.questions import ANSWERS, ASKED, Inquiry, Questions
from faithmap.datasets.worlds.scenes import render
from faithmap.datasets.worlds.shapes import COLOURS, MATERIALS, SHAPES
from faithmap.models import VQAModel, nets

NAME, SEED, HELD_OUT = "questions", 1000, 0
WORDS = ("what", *ASKED, "is", "the", "thing", *SHAPES, *COLOURS)
MAX_WORDS, SIZE, MEAN, STD = 6, 96, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PLACES = 12
"""Rows and columns of the feature map."""
OF = [*COLOURS], [*MATERIALS], [*SHAPES]
SIZES = [len(names) for names in OF]
"""Of the answers, which are these one after the other."""
TARGETS = torch.cat([torch.eye(sum(SIZES)), torch.block_diag(*(torch.full((1, n), 1 / n) for n in SIZES))])
"""What to say, ``(K + 3, K)``: each answer; and of a thing that is not there, each colour, material or shape alike."""
BATCH, ASKS = 64, 6
"""Pictures in a step, and questions about each."""


def main() -> None:
    """Draw, train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--trial", action="store_true", help="write neither weights nor log")
    given = parser.parse_args()
    log = Log(NAME, keep=not given.trial)
    torch.manual_seed(0)
    net = nets.FiLM(len(ANSWERS), len(WORDS)).to(memory_format=torch.channels_last)
    model = VQAModel(net, answers=ANSWERS, words=WORDS, max_words=MAX_WORDS, size=SIZE, mean=MEAN, std=STD)
    world = Questions(seed=SEED, size=given.pictures)
    pictures = drawn(f"{NAME}-{SEED}", len(world), (SIZE, SIZE, 3), lambda i: render(world.inquiry(i).scene), log)
    asked, answers = questions(model, world)
    where, what = stands(world)
    log(f"{len(world)} pictures, {int((answers >= 0).sum())} questions about them")
    tell, batches = nn.Conv2d(net.want.out_features, len(ANSWERS), 1), shuffled(len(world), BATCH, seed=0)

    def loss(step: int) -> Tensor:
        rows = next(batches).sort().values
        x, column = seen(model, torch.from_numpy(pictures[rows.numpy()])), where[rows, :, 1]
        if step % 2:
            x, column = x.flip(3), PLACES - 1 - column
        a = net.trunk(x)
        q, y = some(asked, answers, rows)
        scores = net.answer(a.repeat_interleave(ASKS, dim=0), q).float()
        told = tell(a).float().permute(0, 2, 3, 1)[torch.arange(BATCH)[:, None], where[rows, :, 0], column]  # (B, 4, K)
        parts = zip(told.split(SIZES, dim=2), what[rows].unbind(dim=2), strict=True)
        names = [F.cross_entropy(one.flatten(0, 1), name.flatten(), ignore_index=-1) for one, name in parts]
        return F.cross_entropy(scores, TARGETS[y], label_smoothing=0.02) + torch.stack(names).mean()

    fit(nn.ModuleList([net, tell]), loss, given.steps, log)
    net.to(memory_format=torch.contiguous_format).half().float()  # what is written is what is tested
    held_out = Questions(seed=HELD_OUT, size=2000)
    told = right(held_out, lambda question, images: [one[0].index for one in model.answer(images, question, top=1)])
    log(f"seed {HELD_OUT}, {len(held_out)} held-out questions: {told}")
    guess = blind(asked, answers, given.steps // 4, log)
    told = right(held_out, lambda question, images: [int(guess(model.numbers(question)).argmax())] * len(images))
    log(f"without the picture: {told}")
    if not given.trial:
        about = {"answers": ANSWERS, "words": WORDS, "max_words": MAX_WORDS, "size": SIZE, "mean": MEAN, "std": STD}
        export(NAME, net, about, log)


def questions(model: VQAModel, world: Questions) -> tuple[Tensor, Tensor]:
    """What can be asked about each scene ``(n, 15, L)``, and the answers ``(n, 15)``, rows of TARGETS.

    All about its things, and one of each kind about a thing that is not there; -1 where there is nothing more to ask.
    """
    numbers: dict[str, Tensor] = {}
    asked = torch.zeros(len(world), 15, model.max_words, dtype=torch.long)
    answers = torch.full((len(world), 15), -1)
    for i in range(len(world)):
        scene, rng = world.scene(i), random.Random(i)
        told = [Inquiry(scene, thing, kind) for thing, kind in product(range(len(scene.things)), ASKED)]
        found = [(one.question, ANSWERS.index(one.answer)) for one in told]
        shapes, colours = ({getattr(thing, of) for thing in scene.things} for of in ("shape", "colour"))
        shape = rng.choice([name for name in SHAPES if name not in shapes])
        colour = rng.choice([name for name in COLOURS if name not in colours])
        absent = replace(scene.things[0], shape=shape, colour=colour)
        found += [(text.format(absent), len(ANSWERS) + k) for k, text in enumerate(ASKED.values())]
        for k, (question, answer) in enumerate(found):
            if question not in numbers:
                numbers[question] = model.numbers(question)[0]
            asked[i, k], answers[i, k] = numbers[question], answer
    return asked, answers


def stands(world: Questions) -> tuple[Tensor, Tensor]:
    """In which row and column of the feature map each thing's centre lies ``(n, 4, 2)``, and its colour, material and
    shape, each by its place among those ``(n, 4, 3)``; -1 where there is no thing.
    """
    where, what = torch.zeros(len(world), 4, 2, dtype=torch.long), torch.full((len(world), 4, 3), -1)
    for i in range(len(world)):
        for k, thing in enumerate(world.scene(i).things):
            x, y = thing.centre
            where[i, k] = torch.tensor([int(y * PLACES / SIZE), int(x * PLACES / SIZE)])
            names = zip(OF, (thing.colour, thing.material, thing.shape), strict=True)
            what[i, k] = torch.tensor([known.index(name) for known, name in names])
    return where, what


def some(asked: Tensor, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """A few questions about each of some scenes and their answers, ``(B * ASKS, L)`` and ``(B * ASKS,)``."""
    picked = (answers[rows] >= 0).float().multinomial(ASKS)
    return asked[rows[:, None], picked].flatten(0, 1), answers[rows[:, None], picked].flatten()


def seen(model: VQAModel, pictures: Tensor) -> Tensor:
    """Drawn pictures ``(B, H, W, 3)`` uint8 as the network takes them."""
    return model.from_pixels(pictures.permute(0, 3, 1, 2).float() / 255)


def blind(asked: Tensor, answers: Tensor, steps: int, log: Log) -> nn.Module:
    """The same network, trained on questions alone: for a picture it has nothing, at every place."""
    torch.manual_seed(1)
    net = nets.FiLM(len(ANSWERS), len(WORDS))
    nothing = torch.zeros(1, net.want.out_features, 1, 1)

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, question: Tensor) -> Tensor:
            return net.answer(nothing.expand(len(question), -1, -1, -1), question)

    guess, batches = Blind(), shuffled(len(asked), BATCH, seed=1)

    def loss(step: int) -> Tensor:
        q, y = some(asked, answers, next(batches))
        return F.cross_entropy(guess(q).float(), TARGETS[y])

    fit(guess, loss, steps, log, every=max(steps // 4, 1))
    return guess


def right(world: Questions, answer: Callable[[str, list[Image.Image]], list[int]]) -> str:
    """How many questions are answered as they should be, in all and of each kind."""
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(world):
        groups.setdefault(one.question or "", []).append(i)
    hits: dict[str, list[bool]] = {kind: [] for kind in ("all", *ASKED)}
    for question, places in groups.items():
        found = answer(question, [world[i].image for i in places])
        good = [world[i].label == label for i, label in zip(places, found, strict=True)]
        for kind in ("all", world.inquiry(places[0]).kind):
            hits[kind] += good
    return ", ".join(f"{kind} {100 * sum(good) / len(good):.1f} %" for kind, good in hits.items())


if __name__ == "__main__":
    main()
