"""Pictures at their own depth and with all their channels, pages and arrays: (frames, H, W, C).

Pixels of 8 and 16 bits stay as they are, so that no gray level is lost and no large array is copied; other types are
brought to 0 … 255 in float32. White is what the caller says, else what the file says of itself, else the largest value
of its type.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.files import protect
from analyzer.images._opencv import most_pixels, opencv, quiet
from analyzer.images.bands import UnreadableError, page_count, read_bands
from analyzer.images.decode import (
    Header,
    bounded,
    premultiplied,
    read_file,
    read_header,
    rgb,
    stored_pixels,
    strips,
    swapped,
    upright,
)
from analyzer.images.preprocess import over_white
from analyzer.images.resample import LARGE

ARRAYS = (".npy", ".npz")
_NUMPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Picture:
    """What a file holds.

    Attributes:
        pixels: (frames, H, W, C): uint8, uint16 or float32; RGB, RGBA, gray or bands.
        remark: what a person should know, "" for nothing.
        size: (height, width) of the file's picture, where its pixels were decoded at a reduced scale; else None.
        white: the pixel value of white.
    """

    pixels: np.ndarray
    remark: str = ""
    size: tuple[int, int] | None = None
    white: float = 255.0

    @property
    def levels(self) -> np.ndarray:
        """(frames, H, W, C) in 0 … 255: uint8, or float32, not rounded."""
        return self.pixels if self.white == 255 else (self.pixels * np.float64(255 / self.white)).astype(np.float32)

    @property
    def shown(self) -> np.ndarray:
        """(frames, H, W, 3) uint8 RGB to be looked at."""
        return np.stack([as_rgb(frame, self.white) for frame in self.pixels])


def read(
    source: str | os.PathLike[str] | bytes, white: float | None = None, channels: int = 3, enough: int | None = None
) -> Picture:
    """The picture, pages or array in `source`.

    Args:
        source: path or bytes of a picture file or of a .npy array: (H, W), (H, W, C), (C, H, W), with frames before
            these.
        white: the pixel value of white; see above.
        channels: how many the model takes. With 1 or 3, alpha is composited on white.
        enough: pixels of the sides that suffice: a JPEG or PNG of 16 megapixels or more is decoded at a half, a quarter
            or an eighth of its size where both of its sides stay longer than that. All of it unless given.

    Raises:
        InputError: as `decode`.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    if is_array(source):
        return scaled(arranged(read_array(source), channels, name), white, name)
    data = source if isinstance(source, bytes) else read_file(Path(source))
    try:
        bands = read_bands(data)
    except UnreadableError as error:
        hint = "save it uncompressed, or as a .npy array"
        raise InputError(f"{name}: a TIFF of many bands that cannot be read ({error})", hint) from error
    if bands is not None:
        return scaled(bands[None], white, name)
    header = bounded(read_header(data, name), name)
    count = page_count(header.data) if header.format == "TIFF" else 1
    if count > 1:
        if count * header.width * header.height > 4 * most_pixels():
            raise InputError(f"{name}: {count} pages of {header.width}×{header.height} pixels are over the limit")
        pages = _pages(header.data)
        if len(pages) > 1:
            return scaled(np.stack([_ordered(page) for page in pages]), white, name)
    said = float(2**header.bits - 1) if header.bits else None  # white of 16 bits
    most = 0

    def opaque(rows: np.ndarray) -> np.ndarray:
        nonlocal most
        deep = rows.dtype == np.uint16
        most = max(most, int(rows.max())) if deep else 0
        if rows.shape[2:] != (4,) or channels not in (1, 3):
            return rows
        return over_white(rows, (white or said or 65535.0) if deep else 255.0)

    by = _reduced(header, enough)
    pixels = stored_pixels(header, name, by, opaque)
    header, data = replace(header, data=b""), b""  # the file itself need not stay in memory
    picture = _picture(header, pixels, name, white, said, channels, most)
    sides = (header.height, header.width)
    if by == 1 or pixels.shape[:2] == sides:
        return picture
    return replace(picture, size=sides[::-1] if header.orientation >= 5 else sides)


def _picture(
    header: Header, pixels: np.ndarray, name: str, white: float | None, said: float | None, channels: int, most: int
) -> Picture:
    """`read` of what OpenCV made of a file.

    Args:
        said: white of 16 bits as the file has it.
        most: the largest value of 16 bits, 0 where it is not known.
    """
    if header.format not in ("PNG", "TIFF", "PNM") or (pixels.dtype == np.uint8 and channels in (1, 3)):
        return Picture(rgb(header, pixels, name)[None])
    found = _ordered(pixels)
    if premultiplied(header, pixels) and found.shape[2] == 4 and channels == 4:
        full = np.iinfo(found.dtype).max if found.dtype.kind == "u" else 1.0
        for rows in strips(found):
            colour = found[rows, :, :3] * (full / np.maximum(found[rows, :, 3:].astype(np.float64), full / 65535))
            found[rows, :, :3] = np.minimum(colour, full)
    if header.format != "TIFF":  # OpenCV turns these itself
        found = upright(found, header.orientation)
    picture = scaled(found[None], white or (said if found.dtype == np.uint16 else None), name, most)
    if picture.pixels.shape[3] in (2, 4) and channels in (1, 3):
        return replace(picture, pixels=over_white(picture.pixels[0], picture.white)[None])
    return picture


