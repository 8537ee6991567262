"""What the initializers of a model stand for: weights, scales and zero points of quantisers, or other constants.

A file does not say what was learned; how a number is used does. What is computed from constants alone stands for
what its result stands for, so a weight is one in eight bits, transposed or cast as well. In arithmetic an array is a
weight straight after a layer (a bias) and between two layers (a norm's gain, an embedding of places); before the first
layer and after the last it is a constant (a mean of pixels, anchors), as single numbers and integers are everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from analyzer.graph.nodes import Node, Value, captures, count

Role: TypeAlias = Literal["weight", "scale", "zero point", "constant"]

# Operands that are weights where they do not depend on the input.
LAYERS = {
    "Conv": (1, 2), "ConvInteger": (1,), "ConvTranspose": (1, 2), "DeformConv": (1, 3), "Gemm": (0, 1, 2),
    "MatMul": (0, 1), "MatMulInteger": (0, 1), "Einsum": (0, 1, 2), "Gather": (0,),
    "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
}  # fmt: skip
NORMS = {
    "BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2), "RMSNormalization": (1,), "PRelu": (1,),
}  # fmt: skip
QUANTISERS: dict[str, dict[int, Role]] = {
    "QuantizeLinear": {1: "scale", 2: "zero point"},
    "DequantizeLinear": {1: "scale", 2: "zero point"},
    "ConvInteger": {2: "zero point", 3: "zero point"},
    "MatMulInteger": {2: "zero point", 3: "zero point"},
}
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Sum"})
_RANKED: tuple[Role, ...] = ("weight", "scale", "zero point", "constant")
_REPEATING = frozenset({"Expand", "Tile", "Slice", "Reshape"})  # only the size of the result follows other operands
_ARRANGED = ARITHMETIC | {"ConstantOfShape", "Range"}  # whose first operand is not the result under another name
_STRAIGHT = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"}) | ARITHMETIC
_STRAIGHT |= {"QuantizeLinear", "DequantizeLinear"}
_GIVEN, _AFTER, _NEXT = 1, 2, 3  # computed from the inputs; after a layer; straight after one


@dataclass(frozen=True)
class Initializer:
    """A stored tensor, what it stands for, and the node that uses it so (the layer of a weight)."""

    value: Value
    role: Role
    node: Node

    @property
    def size(self) -> int:
        """Its number of elements."""
        return count(self.value.shape) or 0


def initializers(nodes: Sequence[Node], inputs: Collection[str]) -> list[Initializer]:
    """Every initializer that nodes of a model read, each once."""
    reader = _Reader(inputs)
    reader.forward(nodes)
    reader.backward(nodes)
    return list(reversed(reader.found.values()))


class _Reader:
    """`stage` of tensors that depend on the inputs, `uses` of those that do not, `leads`: what a layer depends on."""

    def __init__(self, inputs: Collection[str]) -> None:
        self.stage = dict.fromkeys(inputs, _GIVEN)
        self.uses: dict[str, tuple[Role, Node]] = {}
        self.leads: set[str] = set()
        self.found: dict[str, Initializer] = {}

    def forward(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            read = node.inputs[:1] if node.op in _REPEATING else node.inputs
            stage = max((self.stage.get(n, 0) for n in [*(i.name for i in read), *captures(node)]), default=0)
            for body in node.subgraphs():
                self.stage.update(dict.fromkeys((i.name for i in body.inputs), max(stage, _GIVEN)))
                self.forward(body.nodes)
                stage = max([stage, _GIVEN, *(self.stage.get(o.name, 0) for o in body.outputs)])
            if not node.inputs or node.op in ("Shape", "Size"):
                stage = _GIVEN
            elif stage and self._is_layer(node):
                stage = _NEXT
            elif node.op not in _STRAIGHT:
                stage = min(stage, _AFTER)
            if stage:
                self.stage.update(dict.fromkeys((o.name for o in node.outputs if o.name), stage))

    def backward(self, nodes: Sequence[Node]) -> None:
        for node in reversed(nodes):
            for body in node.subgraphs():
                for inner, outer in zip(reversed(body.outputs), reversed(node.outputs), strict=False):
                    self.leads |= {inner.name} if outer.name in self.leads else set()
                    if outer.name in self.uses:
                        self.uses[inner.name] = self.uses[outer.name]
                self.backward(body.nodes)
            if self._is_layer(node) or any(o.name in self.leads for o in node.outputs):
                self.leads.update(i.name for i in node.inputs if i.name)
            for index, value in enumerate(node.inputs):
                if not value.name or value.name in self.stage:
                    continue
                use = self._use(node, index)
                known = self.uses.get(value.name, use)
                self.uses[value.name] = min(use, known, key=lambda u: _RANKED.index(u[0]))
                if isinstance(value, gs.Constant):
                    self.found[value.name] = Initializer(value, *self.uses[value.name])

    def _is_layer(self, node: Node) -> bool:
        """Whether a node weighs what it is given."""
        names = enumerate(i.name for i in node.inputs)
        return any(name and name not in self.stage and _is_weight(node, i, LAYERS) for i, name in names)

    def _use(self, node: Node, index: int) -> tuple[Role, Node]:
        """What the operand `index`, which does not depend on the inputs, stands for."""
        role = QUANTISERS.get(node.op, {}).get(index)
        if node.domain or role:
            return role or "constant", node
        value, output = node.inputs[index], node.outputs[0].name
        stage = self.stage.get(output, 0)
        if not stage:
            sizes = [count(i.shape) or 0 for i in node.inputs]
            largest = node.op in ARITHMETIC and sizes[index] == max(sizes)  # the others scale it
            inherits = largest or node.op == "Concat" or (node.op not in _ARRANGED and not index)
            return self.uses.get(output, ("constant", node)) if inherits else ("constant", node)
        learned = _is_weight(node, index, LAYERS | NORMS)
        if node.op in ARITHMETIC or node.op == "Concat":
            placed = (stage == _NEXT and node.op != "Concat") or (stage > _GIVEN and output in self.leads)
            learned = placed and count(value.shape) != 1 and _is_real(value)
        return ("weight" if learned else "constant"), node


def _is_weight(node: Node, index: int, table: Mapping[str, Collection[int]]) -> bool:
    """Whether an operand is a weight by its operator; tables of numbers are gathered from as well."""
    return (
        not node.domain
        and index in table.get(node.op, ())
        and (node.op != "Gather" or _is_real(node.inputs[index], integers=1))
    )


def _is_real(value: Value, integers: int = 0) -> bool:
    """Whether a tensor is of floating point, or of integers of so many bytes."""
    if not isinstance(value.dtype, np.dtype | type):
        return value.dtype is not None  # bfloat16, which NumPy has not
    dtype = np.dtype(value.dtype)
    return dtype.kind not in "iubOSU" or (dtype.kind in "iu" and dtype.itemsize <= integers)
