"""append_vjp as a whole: conventions at kinks, what can be asked for, refusals, gradients of gradients."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from analyzer import append_vjp
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.runtime import Session
from tests.models import model, node, small_cnn


def pull(given: onnx.ModelProto, feeds: dict[str, np.ndarray], wrt: list[str], output: str = "y", **options):
    """The gradients of the sum of `output`."""
    result = append_vjp(given, [output], wrt, **options)
    plain = Session(given).run(feeds)[output]
    found = Session(result.model).run({**feeds, result.cotangents[output]: np.ones_like(plain)})
    assert np.array_equal(found[output], plain)
    return [found[result.gradients[name]] for name in wrt]


def unary(op: str, size: int, weights: dict | None = None, **attrs) -> onnx.ModelProto:
    return model([node(op, ["x", *(weights or {})], ["y"], **attrs)], {"x": [1, 1, 1, size]}, {"y": None}, weights)


# ---- Products where the slope behind is infinite ----

LOW, HIGH = {"lo": np.float32(0)}, {"lo": np.float32(0), "hi": np.float32(6)}
MASKS = {
    "Relu": ([node("Relu", ["x"], ["r"])], {}),
    "Clip": ([node("Clip", ["x", "lo"], ["r"])], LOW),
    "ReLU6": ([node("Clip", ["x", "lo", "hi"], ["r"])], HIGH),
    "ReLU6 behind Conv": ([node("Conv", ["x", "one"], ["c"]), node("Clip", ["c", "lo", "hi"], ["r"])], HIGH),
    "Max": ([node("Max", ["x", "lo"], ["r"])], LOW),
    "HardSwish": ([node("HardSwish", ["x3"], ["r"])], {}),
    "HardSigmoid": ([node("HardSigmoid", ["x3"], ["r"], alpha=1 / 6)], {}),
    "ThresholdedRelu": ([node("ThresholdedRelu", ["x"], ["r"], alpha=0.0)], {}),
    "Shrink": ([node("Relu", ["x"], ["p"]), node("Shrink", ["p"], ["r"], lambd=0.0)], {}),
    "Where": (
        [node("Greater", ["x", "lo"], ["c"]), node("Where", ["c", "x", "lo"], ["r"])],
        LOW,
    ),
    "MaxPool": ([node("Relu", ["x"], ["p"]), node("MaxPool", ["p"], ["r"], kernel_shape=[1, 1])], {}),
    "Resize": (
        [node("Relu", ["x"], ["p"]), node("Resize", ["p", "", "twice"], ["r"], mode="linear")],
        {"twice": np.array([1, 1, 1, 2], np.float32)},
    ),
    "GridSample": (
        [node("Relu", ["x"], ["p"]), node("GridSample", ["p", "grid"], ["r"], align_corners=1)],
        {"grid": np.stack(np.meshgrid(np.linspace(-1, 1, 12), [0.0]), -1)[None].astype(np.float32)},
    ),
    "RoiAlign": (
        [node("Relu", ["x"], ["p"]), node("RoiAlign", ["p", "rois", "first"], ["r"], output_width=12, output_height=1)],
        {"rois": np.array([[0, 0, 12, 1]], np.float32), "first": np.zeros(1, np.int64)},
    ),
    "1x1 Conv with strides": (
        [node("Relu", ["x"], ["p"]), node("Conv", ["p", "one"], ["r"], strides=[2, 2])],
        {},
    ),
    "AveragePool": ([node("Relu", ["x"], ["p"]), node("AveragePool", ["p"], ["r"], kernel_shape=[1, 1])], {}),
}
POLES = {
    "Sqrt": ([node("Sqrt", ["r"], ["y"])], {}),
    "Pow ½": ([node("Pow", ["r", "e"], ["y"])], {"e": np.float32(0.5)}),
    "Pow −1": ([node("Pow", ["r", "e"], ["y"])], {"e": np.float32(-1)}),
    "Pow of a tensor": ([node("Pow", ["r", "e"], ["y"])], {"e": np.full((1, 1, 1, 1), 0.3, np.float32)}),
    "Log": ([node("Log", ["r"], ["y"])], {}),
    "Reciprocal": ([node("Reciprocal", ["r"], ["y"])], {}),
    "Div": ([node("Div", ["e", "r"], ["y"])], {"e": np.float32(2)}),
    "0 / 0": ([node("Mul", ["r", "r"], ["s"]), node("Div", ["s", "r"], ["y"])], {}),
    "Log of a multiple": ([node("Mul", ["r", "e"], ["s"]), node("Log", ["s"], ["y"])], {"e": np.float32(0.1)}),
    "a product with 1/r": ([node("Reciprocal", ["r"], ["s"]), node("Mul", ["s", "s"], ["y"])], {}),
    "LpPool, decomposed": (
        [
            node("Mul", ["r", "r"], ["s"]),
            node("Abs", ["s"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Sign", ["s"], ["g"]),
            node("Mul", ["g", "b"], ["m"]),
            node("Pow", ["m", "e"], ["y"]),
        ],
        {"e": np.float32(0.5)},
    ),
}


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_chooses_where_the_slope_behind_is_infinite(mask, pole):
    """0 where the mask blocks, as torch has it; elsewhere what differences of the forward give."""
    (first, known), (last, more) = MASKS[mask], POLES[pole]
    weights = {"one": np.ones((1, 1, 1, 1), np.float32), "three": np.float32(3), **known, **more}
    nodes = [node("Sub", ["x", "three"], ["x3"]), *first, *last]
    x = np.array([-2, -0.5, -0.0, 0, 0, 0.25, 0.5, 0.75, 2, 2.5, 3.5, 5], np.float32).reshape(1, 1, 1, 12)
    given = model(nodes, {"x": list(x.shape)}, {"y": None}, weights)
    result = append_vjp(given, ["y"], ["x"])

    def forward(at: np.ndarray) -> np.ndarray:
        return Session(given).run({"x": at.astype(np.float32)})["y"].astype(np.float64)

    y = forward(x)
    for level in ("disable", "all"):
        feeds = {"x": x, result.cotangents["y"]: np.ones_like(y, np.float32)}
        gradient = Session(result.model, level=level).run(feeds)[result.gradients["x"]]
        assert not gradient[x <= 0].any()
        for place in np.argwhere((x > 0) & np.isfinite(forward(x - 1e-2)) if y.shape == x.shape else x > 0):
            step = np.zeros(x.shape)
            step[tuple(place)] = 1e-2
            ahead, behind = forward(x + step), forward(x - step)
            changed = np.isfinite(ahead) & np.isfinite(behind) & (ahead != behind)
            slope = (ahead[changed] - behind[changed]).sum() / 2e-2
            assert gradient[tuple(place)] == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_masks_stay_products_where_no_slope_is_infinite():
    """Divisors and exponents that the file fixes are no poles, nor norms with an ε, nor what lies before the mask."""
    weights = {"two": np.float32(2), "eps": np.float32(1e-5), "lo": np.float32(0)}
    nodes = [
        node("Clip", ["x", "lo"], ["c"]),
        node("Log", ["c"], ["l"]),
        node("Relu", ["l"], ["r"]),
        node("Div", ["r", "two"], ["d"]),
        node("Pow", ["d", "two"], ["p"]),
        node("ReduceMean", ["p"], ["v"]),
        node("Add", ["v", "eps"], ["e"]),
        node("Sqrt", ["e"], ["s"]),
        node("Reciprocal", ["s"], ["i"]),
        node("Div", ["d", "s"], ["q"]),
        node("Mul", ["q", "i"], ["y"]),
    ]
    result = append_vjp(model(nodes, {"x": [1, 4]}, {"y": None}, weights), ["y"], ["x"])
    appended = [n.op_type for n in result.model.graph.node]
    assert "HardSigmoid" in appended  # the mask of the Relu
    assert appended.count("Where") == 2  # of the Clip, which the Log follows; of the Sqrt


@pytest.mark.parametrize("between", ["lo > hi", "lo = hi"])
def test_clip_between_crossed_bounds_is_hi(between):
    """ONNX: y = min(max(x, lo), hi), so that nothing of x is left."""
    hi = {"lo > hi": -1, "lo = hi": 2}[between]
    x = np.array([-3, -1, 0, 1, 3], np.float32)
    inputs = {"x": [5], "lo": [], "hi": []}
    given = model([node("Clip", ["x", "lo", "hi"], ["y"])], inputs, {"y": [5]})
    feeds = {"x": x, "lo": np.float32(2), "hi": np.float32(hi)}
    found = pull(given, feeds, ["x", "lo", "hi"])
    total = 5 if between == "lo > hi" else 1
    assert not found[0].any() and found[2] == total and found[1] == 5 - (5 if between == "lo > hi" else 1)


# ---- Ranks that are known only to the rule ----

RUN_TIME = {
    "ReduceMean": (node("ReduceMean", ["x", "axes"], ["t"]), {"axes": np.array([1])}, [2, 3, 4]),
    "STFT": (
        node("STFT", ["x", "step", "", "length"], ["t"]),
        {"step": np.int64(2), "length": np.int64(6)},
        [2, 14, 1],
    ),
}


@pytest.mark.parametrize("op", RUN_TIME)
def test_operands_that_come_when_the_model_runs(op):
    """As with the same operands in the file, where the shape of the result is not declared either."""
    operator, given, shape = RUN_TIME[op]
    nodes = [operator, node("Mul", ["t", "t"], ["y"])]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    open_model = model(nodes, {"x": shape}, {"y": list("abcd")[: 3 + (op == "STFT")]}, opset=18)
    for name, value in given.items():
        open_model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, np.shape(value)))
    (found,) = pull(open_model, {"x": x, **{n: np.asarray(v) for n, v in given.items()}}, ["x"])
    (expected,) = pull(model(nodes, {"x": shape}, {"y": None}, given, opset=18), {"x": x}, ["x"])
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


# ---- Conventions ----


def test_relu_has_slope_0_at_0():
    x = np.array([-1, -0.0, 0, 1e-30, 2], np.float32).reshape(1, 1, 1, 5)
    (gradient,) = pull(unary("Relu", 5), {"x": x}, ["x"])
    assert gradient.ravel().tolist() == [0, 0, 0, 1, 1]


def test_clip_passes_at_its_bounds():
    x = np.array([-1, 0, 3, 6, 7], np.float32).reshape(1, 1, 1, 5)
    (gradient,) = pull(unary("Clip", 5, {"lo": np.float32(0), "hi": np.float32(6)}), {"x": x}, ["x"])
    assert gradient.ravel().tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(("channels", "hi"), [(1, 6), (16, 6), (16, 5.3)])
def test_relu6_behind_a_convolution(channels, hi):
    """Exact at the bounds, also of 16 channels, which the runtime lays out in blocks."""
    hi = np.float32(hi)
    weights = {"w": np.eye(channels, dtype=np.float32)[:, :, None, None], "lo": np.float32(0), "hi": hi}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Clip", ["c", "lo", "hi"], ["y"])]
    x = np.array([-1, 0, 1e-30, 3, np.nextafter(hi, np.float32(0)), hi, 7], np.float32)
    shape = [1, channels, 1, 7]
    given = model(nodes, {"x": shape}, {"y": None}, weights)
    (gradient,) = pull(given, {"x": np.broadcast_to(x, shape).copy()}, ["x"])
    assert (gradient == [0, 0, 1, 1, 1, 0, 0]).all()


def test_max_pool_takes_the_first_maximum():
    x = np.array([1, 3, 3, 3, 2, 2], np.float32).reshape(1, 1, 1, 6)
    (gradient,) = pull(unary("MaxPool", 6, kernel_shape=[1, 3], strides=[1, 3]), {"x": x}, ["x"])
    assert gradient.ravel().tolist() == [0, 1, 0, 1, 0, 0]


def test_ties_of_max_share():
    nodes = [node("Max", ["x", "x2"], ["y"])]
    given = model(nodes, {"x": [3], "x2": [3]}, {"y": [3]})
    feeds = {"x": np.array([1, 2, 3], np.float32), "x2": np.array([1, 1, 4], np.float32)}
    a, b = pull(given, feeds, ["x", "x2"])
    assert a.tolist() == [0.5, 1, 0] and b.tolist() == [0.5, 0, 1]


def test_the_root_of_0_has_slope_0():
    (gradient,) = pull(unary("Sqrt", 2), {"x": np.array([0, 4], np.float32).reshape(1, 1, 1, 2)}, ["x"])
    assert gradient.ravel().tolist() == [0, 0.25]


# ---- What can be asked for ----


def swish() -> onnx.ModelProto:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
    return model(nodes, {"x": [2, 3]}, {"y": [2, 3]})


def test_swish_at_once_and_its_gate():
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    gate = 1 / (1 + np.exp(-x.astype(np.float64)))
    expected = gate + x * gate * (1 - gate)
    (gradient,) = pull(swish(), {"x": x}, ["x"])
    assert np.allclose(gradient, expected, atol=1e-6)
    gradient, of_gate = pull(swish(), {"x": x}, ["x", "s"])
    assert np.allclose(gradient, expected, atol=1e-6) and np.allclose(of_gate, x)


def test_inputs_weights_and_maps_of_one_model():
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    given = small_cnn(softmax=False)
    found = pull(given, {"x": x}, ["x", "w1", "b1", "w2", "w3", "b3", "r2", "p1"], "logits")
    shapes = [(2, 3, 12, 12), (8, 3, 3, 3), (8,), (16, 8, 3, 3), (16, 4), (4,), (2, 16, 12 // 2, 6), (2, 8, 6, 6)]
    assert [g.shape for g in found] == shapes
    assert np.allclose(found[5], 2)


def test_what_the_outputs_do_not_depend_on_is_zero_and_named():
    nodes = [node("Relu", ["x"], ["y"]), node("Relu", ["x2"], ["z"])]
    given = model(nodes, {"x": [3], "x2": [2]}, {"y": [3], "z": [2]})
    result = append_vjp(given, ["y"], ["x", "x2"])
    assert result.disconnected == ["x2"]
    feeds = {"x": np.ones(3, np.float32), "x2": np.ones(2, np.float32), result.cotangents["y"]: np.ones(3, np.float32)}
    assert Session(result.model).run(feeds)[result.gradients["x2"]].tolist() == [0, 0]


def test_the_first_outputs_are_the_original_ones():
    result = append_vjp(small_cnn(), ["probabilities"], ["x"])
    assert [o.name for o in result.model.graph.output] == ["probabilities", result.gradients["x"]]
    onnx.checker.check_model(result.model, full_check=True)


def test_a_policy_of_ones_own():
    def signed(op, primal, ct):
        """x̄ = sign ȳ"""
        return op.Sign(ct)

    x = np.array([-1, 2], np.float32).reshape(1, 1, 1, 2)
    (gradient,) = pull(unary("Relu", 2), {"x": x}, ["x"], policy={"Relu": signed})
    assert gradient.ravel().tolist() == [1, 1]


# ---- Refusals ----


def test_all_missing_rules_are_named_at_once():
    nodes = [
        node("Magic", ["x"], ["d"], "first", domain="acme"),
        node("Relu", ["d"], ["r"]),
        node("Frob", ["r"], ["y"], "second", domain="acme"),
    ]
    given = model(nodes, {"x": [2, 3, 3]}, {"y": None}, domains={"acme": 1})
    with pytest.raises(UnsupportedError) as caught:
        append_vjp(given, ["y"], ["x"])
    text = str(caught.value)
    assert all(name in text for name in ("acme::Magic", "first", "acme::Frob", "second"))


@pytest.mark.parametrize(
    ("outputs", "wrt", "error"),
    [(["nothing"], ["x"], NotFoundError), (["logits"], ["w9"], NotFoundError), (["top"], ["x"], InputError)],
)
def test_names_that_cannot_be(outputs, wrt, error):
    given = small_cnn(softmax=False)
    given.graph.node.append(helper.make_node("ArgMax", ["logits"], ["top"]))
    given.graph.output.append(helper.make_tensor_value_info("top", TensorProto.INT64, None))
    with pytest.raises(error):
        append_vjp(given, outputs, wrt)


# ---- Gradients of gradients ----


def test_the_appended_graph_can_be_differentiated():
    """Hessian times vector, against differences of the gradient."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32) * 0.4}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Tanh", ["c"], ["t"]),
        node("AveragePool", ["t"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Mul", ["p", "p"], ["q"]),
        node("ReduceSum", ["q"], ["y"], keepdims=0),
    ]
    first = append_vjp(model(nodes, {"x": [1, 3, 6, 6]}, {"y": []}, weights), ["y"], ["x"])
    gradient, seed = first.gradients["x"], first.cotangents["y"]
    second = append_vjp(first.model, [gradient], ["x"])
    x, v = (rng.standard_normal((1, 3, 6, 6)).astype(np.float32) for _ in range(2))
    session = Session(second.model)
    one = np.ones((), np.float32)
    run = lambda at: session.run({"x": at, seed: one, second.cotangents[gradient]: v})  # noqa: E731
    product = run(x)[second.gradients["x"]]
    step = 1e-2
    expected = (run(x + step * v)[gradient] - run(x - step * v)[gradient]) / (2 * step)
    assert np.linalg.norm(product - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("half_first", [False, True])
@pytest.mark.parametrize("tapped", [False, True])
def test_a_gelu_in_pieces(half_first, tapped):
    """Against finite differences, also where the gate's own gradient is asked for."""
    weights = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    nodes = [node("Div", ["x", "root"], ["t"]), node("Erf", ["t"], ["e"]), node("Add", ["e", "one"], ["g"])]
    if half_first:
        nodes += [node("Mul", ["g", "half"], ["h"]), node("Mul", ["x", "h"], ["y"])]
    else:
        nodes += [node("Mul", ["x", "g"], ["p"]), node("Mul", ["p", "half"], ["y"])]
    given = model(nodes, {"x": [1, 1, 1, 9]}, {"y": None}, weights)
    x = np.linspace(-4, 4, 9, dtype=np.float32).reshape(1, 1, 1, 9)
    found = pull(given, {"x": x}, ["x", "g"] if tapped else ["x"])
    gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
    expected = (gelu(x.astype(float) + 1e-4) - gelu(x.astype(float) - 1e-4)) / 2e-4
    assert np.abs(found[0] - expected).max() < 1e-5
    if tapped:
        assert np.abs(found[1] - x / 2).max() < 1e-6


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_by_an_exponent_in_the_file(exponent):
    """b̄ = Σ ȳ ⊙ xᵇ log x"""
    x = np.array([0.5, 1.5, 3], np.float32)
    given = model([node("Pow", ["x", "b"], ["y"])], {"x": [3]}, {"y": [3]}, {"b": np.float32(exponent)})
    result = append_vjp(given, ["y"], ["x", "b"])
    found = Session(result.model).run({"x": x, result.cotangents["y"]: np.ones(3, np.float32)})
    np.testing.assert_allclose(found[result.gradients["b"]], np.sum(x**exponent * np.log(x)), rtol=1e-5)
    np.testing.assert_allclose(found[result.gradients["x"]], exponent * x ** (exponent - 1.0), rtol=1e-5)


def test_no_region_has_no_gradient():
    """onnxruntime leaves a matrix product over nothing as the memory was: here, what another run left there."""
    nodes = [node("RoiAlign", ["x", "rois", "picture"], ["y"], output_height=7, output_width=7, sampling_ratio=2)]
    net = model(nodes, {"x": [1, 64, 10, 10], "rois": ["R", 4]}, {"y": ["R", 64, 7, 7]})
    net.graph.input.append(onnx.helper.make_tensor_value_info("picture", onnx.TensorProto.INT64, ["R"]))
    made = append_vjp(net, ["y"], ["x"])
    session = onnxruntime.InferenceSession(made.model.SerializeToString())
    for count in (50, 0, 30, 0, 0):
        feeds = {
            "x": np.ones((1, 64, 10, 10), np.float32),
            "rois": np.tile(np.array([[1, 1, 5, 5]], np.float32), (count, 1)),
            "picture": np.zeros(count, np.int64),
            made.cotangents["y"]: np.ones((count, 64, 7, 7), np.float32),
        }
        (found,) = session.run([made.gradients["x"]], feeds)
        assert found.any() == (count > 0)
