"""What other runtimes need of an exported file: plain forms, weights of one role, the file's own opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import analyzer
from analyzer.graph import Builder, Graph
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


# ---- Pads ----


def padded(x: np.ndarray, pads: list[int], axes: list[int], number: float) -> np.ndarray:
    """ONNX's Pad: first what is added, then what a negative amount cuts off."""
    wide = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        wide[axis] = (max(pads[i], 0), max(pads[len(axes) + i], 0))
    x = np.pad(x, wide, constant_values=number)
    for i, axis in enumerate(axes):
        before, after = max(-pads[i], 0), max(-pads[len(axes) + i], 0)
        x = np.take(x, range(before, x.shape[axis] - after), axis)
    return x


@pytest.mark.parametrize("pads", [[-1, 2, 0, -3], [-2, 0, -1, 0], [1, 2, 3, 4], [-4, 5, 6, -6], [0, 0, 0, -1]])
@pytest.mark.parametrize("axes", [[2, 3], [1, 0], [-1, -2]])
@pytest.mark.parametrize("known", [True, False])
def test_no_pad_has_negative_amounts(pads, axes, known):
    inputs = {"x": ["n", "c", "h", "w"]}
    proto = model([node("Identity", ["x"], ["y"])], inputs, {"y": None}, {}, 21, 10)
    if not known:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("pads", onnx.TensorProto.INT64, [4]))
    graph = Graph.read(proto)
    op = Builder(graph)
    given = op.value(pads) if known else graph["pads"]
    graph.add_output(op.Pad(graph["x"], given, 2.0, axes), "z")
    for pad in [n for n in graph.nodes if n.op == "Pad"]:
        graph.add_output(pad.inputs[1], f"amounts of {pad.name}")
    x = RNG.standard_normal((5, 6, 7, 8)).astype(np.float32)
    found = run(graph.proto(), {"x": x} | ({} if known else {"pads": np.array(pads)}))
    np.testing.assert_array_equal(found.pop("z"), padded(x, pads, [a % 4 for a in axes], 2.0))
    assert all((amounts >= 0).all() for name, amounts in found.items() if name != "y")


@pytest.mark.parametrize("method", ["grad-cam", "gradient"])
@pytest.mark.parametrize("open_sizes", [True, False])
def test_an_exported_file_pads_by_no_negative_amount(tmp_path, method, open_sizes):
    """A strided convolution and a pool whose windows leave a rest, and padding that the gradient cuts off."""
    sizes = ["N", 3, "H", "W"] if open_sizes else [1, 3, 15, 14]
    weights = {
        "w1": RNG.standard_normal((8, 3, 3, 3)), "w2": RNG.standard_normal((16, 8, 3, 3)),
        "fc": RNG.standard_normal((16, 4)),
    }  # fmt: skip
    weights = {n: (w * 0.3).astype(np.float32) for n, w in weights.items()}
    weights["pads"] = np.array([0, 0, 1, 0, 0, 0, 0, 1])
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c1"], ["r1"]),
        node("AveragePool", ["r1"], ["a"], kernel_shape=[2, 2], strides=[3, 3]),
        node("Conv", ["a", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "fc"], ["y"]),
    ]
    proto = model(nodes, {"x": sizes}, {"y": None}, weights, 17)
    path = analyzer.export(proto, tmp_path / "m.onnx", method, 1, layer="r1" if method == "grad-cam" else "auto")
    written = onnx.load(path)
    amounts = [n.input[1] for n in written.graph.node if n.op_type == "Pad"]
    written.graph.output.extend(onnx.ValueInfoProto(name=name) for name in amounts)
    found = run(written, {"x": RNG.standard_normal((1, 3, 15, 14)).astype(np.float32)})
    assert amounts and all((found[name] >= 0).all() for name in amounts)
