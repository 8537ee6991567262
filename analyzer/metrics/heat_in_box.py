"""Heat against the box of what is explained. Values below 0 count as 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def inside(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose middle lies in a box (x0, y0, x1, y1)."""
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    return np.logical_and.outer((rows >= box[1]) & (rows <= box[3]), (columns >= box[0]) & (columns <= box[2]))


def pointing_game(heat: np.ndarray, box: Sequence[float]) -> bool:
    """Whether the hottest pixel lies in the box (Zhang et al. 2018, 1608.00507, without their tolerance of 15 pixels).

    Of several equal maxima all must; a map without heat points nowhere.
    """
    highest = heat.max(initial=0)
    return bool(highest > 0 and inside(box, heat.shape)[heat == highest].all())


def points_inside(heat: np.ndarray, box: Sequence[float], tolerance: float = 0) -> bool:
    """The pointing game (Zhang et al. 2016, 1608.00507): whether the centre of the hottest pixel lies in the box.

    Args:
        tolerance: distance in pixels by which it may miss the box; 15 in the official protocol.
    """
    if not (heat > 0).any():
        return False
    y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
    across = box[0] - tolerance <= x + 0.5 <= box[2] + tolerance
    return bool(across and box[1] - tolerance <= y + 0.5 <= box[3] + tolerance)


def energy_inside(heat: np.ndarray, box: Sequence[float]) -> float:
    """The energy-based pointing game (Wang et al. 2020, 1910.01279): the share of the heat inside the box.

    Pixels on its border count by the part that is inside.
    """
    heat = np.maximum(np.nan_to_num(np.asarray(heat, np.float64)), 0)
    rows, columns = (
        np.clip(np.minimum(np.arange(size) + 1, high) - np.maximum(np.arange(size), low), 0, 1)
        for size, low, high in zip(heat.shape, (box[1], box[0]), (box[3], box[2]), strict=True)
    )
    total = heat.sum()
    return float(rows @ heat @ columns / total) if total else 0.0


def hit_rate(heat: np.ndarray, box: Sequence[float]) -> float:
    """Of as many hottest pixels as the box has, the share inside it; pixels as hot as the last one count in part."""
    within = inside(box, heat.shape)
    count = int(within.sum())
    if not count:
        return 0.0
    warm = np.maximum(heat, 0)
    last = np.partition(warm.ravel(), -count)[-count]
    above, level = warm > last, warm == last
    shared = (count - above.sum()) / level.sum()
    return float(((above & within).sum() + shared * (level & within).sum()) / count)
