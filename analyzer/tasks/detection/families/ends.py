"""Detectors that have chosen: rows of what is found, behind a TopK or a non-maximum suppression, or one per query."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from analyzer.analysis.feature_maps import feature_maps
from analyzer.analysis.layouts import layouts
from analyzer.analysis.moves import CHOOSING, SQUASHING, ending, sources
from analyzer.analysis.scores import holds_floats
from analyzer.graph import Node, Value
from analyzer.graph.query import ancestors, descendants, image_input
from analyzer.graph.through import is_transparent, origin, producer
from analyzer.graph.values import PLACING
from analyzer.tasks.detection.codings import Corners, Rotated, WithPoints
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.families.yolo import prototypes
from analyzer.tasks.detection.masks import OwnMasks
from analyzer.tasks.detection.parts import Level, Part
from analyzer.tasks.detection.view import View

_CHOOSING = ("NonMaxSuppression", "TopK")
_CLASSES = re.compile(r"(label|class|cls)")
_ROWS_FIRST = re.compile(r"(^|[^a-z])detection_boxes")
_MOVING = (*PLACING, "Expand", "GatherElements", "GatherND", "Where", "Pad", "ScatterND", "ScatterElements")
_SURE = -2.0  # biases of focal-loss heads begin at log(0.01 / 0.99) = -4.6


def apart(view: View) -> tuple[Decoder, str] | None:
    """Boxes (rows, 4), their scores and their classes (rows), with or without a batch axis: RT-DETR, torchvision…"""
    boxes = [v for v in view.graph.outputs if _rank(v) in (2, 3) and holds_floats(v) and _of_four(view, v)]
    if len(boxes) != 1 or not all(view.size):
        return None
    box, batched = boxes[0], _rank(boxes[0]) == 3
    others = [v for v in view.graph.outputs if v is not box and _beside(v, box)]
    if not any(_end(view, v) for v in others if holds_floats(v)):
        return None
    numbers = {v.name: view.example(Part(v.name, axis=None, batched=batched)) for v in others}
    classes = [v for v in others if not holds_floats(v) or producer_of_whole(view, v)]
    if not classes:
        classes = [v for v in others if _whole(numbers[v.name]) and _CLASSES.search(v.name.lower())]
    if len(classes) > 1:
        classes = [v for v in classes if _CLASSES.search(v.name.lower())]
    scores = [v for v in others if holds_floats(v) and v not in classes and _shares(view, v, numbers[v.name])]
    if len(scores) != 1 or len(classes) > 1:
        return None
    end = _end(view, scores[0])
    if end is None:
        return None
    level = Level(
        Part(scores[0].name, axis=None, batched=batched, last=_rows(box)),
        Part(box.name, batched=batched),
        layer=_layer(view, scores[0], box, _rows(box)),
        labels=Part(classes[0].name, axis=None, batched=batched) if classes else None,
        layers=_layers(view, scores[0], box),
    )
    masks = _masks(view, box, batched)
    found = [v.name for v in (*scores, box, *classes)] + ([masks.output] if masks is not None else [])
    return replace(_chosen(view, level, box, end), masks=masks), f"{', '.join(found)} are rows of what {end} has chosen"


def joined(view: View) -> tuple[Decoder, str] | None:
    """Rows of a box, a score and a class in one output: (N, rows, 6 or more) of YOLOv10, (rows, 7) of YOLOv7."""
    for value in view.graph.outputs:
        rank = _rank(value)
        width = _shape(value)[-1] if rank in (2, 3) and _shape(value) else None
        if not isinstance(width, int) or not all(view.size) or not holds_floats(value):
            continue
        if not (width == 7 if rank == 2 else width == 6 or (width > 6 and len(view.graph.outputs) <= 2)):
            continue
        end = _end(view, value)
        if end is None or _best_of(value):
            continue
        box, class_, score = (1, 5, 6) if rank == 2 else (0, 5, 4)
        if rank == 3 and width == 6 and _integral_columns(view, value) == [4]:
            class_, score = 4, 5
        batched = rank == 3

        def part(first: int, count: int, name: str = value.name, batched: bool = batched) -> Part:
            return Part(name, first, first + count, batched=batched)

        level = Level(
            replace(part(score, 1), last=_rows(value)),
            part(box, 4),
            labels=part(class_, 1),
            layer=_layer(view, value, value, _rows(value)),
            layers=_layers(view, _with_column(value, score), _with_column(value, box)),
        )
        example = view.example(level.scores)
        if example is not None and example.size and not (example.min() >= 0 and example.max() <= 1):
            continue
        decoder = _chosen(view, level, value, end)
        if rank == 3 and width > 6:
            decoder = _with_more(view, decoder, value, part(6, width - 6))
        said = f"{value.name} {_shape(value)} is rows of box, score and class that {end} has chosen"
        return decoder, said
    return None


def indexed(view: View) -> tuple[Decoder, str] | None:
    """Every candidate, boxes (N, B, 4) and scores (N, C, B), and the indices (rows, 3) of those that a non-maximum
    suppression keeps: YOLOv3 of Keras."""
    floats = [v for v in view.graph.outputs if _rank(v) == 3 and holds_floats(v)]
    for value in view.graph.outputs:
        end = _suppression(view, value) if not holds_floats(value) and _rank(value) in (2, 3) else None
        read = {origin(i).name for i in end.inputs[:2]} if end is not None else set()
        found = [v for v in floats if origin(v).name in read]
        if end is None or len(found) != 2 or not all(view.size):
            continue
        box, scores = found if origin(found[0]) is origin(end.inputs[0]) else found[::-1]
        shape = view.shapes.get(scores.name)
        if shape is None:
            continue
        level = Level(
            Part(scores.name, axis=1, last=shape[2]),
            Part(box.name),
            layer=_layer(view, scores, box, None),
            layers=_layers(view, scores, box),
        )
        decoder = _chosen(view, level, box, "NonMaxSuppression")
        overlap, least = (_constant_input(view, end, at) for at in (3, 4))
        decoder = replace(
            decoder, classes=shape[1], named=0, traced=bool(ending(view.graph, scores)), iou=overlap or 0.0,
            threshold=decoder.threshold if least is None else least,
        )  # fmt: skip
        return decoder, f"{scores.name}, {box.name} are {shape[2]} candidates, {value.name} which of them are kept"
    return None


def _suppression(view: View, value: Value) -> Node | None:
    """The NonMaxSuppression whose indices an output holds."""
    node = view.graph.producer(value)
    while node is not None and node.op != "NonMaxSuppression" and (_moves(node) or node.op == "Cast"):
        node = view.graph.producer(node.inputs[0])
    return node if node is not None and node.op == "NonMaxSuppression" else None


def _constant_input(view: View, node: Node, index: int) -> float | None:
    known = view.graph.constant(node.inputs[index]) if index < len(node.inputs) else None
    return None if known is None else float(known.reshape(-1)[0])


def _with_more(view: View, decoder: Decoder, value: Value, more: Part) -> Decoder:
    """The decoder of rows that have more than box, score and class, as Ultralytics writes them: weights of masks, an
    angle, or keypoints."""
    (level,), corners, count = decoder.levels, decoder.coding, (more.stop or 0) - more.start
    masks = prototypes(view, count)
    if masks is not None:
        return replace(decoder, levels=(replace(level, weights=more),), masks=masks)
    above = ancestors(view.graph, [value.name])
    turns = {n.op for n in view.graph.forward_nodes() if n.outputs[0].name in above} >= {"Cos", "Sin"}
    if count == 1 and turns:
        return replace(decoder, levels=(replace(level, boxes=replace(level.boxes, stop=None)),), coding=Rotated())
    if count > 1 and isinstance(corners, Corners):
        each = 3 if count % 3 == 0 else 2
        coding = WithPoints(corners.centred, corners.unit, corners.rows_first, each)
        return replace(decoder, levels=(replace(level, points=more),), coding=coding)
    return decoder


def _masks(view: View, box: Value, batched: bool) -> OwnMasks | None:
    """A mask for each box: (rows, 1, h, w), or (N, rows, h, w); smaller than the input, it lies over its box."""
    for value in view.graph.outputs:
        shape, rows = _shape(value), _shape(box)[-2]
        if len(shape) != 4 or not holds_floats(value):
            continue
        at = 1 if batched else 0
        fits = shape[at] == rows or (not isinstance(shape[at], int) and not isinstance(rows, int))
        if fits and (batched or shape[1] == 1 or not isinstance(shape[1], int)):
            return OwnMasks(value.name, logits=not ending(view.graph, value) and not _bounded(view, value))
    return None


def _bounded(view: View, value: Value) -> bool:
    """Whether all numbers of an output are between 0 and 1 for an example."""
    found = view.example(Part(value.name, batched=False))
    return found is None or not found.size or bool(found.min() >= 0 and found.max() <= 1)


def queries(view: View) -> tuple[Decoder, str] | None:
    """A box in shares of the picture and a score per class for each of some queries: DETR, RT-DETR and their kin."""
    outputs = [v for v in view.graph.outputs if _rank(v) == 3 and holds_floats(v)]
    boxes = [v for v in outputs if _shape(v)[2] == 4 and ending(view.graph, v) in ("Sigmoid", "")]
    for box in boxes if all(view.size) else []:
        alike = [
            v for v in outputs if v is not box and _shape(v)[1] == _shape(box)[1] and isinstance(_shape(v)[2], int)
        ]
        alike = [v for v in alike if _shape(v)[2] not in (1, 4) or len(alike) == 1]
        if len(alike) == 1 and _is_query(view, box):
            return _query(view, box, alike[0])
    return None


def joined_queries(view: View) -> tuple[Decoder, str] | None:
    """Shares of the picture and a score per class, each behind a sigmoid, in one output: RT-DETR of Ultralytics."""
    for name, shape in view.shapes.items():
        whole = Part(name)
        if len(shape) != 3 or shape[2] < 5 or not all(view.size) or not view.is_real(name):
            continue
        box, scores = replace(whole, stop=4), replace(whole, start=4, last=shape[1])
        if set(view.functions(whole)) != {"Sigmoid"} or view.sources(box) == view.sources(scores):
            continue
        if not _is_query(view, view.columns(box)[0], box):
            continue
        source = view.columns(scores)[0]
        level = Level(scores, box, layer=_layer(view, source, view.columns(box)[0], shape[1]))
        decoder = Decoder(
            "RT-DETR", (level,), Corners(centred=True, unit=True), view.size, shape[2] - 4, "", True,
            threshold=0.5, iou=None,
        )  # fmt: skip
        return decoder, f"{name} {list(shape)} holds a box and {shape[2] - 4} scores for each of {shape[1]} queries"
    return None


def _query(view: View, box: Value, scores: Value) -> tuple[Decoder, str]:
    function, columns = ending(view.graph, scores), int(_shape(scores)[2])
    softmax = function == "Softmax" or (function != "Sigmoid" and _softmax(view, scores, box, columns))
    decoder = Decoder(
        "DETR" if softmax else "RT-DETR",
        (Level(Part(scores.name, last=_rows(box)), Part(box.name), layer=_layer(view, scores, box, _rows(box))),),
        Corners(centred=True, unit=True),
        view.size,
        columns - softmax,
        "" if function in ("Sigmoid", "Softmax") else "softmax" if softmax else "sigmoid",
        function in ("Sigmoid", "Softmax"),
        background=columns - 1 if softmax else None,
        threshold=0.5,
        iou=None,
    )
    masks = _masks(view, box, True)
    if masks is not None:
        decoder = replace(decoder, masks=replace(masks, boxed=False))
    how = "and no object, of a softmax" if softmax else "of a sigmoid"
    two = f"{box.name} {_shape(box)} and {scores.name} {_shape(scores)}"
    return decoder, f"{two} hold a box and {decoder.classes} scores {how} for each query"


def _is_query(view: View, box: Value, part: Part | None = None) -> bool:
    """Whether boxes are shares of the picture that attention computed: rows that no convolution gives."""
    example = view.example(part or Part(box.name))
    if example is not None and not (example.min() > -1 and example.max() < 2):
        return False
    above = ancestors(view.graph, [box.name])
    operators = {n.op for n in view.graph.forward_nodes() if n.outputs[0].name in above}
    squashed = part is not None or ending(view.graph, box) == "Sigmoid"
    return "Softmax" in operators and "MatMul" in operators and (squashed or "GridSample" in operators)


def _softmax(view: View, scores: Value, box: Value, columns: int) -> bool:
    """Whether scores without a function are of a softmax whose last class is nothing, not of a sigmoid each."""
    if view.labels in (columns, columns - 1):
        return view.labels == columns - 1
    node, above = producer(scores, PLACING), ancestors(view.graph, [scores.name])
    sampled = any(n.op == "GridSample" and n.outputs[0].name in above for n in view.graph.forward_nodes())
    if sampled or _refined(view, box):  # with deformable attention, 2010.04159, a sigmoid
        return False
    if node is None:
        return True
    biases = [view.graph.constant(i) for i in node.inputs if i.name]
    return not any(b is not None and b.size == columns and float(b.mean()) < _SURE for b in biases)


def _refined(view: View, box: Value) -> bool:
    """Whether boxes are added to points of reference before the sigmoid, as in Conditional DETR (2108.06152) and those
    after it, whose scores have a sigmoid; DETR's are those of a linear layer."""
    end = producer(box, PLACING)
    node = producer(end.inputs[0], PLACING) if end is not None and end.op == "Sigmoid" else None
    if node is None:
        return False
    before = [n.op for i in node.inputs if (n := producer(i)) is not None] if node.op == "Add" else []
    return not {"MatMul", "Gemm"} & {node.op, *before}


