"""Tensors and nodes of a linked graph (onnx-graphsurgeon's), and what is asked of one by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import onnx
import onnx.helper
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx
from onnx_graphsurgeon.logger import G_LOGGER

from analyzer.errors import UnsupportedError
from analyzer.graph.schemas import implied_attributes, lookup

G_LOGGER.severity = G_LOGGER.CRITICAL

# A tensor of the graph: .name, .shape (ints, symbols or None per axis; None if unknown), .dtype
Value: TypeAlias = gs.Tensor
Node: TypeAlias = gs.Node  # an operator of the graph: .op, .domain, .name, .attrs, .inputs, .outputs
Shape: TypeAlias = Sequence[int | str | None]  # a size per axis: fixed, a symbol, or unknown


# ---- Sizes ----


def known_shape(value: Value) -> Shape:
    """The shape of a tensor whose rank is known.

    Raises:
        UnsupportedError: not even the rank is known.
    """
    if value.shape is None:
        raise UnsupportedError(
            f"the rank of {value.name!r} is not known",
            "set the input's shape, for example --shape input:1x3x224x224",
        )
    return value.shape


def fixed_sizes(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape where every size is fixed, else None."""
    found = tuple(d for d in shape or () if isinstance(d, int))
    return found if shape is not None and len(found) == len(shape) else None


def count(shape: Shape | None) -> int | None:
    """Number of elements, or None where a dimension is not fixed."""
    sizes = fixed_sizes(shape)
    return None if sizes is None else math.prod(sizes)


def common_shape(left: Any, right: Any) -> Any:
    """The sizes that two shapes share, None where they differ; None where the ranks do."""
    if left is None or right is None or len(left) != len(right):
        return None
    return [a if a == b else None for a, b in zip(left, right, strict=True)]


def is_fixed(value: Value) -> bool:
    return value.shape is not None and all(isinstance(d, int) for d in value.shape)


def has_sizes(value: Value) -> bool:
    shape = value.shape
    return shape is not None and all(isinstance(d, int) or (d and not d.startswith("unk__")) for d in shape)


# ---- Making and completing ----


def loose(name: str, shape: Sequence[Any] | None) -> Value:
    """A tensor of no graph: what is known of one that was."""
    return gs.Variable(name, shape=None if shape is None else list(shape))


def improve(value: Value, dtype: Any, shape: Sequence[Any] | None) -> bool:
    """Fills in what `value` does not know of its type and shape; whether that was anything."""
    before = (value.dtype, value.shape)
    if value.dtype is None:
        value.dtype = dtype
    if shape is not None:
        old = value.shape if value.shape is not None and len(value.shape) == len(shape) else [None] * len(shape)
        value.shape = [
            o if isinstance(o, int) else (n if isinstance(n, int) else o or n) for o, n in zip(old, shape, strict=True)
        ]
    return (value.dtype, value.shape) != before


def complete(node: Node, versions: dict[str, int]) -> None:
    """Gives `node` every attribute its schema has a default for, and the window its operator implies.

    Only this view is completed: the proto keeps the attributes of the file, since the runtime's fusions match them.
    """
    domain = node.domain or ""
    schema = lookup(node.op, versions.get(domain, 1), domain)
    if schema is None:
        return
    for name, value in implied_attributes(node.op, versions.get(domain, 1), domain).items():
        node.attrs.setdefault(name, value)
    if "strides" not in schema.attributes:
        return
    if "kernel_shape" not in node.attrs:
        weight = node.inputs[3 if node.op == "QLinearConv" else 1]
        if weight.shape is None or not all(isinstance(d, int) for d in weight.shape[2:]):
            return
        node.attrs["kernel_shape"] = list(weight.shape[2:])
    rank = len(node.attrs["kernel_shape"])
    for name, value in (("strides", [1] * rank), ("dilations", [1] * rank), ("pads", [0] * 2 * rank)):
        if name in schema.attributes and (name != "pads" or node.attrs.get("auto_pad", "NOTSET") == "NOTSET"):
            node.attrs.setdefault(name, value)


def unlink(nodes: Iterable[Node]) -> None:
    """Takes nodes that are thrown away, and those of their bodies, from the readers of what they read."""
    for node in nodes:
        for body in node.subgraphs():
            unlink(body.nodes)
        node.inputs.clear()


# ---- What is read ----


def reads(node: Node) -> set[str]:
    """Names that `node` reads, those its bodies capture included."""
    return {i.name for i in node.inputs if i.name} | set(captures(node))


def captures(node: Node) -> list[str]:
    """Names of outer tensors that the bodies of `node` read, in alphabetical order."""
    return sorted({name for body in node.subgraphs() for name in outer_names(body)})


def inner_names(body: gs.Graph) -> Iterator[str]:
    """All names that a body gives to its tensors and nodes."""
    yield from (i.name for i in body.inputs)
    for node in body.nodes:
        yield from (node.name, *(o.name for o in node.outputs))
        for inner in node.subgraphs():
            yield from inner_names(inner)


def outer_names(subgraph: gs.Graph) -> set[str]:
    own = {i.name for i in subgraph.inputs} | {o.name for n in subgraph.nodes for o in n.outputs}
    names = {i.name for n in subgraph.nodes for i in n.inputs if i.name and not isinstance(i, gs.Constant)}
    names |= {i.name for n in subgraph.nodes for i in n.inputs if isinstance(i, gs.Constant)}
    for node in subgraph.nodes:
        for inner in node.subgraphs():
            names |= outer_names(inner)
    names |= {o.name for o in subgraph.outputs}
    return names - own


def operands(node: Node) -> Iterator[Value]:
    """The tensors that `node` and the nodes of its bodies read."""
    yield from node.inputs
    for body in node.subgraphs():
        for inner in body.nodes:
            yield from operands(inner)


# ---- As protos ----


def export_node(node: Node) -> onnx.NodeProto:
    """`node` as a proto; its bodies hold no constants of their own."""
    bodies = {k: v for k, v in node.attrs.items() if isinstance(v, gs.Graph)}
    empty = [k for k, v in node.attrs.items() if isinstance(v, list | tuple) and not v]
    if not bodies and not empty:
        return OnnxExporter.export_node(node)
    proto = onnx.helper.make_node(
        node.op, [i.name for i in node.inputs], [o.name for o in node.outputs], node.name, domain=node.domain
    )
    plain = {k: v for k, v in node.attrs.items() if k not in bodies and k not in empty}
    proto.attribute.extend(OnnxExporter.export_attributes(plain))
    proto.attribute.extend(onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS) for key in empty)
    for key, body in bodies.items():
        ends = ([annotation(v) for v in body.inputs], [annotation(v) for v in body.outputs])
        graph = onnx.helper.make_graph([export_node(n) for n in body.nodes], body.name, *ends)
        proto.attribute.append(onnx.helper.make_attribute(key, graph))
    return proto


def annotation(value: Value) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value.name, dtype_to_onnx(value.dtype), value.shape)
