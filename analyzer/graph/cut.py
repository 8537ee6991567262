"""The part of a graph after chosen tensors, which become its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Value, known_shape, reads
from analyzer.graph.protos import captured, replace_all
from analyzer.graph.query import ancestors, descendants


def frontier(graph: Graph, name: str, outputs: Sequence[str]) -> list[str]:
    """What is computed from the inputs beside tensor `name`, and read on the way from it to `outputs`."""
    behind = descendants(graph, [name])
    needed = ancestors(graph, outputs)
    reach = descendants(graph, [v.name for v in graph.inputs])
    found: dict[str, None] = {}
    for node in graph.nodes:
        if any(o.name in behind and o.name in needed and o.name != name for o in node.outputs):
            found |= dict.fromkeys(sorted((reads(node) & reach) - behind))
    return [n for n in found if graph.constant(graph[n]) is None]


def behind(graph: Graph, names: Sequence[str], outputs: Sequence[str], product: str = "") -> Graph:
    """The nodes that `outputs` need and `names` do not, with `names` as inputs.

    Shape arithmetic on known sizes is carried out, so that the new graph keeps no way back to the old inputs.

    Args:
        product: one of `names` that becomes `name/left` ⊙ `name/right`, two inputs, of its shape and broadcastable.
    """
    proto, weights = graph.stub(outputs)
    graph_proto = proto.graph
    constants = {t.name for t in graph_proto.initializer}
    needed, kept = set(outputs), []
    known: dict[str, np.ndarray] = {}
    for node in reversed(graph_proto.node):
        if not any(o in needed and o not in names for o in node.output):
            continue
        kept.append(node)
        for name in {*node.input, *captured(node)} - {""}:
            array = None if name in constants or name in names else _known(graph, name)
            if array is None:
                needed.add(name)
            else:
                known[name] = array
    inputs = [_input(graph[n], n) for n in names if n in needed and n != product]
    inputs += [i for i in graph_proto.input if i.name in needed and i.name not in names]
    nodes = list(reversed(kept))
    if product:
        left, right = f"{product}/left", f"{product}/right"
        nodes.insert(0, onnx.helper.make_node("Mul", [left, right], [product], f"{product}/product"))
        open_sizes = [None] * len(known_shape(graph[product]))
        inputs += [_input(graph[product], name, open_sizes) for name in (left, right)]
    made = {i.name for i in inputs} | known.keys()
    infos = [v for v in graph_proto.value_info if v.name not in made]
    tensors = [t for t in graph_proto.initializer if t.name in needed]
    tensors += [numpy_helper.from_array(a, n) for n, a in known.items()]
    for field, items in (("node", nodes), ("input", inputs), ("value_info", infos), ("initializer", tensors)):
        replace_all(getattr(graph_proto, field), items)
    kept_weights = {n: w for n, w in weights.items() if n in needed}
    return Graph(replace(graph.source, proto=proto, detached=kept_weights))


def _known(graph: Graph, name: str) -> np.ndarray | None:
    """What a computed tensor is known to hold before the model runs."""
    value = graph.values.get(name)
    return None if value is None or not value.inputs else graph.constant(value)


def _input(value: Value, name: str, shape: Sequence[int | None] | None = None) -> onnx.ValueInfoProto:
    """A graph input typed as `value`, and shaped as it unless given."""
    return onnx.helper.make_tensor_value_info(name, dtype_to_onnx(value.dtype), value.shape if shape is None else shape)
