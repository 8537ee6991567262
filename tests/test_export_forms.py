"""What other runtimes need of an exported file: plain forms, weights of one role, the file's own opset."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest

import analyzer
from analyzer.attribution.export import read_record
from analyzer.errors import NotFoundError, UnsupportedError
from analyzer.gradient import GRADIENT, append_vjp
from analyzer.graph import Builder, Graph
from analyzer.graph.opencv import avoid_faults
from analyzer.graph.protos import opsets
from analyzer.graph.roles import separate_roles
from analyzer.runtime.elsewhere import run_in, version_in
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)
READER = Path(__file__).parent / "exports" / "reader.onnx"


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


# ---- Pads ----


def padded(x: np.ndarray, pads: list[int], axes: list[int], number: float) -> np.ndarray:
    """ONNX's Pad: first what is added, then what a negative amount cuts off."""
    wide = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        wide[axis] = (max(pads[i], 0), max(pads[len(axes) + i], 0))
    x = np.pad(x, wide, constant_values=number)
    for i, axis in enumerate(axes):
        before, after = max(-pads[i], 0), max(-pads[len(axes) + i], 0)
        x = np.take(x, range(before, x.shape[axis] - after), axis)
    return x


@pytest.mark.parametrize("pads", [[-1, 2, 0, -3], [-2, 0, -1, 0], [1, 2, 3, 4], [-4, 5, 6, -6], [0, 0, 0, -1]])
@pytest.mark.parametrize("axes", [[2, 3], [1, 0], [-1, -2]])
@pytest.mark.parametrize("known", [True, False])
def test_no_pad_has_negative_amounts(pads, axes, known):
    inputs = {"x": ["n", "c", "h", "w"]}
    proto = model([node("Identity", ["x"], ["y"])], inputs, {"y": None}, {}, 21, 10)
    if not known:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("pads", onnx.TensorProto.INT64, [4]))
    graph = Graph.read(proto)
    op = Builder(graph)
    given = op.value(pads) if known else graph["pads"]
    graph.add_output(op.Pad(graph["x"], given, 2.0, axes), "z")
    for pad in [n for n in graph.nodes if n.op == "Pad"]:
        graph.add_output(pad.inputs[1], f"amounts of {pad.name}")
    x = RNG.standard_normal((5, 6, 7, 8)).astype(np.float32)
    found = run(graph.proto(), {"x": x} | ({} if known else {"pads": np.array(pads)}))
    np.testing.assert_array_equal(found.pop("z"), padded(x, pads, [a % 4 for a in axes], 2.0))
    assert all((amounts >= 0).all() for name, amounts in found.items() if name != "y")


@pytest.mark.parametrize("method", ["grad-cam", "gradient"])
@pytest.mark.parametrize("open_sizes", [True, False])
def test_an_exported_file_pads_by_no_negative_amount(tmp_path, method, open_sizes):
    """A strided convolution and a pool whose windows leave a rest, and padding that the gradient cuts off."""
    sizes = ["N", 3, "H", "W"] if open_sizes else [1, 3, 15, 14]
    weights = {
        "w1": RNG.standard_normal((8, 3, 3, 3)), "w2": RNG.standard_normal((16, 8, 3, 3)),
        "fc": RNG.standard_normal((16, 4)),
    }  # fmt: skip
    weights = {n: (w * 0.3).astype(np.float32) for n, w in weights.items()}
    weights["pads"] = np.array([0, 0, 1, 0, 0, 0, 0, 1])
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c1"], ["r1"]),
        node("AveragePool", ["r1"], ["a"], kernel_shape=[2, 2], strides=[3, 3]),
        node("Conv", ["a", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "fc"], ["y"]),
    ]
    proto = model(nodes, {"x": sizes}, {"y": None}, weights, 17)
    path = analyzer.export(proto, tmp_path / "m.onnx", method, 1, layer="r1" if method == "grad-cam" else "auto")
    written = onnx.load(path)
    amounts = [n.input[1] for n in written.graph.node if n.op_type == "Pad"]
    written.graph.output.extend(onnx.ValueInfoProto(name=name) for name in amounts)
    found = run(written, {"x": RNG.standard_normal((1, 3, 15, 14)).astype(np.float32)})
    assert amounts and all((found[name] >= 0).all() for name in amounts)


