"""Every mode of picture opens as the colours that it shows, every bad one says why, and maps land where they belong."""

from __future__ import annotations

import gc
import json
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from faithmap.images import Geometry, open_image, open_levels, to_array, to_tensor

RED, GREY, WHITE = (255, 0, 0), (128, 128, 128), (255, 255, 255)


def _photo(width: int = 40, height: int = 30) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


# --- what opens


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga", "webp"])
def test_lossless_files_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    _photo().save(path, **({"lossless": True} if suffix == "webp" else {}))
    for source in (path, str(path)):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(_photo()))


def _transparent_palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "corner", "rest"),
    [
        (Image.new("1", (4, 4), 1), WHITE, WHITE),
        (Image.new("L", (4, 4), 128), GREY, GREY),
        (Image.new("LA", (4, 4), (0, 0)), WHITE, WHITE),
        (Image.new("La", (4, 4), (0, 0)), WHITE, WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), RED, RED),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 127)), GREY, GREY),
        (Image.new("RGBa", (4, 4), (0, 0, 0, 0)), WHITE, WHITE),
        (Image.new("RGBX", (4, 4), RED), RED, RED),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED, RED),
        (Image.new("RGB", (4, 4), RED).convert("YCbCr"), (254, 0, 0), (254, 0, 0)),
        (Image.new("HSV", (4, 4), (0, 255, 255)), RED, RED),
        (Image.new("LAB", (4, 4), (255, 128, 128)), WHITE, WHITE),
        (Image.new("RGB", (4, 4), RED).convert("P"), RED, RED),
        (_transparent_palette(), WHITE, RED),
        (Image.new("F", (4, 4), 0.5), GREY, GREY),
        (Image.new("I", (4, 4), 257 * 128), GREY, GREY),
        (Image.fromarray(np.full((4, 4), 257 * 128, dtype=np.uint16)), GREY, GREY),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_shows_its_colour(image: Image.Image, corner: tuple[int, ...], rest: tuple[int, ...]) -> None:
    opened = open_image(image)
    assert opened.mode == "RGB"
    np.testing.assert_allclose(opened.getpixel((0, 0)), corner, atol=1)
    np.testing.assert_allclose(opened.getpixel((3, 3)), rest, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_files_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    opened = np.asarray(open_image(tmp_path / f"deep.{suffix}"))
    np.testing.assert_array_equal(opened[..., 0], np.arange(256).reshape(16, 16))


def test_big_endian_sixteen_bit_tiff(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0, 257 * 200)).save(tmp_path / "big.tif")
    assert np.asarray(open_image(tmp_path / "big.tif"))[0, :, 0].tolist() == [0, 200]


def test_cmyk_and_ycck_jpeg(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red.save(tmp_path / "cmyk.jpg", quality=95)
    np.testing.assert_allclose(open_image(tmp_path / "cmyk.jpg").getpixel((8, 8)), RED, atol=4)
    data = bytearray((tmp_path / "cmyk.jpg").read_bytes())
    data[data.index(b"Adobe") + 11] = 2  # the marker's colour transform: YCCK
    (tmp_path / "ycck.jpg").write_bytes(data)
    assert open_image(tmp_path / "ycck.jpg").mode == "RGB"


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(open_image(tmp_path / f"film.{suffix}").getpixel((4, 4)), RED, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    T = Image.Transpose
    undo = (
        None,
        T.FLIP_LEFT_RIGHT,
        T.ROTATE_180,
        T.FLIP_TOP_BOTTOM,
        T.TRANSPOSE,
        T.ROTATE_90,
        T.TRANSVERSE,
        T.ROTATE_270,
    )
    step = undo[orientation - 1]
    stored = _photo() if step is None else _photo().transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "turned.png")), np.asarray(_photo()))


def test_damaged_exif_leaves_the_photo_as_it_is(tmp_path: Path) -> None:
    _photo().save(tmp_path / "odd.jpg", exif=b"Exif\0\0garbage garbage")
    assert open_image(tmp_path / "odd.jpg").size == (40, 30)


