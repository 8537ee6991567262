"""Writes a model so that stock onnxruntime's optimiser leaves its meaning alone, at every level.

The rewrites are exact, and each answers one defect that was measured in onnxruntime 1.31.1. Graphs without quantised
operators, and without zeros padded before a pool, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from analyzer.graph.protos import Names, all_graphs, attribute, bodies_of, copied, replace_all

# What onnxruntime moves quantisation through: after its DequantizeLinear, or before its QuantizeLinear.
MOVERS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_OPSET_OF_OUTPUT_DTYPE = 21
_TYPE = onnx.TensorProto
# Types for which onnxruntime moves quantisation too, though QuantizeLinear or the operator moved has no such kernel.
_IMMOVABLE = frozenset({_TYPE.INT32, _TYPE.INT4, _TYPE.UINT4}) | {
    _TYPE.FLOAT8E4M3FN, _TYPE.FLOAT8E4M3FNUZ, _TYPE.FLOAT8E5M2, _TYPE.FLOAT8E5M2FNUZ,
}  # fmt: skip


def make_portable(proto: onnx.ModelProto) -> None:
    """Rewrites the graph and its bodies in place: see the functions below."""
    graphs = list(all_graphs(proto.graph))
    operators = {node.op_type for graph in graphs for node in graph.node}
    if operators.isdisjoint({"QuantizeLinear", "DequantizeLinear", "Pad"}):
        return
    names = Names(proto.graph)
    names.taken.update(node.name for graph in graphs for node in graph.node)
    tensors = {t.name: t for graph in graphs for t in _constants(graph)}
    types = {name: t.data_type for name, t in tensors.items()} | {
        v.name: v.type.tensor_type.elem_type for g in graphs for v in [*g.value_info, *g.input, *g.output]
    }
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for g in graphs
        for v in [*g.value_info, *g.input, *g.output]
        if v.type.tensor_type.HasField("shape")
    }
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    for graph in graphs:
        if "Pad" in operators:
            _pad_pools_with_negative_zero(graph, names, tensors, types)
        if operators.isdisjoint({"QuantizeLinear", "DequantizeLinear"}):
            continue
        _skip_identities(graph)
        _drop_stated_types(graph)
        _hold_what_cannot_move(graph, names, tensors, types, opset)
        if opset >= _OPSET_OF_OUTPUT_DTYPE:
            _quantise_behind_movers(graph, names, tensors)
            _quantise_before_movers(graph, names, tensors)
            _hold_before_products(graph, names, tensors, ranks)


# ---- Signed 8-bit quantisation ----
#
# onnxruntime's QDQPropagation puts a pair QuantizeLinear, DequantizeLinear after an operator that only moves values
# (MOVERS) and reads a DequantizeLinear; and before one that a QuantizeLinear reads. From opset 21 on its new
# QuantizeLinear states output_dtype, and QDQS8ToU8 then makes the zero point unsigned and leaves output_dtype INT8: the
# model does not load. Where a QuantizeLinear is already, none is put, so the pairs are written out here, without
# output_dtype. They change no value: what was quantised is quantised by the same scale again.


def _skip_identities(graph: onnx.GraphProto) -> None:
    """Replaces DQ → Identity → … with DQ → …, as onnxruntime does before it moves anything."""
    dequantised = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    source: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [source.get(i, i) for i in node.input]
        if node.op_type == "Identity" and not node.domain and node.input[0] in dequantised:
            source[node.output[0]] = node.input[0]


def _drop_stated_types(graph: onnx.GraphProto) -> None:
    """Drops output_dtype of each QuantizeLinear that has a zero point, whose type says the same."""
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2]:
            replace_all(node.attribute, [a for a in node.attribute if a.name != "output_dtype"])


def _quantise_behind_movers(graph: onnx.GraphProto, names: Names, tensors: dict[str, onnx.TensorProto]) -> None:
    """Replaces DQ → mover → … with DQ → mover → Q → DQ → … unless only QuantizeLinear reads the mover."""
    quantised: dict[str, onnx.NodeProto] = {}
    readers, elsewhere = _readers(graph)
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        if _is_signed(node, "DequantizeLinear", tensors):
            quantised[node.output[0]] = node
        elif _moves(node) and node.input[0] in quantised:
            source, y = quantised[node.input[0]], node.output[0]
            reading = readers.get(y, [])
            direct = [r for r in reading if r.op_type == "QuantizeLinear" and r.input[0] == y]
            if len(direct) == len(reading) and reading and y not in elsewhere:
                continue
            moved = names.fresh(f"{y}/moved")
            node.output[0] = moved
            for reader in direct:
                reader.input[0] = moved
            pair = _pair(source, moved, y, names)
            written += pair
            quantised[y] = pair[1]
    _rewrite(graph, written)


def _quantise_before_movers(graph: onnx.GraphProto, names: Names, tensors: dict[str, onnx.TensorProto]) -> None:
    """Replaces … → mover → Q with … → Q → DQ → mover → Q, where nothing else reads what is between."""
    readers, elsewhere = _readers(graph)
    producers = {o: n for n in graph.node for o in n.output}
    before: dict[str, list[onnx.NodeProto]] = {}

    def only_reader(name: str) -> bool:
        return len(readers.get(name, [])) == 1 and name not in elsewhere

    for node in graph.node:
        if not _is_signed(node, "QuantizeLinear", tensors):
            continue
        x = node.input[0]
        while only_reader(x) and x in producers and _moves(producers[x]):
            mover = producers[x]
            x = mover.input[0]
            source = producers.get(x)
            if source is not None and (source.op_type == "DequantizeLinear" or not only_reader(x)):
                break
            mover.input[0] = names.fresh(f"{x}/quantised")
            before[mover.output[0]] = _pair(node, x, mover.input[0], names)
    if before:
        _rewrite(graph, [n for node in graph.node for n in (*before.get("".join(node.output[:1]), ()), node)])


def _pair(like: onnx.NodeProto, x: str, y: str, names: Names) -> list[onnx.NodeProto]:
    """y = DequantizeLinear(QuantizeLinear(x)) with scale and zero point of `like`."""
    q, parameters = names.fresh(f"{y}/steps"), list(like.input[1:3])
    return [
        helper.make_node(op, [given, *parameters], [result], names.fresh(f"{y}/{op}"), domain=like.domain)
        for op, given, result in (("QuantizeLinear", x, q), ("DequantizeLinear", q, y))
    ]


def _is_signed(node: onnx.NodeProto, op: str, tensors: dict[str, onnx.TensorProto]) -> bool:
    """Whether `node` is a per-tensor `op` of int8 with a zero point."""
    if node.op_type != op or len(node.input) < 3 or node.input[1] not in tensors or node.input[2] not in tensors:
        return False
    scale, zero = tensors[node.input[1]], tensors[node.input[2]]
    return zero.data_type == _TYPE.INT8 and _size(scale) == 1 and _size(zero) == 1


# ---- Types that cannot move ----


def _hold_what_cannot_move(
    graph: onnx.GraphProto, names: Names, tensors: dict[str, onnx.TensorProto], types: dict[str, int], opset: int
) -> None:
    """Replaces DQ → mover with DQ → Sum → mover for int32, 4-bit integers and float8, and int8 without zero point.

    onnxruntime would quantise after the mover, or give it the quantised values, and has no kernels for either; below
    opset 21 it takes uint8 where no zero point says the type. A Sum of one is the identity that no optimiser takes out.
    """
    readers, _ = _readers(graph)
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        kind = types.get(node.input[0])
        untyped = kind == _TYPE.INT8 and opset < _OPSET_OF_OUTPUT_DTYPE and not "".join(node.input[2:])
        if node.op_type != "DequantizeLinear" or not (untyped or kind in _IMMOVABLE):
            continue
        movers = [r for r in readers.get(node.output[0], []) if _moves(r) and r.input[0] == node.output[0]]
        scale = tensors.get(node.input[1])
        if scale is None or _size(scale) == 1:
            written += _held(node.output[0], movers, names)
    _rewrite(graph, written)


def _hold_before_products(
    graph: onnx.GraphProto, names: Names, tensors: dict[str, onnx.TensorProto], ranks: dict[str, int]
) -> None:
    """Replaces DQ → MatMul → Add with DQ → Sum → MatMul → Add for signed 8-bit tensors of more than two axes.

    MatMulAddFusion makes MatMul and Add a Reshape, after which quantisation is moved, and a Gemm.
    """
    readers, elsewhere = _readers(graph)
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        y = node.output[0] if node.output else ""
        if not _is_signed(node, "DequantizeLinear", tensors) or ranks.get(y, 3) < 3:
            continue
        products = [r for r in readers.get(y, []) if r.op_type == "MatMul" and r.input[0] == y]
        fused = [
            p
            for p in products
            if [r.op_type for r in readers.get(p.output[0], [])] == ["Add"] and p.output[0] not in elsewhere
        ]
        written += _held(y, fused, names)
    _rewrite(graph, written)


def _held(y: str, by: list[onnx.NodeProto], names: Names) -> list[onnx.NodeProto]:
    """A Sum of `y` alone, which the nodes `by` then read in its place."""
    if not by:
        return []
    held = names.fresh(f"{y}/held")
    for node in by:
        node.input[0] = held
    return [helper.make_node("Sum", [y], [held], names.fresh(f"{y}/Sum"))]


# ---- Padding before pools ----


def _pad_pools_with_negative_zero(
    graph: onnx.GraphProto, names: Names, tensors: dict[str, onnx.TensorProto], types: dict[str, int]
) -> None:
    """Replaces Pad(x, 0) → pool with Pad(x, −0) → pool.

    onnxruntime's Pad_Fusion makes the zeros the pool's own padding, which is −∞ for MaxPool and not counted by
    AveragePool. It fuses only a constant whose bits are all zero.
    """
    readers, _ = _readers(graph)
    for node in graph.node:
        kind = types.get(node.input[0]) if node.op_type == "Pad" and len(node.input) < 4 else None
        if kind not in (_TYPE.FLOAT, _TYPE.FLOAT16, _TYPE.DOUBLE) or attribute(node, "mode", b"constant") not in (
            b"",
            b"constant",
        ):
            continue
        given = node.input[2] if len(node.input) > 2 else ""
        if given and not (given in tensors and _is_zero(tensors[given])):
            continue
        reading = readers.get(node.output[0], [])
        reading = [r for n in reading for r in (readers.get(n.output[0], []) if n.op_type == "Cast" else [n])]
        if not any(r.op_type in ("MaxPool", "AveragePool") for r in reading):
            continue
        name = names.fresh(f"{node.output[0]}/negative_zero")
        graph.initializer.append(numpy_helper.from_array(np.array(-0.0, helper.tensor_dtype_to_np_dtype(kind)), name))
        tensors[name] = graph.initializer[-1]
        del node.input[2:]
        node.input.append(name)


def _is_zero(tensor: onnx.TensorProto) -> bool:
    return _size(tensor) == 1 and tensor.data_location != _TYPE.EXTERNAL and not numpy_helper.to_array(tensor).any()


# ---- Reading protos ----


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in MOVERS and node.domain in ("", "ai.onnx")


def _size(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers, and the tensors of Constant nodes under the names of their outputs."""
    yield from graph.initializer
    for node in graph.node:
        for held in node.attribute:
            if node.op_type == "Constant" and held.name == "value":
                tensor = copied(held.t)
                tensor.name = node.output[0]
                yield tensor


def _readers(graph: onnx.GraphProto) -> tuple[dict[str, list[onnx.NodeProto]], set[str]]:
    """({tensor: nodes that read it, once per input}, tensors that bodies read or that are outputs)"""
    readers: dict[str, list[onnx.NodeProto]] = {}
    elsewhere = {o.name for o in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        for body in bodies_of(node):
            elsewhere.update(name for g in all_graphs(body) for n in g.node for name in n.input)
            elsewhere.update(o.name for g in all_graphs(body) for o in g.output)
    return readers, elsewhere


def _rewrite(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Makes `nodes` the graph's, where there are more than it has."""
    if len(nodes) == len(graph.node):
        return
    replace_all(graph.node, nodes)
