"""What both sides predict against what is known of the pictures: average precision, mean intersection over union."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analyzer.images import Fed, Placement
from analyzer.metrics.average_precision import THRESHOLDS, Matched, average_precision, matched_to_truth
from analyzer.metrics.detections import Detections
from analyzer.metrics.intervals import resampled
from analyzer.tasks.base import Task
from analyzer.tasks.detection.boxed import Boxed

LEAST = 0.01  # score from which detections count: precision is measured at every recall
BITS = 1 << np.arange(len(THRESHOLDS))  # of a detection's hits, packed into a number
UNKNOWN = 255  # pixels of a mask that no class is known of


def against_boxes(
    task: Boxed, answer: Any, fed: Fed, boxes: np.ndarray, classes: Sequence[int] | None, labels: Sequence[str] | None
) -> dict[str, Any]:
    """What one side detects in a picture, matched to its true boxes; plain data.

    Args:
        boxes: (n, 4), x0, y0, x1, y1 in pixels of the picture.
        classes: (n,) numbers, as in `labels`; None where boxes are of no known class, which are found by any.
    """
    if hasattr(task, "threshold_"):
        lowest: dict[str, Any] = {"threshold_": LEAST}
        task = replace(task, **lowest)
    found = task.predictions(answer)
    places = np.array([fed.box(p.box, p.scaled) for p in found if p.box is not None]).reshape(-1, 4)
    scores = np.array([p.score for p in found if p.box is not None], float)
    named = [0 if classes is None or p.index is None else p.index for p in found if p.box is not None]
    true = np.zeros(len(boxes), np.int64) if classes is None else np.array([task.numbered(c, labels) for c in classes])
    matched = matched_to_truth(Detections(places, scores, np.array(named, np.int64)), boxes, true)
    return {
        "truths": {str(c): n for c, n in matched.truths.items()},
        "scores": matched.scores.tolist(),
        "classes": matched.classes.tolist(),
        "hits": (matched.hits @ BITS).tolist(),
    }


def against_mask(task: Task, answer: Any, placement: Placement, mask: np.ndarray) -> dict[str, Any] | None:
    """{class: [pixels in both, pixels in either]} of what one side predicts and a true mask; None where it has no mask.

    Args:
        mask: (H, W) class of every pixel of the picture; `UNKNOWN`, and what the network did not see, are left out.
    """
    classes = task.mask(answer)
    if classes is None:
        return None
    placed = placement.at((mask.shape[0], mask.shape[1]))
    rows, columns = placed.centres()
    at = [
        np.clip(np.floor(centers * size / whole), 0, size - 1).astype(int)
        for centers, size, whole in zip((rows, columns), classes.shape, placement.input_size, strict=True)
    ]
    known = (mask != UNKNOWN) & placed.covered
    said, true = classes[np.ix_(*at)][known], mask[known]
    found = np.union1d(said, true).tolist()
    return {str(c): [int(((said == c) & (true == c)).sum()), int(((said == c) | (true == c)).sum())] for c in found}


def accuracy_of(rows: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """{"truth": the measure of both sides, and the candidate's loss with its interval}, {} where nothing is known."""
    for key, measure, of in (("true_boxes", "mAP", _precision), ("true_mask", "mIoU", _overlap)):
        known = [row[key] for row in rows if key in row]
        if known:
            sides = [[picture[side] for picture in known] for side in (0, 1)]
            values = [of(side) for side in sides]
            loss = resampled(_loss(sides, of), len(known), confidence)
            return {
                "truth": {
                    "measure": measure,
                    "accuracy": values,
                    "loss": loss.value,
                    "interval": [max(-1.0, loss.low), min(1.0, loss.high)],
                    "pictures": len(known),
                }
            }
    return {}


def _loss(sides: Sequence[Sequence[Any]], of: Callable[[Sequence[Any]], float]) -> Callable[[np.ndarray], float]:
    def loss(chosen: np.ndarray) -> float:
        ours, theirs = (of([side[i] for i in chosen]) for side in sides)
        return ours - theirs

    return loss


def _precision(pictures: Sequence[Mapping[str, Any]]) -> float:
    return average_precision(
        [
            Matched(
                np.array(p["scores"], float),
                np.array(p["classes"], np.int64),
                (np.array(p["hits"], np.int64).reshape(-1, 1) & BITS) > 0,
                {int(c): n for c, n in p["truths"].items()},
            )
            for p in pictures
        ]
    )[0]


def _overlap(pictures: Sequence[Mapping[str, Sequence[int]]]) -> float:
    """Mean over classes of their pixels in both over those in either, over all pictures."""
    total: dict[str, np.ndarray] = {}
    for picture in pictures:
        for name, counts in picture.items():
            total[name] = total.get(name, 0) + np.array(counts)
    return float(np.mean([both / either for both, either in total.values()])) if total else float("nan")