# ---- What has been chosen ----


def _chosen(view: View, level: Level, box: Value, end: str) -> Decoder:
    scaled, example = _scale(view, box), view.example(level.boxes)
    if example is not None:
        example = example[example.any(axis=1)]  # the others fill up
    if example is not None and not example.size:
        example = _candidates(view, box)[1]
    unit = not scaled and example is not None and example.size > 0 and float(np.abs(example).max()) < 3
    ordered = example is None or bool((example[:, 2:4] >= example[:, :2]).all())
    score = view.graph[level.scores.output]
    traced = level.scores.axis is None and bool(ending(view.graph, view.graph[level.scores.output]))
    return Decoder(
        "RT-DETR" if scaled else "chosen by " + end,
        (level,),
        Corners(centred=not ordered, unit=unit, rows_first=_rows_first(view, box)),
        view.size,
        1,
        traced=traced,
        named=width if isinstance(width := (_computed(view, score).shape or [None])[-1], int) else 0,
        threshold=0.4 if end == "TopK" else 0.25,  # what D-FINE and DEIM draw
        iou=None,
        scaled=scaled,
    )


def _layer(view: View, scores: Value, box: Value, rows: int | None) -> str:
    """The map by which what is chosen is explained: the finest of those where the scales of a pyramid meet and that the
    coarser ones are computed from; else the last of the coarsest that the finer ones are computed from.

    Args:
        rows: number of queries, which look like the places of a map where they attend to it.

    Returns:
        "" for the one that the model has for all.
    """
    if _end(view, scores) == "NonMaxSuppression":  # of which level a row is shows when the model runs
        return _shared(view, _sources(view, scores))
    graph, sources = view.graph, _sources(view, scores)
    above: set[str] = set().union(*(_numbers_from(view, one) for one in sources)) - {one.name for one in sources}
    boxes = _numbers_from(view, box) - {box.name}
    above = above & boxes if image_input(graph).name in boxes else above
    sampled = [o.name for n in graph.forward_nodes() if n.op == "GridSample" for o in n.outputs]
    later = set(descendants(graph, sampled, graph.forward_nodes())) if sampled else set()
    every = [m for m in feature_maps(graph, scores) if m.name in above and m.name not in later]
    maps = [m for m in every if "L" not in m.layout.axes and m.node is not None and m.node.op not in PLACING]
    if not maps:
        return ""
    tokens = [m.size for m in every if "L" in m.layout.axes]
    last = {m.size: m.name for m in maps}
    sizes = sorted(last, key=lambda size: -math.prod(side or 0 for side in size))
    before = {m.name: ancestors(graph, [m.name]) for m in maps}
    coarsest = [m.name for m in maps if m.size == sizes[-1]]
    for at, size in enumerate(sizes[:-1]):
        met = [m.name for m in maps if m.size == size and not before[m.name].isdisjoint(coarsest)]
        met = [name for name in met if all(name in before[last[coarser]] for coarser in sizes[at + 1 :])]
        if met:
            return met[-1]
    if tokens and math.prod(side or 0 for side in tokens[-1]) != rows:
        return ""
    finer = [last[size] for size in sizes[:-1] if not before[last[size]].isdisjoint(coarsest)]
    shared = [name for name in coarsest if all(name in before[one] for one in finer)]
    return (shared or coarsest)[-1]


