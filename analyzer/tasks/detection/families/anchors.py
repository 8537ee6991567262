"""Boxes and scores of all candidates as two outputs: decoded in the graph, or relative to priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from analyzer.analysis.layouts import layouts
from analyzer.analysis.scores import holds_floats
from analyzer.errors import InputError, suggest
from analyzer.tasks.detection.codings import Anchored, Coding, Corners
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Level, Part
from analyzer.tasks.detection.pyramid import Stage, by_candidates, stages, stages_of
from analyzer.tasks.detection.view import RAW, GridAnchors, View

_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128), (16, 32), (8, 16))
_SHARES = 1.5  # numbers of boxes below that are shares of the input
_INVERTED = 0.5  # share of an example's boxes that end before they begin, from which they are written otherwise
_ALIKE = 0.8  # correlation of boxes' middles with the places that they are of
_PIXELS = Corners()
_FACES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))  # of UltraFace, YuNet


def apart(view: View) -> tuple[Decoder, str] | None:
    """Scores of all candidates in one output, their boxes in another."""
    groups = by_candidates(view)
    if not all(view.size) or sum(any(n == 4 for _, n in rows) for rows in groups.values()) > 1:  # an output per stride
        return None
    for rows in groups.values():
        found = _parts(view, rows)
        if found is not None:
            made = _decoder(view, *found)
            if made is not None:
                return made
    return None


def _parts(view: View, rows: Sequence[tuple[Part, int]]) -> tuple[Part, Part, int, Sequence[tuple[Part, int]]] | None:
    """(boxes, scores, numbers of scores, the other outputs of the same candidates)."""
    live = [(p, n) for p, n in rows if view.graph.constant(view.graph[p.output]) is None]
    boxes = [(p, n) for p, n in live if n == 4]
    if len(boxes) == 2:  # four classes: the scores went through a function
        boxes = [(p, n) for p, n in boxes if view.squashed(p) == ""]
    elif not boxes:
        boxes = [(p, n) for p, n in live if n == _YUNET]
    if len(boxes) != 1:
        return None
    rest = [(p, n) for p, n in live if p != boxes[0][0]]
    scores = [(p, n) for p, n in rest if not (n == 10 and len(rest) > 1) and not (n == 1 and len(rest) == 2)]
    if len(scores) > 1:
        scores = [(p, n) for p, n in scores if view.squashed(p) in ("Softmax", "Sigmoid")]
    if len(scores) != 1:
        return None
    return boxes[0][0], *scores[0], [one for one in rest if one[0] != scores[0][0]]


_CELL = 9  # anchors of a place of RetinaNet and EfficientDet
_YUNET = 14  # numbers of a box and five points


def _decoder(
    view: View, boxes: Part, scores: Part, columns: int, rest: Sequence[tuple[Part, int]]
) -> tuple[Decoder, str] | None:
    count = view.shapes[boxes.output][1 if boxes.batched else 0]
    maps = _given_maps(view, count) or stages(view, scores) or stages_of(view, count, _STRIDES, (1, 3))
    if maps is None:
        return None
    numbers = view.shapes[boxes.output][-1]
    points = next((p for p, n in rest if n == 10), None)
    if numbers == _YUNET:
        boxes, points = replace(boxes, stop=4), replace(boxes, start=4)
    operators = view.computed_by(boxes)
    function = view.squashed(scores)
    if function is None or not operators:
        return None
    raw = view.anchors is not None or operators <= RAW
    recipe: Recipe | None = None
    if raw:
        recipe = _with_priors(view, boxes, maps, columns, points is not None)
        if recipe is None:
            return None
    elif numbers != 4:
        return None
    ious = next((p for p, n in rest if n == 1), None) if numbers == _YUNET else None
    todo = "" if function or view.computed_by(scores) - RAW else recipe.function if recipe else "sigmoid"
    softmax = "softmax" in (function.lower(), todo)
    background = 0 if softmax or (recipe and recipe.background and columns not in (80, 90)) else None
    classes = columns - (background is not None)
    if classes < 1:
        return None
    coding: Coding = recipe.coding if recipe else decoded(view, boxes, maps)
    face = columns == 2 and tuple(stage.cell for stage in maps) == tuple(map(len, _FACES))
    levels: list[Level] = [stage.level(scores, boxes, ious, points) for stage in maps]
    family = "UltraFace" if face and not recipe else recipe.family if recipe else "boxes and scores"
    decoder = Decoder(
        "YuNet" if ious is not None else family,
        view.with_layers(levels),
        coding,
        view.size,
        classes,
        todo,
        bool(function),
        "clip" if ious is not None else "",
        (0.5, 0.5) if ious is not None else (1.0, 1.0),
        background,
        0.5 if softmax else 0.3,
        thing="face" if face or points is not None else "object",
    )
    how = "relative to priors" if recipe else "decoded"
    two = f"{boxes.output} {list(view.shapes[boxes.output])} and {scores.output} {list(view.shapes[scores.output])}"
    return decoder, f"{two} hold boxes, {how}, and {columns} scores for each of {count} places"


def mapped(view: View) -> tuple[Decoder, str] | None:
    """EfficientDet and RetinaNet whose outputs are maps: one of scores and one of boxes per stride."""
    grids: dict[tuple[int, int], list[tuple[Part, int]]] = {}
    if len(view.shapes) != 10:  # two of each of five strides
        return None
    for name, shape in view.shapes.items():
        layout = layouts(view.graph).get(name)
        if len(shape) == 4 and layout is not None and layout.is_map and all(layout.grid):
            part = Part(name, axis=layout.channel, cell=_CELL)
            grids.setdefault(layout.grid, []).append((part, shape[layout.channel]))  # type: ignore[arg-type]
    heads = []
    for grid, parts in sorted(grids.items(), reverse=True):
        boxes = [p for p, n in parts if n == 4 * _CELL]
        scores = [(p, n // _CELL) for p, n in parts if n != 4 * _CELL and n % _CELL == 0]
        if len(parts) != 2 or len(boxes) != 1 or len(scores) != 1:
            return None
        heads.append((Stage(0, grid[0] * grid[1] * _CELL, grid, _CELL), boxes[0], *scores[0]))
    functions = {view.squashed(scores) for _, _, scores, _ in heads}
    if len(heads) != 5 or len({n for *_, n in heads}) != 1 or functions not in ({"Sigmoid"}, {""}):
        return None
    recipe = _pyramid(view, [stage for stage, *_ in heads], _depthwise(view, heads[0][1]))
    levels = [stage.level(scores, boxes) for stage, boxes, scores, _ in heads]
    done, classes = functions == {"Sigmoid"}, heads[0][3]
    decoder = Decoder(
        recipe.family, view.with_layers(levels), recipe.coding, view.size, classes, "" if done else "sigmoid", done,
        threshold=0.3,
    )  # fmt: skip
    return decoder, f"boxes relative to {_CELL} anchors and {classes} scores for each place of 5 maps"


# ---- Decoded in the graph ----


def decoded(view: View, boxes: Part, maps: Sequence[Stage], otherwise: Corners = _PIXELS) -> Corners:
    """How boxes are written, by where those of an example lie that are of the places of the finest map.

    Args:
        otherwise: where that does not tell.
    """
    map_, found = max(maps, key=lambda s: s.grid), view.example(boxes)
    if found is None or not np.isfinite(found).all() or min(map_.grid) < 3:
        return replace(otherwise, unit=_in_shares(view, boxes.output, maps[-1].last))
    found = found[map_.first : map_.last].astype(np.float64)
    places = map_.level(boxes, boxes).places[0]
    unit, size = _shares(found), np.array(view.size[::-1])
    expected = (places + 0.5) / map_.grid[::-1] * (1 if unit else size)
    best, how = np.inf, replace(otherwise, unit=unit)
    for centred, rows_first in product((False, True), repeat=2):
        extent = found[:, 2:] if centred else found[:, 2:] - found[:, :2]
        if (extent < 0).any(axis=1).mean() > _INVERTED:
            continue
        middle = found[:, :2] if centred else (found[:, :2] + found[:, 2:]) / 2
        middle = middle[:, ::-1] if rows_first else middle
        with np.errstate(invalid="ignore", divide="ignore"):
            alike = np.corrcoef(np.concatenate([middle, expected], axis=1).T)[:2, 2:]  # of x and y with column and row
        away = float(np.median(np.abs(middle - expected)))
        if np.diag(alike).min() > _ALIKE and away < best:
            best, how = away, Corners(centred, unit, rows_first)
    return how


def _shares(numbers: np.ndarray) -> bool:
    return bool(np.percentile(np.abs(numbers), 90) < _SHARES)


def _in_shares(view: View, output: str, count: int) -> bool:
    """Whether boxes are shares of the input: so are the priors among the constants that they are computed with."""
    used = view.graph.before([output])
    constants = [view.graph.constant(i) for node in used for i in node.inputs if node.op in ("Add", "Mul") and i.name]
    priors = [c for c in constants if c is not None and c.dtype.kind == "f" and c.size >= 2 * count]
    return bool(priors) and all(map(_shares, priors))


# ---- Relative to priors ----


@dataclass(frozen=True)
class Recipe:
    """A published way to lay priors, and how numbers relate to them.

    Attributes:
        family: the projects that do so.
        function: what is to be done to scores that the model has not squashed.
        background: whether the first score is of nothing.
    """

    family: str
    coding: Anchored
    function: str
    background: bool


def _with_priors(view: View, boxes: Part, maps: Sequence[Stage], columns: int, points: bool) -> Recipe | None:
    """The priors: those of the model's card, else those that the model itself gives, else by the recipe that fits the
    maps."""
    if view.anchors is not None:
        return _of_card(view, view.anchors, maps)
    given = _given(view, maps[-1].last)
    if given is not None:
        return Recipe("SSD", Anchored(priors=given, variances=(0.1, 0.2)), "softmax", True)
    cells, sides = tuple(s.cell for s in maps), tuple(s.grid[0] for s in maps)
    if any(s.planes for s in maps):
        return None
    if cells == (2, 2, 2) and points:
        return _faces(view, maps, ((16, 32), (64, 128), (256, 512)), "RetinaFace")
    if cells == tuple(map(len, _FACES)) and columns == 2:
        return _faces(view, maps, _FACES, "RetinaFace" if points else "UltraFace")
    if set(cells) == {_CELL} and len(maps) == 5 and len(set(sides)) == 5:
        return _pyramid(view, maps, _depthwise(view, boxes))
    if cells == (4, 6, 6, 6, 4, 4) and sides == (38, 19, 10, 5, 3, 1):
        return _ssd(view, maps, columns)
    if cells == (6,) * 6 and sides == (20, 10, 5, 3, 2, 1):
        return _ssdlite(view, maps)
    if cells == (3, 6, 6, 6, 6, 6):
        return _tensorflow(view, maps)
    return None


# {what a card calls it: (family, function of the scores, whether the first is of nothing, variances, y before x)}
_FORMS: dict[str, tuple[str, str, bool, tuple[float, float], bool]] = {
    "ssd": ("SSD", "softmax", True, (0.1, 0.2), False),
    "ssd-tensorflow": ("SSD", "sigmoid", True, (0.1, 0.2), True),
    "retinanet": ("RetinaNet", "sigmoid", False, (1.0, 1.0), False),
    "efficientdet": ("EfficientDet", "sigmoid", False, (1.0, 1.0), True),
}


def _of_card(view: View, given: GridAnchors, maps: Sequence[Stage]) -> Recipe:
    """Anchors of the model's card, in the middle of their places."""
    declared = (view.declared or "ssd").lower()
    if declared not in _FORMS:
        raise InputError(
            f'decode is {declared!r}; with "anchors", it must be one of {", ".join(_FORMS)}', suggest(declared, _FORMS)
        )
    family, function, background, variances, rows_first = _FORMS[declared]
    laid = [
        (one.grid, (float(step), float(step)), shapes)
        for one, step, shapes in zip(maps, given.strides, given.shapes, strict=True)
    ]
    coding = Anchored(tuple(laid), variances=given.variances or variances, rows_first=rows_first)
    return Recipe(family, coding, function, background)