# ---- Sums over what was broadcast ----


@pytest.mark.parametrize("sizes", [(4, 5), (1, 5), (4, 1), (1, 1), (0, 5), (0, 1)])
@pytest.mark.parametrize("ones", [(False, False), (True, False), (False, True), (True, True)])
def test_broadcasting_of_open_sizes_is_undone_without_computed_axes(sizes, ones):
    """Whether n is m or 1, and k is l or 1, shows when the model runs; the oracle is NumPy's broadcasting."""
    small = tuple(1 if one else size for one, size in zip(ones, sizes, strict=True))
    inputs = {"x": ["b", "n", 3, "k"], "y": ["m", 3, "l"]}
    graph = Graph.read(model([node("Mul", ["x", "y"], ["z"])], inputs, {"z": None}, {}, 21, 10))
    op = Builder(graph)
    graph.add_output(op.sum_to(graph["z"], graph["y"]), "sum")
    assert all(n.op != "ReduceSum" or op.const(n.inputs[1]) is not None for n in graph.nodes)
    x = RNG.standard_normal((2, sizes[0], 3, sizes[1])).astype(np.float32)
    y = RNG.standard_normal((small[0], 3, small[1])).astype(np.float32)
    found = run(graph.proto(), {"x": x, "y": y})
    axes = tuple(axis + 1 for axis, one in zip((0, 2), ones, strict=True) if one)
    expected = found["z"].sum(0).sum(tuple(a - 1 for a in axes), keepdims=True)
    np.testing.assert_allclose(found["sum"], expected, rtol=1e-5, atol=1e-6)


# ---- Weights that are read in two ways ----


def turned_reads(proto: onnx.ModelProto) -> list[str]:
    """Square weights, a DequantizeLinear after them included, that are read as they are and the other way round."""
    shapes = {t.name: list(t.dims) for t in proto.graph.initializer}
    ways: dict[str, set[bool]] = {}
    for n in proto.graph.node:
        if n.op_type in ("DequantizeLinear", "Transpose") and n.input[0] in shapes:
            shapes[n.output[0]] = shapes[n.input[0]]
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            shape = shapes.get(n.input[1], [])
            if len(shape) > 1 and shape[0] == shape[1] * attrs.get("group", 1) > 1:
                ways.setdefault(n.input[1], set()).add(n.op_type == "ConvTranspose" or bool(attrs.get("transB")))
    return [name for name, both in ways.items() if len(both) > 1]


def square_network(kind: str) -> onnx.ModelProto:
    """A strided convolution of as many inputs as outputs and two square products."""
    inputs = 4 if kind == "grouped" else 8
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, inputs, 3, 3), "w2": (8, 8), "w3": (8, 8)}
    weights = {name: RNG.standard_normal(shape) for name, shape in shapes.items()}
    weights = {n: (w * 0.3).astype(np.float32) for n, w in weights.items()}
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "k1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3],
             group=2 if kind == "grouped" else 1),
        node("Relu", ["c1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "k2"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("MatMul", ["t", "w3"], ["y"]),
    ]  # fmt: skip
    if kind == "int8":
        for name in ("w1", "w2"):
            weights[name] = np.round(weights[name] * 90).clip(-127, 127).astype(np.int8)
        weights["s"] = np.float32(1 / 90)
        nodes = [node("DequantizeLinear", [f"w{i}", "s"], [f"k{i}"]) for i in (1, 2)] + nodes
    else:
        weights["k1"], weights["k2"] = weights.pop("w1"), weights.pop("w2")
    return model(nodes, {"x": [1, 3, 15, 15]}, {"y": [1, 8]}, weights, 17)


@pytest.mark.parametrize("kind", ["float", "grouped", "int8"])
def test_no_square_weight_is_read_in_two_ways(tmp_path, kind):
    path = analyzer.export(square_network(kind), tmp_path / "m.onnx", "gradient", 1)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert not turned_reads(written)
    assert sum(t.name.endswith("/copy") for t in written.graph.initializer) == 3


@pytest.mark.parametrize("kind", ["float", "grouped", "int8"])
def test_openvino_computes_the_same(tmp_path, kind):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    path = analyzer.export(square_network(kind), tmp_path / "m.onnx", "gradient", 1)
    feeds = {"x": RNG.standard_normal((1, 3, 15, 15)).astype(np.float32)}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(feeds)
    for name, array in run(onnx.load(path), feeds).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_what_nodes_compute_of_weights_is_a_weight(tmp_path):
    """Parts of one, as in the gradient of a GRU."""
    w = RNG.standard_normal((8, 24)).astype(np.float32)
    nodes = [
        node("Split", ["w", "sizes"], ["w0", "w1"], axis=1),
        node("MatMul", ["x", "w1"], ["y"]),
        node("Gemm", ["x", "w1"], ["z"], transB=1),
        node("Gemm", ["y", "w1"], ["u"], transB=1),
    ]
    weights = {"w": w, "sizes": np.array([16, 8])}
    proto = model(nodes, {"x": [3, 8]}, {y: [3, 8] for y in "yzu"}, weights)
    feeds = {"x": RNG.standard_normal((3, 8)).astype(np.float32)}
    expected = run(proto, feeds)
    stub = next(t for t in proto.graph.initializer if t.name == "w")
    stub.ClearField("raw_data")
    kept = {"w": w}
    assert separate_roles(proto, kept) == ["w1/copy"] and [*kept] == ["w"]
    stub.raw_data = w.tobytes()
    onnx.checker.check_model(proto, full_check=True)
    assert [n.input[1] for n in proto.graph.node] == ["sizes", "w1", "w1/copy", "w1/copy"]
    found = [run(proto, feeds)]
    if version_in("openvino") is not None:
        onnx.save(proto, tmp_path / "m.onnx")
        found.append(run_in("openvino", tmp_path / "m.onnx", feeds))
    for outputs in found:
        for name, array in expected.items():
            np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-5)


