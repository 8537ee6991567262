"""Pictures in: any common file to (H, W, 3) uint8 RGB, bounded before anything is decoded.

The header is read first, by code that allocates nothing: it gives the format, the size and the orientation. Only then
does OpenCV see the bytes. What OpenCV's versions disagree on (orientation, animation, alpha) is decided here.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analyzer.errors import InputError
from analyzer.files import opened, protect
from analyzer.images._opencv import most_pixels, opencv, quiet
from analyzer.images.png_strips import decoded_in_strips
from analyzer.images.resample import LARGE, strips
from analyzer.images.sources import Stored

MAX_FILE_BYTES = 1 << 30

READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF and PBM/PGM/PPM"


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    `data` are the bytes worth decoding, `orientation` is EXIF's (1 upright … 8), `extra_samples` TIFF's kind of alpha
    (1 premultiplied, 2 not), `colour_only` asks OpenCV for its colour conversion, `bits` are those of
    a sample that carry information (PNG's sBIT, TIFF's MaxSampleValue), 0 where the file does not say.
    """

    format: str
    width: int
    height: int
    data: bytes
    orientation: int = 1
    transparent_grey: int | None = None
    extra_samples: int = 0
    colour_only: bool = False
    bits: int = 0


class _MalformedError(Exception):
    """A file of a known format that cannot be used, and why."""


def decode(source: str | os.PathLike[str] | bytes | Stored, max_pixels: int | None = None) -> np.ndarray:
    """The picture in `source`: (H, W, 3) uint8 RGB, upright.

    EXIF orientation is applied, alpha is composited on white, grey is replicated, 16 bits become round(x / 257), a
    floating-point TIFF within [0, 1] is scaled by 255, an animation gives its first frame. Colour profiles are ignored.
    A JPEG that was cut short is refused; one with a damaged middle is accepted, as every viewer does.

    Args:
        source: path of a file, the bytes of one, or what is read elsewhere.
        max_pixels: refuse larger pictures before decoding; 100 million unless given. A limit of OpenCV in the
            environment (OPENCV_IO_MAX_IMAGE_PIXELS) holds as well.

    Raises:
        InputError: no such file, a folder, empty, not a picture, truncated, too large.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    if isinstance(source, Stored):
        source = source.read()
    header = bounded(read_header(source, name), name, max_pixels)
    return rgb(header, stored_pixels(header, name), name)


def rgb(header: Header, pixels: np.ndarray, name: str) -> np.ndarray:
    """What `decode` makes of `stored_pixels`, which may be overwritten.

    Raises:
        InputError: as `decode`.
    """
    if header.transparent_grey is not None and pixels.ndim == 2:
        pixels = np.where(pixels == header.transparent_grey, np.iinfo(pixels.dtype).max, pixels)
    return upright(_over_white(_eight_bits(pixels, name), name, premultiplied(header, pixels)), header.orientation)


def bounded(header: Header, name: str, max_pixels: int | None = None) -> Header:
    """The header of a picture that is not too large.

    Raises:
        InputError: it is.
    """
    most = most_pixels() if max_pixels is None else max_pixels
    if header.width * header.height > most:
        raise InputError(
            f"{name}: {header.width}×{header.height} pixels is over the limit of {most / 1e6:g} megapixels",
            "shrink the picture first, or raise the limit: --max-megapixels "
            f"{math.ceil(header.width * header.height / 1e6)}",
        )
    return header


Ready = Callable[[np.ndarray], np.ndarray]


def stored_pixels(header: Header, name: str, reduced: int = 1, ready: Ready | None = None) -> np.ndarray:
    """What OpenCV makes of a file: (H, W) or (H, W, C) of the file's own depth, BGR.

    Args:
        reduced: what the sides of a JPEG are divided by, and those of a large PNG where its rows can be read one after
            the other: 1, 2, 4 or 8. Decoding a JPEG is then several times as fast.
        ready: is applied to the rows of such a PNG, some at a time, before they are reduced.

    Raises:
        InputError: it cannot decode it.
    """
    pixels = _imdecode(header, reduced, ready)
    if pixels is None:
        version = opencv().__version__
        raise InputError(
            f"{name}: OpenCV {version} cannot decode this {header.format} file (damaged, truncated or unusual)",
            "save it again as PNG or JPEG",
        )
    return pixels


def premultiplied(header: Header, pixels: np.ndarray) -> bool:
    """Whether colours are multiplied by alpha: OpenCV does so to a TIFF's of 8 bits if it is marked as alpha."""
    return header.extra_samples == 1 or (header.extra_samples == 2 and pixels.dtype == np.uint8)