def _layers(view: View, scores: Value, box: Value) -> tuple[tuple[str, str], ...]:
    """(tensor in which scores are computed, the map by which what is chosen of it is explained): that of the tensor
    before where it has none, such as a level of one place. () where there are no two maps."""
    boxes, found = _numbers_from(view, box) - {box.name}, []
    for source in sources(view.graph, scores):
        layout = layouts(view.graph).get(source.name)
        among = ancestors(view.graph, [source.name]) - {source.name}
        if image_input(view.graph).name not in among:  # what fills up
            continue
        if image_input(view.graph).name in boxes:
            among &= boxes
        grid = layout.grid if layout is not None and layout.is_map else None
        found.append((source.name, view.meeting(view.last_of(source, among, grid))))
    known = list(dict.fromkeys(layer for _, layer in found if layer))
    if len(known) < 2:
        return ()
    filled, before = [], known[0]
    for source_name, layer in found:
        before = layer or before
        filled.append((source_name, before))
    return tuple(filled)


def _with_column(value: Value, column: int) -> Value:
    """The tensor that a column of an output is put together from."""
    return next((part for first, part in reversed(_columns(value)) if first <= column), value)


def _shared(view: View, sources: list[Value]) -> str:
    """The last map that the scores of every level, or all that regions are cut out of, are computed from."""
    graph = view.graph
    above = ancestors(graph, [one.name for one in sources])
    cut = [n.inputs[0] for n in graph.forward_nodes() if n.op == "RoiAlign" and n.outputs[0].name in above]
    ends = cut or sources
    common = set.intersection(*(ancestors(graph, [one.name]) for one in ends)) - {one.name for one in ends}
    maps = [m.name for m in feature_maps(graph, ends[0]) if m.name in common and "L" not in m.layout.axes]
    return maps[-1] if maps else ""


