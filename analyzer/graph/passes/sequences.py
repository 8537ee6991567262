"""Sequences and optionals that are known before the model runs, as plain tensors.

A sequence is followed as the list of names of its tensors; what reads an element then reads that tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.helper

from analyzer.graph.passes.bodies import Constants
from analyzer.graph.protos import Names, attribute, captured, replace_all

Emitted = list[onnx.NodeProto]


def resolve_sequences(graph: onnx.GraphProto, shapes: Mapping[str, list], opset: int) -> bool:
    """Replaces operators on sequences whose length and positions are known; whether there were any."""
    if not any(n.op_type in _RULES or n.op_type in _READERS for n in graph.node if not n.domain):
        return False
    reader = _Reader(graph, shapes, opset)
    nodes: Emitted = []
    changed = False
    for node in graph.node:
        emitted = reader.visit(node)
        changed = changed or emitted is not None
        nodes += [node] if emitted is None else emitted
    used = {o.name for o in graph.output}
    kept: Emitted = []
    for node in reversed(nodes):
        if not reader.made(node) or any(o in used for o in node.output):
            kept.append(node)
            used.update(node.input)
            used.update(captured(node))
    changed = changed or len(kept) != len(nodes)
    replace_all(graph.node, reversed(kept))
    return changed


class _Reader:
    """`lists`: {sequence: names of its tensors}; `held`: {optional: the tensor or sequence in it}."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, list], opset: int) -> None:
        self.names = Names(graph)
        self.constants = Constants(graph, shapes)
        self.shapes, self.opset = shapes, opset
        self.lists: dict[str, list[str]] = {}
        self.held: dict[str, str] = {}

    def made(self, node: onnx.NodeProto) -> bool:
        """Whether all that `node` computes is a sequence or optional that has been followed."""
        return all(o in self.lists or o in self.held for o in node.output)

    def visit(self, node: onnx.NodeProto) -> Emitted | None:
        """The nodes that compute the same without a sequence; None to leave it, perhaps with its result followed."""
        rule = None if node.domain else _RULES.get(node.op_type)
        if rule is not None:
            content = rule(self, node)
            if content is not None:
                names, nodes = content
                self.lists[node.output[0]] = names
                built = onnx.helper.make_node("SequenceConstruct", names, node.output, node.name)
                return [*nodes, built] if nodes else None
            return None
        reader = None if node.domain else _READERS.get(node.op_type)
        return None if reader is None else reader(self, node)

    def position(self, node: onnx.NodeProto, index: int, absent: int) -> int | None:
        """An element's number: `absent` where the input is left out."""
        if len(node.input) <= index or not node.input[index]:
            return absent
        known = self.constants(node.input[index])
        return None if known is None else int(known.item())

    def axes(self, op: str, x: str, y: str, axis: int) -> onnx.NodeProto:
        """Squeeze or Unsqueeze at `axis`."""
        if self.opset < 13:
            return onnx.helper.make_node(op, [x], [y], y, axes=[axis])
        return onnx.helper.make_node(op, [x, self.names.constant(np.array([axis], np.int64), y)], [y], y)


# ---- What makes a sequence: the names of its tensors, and nodes that compute them ----


def _construct(reader: _Reader, node: onnx.NodeProto) -> tuple[list[str], Emitted] | None:
    return list(node.input), []


def _empty(reader: _Reader, node: onnx.NodeProto) -> tuple[list[str], Emitted] | None:
    return [], []


def _insert(reader: _Reader, node: onnx.NodeProto) -> tuple[list[str], Emitted] | None:
    given = reader.lists.get(node.input[0])
    place = None if given is None else reader.position(node, 2, len(given))
    if given is None or place is None:
        return None
    place = place % len(given) if place < 0 else place
    return [*given[:place], node.input[1], *given[place:]], []


def _erase(reader: _Reader, node: onnx.NodeProto) -> tuple[list[str], Emitted] | None:
    given = reader.lists.get(node.input[0])
    place = reader.position(node, 1, -1)
    if not given or place is None:
        return None
    place %= len(given)
    return [*given[:place], *given[place + 1 :]], []


