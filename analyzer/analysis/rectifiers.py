"""Rectifiers, and other activations that approach a line: tables over single nodes.

A rectifier is what computes max(x, 0), whichever operator an exporter wrote it with: Relu, Clip from 0 (ReLU6 too),
Max with 0, and QuantizeLinear with the lowest zero point right after a linear operator. The other activations tend to
0 or a line below and to x above: LeakyRelu, PRelu, Elu, …, and products x g(x) with a gate that saturates, however they
are composed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from analyzer.analysis.interpreter import Site, Table, transfer
from analyzer.analysis.linear import WEIGHTED
from analyzer.graph import Graph, Node, Value
from analyzer.graph.through import constant, origin, producer, readers

RECTIFIERS: Table[int] = Table("rectifiers")
rectifier = functools.partial(transfer, table=RECTIFIERS)


def rectified_input(graph: Graph, node: Node) -> int | None:
    """Which input of `node` it rectifies; None where `node` is no rectifier.

    Halves of a PRelu that an exporter wrote as max(x, 0) − α max(−x, 0) are none, nor is what only keeps the argument
    of a root from being negative, or the gate of a hard swish, x clip(x + 3, 0, 6) / 6.
    """
    index = RECTIFIERS.at(graph, node)
    return None if index is None or _guards_a_root(graph, node) else index


def _guards_a_root(graph: Graph, node: Node) -> bool:
    """Whether all that reads the output is a root, perhaps after an Add (√(max(var, 0) + ε))."""
    following = readers(node.outputs[0])
    following = [m for n in following for m in (readers(n.outputs[0]) if n.op == "Add" else [n])]
    following = [n for n in following if graph.is_own(n)]
    return bool(following) and all(n.op == "Sqrt" for n in following)


@rectifier("Relu")
def relu_transfer(op: Site) -> int | None:
    """max(x, 0), where max(−x, 0) is not computed too"""
    x = origin(op.node.inputs[0])
    negated = [n.outputs[0] for n in readers(x) if n.op == "Neg"]
    if x.inputs and x.inputs[0].op == "Neg":
        negated.append(origin(x.inputs[0].inputs[0]))
    return None if any(n.op == "Relu" for v in negated for n in readers(v)) else 0


@rectifier("Clip")
def clip_transfer(op: Site) -> int | None:
    """min(max(x, 0), high), where that is no gate of x g(x), perhaps times a number"""
    low = constant(op.graph, op.node.inputs[1]) if op.given(1) else None
    if low is None or low.size != 1 or float(low.item()) != 0:
        return None
    following = readers(op.node.outputs[0])
    following = [m for n in following for m in ([n] if gated_input(op.graph, n) else readers(n.outputs[0]))]
    return None if any(gated_input(op.graph, n) for n in following) else 0


@rectifier("Max")
def max_transfer(op: Site) -> int | None:
    """max(x, 0) or max(0, x)"""
    if len(op.node.inputs) != 2:
        return None
    for index in (0, 1):
        other = constant(op.graph, op.node.inputs[1 - index])
        if other is not None and not np.any(other):
            return index
    return None


@rectifier("QuantizeLinear")
def quantize_linear_transfer(op: Site) -> int | None:
    """The lowest number stands for 0, so that a ReLU between the linear operator and this node was left out"""
    before, zero = op.graph.producer(op.node.inputs[0]), op.const(2)
    if before is None or before.op not in (*WEIGHTED, "Add", "BatchNormalization"):
        return None
    if zero is None or zero.dtype.kind not in "iu":
        return None
    return 0 if (zero == np.iinfo(zero.dtype).min).all() else None


# ---- Activations that are no rectifiers ----


class Gated(NamedTuple):
    """x g(x): at which input of the node x or a multiple of it is, x, and the limit of g."""

    at: int
    x: Value
    limit: float


ACTIVATIONS: Table[Gated] = Table("activations")
activation = functools.partial(transfer, table=ACTIVATIONS)

_FAR = 1e3  # where every gate has reached its limit in float32
_AT_FAR: dict[str, Callable[..., float | None]] = {
    "Sigmoid": lambda op, x: float(x > 0),
    "Erf": lambda op, x: float(np.sign(x)),
    "Tanh": lambda op, x: float(np.sign(x)),
    "HardSigmoid": lambda op, x: float(np.clip(op.attr("alpha", 0.2) * x + op.attr("beta", 0.5), 0, 1)),
    "Clip": lambda op, x, *ends: float(np.clip(x, *ends)) if len(ends) == 2 else None,
    "Softplus": lambda op, x: max(x, 0.0),
    "Add": lambda op, a, b: a + b,
    "Mul": lambda op, a, b: a * b,
    "Div": lambda op, a, b: a / b if b else None,
    "Pow": lambda op, a, b: a**b,
    "Identity": lambda op, x: x,
}
GATES: Table[float] = Table("gates far above 0", {("", op): row for op, row in _AT_FAR.items()})
_SATURATING = ("Sigmoid", "HardSigmoid", "Erf", "Tanh", "Clip")


def gated_input(graph: Graph, node: Node) -> Gated | None:
    """How a product is x g(x); None where it is not."""
    return ACTIVATIONS.at(graph, node) if node.op == "Mul" else None


@activation("LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Mish", "Swish")
def activation_transfer(op: Site) -> Gated:
    """Tends to x"""
    return Gated(0, op.node.inputs[0], 1.0)


@activation("Mul")
def product_transfer(op: Site) -> Gated | None:
    """x g(x), where g tends to a positive number"""
    graph, inputs = op.graph, op.node.inputs
    if any(constant(graph, i) is not None for i in inputs):
        return None
    for index in (0, 1):
        direct, gate = inputs[index], inputs[1 - index]
        scaled = producer(direct)
        multiple = scaled.inputs if scaled is not None and scaled.op in ("Mul", "Div") else []
        for x in [direct, *(i for i in multiple if constant(graph, i) is None)]:
            limit = gate_limit(graph, gate, x)
            if limit is not None and limit[1] and gate_limit(graph, direct, x) is not None and limit[0] > 0:
                return Gated(index, x, limit[0])
    return None


def gate_limit(graph: Graph, gate: Value, x: Value, depth: int = 12) -> tuple[float, bool] | None:
    """(value far above 0, whether that is a limit) of a tensor computed from `x` and numbers alone; else None."""
    if origin(gate) is origin(x):
        return _FAR, False
    known = constant(graph, gate)
    if known is not None:
        return (float(known.item()), True) if known.size == 1 else None
    node = producer(gate)
    if node is None or node.domain or depth == 0:
        return None
    parts = [gate_limit(graph, i, x, depth - 1) for i in node.inputs if i.name]
    found = [p for p in parts if p is not None]
    value = GATES.tell(Site(node, graph), *(p[0] for p in found)) if len(found) == len(parts) else None
    return None if value is None else (value, node.op in _SATURATING or all(p[1] for p in found))
