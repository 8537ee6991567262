"""Models for idioms that look at more than one node, by the idiom's name; one input x, one output y."""

from __future__ import annotations

import math

import numpy as np
import onnx

from tests.models import model, node
from tests.samples import normal

GELU = [
    node("Erf", ["scaled"], ["erf"]),
    node("Add", ["erf", "one"], ["gate"]),
    node("Mul", ["x", "gate"], ["product"]),
    node("Mul", ["product", "half"], ["y"]),
]
NUMBERS = {"one": np.float32(1), "half": np.float32(0.5)}
VECTOR: tuple[dict, dict] = ({"x": [3, 8]}, {"y": [3, 8]})
PICTURE: tuple[dict, dict] = ({"x": [2, 3, 6, 6]}, {"y": [2, 4, 6, 6]})


def small(nodes: list[onnx.NodeProto], ends: tuple[dict, dict], weights: dict | None = None) -> onnx.ModelProto:
    return model(nodes, *ends, weights or {}, opset=21, ir=10)


MODELS: dict[str, list[onnx.ModelProto]] = {
    "silu_product": [
        small([node("Sigmoid", ["x"], ["gate"]), node("Mul", ["x", "gate"], ["y"])], VECTOR),
        small([node("Sigmoid", ["x"], ["gate"]), node("Mul", ["gate", "x"], ["y"])], VECTOR),
    ],
    "gelu_product": [
        small([node("Div", ["x", "root"], ["scaled"]), *GELU], VECTOR, {"root": np.float32(math.sqrt(2)), **NUMBERS}),
        small([node("Mul", ["x", "c"], ["scaled"]), *GELU], VECTOR, {"c": np.float32(math.sqrt(0.5)), **NUMBERS}),
    ],
    "relu6_behind_convolution": [
        small(
            [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Clip", ["c", "low", "high"], ["y"])],
            PICTURE,
            {"w": normal(4, 3, 3, 3).astype(np.float32), "low": np.float32(0), "high": np.float32(6)},
        )
    ],
}