def _given_maps(view: View, count: int) -> list[Stage] | None:
    """The maps of the anchors that the model's card gives; None if it gives none.

    Raises:
        InputError: they are not as many as the model has candidates.
    """
    if view.anchors is None:
        return None
    cells = [len(level) for level in view.anchors.shapes]
    grids = [(-(-view.size[0] // step), -(-view.size[1] // step)) for step in view.anchors.strides]
    ends = np.cumsum([0, *(h * w * n for (h, w), n in zip(grids, cells, strict=False))]).tolist()
    if len(grids) != len(cells) or ends[-1] != count:
        raise InputError(
            f"the anchors of the model's TOML file are {ends[-1]}, at {len(grids)} strides, and the model has {count} "
            "candidates",
            'change "strides" or "anchors"',
        )
    return [Stage(a, b, grid, n) for (a, b), grid, n in zip(pairwise(ends), grids, cells, strict=True)]


def _given(view: View, count: int) -> np.ndarray | None:
    """Priors that are an output of the model, and constant: centre and size in shares of the input; in pixels."""
    for value in view.graph.outputs:
        found = view.graph.constant(value) if holds_floats(value) else None
        if found is not None and found.size == 4 * count and found.shape[-1] == 4 and np.abs(found).max() < 2:
            return np.asarray(found.reshape(-1, 4) * np.array(view.size[::-1] * 2), np.float64)
    return None


def _faces(view: View, maps: Sequence[Stage], sizes: Sequence[Sequence[int]], family: str) -> Recipe:
    """Squares of these sizes (1905.00641)."""
    steps = [8 * 2**i for i in range(len(maps))]
    laid = [
        (s.grid, (step, step), tuple((n, n) for n in some)) for s, step, some in zip(maps, steps, sizes, strict=True)
    ]
    return Recipe(family, Anchored(tuple(laid), variances=(0.1, 0.2)), "softmax", True)


def _pyramid(view: View, maps: Sequence[Stage], deep: bool) -> Recipe:
    """EfficientDet (1911.09070), whose heads are depthwise, or RetinaNet (1708.02002) with torchvision's anchors."""
    octaves, laid = [2 ** (i / 3) for i in range(3)], []
    for s in maps:
        step = _step(view, s.grid)
        base = 4 * 2 ** round(np.log2(max(step)))
        if deep:
            pairs = product(octaves, ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)))
            shapes = [(base * octave * w, base * octave * h) for octave, (w, h) in pairs]
        else:
            both = [(int(base * octave), np.sqrt(ratio)) for ratio in (0.5, 1.0, 2.0) for octave in octaves]
            shapes = [(2.0 * np.round(n / root / 2), 2.0 * np.round(n * root / 2)) for n, root in both]
        laid.append((s.grid, step, tuple((float(w), float(h)) for w, h in shapes)))
    coding = Anchored(tuple(laid), offset=0.5 if deep else 0.0, rows_first=deep)
    return Recipe("EfficientDet" if deep else "RetinaNet", coding, "sigmoid", False)


def _step(view: View, grid: tuple[int, int]) -> tuple[float, float]:
    """Whole pixels from one place to the next, horizontally and vertically."""
    return float(view.size[1] // grid[1]), float(view.size[0] // grid[0])


def _depthwise(view: View, boxes: Part) -> bool:
    """Whether the layer that gives the boxes, or one of its input, is depthwise."""
    node = view.graph.producer(view.sources(boxes)[0][1])
    before = view.graph.producer(node.inputs[0]) if node is not None else None
    return any(n is not None and n.attrs.get("group", 1) > 1 for n in (node, before))


def _ssd(view: View, maps: Sequence[Stage], columns: int) -> Recipe:
    """SSD300 (1512.02325): the sizes for VOC, or those for COCO."""
    scales = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05) if columns <= 21 else (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    return _boxes(view, maps, scales, ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), (8, 16, 32, 64, 100, 300))


def _ssdlite(view: View, maps: Sequence[Stage]) -> Recipe:
    """SSDLite as torchvision lays it."""
    scales = (*(0.2 + 0.75 * k / (len(maps) - 1) for k in range(len(maps))), 1.0)
    return _boxes(view, maps, scales, ((2, 3),) * len(maps), None)


def _boxes(
    view: View,
    maps: Sequence[Stage],
    scales: Sequence[float],
    ratios: Sequence[Sequence[int]],
    steps: Sequence[float] | None,
) -> Recipe:
    """A square of each scale, one between it and the next, and two rectangles of each ratio."""
    height, width = view.size
    laid = []
    for k, s in enumerate(maps):
        between = float(np.sqrt(scales[k] * scales[k + 1]))
        shapes = [(scales[k], scales[k]), (between, between)]
        for ratio in ratios[k]:
            long, short = scales[k] * np.sqrt(ratio), scales[k] / np.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        step = (steps[k], steps[k]) if steps else (width / s.grid[1], height / s.grid[0])
        laid.append((s.grid, step, tuple((min(w, 1.0) * width, min(h, 1.0) * height) for w, h in shapes)))
    return Recipe("SSD", Anchored(tuple(laid), variances=(0.1, 0.2)), "softmax", True)


def _tensorflow(view: View, maps: Sequence[Stage]) -> Recipe:
    """SSD with MobileNet as TensorFlow's object detection lays it."""
    height, width = view.size
    scales = [0.2 + 0.75 * k / (len(maps) - 1) for k in range(len(maps))] + [1.0]
    laid = []
    for k, s in enumerate(maps):
        pairs = [(scales[k], r) for r in (1.0, 2.0, 0.5, 3.0, 0.3333)] + [(np.sqrt(scales[k] * scales[k + 1]), 1.0)]
        if k == 0:
            pairs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        shapes = tuple((float(c * np.sqrt(r)) * width, float(c / np.sqrt(r)) * height) for c, r in pairs)
        laid.append((s.grid, (width / s.grid[1], height / s.grid[0]), shapes))
    return Recipe("SSD", Anchored(tuple(laid), variances=(0.1, 0.2), rows_first=True), "sigmoid", True)
