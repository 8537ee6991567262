"""Deployed precisions: quantised models straight through, half precision with cotangents that survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.attribution.explainer import Explainer
from analyzer.images import decode, model_card
from analyzer.runtime import Session
from tests.models import model, node

ROOT = Path(__file__).resolve().parents[1]
RANGES = {"INT8": (-128, 127), "UINT8": (0, 255), "INT4": (-8, 7), "UINT4": (0, 15), "INT16": (-32768, 32767)}
RANGES |= {"FLOAT8E4M3FN": (-448, 448), "FLOAT8E5M2": (-57344, 57344)}


def pulled(nodes: list, x: np.ndarray, weights: list, seed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(y, gradient of Σ ȳ y with respect to x)."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    ends = ([helper.make_tensor_value_info("x", kind, x.shape)], [helper.make_tensor_value_info("y", kind, None)])
    given = helper.make_model(
        helper.make_graph(nodes, "test", *ends, weights), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    result = append_vjp(given, ["y"], ["x"])
    y = Session(given).run({"x": x})["y"]
    seed = np.ones_like(y) if seed is None else seed
    found = Session(result.model).run({"x": x, result.cotangents["y"]: seed})
    assert np.array_equal(found["y"], y)
    return y, found[result.gradients["x"]]


def array(values: np.ndarray, name: str, kind: str | None = None) -> onnx.TensorProto:
    if kind is None:
        return numpy_helper.from_array(np.asarray(values), name)
    values = np.asarray(values)
    return helper.make_tensor(name, TensorProto.DataType.Value(kind), values.shape, values.ravel())


# ---- Quantize and dequantize ----

SCALES = {
    "tensor": ((), {}, lambda s: s),
    "axis": ((3,), {"axis": 1}, lambda s: s[None, :, None]),
    "last axis": ((8,), {"axis": -1}, lambda s: s),
    "blocks": ((2, 3, 2), {"axis": 2, "block_size": 4}, lambda s: np.repeat(s, 4, axis=2)),
    "uneven blocks": ((2, 3, 3), {"axis": 2, "block_size": 3}, lambda s: np.repeat(s, 3, axis=2)[..., :8]),
}


@pytest.mark.parametrize("granularity", SCALES)
@pytest.mark.parametrize("kind", RANGES)
def test_quantised_and_back_is_straight_through(kind, granularity):
    """Against differences of the same without rounding: s (clip(x / s + z, lowest, highest) − z)."""
    shape, attrs, spread = SCALES[granularity]
    low, high = RANGES[kind]
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 0.02, shape)
    zero = np.zeros(shape) if "FLOAT8" in kind else rng.integers(low // 2, high // 2 + 1, shape)
    x = (rng.uniform(1.3 * low, 1.3 * high, (2, 3, 8)) * 0.015).astype(np.float32)
    seed = rng.standard_normal(x.shape).astype(np.float32)
    weights = [array(scale.astype(np.float32), "s"), array(zero, "z", kind)]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    s, z, wide = spread(scale), spread(zero), x.astype(np.float64)

    def smooth(at):
        return s * (np.clip(at / s + z, low, high) - z)

    expected = seed * (smooth(wide + 1e-7) - smooth(wide - 1e-7)) / 2e-7
    near = np.minimum(np.abs(x / s + z - low), np.abs(x / s + z - high)) < 1
    _, gradient = pulled(nodes, x, weights, seed)
    assert np.allclose(gradient[~near], expected[~near], rtol=1e-4, atol=1e-6)
    assert (expected == 0).any() and (np.abs(expected) > 1e-3).any()


# ---- Integer kernels ----


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("zeros", ["none", "one", "per column"])
def test_dynamic_matmul(kind, zeros):
    """y = s_x s_w (q − z_x) (W − z_w): differentiated as y = x ŵ, ŵ the dequantised weight."""
    rng = np.random.default_rng(1)
    limits = np.iinfo(kind)
    w = rng.integers(limits.min, limits.max, (6, 5)).astype(kind)
    offset = {"none": None, "one": np.array(3, kind), "per column": rng.integers(0, 9, 5).astype(kind)}[zeros]
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "sx", "zx"]),
        node("MatMulInteger", ["q", "w", "zx", *([] if offset is None else ["zw"])], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["sx", "sw"], ["s"]),
        node("Mul", ["f", "s"], ["y"]),
    ]
    weights = [array(w, "w"), array(np.float32(0.01), "sw")]
    weights += [] if offset is None else [array(offset, "zw")]
    x = rng.standard_normal((4, 6)).astype(np.float32)
    seed = rng.standard_normal((4, 5)).astype(np.float32)
    meant = 0.01 * (w.astype(np.float64) - (0 if offset is None else offset))
    y, gradient = pulled(nodes, x, weights, seed)
    assert np.allclose(y, x @ meant, atol=0.02 * np.abs(x @ meant).max())
    assert np.allclose(gradient, seed @ meant.T, rtol=1e-5, atol=1e-4)


def test_dynamic_convolution():
    """As for the product; the reference is the same convolution of the dequantised weight, whose gradient is linear."""
    rng = np.random.default_rng(2)
    w = rng.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    integer = [
        node("DynamicQuantizeLinear", ["x"], ["q", "sx", "zx"]),
        node("ConvInteger", ["q", "w", "zx", "zw"], ["i"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["sx", "sw"], ["s"]),
        node("Mul", ["f", "s"], ["y"]),
    ]
    meant = (0.01 * (w.astype(np.float64) - 120)).astype(np.float32)
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    weights = [array(w, "w"), array(np.float32(0.01), "sw"), array(np.uint8(120), "zw")]
    y, gradient = pulled(integer, x, weights)
    plain = [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])]
    expected, slope = pulled(plain, x, [array(meant, "w")])
    assert np.allclose(y, expected, atol=0.03 * np.abs(expected).max())
    assert np.allclose(gradient, slope, rtol=1e-5, atol=1e-4)


# ---- Half precision ----


@pytest.mark.parametrize(("first", "second", "seed"), [(1e4, 1e-4, 1e-3), (1e-3, 1e3, 200)])
def test_cotangents_of_half_precision_neither_vanish_nor_overflow(first, second, seed):
    """y = (x a) b with a b = 1, but ȳ b is below or above what float16 holds."""
    nodes = [node("Mul", ["x", "a"], ["t"]), node("Mul", ["t", "b"], ["y"])]
    weights = [array(np.float16(first), "a"), array(np.float16(second), "b")]
    x = np.array([0.5, -0.25, 0.125], np.float16)
    _, gradient = pulled(nodes, x, weights, np.full(3, seed, np.float16))
    assert gradient.dtype == np.float16 and np.allclose(gradient, seed, rtol=2e-3)


def half_masks() -> dict[str, tuple[list, dict]]:
    """{situation: (nodes from c, the result of a convolution, to m; their weights)}"""
    lo, six = np.float16(0), np.float16(0.6)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    places = np.tile(np.arange(16, dtype=np.int64)[::-1, None], (1, 4, 1, 16)).reshape(1, 4, 16, 16)
    return {
        "Clip from 0": ([node("Clip", ["c", "lo"], ["m"])], {"lo": lo}),
        "ReLU6": ([node("Clip", ["c", "lo", "hi"], ["m"])], {"lo": lo, "hi": six}),
        "Max with 0": ([node("Max", ["c", "lo"], ["m"])], {"lo": lo}),
        "Min": ([node("Min", ["c", "hi"], ["m"])], {"hi": six}),
        "Max of two": ([node("Neg", ["c"], ["n"]), node("Max", ["c", "n"], ["m"])], {}),
        "ReduceMax": ([node("ReduceMax", ["c", "axes"], ["m"])], {"axes": np.array([3])}),
        "ReduceMin": ([node("ReduceMin", ["c", "axes"], ["m"], keepdims=0)], {"axes": np.array([2])}),
        "GlobalMaxPool": ([node("GlobalMaxPool", ["c"], ["m"])], {}),
        "MaxPool": ([node("MaxPool", ["c"], ["m"], **pool)], {}),
        "HardSigmoid": ([node("HardSigmoid", ["c"], ["m"], alpha=0.4, beta=0.3)], {}),
        "Scatter": (
            [node("ScatterElements", ["c", "at", "c"], ["m"], axis=2, reduction="max")],
            {"at": places},
        ),
    }


@pytest.mark.parametrize("level", ["disable", "basic", "all"])
@pytest.mark.parametrize("policy", ["gradient", "guided"])
@pytest.mark.parametrize("situation", half_masks())
def test_masks_in_half_precision_are_those_of_the_float32_twin(situation, policy, level):
    """The runtime rounds one side of x = y and not the other: no mask may rest on that."""
    middle, weights = half_masks()[situation]
    rng = np.random.default_rng(3)
    weights |= {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float16) / 4, "b": np.full(4, 0.01, np.float16)}
    nodes = [node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), *middle, node("Mul", ["m", "m"], ["y"])]
    x = rng.standard_normal((1, 3, 16, 16)).astype(np.float16)
    gradients = []
    for kind in (np.float16, np.float32):
        given = {n: a if a.dtype.kind == "i" else a.astype(kind) for n, a in weights.items()}
        made = model(
            nodes, {"x": [1, 3, 16, 16]}, {"y": None}, given, 18, dtype=helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        )
        result = append_vjp(made, ["y"], ["x", "c"], policy=policy)
        y = Session(made).run({"x": x.astype(kind)})["y"]
        feeds = {"x": x.astype(kind), result.cotangents["y"]: np.ones_like(y)}
        found = Session(result.model, level=level).run(feeds)
        gradients.append([found[result.gradients[n]].astype(np.float64) for n in ("x", "c")])
    for half, twin in zip(*gradients, strict=True):
        assert np.linalg.norm(half - twin) <= 5e-3 * np.linalg.norm(twin) and twin.any()


def test_saturation_in_half_precision_is_ordered():
    """q is of a rounded x and the mask may see one that is not: |x / s + z − q| is no sign of saturation then."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-2, 2, (1, 1, 64, 64)).astype(np.float16)
    weights = [array(np.full((1, 1, 1, 1), 0.73, np.float16), "w"), array(np.float16(0.01), "s"), array(0, "z", "INT8")]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    _, gradient = pulled(nodes, x, weights)
    c = x.astype(np.float64) * np.float16(0.73)
    assert np.allclose(gradient[np.abs(c) < 1.26], 0.73, atol=2e-3) and not gradient[np.abs(c) > 1.3].any()


BUILDS = {"digits_cnn_fp16": 0.999, "digits_cnn_int8": 0.8, "digits_cnn_dynamo": 0.99999}


@pytest.mark.parametrize("build", BUILDS)
def test_builds_of_one_network_have_the_same_gradient(build):
    """Cosine with the gradient of the float32 build, over the example pictures."""
    cosines = []
    card = model_card(ROOT / "models" / "digits_cnn.onnx", input_shape=["n", 3, 96, 96], input_dtype=np.float32)
    pictures = sorted((ROOT / "examples").glob("digits_*.png"))
    images = np.concatenate([card.preprocess.apply(decode(p))[0] for p in pictures])
    reference = Explainer(ROOT / "models" / "digits_cnn.onnx").explain(images, "gradient", target=3).raw
    found = Explainer(ROOT / "models" / f"{build}.onnx").explain(images, "gradient", target=3).raw
    for a, b in zip(reference.astype(np.float64), found.astype(np.float64), strict=True):
        cosines.append(float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())))
    print(build, [round(c, 6) for c in cosines])
    assert min(cosines) > BUILDS[build]
