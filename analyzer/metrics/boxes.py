"""Boxes (x0, y0, x1, y1): overlap, suppression and matching."""

from __future__ import annotations

import numpy as np


def area(boxes: np.ndarray) -> np.ndarray:
    """(n,) area of (n, 4) boxes; 0 where a side is negative."""
    return np.asarray(np.prod(np.maximum(boxes[:, 2:4] - boxes[:, :2], 0), axis=1))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes; 0 where both are empty."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    union = area(a)[:, None] + area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared, dtype=np.float64), where=union > 0)


def suppressed(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, limit: float) -> np.ndarray:
    """Indices of the boxes that greedy non-maximum suppression keeps, the highest score first.

    Args:
        boxes: (n, 4).
        scores: (n,).
        classes: (n,) a box suppresses only those of its own class.
        limit: IoU above which a box is suppressed.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        alike = (iou(boxes[[first]], boxes[rest])[0] > limit) & (classes[rest] == classes[first])
        order = rest[~alike]
    return np.array(kept, np.int64)