# ---- Opsets ----


def written(path: Path) -> tuple[int, int]:
    """Opset and IR version of a file that onnx's checker accepts."""
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return opsets(proto)[""], proto.ir_version


def old_cnn(opset: int, ir: int, windows: int = 2) -> onnx.ModelProto:
    """`small_cnn` as an exporter of that opset writes it; the windows of its pool overlap above 2."""
    proto = small_cnn(size=13)
    pool = next(n for n in proto.graph.node if n.op_type == "MaxPool")
    attribute = next(a for a in pool.attribute if a.name == "kernel_shape")
    attribute.ints[:] = [windows, windows]
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    proto.ir_version = ir
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize(("opset", "ir"), [(9, 4), (10, 5), (11, 6), (13, 7), (17, 8), (21, 10), (23, 11)])
@pytest.mark.parametrize("method", ["grad-cam", "gradient"])
def test_a_file_keeps_its_opset(tmp_path, opset, ir, method):
    shapes = {"x": (2, 3, 13, 13)}
    proto = old_cnn(opset, ir)
    path = analyzer.export(proto, tmp_path / "m.onnx", method, input_shapes=shapes)
    assert written(path) == (opset, ir)
    record = read_record(path)
    assert record["opset"] == opset and "needs" not in record
    assert record["receipt"] < 1e-5 and record["heatmap_difference"] < 1e-4
    feeds = {"x": RNG.standard_normal(shapes["x"]).astype(np.float32)}
    if any(n.op_type == "Scatter" for n in onnx.load(path).graph.node):
        return  # of opsets before 11, which the reference evaluator does not have
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    found = dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
    for name, array in run(onnx.load(path), feeds).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4)


def test_an_operator_that_an_opset_has_not_raises_it(tmp_path):
    """Windows that overlap: what they have in common is added, which ScatterElements does from opset 16 on."""
    proto = old_cnn(10, 5, windows=3)
    path = analyzer.export(proto, tmp_path / "m.onnx", "gradient")
    assert written(path) == (16, 8)
    (need,) = {text.split(" (")[0] + text[text.index(") ") + 1 :] for text in read_record(path)["needs"]}
    assert need == "ScatterElements needs opset 16: its attribute 'reduction' came with it"
    with pytest.raises(UnsupportedError, match="opset 13 is too old for this model: ScatterElements"):
        analyzer.export(proto, tmp_path / "n.onnx", "gradient", opset=13)
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("opset", [9, 12, 15, 18, 22])
def test_an_opset_that_is_asked_for(tmp_path, opset):
    shapes = {"x": (1, 3, 13, 13)}
    path = analyzer.export(old_cnn(17, 8), tmp_path / "m.onnx", "grad-cam", opset=opset, input_shapes=shapes)
    assert written(path) == (opset, max(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]), 4))