def _numbers_from(view: View, value: Value) -> set[str]:
    """The tensors that the numbers of an output are computed from; what only tells which are chosen is left out."""
    seen: set[str] = set()
    left = [value]
    while left:
        current = left.pop()
        node = view.graph.producer(current)
        if current.name in seen:
            continue
        seen.add(current.name)
        if node is not None:
            left += [i for at, i in enumerate(node.inputs) if at in _READ.get(node.op, (at,))]
    return seen


# The inputs with the numbers, of operators with others that tell places or sizes.
_READ: dict[str, tuple[int, ...]] = dict.fromkeys((*CHOOSING, "Expand", "RoiAlign", "Resize"), (0,)) | {
    "ScatterElements": (0, 2), "ScatterND": (0, 2), "Where": (1, 2), "Shape": (), "NonZero": (), "NonMaxSuppression": ()
}  # fmt: skip


# The input with the numbers that are chosen, where it is not the first; others fill up.
_NUMBERS = {"Where": 1, "ScatterND": 2, "ScatterElements": 2}


def _sources(view: View, value: Value) -> list[Value]:
    """The tensors in which the numbers of an output were computed, before a squashing function."""
    node = view.graph.producer(value)
    if node is None or node.domain or not (_moves(node) or node.op in (*CHOOSING, *SQUASHING)):
        return [value]
    read = node.inputs if node.op == "Concat" else [node.inputs[at] for at in _READ.get(node.op, (0,))]
    return [found for one in read for found in _sources(view, one) if found.inputs]


