"""Each fused operator against what it is taken apart into: onnxruntime's own kernel is the reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from analyzer import append_vjp
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.unfuse import MS, TABLE
from analyzer.runtime import Session

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return RNG.integers(0, 255, shape).astype(np.uint8)


def i8(*shape):
    return RNG.integers(-127, 127, shape).astype(np.int8)


S, Z, ZI = np.float32(0.02), np.uint8(120), np.int8(0)
IMAGE, WEIGHT = f32(1, 3, 8, 8), f32(4, 3, 3, 3)
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
# operator, inputs (None where omitted), attributes, outputs; the first input is a graph input, the rest are weights
CASES = [
    ("FusedConv", [IMAGE, WEIGHT, f32(4)], {"activation": "Relu", **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT, f32(4), f32(1, 4, 8, 8)], {"activation": "Relu", **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "LeakyRelu", "activation_params": [0.2], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "Clip", "activation_params": [0.0, 1.0], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "HardSigmoid", "activation_params": [0.2, 0.5], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "Tanh", **WINDOW}, 1),
    ("FusedGemm", [f32(2, 5), f32(5, 3), f32(3)], {"activation": "Relu", "alpha": 0.5}, 1),
    ("FusedGemm", [f32(2, 5), f32(3, 5), f32(3)], {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1}, 1),
    ("FusedMatMul", [f32(2, 3, 5), f32(2, 4, 5)], {"transB": 1, "alpha": 0.3}, 1),
    ("FusedMatMul", [f32(2, 5, 3), f32(5, 4)], {"transA": 1}, 1),
    ("Gelu", [f32(2, 5)], {}, 1),
    ("BiasGelu", [f32(2, 5), f32(5)], {}, 1),
    ("FastGelu", [f32(2, 5), f32(5)], {}, 1),
    ("FastGelu", [f32(2, 5)], {}, 1),
    ("QuickGelu", [f32(2, 5)], {"alpha": 1.702}, 1),
    ("QuickGelu", [f32(2, 5)], {"alpha": 1.0}, 1),
    ("SkipLayerNormalization", [f32(2, 3, 8), f32(2, 3, 8), f32(8), f32(8), f32(8)], {"epsilon": 1e-5}, 1),
    ("SkipSimplifiedLayerNormalization", [f32(2, 3, 8), f32(2, 3, 8), f32(8)], {"epsilon": 1e-5}, 1),
    ("MultiHeadAttention", [f32(2, 5, 8), f32(2, 5, 8), f32(2, 5, 8), f32(24)], {"num_heads": 2}, 1),
    ("Attention", [f32(2, 5, 8), f32(8, 24), f32(24)], {"num_heads": 2}, 1),
    ("QLinearAdd", [u8(2, 5), S, Z, u8(2, 5), S, Z, S * 2, Z], {}, 1),
    ("QLinearMul", [u8(2, 5), S, Z, u8(2, 5), S, Z, S, Z], {}, 1),
    ("QLinearLeakyRelu", [u8(2, 5), S, Z, S, Z], {"alpha": 0.1}, 1),
    ("QLinearSigmoid", [u8(2, 5), S, Z, np.float32(1 / 256), np.uint8(0)], {}, 1),
    ("QLinearSoftmax", [u8(2, 5), S, Z, np.float32(1 / 256), np.uint8(0)], {"axis": 1, "opset": 13}, 1),
    ("QLinearAveragePool", [u8(1, 3, 8, 8), S, Z, S, Z], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    ("QLinearGlobalAveragePool", [u8(1, 3, 8, 8), S, Z, S, Z], {"channels_last": 0}, 1),
    ("QLinearGlobalAveragePool", [u8(1, 8, 8, 3), S, Z, S, Z], {"channels_last": 1}, 1),
    ("QGemm", [u8(2, 5), S, Z, i8(5, 3), S, ZI, None, S * 5, Z], {"alpha": 1.0}, 1),
    ("QLinearConv", [u8(1, 3, 8, 8), S, Z, u8(4, 3, 3, 3), S, Z, S * 9, Z], WINDOW, 1),
    ("MatMulIntegerToFloat", [u8(2, 5), i8(5, 3), S, S, Z, ZI, f32(3)], {}, 1),
    ("DynamicQuantizeMatMul", [f32(2, 5), i8(5, 3), S, ZI, f32(3)], {}, 1),
    *(
        (
            "DynamicQuantizeLSTM",
            [f32(9, 1, 5), i8(d, 5, 12), i8(d, 3, 12), f32(d, 24), None, *states, None]
            + [np.full((d, *wide), S), np.full((d, *wide), ZI)] * 2,
            {"hidden_size": 3, "direction": direction},
            1,
        )
        for d, direction, wide, states in (
            (1, "forward", (), (None, None)), (1, "reverse", (12,), (None, None)),
            (2, "bidirectional", (), (f32(2, 1, 3), f32(2, 1, 3))),
        )
    ),
    ("Trilu", [f32(4, 5)], {"upper": 0}, 1),
    ("GridSample", [f32(1, 2, 5, 5), np.clip(f32(1, 4, 4, 2), -1, 1)], {"mode": "bilinear"}, 1),
]  # fmt: skip


def build(op, inputs, attrs, domain=MS):
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(inputs[0]).dtype)
    weights = [numpy_helper.from_array(np.asarray(a), n) for a, n in zip(inputs[1:], names[1:], strict=True) if n]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="fused", domain=domain, **attrs)],
        op,
        [helper.make_tensor_value_info("x0", kind, list(np.shape(inputs[0])))],
        [helper.make_empty_tensor_value_info("y")],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(("op", "inputs", "attrs", "outputs"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_means_the_same(op, inputs, attrs, outputs):
    proto = build(op, inputs, attrs)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x0": inputs[0]})[0]
    graph = Graph.read(proto)
    assert all(not n.domain for n in graph.nodes)
    found = Session(graph).run({"x0": inputs[0]})["y"]
    if expected.dtype.kind == "f":
        assert np.allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()))
    else:
        # Rounding may fall the other way where the fused kernel computes in another order.
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_the_gradient_of_a_quantised_lstm_is_nearly_that_of_its_float_twin():
    x, w, r, b = f32(9, 1, 5), i8(2, 5, 12), i8(2, 3, 12), f32(2, 24)
    scale, zero = np.full(2, S), np.full(2, ZI)
    attrs = {"hidden_size": 3, "direction": "bidirectional"}
    quantised = build("DynamicQuantizeLSTM", [x, w, r, b, None, None, None, None, *[scale, zero] * 2], attrs)
    plain = build("LSTM", [x, *((v * S).astype(np.float32).transpose(0, 2, 1) for v in (w, r)), b], attrs, "")
    seed, found = f32(9, 2, 1, 3), []
    for proto in (quantised, plain):
        made = append_vjp(proto, ["y"], ["x0"])
        found.append(Session(made.model).run({"x0": x, made.cotangents["y"]: seed})[made.gradients["x0"]])
    assert np.linalg.norm(found[0] - found[1]) < 0.05 * np.linalg.norm(found[1])


@pytest.mark.parametrize(("activation", "bounds"), [("Relu", []), ("Clip", [0.0, 1.0])])
def test_a_rectifier_inside_a_fused_operator_is_guided(activation, bounds):
    """As where it is a node of its own."""
    attrs = {"activation": activation, **({"activation_params": bounds} if bounds else {}), **WINDOW}
    fused = build("FusedConv", [IMAGE, WEIGHT], attrs)
    plain = build("Conv", [IMAGE, WEIGHT], WINDOW, "")
    plain.graph.node[0].output[0] = "z"
    limits = [numpy_helper.from_array(np.float32(b), f"bound{b}") for b in bounds]
    plain.graph.initializer.extend(limits)
    plain.graph.node.append(helper.make_node(activation, ["z", *(t.name for t in limits)], ["y"]))
    seed, found = f32(1, 4, 8, 8), []
    for proto in (fused, plain):
        made = append_vjp(proto, ["y"], ["x0"], "guided")
        found.append(Session(made.model).run({"x0": IMAGE, made.cotangents["y"]: seed})[made.gradients["x0"]])
    assert np.allclose(found[0], found[1], atol=1e-5)


def test_every_row_has_a_case_or_a_reason():
    reasons = {
        "TransposeMatMul": "as FusedMatMul", "FusedMatMulActivation": "DirectML only", "BiasSplitGelu": "CUDA only",
        "BiasSoftmax": "CUDA only", "QLinearReduceMean": "no kernel left", "BiasAdd": "CUDA only",
        "GroupNorm": "CUDA only", "SkipGroupNorm": "CUDA only", "NhwcConv": "CUDA only",
        "NhwcFusedConv": "Arm float16 only", "NhwcMaxPool": "integers only; seen in test_corpus",
        "QLinearConcat": "its first inputs are weights; seen in test_corpus", 
        "QLinearWhere": "its first input is boolean",
        "QuantizeLinear": "as the standard operator", "DequantizeLinear": "as the standard operator",
        "ExpandDims": "as Unsqueeze", "BiasDropout": "training only", "BitmaskDropout": "training only",
    }  # fmt: skip
    covered = {c[0] for c in CASES} | set(reasons)
    assert {op for domain, op in TABLE if domain == MS} <= covered


def test_blocked_layouts_are_refused_with_the_way_out(tmp_path):
    proto = build("ReorderInput", [f32(1, 8, 4, 4)], {}, "com.microsoft.nchwc")
    with pytest.raises(UnsupportedError, match="blocked layout"):
        Graph.read(proto)


def test_saved_optimised_model_is_taken_apart(tmp_path):
    from tests.models import small_cnn

    proto = small_cnn()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options)
    saved = onnx.load(tmp_path / "optimised.onnx")
    assert any(n.domain == MS for n in saved.graph.node)
    image = f32(2, 3, 12, 12)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": image})[0]
    assert np.allclose(Session(Graph.read(saved)).run({"x": image})["probabilities"], expected, atol=1e-6)
