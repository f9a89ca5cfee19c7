"""Pictures of maps say what the maps say: weights are linear, zero is the photo, signs mirror, nothing is cut off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from subprocess import run
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from faithmap.charts import interval_chart, locality_chart
from faithmap.draw import (
    CELL,
    DISSIMILAR,
    SIMILAR,
    Panel,
    colour,
    grid,
    location_sheet,
    overlay,
    pair_figure,
)

RAMP = np.linspace(0, 1, 11, dtype=np.float32)[None].repeat(4, axis=0)  # (4, 11)
BLACK, WHITE = Image.new("RGB", (11, 4)), Image.new("RGB", (11, 4), "white")
ROW = {"layer": "layer1", "depth": 0.5, "share": 0.4, "low": 0.3, "high": 0.5, "ceiling": 0.8, "chance": 0.1}


def _photo(width: int = 11, height: int = 4) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _weight(map: NDArray[Any], **options: Any) -> NDArray[np.float64]:
    """How much of the photo the overlay hides: what is left of the way from black to white."""
    over_white, over_black = (np.asarray(overlay(photo, map, **options)).astype(float) for photo in (WHITE, BLACK))
    return np.asarray(1 - (over_white - over_black).mean(axis=-1) / 255)


def _ink(image: Image.Image, ink: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.asarray(image) == ink).all(axis=-1))


# --- colours


def test_unsigned_colours_brighten_with_the_value() -> None:
    brightness = colour(RAMP)[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > 5).all()


def test_signed_colours_keep_zero_white_and_magnitudes_comparable() -> None:
    one_sided = colour(np.array([[0.0, 1.0, 2.0]]), signed=True)[0].astype(int)
    assert np.ptp(one_sided[0]) <= 1
    assert one_sided[0].min() > 240
    both = colour(np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]), signed=True)[0].astype(int)
    np.testing.assert_array_equal(both[2:], one_sided)
    assert (both[:2, 2] > both[:2, 0]).all()  # blue below zero
    assert (both[3:, 0] > both[3:, 2]).all()  # red above


def test_colours_depend_on_the_ratio_alone_unless_limits_are_given() -> None:
    np.testing.assert_array_equal(colour(RAMP), colour(1000 * RAMP))
    np.testing.assert_array_equal(colour(RAMP, limits=(0, 2))[0, -1], colour(2 * RAMP)[0, 5])


@pytest.mark.parametrize("signed", [False, True])
def test_nan_is_grey_and_infinity_is_the_end_of_the_scale(signed: bool) -> None:
    colours = colour(np.array([[np.nan, np.inf, 1.0, -np.inf, -1.0]]), signed=signed)[0]
    assert np.ptp(colours[0]) == 0
    np.testing.assert_array_equal(colours[1], colours[2])
    np.testing.assert_array_equal(colours[3], colours[4])


def test_tensors_and_arrays_are_drawn_alike() -> None:
    tensor = torch.from_numpy(RAMP).to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(colour(tensor), colour(tensor.detach().float().numpy()))


# --- overlays


@pytest.mark.parametrize("signed", [False, True])
def test_a_zero_map_leaves_the_photo(signed: bool) -> None:
    for map in (np.zeros((4, 11)), torch.zeros(4, 11)):
        assert overlay(_photo(), map, signed=signed).tobytes() == _photo().tobytes()
    assert overlay(_photo(), RAMP, alpha=0).tobytes() == _photo().tobytes()
    assert overlay(_photo(), -RAMP).tobytes() == _photo().tobytes()


@pytest.mark.parametrize("options", [{}, {"signed": True}, {"tint": (0, 90, 200)}])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_weight_is_linear_in_the_map(alpha: float, options: dict[str, Any]) -> None:
    np.testing.assert_allclose(_weight(RAMP, alpha=alpha, **options), alpha * RAMP, atol=1 / 255)
    limits = (-2.0, 2.0) if options.get("signed") else (0.0, 2.0)
    np.testing.assert_allclose(_weight(RAMP, alpha=alpha, limits=limits, **options), alpha * RAMP / 2, atol=1 / 255)


def test_a_sign_changes_the_colour_and_not_the_weight() -> None:
    np.testing.assert_allclose(_weight(RAMP, signed=True), _weight(-RAMP, signed=True), atol=1 / 255)
    red, blue = (np.asarray(overlay(BLACK, sign * RAMP, signed=True)).astype(int)[0, -1] for sign in (1, -1))
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_signed_colours_grow_linearly_too() -> None:
    over_black = np.asarray(overlay(BLACK, RAMP, alpha=1, signed=True)).astype(float)
    np.testing.assert_allclose(over_black, RAMP[..., None] * over_black[0, -1], atol=1)


def test_outside_the_crop_the_photo_is_dimmed() -> None:
    map = RAMP.copy()
    map[:, :3] = np.nan
    result, photo = np.asarray(overlay(_photo(), map)).astype(int), np.asarray(_photo()).astype(int)
    assert result[:, :3].mean() < 0.7 * photo[:, :3].mean()
    np.testing.assert_array_equal(result[:, 3:], np.asarray(overlay(_photo(), np.nan_to_num(map)))[:, 3:])
    assert overlay(_photo(), np.full((4, 11), np.nan)).size == (11, 4)


# --- pages


def test_a_grid_shows_every_picture_at_its_column() -> None:
    inks = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    row = [Panel(f"method {i}", Image.new("RGB", (40, 30), ink), "0.1 s") for i, ink in enumerate(inks)]
    page = grid([row, row], labels=["first", "second"], title="title", bar="signed")
    columns = [np.flatnonzero(_ink(page, ink).any(axis=0)) for ink in inks]
    assert columns[0][-1] < columns[1][0]
    assert columns[1][-1] < columns[2][0]
    assert len({len(column) for column in columns}) == 1
    assert page.width < 2000


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_long_words_stay_on_the_page_and_between_their_neighbours(columns: int) -> None:
    """The outer margin stays white, and so do the gaps between columns."""
    row = [Panel("a-very-long-method-name" * 3, Image.new("RGB", (40, 30)), "a long line " * 9)] * columns
    page = np.asarray(grid([row], title="an endless title " * 30, labels=["label " * 40]))
    assert page.shape[1] < 2000
    for edge in (page[:20], page[-20:], page[:, :20], page[:, -20:]):
        assert (edge == 255).all()
    below_title = page[120:]
    inked = np.flatnonzero((below_title < 255).any(axis=(0, 2)))
    assert (np.diff(inked) > 8).sum() == columns  # one gap beside the label, one between each two columns


def test_rows_may_differ_in_length_and_shape() -> None:
    page = grid(
        [[("tall", Image.new("RGB", (10, 40)))], [("a", _photo()), ("wide", Image.new("RGB", (90, 9)), "line")]]
    )
    assert page.height > page.width / 2


FACE = np.full((16, 16, 3), 128, dtype=np.uint8)
SPOT = np.zeros((16, 16))
SPOT[4:8, 4:8] = 1


def _gauge_of(score: float, threshold: float | None) -> Image.Image:
    page = pair_figure(FACE, FACE, (SPOT, SPOT), (SPOT, SPOT), score, threshold)
    return page.crop((0, page.height - 246, page.width, page.height))


@pytest.mark.parametrize(("score", "threshold", "match"), [(0.6, 0.3, True), (0.2, 0.3, False), (0.3, 0.3, True)])
def test_the_gauge_shows_the_decision(score: float, threshold: float, match: bool) -> None:
    page = _gauge_of(score, threshold)
    assert _ink(page, SIMILAR).any() == match
    assert _ink(page, DISSIMILAR).any() != match


def test_without_a_threshold_there_is_no_decision() -> None:
    page = _gauge_of(0.6, None)
    assert not _ink(page, SIMILAR).any()
    assert not _ink(page, DISSIMILAR).any()


def test_the_marker_moves_in_proportion_to_the_score() -> None:
    ends = []
    for score in (0.4, 0.6, 0.8):
        bar = _ink(_gauge_of(score, 0.2), SIMILAR)[118:]  # below the text
        ends.append(np.flatnonzero(bar.any(axis=0))[-1])
    np.testing.assert_allclose(ends[1] - ends[0], ends[2] - ends[1], atol=1)


def test_a_pair_figure_without_dissimilar_maps_has_one_column_less() -> None:
    full = pair_figure(FACE, FACE, (SPOT, SPOT), (SPOT, SPOT), 0.5, 0.3)
    assert pair_figure(FACE, FACE, (SPOT, SPOT), None, 0.5, 0.3).width < full.width < 2000


@pytest.mark.parametrize(("h", "w"), [(7, 7), (10, 10), (2, 5), (1, 1)])
def test_each_place_has_its_own_cell(h: int, w: int) -> None:
    """Black photo, no map: the frames alone show, one to a tile, in the tile's own cell."""
    page = location_sheet(np.zeros((40, 40, 3), dtype=np.uint8), np.zeros((h, w, 40, 40)))
    assert page.width < 2000
    tiles = np.asarray(page).copy()
    tiles[:110] = 255  # the key
    cyan = (tiles == CELL).all(axis=-1)
    black = (tiles.astype(int).sum(axis=-1) == 0) | cyan
    rows, columns = (_runs(black.mean(axis=axis) > 0.3) for axis in (1, 0))
    assert (len(rows), len(columns)) == (h, w)
    for r, (top, bottom) in enumerate(rows):
        for c, (left, right) in enumerate(columns):
            inside = np.argwhere(cyan[top:bottom, left:right])
            low, high = inside.min(axis=0), inside.max(axis=0) + 1
            height, width = bottom - top, right - left
            np.testing.assert_allclose(low, (r * height / h, c * width / w), atol=1)
            np.testing.assert_allclose(high, ((r + 1) * height / h, (c + 1) * width / w), atol=1)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each stretch of true values starts and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def test_unknown_localities_are_left_out() -> None:
    maps = torch.zeros(2, 2, 8, 8)
    bare = location_sheet(_photo(8, 8), maps)
    assert location_sheet(_photo(8, 8), maps, torch.full((2, 2), torch.nan)).tobytes() == bare.tobytes()
    assert location_sheet(_photo(8, 8), maps, torch.tensor([[0.5, 0.1], [0.2, torch.nan]])).tobytes() != bare.tobytes()