def _computed(view: View, value: Value) -> Value:
    """The tensor in which the first numbers of an output were computed, before a squashing function."""
    node = view.graph.producer(value)
    if node is not None and not node.domain and (_moves(node) or node.op in (*CHOOSING, *SQUASHING)):
        return _computed(view, node.inputs[0])
    return value


def _rows_first(view: View, box: Value) -> bool:
    """Whether y comes before x: where boxes are suppressed, by the order of the candidates, which lie row by row, so
    that x changes faster than y; else by the name."""
    end, boxes = _candidates(view, box)
    if end is not None and boxes is not None and len(boxes) > 1:
        middles = boxes[:, :2] if end.attrs.get("center_point_box") else boxes[:, :2] + boxes[:, 2:4]
        first, second = np.abs(np.diff(middles, axis=0)).sum(axis=0)
        if max(first, second) > 2 * min(first, second):
            return bool(second > first)
    return bool(_ROWS_FIRST.search(box.name.lower()))


def _candidates(view: View, box: Value) -> tuple[Node | None, np.ndarray | None]:
    """The NonMaxSuppression that chose boxes, and the (candidates, 4) that it has for an example; None for both where
    it suppresses others, such as boxes that are shifted by their class."""
    own = _rows_of(view, box)
    for node in view.graph.forward_nodes():
        if node.op == "NonMaxSuppression" and not own.isdisjoint(_rows_of(view, node.inputs[0])):
            return node, view.example(Part(node.inputs[0].name))
    return None, None


