"""The floating-point scores that an output is computed from, and the quantisers of a model.

Found backwards from the output, by the producers of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx

from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Node, Value
from analyzer.graph.protos import all_nodes
from analyzer.graph.through import KEEPING, is_transparent

# ---- Logits ----

SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"}
_KEEPING_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Logits:
    """The scores before the last squashing function, and what was stripped on the way to them (operator names)."""

    value: Value
    stripped: tuple[str, ...]


def logits(graph: Graph, output: Value) -> Logits:
    """The floating-point scores of `output`: before Softmax, LogSoftmax or Sigmoid, if one ends the graph.

    Reshaping, casting and (de)quantising after them keep the order of the classes and are passed through.
    """
    value, stripped = output, list[str]()
    best = output
    while True:
        node = graph.producer(value)
        if node is None or node.domain:
            break
        if node.op in SQUASHING:
            best, value = node.inputs[0], node.inputs[0]
            stripped.append(node.op)
            break
        if not is_transparent(node, _KEEPING_ORDER):
            break
        value = node.inputs[0]
        if best is output and holds_floats(value) and not holds_floats(output):
            best = value
    return Logits(best, tuple(stripped))


def holds_floats(value: Value) -> bool:
    """Whether the elements are known to be floating-point numbers; bfloat16 goes by its number, 16."""
    return str(value.dtype) in ("float16", "float32", "float64", "16")


# ---- Quantisation ----

_QUANTISED = {"DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeLinear",
              "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger16", "MatMulNBits", "MatMulBnb4",
              "MatMulFpQ4", "GatherBlockQuantized"}  # fmt: skip


def is_quantised(proto: onnx.ModelProto) -> bool:
    """Whether a node of the file, of a body in it or of a function of it computes with quantised numbers."""
    nodes = [*all_nodes(proto.graph), *(n for f in proto.functions for n in f.node)]
    return any(n.op_type in _QUANTISED or n.op_type.startswith(_QUANTISED_NAMES) for n in nodes)


_QUANTISED_NAMES = ("QuantizeLinear", "QLinear", "QGemm", "QAttention", "QEmbed", "QMoE", "QOrdered")


class Quantisation(NamedTuple):
    """What a number stands for: (q − zero) · scale; 0 and 1 for real numbers."""

    zero: float = 0.0
    scale: float = 1.0

    def real(self, array: np.ndarray) -> np.ndarray:
        """The numbers that `array` stands for, in float32 if it is quantised; else `array`."""
        if self == REAL:
            return array
        return np.asarray((array.astype(np.float64) - self.zero) * self.scale, np.float32)


REAL = Quantisation()


def quantisation(graph: Graph, output: Value) -> Quantisation:
    """Of what `output` holds; that of real numbers if it is not quantised as a whole."""
    node = graph.producer(output)
    while node is not None and not node.domain and node.op in ("Identity", *_KEEPING_ORDER):
        node = graph.producer(node.inputs[0])
    return _step(graph, node) if node is not None and node.op == "QuantizeLinear" else REAL


def input_quantisation(graph: Graph, given: Value) -> Quantisation:
    """Of what an input holds, by the DequantizeLinear that alone reads it; that of real numbers if there is none."""
    while len(given.outputs) == 1:
        node = given.outputs[0]
        if node.op == "DequantizeLinear":
            return _step(graph, node)
        if node.domain or node.op not in ("Identity", "Transpose", *_KEEPING_ORDER):
            break
        given = node.outputs[0]
    return REAL


def _step(graph: Graph, node: Node) -> Quantisation:
    """Of a QuantizeLinear or DequantizeLinear with one constant scale."""
    known = [graph.constant(i) for i in node.inputs[1:] if i.name]
    if node.domain or not known or any(k is None or k.size != 1 for k in known):
        return REAL
    scale, *zero = (float(k.item()) for k in known if k is not None)
    return Quantisation(zero[0] if zero else 0.0, scale)


_MOVING = KEEPING | {*_KEEPING_ORDER, "Transpose", "Slice", "Gather", "Split", "Concat"}


def output_quantisers(graph: Graph, names: Iterable[str]) -> list[Node]:
    """The QuantizeLinear nodes between tensors and the last layers that compute them, the nearest first.

    Numbers that only move, squashing functions, the addition of a bias and what was appended to the model are passed.
    """
    own = {id(n) for n in graph.forward_nodes()}
    found: dict[int, Node] = {}
    waiting, seen = [graph[n] for n in names], set[str]()
    while waiting:
        value = waiting.pop(0)
        node = graph.producer(value)
        if node is None or value.name in seen:
            continue
        seen.add(value.name)
        if node.op == "QuantizeLinear" and not node.domain and id(node) in own:
            found[id(node)] = node
        if id(node) not in own:
            waiting += [i for i in node.inputs if i.name]
        elif node.domain:
            continue
        elif node.op in _MOVING | SQUASHING:
            waiting += node.inputs if node.op == "Concat" else node.inputs[:1]
        elif node.op == "Add" and any(graph.constant(i) is not None for i in node.inputs):
            waiting += [i for i in node.inputs if graph.constant(i) is None]
    return list(found.values())
