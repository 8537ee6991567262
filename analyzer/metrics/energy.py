"""How much of a map's heat lies on the object. Values below 0, and those that are not finite, count as 0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analyzer.metrics.regions import coverage, inside


def energy_inside(heat: np.ndarray, where: npt.ArrayLike) -> float:
    """Σ_region heat / Σ heat, the energy-based pointing game (Wang et al. 2020, 1910.01279, section 4.3)

    Pixels on the border of a box count by the part that is inside. 0 for a map without heat.

    Args:
        heat: (H, W).
        where: a box (4,), boxes (n, 4) of x0, y0, x1, y1 in pixels, or a mask (H, W) of bool.
    """
    warm = _warm(heat)
    total = float(warm.sum())
    return float((warm * coverage(where, (heat.shape[0], heat.shape[1]))).sum()) / total if total else 0.0


def hit_rate(heat: np.ndarray, where: npt.ArrayLike) -> float:
    """Of as many hottest pixels as the region has, the share inside it; pixels as hot as the last one count in part.

    Args:
        heat, where: as for `energy_inside`.
    """
    within = inside(where, (heat.shape[0], heat.shape[1]))
    count = int(within.sum())
    if not count:
        return 0.0
    warm = _warm(heat)
    last = np.partition(warm.ravel(), -count)[-count]
    above, level = warm > last, warm == last
    shared = (count - above.sum()) / level.sum()
    return float(((above & within).sum() + shared * (level & within).sum()) / count)


def _warm(heat: np.ndarray) -> np.ndarray:
    heat = np.asarray(heat, np.float64)
    return np.where(np.isfinite(heat), np.maximum(heat, 0), 0)
