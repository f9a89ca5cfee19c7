"""Who is on a portrait and how it is taken: identities in seven parts, and looks that change none of them.

All numbers of a part lie in [0, 1]; 0.5 is in the middle of what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

from faithmap.words import did_you_mean

STYLES = ("crop", "sweep", "fringe", "curls", "curtains", "waves", "tied", "buzz")
"""Haircuts: `Hair.style` picks one by eighths."""
GLASSES = ("", "round", "square")
APART = 0.4
"""How far parts are at least that `another` draws, for the difference to be seen: the mean over their numbers."""


class Face(NamedTuple):
    """The outline below the eyes, and the ears."""

    width: float
    jaw: float
    chin: float
    pointed: float
    cheeks: float
    ears: float


class Eyes(NamedTuple):
    """Both eyes, mirrored."""

    size: float
    spacing: float
    tilt: float
    roundness: float
    lids: float
    iris: float
    shade: float


class Brows(NamedTuple):
    """Both brows, mirrored."""

    thickness: float
    arch: float
    angle: float
    colour: float
    height: float


class Nose(NamedTuple):
    """From between the eyes to below the nostrils."""

    length: float
    width: float
    tip: float
    bridge: float


class Mouth(NamedTuple):
    """The lips at rest."""

    width: float
    upper: float
    lower: float
    colour: float
    curve: float


class Hair(NamedTuple):
    """Hair of the head."""

    style: float
    colour: float
    line: float
    length: float
    volume: float
    parting: float


class Skin(NamedTuple):
    """What covers face, ears and neck."""

    tone: float
    warmth: float
    freckles: float
    blush: float
    beard: float
    mole: float


@dataclass(frozen=True)
class Identity:
    """A drawn person: seven parts, each a tuple of numbers in [0, 1]."""

    face: Face
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    skin: Skin


_KINDS: dict[str, Any] = {
    "face": Face, "eyes": Eyes, "brows": Brows, "nose": Nose, "mouth": Mouth, "hair": Hair, "skin": Skin
}  # fmt: skip
PARTS = tuple(_KINDS)
"""What an identity consists of."""


@dataclass(frozen=True)
class Look:
    """How a person is seen: nothing of it says who it is.

    Args:
        yaw: -1 (to the picture's left) to 1.
        pitch: -1 (upwards) to 1.
        roll: in radians.
        shift: to the right and down, in pixels.
        light: where it comes from, radians clockwise from above.
        slant: 0 (from the front) to 1 (from the side).
        warmth: -1 (cold) to 1 (warm) light.
        exposure: a factor of all brightness.
        smile: -0.5 to 1.
        open: the mouth, 0 to 1.
        lids: how far the eyes are open, 1 as at rest.
        glasses: one of `GLASSES`.
        scarf: its hue, 0 to 1, or -1 without one.
        background: the hue, 0 to 1.
        backdrop: its brightness, 0 to 1.
        clothes: their hue, 0 to 1.
        blur: standard deviation in pixels.
        noise: standard deviation, of 255.
        grain: what the noise is drawn from.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    light: float = -0.6
    slant: float = 0.4
    warmth: float = 0.0
    exposure: float = 1.0
    smile: float = 0.2
    open: float = 0.0
    lids: float = 1.0
    glasses: str = ""
    scarf: float = -1.0
    background: float = 0.6
    backdrop: float = 0.6
    clothes: float = 0.3
    blur: float = 0.5
    noise: float = 0.0
    grain: int = 0


def person(rng: Random) -> Identity:
    """Somebody at random.

    Args:
        rng: what the numbers are drawn from.
    """
    return Identity(**{part: _part(part, rng) for part in PARTS})


def with_part(identity: Identity, part: str, other: Identity) -> Identity:
    """The identity with one part taken from another.

    Args:
        identity: who it is otherwise.
        part: one of `PARTS`.
        other: who gives the part.

    Raises:
        ValueError: there is no such part.

    Examples:
        >>> a, b = person(Random(1)), person(Random(2))
        >>> mixed = with_part(a, "nose", b)
        >>> mixed.nose == b.nose, mixed.mouth == a.mouth
        (True, True)
    """
    if part not in PARTS:
        raise ValueError(f"a face has no part {part!r}: {did_you_mean(str(part), PARTS)}")
    return replace(identity, **{part: getattr(other, part)})


def another(identity: Identity, rng: Random) -> Identity:
    """Somebody at random who differs clearly in every part.

    Args:
        identity: from whom.
        rng: what the numbers are drawn from.

    Examples:
        >>> somebody = person(Random(1))
        >>> apart(somebody.nose, another(somebody, Random(2)).nose) >= APART
        True
    """

    def draw(part: str) -> Any:
        while apart(other := _part(part, rng), getattr(identity, part)) < APART:
            pass
        return other

    return Identity(**{part: draw(part) for part in PARTS})


def apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The mean difference of two parts' numbers.

    Args:
        one: a part.
        other: the same part of somebody else.
    """
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def look(rng: Random) -> Look:
    """A way to be seen, at random.

    Args:
        rng: what the numbers are drawn from.
    """

    def about(spread: float) -> float:
        return (rng.random() + rng.random() - 1) * spread

    glasses = GLASSES[1 + int(rng.random() * 2)] if rng.random() < 0.2 else ""
    return Look(
        yaw=about(1.0), pitch=about(0.8), roll=about(0.1), shift=(about(3.0), about(3.0)),
        light=about(2.4), slant=0.15 + 0.6 * rng.random(), warmth=about(1.0), exposure=1 + about(0.16),
        smile=-0.3 + 1.2 * rng.random(), open=max(0.0, 1.4 * rng.random() - 0.7), lids=0.78 + 0.3 * rng.random(),
        glasses=glasses, scarf=rng.random() if rng.random() < 0.1 else -1.0,
        background=rng.random(), backdrop=rng.random(), clothes=rng.random(),
        blur=0.4 + 0.6 * rng.random() ** 2, noise=1 + 4 * rng.random() ** 2, grain=rng.getrandbits(32),
    )  # fmt: skip


def _part(part: str, rng: Random) -> Any:
    kind = _KINDS[part]
    return kind(*(round(rng.random(), 4) for _ in kind._fields))
