"""Many pictures in one: grids of tiles of equal size, and the channels of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import opencv
from analyzer.images.colour import colourise, value_range
from analyzer.images.draw import ColourBar, number
from analyzer.images.mosaic import tile
from analyzer.images.views import Panel, fitting, sheet

GRID_WIDTH = 1600
CELL = 160
ACROSS = 8  # channels in a row


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
        labels: one per tile, in at most two lines.
        columns: as near to a rectangle as looks well unless given.
        bar: the scale that all of them share, drawn at the right.
    """
    if not tiles:
        raise InputError("a grid needs at least one picture")
    if labels is not None and len(labels) != len(tiles):
        raise InputError(f"{len(tiles)} pictures and {len(labels)} labels")
    columns = min(columns or fitting(len(tiles)), len(tiles))
    side = _side(max(max(each.shape[:2]) for each in tiles), columns)
    titles = [str(label) for label in labels] if labels is not None else [""] * len(tiles)
    return sheet([Panel(tile(t, side), name) for t, name in zip(tiles, titles, strict=True)], columns, title, bar)


def channel_grid(
    features: np.ndarray,
    labels: Sequence[str | int] | None = None,
    *,
    max_channels: int = 64,
    per_channel: bool = True,
    title: str = "",
    colormap: str = "viridis",
    total: int | None = None,
    picture: np.ndarray | None = None,
) -> np.ndarray:
    """The channels of a feature map with their numbers and highest values, pixels kept square, constant ones hatched.

    Args:
        features: (C, h, w) real values.
        labels: one per channel, its number unless given.
        max_channels: how many are drawn, from the first.
        per_channel: each from its own minimum to its own maximum, else all on one scale.
        total: channels of the tensor that these were chosen from; C unless given.
        picture: (H, W, 3) uint8, what they are of, drawn before the first.
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
    titles = [
        f"{name} · {mark or number(float(plane.max()))}"
        for name, plane, (_, mark) in zip(names, shown, cells, strict=True)
    ]  # fmt: skip
    panels = [Panel(cell, name) for name, (cell, _) in zip(titles, cells, strict=True)]
    if picture is not None:
        panels.insert(0, Panel(tile(picture, side), "picture"))
    count = total or len(features)
    text = f"{len(shown)} of {count} channels shown" if len(shown) < count else f"{count} channels"
    words = {0.0: "min of channel", 1.0: "max of channel"}
    bar = ColourBar(colormap, 0, 1, words) if per_channel else ColourBar(colormap, low, high)
    return sheet(panels, fitting(len(panels), ACROSS), f"{title} — {text}" if title else text, bar)


def _side(longest: int, columns: int) -> int:
    """The long side of the tiles: the longest's, at least `CELL`, within what the width of the grid leaves to each.

    The pixels of tiny ones stay square.
    """
    side = longest * (CELL // longest) if longest <= CELL // 2 else max(longest, CELL)
    return min(side, max(CELL, GRID_WIDTH // columns))


# ---- channels -------------------------------------------------------------------------------------------------


def _channel_side(count: int, side: int) -> int:
    """Pixels of the long side of a channel's tile: whole pixels where the map is small, about 1200 for all columns."""
    goal = int(np.clip(1200 // fitting(count, ACROSS), 72, 320))
    return side * max(1, goal // side) if side <= goal else goal


def _channel(plane: np.ndarray, name: str, limits: tuple[float, float] | None, side: int) -> tuple[np.ndarray, str]:
    """The tile of a channel, and what is odd about it."""
    cv2 = opencv()
    low, high = limits or value_range(plane)
    factor = side / max(plane.shape)
    size = max(1, round(plane.shape[1] * factor)), max(1, round(plane.shape[0] * factor))
    picture = colourise(plane, name, low, high)
    drawn = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    finite = plane[np.isfinite(plane)]
    if finite.size < plane.size:
        return drawn, "NaN" if np.isnan(plane).any() else "inf"
    if plane.size > 1 and finite.min() == finite.max():
        return hatched(size), "dead" if finite[0] == 0 else f"constant {number(float(finite[0]))}"
    return drawn, ""


def hatched(size: tuple[int, int]) -> np.ndarray:
    """(width, height) of diagonal stripes: there is nothing to see here."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    stripes = ((rows + columns) // 5 % 2)[..., None]
    return np.where(stripes, np.array((226, 228, 230)), np.array((205, 208, 211))).astype(np.uint8)