# ---- Other runtimes ----


def test_a_file_is_run_in_the_runtime_it_is_for(tmp_path):
    """OpenCV is always there; tensors of booleans, which gradients have, came with version 5."""
    if int(str(version_in("opencv")).partition(".")[0]) < 5:
        pytest.skip("needs OpenCV 5")
    path = analyzer.export(small_cnn(batch=1), tmp_path / "m.onnx", "gradient", runtime="opencv", check=True)
    assert read_record(path)["checked"] < 1e-4


def written_for_opencv(proto: onnx.ModelProto, path: Path, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """What is written computes in onnxruntime what the model does, and in OpenCV too."""
    expected = run(proto, feeds)
    avoid_faults(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    for name, array in run(proto, feeds).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    if int(str(version_in("opencv")).partition(".")[0]) >= 5:
        for name, array in run_in("opencv", path, feeds).items():
            np.testing.assert_allclose(array.reshape(expected[name].shape), expected[name], rtol=1e-4, atol=1e-5)
    return proto


@pytest.mark.parametrize("opset", [12, 18])
def test_opencv_reduces_two_axes_at_a_time(tmp_path, opset):
    """It gives other numbers for three of five."""
    x = RNG.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    nodes, weights, outputs = [], {}, {}
    for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2"):
        for axes in ([1, 2, 4], [-1, -3, -4], [4, 0, 3, 1], [2, 3]):
            for keep in (False, True):
                y = f"{kind} of {axes}, {keep}"
                given = {"axes": axes} if opset < 13 else {}
                weights |= {} if given else {f"axes of {y}": np.array(axes)}
                nodes.append(
                    node(f"Reduce{kind}", ["x", *([] if given else [f"axes of {y}"])], [y], keepdims=int(keep), **given)
                )
                outputs[y] = list(x.sum(tuple(axes), keepdims=keep).shape)
    found = written_for_opencv(model(nodes, {"x": [*x.shape]}, outputs, weights, opset), tmp_path / "m.onnx", {"x": x})
    assert sum(n.op_type != "Identity" for n in found.graph.node) == 7 * 2 * (3 * 2 + 1)
    assert {t.name for t in found.graph.initializer} == {n for node in found.graph.node for n in node.input[1:]}


def test_opencv_does_not_die_of_gelu(tmp_path):
    """Whichever way it is written; the way that it fuses stays as it is."""
    weights = {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    nodes, outputs = [], {}
    for turn in itertools.product([1, -1], repeat=3):
        first, second, third = turn
        for k, (left, right) in enumerate([(["x", "a"], ["b", "half"]), (["half", "a"], ["x", "b"])]):
            d, e, a, b, y = (f"{name}{k}{turn}" for name in "deaby")
            left, right = ([{"a": a, "b": b}.get(i, i) for i in names] for names in (left, right))
            nodes += [node("Div", ["x", "r"], [d]), node("Erf", [d], [e]), node("Add", [e, "one"][::first], [a])]
            nodes += [node("Mul", left[::second], [b]), node("Mul", right[::third], [y])]
            outputs[y] = [2, 5, 8]
    x = RNG.standard_normal((2, 5, 8)).astype(np.float32)
    found = written_for_opencv(model(nodes, {"x": [*x.shape]}, outputs, weights), tmp_path / "m.onnx", {"x": x})
    held = [n for n in found.graph.node if n.op_type == "Identity"]
    assert len(held) == 8


@pytest.mark.parametrize("axes", [[1], [1, 2]])
def test_opencv_divides_what_the_file_says_by_a_norm(tmp_path, axes):
    """As in the gradient of ConvNeXt V2; it divides x, whatever is divided."""
    nodes = [
        node("ReduceL2", ["x"], ["norm"], axes=axes),
        node("Relu", ["x"], ["z"]),
        node("Div", ["z", "norm"], ["y"]),
    ]
    x = RNG.standard_normal((1, 3, 4, 5)).astype(np.float32)
    proto = model(nodes, {"x": [*x.shape]}, {"y": [*x.shape]}, {}, 17)
    found = written_for_opencv(proto, tmp_path / "m.onnx", {"x": x})
    assert [n.op_type for n in found.graph.node] == ["ReduceL2", "Identity", "Relu", "Div"]


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_opencv_does_not_read_behind_a_single_row(tmp_path, mode):
    """As in the Grad-CAM of a line of text."""
    weights = {"sizes": np.array([2, 3, 24, 64]), "scales": np.array([1, 1, 12, 4], np.float32)}
    how = {"mode": "linear", "coordinate_transformation_mode": mode}
    nodes = [
        node("Resize", ["x", "", "", "sizes"], ["y"], **how),
        node("Resize", ["x", "", "scales"], ["z"], **how),
        node("Resize", ["y", "", "scales"], ["u"], **how),
    ]
    outputs = {"y": [2, 3, 24, 64], "z": [2, 3, 12, 64], "u": [2, 3, 288, 256]}
    feeds = {"x": RNG.standard_normal((2, 3, 1, 16)).astype(np.float32)}
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": [2, 3, 1, 16]}, outputs, weights))
    found = written_for_opencv(proto, tmp_path / "m.onnx", feeds)
    assert [n.op_type for n in found.graph.node] == ["Concat", "Resize", "Concat", "Resize", "Resize"]


@pytest.mark.parametrize("runtime", ["openvino", "tract", "web"])
@pytest.mark.parametrize("batch", [1, "N"])
def test_other_runtimes(tmp_path, runtime, batch):
    if version_in(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    path = analyzer.export(small_cnn(batch=batch), tmp_path / "m.onnx", "gradient", runtime=runtime, check=True)
    assert read_record(path)["checked"] < 1e-4


@pytest.mark.parametrize("runtime", ["opencv", "openvino", "tract"])
def test_recurrent_layers_are_written_out(tmp_path, runtime):
    """A gradient of them is a Scan from the last step to the first, which these do not run."""
    version = version_in(runtime)
    check = version is not None and (runtime != "opencv" or int(version.partition(".")[0]) >= 5)
    path = analyzer.export(READER, tmp_path / "m.onnx", "gradient", runtime=runtime, check=check)
    kinds = Counter(n.op_type for n in onnx.load(path).graph.node)
    assert not kinds.keys() & {"Scan", "Loop", "ReverseSequence"}
    assert kinds["LSTM"] == kinds["GRU"] == 1  # the forward stays as it is
    if check:
        assert read_record(path)["checked"] < 1e-4


@pytest.mark.parametrize(("steps", "why"), [("T", "the number of steps is open"), (129, "it has 129 steps")])
def test_recurrent_layers_that_cannot_be_written_out_are_refused(steps, why):
    weights = {"w": RNG.standard_normal((1, 4, 3)).astype(np.float32), "r": np.eye(4, dtype=np.float32)[None]}
    proto = model(
        [node("RNN", ["x", "w", "r"], ["y"], hidden_size=4)], {"x": [steps, 1, 3]}, {"y": None}, weights, 21, 10
    )
    assert append_vjp(proto, ["y"], ["x"]).model.graph.node
    with pytest.raises(UnsupportedError, match=f"RNN .*{why}"):
        append_vjp(proto, ["y"], ["x"], GRADIENT.on("others"))


def test_a_runtime_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("analyzer.attribution.export.version_in", lambda runtime: None)
    path = analyzer.export(small_cnn(), tmp_path / "m.onnx", runtime="tract", check=True)
    assert read_record(path)["checked"] == "not run: tract is not installed (pip install tract onnx)"
    assert not onnx.load(path).graph.value_info  # whose symbols tract cannot unify with sizes


def test_a_file_that_its_runtime_does_not_run_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match=r"opencv: .*error"):
        run_in("opencv", tmp_path / "missing.onnx", {"x": np.zeros((1, 3), np.float32)})
    other = {"heatmap": np.ones((1, 12, 12), np.float32)}
    monkeypatch.setattr("analyzer.attribution.export.run_in", lambda *given: other)
    with pytest.raises(UnsupportedError, match="heatmap of opencv differs from that of onnxruntime"):
        analyzer.export(small_cnn(batch=1), tmp_path / "m.onnx", runtime="opencv", check=True)
    with pytest.raises(NotFoundError, match="no runtime 'openvin'"):
        analyzer.export(small_cnn(batch=1), tmp_path / "m.onnx", runtime="openvin")
    assert not list(tmp_path.iterdir())