def _rows_of(view: View, value: Value) -> set[str]:
    """The tensors back from boxes whose rows are the same boxes, at other places."""
    found, current = {value.name}, value
    while (node := view.graph.producer(current)) is not None and _moves(node):
        columns = node.op == "Gather" and node.attrs.get("axis", 0) in (-1, len(_shape(node.inputs[0])) - 1)
        if node.op in ("Concat", "Slice", "Split", "Transpose", "ScatterND", "ScatterElements") or columns:
            break
        current = node.inputs[_NUMBERS.get(node.op, 0)]
        found.add(current.name)
    return found


def _scale(view: View, box: Value) -> str:
    """The input with the size of the picture that boxes are scaled by; "" for none."""
    above, image = ancestors(view.graph, [box.name]), image_input(view.graph).name
    for value in view.graph.inputs:
        if value.name in above and value.name != image and _shape(value) and _shape(value)[-1] == 2:
            return str(value.name)
    return ""


def _end(view: View, value: Value) -> str | None:
    """The operator that chose the rows of an output; None where none did."""
    seen: set[str] = set()
    open_: list[Value] = [value]
    above = ancestors(view.graph, [value.name])
    operators = [n for n in view.graph.forward_nodes() if n.outputs[0].name in above]
    if any(_suppresses(n) for n in operators):
        return "NonMaxSuppression"
    while open_:
        current = open_.pop()
        node = view.graph.producer(current)
        if node is None or current.name in seen:
            continue
        seen.add(current.name)
        if node.op == "TopK":
            return "TopK"
        open_ += node.inputs if _moves(node) else []
    return None


def _best_of(value: Value) -> bool:
    """Whether an output is the highest of some numbers, as those of classes are, and no rows."""
    node = producer(value, PLACING)
    return node is not None and node.op == "TopK" and value is not node.outputs[1]


def _suppresses(node: Node) -> bool:
    """Whether it is a non-maximum suppression, or has one in a branch."""
    bodies = [value for value in node.attrs.values() if hasattr(value, "nodes")]
    return node.op == "NonMaxSuppression" or any(_suppresses(inner) for body in bodies for inner in body.nodes)


def _moves(node: Node) -> bool:
    return not node.domain and (node.op in _MOVING or is_transparent(node))


def _integral_columns(view: View, value: Value) -> list[int]:
    """The columns of an output that are whole numbers by their making."""
    return [at for at, part in _columns(value) if producer_of_whole(view, part)]


def _columns(value: Value) -> list[tuple[int, Value]]:
    """(first column, tensor) of what the columns of an output are put together from; [] where that is not known."""
    node = producer(value, ("Reshape", "Squeeze", "Unsqueeze"))
    if node is None or node.op != "Concat":
        return []
    found, at = [], 0
    for part in node.inputs:
        found.append((at, part))
        width = _shape(part)[-1] if _shape(part) else None
        if not isinstance(width, int):
            return []
        at += width
    return found


def producer_of_whole(view: View, value: Value) -> bool:
    """Whether a tensor is made of whole numbers."""
    node = view.graph.producer(value)
    while node is not None and _moves(node):
        read = node.inputs[_NUMBERS.get(node.op, 0)]
        if not holds_floats(read):
            return True
        node = view.graph.producer(read)
    return False


def _rows(value: Value) -> int | None:
    """How many rows there are; None where the model chooses that."""
    rows = _shape(value)[-2]
    return rows if isinstance(rows, int) else None


def _shape(value: Value) -> list[Any]:
    """The sizes; none where even their number is unknown."""
    return list(value.shape or ())


def _of_four(view: View, value: Value) -> bool:
    """Whether rows have four numbers; where inference lost how many, for an example input, else by the name."""
    last = _shape(value)[-1]
    if isinstance(last, int):
        return last == 4
    example = view.example(Part(value.name, batched=_rank(value) == 3))
    return "box" in value.name.lower() if example is None else example.shape[1] == 4


def _rank(value: Value) -> int:
    return len(_shape(value))


def _beside(value: Value, box: Value) -> bool:
    """Whether an output may have a number for each box."""
    if _rank(value) != _rank(box) - 1:
        return False
    rows, own = _shape(box)[-2], _shape(value)[-1]
    return own != 1 and (rows == own or not isinstance(rows, int) or not isinstance(own, int))


def _shares(view: View, value: Value, numbers: np.ndarray | None) -> bool:
    """Whether numbers are between 0 and 1, as scores are."""
    if ending(view.graph, value):
        return True
    return numbers is None or not numbers.size or bool(numbers.min() >= -1 and numbers.max() <= 1)


def _whole(numbers: Any) -> bool:
    return numbers is not None and bool((numbers == np.rint(numbers)).all())
