"""Whether a model's output is a map of text: by the operators that compute it, or by its card.

A map of one channel may as well be a mask. What tells a text detector is the head of DB (1911.08947): two transposed
convolutions with ReLU between them, which enlarge the merged maps of a pyramid four times.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from analyzer.analysis.feature_maps import feature_maps, meetings
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import holds_floats, logits, quantisation
from analyzer.graph import Graph, Node, Value
from analyzer.graph.through import is_transparent
from analyzer.tasks.base import quoted
from analyzer.tasks.detection.text_maps import TextMap
from analyzer.tasks.detection.view import View

DECODERS = {"db": "db", "text-lines": "lines"}  # what a card may call a format
_BETWEEN = frozenset({"Add", "BatchNormalization", "Relu", "HardSwish", "Mul", "HardSigmoid", "Clip", "Reshape"})
_MOVING = frozenset({"Slice", "DepthToSpace", "Reshape", "Transpose"})
_RESIZING = frozenset({"Resize", "Upsample"})


def text_map(graph: Graph, main: str | None = None, decode: str | None = None) -> TextMap | None:
    """The map of text that an output is, if one is.

    Args:
        main: the output that is asked for.
        decode: the format that the model's card names.
    """
    form, size = DECODERS.get(decode or ""), View(graph).size
    if not all(size):
        return None
    for value in graph.outputs:
        if main not in (None, value.name) or len(value.shape or ()) != 4:
            continue
        layout = layouts(graph).get(value.name) or Layout.of("NCHW", list(value.shape or []))
        if not layout.is_map:
            continue
        channels = (value.shape or [])[layout.channel]
        if channels == 1 and form in (None, "db") and (form or len(graph.outputs) == 1):
            found = _regions(graph, value, form is not None)
        elif channels == 3 and form in (None, "lines"):
            found = _lines(graph, value, form is not None)
        else:
            continue
        if found is not None:
            task, before = found
            layer = _layer(graph, before)
            return replace(
                task, size=size, channel=layout.channel, layer=layer, quantisation=quantisation(graph, value)
            )
    return None


def _regions(graph: Graph, value: Value, declared: bool) -> tuple[TextMap, Value] | None:
    """(the map, what the last layers compute it from)"""
    source = logits(graph, value)
    last = _back(graph, source.value, "ConvTranspose", _BETWEEN)
    first = _back(graph, last.inputs[0], "ConvTranspose", _BETWEEN) if last is not None else None
    merged = _back(graph, first.inputs[0], "Concat", _BETWEEN | {"Conv"}) if first is not None else None
    of_head = first is not None and last is not None and all(n.attrs.get("strides") == [2, 2] for n in (first, last))
    of_pyramid = merged is not None and sum(_enlarged(graph, i) for i in merged.inputs) >= 2
    if not holds_floats(source.value) or not (declared or (of_head and of_pyramid)):
        return None
    known = "text, as the model's TOML file says" if declared else (
        "text: two transposed convolutions enlarge the merged maps of a pyramid, as in DB (1911.08947)"
    )  # fmt: skip
    said = f"{quoted(value.name)} is a map of one channel of {known}"
    end = graph.producer(value)
    raw = not source.stripped and (end is None or end.op not in ("Clip", "HardSigmoid"))
    task = TextMap(value, source.value, source.stripped, evidence=said, function="sigmoid" if raw else "")
    return task, first.inputs[0] if first is not None else source.value


def _lines(graph: Graph, value: Value, declared: bool) -> tuple[TextMap, Value] | None:
    """The same, of a map whose last two channels are distances, positive numbers of a Softplus."""
    joined = graph.producer(value)
    parts = joined.inputs if joined is not None and joined.op == "Concat" else []
    positive = len(parts) == 2 and _back(graph, parts[1], "Softplus", {"Mul"}) is not None
    if not (declared or (positive and not logits(graph, value).stripped)):
        return None
    known = "as the model's TOML file says" if declared else "the last two after a Softplus"
    said = f"{quoted(value.name)} is a map of text and of how far its lines reach up and down, {known}"
    task = TextMap(value, value, evidence=said, form="lines", function="sigmoid")
    head = _back(graph, parts[0], "Conv", _MOVING) if parts else None
    return task, head.inputs[0] if head is not None else value


def _back(graph: Graph, value: Value, wanted: str, through: Collection[str]) -> Node | None:
    """The first node of a kind on the way back through nodes of others."""
    for _ in range(24):
        node = graph.producer(value)
        if node is None or node.op == wanted:
            return node
        if not (is_transparent(node) or node.op in through):
            return None
        value = next((i for i in node.inputs if i.name and graph.constant(i) is None), node.inputs[0])
    return None


def _enlarged(graph: Graph, value: Value) -> bool:
    """Whether a map was made larger before it was merged."""
    return any(_back(graph, value, op, _BETWEEN | {"Conv"}) is not None for op in _RESIZING)


def _layer(graph: Graph, before: Value) -> str:
    """The map by which text is explained: the last in which scales come together before the head."""
    maps = [m for m in feature_maps(graph, before) if "L" not in m.layout.axes and m.name != before.name]
    if not maps:
        return ""
    last = maps[-1]
    met = [m for m in meetings(graph, last) if m.size == last.size]
    return (met or [last])[-1].name
