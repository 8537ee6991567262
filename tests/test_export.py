"""What is exported, and what `append_vjp` gives, runs in a stock onnxruntime at every level, as `explain` does."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import analyzer
from analyzer.attribution import Explainer, answer
from analyzer.attribution import export as export_module
from analyzer.attribution.inspection import describe
from analyzer.commands import main
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import save as save_module
from analyzer.graph.portable import MOVERS, make_portable
from analyzer.graph.protos import replace_all
from tests.models import model, node, small_cnn

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
MODELS = Path(__file__).resolve().parents[1] / "models"
RNG = np.random.default_rng(0)


def stock(given: onnx.ModelProto | Path, feeds: dict[str, np.ndarray], level: str = "all") -> dict[str, np.ndarray]:
    """What onnxruntime gives, no optimizer left out."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    source = str(given) if isinstance(given, Path) else given.SerializeToString()
    session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def record(path: Path) -> dict[str, Any]:
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["onnx-analyzer"])


# ---- Quantised operators that onnxruntime moves ----

KINDS = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int4": TensorProto.INT4,
    "float8": TensorProto.FLOAT8E4M3FN,
}
SHAPE = (1, 4, 4, 4)
MOVES: dict[str, tuple[list, dict]] = {
    "MaxPool": ([], {"kernel_shape": [2, 2]}),
    "Reshape": ([[4, -1]], {}),
    "Slice": ([[1], [3], [1]], {}),
    "Squeeze": ([[0]], {}),
    "Transpose": ([], {"perm": [0, 2, 3, 1]}),
    "Unsqueeze": ([[0]], {}),
}


def moved(op: str, x: str, y: str, weights: dict[str, np.ndarray]) -> onnx.NodeProto:
    operands, attributes = MOVES[op]
    names = [f"{y}/{i}" for i in range(len(operands))]
    weights.update({n: np.array(v, np.int64) for n, v in zip(names, operands, strict=True)})
    return node(op, [x, *names], [y], **attributes)


def quantised(kind: str, zero: int | None, op: str, opset: int, form: str) -> tuple[onnx.ModelProto, dict]:
    """(x → Q → DQ → …, feeds); `form` says what comes behind, or before:

    direct: DQ → op. forked: DQ → op, DQ → Exp. chain: DQ → op → Transpose. requantised: DQ → op → Q and op → Exp.
    output: DQ → op, whose result is an output. before: Tanh → op → Q → DQ. body: DQ → op, read in an If.
    """
    weights: dict[str, np.ndarray] = {}
    parameters = ["s"] if zero is None else ["s", "z"]
    dequantised = node("DequantizeLinear", ["q", *parameters], ["d"])
    nodes, outputs = [node("QuantizeLinear", ["x", *parameters], ["q"]), dequantised], ["y"]
    given = ("x", TensorProto.FLOAT)
    if kind == "int32" or zero is None:
        nodes, given = [dequantised], ("q", KINDS[kind])
    if form == "before":
        nodes = [
            node("Tanh", ["x"], ["t"]),
            moved(op, "t", "m", weights),
            node("QuantizeLinear", ["m", "s", "z"], ["q"]),
        ]
        nodes += [dequantised, node("Exp", ["d"], ["y"])]
    else:
        nodes += [moved(op, "d", "m", weights)]
        read = "m"
        if form == "chain":
            nodes += [node("Transpose", ["m"], ["m2"])]
            read = "m2"
        if form == "body":
            inner = [helper.make_node("Tanh", ["m"], ["b"])]
            body = helper.make_graph(inner, "body", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])
            weights["c"] = np.array(True)
            nodes += [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
        else:
            nodes += [node("Tanh", [read], ["y"])]
        if form == "forked":
            nodes += [node("Exp", ["d"], ["e"])]
            outputs += ["e"]
        if form == "requantised":
            nodes += [node("QuantizeLinear", ["m", *parameters], ["q2"])]
            nodes += [node("DequantizeLinear", ["q2", *parameters], ["e"])]
            outputs += ["e"]
        if form == "output":
            outputs += ["m"]
    proto = model(nodes, {}, dict.fromkeys(outputs), weights, opset, 10)
    proto.graph.input.append(helper.make_tensor_value_info(*given, SHAPE))
    proto.graph.initializer.append(helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]))
    if zero is not None:
        proto.graph.initializer.append(helper.make_tensor("z", KINDS[kind], [], [zero]))
    array = RNG.standard_normal(SHAPE).astype(np.float32) * 9
    if given[0] == "q":
        array = RNG.integers(-7, 8, SHAPE).astype(helper.tensor_dtype_to_np_dtype(KINDS[kind]))
    return proto, {given[0]: array}


