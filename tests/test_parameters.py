"""What initializers stand for: parameters are counted once and alike in float and quantised builds of a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.graph import Graph
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node

ROOT = Path(__file__).resolve().parents[1]


def parameters(path) -> int:
    return sum(p.size for p in Graph.read(path).parameters())


def roles(given) -> dict[str, str]:
    return {i.value.name: i.role for i in Graph.read(given).initializers()}


@pytest.mark.parametrize("build", ["dynamo", "fp16", "int8"])
def test_every_build_of_the_demo_model_has_as_many(build):
    assert (
        parameters(ROOT / f"models/digits_cnn_{build}.onnx") == parameters(ROOT / "models/digits_cnn.onnx") == 226_874
    )


@needs_corpus
@pytest.mark.parametrize(
    ("plain", "quantised", "number"),
    [
        ("mobilenet_v1_0.25_128_float", "mobilenet_v1_0.25_128_quant", 467_593),
        ("squeezenet1.1_torchscript_op7", "squeezenet1.1_ortquant_qdq_perchannel_s8", 1_235_496),  # torchvision's count
        ("vww_96_keras_op18", "vww_96_int8", 210_850),
    ],
)
def test_a_quantised_file_has_as_many_as_its_float_twin(plain, quantised, number):
    files = [CORPUS / "models" / f"{name}.onnx" for name in (plain, quantised)]
    assert [parameters(file) for file in files] == [number, number]


def test_what_quantisers_read():
    weights = {
        "w": np.ones((4, 3), np.int8), "s": np.ones(4, np.float32), "z": np.zeros(4, np.int8),
        "b": np.ones(4, np.int32), "t": np.ones(4, np.float32),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["wide"], axis=0),
        node("DequantizeLinear", ["b", "t"], ["bias"], axis=0),
        node("Gemm", ["x", "wide", "bias"], ["y"], transB=1),
    ]
    found = roles(model(nodes, {"x": [1, 3]}, {"y": None}, weights))
    assert found == {"w": "weight", "s": "scale", "z": "zero point", "b": "weight", "t": "scale"}


def test_scales_that_are_multiplied_in():
    """(w − zero) · scale in plain arithmetic: the operand of full size is the weight."""
    weights = {"w": np.ones((3, 4), np.int8), "s": np.ones(4, np.float32), "z": np.zeros(4, np.float32)}
    nodes = [
        node("Cast", ["w"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Sub", ["f", "z"], ["d"]),
        node("Mul", ["d", "s"], ["wide"]),
        node("MatMul", ["x", "wide"], ["y"]),
    ]
    found = roles(model(nodes, {"x": [1, 3]}, {"y": None}, weights))
    assert found == {"w": "weight", "s": "constant", "z": "constant"}


def test_arithmetic_by_its_place():
    """Pixels' mean, places' embedding, a class token, a layer's bias, anchors behind the last layer, one number."""
    weights = {
        "mean": np.ones((1, 1, 3), np.float32), "w": np.ones((3, 8), np.float32), "bias": np.ones(8, np.float32),
        "token": np.ones((1, 1, 8), np.float32), "place": np.ones((1, 5, 8), np.float32), "half": np.float32(0.5),
        "gain": np.ones(8, np.float32), "v": np.ones((8, 2), np.float32), "c": np.ones(2, np.float32),
        "anchor": np.ones((1, 5, 2), np.float32), "size": np.array([1, 5, 2], np.int64),
    }  # fmt: skip
    nodes = [
        node("Sub", ["x", "mean"], ["centred"]),
        node("MatMul", ["centred", "w"], ["m"]),
        node("Add", ["m", "bias"], ["patches"]),
        node("Concat", ["token", "patches"], ["all"], axis=1),
        node("Add", ["all", "place"], ["placed"]),
        node("Mul", ["placed", "half"], ["less"]),
        node("Sigmoid", ["less"], ["gate"]),
        node("Mul", ["gate", "gain"], ["normed"]),
        node("MatMul", ["normed", "v"], ["n"]),
        node("Add", ["n", "c"], ["out"]),
        node("Reshape", ["out", "size"], ["boxes"]),
        node("Sigmoid", ["boxes"], ["offsets"]),
        node("Add", ["offsets", "anchor"], ["y"]),
    ]
    found = roles(model(nodes, {"x": [1, 4, 3]}, {"y": None}, weights))
    learned = {"w", "bias", "token", "place", "gain", "v", "c"}
    assert {n for n, role in found.items() if role == "weight"} == learned
    assert {n for n, role in found.items() if role == "constant"} == {"mean", "half", "size", "anchor"}


def test_a_weight_that_two_layers_share_is_one():
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Transpose", ["w"], ["t"]), node("MatMul", ["a", "t"], ["y"])]
    given = model(nodes, {"x": [1, 3]}, {"y": None}, {"w": np.ones((3, 5), np.float32)})
    assert [(p.value.name, p.size) for p in Graph.read(given).parameters()] == [("w", 15)]


def test_by_layer():
    counted: Counter[str] = Counter()
    for p in Graph.read(ROOT / "models/digits_cnn_int8.onnx").parameters():
        counted[p.node.name] += p.size
    assert sum(counted.values()) == 226_874 and all(n for n in counted)
    assert {p.node.op for p in Graph.read(ROOT / "models/digits_cnn_int8.onnx").parameters()} == {"Conv", "Gemm"}
