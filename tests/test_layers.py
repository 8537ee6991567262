"""Which tensors are feature maps, and which of them is taken where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from analyzer import append_vjp
from analyzer.analysis.feature_maps import FeatureMap, default_layer, feature_maps
from analyzer.attribution import Explainer
from analyzer.graph import Graph, through
from analyzer.graph.protos import copied, replace_all
from analyzer.runtime import Session
from analyzer.tasks import recognise
from tests import architectures as nets
from tests.models import model, node, small_cnn


def detector(size: int | str = "size", levels: int = 2, bins: int = 5) -> ModelProto:
    """A backbone and a head per level; box sides are expectations over `bins`, taken by a fixed 1×1 convolution.

    As YOLOv8 is exported with dynamic axes: each level is flattened by what `Shape` says, and the finest level's shape
    makes the anchors that all boxes are added to.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3), np.float32),
        "bins": np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1),
        "sides": np.array([0, 4, bins, -1], np.int64),
        "boxes": np.array([0, 4, -1], np.int64),
        "flat": np.array([1, 4 * bins, -1], np.int64),
        "zero": np.zeros(1, np.int64),
        "one": np.ones(1, np.int64),
    }
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["trunk"])]
    for i in range(levels):
        weights[f"w{i}"] = rng.standard_normal((4 * bins, 6, 3, 3), np.float32) * 0.2
        nodes += [
            node("Conv", ["trunk", f"w{i}"], [f"h{i}"], strides=[2**i] * 2, pads=[1] * 4),
            node("Reshape", [f"h{i}", "flat"], [f"f{i}"]),
        ]
    nodes += [
        node("Concat", [f"f{i}" for i in range(levels)], ["all"], axis=2),
        node("Reshape", ["all", "sides"], ["split"]),
        node("Transpose", ["split"], ["binned"], perm=[0, 2, 1, 3]),
        node("Softmax", ["binned"], ["p"], axis=1),
        node("Conv", ["p", "bins"], ["expected"]),
        node("Reshape", ["expected", "boxes"], ["distances"]),
        node("Shape", ["h0"], ["shape"]),
        node("Slice", ["shape", "zero", "one", "zero"], ["rows"]),
        node("Cast", ["rows"], ["anchor"], to=1),
        node("Add", ["distances", "anchor"], ["y"]),
    ]
    return model(nodes, {"x": ["batch", 3, size, size]}, {"y": ["batch", 4, None]}, weights)


@pytest.mark.parametrize("size", [16, "size"])
def test_a_detector_with_expected_box_sides(size):
    """The sides of all boxes, 4 × 320, are no picture, and a level's size does not carry its evidence."""
    explainer = Explainer(detector(size))
    for sizes in ({}, {"x": (1, 3, 16, 16)}):
        graph = explainer.graph(sizes)
        assert "expected" not in {m.name for m in feature_maps(graph)}
        assert default_layer(graph, recognise(graph).logits).name == "trunk"


