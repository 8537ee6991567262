"""Heads without anchors, an output or two per stride: PicoDet, NanoDet, RTMDet, FCOS, raw YOLOX, v6 and v8."""

from __future__ import annotations

from dataclasses import replace

from analyzer.tasks.detection.codings import Coding, Distances, Exponentials
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Part
from analyzer.tasks.detection.pyramid import Stage, by_candidates, stages, stages_of
from analyzer.tasks.detection.view import RAW, View

_BINS = (8, 16, 17, 32, 33)  # of a distribution per side
_STRIDES = (4, 8, 16, 32, 64, 128)
_TOGETHER = ((8, 16, 32, 64, 128), (8, 16, 32))


def apart(view: View) -> tuple[Decoder, str] | None:
    """Scores and boxes, perhaps objectness as well, as outputs of their own at every stride."""
    grids = _grids(view)
    if grids is None or not 2 <= len(grids) <= 5:
        return None
    heads = []
    for grid, parts in grids.items():
        head = _head(view, parts)
        if head is None:
            return None
        heads.append((Stage(0, grid[0] * grid[1], grid), *head))
    kinds = {(thing is not None, n, bins) for _, _, _, thing, n, bins in heads}
    functions = {view.squashed(scores) for _, scores, *_ in heads}
    if len(kinds) != 1 or functions - {"Sigmoid", ""}:
        return None
    two, classes, bins = kinds.pop()
    if bins and not all(view.pointwise(scores) and view.pointwise(boxes) for _, scores, boxes, *_ in heads):
        return None
    score_layers = {op for _, scores, *_ in heads for op in view.computed_by(scores)}
    raw = all(view.computed_by(boxes) <= RAW for _, _, boxes, *_ in heads)
    coding: Coding = Distances(bins)
    if two and not bins and raw:
        family, coding = "YOLOX", Exponentials()
    elif bins:
        family = "YOLOv8" if bins > 8 else "PicoDet" if score_layers == {"Sqrt"} or len(heads) == 4 else "NanoDet"
    else:
        in_pixels = all(_by_stride(view, stage, boxes) for stage, _, boxes, *_ in heads)
        family = "RTMDet" if in_pixels and not two else "FCOS"
        torchvision = _clipped(view, heads[0][2]) and len(view.shapes[heads[0][2].output]) == 3
        exponential = all(view.computed_by(boxes) == {"Exp"} for _, _, boxes, *_ in heads)
        corner = family == "RTMDet" or torchvision
        coding = Distances(offset=0.0 if corner else 0.5, pixels=in_pixels or exponential, whole=torchvision)
    squashed = functions == {"Sigmoid"}
    done = squashed or not score_layers <= RAW  # a function of the scores and more, as PicoDet's square root
    levels = [stage.level(scores, boxes, thing) for stage, scores, boxes, thing, *_ in heads]
    things = {view.squashed(thing) for *_, thing, _, _ in heads if thing is not None}
    decoder = Decoder(
        family,
        view.with_layers(levels),
        coding,
        view.size,
        classes,
        "" if done else "sigmoid",
        squashed,
        "" if things == {"Sigmoid"} else "sigmoid",
        (0.5, 0.5) if family == "FCOS" and two else (1.0, 1.0),
        threshold=0.3,
        iou=0.5,
    )
    sides = f"distributions of 4 sides over {bins} steps" if bins else "4 box sides"
    return decoder, f"{classes} scores and {sides} at each of {len(heads)} strides"


def together(view: View) -> tuple[Decoder, str] | None:
    """FCOS of torchvision, whose head gives rows of scores, of four distances behind a ReLU and of centerness for the
    places of all strides."""
    groups = by_candidates(view)
    if len(groups) != 1 or len(view.shapes) != 3 or not all(view.size):
        return None
    ((count, rows),) = groups.items()
    boxes = [p for p, n in rows if n == 4 and _clipped(view, p)]
    things = [p for p, n in rows if n == 1]
    scores = [(p, n) for p, n in rows if p not in (*boxes, *things)]
    if len(boxes) != 1 or len(things) != 1 or len(scores) != 1:
        return None
    (part, classes), functions = scores[0], [view.squashed(scores[0][0]), view.squashed(things[0])]
    maps = stages(view, part) or stages_of(view, count, _TOGETHER, (1,))
    if maps is None or any(stage.cell > 1 for stage in maps) or not {*functions} <= {"Sigmoid", ""}:
        return None
    levels = [stage.level(part, boxes[0], things[0]) for stage in maps]
    todo = ["" if function else "sigmoid" for function in functions]
    decoder = Decoder(
        "FCOS", view.with_layers(levels), Distances(offset=0.0, whole=True), view.size, classes, todo[0],
        bool(functions[0]), todo[1], (0.5, 0.5), threshold=0.3, iou=0.5,
    )  # fmt: skip
    return decoder, f"{classes} scores, 4 distances and centerness for each of {count} places of {len(maps)} strides"


