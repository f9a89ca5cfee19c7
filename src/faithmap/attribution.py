"""What explanations are: maps with their provenance. Saved as safetensors, without pixels or embeddings."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from faithmap import draw
from faithmap.files import write_whole
from faithmap.images import Geometry, Picture, open_image, to_array

T = TypeVar("T")
Scale = Literal["min-max", "max"]
FORMAT = "faithmap/1"
_LIMITS = {False: (0.0, 1.0), True: (-1.0, 1.0)}
_KINDS = {"attribution": "an attribution", "pair": "a pair of faces", "locations": "maps of locations"}


@dataclass(frozen=True)
class Provenance:
    """How maps were made: enough to make them again."""

    method: str
    parameters: dict[str, Any]
    signed: bool
    model: str
    weights: str
    """A digest of the model's weights."""
    layer: str | None
    seed: int
    precision: str
    device: str
    evaluations: dict[str, float]
    """Network evaluations per image."""
    seconds: float
    """Wall-clock seconds for all images of the call."""
    images: int
    """Images of the call."""
    versions: dict[str, str]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What belongs to one map besides the map."""

    name: str
    """The picture's base name."""
    sha256: str
    """Of the prepared input: what the map belongs to."""
    target: dict[str, Any]
    """What was explained."""
    score: float
    """The explained number."""
    label: str | None = None
    """The class's name, where a class was explained."""
    completeness_error: float | None = None
    """For additive methods, how far the contributions are from adding up."""
    condition: float | None = None
    """How badly conditioned that sum is: sum of |contributions| over the change they explain."""
    degenerate: str | None = None
    """Why the map says nothing, if it does."""
    question: str | None = None
    """What was asked about the picture, of a network that answers questions."""
    geometry: Geometry | None = None
    """How the photo became the network's input."""


