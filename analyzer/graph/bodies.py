"""Bodies of control flow in the proto: their constants moved out, and what is decided before the model runs inlined.

An If whose condition is known becomes the branch taken, a Loop of few steps becomes its steps one after the other.
Conditions and trip counts are known where they are constants or come of known shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.graph.load import lift_constants
from analyzer.graph.values import evaluate

LONGEST = 64  # steps of a Loop that is unrolled
LARGEST = 20_000  # nodes that unrolling may lead to: loops inside loops multiply

Known = Mapping[str, np.ndarray]


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from all_nodes(body)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """All names of tensors of a graph and of the bodies in it."""
    yield from (i.name for i in graph.input)
    yield from (t.name for t in graph.initializer)
    for node in graph.node:
        yield from node.output
        for body in bodies_of(node):
            yield from _names(body)


class Names:
    """Gives names that no tensor of the model has, and constants under them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.taken = set(_names(graph))

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


def _rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Writes new names over what a body and the bodies in it read and make; inner tensors of the same name stay."""
    for node in body.node:
        for field in (node.input, node.output):
            renamed = [names.get(n, n) for n in field]
            del field[:]
            field.extend(renamed)
        for inner in bodies_of(node):
            own = set(_own(inner))
            _rename(inner, {old: new for old, new in names.items() if old not in own})
    for value in [*body.input, *body.output, *body.value_info]:
        value.name = names.get(value.name, value.name)


def _own(body: onnx.GraphProto) -> Iterator[str]:
    yield from (i.name for i in body.input)
    yield from (t.name for t in body.initializer)
    for node in body.node:
        yield from node.output


# ---- Constants ----


def lift_body_constants(graph: onnx.GraphProto) -> bool:
    """Moves constants of all bodies to `graph`, under a name of their own; whether there were any."""
    names = Names(graph)
    lifted: list[onnx.TensorProto] = []
    for node in graph.node:
        for body in bodies_of(node):
            lifted += _lift(body, names)
    graph.initializer.extend(lifted)
    return bool(lifted)


def _lift(body: onnx.GraphProto, unused: Names) -> list[onnx.TensorProto]:
    lift_constants(body)
    names, lifted = {}, []
    for tensor in body.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = unused.fresh(f"{tensor.name}/of_body")
        lifted.append(copy)
        if any(o.name == tensor.name for o in body.output):  # what a body returns must be made in it
            body.node.insert(0, onnx.helper.make_node("Identity", [copy.name], [tensor.name], copy.name))
        else:
            names[tensor.name] = copy.name
    constant = {t.name for t in body.initializer}
    inputs = [i for i in body.input if i.name not in constant]  # before IR 4 initializers were inputs too
    kept = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in inputs]
    del body.initializer[:], body.input[:]
    body.input.extend(kept)
    _rename(body, names)
    for node in body.node:
        for inner in bodies_of(node):
            lifted += _lift(inner, unused)
    return lifted


# ---- What is decided before the model runs ----


class Constants:
    """Values of tensors that are constants or come of known shapes."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, list]) -> None:
        self.shapes = shapes
        self.producers = {o: n for n in graph.node for o in n.output if o}
        self.known: dict[str, np.ndarray | None] = {
            t.name: numpy_helper.to_array(t) if 0 < int(np.prod(t.dims)) <= 16 else None for t in graph.initializer
        }

    def __call__(self, name: str) -> np.ndarray | None:
        """The array that `name` holds, else None."""
        stack = [name]
        while stack:
            top = stack[-1]
            node = self.producers.get(top)
            if top in self.known or node is None or any(True for _ in bodies_of(node)):
                self.known.setdefault(top, None)
                stack.pop()
                continue
            missing = [n for n in node.input if n and n not in self.known]
            if missing and node.op_type not in ("Shape", "Size"):
                stack.extend(missing)
                continue
            attrs = {a.name: _plain(a) for a in node.attribute}
            inputs = [SimpleNamespace(name=n) for n in node.input]
            view = SimpleNamespace(op=node.op_type, domain=node.domain, attrs=attrs, inputs=inputs, outputs=node.output)
            found = evaluate(view, lambda v: self.known.get(v.name), [self.shapes.get(n) for n in node.input])
            for index, output in enumerate(node.output):
                self.known[output] = found[index] if found and index < len(found) else None
            stack.pop()
        known = self.known[name]
        return None if known is None or known.dtype == object else known


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def unroll(graph: onnx.GraphProto, shapes: Mapping[str, list], opset: int) -> bool:
    """Replaces what is decided; whether anything was. The bodies must have no constants of their own.

    Args:
        shapes: {tensor: sizes, or names where they are not known}.
    """
    constants = Constants(graph, shapes)
    names = Names(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        decided = None
        if node.op_type == "If" and not node.domain:
            decided = _branch(node, constants, names)
        elif node.op_type == "Loop" and not node.domain:
            decided = _steps(node, constants, names, opset)
        nodes += [node] if decided is None else decided
    changed = len(nodes) != len(graph.node) or any(a is not b for a, b in zip(nodes, graph.node, strict=True))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return changed


def _branch(node: onnx.NodeProto, constants: Constants, names: Names) -> list[onnx.NodeProto] | None:
    condition = constants(node.input[0])
    if condition is None:
        return None
    name = "then_branch" if condition.item() else "else_branch"
    body = next(a.g for a in node.attribute if a.name == name)
    nodes, outputs = _inlined(body, [], node.name or node.output[0], names)
    return nodes + _copies(outputs, node.output)


def _steps(node: onnx.NodeProto, constants: Constants, names: Names, opset: int) -> list[onnx.NodeProto] | None:
    """The steps of a Loop one after the other, where their number is known before the model runs."""
    body = node.attribute[0].g
    trips = constants(node.input[0]) if node.input[0] else None
    start = constants(node.input[1]) if len(node.input) > 1 and node.input[1] else np.True_
    if trips is None or start is None or not _goes_on(body, constants):
        return None
    count = int(trips.item()) if start.item() else 0
    states = list(node.input[2:])
    written = len(body.output) - 1 - len(states)
    if count > LONGEST or (count < 1 and written):
        return None
    if count * (1 + len(list(all_nodes(body)))) + len(names.taken) > LARGEST:
        return None
    nodes: list[onnx.NodeProto] = []
    results: list[list[str]] = [[] for _ in range(written)]
    base = node.name or node.output[0]
    going = names.constant(np.array(True), f"{base}/condition")
    for step in range(count):
        number = names.constant(np.array(step, np.int64).reshape(_dims(body.input[0])), f"{base}/{step}")
        made, outputs = _inlined(body, [number, going, *states], f"{base}/{step}", names)
        nodes += made
        states = outputs[1 : 1 + len(states)]
        for stack, name in zip(results, outputs[1 + len(states) :], strict=True):
            stack.append(name)
    axis = [names.constant(np.array([0], np.int64), f"{base}/axis")] if opset >= 13 else []
    attrs = {} if axis else {"axes": [0]}
    stacked = []
    for stack in results:
        rows = [names.fresh(f"{name}/row") for name in stack]
        for name, row in zip(stack, rows, strict=True):
            nodes.append(onnx.helper.make_node("Unsqueeze", [name, *axis], [row], row, **attrs))
        stacked.append(names.fresh(f"{base}/stack"))
        nodes.append(onnx.helper.make_node("Concat", rows, [stacked[-1]], stacked[-1], axis=0))
    return nodes + _copies([*states, *stacked], node.output)


def _goes_on(body: onnx.GraphProto, constants: Constants) -> bool:
    """Whether a step never ends the loop: its condition is the one it was given, or a constant of the model."""
    name = body.output[0].name
    producers = {o: n for n in body.node for o in n.output}
    while name in producers and producers[name].op_type in ("Identity", "Cast"):
        name = producers[name].input[0]
    if name in producers or any(name == i.name for i in body.input):
        return name == body.input[1].name
    known = constants(name)
    return known is not None and bool(known.item())


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """[1] for a number of steps that an exporter declares as a vector."""
    return [1] * len(value.type.tensor_type.shape.dim)


def _inlined(
    body: onnx.GraphProto, inputs: Iterable[str], where: str, names: Names
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Copies of the nodes of a body under names of their own, and the names of its outputs."""
    copy = onnx.GraphProto.FromString(body.SerializeToString())
    renamed = dict(zip([i.name for i in body.input], inputs, strict=True))
    for name in [o for n in copy.node for o in n.output if o]:
        renamed[name] = names.fresh(f"{where}/{name}")
    _rename(copy, renamed)
    for node in copy.node:
        node.name = f"{where}/{node.name}" if node.name else ""
    return list(copy.node), [o.name for o in copy.output]


def _copies(names: Iterable[str], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    pairs = [(n, o) for n, o in zip(names, outputs, strict=True) if o]
    return [onnx.helper.make_node("Identity", [n], [o], f"{o}/copy") for n, o in pairs]
