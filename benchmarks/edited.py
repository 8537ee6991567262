"""An ONNX file in editing: what reads and makes a tensor, constants by value, nodes put in between."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[[np.ndarray], np.ndarray]


class Edited:
    """A copy of a model whose weights can be replaced, and whose tensors can be changed on their way."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copy.deepcopy(model)
        self.graph = self.model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._constants: dict[str, onnx.TensorProto] = {t.name: t for t in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._constants[node.output[0]] = attribute.t

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.graph.node)

    @property
    def outputs(self) -> list[str]:
        return list(dict.fromkeys(o.name for o in self.graph.output))

    @property
    def image(self) -> onnx.ValueInfoProto:
        """The first input that is no weight."""
        return next(i for i in self.graph.input if i.name not in self._constants)

    def producer(self, name: str) -> onnx.NodeProto | None:
        return next((n for n in self.graph.node if name in n.output), None)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [n for n in self.graph.node if name in n.input]

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a weight; None where a node computes it, or where it has no name."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def weight(self, node: onnx.NodeProto, index: int = 1) -> np.ndarray | None:
        return self.constant(node.input[index]) if len(node.input) > index else None

    def replace(self, name: str, change: Change | np.ndarray) -> None:
        """Gives a constant another value of the same type."""
        tensor = self._constants[name]
        old = numpy_helper.to_array(tensor)
        new = change(old) if callable(change) else change
        tensor.CopyFrom(numpy_helper.from_array(np.array(new, old.dtype, order="C"), tensor.name))

    def add(self, value: np.ndarray, name: str) -> str:
        """A new initializer."""
        taken = {t.name for t in self.graph.initializer}
        while name in taken:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self._constants[name] = self.graph.initializer[-1]
        return name

    def insert(self, at: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], behind: bool = True) -> None:
        """Puts nodes right before or behind a node of the graph."""
        rest = list(self.graph.node)
        index = next(i for i, n in enumerate(rest) if n is at or n == at) + behind
        del self.graph.node[:]
        self.graph.node.extend([*rest[:index], *nodes, *rest[index:]])

    def change(self, name: str, make: Callable[[str, str], Sequence[onnx.NodeProto]]) -> None:
        """Puts nodes behind a tensor that a node makes; `make(tensor, its changed value)` gives them.

        The changed value takes the tensor's name, so that outputs keep theirs.
        """
        producer = self.producer(name)
        assert producer is not None
        before = f"{name}/before"
        for i, output in enumerate(producer.output):
            if output == name:
                producer.output[i] = before
        self.insert(producer, make(before, name))

    def change_input(self, make: Callable[[str, str], Sequence[onnx.NodeProto]]) -> None:
        """Puts nodes behind the picture."""
        name = self.image.name
        for node in self.graph.node:
            node.input[:] = [f"{name}/changed" if i == name else i for i in node.input]
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*make(name, f"{name}/changed"), *rest])

    def as_identity(self, node: onnx.NodeProto) -> None:
        """Leaves a node's first input as it is."""
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        node.input[:] = [node.input[0]]

    def finished(self) -> onnx.ModelProto:
        """The edited model; shapes that no longer hold are left to be inferred."""
        del self.graph.value_info[:]
        return self.model


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    rest = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*rest, helper.make_attribute(name, value)])


def dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value or None for d in value.type.tensor_type.shape.dim]
