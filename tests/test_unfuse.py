"""Each fused operator against what it is taken apart into: onnxruntime's own kernel is the reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.passes.unfuse import LEFT, MS, TABLE
from analyzer.runtime import Session
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return RNG.integers(0, 255, shape).astype(np.uint8)


def i8(*shape):
    return RNG.integers(-127, 127, shape).astype(np.int8)


def seen(*shape):
    """A mask that hides some keys, never the first."""
    mask = (RNG.random(shape) > 0.4).astype(np.int32)
    mask[..., 0] = 1
    return mask


S, Z, ZI = np.float32(0.02), np.uint8(120), np.int8(0)
IMAGE, WEIGHT = f32(1, 3, 8, 8), f32(4, 3, 3, 3)
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
QUERY, KEY, BY_HEAD, PAST = f32(2, 5, 8), f32(2, 6, 8), f32(2, 2, 6, 4), f32(2, 2, 3, 4)
# operator, inputs (None where omitted), attributes, outputs; the first input is a graph input, the rest are weights
CASES = [
    ("FusedConv", [IMAGE, WEIGHT, f32(4)], {"activation": "Relu", **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT, f32(4), f32(1, 4, 8, 8)], {"activation": "Relu", **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "LeakyRelu", "activation_params": [0.2], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "Clip", "activation_params": [0.0, 1.0], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "HardSigmoid", "activation_params": [0.2, 0.5], **WINDOW}, 1),
    ("FusedConv", [IMAGE, WEIGHT], {"activation": "HardSwish", **WINDOW}, 1),
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
    ("MultiHeadAttention", [QUERY, BY_HEAD, BY_HEAD], {"num_heads": 2, "scale": 0.3}, 1),
    ("MultiHeadAttention", [QUERY, BY_HEAD, BY_HEAD, f32(24)], {"num_heads": 2}, 1),
    ("MultiHeadAttention", [QUERY, BY_HEAD, BY_HEAD, None, None, f32(1, 2, 5, 6)], {"num_heads": 2}, 1),
    ("MultiHeadAttention", [QUERY, KEY, f32(2, 6, 12), f32(28)], {"num_heads": 2}, 1),
    *(
        ("MultiHeadAttention", [QUERY, KEY, KEY, f32(24), mask], {"num_heads": 2, "unidirectional": one_way}, 1)
        for mask in (None, seen(2, 6), seen(2, 5, 6), np.array([3, 6], np.int32)) for one_way in (0, 1)
    ),
    *(
        (
            "MultiHeadAttention", [QUERY, KEY, KEY, None, None, None, PAST, PAST],
            {"num_heads": 2, "unidirectional": one_way}, 3,
        )
        for one_way in (0, 1)
    ),
    *(
        ("Attention", [QUERY, f32(8, 24), f32(24), mask], {"num_heads": 2, "unidirectional": one_way}, 1)
        for mask in (None, seen(2, 5), seen(2, 5, 5), np.array([3, 5], np.int32), np.array([4, 5, 1, 0], np.int32))
        for one_way in (0, 1)
    ),
    ("Attention", [QUERY, f32(8, 28), f32(28)], {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]}, 1),
    ("Attention", [QUERY, f32(8, 24), f32(24), None, f32(2, 2, 2, 3, 4)], {"num_heads": 2}, 2),
    ("QAttention", [u8(2, 5, 8), i8(8, 24), f32(24), S, S / 2, None, Z, ZI], {"num_heads": 2}, 1),
    *(
        ("RotaryEmbedding", [f32(*shape), places, f32(10, 4), f32(10, 4)], {"interleaved": pairs, **parts}, 1)
        for shape, places, parts in (
            ((2, 5, 16), RNG.integers(0, 10, (2, 5)), {}), ((2, 3, 5, 8), RNG.integers(0, 10, (2, 5)), {}),
            ((2, 5, 16), np.array([2]), {}),
            ((2, 5, 24), RNG.integers(0, 10, (2, 5)), {"num_heads": 2, "rotary_embedding_dim": 8}),
        )
        for pairs in (0, 1)
    ),
    *(
        (
            "EmbedLayerNormalization",
            [RNG.integers(0, 20, (2, 5)).astype(np.int32), kinds, f32(20, 8), f32(10, 8), table, f32(8), f32(8), mask],
            {}, 3,
        )
        for kinds, table, mask in (
            (RNG.integers(0, 2, (2, 5)).astype(np.int32), f32(2, 8), seen(2, 5)), (None, None, None),
        )
    ),
    ("FusedMatMul", [f32(2, 7, 3, 5), f32(4, 7, 3, 5)], {"transBatchA": 1, "transBatchB": 1, "transB": 1}, 1),
    ("FusedMatMul", [f32(5, 7, 3, 2), f32(7, 3, 5, 4)], {"transBatchA": 1, "transA": 1}, 1),
    ("DynamicQuantizeMatMul", [f32(2, 7, 64), i8(64, 33), S, ZI, f32(33)], {}, 1),
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


def build(op, inputs, attrs, domain=MS, outputs=1):
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(inputs[0]).dtype)
    weights = [numpy_helper.from_array(np.asarray(a), n) for a, n in zip(inputs[1:], names[1:], strict=True) if n]
    graph = helper.make_graph(
        [
            helper.make_node(
                op, names, ["y", *(f"y{i}" for i in range(1, outputs))], name="fused", domain=domain, **attrs
            )
        ],
        op,
        [helper.make_tensor_value_info("x0", kind, list(np.shape(inputs[0])))],
        [helper.make_empty_tensor_value_info(n) for n in ("y", "y1", "y2")[:outputs]],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(("op", "inputs", "attrs", "outputs"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_means_the_same(op, inputs, attrs, outputs):
    proto = build(op, inputs, attrs, outputs=outputs)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = Graph.read(proto)
    assert all(not n.domain for n in graph.nodes)
    results = Session(graph).run({"x0": inputs[0]}).values()
    for found, expected in zip(results, session.run(None, {"x0": inputs[0]}), strict=True):
        assert found.shape == expected.shape
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
        "MatMulNBits": "below", "MatMulBnb4": "below", "GatherBlockQuantized": "below",
        "ExpandDims": "as Unsqueeze", "BiasDropout": "training only", "BitmaskDropout": "training only",
        "BitmaskBiasDropout": "training only", "GemmFastGelu": "GPU only",
    }  # fmt: skip
    covered = {c[0] for c in CASES} | set(reasons)
    assert {op for domain, op in TABLE if domain == MS} <= covered


# ---- Attention that the CPU has no kernel for ----


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("packed", [2, 3])
def test_packed_queries_keys_and_values(packed, biased):
    """They mean what the same tensors mean one by one."""
    x, heads, width = f32(2, 5, 2, packed, 4), 2, 4
    bias = f32(24) if biased else None
    if packed == 3:
        parts = [x[:, :, :, i].reshape(2, 5, heads * width) for i in range(3)]
        given = build("MultiHeadAttention", [x, None, None, bias], {"num_heads": heads})
        feed = x
    else:
        query = f32(2, 6, heads * width)
        parts = [query, *(x[:, :, :, i].reshape(2, 5, heads * width) for i in range(2))]
        given = build("MultiHeadAttention", [query, x, None, bias], {"num_heads": heads})
        feed = query
        if biased:
            with pytest.raises(UnsupportedError, match="decompose MultiHeadAttention"):
                Graph.read(given)
            return
    apart = build("MultiHeadAttention", [*parts, bias], {"num_heads": heads})
    expected = ort.InferenceSession(apart.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x0": parts[0]}
    )[0]
    assert np.allclose(Session(Graph.read(given)).run({"x0": feed})["y"], expected, atol=1e-5)


PACKED = {"K": 32, "N": 4, "block_size": 32}
REFUSED = [
    ("MultiHeadAttention", [QUERY, KEY, KEY, None, np.array([3, 6, 0, 5, 10, 0, 6, 12], np.int32)], {"num_heads": 2}),
    ("Attention", [QUERY, f32(8, 24), f32(24)], {"num_heads": 2, "do_rotary": 1}),
    ("MatMulNBits", [f32(2, 32), u8(4, 1, 16), f32(4), None, np.zeros(32, np.int32)], PACKED),
    ("MatMulNBits", [f32(2, 32), u8(4, 1, 12), f32(4)], {**PACKED, "bits": 3}),
]


@pytest.mark.parametrize(("op", "inputs", "attrs"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_what_is_not_taken_apart_is_named(op, inputs, attrs):
    with pytest.raises(UnsupportedError, match=rf"cannot decompose {op} \(node 'fused'\)") as caught:
        Graph.read(build(op, inputs, attrs))
    assert caught.value.hint


# ---- Weights of a few bits ----


def gradient_of(given, x):
    """(y, the gradient of Σ y ⊙ seed, the seed)."""
    made = append_vjp(given, ["y"], ["x"])
    y = Session(Graph.read(given)).run({"x": x})["y"]
    seed = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    return y, Session(made.model).run({"x": x, made.cotangents["y"]: seed})[made.gradients["x"]], seed


def dense(rows, columns):
    weights = {"w": f32(rows, columns) / 5, "b": f32(columns)}
    nodes = [node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "b"], ["y"])]
    return model(nodes, {"x": [2, 9, rows]}, {"y": [2, 9, columns]}, weights, 21, 10), weights["w"]


NOISE = {2: 0.6, 4: 0.15, 8: 0.01}  # of the gradient, by the number of bits


@pytest.mark.parametrize("level", [None, 1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weight_only_quantisation(bits, block, symmetric, level):
    """The forward is the runtime's own; the last block is not full. Level 4 computes in eight bits."""
    pytest.importorskip("onnx_ir", reason="needs the torch extra")
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    given, weight = dense(72, 40)
    quantizer = MatMulNBitsQuantizer(given, bits, block, symmetric, level)
    quantizer.process()
    proto = quantizer.model.model
    assert proto.graph.node[0].op_type == "MatMulNBits"
    x = f32(2, 9, 72)
    expected = by_runtime(proto, x)
    y, slope, seed = gradient_of(proto, x)
    assert np.linalg.norm(y - expected) <= (5e-3 if level == 4 else 1e-6) * np.linalg.norm(expected)
    real = seed @ weight.T
    assert np.linalg.norm(slope - real) < NOISE[bits] * np.linalg.norm(real)
    assert not any("_Q" in t.name and "scales" not in t.name for t in Graph.read(proto).proto().graph.initializer)


