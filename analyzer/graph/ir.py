"""A normalised model as linked nodes and tensors, to be read and appended to.

`Graph` puts onnx-graphsurgeon's objects over the proto of a `Source`: producers and consumers are one attribute
away, and appending is building `Node`s. The proto itself is never re-exported: `Graph.proto()` copies it as it is
and adds only what was appended, so metadata, annotations and forward nodes stay byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from analyzer.errors import InputError, UnsupportedError
from analyzer.graph.body import outcomes
from analyzer.graph.inference import infer
from analyzer.graph.nodes import (
    Node,
    Value,
    annotation,
    captures,
    complete,
    export_node,
    has_sizes,
    improve,
    inner_names,
    is_fixed,
    operands,
    outer_names,
)
from analyzer.graph.parameters import Initializer, initializers
from analyzer.graph.passes import normalize
from analyzer.graph.portable import make_portable
from analyzer.graph.protos import copied, replace_all
from analyzer.graph.scope import Scope
from analyzer.graph.source import DETACH_BYTES, Source

PROTOBUF_LIMIT = (1 << 31) - (1 << 24)


class Graph(Scope):
    """A normalised model that can be queried and appended to.

    Args:
        image: the input that is explained, where it is chosen; see `query.image_input`.
    """

    def __init__(self, source: Source, image: str | None = None) -> None:
        self.image = image
        versions = {o.domain: o.version for o in source.proto.opset_import}
        super().__init__(source.name, versions.get("", 0), versions, dict(source.detached), set())
        self.source = source
        try:
            linked = gs.import_onnx(source.proto)
        except Exception as error:
            raise UnsupportedError(f"{source.name}: cannot be read as a graph: {error}") from error
        for value in linked.tensors().values():
            if isinstance(value.dtype, onnx.TypeProto):  # an optional value
                value.dtype = None
        self.nodes.extend(linked.nodes)
        for node in self.nodes:
            complete(node, versions)
        self.forward_count = len(self.nodes)
        self._own.update(id(node) for node in self.nodes)
        self.values.update(linked.tensors())
        self.values.update({v.name: v for v in self._captured_only()})
        self.inputs.extend(linked.inputs)
        self.outputs.extend(linked.outputs)
        self.new_inputs: list[Value] = []
        self.new_outputs: list[Value] = []
        self._given = self.new_inputs
        self.metadata: dict[str, str] = {}
        self._refined: list[Value] = []
        self._reserved.update(name for node in self.nodes for body in node.subgraphs() for name in inner_names(body))
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
            linked = {v.name: v for v in operands(node)} if missing else {}
            yield from (linked.get(name) or gs.Variable(name) for name in missing)

    def _refine(self) -> None:
        """Completes the shapes that schema inference left open, with the shape arithmetic of the file carried out and
        the states of loops followed from step to step."""
        refined: set[str] = set()
        for node in self.nodes:
            control = any(True for _ in node.subgraphs())
            follows = control or any(i.name in refined for i in node.inputs)
            if all(is_fixed(o) if follows else has_sizes(o) for o in node.outputs if o.name):
                continue
            kinds = outcomes(self, node) if control else infer(node, self.opset, self.constant)
            for output, (dtype, shape) in zip(node.outputs, kinds, strict=False):
                if output.name and not isinstance(output, gs.Constant) and improve(output, dtype, shape):
                    self._refined.append(output)
                    refined.add(output.name)

    def forward_nodes(self) -> list[Node]:
        """The model's own nodes, in topological order."""
        return self.nodes[: self.forward_count]

    def add_output(self, value: Value, name: str | None = None) -> Value:
        """Make `value` a graph output, under `name` where one is given (through an Identity where it must be)."""
        rename = name is not None and name != value.name
        if rename or isinstance(value, gs.Constant) or self._is_taken(value):
            alias = gs.Variable(self.fresh(name or f"{value.name}/copy"), value.dtype, value.shape)
            self.append(Node("Identity", self.fresh(f"{alias.name}/Identity"), None, [value], [alias]))
            value = alias
        self.new_outputs.append(value)
        return value

    def _is_taken(self, value: Value) -> bool:
        taken = (*self.outputs, *self.new_outputs, *self.inputs, *self.new_inputs)
        return any(value.name == v.name for v in taken)

    def outputs_for(self, names: Iterable[str]) -> dict[str, str]:
        """{tensor: its output}: an existing output of the model, or one that is added."""
        own = {v.name for v in self.outputs}
        return {name: name if name in own else self.add_output(self[name]).name for name in names}

    def initializers(self) -> list[Initializer]:
        """Every initializer that the model's own nodes read, each once, with what it stands for."""
        return initializers(self.forward_nodes(), {v.name for v in self.inputs})

    def parameters(self) -> list[Initializer]:
        """The weights: `sum(p.size for p in graph.parameters())` is the number of parameters."""
        return [i for i in self.initializers() if i.role == "weight"]

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
        live = self.live(wanted, self.forward_count if outputs is None else 0)
        proto = copied(self.source.proto)
        original = list(proto.graph.node)
        kept = [n for n, alive in zip(original, live, strict=False) if alive]
        if len(kept) != len(original):
            replace_all(proto.graph.node, kept)
        new = [
            n for n, alive in zip(self.nodes[self.forward_count :], live[self.forward_count :], strict=True) if alive
        ]
        proto.graph.node.extend(export_node(n) for n in new)
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
                f"{self.name} has {total / 2**30:.1f} GiB of weights, which is over protobuf's limit of 2 GiB",
                "save it to a file instead; the weights are then stored beside it as external data",
            )
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
        return proto

    def _add_constants(
        self, proto: onnx.ModelProto, new: Sequence[Node], wanted: Sequence[Value]
    ) -> dict[str, np.ndarray]:
        used = {name for node in proto.graph.node for name in node.input}
        used |= {n for node in [*self.forward_nodes(), *new] for s in node.subgraphs() for n in outer_names(s)}
        used |= {v.name for v in wanted}
        present = {t.name for t in proto.graph.initializer}
        if not present <= used:
            replace_all(proto.graph.initializer, [t for t in proto.graph.initializer if t.name in used])
        weights = {name: array for name, array in self.detached.items() if name in used}
        for node in new:
            for value in operands(node):
                if not isinstance(value, gs.Constant) or value.name in present:
                    continue
                present.add(value.name)
                array = np.asarray(value.values)
                tensor = onnx.TensorProto(
                    name=value.name,
                    dims=array.shape,
                    data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                )
                if array.nbytes >= DETACH_BYTES:
                    weights[value.name] = array
                else:
                    tensor = numpy_helper.from_array(array, value.name)
                proto.graph.initializer.append(tensor)
        return weights

    def _add_annotations(self, proto: onnx.ModelProto, new: Sequence[Node], wanted: Sequence[Value]) -> None:
        names = {v.name for v in self.new_inputs} | {v.name for v in self._refined}
        proto.graph.input.extend(annotation(v) for v in self.new_inputs)
        refined = {v.name: annotation(v) for v in self._refined}
        declared = {o.name: o for o in proto.graph.output} | refined
        outputs = [declared.get(v.name) or annotation(v) for v in wanted]
        kept = {v.name for v in wanted}
        names |= kept
        replace_all(proto.graph.output, outputs)
        known = [v for v in proto.graph.value_info if v.name not in names]
        if len(known) != len(proto.graph.value_info):
            replace_all(proto.graph.value_info, known)
        live = {o for node in proto.graph.node for o in node.output}
        proto.graph.value_info.extend(a for n, a in refined.items() if n not in kept and n in live)
        proto.graph.value_info.extend(
            annotation(v)
            for node in new
            for v in node.outputs
            if v.name and v.name not in names and v.dtype is not None and v.shape is not None
        )
