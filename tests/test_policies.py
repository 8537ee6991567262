"""Guided backpropagation and deconvnet beyond ReLU: which nodes they see, and what they do there."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import analyzer
from analyzer import append_vjp
from analyzer.analysis.rectifiers import gated_input
from analyzer.gradient.policies import GRADIENT, GUIDED, GUIDED_ALL
from analyzer.graph import Graph
from analyzer.runtime import Session
from tests import rule_checks
from tests.models import model, node, small_cnn
from tests.samples.pooling import SAMPLES

X = np.linspace(-4, 4, 33).astype(np.float32)
SEED = np.random.default_rng(0).standard_normal(33).astype(np.float32)
HALF, ROOT = np.float32(0.5), np.float32(math.sqrt(2))


def build(nodes: list, weights: dict | None = None, opset: int = 21) -> onnx.ModelProto:
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [33])] for n in ("x", "y")]
    graph = helper.make_graph(nodes, "test", *ends, [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def pull(given: onnx.ModelProto, policy: str) -> np.ndarray:
    result = append_vjp(given, ["y"], ["x"], policy)
    return Session(result.model).run({"x": X, result.cotangents["y"]: SEED})[result.gradients["x"]]


SINGLE = {
    "LeakyRelu": {"alpha": 0.1}, "Elu": {}, "Celu": {}, "Selu": {}, "Gelu": {}, "HardSwish": {}, "Mish": {},
}  # fmt: skip
COMPOSED = {
    "silu": ([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {}),
    "hard-swish": (
        [node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
         node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
    ),
    "hard-swish of keras": ([node("HardSigmoid", ["x"], ["s"], alpha=1 / 6), node("Mul", ["s", "x"], ["y"])], {}),
    "gelu, half last": (
        [node("Div", ["x", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
         node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])],
        {"root": ROOT, "one": np.float32(1), "half": HALF},
    ),
    "gelu, half first": (
        [node("Mul", ["x", "half"], ["h"]), node("Div", ["x", "root"], ["d"]), node("Erf", ["d"], ["e"]),
         node("Add", ["e", "one"], ["a"]), node("Mul", ["h", "a"], ["y"])],
        {"root": ROOT, "one": np.float32(1), "half": HALF},
    ),
    "gelu by tanh": (
        [node("Pow", ["x", "three"], ["p"]), node("Mul", ["p", "k"], ["q"]), node("Add", ["x", "q"], ["r"]),
         node("Mul", ["r", "c"], ["u"]), node("Tanh", ["u"], ["t"]), node("Add", ["t", "one"], ["a"]),
         node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "a"], ["y"])],
        {"three": np.float32(3), "k": np.float32(0.044715), "c": np.float32(math.sqrt(2 / math.pi)),
         "one": np.float32(1), "half": HALF},
    ),
    "mish": (
        [node("Softplus", ["x"], ["s"]), node("Tanh", ["s"], ["t"]), node("Mul", ["x", "t"], ["y"])], {},
    ),
}  # fmt: skip
CASES = {name: ([node(name, ["x"], ["y"], **attrs)], {}) for name, attrs in SINGLE.items()} | COMPOSED
CASES["PRelu"] = ([node("PRelu", ["x", "s"], ["y"])], {"s": np.full(33, 0.2, np.float32)})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_rectifier_that_blocks_everything_passes_what_would_open_it(sign: int) -> None:
    """lucid's truth table, test_gradient_override.py: only where nothing passes, and then only what is pushed up."""
    result = append_vjp(build([node("Relu", ["x"], ["y"])]), ["y"], ["x"], "redirected")

    def pulled(x: np.ndarray) -> np.ndarray:
        return Session(result.model).run({"x": x, result.cotangents["y"]: SEED * sign})[result.gradients["x"]]

    np.testing.assert_array_equal(pulled(np.full_like(X, -1)), np.maximum(SEED * sign, 0))
    one = np.where(np.arange(33) == 5, 1, -1).astype(np.float32)
    np.testing.assert_array_equal(pulled(one), np.where(one > 0, SEED * sign, 0))