def tokens(unrolled: bool) -> ModelProto:
    """A batch norm over 4 × 4 tokens with the batch merged in front, as LeViT's; or tokens in another order."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 2, 2), np.float32),
        "v": rng.standard_normal((6, 5), np.float32),
        "all": np.array([1, 6, 16], np.int64),
        "merged": np.array([16, 5], np.int64),
        "apart": np.array([1, 16, 5], np.int64),
        "windows": np.array([1, 2, 2, 2, 2, 5], np.int64),
        **{name: np.ones(5, np.float32) for name in ("gain", "bias", "mean", "var")},
    }
    nodes = [
        node("Conv", ["x", "w"], ["patches"], strides=[2, 2]),
        node("Reshape", ["patches", "all"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "v"], ["wide"]),
    ]
    if unrolled:
        nodes += [
            node("Reshape", ["wide", "windows"], ["split"]),
            node("Transpose", ["split"], ["turned"], perm=[0, 1, 3, 2, 4, 5]),
            node("Reshape", ["turned", "apart"], ["last"]),
        ]
    else:
        nodes += [
            node("Reshape", ["wide", "merged"], ["rows"]),
            node("BatchNormalization", ["rows", "gain", "bias", "mean", "var"], ["normal"]),
            node("Reshape", ["normal", "apart"], ["last"]),
        ]
    nodes += [node("Relu", ["last"], ["r"]), node("ReduceMean", ["r"], ["y"], axes=[1], keepdims=0)]
    return model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5]}, weights)


@pytest.mark.parametrize("unrolled", [False, True])
def test_tokens_are_found_again_behind_a_merged_batch(unrolled):
    graph = Explainer(tokens(unrolled)).graph({})
    assert default_layer(graph, recognise(graph).logits).name == ("wide" if unrolled else "r")


# ---- Transformers ----

X = np.random.default_rng(1).random((1, 3, 16, 20), np.float32)


def chosen(given: ModelProto) -> FeatureMap:
    graph = Explainer(given).graph({})
    return default_layer(graph, recognise(graph).logits)


def maps_of(given: ModelProto, methods: Sequence[str], image: np.ndarray = X, target: int = 1) -> list[np.ndarray]:
    explainer = Explainer(given)
    return [explainer.explain(image, method, target).raw[0] for method in methods]


ROLLOUTS = ("attention-rollout", "gradient-rollout")


@pytest.mark.parametrize("heads", ["apart", "merged"])
@pytest.mark.parametrize(("front", "end"), [(1, 0), (5, 0), (1, 4), (0, 5), (2, 12)])
def test_tokens_before_and_after_the_grid(front, end, heads):
    """Attention does not know the order of tokens: wherever the others are, maps are those of all in front."""
    given = nets.vit(front, end, heads)
    layer = chosen(given)
    assert layer.name == "norm1" and layer.size == (4, 5)
    assert (layer.layout.axes, layer.layout.prefix, layer.layout.suffix) == ("NLC", front, end)
    methods = ("grad-cam", "hires-cam", "eigen-cam", "gradient", "full-grad", "recipro-cam")
    expected = maps_of(nets.vit(front + end, 0), methods)
    for method, found, reference in zip(methods, maps_of(given, methods), expected, strict=True):
        assert np.allclose(found, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max()), method
    if front:  # the class token comes first
        for found, reference in zip(maps_of(given, ROLLOUTS), maps_of(nets.vit(front + end, 0), ROLLOUTS), strict=True):
            assert np.allclose(found, reference, rtol=1e-4, atol=1e-6)


class Pictures(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.left = [{"x": X}, *({"x": rng.random(X.shape, np.float32)} for _ in range(7))]

    def get_next(self) -> dict | None:
        return self.left.pop() if self.left else None


U8, S8, U16, S16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16, QuantType.QInt16
QUANTISED = {
    "u8s8": {"activation_type": U8, "weight_type": S8},
    "s8s8": {"activation_type": S8, "weight_type": S8, "extra_options": {"ActivationSymmetric": True}},
    "per channel": {"activation_type": U8, "weight_type": S8, "per_channel": True},
    "pairs of their own": {"activation_type": U8, "weight_type": S8, "extra_options": {"DedicatedQDQPair": True}},
    "16 bits": {"activation_type": U16, "weight_type": S8},
    "operators": {"activation_type": U8, "weight_type": S8, "quant_format": QuantFormat.QOperator},
    "dynamic": {},
}


def quantised(given: ModelProto, kind: str, folder: Path) -> ModelProto:
    path, to = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(given, path)
    if kind == "dynamic":
        quantize_dynamic(path, to)
    else:
        quantize_static(path, to, Pictures(), **{"quant_format": QuantFormat.QDQ, **QUANTISED[kind]})
    return onnx.load(to)


@pytest.mark.parametrize("heads", ["apart", "merged"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_transformer_is_explained_where_its_float_file_is(kind, heads, tmp_path):
    given = nets.vit(2, 1, heads)
    candidate = quantised(given, kind, tmp_path)
    layer = chosen(candidate)
    assert through.origin(layer.value).name.startswith("norm1") and str(layer.layout) == str(chosen(given).layout)
    methods = ("grad-cam", "gradient", *ROLLOUTS)
    for method, found, reference in zip(methods, maps_of(candidate, methods), maps_of(given, methods), strict=True):
        assert np.corrcoef(found.ravel(), reference.ravel())[0, 1] > 0.9, method


def written_out(given: ModelProto) -> ModelProto:
    """Softmax and LogSoftmax as onnxruntime saves them where it has no kernel for their type, and Sigmoid."""
    given, nodes = copied(given), []
    for one in given.graph.node:
        if one.op_type == "Sigmoid":
            (x,), (y,) = one.input, one.output
            nodes += [node("Neg", [x], [f"{y}/neg"]), node("Exp", [f"{y}/neg"], [f"{y}/exp"])]
            nodes += [
                node("Add", [f"{y}/exp", "number one"], [f"{y}/add"]),
                node("Div", ["number one", f"{y}/add"], [y]),
            ]
            continue
        if one.op_type not in ("Softmax", "LogSoftmax"):
            nodes.append(one)
            continue
        (x,), (y,) = one.input, one.output
        nodes += [
            node("ReduceMax", [x], [f"{y}/max"], axes=[-1]),
            node("Sub", [x, f"{y}/max"], [f"{y}/sub"]),
            node("Exp", [f"{y}/sub"], [f"{y}/exp"]),
            node("ReduceSum", [f"{y}/exp", "last axis"], [f"{y}/sum"]),
        ]
        if one.op_type == "Softmax":
            nodes.append(node("Div", [f"{y}/exp", f"{y}/sum"], [y]))
        else:
            nodes += [node("Log", [f"{y}/sum"], [f"{y}/log"]), node("Sub", [f"{y}/sub", f"{y}/log"], [y])]
    replace_all(given.graph.node, nodes)
    given.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), "last axis"))
    given.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "number one"))
    return given


def test_a_softmax_that_is_written_out_is_one():
    """The layer of a transformer is before the last attention, whose softmax it is found by."""
    given = nets.vit(1, 0)
    methods = ("grad-cam", "gradient", *ROLLOUTS)
    assert chosen(written_out(given)).name == chosen(given).name
    for method, found, expected in zip(
        methods, maps_of(written_out(given), methods), maps_of(given, methods), strict=True
    ):
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()), method


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_a_softmax_at_the_end_is_left_out_however_it_is_written(op):
    """A class is explained at its logit: not at its probability, nor at the logarithm of that."""
    given = small_cnn()
    given.graph.node[-1].op_type = op
    if op == "Sigmoid":
        del given.graph.node[-1].attribute[:]
    ((found,), (expected,)) = (maps_of(m, ["gradient"], X[..., :12, :12]) for m in (written_out(given), given))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_what_only_resembles_a_softmax_stays():
    """A sum over another axis than the maximum's."""
    given = written_out(small_cnn())
    next(n for n in given.graph.node if n.op_type == "ReduceMax").attribute[0].ints[:] = [0]
    graph = Explainer(given).graph({})
    assert not any(n.op == "Softmax" for n in graph.forward_nodes())


