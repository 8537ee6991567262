"""Every rule has numbers that would notice its deletion: a row in `tests/samples`, or one of the checks below.

The checks are of operators that one node cannot sample: those with bodies, and those that round, whose gradient is that
of the function without its rounding. They differentiate that function by differences, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from analyzer import append_vjp
from analyzer.attribution.planning import MethodPlan
from analyzer.gradient.registry import GRADIENT, NOT_DIFFERENTIABLE
from tests.models import model, node
from tests.test_rules import SAMPLES

BY_FUNCTION_BODY = {"GroupNormalization"}  # sampled, but written out before rules see it
RNG = np.random.default_rng(0)


def gradient(net: onnx.ModelProto, x: np.ndarray, seed: np.ndarray, **feeds: np.ndarray) -> np.ndarray:
    """ȳ ∂y/∂x of the first output, as the appended graph gives it."""
    name, output = net.graph.input[0].name, net.graph.output[0].name
    vjp = append_vjp(net, [output], [name])
    session = ort.InferenceSession(vjp.model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {name: x, vjp.cotangents[output]: seed.astype(x.dtype), **feeds}
    return np.asarray(session.run([vjp.gradients[name]], given)[0])


def differences(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, seed: np.ndarray) -> np.ndarray:
    found, step = np.zeros(x.shape), 1e-6
    for at in np.ndindex(x.shape):
        moved = [x.astype(np.float64) for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        found[at] = ((f(moved[0]) - f(moved[1])) * seed).sum() / (2 * step)
    return found


def body(name: str, nodes: list[onnx.NodeProto], inputs: dict[str, list], outputs: dict[str, list]) -> onnx.GraphProto:
    kinds = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "on": (TensorProto.BOOL, [])}

    def infos(given: dict[str, list]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, *kinds.get(n, (TensorProto.FLOAT, s))) for n, s in given.items()]

    return helper.make_graph(nodes, name, infos(inputs), infos(outputs))


def check_if() -> None:
    """y = x² where the sum is positive, else 3 x"""
    square = body("square", [node("Mul", ["x", "x"], ["s"])], {}, {"s": [4]})
    triple = body("triple", [node("Mul", ["x", "three"], ["t"])], {}, {"t": [4]})
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=square, else_branch=triple),
    ]
    weights = {"zero": np.float32(0), "three": np.float32(3)}
    net = model(nodes, {"x": [4]}, {"y": [4]}, weights)
    for x in (np.array([1.0, 2, -0.5, 3]), np.array([-1.0, 0.5, -2, 0.25])):
        seed = RNG.standard_normal(4)
        expected = differences(lambda v: v**2 if v.sum() > 0 else 3 * v, x, seed)
        assert np.allclose(gradient(net, x.astype(np.float32), seed), expected, rtol=1e-4, atol=1e-5)


def check_loop() -> None:
    """v ← v ⊙ w + v ⊙ v, as often as an input says"""
    step = [
        node("Mul", ["v", "w"], ["vw"]),
        node("Mul", ["v", "v"], ["vv"]),
        node("Add", ["vw", "vv"], ["next"]),
        node("Identity", ["go"], ["on"]),
    ]
    each = body("step", step, {"i": [], "go": [], "v": [3]}, {"on": [], "next": [3]})
    weights = {"w": np.array([0.5, -0.25, 0.75], np.float32), "yes": np.array(True)}
    net = model([node("Loop", ["trips", "yes", "x"], ["y"], body=each)], {"x": [3]}, {"y": [3]}, weights)
    net.graph.input.append(helper.make_tensor_value_info("trips", TensorProto.INT64, []))

    def looped(v: np.ndarray) -> np.ndarray:
        for _ in range(3):
            v = v * weights["w"] + v * v
        return v

    x, seed = np.array([0.3, 0.6, -0.4]), RNG.standard_normal(3)
    found = gradient(net, x.astype(np.float32), seed, trips=np.array(3, np.int64))
    assert np.allclose(found, differences(looped, x, seed), rtol=1e-4, atol=1e-5)


def check_scan() -> None:
    """s ← s ⊙ x_t + x_t over the rows of x; y the states"""
    step = [node("Mul", ["s", "row"], ["m"]), node("Add", ["m", "row"], ["t"]), node("Identity", ["t"], ["seen"])]
    each = body("step", step, {"s": [2], "row": [2]}, {"t": [2], "seen": [2]})
    scan = node("Scan", ["start", "x"], ["last", "y"], body=each, num_scan_inputs=1)
    net = model([scan], {"x": [80, 2]}, {"y": [80, 2]}, {"start": np.array([0.5, -1], np.float32)})

    def scanned(rows: np.ndarray) -> np.ndarray:
        state, seen = np.array([0.5, -1.0]), []
        for row in rows:
            state = state * row + row
            seen.append(state)
        return np.stack(seen)

    x, seed = RNG.uniform(-0.9, 0.9, (80, 2)), RNG.standard_normal((80, 2))
    assert np.allclose(gradient(net, x.astype(np.float32), seed), differences(scanned, x, seed), rtol=1e-3, atol=1e-4)


def check_cast_like() -> None:
    """y = 2 x, by way of float64"""
    nodes = [
        node("CastLike", ["x", "like"], ["wide"]),
        node("Mul", ["wide", "like"], ["twice"]),
        node("Cast", ["twice"], ["y"], to=TensorProto.FLOAT),
    ]
    net = model(nodes, {"x": [5]}, {"y": [5]}, {"like": np.array(2.0)}, opset=19)
    x, seed = RNG.standard_normal(5), RNG.standard_normal(5)
    assert np.allclose(gradient(net, x.astype(np.float32), seed), differences(lambda v: 2 * v, x, seed), rtol=1e-5)


def check_quantize() -> None:
    """y = scale (clip(x / scale + zero, −128, 127) − zero), the same without rounding; per channel"""
    scale, zero = np.array([0.05, 0.02], np.float32), np.array([10, -20], np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        node("Mul", ["d", "d"], ["y"]),
    ]
    net = model(nodes, {"x": [3, 2]}, {"y": [3, 2]}, {"s": scale, "z": zero}, opset=19)
    x = np.array([[1.0, 0.5], [-2.0, 1.5], [9.0, -9.0]])  # the last row is beyond the range
    seed = RNG.standard_normal((3, 2))
    found = gradient(net, x.astype(np.float32), seed)

    def smooth(v: np.ndarray) -> np.ndarray:
        return (np.clip(v / scale + zero, -128, 127) - zero) * scale

    rounded = (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale
    expected = differences(smooth, x, seed * 2 * rounded)
    assert np.allclose(found, expected, rtol=1e-4) and (found[:2] != 0).all() and (found[2] == 0).all()


def dynamic(*tail: onnx.NodeProto, weights: dict[str, np.ndarray], shape: list, out: list) -> onnx.ModelProto:
    """x quantised by its own range, the tail, and what it gives as a float times both scales."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        *tail,
        node("Cast", ["integers"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "ws"], ["both"]),
        node("Mul", ["f", "both"], ["y"]),
    ]
    return model(nodes, {"x": shape}, {"y": out}, weights | {"ws": np.float32(0.1)})