def _clipped(view: View, boxes: Part) -> bool:
    """Whether a ReLU is the last thing that is done to box sides."""
    return view.computed_by(boxes) == {"Relu"}


def _by_stride(view: View, stage: Stage, boxes: Part) -> bool:
    """Whether the last thing that is done to box sides is a multiplication by the stride, as in MMDetection."""
    node, step = view.graph.producer(view.sources(boxes)[0][1]), view.size[0] / stage.grid[0]
    factors = [view.graph.constant(i) for i in node.inputs] if node is not None and node.op == "Mul" else []
    return any(f is not None and f.size == 1 and float(f.reshape(-1)[0]) == step for f in factors)


def _grids(view: View) -> dict[tuple[int, int], list[tuple[Part, int]]] | None:
    """{grid: outputs of its places, and how many numbers they have of each}, the finest first; None where an output is
    of no grid."""
    found: dict[tuple[int, int], list[tuple[Part, int]]] = {}
    if not view.all_fixed:
        return None
    for name, shape in view.shapes.items():
        if not view.is_real(name):
            return None
        if len(shape) == 3:
            maps = stages_of(view, shape[1], [(s,) for s in _STRIDES], (1,))
            if maps is None:
                return None
            found.setdefault(maps[0].grid, []).append((Part(name), shape[2]))
        elif len(shape) == 4:
            height, width = view.size
            last = shape[1] > 1 and shape[1] * width == shape[2] * height and height % shape[1] == 0
            last = last and shape[3] != shape[2]
            grid, axis = ((shape[1], shape[2]), 3) if last else ((shape[2], shape[3]), 1)
            if grid not in [(-(-height // s), -(-width // s)) for s in _STRIDES]:
                return None
            found.setdefault(grid, []).append((Part(name, axis=axis), shape[axis]))
        else:
            return None
    return dict(sorted(found.items(), reverse=True))


def _head(view: View, parts: list[tuple[Part, int]]) -> tuple[Part, Part, Part | None, int, int] | None:
    """(scores, boxes, objectness, classes, bins) of one grid."""
    if len(parts) == 1:
        part, numbers = parts[0]
        sources = [v.name for v in view.columns(part)]
        sizes = [sources.count(name) for name in dict.fromkeys(sources)]
        if sizes[:2] == [4, 1] and len(sizes) == 3:
            return replace(part, start=5), replace(part, stop=4), replace(part, start=4, stop=5), numbers - 5, 0
        if len(sizes) == 2 and sizes[0] % 4 == 0 and sizes[0] // 4 in _BINS:
            return replace(part, start=sizes[0]), replace(part, stop=sizes[0]), None, sizes[1], sizes[0] // 4
        return None
    boxes = [(p, n) for p, n in parts if n == 4 or (n % 4 == 0 and n // 4 in _BINS)]
    boxes = [(p, n) for p, n in boxes if view.squashed(p) == ""] or boxes
    if len(boxes) > 1:  # as many classes as box numbers: the wider one is a distribution
        boxes = [(p, n) for p, n in boxes if view.labels is None or n != view.labels]
        boxes = sorted(boxes, key=lambda one: "box" not in one[0].output and "reg" not in one[0].output)[:1]
    if len(boxes) != 1 or len(parts) > 3:
        return None
    box, numbers = boxes[0]
    rest = [(p, n) for p, n in parts if p != box]
    ones = [(p, n) for p, n in rest if n == 1]
    thing = ones[-1][0] if len(rest) == 2 and ones else None
    scores = [(p, n) for p, n in rest if p != thing]
    if len(scores) != 1:
        return None
    return scores[0][0], box, thing, scores[0][1], 0 if numbers == 4 else numbers // 4


def joined(view: View) -> tuple[Decoder, str] | None:
    """NanoDet-Plus: one output (N, places, classes + 4 · bins), the scores first."""
    for name, shape in view.shapes.items():
        if len(shape) != 3 or not all(view.size) or len(view.shapes) != 1 or not view.is_real(name):
            continue
        maps = stages_of(view, shape[1], ((8, 16, 32, 64), (8, 16, 32)), (1,))
        part = Part(name)
        functions = view.functions(part) if maps is not None else []
        classes = next((i for i, f in enumerate(functions) if f != "Sigmoid"), 0)
        bins = (shape[2] - classes) // 4
        if maps is None or not classes or bins not in _BINS or classes + 4 * bins != shape[2]:
            continue
        scores, boxes = replace(part, stop=classes), replace(part, start=classes)
        levels = [one.level(scores, boxes) for one in maps]
        decoder = Decoder(
            "NanoDet", view.with_layers(levels), Distances(bins, offset=0.0), view.size, classes, "", True,
            threshold=0.35, iou=0.6,
        )  # fmt: skip
        return decoder, f"{classes} scores and distributions of 4 sides over {bins} steps at {len(maps)} strides"
    return None
