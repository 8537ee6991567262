"""Which nodes have a slope without bound: a divisor, an argument or a base that may come near 0.

What exporters write norms and softmaxes with is recognised as kept away from 0 (√(mean x² + ε), max(n, ε), Σ eˣ), so
that masks before them stay products.
"""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Graph, Node, Value, is_float

_SAME = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Tile")
_MEANS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "AveragePool", "GlobalMaxPool")
_NORMS = ("ReduceL1", "ReduceL2", "ReduceSumSquare")
DEPTH = 12


def divides_by_zero(graph: Graph, node: Node) -> bool:
    """Whether the divisor of a Div may be 0."""
    return is_float(node.outputs[0]) and not is_away_from_zero(graph, node.inputs[1])


def is_of_zero(graph: Graph, node: Node) -> bool:
    """Whether the argument of a Log or Reciprocal may be 0."""
    return not is_away_from_zero(graph, node.inputs[0])


def is_root_of_zero(graph: Graph, node: Node) -> bool:
    """Whether a Pow may have a base of 0 and an exponent below 1 that is not 0."""
    known = graph.constant(node.inputs[1])
    is_root = known is None or bool(np.any((known < 1) & (known != 0)))
    return is_root and not is_away_from_zero(graph, node.inputs[0])


def is_away_from_zero(graph: Graph, value: Value, depth: int = DEPTH) -> bool:
    """Whether a tensor is known to be above some positive number, or to be a constant without zeros."""
    known = graph.constant(value)
    node = graph.producer(value)
    if known is not None:
        return bool(np.all(known))
    if node is None or node.domain or not depth:
        return False
    given = [i for i in node.inputs if i.name]

    def away(i: Value) -> bool:
        return is_away_from_zero(graph, i, depth - 1)

    if node.op == "Add":
        return any(_is_positive_constant(graph, a) and is_not_negative(graph, b) for a, b in (given, given[::-1]))
    if node.op == "Max":
        return any(_is_positive_constant(graph, i) for i in given)
    if node.op == "Clip":
        return len(node.inputs) > 1 and _is_positive_constant(graph, node.inputs[1])
    if node.op == "ReduceSum" and (producer := graph.producer(given[0])) is not None and producer.op == "Exp":
        return True
    if node.op in ("Sqrt", *_SAME, *_MEANS):
        return away(given[0])
    return node.op in ("Mul", "Pow") and all(away(i) for i in given)


def is_not_negative(graph: Graph, value: Value, depth: int = DEPTH) -> bool:
    """Whether a tensor is known to be ≥ 0."""
    known = graph.constant(value)
    node = graph.producer(value)
    if known is not None:
        return bool(np.all(known >= 0))
    if node is None or node.domain or not depth:
        return False
    given = [i for i in node.inputs if i.name]
    if node.op in ("Abs", "Relu", "Sqrt", "Exp", "Sigmoid", "Softmax", *_NORMS):
        return True
    if node.op == "Pow":
        exponent = graph.constant(given[1])
        return exponent is not None and bool(np.all(exponent % 2 == 0))
    if node.op == "Mul" and given[0] is given[1]:
        return True
    if node.op == "Max":
        return any(is_not_negative(graph, i, depth - 1) for i in given)
    if node.op in ("Mul", "Div", "Add", "Sum"):
        return all(is_not_negative(graph, i, depth - 1) for i in given)
    return node.op in (*_SAME, *_MEANS) and is_not_negative(graph, given[0], depth - 1)


def _is_positive_constant(graph: Graph, value: Value) -> bool:
    known = graph.constant(value)
    return known is not None and bool(np.all(known > 0))