def _reduced(header: Header, enough: int | None) -> int:
    """By how much the sides of a picture may be divided."""
    sides = header.height, header.width
    if enough is None or header.format not in ("JPEG", "PNG") or sides[0] * sides[1] < LARGE:
        return 1
    return next((by for by in (8, 4, 2) if min(sides) // by >= enough), 1)


def is_array(source: Any) -> bool:
    """Whether a source is a .npy array."""
    if isinstance(source, bytes):
        return source.startswith(_NUMPY)
    return str(source).lower().endswith(ARRAYS)


def read_array(source: str | os.PathLike[str] | bytes, key: str = "") -> np.ndarray:
    """The array of a .npy file, or the one (or that called `key`) of a .npz file.

    Raises:
        InputError: no such file, not an array of numbers, or a .npz file of several arrays and no such key.
    """
    name = "the array" if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, bytes):
            protect(source)
        found = np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{name}: not a NumPy array of numbers ({error})", "save it with numpy.save") from error
    if not isinstance(found, np.ndarray):
        names = list(found.files)
        if key not in names and len(names) != 1:
            raise InputError(f"{name}: has no array {key!r}", f"its arrays are {', '.join(names) or 'none'}")
        try:
            found = found[key if key in names else names[0]]
        except ValueError as error:
            raise InputError(f"{name}: not an array of numbers ({error})") from error
    if found.dtype.kind not in "biuf" or not found.size:
        raise InputError(f"{name}: an array of {found.dtype} and shape {list(found.shape)}", "give one of numbers")
    return np.asarray(found)


def arranged(array: np.ndarray, channels: int, name: str = "the array") -> np.ndarray:
    """(frames, H, W, C) of (H, W), (H, W, C), (C, H, W) or frames of these.

    The axis of the channels is the one of that many, else the one of at most 4.
    """
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim == 4 and 1 in array.shape[:1] and array.shape[1] not in (channels, 1, 3, 4):
        array = array.reshape(array.shape[1:]) if array.shape[3] not in (channels, 1, 3, 4) else array
    if array.ndim == 3:
        for fits in (lambda n: n == channels, lambda n: n in (1, 3, 4)):
            if fits(array.shape[2]):
                return array[None]
            if fits(array.shape[0]):
                return array.transpose(1, 2, 0)[None]
        return array[..., None]
    if array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 4:
        for fits in (lambda n: n == channels, lambda n: n in (1, 3, 4)):
            if fits(array.shape[3]):
                return array
            if fits(array.shape[1]):
                return array.transpose(0, 2, 3, 1)
            if fits(array.shape[0]):
                return array.transpose(1, 2, 3, 0)
    raise InputError(
        f"{name}: an array of shape {list(array.shape)} is not a picture",
        f"give (height, width), (height, width, {channels}) or ({channels}, height, width)",
    )


def scaled(pixels: np.ndarray, white: float | None, name: str, most: int = 0) -> Picture:
    """Pixels and their white, and a remark where that may be wrong. `most`: their largest value, 0 if not known."""
    if pixels.shape[1] * pixels.shape[2] > most_pixels():
        raise InputError(f"{name}: {pixels.shape[1]}×{pixels.shape[2]} pixels is over the limit")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{name}: has NaN or infinite values")
    if white is not None and pixels.dtype != np.uint8:
        return Picture(pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32), white=white)
    if pixels.dtype == np.uint8 or pixels.dtype.kind == "b":
        return Picture(np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else pixels * np.uint8(255)))
    if pixels.dtype == np.uint16:
        most = most or int(pixels.max())
        remark = ""
        if most < 1 << 15:
            level = (1 << max(8, most.bit_length())) - 1
            remark = f"16-bit values end at {most}: if white is {level}, add --white {level}"
        return Picture(pixels, remark, white=65535.0)
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return Picture(pixels.astype(np.float32) * np.float32(255))
    remark = (
        f"values from {low:g} to {high:g} are used unchanged, on a scale of 0 … 255; --white sets the value of white"
    )
    return Picture(pixels.astype(np.float32), remark if high > 255 or low < 0 else "")


def _ordered(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's BGR and BGRA as RGB and RGBA, (H, W, C), in place."""
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.shape[2] in (3, 4):
        return swapped(pixels)
    return pixels


def _pages(data: bytes) -> Sequence[np.ndarray]:
    """The pages of a TIFF, where all have the size and the type of the first; else none."""
    with quiet() as cv2:
        try:
            done, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return []
    alike = done and all(page.shape == pages[0].shape and page.dtype == pages[0].dtype for page in pages)
    return pages if alike else []


def as_rgb(frame: np.ndarray, white: float = 255.0) -> np.ndarray:
    """(H, W, 3) uint8 to be looked at: alpha on white, the first three bands, values beyond 0 … `white` stretched."""
    if frame.shape[2] == 3 and frame.dtype == np.uint8:
        return np.ascontiguousarray(frame)
    if frame.shape[2] in (2, 4):
        frame = over_white(frame, white)
    frame = frame[..., :3] if frame.shape[2] >= 3 else frame[..., :1]
    if frame.dtype != np.uint8:
        low, high = float(frame.min()), float(frame.max())
        if low >= 0 and high <= white:
            low, high = 0.0, white
        factor = 255 / ((high - low) or 1)
        frame = opencv().convertScaleAbs(frame, alpha=factor, beta=-low * factor).reshape(frame.shape)
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))
