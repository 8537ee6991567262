"""What a model costs: multiply–accumulates by operator, and parameters."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from analyzer.graph import Graph, Node, Value


@dataclass(frozen=True)
class Cost:
    """`macs` per forward of the graph's own batch, `by_operator` the same by operator, `parameters` stored numbers.

    `open` names operators that multiply matrices but whose shapes are not known, so that they are not counted.
    """

    macs: int
    parameters: int
    by_operator: dict[str, int] = field(default_factory=dict)
    open: tuple[str, ...] = ()


def cost(graph: Graph) -> Cost:
    """Multiply–accumulates of convolutions and matrix products; everything else counts as nothing."""
    counted: Counter[str] = Counter()
    unknown: set[str] = set()
    for node in graph.forward_nodes():
        rule = RULES.get(node.op)
        if rule is None or node.domain:
            continue
        macs = rule(node)
        if macs is None:
            unknown.add(node.op)
        else:
            counted[node.op] += macs
    parameters = sum(a.size for a in _weights(graph))
    return Cost(sum(counted.values()), parameters, dict(counted.most_common()), tuple(sorted(unknown)))


def _weights(graph: Graph) -> list[np.ndarray]:
    inputs = {v.name for v in graph.inputs}
    known = (graph.constant(v) for n, v in graph.values.items() if not v.inputs and n not in inputs)
    return [a for a in known if a is not None and a.dtype.kind in "fiu"]


def _size(value: Value) -> int | None:
    shape = value.shape
    return math.prod(shape) if shape is not None and all(isinstance(d, int) for d in shape) else None


def _convolution(node: Node) -> int | None:
    """Elements of the result × weights that each is made of."""
    outputs, weight = _size(node.outputs[0]), _size(node.inputs[1])
    return None if outputs is None or weight is None else outputs * weight // node.inputs[1].shape[0]


def _transposed(node: Node) -> int | None:
    """Elements of the input × weights that each is spread by."""
    inputs, weight = _size(node.inputs[0]), _size(node.inputs[1])
    return None if inputs is None or weight is None else inputs * weight // node.inputs[1].shape[0]


def _product(node: Node) -> int | None:
    """Elements of the result × the length that is summed over."""
    outputs, shape = _size(node.outputs[0]), node.inputs[0].shape
    if outputs is None or not shape:
        return None
    inner = shape[0] if node.op == "Gemm" and node.attrs.get("transA") else shape[-1]
    return outputs * inner if isinstance(inner, int) else None


RULES = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
}
