"""What is linear: layers with weights, and whatever keeps y = Σ_k W_ck mean_ij A_kij + b after a feature map A."""

from __future__ import annotations

import functools
import math

import numpy as np

from analyzer.analysis.interpreter import HiddenError, Site, Table, transfer
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


# ---- After a feature map ----

# Whether what is linear in the map is averaged over space: start from {map: False}, remember its size as a list.
LINEAR: Table[bool] = Table("linear after global pooling")
linear = functools.partial(transfer, table=LINEAR)


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


@linear("GlobalAveragePool", "ReduceMean", "ReduceSum", "AveragePool")
def pooling_transfer(op: Site, x: bool, *axes: bool | None) -> bool:
    """Averaged; by an AveragePool where the window is the whole map"""
    whole = op.node.op != "AveragePool" or (
        list(op.attr("kernel_shape", [])) == op.memory and not any(op.attr("pads", []))
    )
    return x or whole


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