def test_the_chart_orders_layers_by_depth_whatever_their_order() -> None:
    rows = [{**ROW, "layer": f"layer{i}", "depth": i / 3, "share": 0.5 - 0.1 * i, "grid": (8, 8)} for i in range(3)]
    assert locality_chart(rows).tobytes() == locality_chart(rows[::-1]).tobytes()
    assert locality_chart(rows).width < 2000


@pytest.mark.parametrize("count", [1, 9, 60])
def test_the_chart_keeps_its_words_on_the_page(count: int) -> None:
    rows = [{**ROW, "layer": f"features.{i}.conv.block_$x$", "depth": i} for i in range(count)]
    page = np.asarray(locality_chart(rows, "A title with $signs$ and under_scores"))
    for edge in (page[:4], page[-4:], page[:, :4], page[:, -4:]):
        assert (edge == 255).all()


def test_an_interval_chart_shows_every_row_and_its_line() -> None:
    rows = [(f"method-{i}", 0.5 - i / 20, 0.4 - i / 20, 0.6 - i / 20, i > 4) for i in range(8)]
    page, longer = (np.asarray(interval_chart(some, "", "", 0.2, "random")) for some in (rows[:4], rows))
    assert longer.shape[0] > page.shape[0]  # a row each
    assert longer.shape[1] == page.shape[1]
    moved = np.asarray(interval_chart(rows, "", "", 0.4, "random"))
    assert not np.array_equal(longer, moved)


