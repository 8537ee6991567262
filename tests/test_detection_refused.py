"""Models that find nothing although their outputs have the shapes of detections or keypoints."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from analyzer.graph import Graph
from analyzer.tasks import recognise
from analyzer.tasks.detection import Detection
from analyzer.tasks.keypoints import Keypoints
from tests.models import model, node


def weight(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.2).astype(np.float32)


def pyramid(channels: int, kernel: int = 1, joined: bool = False, beside: int = 0) -> onnx.ModelProto:
    """Maps of 8 × 8, 4 × 4 and 2 × 2 places with so many channels, perhaps in one output (1, 84, channels), perhaps
    others of the same sizes with `beside` channels."""
    weights = {"stem": weight(16, 3, 3, 3), "down": weight(16, 16, 3, 3), "head": weight(channels, 16, kernel, kernel)}
    nodes, shapes = [], {}
    for level, (below, stride, side) in enumerate([("x", 8, 8), ("map0", 2, 4), ("map1", 2, 2)]):
        kernels = "down" if level else "stem"
        nodes += [
            node("Conv", [below, kernels], [f"conv{level}"], strides=[stride] * 2, pads=[1] * 4),
            node("Relu", [f"conv{level}"], [f"map{level}"]),
            node("Conv", [f"map{level}", "head"], [f"out{level}"], pads=[kernel // 2] * 4),
        ]
        shapes[f"out{level}"] = [1, channels, side, side]
        if joined:
            weights[f"sizes{level}"] = np.array([1, channels, side * side])
            nodes.append(node("Reshape", [f"out{level}", f"sizes{level}"], [f"row{level}"]))
        if beside:
            weights["beside"] = weight(beside, 16, 1, 1)
            nodes.append(node("Conv", [f"map{level}", "beside"], [f"beside{level}"]))
            shapes[f"beside{level}"] = [1, beside, side, side]
    if joined:
        nodes.append(node("Concat", [f"row{level}" for level in range(3)], ["columns"], axis=2))
        nodes.append(node("Transpose", ["columns"], ["memory"], perm=[0, 2, 1]))
        shapes = {"memory": [1, 84, channels]}
    return model(nodes, {"x": [1, 3, 64, 64]}, shapes, weights)


def chosen(steps: bool) -> onnx.ModelProto:
    """The seven surest classes and their scores, of a picture or of each step of a line."""
    nodes = [
        node("Conv", ["x", "stem"], ["conv"], strides=[8, 8], pads=[1] * 4),
        node("GlobalAveragePool", ["conv"], ["mean"]),
        node("Reshape", ["conv" if steps else "mean", "sizes"], ["row"]),
        node("Transpose", ["row"], ["rows"], perm=[0, 2, 1] if steps else [0, 1]),
        node("MatMul", ["rows", "classes"], ["logits"]),
        node("Softmax", ["logits"], ["shares"], axis=-1),
        node("TopK", ["shares", "seven"], ["values", "indices"], axis=-1),
    ]
    sizes = [1, 16, 64] if steps else [-1, 16]
    shape = [1, 64, 7] if steps else ["N", 7]
    weights = {
        "stem": weight(16, 3, 3, 3),
        "sizes": np.array(sizes),
        "classes": weight(16, 40),
        "seven": np.array([7]),
    }
    proto = model(nodes, {"x": [1 if steps else "N", 3, 64, 64]}, {"values": shape, "indices": shape}, weights)
    proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return proto


def three_maps() -> onnx.ModelProto:
    """A segmentation, an optical flow and coordinates of a texture, at a quarter of the size."""
    nodes = [
        node("Conv", ["x", "stem"], ["conv"], strides=[4, 4], pads=[1] * 4),
        node("Relu", ["conv"], ["map"]),
        node("Conv", ["map", "many"], ["seg"]),
        node("Conv", ["map", "two"], ["flow"]),
        node("Conv", ["map", "two"], ["uv"]),
    ]
    shapes = {"seg": [1, 20, 16, 16], "flow": [1, 2, 16, 16], "uv": [1, 2, 16, 16]}
    weights = {"stem": weight(16, 3, 3, 3), "many": weight(20, 16, 1, 1), "two": weight(2, 16, 1, 1)}
    return model(nodes, {"x": [1, 3, 64, 64]}, shapes, weights)


def tokens() -> onnx.ModelProto:
    """Two rows of 64 tokens each, twice as wide as the picture."""
    nodes = [
        node("Conv", ["x", "stem"], ["conv"], strides=[8, 8], pads=[1] * 4),
        node("Reshape", ["conv", "sizes"], ["columns"]),
        node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        node("MatMul", ["rows", "wide"], ["keys"]),
        node("Relu", ["keys"], ["values"]),
    ]
    weights = {"stem": weight(16, 3, 3, 3), "sizes": np.array([1, 16, 64]), "wide": weight(16, 128)}
    return model(nodes, {"x": [1, 3, 64, 64]}, {"keys": [1, 64, 128], "values": [1, 64, 128]}, weights)


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(pyramid(96, 3), id="maps of a pyramid"),
        pytest.param(pyramid(64, 3, beside=19), id="maps of a pyramid beside segmentations"),
        pytest.param(pyramid(32, joined=True), id="all places of a pyramid as tokens"),
        pytest.param(chosen(steps=False), id="the surest classes"),
        pytest.param(chosen(steps=True), id="the surest classes of each step"),
        pytest.param(three_maps(), id="three dense predictions"),
        pytest.param(tokens(), id="two rows of tokens"),
    ],
)
def test_other_models_of_such_shapes_are_no_detectors(proto: onnx.ModelProto):
    assert not isinstance(recognise(Graph.read(proto)), Detection | Keypoints)


def test_labels_tell_segmentations_at_several_strides_from_anchors():
    graph = Graph.read(pyramid(21))
    assert isinstance(recognise(graph, labels=["a", "b"]), Detection)
    assert not isinstance(recognise(graph, labels=[str(i) for i in range(21)]), Detection)