# ---- Quantised files ----


def test_a_dynamically_quantised_segmenter_is_explained_where_its_float_file_is(tmp_path):
    """Its coarsest map is read by a ConvInteger."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((8, 8, 3, 3)).astype(np.float32),
        "up": rng.standard_normal((8, 4, 2, 2)).astype(np.float32),
        "head": rng.standard_normal((5, 4, 1, 1)).astype(np.float32),
    }
    net = nets.Net()
    net.layer("Conv", "x", "w1", strides=[2, 2], pads=[1] * 4)
    net.layer("Conv", net.layer("Relu", net.at, name="read by a convolution"), "w2", pads=[1] * 4)
    net.layer("ConvTranspose", net.layer("Relu", net.at), "up", strides=[2, 2])
    net.layer("Conv", net.layer("Relu", net.at), "head", name="y")
    given = model(net.nodes, {"x": [1, 3, 16, 20]}, {"y": [1, 5, 16, 20]}, weights)
    assert chosen(given).name == chosen(quantised(given, "dynamic", tmp_path)).name == "read by a convolution"


def test_the_layer_of_a_file_of_quantised_operators_is_what_its_tensor_stands_for(tmp_path):
    """Two pools read the last map, one of them whole numbers: both read the same layer, behind its rectifier.

    The tensor of the file names it as well.
    """
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "w2": rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 5,
        "head": rng.standard_normal((16, 5)).astype(np.float32),
    }
    net = nets.Net()
    net.layer("Conv", "x", "w1", strides=[2, 2], pads=[1] * 4)
    net.layer("MaxPool", net.layer("Relu", net.at), kernel_shape=[2, 2], strides=[2, 2])
    last = net.layer("Relu", net.layer("Conv", net.at, "w2", pads=[1] * 4), name="last")
    pools = [net.layer("GlobalAveragePool", last), net.layer("GlobalMaxPool", last)]
    net.layer("Flatten", net.layer("Concat", *pools, axis=1), axis=1)
    net.layer("MatMul", net.at, "head", name="y")
    given = model(net.nodes, {"x": [1, 3, 16, 20]}, {"y": [1, 5]}, weights)
    candidate = quantised(given, "operators", tmp_path)
    layer = chosen(candidate)
    tensors = {o: n for n in candidate.graph.node for o in n.output}
    q = through.origin(layer.value).outputs[0].outputs[0].name
    assert layer.node.op == "DequantizeLinear" and layer.node.inputs[0].name == q
    assert tensors[q].op_type == "QLinearConv"
    assert layer.name in tensors or layer.name == f"{q}_DequantizeLinear_Output"
    (expected,) = maps_of(given, ["grad-cam"])
    explainer = Explainer(candidate)
    for name in ("auto", layer.name, q):
        found = explainer.explain(X, "grad-cam", 1, layer=name)
        assert found.layer == layer.name
        assert np.corrcoef(found.raw.ravel(), expected.ravel())[0, 1] > 0.98, name


@pytest.mark.parametrize("op", ["MaxPool", "Squeeze", "Transpose", "Gather"])
def test_moving_whole_numbers_is_moving_what_they_stand_for(op, tmp_path):
    """To the last bit."""
    operands = {"MaxPool": {}, "Squeeze": {"at": np.array([0])}, "Transpose": {}, "Gather": {"at": np.array(2)}}[op]
    attrs = {"MaxPool": {"kernel_shape": [2, 2]}, "Transpose": {"perm": [0, 3, 1, 2]}, "Gather": {"axis": 1}}
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-90, 90, (4, 3, 3, 3), np.int8),
        "sx": np.float32(0.01),
        "zx": np.uint8(3),
        "sw": np.float32(0.02),
        "zw": np.int8(0),
        "sy": np.float32(0.05),
        "zy": np.uint8(90),
        **operands,
    }
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        node("QLinearConv", ["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["c"]),
        node(op, ["c", *operands], ["m"], **attrs.get(op, {})),
        node("DequantizeLinear", ["m", "sy", "zy"], ["y"]),
    ]
    given = model(nodes, {"x": [1, 3, 16, 20]}, {"y": None}, weights)
    graph = Graph.read(given)
    assert {n.inputs[0].inputs[0].op for n in graph.forward_nodes() if n.op == op} == {"DequantizeLinear"}
    assert np.array_equal(graph_run(graph)["y"], Session(given).run({"x": X})["y"])


def graph_run(graph: Graph) -> dict[str, np.ndarray]:
    proto, weights = graph.stub()
    return Session((proto, weights)).run({"x": X})


@pytest.mark.parametrize("form", ["inlined", "saved by onnxruntime"])
def test_full_grad_counts_the_same_biases_however_they_are_written(form, tmp_path):
    """LayerNormalization as its function body; linear layers as Gemm over (N · L, C)."""
    given = nets.vit(1)
    if form == "inlined":
        twin = Graph.read(given, inline=["LayerNormalization"]).proto()
        assert "LayerNormalization" not in {n.op_type for n in twin.graph.node}
    else:
        given = with_biases(given)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "saved.onnx")
        onnxruntime.InferenceSession(given.SerializeToString(), options, providers=["CPUExecutionProvider"])
        twin = onnx.load(tmp_path / "saved.onnx")
        assert "Gemm" in {n.op_type for n in twin.graph.node}
    (found,), (expected,) = maps_of(twin, ["full-grad"]), maps_of(given, ["full-grad"])
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())


def with_biases(given: ModelProto) -> ModelProto:
    """Adds a number per channel behind each product with weights."""
    widths = {t.name: t.dims[-1] for t in given.graph.initializer if len(t.dims) == 2}
    rng = np.random.default_rng(4)
    nodes = []
    for step in given.graph.node:
        nodes.append(step)
        if step.op_type == "MatMul" and step.input[1] in widths and step.output[0] != "y":
            name, bias = step.output[0], f"{step.output[0]}/bias"
            step.output[0] = f"{name}/product"
            nodes.append(node("Add", [step.output[0], bias], [name]))
            array = rng.standard_normal(widths[step.input[1]]).astype(np.float32)
            given.graph.initializer.append(onnx.numpy_helper.from_array(array, bias))
    replace_all(given.graph.node, nodes)
    return given


# ---- Axes that are taken apart ----


def windows(inside: list, weights: dict, plain: bool) -> ModelProto:
    """Conv, a step at each pixel of 2 × 3 windows of 4 × 2, joined with the batch; the same without windows if `plain`.
    The map is read by a mean over all places."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32) * 0.3,
        "head": rng.standard_normal((6, 4)).astype(np.float32),
        "apart": np.array([1, 2, 4, 3, 2, 6], np.int64),
        "stacked": np.array([6, 8, 6], np.int64),
        "unstacked": np.array([1, 2, 3, 4, 2, 6], np.int64),
        "whole": np.array([1, 8, 6, 6], np.int64),
        **weights,
    }
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Transpose", ["c"], ["last"], perm=[0, 2, 3, 1])]
    if plain:
        nodes += [node("Identity", ["last"], ["i"]), *inside, node("Identity", ["o"], ["map"])]
    else:
        nodes += [
            node("Reshape", ["last", "apart"], ["a"]),
            node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2, 4, 5]),
            node("Reshape", ["t", "stacked"], ["i"]),
            *inside,
            node("Reshape", ["o", "unstacked"], ["u"]),
            node("Transpose", ["u"], ["b"], perm=[0, 1, 3, 2, 4, 5]),
            node("Reshape", ["b", "whole"], ["map"]),
        ]
    nodes += [
        node("ReduceMean", ["map"], ["pooled"], axes=[1, 2], keepdims=0),
        node("MatMul", ["pooled", "head"], ["y"]),
    ]
    used = {name for n in nodes for name in n.input}
    return model(nodes, {"x": [1, 3, 8, 6]}, {"y": [1, 4]}, {n: w for n, w in weights.items() if n in used})


