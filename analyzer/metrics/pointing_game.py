"""The pointing game: whether a map's maximum lies on the object (Zhang et al. 2016, 1608.00507)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analyzer.metrics.regions import inside


def pointing_game(heat: np.ndarray, where: npt.ArrayLike) -> bool:
    """argmax heat ∈ region, without the paper's tolerance of 15 pixels

    Of several equal maxima all must lie in it. A map without positive values points nowhere.

    Args:
        heat: (H, W).
        where: a box (4,), boxes (n, 4) of x0, y0, x1, y1 in pixels, or a mask (H, W) of bool.
    """
    highest = heat.max(initial=0)
    return bool(highest > 0 and inside(where, (heat.shape[0], heat.shape[1]))[heat == highest].all())


def points_inside(heat: np.ndarray, box: Sequence[float], tolerance: float = 0) -> bool:
    """The same for one box and the first of several equal maxima, as the official protocol counts.

    Args:
        heat: (H, W); NaN is no maximum.
        tolerance: distance in pixels by which the pixel's center may miss the box; 15 in the official protocol.
    """
    if not (heat > 0).any():
        return False
    y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
    across = box[0] - tolerance <= x + 0.5 <= box[2] + tolerance
    return bool(across and box[1] - tolerance <= y + 0.5 <= box[3] + tolerance)
