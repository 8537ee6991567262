"""What a model is made of, as text without its weights: for a report of a bug."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

import onnx

NODES = 5000  # that are listed


def structure(path: str) -> Iterator[str]:
    """The model of a file as lines of text, without the values of its tensors."""
    model = onnx.load(path, load_external_data=False)
    yield f"IR {model.ir_version}, opsets " + ", ".join(
        f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import
    )
    yield from _graph(model.graph, "  ")
    for function in model.functions:
        yield f"function {function.domain}::{function.name}({', '.join(function.input)})"
        yield from _nodes(function.node, "  ")


def _graph(graph: onnx.GraphProto, indent: str) -> Iterator[str]:
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            sizes = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
            yield f"{indent}{kind} {value.name}: type {tensor.elem_type} {sizes}"
    for tensor in graph.initializer:
        yield f"{indent}weight {tensor.name}: {_tensor(tensor)}"
    yield from _nodes(graph.node, indent)


def _nodes(nodes: Sequence[onnx.NodeProto], indent: str) -> Iterator[str]:
    for at, node in enumerate(nodes):
        if at == NODES:
            counts = collections.Counter(n.op_type for n in nodes).most_common()
            yield f"{indent}… in all: " + ", ".join(f"{count} {op}" for op, count in counts)
            return
        attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in node.attribute)
        made = f"{', '.join(node.output)} = {node.domain and node.domain + '::'}{node.op_type}({', '.join(node.input)})"
        yield f"{indent}{node.name!r}: {made} {attributes}"
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graph(body, indent + "    ")


def _attribute(attribute: onnx.AttributeProto) -> str:
    if attribute.HasField("t"):
        return _tensor(attribute.t)
    for name in ("ints", "floats", "strings"):
        if values := list(getattr(attribute, name)):
            return f"{values[:32]}"
    for name in ("i", "f", "s"):
        if attribute.HasField(name):
            return repr(getattr(attribute, name))
    return "…"


def _tensor(tensor: onnx.TensorProto) -> str:
    return f"type {tensor.data_type} {list(tensor.dims)}"