@pytest.mark.parametrize("form", ["direct", "forked", "chain", "requantised", "output", "before", "body"])
@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("int8", 3), ("uint8", 3), ("int16", 0)])
def test_a_portable_model_gives_the_same_at_every_level(kind, zero, form):
    """The reference is onnxruntime without any optimisation, of the model as it was."""
    for op, opset in itertools.product(MOVES, (19, 21, 23)):
        if kind == "int16" and opset < 21:
            continue
        proto, feeds = quantised(kind, zero, op, opset, form)
        expected = stock(proto, feeds, "none")
        make_portable(proto)
        for level in LEVELS:
            found = stock(proto, feeds, level)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, f"{op} {opset} {level} {name}")


@pytest.mark.parametrize(
    ("kind", "zero", "opset"),
    [("int32", 0, 21), ("int32", None, 19), ("int8", None, 19), ("int4", 0, 21), ("float8", 0, 21)],
)
def test_what_cannot_be_quantised_again_is_held(kind, zero, opset):
    for op in MOVES:
        proto, feeds = quantised(kind, zero, op, opset, "direct")
        try:
            expected = stock(proto, feeds, "none")["y"]
        except Exception:
            continue  # no kernel of the operator itself
        make_portable(onnx_typed := onnx.shape_inference.infer_shapes(proto))
        for level in LEVELS:
            np.testing.assert_array_equal(stock(onnx_typed, feeds, level)["y"], expected, f"{op} {level}")


