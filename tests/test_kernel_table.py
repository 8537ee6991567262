"""Fallbacks on CUDA, told from the table; held against the partitioner itself where a GPU is present."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer.attribution import Explainer
from analyzer.commands import main
from analyzer.errors import InputError
from analyzer.graph import Graph
from analyzer.runtime import Session
from analyzer.runtime.kernel_table import predict
from analyzer.runtime.providers import cuda_problem
from tests.models import model, node

MODELS = Path(__file__).resolve().parents[1] / "models"


def predicted(*nodes, weights=None):
    return predict(Graph.read(model(list(nodes), {"x": [1, 4, 8, 8]}, {"y": None}, weights)).stub()[0], "cuda")


def test_operators_without_a_kernel_are_named():
    found = predicted(node("Relu", ["x"], ["r"]), node("Celu", ["r"], ["y"], "celu"))
    assert list(found.cpu) == ["Celu float32"] and not found.depends and not found.unknown
    assert found.runtime.startswith("1.")


def test_dilated_transposed_convolutions():
    weights = {"w": np.zeros((4, 2, 3, 3), np.float32)}
    plain = predicted(node("ConvTranspose", ["x", "w"], ["y"]), weights=weights)
    dilated = predicted(node("ConvTranspose", ["x", "w"], ["y"], dilations=[2, 2]), weights=weights)
    assert not plain.depends and list(dilated.depends) == ["ConvTranspose float32"]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "digits_cnn_int8", "digits_cnn_fp16"])
@pytest.mark.parametrize("method", ["grad-cam", "gradient", "guided-backprop", "deconvnet"])
def test_nothing_of_the_shipped_models_falls(name, method):
    explainer = Explainer(MODELS / f"{name}.onnx")
    shapes = {"image": (1, *explainer.plain.inputs[0].shape[1:])}
    compiled = explainer.compile(method, shapes=shapes)
    found = predict(compiled.graph.stub(compiled.names)[0], "cuda")
    assert not found.cpu and not found.depends
    if cuda_problem() is None:
        assert Session(compiled.graph, "cuda", outputs=compiled.names).fallbacks == []


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
    assert code == 0 and json.loads(out)["fallbacks"]["cpu"] == {}
    code, _, err = run("--provider", "coreml")
    assert code == 2 and "no table of kernels" in err


def test_there_is_no_table_for_others():
    with pytest.raises(InputError, match="there is one for cuda"):
        predict(Graph.read(model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": None})).stub()[0], "openvino")
