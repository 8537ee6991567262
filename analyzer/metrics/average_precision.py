"""Average precision of detections (Everingham et al. 2010, IJCV 88:303), as COCO measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from analyzer.metrics.boxes import iou
from analyzer.metrics.detections import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
MOST = 100  # detections of one picture that count, the surest
_RECALLS = np.linspace(0, 1, 101)


class Matched(NamedTuple):
    """The detections of one picture against its true boxes.

    Attributes:
        scores, classes: (n,) of the detections, the surest first.
        hits: (n, 10) whether a detection has a true box of its class for itself, by `THRESHOLDS`.
        truths: {class: number of true boxes}
    """

    scores: np.ndarray
    classes: np.ndarray
    hits: np.ndarray
    truths: Mapping[int, int]


def matched_to_truth(found: Detections, boxes: np.ndarray, classes: np.ndarray) -> Matched:
    """Which detections are true: greedily, the surest first, each with the free box of its class that it overlaps most.

    Args:
        boxes: (m, 4) true boxes, x0, y0, x1, y1. classes: (m,).
    """
    order = np.argsort(-found.scores, kind="stable")[:MOST]
    overlaps = iou(found.boxes[order].reshape(-1, 4), boxes.reshape(-1, 4))
    overlaps[found.classes[order][:, None] != classes[None]] = -1.0
    hits = np.zeros((len(order), len(THRESHOLDS)), bool)
    for column, least in enumerate(THRESHOLDS if len(boxes) else ()):
        free = overlaps.copy()
        for row in range(len(order)):
            best = int(free[row].argmax())
            if free[row, best] >= least - 1e-10:
                hits[row, column] = True
                free[:, best] = -1.0
    counts = {int(c): int((classes == c).sum()) for c in np.unique(classes)}
    return Matched(found.scores[order], found.classes[order], hits, counts)


def average_precision(pictures: Sequence[Matched]) -> tuple[float, float]:
    """(mean over IoU of 0.5, 0.55, …, 0.95; at 0.5) of the area under precision over recall, mean over classes

    Precision is made to fall with recall and read at 101 recalls, as `pycocotools` does (boxes of all sizes, at most
    100 detections of a picture). Classes without a true box are left out; NaN if there are none.
    """
    truths: dict[int, int] = {}
    for picture in pictures:
        for name, count in picture.truths.items():
            truths[name] = truths.get(name, 0) + count
    if not truths:
        return float("nan"), float("nan")
    scores = np.concatenate([p.scores for p in pictures])
    classes = np.concatenate([p.classes for p in pictures])
    hits = np.concatenate([p.hits for p in pictures])
    areas = np.stack([_area(scores[classes == c], hits[classes == c], count) for c, count in truths.items()])
    return float(areas.mean()), float(areas[:, 0].mean())


def _area(scores: np.ndarray, hits: np.ndarray, count: int) -> np.ndarray:
    """(10,) of one class that has `count` true boxes."""
    if not len(scores):
        return np.zeros(hits.shape[1])
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")], axis=0)
    precision = right / np.arange(1, len(right) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    precision = np.concatenate([precision, np.zeros((1, hits.shape[1]))])
    recall = right / count
    at = [np.searchsorted(recall[:, column], _RECALLS, side="left") for column in range(hits.shape[1])]
    return np.array([precision[places, column].mean() for column, places in enumerate(at)])