def by_runtime(proto, x):
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def fused(op, inputs, attrs, x, output=TensorProto.FLOAT):
    """x and weights, of any type, through one operator of com.microsoft."""
    names = ["x", *(f"w{i}" if w is not None else "" for i, w in enumerate(inputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], "fused", domain=MS, **attrs)], op,
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(inputs) if w is not None],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)], ir_version=10
    )


@pytest.mark.parametrize("bias", [None, f32(4)])
def test_zero_points_in_floating_point_and_a_bias(bias):
    x, attrs = f32(3, 64), {"K": 64, "N": 4, "block_size": 32, "bits": 4}
    proto = fused("MatMulNBits", [u8(4, 2, 16), f32(4, 2), f32(4, 2) + 7, None, bias], attrs, x)
    y, *_ = gradient_of(proto, x)
    assert np.allclose(y, by_runtime(proto, x), rtol=1e-5, atol=1e-4)


def test_half_precision_with_packed_weights():
    x, attrs = f32(3, 64).astype(np.float16), {"K": 64, "N": 4, "block_size": 32, "bits": 4}
    proto = fused("MatMulNBits", [u8(4, 2, 16), (f32(4, 2) / 9).astype(np.float16)], attrs, x, TensorProto.FLOAT16)
    found, expected = Session(Graph.read(proto)).run({"x": x})["y"], by_runtime(proto, x)
    assert np.linalg.norm(found.astype(float) - expected) < 3e-3 * np.linalg.norm(expected.astype(float))


