"""Boxes, upright (x0, y0, x1, y1) or rotated (x, y, width, height, angle): overlap and suppression."""

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


# ---- Rotated boxes ----

_BLOCK = 64  # boxes that are compared with all others at a time


def probiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 − H for every pair of (n, 5) and (m, 5) rotated boxes: H is the Hellinger distance of the Gaussians with their
    means and covariances (2106.06072, section 3).

    Args:
        a, b: center x, y, width, height, and the angle of the width in radians.
    """
    shift_x, shift_y = (a[:, None, i] - b[None, :, i] for i in (0, 1))
    own, other = _covariances(a)[:, None], _covariances(b)[None]
    xx, yy, xy = np.moveaxis(own + other, -1, 0)
    both, each = xx * yy - xy**2, _determinants(own) * _determinants(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = (yy * shift_x**2 + xx * shift_y**2 - 2 * xy * shift_x * shift_y) / (4 * both)
        unlike = 0.5 * np.log(both / (4 * np.sqrt(each)))
    distance = np.nan_to_num(away + unlike, nan=np.inf)  # of Bhattacharyya
    return np.asarray(1 - np.sqrt(1 - np.exp(-np.maximum(distance, 0))))


def _covariances(boxes: np.ndarray) -> np.ndarray:
    """(n, 3) variance of x, variance of y, and covariance of the uniform distribution over each box."""
    wide, high = (boxes[:, 2:4] ** 2 / 12).T
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    return np.stack([wide * cos**2 + high * sin**2, wide * sin**2 + high * cos**2, (wide - high) * cos * sin], axis=-1)


def _determinants(covariances: np.ndarray) -> np.ndarray:
    xx, yy, xy = np.moveaxis(covariances, -1, 0)
    return np.asarray(np.maximum(xx * yy - xy**2, 0))


def suppressed_rotated(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, limit: float) -> np.ndarray:
    """Indices of the rotated boxes that Fast NMS (1904.02689, section 4.1) keeps, the highest score first: a box is
    dropped if it overlaps any box of its class with a higher score, be that one kept or not.

    Args:
        boxes: (n, 5).
        scores: (n,).
        classes: (n,) a box suppresses only those of its own class.
        limit: `probiou` above which a box is suppressed.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes, kept = boxes[order], classes[order], [np.zeros(0, bool)]
    for first in range(0, len(order), _BLOCK):
        rows = slice(first, first + _BLOCK)
        alike = (probiou(boxes[rows], boxes) > limit) & (classes[rows, None] == classes)
        surer = np.tri(len(alike), len(boxes), first - 1, dtype=bool)
        kept.append(~(alike & surer).any(axis=1))
    return np.asarray(order[np.concatenate(kept)])