def _split(reader: _Reader, node: onnx.NodeProto) -> tuple[list[str], Emitted] | None:
    shape = reader.shapes.get(node.input[0])
    if not shape:
        return None
    axis = attribute(node, "axis", 0) % len(shape)
    size, given = shape[axis], len(node.input) > 1 and node.input[1]
    parts = reader.constants(node.input[1]) if given else np.array(1)
    if parts is None or (parts.ndim == 0 and not isinstance(size, int)):
        return None
    if parts.ndim == 0:
        step = int(parts)
        parts = np.array([min(step, size - start) for start in range(0, size, step)])
    names = [reader.names.fresh(f"{node.output[0]}/{k}") for k in range(len(parts))]
    sizes = parts.astype(np.int64)
    if reader.opset < 13:
        nodes = [onnx.helper.make_node("Split", [node.input[0]], names, names[0], axis=axis, split=sizes.tolist())]
    else:
        inputs = [node.input[0], reader.names.constant(sizes, f"{node.output[0]}/split")]
        nodes = [onnx.helper.make_node("Split", inputs, names, names[0], axis=axis)]
    if not given and not attribute(node, "keepdims", 1):
        flat = [reader.names.fresh(f"{name}/squeezed") for name in names]
        nodes += [reader.axes("Squeeze", x, y, axis) for x, y in zip(names, flat, strict=True)]
        names = flat
    return names, nodes


# ---- What reads one ----


def _at(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    given, place = reader.lists.get(node.input[0]), reader.position(node, 1, 0)
    if given is None or place is None:
        return None
    return [onnx.helper.make_node("Identity", [given[place]], node.output, node.name)]


def _length(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    given = reader.lists.get(node.input[0])
    if given is None:
        return None
    return _constant_node(reader, node, np.array(len(given), np.int64))


def _concat(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    given = reader.lists.get(node.input[0])
    if not given:
        return None
    axis, nodes = attribute(node, "axis", 0), []
    if attribute(node, "new_axis", 0):
        rows = [reader.names.fresh(f"{node.output[0]}/{k}") for k in range(len(given))]
        nodes = [reader.axes("Unsqueeze", x, y, axis) for x, y in zip(given, rows, strict=True)]
        given = rows
    return [*nodes, onnx.helper.make_node("Concat", given, node.output, node.name, axis=axis)]


def _identity(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    if node.input[0] in reader.lists:
        reader.lists[node.output[0]] = reader.lists[node.input[0]]
    if node.input[0] in reader.held:
        reader.held[node.output[0]] = reader.held[node.input[0]]
    return None


def _optional(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    if node.input:
        reader.held[node.output[0]] = node.input[0]
    return None


def _element(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    inside = reader.held.get(node.input[0])
    if inside is None and node.input[0] in reader.shapes:
        inside = node.input[0]  # a tensor is its own element
    if inside is None:
        return None
    if inside in reader.lists:
        reader.lists[node.output[0]] = reader.lists[inside]
    return [onnx.helper.make_node("Identity", [inside], node.output, node.name)]


def _has_element(reader: _Reader, node: onnx.NodeProto) -> Emitted | None:
    if node.input and node.input[0] not in reader.held:
        return None
    return _constant_node(reader, node, np.array(bool(node.input)))


def _constant_node(reader: _Reader, node: onnx.NodeProto, array: np.ndarray) -> Emitted:
    name = reader.names.constant(array, f"{node.output[0]}/known")
    return [onnx.helper.make_node("Identity", [name], node.output, node.name)]


_RULES: dict[str, Callable[[_Reader, onnx.NodeProto], tuple[list[str], Emitted] | None]] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SplitToSequence": _split,
}
_READERS: dict[str, Callable[[_Reader, onnx.NodeProto], Emitted | None]] = {
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "Identity": _identity,
    "Optional": _optional,
    "OptionalGetElement": _element,
    "OptionalHasElement": _has_element,
}
FOLLOWED = frozenset({*_RULES, *_READERS} - {"Identity"})
