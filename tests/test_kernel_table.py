"""What CUDA and TensorRT do not take, told from the tables; CUDA's is held against the partitioner where a GPU is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer.attribution import Explainer
from analyzer.commands import main
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Graph
from analyzer.runtime import Session, providers
from analyzer.runtime.kernel_table import form, predict
from analyzer.runtime.providers import cuda_problem, resolve
from tests.models import model, node

MODELS = Path(__file__).resolve().parents[1] / "models"


def predicted(*nodes, weights=None, provider="cuda"):
    return predict(Graph.read(model(list(nodes), {"x": [1, 4, 8, 8]}, {"y": None}, weights)).stub()[0], provider)


def test_operators_without_a_kernel_are_named():
    found = predicted(node("Relu", ["x"], ["r"]), node("Celu", ["r"], ["y"], "celu"))
    assert list(found.refused) == ["Celu float32"] and not found.depends and not found.unknown
    assert found.runtime.startswith("onnxruntime 1.") and found.fall == "the CPU"


def test_dilated_transposed_convolutions():
    weights = {"w": np.zeros((4, 2, 3, 3), np.float32)}
    plain = predicted(node("ConvTranspose", ["x", "w"], ["y"]), weights=weights)
    dilated = predicted(node("ConvTranspose", ["x", "w"], ["y"], dilations=[2, 2]), weights=weights)
    assert not plain.refused and list(dilated.refused) == ["ConvTranspose dilated float32"]
    assert not plain.depends and not dilated.depends


def test_tensorrt_takes_no_indices():
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    plain = predicted(node("MaxPool", ["x"], ["y"], **pool), provider="tensorrt")
    switches = predicted(node("MaxPool", ["x"], ["y", "indices"], **pool), provider="tensorrt")
    assert not plain.refused and not plain.depends and plain.fall == "CUDA or the CPU"
    assert list(switches.refused) == ["MaxPool 2 outputs float32"] and "TensorRT-RTX" in switches.runtime


def test_tensorrt_adds_at_indices_by_a_plugin_only():
    indices, updates = np.zeros((1, 1), np.int64), np.zeros((1, 4, 8, 8), np.float32)
    by_nd = node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")
    found = predicted(by_nd, weights={"i": indices, "u": updates}, provider="tensorrt")
    assert list(found.refused) == ["ScatterND reduction=add float32"]
    along = node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction="add")
    weights = {"i": np.zeros(updates.shape, np.int64), "u": updates}
    assert list(predicted(along, weights=weights, provider="tensorrt").depends) == [
        "ScatterElements reduction=add float32"
    ]


def test_what_a_form_says():
    assert form(node("Conv", ["x", "w"], ["y"], dilations=[1, 2], group=4), {"w"}) == "Conv dilated"
    assert form(node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=0), {"s"}) == "Resize mode=linear"
    assert form(node("ReduceSum", ["x", "axes"], ["y"], keepdims=1), {"axes"}) == "ReduceSum"
    assert form(node("ReduceSum", ["x", "axes"], ["y"], keepdims=0), ()) == "ReduceSum keepdims=0 computed axes"
    assert form(node("Split", ["x"], ["a", "b"], num_outputs=2), ()) == "Split num_outputs=2"


CLASSIFIERS = ["digits_cnn", "digits_vit", "digits_cnn_int8", "digits_cnn_fp16"]
OTHERS = ["digits_segmenter", "digits_reader", "digits_detector", "digits_detector_int8", "digits_keypoints"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *OTHERS])
@pytest.mark.parametrize("method", ["grad-cam", "gradient", "guided-backprop", "deconvnet"])
def test_nothing_of_the_shipped_models_falls(name, method):
    explainer = Explainer(MODELS / f"{name}.onnx")
    shapes = {"image": (1, *explainer.plain.inputs[0].shape[1:])}
    compiled = explainer.compile(method, shapes=shapes)
    found = predict(compiled.graph.stub(compiled.names)[0], "cuda")
    assert not found.refused and not found.depends
    if cuda_problem() is None:
        assert Session(compiled.graph, "cuda", outputs=compiled.names).fallbacks == []


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "digits_cnn_fp16"])
@pytest.mark.parametrize("method", ["grad-cam", "gradient", "guided-backprop", "deconvnet"])
def test_tensorrt_takes_the_shipped_models(name, method):
    explainer = Explainer(MODELS / f"{name}.onnx")
    compiled = explainer.compile(method, shapes={"image": (1, *explainer.plain.inputs[0].shape[1:])})
    found = predict(compiled.graph.stub(compiled.names)[0], "tensorrt")
    assert not found.refused and not found.depends and not found.unknown


def test_the_command(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", "plan", str(MODELS / "digits_cnn.onnx"), *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    code, out, _ = run("--provider", "cuda")
    assert code == 0 and "fall to the CPU: none" in out
    code, out, _ = run("--provider", "cuda", "--format", "json")
    assert code == 0 and json.loads(out)["fallbacks"]["refused"] == {}
    code, out, _ = run("--provider", "tensorrt")
    assert code == 0 and "fall to CUDA or the CPU: none" in out
    code, _, err = run("--provider", "coreml")
    assert code == 2 and "no table of kernels" in err


def test_there_is_no_table_for_others():
    with pytest.raises(InputError, match="choose one of cuda"):
        predict(Graph.read(model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": None})).stub()[0], "openvino")


def test_what_tensorrt_leaves_goes_to_cuda(monkeypatch):
    monkeypatch.setattr(providers, "cuda_problem", lambda: None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(providers.NAMES.values()))
    cuda = ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})
    cpu = ("CPUExecutionProvider", {})
    assert resolve("tensorrt:1") == [("TensorrtExecutionProvider", {"device_id": 1}), cuda, cpu]
    assert resolve("cuda:1") == [cuda, cpu]
    assert resolve("openvino") == [("OpenVINOExecutionProvider", {}), cpu]
    assert resolve("cpu") == [cpu]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_memory_limit_goes_to_cuda(monkeypatch, provider):
    monkeypatch.setattr(providers, "cuda_problem", lambda: None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(providers.NAMES.values()))
    asked = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *args, **_: asked.extend(args[2]) or 1 / 0)
    with pytest.raises(UnsupportedError):
        Session(model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": None}), provider, memory_limit=1 << 29)
    assert dict(asked)["CUDAExecutionProvider"]["gpu_mem_limit"] == 1 << 29
