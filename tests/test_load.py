"""Files in: what is read, and what is refused with one clear error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from analyzer import append_vjp
from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.graph import Graph, load, wire
from analyzer.graph.passes import normalize
from analyzer.runtime import Session
from tests.models import model, node, small_cnn

ROOT = Path(__file__).resolve().parents[1]


def test_path_bytes_and_proto_are_the_same_model(tmp_path):
    proto = small_cnn()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    graphs = [Graph.read(path), Graph.read(path.read_bytes()), Graph.read(proto)]
    assert len({len(g.nodes) for g in graphs}) == 1
    assert graphs[0].source.sha256 and graphs[0].source.sha256 == graphs[1].source.sha256


def test_a_given_proto_is_left_untouched():
    proto = small_cnn()
    before = proto.SerializeToString()
    Graph.read(proto)
    assert proto.SerializeToString() == before


def test_external_data_is_mapped_not_copied(tmp_path):
    proto = small_cnn()
    path = tmp_path / "m.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    source = load(path)
    assert isinstance(source.detached["w2"], np.memmap)
    w2 = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w2")
    assert np.array_equal(source.detached["w2"], w2)


def _external(tmp_path, change):
    path = tmp_path / "m.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    change(proto, tmp_path)
    path.write_bytes(proto.SerializeToString())
    return path


def _set(proto, key, value):
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p, d: (d / "m.bin").unlink(), "missing"),
        (lambda p, d: (d / "m.bin").write_bytes(b"x"), "ends before"),
        (lambda p, d: _set(p, "location", "../secret.bin"), "outside"),
        (lambda p, d: _set(p, "location", "/etc/passwd"), "outside"),
        (lambda p, d: _set(p, "length", "7"), "bytes"),
        (lambda p, d: _set(p, "offset", "-8"), "m.bin|bytes|record|w1"),
        (lambda p, d: _set(p, "length", "many"), "unreadable"),
    ],
)
def test_bad_external_data(tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        load(_external(tmp_path, change))


def test_symlink_out_of_the_folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"0" * 100000)

    def link(proto, folder):
        (folder / "m.bin").unlink()
        os.symlink(tmp_path / "secret.bin", folder / "m.bin")

    with pytest.raises(InputError, match="outside"):
        load(_external(inside, link))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello, this is no model\n" * 10, "not an ONNX model"),
        (small_cnn().SerializeToString()[:-200], "not an ONNX model|elements|no graph|produce"),
        (small_cnn().SerializeToString()[:40], "not an ONNX model|no graph"),
        (b"\x08\x08", "no graph"),
        (b"    ORTM    ", "ort format"),
        (bytes(range(256)) * 20, "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, says):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="folder"):
        load(tmp_path)
    with pytest.raises(InputError, match="not int"):
        load(3)


def test_cycle_is_named():
    nodes = [node("Relu", ["b"], ["a"], "first"), node("Relu", ["a"], ["b"], "second")]
    with pytest.raises(InputError, match=r"cycle.*first"):
        load(model(nodes, {"x": [1]}, {"a": [1]}))


def test_unsorted_nodes_are_sorted():
    nodes = [node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])]
    assert [n.op_type for n in load(model(nodes, {"x": [1]}, {"y": [1]})).proto.graph.node] == ["Neg", "Relu"]


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ([node("Relu", ["nowhere"], ["y"])], {"y": [1]}, "no node produces"),
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], {"y": [1]}, "two nodes produce"),
        ([node("Relu", ["x"], ["y"])], {"z": [1]}, "no node produces the output"),
    ],
)
def test_invalid_graphs(nodes, outputs, says):
    with pytest.raises(InputError, match=says):
        load(model(nodes, {"x": [1]}, outputs))


def test_weight_that_lies_about_its_size():
    proto = small_cnn()
    next(t for t in proto.graph.initializer if t.name == "w2").dims[0] = 1 << 30
    with pytest.raises(InputError, match="w2"):
        load(proto)
    next(t for t in proto.graph.initializer if t.name == "w2").dims[0] = -5
    with pytest.raises(AnalyzerError):
        load(proto)


def test_deep_chain_is_no_recursion(tmp_path):
    nodes = [node("Identity", [f"t{i}"], [f"t{i + 1}"]) for i in range(5000)]
    graph = Graph.read(model(nodes, {"t0": [1, 4]}, {"t5000": [1, 4]}))
    assert len(graph.nodes) == 5000


def test_damaged_files_end_in_one_clear_error():
    """Bytes changed, cut and inserted at random: the model is explained or refused, nothing else happens."""
    rng = random.Random(0)
    whole = small_cnn().SerializeToString()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10])):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 4)))
        with contextlib.suppress(AnalyzerError):
            Graph.read(bytes(data))


def test_a_pipe_is_read():
    path = ROOT / "models" / "digits_cnn.onnx"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} cli.py inspect <(cat {path}) --format json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and '"image"' in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_int8", "digits_cnn_fp16", "digits_vit"])
def test_weights_read_past_protobuf_are_the_files_own(name):
    path = ROOT / "models" / f"{name}.onnx"
    found = load(path)
    assert found.detached and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name in found.detached:
            expected = onnx.numpy_helper.to_array(tensor)
            array = found.detached[tensor.name]
            assert array.dtype == expected.dtype and np.array_equal(array, expected) and array.flags.aligned


def test_odd_wire_formats_are_left_to_protobuf():
    data = (ROOT / "models" / "digits_cnn.onnx").read_bytes()
    assert wire.split(data, {1}, 4096) is not None
    for broken in (data[:-1], data + b"\x3b", b"", b"\xff" * 40, data + data):
        found = wire.split(broken, {1}, 4096)
        assert found is None or not found[1]
    assert load(data).detached.keys() == load(ROOT / "models" / "digits_cnn.onnx").detached.keys()


def test_a_size_that_does_not_fit_is_named():
    """A text recogniser joins its map with one that was pooled to the height of its own text lines."""
    nodes = [
        node("AveragePool", ["x"], ["p"], kernel_shape=[8, 2], strides=[8, 2]),
        node("Reshape", ["p", "line"], ["r"]),
        node("Concat", ["p", "r"], ["c"], "join", axis=1),
        node("Relu", ["c"], ["y"]),
    ]
    recogniser = model(nodes, {"x": ["N", 3, "H", "W"]}, {"y": None}, {"line": np.array([0, 0, 1, -1], np.int64)})
    with pytest.raises(UnsupportedError) as caught:
        normalize(recogniser, input_shapes={"x": (1, 3, 32, 64)})
    for part in ("join", "Inferred=", "'x' of 1×3×32×64", "--size"):
        assert part in str(caught.value)
    normalize(recogniser, input_shapes={"x": (1, 3, 8, 64)})


@pytest.mark.parametrize(
    "imports",
    [
        [("", 12), ("", 13)], [("", 13), ("", 12)], [("ai.onnx", 12), ("", 13)], [("", 13), ("ai.onnx", 12)],
        [("com.microsoft", 1), ("", 13), ("com.microsoft", 1)],
    ],
)  # fmt: skip
def test_of_a_domain_imported_twice_the_last_import_counts(imports):
    """Softmax sums to 1 over one axis from opset 13 on, over all that follow before: onnxruntime's choice is ours."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    twice = model([node("Softmax", ["x"], ["y"], axis=1)], {"x": [2, 3, 4]}, {"y": None})
    twice.graph.node[0].domain = "ai.onnx" if imports[0][0] == "ai.onnx" else ""
    del twice.opset_import[:]
    twice.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in imports)
    expected = ort.InferenceSession(twice.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    result = append_vjp(twice, ["y"], ["x"])
    found = Session(result.model).run({"x": x, result.cotangents["y"]: np.ones_like(x)})
    assert np.allclose(found["y"], expected[0], atol=1e-6)
    assert np.allclose(found[result.gradients["x"]], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "sizes"), [(0, None, [4, 4]), (None, 0, [2, 3]), (-1, 0, [3, 3]), (None, None, [2, 4])]
)
def test_sizes_that_are_clipped_are_known(low: int | None, high: int | None, sizes: list[int]):
    """As networks pad that imitate TensorFlow's "SAME": by what is missing, but not less than nothing."""
    bounds = {"low": low, "high": high}
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Sub", ["shape", "least"], ["more"]),
        node("Clip", ["more", *("" if b is None else n for n, b in bounds.items())], ["bounded"]),
        node("Concat", ["none", "bounded"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["y"]),
    ]
    weights = {n: np.array(b, np.int64) for n, b in bounds.items() if b is not None}
    weights |= {"least": np.array([6, 2], np.int64), "none": np.zeros(2, np.int64)}
    assert Graph.read(model(nodes, {"x": [4, 3]}, {"y": None}, weights))["y"].shape == sizes