@pytest.mark.parametrize("name", CASES)
def test_all_activations(name):
    """Guided: f′(x) ⊙ 1[x > 0] ⊙ max(ȳ, 0), f′ the gradient; deconvnet: max(ȳ, 0)."""
    given = build(*CASES[name])
    slope = pull(given, "gradient") / SEED
    positive = np.maximum(SEED, 0)
    assert np.allclose(pull(given, "guided-all"), slope * (X > 0) * positive, rtol=1e-5, atol=1e-6)
    assert np.allclose(pull(given, "deconvnet-all"), positive, rtol=1e-4, atol=1e-6)
    assert np.array_equal(pull(given, "guided"), pull(given, "gradient"))
    graph = Graph.read(given)
    assert sum(GUIDED_ALL.has_its_own(graph, n) for n in graph.nodes) == 1
    assert not any(GUIDED.has_its_own(graph, n) for n in graph.nodes)


def quantised(nodes: list, weights: dict) -> tuple[list, dict]:
    """The same with a QuantizeLinear and a DequantizeLinear, of 16 bits, before every operand."""
    weights = weights | {"step": np.float32(0.005), "middle": np.int16(0)}
    found = []
    for count, given in enumerate(nodes):
        copy = onnx.NodeProto.FromString(given.SerializeToString())
        for index, name in enumerate(given.input):
            part = f"{name}_{count}_{index}"
            found.append(node("QuantizeLinear", [name, "step", "middle"], [f"{part}_q"]))
            found.append(node("DequantizeLinear", [f"{part}_q", "step", "middle"], [f"{part}_d"]))
            copy.input[index] = f"{part}_d"
        found.append(copy)
    return found, weights


@pytest.mark.parametrize("name", COMPOSED)
def test_all_activations_with_quantisers_inside(name):
    given = build(*quantised(*COMPOSED[name]))
    graph = Graph.read(given)
    (product,) = (n for n in graph.nodes if GUIDED_ALL.has_its_own(graph, n))
    assert product.name in [n.name for n in COMPOSED[name][0]]
    assert not any(GUIDED.has_its_own(graph, n) for n in graph.nodes)
    assert np.allclose(pull(given, "deconvnet-all"), np.maximum(SEED, 0), rtol=1e-4, atol=1e-6)