def test_windows_in_the_batch_are_joined_to_a_map_again():
    square = np.random.default_rng(3).standard_normal((6, 6)).astype(np.float32)
    inside = [node("MatMul", ["i", "square"], ["m"]), node("Relu", ["m"], ["o"])]
    image = np.random.default_rng(4).random((1, 3, 8, 6), np.float32)
    given, plain = (windows(inside, {"square": square}, plain) for plain in (False, True))
    assert {m.name for m in feature_maps(Explainer(given).graph({}))} == {"c", "last", "map"}
    layer = chosen(given)
    assert layer.name == "map" and (layer.layout.axes, layer.size) == ("NHWC", (8, 6))
    found, expected = (maps_of(g, ["cam", "layer-cam"], image) for g in (given, plain))
    assert np.allclose(found, expected, atol=1e-6) and np.ptp(expected, axis=(1, 2)).all()


@pytest.mark.parametrize("order", ["merged", "strided", "turned"])
def test_merged_patches_are_a_coarser_map(order):
    """2 × 2 patches made channels, by Reshape or by four strided slices; not where rows and columns are exchanged."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32) * 0.3,
        "mix": rng.standard_normal((24, 5)).astype(np.float32),
        "split": np.array([1, 4, 2, 4, 2, 6], np.int64),
        "joined": np.array([1, 4, 4, 24], np.int64),
        "tokens": np.array([1, 16, 5], np.int64),
        "ends": np.array([8, 8], np.int64),
        "axes": np.array([1, 2], np.int64),
        "two": np.array([2, 2], np.int64),
        **{f"at{i}{j}": np.array([i, j], np.int64) for i in (0, 1) for j in (0, 1)},
    }
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Transpose", ["c"], ["h"], perm=[0, 2, 3, 1])]
    if order == "strided":
        slices = [f"s{i}{j}" for j in (0, 1) for i in (0, 1)]
        nodes += [node("Slice", ["h", f"at{s[1:]}", "ends", "axes", "two"], [s]) for s in slices]
        nodes += [node("Concat", slices, ["j"], axis=3)]
    else:
        perm = [0, 1, 3, 2, 4, 5] if order == "merged" else [0, 3, 1, 2, 4, 5]
        nodes += [
            node("Reshape", ["h", "split"], ["s"]),
            node("Transpose", ["s"], ["t"], perm=perm),
            node("Reshape", ["t", "joined"], ["j"]),
        ]
    nodes += [
        node("MatMul", ["j", "mix"], ["m"]),
        node("Reshape", ["m", "tokens"], ["l"]),
        node("Relu", ["l"], ["r"]),
        node("ReduceMean", ["r"], ["y"], axes=[1], keepdims=0),
    ]
    used = {name for n in nodes for name in n.input}
    given = model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5]}, {n: w for n, w in weights.items() if n in used})
    layer = chosen(given)
    assert layer.name == "r" and layer.size == (4, 4)
    result = append_vjp(given, ["r"], ["x"])
    session = Session(result.model)
    for row, column in ((0, 3), (2, 1)):
        seed = np.zeros((1, 16, 5), np.float32)
        seed[0, 4 * row + column] = 1
        image = np.random.default_rng(5).random((1, 3, 8, 8), np.float32)
        gradient = session.run({"x": image, result.cotangents["r"]: seed})[result.gradients["x"]][0]
        seen = np.abs(gradient).sum(0) > 0
        at = (column, row) if order == "turned" else (row, column)
        window = np.zeros((8, 8), bool)
        window[max(2 * at[0] - 1, 0) : 2 * at[0] + 3, max(2 * at[1] - 1, 0) : 2 * at[1] + 3] = True
        assert seen[window].any() and not seen[~window].any()


def test_a_wide_stage_after_a_long_narrow_one():
    """As in PiT: four maps of 6 channels over 8 × 8, then one attention of 10 channels over 4 × 4 and a class token."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "pool": rng.standard_normal((10, 6, 2, 2)).astype(np.float32),
        "token": rng.standard_normal((1, 1, 10)).astype(np.float32),
        **{name: rng.standard_normal((10, 10)).astype(np.float32) / 3 for name in "qkv"},
        "long": np.array([1, 6, 64], np.int64),
        "square": np.array([1, 6, 8, 8], np.int64),
        "flat": np.array([1, 10, 16], np.int64),
        "first": np.array(0, np.int64),
    }
    net = nets.Net()
    net.layer("Conv", "x", "w", pads=[1] * 4)
    net.layer("Transpose", net.layer("Reshape", net.at, "long"), perm=[0, 2, 1])
    for _ in range(6):
        net.layer("Tanh", net.at)
    net.layer("Reshape", net.layer("Transpose", net.at, perm=[0, 2, 1]), "square")
    net.layer("Conv", net.at, "pool", strides=[2, 2])
    net.layer("Transpose", net.layer("Reshape", net.at, "flat"), perm=[0, 2, 1])
    x = net.layer("Concat", "token", net.at, axis=1, name="last")
    q, k, v = (net.layer("MatMul", x, name) for name in "qkv")
    net.layer("MatMul", q, net.layer("Transpose", k, perm=[0, 2, 1]))
    net.layer("Add", x, net.layer("MatMul", net.layer("Softmax", net.at, axis=-1), v))
    net.layer("Gather", net.at, "first", axis=1, name="y")
    layer = chosen(model(net.nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 10]}, weights))
    assert layer.name == "last" and layer.size == (4, 4)


