"""Softmax attention, A V with A = softmax(Q Kᵀ), wherever scales, masks, quantisers and reshaping lie between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Node, Value
from analyzer.graph.through import MOVING, dequantized, origin, readers

_PRODUCTS = ("MatMul", "MatMulInteger", "Einsum")
_REACH = 16  # operators between the product of queries and keys and the softmax


@dataclass(frozen=True)
class Attention:
    """A softmax over tokens.

    Attributes:
        weights: A, (…, L, M).
        read: the same tensor as its consumers read it: after its own quantiser, if it has one.
        scores: the node of Q Kᵀ.
        values: V.
    """

    weights: Value
    read: Value
    scores: Node
    values: Value

    @property
    def operands(self) -> tuple[Value, Value, Value]:
        """Q, K and V."""
        queries, keys = self.scores.inputs[:2]
        return queries, keys, self.values


def attentions(graph: Graph, reach: Collection[str], needed: Collection[str]) -> Iterator[Attention]:
    """Each attention in the order of the graph whose operands are all in `reach` and whose result is in `needed`."""
    for node in graph.forward_nodes():
        if node.op != "Softmax" or node.domain or node.outputs[0].name not in needed:
            continue
        weights = node.outputs[0]
        rank = len(weights.shape or ())
        if rank < 3 or node.attrs.get("axis", -1) not in (-1, rank - 1):
            continue
        values = _values(weights, reach)
        scores = _scores(node.inputs[0], reach)
        if values is not None and scores is not None:
            yield Attention(weights, dequantized(weights) or weights, scores, values)


def _values(weights: Value, reach: Collection[str]) -> Value | None:
    """V of the product that reads `weights`, perhaps masked or scaled before."""
    start = origin(weights, MOVING)
    for node in readers(weights, MOVING):
        if node.domain:
            continue
        if node.op in ("Where", "Mul") and (found := _values(node.outputs[0], reach)) is not None:
            return found
        if node.op in _PRODUCTS:
            others = [i for i in node.inputs[:2] if origin(i, MOVING) is not start and i.name in reach]
            if others:
                return others[0]
    return None


def _scores(value: Value, reach: Collection[str]) -> Node | None:
    """The nearest product of two tensors in `reach` that `value` is computed from."""
    queue = [value]
    for _ in range(_REACH):
        nodes = [v.inputs[0] for v in (origin(v, MOVING) for v in queue) if v.inputs]
        for node in nodes:
            if node.op in _PRODUCTS and all(i.name in reach for i in node.inputs[:2]):
                return node
        queue = [i for node in nodes for i in node.inputs if i.name in reach]
    return None
