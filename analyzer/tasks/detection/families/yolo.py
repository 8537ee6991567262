"""YOLO heads whose levels are joined in one output: v5 to v12, YOLOX, -seg, -pose and -obb."""

from __future__ import annotations

from dataclasses import replace

from analyzer.analysis.scores import holds_floats
from analyzer.tasks.detection.codings import Coding, Corners, Exponentials
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Level, Part
from analyzer.tasks.detection.view import View

_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (8, 16), (16, 32), (8,), (16,), (4,), (32,))


def joined(view: View) -> tuple[Decoder, str] | None:
    """One output (N, numbers, places) or (N, places, numbers): a box, perhaps objectness, and a score per class."""
    for name, shape in view.shapes.items():
        if len(shape) != 3 or not all(view.size) or not holds_floats(view.graph[name]):
            continue
        axis = 1 if shape[1] < shape[2] else 2
        numbers, places = shape[axis], shape[3 - axis]
        levels = _levels(view, places)
        if levels is None or numbers < 5:
            continue
        found = _decoder(view, Part(name, axis=axis), numbers, levels)
        if found is not None:
            return found
    return None


def _levels(view: View, places: int) -> tuple[list[tuple[int, int]], int] | None:
    """The grids, and candidates at each place, whose number is `places`."""
    for steps in _STRIDES:
        for cell in (1, 3):
            grids = view.grids(places, steps, cell)
            if grids is not None:
                return grids, cell
    return None


def _decoder(
    view: View, whole: Part, numbers: int, levels: tuple[list[tuple[int, int]], int]
) -> tuple[Decoder, str] | None:
    grids, cell = levels
    box = Part(whole.output, 0, 4, whole.axis)
    thing = Part(whole.output, 4, 5, whole.axis)
    rest = Part(whole.output, 5, None, whole.axis)
    if view.squashed(thing) not in ("Sigmoid", ""):
        return None
    objectness = numbers > 5 and _has_objectness(view, thing, rest, numbers, cell)
    start = 5 if objectness else 4
    scores = replace(rest, start=start)
    function = view.squashed(scores)
    if function is None or (len(grids) == 1 and not function):
        return None
    coding: Coding = Corners(centred=True)
    if view.computed_by(box) == {"Conv"}:
        coding = Exponentials()
    classes = numbers - start
    made, first = [], 0
    for grid in grids:
        last = first + grid[0] * grid[1] * cell
        level = Level(
            scores.cut(first, last),
            box.cut(first, last),
            thing.cut(first, last) if objectness else None,
            grid=grid,
            cell=cell,
            planes=cell > 1,
        )
        made.append(level)
        first = last
    family = "YOLOX" if isinstance(coding, Exponentials) else "YOLOv5" if objectness else "YOLOv8"
    decoder = Decoder(
        family,
        view.with_layers(made),
        coding,
        view.size,
        classes,
        "" if function == "Sigmoid" else "sigmoid",
        function == "Sigmoid",
        "" if view.squashed(thing) == "Sigmoid" else "sigmoid",
    )
    said = "4 box sides, objectness" if objectness else "4 box sides"
    shape = list(view.shapes[whole.output])
    return decoder, f"{whole.output} {shape} holds {said} and {classes} scores for each of {first} places"


def _has_objectness(view: View, thing: Part, rest: Part, numbers: int, cell: int) -> bool:
    """Whether the fifth number is objectness: where it is computed apart from the scores or places have several
    candidates, else where labels tell it."""
    apart = [v.name for _, v in view.sources(thing)] != [v.name for _, v in view.sources(rest)]
    return apart or cell > 1 or view.labels == numbers - 5