RECTIFIERS = {
    "max": ([node("Max", ["zero", "x"], ["y"])], 1),
    "clip": ([node("Clip", ["x", "zero"], ["y"])], 1),
    "prelu": (
        [node("Relu", ["x"], ["p"]), node("Neg", ["x"], ["n"]), node("Relu", ["n"], ["r"]),
         node("Mul", ["r", "slope"], ["m"]), node("Sub", ["p", "m"], ["y"])],
        0,
    ),
    "guard of a root": (
        [node("Max", ["x", "zero"], ["r"]), node("Add", ["r", "slope"], ["a"]), node("Sqrt", ["a"], ["y"])], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize("form", [lambda nodes, weights: (nodes, weights), quantised], ids=["float", "quantised"])
def test_rectifiers_are_the_same_in_every_build(name, form):
    nodes, count = RECTIFIERS[name]
    used = {i for n in nodes for i in n.input}
    weights = {"zero": np.float32(0), "slope": np.float32(0.25)}
    given = build(*form(nodes, {n: w for n, w in weights.items() if n in used}))
    graph = Graph.read(given)
    assert sum(GUIDED.has_its_own(graph, n) for n in graph.nodes) == count
    expected = np.maximum(SEED, 0) * (X > 0) if count else pull(given, "gradient")
    found = pull(given, "guided")
    assert np.allclose(found[X != 0], expected[X != 0], atol=1e-6)


def test_products_that_are_no_activations():
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("Sigmoid", ["square"], ["gate"]),
        node("Sin", ["x"], ["wave"]),
        node("Mul", ["wave", "gate"], ["gated"]),
        node("ReduceMean", ["x"], ["mean"], keepdims=1),
        node("Sigmoid", ["mean"], ["excited"]),
        node("Mul", ["gated", "excited"], ["y"]),
    ]
    graph = Graph.read(build(nodes))
    assert not [n.name for n in graph.nodes if gated_input(graph, n)]


@pytest.mark.parametrize(
    ("kind", "zero", "is_rectifier"), [("int8", -128, True), ("int8", 0, False), ("uint8", 0, True)]
)
def test_a_relu_inside_quantisation(kind, zero, is_rectifier):
    """The lowest number stands for 0 behind a linear operator; guided as Relu before the same quantisation."""
    weights = {"b": np.float32(0.25), "s": np.float32(0.05), "z": np.array(zero, kind)}
    ends = [node("QuantizeLinear", ["{}", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    ends[0].input[0] = "a"
    fused = build([node("Add", ["x", "b"], ["a"]), *ends], weights)
    graph = Graph.read(fused)
    assert sum(GUIDED.has_its_own(graph, n) for n in graph.nodes) == is_rectifier
    ends[0].input[0] = "r"
    explicit = build([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["r"]), *ends], weights)
    if is_rectifier:
        assert np.allclose(pull(fused, "guided"), pull(explicit, "guided"), atol=1e-6)
        deconvnet = np.where(X < 12, np.maximum(SEED, 0), 0)
        assert np.allclose(pull(fused, "deconvnet"), deconvnet, atol=1e-6)
    else:
        assert np.array_equal(pull(fused, "guided"), pull(fused, "gradient"))


def test_policies_keep_what_carries_cotangents():
    assert GUIDED.table["", "QuantizeLinear"].integer


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op == "MaxPool"], ids=lambda s: s.id)
def test_max_pooling_without_indices(sample, dynamic):
    """With ties: the first maximum takes the cotangent, as by the indices."""
    plain = rule_checks.build(sample, "float32", dynamic)
    x = np.round(rule_checks.typed(sample, "float32")[0])
    y = Session(plain).run({"x0": x})["y0"]
    ct = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    found = []
    for policy in (GRADIENT, GRADIENT.on("tensorrt")):
        result = append_vjp(plain, ["y0"], ["x0"], policy)
        feeds = {"x0": x, result.cotangents["y0"]: ct}
        found.append(Session(result.model).run(feeds)[result.gradients["x0"]])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    nodes = result.model.graph.node
    assert sum(n.op_type == "MaxPool" for n in nodes) == 1
    assert not any(a.name == "reduction" for n in nodes for a in n.attribute)


def test_max_pooling_of_integers_without_indices():
    scale = {"s": np.float32(0.25), "z": np.uint8(16)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MaxPool", ["q"], ["p"], kernel_shape=[3], strides=[2]),
        node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    given = model(nodes, {"x": [1, 1, 33]}, {"y": [1, 1, 16]}, scale, opset=21, ir=10)
    found = []
    for policy in (GRADIENT, GRADIENT.on("tensorrt")):
        result = append_vjp(given, ["y"], ["x"], policy)
        feeds = {"x": X.reshape(1, 1, 33), result.cotangents["y"]: SEED[:16].reshape(1, 1, 16)}
        found.append(Session(result.model).run(feeds)[result.gradients["x"]])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


@pytest.mark.parametrize("method", ["gradient", "guided-backprop", "deconvnet", "full-grad"])
def test_export_for_tensorrt(tmp_path, method):
    image = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    found = {}
    for runtime in ("onnxruntime", "tensorrt"):
        path = analyzer.export(small_cnn(batch=1), tmp_path / f"{runtime}.onnx", method, runtime=runtime)
        graph = onnx.load(path)
        found[runtime] = Session(graph).run({"x": image})["heatmap"]
        assert any(len(n.output) > 1 for n in graph.graph.node if n.op_type == "MaxPool") == (runtime == "onnxruntime")
    np.testing.assert_allclose(found["tensorrt"], found["onnxruntime"], atol=1e-5)