@pytest.mark.parametrize("kind", [0, 1])
def test_weights_of_bitsandbytes(kind):
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    given, weight = dense(72, 40)
    quantizer = MatMulBnb4Quantizer(given, kind, 32)
    quantizer.process()
    x = f32(2, 9, 72)
    y, slope, seed = gradient_of(quantizer.model.model, x)
    assert np.allclose(y, by_runtime(quantizer.model.model, x), rtol=1e-5, atol=1e-5)
    assert np.linalg.norm(slope - seed @ weight.T) < 0.2 * np.linalg.norm(seed @ weight.T)


def small(kind, *shape):
    """Every number that a type of four bits has."""
    low = -8 if kind == ml_dtypes.int4 else 0
    return RNG.integers(low, low + 16, shape).astype(kind)


INT4, UINT4 = ml_dtypes.int4, ml_dtypes.uint4
TABLES = [
    ([small(INT4, 9, 64), f32(9, 2)], {"block_size": 32}),
    ([small(UINT4, 9, 64), f32(9, 4), small(UINT4, 9, 4)], {"block_size": 16}),
    ([small(UINT4, 40, 8), f32(3, 8), small(UINT4, 3, 8)], {"block_size": 16, "quantize_axis": 0, "gather_axis": 1}),
    ([u8(9, 32), f32(9, 2)], {"block_size": 32, "bits": 4}),
    ([u8(9, 48), f32(9, 3), u8(9, 2)], {"block_size": 32, "bits": 4}),
    ([u8(9, 64), f32(9, 2), u8(9, 2)], {"block_size": 32, "bits": 8}),
    ([u8(9, 16), f32(9, 2)], {"block_size": 32, "bits": 2}),
    ([f32(9, 64).astype(ml_dtypes.float8_e4m3fn), f32(9, 1)], {"block_size": 0}),
]


