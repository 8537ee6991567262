"""A normalised model as linked nodes and tensors, to be read and appended to.

`Graph` puts onnx-graphsurgeon's objects over the proto of a `Source`: producers and consumers are one attribute
away, and appending is building `Node`s. The proto itself is never re-exported: `Graph.proto()` copies it as it is
and adds only what was appended, so metadata, annotations and forward nodes stay byte for byte.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.helper
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx
from onnx_graphsurgeon.logger import G_LOGGER

from analyzer.errors import InputError, NotFoundError, UnsupportedError, suggest
from analyzer.graph.inference import infer
from analyzer.graph.load import Source
from analyzer.graph.normalize import implied_attributes, lookup, normalize
from analyzer.graph.portable import make_portable
from analyzer.graph.values import evaluate

G_LOGGER.severity = G_LOGGER.CRITICAL

Value: TypeAlias = (
    gs.Tensor
)  # a tensor of the graph: .name, .shape (ints, symbols or None per axis; None if unknown), .dtype
Node: TypeAlias = gs.Node  # an operator of the graph: .op, .domain, .name, .attrs, .inputs, .outputs


def loose(name: str, shape: Sequence[Any] | None) -> Value:
    """A tensor of no graph: what is known of one that was."""
    return gs.Variable(name, shape=None if shape is None else list(shape))


PROTOBUF_LIMIT = (1 << 31) - (1 << 24)


class Graph:
    """A normalised model that can be queried and appended to."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name
        self.opset = next((o.version for o in source.proto.opset_import if not o.domain), 0)
        try:
            self.gs = gs.import_onnx(source.proto)
        except Exception as error:
            raise UnsupportedError(f"{source.name}: cannot be read as a graph: {error}") from error
        self.nodes: list[Node] = list(self.gs.nodes)
        self.versions = {o.domain: o.version for o in source.proto.opset_import}
        for node in self.nodes:
            _complete(node, self.versions)
        self.forward_count = len(self.nodes)
        self._own = {id(node) for node in self.nodes}
        self.values: MutableMapping[str, Value] = dict(self.gs.tensors())
        self.values.update({v.name: v for v in self._captured_only()})
        self.inputs: list[Value] = list(self.gs.inputs)
        self.outputs: list[Value] = list(self.gs.outputs)
        self.weights: dict[str, np.ndarray] = dict(source.weights)
        self.new_inputs: list[Value] = []
        self.new_outputs: list[Value] = []
        self.metadata: dict[str, str] = {}
        self._known: dict[str, np.ndarray | None] = {}
        self._refined: list[Value] = []
        self._reserved = {name for node in self.nodes for body in node.subgraphs() for name in _inner(body)}
        self._refine()

    @classmethod
    def read(
        cls, model: object, inline: Iterable[str] = (), input_shapes: dict[str, tuple[int, ...]] | None = None
    ) -> Graph:
        """Load and normalise `model` (path, bytes or ModelProto)."""
        return cls(normalize(model, inline, input_shapes))

    def _captured_only(self) -> Iterator[Value]:
        """Tensors that are read in bodies and by no node of the graph itself."""
        for node in self.nodes:
            missing = [name for name in captures(node) if name not in self.values]
            linked = {v.name: v for v in _operands(node)} if missing else {}
            yield from (linked.get(name) or gs.Variable(name) for name in missing)

    def _refine(self) -> None:
        """Completes the shapes that schema inference left open, with the shape arithmetic of the file carried out and
        the states of loops followed from step to step."""
        refined: set[str] = set()
        for node in self.nodes:
            control = any(True for _ in node.subgraphs())
            follows = control or any(i.name in refined for i in node.inputs)
            if all(_is_fixed(o) if follows else _complete_shape(o) for o in node.outputs if o.name):
                continue
            kinds = outcomes(self, node) if control else infer(node, self.opset, self.constant)
            for output, (dtype, shape) in zip(node.outputs, kinds, strict=False):
                if output.name and not isinstance(output, gs.Constant) and _improve(output, dtype, shape):
                    self._refined.append(output)
                    refined.add(output.name)

    # ---- Reading ----

    def __getitem__(self, name: str) -> Value:
        """The tensor called `name`; NotFoundError suggests near misses."""
        if name in self.values:
            return self.values[name]
        raise NotFoundError(
            f"{self.name} has no tensor {name!r}", suggest(name, self.values) or "list them with `inspect`"
        )

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def constant(self, value: Value) -> np.ndarray | None:
        """The array of `value` where it does not depend on the inputs' data: weights, and shape arithmetic on
        known shapes. None where it does, or where it is large and computed."""
        if value.name not in self._known:
            self._known[value.name] = self._evaluate(value)
        known = self._known[value.name]
        return None if known is None or (known.dtype == object) else known

    def constant_in_part(self, value: Value) -> np.ndarray | None:
        """As `constant`, but an object array with None for each element that is not known."""
        return self._known.get(value.name) if self.constant(value) is None else self._known[value.name]

    def _evaluate(self, value: Value) -> np.ndarray | None:
        if isinstance(value, gs.Constant):
            return self.weights[value.name] if value.name in self.weights else np.asarray(value.values)
        # An explicit stack: chains of shape arithmetic can be longer than Python's recursion limit.
        stack = [value]
        while stack:
            top = stack[-1]
            if top.name in self._known or isinstance(top, gs.Constant) or not top.inputs:
                if not isinstance(top, gs.Constant) and top.name not in self._known:
                    self._known[top.name] = None
                stack.pop()
                continue
            node = top.inputs[0]
            waiting = [
                i for i in node.inputs if i.name and not isinstance(i, gs.Constant) and i.name not in self._known
            ]
            if waiting and node.op not in ("Shape", "Size"):
                stack.extend(waiting)
                continue
            results = evaluate(node, self._partial, [v.shape for v in node.inputs])
            for index, output in enumerate(node.outputs):
                self._known[output.name] = results[index] if results and index < len(results) else None
            stack.pop()
        return self._known[value.name]

    def _partial(self, value: Value) -> np.ndarray | None:
        if isinstance(value, gs.Constant):
            return self._evaluate(value)
        return self._known.get(value.name)

    def producer(self, value: Value) -> Node | None:
        """The node that computes `value`; None for inputs and weights."""
        return value.inputs[0] if value.inputs else None

    def consumers(self, value: Value) -> list[Node]:
        """The nodes that read `value`."""
        return list(value.outputs)

    def is_own(self, node: Node) -> bool:
        """Whether `node` is the model's own, not appended."""
        return id(node) in self._own

    def forward_nodes(self) -> list[Node]:
        """The model's own nodes, in topological order."""
        return self.nodes[: self.forward_count]

    # ---- Appending ----

    def append(self, node: Node) -> None:
        """Add `node` at the end; what it reads must already be there."""
        self.nodes.append(node)
        for output in node.outputs:
            if output.name:
                self.values[output.name] = output

    def add_weight(self, name: str, array: np.ndarray) -> Value:
        """Add a constant tensor."""
        value = gs.Constant(name, array)
        self.values[name] = value
        return value

    def add_input(self, name: str, dtype: Any, shape: Sequence[int | str | None] | None) -> Value:
        """Add a graph input; used for cotangents and targets."""
        value = gs.Variable(self.fresh(name), dtype, shape)
        self.values[value.name] = value
        self.new_inputs.append(value)
        return value

    def add_output(self, value: Value, name: str | None = None) -> Value:
        """Make `value` a graph output, under `name` where one is given (through an Identity where it must be)."""
        taken = {v.name for v in [*self.outputs, *self.new_outputs, *self.inputs, *self.new_inputs]}
        rename = name is not None and name != value.name
        if rename or isinstance(value, gs.Constant) or (value.name in taken and not rename):
            alias = gs.Variable(self.fresh(name or f"{value.name}/copy"), value.dtype, value.shape)
            self.append(Node("Identity", self.fresh(f"{alias.name}/Identity"), None, [value], [alias]))
            value = alias
        self.new_outputs.append(value)
        return value

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`… where it is taken."""
        candidate, count = name, 1
        while candidate in self.values or candidate in self._reserved:
            count += 1
            candidate = f"{name}_{count}"
        return candidate

    # ---- Writing ----

    def stub(self, outputs: Sequence[str] | None = None) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The model with everything that was appended and is used, its weights set aside.

        Args:
            outputs: which outputs to keep; all of the original and added ones when None. Nodes that no kept
                output needs are left out.
        """
        wanted = [*self.outputs, *self.new_outputs]
        if outputs is not None:
            by_name = {v.name: v for v in wanted}
            wanted = [by_name.get(n) or self[n] for n in outputs]
        live = self._live(wanted, keep_forward=outputs is None)
        proto = onnx.ModelProto()
        proto.CopyFrom(self.source.proto)
        original = list(proto.graph.node)
        kept = [n for n, alive in zip(original, live, strict=False) if alive]
        if len(kept) != len(original):
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
            del proto.graph.node[:]
            proto.graph.node.extend(copies)
        new = [
            n for n, alive in zip(self.nodes[self.forward_count :], live[self.forward_count :], strict=True) if alive
        ]
        proto.graph.node.extend(_export(n) for n in new)
        weights = self._add_constants(proto, new, wanted)
        self._add_annotations(proto, new, wanted)
        for key, text in self.metadata.items():
            onnx.helper.set_model_props(proto, {**{p.key: p.value for p in proto.metadata_props}, key: text})
        make_portable(proto)
        return proto, weights

    def proto(self, outputs: Sequence[str] | None = None) -> onnx.ModelProto:
        """The model as one self-contained ModelProto.

        Raises:
            InputError: with its weights it would be over protobuf's 2 GiB; use `save` instead.
        """
        proto, weights = self.stub(outputs)
        total = sum(w.nbytes for w in weights.values())
        if total > PROTOBUF_LIMIT:
            raise InputError(
                f"{self.name} has {total / 2**30:.1f} GiB of weights, more than one protobuf can hold",
                "save it to a file instead: the weights then go beside it as external data",
            )
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
        return proto

    def _live(self, wanted: Sequence[Value], keep_forward: bool) -> list[bool]:
        """Which nodes the wanted outputs need. The model's own nodes are all needed when `keep_forward`."""
        needed = {v.name for v in wanted}
        live = [False] * len(self.nodes)
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            if (keep_forward and index < self.forward_count) or any(o.name in needed for o in node.outputs):
                live[index] = True
                needed.update(reads(node))
        return live

    def _add_constants(
        self, proto: onnx.ModelProto, new: Sequence[Node], wanted: Sequence[Value]
    ) -> dict[str, np.ndarray]:
        used = {name for node in proto.graph.node for name in node.input}
        used |= {n for node in [*self.forward_nodes(), *new] for s in node.subgraphs() for n in _outer(s)}
        used |= {v.name for v in wanted}
        present = {t.name for t in proto.graph.initializer}
        if not present <= used:
            kept = [
                onnx.TensorProto.FromString(t.SerializeToString()) for t in proto.graph.initializer if t.name in used
            ]
            del proto.graph.initializer[:]
            proto.graph.initializer.extend(kept)
        weights = {name: array for name, array in self.weights.items() if name in used}
        for node in new:
            for value in _operands(node):
                if not isinstance(value, gs.Constant) or value.name in present:
                    continue
                present.add(value.name)
                array = np.asarray(value.values)
                tensor = onnx.TensorProto(
                    name=value.name,
                    dims=array.shape,
                    data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                )
                if array.nbytes >= 4096:
                    weights[value.name] = array
                else:
                    tensor = numpy_helper.from_array(array, value.name)
                proto.graph.initializer.append(tensor)
        return weights

    def _add_annotations(self, proto: onnx.ModelProto, new: Sequence[Node], wanted: Sequence[Value]) -> None:
        names = {v.name for v in self.new_inputs} | {v.name for v in self._refined}
        proto.graph.input.extend(_annotation(v) for v in self.new_inputs)
        refined = {v.name: _annotation(v) for v in self._refined}
        declared = {o.name: o for o in proto.graph.output} | refined
        outputs = [declared.get(v.name) or _annotation(v) for v in wanted]
        copies = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in outputs]
        kept = {v.name for v in wanted}
        names |= kept
        del proto.graph.output[:]
        proto.graph.output.extend(copies)
        known = [v for v in proto.graph.value_info if v.name not in names]
        if len(known) != len(proto.graph.value_info):
            copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in known]
            del proto.graph.value_info[:]
            proto.graph.value_info.extend(copies)
        live = {o for node in proto.graph.node for o in node.output}
        proto.graph.value_info.extend(a for n, a in refined.items() if n not in kept and n in live)
        proto.graph.value_info.extend(
            _annotation(v)
            for node in new
            for v in node.outputs
            if v.name and v.name not in names and v.dtype is not None and v.shape is not None
        )


class Body(Graph):
    """The graph inside an If, Loop or Scan that is to be appended.

    It sees the tensors of `parent`. What it appends is its own, but for constants: they go to the outermost graph.
    """

    def __init__(self, parent: Graph) -> None:
        self.parent = parent
        self.source, self.name, self.opset, self.versions = parent.source, parent.name, parent.opset, parent.versions
        self.nodes, self.forward_count, self._own = [], 0, set()
        self.inputs, self.outputs = [], []
        self.values = ChainMap({}, parent.values)
        self.weights = parent.weights
        self._known = {}
        self._reserved = parent._reserved

    def fresh(self, name: str) -> str:
        """A name that no graph of the model uses."""
        found = super().fresh(name)
        self._reserved.add(found)
        return found

    def add_weight(self, name: str, array: np.ndarray) -> Value:
        """Add a constant tensor to the outermost graph."""
        return self.parent.add_weight(name, array)

    def add_input(self, name: str, dtype: Any, shape: Sequence[int | str | None] | None) -> Value:
        """Add an input of the body."""
        value = gs.Variable(self.fresh(name), dtype, shape)
        self.values[value.name] = value
        self.inputs.append(value)
        return value

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
        _complete(copy, self.versions)
        control = any(True for _ in copy.subgraphs())
        kinds = outcomes(self, copy) if control else infer(copy, self.opset, self.constant)
        for output, (dtype, shape) in zip(made, kinds, strict=True):
            _improve(output, dtype, shape)
        self.append(copy)
        bound.update({o.name: m for o, m in zip(node.outputs, made, strict=True) if o.name})

    def _copy_body(self, body: gs.Graph, bound: dict[str, Value]) -> gs.Graph:
        inner = Body(self)
        inputs = [inner.add_input(i.name, i.dtype, i.shape) for i in body.inputs]
        return inner.close(inner.replay(body, inputs, bound))

    def read_for(self, outputs: Sequence[Value]) -> set[str]:
        """Names of what the nodes that `outputs` need read, and of `outputs`."""
        live = self._live(outputs, keep_forward=False)
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
        live = self._live(results, keep_forward=False)
        nodes = [n for n, alive in zip(self.nodes, live, strict=True) if alive]
        return gs.Graph(nodes, self.inputs, results, name=self.fresh("body"), opset=self.opset)


# ---- Shapes through control flow ----

Kind: TypeAlias = tuple[Any, Any]  # element type and shape


def outcomes(graph: Graph, node: Node) -> list[Kind]:
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
    graph: Graph, body: gs.Graph, kinds: list[Kind], clock: int, count: int, stacks: list[tuple[int, int | None]]
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


def _step(graph: Graph, body: gs.Graph, kinds: Sequence[Kind]) -> list[Kind]:
    """Kinds of the outputs of one run of a body."""
    copy = Body(graph)
    inputs = [copy.add_input(i.name, *kind) for i, kind in zip(body.inputs, kinds, strict=True)]
    outputs = [(v.dtype, v.shape) for v in copy.replay(body, inputs)]
    unlink(copy.nodes)
    return outputs


def unlink(nodes: Iterable[Node]) -> None:
    """Takes nodes that are thrown away, and those of their bodies, from the readers of what they read."""
    for node in nodes:
        for body in node.subgraphs():
            unlink(body.nodes)
        node.inputs.clear()


def _either(left: Sequence[Kind], right: Sequence[Kind]) -> list[Kind]:
    """What is true of both: sizes that differ are not known, nor shapes of different rank."""
    return [(b if a is None else a, common_shape(s, t)) for (a, s), (b, t) in zip(left, right, strict=True)]


def common_shape(left: Any, right: Any) -> Any:
    """The sizes that two shapes share, None where they differ; None where the ranks do."""
    if left is None or right is None or len(left) != len(right):
        return None
    return [a if a == b else None for a, b in zip(left, right, strict=True)]


def reads(node: Node) -> set[str]:
    """Names that `node` reads, those its bodies capture included."""
    return {i.name for i in node.inputs if i.name} | set(captures(node))


def captures(node: Node) -> list[str]:
    """Names of outer tensors that the bodies of `node` read, in alphabetical order."""
    return sorted({name for body in node.subgraphs() for name in _outer(body)})


def _inner(body: gs.Graph) -> Iterator[str]:
    """All names that a body gives to its tensors and nodes."""
    yield from (i.name for i in body.inputs)
    for node in body.nodes:
        yield from (node.name, *(o.name for o in node.outputs))
        for inner in node.subgraphs():
            yield from _inner(inner)


def _operands(node: Node) -> Iterator[Value]:
    """The tensors that `node` and the nodes of its bodies read."""
    yield from node.inputs
    for body in node.subgraphs():
        for inner in body.nodes:
            yield from _operands(inner)


def _export(node: Node) -> onnx.NodeProto:
    """`node` as a proto; its bodies hold no constants of their own."""
    bodies = {k: v for k, v in node.attrs.items() if isinstance(v, gs.Graph)}
    if not bodies:
        return OnnxExporter.export_node(node)
    proto = onnx.helper.make_node(
        node.op, [i.name for i in node.inputs], [o.name for o in node.outputs], node.name, domain=node.domain
    )
    proto.attribute.extend(OnnxExporter.export_attributes({k: v for k, v in node.attrs.items() if k not in bodies}))
    for key, body in bodies.items():
        ends = ([_annotation(v) for v in body.inputs], [_annotation(v) for v in body.outputs])
        graph = onnx.helper.make_graph([_export(n) for n in body.nodes], body.name, *ends)
        proto.attribute.append(onnx.helper.make_attribute(key, graph))
    return proto


def _outer(subgraph: gs.Graph) -> set[str]:
    own = {i.name for i in subgraph.inputs} | {o.name for n in subgraph.nodes for o in n.outputs}
    names = {i.name for n in subgraph.nodes for i in n.inputs if i.name and not isinstance(i, gs.Constant)}
    names |= {i.name for n in subgraph.nodes for i in n.inputs if isinstance(i, gs.Constant)}
    for node in subgraph.nodes:
        for inner in node.subgraphs():
            names |= _outer(inner)
    names |= {o.name for o in subgraph.outputs}
    return names - own


def _annotation(value: Value) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value.name, dtype_to_onnx(value.dtype), value.shape)


def _complete(node: Node, versions: dict[str, int]) -> None:
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


def _is_fixed(value: Value) -> bool:
    return value.shape is not None and all(isinstance(d, int) for d in value.shape)


def _complete_shape(value: Value) -> bool:
    shape = value.shape
    return shape is not None and all(isinstance(d, int) or (d and not d.startswith("unk__")) for d in shape)


def _improve(value: Value, dtype: Any, shape: Sequence[Any] | None) -> bool:
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


def count(shape: Sequence[int | str | None] | None) -> int | None:
    """Number of elements, or None where a dimension is not fixed."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return math.prod(shape)  # type: ignore[arg-type]
