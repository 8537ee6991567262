"""Large pictures cost little beyond their decoding, with the results that small ones have."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import analyzer
from analyzer.images import (
    Fed,
    Feeding,
    Placement,
    Preprocess,
    decode,
    model_card,
    png_strips,
    read,
    resample,
    write_png,
)
from analyzer.images.decode import _eight_bits, _over_white
from analyzer.images.feeding import Given
from analyzer.images.read import as_rgb
from analyzer.images.resample import resize as resized
from analyzer.images.resample import strips

# The package's names are those of the functions.
decoding, reading = (importlib.import_module(f"analyzer.images.{name}") for name in ("decode", "read"))
ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/digits_cnn.onnx"
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("resize", ["resize", "crop", "letterbox", "letterbox-corner"])
@pytest.mark.parametrize("size", [(300, 430), (430, 301), (33, 70), (224, 224)])
@pytest.mark.parametrize("channels", ["RGB"])
def test_the_gray_picture_is_made_small(resize: str, size: tuple[int, int], channels: str) -> None:
    feeding = Feeding.of(Preprocess(size=(224, 192), resize=resize, channels=channels), "x")
    like = feeding.feed(RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
    whole = feeding.feed(np.full((*size, 3), 128, np.uint8)).feeds
    assert all(np.array_equal(feeding.grey(like)[name], array) for name, array in whole.items())


def test_strips_change_no_pixel() -> None:
    deep = RNG.integers(0, 1 << 16, (1500, 700, 4)).astype(np.uint16)
    assert len(strips(deep)) > 3
    eight = _eight_bits(deep, "p")
    assert np.array_equal(eight, ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    alpha = eight[..., 3:].astype(np.uint16)
    assert np.array_equal(
        _over_white(eight, "p"), ((eight[..., 2::-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    )
    assert np.array_equal(
        _over_white(eight, "p", True), np.minimum(eight[..., 2::-1] + (255 - alpha), 255).astype(np.uint8)
    )


# ---- PNG files in strips ----


def png(pixels: np.ndarray) -> bytes:
    """A PNG file as OpenCV writes it, with all of PNG's filters: its strategy is to choose the best for each row."""
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS])
    assert done
    return bytes(data)


def decoded(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("strip", [1, 5000, 1 << 22])
def test_a_png_in_strips_is_the_whole_png(
    kind: type, channels: int, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png_strips, "STRIP", strip)
    small = decode(str(ROOT / "examples/digits_chelsea.png"))[:61, :90]
    pixels = (small.astype(kind) * (257 if kind == np.uint16 else 1))[..., [0, 1, 2, 0][:channels]]
    pixels += RNG.integers(0, 5, pixels.shape).astype(kind)
    found = png_strips.decoded_in_strips(png(pixels), decoded)
    assert found is not None and found.dtype == kind and np.array_equal(found, pixels.squeeze())
    means = png_strips.decoded_in_strips(png(pixels), decoded, 4)
    exact = [[pixels[y : y + 4, x : x + 4].mean(axis=(0, 1)) for x in range(0, 90, 4)] for y in range(0, 61, 4)]
    assert means is not None and means.dtype == kind and means.shape[:2] == (16, 23)
    assert np.abs(means - np.squeeze(exact)).max() <= 0.51


def test_a_gray_png_with_alpha_in_strips_is_the_whole_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_strips, "STRIP", 1000)
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 30, 2)).astype(np.uint8), "LA").save(file, "PNG")
    found, whole = png_strips.decoded_in_strips(file.getvalue(), decoded), decoded(file.getvalue())
    assert found is not None and whole is not None and np.array_equal(found, whole)


def test_a_large_png_is_decoded_in_strips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = RNG.integers(0, 1 << 16, (40, 30, 3)).astype(np.uint16)
    path, calls = tmp_path / "deep.png", []
    path.write_bytes(png(given))
    whole = read(path)
    monkeypatch.setattr(decoding, "LARGE", 1000)
    monkeypatch.setattr(png_strips, "STRIP", 1000)
    one = png_strips._chunk
    monkeypatch.setattr(png_strips, "_chunk", lambda kind, body: calls.append(kind) or one(kind, body))
    assert np.array_equal(read(path).pixels, whole.pixels) and calls.count(b"IHDR") > 3
    assert np.array_equal(whole.pixels[0], given[..., ::-1])