@pytest.mark.parametrize("shape", [[2, 3, 4], [6, 4]])
@pytest.mark.parametrize("opset", [19, 21])
@pytest.mark.parametrize("between", [[], ["Identity"]])
def test_a_matmul_that_becomes_a_reshape_and_a_gemm(opset, shape, between):
    """As in the gradient of an LSTM whose input is int8: onnxruntime would quantise behind the Reshape."""
    weights = {"w": RNG.standard_normal((4, 5)).astype(np.float32), "b": RNG.standard_normal(5).astype(np.float32)}
    weights |= {"s": np.float32(0.02), "z": np.int8(3)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        *(node(op, ["d"], ["i"]) for op in between),
        node("MatMul", ["i" if between else "d", "w"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    proto = model(nodes, {"x": shape}, {"y": [*shape[:-1], 5]}, weights, opset, 10)
    feeds = {"x": RNG.standard_normal(shape).astype(np.float32)}
    expected = stock(proto, feeds, "none")["y"]
    make_portable(proto)
    for level in LEVELS:
        np.testing.assert_allclose(stock(proto, feeds, level)["y"], expected, rtol=1e-6, atol=1e-6)


def test_every_operator_that_is_moved_is_tested():
    assert set(MOVES) == MOVERS


def test_onnxruntime_still_moves_quantisation_wrongly():
    """Where this fails, portable.py can shrink."""
    proto, feeds = quantised("int8", 0, "Reshape", 21, "direct")
    with pytest.raises(Exception, match="output_dtype INT8 does not match"):
        stock(proto, feeds)


def test_the_type_that_a_zero_point_says_is_not_said_twice():
    proto, feeds = quantised("int8", 3, "Transpose", 21, "direct")
    proto.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    expected = stock(proto, feeds, "none")["y"]
    make_portable(proto)
    np.testing.assert_array_equal(stock(proto, feeds)["y"], expected)


def test_float_models_stay_as_they_are():
    proto = small_cnn()
    before = proto.SerializeToString()
    make_portable(proto)
    assert proto.SerializeToString() == before


# ---- Signed int8 networks ----


def transformer() -> onnx.ModelProto:
    """Patches, one block of attention over two heads, mean of the tokens, classes."""
    width, heads, tokens = 16, 2, 16
    weights: dict[str, np.ndarray] = {
        "patch": RNG.standard_normal((width, 3, 4, 4)) * 0.2,
        "wq": RNG.standard_normal((width, width)) * 0.3,
        "wk": RNG.standard_normal((width, width)) * 0.3,
        "wv": RNG.standard_normal((width, width)) * 0.3,
        "wo": RNG.standard_normal((width, width)) * 0.3,
        "head": RNG.standard_normal((width, 5)),
        "scale": np.array(0.35),
    }
    weights = {n: w.astype(np.float32) for n, w in weights.items()}
    weights |= {"to_tokens": np.array([0, width, tokens]), "split": np.array([0, tokens, heads, width // heads])}
    weights |= {"join": np.array([0, tokens, width])}
    nodes = [
        node("Conv", ["x", "patch"], ["p"], strides=[4, 4]),
        node("Reshape", ["p", "to_tokens"], ["pt"]),
        node("Transpose", ["pt"], ["t"], perm=[0, 2, 1]),
    ]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["t", f"w{name}"], [name]),
            node("Reshape", [name, "split"], [f"{name}s"]),
            node("Transpose", [f"{name}s"], [f"{name}h"], perm=perm),
        ]
    nodes += [
        node("MatMul", ["qh", "kh"], ["qk"]),
        node("Mul", ["qk", "scale"], ["scores"]),
        node("Softmax", ["scores"], ["a"], axis=-1),
        node("MatMul", ["a", "vh"], ["av"]),
        node("Transpose", ["av"], ["avt"], perm=[0, 2, 1, 3]),
        node("Reshape", ["avt", "join"], ["j"]),
        node("MatMul", ["j", "wo"], ["o"]),
        node("Add", ["o", "t"], ["r"]),
        node("ReduceMean", ["r"], ["m"], axes=[1], keepdims=0),
        node("MatMul", ["m", "head"], ["logits"]),
    ]
    return model(nodes, {"x": ["N", 3, 16, 16]}, {"logits": ["N", 5]}, weights, 17, 8)


class Pictures(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        self.left = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def signed(float_model: onnx.ModelProto, side: int, opset: int, folder: Path, only: list[str] | None = None) -> Path:
    """The QDQ build with signed, symmetric 8-bit activations and weights."""
    source, path = folder / "float.onnx", folder / "signed.onnx"
    onnx.save(onnx.version_converter.convert_version(float_model, opset), source)
    quantize_static(
        source,
        path,
        Pictures((2, 3, side, side)),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=only,
        extra_options={"ActivationSymmetric": True},
    )
    return path


NETWORKS = {
    "cnn": (small_cnn, 12, None),
    "transformer": (transformer, 16, None),
    "products only": (transformer, 16, ["MatMul", "Conv"]),
}


@pytest.mark.parametrize("method", ["grad-cam", "gradient"])
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("network", NETWORKS)
def test_signed_int8_models_export(tmp_path, network, opset, method):
    made, side, only = NETWORKS[network]
    file = signed(made(), side, opset, tmp_path, only)
    path = analyzer.export(file, tmp_path / "exported.onnx", method)
    x = np.random.default_rng(2).standard_normal((2, 3, side, side)).astype(np.float32)
    expected = analyzer.explain(file, x, method)
    for level in LEVELS:
        found = stock(path, {"x": x}, level)
        np.testing.assert_allclose(found["heatmap"], expected.heatmap, atol=0.05, err_msg=level)
    assert record(path)["heatmap_difference"] <= 1e-3


@pytest.mark.parametrize("opset", [17, 21])
def test_gradients_of_signed_int8_models_run(tmp_path, opset):
    file = signed(transformer(), 16, opset, tmp_path)
    vjp = analyzer.append_vjp(file, ["logits"], ["x"])
    x = np.random.default_rng(2).standard_normal((1, 3, 16, 16)).astype(np.float32)
    feeds = {"x": x, vjp.cotangents["logits"]: np.eye(5, dtype=np.float32)[:1]}
    found = [stock(vjp.model, feeds, level)[vjp.gradients["x"]] for level in LEVELS]
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-3 * np.abs(found[0]).max())


# ---- Zeros padded in front of a pool ----


def padded(pool: str, **attributes: Any) -> onnx.ModelProto:
    """Negative values, padded with zeros, pooled: the zeros are the largest."""
    rng = np.random.default_rng(3)
    weights = {
        "w": -rng.random((4, 3, 1, 1)).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "zero": np.zeros((), np.float32),
        "head": rng.standard_normal((4, 3)).astype(np.float32),
    }
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("Conv", ["a", "w"], ["c"]),
        node("Pad", ["c", "pads", "zero"], ["p"]),
        node(pool, ["p"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0], **attributes),
        node("Mul", ["m", "m"], ["s"]),
        node("GlobalAveragePool", ["s"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "head"], ["logits"]),
    ]
    return model(nodes, {"x": ["N", 3, 8, 8]}, {"logits": ["N", 3], "m": None}, weights, 17)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_zeros_before_a_pool_stay_zeros(tmp_path, pool):
    path = analyzer.export(padded(pool), tmp_path / "m.onnx", "eigen-cam", 0, layer="m", output="logits")
    x = np.random.default_rng(4).standard_normal((1, 3, 8, 8)).astype(np.float32)
    found = stock(path, {"x": x})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in padded(pool).graph.initializer}
    mapped = np.einsum("oi,nihw->nohw", weights["w"][:, :, 0, 0], np.abs(x))
    wide = np.pad(mapped, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))[:, :, ::2, ::2]
    expected = windows.max((4, 5)) if pool == "MaxPool" else windows.mean((4, 5))
    np.testing.assert_allclose(found["m"], expected, atol=1e-5)


# ---- Sizes ----


@pytest.mark.parametrize("written", [-1, 0, "?", "None"])
@pytest.mark.parametrize("method", ["grad-cam", "gradient"])
def test_sizes_that_are_no_sizes_are_open(tmp_path, written, method):
    """Both sides bear the same mark, and need not be equal."""
    proto = small_cnn(batch=1)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    for axis in (0, 2, 3):
        dims[axis].Clear()
        setattr(dims[axis], "dim_param" if isinstance(written, str) else "dim_value", written)
    if written == -1:
        proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    path = analyzer.export(proto, tmp_path / "m.onnx", method)
    sizes = [d.dim_param or d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert all(isinstance(sizes[a], str) for a in (0, 2, 3)) and len(set(sizes)) == 4
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 12)).astype(np.float32)
    found = stock(path, {"x": x})["heatmap"]
    np.testing.assert_allclose(found, analyzer.explain(proto, x, method).heatmap, atol=1e-4)
    assert [len(run["x"]) for run in record(path)["executed"]] == [4, 4]