def test_scales_behind_a_cast_are_known():
    """As converters to float16 leave them before a Resize, which has float32 scales."""
    nodes = [
        node("Cast", ["scales"], ["cast"], to=1),
        node("Constant", [], ["same"], value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float16))),
        node("Cast", ["same"], ["cast_too"], to=1),
        node("Resize", ["x", "", "cast"], ["half"]),
        node("Resize", ["half", "", "cast_too"], ["y"]),
    ]
    weights = {"scales": np.array([1, 1, 0.5, 0.5], np.float16)}
    graph = Graph.read(model(nodes, {"x": ["N", 3, 8, 6]}, {"y": None}, weights))
    assert graph["half"].shape[1:] == [3, 4, 3] and graph["y"].shape[1:] == [3, 8, 6]


def test_empty_names_at_the_end_of_the_inputs_are_none():
    """onnxruntime 1.31 crashes on a LayerNormalization that has one for its bias; those that are needed stay."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    with_none, without = (
        model(
            [node("LayerNormalization", ["x", "s", *bias], ["y"])],
            {"x": [2, 3, 4]},
            {"y": None},
            {"s": np.ones(4, "f")},
        )
        for bias in ([""], [])
    )
    graph = Graph.read(with_none)
    assert [n.input for n in load(with_none).proto.graph.node] == [n.input for n in load(without).proto.graph.node]
    assert np.array_equal(Session(graph).run({"x": x})["y"], Session(without).run({"x": x})["y"])
    loop = node("Loop", ["count", ""], ["y"], body=onnx.helper.make_graph([], "body", [], []))
    clip = node("Clip", ["x", "", ""], ["z"])
    found = load(model([clip, loop], {"x": [1], "count": []}, {"y": None, "z": None}))
    assert [list(n.input) for n in found.proto.graph.node] == [["x"], ["count", ""]]
