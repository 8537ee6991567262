"""Intersection over union of what a map marks, with an object and with another map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analyzer.metrics.regions import inside


def heat_iou(heat: np.ndarray, where: npt.ArrayLike, threshold: float = 0.5) -> float:
    """|M ∩ R| / |M ∪ R|, M = {heat ≥ threshold · max heat}

    The Jaccard index (Jaccard 1912) of the region R with what the map marks at a share of its maximum, as class
    activation maps are thresholded (Zhou et al. 2016, 1512.04150, section 3.2, with a threshold of 0.2). A map without
    positive values marks nothing.

    Args:
        heat: (H, W).
        where: a box (4,), boxes (n, 4) of x0, y0, x1, y1 in pixels, or a mask (H, W) of bool.
        threshold: in (0, 1].
    """
    highest = float(np.nanmax(heat, initial=0))
    marked = heat >= threshold * highest if highest > 0 else np.zeros(heat.shape, bool)
    region = inside(where, (heat.shape[0], heat.shape[1]))
    union = int((marked | region).sum())
    return int((marked & region).sum()) / union if union else 0.0


def top_iou(a: np.ndarray, b: np.ndarray, share: float = 0.2) -> float:
    """|A ∩ B| / |A ∪ B|, A and B the highest `share` of the positions of each map; of equal values the first."""
    count = max(1, round(share * a.size))
    tops = [_highest(m.ravel(), count) for m in (a, b)]
    return int((tops[0] & tops[1]).sum()) / int((tops[0] | tops[1]).sum())


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` highest values are, (n,) bool: of equal ones the first; NaN counts as the lowest."""
    values = np.where(np.isnan(values), -np.inf, values)
    bound = np.partition(values, -count)[-count]
    found: np.ndarray = values > bound
    found[np.flatnonzero(values == bound)[: count - int(found.sum())]] = True
    return found
