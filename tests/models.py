"""Small models for tests, built with onnx.helper."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list],
    outputs: dict[str, list | None],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    ir: int = 8,
    dtype: int = TensorProto.FLOAT,
    domains: dict[str, int] | None = None,
    functions: list | None = None,
) -> onnx.ModelProto:
    """A ModelProto; inputs and outputs are {name: shape}."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=functions or [])


def node(op: str, inputs: list[str], outputs: list[str], name: str = "", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=name or f"{op}_{outputs[0]}", **attrs)


def small_cnn(
    classes: int = 4, softmax: bool = True, size: Any = 12, batch: Any = "N", seed: int = 0
) -> onnx.ModelProto:
    """Conv–Relu–MaxPool–Conv–Relu–GlobalAveragePool–Gemm(–Softmax)."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.3,
        "b1": rng.standard_normal(8).astype(np.float32) * 0.1,
        "w2": rng.standard_normal((16, 8, 3, 3)).astype(np.float32) * 0.2,
        "w3": rng.standard_normal((16, classes)).astype(np.float32),
        "b3": rng.standard_normal(classes).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("GlobalAveragePool", ["r2"], ["g"], "gap"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w3", "b3"], ["logits"], "fc"),
    ]
    output = "logits"
    if softmax:
        nodes.append(node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1))
        output = "probabilities"
    return model(nodes, {"x": [batch, 3, size, size]}, {output: [batch, classes]}, weights)