# ---- Transparent nodes ----


@pytest.mark.parametrize("form", ["tensor", "axis", "block", "cast", "turned"])
def test_the_numbers_of_a_weight_behind_what_decodes_it(form):
    """As onnxruntime decodes it."""
    rng = np.random.default_rng(0)
    q = rng.integers(-100, 100, (4, 6), np.int8)
    scales = {"tensor": np.float32(0.1), "axis": rng.random(6, np.float32), "block": rng.random((4, 3), np.float32)}
    weights = {"q": q.astype(np.float16) if form == "cast" else q, "s": scales.get(form, np.float32(0.2))}
    zero = {} if form == "cast" else {"z": np.full(np.shape(weights["s"]), 3, np.int8)}
    attrs = {"axis": {"axis": 1}, "block": {"axis": 1, "block_size": 2}}.get(form, {})
    nodes = [
        node("Cast", ["q"], ["d"], to=1)
        if form == "cast"
        else node("DequantizeLinear", ["q", "s", "z"], ["d"], **attrs)
    ]
    if form == "turned":
        nodes.append(node("Transpose", ["d"], ["t"], perm=[1, 0]))
    name = "t" if form == "turned" else "d"
    nodes.append(node("Add", ["x", name], ["y"]))
    shape = [6, 4] if form == "turned" else [4, 6]
    weights = {"q": weights["q"]} if form == "cast" else {**weights, **zero}
    given = model(nodes, {"x": shape}, {"y": shape}, weights, opset=21, ir=10)
    graph = Graph.read(given)
    found = through.constant(graph, graph[name], through.MOVING)
    expected = Session(given).run({"x": np.zeros(shape, np.float32)})["y"]
    assert found is not None and np.allclose(found, expected, rtol=1e-6)


def test_what_is_transparent():
    """A Cast to bool and a Dropout that may drop are not; every reader behind the others is found, with all of them."""
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Transpose", ["d"], ["t"], perm=[1, 0]),
        node("Relu", ["t"], ["y"]),
        node("Sigmoid", ["a"], ["w"]),
        node("Cast", ["x"], ["b"], to=9),
        node("Not", ["b"], ["n"]),
        node("Cast", ["n"], ["v"], to=1),
    ]
    weights = {"s": np.float32(0.1), "z": np.uint8(3)}
    outputs = {"y": [3, 2], "w": [2, 3], "v": [2, 3]}
    graph = Graph.read(model(nodes, {"x": [2, 3]}, outputs, weights))
    assert [n.op for n in through.readers(graph["x"])] == ["Transpose", "Sigmoid", "Cast"]
    assert [n.op for n in through.readers(graph["x"], through.MOVING)] == ["Relu", "Sigmoid", "Cast"]
    assert through.origin(graph["d"]).name == "x" and through.origin(graph["t"]).name == "t"
    assert through.producer(graph["v"]).op == "Not"