def read_header(source: str | os.PathLike[str] | bytes, name: str = "the picture") -> Header:
    """Format, size and orientation of `source`, without decoding it.

    Raises:
        InputError: as for `decode`.
    """
    data = source if isinstance(source, bytes) else read_file(Path(source))
    if not data:
        raise InputError(f"{name}: empty file")
    reader = next((read for magic, read in _READERS if re.match(magic, data, re.DOTALL)), None)
    if reader is None:
        raise InputError(f"{name}: {_what_is(data)}", f"supported formats are {READABLE}")
    try:
        header = reader(data)
    except (_MalformedError, struct.error, IndexError, ValueError) as error:
        reason = str(error) if isinstance(error, _MalformedError) else "its header is damaged or truncated"
        raise InputError(f"{name}: cannot be decoded ({reason})") from error
    if header.width < 1 or header.height < 1:
        raise InputError(f"{name}: a {header.format} file of {header.width}×{header.height} pixels")
    return header


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts as a picture does; a pipe is left unread."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return False
    return any(re.match(magic, start, re.DOTALL) for magic, _ in _READERS)


def read_file(path: Path) -> bytes:
    """The bytes of a picture; of any other file only the first.

    Raises:
        InputError: no such file, a folder, too large.
    """
    protect(path)
    try:
        with opened(path) as file:
            start = file.read(64)
            # A model or an archive passed by mistake is not read to its end.
            known = any(re.match(magic, start, re.DOTALL) for magic, _ in _READERS)
            size = os.fstat(file.fileno()).st_size  # 0 of what is no plain file; reading sets memory aside first
            if known and file.seekable():  # without a copy of the whole
                file.seek(0)
                start = b""
            data = start + file.read(min(size or MAX_FILE_BYTES, MAX_FILE_BYTES) if known else 512)
    except FileNotFoundError as error:
        _refuse_address(path)
        raise InputError(f"{path}: no such file", _near_files(path)) from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, not a picture") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: over the limit of {MAX_FILE_BYTES >> 20} MiB for a picture file")
    return data


def _refuse_address(path: Path) -> None:
    """A Path has a single slash after the scheme."""
    scheme, slash, rest = str(path).partition(":/")
    if slash and scheme in ("http", "https", "s3", "gs"):
        raise InputError(
            f"{scheme}://{rest.lstrip('/')}: pictures are not downloaded", "save it first, or pipe it to -"
        )


def _near_files(path: Path) -> str:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, 10_000)]
    except OSError:
        return f"the folder {str(path.parent)!r} does not exist"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"did you mean {', '.join(repr(name) for name in near)}?" if near else ""


_UNREADABLE = {
    rb".{4}ftyp(heic|heix|mif1|hevc)": "a HEIC picture",
    rb".{4}ftypavi[fs]": "an AVIF picture",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 picture",
    rb"\s*(<\?xml[^>]*>)?\s*(<!--.*?-->)?\s*<svg": "an SVG drawing",
    rb"%PDF": "a PDF document",
    rb"\x93NUMPY": "a NumPy array",
    rb"PK\x03\x04": "an archive",
}


def _what_is(data: bytes) -> str:
    for magic, what in _UNREADABLE.items():
        if re.match(magic, data, re.DOTALL):
            return f"{what}, which is not supported"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in data[:512]):
        return "text, not a picture"
    return "not a picture of a known format"


# ---- from bytes to pixels ------------------------------------------------------------------------------------


def _imdecode(header: Header, reduced: int = 1, ready: Ready | None = None) -> np.ndarray | None:
    with quiet() as cv2:
        try:
            flags = cv2.IMREAD_COLOR if header.colour_only else cv2.IMREAD_UNCHANGED
            if reduced > 1 and header.format == "JPEG":
                flags = getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduced}") | cv2.IMREAD_IGNORE_ORIENTATION

            def decoded(data: bytes) -> np.ndarray | None:
                return cv2.imdecode(np.frombuffer(data, np.uint8), flags)

            large = header.format == "PNG" and header.width * header.height >= LARGE
            pixels = decoded_in_strips(header.data, decoded, reduced, ready) if large else None
            return decoded(header.data) if pixels is None else pixels
        except cv2.error:
            return None


def _eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return np.asarray(opencv().convertScaleAbs(pixels, alpha=1 / 257)).reshape(pixels.shape)
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        return np.rint(pixels * 255).astype(np.uint8)
    values = "floating-point values outside [0, 1]" if pixels.dtype.kind == "f" else f"{pixels.dtype} values"
    raise InputError(f"{name}: a picture with {values}", "convert it to 8 or 16 bits first")


