"""Looking through nodes that hand a tensor on: its numbers, up to rounding, under another name.

Transparent are Identity, Cast and CastLike to a number, Dropout at inference, QuantizeLinear (dynamic too) and
DequantizeLinear: where a float file has one tensor, its half-precision or quantised build has several with such nodes
between them. Whoever looks for a pattern of operators asks here for the neighbours, so that it finds the pattern in all
builds or in none. Where the order of the elements does not matter either, it adds `MOVING`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Node, Value, fixed_sizes

KEEPING = frozenset(
    {"Identity", "Cast", "CastLike", "Dropout", "QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"}
)
MOVING = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})


def is_transparent(node: Node, also: Collection[str] = ()) -> bool:
    """Whether the first output of `node` is its first input, up to rounding; `also`: operators to count in."""
    if node.domain or not (node.op in KEEPING or node.op in also):
        return False
    if node.op == "Cast":
        return node.attrs.get("to") not in (onnx.TensorProto.BOOL, np.dtype(bool))
    if node.op == "CastLike":
        return bool(node.outputs[0].dtype != np.dtype(bool))
    return node.op != "Dropout" or len(node.inputs) < 3 or not node.inputs[2].name


def origin(value: Value, also: Collection[str] = ()) -> Value:
    """The tensor that `value` repeats: back through transparent nodes."""
    while value.inputs and value.inputs[0].outputs[0] is value and is_transparent(value.inputs[0], also):
        value = value.inputs[0].inputs[0]
    return value


def producer(value: Value, also: Collection[str] = ()) -> Node | None:
    """The node that computes what `value` repeats; None for inputs and weights."""
    value = origin(value, also)
    return value.inputs[0] if value.inputs else None


def readers(value: Value, also: Collection[str] = ()) -> list[Node]:
    """The nodes that read `value` or a repetition of it, transparent ones left out."""
    found: list[Node] = []
    for node in value.outputs:
        passes = is_transparent(node, also) and node.inputs[0] is value
        found += readers(node.outputs[0], also) if passes else [node]
    return found


def dequantized(value: Value) -> Value | None:
    """What the rest of the graph reads in place of `value` where it is quantised and dequantised again.

    Of a quantised `value` itself, as fused integer operators give it, what it is dequantised to.
    """
    for node in value.outputs:
        if node.op == "DequantizeLinear" and node.inputs[0] is value:
            return node.outputs[0]
        if node.op == "QuantizeLinear" and node.inputs[0] is value:
            for following in node.outputs[0].outputs:
                if following.op == "DequantizeLinear":
                    return following.outputs[0]
    return None


def constant(graph: Graph, value: Value, also: Collection[str] = ()) -> np.ndarray | None:
    """The values of a weight after its casts and (de)quantisation; `also`: those of MOVING to look through."""
    known = graph.detached.get(value.name)
    known = graph.constant(value) if known is None else known
    node = graph.producer(value)
    if known is not None or node is None or not is_transparent(node, also):
        return known
    inner = constant(graph, node.inputs[0], also)
    if inner is None or node.op == "DynamicQuantizeLinear":
        return None
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return _recoded(graph, node, inner)
    if node.op == "Transpose":
        return np.transpose(inner, node.attrs.get("perm"))
    if node.op in MOVING:
        sizes = fixed_sizes(value.shape)
        return inner.reshape(sizes) if sizes else None
    return inner


def _recoded(graph: Graph, node: Node, x: np.ndarray) -> np.ndarray | None:
    """(q − zero point) · scale, per tensor, per axis or per block of an axis; x / scale + zero point in reverse."""
    scale = constant(graph, node.inputs[1])
    zero = constant(graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else np.zeros((), np.uint8)
    if scale is None or zero is None:
        return None
    axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size") or 0)

    def spread(given: np.ndarray) -> np.ndarray:
        given = given.astype(np.float32)
        if block and given.ndim == x.ndim:
            return np.repeat(given, block, axis)[(slice(None),) * (axis % x.ndim) + (slice(x.shape[axis]),)]
        wide = [1] * x.ndim
        if given.size > 1:
            wide[axis] = -1
        return given.reshape(wide)

    if node.op == "DequantizeLinear":
        return np.asarray((x.astype(np.float32) - spread(zero)) * spread(scale))
    if zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / spread(scale)) + spread(zero), limits.min, limits.max).astype(zero.dtype)
