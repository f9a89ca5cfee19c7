"""Pairs of drawn faces, some of whose impostors differ from the true person in one part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from faithmap.datasets.base import Pair, Truth
from faithmap.datasets.registry import register
from faithmap.datasets.worlds.base import DrawnPair, World
from faithmap.datasets.worlds.people import PARTS, Identity, Look, another, look, person, with_part
from faithmap.datasets.worlds.portraits import render
from faithmap.words import did_you_mean

CHANGED = 4
"""From how many of 255 levels, in any channel, a pixel counts as changed."""
_UNDER_GLASSES = ("eyes", "brows", "nose")
_UNDER_SCARF = ("face", "mouth", "skin")
_CYCLES = {"all": ("genuine", "impostor", "genuine", "twin"), "random": ("genuine", "impostor"), "twins": ("twin",)}


class Portrait(NamedTuple):
    """One picture: who is on it, and how it is taken."""

    identity: Identity
    look: Look

    def image(self) -> Image.Image:
        """Draws it, 112 x 112."""
        return Image.fromarray(render(*self))


@dataclass(frozen=True)
class Portraits:
    """What a pair is drawn from.

    Args:
        kind: "genuine", "impostor" or "twin".
        probe: the picture that is explained.
        gallery: the one it is compared with.
        part: of twins, in what the probe's identity differs from the gallery's.
        donor: of twins, how the gallery's identity is seen on the donor: as the probe is, in slightly other light.
        other: of twins, somebody who differs from the probe in every part.
    """

    kind: Literal["genuine", "impostor", "twin"]
    probe: Portrait
    gallery: Portrait
    part: str = ""
    donor: Look | None = None
    other: Identity | None = None


@register("worlds.faces")
@dataclass(frozen=True)
class Faces(World[Pair]):
    """Pairs of drawn faces: genuine ones, random impostors, and twins, who differ in one part alone.

    What parts twins is known: the truth on the probe is where its picture changes once the part is that of the
    gallery's identity. Its donor shows that identity as the probe is seen, in slightly other light and with a slightly
    other expression, so that what is pasted elsewhere changes pixels and nobody's identity.

    Args:
        seed: of all that is drawn; another seed is another world.
        size: how many pairs; a larger world begins with those of a smaller one.
        kinds: "all" has genuine pairs, impostors and twins as 2 : 1 : 1; "random" genuine pairs and impostors by turns;
            "twins" twins alone, one part after the other.

    Raises:
        ValueError: there is no such kind; or as for `World`.

    Source: this project's.

    Examples:
        >>> twin = Faces(kinds="twins", size=7)[3]
        >>> twin.group, twin.genuine, tuple(twin.truth.mask().shape)
        ('twin: nose', False, (112, 112))
    """

    task: ClassVar[Literal["verification"]] = "verification"

    kinds: Literal["all", "random", "twins"] = "all"

    def __post_init__(self) -> None:
        if self.kinds not in _CYCLES:
            raise ValueError(f"{self.name} has no kinds={self.kinds!r}: {did_you_mean(str(self.kinds), _CYCLES)}")
        super().__post_init__()

    def portraits(self, index: int) -> Portraits:
        """What a pair is drawn from.

        Args:
            index: its place, whatever the size.
        """
        rng = self.rng(index)
        cycle = _CYCLES[self.kinds]
        kind = cycle[index % len(cycle)]
        somebody, seen, taken = person(rng), look(rng), look(rng)
        if kind == "genuine":
            return Portraits("genuine", Portrait(somebody, seen), Portrait(somebody, taken))
        if kind == "impostor":
            return Portraits("impostor", Portrait(person(rng), seen), Portrait(somebody, taken))
        part = PARTS[index // len(cycle) % len(PARTS)]
        seen, taken = _uncovered(seen, part), _uncovered(taken, part)
        twin = with_part(somebody, part, another(somebody, rng))
        return Portraits(
            "twin", Portrait(twin, seen), Portrait(somebody, taken), part, _relit(seen, rng), another(twin, rng)
        )

    def sample(self, index: int) -> DrawnPair:
        """One pair, whatever the size.

        Args:
            index: its place.
        """
        pair = self.portraits(index)
        group = f"twin: {pair.part}" if pair.part else pair.kind
        gallery = f"{index:05d}"
        probe = gallery if pair.kind == "genuine" else f"{gallery}-{pair.part or 'other'}"
        return DrawnPair(
            f"{gallery}-{pair.part or pair.kind}", pair.probe.image, pair.gallery.image, pair.kind == "genuine",
            (probe, gallery), group, _truth(pair) if pair.part else None,
        )  # fmt: skip


def resident(seed: int, n: int) -> Identity:
    """The n-th of the many people that a network can be trained on; none of them is on a pair.

    Args:
        seed: of all of them.
        n: which one.
    """
    return person(Random(f"worlds.faces/{seed}/resident/{n}"))


def twin_of(identity: Identity, part: str, seed: int, n: int) -> Identity:
    """The identity with a clearly different part, for the n-th of the people.

    Args:
        identity: who it is otherwise.
        part: one of `PARTS`.
        seed: of all of them.
        n: which one.
    """
    return with_part(identity, part, another(identity, Random(f"worlds.faces/{seed}/twin/{n}/{part}")))


def snapshot(identity: Identity, seed: int, n: int) -> NDArray[np.uint8]:
    """The identity ``(112, 112, 3)`` as it is seen on the n-th of many pictures.

    Args:
        identity: who it is.
        seed: of all of them.
        n: which picture.
    """
    return render(identity, look(Random(f"worlds.faces/{seed}/look/{n}")))


def changes(before: Identity, after: Identity, seen: Look) -> Tensor:
    """Where a picture changes with who is on it: ``(112, 112)`` bool, by `CHANGED` levels or more, without noise.

    Pixels that change with fewer than two of their neighbours are left out.

    Args:
        before: who is on it.
        after: who is on it then.
        seen: how both are.
    """
    still = replace(seen, noise=0.0)
    a, b = render(before, still).astype(np.int16), render(after, still).astype(np.int16)
    changed = np.abs(a - b).max(axis=2) >= CHANGED
    padded = np.pad(changed, 1).astype(np.uint8)
    h, w = changed.shape
    around = sum(padded[y : y + h, x : x + w] for y in range(3) for x in range(3))
    return torch.from_numpy(changed & (around >= 3))


def _truth(pair: Portraits) -> Truth:
    assert pair.donor is not None
    return Truth(
        mask=partial(_mask, pair),
        donor=Portrait(pair.gallery.identity, pair.donor).image,
        parts=partial(_parts, pair),
        part=pair.part,
        against=True,
    )


def _mask(pair: Portraits) -> Tensor:
    return changes(pair.probe.identity, pair.gallery.identity, pair.probe.look)


def _parts(pair: Portraits) -> Mapping[str, Tensor]:
    """Where the probe would change with each part: the true one is repaired, the others come from somebody else."""
    assert pair.other is not None
    found = {}
    for part in PARTS:
        after = pair.gallery.identity if part == pair.part else with_part(pair.probe.identity, part, pair.other)
        found[part] = changes(pair.probe.identity, after, pair.probe.look)
    return found


def _uncovered(seen: Look, part: str) -> Look:
    """The look without what hides the part."""
    return replace(
        seen,
        glasses="" if part in _UNDER_GLASSES else seen.glasses,
        scarf=-1.0 if part in _UNDER_SCARF else seen.scarf,
    )


def _relit(seen: Look, rng: Random) -> Look:
    """The same pose in slightly other light and with a slightly other expression; another grain."""

    def near(spread: float) -> float:
        return (2 * rng.random() - 1) * spread

    return replace(
        seen, light=seen.light + near(0.25), slant=min(max(seen.slant + near(0.08), 0), 1),
        warmth=seen.warmth + near(0.15), exposure=seen.exposure * (1 + near(0.03)), smile=seen.smile + near(0.1),
        lids=seen.lids + near(0.04), grain=rng.getrandbits(32),
    )  # fmt: skip
