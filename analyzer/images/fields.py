"""Receptive fields as pictures: gradient maps in their window, and windows and centers of units on a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analyzer.images._opencv import opencv
from analyzer.images.colour import colourise
from analyzer.images.draw import PAPER
from analyzer.images.text import FAINT, clean, draw_text, shorten, text_width

TILE = 300  # pixels of the long side of a tile
MARGIN = 0.06  # of the window, around it
LETTER = 13
BRIGHT = 99.5  # percentile of a gradient map that has the last color
WINDOW, SPREAD, OTHERS, CENTERS = (255, 255, 255), (90, 220, 255), (255, 196, 0), (230, 57, 70)
_SHIFT = 4  # binary digits after the point of coordinates that OpenCV draws
Span = tuple[float, float]


def field_tile(
    shares: np.ndarray, center: Sequence[float], sigma: Sequence[float], caption: str = "", colormap: str = "inferno"
) -> np.ndarray:
    """A gradient map, the window around it in white, the ellipse of 2σ in blue.

    A few pixels that stand out do not dim the others: the last color is the value of the `BRIGHT`th percentile.

    Args:
        shares: (h, w) mean gradients over the window; NaN is grey.
        center: of the ellipse, in pixels from the middle of the window.
        sigma: of the Gaussian, in pixels; NaN for no ellipse.
        caption: under the tile.
    """
    cv2 = opencv()
    height, width = shares.shape
    scale = TILE / (max(height, width) * (1 + 2 * MARGIN))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    shown = cv2.resize(np.nan_to_num(shares).astype(np.float64), size, interpolation=smooth)
    shown[_enlarged(np.isnan(shares), size)] = np.nan
    known = shown[~np.isnan(shown)]
    peak = float(np.percentile(known, BRIGHT) or known.max()) if known.size else 0.0
    shown = shown / peak if peak > 0 else shown
    edge = round(max(size) * MARGIN)
    canvas = np.full((size[1] + 2 * edge, size[0] + 2 * edge, 3), 40, np.uint8)
    canvas[edge : edge + size[1], edge : edge + size[0]] = colourise(shown, colormap, 0, 1)
    cv2.rectangle(canvas, (edge - 1, edge - 1), (edge + size[0], edge + size[1]), WINDOW, 1)
    if all(math.isfinite(s) for s in (*sigma, *center)):
        middle = [edge + (n / 2 + c) * scale for n, c in zip((width, height), reversed(center), strict=True)]
        axes = [2 * s * scale for s in reversed(sigma)]
        cv2.ellipse(canvas, _fixed(middle), _fixed(axes), 0, 0, 360, SPREAD, 2, cv2.LINE_AA, _SHIFT)
    return captioned(canvas, caption)


def unit_tile(
    picture: np.ndarray,
    window: tuple[Span, Span],
    neighbours: Sequence[tuple[Span, Span]] = (),
    centers: tuple[Sequence[float], Sequence[float]] = ((), ()),
    caption: str = "",
) -> np.ndarray:
    """The picture, paler outside the window of one unit, with the windows of its neighbours and all units' centers.

    Args:
        picture: (H, W, 3) uint8 RGB.
        window, neighbours: (start, stop) in pixels, rows first; what is outside the picture is drawn beside it.
        centers: rows and columns of the grid of centers, in pixels.
        caption: under the tile.
    """
    cv2 = opencv()
    spans = [window, *neighbours]
    sides = picture.shape[:2]
    low = [min(0, math.floor(window[a][0])) for a in (0, 1)]
    high = [max(sides[a], math.ceil(window[a][1])) for a in (0, 1)]
    scale = TILE / max(h - g for g, h in zip(low, high, strict=True))
    size = tuple(max(1, round((h - g) * scale)) for g, h in zip(low, high, strict=True))

    def at(axis: int, pixel: float) -> float:
        return (pixel - low[axis]) * scale

    canvas = np.full((*size, 3), 232, np.uint8)
    inside = tuple(slice(round(at(a, 0)), max(round(at(a, 0)) + 1, round(at(a, sides[a])))) for a in (0, 1))
    room = canvas[inside].shape[1::-1]
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas[inside] = cv2.resize(picture, room, interpolation=smooth)
    seen = tuple(slice(max(0, round(at(a, window[a][0]))), max(0, round(at(a, window[a][1])))) for a in (0, 1))
    paler = np.rint(0.45 * canvas + 0.55 * 255).astype(np.uint8)
    paler[seen] = canvas[seen]
    canvas = np.ascontiguousarray(paler)
    step = max(1, math.ceil(8 / (scale * _pitch(centers)))) if _pitch(centers) else 1
    for y in list(centers[0])[::step]:
        for x in list(centers[1])[::step]:
            where = _fixed((at(1, x + 0.5), at(0, y + 0.5)))
            cv2.circle(canvas, where, round(1.3 * 2**_SHIFT), CENTERS, -1, cv2.LINE_AA, _SHIFT)
    for span, colour, thick in [*((s, OTHERS, 1) for s in spans[1:]), (window, SPREAD, 2)]:
        corners = [(round(at(1, span[1][i])), round(at(0, span[0][i]))) for i in (0, 1)]
        cv2.rectangle(canvas, corners[0], (corners[1][0] - 1, corners[1][1] - 1), colour, thick)
    return captioned(canvas, caption)


def count_tile(counts: np.ndarray, caption: str = "", colormap: str = "viridis") -> np.ndarray:
    """How many units see each pixel, (H, W), on a scale from 0 to the most."""
    cv2 = opencv()
    scale = TILE / max(counts.shape)
    size = tuple(max(1, round(n * scale)) for n in counts.shape[::-1])
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    values = cv2.resize(counts.astype(np.float32), size, interpolation=smooth)
    return captioned(colourise(values, colormap, 0, float(counts.max(initial=1))), caption)


def captioned(tile: np.ndarray, caption: str) -> np.ndarray:
    """A line of text under a tile."""
    if not caption:
        return tile
    text = shorten(clean(caption), tile.shape[1], LETTER)
    canvas = np.full((tile.shape[0] + round(1.7 * LETTER), max(tile.shape[1], TILE), 3), PAPER, np.uint8)
    left = (canvas.shape[1] - tile.shape[1]) // 2
    canvas[: tile.shape[0], left : left + tile.shape[1]] = tile
    middle = (canvas.shape[1] - text_width(text, LETTER)) // 2
    draw_text(canvas, text, middle, tile.shape[0] + 1.2 * LETTER, LETTER, FAINT)
    return canvas


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures one below the other, in the middle of the widest."""
    width = max(p.shape[1] for p in pictures)
    canvas = np.full((sum(p.shape[0] for p in pictures), width, 3), PAPER, np.uint8)
    top = 0
    for picture in pictures:
        left = (width - picture.shape[1]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += picture.shape[0]
    return canvas


def ending(name: str, width: int = TILE, size: int = 17) -> str:
    """The end of a tensor's name that fits into a tile's width, which tells more than the beginning.

    TFLite joins the names of fused operators by semicolons; the first is the operator's own.
    """
    whole = clean(name.split(";")[0])
    kept = whole
    while kept and text_width("…" + kept, size) > width:
        kept = kept[1:]
    return kept if kept == whole else "…" + kept


def _enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    found = opencv().resize(mask.astype(np.uint8), size, interpolation=opencv().INTER_NEAREST)
    return np.asarray(found > 0)


def _pitch(centers: tuple[Sequence[float], Sequence[float]]) -> float:
    """The least distance of two centers along an axis; 0 if there is one at most."""
    gaps = [float(np.diff(np.sort(np.asarray(c, float))).min()) for c in centers if len(c) > 1]
    return min(gaps, default=0.0)


def _fixed(values: Sequence[float]) -> tuple[int, int]:
    x, y = (round(v * 2**_SHIFT) for v in values)
    return x, y