@pytest.mark.parametrize("mode", ["1", "P"])
def test_other_png_files_are_left_to_the_decoder(mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    Image.fromarray(RNG.integers(0, 256, (90, 80, 3)).astype(np.uint8)).convert(mode).save(path)
    assert png_strips.decoded_in_strips(path.read_bytes(), decoded) is None
    whole = read(path)
    for where in (decoding, reading):
        monkeypatch.setattr(where, "LARGE", 1000)
    found = read(path, enough=20)
    assert np.array_equal(found.pixels, whole.pixels) and found.size is None


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("white", [None, 4095.0])
@pytest.mark.parametrize("takes", [3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_large_png_is_decoded_reduced_where_that_suffices(
    kind: type, channels: int, takes: int, white: float | None, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means of blocks of what the whole picture is: alpha over white before that, never after."""
    pixels = RNG.integers(0, 256 if kind == np.uint8 else 4096, (64, 96, channels)).astype(kind)
    data = png(pixels)
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0" + b"\0" * 4
    data = data[:33] + png_strips._chunk(b"eXIf", exif) + data[33:]
    whole = read(data, white, takes)
    for where in (decoding, reading):
        monkeypatch.setattr(where, "LARGE", 1000)
    monkeypatch.setattr(png_strips, "STRIP", 3000)
    found = read(data, white, takes, enough=16)
    _, height, width, _ = whole.pixels.shape
    blocks = whole.pixels[0].reshape(height // 4, 4, width // 4, 4, -1).mean(axis=(1, 3))
    assert found.pixels.dtype == whole.pixels.dtype and found.size == (height, width)
    assert np.abs(found.pixels[0] - blocks).max() <= 0.51
    assert (found.white, found.remark) == (whole.white, whole.remark)


def test_a_damaged_large_png_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE", 1000)
    monkeypatch.setattr(png_strips, "STRIP", 1000)
    data = png(RNG.integers(0, 256, (40, 30, 3)).astype(np.uint8))
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    body = data[at + 4 : at + 4 + length // 2]  # half of the pixels, in a chunk that is whole
    cut = data[: at - 4] + png_strips._chunk(b"IDAT", body) + png_strips._chunk(b"IEND", b"")
    with pytest.raises(analyzer.AnalyzerError, match="cannot decode this PNG file"):
        read(cut)


# ---- 16 bits ----


def test_deep_pixels_are_not_rounded() -> None:
    """Against the same sums in float64, whichever way the picture is resized, gray and with alpha."""
    deep = RNG.integers(0, 1 << 16, (60, 50, 4)).astype(np.uint16)
    opaque = deep[..., :3].astype(float) * (deep[..., 3:] / 65535) + (65535.0 - deep[..., 3:])
    for channels in ("RGB", "GRAY"):
        how = Preprocess(size=(20, 25), channels=channels, scale=1.0, resize="letterbox")
        ours, _ = how.apply_deep(deep, 65535.0)
        exact = (opaque * (255 / 65535)).astype(np.float32)
        theirs, _ = how.apply_deep(exact)
        np.testing.assert_allclose(ours, theirs, atol=0.01)
        assert np.array_equal(as_rgb(deep, 65535.0), np.rint(exact).astype(np.uint8))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_large_pictures_are_resized_as_small_ones(
    kind: type, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 256, (1300, 900, 3)).astype(kind)
    small = resized(pixels, (33, 21), interpolation, True)
    monkeypatch.setattr(resample, "LARGE", 1000)
    assert len(strips(pixels)) > 2
    np.testing.assert_allclose(resized(pixels, (33, 21), interpolation, True), small, atol=1e-3)
    assert small.dtype == (np.uint8 if kind == np.uint8 else np.float32)


# ---- Decoded at a reduced scale ----


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


HIGH, WIDE = 3600, 4800


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of 17 megapixels, as JPEG."""
    small = decode(str(ROOT / "examples/digits_chelsea.png"))
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    write_png(path, resized(small, (HIGH, WIDE), "bilinear", True))
    return path


def test_a_large_jpeg_is_decoded_reduced_where_that_suffices(large: Path) -> None:
    whole = read(large)
    assert whole.pixels.shape == (1, HIGH, WIDE, 3) and whole.size is None
    for enough, by in ((400, 8), (800, 4), (1024, 2), (1801, 1)):
        found = read(large, enough=enough)
        assert found.pixels.shape == (1, HIGH // by, WIDE // by, 3)
        assert found.size == ((HIGH, WIDE) if by > 1 else None)
    assert read(ROOT / "examples/digits_chelsea.png", enough=8).size is None


def test_a_reduced_picture_is_turned_as_the_whole_one(large: Path, tmp_path: Path) -> None:
    data = large.read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    whole, found = read(turned), read(turned, enough=400)
    assert whole.pixels.shape[1:3] == found.size == (WIDE, HIGH)
    ours, theirs = (resized(p.pixels[0], (60, 45), "bilinear", True).astype(int) for p in (whole, found))
    assert np.abs(ours - theirs).mean() < 2


def test_the_input_of_a_reduced_picture_is_nearly_the_same(large: Path) -> None:
    """The docs say: half a level of 255 on average."""
    card = model_card(MODEL)
    feeding = Feeding.of(card.preprocess, "x")
    whole, reduced = feeding.feed(large), feeding.feed(large, 256)
    assert reduced.main.frames.shape[1] < HIGH == whole.main.frames.shape[1]
    scale = np.array(card.preprocess.std).max() / card.preprocess.scale
    assert np.abs(whole.feeds["x"] - reduced.feeds["x"]).mean() * scale < 0.5
    assert reduced.placement.image_size == whole.placement.image_size == (HIGH, WIDE)
    assert reduced.placement.point_to_input(1000, 2000) == pytest.approx(whole.placement.point_to_input(1000, 2000))


@pytest.mark.parametrize("resize_", ["resize", "crop", "letterbox"])
def test_the_maximum_is_found_without_a_map_of_full_size(resize_: str) -> None:
    for seed, size in enumerate([(4000, 4100), (3000, 7000)]):
        heat = np.random.default_rng(seed).random((24, 24)).astype(np.float32)
        scale = {"resize": (24 / size[0], 24 / size[1])}.get(resize_, (24 / 3000,) * 2)
        offset = {"crop": (-4.0, -9.0), "letterbox": (2.0, 1.5)}.get(resize_, (0.0, 0.0))
        place = Placement(size, (24, 24), scale, offset)
        given = Given(np.zeros((1, 3, 24, 24), np.float32), np.zeros((1, 8, 8, 3), np.uint8), place)
        fed = Fed({}, given, given)
        full = fed.heat(heat)
        row, column = fed.peak(heat)
        assert full[row, column] == pytest.approx(np.nanmax(full), abs=1e-6)


def test_what_is_said_of_a_large_picture_is_in_its_own_pixels(large: Path, run, place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    detector = str(ROOT / "models/digits_detector.onnx")
    small = tmp_path / "small.jpg"
    write_png(small, resized(decode(str(large)), (HIGH // 8, WIDE // 8), "bilinear", True))
    said = {}
    for path in (large, small):
        code, out, err = run("explain", detector, str(path), "--format", "json", "-o", str(tmp_path / "o.png"))
        assert code == 0, err
        (said[path],) = json.loads(out)["results"]
    assert said[large]["size"] == [WIDE, HIGH]
    for ours, theirs in zip(said[large]["predictions"], said[small]["predictions"], strict=True):
        assert ours["label"] == theirs["label"]
        np.testing.assert_allclose(ours["box"], np.array(theirs["box"]) * 8, atol=60)
    found, expected = (np.array(said[path]["maps"][0]["maximum"]) for path in (large, small))
    assert np.abs(found - expected * 8).max() < 160


def test_the_library_reads_a_large_picture_as_the_command_does(large: Path, run, place) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("explain", str(MODEL), str(large), "--format", "json")
    assert code == 0, err
    (said,) = json.loads(out)["results"]
    found = analyzer.explain(MODEL, large).as_data()
    assert [c["score"] for c in found["top"]] == pytest.approx([c["score"] for c in said["top"]], rel=1e-5)
    assert found["maps"][0]["maximum"] == said["maps"][0]["maximum"]


# ---- The limit ----


def test_the_limit_can_be_raised(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    picture = str(ROOT / "examples/digits_chelsea.png")
    code, _, err = run("explain", str(MODEL), picture, "--max-megapixels", "0.01")
    assert code == 2 and "over the limit of 0.01 megapixels" in err and "--max-megapixels 1" in err
    code, _, err = run("explain", str(MODEL), picture)
    assert code == 0, err


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_large_pictures_are_shrunk_as_small_ones(
    monkeypatch: pytest.MonkeyPatch, dtype: type, interpolation: str
) -> None:
    picture = (RNG.random((300, 400, 3)) * 255).astype(dtype)
    window = 3, 5, 40, 50
    ours = resized(picture, (64, 72), interpolation, window=window)
    monkeypatch.setattr("analyzer.images.resample.LARGE", 1000)
    pillow = resized(picture, (64, 72), interpolation, window=window)
    assert pillow.dtype == ours.dtype and pillow.shape == ours.shape == (40, 50, 3)
    assert np.abs(pillow.astype(float) - ours).max() <= (1 if dtype is np.uint8 else 1e-3)
