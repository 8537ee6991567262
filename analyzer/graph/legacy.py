"""Operators of opset 1 to 8 that the converter refuses, rewritten to what they mean today.

The new nodes are put in a domain that the converter leaves alone; attributes that became inputs become initializers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper

from analyzer.graph.bodies import Names

Rewrite = Callable[["_Old"], list[onnx.NodeProto]]


class _Old:
    """A node to rewrite."""

    def __init__(self, node: onnx.NodeProto, names: Names, aside: str) -> None:
        self.node, self.names, self.aside = node, names, aside
        self.attrs: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def constant(self, values: Any, dtype: Any, name: str) -> str:
        return self.names.constant(np.asarray(values, dtype), f"{self.node.output[0]}/{name}")

    def make(self, op: str, inputs: list[str], outputs: list[str] | None = None, **attrs: Any) -> onnx.NodeProto:
        """A node of today; its output gets a name of its own where none is given."""
        outputs = outputs or [self.names.fresh(f"{self.node.output[0]}/{op}")]
        name = self.node.name if outputs[0] in self.node.output else outputs[0]
        return onnx.helper.make_node(op, inputs, outputs, name, domain=self.aside, **attrs)


def modernize(graph: onnx.GraphProto, version: int, aside: str) -> None:
    """Rewrites the nodes of `graph` that stand at an opset before the first that the converter understands."""
    names = Names(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        before, rewrite = _TABLE.get(node.op_type, (0, None))
        old = _Old(node, names, aside)
        nodes += rewrite(old) if rewrite is not None and version < before and not node.domain else [node]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _batch_normalization(old: _Old) -> list[onnx.NodeProto]:
    """y = g (x − m) / √(v + ε) + b, with a statistic per element where `spatial` is 0."""
    if old.attrs.get("spatial", 1):
        return [old.node]
    x, gain, bias, mean, variance = old.node.input
    epsilon = old.constant(old.attrs.get("epsilon", 1e-5), np.float32, "epsilon")
    eps = old.make("CastLike", [epsilon, variance])
    centred = old.make("Sub", [x, mean])
    safe = old.make("Add", [variance, eps.output[0]])
    root = old.make("Sqrt", [safe.output[0]])
    scale = old.make("Div", [gain, root.output[0]])
    product = old.make("Mul", [centred.output[0], scale.output[0]])
    return [eps, centred, safe, root, scale, product, old.make("Add", [product.output[0], bias], [old.node.output[0]])]


def _cast(old: _Old) -> list[onnx.NodeProto]:
    """The type used to be written out."""
    to = old.attrs["to"]
    kind = onnx.TensorProto.DataType.Value(to.decode()) if isinstance(to, bytes) else to
    return [old.make("Cast", list(old.node.input), list(old.node.output), to=kind)]


def _pad(old: _Old) -> list[onnx.NodeProto]:
    """`paddings` are today's pads."""
    pads = old.constant(old.attrs["paddings"], np.int64, "pads")
    value = old.make("CastLike", [old.constant(old.attrs.get("value", 0.0), np.float32, "value"), old.node.input[0]])
    mode = old.attrs.get("mode", b"constant").decode()
    return [value, old.make("Pad", [old.node.input[0], pads, value.output[0]], list(old.node.output), mode=mode)]


def _split(old: _Old) -> list[onnx.NodeProto]:
    """In equal parts where no sizes are given."""
    inputs, attrs = list(old.node.input), {"axis": old.attrs.get("axis", 0)}
    if "split" in old.attrs:
        inputs = [inputs[0], old.constant(old.attrs["split"], np.int64, "split")]
    elif len(inputs) == 1:
        attrs["num_outputs"] = len(old.node.output)
    return [old.make("Split", inputs, list(old.node.output), **attrs)]


_TABLE: dict[str, tuple[int, Rewrite]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Cast": (6, _cast),
    "Pad": (2, _pad),
    "Split": (2, _split),
}
