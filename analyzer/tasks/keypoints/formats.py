"""Whether a model's outputs are keypoints, and of which format: by shapes and what they are computed from.

Names of outputs count only where shapes leave it open: rows of 42 or 196 numbers may as well be scores of classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from analyzer.analysis.feature_maps import common_map, feature_maps, meetings
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import holds_floats, logits, quantisation
from analyzer.graph import Graph, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import image_input
from analyzer.graph.through import is_transparent
from analyzer.tasks.base import quoted
from analyzer.tasks.detection.view import View
from analyzer.tasks.keypoints.task import Keypoints, Landmarks

_NAMED = re.compile(
    r"(land_?marks?|landms|ldmks?|lmks?|kpts?|key_?points?|joints?|heat_?maps?|(^|[^a-z])pose([^a-z]|$))"
)
_MARKS = re.compile(r"(land_?marks?|landms|ldmks?|lmks?|kpts?|key_?points?|joints?)")
_KNOWN = (5, 14, 16, 17, 18, 19, 20, 21, 22, 23, 26, 29, 33, 39, 68, 98, 106, 133, 136, 194, 468, 478)
_COMMON = (5, 17, 21, 68, 98, 106)  # of several ways to read so many numbers, the one that gives one of these
_MESHES = (468, 478)  # so many numbers, times 2 or 3, are no usual number of classes
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "QuantizeLinear", "DequantizeLinear")
_CHOOSING = ("GatherND", "Gather", "GatherElements")


def found_in(graph: Graph, main: str | None = None, declared: bool = False) -> Keypoints | None:
    """The keypoints that the outputs are of, if they are of any.

    Args:
        main: the output that is asked for.
        declared: the model's card says that there are keypoints, so shapes only tell how they are written.
    """
    outputs = _Outputs(graph, declared)
    if not all(outputs.size):
        return None
    for form in _FORMS:
        task = form(outputs)
        if task is not None and (main is None or main in task.reading):
            return task
    return None


@dataclass
class _Outputs:
    """The floating-point outputs of a model."""

    graph: Graph
    declared: bool

    @cached_property
    def size(self) -> tuple[int, int]:
        return View(self.graph).size

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{output: sizes}, an open first axis as 1."""
        found: dict[str, tuple[int, ...]] = {}
        for value in self.graph.outputs:
            shape = list(value.shape or [])
            sizes = fixed_sizes([1, *shape[1:]]) if shape else None
            if sizes is not None and value.name not in found:
                found[value.name] = sizes
        return found

    @property
    def several(self) -> int:
        return len({v.name for v in self.graph.outputs})

    def made(self, kind: type[Keypoints], name: str, evidence: str, **more: Any) -> Keypoints:
        output = self.graph[name]
        beside = more.get("beside")
        if beside:
            more["beside_quantisation"] = tuple(quantisation(self.graph, self.graph[beside]))
        task = kind(output, output, evidence=evidence, size=self.size, **more)
        return replace(task, quantisation=quantisation(self.graph, output))


# ---- One function per format ----


def _scored(outputs: _Outputs) -> Keypoints | None:
    """(N, K, 3) or (N, 1, K, 3) y, x and score, the score taken from a heat map (MoveNet)."""
    for name, shape in outputs.shapes.items():
        if len(shape) not in (3, 4) or shape[-1] != 3 or shape[-2] not in _KNOWN or any(d != 1 for d in shape[1:-2]):
            continue
        heat = _heat_behind(outputs.graph, outputs.graph[name])
        if heat is None or not holds_floats(outputs.graph[name]):
            continue
        source, squashed = heat
        said = f"{quoted(name)} {list(shape)} holds y, x and a score for each of {shape[-2]} keypoints of a heat map"
        layer = _layer_before(outputs.graph, source)
        stripped = ("Sigmoid",) if squashed else ()
        return outputs.made(Keypoints, name, said, count=shape[-2], layer=layer, stripped=stripped)
    return None


def _heat_behind(graph: Graph, output: Value) -> tuple[Value, bool] | None:
    """(the heat map that the last number of each keypoint is chosen from, whether it went through a Sigmoid)"""
    value, chosen = output, False
    while (node := graph.producer(value)) is not None:
        if node.op == "Concat":
            value = node.inputs[-1]
        elif node.op in _CHOOSING:
            value, chosen = node.inputs[0], True
        elif node.op in _MOVES or is_transparent(node):
            value = node.inputs[0]
        elif node.op == "Sigmoid" and chosen:
            return node.inputs[0], True
        else:
            return (value, False) if chosen else None
    return None


def _maps(outputs: _Outputs) -> Keypoints | None:
    """(N, K, h, w) a heat map for every keypoint (SimpleBaseline, HRNet, OpenPose), coarser than the picture."""
    graph = outputs.graph
    found = []
    for name, shape in outputs.shapes.items():
        if len(shape) != 4:
            continue
        layout = layouts(graph).get(name) or Layout.of("NCHW", list(shape))
        if layout.is_map and "L" not in layout.axes:
            found.append((name, shape, layout))
    fields = {shape[layout.channel] for _, shape, layout in found}
    for name, shape, layout in reversed(found):
        count, grid = shape[layout.channel], [shape[a] for a in layout.spatial]
        steps = [side / cells for side, cells in zip(outputs.size, grid, strict=True)]
        if count < 5 or steps[0] != steps[1] or steps[0] not in (2, 4, 8):
            continue
        fields_beside = count % 2 == 1 and 2 * count in fields  # OpenPose: limbs, and the last map is background
        alone = outputs.several == 1 and ((_person(outputs.size) and count == 17) or _is_named(name, "heat"))
        if not (outputs.declared or ((fields_beside or alone) and count in _KNOWN)):
            continue
        source = logits(graph, graph[name])
        if any("Softmax" in op for op in source.stripped):
            continue
        said = f"{quoted(name)} {list(shape)} has a heat map for every keypoint"
        task = outputs.made(
            Keypoints, name, said, form="maps", count=count - fields_beside, channel=layout.channel,
            layer=_layer_before(graph, source.value), stripped=source.stripped,
        )  # fmt: skip
        return replace(task, logits=source.value)
    return None