class Attribution:
    """Maps of one or many pictures with their provenance; has a length, iterates and indexes by picture.

    Args:
        maps: ``(B, H, W)``, raw: signed where the method's formula is.
        samples: what belongs to each map.
        provenance: what belongs to all of them.
        standard_error: of sampled maps, pixel by pixel, ``(B, H, W)``.
        pictures: what was explained, to draw on; kept in memory only, never saved.
        pixels: what the network saw, ``(B, H, W, 3)`` uint8; kept in memory only.

    Raises:
        ValueError: the maps are not (B, H, W) with a sample each.

    Examples:
        >>> att = fm.explain(fm.load(), torch.rand(2, 3, 224, 224), method="grad-cam", target=[285, 967])
        >>> len(att), att[1].maps.shape, att.samples[1].label
        (2, torch.Size([1, 224, 224]), 'espresso')
    """

    def __init__(
        self,
        maps: Tensor,
        samples: Sequence[Sample],
        provenance: Provenance,
        *,
        standard_error: Tensor | None = None,
        pictures: Sequence[Picture | None] | None = None,
        pixels: Tensor | None = None,
    ) -> None:
        if maps.ndim != 3 or len(maps) != len(samples):
            raise ValueError(
                f"maps are (B, H, W) with a sample each: got {tuple(maps.shape)} and {len(samples)} samples"
            )
        self.maps = maps
        self.standard_error = standard_error
        self.samples = tuple(samples)
        self._provenance = provenance
        self._pictures = tuple(pictures) if pictures is not None else (None,) * len(samples)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int | slice) -> Attribution:
        chosen = range(len(self))[index]
        rows = list(chosen) if isinstance(chosen, range) else [chosen]
        return Attribution(
            self.maps[rows],
            [self.samples[i] for i in rows],
            self._provenance,
            standard_error=None if self.standard_error is None else self.standard_error[rows],
            pictures=[self._pictures[i] for i in rows],
            pixels=None if self._pixels is None else self._pixels[rows],
        )

    def __iter__(self) -> Iterator[Attribution]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        H, W = self.maps.shape[1:]
        what = ", ".join(s.label or s.target.get("target", "") for s in self.samples[:3])
        return f"Attribution({self.method} on {self._provenance.model}: {len(self)} x {H} x {W}, {what})"

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The method's name."""
        return self._provenance.method

    @property
    def signed(self) -> bool:
        """Whether negative values mean something: they speak against the target."""
        return self._provenance.signed

    @property
    def scores(self) -> Tensor:
        """The explained numbers, ``(B,)``."""
        return torch.tensor([s.score for s in self.samples])

    @property
    def completeness_error(self) -> Tensor | None:
        """For additive methods ``|sum of contributions - change of the score|``, ``(B,)``; else None."""
        errors = [s.completeness_error for s in self.samples]
        return None if None in errors else torch.tensor([e for e in errors if e is not None], dtype=torch.float64)

    @property
    def degenerate(self) -> tuple[str | None, ...]:
        """Why a map says nothing, per picture; None where it does."""
        return tuple(s.degenerate for s in self.samples)

    @property
    def nothing_shown(self) -> tuple[str | None, ...]:
        """Why an overlay without signs shows nothing, per picture; None where it shows something."""
        negative = [self.signed and bool((map <= 0).all()) for map in self.maps]
        return tuple(
            s.degenerate or ("speaks against only" if below else None)
            for s, below in zip(self.samples, negative, strict=True)
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """All of the above as plain data."""
        samples = [
            {k: v.to_dict() if isinstance(v, Geometry) else v for k, v in vars(s).items() if v is not None}
            for s in self.samples
        ]
        return {**dataclasses.asdict(self._provenance), "samples": samples}

    # -- maps and pictures --------------------------------------------------------------------------------------------

    def normalized(self, scale: Scale = "min-max") -> Tensor:
        """Maps for display, ``(B, H, W)`` in [0, 1]: negative values cut off, then scaled each by itself.

        Args:
            scale: "min-max", or "max" to divide by the maximum alone. A constant map becomes 0.
        """
        if scale not in ("min-max", "max"):
            raise ValueError(f"scale is 'min-max' or 'max': got {scale!r}")
        maps = self.maps.float().nan_to_num(0, 0, 0).clamp_min(0)
        low = maps.amin(dim=(1, 2), keepdim=True) if scale == "min-max" else 0
        span = maps.amax(dim=(1, 2), keepdim=True) - low
        return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)

    def displayed(self, *, signed: bool = False) -> Tensor:
        """Maps as they are drawn, ``(B, H, W)`` in [0, 1]: `normalized`, with the strongest 2 % of the pixels alike.

        A few pixels of a fine map, of a gradient for instance, would otherwise leave nothing of the rest to be seen.

        Args:
            signed: keep what speaks against the target, in [-1, 1].
        """
        maps = self.maps.float().nan_to_num(0, 0, 0) if signed else self.normalized()
        sizes = maps.abs().flatten(1)
        strong = sizes.kthvalue(math.ceil(0.98 * sizes.shape[1]), dim=1).values
        top = torch.where(strong > 0, strong, sizes.amax(dim=1))[:, None, None]
        return torch.where(top > 0, maps / torch.where(top > 0, top, 1), 0).clamp(-1, 1)

    def on_photo(self) -> list[Tensor]:
        """The raw maps in the geometry of the original photos, ``(h, w)`` each; NaN where a crop cut the photo off."""
        return [
            map if s.geometry is None else s.geometry.map_to_photo(map)
            for map, s in zip(self.maps, self.samples, strict=True)
        ]

    def overlay(self, picture: Picture | None = None, *, alpha: float = 0.65, signed: bool = False) -> Any:
        """The maps over the pictures as the network saw them: a PIL image, or a list of them for many pictures.

        Args:
            picture: what to draw on, of the maps' size; needed for maps that were loaded from a file.
            alpha: how much the map covers, 0 to 1.
            signed: show what speaks against the target too, in another colour.
        """
        pictures = []
        for i, shown in enumerate(self.displayed(signed=signed)):
            base = self._seen(i) if picture is None else open_image(picture)
            pictures.append(draw.overlay(base, shown, alpha=alpha, signed=signed, limits=_LIMITS[signed]))
        return pictures[0] if len(pictures) == 1 else pictures

    def photo_overlay(self, picture: Picture | None = None, *, alpha: float = 0.65, signed: bool = False) -> Any:
        """The maps over the original photos, in their own size; what the network did not see is dimmed.

        Args:
            picture: the photo, where it is no longer known, or in another size.
            alpha: how much the map covers, 0 to 1.
            signed: show what speaks against the target too, in another colour.
        """
        pictures = []
        for i, (s, shown) in enumerate(zip(self.samples, self.displayed(signed=signed), strict=True)):
            photo = self._photo(i) if picture is None else open_image(picture)
            if s.geometry is None:
                raise ValueError(f"{s.name!r} was prepared input and no photo: use overlay")
            map = s.geometry.of_size(photo.size).map_to_photo(shown)
            pictures.append(draw.overlay(photo, map, alpha=alpha, signed=signed, limits=_LIMITS[signed]))
        return pictures[0] if len(pictures) == 1 else pictures

    def photo(self) -> Any:
        """The original photos, upright and in their own size: a PIL image, or a list of them."""
        pictures = [self._photo(i) for i in range(len(self))]
        return pictures[0] if len(pictures) == 1 else pictures

    def seen(self) -> Any:
        """The pictures as the network saw them: a PIL image, or a list of them."""
        pictures = [self._seen(i) for i in range(len(self))]
        return pictures[0] if len(pictures) == 1 else pictures

    def _photo(self, i: int) -> Image.Image:
        if (source := self._pictures[i]) is None:
            raise ValueError(f"the photo of {self.samples[i].name!r} is not at hand: give it, photo_overlay(photo)")
        return open_image(source)

    def _seen(self, i: int) -> Image.Image:
        if self._pixels is not None:
            return Image.fromarray(self._pixels[i].numpy())
        raise ValueError(
            "a loaded attribution holds no pixels: give the picture that the network saw, overlay(picture), or for a "
            "pair figure(probe=..., gallery=...)"
        )

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write maps and provenance to a ``.safetensors`` file, whole or not at all; pixels are not written."""
        return _write(path, self._tensors(), "attribution", self.provenance)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not an attribution, or damaged.
        """
        return _read(path, "attribution", lambda tensors, about: cls._from(tensors, about))

    def _tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """What is saved, by name."""
        sampled = {} if self.standard_error is None else {f"{prefix}standard_error": self.standard_error}
        return {f"{prefix}maps": self.maps, **sampled}

    @classmethod
    def _from(cls, tensors: dict[str, Tensor], about: dict[str, Any], prefix: str = "") -> Attribution:
        error = tensors.get(f"{prefix}standard_error")
        return cls(tensors[f"{prefix}maps"], *_described(about), standard_error=error)


