"""Models that take one picture without a batch axis: (C, H, W) or (H, W, C)."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer
from analyzer.images import write_png
from tests.models import model, node, small_cnn
from tests.test_detection import BOTH, detector


@pytest.fixture
def place(tmp_path):
    return tmp_path


def alone(net: onnx.ModelProto, layout: str) -> onnx.ModelProto:
    """The model with an input (C, H, W) or (H, W, C), which gets its batch axis inside."""
    net = onnx.ModelProto.FromString(net.SerializeToString())
    dims = net.graph.input[0].type.tensor_type.shape.dim
    name, sizes = net.graph.input[0].name, [d.dim_value for d in dims][1:]
    for one in net.graph.node:
        one.input[:] = ["batched" if i == name else i for i in one.input]
    nodes = [node("Unsqueeze", [name, "front"], ["batched"])]
    if layout == "HWC":
        nodes = [
            node("Transpose", [name], ["planes"], perm=[2, 0, 1]),
            node("Unsqueeze", ["planes", "front"], ["batched"]),
        ]
        sizes = [*sizes[1:], sizes[0]]
    del dims[:]
    for size in sizes:
        dims.add().dim_value = size
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "front"))
    for one in reversed(nodes):
        net.graph.node.insert(0, one)
    return net


MODELS = {"classifier": small_cnn(size=64, batch=1), "detector": detector()}


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_it_is_explained_as_with_a_batch_axis(kind: str, layout: str) -> None:
    x = BOTH if layout == "CHW" else BOTH.transpose(0, 2, 3, 1)
    wanted = analyzer.explain(MODELS[kind], BOTH, target="all" if kind == "detector" else 1)
    for given in (x, x[0]):
        found = analyzer.explain(alone(MODELS[kind], layout), given, target="all" if kind == "detector" else 1)
        assert found.layer == wanted.layer and np.allclose(found.heatmap, wanted.heatmap, atol=1e-6)
        assert [p.box for p in found.predicted()] == [p.box for p in wanted.predicted()]


@pytest.mark.parametrize("kind", list(MODELS))
def test_commands(kind: str, run, tmp_path) -> None:
    file, pictures = tmp_path / "m.onnx", tmp_path / "pictures"
    onnx.save(alone(MODELS[kind], "CHW"), file)
    pictures.mkdir()
    planes = (BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    for number in range(2):
        write_png(pictures / f"{number}.png", planes[::-1] if number else planes)
    code, out, err = run("explain", str(file), str(pictures / "0.png"), "--preset", "0-1", "--format", "json")
    assert code == 0, err
    wanted = analyzer.explain(MODELS[kind], BOTH)
    assert np.isclose(json.loads(out)["results"][0]["predictions"][0]["score"], wanted.predicted()[0].score)
    code, out, err = run("compare", str(file), str(file), str(pictures), "--preset", "0-1", "--format", "json")
    assert code == 0, err
    code, out, err = run("audit", str(file), str(pictures), "--preset", "0-1", "--format", "json")
    assert code in (0, 1) and "pictures" in out, err
    code, out, err = run("export", str(file), "-o", str(tmp_path / "out.onnx"))
    assert code == 0 and "not measured" not in out, err
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    heat = session.run(["heatmap"], {"x": BOTH})[0]
    assert np.allclose(heat, wanted.heatmap, atol=1e-5)


def test_rows_of_points_are_no_picture() -> None:
    """(N, points, 3) whose axes stay."""
    weights = {"w": np.ones((3, 4), np.float32)}
    net = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 64, 3]}, {"y": None}, weights)
    explainer = Explainer(net)
    assert not explainer.without_batch and len(explainer.plain["x"].shape) == 3


def test_a_gradient_that_is_appended_keeps_the_inputs() -> None:
    vjp = analyzer.append_vjp(alone(MODELS["classifier"], "CHW"), ["probabilities"], ["x"])
    session = onnxruntime.InferenceSession(vjp.model.SerializeToString())
    assert [i.shape for i in session.get_inputs() if i.name == "x"] == [[3, 64, 64]]
