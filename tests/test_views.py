"""How maps are drawn: the views, what is on their scales, and which of them a method has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import analyzer
from analyzer.attribution import METHODS
from analyzer.attribution.drawn import drawn_as
from analyzer.errors import InputError
from analyzer.images import VIEWS, Drawing, Map, Panel, Placement, colormap, sheet, write_png
from analyzer.images.draw import fit
from analyzer.images.feeding import Fed, Given
from analyzer.images.views import UNSEEN, fitting, limits, one, over_picture, several
from tests.models import small_cnn

SIDE = (448, 1024)
RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def pixels(height: int = 64, width: int = 64) -> Map:
    """A map of a gradient: signed numbers in three channels."""
    channels = RNG.normal(size=(height, width, 3)).astype(np.float32)
    return Map(noise(height, width), np.abs(channels).max(axis=2), channels, True, ("rgb", "map"), group="gradient")


def bare(given: Map, **drawing: object) -> np.ndarray:
    return one(given, Drawing(**drawing), SIDE, bare=True)  # type: ignore[arg-type]


# ---- Over the picture ----


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (224, 224), (300, 20), (12, 900), (1500, 2100)])
@pytest.mark.parametrize("title", ["", "tabby cat", "a long title " * 12])
def test_figures_of_any_size(size: tuple[int, int], title: str) -> None:
    picture = one(Map(noise(*size), RNG.random((7, 7)), title=title), Drawing(), SIDE)
    assert is_picture(picture)
    assert 384 <= max(picture.shape) <= 1300
    assert np.all(picture[[0, -1]] == 255) and np.all(picture[:, [0, -1]] == 255)


def test_no_heat_leaves_the_picture_and_high_heat_colors_it() -> None:
    gray = np.full((512, 512, 3), 128, np.uint8)
    heat = np.zeros((512, 512))
    heat[:, 256:] = 1
    picture = bare(Map(gray, heat), alpha=1.0).astype(int)
    assert picture.shape == (512, 512, 3)
    assert np.array_equal(picture[256, 500], colormap("turbo")[-1])
    assert np.array_equal(picture[256, 10], [128, 128, 128])


def test_heat_is_in_proportion_to_what_is_there() -> None:
    """A map of little variation is hot everywhere, unless its scale starts at its lowest value."""
    gray, heat = np.full((512, 512, 3), 128, np.uint8), np.full((512, 512), 0.9)
    heat[:, 256:] = 1
    low, high = (bare(Map(gray, heat, from_zero=zero), alpha=1.0)[256, 10] for zero in (True, False))
    assert np.abs(low.astype(int) - colormap("turbo")[round(0.9 * 255)]).max() < 12
    assert high.tolist() == [128, 128, 128]


def test_heat_lies_over_the_whole_picture() -> None:
    heat = np.zeros((9, 7))
    heat[1, 5] = 1
    picture = bare(Map(np.zeros((512, 768, 3), np.uint8), heat), colormap="gray")
    y, x = np.argwhere(picture[..., 0] >= picture.max() * 0.95).mean(axis=0)
    assert abs(y + 0.5 - 1.5 / 9 * 512) < 3 and abs(x + 0.5 - 5.5 / 7 * 768) < 3


@pytest.mark.parametrize("view", VIEWS)
def test_what_the_network_did_not_see_is_gray(view: str) -> None:
    given = pixels()
    values, channels = given.values.copy(), given.channels.copy()  # type: ignore[union-attr]
    values[:, :32], channels[:, :32] = np.nan, np.nan
    picture = bare(replace(given, values=values, channels=channels), view=view).astype(int)
    assert np.ptp(picture[:, :200], axis=2).max() <= 6  # UNSEEN itself is slightly blue
    if view not in ("overlay", "contour"):
        assert picture[5, 5].tolist() == list(UNSEEN)
    if view != "map":
        assert np.ptp(picture[:, 300:], axis=2).max() > 50


@pytest.mark.parametrize("view", ["overlay", "map", "signed", "contour"])
@pytest.mark.parametrize("heat", [np.zeros((7, 7)), np.full((7, 7), np.nan), np.full((7, 7), -3.0), np.ones((1, 1))])
def test_empty_heat_is_drawn(heat: np.ndarray, view: str) -> None:
    assert is_picture(one(Map(noise(64, 64), heat, title="empty"), Drawing(view), SIDE))


def test_contours_are_closed_lines_at_a_quarter_a_half_and_three_quarters() -> None:
    y, x = np.mgrid[:512, :512]
    cone = np.clip(1 - np.hypot(y - 256, x - 256) / 200, 0, 1)
    picture = bare(Map(np.full((512, 512, 3), 128, np.uint8), cone), view="contour").astype(int)
    colors = np.ptp(picture[256], axis=1) > 60
    starts = np.flatnonzero(np.diff(colors.astype(int)) == 1)
    expected = [256 - 200 * share for share in (0.75, 0.5, 0.25)] + [256 + 200 * share for share in (0.25, 0.5, 0.75)]
    assert len(starts) == 6 and np.abs(starts - expected).max() < 4


# ---- Signed numbers ----


def test_signed_maps_have_zero_in_the_middle() -> None:
    values = np.array([[-1.0, 0.0, 3.0]])
    given = Map(np.full((448, 448, 3), 128, np.uint8), values.repeat(448, 0).repeat(150, 1)[:, 1:449])
    scale = limits(given, "signed", Drawing())
    assert scale == (-3, 3)
    picture = bare(given, view="signed").astype(int)
    blue, none, red = picture[200, 10], picture[200, 224], picture[200, 440]
    assert np.ptp(none) == 0 and blue[2] > blue[0] and red[0] > red[2] + 60
    assert np.abs(red - none).max() > np.abs(blue - none).max()


def test_pixels_are_drawn_beside_the_picture_on_white_and_on_gray() -> None:
    given = pixels()
    given.channels[:32] = 0  # type: ignore[index]
    given.values[:32] = 0
    for view, nothing in (("rgb", 128), ("map", 255), ("signed", 255)):
        assert not over_picture(given, view)
        assert np.all(bare(given, view=view)[:200] == nothing)
    red = np.zeros((448, 448, 3), np.float32)
    red[..., 0] = 1
    assert bare(replace(given, channels=red), view="rgb")[5, 5].tolist() == [255, 128, 128]


@pytest.mark.parametrize("view", ["rgb", "map", "signed", "overlay"])
def test_one_outlier_does_not_hide_the_rest(view: str) -> None:
    given = pixels()
    plain = bare(given, view=view).astype(int)
    channels = given.channels.copy()  # type: ignore[union-attr]
    channels[0, 0] = 1e6
    wild = replace(given, channels=channels, values=np.abs(channels).max(axis=2))
    assert np.abs(bare(wild, view=view)[8:].astype(int) - plain[8:]).mean() < 4


def test_the_percentile_is_drawn_in_full() -> None:
    given = Map(noise(8, 8), np.arange(101.0)[None].repeat(2, 0))
    assert limits(given, "overlay", Drawing()) == (0, 100)
    assert limits(given, "overlay", Drawing(percentile=50)) == (0, 50)
    assert limits(given, "signed", Drawing(percentile=90)) == (-90, 90)
    with pytest.raises(InputError, match="percentile"):
        Drawing(percentile=0)


def test_views_that_a_method_has_no_numbers_for_are_refused() -> None:
    with pytest.raises(InputError, match="grad-cam has one number per position"):
        bare(Map(noise(8, 8), np.ones((8, 8)), group="grad-cam"), view="rgb")
    with pytest.raises(InputError, match="no view 'heat'"):
        Drawing(view="heat")


# ---- Grids ----


def test_a_grid_of_many_methods_is_a_rectangle() -> None:
    maps = [Map(noise(224, 224), RNG.random((7, 7)), title=f"method {n}", group=str(n)) for n in range(19)]
    picture = several(maps, Drawing())
    assert is_picture(picture) and 0.8 < picture.shape[1] / picture.shape[0] < 2
    assert [fitting(n) for n in (1, 2, 4, 6, 12, 20)] == [1, 2, 4, 3, 4, 5]


def test_rows_of_methods_and_columns_of_targets() -> None:
    image = np.full((448, 448, 3), 100, np.uint8)
    maps = [Map(image, np.full((7, 7), float(n)), group=str(n // 3)) for n in range(1, 7)]
    picture = several(maps, Drawing(), 3)
    column = picture[:, 60]
    assert np.all(column[: picture.shape[0] // 3] == picture[:, 60][: picture.shape[0] // 3])
    assert np.all(picture[-100:, : picture.shape[1] // 5] == 255)  # the picture stands in the first row only


def test_shared_ranges_are_comparable() -> None:
    image = np.full((448, 448, 3), 128, np.uint8)
    maps = [Map(image, np.full((7, 7), top), group="one") for top in (1.0, 4.0)]
    own, shared = (several(maps, Drawing("map", range=how), 2) for how in ("own", "shared"))
    row = own.shape[0] // 2
    hot = colormap("turbo")[-1]
    assert (own[row] == hot).all(axis=1).sum() > 1.8 * (shared[row] == hot).all(axis=1).sum() > 0
    assert limits(maps[0], "map", Drawing()) == (0, 1)


def test_long_titles_keep_their_end() -> None:
    name = "grad-cam of /a/very/long/name/of/a/layer/in/a/deep/network/with/many/blocks/and/branches/final/Relu_"
    one_, two = (sheet([Panel(fit(noise(64, 64), 160, 160), name + end)], 1) for end in ("1", "2"))
    assert not np.array_equal(one_, two)


# ---- Methods ----


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_how_it_is_drawn(name: str) -> None:
    method = METHODS[name]
    assert method.views and set(method.views) <= set(VIEWS)
    if method.kind != "gradient":
        assert "rgb" not in method.views
    elif name not in ("var-grad", "input-x-gradient", "integrated-gradients"):
        assert set(method.views) == {"rgb", "map"}  # both on gray and by magnitude


def fed_by(image: np.ndarray) -> Fed:
    size = (image.shape[0], image.shape[1])
    given = Given(np.zeros((1, 3, *size), np.float32), image[None], Placement(size, size, (1.0, 1.0), (0.0, 0.0)))
    return Fed({}, given, given)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.kind != "map" or n == "occlusion"])
def test_maps_are_drawn_in_the_numbers_of_their_method(name: str) -> None:
    if name in ("cam", "full-grad"):
        pytest.skip("not defined for this model")
    x = np.random.default_rng(1).normal(size=(1, 3, 12, 12)).astype(np.float32)
    found = analyzer.explain(small_cnn(), x, method=name)
    values, channels = found.in_units(0), found.channels(0)
    assert values.shape == (12, 12)
    if METHODS[name].kind == "gradient":
        assert channels is not None and np.array_equal(channels, found.raw[0].transpose(1, 2, 0))
        np.testing.assert_allclose(values, np.abs(found.raw[0]).max(axis=0), atol=1e-6 * np.abs(found.raw).max())
    else:
        assert (
            channels is None and found.raw[0].min() - 1e-5 <= values.min() <= values.max() <= found.raw[0].max() + 1e-5
        )
    low, high = found.extent(0)
    np.testing.assert_allclose(values, low + found.heatmap[0] * (high - low), atol=1e-6)
    (drawn,) = drawn_as(name, fed_by(noise(12, 12)), values, channels)
    assert is_picture(one(drawn, Drawing(), SIDE))
    if METHODS[name].kind == "gradient":  # where only magnitudes are at hand
        assert drawn_as(name, fed_by(noise(12, 12)), values)[0].views == ("map",)


def test_channels_of_bgr_models_are_drawn_as_red_green_and_blue(tmp_path) -> None:
    write_png(tmp_path / "p.png", noise(12, 12))
    found = analyzer.explain(small_cnn(), tmp_path / "p.png", method="gradient", channels="BGR")
    plain = analyzer.explain(small_cnn(), tmp_path / "p.png", method="gradient", channels="RGB")
    blue_first = found.raw[0].transpose(1, 2, 0)
    swapped = drawn_as("gradient", fed_by(noise(12, 12)), found.in_units(0), blue_first[..., ::-1])[0]
    expected = one(replace(swapped, image=noise(12, 12)), Drawing("rgb"), SIDE, bare=True)
    panel_ = found.overlay(view="rgb")
    rows, columns = np.nonzero((panel_[:, :, 0] == expected[0, 0, 0]) & (panel_[:, :, 2] == expected[0, 0, 2]))
    assert len(rows) and any(
        np.array_equal(
            panel_[y : y + 448, x : x + 448], expected[: panel_.shape[0] - y, : panel_.shape[1] - x][:448, :448]
        )
        for y, x in zip(rows[:4000].tolist(), columns[:4000].tolist(), strict=True)
    )
    assert not np.array_equal(panel_, plain.overlay(view="rgb"))
