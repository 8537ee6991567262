"""One opset: newer files lowered, older ones converted, with what the converter gets wrong kept out of its hands."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx.shape_inference
import onnx.version_converter
from onnx import numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.control import lift_constants_pass
from analyzer.graph.passes.legacy import ARITHMETIC, modernize
from analyzer.graph.passes.newer import OPSET, lower, retype
from analyzer.graph.passes.shapes import infer
from analyzer.graph.protos import Names, all_nodes, attribute, opsets, replace_all
from analyzer.graph.source import Source


def lower_pass(source: Source, request: Request) -> None:
    """Rewrites what opsets after 21 added; the model's opset is 21 then, or the first that has what `newer` keeps."""
    if opsets(source.proto).get("", OPSET) <= OPSET:
        return
    lift_constants_pass(source, request)
    retype(source.proto.graph)
    source.proto = infer(source.proto, request.types)
    needed = lower(source.proto)
    del source.proto.graph.value_info[:]
    for imported in source.proto.opset_import:
        if not imported.domain:
            imported.version = needed


# ---- Older files ----


ASIDE = "analyzer.aside"  # a domain that the converter leaves alone


def set_aside_pass(source: Source, request: Request) -> None:
    """Takes out of the converter's hands what it gets wrong, rewritten to what it means today.

    Upsample and Resize-10: the converter loses their output names and their coordinates. Arithmetic before opset 7:
    it misplaces the axes of the second operand, which used to be aligned at `axis`. What it refuses is in `legacy`.
    """
    version = opsets(source.proto).get("", OPSET)
    if version >= OPSET:
        return
    batched = next((n for n in all_nodes(source.proto.graph) if n.op_type == "Scan" and version < 9), None)
    if batched is not None:
        raise UnsupportedError(
            f"{source.name}: Scan (node {batched.name!r}) has a batch axis, as Scan had before opset 9",
            "export the model again with opset 9 or newer",
        )
    source.proto.opset_import.append(onnx.helper.make_opsetid(ASIDE, 1))
    for node in all_nodes(source.proto.graph) if version < 11 else ():
        if node.op_type in ("Upsample", "Resize") and not node.domain:
            _as_resize(source.proto.graph, node)
    if version < 7:
        _align_operands(source.proto.graph)
    modernize(source.proto.graph, version, ASIDE)
    if version < 11:
        _bound_in_half_precision(source.proto)


def _bound_in_half_precision(proto: onnx.ModelProto) -> None:
    """Replaces the attributes of a float16 Clip with inputs, which the converter would write in float32."""
    clips = [n for n in proto.graph.node if n.op_type == "Clip" and not n.domain]
    if not clips:
        return
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    half = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    names = Names(proto.graph)
    for node in clips:
        if half.isdisjoint([*node.input, *node.output]):
            continue
        largest = float(np.finfo(np.float16).max)
        for bound in ("min", "max"):
            given = attribute(node, bound, None)
            known = None if given is None else np.float16(np.clip(given, -largest, largest))
            node.input.append("" if known is None else names.constant(np.asarray(known), f"{node.output[0]}/{bound}"))
        del node.attribute[:]
        node.domain = ASIDE