def test_arrays_open_with_their_colours() -> None:
    red = np.zeros((3, 5, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert open_image(red).size == (5, 3)
    assert open_image(red).getpixel((0, 0)) == RED
    assert open_image(np.full((3, 5), 128, dtype=np.uint8)).getpixel((4, 2)) == GREY
    assert open_image(np.zeros((3, 5, 4), dtype=np.uint8)).getpixel((0, 0)) == WHITE
    assert open_image(red[:, ::-1]).getpixel((0, 0)) == RED


def test_the_callers_image_is_not_changed() -> None:
    image = _photo()
    opened = open_image(image)
    opened.putpixel((0, 0), WHITE)
    assert image.tobytes() == _photo().tobytes()


# --- what does not open


def _raises(source: Any, message: str, **limits: int) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_image(source, **limits)
    assert not isinstance(source, Path) or source.name in str(caught.value)


def test_a_missing_path_names_close_ones(tmp_path: Path) -> None:
    _photo().save(tmp_path / "kitten.png")
    with pytest.raises(
        FileNotFoundError, match=re.escape(str(tmp_path / "kiten.png")) + r".* did you mean kitten\.png\?"
    ):
        open_image(tmp_path / "kiten.png")
    with pytest.raises(FileNotFoundError, match="nor does its folder"):
        open_image(tmp_path / "nowhere" / "kitten.png")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        open_image(tmp_path / "bare" / "kitten.png")
    with pytest.raises(FileNotFoundError, match="save the picture"):
        open_image("https://example.org/kitten.png")


def test_folders_empty_files_and_text(tmp_path: Path) -> None:
    _raises(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    _raises(tmp_path / "empty.png", "is empty")
    (tmp_path / "text.jpg").write_text("no picture at all")
    _raises(tmp_path / "text.jpg", "is not a picture that can be read: expected JPEG, PNG")
    (tmp_path / "run.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    _raises(tmp_path / "run.eps", "is not a picture")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    _raises(tmp_path / "pipe", "no regular file")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: int(len(data) * kept)])
    _raises(cut, "cannot be decoded|damaged|is not a picture")


def test_too_many_bytes(tmp_path: Path) -> None:
    _photo().save(tmp_path / "photo.bmp")
    _raises(tmp_path / "photo.bmp", "more than max_bytes=1,000", max_bytes=1000)


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])  # beyond max_pixels, Pillow's warning and Pillow's error
def test_bombs_are_refused_from_their_header_and_silently(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(_png_header(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _raises(tmp_path / "bomb.png", "max_pixels=64,000,000")


def test_max_pixels_holds_for_every_source(tmp_path: Path) -> None:
    _photo().save(tmp_path / "photo.png")
    for source in (tmp_path / "photo.png", _photo(), np.asarray(_photo())):
        _raises(source, "40x30 pixels, more than max_pixels=1,000", max_pixels=1000)
        assert open_image(source, max_pixels=1200).size == (40, 30)


def test_no_pixels(tmp_path: Path) -> None:
    _raises(Image.new("RGB", (0, 5)), "no pixels")
    _raises(np.zeros((0, 5, 3), dtype=np.uint8), "no pixels")
    (tmp_path / "zero.png").write_bytes(_png_header(0, 5))
    _raises(tmp_path / "zero.png", "no pixels|not a picture|damaged")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), dtype=np.uint16),
        np.zeros((4, 4), dtype=bool),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
    ],
)
def test_wrong_arrays_say_what_would_work(array: Any) -> None:
    _raises(array, re.escape(f"{array.dtype} {array.shape}: expected uint8 (H, W, 3)"))


def test_bytes_open_as_the_file_they_were_read_from(tmp_path: Path) -> None:
    """With its limits, its formats and its words, and without a path."""
    _photo().save(tmp_path / "photo.jpg", quality=95)
    data = (tmp_path / "photo.jpg").read_bytes()
    assert open_image(data).tobytes() == open_image(tmp_path / "photo.jpg").tobytes()
    _raises(data, "the encoded picture has 40x30 pixels, more than max_pixels=1,000", max_pixels=1000)
    _raises(data, "bytes: expected 1 to max_bytes=100", max_bytes=100)
    _raises(data[:-100], "the encoded picture cannot be decoded")
    _raises(b"cat.jpg", "the encoded picture is not a picture that can be read")
    _raises(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture that can be read")
    _raises(b"", "has 0 bytes")


@pytest.mark.parametrize("source", [None, 3, [b"bytes"], torch.zeros(3, 4, 4)])
def test_wrong_types_say_what_would_work(source: Any) -> None:
    _raises(source, "is no picture: give a path")


@pytest.mark.parametrize(("mode", "value"), [("F", 200.0), ("F", -0.5), ("F", float("nan")), ("I", 70_000), ("I", -1)])
def test_deep_images_out_of_range_are_refused(mode: str, value: float) -> None:
    _raises(Image.new(mode, (2, 2), value), f"mode '{mode}'.* expected 0..")


def test_no_handle_stays_open_and_no_global_changes(tmp_path: Path) -> None:
    _photo().save(tmp_path / "good.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    (tmp_path / "cut.gif").write_bytes((tmp_path / "good.gif").read_bytes()[:900])
    (tmp_path / "bad.png").write_text("no picture")
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        open_image(tmp_path / "good.gif").close()
        _raises(tmp_path / "cut.gif", "cannot be decoded")
        _raises(tmp_path / "bad.png", "not a picture")
        gc.collect()
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    handles = Path("/proc/self/fd")
    if handles.is_dir():
        assert not [link for link in handles.iterdir() if link.is_symlink() and str(tmp_path) in os.readlink(link)]


# --- tensors


def test_tensors_and_arrays_are_inverse() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(Image.fromarray(levels))
    assert tensor.shape == (3, 16, 16)
    assert (tensor.min(), tensor.max()) == (0, 1)
    np.testing.assert_array_equal(to_array(tensor), levels)
    np.testing.assert_array_equal(to_array(tensor.half()), levels)


def test_to_tensor_owns_its_pixels() -> None:
    image = _photo()
    to_tensor(image).zero_()
    assert image.tobytes() == _photo().tobytes()


def test_tensor_errors() -> None:
    with pytest.raises(ValueError, match="mode 'L'"):
        to_tensor(Image.new("L", (2, 2)))
    with pytest.raises(ValueError, match="undo the normalisation"):
        to_array(torch.full((3, 2, 2), -2.0))
    with pytest.raises(ValueError, match="undo the normalisation"):
        to_array(torch.full((3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"expected float \(3, H, W\)"):
        to_array(torch.zeros(2, 2, 3))


# --- geometry

GEOMETRIES = [
    Geometry.fit(photo, size, resize)
    for photo in [(640, 427), (300, 451), (97, 60), (31, 80), (224, 224)]
    for size, resize in [(224, None), (224, 256), (112, "squash"), ((96, 160), None), ((160, 96), (200, 180))]
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_blob_of_the_photo_comes_back_to_its_place(geometry: Geometry) -> None:
    """Through the real resize and crop: a spot's centre of mass returns within half a pixel of the coarser grid."""
    width, height = geometry.photo
    H, W = geometry.size
    (x, y), (left, top) = geometry._scale, geometry.corner
    spot = (left + 0.45 * W) / x, (top + 0.56 * H) / y  # inside the crop
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    sigma = 3 * max(1, 1 / min(x, y))  # wide enough to be seen in the input
    blob = np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / (2 * sigma**2))
    seen = geometry.apply(Image.fromarray((blob * 255).round().astype(np.uint8)))
    assert seen.size == (W, H)
    back = geometry.map_to_photo(torch.from_numpy(np.array(seen)).float()).nan_to_num().double().numpy()
    found = (back * columns).sum() / back.sum(), (back * rows).sum() / back.sum()
    np.testing.assert_allclose(found, spot, atol=0.5 * max(1, 1 / min(x, y)))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_ramp_stays_the_same_ramp(geometry: Geometry) -> None:
    H, W = geometry.size
    for axis, (length, other) in enumerate([(W, H), (H, W)]):
        ramp = torch.arange(length, dtype=torch.float64) + 0.5  # the input coordinate of each pixel's centre
        map = ramp.expand(other, length) if axis == 0 else ramp[:, None].expand(length, other)
        back = geometry.map_to_photo(map)
        assert tuple(back.shape) == geometry.photo[::-1]
        expected = (torch.arange(geometry.photo[axis], dtype=torch.float64) + 0.5) * geometry._scale[
            axis
        ] - geometry.corner[axis]
        seen = (expected > 0.5) & (expected < length - 0.5)
        line = back[back.shape[0] // 2] if axis == 0 else back[:, back.shape[1] // 2]
        torch.testing.assert_close(line[seen], expected[seen])
        assert line[(expected < 0) | (expected > length)].isnan().all()
        assert not line[(expected >= 0) & (expected <= length)].isnan().any()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_boxes_round_trip_and_clip(geometry: Geometry) -> None:
    H, W = geometry.size
    boxes = torch.tensor([[0.0, 0.0, W, H], [3.0, 5.0, 40.5, 30.25]])
    torch.testing.assert_close(geometry.boxes_to_input(geometry.boxes_to_photo(boxes)), boxes, atol=1e-3, rtol=0)
    everything = torch.tensor([[-9.0, -9.0, geometry.photo[0] + 9.0, geometry.photo[1] + 9.0]])
    assert geometry.boxes_to_input(everything).tolist() == [[0, 0, W, H]]
    assert geometry.boxes_to_input(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_mask_takes_what_lies_under_each_centre(geometry: Geometry) -> None:
    """As a loop over pixels in exact fractions; and as Pillow's nearest sampling, but where a centre is on an edge."""
    (width, height), (left, top), (H, W) = geometry.photo, geometry.corner, geometry.size
    mask = torch.rand(height, width) < 0.5
    found = geometry.mask_to_input(mask)
    xs = [Fraction(2 * (left + i) + 1, 2) * Fraction(width, geometry.resized[0]) for i in range(W)]
    ys = [Fraction(2 * (top + i) + 1, 2) * Fraction(height, geometry.resized[1]) for i in range(H)]
    for i in range(0, H, 5):
        for j in range(0, W, 3):
            assert found[i, j] == mask[int(ys[i]), int(xs[j])]
    nearest = Image.fromarray(mask.numpy()).convert("L").resize(geometry.resized, Image.Resampling.NEAREST)
    seen = torch.from_numpy(np.array(nearest.crop((left, top, left + W, top + H)))) > 0
    rows, columns = ([at.denominator > 1 for at in axis] for axis in (ys, xs))
    assert found[rows][:, columns].equal(seen[rows][:, columns])


def test_a_mask_is_of_the_photo() -> None:
    geometry = Geometry.fit((40, 30), 8)
    for mask in (torch.ones(40, 30).bool(), torch.ones(30, 40), torch.ones(1, 30, 40).bool()):
        with pytest.raises(ValueError, match=r"expected bool \(height, width\) = \(30, 40\)"):
            geometry.mask_to_input(mask)


def test_levels_are_indices_and_greys(tmp_path: Path) -> None:
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    palette = Image.fromarray(levels).convert("P")
    palette.putpalette([9] * 768)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(levels).convert("RGB").save(tmp_path / "colours.png")
    for name in ("palette.png", "colours.png"):
        found = open_levels(tmp_path / name)
        assert (found.dtype, found.tolist()) == (torch.uint8, levels.tolist())
    data = (tmp_path / "palette.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) - 25])
    with pytest.raises(ValueError, match=r"cut.png cannot be decoded"):
        open_levels(tmp_path / "cut.png")
    with pytest.raises(FileNotFoundError, match=r"no.png does not exist"):
        open_levels(tmp_path / "no.png")
    with pytest.raises(ValueError, match="more than max_pixels=11"):
        open_levels(tmp_path / "palette.png", max_pixels=11)


def test_the_crop_is_torchvisions() -> None:
    """Resize(256) and CenterCrop(224) of a 451x300 photo: 384x256, from (80, 16)."""
    geometry = Geometry.fit((451, 300), 224, resize=256)
    assert (geometry.resized, geometry.corner) == ((384, 256), (80, 16))
    image = _photo(451, 300)
    expected = image.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    assert geometry.apply(image).tobytes() == expected.tobytes()


def test_a_photo_of_the_inputs_size_passes_unchanged() -> None:
    image, map = _photo(), torch.rand(30, 40)
    geometry = Geometry.fit((40, 30), (30, 40))
    assert geometry.apply(image).tobytes() == image.tobytes()
    assert geometry.map_to_photo(map).equal(map)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    for interpolation in ("bilinear", "bicubic"):
        seen = np.asarray(Geometry.fit((64, 64), 16, None, interpolation).apply(Image.fromarray(stripes)))
        assert abs(seen[:, 2:-2].astype(int) - 128).max() < 12


def test_geometry_survives_json() -> None:
    for geometry in GEOMETRIES:
        assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry.fit((40, 30), 224, resize=200), "resize to at least the input size"),
        (lambda: Geometry.fit((0, 30), 224), "no pixels"),
        (lambda: Geometry.fit((40, 30), 0), "at least 1 pixel"),
        (lambda: Geometry.fit((1_000_000, 10), 224), "crop it first"),
        (lambda: Geometry.fit((40, 30), 8, "stretch"), "'squash' or None"),
        (lambda: Geometry.fit((40, 30), 8, None, "nearest"), "'bilinear' or 'bicubic'"),
        (lambda: Geometry.fit((40, 30), 8).apply(_photo(30, 40)), "30x40 pixels, this geometry is for 40x30"),
        (lambda: Geometry.fit((40, 30), 8).map_to_photo(torch.zeros(9, 8)), r"\(9, 8\).*\(8, 8\)"),
        (lambda: Geometry.fit((40, 30), 8).boxes_to_input(torch.zeros(4)), r"\(n, 4\)"),
        (lambda: Geometry.fit((40, 30), 8).boxes_to_input(torch.tensor([[9, 9, 3, 3]])), "not x, y, width, height"),
    ],
)
def test_geometry_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
