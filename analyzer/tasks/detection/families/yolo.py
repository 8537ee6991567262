"""YOLO: heads whose levels are joined in one output (v5 to v12, YOLOX, -seg, -pose, -obb), and raw heads per stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from analyzer.errors import InputError
from analyzer.tasks.detection.codings import Coding, Corners, Exponentials, Rotated, Tanh, WithAnchors, WithPoints
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.families.anchors import decoded
from analyzer.tasks.detection.masks import Prototypes
from analyzer.tasks.detection.parts import Part
from analyzer.tasks.detection.pyramid import Stage, stages_of
from analyzer.tasks.detection.view import RAW, View

_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (8, 16), (16, 32), (8,), (16,), (4,), (32,))
_SEGMENTING = 32  # mask coefficients
# Width and height in pixels of the anchors of each level, by project.
ANCHORS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "YOLOv3": (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)), ((116, 90), (156, 198), (373, 326))),
    "YOLOv3-tiny": (((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319))),
    "YOLOv4": (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401))),
}
ANCHORS["YOLOv5"], ANCHORS["YOLOv7"] = ANCHORS["YOLOv3"], ANCHORS["YOLOv4"]


@dataclass(frozen=True)
class _Columns:
    """What the numbers of a candidate are: 4 of a box, then objectness perhaps, scores, and others."""

    start: int
    stop: int
    objectness: bool
    functions: tuple[str | None, ...]

    @property
    def scores(self) -> int:
        return self.stop - self.start


# ---- Joined in one output ----


def joined(view: View) -> tuple[Decoder, str] | None:
    """One output (N, numbers, places) or (N, places, numbers): a box, objectness perhaps, a score per class, and mask
    coefficients, keypoints or an angle perhaps."""
    for name, shape in view.shapes.items():
        if len(shape) != 3 or not all(view.size) or not view.is_real(name):
            continue
        axis = 1 if shape[1] < shape[2] else 2
        maps = stages_of(view, shape[3 - axis], _STRIDES, (1, 3))
        if maps is None or shape[axis] < 5:
            continue
        maps = [replace(one, planes=one.cell > 1) for one in maps]
        found = _decoder(view, Part(name, axis=axis), shape[axis], maps)
        if found is not None:
            return found
    return None


def _decoder(view: View, whole: Part, numbers: int, maps: Sequence[Stage]) -> tuple[Decoder, str] | None:
    columns = _columns(view, whole, numbers, maps[0].cell)
    if columns is None:
        return None
    if "Sigmoid" not in columns.functions and (len(maps) == 1 or _is_alike(view, whole, maps[0].cell)):
        return None
    box, thing = replace(whole, stop=4), replace(whole, start=4, stop=5)
    scores = replace(whole, start=columns.start, stop=columns.stop)
    function = columns.functions[columns.start]
    rest = numbers - columns.stop
    points, masks = None, None
    raw = view.computed_by(box) <= RAW
    coding: Coding
    if raw and maps[0].cell > 1:
        family, coding = _with_anchors(view, len(maps))
    elif raw:
        family, coding = "YOLOX", Exponentials()
    else:
        family, coding = "YOLOv5" if columns.objectness else "YOLOv8", decoded(view, box, maps, Corners(centred=True))
    if rest == 1:
        family, box = f"{family}-obb", replace(whole, stop=None)
        coding = Rotated()
    elif rest > 1 and _is_pose(columns.functions[columns.stop :], rest):
        family, points = f"{family}-pose", replace(whole, start=columns.stop)
        unseen = columns.functions[-1] == "" and rest % 3 == 0
        unit = isinstance(coding, Corners) and coding.unit
        coding = WithPoints(unit=unit, each=3 if rest % 3 == 0 else 2, logits=unseen)
    elif rest:
        family, masks = f"{family}-seg", prototypes(view, rest)
    levels = [one.level(scores, box, thing if columns.objectness else None, points) for one in maps]
    if masks is not None:
        levels = [replace(one, weights=replace(one.boxes, start=columns.stop, stop=None)) for one in levels]
    decoder = Decoder(
        family,
        view.with_layers(levels),
        coding,
        view.size,
        columns.scores,
        "" if function else "sigmoid",
        bool(function),
        "" if columns.functions[4] == "Sigmoid" else "sigmoid",
        thing="person" if points is not None and rest == 51 else "object",
        masks=masks,
    )
    said = "4 box sides, objectness" if columns.objectness else "4 box sides"
    more = {"-obb": ", an angle", "-pose": ", keypoints", "-seg": f", {rest} mask coefficients"}
    also = next((text for end, text in more.items() if family.endswith(end)), "")
    shape = list(view.shapes[whole.output])
    count = maps[-1].last
    return decoder, f"{whole.output} {shape} holds {said}{also} and {columns.scores} scores for each of {count} places"


def prototypes(view: View, count: int) -> Prototypes | None:
    """The output (N, count, h, w) that masks are sums of; None where there is none."""
    found = [name for name, shape in view.shapes.items() if len(shape) == 4 and shape[1] == count]
    return Prototypes(found[0], logits=True) if len(found) == 1 else None


def _columns(view: View, whole: Part, numbers: int, cell: int) -> _Columns | None:
    """What the numbers are, by the functions that each went through and by where they are computed."""
    functions = view.functions(whole)
    if len(functions) != numbers or functions[4] not in ("Sigmoid", "", "constant") or "Sigmoid" in functions[:4]:
        raw = cell > 1 and len(functions) == numbers and set(functions) <= {"Sigmoid", ""}
        if not raw:
            return None
    ends = 5 if functions[4] == "constant" else 4
    run = next((i for i in range(ends, numbers) if functions[i] != functions[ends]), numbers)
    if functions[ends] is None or run == ends:
        return None
    if functions[ends] == "" and view.labels is not None and ends + view.labels <= numbers:
        run = ends + view.labels + (cell > 1)
    objectness = ends == 4 and run > 5 and _has_objectness(view, whole, run, cell)
    return _Columns(ends + objectness, run, objectness, tuple(functions))


def _is_alike(view: View, whole: Part, cell: int) -> bool:
    """Whether all numbers of a place are computed as one, as features are, and no anchors tell otherwise."""
    return cell == 1 and len({v.name for v in view.columns(whole)}) == 1


def _has_objectness(view: View, whole: Part, stop: int, cell: int) -> bool:
    """Whether the fifth number is objectness: where it is computed apart from the scores or places have several
    candidates, else where labels tell it."""
    thing, rest = replace(whole, start=4, stop=5), replace(whole, start=5, stop=stop)
    apart = [v.name for _, v in view.sources(thing)] != [v.name for _, v in view.sources(rest)]
    return apart or cell > 1 or view.labels == stop - 5


def _is_pose(functions: Sequence[str | None], rest: int) -> bool:
    """Whether these are keypoints: x, y and whether it is seen, or x and y alone."""
    if rest % 3 == 0 and list(functions) == ["", "", "Sigmoid"] * (rest // 3):
        return True
    return rest != _SEGMENTING and rest % 2 == 0 and set(functions) == {""} and rest <= 2 * 133 and rest in (10, 34, 42)


# ---- Raw heads per stride ----


def apart(view: View) -> tuple[Decoder, str] | None:
    """An output (N, 3 · (5 + classes), h, w) or (N, 3, h, w, 5 + classes) per stride, relative to published anchors."""
    heads: list[tuple[Stage, Part, int]] = []
    for name, shape in view.shapes.items():
        if len(shape) == 5 and shape[1] == 3 and shape[4] > 5:
            grid, part, numbers = (shape[2], shape[3]), Part(name, axis=4), shape[4]
        elif len(shape) == 4 and shape[1] % 3 == 0 and shape[1] > 15 and shape[2] > 1 and shape[3] > 1:
            grid, part, numbers = (shape[2], shape[3]), Part(name, axis=1, cell=3), shape[1] // 3
            if len({v.name for _, v in view.sources(part)}) != 1 or not view.computed_by(part) <= RAW:
                return None
            if not view.pointwise(part) or (view.labels is not None and numbers != 5 + view.labels):
                return None
        else:
            return None
        if not all(view.size) or view.size[0] % grid[0] or not view.is_real(name):
            return None
        heads.append((Stage(0, grid[0] * grid[1] * 3, grid, 3, len(shape) == 5), part, numbers))
    heads.sort(key=lambda head: -head[0].last)
    sizes = [stage.last for stage, *_ in heads]
    if len(heads) not in (2, 3) or len({n for *_, n in heads}) != 1 or any(a != 4 * b for a, b in pairwise(sizes)):
        return None
    functions = {view.squashed(part) for _, part, _ in heads}
    if functions not in ({"Sigmoid"}, {""}):
        return None
    numbers, squashed = heads[0][2], functions == {"Sigmoid"}
    family, coding = _with_anchors(view, len(heads), squashed)
    levels = [
        one.level(replace(part, start=5), replace(part, stop=4), replace(part, start=4, stop=5))
        for one, part, _ in heads
    ]
    todo = "" if squashed else "sigmoid"
    decoder = Decoder(family, view.with_layers(levels), coding, view.size, numbers - 5, todo, squashed, todo)
    return decoder, f"4 box sides, objectness and {numbers - 5} scores of 3 anchors at each of {len(heads)} strides"


def _with_anchors(view: View, levels: int, squashed: bool = False) -> tuple[str, WithAnchors]:
    """The project and its anchors: the card's, else by the activations that the projects use."""
    told = (view.declared or "").lower()
    used = {node.op for node in view.graph.forward_nodes()}
    named = next((name for name in ANCHORS if name.lower() == told), None)
    if named is None and levels == 2:
        named = "YOLOv3-tiny"
    if named is None:
        named = "YOLOv4" if {"Mish", "Softplus"} & used else "YOLOv3" if "LeakyRelu" in used else "YOLOv5"
    given = view.anchors
    if given is not None and [len(level) for level in given.shapes] != [3] * levels:
        raise InputError(
            f"the model has {levels} levels with 3 anchors each, and its TOML file gives "
            f"{', '.join(str(len(level)) for level in given.shapes)} anchors",
            'change "anchors"',
        )
    anchors = ANCHORS[named] if given is None else given.shapes
    return named, WithAnchors(anchors, named in ("YOLOv5", "YOLOv7"), squashed, given.strides if given else ())


# ---- FastestDet ----


def fastest(view: View) -> tuple[Decoder, str] | None:
    """FastestDet: one map of objectness (sigmoid), 4 box numbers and scores (softmax) per place."""
    for name, shape in view.shapes.items():
        part = Part(name, axis=1)
        if len(shape) != 4 or shape[1] < 6 or len(view.shapes) > 1 or not all(view.size):
            continue
        if shape[2] * 8 > view.size[0]:  # finer than any grid of a detector of one scale
            continue
        if view.functions(part) != ["Sigmoid", *[""] * 4, *["Softmax"] * (shape[1] - 5)]:
            continue
        grid = (shape[2], shape[3])
        stage = Stage(0, grid[0] * grid[1], grid)
        level = stage.level(replace(part, start=5), replace(part, start=1, stop=5), replace(part, stop=1))
        decoder = Decoder(
            "FastestDet", view.with_layers([level]), Tanh(), view.size, shape[1] - 5, "", True, "", (0.4, 0.6),
            threshold=0.65,
        )  # fmt: skip
        return decoder, f"{name} {list(shape)} holds objectness, 4 box numbers and {shape[1] - 5} scores per place"
    return None
