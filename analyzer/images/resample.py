"""Resampling as two banded matrix products: each output pixel is a weighted mean of the input pixels under its filter.

`y_i = Σ_j w((j + ½ − c_i) / s) x_j / Σ_j w(…)`, with c_i the centre of output pixel i in input coordinates and s the
step between centres where that shrinks (antialiasing), else 1. These are PIL's filters and roundings, columns before
rows: bit for bit what torchvision and timm feed a network (Pillow 13 may swap the two passes, which moves a level here
and there: with another version of Pillow the same picture would be another input, so this is not left to it). OpenCV's
INTER_LINEAR takes two pixels however far apart they are, and INTER_AREA is a box: on photographs shrunk to 224 they are
1 to 10 and 1 to 3 grey levels away on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from analyzer.images._opencv import opencv

Filter = tuple[Callable[[np.ndarray], np.ndarray], float]
_Band = tuple[slice, slice, np.ndarray]

LARGE = 16_000_000  # pixels from which a picture is shrunk by Pillow, and decoded reduced where that suffices

# Outputs of one band share one small dense matrix: wide enough for BLAS, narrow enough to hold few zeros.
BAND = 16
ONE_THREAD = 1 << 18  # multiplications; OpenBLAS divides larger products of matrices among threads

# PIL's fixed point. In float64 products of such weights with 8-bit pixels are exact, so sums are in any order.
UNIT = 1 << 22


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keys 1981, equation 15, with the free parameter a."""

    def keys(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return keys


# With antialiasing PIL's a = −0.5; without it the −0.75 of OpenCV, torch and ONNX Resize.
FILTERS: dict[str, tuple[Filter, Filter]] = {
    "bilinear": ((_triangle, 1.0), (_triangle, 1.0)),
    "bicubic": ((_cubic(-0.5), 2.0), (_cubic(-0.75), 2.0)),
    "area": ((_box, 0.5), (_box, 0.5)),
}


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    interpolation: str = "bilinear",
    antialias: bool = True,
    window: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """`image` stretched to `size`, or only the `window` of that: half-pixel centres, as PIL's Image.resize.

    Args:
        image: (H, W, C) uint8; rounded to uint8 between the two passes and after them, as PIL does. Or uint16 or
            float32, which are not rounded.
        size: (height, width) of the whole result.
        interpolation: bilinear, bicubic, area or nearest.
        antialias: widen the filter when shrinking; area always does, nearest never.
        window: (top, left, height, width) of the part of the result that is computed.

    Returns:
        (height, width, C) of the window: uint8 of uint8, else float32.
    """
    top, left, height, width = window or (0, 0, *size)
    rows = (np.arange(top, top + height) + 0.5) * (image.shape[0] / size[0])
    columns = (np.arange(left, left + width) + 0.5) * (image.shape[1] / size[1])
    if interpolation == "nearest":
        return image[_nearest(top, height, image.shape[0], size[0])][:, _nearest(left, width, image.shape[1], size[1])]
    kernel = FILTERS[interpolation][0 if antialias else 1]
    smooth = antialias or interpolation == "area"
    steps = [image.shape[axis] / size[axis] if smooth else 1.0 for axis in (0, 1)]
    if antialias and interpolation in ("bilinear", "bicubic") and image.shape[0] * image.shape[1] >= LARGE:
        return _by_pillow(image, size, interpolation)[top : top + height, left : left + width]
    if image.dtype != np.uint8:
        return _real(image, rows, columns, steps, kernel)
    reach = _reach(rows, steps[0], image.shape[0], kernel)
    narrow = _along_columns(image[reach[0] : reach[1]], columns, steps[1], kernel)
    return _along_rows(narrow, rows - reach[0], steps[0], kernel)


def _by_pillow(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """The same, forty times as fast: channel by channel, columns a few rows at a time, then rows."""
    from PIL import Image

    kernel = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    narrow = np.empty((image.shape[2], len(image), size[1]), kind)
    for rows in strips(image):
        for channel, plane in enumerate(narrow):
            part = Image.fromarray(np.ascontiguousarray(image[rows, :, channel], kind))
            plane[rows] = part.resize((size[1], part.height), kernel)
    return np.stack([np.asarray(Image.fromarray(plane).resize(size[::-1], kernel)) for plane in narrow], axis=2)


def reduced(pixels: np.ndarray, by: int) -> np.ndarray:
    """Means of blocks of `by` × `by` pixels, (⌈H / by⌉, ⌈W / by⌉, …); those at the end are of what is left."""
    if by == 1:
        return pixels
    height, width = pixels.shape[:2]
    result = np.empty((-(-height // by), -(-width // by), *pixels.shape[2:]), pixels.dtype)
    for top, bottom in ((0, height - height % by), (height - height % by, height)):
        for left, right in ((0, width - width % by), (width - width % by, width)):
            block = result[top // by : -(-bottom // by), left // by : -(-right // by)]
            if block.size:
                part = pixels[top:bottom, left:right]
                block[:] = opencv().resize(part, block.shape[1::-1], interpolation=opencv().INTER_AREA)
    return result


def strips(pixels: np.ndarray) -> list[slice]:
    """Rows, about a million values at a time, so that what is computed with more bits never fills the memory."""
    count = max(1, (1 << 20) // max(1, math.prod(pixels.shape[1:])))
    return [slice(start, start + count) for start in range(0, len(pixels), count)]


def _real(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, steps: Sequence[float], kernel: Filter
) -> np.ndarray:
    """The same sums in floating point: (H, W, C) to (h, w, C) float32."""
    reach = _reach(rows, steps[0], image.shape[0], kernel)
    image = image[reach[0] : reach[1]]
    narrow = np.empty((image.shape[2], len(image), len(columns)), np.float32)
    for part in strips(image):
        planes = np.ascontiguousarray(image[part].transpose(2, 0, 1), np.float32)
        for out, into, weights in _bands(columns, steps[1], image.shape[1], kernel):
            narrow[:, part, out] = planes[:, :, into] @ weights.T
    result = np.empty((len(rows), len(columns), len(narrow)), np.float32)
    for out, into, weights in _bands(rows - reach[0], steps[0], len(image), kernel):
        result[out] = (weights @ narrow[:, into]).transpose(1, 2, 0)
    return result


def sample(array: np.ndarray, rows: np.ndarray, columns: np.ndarray, steps: tuple[float, float]) -> np.ndarray:
    """float32 `array` (h, w, …) at the crossings of `rows` and `columns`: bilinear, smoothed where `steps` exceed 1.

    Rows and columns are coordinates in `array`, pixel i spanning [i, i + 1); beyond the border its value continues.
    """
    planes = np.moveaxis(array.reshape(*array.shape[:2], -1), 2, 0).astype(np.float32)
    rows = np.clip(rows, 0.5, array.shape[0] - 0.5)
    columns = np.clip(columns, 0.5, array.shape[1] - 0.5)
    wide = np.empty((len(planes), len(rows), array.shape[1]), np.float32)
    for out, into, weights in _bands(rows, steps[0], array.shape[0], (_triangle, 1.0)):
        wide[:, out] = weights.astype(np.float32) @ planes[:, into]
    result = np.empty((len(planes), len(rows), len(columns)), np.float32)
    for out, into, weights in _bands(columns, steps[1], array.shape[1], (_triangle, 1.0)):
        result[:, :, out] = wide[:, :, into] @ weights.astype(np.float32).T
    return np.ascontiguousarray(np.moveaxis(result, 0, 2)).reshape(len(rows), len(columns), *array.shape[2:])


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of (stacked) matrices, a few rows of `a` at a time, which one thread computes."""
    rows = max(1, ONE_THREAD // max(1, b.shape[-2] * b.shape[-1]))
    return np.concatenate([a[..., i : i + rows, :] @ b for i in range(0, a.shape[-2], rows)], axis=-2)


def _nearest(start: int, count: int, length: int, total: int) -> np.ndarray:
    """⌊(i + ½) · length / total⌋ in integers, exact where it falls on the border of two pixels."""
    return (2 * np.arange(start, start + count) + 1) * length // (2 * total)


def _along_columns(image: np.ndarray, centres: np.ndarray, step: float, kernel: Filter) -> np.ndarray:
    """(H, W, C) uint8 to planar (C, H, w) uint8, a few rows at a time so that floats never fill the memory."""
    height, width, channels = image.shape
    result = np.empty((channels, height, len(centres)), np.uint8)
    bands = list(_bands(centres, step, width, kernel))
    widest = max(into.stop - into.start for _, into, _ in bands)
    stride = max(1, min((1 << 22) // max(1, width * channels), ONE_THREAD // (widest * BAND)))
    for start in range(0, height, stride):
        part = np.ascontiguousarray(image[start : start + stride].transpose(2, 0, 1), np.float64)
        for out, into, weights in bands:
            result[:, start : start + stride, out] = _levels(part[:, :, into] @ _fixed(weights).T)
    return result


def _along_rows(planes: np.ndarray, centres: np.ndarray, step: float, kernel: Filter) -> np.ndarray:
    """Planar (C, H, w) uint8 to (h, w, C) uint8."""
    channels, height, width = planes.shape
    result = np.empty((len(centres), width, channels), np.uint8)
    for out, into, weights in _bands(centres, step, height, kernel):
        result[out] = _levels(_fixed(weights) @ planes[:, into].astype(np.float64)).transpose(1, 2, 0)
    return result


def _fixed(weights: np.ndarray) -> np.ndarray:
    return np.trunc(weights * UNIT + np.copysign(0.5, weights))


def _levels(sums: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(sums / UNIT + 0.5), 0, 255).astype(np.uint8)


def _reach(centres: np.ndarray, step: float, length: int, kernel: Filter) -> tuple[int, int]:
    radius = kernel[1] * max(step, 1.0) + 1
    return max(0, int(centres[0] - radius)), min(length, int(centres[-1] + radius) + 1)


def _bands(centres: np.ndarray, step: float, length: int, kernel: Filter) -> Sequence[_Band]:
    """Which outputs, from which inputs, by which (outputs, inputs) matrix; ascending `centres`, in pixels."""
    return _kept_bands(centres.tobytes(), step, length, kernel)


@lru_cache(maxsize=64)  # pictures of a folder tend to have one size
def _kept_bands(data: bytes, step: float, length: int, kernel: Filter) -> Sequence[_Band]:
    return tuple(_new_bands(np.frombuffer(data), step, length, kernel))


def _new_bands(centres: np.ndarray, step: float, length: int, kernel: Filter) -> Iterator[_Band]:
    weight, support = kernel
    scale = max(step, 1.0)
    for start in range(0, len(centres), BAND):
        centre = centres[start : start + BAND]
        low = max(0, int(centre[0] - support * scale + 0.5))
        high = min(length, max(low + 1, int(centre[-1] + support * scale + 0.5)))
        distance = (np.arange(low, high) + 0.5 - centre[:, None]) / scale
        weights = weight(distance)
        weights /= weights.sum(axis=1, keepdims=True)
        yield slice(start, start + len(centre)), slice(low, high), weights
