"""The channels of a layer in one 8-bit picture, with the numbers that its gray levels stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGEST = 96  # pixels of a tile's longer side: larger maps are reduced to their strongest values
TILES, PIXELS = 4096, 1 << 22  # of one atlas: so many tiles, and as many more as these pixels have room for


@dataclass(frozen=True)
class Atlas:
    """Tiles in rows, channel by channel; each tile has a gray scale of its own.

    Attributes:
        pixels: (rows × h, columns × w) uint8; 0 is the channel's lowest value, 255 its highest, 0 where not finite.
        columns: tiles in a row. tile: (h, w) of a tile. count: number of tiles.
        low, high: of each channel, over its finite values.
    """

    pixels: np.ndarray
    columns: int
    tile: tuple[int, int]
    count: int
    low: np.ndarray
    high: np.ndarray

    def as_data(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "tile": list(self.tile),
            "count": self.count,
            "low": [float(f"{v:.7g}") for v in self.low],
            "high": [float(f"{v:.7g}") for v in self.high],
        }


def atlas(maps: np.ndarray) -> Atlas:
    """(channels, h, w) as an atlas; of a layer with more channels than there is room for, the first."""
    maps = np.asarray(maps[: max(TILES, PIXELS // max(1, math.prod(maps.shape[1:])))], np.float32)
    finite = np.isfinite(maps)
    low = np.where(finite, maps, np.inf).min((1, 2))
    high = np.where(finite, maps, -np.inf).max((1, 2))
    low, high = (np.where(np.isfinite(v), v, 0).astype(np.float32) for v in (low, high))
    tiles = _reduced(np.where(finite, maps, low[:, None, None]))
    span = np.where(high > low, high - low, 1)[:, None, None]
    gray = np.rint((tiles - low[:, None, None]) / span * 255).clip(0, 255).astype(np.uint8)
    count, height, width = gray.shape
    columns = max(1, math.ceil(math.sqrt(count * height / width)))
    rows = -(-count // columns)
    canvas = np.zeros((rows * columns, height, width), np.uint8)
    canvas[:count] = gray
    pixels = canvas.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return Atlas(np.ascontiguousarray(pixels), columns, (height, width), count, low, high)


def _reduced(maps: np.ndarray) -> np.ndarray:
    """Tiles of at most `LARGEST` pixels a side: of each block the value furthest from zero."""
    step = -(-max(maps.shape[1:]) // LARGEST)
    if step == 1:
        return maps
    pads = [(0, -s % step) for s in maps.shape[1:]]
    maps = np.pad(maps, [(0, 0), *pads], mode="edge")
    count, height, width = maps.shape
    blocks = maps.reshape(count, height // step, step, width // step, step)
    high, low = blocks.max((2, 4)), blocks.min((2, 4))
    return np.where(np.abs(low) > np.abs(high), low, high)