@pytest.mark.parametrize(("inputs", "attrs"), TABLES)
def test_tables_of_a_few_bits(inputs, attrs):
    x = np.array([[0, 3], [5, -1]])
    attrs = {"quantize_axis": 1, **attrs}
    proto = fused("GatherBlockQuantized", [], attrs, x)
    proto.graph.node[0].input[:] = ["w0", "x", *(f"w{i}" for i in range(1, len(inputs)))]
    proto.graph.initializer.extend(numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(inputs))
    assert np.allclose(Session(Graph.read(proto)).run({"x": x})["y"], by_runtime(proto, x), rtol=1e-6)


# ---- Files saved by onnxruntime ----


def saved(proto, folder, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(folder / f"{level}.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / f"{level}.onnx")


def conv(x, y, filters, channels, size=3, groups=1, **attrs):
    """(node, its weights)."""
    weights = {f"{y}/w": f32(filters, channels // groups, size, size) / 4, f"{y}/b": f32(filters) / 4}
    pads = [size // 2] * 4
    return node("Conv", [x, *weights], [y], group=groups, pads=pads, **attrs), weights


def mobile(channels, act="Clip"):
    """Depthwise convolutions, ReLU6, a gate, an addition, a join, pools and an upsampling."""
    nodes, weights = [], {"zero": np.float32(0), "six": np.float32(6), "half": np.array([1, 1, 2, 2], np.float32)}

    def add(*made):
        for one in made:
            nodes.append(one[0])
            weights.update(one[1])

    def bend(x, y):
        inputs = [x, "zero", "six"] if act == "Clip" else [x]
        nodes.append(node(act, inputs, [y]))

    c = channels
    add(conv("x", "a", c, 3, strides=[2, 2]))
    bend("a", "a'")
    add(conv("a'", "d", c, c, groups=c))
    bend("d", "d'")
    nodes.append(node("GlobalAveragePool", ["d'"], ["g"]))
    add(conv("g", "g1", c, c, 1))
    nodes.append(node("Sigmoid", ["g1"], ["g2"]))
    nodes.append(node("Mul", ["d'", "g2"], ["gated"]))
    add(conv("gated", "e", c, c, 1))
    nodes.append(node("Add", ["e", "a'"], ["sum"]))
    nodes.append(node("MaxPool", ["sum"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    add(conv("p", "q", 2 * c, c))
    bend("q", "q'")
    nodes.append(node("AveragePool", ["q'"], ["r"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    nodes.append(node("Concat", ["q'", "r"], ["joined"], axis=1))
    add(conv("joined", "s", c, 4 * c, 1))
    nodes.append(
        node(
            "Resize",
            ["s", "", "half"],
            ["up"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    )
    add(conv("up", "t", 5, c))
    nodes.append(node("GlobalMaxPool", ["t"], ["m"]))
    nodes.append(node("Flatten", ["m"], ["y"]))
    return model(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 5]}, weights)  # fmt: skip


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize("channels", [8, 12, 16, 24, 32])
def test_saved_at_every_level(channels, level, tmp_path):
    given, x = mobile(channels), f32(1, 3, 16, 16)
    proto = saved(given, tmp_path, level)
    if level == "ALL" and not any(n.domain == "com.microsoft.nchwc" for n in proto.graph.node):
        pytest.skip("no blocked kernels on this machine")
    assert all(not n.domain for n in Graph.read(proto).nodes)
    (y, slope, _), (expected, expected_slope, _) = (gradient_of(p, x) for p in (proto, given))
    assert np.allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert np.linalg.norm(slope - expected_slope) <= 1e-5 * np.linalg.norm(expected_slope)


def test_guided_backpropagation_knows_a_fused_relu6(tmp_path):
    given, x = mobile(24), f32(1, 3, 16, 16)
    maps = []
    for proto in (given, saved(given, tmp_path, "EXTENDED"), saved(given, tmp_path, "ALL")):
        made = append_vjp(proto, ["y"], ["x"], policy="guided")
        seed = np.ones((1, 5), np.float32)
        maps.append(Session(made.model).run({"x": x, made.cotangents["y"]: seed})[made.gradients["x"]])
    assert all(np.allclose(m, maps[0], atol=1e-5 * np.abs(maps[0]).max()) for m in maps[1:])


def blocked_by_hand(block, channels, filters, wrong=False):
    """x → ReorderInput → Conv with Relu → depthwise Conv → ReorderOutput → y, and the plain network.

    As onnxruntime writes it on a machine with blocks of that size: channels are filled up with zeros.
    """
    w, d, b = f32(filters, channels, 3, 3), f32(filters, 1, 3, 3), f32(filters)
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    first, last = (
        node("Conv", ["x", "w", "b"], ["c"], **window),
        node("Conv", ["r", "d"], ["y"], group=filters, **window),
    )
    plain = model(
        [first, node("Relu", ["c"], ["r"]), last],
        {"x": [1, channels, 6, 6]}, {"y": [1, filters, 6, 6]}, {"w": w, "d": d, "b": b},
    )  # fmt: skip
    o, i = (-(-n // block) * block for n in (filters, channels))
    fill = [(0, o - filters), (0, i - channels), (0, 0), (0, 0)]
    whole = np.pad(w, fill, constant_values=float(wrong))
    by_block = whole.reshape(o // block, block, i // block, block, 3, 3).transpose(0, 2, 4, 5, 3, 1).reshape(o, i, 3, 3)
    deep = np.pad(d, [fill[0], *fill[2:], (0, 0)]).reshape(o // block, block, 1, 3, 3).transpose(0, 2, 3, 4, 1)
    weights = {"w": by_block, "b": np.pad(b, fill[0]), "d": deep.reshape(o, 1, 3, 3)}
    nchwc = {"domain": "com.microsoft.nchwc"}
    nodes = [
        node("ReorderInput", ["x"], ["i"], **nchwc),
        node("Conv", ["i", "w", "b"], ["r"], activation="Relu", **window, **nchwc),
        node("Conv", ["r", "d"], ["o"], group=o, **window, **nchwc),
        node("ReorderOutput", ["o"], ["y"], channels=filters, **nchwc),
    ]
    ends = {"x": [1, channels, 6, 6]}, {"y": [1, filters, 6, 6]}
    return model(nodes, *ends, weights, domains={"com.microsoft.nchwc": 1}), plain


@pytest.mark.parametrize(
    ("block", "channels", "filters"), [(8, 8, 24), (8, 20, 4), (16, 16, 36), (16, 32, 5), (8, 24, 40)]
)
def test_the_block_is_known_from_the_channels(block, channels, filters):
    given, plain = blocked_by_hand(block, channels, filters)
    x = f32(1, channels, 6, 6)
    (y, slope, _), (expected, expected_slope, _) = (gradient_of(p, x) for p in (given, plain))
    assert np.allclose(y, expected, atol=1e-5) and np.allclose(slope, expected_slope, atol=1e-4)


def test_blocks_that_do_not_fit_are_refused_with_the_way_out():
    given, _ = blocked_by_hand(8, 20, 5, wrong=True)
    with pytest.raises(UnsupportedError, match="blocks of 8 or 16") as caught:
        Graph.read(given)
    assert "extended" in caught.value.hint


def test_what_is_left_is_named_with_the_reason():
    lengths = [np.array([4]), np.array([4])]
    given = fused("RelativePositionBias", lengths, {"max_distance": 8}, f32(32, 2))
    with pytest.raises(UnsupportedError, match=r"RelativePositionBias \(1×: fused\): text models only"):
        append_vjp(given, ["y"], ["x"])
    assert not {op for domain, op in TABLE if domain == MS} & set(LEFT)


def test_what_reads_a_blocked_tensor_must_be_known():
    given, _ = blocked_by_hand(8, 8, 24)
    given.graph.node.insert(3, node("Softmax", ["o"], ["o'"], axis=1))
    given.graph.node[4].input[0] = "o'"
    with pytest.raises(UnsupportedError, match=r"Softmax \(node .* reads a blocked tensor"):
        Graph.read(given)


def test_normalisation_that_is_older_than_its_operator(tmp_path):
    """onnxruntime writes LayerNormalization into files of opset 13."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[-1]), node("Sub", ["x", "m"], ["d"]), node("Pow", ["d", "two"], ["q"]),
        node("ReduceMean", ["q"], ["v"], axes=[-1]), node("Add", ["v", "e"], ["s"]), node("Sqrt", ["s"], ["r"]),
        node("Div", ["d", "r"], ["n"]), node("Mul", ["n", "g"], ["w"]), node("Add", ["w", "b"], ["y"]),
    ]  # fmt: skip
    weights = {"two": np.float32(2), "e": np.float32(1e-5), "g": f32(8), "b": f32(8)}
    given, x = model(nodes, {"x": [2, 5, 8]}, {"y": None}, weights, 13), f32(2, 5, 8)
    proto = saved(given, tmp_path, "EXTENDED")
    assert [n.op_type for n in proto.graph.node] == ["LayerNormalization"]
    (y, slope, _), (expected, expected_slope, _) = (gradient_of(p, x) for p in (proto, given))
    assert np.allclose(y, expected, atol=1e-5) and np.allclose(slope, expected_slope, atol=1e-4)


def test_saved_optimised_model_is_taken_apart(tmp_path):
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
