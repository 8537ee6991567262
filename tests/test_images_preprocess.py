"""Preprocessing and placement: what the network is fed, and that heat lands where the pixels were."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import InputError
from analyzer.images import PRESETS, Preprocess
from analyzer.images.placement import Placement
from analyzer.images.resample import resize, sample

POLICIES = ("resize", "crop", "letterbox", "letterbox-corner")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# ---- resampling -------------------------------------------------------------------------------------------------


def slow_resize(image: np.ndarray, size: tuple[int, int], support: float, weight) -> np.ndarray:
    """The same sums, one output at a time, in one pass and without rounding between."""

    def matrix(length: int, total: int) -> np.ndarray:
        step = max(1.0, length / total)
        rows = []
        for index in range(total):
            centre = (index + 0.5) * length / total
            row = np.array([weight(abs((j + 0.5 - centre) / step)) for j in range(length)])
            rows.append(row / row.sum())
        return np.array(rows)

    down, across = matrix(image.shape[0], size[0]), matrix(image.shape[1], size[1])
    return np.einsum("ij,jkc,lk->ilc", down, image.astype(float), across)


def triangle(x: float) -> float:
    return max(0.0, 1 - x)


def cubic(x: float) -> float:
    near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
    return near if x < 1 else far if x < 2 else 0.0


@pytest.mark.parametrize("size", [(7, 5), (20, 31), (64, 9), (41, 37), (1, 1)])
@pytest.mark.parametrize(("name", "support", "weight"), [("bilinear", 1, triangle), ("bicubic", 2, cubic)])
def test_resize_is_the_weighted_mean_of_its_filter(name: str, support: float, weight, size: tuple[int, int]) -> None:
    image = noise(41, 37) // 2 + 60
    expected = np.clip(slow_resize(image, size, support, weight), 0, 255)
    assert np.abs(resize(image, size, name) - expected).max() < (1.1 if name == "bilinear" else 2)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "area", "nearest"])
@pytest.mark.parametrize("size", [(16, 24), (300, 200), (31, 401)])
def test_a_window_is_cut_from_the_whole(name: str, size: tuple[int, int]) -> None:
    image = noise(97, 61)
    whole = resize(image, size, name)
    assert whole.shape == (*size, 3)
    assert np.array_equal(resize(image, size, name, window=(3, 5, 9, 17)), whole[3:12, 5:22])


def test_same_size_is_the_same_picture() -> None:
    image = noise(23, 29)
    for name in ("bilinear", "area", "nearest"):
        assert np.array_equal(resize(image, (23, 29), name), image)


def test_area_means_and_nearest_picks() -> None:
    image = noise(8, 12)
    means = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, (4, 6), "area") - means).max() <= 1
    assert np.array_equal(resize(image, (4, 6), "nearest"), image[1::2, 1::2])
    assert np.array_equal(resize(image, (16, 24), "nearest"), image.repeat(2, 0).repeat(2, 1))


def test_antialias_off_looks_at_two_pixels() -> None:
    image = np.zeros((1, 64, 3), np.uint8)
    image[:, 31] = 255
    assert resize(image, (1, 4), antialias=True).max() > 0
    assert resize(image, (1, 4), antialias=False).max() == 0


def test_sample_agrees_with_opencv_when_enlarging() -> None:
    cv2 = pytest.importorskip("cv2")
    heat = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    rows, columns = (np.arange(50) + 0.5) * 7 / 50, (np.arange(83) + 0.5) * 9 / 83
    ours = sample(heat, rows, columns, (7 / 50, 9 / 83))
    assert np.abs(ours - cv2.resize(heat, (83, 50), interpolation=cv2.INTER_LINEAR)).max() < 1e-5


# ---- the tensor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_normalise_as_published(name: str) -> None:
    image = noise(32, 32)
    tensor, _ = Preprocess(**{"size": (32, 32), **PRESETS[name]}).apply(image)
    pixels = image.astype(float).transpose(2, 0, 1)[None]
    column = lambda *values: np.array(values).reshape(1, 3, 1, 1)  # noqa: E731
    expected = {
        "imagenet": lambda: (pixels / 255 - column(0.485, 0.456, 0.406)) / column(0.229, 0.224, 0.225),
        "0-1": lambda: pixels / 255,
        "-1-1": lambda: pixels / 127.5 - 1,
        "raw": lambda: pixels,
        "caffe": lambda: pixels[:, ::-1] - column(103.939, 116.779, 123.68),
        "clip": lambda: (
            (pixels / 255 - column(0.48145466, 0.4578275, 0.40821073)) / column(0.26862954, 0.26130258, 0.27577711)
        ),
    }[name]()
    assert tensor.dtype == np.float32
    assert np.abs(tensor - expected).max() < 2e-5


def test_layouts_channels_and_types() -> None:
    image = noise(20, 30)
    plain = Preprocess(size=(20, 30), **PRESETS["raw"])
    nchw, _ = plain.apply(image)
    assert nchw.shape == (1, 3, 20, 30) and nchw.flags.c_contiguous
    nhwc, _ = plain.replace(layout="NHWC", channels="BGR").apply(image)
    assert np.array_equal(nhwc[0], image[..., ::-1])
    grey, _ = plain.replace(channels="GRAY").apply(image)
    assert grey.shape == (1, 1, 20, 30)
    assert np.abs(grey[0, 0] - image @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    for dtype in ("float16", "float64", "uint8", "int32"):
        tensor, _ = plain.replace(dtype=dtype).apply(image)
        assert tensor.dtype == dtype and np.array_equal(tensor, nchw)
    signed, _ = plain.replace(dtype="int8", mean=(128.0,)).apply(image)
    assert np.array_equal(signed, nchw - 128)


def test_integers_saturate() -> None:
    tensor, _ = Preprocess(size=(4, 4), scale=2.0, dtype="uint8").apply(np.full((4, 4, 3), 200, np.uint8))
    assert tensor.min() == 255


def test_torchvision_geometry_of_a_crop() -> None:
    """Resize(256) then CenterCrop(224): 333×500 becomes 256×384, offset (16, 80)."""
    _, placement = Preprocess(resize="crop").apply(noise(333, 500))
    assert placement.scale == (256 / 333, 384 / 500)
    assert placement.offset == (-16, -80)
    _, placement = Preprocess(resize="crop", crop_fraction=1.0).apply(noise(500, 333))
    assert placement.scale == (336 / 500, 224 / 333) and placement.offset == (-56, 0)


def test_letterbox_pads_with_grey() -> None:
    image = np.full((50, 100, 3), 10, np.uint8)
    middle, _ = Preprocess(size=(80, 80), resize="letterbox", **PRESETS["raw"]).apply(image)
    assert np.array_equal(np.unique(middle[0, :, 20:60]), [10])
    assert np.array_equal(np.unique(middle[0, :, :20]), [114]) and np.array_equal(np.unique(middle[0, :, 60:]), [114])
    corner, placement = Preprocess(size=(80, 80), resize="letterbox-corner", pad_value=0, **PRESETS["raw"]).apply(image)
    assert np.array_equal(np.unique(corner[0, :, :40]), [10]) and np.array_equal(np.unique(corner[0, :, 40:]), [0])
    assert placement.content_box == (0, 0, 80, 40)


def test_native_size_changes_nothing() -> None:
    image = noise(33, 47)
    for policy in POLICIES:
        tensor, placement = Preprocess(size=None, resize=policy, **PRESETS["raw"]).apply(image)
        assert np.array_equal(tensor[0], image.transpose(2, 0, 1))
        assert placement.input_size == (33, 47) and placement.scale == (1, 1) and placement.offset == (0, 0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_undo_shows_what_the_network_saw(name: str, layout: str) -> None:
    image = noise(40, 40)
    how = Preprocess(**{**PRESETS[name], "size": (40, 40), "layout": layout, "interpolation": "bilinear"})
    assert np.array_equal(how.undo(how.apply(image)[0]), image)
    grey = how.replace(channels="GRAY", mean=(0.5,), std=(0.5,))
    assert np.ptp(grey.undo(grey.apply(image)[0]), axis=2).max() == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": "NHCW"}, "NHCW"),
        ({"resize": "lettrbox"}, "letterbox"),
        ({"channels": "GRAY", "mean": (0.1, 0.2, 0.3)}, "GRAY needs 1"),
        ({"std": (0.0,)}, "must not be 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"crop_fraction": 0.0}, "crop_fraction"),
        ({"size": (0, 224)}, "size"),
        ({"dtype": "uint8", **PRESETS["imagenet"]}, "only 5 levels"),
        ({"dtype": "bool"}, "bool"),
    ],
)
def test_impossible_settings_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        Preprocess(**fields)
    assert words in str(error.value)


def test_only_rgb_pictures_are_taken() -> None:
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(InputError, match="uint8 RGB"):
            Preprocess().apply(wrong)


def test_a_description_says_it_all() -> None:
    text = Preprocess(resize="crop", **PRESETS["imagenet"]).describe()
    assert text == (
        "RGB 224×224 NCHW float32, short side resized, center crop 0.875, bilinear, "
        "(x/255 − (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)"
    )
    assert Preprocess(size=None, scale=1.0).describe().endswith("own size NCHW float32, raw pixels 0 … 255")
    assert Preprocess(scale=1 / 127.5, mean=(1.0,)).describe().endswith("x/127.5 − 1")


# ---- where the pixels are ---------------------------------------------------------------------------------------

SIZES = [(64, 64), (480, 640), (641, 333), (37, 53), (1000, 60), (31, 900)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", [(224, 224), (97, 131)])
def test_heat_lands_where_the_pixels_are(policy: str, size: tuple[int, int], network: tuple[int, int]) -> None:
    """A bright square is preprocessed; the tensor, taken as a heat map, must come back onto the square."""
    how = Preprocess(size=network, resize=policy, pad_value=0, **PRESETS["0-1"])
    for row, column in ((0.5, 0.5), (0.42, 0.57), (0.1, 0.85)):
        image = np.zeros((*size, 3), np.uint8)
        y, x = int(row * size[0]), int(column * size[1])
        half = [max(1, side // 20) for side in size]
        square = np.zeros(size, bool)
        square[max(0, y - half[0]) : y + half[0] + 1, max(0, x - half[1]) : x + half[1] + 1] = True
        image[square] = 255
        tensor, placement = how.apply(image)
        heat = placement.map_to_image(tensor[0, 0])
        assert heat.shape == size and heat.dtype == np.float32
        assert not heat[~placement.covered].any()
        if not (square & placement.covered).any():
            continue
        hottest = np.array(np.unravel_index(heat.argmax(), size))
        assert np.abs((np.argwhere(square) - hottest) * placement.scale).max(axis=1).min() <= 1
        if placement.covered[square].all():
            bright, seen = (np.argwhere(mask).mean(axis=0) for mask in (heat >= 0.9 * heat.max(), square))
            # Within one pixel of the network, or half a pixel of a picture that is coarser.
            assert np.all(np.abs(bright - seen) <= np.maximum(1 / np.array(placement.scale), 0.5)), (bright, seen)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_a_ramp_comes_back_as_itself(policy: str, size: tuple[int, int]) -> None:
    """Coordinates as heat: a filter over whole cells moves them by hundredths, the border's half cells are constant."""
    _, placement = Preprocess(resize=policy).apply(np.zeros((*size, 3), np.uint8))
    for cells in (7, 224, 500):
        ramp = np.tile((np.arange(cells) + 0.5) * 224 / cells, (cells, 1))
        heat = placement.map_to_image(np.dstack([ramp, ramp.T]))
        rows, columns = np.nonzero(placement.covered)
        x, y = placement.point_to_input(columns + 0.5, rows + 0.5)
        margin = 112 / cells + max(placement.scale)
        for got, expected in ((heat[rows, columns, 0], x), (heat[rows, columns, 1], y)):
            inner = (expected > margin) & (expected < 224 - margin)
            assert np.abs(got - expected)[inner].max(initial=0) < (0.05 if max(placement.scale) * cells > 224 else 2e-3)
            assert np.abs(got - expected).max() <= margin + 1e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_boxes_and_points_go_there_and_back(policy: str) -> None:
    _, placement = Preprocess(resize=policy).apply(noise(300, 517))
    box = (10.5, 20.0, 300.25, 211.0)
    assert placement.box_to_image(placement.box_to_input(box)) == pytest.approx(box)
    assert placement.point_to_image(*placement.point_to_input(7, 9)) == pytest.approx((7, 9))
    x0, y0, x1, y1 = placement.box_to_input(placement.covered_box)
    assert min(x0, y0) >= -1e-6 and max(x1, y1) <= 224 + 1e-6


