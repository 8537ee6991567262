"""Where the object is: a box, several boxes, or a mask, as how much of each pixel belongs to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def inside(where: npt.ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose middle lies in the region.

    Args:
        where: a box (4,) or boxes (n, 4) of x0, y0, x1, y1 in pixels, or a mask (H, W) of bool.
        size: H, W.
    """
    region = np.asarray(where)
    if region.dtype == bool:
        return _of_size(region, size)
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    found = np.zeros(size, bool)
    for x0, y0, x1, y1 in region.reshape(-1, 4):
        found |= np.logical_and.outer((rows >= y0) & (rows <= y1), (columns >= x0) & (columns <= x1))
    return found


def coverage(where: npt.ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """(H, W) in [0, 1]: the part of each pixel that lies in the region, of boxes the one that covers most of it.

    Args:
        where, size: as for `inside`.
    """
    region = np.asarray(where)
    if region.dtype == bool:
        return _of_size(region, size).astype(np.float64)
    found = np.zeros(size)
    for x0, y0, x1, y1 in region.reshape(-1, 4):
        found = np.maximum(found, np.outer(_covered(size[0], y0, y1), _covered(size[1], x0, x1)))
    return found


def _covered(length: int, low: float, high: float) -> np.ndarray:
    """(length,) of each cell, the part between low and high."""
    cells = np.arange(length)
    return np.asarray(np.clip(np.minimum(cells + 1, high) - np.maximum(cells, low), 0, 1))


def _of_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape != tuple(size):
        raise ValueError(f"the mask has the size {mask.shape}, the map {tuple(size)}")
    return mask
