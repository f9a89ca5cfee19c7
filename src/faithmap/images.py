"""Pictures in and out: safe decoding, and the geometry between a photo and a network's input."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from faithmap.words import did_you_mean

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]

# Formats that Pillow decodes by itself: others start programs (EPS) or hide a large picture in a small header (ICO).
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "TIFF", "BMP", "GIF", "PPM", "TGA")


def open_image(source: Picture, *, max_pixels: int = 64_000_000, max_bytes: int = 128 * 2**20) -> Image.Image:
    """Open a picture as upright 8-bit RGB, whatever its mode.

    Transparent pixels are composited on white; 16-bit and 32-bit integer grey is scaled from 0..65535, float grey from
    0..1; of an animation the first frame is taken (of a PIL image its current one); EXIF rotation is applied; colour
    profiles are ignored, as networks are trained that way.

    Args:
        source: a path, the bytes of such a file, a PIL image, or a uint8 array (H, W, 3), (H, W, 4) or (H, W).
        max_pixels: the most pixels that are decoded; a file is judged by its header.
        max_bytes: the largest file that is read.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: what is there is no picture, is cut off, or is too large; or the source has a type, dtype or shape
            that is no picture.

    Examples:
        >>> open_image(np.full((2, 3), 255, dtype=np.uint8)).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, (str, os.PathLike)):
        return _open_file(Path(source).expanduser(), max_pixels, max_bytes, _decode)
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, bytes):
        return _open_bytes(source, max_pixels, max_bytes)
    if not isinstance(source, Image.Image):
        raise ValueError(
            f"{type(source).__module__}.{type(source).__name__} is no picture: give a path, the bytes of a "
            "file, a PIL image or a uint8 array (H, W, 3)" + _of_sample(source)
        )
    _check_size("the PIL image", source.size, max_pixels)
    return _decode("the PIL image", source)


def _of_sample(source: object) -> str:
    """A hint where somebody gives a sample of a data set for its picture."""
    known = {*dir(type(source)), *getattr(source, "__dict__", {})}  # without looking: worlds would draw
    held = [f".{name}" for name in ("image", "probe", "gallery") if name in known]
    return f"; of a sample of a data set its {' and '.join(held)}" if held else ""


def open_levels(path: str | os.PathLike[str], *, max_pixels: int = 64_000_000, max_bytes: int = 128 * 2**20) -> Tensor:
    """The levels of a picture that holds a mask, not its colours: of a palette the indices, of colours their grey.

    Args:
        path: the file; it is neither turned nor composited.
        max_pixels: the most pixels that are decoded.
        max_bytes: the largest file that is read.

    Returns:
        (height, width) uint8.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: what is there is no picture, is cut off, or is too large.
    """
    return _open_file(Path(path).expanduser(), max_pixels, max_bytes, _levels)


def to_tensor(image: Image.Image) -> Tensor:
    """The pixels of an RGB picture as float32 (3, H, W) in 0..1.

    Raises:
        ValueError: the picture is not RGB.

    Examples:
        >>> to_tensor(Image.new("RGB", (2, 1), (255, 0, 51)))[:, 0, 0]
        tensor([1.0000, 0.0000, 0.2000])
    """
    if image.mode != "RGB":
        raise ValueError(f"the picture has mode {image.mode!r}: open it with open_image, which gives 'RGB'")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # (3, H, W)