def _person(size: tuple[int, int]) -> bool:
    """Whether the input is as high and wide as people are cut out for pose models: 4 to 3."""
    return 3 * size[0] == 4 * size[1]


def _is_named(name: str, word: str = "") -> bool:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    return bool((_NAMED if word else _MARKS).search(words))


def _simcc(outputs: _Outputs) -> Keypoints | None:
    """(N, K, W · s) and (N, K, H · s): a score for every column and every row (SimCC, RTMPose)."""
    rows = [(n, s) for n, s in outputs.shapes.items() if len(s) == 3]
    if len(rows) != 2 or outputs.several != 2:
        return None
    (x, a), (y, b) = rows
    height, width = outputs.size
    if (
        a[1] != b[1]
        or not (outputs.declared or a[1] in _KNOWN)
        or a[2] < width
        or a[2] * 2 % width
        or a[2] * height != b[2] * width
    ):
        return None
    said = f"{quoted(x)} {list(a)} and {quoted(y)} {list(b)} score every column and row for each of {a[1]} keypoints"
    return outputs.made(Keypoints, x, said, form="simcc", count=a[1], beside=y, layer=_fine_layer(outputs, x, 0))


def _coordinates(outputs: _Outputs) -> Keypoints | None:
    """(N, 2·K), (N, 3·K) or (N, K, 2 or 3) numbers without a squashing function, named or too many to be classes."""
    graph = outputs.graph
    rows = [(n, s) for n, s in outputs.shapes.items() if holds_floats(graph[n]) and _wide(s)]
    for name, shape in rows:
        wide = _wide(shape)
        if logits(graph, graph[name]).stripped and not outputs.declared:
            continue
        counted = _counted(wide, outputs.declared)
        if counted is None:
            continue
        count, numbers = counted
        twice = count == 21 and sum(_wide(s) == wide for _, s in rows) == 2  # hands: in the picture and in space
        if not (outputs.declared or count in _MESHES or twice or _is_named(name)):
            continue
        said = f"{quoted(name)} {list(shape)} has {numbers} coordinates for each of {count} keypoints"
        flag = _flag(outputs, name)
        threshold = 0.5 if flag and logits(graph, graph[flag]).stripped else 0.0
        layer = _fine_layer(outputs, name)
        return outputs.made(
            Landmarks, name, said, count=count, numbers=numbers, beside=flag, sure_from=threshold, layer=layer
        )
    return None


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes besides the batch that are not 1."""
    return tuple(d for d in shape[1:] if d != 1)


def _counted(wide: tuple[int, ...], declared: bool) -> tuple[int, int] | None:
    """(number of keypoints, numbers of each)"""
    if len(wide) == 2 and wide[1] in (2, 3) and (declared or wide[0] in _KNOWN):
        return wide[0], wide[1]
    if len(wide) != 1:
        return None
    fitting = [(wide[0] // n, n) for n in (3, 2) if wide[0] % n == 0 and wide[0] // n in _KNOWN]
    if fitting:
        return min(fitting, key=lambda one: one[0] not in _COMMON)
    return (wide[0] // 2, 2) if declared and wide[0] % 2 == 0 else None


def _flag(outputs: _Outputs, name: str) -> str:
    """The first other output that is a single number: whether there is anything."""
    return next((n for n, s in outputs.shapes.items() if n != name and not _wide(s)), "")


_FORMS: tuple[Callable[[_Outputs], Keypoints | None], ...] = (_scored, _simcc, _maps, _coordinates)


def _fine_layer(outputs: _Outputs, name: str, cell: int = 16) -> str:
    """The last map that all later ones depend on, among those with a place for every `cell` pixels (0: all): a
    coordinate is more precise than the last maps, of 3 by 3 places or so."""
    maps = feature_maps(outputs.graph, outputs.graph[name])
    least = [-(-side // cell) if cell else 2 for side in outputs.size]
    fine = [
        m
        for m in maps
        if len(m.size) == 2 and all(isinstance(a, int) and a >= b for a, b in zip(m.size, least, strict=True))
    ]
    return common_map(outputs.graph, fine).name if fine else ""


def _layer_before(graph: Graph, heat: Value) -> str:
    """The feature map by which a heat map is explained: the last one of its size in which scales come together, else
    the last one before it."""
    layout = layouts(graph).get(heat.name)
    image = image_input(graph).name
    same = {image, heat.name}
    value = heat
    while (node := graph.producer(value)) is not None and (node.op in _MOVES or is_transparent(node)):
        value = node.inputs[0]
        same.add(value.name)
    maps = [m for m in feature_maps(graph, heat) if m.name not in same]
    if layout is None or not layout.is_map or not maps:
        return ""
    last = next((m for m in reversed(maps) if m.size == layout.grid), None)
    if last is None:
        return ""
    met = [m for m in meetings(graph, last) if m.size == layout.grid]
    return (met or [last])[-1].name
