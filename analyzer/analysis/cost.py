"""What a model costs: multiply–accumulates by operator, and parameters."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from analyzer.graph import Graph, Node
from analyzer.graph.nodes import count, fixed_sizes


@dataclass(frozen=True)
class Cost:
    """`macs` per forward of the graph's own batch, `by_operator` the same by operator, `parameters` its weights.

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
    parameters = sum(p.size for p in graph.parameters())
    return Cost(sum(counted.values()), parameters, dict(counted.most_common()), tuple(sorted(unknown)))


def _convolution(node: Node) -> int | None:
    """Elements of the result × weights that each is made of."""
    outputs, weight = count(node.outputs[0].shape), fixed_sizes(node.inputs[1].shape)
    return None if outputs is None or weight is None else outputs * math.prod(weight) // weight[0]


def _transposed(node: Node) -> int | None:
    """Elements of the input × weights that each is spread by."""
    inputs, weight = count(node.inputs[0].shape), fixed_sizes(node.inputs[1].shape)
    return None if inputs is None or weight is None else inputs * math.prod(weight) // weight[0]


def _product(node: Node) -> int | None:
    """Elements of the result × the length that is summed over."""
    outputs, shape = count(node.outputs[0].shape), node.inputs[0].shape
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
