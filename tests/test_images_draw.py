"""Figures: what is where in them, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import InputError, NotFoundError
from analyzer.images import (
    COLORMAPS,
    ColourBar,
    channel_grid,
    colormap,
    colourise,
    draw_boxes,
    figure,
    fit,
    grid,
    signed_view,
)
from analyzer.images.colour import NAN_COLOUR
from analyzer.images.draw import round_values
from analyzer.images.text import clean, draw_text, shorten, text_width, wrap


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.flags.c_contiguous


# ---- colours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLORMAPS)
def test_ends_of_every_colour_map(name: str) -> None:
    table = colormap(name)
    assert table.dtype == np.uint8 and table.shape[1] == 3
    picture = colourise(np.array([[0.0, 5.0, 10.0]]), name)
    assert np.array_equal(picture[0, [0, 2]], table[[0, -1]])
    assert np.abs(picture[0, 1].astype(int) - table[len(table) // 2]).max() <= 4


def test_known_colours() -> None:
    assert np.abs(colormap("viridis")[[0, -1]].astype(int) - [[68, 1, 84], [253, 231, 37]]).max() <= 2
    assert colormap("gray")[100].tolist() == [100, 100, 100]


def test_signed_maps_are_white_at_zero() -> None:
    picture = colourise(np.array([[-2.0, 0.0, 1.0, 4.0]]), signed=True)
    blue, white, pink, red = picture[0].astype(int)
    assert white.tolist() == [255, 255, 255]
    assert blue[2] > blue[0] and pink[0] > pink[2] and red[0] > red[2] and pink[1] > red[1]
    assert np.all(colourise(np.zeros((2, 2)), signed=True) == 255)


def test_colors_of_values_whose_range_float32_cannot_hold():
    ends = np.array([[-3e38, 0.0, 3e38]], np.float32)
    assert np.array_equal(colourise(ends), colourise(ends / 1e30))


def test_odd_values() -> None:
    picture = colourise(np.array([[np.nan, -np.inf, 0, 1, np.inf]]), "viridis")
    table = colormap("viridis")
    assert picture[0].tolist() == [list(NAN_COLOUR), *(table[i].tolist() for i in (0, 0, -1, -1))]
    assert np.all(colourise(np.full((2, 2), 7.0), "viridis") == table[0])
    assert np.all(colourise(np.full((2, 2), np.nan)) == NAN_COLOUR)
    assert colourise(np.float16([[0, 6e4]]), "gray").tolist() == [[[0] * 3, [255] * 3]]


def test_unknown_colour_map_is_suggested() -> None:
    with pytest.raises(NotFoundError, match="viridis"):
        colourise(np.zeros((2, 2)), "virdis")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-3, 3, ["−3", "−2", "−1", "0", "1", "2", "3"]),
        (0, 0.037, ["0.00", "0.01", "0.02", "0.03"]),
        (0, 3e-6, ["0", "5e−7", "1e−6", "1.5e−6", "2e−6", "2.5e−6", "3e−6"]),
        (0, 2e7, ["0", "5e6", "1e7", "1.5e7", "2e7"]),
    ],
)
def test_ticks_are_round(low: float, high: float, words: list[str]) -> None:
    ticks = round_values(low, high, 6)
    assert list(ticks.values()) == words
    assert all(low <= value <= high for value in ticks)


# ---- text -------------------------------------------------------------------------------------------------------


def test_text_is_cleaned_to_what_can_be_drawn() -> None:
    assert clean("  two\n\twords\0 ") == "two words"
    question = np.zeros((48, 48, 3), np.uint8)
    draw_text(question, "?", 8, 36, 24)
    for text in ("naïve café", "猫 кот", "→ ≤ × … −", "😀", "ȳ"):
        kept = clean(text)
        assert kept and "?" not in kept
        for character in kept.replace(" ", ""):
            canvas = np.zeros((48, 48, 3), np.uint8)
            draw_text(canvas, character, 8, 36, 24)
            assert not np.array_equal(canvas, question), character


def test_text_fits_its_width() -> None:
    sentence = "a rather long sentence with many short words that goes on"
    lines = wrap(sentence, 150, 14, lines=9)
    assert " ".join(lines) == sentence and all(text_width(line, 14) <= 150 for line in lines)
    lines = wrap(sentence, 150, 14, lines=2)
    assert len(lines) == 2 and all(text_width(line, 14) <= 150 for line in lines)
    name = "/features/features.12/conv/conv.3/Conv_output_0"
    assert "".join(wrap(name, 150, 14, lines=9)) == name
    short = shorten(name, 150, 14)
    assert text_width(short, 14) <= 150 and short.endswith("put_0") and short.startswith("/f")
    titled = shorten(f"translation: {name}", 260, 14)
    assert titled.startswith("translation: ") and "…" in titled and titled.endswith(name[-10:])
    assert text_width(titled, 14) <= 260
    assert wrap("", 100, 14) == [] and shorten("", 10, 14) == ""
    assert len(wrap("W" * 50, 1, 14, lines=3)) == 3


def test_text_is_clipped_by_the_canvas() -> None:
    canvas = np.full((20, 20, 3), 255, np.uint8)
    for x, baseline in ((-30, 10), (15, 15), (5, -5), (5, 30), (500, 10)):
        draw_text(canvas, "clipped", x, baseline, 14)
    assert canvas.min() < 128


# ---- color bars ------------------------------------------------------------------------------------------------


def test_colour_bar_runs_from_low_to_high() -> None:
    picture = figure(np.zeros((500, 500, 3), np.uint8), bar=ColourBar("gray", 0, 1, {0: "", 1: ""}))
    margin = next(at for at in range(500) if picture[250, at, 0] == 0)
    column = picture[margin : margin + 500, margin + 500 + margin + 3, 0].astype(int)
    assert (column[0], column[-1]) == (255, 0) and np.all(np.diff(column) <= 0)


def test_zero_is_marked_where_a_scale_has_two_sides() -> None:
    picture = figure(np.full((101, 300, 3), 90, np.uint8), bar=ColourBar("blue-red", -1, 1))
    margin = next(at for at in range(200) if picture[50, at, 0] == 90)
    dark = np.flatnonzero((picture[:, margin + 300 + margin + 3] < 60).all(axis=1))
    assert len(dark) == 1 and abs(dark[0] - picture.shape[0] / 2) <= 1


# ---- gradients --------------------------------------------------------------------------------------------------


def test_views_of_a_gradient() -> None:
    gradient = np.random.default_rng(0).normal(size=(40, 50, 3)).astype(np.float32)
    gradient[:, 25:] = 0
    signed, normalised = (signed_view(gradient, mode) for mode in ("signed", "normalised"))
    for picture, nothing in ((signed, 255), (normalised, 128)):
        assert is_picture(picture) and picture.shape == (40, 50, 3)
        assert np.all(picture[:, 25:] == nothing)
    assert signed_view(gradient[..., 0], "normalised").shape == (40, 50, 3)
    assert is_picture(signed_view(gradient, title="gradient", colorbar=True))


@pytest.mark.parametrize("mode", ["signed", "normalised"])
def test_one_outlier_does_not_hide_the_rest(mode: str) -> None:
    gradient = np.random.default_rng(0).normal(size=(64, 64, 3))
    plain = signed_view(gradient, mode).astype(int)
    gradient[0, 0] = 1e6
    assert np.abs(signed_view(gradient, mode)[1:].astype(int) - plain[1:]).mean() < 3


def test_nearly_empty_gradients() -> None:
    gradient = np.zeros((64, 64))
    assert np.all(signed_view(gradient) == 255)
    gradient[3, 4] = -2
    picture = signed_view(gradient)
    assert picture[3, 4].tolist() == colormap("blue-red")[0].tolist()
    with pytest.raises(InputError, match="normalised"):
        signed_view(gradient, "normalized")
    with pytest.raises(InputError, match="shape"):
        signed_view(np.zeros((3, 64, 64)), "normalised")


# ---- grids, channels, boxes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 12, 100])
def test_grids_of_unequal_tiles(count: int) -> None:
    tiles = [noise(20 + 13 * (index % 7), 40 + 31 * (index % 5)) for index in range(count)]
    picture = grid(tiles, [f"tile {index}" for index in range(count)], title="a grid")
    assert is_picture(picture) and picture.shape[1] < 2200
    assert is_picture(grid(tiles, columns=3))


def test_tiles_keep_their_order_and_proportions() -> None:
    tiles = [np.full((100, 300, 3), value, np.uint8) for value in (10, 60, 110)]
    picture = grid(tiles, columns=3)
    row = picture[picture.shape[0] // 2, :, 0]
    runs = [row == value for value in (10, 60, 110)]
    assert [int(run.sum()) for run in runs] == [300] * 3
    assert [int((picture[..., 0] == value).any(axis=1).sum()) for value in (10, 60, 110)] == [100] * 3
    assert np.argmax(runs[0]) < np.argmax(runs[1]) < np.argmax(runs[2])


def test_grids_want_as_many_labels_as_tiles() -> None:
    for tiles, labels in (([], None), ([noise(8, 8)], ["a", "b"])):
        with pytest.raises(InputError):
            grid(tiles, labels)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 7), (64, 13, 13), (512, 7, 7), (20, 112, 112), (5, 4, 300)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_of_any_shape(shape: tuple[int, int, int], per_channel: bool) -> None:
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    picture = channel_grid(features, per_channel=per_channel, title="layer", total=512)
    assert is_picture(picture) and max(picture.shape) < 2600


def test_odd_channels_do_not_look_like_live_ones() -> None:
    features = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    plain = channel_grid(features)
    features[1] = 0
    dead = channel_grid(features)
    assert plain.shape == dead.shape
    changed = np.abs(plain.astype(int) - dead).sum(axis=2) > 0
    tile = dead[changed]
    assert np.ptp(tile, axis=1).max() < 60
    features[2, 0, 0] = np.nan
    assert is_picture(channel_grid(features, ["a", "b", "c", "d"], colormap="magma"))
    with_picture = channel_grid(features, picture=np.full((8, 8, 3), (9, 200, 30), np.uint8))
    assert (with_picture == (9, 200, 30)).all(axis=2).sum() > 70**2
    with pytest.raises(InputError, match="labels"):
        channel_grid(features, ["a"])
    with pytest.raises(InputError, match="feature map"):
        channel_grid(features[0])


def test_boxes_stay_in_the_picture_and_share_colours_by_class() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    boxes = [(10, 10, 100, 100), (300, 200, 400, 300), (-50, -50, 5000, 5000), (600, 440, 640, 480)]
    picture = draw_boxes(image, boxes, ["cat 0.9", "cat 0.25", "dog", "bird: 88%"])
    assert picture.shape == image.shape and not image.any()
    assert np.array_equal(picture[60, 10], picture[250, 300]) and picture[60, 10].any()
    assert is_picture(draw_boxes(image, [], [], title="none"))
    assert is_picture(draw_boxes(noise(20, 20), np.array([[2.0, 2.0, 9.0, 9.0]])))
    with pytest.raises(InputError, match="labels"):
        draw_boxes(image, boxes, ["one"])


def test_fit_keeps_small_pixels_square() -> None:
    image = noise(28, 28)
    assert np.array_equal(fit(image)[::16, ::16], image)
    assert fit(noise(224, 100)).shape == (448, 200, 3)
    assert fit(noise(600, 3000)).shape == (205, 1024, 3)
