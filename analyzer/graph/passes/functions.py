"""Calls of functions replaced by what is in them: the model's own, and the bodies that schemas give to operators."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.helper
import onnx.inliner
import onnx.shape_inference

from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.newer import OPSET
from analyzer.graph.protos import lift_constants, opsets
from analyzer.graph.schemas import bodies_in, has_body, lookup, schema_of, write_defaults
from analyzer.graph.source import Source, detach


def inline_functions_pass(source: Source, request: Request) -> None:
    """Replaces calls of the model's own functions with their bodies."""
    if source.proto.functions:
        source.proto = onnx.inliner.inline_local_functions(source.proto, True)
        lift_constants(source.proto.graph)
        detach(source)


_NESTED = 8


_BODY = "analyzer.body"  # a domain for bodies that depend on the types of what is given


def inline_newer_pass(source: Source, request: Request) -> None:
    """Replaces operators born after opset 21, and those in `inline`, with the function body of their schema."""
    versions = opsets(source.proto)
    if versions.get("", 0) <= OPSET and not request.inline:
        return
    for _ in range(_NESTED):  # bodies call operators with bodies
        wanted = [n for n in source.proto.graph.node if _has_wanted_body(n, versions, request)]
        if not wanted:
            return
        write_defaults(wanted, versions)
        _annotate_initializers(source.proto)
        proto = onnx.shape_inference.infer_shapes(source.proto, data_prop=True)
        names = {n.output[0] for n in wanted}
        if _make_local(proto, [n for n in proto.graph.node if n.output and n.output[0] in names]):
            proto = onnx.inliner.inline_local_functions(proto, True)
        else:
            operators = list({("", n.op_type) for n in wanted})
            proto = onnx.inliner.inline_selected_functions(
                proto, operators, exclude=False, inline_schema_functions=True
            )
        source.proto = proto
        del source.proto.graph.value_info[:]
        lift_constants(source.proto.graph)


def _has_wanted_body(node: onnx.NodeProto, versions: dict[str, int], request: Request) -> bool:
    schema = schema_of(node, versions)
    if schema is None or node.domain or not has_body(schema):
        return False
    return node.op_type in request.inline or lookup(node.op_type, OPSET) is None


def _make_local(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> bool:
    """Replaces operators that leave an input out with calls of their bodies as local functions; whether any did.

    The inliner wants the type of each input of a body that depends on types, those left out in the middle included.
    """
    types = {v.name: v.type for v in [*proto.graph.input, *proto.graph.value_info]}
    versions = opsets(proto)
    found = False
    for node in nodes:
        schema = schema_of(node, versions)
        if "" not in node.input or schema is None or not bodies_in(schema).has_context_dependent_function:
            continue
        kinds = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        made = bodies_in(schema).get_context_dependent_function(node.SerializeToString(), kinds)
        body = onnx.FunctionProto.FromString(made)
        body.domain, body.name = _BODY, f"{node.op_type}_{len(proto.functions)}"
        if not body.opset_import:
            body.opset_import.append(onnx.helper.make_opsetid("", versions[""]))
        proto.functions.append(body)
        node.domain, node.op_type = _BODY, body.name
        del node.attribute[:]
        found = True
    if found:
        proto.opset_import.append(onnx.helper.make_opsetid(_BODY, 1))
    return found


def _annotate_initializers(proto: onnx.ModelProto) -> None:
    known = {v.name for v in [*proto.graph.value_info, *proto.graph.input]}
    proto.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in proto.graph.initializer
        if t.name not in known
    )