def joined(parts: Sequence[Attribution], places: Sequence[int]) -> Attribution:
    """Maps by one method that were made in several calls, as those of one.

    Args:
        parts: the maps.
        places: of each map, one part after the other, its place in the whole.

    Examples:
        >>> att = fm.explain(fm.load(), torch.rand(2, 3, 224, 224), method="grad-cam", target=[285, 967])
        >>> [sample.label for sample in joined([att[1], att[0]], [1, 0]).samples]
        ['Egyptian cat', 'espresso']
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    abouts = [part._provenance for part in parts]

    def sorted_rows(tensors: Sequence[Tensor | None]) -> Tensor | None:
        some = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(some)[order] if len(some) == len(tensors) else None

    def note(name: str) -> Any:
        if not isinstance(abouts[0].notes[name], list):
            return abouts[0].notes[name]
        entries = [entry for about in abouts for entry in about.notes[name]]  # one for each map
        return [entries[i] for i in order]

    images = sum(about.images for about in abouts)
    evaluations: dict[str, float] = {}
    for about in abouts:
        for name, count in about.evaluations.items():
            evaluations[name] = evaluations.get(name, 0) + count * about.images / images
    about = dataclasses.replace(
        abouts[0],
        evaluations=evaluations,
        seconds=sum(about.seconds for about in abouts),
        images=images,
        notes={name: note(name) for name in abouts[0].notes},
    )
    samples = [sample for part in parts for sample in part.samples]
    pictures = [picture for part in parts for picture in part._pictures]
    maps = sorted_rows([part.maps for part in parts])
    assert maps is not None
    return Attribution(
        maps,
        [samples[i] for i in order],
        about,
        standard_error=sorted_rows([part.standard_error for part in parts]),
        pictures=[pictures[i] for i in order],
        pixels=sorted_rows([part._pixels for part in parts]),
    )


@dataclass(frozen=True)
class Face:
    """One side of a pair."""

    similar: Attribution
    """e+: what supports the match."""
    dissimilar: Attribution | None
    """e-: what pushes the pair apart; None for methods that cannot say."""


@dataclass(frozen=True)
class PairAttribution:
    """Why two faces match, or do not.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32, threshold=0.5)
        >>> pair = fm.explain_pair(face, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), method="grad-cam")
        >>> pair.gallery.dissimilar.maps.shape, pair.figure().mode
        (torch.Size([1, 32, 32]), 'RGB')
    """

    probe: Face
    gallery: Face
    score: float
    """The cosine of the two embeddings."""
    threshold: float | None
    """The cosine from which the model says match."""

    @property
    def match(self) -> bool | None:
        """The model's decision; None without a threshold."""
        return None if self.threshold is None else self.score >= self.threshold

    @property
    def method(self) -> str:
        """The method's name."""
        return self.probe.similar.method

    @property
    def attributions(self) -> dict[str, Attribution]:
        """The maps by their names: "probe.similar", "probe.dissimilar", "gallery.similar", "gallery.dissimilar"."""
        named: dict[str, Attribution | None] = {}
        for side, face in (("probe", self.probe), ("gallery", self.gallery)):
            named |= {f"{side}.similar": face.similar, f"{side}.dissimilar": face.dissimilar}
        return {name: att for name, att in named.items() if att is not None}

    @property
    def provenance(self) -> dict[str, Any]:
        """How the maps were made, as plain data."""
        return {name: att.provenance for name, att in self.attributions.items()}

    def figure(
        self, title: str | None = None, *, probe: Picture | None = None, gallery: Picture | None = None
    ) -> Image.Image:
        """Probe and gallery with e+ and e-, the score, the threshold and the decision.

        Args:
            title: above it; the method's name by default.
            probe: the crop to draw on, of the maps' size; needed for maps that were loaded from a file.
            gallery: likewise.
        """

        def shown(pick: str) -> tuple[Tensor, Tensor] | None:
            sides = [getattr(face, pick) for face in (self.probe, self.gallery)]
            return None if sides[0] is None else (sides[0].displayed()[0], sides[1].displayed()[0])

        similar = shown("similar")
        assert similar is not None  # e+ always exists
        return draw.pair_figure(
            self.probe.similar.seen() if probe is None else open_image(probe),
            self.gallery.similar.seen() if gallery is None else open_image(gallery),
            similar,
            shown("dissimilar"),
            self.score,
            self.threshold,
            title=self.method if title is None else title,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the four maps and their provenance to a ``.safetensors`` file; no pixels, no embeddings."""
        named = self.attributions
        header = {"score": self.score, "threshold": self.threshold, "maps": self.provenance}
        tensors = [att._tensors(f"{name}.") for name, att in named.items()]
        return _write(path, {key: tensor for one in tensors for key, tensor in one.items()}, "pair", header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PairAttribution:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a pair's attribution.
        """

        def build(tensors: dict[str, Tensor], about: dict[str, Any]) -> PairAttribution:
            atts = {name: Attribution._from(tensors, one, f"{name}.") for name, one in about["maps"].items()}
            sides = [Face(atts[f"{side}.similar"], atts.get(f"{side}.dissimilar")) for side in ("probe", "gallery")]
            return cls(sides[0], sides[1], about["score"], about["threshold"])

        return _read(path, "pair", build)


@dataclass(frozen=True)
class LocationMaps:
    """What each place of a feature map sees of the picture.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 8, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> grid = fm.explain_locations(fm.Classifier(net, size=32, target_layer="0"), torch.rand(1, 3, 32, 32))
        >>> grid.layer, grid.shares.shape
        ('0', torch.Size([4, 4]))
    """

    maps: Tensor
    """``(h, w, H, W)``, raw."""
    layer: str
    shares: Tensor
    """``(h, w)``: how much of each map lies in the cell that CAM assumes the place sees."""
    seen: Image.Image | None
    """The picture as the network saw it; not saved."""
    provenance: Provenance

    def figure(self, title: str | None = None, *, seen: Picture | None = None) -> Image.Image:
        """All maps at their places, each with the cell that CAM assumes.

        Args:
            title: above everything.
            seen: the picture as the network saw it, for maps that were loaded from a file.
        """
        base = self.seen if seen is None else open_image(seen)
        if base is None:
            raise ValueError("loaded maps hold no pixels: give the picture as the network saw it, figure(seen=picture)")
        h, w = self.maps.shape[:2]
        title = f"{self.provenance.model}, {self.layer}: what each of {h} x {w} places sees" if title is None else title
        return draw.location_sheet(base, self.maps, self.shares, title=title)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write maps and provenance to a ``.safetensors`` file; no pixels."""
        return _write(
            path, {"maps": self.maps, "shares": self.shares}, "locations", dataclasses.asdict(self.provenance)
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LocationMaps:
        """Read what `save` wrote; its figure then needs the picture as the network saw it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else.
        """

        def build(tensors: dict[str, Tensor], header: dict[str, Any]) -> LocationMaps:
            about = Provenance(**header)
            return cls(tensors["maps"], about.layer or "", tensors["shares"], None, about)

        return _read(path, "locations", build)


def _write(path: str | os.PathLike[str], tensors: dict[str, Tensor], kind: str, header: dict[str, Any]) -> Path:
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"attributions are saved as .safetensors files: got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in")
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = json.dumps(header, default=lambda number: number.item())  # NumPy's numbers
    metadata = {"format": FORMAT, "kind": kind, "provenance": about}
    return write_whole(path, lambda partial: save_file(contents, partial, metadata))


def _read(path: str | os.PathLike[str], kind: str, build: Callable[[dict[str, Tensor], dict[str, Any]], T]) -> T:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no attribution {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut off: {error}") from error
    ours = about.get("format") == FORMAT
    if not ours or about.get("kind") != kind:
        held = _KINDS.get(about.get("kind", ""), "an unknown kind") if ours else "other tensors"
        raise ValueError(f"{path} holds {held}, not {_KINDS[kind]}")
    try:
        return build(tensors, json.loads(about["provenance"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the header of {path} is damaged, or of another version of faithmap: {error!r}") from error


def _described(about: dict[str, Any]) -> tuple[list[Sample], Provenance]:
    about = dict(about)
    samples = [
        Sample(**{**s, "geometry": Geometry.from_dict(s["geometry"]) if "geometry" in s else None})
        for s in about.pop("samples")
    ]
    return samples, Provenance(**about)


def pixels_of(rgb: Tensor) -> Tensor:
    """RGB in [0, 1], ``(B, 3, H, W)``, as pictures to draw on, ``(B, H, W, 3)`` uint8."""
    return torch.stack([torch.from_numpy(to_array(p)) for p in rgb.detach().float().cpu().clamp(0, 1)])
