"""Files of opset 1 to 10, and of opsets newer than the runtime's, against their meaning written in NumPy.

onnxruntime itself has no kernels for most operators before opset 7.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.graph import Graph
from analyzer.graph.legacy import OLDER
from analyzer.graph.normalize import NEWEST_IR, OPSET
from analyzer.runtime import Session
from tests.models import model, node

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def check(
    opset: int,
    nodes: list,
    x: np.ndarray,
    meaning: Callable[[np.ndarray], np.ndarray],
    weights: dict | None = None,
    gradient: bool = True,
) -> Graph:
    """The normalised model gives what `meaning` gives, and its gradient the differences of `meaning`."""
    arrays = {n: np.asarray(a) for n, a in (weights or {}).items()}
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", FLOAT, x.shape)]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]  # as before IR 4
    expected = meaning(x.astype(np.float64))
    outputs = [helper.make_tensor_value_info("y", FLOAT, expected.shape)]
    graph = helper.make_graph(nodes, "old", inputs, outputs, tensors)
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    read = Graph.read(given)
    assert read.opset == OPSET and [i.name for i in read.inputs] == ["x"]
    found = Session(read.proto()).run({"x": x})["y"]
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
    if gradient:
        result = append_vjp(given, ["y"], ["x"])
        seed, direction = RNG.standard_normal(expected.shape), RNG.standard_normal(x.shape)
        feeds = {"x": x, result.cotangents["y"]: seed.astype(np.float32)}
        pulled = Session(result.model).run(feeds)[result.gradients["x"]]
        sides = [meaning(x.astype(np.float64) + e * direction) for e in (1e-5, -1e-5)]
        slope = np.sum((sides[0] - sides[1]) * seed) / 2e-5
        assert np.sum(pulled * direction) == pytest.approx(slope, rel=2e-3, abs=1e-3)
    return read


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


# ---- Broadcasting with an axis ----

ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3,), 1), ((3, 4), 1), ((4,), 2), ((5,), None), ((4, 5), None), ((2,), 0), ((4,), -2)]
)
def test_arithmetic_aligned_at_an_axis(op, opset, shape, axis):
    b = np.abs(normal(*shape)) + 0.5
    options = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    start = 4 - len(shape) if axis is None else axis % 4
    wide = b.reshape(shape + (1,) * (4 - start - len(shape)))
    x = np.abs(normal(2, 3, 4, 5)) + 0.5
    check(opset, [node(op, ["x", "b"], ["y"], **options)], x, lambda v: ARITHMETIC[op](v, wide), {"b": b})


def test_the_second_operand_is_computed():
    """Its rank follows from the operators before it."""
    nodes = [
        node("Add", ["b", "b"], ["twice"]),
        node("Reshape", ["twice", ], ["row"], shape=[3]),
        node("Mul", ["x", "row"], ["y"], broadcast=1, axis=1),
    ]  # fmt: skip
    b = normal(3, 1)
    check(1, nodes, normal(2, 3, 4, 4), lambda v: v * (2 * b).reshape(3, 1, 1), {"b": b})


COMPARISONS = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


@pytest.mark.parametrize("op", COMPARISONS)
def test_logic_aligned_at_an_axis(op):
    nodes = [
        node("Greater", ["x", "zero"], ["a"], broadcast=1),
        node(op, ["a", "b"], ["c"], broadcast=1, axis=1),
        node("Cast", ["c"], ["y"], to=FLOAT),
    ]
    b = np.array([True, False, True])
    meaning = lambda v: COMPARISONS[op](v > 0, b.reshape(3, 1, 1)).astype(float)  # noqa: E731
    check(6, nodes, normal(2, 3, 4, 4), meaning, {"b": b, "zero": np.zeros(1, np.float32)}, gradient=False)


@pytest.mark.parametrize("opset", [1, 6])
def test_gemm_with_broadcast(opset):
    w, b = normal(4, 3), normal(4)
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], broadcast=1, transB=1)]
    check(opset, nodes, normal(2, 3), lambda v: v @ w.T + b, {"w": w, "b": b})


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_prelu_has_a_slope_per_channel(opset, channels):
    slope = np.abs(normal(channels))
    wide = slope.reshape(channels, 1, 1)
    check(
        opset,
        [node("PRelu", ["x", "s"], ["y"])],
        normal(2, 3, 4, 4),
        lambda v: np.where(v > 0, v, wide * v),
        {"s": slope},
    )


# ---- Normalisation and dropout in inference form ----


@pytest.mark.parametrize(
    ("opset", "options"), [(1, {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}), (6, {"is_test": 1}), (7, {})]
)
@pytest.mark.parametrize("spatial", [1, 0])
def test_batch_normalization_per_channel_or_per_element(opset, options, spatial):
    shape = (3,) if spatial else (3, 4, 4)
    weights = {"g": normal(*shape), "b": normal(*shape) + 1, "m": normal(*shape) / 2, "v": np.abs(normal(*shape)) + 0.5}
    g, b, m, v = (a.reshape(shape + (1,) * (3 - len(shape))) for a in weights.values())
    nodes = [node("BatchNormalization", ["x", *weights], ["y"], spatial=spatial, epsilon=1e-3, **options)]
    check(opset, nodes, normal(2, 3, 4, 4), lambda x: g * (x - m) / np.sqrt(v + 1e-3) + b, weights)


@pytest.mark.parametrize(
    ("opset", "options"), [(1, {"is_test": 1, "consumed_inputs": [0]}), (6, {"is_test": 1}), (7, {}), (10, {})]
)
def test_dropout_drops_nothing(opset, options):
    check(opset, [node("Dropout", ["x"], ["y"], ratio=0.5, **options)], normal(2, 3), lambda x: x)


# ---- Attributes that became inputs ----


def nearest(x: np.ndarray, height: int, width: int) -> np.ndarray:
    return x.repeat(height, axis=2).repeat(width, axis=3)


def bilinear(x: np.ndarray) -> np.ndarray:
    """Twice the size along both axes, x_in = x_out / 2, the last row and column repeated."""
    for axis in (2, 3):
        following = np.concatenate([np.delete(x, 0, axis), np.take(x, [-1], axis)], axis)
        x = np.stack([x, (x + following) / 2], axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [1, 7, 9])
def test_upsample(opset, mode):
    x = normal(1, 2, 3, 4)
    scales = np.array([1, 1, 2, 2], np.float32)
    name = "bilinear" if opset == 1 and mode == "linear" else mode
    options = {1: {"height_scale": 2.0, "width_scale": 2.0}, 7: {"scales": scales.tolist()}, 9: {}}[opset]
    inputs = ["x", "s"] if opset == 9 else ["x"]
    meaning = (lambda v: nearest(v, 2, 2)) if mode == "nearest" else bilinear
    check(
        opset,
        [node("Upsample", inputs, ["y"], mode=name, **options)],
        x,
        meaning,
        {"s": scales} if opset == 9 else None,
    )


def softmax_of_rows(x: np.ndarray, axis: int) -> np.ndarray:
    """Before opset 13: over all axes from `axis` on."""
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
    e = np.exp(rows - rows.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).reshape(x.shape)


X = normal(2, 3, 4, 5)
ATTRIBUTES = {
    "Reshape": (1, node("Reshape", ["x"], ["y"], shape=[0, -1]), lambda x: x.reshape(2, -1)),
    "Pad-1": (1, node("Pad", ["x"], ["y"], paddings=[0, 0, 1, 2, 0, 0, 2, 1], value=1.5),
              lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (2, 1)], constant_values=1.5)),
    "Pad-2": (2, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 2, 1], mode="reflect"),
              lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (2, 1)], mode="reflect")),
    "Clip-1": (1, node("Clip", ["x"], ["y"], min=-0.5, max=0.5, consumed_inputs=[0]), lambda x: x.clip(-0.5, 0.5)),
    "Clip-6": (6, node("Clip", ["x"], ["y"], min=-0.5), lambda x: x.clip(-0.5)),
    "Slice": (1, node("Slice", ["x"], ["y"], starts=[1, -3], ends=[99, -1], axes=[1, 3]), lambda x: x[:, 1:, :, -3:-1]),
    "Squeeze": (1, node("Squeeze", ["u"], ["y"], axes=[1]), lambda x: x),
    "ReduceSum": (1, node("ReduceSum", ["x"], ["y"], axes=[1, 3], keepdims=0), lambda x: x.sum((1, 3))),
    "ReduceMean": (1, node("ReduceMean", ["x"], ["y"]), lambda x: x.mean(keepdims=True)),
    "Concat": (1, node("Concat", ["x", "x"], ["y"]), lambda x: np.concatenate([x, x], 1)),
    "Softmax": (1, node("Softmax", ["x"], ["y"]), lambda x: softmax_of_rows(x, 1)),
    "Softmax, axis 2": (7, node("Softmax", ["x"], ["y"], axis=2), lambda x: softmax_of_rows(x, 2)),
    "LogSoftmax": (1, node("LogSoftmax", ["x"], ["y"]), lambda x: np.log(softmax_of_rows(x, 1))),
    "Cast": (1, node("Cast", ["x"], ["y"], to="FLOAT"), lambda x: x),
    "Relu": (1, node("Relu", ["x"], ["y"], consumed_inputs=[0]), lambda x: np.maximum(x, 0)),
    "Sum": (1, node("Sum", ["x", "x", "x"], ["y"], consumed_inputs=[0, 0, 0]), lambda x: 3 * x),
    "Flatten": (1, node("Flatten", ["x"], ["y"], axis=2), lambda x: x.reshape(6, 20)),
    "Gather": (1, node("Gather", ["x", "i"], ["y"], axis=3), lambda x: x[..., [0, 3]]),
    "GlobalAveragePool": (1, node("GlobalAveragePool", ["x"], ["y"]), lambda x: x.mean((2, 3), keepdims=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_that_became_inputs(name):
    opset, last, meaning = ATTRIBUTES[name]
    nodes = [node("Unsqueeze", ["x"], ["u"], axes=[1]), last] if "u" in last.input else [last]
    weights = {"i": np.array([0, 3], np.int32)} if "i" in last.input else {}
    check(opset, nodes, X, meaning, weights)


@pytest.mark.parametrize("opset", [1, 2])
def test_split_of_given_sizes(opset):
    nodes = [node("Split", ["x"], ["a", "b"], axis=3, split=[2, 3]), node("ReduceSum", ["b"], ["s"], axes=[3])]
    nodes += [node("Reshape", ["s"], ["y"], shape=[2, 12])] if opset == 1 else [node("Flatten", ["s"], ["y"])]
    check(opset, nodes, X, lambda x: x[..., 2:].sum(3).reshape(2, 12))


# ---- Meanings that changed, against onnxruntime's own kernels of that opset ----


def test_every_attribute_of_older_schemas_has_a_row():
    """An attribute that opset 21 has not, has with another default, or in another type."""
    schemas: dict[str, list] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.since_version <= OPSET:
            schemas.setdefault(schema.name, []).append(schema)
    rows = {(attribute, op) for attribute, operators, _ in OLDER for op in operators or schemas}
    needed = set()
    for name, versions in schemas.items():
        *older, now = sorted(versions, key=lambda s: s.since_version)
        if now.deprecated:
            continue  # Upsample and Scatter: taken aside, and by the converter
        for schema in older:
            for attribute, was in schema.attributes.items():
                today = now.attributes.get(attribute)
                same = today and (was.type, was.required) == (today.type, today.required)
                if not same or was.default_value != today.default_value:
                    needed.add((attribute, name))
    assert needed <= rows, sorted(needed - rows)
    assert all(any((a, op) in needed for op in operators or schemas) for a, operators, _ in OLDER if a not in UNSEEN)


UNSEEN = {"coordinate_transformation_mode", "nearest_mode"}  # not there at first: the default differs from the meaning
GRID = np.clip(normal(2, 5, 5, 2), -1.2, 1.2)
BOXES = (np.array([[0.0, 0, 4, 4], [1, 1, 5, 5]], np.float32), np.array([0, 1]))
X6 = normal(2, 4, 6, 6)
SIZES = (np.zeros(0, np.float32), np.array([1, 1, 1.7, 0.6], np.float32))
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
CHANGED = [
    ("Hardmax", (7, 11, 12), X6, (), {}), ("Hardmax", (7, 12), X6, (), {"axis": 2}),
    ("GroupNormalization", (18, 20), X6, (normal(2), normal(2) + 1), {"num_groups": 2}),
    ("Selu", (6,), X6, (), {}),
    *(("GridSample", (16, 19), X6, (GRID,), {"mode": m}) for m in ("bilinear", "bicubic", "nearest")),
    ("GridSample", (16,), X6, (GRID,), {}),
    ("RoiAlign", (10, 15), X6, BOXES, {"output_height": 3, "output_width": 3, "sampling_ratio": 2}),
    ("DFT", (17,), normal(1, 8, 1), (), {"axis": -2}),
    ("DFT", (17,), normal(1, 4, 8, 2), (), {"axis": 2, "inverse": 1}),
    ("TopK", (7,), X6, (), {"k": 2, "axis": 1}),
    ("LpPool", (7, 11), X6, (), {"kernel_shape": [2, 2], "p": 3}),
    *(("AveragePool", (10, 18), X6, (), {"count_include_pad": c, "ceil_mode": 1, **WINDOW}) for c in (0, 1)),
    ("Dropout", (10,), X6, (), {"ratio": 0.3}),
    ("Split", (7, 11, 13), X6, (), {}),
    ("Squeeze", (7, 11), normal(1, 3), (), {"axes": [0]}),
    ("LogSoftmax", (11,), X6, (), {"axis": -1}),
    ("GRU", (7,), normal(3, 2, 4), (normal(1, 15, 4), normal(1, 15, 5)), {"hidden_size": 5, "linear_before_reset": 1}),
    *(
        ("Resize", (11, 13), X6, SIZES, {"coordinate_transformation_mode": c, "mode": m})
        for c in ("half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn") for m in ("nearest", "cubic")
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "opsets", "x", "weights", "attrs"), CHANGED, ids=[f"{c[0]}-{i}" for i, c in enumerate(CHANGED)]
)
def test_means_what_the_runtime_computes_at_that_opset(op, opsets, x, weights, attrs):
    arrays = {f"w{i}": w for i, w in enumerate(weights)}
    outputs = {"TopK": 2, "Split": 2}.get(op, 1)
    for opset in opsets:
        nodes = [node(op, ["x", *arrays], [f"y{i}" for i in range(outputs)], **attrs), node("Identity", ["y0"], ["y"])]
        given = model(nodes, {"x": x.shape}, {"y": None}, arrays, opset)
        expected = ort.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["y"], {"x": x}
        )
        found = Session(Graph.read(given)).run({"x": x})["y"]
        assert found.shape == expected[0].shape and np.allclose(found, expected[0], rtol=1e-5, atol=1e-6)


def test_defaults_of_opset_1():
    """Selu's constants had fewer digits; GRU's direction was misspelt."""
    x = normal(3, 2, 4)
    meaning = lambda v: 1.0507 * np.where(v > 0, v, 1.6732 * (np.exp(v) - 1))  # noqa: E731
    check(1, [node("Selu", ["x"], ["y"])], x, meaning)
    weights = {"w": normal(1, 15, 4), "r": normal(1, 15, 5)}
    found = []
    for opset, options in ((1, {"output_sequence": 1}), (1, {"direction": "foward"}), (3, {}), (7, {})):
        gru = node("GRU", ["x", *weights], ["y"], hidden_size=5, **options)
        read = Graph.read(model([gru], {"x": x.shape}, {"y": None}, weights, opset))
        found.append(Session(read).run({"x": x})["y"])
    assert all(np.array_equal(found[0], f) for f in found)


# ---- Newer than the runtime ----


@pytest.mark.parametrize("opset", [22, 23, 24, onnx.defs.onnx_opset_version()])
def test_opsets_and_ir_versions_to_come(opset):
    """Convolution, activation and pooling mean the same in every opset; the IR version is lowered."""
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["y"])]
    ends = [
        [helper.make_tensor_value_info("x", FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    ]
    w = normal(2, 3, 3, 3)

    def build(version: int, ir: int) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "new", *ends, [numpy_helper.from_array(w, "w")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=ir)

    x, seed = normal(1, 3, 6, 6), np.ones((1, 2, 1, 1), np.float32)
    found = []
    for version, ir in ((21, 10), (opset, onnx.IR_VERSION + 1)):
        result = append_vjp(build(version, ir), ["y"], ["x"])
        assert result.model.ir_version <= NEWEST_IR
        found.append(Session(result.model).run({"x": x, result.cotangents["y"]: seed}))
    assert np.array_equal(found[0]["y"], found[1]["y"])
    assert np.array_equal(*(f[result.gradients["x"]] for f in found))


# ---- Experimental operators ----


def _normalised(v: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return (v - v.mean(axes, keepdims=True)) / v.std(axes, keepdims=True)


EXPERIMENTAL = {
    "Affine": ({"alpha": 2.0, "beta": 0.5}, lambda v: 2 * v + 0.5),
    "Scale": ({"scale": 3.0}, lambda v: 3 * v),
    "ImageScaler": (
        {"scale": 0.5, "bias": [1.0, -2.0, 3.0]},
        lambda v: 0.5 * v + np.array([1, -2, 3]).reshape(3, 1, 1),
    ),
    "ScaledTanh": ({"alpha": 2.0, "beta": 0.5}, lambda v: 2 * np.tanh(0.5 * v)),
    "ParametricSoftplus": ({"alpha": 2.0, "beta": 0.5}, lambda v: 2 * np.log1p(np.exp(0.5 * v))),
    "ThresholdedRelu": ({"alpha": 0.3}, lambda v: v * (v > 0.3)),
    "Crop": ({"border": [1, 2, 0, 1]}, lambda v: v[:, :, 2:-1, 1:]),
    "Crop of a size": ({"border": [1, 2, 0, 0], "scale": [3, 2]}, lambda v: v[:, :, 2:5, 1:3]),
    "MeanVarianceNormalization": ({}, lambda v: _normalised(v, (2, 3))),
    "MeanVarianceNormalization across channels": ({"across_channels": 1}, lambda v: _normalised(v, (1, 2, 3))),
    "MeanVarianceNormalization of means": (
        {"normalize_variance": 0},
        lambda v: v - v.mean((2, 3), keepdims=True),
    ),
}


@pytest.mark.parametrize("opset", [1, 7, 8, 9])
@pytest.mark.parametrize("case", EXPERIMENTAL)
def test_operators_that_onnx_dropped(case, opset):
    op, (options, meaning) = case.split()[0], EXPERIMENTAL[case]
    if op == "MeanVarianceNormalization" and opset == 9:
        pytest.skip("standard, with other attributes, from opset 9")
    check(opset, [node(op, ["x"], ["y"], **options)], normal(2, 3, 6, 5), meaning)


@pytest.mark.parametrize("bounds", [{"min": 0.0, "max": 6.0}, {"min": 0.0}, {"max": 1e9}])
def test_clip_in_half_precision(bounds):
    """Its bounds were attributes, whose type is that of no tensor."""
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT16, [5])] for n in "xy"]
    graph = helper.make_graph([node("Clip", ["x"], ["y"], **bounds)], "test", *ends)
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    x = np.array([-3, -1, 2, 5, 9], np.float16)
    result = append_vjp(given, ["y"], ["x"])
    found = Session(result.model).run({"x": x, result.cotangents["y"]: np.ones(5, np.float16)})
    low, high = bounds.get("min", -np.inf), bounds.get("max", np.inf)
    x = x.astype(np.float64)
    assert np.array_equal(found["y"], np.clip(x, low, high))
    assert np.array_equal(found[result.gradients["x"]], (x >= low) & (x <= high))


def test_leftover_type_of_an_output():
    """A converter kept the float16 it once was beside the float32 it is now: onnxruntime goes by the output."""
    weights = {"w": np.ones((1, 3, 1, 1), np.float16)}
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["c"]),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    given = model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 1, 4, 4]}, weights, opset=13)
    given.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 1, 4, 4]))
    result = append_vjp(given, ["y"], ["x"])
    x = np.ones((1, 3, 4, 4), np.float32)
    found = Session(result.model).run({"x": x, result.cotangents["y"]: np.ones((1, 1, 4, 4), np.float32)})
    assert (found["y"] == 3).all() and (found[result.gradients["x"]] == 1).all()
