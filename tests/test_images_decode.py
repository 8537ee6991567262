"""Decoding: every test makes its own file."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from analyzer.errors import InputError
from analyzer.images import decode, read_header

RAMP = np.stack(np.meshgrid(np.arange(48) * 5, np.arange(32) * 7), axis=2)
RGB = np.dstack([RAMP, np.full((32, 48), 90)]).astype(np.uint8)
BGR = np.ascontiguousarray(RGB[..., ::-1])


def encoded(extension: str, array: np.ndarray = BGR, *options: int) -> bytes:
    return cv2.imencode(extension, array, options)[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def with_exif(jpeg: bytes, payload: bytes) -> bytes:
    body = b"Exif\0\0" + payload
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# How EXIF says the stored picture is to be turned.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_come_back_exactly(extension: str) -> None:
    assert np.array_equal(decode(encoded(extension)), RGB)


def test_lossless_webp_comes_back_exactly() -> None:
    assert np.array_equal(decode(encoded(".webp", BGR, cv2.IMWRITE_WEBP_QUALITY, 101)), RGB)


def test_path_string_and_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(".png"))
    assert np.array_equal(decode(path), decode(path.read_bytes()))
    assert np.array_equal(decode(str(path)), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_exif_orientation_is_applied(orientation: int, order: str) -> None:
    plain = encoded(".jpg")
    turned = decode(with_exif(plain, exif(orientation, order)))
    assert np.array_equal(turned, TURNS[orientation](decode(plain)))


def test_png_exif_orientation_is_applied() -> None:
    whole = encoded(".png")
    turned = whole[:33] + chunk(b"eXIf", exif(6)) + whole[33:]
    assert np.array_equal(decode(turned), TURNS[6](RGB))


@pytest.mark.parametrize("payload", [b"", b"II", b"rubbish!", exif(0), exif(9), exif(6)[:12]])
def test_bad_exif_is_ignored(payload: bytes) -> None:
    plain = encoded(".jpg")
    assert np.array_equal(decode(with_exif(plain, payload)), decode(plain))


def test_grey_is_replicated() -> None:
    grey = RGB[..., 0]
    assert np.array_equal(decode(encoded(".png", grey)), np.dstack([grey] * 3))


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_sixteen_bits_are_rounded(extension: str) -> None:
    deep = np.array([[0, 128, 129, 257, 65535, 65406, 65407, 32896]], np.uint16)
    assert decode(encoded(extension, deep))[0, :, 0].tolist() == [0, 0, 1, 1, 255, 254, 255, 128]


def test_alpha_is_composited_on_white() -> None:
    alpha = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    expected = RGB * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    assert np.abs(decode(encoded(".png", np.dstack([BGR, alpha]))) - expected).max() <= 0.5 + 1e-6
    deep = np.dstack([BGR, alpha]).astype(np.uint16) * 257
    assert np.abs(decode(encoded(".png", deep)) - expected).max() <= 1


def test_tiff_alpha_premultiplied_by_the_decoder() -> None:
    pixel = bytes([50, 100, 200, 128])
    entries = [(256, 3, 1), (257, 3, 1), (259, 3, 1), (262, 3, 2), (273, 4, 130), (277, 3, 4), (279, 4, 4), (338, 3, 2)]
    entries = sorted([*entries, (258, 3, None)], key=lambda entry: entry[0])
    body = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, value in entries:
        count, value = (4, 122) if value is None else (1, value)
        body += struct.pack("<HHII", tag, kind, count, value)
    body += bytes(4)
    body = body.ljust(122, b"\0") + struct.pack("<4H", 8, 8, 8, 8) + pixel
    assert np.abs(decode(body)[0, 0] - np.array([152, 177, 227])).max() <= 1


def test_palette_bits_and_transparent_grey() -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    two = png(2, 1, 1, 3, b"\0\x40", palette)
    assert decode(two)[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    see_through = png(3, 1, 8, 0, bytes([0, 7, 8, 9]), chunk(b"tRNS", struct.pack(">H", 8)))
    assert decode(see_through)[0, :, 0].tolist() == [7, 255, 9]


def test_bad_colour_profile_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(".png")
    decode(whole[:33] + chunk(b"iCCP", b"profile\0\0rubbish") + whole[33:])
    assert capfd.readouterr() == ("", "")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    if not hasattr(cv2, "imwriteanimation"):
        pytest.skip("this OpenCV writes no animations")
    animation = cv2.Animation()
    animation.frames = [BGR, np.ascontiguousarray(255 - BGR), np.ascontiguousarray(BGR[::-1])]
    animation.durations = [100, 100, 100]
    for name, tolerance in (("a.png", 0), ("a.webp", 30), ("a.gif", 60)):
        if cv2.imwriteanimation(str(tmp_path / name), animation):
            assert np.abs(decode(tmp_path / name).astype(int) - RGB).mean() <= tolerance, name


def test_animated_png_shows_its_still() -> None:
    whole = encoded(".png")
    control = struct.pack(">IIIIIHHBB", 0, 48, 32, 0, 0, 1, 10, 0, 0)
    frames = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", control)
    assert np.array_equal(decode(whole[:33] + frames + whole[33:]), RGB)


def test_float_tiff_within_unit_range() -> None:
    grey = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(decode(encoded(".tiff", grey))[..., 1], np.rint(grey * 255).astype(np.uint8))
    with pytest.raises(InputError, match=r"floating-point values outside"):
        decode(encoded(".tiff", grey * 3))


# ---- what is refused, in one sentence and in silence ------------------------------------------------------------


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".bmp", ".tiff", ".ppm"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(extension: str, kept: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(extension, noise)
    with pytest.raises(InputError):
        decode(data[: max(3, int(len(data) * kept))])
    assert capfd.readouterr().err == ""


def test_jpeg_without_its_end_is_refused_and_trailing_bytes_are_not() -> None:
    data = encoded(".jpg")
    with pytest.raises(InputError, match="truncated JPEG"):
        decode(data[:-2])
    assert np.array_equal(decode(data + b"trailer" * 50), decode(data))


def test_damaged_png_is_refused_before_the_decoder(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(".png"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InputError, match="checksum"):
        decode(bytes(data))
    assert capfd.readouterr().err == ""


BOMBS = {
    "PNG": png(60000, 60000, 8, 2, b"\0"),
    "GIF": b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(20),
    "BMP": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -60000) + bytes(40),
    "WebP": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\x0f\x27\0\x2e\x27\0",
    "TIFF": struct.pack("<2sHIHHHIIHHIII", b"II", 42, 8, 2, 256, 4, 1, 60000, 257, 4, 1, 60000, 0),
    "PNM": b"P6 # comment\n60000\n60000 255\n",
    "JPEG": encoded(".jpg").replace(struct.pack(">HH", 32, 48), struct.pack(">HH", 60000, 60000), 1),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_header_bombs_are_refused_by_their_header(kind: str) -> None:
    assert read_header(BOMBS[kind]).format == kind
    with pytest.raises(InputError, match="over the limit of 100 megapixels"):
        decode(BOMBS[kind])


def test_max_pixels() -> None:
    assert decode(encoded(".png"), max_pixels=48 * 32).shape == (32, 48, 3)
    with pytest.raises(InputError, match="48×32"):
        decode(encoded(".png"), max_pixels=48 * 32 - 1)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty file"),
        (b"just some words\n" * 40, "text, not a picture"),
        (b"\x08\x07\x12\x07pytorch\x00\xff" * 9, "not a picture of a known format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\x93NUMPY\x01\0" + bytes(40), "NumPy"),
        (png(0, 5, 8, 2, b""), "0×5"),
    ],
)
def test_what_is_no_picture_says_so(data: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=sentence) as error:
        decode(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "kitten.png").write_bytes(encoded(".png"))
    with pytest.raises(InputError, match=r"did you mean 'kitten\.png'"):
        decode(tmp_path / "kiten.png")
    with pytest.raises(InputError, match="is a folder"):
        decode(tmp_path)
    with pytest.raises(InputError, match=r"folder .* does not exist"):
        decode(tmp_path / "nowhere" / "kitten.png")


def test_random_damage_raises_nothing_but_input_errors() -> None:
    rng = np.random.default_rng(1)
    for extension in (".png", ".webp", ".bmp", ".tiff", ".ppm"):
        data = encoded(extension)
        for _ in range(60):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(data), 200), 4):
                broken[at] = rng.integers(0, 256)
            with contextlib.suppress(InputError):
                assert decode(bytes(broken), max_pixels=1 << 20).dtype == np.uint8


def test_importing_the_room_does_not_import_opencv() -> None:
    code = "import sys, analyzer.images; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