def segmenter(side: Any) -> onnx.ModelProto:
    """A coarse map by a strided convolution, one of it enlarged, and a mask."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.standard_normal((6, 3, 3, 3)).astype(np.float32) * 0.3,
        "w2": rng.standard_normal((8, 6, 3, 3)).astype(np.float32) * 0.3,
        "w3": rng.standard_normal((8, 8, 3, 3)).astype(np.float32) * 0.3,
        "up": np.array([1, 1, 4, 4], np.float32),
        "w4": rng.standard_normal((4, 8, 3, 3)).astype(np.float32) * 0.3,
        "w5": rng.standard_normal((2, 4, 3, 3)).astype(np.float32) * 0.3,
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], strides=[2, 2], **same),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2], **same),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], **same),
        node("Relu", ["c3"], ["r3"]),
        node("Resize", ["r3", "", "up"], ["u"], mode="nearest"),
        node("Conv", ["u", "w4"], ["c4"], **same),
        node("Relu", ["c4"], ["r4"]),
        node("Conv", ["r4", "w5"], ["mask"], **same),
    ]
    return model(nodes, {"x": [1, 3, *side]}, {"mask": None}, weights, 17)


def test_open_sizes_have_the_layer_of_known_ones(tmp_path):
    opened, fixed = segmenter(["H", "W"]), segmenter([64, 64])
    x = np.random.default_rng(6).standard_normal((1, 3, 64, 64)).astype(np.float32)
    chosen = analyzer.explain(fixed, x).layer
    assert describe(Explainer(opened), {})["default_layer"] == chosen
    assert analyzer.explain(opened, x).layer == chosen
    for target in ("top1", "mask[:, 0].mean()"):
        path = analyzer.export(opened, tmp_path / "m.onnx", target=target)
        assert record(path)["layer"] == analyzer.explain(fixed, x, target=target).layer
        found = stock(path, {"x": x})["heatmap"]
        np.testing.assert_allclose(found, analyzer.explain(opened, x, target=target).heatmap, atol=1e-4)


def only_square_of(side: int) -> onnx.ModelProto:
    """Open sizes in the file, but a linear layer that takes one."""
    proto = small_cnn(size="S", batch=1)
    weights = {"w3": RNG.standard_normal((16 * (side // 2) ** 2, 4)).astype(np.float32)}
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    for one in proto.graph.node:
        if one.name == "flatten":
            one.input[0] = "r2"
    replace_all(proto.graph.node, [n for n in proto.graph.node if n.name != "gap"])
    return proto


def test_an_export_that_cannot_be_run_is_refused_with_the_flag(tmp_path):
    proto, path = only_square_of(18), tmp_path / "m.onnx"
    with pytest.raises(UnsupportedError, match="--shape"):
        analyzer.export(proto, path, "gradient")
    assert not list(tmp_path.iterdir())
    analyzer.export(proto, path, "gradient", input_shapes={"x": (1, 3, 18, 18)})
    assert record(path)["executed"] == [{"x": [1, 3, 18, 18]}]


def test_a_batch_of_two_is_tried_where_the_batch_is_open(tmp_path):
    path = analyzer.export(small_cnn(size="S"), tmp_path / "m.onnx")
    assert {run["x"][0] for run in record(path)["executed"]} == {1, 2}


def test_a_model_whose_scores_have_no_batch_axis_is_exported_for_one_picture(tmp_path):
    """(T, N, C), as text recognisers give: the class of a batch would be one for all its pictures."""
    given = small_cnn(softmax=False, batch="N")
    nodes = [*given.graph.node, node("Unsqueeze", ["logits", "first"], ["steps"])]
    replace_all(given.graph.node, nodes)
    given.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first"))
    del given.graph.output[:]
    given.graph.output.append(helper.make_tensor_value_info("steps", TensorProto.FLOAT, [1, "N", 4]))
    path = analyzer.export(given, tmp_path / "m.onnx")
    assert record(path)["executed"] == [{"x": [1, 3, 12, 12]}]
    feeds = {"x": RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)}
    np.testing.assert_allclose(stock(path, feeds)["heatmap"], Explainer(given).explain(feeds).heatmap, atol=1e-5)


# ---- The trial ----


def test_an_export_that_does_not_load_is_refused(tmp_path, monkeypatch):
    file = signed(transformer(), 16, 21, tmp_path)
    monkeypatch.setattr("analyzer.graph.ir.make_portable", lambda proto: None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UnsupportedError, match="cannot load the exported model"):
        analyzer.export(file, tmp_path / "m.onnx")
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_differs_from_explain_is_refused(tmp_path, monkeypatch):
    def turned(*args: Any) -> list[analyzer.Attribution]:
        (found,) = answer(*args)
        found.heatmap = found.heatmap[:, ::-1].copy()
        return [found]

    monkeypatch.setattr("analyzer.attribution.export.answer", turned)
    with pytest.raises(UnsupportedError, match="heatmap differs"):
        analyzer.export(small_cnn(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("factor", "refused"), [(1.04, False), (1.07, True)])
def test_a_heatmap_may_differ_by_a_twentieth(tmp_path, monkeypatch, factor, refused):
    """The relative L2 distance of h from 1.04 h is 0.04 / 1.04, and that from 1.07 h is 0.065."""

    def brighter(*args: Any) -> list[analyzer.Attribution]:
        (found,) = answer(*args)
        found.heatmap = found.heatmap * np.float32(factor)
        return [found]

    monkeypatch.setattr("analyzer.attribution.export.answer", brighter)
    with pytest.raises(UnsupportedError, match="heatmap differs") if refused else nullcontext():
        analyzer.export(small_cnn(), tmp_path / "m.onnx")
    assert bool(list(tmp_path.iterdir())) != refused


def test_rounding_where_an_output_is_zero_is_no_difference():
    zero = np.zeros((1, 4), np.float32)
    assert export_module._difference(zero, zero + np.float32(1e-6)) == pytest.approx(1e-6)
    assert export_module._difference(zero, zero + np.float32(0.5)) == 0.5 > export_module.LARGEST_DIFFERENCE


def test_an_export_with_other_outputs_is_refused(tmp_path, monkeypatch):
    original = export_module.Plain.original
    monkeypatch.setattr(export_module.Plain, "original", lambda *given: _Changed(original(*given)))
    with pytest.raises(UnsupportedError, match="outputs differ"):
        analyzer.export(small_cnn(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class _Changed:
    """A session whose outputs are other ones."""

    def __init__(self, session: Any) -> None:
        self.session, self.inputs = session, session.inputs

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array[..., ::-1] + 1 for name, array in self.session.run(feeds).items()}


def test_the_file_that_was_there_stays_when_an_export_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(UnsupportedError):
        analyzer.export(only_square_of(18), path, "gradient")
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_weights_beside_the_file_are_found_by_the_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(save_module, "PROTOBUF_LIMIT", 1000)
    proto = small_cnn()
    path = analyzer.export(proto, tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(stock(path, {"x": x})["heatmap"], analyzer.explain(proto, x).heatmap, atol=1e-5)
    assert record(path)["receipt"] <= 1e-6 and record(path)["executed"]


def test_without_a_kernel_the_export_says_that_it_was_not_executed(tmp_path):
    """onnxruntime's CPU provider has no MatMul of bfloat16."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Tanh", ["m"], ["logits"])]
    given = model(nodes, {"x": ["N", 8]}, {"logits": ["N", 4]}, {}, 21, 10, TensorProto.BFLOAT16)
    given.graph.initializer.append(helper.make_tensor("w", TensorProto.BFLOAT16, [8, 4], RNG.standard_normal(32)))
    path = analyzer.export(given, tmp_path / "m.onnx", "gradient", 1)
    assert record(path)["executed"] == [] and "not measured" in record(path)["receipt"]


def test_the_command_says_what_was_run(tmp_path, capsys, monkeypatch):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    monkeypatch.setattr("sys.argv", ["", "export", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "m.onnx")])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert "run by onnxruntime with inputs of 1×3×12×12; 2×3×12×12" in said and "heatmap, relative distance" in said


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        analyzer.export(small_cnn(), tmp_path / ("long" * 100 + ".onnx"))
    assert not list(tmp_path.iterdir())


def test_the_method_is_the_tasks_own_unless_given(tmp_path: Path) -> None:
    """As for `explain`, also where only the model's card says what the model is for."""
    for name, method in ("digits_cnn.onnx", "grad-cam"), ("digits_detector.onnx", "layer-cam"):
        assert record(analyzer.export(MODELS / name, tmp_path / name))["method"] == method
