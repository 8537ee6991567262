"""Connected parts of a mask."""

from __future__ import annotations

import numpy as np

from analyzer.images._opencv import opencv


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels (H, W) int32, 0 where the mask is not; boxes (n, 5): x0, y0, x1, y1, area) of an (H, W) bool mask.

    Pixels that touch at a corner belong together. A box spans whole pixels: x1 and y1 are one past the last.
    """
    _, labels, stats, _ = opencv().connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = stats[1:].copy()
    boxes[:, 2:4] += boxes[:, :2]
    return labels, boxes
