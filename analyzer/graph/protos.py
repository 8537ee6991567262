"""Protobuf messages of ONNX as every file here reads and rewrites them: fields replaced, bodies walked, names found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

Message = TypeVar("Message")


def copied(message: Message) -> Message:
    """A message of its own with the same content."""
    made: Any = type(message)()
    made.CopyFrom(message)
    return made


def replace_all(field: MutableSequence[Any], items: Iterable[Any]) -> None:
    """Makes `items` the content of a repeated field; they may be messages of that very field."""
    copies = [copied(i) for i in items]
    del field[:]
    field.extend(copies)


# ---- Reading ----


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """What an attribute holds, `default` where the node has none of that name."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def second_numbers(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Sequence[int]:
    """What the second input holds, before opset 13 the attribute `axes`; nothing where it is left out or computed."""
    if len(node.input) > 1:
        return numpy_helper.to_array(constants[node.input[1]]).ravel().tolist() if node.input[1] in constants else ()
    found: Sequence[int] = attribute(node, "axes", ())
    return found


def opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """{domain: version} that a model imports."""
    return {o.domain: o.version for o in proto.opset_import}


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a node."""
    for held in node.attribute:
        if held.HasField("g"):
            yield held.g
        yield from held.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all bodies in it."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from all_graphs(body)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from all_nodes(body)


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the bodies of a control-flow node read from the graph around it."""
    for body in bodies_of(node):
        own = {i.name for i in body.input} | {t.name for t in body.initializer}
        for inner in body.node:
            yield from (n for n in [*inner.input, *captured(inner)] if n and n not in own)
            own.update(inner.output)
        yield from (o.name for o in body.output if o.name not in own)


def sort_by_depth(graph: onnx.GraphProto) -> None:
    """Sorts nodes by the length of the longest path to them: still a topological order."""
    depth: dict[str, int] = {}
    depths = []
    for node in graph.node:
        depths.append(1 + max((depth.get(n, 0) for n in (*node.input, *captured(node)) if n), default=0))
        depth.update(dict.fromkeys(node.output, depths[-1]))
    nodes = list(graph.node)
    replace_all(graph.node, [nodes[i] for i in sorted(range(len(nodes)), key=depths.__getitem__)])


# ---- Names ----


def own_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the tensors of a graph, not of the bodies in it."""
    yield from (i.name for i in graph.input)
    yield from (t.name for t in graph.initializer)
    for node in graph.node:
        yield from node.output


class Names:
    """Gives names that no tensor of the model has, and constants under them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.taken = {name for part in all_graphs(graph) for name in own_names(part)}

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`… where it is taken."""
        candidate, count = name, 1
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def constant(self, array: np.ndarray, name: str) -> str:
        """A new initializer."""
        name = self.fresh(name)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name


# ---- Constants ----


def lift_constants(graph: onnx.GraphProto) -> None:
    """Replaces Constant nodes with initializers of the same name."""
    kept = []
    for node in graph.node:
        tensor = constant_tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        replace_all(graph.node, kept)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds, whichever attribute it is written in, or None."""
    if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
        return None
    held = node.attribute[0]
    if held.name == "value":
        return copied(held.t)
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if held.name not in kinds:
        return None
    return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(held), kinds[held.name]))