def check_dynamic_quantize() -> None:
    """y = x², x quantised by its own range: without rounding it is x"""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Mul", ["d", "d"], ["y"]),
    ]
    net = model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {})
    x, seed = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))
    found = gradient(net, x.astype(np.float32), seed)
    assert np.allclose(found, differences(lambda v: v**2, x, seed), atol=2 * 6 / 255)


def check_matmul_integer() -> None:
    """y = x (W − zero) · scale"""
    codes, zero = RNG.integers(0, 255, (4, 3)).astype(np.uint8), np.uint8(120)
    tail = node("MatMulInteger", ["q", "w", "z", "wz"], ["integers"])
    net = dynamic(tail, weights={"w": codes, "wz": zero}, shape=[2, 4], out=[2, 3])
    x, seed = RNG.standard_normal((2, 4)), RNG.standard_normal((2, 3))
    expected = differences(lambda v: v @ ((codes - float(zero)) * 0.1), x, seed)
    assert np.allclose(gradient(net, x.astype(np.float32), seed), expected, rtol=1e-4, atol=1e-4)


def check_conv_integer() -> None:
    """y = x ∗ (W − zero) · scale, 1 × 1"""
    codes, zero = RNG.integers(0, 255, (3, 2, 1, 1)).astype(np.uint8), np.uint8(100)
    tail = node("ConvInteger", ["q", "w", "z", "wz"], ["integers"])
    net = dynamic(tail, weights={"w": codes, "wz": zero}, shape=[1, 2, 3, 3], out=[1, 3, 3, 3])
    x, seed = RNG.standard_normal((1, 2, 3, 3)), RNG.standard_normal((1, 3, 3, 3))
    kernel = (codes[:, :, 0, 0] - float(zero)) * 0.1
    expected = differences(lambda v: np.einsum("kc,nchw->nkhw", kernel, v), x, seed)
    assert np.allclose(gradient(net, x.astype(np.float32), seed), expected, rtol=1e-4, atol=1e-4)


CHECKS: dict[str, Callable[[], None]] = {
    "If": check_if,
    "Loop": check_loop,
    "Scan": check_scan,
    "CastLike": check_cast_like,
    "QuantizeLinear": check_quantize,
    "DynamicQuantizeLinear": check_dynamic_quantize,
    "MatMulInteger": check_matmul_integer,
    "ConvInteger": check_conv_integer,
}


@pytest.mark.parametrize("op", CHECKS)
def test_gradient_of(op: str) -> None:
    CHECKS[op]()


def test_every_rule_has_numbers_and_all_numbers_a_rule() -> None:
    sampled = {(s.domain, s.op) for s in SAMPLES if s.op not in BY_FUNCTION_BODY}
    assert sampled | {("", op) for op in CHECKS} == set(GRADIENT)
    assert not sampled & {("", op) for op in CHECKS}


def test_a_plan_lists_what_is_missing_first() -> None:
    plan = MethodPlan(
        "gradient", "y", ["x"], counts={"Add": 1, "Conv": 9, "Odd": 2}, equations={"Add": "a", "Conv": "c"}
    )
    assert [row[:3] for row in plan.rows()] == [("Odd", 2, "NO RULE"), ("Conv", 9, "rule"), ("Add", 1, "rule")]


def test_what_has_no_gradient_is_an_operator_and_has_a_reason() -> None:
    assert set(GRADIENT).isdisjoint(NOT_DIFFERENTIABLE)
    for (domain, op), why in NOT_DIFFERENTIABLE.items():
        assert domain == "com.microsoft" or onnx.defs.has(op, domain), op
        assert not onnx.defs.has(why) and why[:1].islower()
