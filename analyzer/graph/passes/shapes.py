"""Types and shapes of every tensor, by onnx's own inference, with what it gets wrong or gives up on put right."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import onnx
import onnx.helper
import onnx.shape_inference
from onnx import TensorProto, numpy_helper

from analyzer.graph.bounds import propagates_little, too_large
from analyzer.graph.passes.contract import Request
from analyzer.graph.protos import all_nodes, copied
from analyzer.graph.source import Source


def shapes_pass(source: Source, request: Request) -> None:
    """Annotates every tensor with its element type and, as far as it is fixed, its shape."""
    source.proto = infer(source.proto, request.types)


def types_missing(source: Source) -> Iterable[str]:
    graph = source.proto.graph
    yield from too_large(source.proto, sum(a.nbytes for a in source.detached.values()))
    known = {v.name for v in [*graph.value_info, *graph.input, *graph.output] if v.type.WhichOneof("value")}
    known |= {t.name for t in graph.initializer} | {""}
    misfit = functools.cache(lambda: _misfit(source.proto))
    for node in graph.node:
        if not node.domain and known.issuperset(node.input):
            for name in node.output:
                if name not in known:
                    yield f"the type of {name!r} (node {node.name}, {node.op_type}) is not known{misfit()}"


def _misfit(proto: onnx.ModelProto) -> str:
    """What onnx says of the first node whose operands do not fit together, after a colon; "" where all do."""
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception as error:
        return ": " + re.sub(r"^.*node name: .*?\): |\[\w+\] ", "", str(error).strip().splitlines()[0])
    return ""


_SHAPED_AS_INPUT = ("GroupNormalization", "MeanVarianceNormalization")  # onnx infers nothing for them


def infer(proto: onnx.ModelProto, types: Iterable[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    stripped = copied(proto)
    del stripped.graph.value_info[:]
    stripped.graph.value_info.extend(types)
    outputs = {o.name: o for o in stripped.graph.output}
    for output in outputs.values():
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    _fold_casts(stripped.graph)
    silent = [n for n in all_nodes(stripped.graph) if n.op_type in _SHAPED_AS_INPUT and not n.domain]
    originals = {n.output[0]: copied(n) for n in silent}
    for node in silent:
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    try:
        follow = propagates_little(stripped)
        inferred = onnx.shape_inference.infer_shapes(stripped, strict_mode=False, data_prop=follow)
    except Exception:
        inferred = onnx.shape_inference.infer_shapes(stripped, strict_mode=False, data_prop=False)
    for node in all_nodes(inferred.graph) if originals else ():
        if node.output and node.output[0] in originals:
            node.CopyFrom(originals[node.output[0]])
    declared = {o.name: o for o in proto.graph.output}
    for output in inferred.graph.output:
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(declared[output.name])
    return inferred


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _fold_casts(graph: onnx.GraphProto) -> None:
    """Replaces a Cast of a few constant floats with a Constant: onnx knows no scales of a Resize behind one, as models
    converted to float16 have it."""
    known = {t.name: t for t in graph.initializer}
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and values:
            known[node.output[0]] = values[0]
        tensor = known.get(node.input[0]) if node.op_type == "Cast" and not node.domain and node.input else None
        if tensor is None or tensor.data_type not in _FLOATS or len(tensor.dims) != 1 or tensor.dims[0] > _MOST_AXES:
            continue
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if to in _FLOATS and tensor.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(to))
            constant = numpy_helper.from_array(array)
            node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), value=constant))


_MOST_AXES = 8


def shapes_in(proto: onnx.ModelProto) -> dict[str, list]:
    shapes: dict[str, list] = {t.name: list(t.dims) for t in proto.graph.initializer}
    for value in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]:
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
                for d in value.type.tensor_type.shape.dim
            ]
    return shapes


def inferred_shapes(proto: onnx.ModelProto) -> dict[str, list]:
    """{tensor: sizes} as far as inference tells; a size that is not known is its name or None."""
    return shapes_in(infer(proto))
