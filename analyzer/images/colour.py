"""Numbers to colours: a colour map is a (n, 3) uint8 RGB table, sequential ones OpenCV's, diverging ones our own.

NaN is drawn in a grey that no map contains, infinities in the colour of their end.
"""

from __future__ import annotations

import functools

import numpy as np

from analyzer.errors import NotFoundError, suggest
from analyzer.images._opencv import opencv

SEQUENTIAL = ("turbo", "viridis", "cividis", "inferno", "magma", "plasma", "jet", "hot", "bone")

# From −1 to 1 through white, equally spaced.
_DIVERGING = {
    "blue-red": ("0b2a66", "1f5fb4", "6ea8dc", "c6ddf1", "ffffff", "fad3c0", "ee9072", "c93a3c", "6d0a22"),
    "purple-green": ("3b0f58", "76409a", "a886c0", "dbcbe6", "ffffff", "cfe8cb", "8cc48a", "3c8f4c", "0b4a22"),
}

COLORMAPS = (*SEQUENTIAL, "gray", "gray_r", *_DIVERGING)
NAN_COLOUR = (150, 150, 150)


@functools.cache
def colormap(name: str) -> np.ndarray:
    """(n, 3) uint8 RGB from low to high: 256 entries, or 255 with white in the middle where it diverges.

    Raises:
        NotFoundError: no such colour map.
    """
    if name not in COLORMAPS:
        raise NotFoundError(
            f"no color map {name!r}", suggest(name, COLORMAPS) or f"choose one of {', '.join(COLORMAPS)}"
        )
    table = _anchored(_DIVERGING[name]) if name in _DIVERGING else _sequential(name)
    table.flags.writeable = False
    return table


def is_diverging(name: str) -> bool:
    return name in _DIVERGING


def colourise(
    values: np.ndarray,
    name: str = "turbo",
    vmin: float | None = None,
    vmax: float | None = None,
    signed: bool = False,
) -> np.ndarray:
    """The colour of each value: (H, W) to (H, W, 3) uint8 RGB.

    Args:
        values: any real type; NaN is grey.
        name: one of `COLORMAPS`.
        vmin, vmax: values of the first and the last colour; the finite extremes unless given. A constant map has the
            first colour, a signed one of zeros the middle.
        signed: zero in the middle of a diverging map (blue-red unless `name` is one), ±vmax or ±max |value| at the
            ends.
    """
    values = np.asarray(values, np.float32)
    low, high = value_range(values, vmin, vmax, signed)
    table = colormap(name if not signed or is_diverging(name) else "blue-red")
    width = high - low
    wide = np.dtype(np.float32 if width <= float(np.finfo(np.float32).max) else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (
            np.clip((values.astype(wide, copy=False) - low) / width, 0, 1)
            if width > 0
            else np.full(values.shape, 0.5 if signed else 0.0)
        )
    empty = np.isnan(values)
    picture = table[np.rint(np.where(empty, 0, unit) * (len(table) - 1)).astype(np.intp)]
    picture[empty] = NAN_COLOUR
    return picture


def value_range(
    values: np.ndarray, vmin: float | None = None, vmax: float | None = None, signed: bool = False
) -> tuple[float, float]:
    """The values of the first and the last colour, as `colourise` chooses them; (0, 0) where nothing is finite."""
    finite = values[np.isfinite(values)]
    if signed:
        limit = abs(vmax) if vmax is not None else float(np.abs(finite).max(initial=0.0))
        return -limit, limit
    low = float(finite.min()) if vmin is None and finite.size else vmin or 0.0
    high = float(finite.max()) if vmax is None and finite.size else vmax or 0.0
    return low, high


def _sequential(name: str) -> np.ndarray:
    ramp = np.arange(256, dtype=np.uint8)
    if name in ("gray", "gray_r"):
        return np.repeat((ramp if name == "gray" else ramp[::-1])[:, None], 3, axis=1)
    cv2 = opencv()
    return np.ascontiguousarray(cv2.applyColorMap(ramp[:, None], getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0, ::-1])


def _anchored(colours: tuple[str, ...]) -> np.ndarray:
    anchors = np.array([list(bytes.fromhex(colour)) for colour in colours], np.float64)
    at = np.linspace(0, len(anchors) - 1, 255)
    return np.rint([np.interp(at, range(len(anchors)), channel) for channel in anchors.T]).T.astype(np.uint8)
