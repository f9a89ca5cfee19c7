"""Questions about scenes of a few things, each with one true answer, which one of the things shows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, Literal

from faithmap.datasets.base import Example
from faithmap.datasets.registry import register
from faithmap.datasets.worlds.base import Drawn, World
from faithmap.datasets.worlds.objects import picture, truth_of
from faithmap.datasets.worlds.scenes import Scene, draw_scene
from faithmap.datasets.worlds.shapes import COLOURS, MATERIALS, SHAPES

Kind = Literal["colour", "material", "shape"]

ANSWERS = (*COLOURS, *MATERIALS, *SHAPES)
"""All answers: colours, materials, shapes."""
ASKED: Mapping[Kind, str] = {
    "colour": "what colour is the {0.shape}?",
    "material": "what material is the {0.shape}?",
    "shape": "what shape is the {0.colour} thing?",
}
"""What can be asked about a thing."""


@dataclass(frozen=True)
class Inquiry:
    """A scene and what is asked about it.

    Args:
        scene: things of different shapes and colours; nothing else has their colours.
        thing: which of the scene's things the question is about.
        kind: what is asked of it.
    """

    scene: Scene
    thing: int
    kind: Kind

    @property
    def question(self) -> str:
        """In words."""
        return ASKED[self.kind].format(self.scene.things[self.thing])

    @property
    def answer(self) -> str:
        """The true one."""
        found: str = getattr(self.scene.things[self.thing], self.kind)
        return found


@register("worlds.questions")
@dataclass(frozen=True)
class Questions(World[Example]):
    """Scenes of 2 to 4 things with a question about one of them: its colour, its material, or its shape.

    The thing asked about is the cause of a true answer: it alone shows it. The other things, which answer the same
    question about themselves, and what lies around are the rivals. The donor is that of `Objects`: the ground alone.

    Args:
        seed: of all that is drawn; another seed is another world.
        size: how many samples; a larger world begins with those of a smaller one.

    Source: this project's.

    Examples:
        >>> world = Questions(size=2)
        >>> world[0].question, world.classes[world[0].label]
        ('what material is the heart?', 'metal')
    """

    task: ClassVar[Literal["classification"]] = "classification"

    @cached_property
    def classes(self) -> Sequence[str]:
        """All answers, to questions of any kind."""
        return ANSWERS

    def inquiry(self, index: int) -> Inquiry:
        """What a sample consists of, whatever the size.

        Args:
            index: its place.
        """
        return draw_inquiry(self.rng(index))

    def scene(self, index: int) -> Scene:
        """What is on a sample's picture.

        Args:
            index: its place.
        """
        return self.inquiry(index).scene

    def sample(self, index: int) -> Example:
        """One sample, whatever the size.

        Args:
            index: its place.
        """
        one = self.inquiry(index)
        part = one.scene.things[one.thing].shape
        truth = truth_of(one.scene, part, f"{self.name}/{self.seed}/{index}/donor")
        return Drawn(f"question-{index}", partial(picture, one.scene), ANSWERS.index(one.answer), truth, one.question)


def draw_inquiry(rng: random.Random) -> Inquiry:
    """A scene and a question about one of its things.

    Args:
        rng: what it is drawn with.

    Examples:
        >>> one = draw_inquiry(random.Random(0))
        >>> one.question, one.answer
        ('what colour is the star?', 'cyan')
    """
    scene = draw_scene(rng, 2 + int(3 * rng.random()), vivid=False)
    thing = int(len(scene.things) * rng.random())
    return Inquiry(scene, thing, list(ASKED)[int(len(ASKED) * rng.random())])
