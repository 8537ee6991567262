"""Many pictures in one: grids of tiles of equal size, and the channels of a feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import opencv
from analyzer.images.colour import colourise, value_range
from analyzer.images.draw import PAPER, ColourBar, figure, number
from analyzer.images.text import INK, clean, draw_text, shorten, text_width

GRID_WIDTH = 1600
CELL = 160


def grid(
    tiles: Sequence[np.ndarray],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    title: str = "",
    bar: ColourBar | None = None,
) -> np.ndarray:
    """The pictures side by side in equal cells, each with its label above, in at most about 1600 pixels of width.

    Args:
        tiles: (H, W, 3) uint8 RGB of any sizes; each keeps its proportions.
        labels: one per tile; shortened to its cell.
        columns: as near to a square as divides well unless given.
        bar: the scale that all of them share, drawn at the right.
    """
    if not tiles:
        raise InputError("a grid needs at least one picture")
    if labels is not None and len(labels) != len(tiles):
        raise InputError(f"{len(tiles)} pictures and {len(labels)} labels")
    columns = min(columns or _columns(len(tiles)), len(tiles))
    height, width = _cell(tiles, columns)
    cells = [_centred(tile, height, width) for tile in tiles]
    return figure(_assembled(cells, labels, columns, _label_size(width)), title, bar)


def channel_grid(
    features: np.ndarray,
    labels: Sequence[str | int] | None = None,
    *,
    max_channels: int = 64,
    per_channel: bool = True,
    title: str = "",
    colormap: str = "viridis",
    total: int | None = None,
) -> np.ndarray:
    """The channels of a feature map, pixels kept square, constant ones marked.

    Args:
        features: (C, h, w) real values.
        labels: one per channel, its number unless given.
        max_channels: how many are drawn, from the first.
        per_channel: each from its own minimum to its own maximum, else all on one scale.
        total: channels of the tensor that these were chosen from; C unless given.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 3 or 0 in features.shape:
        raise InputError(f"a feature map must be (channels, height, width), not {features.shape}")
    if labels is not None and len(labels) != len(features):
        raise InputError(f"{len(features)} channels and {len(labels)} labels")
    shown = features[:max_channels]
    names = [str(name) for name in (labels if labels is not None else range(len(features)))][:max_channels]
    low, high = value_range(shown)
    side = _channel_side(len(shown), max(shown.shape[1:]))
    cells = [_channel(plane, colormap, None if per_channel else (low, high), side) for plane in shown]
    marked = [f"{name} · {mark}" if mark else name for name, (_, mark) in zip(names, cells, strict=True)]
    columns = _columns(len(cells))
    picture = _assembled([cell for cell, _ in cells], marked, columns, _label_size(cells[0][0].shape[1]))
    count = total or len(features)
    text = f"{len(shown)} of {count} channels shown" if len(shown) < count else f"{count} channels"
    words = {0.0: "min of channel", 1.0: "max of channel"}
    bar = ColourBar(colormap, 0, 1, words) if per_channel else ColourBar(colormap, low, high)
    return figure(picture, f"{title} — {text}" if title else text, bar)


def _columns(count: int) -> int:
    """Wider than high, and the last row as full as it gets."""
    if count <= 4:
        return count
    near = range(math.ceil(math.sqrt(count)), min(count, math.ceil(math.sqrt(1.8 * count))) + 1)
    return min(near, key=lambda columns: (-count % columns / columns, columns))


def _cell(tiles: Sequence[np.ndarray], columns: int) -> tuple[int, int]:
    """Height and width of the cells: the largest tile's, within what the width of the grid leaves to each."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    room = max(CELL, GRID_WIDTH // columns) if columns * width > GRID_WIDTH else width
    factor = room / width
    if max(height, width) < CELL:
        factor = max(1, CELL // max(height, width)) if max(height, width) <= CELL // 2 else CELL / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _centred(tile: np.ndarray, height: int, width: int) -> np.ndarray:
    """`tile` as large as the cell allows, under its label: at the top, in the middle of the width."""
    cv2 = opencv()
    factor = min(height / tile.shape[0], width / tile.shape[1])
    size = max(1, round(tile.shape[1] * factor)), max(1, round(tile.shape[0] * factor))
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    crisp = factor > 1 and max(tile.shape[:2]) <= 64
    part = cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST if crisp else smooth)
    cell = np.full((height, width, 3), PAPER, np.uint8)
    left = (width - size[0]) // 2
    cell[: size[1], left : left + size[0]] = part
    return cell


def _assembled(cells: Sequence[np.ndarray], labels: Sequence[str] | None, columns: int, size: int) -> np.ndarray:
    """Cells of one size in rows, labels above them."""
    height, width = cells[0].shape[:2]
    strip = round(1.6 * size) if labels is not None else 0
    gap = max(4, round(0.6 * size))
    rows = math.ceil(len(cells) / columns)
    shape = (rows * (height + strip + gap) - gap, columns * (width + gap) - gap, 3)
    canvas = np.full(shape, PAPER, np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + strip + gap), index % columns * (width + gap)
        canvas[top + strip : top + strip + height, left : left + width] = cell
        if labels is not None:
            name = shorten(clean(str(labels[index])), width, size)
            draw_text(canvas, name, left + (width - text_width(name, size)) // 2, top + 1.15 * size, size, INK)
    return canvas


def _label_size(width: int) -> int:
    return int(np.clip(round(7 + 0.03 * width), 11, 17))


# ---- channels -------------------------------------------------------------------------------------------------


def _channel_side(count: int, side: int) -> int:
    """Pixels of the long side of a channel's tile: whole pixels where the map is small, about 1200 for all columns."""
    goal = int(np.clip(1200 // _columns(count), 72, 320))
    return side * max(1, goal // side) if side <= goal else goal


def _channel(plane: np.ndarray, name: str, limits: tuple[float, float] | None, side: int) -> tuple[np.ndarray, str]:
    """The tile of a channel, and what is odd about it."""
    cv2 = opencv()
    low, high = limits or value_range(plane)
    factor = side / max(plane.shape)
    size = max(1, round(plane.shape[1] * factor)), max(1, round(plane.shape[0] * factor))
    picture = colourise(plane, name, low, high)
    tile = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    finite = plane[np.isfinite(plane)]
    if finite.size < plane.size:
        return tile, "NaN" if np.isnan(plane).any() else "inf"
    if plane.size > 1 and finite.min() == finite.max():
        return _hatched(size), "dead" if finite[0] == 0 else f"constant {number(float(finite[0]))}"
    return tile, ""


def _hatched(size: tuple[int, int]) -> np.ndarray:
    """Diagonal stripes: there is nothing to see here."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    stripes = ((rows + columns) // 5 % 2)[..., None]
    return np.where(stripes, np.array((226, 228, 230)), np.array((205, 208, 211))).astype(np.uint8)
