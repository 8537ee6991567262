"""Numbers that only move: where in the layers of a model each number of an output was computed.

Between a detector's last convolutions and its outputs, numbers are reshaped, transposed, concatenated and squashed.
Followed back, they tell of every candidate which map it is of and where in it, whatever the exporter made of the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from analyzer.analysis.scores import holds_floats
from analyzer.errors import refusing
from analyzer.graph import Builder, Graph, Node, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.through import is_transparent
from analyzer.graph.values import PLACING, moved

T = TypeVar("T")

SQUASHING = ("Sigmoid", "HardSigmoid", "Softmax")


@dataclass(frozen=True)
class Origins:
    """Where the numbers of a tensor come from.

    Attributes:
        sources: the tensors that they were computed in, the first axis counting pictures.
        squashed: for each of them the function that its numbers went through since, "" for none.
        source: as the tensor, index in `sources` of every number.
        place: as the tensor, flat index of the number in its source.
    """

    sources: tuple[Value, ...]
    squashed: tuple[str, ...]
    source: np.ndarray
    place: np.ndarray


def origins(graph: Graph, value: Value) -> Origins | None:
    """Where the numbers of a tensor come from; None where its size, or that of a source, is open."""
    sources: list[Value] = []
    functions: list[str] = []

    def source(found: Value, function: str) -> np.ndarray | None:
        sizes = fixed_sizes(found.shape)
        if sizes is None or 0 in sizes:
            return None
        sources.append(found)
        functions.append(function)
        return np.arange(int(np.prod(sizes)), dtype=np.int64).reshape(sizes) + (len(sources) - 1 << _BITS)

    def placed(node: Node, inputs: list[Any]) -> Any:
        known: list[Any] = [graph.constant(i) if isinstance(i, Value) else i for i in inputs]
        return None if any(k is None for k in known) else moved(node, known)

    found = _followed(graph, value, source, placed, choices=False)
    sizes = fixed_sizes(value.shape)
    if found is None or sizes is None or found.size != int(np.prod(sizes)):
        return None
    found = found.reshape(sizes)
    return Origins(tuple(sources), tuple(functions), (found >> _BITS).astype(np.int32), found & ((1 << _BITS) - 1))


_BITS = 40


def unsquashed(op: Builder, value: Value) -> Value:
    """The tensor as it would be without the squashing functions that its numbers went through, appended.

    Numbers that went through none are as they are. In float32 at least. Where the model chooses the numbers (TopK), the
    same are chosen.
    """
    wide = np.dtype(np.float64 if value.dtype == np.float64 else np.float32)

    def source(found: Value, _: str) -> Value:
        return op.cast(found, wide)

    found: Value = _followed(op.graph, value, source, lambda node, inputs: _again(op, node, inputs), deep=False)
    return found


def numbered(op: Builder, value: Value, numbers: Mapping[str, int]) -> Value:
    """For every element of a tensor which tensor it was computed in, int64, appended: by `numbers`, 0 for tensors that
    are not among them.

    Where the model chooses elements (TopK), the same are chosen: so it tells where what is chosen comes from.
    """

    def source(found: Value, _: str) -> Value:
        return op.expand_like(op.constant(np.array(numbers.get(found.name, 0), np.int64), "source"), found)

    found: Value = _followed(op.graph, value, source, lambda node, inputs: _again(op, node, inputs), products=True)
    return found


def sources(graph: Graph, value: Value) -> list[Value]:
    """The tensors that the elements of a tensor were computed in, as `numbered` tells them apart."""
    found: list[Value] = []
    _followed(graph, value, lambda one, _: found.append(one), lambda node, _: [None] * len(node.outputs), products=True)
    return found


def _again(op: Builder, node: Node, inputs: list[Value]) -> Any:
    """The node with other inputs; TopK chooses of them what it chose of its own."""
    if node.op == "TopK":
        return op.GatherElements(inputs[0], node.outputs[1], axis=node.attrs.get("axis", -1))
    if node.op == "Pad" and len(inputs) > 2 and inputs[2].name:
        inputs = [*inputs[:2], op.cast(inputs[2], inputs[0].dtype), *inputs[3:]]
    return op.node(node.op, *inputs, outputs=len(node.outputs), **node.attrs)


def ending(graph: Graph, value: Value) -> str | None:
    """The squashing function that all numbers of a tensor went through, before some were chosen or moved; "" for none,
    None where they differ."""
    node = graph.producer(value)
    if node is None or node.domain:
        return ""
    if node.op in SQUASHING:
        return node.op
    if node.op == "Concat" or (node.op in FILLING and node.outputs[0] is value):
        read = range(len(node.inputs)) if node.op == "Concat" else FILLING[node.op]
        found = {ending(graph, node.inputs[i]) for i in read if not _fills(graph, node.inputs[i])}
        return found.pop() if len(found) == 1 else None
    chosen = node.op in CHOOSING and node.outputs[0] is value
    if is_transparent(node, PLACING) or chosen:
        return ending(graph, node.inputs[0])
    return ""


# Operators whose first output is some of the numbers of their first input.
CHOOSING = ("TopK", "Gather", "GatherElements", "GatherND", "Slice", "Reshape", "ReduceMax")

# Operators that put numbers among others, or repeat them, and the inputs that those numbers are of.
FILLING = {"Pad": (0,), "Expand": (0,), "ScatterND": (0, 2), "ScatterElements": (0, 2)}


def _fills(graph: Graph, value: Value) -> bool:
    """Whether a tensor is the same for every picture, as what fills up rows is."""
    node = graph.producer(value)
    return graph.constant(value) is not None or (node is not None and node.op == "ConstantOfShape")


def _followed(
    graph: Graph,
    value: Value,
    source: Callable[[Value, str], T],
    placed: Callable[[Node, list[Any]], Any],
    deep: bool = True,
    choices: bool = True,
    products: bool = False,
) -> T:
    """Back from `value` to its sources, and forward again by `placed`.

    Args:
        placed: what a node makes of its inputs (constants as Values), one result or several.
        deep: go on behind squashing functions.
        choices: go on behind operators that choose or fill up numbers when the model runs.
        products: go on behind a product, to the factor that has its shape.

    Raises:
        UnsupportedError: a node does not fit its inputs.
    """
    done: dict[tuple[str, str], Any] = {}

    def of(current: Value, function: str) -> Any:
        key = (str(current.name), function)
        if key not in done:
            done[key] = made(current, function)
        return done[key]

    def made(current: Value, function: str) -> Any:
        node = graph.producer(current)
        if node is None or node.domain:
            return source(current, function)
        if is_transparent(node) and holds_floats(node.inputs[0]):
            return of(node.inputs[0], function)
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            return of(node.inputs[0], function)
        if node.op in SQUASHING and not function:
            return of(node.inputs[0], node.op) if deep else source(node.inputs[0], node.op)
        factor = next((i for i in node.inputs if _alike(i, current)), None) if node.op == "Mul" else None
        if products and factor is not None:
            return of(factor, function)
        chooses = choices and (node.op in FILLING or (node.op in CHOOSING and node.outputs[0] is current))
        if not chooses and (node.op not in PLACING or not _constant(graph, node)):
            return source(current, function)
        read = range(len(node.inputs)) if node.op == "Concat" else FILLING.get(node.op, (0,))
        inputs = [of(i, function) if at in read else i for at, i in enumerate(node.inputs)]
        with refusing(f"{graph.name}: node {node.name!r} ({node.op}) does not fit its inputs"):
            found = placed(node, inputs)
            return found[node.outputs.index(current)] if isinstance(found, list | tuple) else found

    found: T = of(value, "")
    return found


def _alike(value: Value, other: Value) -> bool:
    """Whether a tensor is computed and has the sizes of another, as far as they are known."""
    return bool(value.inputs) and value.shape is not None and value.shape == other.shape


def _constant(graph: Graph, node: Node) -> bool:
    """Whether where the numbers go is known before the model runs."""
    if node.op == "Concat":
        return all(i.dtype is not None for i in node.inputs)
    return all(not i.name or graph.constant(i) is not None for i in node.inputs[1:])
