"""Files of opset 22 and later: what opset 21 has not is lowered, kept or refused. NumPy and onnxruntime judge."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.newer import ATTRIBUTES, KEPT, MEANINGS, OPSET, TYPES
from analyzer.runtime import Session
from tests.models import model, node, small_cnn

FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


# ---- The table against the schemas ----


def _later() -> Iterator[tuple[onnx.defs.OpSchema, onnx.defs.OpSchema | None]]:
    """Every schema after opset 21, with the one before it (None: the operator is new)."""
    schemas: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        if not schema.domain:
            schemas.setdefault(schema.name, []).append(schema)
    for versions in schemas.values():
        for before, schema in zip([None, *versions], versions, strict=False):
            if schema.since_version > OPSET:
                yield schema, before


BORN_LATER = {schema.name for schema, before in _later() if before is None}


def _default(schema: onnx.defs.OpSchema, name: str) -> object:
    given = schema.attributes[name].default_value
    return helper.get_attribute_value(given) if given.name else None


def _inputs(schema: onnx.defs.OpSchema) -> list[tuple[str, list[str]]]:
    """(input, inputs of the same type variable), in order."""
    return [(i.name, [j.name for j in schema.inputs if j.type_str == i.type_str]) for i in schema.inputs]


def _types(schema: onnx.defs.OpSchema) -> dict[str, set[str]]:
    """{input or output: types}."""
    named = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    return {p.name: named.get(p.type_str, {p.type_str}) for p in [*schema.inputs, *schema.outputs]}


def test_whatever_is_newer_has_a_row():
    """A schema that adds an attribute, a default, an input, a type or an operator without a row fails here."""
    missing: list[str] = []
    seen: set = set()
    for schema, before in _later():
        name, version = schema.name, schema.since_version
        seen |= {name, (name, version), *((name, attribute) for attribute in schema.attributes)}
        if name in BORN_LATER:  # inlined whole, or kept
            body = schema.has_function or schema.has_context_dependent_function
            missing += [] if body or name in KEPT else [f"{name}-{version}"]
            continue
        assert before is not None
        added = [a for a in schema.attributes if a not in before.attributes]
        other = [a for a in schema.attributes if a not in added and _default(schema, a) != _default(before, a)]
        missing += [f"{name}-{version}.{a}" for a in added + other if (name, a) not in ATTRIBUTES]
        types = {t for n, kinds in _types(schema).items() for t in kinds - _types(before).get(n, set())}
        moved = _inputs(schema) != _inputs(before) or set(before.attributes) - set(schema.attributes)
        if (moved or not (types or added)) and (name, version) not in MEANINGS:
            missing.append(f"{name}-{version}")
        plain = {t.removeprefix("tensor(").removesuffix(")") for t in types if t.startswith("tensor(")}
        missing += [f"{name}-{version}: {t}" for t in plain if t not in TYPES]
    assert not missing
    assert {*ATTRIBUTES, *MEANINGS, *KEPT} <= seen, "rows for what no schema has"
    assert all(row.why for table in (ATTRIBUTES, MEANINGS, KEPT, TYPES) for row in table.values())


# ---- Attributes and inputs ----


def around(opset: int, nodes: list, arrays: dict, x: np.ndarray, ir: int = 11) -> onnx.ModelProto:
    """x → nodes → y of float32; `arrays` are initializers, or TensorProtos of odd types."""
    tensors = [
        a if isinstance(a, TensorProto) else numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "newer",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def by_runtime(given: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def by_us(given: onnx.ModelProto, x: np.ndarray, opset: int = OPSET) -> tuple[np.ndarray, np.ndarray]:
    """(y, the gradient of Σ y)."""
    assert Graph.read(given).opset == opset
    made = append_vjp(given, ["y"], ["x"])
    y = Session(Graph.read(given)).run({"x": x})["y"]
    found = Session(made.model).run({"x": x, made.cotangents["y"]: np.ones_like(y)})
    assert np.array_equal(found["y"], y, equal_nan=True)
    return y, found[made.gradients["x"]]


S, Z = np.float32(0.1003), np.uint8(120)
QDQ = {
    "precision": ([node("QuantizeLinear", ["x", "s", "z"], ["q"], precision=HALF)], [], 23, {}),
    "defaults written out": (
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], precision=0, output_dtype=0, saturate=1, axis=1)],
        [], 24, {"output_dtype": 0},
    ),
    "the same type": ([], [], 23, {"output_dtype": FLOAT}),
    "half from a float scale": ([], [node("Cast", ["d"], ["y"], to=FLOAT)], 24, {"output_dtype": HALF}),
    "float from a half scale": ([], [], 25, {"output_dtype": FLOAT, "half scale": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", QDQ)
def test_quantisers_of_opset_23_and_later(case):
    first, last, opset, options = QDQ[case]
    options = dict(options)
    scale = np.float16(S) if options.pop("half scale", False) else S
    nodes = [*first] if first else [node("QuantizeLinear", ["x", "s32", "z"], ["q"])]
    nodes += [node("DequantizeLinear", ["q", "s", "z"], ["d" if last else "y"], **options), *last]
    x = np.linspace(-15, 15, 257, dtype=np.float32)
    given = around(opset, nodes, {"s": scale, "s32": S, "z": Z}, x)
    y, slope = by_us(given, x)
    assert np.array_equal(y, by_runtime(given, x))
    assert np.allclose(slope, np.abs(x / S - (np.clip(np.rint(x / S) + 120, 0, 255) - 120)) < 0.5, atol=1e-3)


def test_a_quantiser_divides_in_the_type_of_its_scale():
    x = np.linspace(-9, 9, 97, dtype=np.float32)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s32", "z"], ["y"])]
    y, _ = by_us(around(23, nodes, {"s": np.float16(S), "s32": S, "z": Z}, x), x)
    steps = np.rint(x.astype(np.float16).astype(np.float32) / np.float32(np.float16(S)))
    assert np.array_equal(y, (np.clip(steps + 120, 0, 255) - 120).astype(np.float32) * S)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_in_either_order(mode):
    x = normal(2, 3, 4, 6)
    y, slope = by_us(around(28, [node("SpaceToDepth", ["x"], ["y"], blocksize=2, mode=mode)], {}, x), x)
    back = model([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)], {"x": y.shape}, {"y": None}, opset=13)
    assert np.array_equal(by_runtime(back, y), x) and np.all(slope == 1)


def test_modulo_of_floats():
    x = np.array([5.3, -5.3, 5.3, -5.3, 4.0, -0.5], np.float32)
    b = np.array([2.0, 2.0, -2.0, -2.0, 2.0, 3.0], np.float32)
    y, slope = by_us(around(28, [node("Mod", ["x", "b"], ["y"])], {"b": b}, x), x)
    assert np.allclose(y, np.mod(x, b), atol=1e-6) and np.all(slope == 1)


def test_a_range_of_halves():
    ends = {n: np.float16(v) for n, v in (("a", 1), ("b", 4), ("c", 0.5))}
    nodes = [
        node("Range", ["a", "b", "c"], ["r"]),
        node("Cast", ["r"], ["f"], to=FLOAT),
        node("Mul", ["x", "f"], ["y"]),
    ]
    y, slope = by_us(around(27, nodes, ends, np.ones(6, np.float32)), np.ones(6, np.float32))
    assert np.array_equal(y, np.arange(1, 4, 0.5)) and np.array_equal(slope, y)


def test_casts_that_round_in_no_way_of_their_own():
    nodes = [
        node("Cast", ["x"], ["h"], to=HALF, round_mode="up"),
        node("CastLike", ["h", "x"], ["y"], round_mode="up"),
    ]
    x = normal(7)
    given = around(24, nodes, {}, x)
    assert np.array_equal(by_us(given, x)[0], by_runtime(given, x))


# ---- Types ----


def test_bfloat16_where_opset_21_has_none():
    """The weight is Conv's, the activation Sin's: both take bfloat16 from opset 22 on."""
    x, w = normal(1, 3, 6, 6), normal(2, 3, 3, 3)
    nodes = [
        node("Cast", ["x"], ["b"], to=BFLOAT),
        node("Conv", ["b", "w"], ["c"]),
        node("Sin", ["c"], ["s"]),
        node("Cast", ["s"], ["y"], to=FLOAT),
    ]
    y, slope = by_us(around(22, nodes, {"w": w.astype(ml_dtypes.bfloat16)}, x), x)
    nodes[0:2] = [node("Conv", ["x", "w"], ["c"])]
    nodes[-2:] = [node("Sin", ["c"], ["y"])]
    expected, expected_slope = by_us(around(22, nodes, {"w": w}, x), x)
    assert np.linalg.norm(y - expected) < 2e-2 * np.linalg.norm(expected)
    assert np.linalg.norm(slope - expected_slope) < 2e-2 * np.linalg.norm(expected_slope)


WEIGHTS = {
    "int2": ([-2, -1, 0, 1], 25), "uint2": ([0, 1, 2, 3], 25),
    "float4_e2m1fn": ([-6, -0.5, 1.5, 4], 23), "float6_e2m3fn": ([7.5, 0.125, -1.875, 0], 28),
    "float6_e3m2fn": ([28, 0.0625, -3.5, 0.25], 28),
}  # fmt: skip


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_types_that_are_newer(kind):
    """They are given a type of opset 21 that holds their values; the scales too, powers of two of eight bits."""
    values, opset = WEIGHTS[kind]
    w = np.tile(np.asarray(values, np.float32), (3, 2)).T
    scales = np.exp2(np.arange(6) - 3).reshape(2, 3)
    odd = numpy_helper.from_array(w.astype(getattr(ml_dtypes, kind)), "w")
    power = numpy_helper.from_array(scales.astype(ml_dtypes.float8_e8m0fnu), "p")
    wide = max(opset, 24)
    nodes = [
        node("DequantizeLinear", ["w", "p"], ["d"], axis=0, block_size=4, output_dtype=FLOAT),
        node("MatMul", ["x", "d"], ["y"]),
    ]
    x = normal(2, 8)
    y, slope = by_us(around(wide, nodes, {"w": odd, "p": power}, x, ir=13), x)
    real = w * np.repeat(scales, 4, 0)
    assert np.allclose(y, x @ real, rtol=1e-5, atol=1e-5)
    assert np.allclose(slope, np.broadcast_to(real.sum(1), x.shape), rtol=1e-5)


REFUSED = {
    "Cast": (24, [node("Cast", ["x"], ["a"], to=TensorProto.FLOAT8E8M0), node("Cast", ["a"], ["y"], to=FLOAT)]),
    "QuantizeLinear": (
        25,
        [
            node("QuantizeLinear", ["x", "s"], ["a"], output_dtype=TensorProto.INT2),
            node("DequantizeLinear", ["a", "s"], ["y"]),
        ],
    ),
    "Celu": (
        28,
        [
            node("Cast", ["x"], ["a"], to=TensorProto.DOUBLE),
            node("Celu", ["a"], ["b"]),
            node("Cast", ["b"], ["y"], to=FLOAT),
        ],
    ),
    "Range": (27, [node("Range", ["s", "s", "s"], ["r"], stash_type=HALF), node("Add", ["x", "r"], ["y"])]),
}


@pytest.mark.parametrize("op", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(op):
    opset, nodes = REFUSED[op]
    with pytest.raises(UnsupportedError, match=rf"{op} \(node '{op}") as caught:
        Graph.read(around(opset, nodes, {"s": S}, normal(4)))
    assert caught.value.hint


# ---- Operators ----


@pytest.mark.parametrize("opset", [26, 28])
def test_products_along_an_axis_keep_the_first_opset_that_has_them(opset):
    x = np.array([2.0, -1.5, 3.0, 0.5], np.float32)
    given = around(opset, [node("CumProd", ["x", "a"], ["y"])], {"a": np.int64(0)}, x)
    y, slope = by_us(given, x, 26)
    assert np.allclose(y, np.cumprod(x))
    assert np.allclose(slope, [sum(y[i:]) / x[i] for i in range(4)])


def test_inside_a_body():
    """The branch of an If that is decided while the model runs."""

    def branch(name: str, nodes: list) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}/y", FLOAT, None)])

    quantised = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], precision=FLOAT),
        node("DequantizeLinear", ["q", "s", "z"], ["h"], output_dtype=HALF),
        node("Cast", ["h"], ["then/y"], to=FLOAT, round_mode="up"),
    ]
    negated = [node("Neg", ["x"], ["else/y"])]
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "s"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("then", quantised), else_branch=branch("else", negated)),
    ]
    x = np.abs(normal(9))
    given = around(24, nodes, {"s": S, "z": Z}, x)
    y, slope = by_us(given, x)
    assert np.array_equal(y, by_runtime(given, x)) and np.allclose(slope, 1, atol=1e-3)


# ---- Files that onnxruntime's own tools write ----


class _Pictures:
    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.left = [{"x": p} for p in pictures]

    def get_next(self) -> dict | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("level", [None, "BASIC", "EXTENDED"])
@pytest.mark.parametrize("kinds", ["QUInt8 QInt8", "QInt8 QInt8", "QUInt16 QInt8"])
@pytest.mark.parametrize("opset", [23, 24, 25])
def test_quantised_and_saved_by_onnxruntime(opset, kinds, level, tmp_path):
    """The gradient is that of the float file, within what eight bits change."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    float_file = small_cnn(softmax=False)
    float_file.opset_import[0].version, float_file.ir_version = opset, 11
    onnx.save(float_file, tmp_path / "float.onnx")
    pictures = list(np.random.default_rng(0).standard_normal((4, 2, 3, 12, 12)).astype(np.float32))
    activation, weight = (getattr(QuantType, k) for k in kinds.split())
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "q.onnx", _Pictures(pictures), QuantFormat.QDQ,
        activation_type=activation, weight_type=weight, extra_options={"ForceQuantizeNoInputCheck": True},
    )  # fmt: skip
    path = tmp_path / "q.onnx"
    if level:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(tmp_path / "saved.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        path = tmp_path / "saved.onnx"
    found = []
    for file in (float_file, onnx.load(path)):
        made = append_vjp(file, ["logits"], ["x"])
        seed = np.tile(np.eye(4, dtype=np.float32)[1], (2, 1))
        found.append(Session(made.model).run({"x": pictures[0], made.cotangents["logits"]: seed}))
        found[-1] = found[-1]["logits"], found[-1][made.gradients["x"]]
    (scores, slope), (quantised_scores, quantised_slope) = found
    assert np.linalg.norm(quantised_scores - scores) < 0.05 * np.linalg.norm(scores)
    assert np.linalg.norm(quantised_slope - slope) < 0.2 * np.linalg.norm(slope)
