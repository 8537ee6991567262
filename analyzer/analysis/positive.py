"""A twin of a model in which whatever is connected shows: every weight positive, no bias, averages for maxima.

In the twin no sum cancels and no rectifier blocks, so a unit's gradient is nonzero exactly where the unit can see, and
a single bright pixel on black reaches exactly the units that see it. That is what receptive fields are proved with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import TensorProto, numpy_helper

from analyzer.analysis.linear import WEIGHTED
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph, Node, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.protos import copied, replace_all
from analyzer.graph.through import MOVING, origin

_AVERAGES = {"MaxPool": "AveragePool", "GlobalMaxPool": "GlobalAveragePool", "ReduceMax": "ReduceMean"}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_INTEGER = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
MASK = -50.0  # added to the scores before a softmax, it makes their weight negligible


def positive_weights(graph: Graph) -> Graph:
    """Replaces weights by w⁺ = (|w| / mean|w| + 1) · √k / (2n), biases by 0, and maxima by averages.

    n is the number of weights a unit sums over and k the number of places its window has: activations grow by √k per
    layer and the corner of a receptive field fades by √k, so both stay within float32 for some eighty layers of 3×3.
    The twin has the same tensors by the same names; of a quantised model it is the floating-point twin, in which
    quantisers do nothing. Feed it a small positive image (1e-20, so that no Clip saturates).

    Raises:
        UnsupportedError: the model computes with integers between quantisers.
    """
    integer = [n.name for n in graph.forward_nodes() if n.op in _INTEGER]
    if integer:
        raise UnsupportedError(
            f"{graph.name} computes with integers ({len(integer)} nodes), so its receptive field cannot be checked",
            "check the floating-point model, which has the same structure",
        )
    if any(n.op in _QUANTIZERS for n in graph.forward_nodes()):
        graph = _without_quantizers(graph)
    source = replace(graph.source, proto=copied(graph.source.proto), detached=dict(graph.source.detached))
    arrays = {name: array for node in graph.forward_nodes() for name, array in _replacements(graph, node)}
    for tensor in source.proto.graph.initializer:
        if tensor.name in source.detached:
            source.detached[tensor.name] = arrays.get(tensor.name, source.detached[tensor.name])
        elif tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for proto in source.proto.graph.node:
        if proto.op_type in _AVERAGES and len([o for o in proto.output if o]) == 1:
            proto.op_type = _AVERAGES[proto.op_type]
            replace_all(proto.attribute, [a for a in proto.attribute if a.name != "storage_order"])
    return Graph(source)


def _without_quantizers(graph: Graph) -> Graph:
    """The same graph in floating point: Q(x) = x and D(q) = q, weights dequantised, inputs of integers float32."""
    source = replace(graph.source, proto=copied(graph.source.proto), detached=dict(graph.source.detached))
    proto = source.proto.graph
    own = {t.name for t in proto.initializer}
    kept = []
    for node, at in zip(proto.node, graph.forward_nodes(), strict=True):
        if node.op_type == "DequantizeLinear" and node.input[0] in own:
            proto.initializer.append(numpy_helper.from_array(_dequantized(graph, at), node.output[0]))
            continue
        if node.op_type in _QUANTIZERS:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        kept.append(node)
    replace_all(proto.node, kept)
    for value in (*proto.input, *proto.output):
        kind = value.type.tensor_type
        if kind.elem_type in (TensorProto.UINT8, TensorProto.INT8):
            kind.elem_type = TensorProto.FLOAT
    del proto.value_info[:]
    return Graph.read(source)


def _dequantized(graph: Graph, node: Node) -> np.ndarray:
    """(q − zero point) · scale of a weight, in float32; the scale's axis is along the weight's."""
    weight, scale, *zero = (_constant(graph, value) for value in node.inputs if value.name)
    if scale.ndim == 1 and weight.ndim > 1:
        along = [1] * weight.ndim
        along[node.attrs.get("axis", 1)] = scale.size
        scale, zero = scale.reshape(along), [z.reshape(along) for z in zero]
    elif times := node.attrs.get("block_size", 0):
        axis = node.attrs.get("axis", 1)
        scale, *zero = (a.repeat(times, axis).take(range(weight.shape[axis]), axis) for a in (scale, *zero))
    shift = zero[0].astype(np.float32) if zero else np.float32(0)
    return ((weight.astype(np.float32) - shift) * scale.astype(np.float32)).astype(np.float32)


def _constant(graph: Graph, value: Value) -> np.ndarray:
    array = graph.detached.get(value.name)
    array = graph.constant(value) if array is None else array
    if array is None:
        raise UnsupportedError(f"{graph.name}: {value.name!r} is known only at run time")
    return np.asarray(array)


def _replacements(graph: Graph, node: Node) -> Iterator[tuple[str, np.ndarray]]:
    """(weight, its replacement) for each weight that `node` reads."""
    inputs = [_origin(graph, i) for i in node.inputs]
    if node.op in WEIGHTED:
        for value, origin in list(zip(node.inputs, inputs, strict=True))[:2]:
            if origin is not None:
                yield origin.name, _positive(graph, node, value, origin)
        yield from ((v.name, _filled(graph, v, 0)) for v in inputs[2:3] if v is not None)
    elif node.op == "BatchNormalization":
        yield from ((v.name, _filled(graph, v, f)) for v, f in zip(inputs[1:], (1, 0, 0, 1), strict=True) if v)
    elif node.op in ("LayerNormalization", "InstanceNormalization", "GroupNormalization"):
        yield from ((v.name, _filled(graph, v, f)) for v, f in zip(inputs[1:], (1, 0), strict=False) if v)
    elif node.op in ("Add", "Sub", "Sum"):
        yield from ((v.name, _masking(graph, v)) for v in inputs if v is not None and _many(v))
    elif node.op == "Where":
        yield from ((v.name, _masking(graph, v)) for v in inputs[1:] if v is not None)
    elif node.op in ("Mul", "Div", "PRelu"):
        yield from ((v.name, _filled(graph, v, 1)) for v in inputs if v is not None and _many(v))


def _origin(graph: Graph, value: Value) -> Value | None:
    """The float initializer that `value` is, or is made of by moving data; None where there is none."""
    value = origin(value, MOVING)
    constant = graph.producer(value) is None and value.name in graph.values and _array(graph, value) is not None
    return value if constant else None


def _array(graph: Graph, value: Value) -> np.ndarray | None:
    array = graph.detached.get(value.name)
    array = graph.constant(value) if array is None else array
    return array if array is not None and array.dtype.kind == "f" else None


def _many(value: Value) -> bool:
    return value.shape is not None and math.prod(d for d in value.shape if isinstance(d, int)) > 1


def _filled(graph: Graph, value: Value, number: float) -> np.ndarray:
    array = _array(graph, value)
    assert array is not None
    return np.full_like(array, number)


def _masking(graph: Graph, value: Value) -> np.ndarray:
    """Zeros; a mask, of nothing but zeros and one strongly negative number, masks altogether."""
    given = _array(graph, value)
    assert given is not None
    lowest = given.min(initial=0)
    mask = lowest <= MASK and np.isin(given, (0, lowest)).all()
    return np.where(given < 0, 100 * MASK, 0).astype(given.dtype) if mask else np.zeros_like(given)


def _positive(graph: Graph, node: Node, value: Value, origin: Value) -> np.ndarray:
    array = _array(graph, origin)
    assert array is not None
    shape = fixed_sizes(value.shape) or array.shape
    window = math.prod(shape[2:]) if "Conv" in node.op else 1
    fan_in = math.prod(shape[1:]) if node.op != "ConvTranspose" else window
    if "Conv" not in node.op:
        fan_in = array.size // max(shape[-1] if not node.attrs.get("transB") else shape[0], 1)
    magnitude = np.abs(array)
    mean = float(magnitude.mean()) or 1.0
    return ((magnitude / mean + 1) * (math.sqrt(window) / (2 * max(fan_in, 1)))).astype(array.dtype)
