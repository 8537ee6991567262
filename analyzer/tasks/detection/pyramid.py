"""The maps that a detector's candidates are of, told from where the numbers of an output were computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from analyzer.analysis.layouts import layouts
from analyzer.graph import Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.tasks.detection.parts import Level, Part
from analyzer.tasks.detection.view import View, runs


@dataclass(frozen=True)
class Stage:
    """Candidates of one map, where they lie in an output. The attributes are those of a `Level`."""

    first: int
    last: int
    grid: tuple[int, int]
    cell: int = 1
    planes: bool = False

    def level(self, scores: Part, boxes: Part, objectness: Part | None = None, points: Part | None = None) -> Level:
        """The level whose candidates lie in all these outputs alike."""
        scores, boxes = scores.cut(self.first, self.last), boxes.cut(self.first, self.last)
        objectness = objectness and objectness.cut(self.first, self.last)
        points = points and points.cut(self.first, self.last)
        return Level(scores, boxes, objectness, points, grid=self.grid, cell=self.cell, planes=self.planes)


def stages(view: View, part: Part) -> list[Stage] | None:
    """The maps of the candidates of a part, in their order; None where they are of no maps, or in no known order."""
    found = view.origin(part.output)
    if found is None:
        return None
    source, place = (view.one(part, a)[:, 0] for a in (found.source, found.place))
    made = [_stage(view, found.sources[int(source[a])], place[a:b], a) for a, b in runs(source)]
    known = [one for one in made if one is not None]
    return known if len(known) == len(made) else None


def _stage(view: View, source: Value, places: np.ndarray, first: int) -> Stage | None:
    """The candidates whose numbers are at these places of one map."""
    sizes, layout = fixed_sizes(source.shape), layouts(view.graph).get(source.name)
    if sizes is None or len(sizes) != 4 or not source.inputs:  # of the picture itself
        return None
    axes = layout.axes if layout is not None and sorted(layout.axes) == sorted("NCHW") else "NCHW"
    at = dict(zip(axes, np.unravel_index(places, sizes), strict=True))
    height, width = (sizes[axes.index(a)] for a in "HW")
    kinds, cell = np.unique(at["C"], return_inverse=True)
    spot, count = at["H"] * width + at["W"], np.arange(len(places))
    if len(places) != height * width * len(kinds):
        return None
    for planes, order in ((False, spot * len(kinds) + cell), (True, cell * height * width + spot)):
        if np.array_equal(order, count):
            return Stage(first, first + len(places), (height, width), len(kinds), planes)
    return None


def stages_of(view: View, count: int, steps: Sequence[Sequence[int]], cells: Sequence[int]) -> list[Stage] | None:
    """The maps of some candidates by their number alone, where that fits maps of these strides."""
    for some in steps:
        for cell in cells:
            grids = view.grids(count, some, cell)
            if grids is not None and min(grids[0]) > 1:
                ends = np.cumsum([0, *(h * w * cell for h, w in grids)]).tolist()
                return [Stage(a, b, grid, cell) for (a, b), grid in zip(pairwise(ends), grids, strict=True)]
    return None


def by_candidates(view: View) -> dict[int, list[tuple[Part, int]]]:
    """{number of candidates: [(all numbers of an output, how many each candidate has)]} of the outputs with candidates
    in rows: (N, candidates, numbers), or (candidates, numbers) where the rows are no pictures."""
    found: dict[int, list[tuple[Part, int]]] = defaultdict(list)
    for name, shape in view.shapes.items():
        if not view.is_real(name):
            continue
        if len(shape) == 4 and shape[2] == 1:
            found[shape[1]].append((Part(name, axis=3), shape[3]))
        elif len(shape) == 3:
            found[shape[1]].append((Part(name), shape[2]))
        elif len(shape) == 2 and shape[0] > 2:
            found[shape[0]].append((Part(name, batched=False), shape[1]))
    return dict(found)
