"""Two sets of detections: which are the same, and how far those are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.metrics.boxes import iou


@dataclass(frozen=True)
class Detections:
    """What is detected in one picture.

    Attributes:
        boxes: (n, 4) x0, y0, x1, y1.
        scores: (n,).
        classes: (n,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Matching:
    """Detections of two sets that are the same.

    Attributes:
        pairs: (m, 2) index in the first and in the second set.
        overlaps: (m,) their IoU.
        missed: indices of the first set that have no partner.
        added: indices of the second set that have none.
    """

    pairs: np.ndarray
    overlaps: np.ndarray
    missed: np.ndarray
    added: np.ndarray


def matched(a: Detections, b: Detections, least: float = 0.5) -> Matching:
    """Detections of the same class with an IoU of at least `least`, greedily as COCO does: those of `a` by falling
    score, each with the free one of `b` that it overlaps most (of equal ones, the surer)."""
    overlaps = _alike(a.boxes, b.boxes) * np.equal.outer(a.classes, b.classes)
    preferred = np.argsort(-b.scores, kind="stable")
    free = np.ones(len(b), bool)
    pairs = list[tuple[int, int]]()
    for row in np.argsort(-a.scores, kind="stable").tolist():
        open_ = preferred[free[preferred]]
        if not open_.size:
            break
        column = int(open_[overlaps[row, open_].argmax()])
        if overlaps[row, column] >= least:
            free[column] = False
            pairs.append((row, column))
    found = np.array(pairs, np.int64).reshape(-1, 2)
    alone = np.setdiff1d(np.arange(len(a)), found[:, 0])
    return Matching(found, overlaps[found[:, 0], found[:, 1]], alone, np.flatnonzero(free))


def score_drift(a: Detections, b: Detections, matching: Matching) -> dict[int, float]:
    """{class: mean of b's scores minus a's} over matched detections."""
    rows, columns = matching.pairs.T
    drift, classes = b.scores[columns].astype(np.float64) - a.scores[rows], a.classes[rows]
    return {int(c): float(drift[classes == c].mean()) for c in np.unique(classes)}


def pair_quality(a: Detections, b: Detections, matching: Matching) -> np.ndarray:
    """(m,) q = IoU · min(s, t) / max(s, t) of every pair, s and t its scores

    Panoptic quality (Kirillov et al. 2019, 1801.00868, eq. 1) sums the first factor. With the second, neither boxes
    nor scores that agree make up for others that do not.
    """
    rows, columns = matching.pairs.T
    s, t = a.scores[rows].astype(np.float64), b.scores[columns].astype(np.float64)
    low, high = np.minimum(s, t), np.maximum(s, t)
    return matching.overlaps * np.divide(low, high, out=np.ones_like(low), where=high > 0)


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) IoU; 1 for equal boxes, empty ones too."""
    return np.where((a[:, None] == b[None]).all(axis=2), 1.0, iou(a, b))