def test_crop_covers_its_centre_only() -> None:
    _, placement = Preprocess(resize="crop").apply(noise(256, 512))
    heat = placement.map_to_image(np.ones((7, 7), np.float32))
    assert placement.covered_box == (144, 16, 368, 240)
    assert np.array_equal(heat > 0, placement.covered)
    assert placement.covered.sum() == 224 * 224
    for policy in ("resize", "letterbox"):
        assert Preprocess(resize=policy).apply(noise(256, 512))[1].covered.all()


def test_padding_keeps_its_heat_to_itself() -> None:
    _, placement = Preprocess(resize="letterbox").apply(noise(100, 400))
    heat = np.zeros((224, 224), np.float32)
    heat[:80] = 1
    assert placement.map_to_image(heat).max() == 0


def test_a_fine_map_is_averaged_onto_a_coarse_picture() -> None:
    _, placement = Preprocess().apply(noise(28, 28))
    checks = np.indices((224, 224)).sum(axis=0) % 2
    assert np.abs(placement.map_to_image(checks)[2:-2, 2:-2] - 0.5).max() < 0.01


def test_each_axis_of_a_map_is_averaged_by_its_own_fineness() -> None:
    """Every eighth row lit, and the columns as fine as the picture: an eighth everywhere; the same turned."""
    _, placement = Preprocess(size=(28, 28)).apply(noise(28, 28))
    stripes = np.zeros((224, 28), np.float32)
    stripes[::8] = 1
    for heat in (stripes, stripes.T):
        assert np.abs(placement.map_to_image(heat)[2:-2, 2:-2] - 1 / 8).max() < 1e-6


def test_no_map_no_picture() -> None:
    _, placement = Preprocess().apply(noise(28, 28))
    for shape in ((7,), (0, 7)):
        with pytest.raises(InputError, match="map of shape"):
            placement.map_to_image(np.zeros(shape))


def test_a_picture_is_seen_whole_where_every_pixel_is_covered() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(500):
        sizes = [tuple(int(n) for n in rng.integers(1, 40, 2)) for _ in range(2)]
        scale = tuple(b / a * factor for a, b, factor in zip(*sizes, rng.choice([0.7, 1, 1, 1, 1.1], 2), strict=True))
        placement = Placement(*sizes, scale, tuple(rng.choice([-0.5, 0, 0, 0, 0.5], 2).tolist()))
        assert placement.whole == placement.covered.all()
        seen.add(placement.whole)
    assert seen == {True, False}