def test_drawing_leaves_matplotlib_alone() -> None:
    code = """
import sys
import faithmap.charts as charts
assert "matplotlib" not in sys.modules
import matplotlib
settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
row = {"layer": "a", "depth": 0, "share": 0.4, "low": 0.3, "high": 0.5}
charts.locality_chart([{**row, "ceiling": 0.8, "chance": 0.1}])
assert "matplotlib.pyplot" not in sys.modules
assert before == settings()
"""
    run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colour(np.zeros((2, 2, 2))), r"\(2, 2, 2\): expected \(H, W\)"),
        (lambda: colour(RAMP, limits=(1, 0)), r"low < high"),
        (lambda: colour(RAMP, signed=True, limits=(-1, 2)), r"\(-m, m\)"),
        (lambda: overlay(_photo(5, 6), RAMP), "6x5 pixels and the map 4x11 .*map_to_photo"),
        (lambda: overlay(_photo(), RAMP, alpha=2), r"alpha is 2: expected 0\.\.1"),
        (lambda: overlay(np.zeros((4, 11, 3)), RAMP), r"uint8 \(H, W, 3\)"),
        (lambda: overlay(torch.full((3, 4, 11), 3.0), RAMP), "undo the normalisation"),
        (lambda: grid([]), "at least one panel"),
        (lambda: grid([[("a", _photo())]], labels=["a", "b"]), "2 labels for 1 rows"),
        (lambda: pair_figure(FACE, FACE, (SPOT, RAMP), None, 0.5, None), "16x16 pixels and the map 4x11"),
        (lambda: pair_figure(FACE, FACE, (SPOT, SPOT), None, 7, None), "score is 7"),
        (lambda: pair_figure(FACE, FACE, (SPOT, SPOT), None, 0.5, 40), "threshold is 40"),
        (lambda: pair_figure(FACE, FACE, (SPOT, SPOT), None, float("nan"), None), "score is nan"),
        (lambda: location_sheet(_photo(), np.zeros((2, 2, 4, 9))), r"\(2, 2, 4, 9\).*\(h, w, 4, 11\)"),
        (lambda: location_sheet(_photo(), np.zeros((2, 2, 4, 11)), np.zeros((2, 3))), r"\(2, 3\).*\(2, 2\)"),
        (lambda: locality_chart([]), "at least one row"),
        (lambda: locality_chart([{"layer": "a", "depth": 0}]), "row 0 lacks share, low"),
    ],
)
def test_errors_name_what_was_given(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
