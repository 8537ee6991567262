"""Models with operators of a library: run where the library is given, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.errors import InputError, UnsupportedError
from analyzer.images import write_png

LIBRARY = "onnxruntime-extensions"
RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
IMAGE = PICTURE.transpose(2, 0, 1)[None].astype(np.float32) / 255


@pytest.fixture
def library() -> str:
    extensions = pytest.importorskip("onnxruntime_extensions", reason="needs the custom-ops extra")
    return str(extensions.get_library_path())


def custom_net(batch: int | str = 1, side: int | str = 12, opset: int = 17) -> onnx.ModelProto:
    """Conv, NegPos (its second output is max(x, 0)), Conv, Relu, GlobalAveragePool, Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["conv"]),
        helper.make_node("NegPos", ["conv"], ["negative", "positive"], "splitter", domain="ai.onnx.contrib"),
        helper.make_node("Conv", ["positive", "second"], ["deep"]),
        helper.make_node("Relu", ["deep"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"first": (6, 3, 3, 3), "second": (8, 6, 3, 3), "head": (8, 5)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])
    graph = helper.make_graph(nodes, "custom", [given], [result], weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.contrib", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def plain_net() -> onnx.ModelProto:
    """The same of standard operators."""
    made = custom_net()
    made.graph.node[1].CopyFrom(helper.make_node("Relu", ["conv"], ["positive"]))
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(custom_net(), tmp_path / "custom.onnx")
    onnx.save(plain_net(), tmp_path / "plain.onnx")
    (tmp_path / "notes.so").write_text("no library")
    write_png(tmp_path / "picture.png", PICTURE)
    return tmp_path


def test_without_its_library_the_hint_names_the_flag(run) -> None:
    for command in (
        ["explain", "custom.onnx", "picture.png"],
        ["features", "custom.onnx", "picture.png", "-l", "relu"],
    ):
        code, _, err = run(*command)
        assert code == 3, err
        assert "NegPos" in err and "--custom-ops LIBRARY" in err


@pytest.mark.parametrize("given", ["absent.so", "notes.so"])
def test_a_file_that_is_no_library_is_named(run, given: str) -> None:
    code, _, err = run("explain", "custom.onnx", "picture.png", "--custom-ops", given)
    assert code == 2 and given in err and "library" in err and "Traceback" not in err


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_forward_methods_run_and_gradients_end_at_the_operator(library: str, opset: int) -> None:
    """Maps are those of the twin of standard operators, on layers after the operator; before it, it is named."""
    explainer = Explainer(custom_net(opset=opset), custom_ops=LIBRARY, threads=1)
    twin = Explainer(plain_net(), threads=1)
    options = ort.SessionOptions()
    options.register_custom_ops_library(library)
    stock = ort.InferenceSession(custom_net(opset=opset).SerializeToString(), options)
    for method, how in (("grad-cam", {}), ("occlusion", {"patch": 4}), ("rise", {"masks": 20}), ("score-cam", {})):
        found, expected = (e.explain(IMAGE, method, **how) for e in (explainer, twin))
        np.testing.assert_allclose(found.raw, expected.raw, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scores, stock.run(None, {"x": IMAGE})[0], rtol=1e-5)
        assert found.layer == expected.layer
    for how in ({"method": "gradient"}, {"layer": "conv"}):
        with pytest.raises(UnsupportedError, match="NegPos"):
            explainer.explain(IMAGE, **how)
    np.testing.assert_allclose(
        features(custom_net(opset=opset), IMAGE, "positive", custom_ops=library)["positive"],
        np.maximum(features(plain_net(), IMAGE, "conv")["conv"], 0),
        rtol=1e-5,
    )


def test_open_sizes_stay_open(library: str) -> None:
    explainer = Explainer(custom_net("n", "side"), custom_ops=[library], threads=1)
    assert explainer.plain["positive"].shape[1] == 6
    assert not isinstance(explainer.plain["positive"].shape[0], int)
    assert explainer.explain(np.concatenate([IMAGE, IMAGE])).layer == "relu"


def test_the_library_is_part_of_the_environment(library: str) -> None:
    (known,) = Explainer(custom_net(), custom_ops=library).environment["options"]["custom_ops"]
    assert len(known) == 64
    assert "custom_ops" not in Explainer(plain_net()).environment["options"]


def test_the_command_line_runs_it(run, library: str) -> None:
    for given in (LIBRARY, library):
        code, out, err = run("explain", "custom.onnx", "picture.png", "--custom-ops", given, "--format", "json")
        assert code == 0, err
        assert json.loads(out)["results"][0]["maps"][0]["layer"] == "relu"
    code, out, err = run("compare", "plain.onnx", "custom.onnx", "picture.png", "--custom-ops", LIBRARY)
    assert code in (0, 1) and "outputs: 100.0%" in out, err


def test_only_what_is_given_is_loaded() -> None:
    with pytest.raises(InputError, match="no such library"):
        Explainer(plain_net(), custom_ops="elsewhere/lib.so")
