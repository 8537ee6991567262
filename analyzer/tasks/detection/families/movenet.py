"""MoveNet for several people: a row of 17 keypoints, a box and a score for each."""

from __future__ import annotations

from analyzer.tasks.detection.codings import RowsFirst
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Level, Part
from analyzer.tasks.detection.view import View

_POINTS = 3 * 17
_PEOPLE = 20  # at most; it has 6


def people(view: View) -> tuple[Decoder, str] | None:
    """One output (N, people, 56): y, x and score of 17 keypoints, ymin, xmin, ymax, xmax and score of the person."""
    for name, shape in view.shapes.items():
        if len(view.shapes) != 1 or len(shape) != 3 or shape[2] != _POINTS + 5 or shape[1] > _PEOPLE:
            continue
        if not all(view.size) or not view.is_real(name):
            continue
        parts = {"boxes": (0, 4), "scores": (4, 5)}
        boxes, scores = (Part(name, _POINTS + a, _POINTS + b).cut(0, shape[1]) for a, b in parts.values())
        level = Level(scores, boxes, points=Part(name, 0, _POINTS).cut(0, shape[1]))
        decoder = Decoder("MoveNet", (level,), RowsFirst(), view.size, 1, iou=None, thing="person")
        return decoder, f"{name} {list(shape)} holds 17 keypoints, a box and a score for each of {shape[1]} people"
    return None
