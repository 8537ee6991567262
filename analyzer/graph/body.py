"""Bodies of If, Loop and Scan in the linked graph: built and copied, and the shapes that come out of them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from analyzer.graph.inference import infer
from analyzer.graph.nodes import Node, Value, common_shape, complete, improve, reads, unlink
from analyzer.graph.scope import Scope


class Body(Scope):
    """The graph inside an If, Loop or Scan that is to be appended.

    It sees the tensors of `parent`. What it appends is its own, but for constants: they go to the outermost graph.
    """

    def __init__(self, parent: Scope) -> None:
        super().__init__(parent.name, parent.opset, parent.versions, parent.detached, parent._reserved)
        self.parent = parent
        self.values = ChainMap({}, parent.values)

    def fresh(self, name: str) -> str:
        """A name that no graph of the model uses."""
        found = super().fresh(name)
        self._reserved.add(found)
        return found

    def add_weight(self, name: str, array: np.ndarray) -> gs.Constant:
        """Add a constant tensor to the outermost graph."""
        return self.parent.add_weight(name, array)

    def replay(
        self, body: gs.Graph, inputs: Sequence[Value], renamed: Mapping[str, Value] | None = None
    ) -> list[Value]:
        """Append a copy of the nodes of another body of the model, reading `inputs`; its outputs."""
        bound = {**(renamed or {}), **dict(zip([i.name for i in body.inputs], inputs, strict=True))}
        for node in body.nodes:
            self._copy(node, bound)
        return [bound.get(o.name) or self[o.name] for o in body.outputs]

    def _copy(self, node: Node, bound: dict[str, Value]) -> None:
        read = [(bound.get(i.name) or self[i.name]) if i.name else gs.Variable.empty() for i in node.inputs]
        made = [
            gs.Variable(self.fresh(o.name), o.dtype, o.shape) if o.name else gs.Variable.empty() for o in node.outputs
        ]
        attrs = {k: self._copy_body(v, bound) if isinstance(v, gs.Graph) else v for k, v in node.attrs.items()}
        copy = Node(node.op, self.fresh(node.name), attrs, read, made, node.domain)
        self._own.add(id(copy))
        complete(copy, self.versions)
        control = any(True for _ in copy.subgraphs())
        kinds = outcomes(self, copy) if control else infer(copy, self.opset, self.constant)
        for output, (dtype, shape) in zip(made, kinds, strict=True):
            improve(output, dtype, shape)
        self.append(copy)
        bound.update({o.name: m for o, m in zip(node.outputs, made, strict=True) if o.name})

    def _copy_body(self, body: gs.Graph, bound: dict[str, Value]) -> gs.Graph:
        inner = Body(self)
        inputs = [inner.add_input(i.name, i.dtype, i.shape) for i in body.inputs]
        return inner.close(inner.replay(body, inputs, bound))

    def read_for(self, outputs: Sequence[Value]) -> set[str]:
        """Names of what the nodes that `outputs` need read, and of `outputs`."""
        live = self.live(outputs)
        needed = {v.name for v in outputs}
        return needed.union(*(reads(n) for n, alive in zip(self.nodes, live, strict=True) if alive))

    def close(self, outputs: Sequence[Value]) -> gs.Graph:
        """The body as an attribute, without the nodes that none of `outputs` needs."""
        results: list[Value] = []
        free = {o.name for n in self.nodes for o in n.outputs}
        for value in outputs:
            if value.name not in free:
                copy = gs.Variable(self.fresh(f"{value.name}/out"), value.dtype, value.shape)
                self.append(Node("Identity", copy.name, None, [value], [copy]))
                value = copy
            free.discard(value.name)
            results.append(value)
        live = self.live(results)
        nodes = [n for n, alive in zip(self.nodes, live, strict=True) if alive]
        return gs.Graph(nodes, self.inputs, results, name=self.fresh("body"), opset=self.opset)


# ---- Shapes through control flow ----

Kind: TypeAlias = tuple[Any, Any]  # element type and shape


def outcomes(graph: Scope, node: Node) -> list[Kind]:
    """(dtype, shape) of each output of an If, Loop or Scan, as its bodies compute them; (None, None) of others.

    A state keeps the sizes that no step changes, whatever the number of steps.
    """
    given = [(v.dtype, v.shape) for v in node.inputs]
    if node.op == "If" and not node.domain:
        return _either(*(_step(graph, node.attrs[name], []) for name in ("then_branch", "else_branch")))
    if node.op == "Loop" and not node.domain:
        body, states = node.attrs["body"], given[2:]
        kinds = [*((v.dtype, v.shape) for v in body.inputs[:2]), *states]
        return _carried(graph, body, kinds, 2, len(states), [(0, None)] * (len(body.outputs) - 1 - len(states)))
    if node.op == "Scan" and not node.domain:
        body, read = node.attrs["body"], node.attrs["num_scan_inputs"]
        states, series = given[: len(given) - read], given[len(given) - read :]
        axes = node.attrs.get("scan_input_axes") or [0] * read
        length = next((s[a] for (_, s), a in zip(series, axes, strict=True) if s and isinstance(s[a], int)), None)
        slices = [
            (d, s and [n for i, n in enumerate(s) if i != a % len(s)]) for (d, s), a in zip(series, axes, strict=True)
        ]
        written = node.attrs.get("scan_output_axes") or [0] * (len(body.outputs) - len(states))
        return _carried(graph, body, [*states, *slices], 0, len(states), [(a, length) for a in written])
    return [(None, None)] * len(node.outputs)


def _carried(
    graph: Scope, body: gs.Graph, kinds: list[Kind], clock: int, count: int, stacks: list[tuple[int, int | None]]
) -> list[Kind]:
    """Kinds of the states after any number of steps, then of what the steps write, stacked.

    Args:
        kinds: of the inputs of the body at the first step: `clock` ones, `count` states, slices.
        stacks: (axis, length) of each result.
    """
    while True:
        made = _step(graph, body, kinds)[min(clock, 1) :]
        states = kinds[clock : clock + count]
        common = _either(states, made[:count])
        if common == states:
            break
        kinds = [*kinds[:clock], *common, *kinds[clock + count :]]
    results = []
    for (dtype, shape), (axis, length) in zip(made[count:], stacks, strict=True):
        at = axis if axis >= 0 or shape is None else axis + len(shape) + 1
        results.append((dtype, shape if shape is None else [*shape[:at], length, *shape[at:]]))
    return [*states, *results]


def _step(graph: Scope, body: gs.Graph, kinds: Sequence[Kind]) -> list[Kind]:
    """Kinds of the outputs of one run of a body."""
    copy = Body(graph)
    inputs = [copy.add_input(i.name, *kind) for i, kind in zip(body.inputs, kinds, strict=True)]
    outputs = [(v.dtype, v.shape) for v in copy.replay(body, inputs)]
    unlink(copy.nodes)
    return outputs


def _either(left: Sequence[Kind], right: Sequence[Kind]) -> list[Kind]:
    """What is true of both: sizes that differ are not known, nor shapes of different rank."""
    return [(b if a is None else a, common_shape(s, t)) for (a, s), (b, t) in zip(left, right, strict=True)]
