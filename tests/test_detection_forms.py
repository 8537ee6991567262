"""The forms in which one detector is deployed find and explain the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import analyzer
from tests.models import node
from tests.test_detection import BOTH, SIDE, detector

Form = tuple[onnx.ModelProto, np.ndarray]


def after(nodes: list[onnx.NodeProto], kind: int, sizes: list[int]) -> onnx.ModelProto:
    """The detector behind nodes that make `first`, its own input, of an input of other type or sizes."""
    net = detector()
    for one in net.graph.node:
        one.input[:] = ["first" if name == "x" else name for name in one.input]
    nodes = [*nodes, *net.graph.node]
    del net.graph.node[:]
    net.graph.node.extend(nodes)
    net.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", kind, sizes))
    net.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "part"))
    return net


def half() -> Form:
    net = detector()
    for one in net.graph.initializer:
        if one.data_type == onnx.TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name))
    for value in (*net.graph.input, *net.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return net, BOTH.astype(np.float16)


def channels_last() -> Form:
    nodes = [node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2])]
    return after(nodes, onnx.TensorProto.FLOAT, [1, SIDE, SIDE, 3]), BOTH.transpose(0, 2, 3, 1)


def whole_numbers() -> Form:
    nodes = [
        node("Cast", ["x"], ["real"], to=1),
        node("Mul", ["real", "part"], ["scaled"]),
        node("Transpose", ["scaled"], ["first"], perm=[0, 3, 1, 2]),
    ]
    x = (BOTH * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return after(nodes, onnx.TensorProto.UINT8, [1, SIDE, SIDE, 3]), x


def open_axes() -> Form:
    net = detector()
    for value, axes in ((net.graph.input[0], (0, 2, 3)), (net.graph.output[0], (0, 2))):
        for axis in axes:
            size = value.type.tensor_type.shape.dim[axis]
            size.Clear()
            size.dim_param = f"{value.name}{axis}"
    return net, BOTH


def of_one_class() -> Form:
    net = detector()
    for one in net.graph.initializer:
        if one.name.startswith(("classes", "bias")):
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one)[:1], one.name))
        elif one.name.startswith("each"):
            one.CopyFrom(numpy_helper.from_array(np.array([0, 1, -1], np.int64), one.name))
    net.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    return net, BOTH


@pytest.mark.parametrize("form", [half, channels_last, whole_numbers, open_axes, of_one_class])
def test_the_same_is_found_and_explained(form: Callable[[], Form]) -> None:
    net, x = form()
    usual, found = analyzer.explain(detector(), BOTH, "layer-cam"), analyzer.explain(net, x, "layer-cam")
    expected = [p for p in usual.predicted() if form is not of_one_class or p.index == 0]
    assert [p.index for p in found.predicted()] == [p.index for p in expected]
    for one, other in zip(found.predicted(), expected, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.05) and one.score == pytest.approx(other.score, abs=2e-3)
    assert found.layer == usual.layer == "map8"
    assert np.allclose(found.heatmap, usual.heatmap, atol=5e-3)
