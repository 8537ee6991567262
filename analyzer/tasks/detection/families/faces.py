"""Detectors of faces, and of hands and people alike, with heads per stride: SCRFD, YuNet, BlazeFace."""

from __future__ import annotations

from dataclasses import replace

from analyzer.tasks.detection.codings import Coding, Distances, Exponentials, Offsets
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.pyramid import Stage, by_candidates, stages, stages_of
from analyzer.tasks.detection.view import View

_POINTS = 10  # numbers of the five points of a face
_MEDIAPIPE = {16: "face", 18: "palm", 12: "person"}  # numbers of a box and its points


def strided(view: View) -> tuple[Decoder, str] | None:
    """SCRFD (2105.04714): score, four distances and perhaps five points per stride; YuNet: two scores, centre and size,
    and five points per stride."""
    heads = []
    for count, outputs in by_candidates(view).items():
        ones = [p for p, n in outputs if n == 1]
        boxes, points = [p for p, n in outputs if n == 4], [p for p, n in outputs if n == _POINTS]
        if len(boxes) == 1 and len(ones) in (1, 2) and len(points) < 2 and len(outputs) <= 4:
            found = stages(view, ones[0]) or _by_count(view, count)
            if found is None or len(found) != 1:
                return None
            heads.append((found[0], ones, boxes[0], points[0] if points else None))
    kinds = {(len(ones), points is None, stage.cell) for stage, ones, _, points in heads}
    if len(heads) not in (3, 5) or len(kinds) != 1:
        return None
    heads.sort(key=lambda head: -head[0].last)
    two, pointless, cell = kinds.pop()
    coding: Coding
    if two == 2 and not pointless and cell == 1:
        family, coding, powers = "YuNet", Exponentials(), (0.5, 0.5)
    elif two == 1 and (cell == 2 or (cell == 1 and len(heads) == 5 and not pointless)):
        family, coding, powers = "SCRFD", Distances(offset=0.0), (1.0, 1.0)
    else:
        return None
    squashed = {view.squashed(one) for _, ones, _, _ in heads for one in ones}
    if squashed not in ({"Sigmoid"}, {""}):
        return None
    function = "" if squashed == {"Sigmoid"} else "sigmoid"
    levels = [
        stage.level(ones[0], boxes, ones[1] if two == 2 else None, points) for stage, ones, boxes, points in heads
    ]
    decoder = Decoder(
        family, view.with_layers(levels), coding, view.size, 1, function, not function, function, powers,
        threshold=0.5, iou=0.4, thing="face",
    )  # fmt: skip
    said = f"{'score' if two == 1 else 'two scores'}, box{'' if pointless else ' and five points'}"
    return decoder, f"{said} at each of {len(heads)} strides"


def _by_count(view: View, count: int) -> list[Stage] | None:
    return stages_of(view, count, [(s,) for s in (8, 16, 32, 64, 128)], (2, 1))


def mediapipe(view: View) -> tuple[Decoder, str] | None:
    """BlazeFace (1907.05047) and MediaPipe's other detectors: one score, and box and points relative to anchors that
    all have the input's size; all candidates in one output each, or one per map."""
    heads = []
    for outputs in by_candidates(view).values():
        scores = [p for p, n in outputs if n == 1]
        rows = [(p, n) for p, n in outputs if n in _MEDIAPIPE]
        if len(scores) != 1 or len(rows) != 1 or len(outputs) != 2:
            return None
        found = stages(view, scores[0])
        if found is None or view.squashed(scores[0]) not in ("Sigmoid", ""):
            return None
        heads += [(stage, scores[0], *rows[0]) for stage in found]
    if not heads or len({n for *_, n in heads}) != 1 or not all(view.size):
        return None
    numbers = heads[0][3]
    heads.sort(key=lambda head: -head[0].grid[0])
    levels = [stage.level(score, replace(row, stop=4), None, replace(row, start=4)) for stage, score, row, _ in heads]
    function = "" if view.squashed(heads[0][1]) == "Sigmoid" else "sigmoid"
    decoder = Decoder(
        "BlazeFace", view.with_layers(levels), Offsets(), view.size, 1, function, not function,
        threshold=0.5, iou=0.3, thing=_MEDIAPIPE[numbers],
    )  # fmt: skip
    count = sum(level.count for level in levels)
    return decoder, f"a score, 4 box numbers and {numbers // 2 - 2} points for each of {count} places"