def _over_white(pixels: np.ndarray, name: str, premultiplied: bool = False) -> np.ndarray:
    """OpenCV's grey, BGR or BGRA to RGB: c·a + 255·(1 − a), where c·a is what a premultiplied picture stores."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if channels == 3:
        return swapped(pixels)
    if channels != 4:
        raise InputError(f"{name}: {channels} channels, a picture has 1, 3 or 4")
    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    for rows in strips(pixels):
        colour, alpha = pixels[rows, :, 2::-1], pixels[rows, :, 3:].astype(np.uint16)
        if alpha.min() == 255:
            result[rows] = colour
        elif premultiplied:
            result[rows] = np.minimum(colour + (255 - alpha), 255)
        else:
            result[rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return result


def swapped(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's BGR and BGRA as RGB and RGBA, in place: a few rows at a time, which stay in a core's cache and for which
    OpenCV starts no threads."""
    cv2 = opencv()
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    known = pixels.dtype in (np.uint8, np.uint16, np.float32)
    step = max(1, (1 << 16) // pixels.shape[1])
    for top in range(0, len(pixels), step):
        rows = slice(top, top + step)
        if known:  # ten times as fast
            pixels[rows] = cv2.cvtColor(pixels[rows], code)
        else:
            pixels[rows, :, :3] = pixels[rows, :, 2::-1]
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF's orientation: 5 to 8 are transposed, then rows or columns run backwards."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


# ---- headers, one reader per format ---------------------------------------------------------------------------


def _png(data: bytes) -> Header:
    """Chunks up to IEND, checksums verified. Only what holds pixels is kept: no profiles, no animation."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    view, orientation, grey, bits, at = memoryview(data), 1, None, 0, 8
    kept = [view[:8]]
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        body = view[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise _MalformedError(f"damaged PNG: wrong checksum in a {kind.decode()} chunk")
            kept.append(view[at : at + 12 + length])
        if kind == b"eXIf":
            orientation = _orientation(bytes(body))
        if kind == b"sBIT":
            bits = max(body[:4], default=0)
        if kind == b"tRNS" and colour == 0:
            grey = struct.unpack(">H", body)[0] * {1: 255, 2: 85, 4: 17}.get(depth, 1)
        if kind == b"IEND":
            left_out = sum(map(len, kept)) < len(data)
            return Header("PNG", width, height, b"".join(kept) if left_out else data, orientation, grey, bits=bits)
        at += 12 + length


# A marker that is neither a stuffed zero, nor a restart inside the scan, nor a fill byte.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> Header:
    """Segments and scans up to the end-of-image marker: a file that lacks it was cut short."""
    size, orientation, at = None, 1, 2
    while marker := _JPEG_MARKER.search(data, at):
        code, at = marker[1][0], marker.end()
        if code == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, at)
        if code in _JPEG_SIZES and size is None:
            size = struct.unpack_from(">HH", data, at + 3)
        if code == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
            orientation = _orientation(data[at + 8 : at + length])
        at += length
    if size is None:
        raise _MalformedError("no size in the JPEG header")
    if marker is None:
        raise _MalformedError("truncated JPEG: no end-of-image marker")
    return Header("JPEG", size[1], size[0], data, orientation)


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", width, height, data)


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("BMP", width, abs(height), data)


def _webp(data: bytes) -> Header:
    size, orientation, at = None, 1, 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if size is None and kind in _WEBP_SIZES:
            size = _WEBP_SIZES[kind](body)
        if kind == b"EXIF":
            orientation = _orientation(body.removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
    if size is None:
        raise _MalformedError("no size in the WebP header")
    return Header("WebP", *size, data, orientation)


def _webp_lossless(body: bytes) -> tuple[int, int]:
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


_WEBP_SIZES: dict[bytes, Callable[[bytes], tuple[int, int]]] = {
    b"VP8 ": lambda body: (int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF),
    b"VP8L": _webp_lossless,
    b"VP8X": lambda body: (int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1),
}


def _tiff(data: bytes) -> Header:
    """The first directory. OpenCV applies a TIFF's orientation itself; CMYK and YCbCr it converts only as colour."""
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        raise _MalformedError("no size in the TIFF directory")
    photometric = tags.get(262, 1)
    if photometric in (8, 9, 10):
        raise _MalformedError("TIFF in CIE Lab colors; convert it to RGB first")
    return Header(
        "TIFF",
        tags[256],
        tags[257],
        data,
        extra_samples=tags.get(338, 0),
        colour_only=photometric in (5, 6),
        bits=tags.get(281, 0).bit_length(),
    )


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Integer tags of the first directory of a TIFF or BigTIFF structure; EXIF is one too."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start, count_type, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    (at,) = struct.unpack_from(order + start, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_type, data, at)
    at += struct.calcsize(order + count_type)
    step, tags = (20, {}) if big else (12, {})
    for position in range(at, at + step * min(count, 4096), step):
        tag, kind, _ = struct.unpack_from(order + entry, data, position)
        value = position + struct.calcsize(order + entry)
        if kind in (1, 3, 4, 16):
            tags[tag] = struct.unpack_from(order + {1: "B", 3: "H", 4: "I", 16: "Q"}[kind], data, value)[0]
    return tags


def _orientation(exif: bytes) -> int:
    """EXIF's orientation; 1 where there is none, or none that can be read: a bad tag is no reason to refuse."""
    try:
        orientation = _tiff_tags(exif).get(274, 1)
    except (struct.error, KeyError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")


def _pnm(data: bytes) -> Header:
    match = _PNM.match(data)
    if match is None:
        raise _MalformedError("no size in the PNM header")
    return Header("PNM", int(match[1]), int(match[2]), data)


_READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"\xff\xd8\xff", _jpeg),
    (rb"GIF8[79]a", _gif),
    (rb"BM", _bmp),
    (rb"RIFF.{4}WEBP", _webp),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", _tiff),
    (rb"P[1-6][\s#]", _pnm),
)