def to_array(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (3, H, W) in 0..1 as a uint8 array (H, W, 3), rounded to the nearest level.

    Raises:
        ValueError: the shape is not (3, H, W), or a value is not within 0..1.

    Examples:
        >>> to_array(torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1)).tolist()
        [[[255, 0, 51]]]
    """
    if pixels.dim() != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
        raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}: expected float (3, H, W)")
    pixels = pixels.detach().float().cpu()
    if pixels.numel() and not bool((pixels >= -1e-3).all() & (pixels <= 1 + 1e-3).all()):
        low, high = pixels.min().item(), pixels.max().item()
        raise ValueError(f"pixels run from {low:.3g} to {high:.3g}: expected 0..1, so undo the normalisation first")
    return cast("NDArray[np.uint8]", (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class Geometry:
    """How a photo became a network's input: resized, then cropped; an axis-aligned affine map.

    A point x of the photo, in pixels from its top left corner, lies at x · resized / photo - corner in the input;
    pixel i covers i..i+1, so its centre is i + ½.

    Args:
        photo: (width, height) of the photo.
        size: (H, W) of the network's input.
        resized: (width, height) of the whole photo after resizing.
        corner: (left, top) of the crop in the resized photo.
        interpolation: "bilinear" or "bicubic", both antialiased.

    Raises:
        ValueError: a length is not positive, the crop reaches outside the resized photo, or that is too large.

    Examples:
        >>> Geometry.fit((640, 480), 224, resize=256)
        Geometry(photo=(640, 480), size=(224, 224), resized=(341, 256), corner=(58, 16), interpolation='bilinear')
    """

    photo: tuple[int, int]
    size: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if min(*self.photo, *self.size, *self.resized) < 1:
            raise ValueError(f"every length must be at least 1 pixel: {self}")
        (left, top), (width, height), (H, W) = self.corner, self.resized, self.size
        if width * height > 100_000_000:
            raise ValueError(
                f"a photo of {_by(self.photo)} pixels would be resized to {_by(self.resized)}: crop it first, or use "
                "resize='squash'"
            )
        if not (0 <= left <= width - W and 0 <= top <= height - H):
            raise ValueError(
                f"a crop of {W}x{H} pixels at {self.corner} does not fit in the photo resized to {_by(self.resized)}: "
                "resize to at least the input size, or use resize='squash'"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation {self.interpolation!r} is unknown: use 'bilinear' or 'bicubic'")

    @classmethod
    def fit(
        cls,
        photo: tuple[int, int],
        size: int | tuple[int, int],
        resize: int | tuple[int, int] | Literal["squash"] | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> Geometry:
        """Resize a photo, then crop its centre, with torchvision's rounding.

        Args:
            photo: (width, height) of the photo.
            size: (H, W) of the network's input; a number means a square.
            resize: the shorter side's length before the crop; or (height, width) of the whole; or "squash": the whole
                photo fills the input, x and y scaled apart; None: as little as covers the input.
            interpolation: "bilinear" or "bicubic".

        Raises:
            ValueError: a length is not positive, or the resized photo is smaller than the input or too large.

        Examples:
            >>> Geometry.fit((400, 300), (100, 100), resize="squash").resized
            (100, 100)
        """
        H, W = (size, size) if isinstance(size, int) else size
        width, height = photo
        if min(width, height) < 1:
            raise ValueError(f"a photo of {width}x{height} pixels has no pixels")
        if resize == "squash":
            resized = (W, H)
        elif isinstance(resize, tuple):
            resized = (resize[1], resize[0])
        elif isinstance(resize, int):
            resized = (resize, resize * height // width) if width <= height else (resize * width // height, resize)
        elif resize is None:
            resized = (W, W * height // width) if W * height >= H * width else (H * width // height, H)
        else:
            raise ValueError(f"resize {resize!r} is unknown: give a length, (height, width), 'squash' or None")
        corner = (round((resized[0] - W) / 2), round((resized[1] - H) / 2))
        return cls((width, height), (H, W), resized, corner, interpolation)

    def of_size(self, photo: tuple[int, int]) -> Geometry:
        """The same part of the same photo in another size, (width, height).

        Raises:
            ValueError: it is a photo of another shape.

        Examples:
            >>> Geometry.fit((400, 300), 100).of_size((200, 150)).photo
            (200, 150)
        """
        (width, height), (W, H) = photo, self.photo
        if abs(width * H - height * W) > max(W, H):  # beyond what rounding to whole pixels does
            raise ValueError(f"the photo has {_by(photo)} pixels, another shape than the {_by(self.photo)} explained")
        return replace(self, photo=photo)

    def apply(self, image: Image.Image) -> Image.Image:
        """The part of the photo that the network sees, at exactly its input size.

        Raises:
            ValueError: the image is not of the photo's size.

        Examples:
            >>> Geometry.fit((6, 4), 2).apply(Image.new("RGB", (6, 4))).size
            (2, 2)
        """
        if image.size != self.photo:
            raise ValueError(f"the image has {_by(image.size)} pixels, this geometry is for {_by(self.photo)}")
        (left, top), (H, W) = self.corner, self.size
        resized = image.resize(self.resized, Image.Resampling[self.interpolation.upper()])
        return resized.crop((left, top, left + W, top + H))

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Boxes on the photo, in pixels of the network's input and clipped to it.

        Args:
            boxes: (n, 4) corners x0, y0, x1, y1; a box that the crop does not see gets no area.

        Raises:
            ValueError: the shape is not (n, 4), or a box ends before it starts.

        Examples:
            >>> Geometry.fit((8, 4), 2).boxes_to_input(torch.tensor([[3.0, 0.0, 8.0, 2.0]]))
            tensor([[0.5000, 0.0000, 2.0000, 1.0000]])
        """
        boxes, scale = _check_boxes(boxes), boxes.new_tensor(self._scale * 2, dtype=torch.float64)
        moved = boxes * scale - scale.new_tensor(self.corner * 2)
        H, W = self.size
        return torch.minimum(moved.clamp(min=0), scale.new_tensor([W, H, W, H])).float()

    def boxes_to_photo(self, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) in pixels of the network's input, in pixels of the photo.

        Raises:
            ValueError: the shape is not (n, 4), or a box ends before it starts.

        Examples:
            >>> Geometry.fit((8, 4), 2).boxes_to_photo(torch.tensor([[0.5, 0.0, 2.0, 1.0]]))
            tensor([[3., 0., 6., 2.]])
        """
        boxes, scale = _check_boxes(boxes), boxes.new_tensor(self._scale * 2, dtype=torch.float64)
        return ((boxes + scale.new_tensor(self.corner * 2)) / scale).float()

    def mask_to_input(self, mask: Tensor) -> Tensor:
        """A mask over the photo, as the network's input sees it: a pixel takes what the photo has under its centre.

        Args:
            mask: (height, width) of the photo, bool.

        Returns:
            (H, W) bool.

        Raises:
            ValueError: the mask is not bool, or not of the photo's size.

        Examples:
            >>> Geometry.fit((5, 3), 1).mask_to_input(torch.eye(3, 5).bool().roll(1, dims=1))
            tensor([[True]])
        """
        if mask.dtype != torch.bool or tuple(mask.shape) != self.photo[::-1]:
            raise ValueError(
                f"the mask is {mask.dtype} {tuple(mask.shape)}: expected bool (height, width) = {self.photo[::-1]}"
            )
        for dim, side in ((0, 1), (1, 0)):  # rows, then columns
            # Where the centre i + 1/2 falls, (i + corner + 1/2) * photo / resized, in whole numbers: ties are exact.
            halves = 2 * (torch.arange(self.size[dim]) + self.corner[side]) + 1
            mask = mask.index_select(dim, (halves * self.photo[side] // (2 * self.resized[side])).to(mask.device))
        return mask  # (H, W)

    def map_to_photo(self, map: Tensor) -> Tensor:
        """A map over the input, bilinearly sampled at the photo's pixel centres; NaN where the crop did not see it.

        Args:
            map: (..., H, W).

        Returns:
            float32 or better (..., height, width) on the map's device.

        Raises:
            ValueError: the map is not of the input's size.

        Examples:
            >>> Geometry.fit((6, 2), 1).map_to_photo(torch.ones(1, 1))[0]
            tensor([nan, nan, 1., 1., nan, nan])
        """
        if tuple(map.shape[-2:]) != self.size:
            raise ValueError(f"the map is {tuple(map.shape)}, this geometry needs (..., H, W) = {self.size}")
        map = map if map.dtype == torch.float64 else map.float()
        for dim, side in ((-2, 1), (-1, 0)):  # rows, then columns
            length, n = self.size[dim], self.photo[side]
            centres = (torch.arange(n, dtype=torch.float64) + 0.5) * self._scale[side] - self.corner[side]
            at = (centres - 0.5).clamp(0, length - 1)  # within half a pixel of the edge: the edge's value
            low = at.floor().long()
            weight = (at - low).to(map).view((n, 1) if dim == -2 else (n,))
            unseen = ((centres < 0) | (centres > length)).to(map.device)
            low = low.to(map.device)
            high = (low + 1).clamp(max=length - 1)
            map = torch.lerp(map.index_select(dim, low), map.index_select(dim, high), weight)
            map = map.index_fill(dim, unseen.nonzero().flatten(), torch.nan)
        return map  # (..., height, width)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them.

        Examples:
            >>> Geometry.fit((4, 2), 1).to_dict()["resized"]
            [2, 1]
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Geometry:
        """The geometry that ``to_dict`` described.

        Examples:
            >>> Geometry.from_dict(Geometry.fit((4, 2), 1).to_dict()) == Geometry.fit((4, 2), 1)
            True
        """
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**values)

    @property
    def _scale(self) -> tuple[float, float]:
        return self.resized[0] / self.photo[0], self.resized[1] / self.photo[1]


_header_lock = threading.Lock()  # warnings.catch_warnings is only safe for one thread at a time


Opened = TypeVar("Opened")


def _open_file(path: Path, max_pixels: int, max_bytes: int, decode: Callable[[str, Image.Image], Opened]) -> Opened:
    if not path.exists():
        raise FileNotFoundError(_missing(path))
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of one picture in it")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file: give the path of a picture")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes): was it saved or downloaded completely?")
    if size > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, more than max_bytes={max_bytes:,}: shrink it or raise the limit")
    with path.open("rb") as file:
        image = _read_header(path, file, max_pixels)
        _check_size(str(path), image.size, max_pixels)
        return decode(str(path), image)


def _open_bytes(data: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    name = "the encoded picture"
    if not 0 < len(data) <= max_bytes:
        raise ValueError(f"{name} has {len(data):,} bytes: expected 1 to max_bytes={max_bytes:,}")
    image = _read_header(name, io.BytesIO(data), max_pixels)
    _check_size(name, image.size, max_pixels)
    return _decode(name, image)


def _read_header(path: Path | str, file: BinaryIO, max_pixels: int) -> Image.Image:
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
        Image.init()
        try:
            return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise ValueError(f"{path} has too many pixels for max_pixels={max_pixels:,} or Pillow: {error}") from error
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is not a picture that can be read: expected {', '.join(FORMATS)}") from error
        except Exception as error:  # parsers of damaged bytes raise anything
            raise ValueError(f"{path} has a damaged header: {error}") from error


def _missing(path: Path) -> str:
    if path.parts[:1] in (("http:",), ("https:",)):
        return f"{path} is an address, and nothing is downloaded: save the picture and give its path"
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does its folder"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    if not names:
        return f"{path} does not exist: its folder holds no files"
    close = did_you_mean(path.name, names).partition(" (available")[0]
    return f"{path} does not exist" + (f": {close}" if close.startswith("did you mean") else "")


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    if min(size) < 1:
        raise ValueError(f"{name} has no pixels: its size is {_by(size)}")
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"{name} has {_by(size)} pixels, more than max_pixels={max_pixels:,}: shrink it or raise the limit"
        )


def _decode(name: str, image: Image.Image) -> Image.Image:
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders of damaged bytes raise anything
        raise ValueError(f"{name} cannot be decoded; it may be cut off or damaged: {error}") from error
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _deep_to_rgb(name, upright)
    if upright.has_transparency_data:
        straight = upright.convert("LA") if upright.mode == "La" else upright  # Pillow has no way from La to RGBA
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def _levels(name: str, image: Image.Image) -> Tensor:
    try:
        return torch.from_numpy(np.array(image if image.mode == "P" else image.convert("L")))
    except Exception as error:  # decoders of damaged bytes raise anything
        raise ValueError(f"{name} cannot be decoded; it may be cut off or damaged: {error}") from error


def _deep_to_rgb(name: str, image: Image.Image) -> Image.Image:
    values, top = np.asarray(image).astype(np.float32), 1 if image.mode == "F" else 65535
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also where NaN
        raise ValueError(
            f"{name} has mode {image.mode!r} and values {low:g}..{high:g}: expected 0..{top}, so rescale it first"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8)).convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        if array.size == 0:
            raise ValueError(f"the array {array.shape} has no pixels")
        return Image.fromarray(np.ascontiguousarray(array))
    raise ValueError(
        f"the array is {array.dtype} {array.shape}: expected uint8 (H, W, 3), (H, W, 4) or (H, W) with values 0..255, "
        "or a prepared tensor (B, 3, H, W)"
    )


def _check_boxes(boxes: Tensor) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are {tuple(boxes.shape)}: expected (n, 4) with x0, y0, x1, y1")
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        raise ValueError("a box ends before it starts: expected x0, y0, x1, y1 (not x, y, width, height)")
    return boxes.double()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