def _as_resize(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Replaces Upsample with the Resize that means the same: x_in = x_out / scale, nearest rounds down."""
    scales = attribute(node, "scales", None)
    if attribute(node, "height_scale", None) is not None:
        scales = [1, 1, attribute(node, "height_scale", 1), attribute(node, "width_scale", 1)]
    if scales is not None:
        name = f"{node.output[0]}/scales"
        graph.initializer.append(numpy_helper.from_array(np.asarray(scales, np.float32), name))
        node.input.append(name)
    mode = attribute(node, "mode", b"nearest").decode()
    inputs = [node.input[0], "", node.input[1]]
    del node.input[:], node.attribute[:]
    node.op_type, node.domain = "Resize", ASIDE
    node.input.extend(inputs)
    options = {
        "mode": "linear" if mode in ("linear", "bilinear") else mode,
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in options.items())


def _align_operands(graph: onnx.GraphProto) -> None:
    """Replaces b in `a + b (axis=k)` with b of shape (…b, 1, …, 1), so that trailing axes align; likewise the slope
    of a PRelu, which used to be one per channel."""
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    ranks |= {i.name: len(i.type.tensor_type.shape.dim) for i in graph.input if i.name not in ranks}
    nodes = []
    for node in graph.node:
        legacy = node.op_type in ARITHMETIC and not node.domain
        per_channel = node.op_type == "PRelu" and not node.domain and ranks.get(node.input[1]) == 1
        if per_channel or (legacy and attribute(node, "broadcast", 0)):
            a, b = (ranks.get(name) for name in node.input)
            axis = 1 if per_channel else attribute(node, "axis", None)
            missing = 0 if axis is None or a is None or b is None else a - (axis % a) - b
            if missing > 0 and b is not None:
                wide = f"{node.output[0]}/aligned"
                nodes.append(
                    onnx.helper.make_node("Unsqueeze", [node.input[1]], [wide], axes=[b + i for i in range(missing)])
                )
                node.input[1] = wide
        if legacy:
            del node.attribute[:]
            node.domain = ASIDE
        nodes.append(node)
        rank = _rank_after(node, ranks)
        ranks.update({o: rank for o in node.output if rank is not None})
    replace_all(graph.node, nodes)


def _rank_after(node: onnx.NodeProto, ranks: dict[str, int]) -> int | None:
    """Rank of the outputs, as far as old exporters need it."""
    if node.op_type == "Reshape":
        shape = attribute(node, "shape", None)
        return None if shape is None else len(shape)
    if node.op_type in ("Flatten", "Gemm"):
        return 2
    return ranks.get(node.input[0]) if node.input else None


def opset_pass(source: Source, request: Request) -> None:
    """Converts an older model to opset 21."""
    version = opsets(source.proto).get("", OPSET)
    if version >= OPSET:
        return
    if all(n.domain for n in source.proto.graph.node):
        for imported in source.proto.opset_import:
            imported.version = OPSET if not imported.domain else imported.version
        return
    keep = _Kept(source.proto)
    try:
        converted = onnx.version_converter.convert_version(source.proto, OPSET)
    except Exception as error:
        if version > OPSET - 8 and all(n.domain != ASIDE for n in all_nodes(source.proto.graph)):
            return  # rules name the versions they support, and raise an error for others
        reason = " ".join(str(error).split())
        raise UnsupportedError(
            f"{source.name}: opset {version} cannot be converted to {OPSET}: {reason[-300:]}",
            "export the model again with opset 13 or newer",
        ) from None
    keep.restore(converted)
    source.proto = converted


class _Kept:
    """What the converter loses: metadata of the model, the graph and the nodes, and other operator domains."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = {n.output[0]: n for n in proto.graph.node if n.output}

    def restore(self, converted: onnx.ModelProto) -> None:
        for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(converted, name, getattr(self.proto, name))
        replace_all(converted.metadata_props, self.proto.metadata_props)
        converted.graph.name = self.proto.graph.name or "graph"
        converted.graph.doc_string = self.proto.graph.doc_string
        replace_all(converted.graph.metadata_props, self.proto.graph.metadata_props)
        replace_all(converted.graph.quantization_annotation, self.proto.graph.quantization_annotation)
        versions = opsets(converted)
        converted.opset_import.extend(o for o in self.proto.opset_import if o.domain not in versions)
        for node in converted.graph.node:
            old = self.nodes.get(node.output[0]) if node.output else None
            if old is not None and old.op_type == node.op_type:
                replace_all(node.metadata_props, old.metadata_props)
                node.name = node.name or old.name


def restore_pass(source: Source, request: Request) -> None:
    """Puts back, as standard operators, what had been set aside."""
    for node in all_nodes(source.proto.graph):
        if node.domain == ASIDE:
            node.domain = ""
    replace_all(source.proto.opset_import, [o for o in source.proto.opset_import if o.domain != ASIDE])
