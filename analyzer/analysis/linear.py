"""What is linear: layers with weights, and whatever keeps y = Σ_k W_ck mean_ij A_kij + b behind a feature map A."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from analyzer.analysis.interpreter import HiddenError, Interpretation, Site, Table, interpret, transfer
from analyzer.graph import Graph, Value
from analyzer.graph.through import KEEPING, MOVING, constant, is_transparent

CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")


def last_linear(graph: Graph, logits: Value) -> tuple[Value, np.ndarray] | None:
    """(f, ∂y_c/∂f as rows) where y = W f + b with weights W are the logits: rows are read off, not multiplied out."""
    node = graph.producer(logits)
    if node is not None and node.op == "Add" and not node.domain:
        inner = [i for i in node.inputs if constant(graph, i) is None]
        node = graph.producer(inner[0]) if len(inner) == 1 else None
    if node is None or node.domain or node.op not in ("Gemm", "MatMul") or node.attrs.get("transA"):
        return None
    value, weights = node.inputs[0], constant(graph, node.inputs[1], MOVING)
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32 or len(value.shape or ()) != 2:
        return None
    rows = weights if node.attrs.get("transB") else weights.T
    return value, np.ascontiguousarray(rows * np.float32(node.attrs.get("alpha", 1.0)))


# ---- Behind a feature map ----

LINEAR: Table[bool] = Table("linear behind global pooling")
linear = functools.partial(transfer, table=LINEAR)


def linear_behind(graph: Graph, name: str, size: Sequence[int | None]) -> Interpretation[bool]:
    """tensor → whether it is the feature map `name`, of this size in space, averaged over space, or linear in that.

    What is linear in the feature map, but not averaged, has False; what is neither is unknown, and why.
    """
    return interpret(graph, LINEAR, {name: False}, memory=list(size))


def _of_one(op: Site, *inputs: bool | None) -> bool:
    """The only input that depends on the feature map."""
    known = [x for x in inputs if x is not None]
    if len(known) != 1:
        raise HiddenError("joins two branches")
    return known[0]


@linear(*KEEPING, *MOVING)
def kept_transfer(op: Site, *inputs: bool | None) -> bool:
    """The same numbers"""
    if not is_transparent(op.node, MOVING):
        raise HiddenError("is not linear")
    return any(inputs)


@linear("Shape", "Size")
def sizes_transfer(op: Site, x: bool | None) -> None:
    """nothing: sizes do not depend on numbers"""


@linear("GlobalAveragePool", "ReduceMean", "ReduceSum")
def pooled_transfer(op: Site, *inputs: bool | None) -> bool:
    """Averaged"""
    return True


@linear("AveragePool")
def average_pool_transfer(op: Site, x: bool) -> bool:
    """Averaged where the window is the whole map"""
    return x or (list(op.attr("kernel_shape", [])) == op.memory and not any(op.attr("pads", [])))


@linear("Add", "Sub", "Mul", "Div")
def arithmetic_transfer(op: Site, *inputs: bool | None) -> bool:
    """Shifted and scaled by what does not depend on the map"""
    x = _of_one(op, *inputs)
    if op.node.op == "Div" and inputs[0] is None:
        raise HiddenError("divides by the feature map")
    return x


@linear("Gemm", "MatMul", "Conv", "BatchNormalization")
def layer_transfer(op: Site, *inputs: bool | None) -> bool:
    """A linear layer, of what is averaged"""
    x = _of_one(op, *inputs)
    if op.node.op == "Conv" and math.prod(op.attr("kernel_shape", [2])) != 1:
        raise HiddenError("has a kernel larger than 1")
    if not x:
        raise HiddenError("comes before any global average pooling")
    return x
