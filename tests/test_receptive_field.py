"""Receptive fields: published numbers, each operator by hand, and brute force over random graphs."""

from __future__ import annotations

import json
import time
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto

import analyzer
from analyzer.analysis import receptive_field
from analyzer.attribution import Explainer
from analyzer.attribution.support import verify_receptive_field
from analyzer.commands import cli
from analyzer.errors import AnalyzerError, InputError
from tests import architectures as nets
from tests.corpus import EXPORTS, MODELS, needs_corpus
from tests.models import model, node, small_cnn


def fields_of(nodes, shape=(1, 1, 32, 32), weights=None, opset=17, **options):
    """Receptive fields of a graph over `x`."""
    outputs = {nodes[-1].output[0]: None}
    return receptive_field(model(nodes, {"x": list(shape)}, outputs, weights, opset=opset), **options)


def last(nodes, *args, **options):
    found = fields_of(nodes, *args, **options)
    assert not found.unknown
    return found[nodes[-1].output[0]]


def ones(*shape):
    return np.ones(shape, np.float32)


def ints(*values):
    return np.array(values, np.int64)


# ---- Published numbers ----

# Araujo, Norris, Sim 2019 (google-research/receptive_field, RECEPTIVE_FIELD_TABLE.md): tensor → size, stride, padding.
DISTILL = {
    nets.alexnet: {
        "conv1": (11, 4, 0), "pool1": (19, 8, 0), "conv2": (51, 8, 16), "conv3": (99, 16, 32), "conv4": (131, 16, 48),
        "conv5": (163, 16, 64), "pool5": (195, 32, 64),
    },
    nets.vgg16: {
        "conv1_1": (3, 1, 1), "pool1": (6, 2, 2), "conv2_1": (10, 2, 4), "pool2": (16, 4, 6), "conv3_1": (24, 4, 10),
        "pool3": (44, 8, 18), "conv4_1": (60, 8, 26), "pool4": (100, 16, 42), "conv5_1": (132, 16, 58),
        "conv5_2": (164, 16, 74), "pool5": (212, 32, 90),
    },
    lambda: nets.resnet50(stride_last=True): {
        "block1": (35, 8, 15), "block2": (99, 16, 47), "block3": (291, 32, 143), "block4": (483, 32, 239),
    },
}  # fmt: skip


@pytest.mark.parametrize(("build", "published"), DISTILL.items())
def test_published_by_distill(build, published):
    fields = receptive_field(build())
    for name, (size, stride, padding) in published.items():
        assert fields[name].size == (size, size), name
        assert fields[name].stride == (stride, stride), name
        assert fields[name].padding == (padding, padding), name
        assert fields[name].exact and fields[name].aligned and fields[name].affine


@pytest.mark.parametrize(
    ("build", "name", "size"),
    [(nets.resnet50, "block4", 427), (nets.mobilenet_v2, "features", 491), (nets.densenet121, "features", 2071)],
)
def test_torchvision(build, name, size):
    fields = receptive_field(build())
    assert fields[name].size == (size, size)
    assert fields[name].stride == (32, 32)
    assert fields["gap"].is_global and fields["gap"].size is None
    assert not fields.unknown


@needs_corpus
@pytest.mark.parametrize("path", [*MODELS, *EXPORTS], ids=lambda p: p.stem)
def test_corpus(path):
    start = time.perf_counter()
    fields = analyzer.receptive_field(path)
    assert all(fields[name] is not None for name in fields)
    assert time.perf_counter() - start < 30
    assert all("Error" not in reason for reasons in fields.unknown.values() for reason in reasons)


def test_ten_thousand_nodes():
    nodes, at = [], "x"
    for i in range(3333):
        nodes += [
            node("Conv", [at, "w"], [f"c{i}"], pads=[1] * 4),
            node("Relu", [f"c{i}"], [f"r{i}"]),
            node("Add", [at, f"r{i}"], [f"a{i}"]),
        ]
        at = f"a{i}"
    start = time.perf_counter()
    assert last(nodes, weights={"w": ones(1, 1, 3, 3)}).size == (6667, 6667)
    assert time.perf_counter() - start < 30


# ---- Windows ----


def test_asymmetric_pads_strides_and_dilation():
    conv = node("Conv", ["x", "w"], ["y"], strides=[2, 3], dilations=[1, 2], pads=[2, 1, 0, 4])
    field = last([conv], weights={"w": ones(1, 1, 3, 5)})
    assert (field.size, field.stride, field.padding) == ((3, 9), (2, 3), (2, 1))
    assert field.interval((0, 0)) == ((-2, 1), (-1, 8))
    assert field.interval((0, 0), clip=True) == ((0, 1), (0, 8))
    assert field.center((1, 1)) == (1.0, 6.0)


@pytest.mark.parametrize(("auto", "padding"), [("SAME_UPPER", 0), ("SAME_LOWER", 1), ("VALID", 0)])
def test_auto_pad(auto, padding):
    field = last([node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad=auto)], weights={"w": ones(1, 1, 3, 3)})
    assert (field.size, field.padding) == ((3, 3), (padding, padding))


def test_same_padding_of_unknown_size():
    conv = node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")
    field = last([conv], (1, 1, "h", "w"), {"w": ones(1, 1, 3, 3)})
    assert (field.size, field.stride, field.padding) == ((3, 3), (2, 2), (None, None))
    assert not field.exact


def test_pools():
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    field = last(nodes)
    assert (field.size, field.stride, field.padding) == ((5, 5), (4, 4), (1, 1))


def test_conv_transpose():
    up = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    field = last([up], weights={"w": ones(1, 1, 4, 4)})
    assert (field.size, field.stride) == ((2, 2), (Fraction(1, 2), Fraction(1, 2)))
    assert [field.interval((i, 2))[0] for i in range(4)] == [(-1, 1), (0, 2), (0, 2), (1, 3)]
    nodes = [node("Conv", ["x", "w3"], ["a"], strides=[2, 2], pads=[1] * 4), node("ConvTranspose", ["a", "w"], ["y"])]
    field = last([*nodes], weights={"w": ones(1, 1, 2, 2), "w3": ones(1, 1, 3, 3)})
    assert (field.size, field.stride) == ((5, 5), (2, 2))


def test_one_dimension_and_three():
    conv = node("Conv", ["x", "w"], ["y"], strides=[2], pads=[1, 1])
    assert last([conv], (1, 2, 20), {"w": ones(3, 2, 3)}).size == (3,)
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 1, 0, 1, 1, 0])
    assert last([conv], (1, 1, 9, 9, 9), {"w": ones(1, 1, 3, 3, 1)}).size == (3, 3, 1)


# ---- Resizing and moving ----


def test_resize_linear():
    field = last(
        [node("Resize", ["x", "", "s"], ["y"], mode="linear")], weights={"s": np.array([1, 1, 2, 2], np.float32)}
    )
    assert (field.size, field.stride) == ((2, 2), (Fraction(1, 2), Fraction(1, 2)))
    assert [field.interval((i, 4))[0] for i in range(1, 5)] == [(0, 2), (0, 2), (1, 3), (1, 3)]


def test_resize_nearest():
    scale = {"s": np.array([1, 1, 2, 2], np.float32)}
    field = last([node("Resize", ["x", "", "s"], ["y"], mode="nearest")], weights=scale)
    assert field.size == (1, 1)
    assert [field.interval((i, 0))[0] for i in range(4)] == [(0, 1), (0, 1), (1, 2), (1, 2)]
    up_and_down = [
        node("Resize", ["x", "", "s"], ["u"], mode="nearest"),
        node("AveragePool", ["u"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    assert (last(up_and_down, weights=scale).size, last(up_and_down, weights=scale).stride) == ((1, 1), (1, 1))


def test_resize_antialiased():
    """Every second pixel, smoothed by a triangle of radius 2."""
    scale = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
    field = last([node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)], weights=scale, opset=18)
    assert (field.size, field.stride, field.padding) == ((4, 4), (2, 2), (1, 1))


def test_space_to_depth_and_back():
    field = last([node("SpaceToDepth", ["x"], ["y"], blocksize=2)])
    assert (field.size, field.stride, field.padding, field.axes) == ((2, 2), (2, 2), (0, 0), (2, 3))
    nodes = [
        node("SpaceToDepth", ["x"], ["a"], blocksize=2),
        node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
        node("DepthToSpace", ["b"], ["y"], blocksize=2),
    ]
    fields = fields_of(nodes, weights={"w": ones(4, 4, 3, 3)})
    assert (fields["b"].size, fields["b"].stride, fields["b"].padding) == ((6, 6), (2, 2), (2, 2))
    assert fields["y"].interval((2, 3)) == ((0, 6), (0, 6))
    restored = last([nodes[0], node("DepthToSpace", ["a"], ["y"], blocksize=2)])
    assert (restored.size, restored.stride, restored.affine) == ((1, 1), (1, 1), True)


def test_slices():
    weights = {"start": ints(3, 30), "end": ints(29, -33), "axes": ints(2, 3), "step": ints(2, -1)}
    field = last([node("Slice", ["x", "start", "end", "axes", "step"], ["y"])], weights=weights)
    assert (field.size, field.stride, field.padding) == ((1, 1), (2, -1), (-3, -30))


def test_focus_stem():
    """Four shifted samplings concatenated: together a unit sees 2×2 pixels, each branch another one."""
    weights, nodes = {"end": ints(32, 32), "axes": ints(2, 3), "step": ints(2, 2)}, []
    for i in range(4):
        weights[f"s{i}"] = ints(i // 2, i % 2)
        nodes.append(node("Slice", ["x", f"s{i}", "end", "axes", "step"], [f"p{i}"]))
    field = last([*nodes, node("Concat", [f"p{i}" for i in range(4)], ["y"], axis=1)], weights=weights)
    assert (field.size, field.stride, field.padding, field.aligned) == ((2, 2), (2, 2), (0, 0), False)


def test_layouts_and_channel_shuffle():
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        node("Reshape", ["b", "split"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[0, 1, 2, 4, 3]),
        node("Reshape", ["d", "join"], ["y"]),
    ]
    weights = {"w": ones(6, 1, 3, 3), "split": ints(1, 32, 32, 2, 3), "join": ints(0, 32, 32, -1)}
    field = last(nodes, weights=weights)
    assert (field.size, field.stride, field.axes) == ((3, 3), (1, 1), (1, 2))


def test_tokens_know_their_place():
    nodes = [
        node("Conv", ["x", "w"], ["a"], strides=[8, 8]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Transpose", ["b"], ["y"], perm=[0, 2, 1]),
    ]
    field = last(nodes, weights={"w": ones(5, 1, 8, 8), "shape": ints(1, 5, 16)})
    assert (field.size, field.axes) == ((8, 8), (1,))
    assert field.interval(6) == ((8, 16), (16, 24))
    with pytest.raises(InputError):
        field.interval(16)


# ---- Joins ----


def test_join_takes_the_hull():
    nodes = [
        node("Conv", ["x", "w3"], ["a"], pads=[1] * 4),
        node("Conv", ["x", "w5"], ["b"], pads=[2, 0, 2, 4]),
        node("Add", ["a", "b"], ["y"]),
    ]
    field = last(nodes, weights={"w3": ones(1, 1, 3, 3), "w5": ones(1, 1, 5, 5)})
    assert (field.size, field.stride, field.padding) == ((5, 6), (1, 1), (2, 1))
    assert not field.aligned and field.exact


def test_aligned_join():
    nodes = [
        node("Conv", ["x", "w3"], ["a"], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["x", "w1"], ["b"], strides=[2, 2]),
        node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    field = last(nodes, weights={"w3": ones(1, 1, 3, 3), "w1": ones(2, 1, 1, 1)})
    assert (field.size, field.padding, field.aligned) == ((3, 3), (1, 1), True)


# ---- Everything is seen ----


def test_global_pools():
    for pool in (
        node("GlobalAveragePool", ["a"], ["y"]),
        node("GlobalMaxPool", ["a"], ["y"]),
        node("ReduceMean", ["a"], ["y"], axes=[2, 3]),
        node("AveragePool", ["a"], ["y"], kernel_shape=[32, 32]),
    ):
        field = last([node("Conv", ["x", "w"], ["a"], pads=[1] * 4), pool], weights={"w": ones(2, 1, 3, 3)})
        assert field.is_global and field.size is None and field.global_axes == (True, True)
        assert field.interval(()) == ((0, 32), (0, 32))


def test_pooling_one_axis():
    field = last([node("ReduceMean", ["x"], ["y"], axes=[2])])
    assert (field.size, field.is_global, field.global_axes) == ((None, 1), False, (True, False))


def test_squeeze_and_excitation():
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Conv", ["g", "w1"], ["h"]),
        node("Sigmoid", ["h"], ["s"]),
        node("Mul", ["a", "s"], ["b"]),
        node("Conv", ["b", "w2"], ["y"], pads=[1] * 4),
    ]
    weights = {"w": ones(2, 1, 3, 3), "w1": ones(2, 2, 1, 1), "w2": ones(2, 2, 3, 3)}
    field = last(nodes, weights=weights)
    assert field.is_global
    assert (field.local.size, field.local.stride, field.local.padding) == ((5, 5), (1, 1), (2, 2))
    assert last(nodes, weights=weights, gates="cut").size == (5, 5)


def test_attention():
    nodes = [
        node("Conv", ["x", "w"], ["a"], strides=[8, 8]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Transpose", ["b"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "m"], ["q"]),
        node("MatMul", ["q", "b"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "t"], ["z"]),
        node("Add", ["z", "t"], ["y"]),
    ]
    fields = fields_of(nodes, weights={"w": ones(4, 1, 8, 8), "shape": ints(1, 4, 16), "m": ones(4, 4)})
    assert fields["q"].size == (8, 8)
    assert fields["p"].is_global and fields["z"].is_global and fields["y"].is_global


# ---- What is not known ----


def test_unknown_operators_are_named():
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        onnx.helper.make_node("Sharpen", ["a"], ["b"], name="sharp", domain="my.ops"),
        node("Relu", ["b"], ["c"]),
        node("Relu", ["a"], ["d"]),
    ]
    graph = model(nodes, {"x": [1, 1, 8, 8]}, {"c": [1, 1, 8, 8]}, {"w": ones(1, 1, 3, 3)}, domains={"my.ops": 1})
    fields = receptive_field(graph)
    assert fields["d"].size == (3, 3)
    assert set(fields.unknown) == {"b", "c"} and "b" not in fields
    assert fields.unknown["c"] == ("my.ops::Sharpen (node 'sharp')",)


def test_data_dependent_places_are_bounds():
    field = last([node("GatherND", ["x", "i"], ["y"])], weights={"i": ints(0, 0)})
    assert field.is_global and not field.exact


def test_computed_parameters_are_gates():
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0), node("Squeeze", ["m", "zero"], ["s"])]
    nodes += [node("BatchNormalization", ["x", "s", "one", "one", "one"], ["y"])]
    field = last(nodes, weights={"zero": ints(0), "one": ones(1)})
    assert field.is_global and field.local.size == (1, 1)


def test_types_and_sizes_are_no_dependence():
    nodes = [node("Cast", ["w"], ["h"], to=10), node("CastLike", ["h", "x"], ["b"]), node("Shape", ["x"], ["n"])]
    fields = fields_of([*nodes, node("Add", ["x", "b"], ["y"])], weights={"w": ones(1)})
    assert set(fields) == {"x", "y"} and fields["y"].size == (1, 1)


def test_public_function(tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path)
    fields = analyzer.receptive_field(path)
    assert (fields["r2"].size, fields["r2"].stride, fields["r2"].padding) == ((8, 8), (2, 2), (3, 3))
    assert fields["logits"].is_global
    with pytest.raises(InputError):
        analyzer.receptive_field(path, gates="open")


# ---- Brute force ----

SIDE, MARGIN = 28, 4


def conv(rng, x, c, h, w):
    k, d = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
    attrs = {"strides": rng.integers(1, 3, 2), "dilations": d, "pads": rng.integers(0, 3, 4)}
    group = c if c <= 4 and rng.random() < 0.3 else 1
    return "Conv", [x, rng.uniform(0.5, 1, (2 * group, c // group, *k))], attrs | {"group": group}


def average(rng, x, c, h, w):
    return (
        "AveragePool",
        [x],
        {"kernel_shape": rng.integers(2, 4, 2), "strides": rng.integers(1, 3, 2), "pads": rng.integers(0, 2, 4)},
    )


def transposed(rng, x, c, h, w):
    """A kernel no smaller than its stride: no unit is left without any input."""
    s = rng.integers(1, 4, 2)
    k = s + rng.integers(0, 3, 2)
    attrs = {"strides": s, "pads": [*rng.integers(0, k), *rng.integers(0, k)], "output_padding": rng.integers(0, s)}
    return "ConvTranspose", [x, rng.uniform(0.5, 1, (c, 2, *k))], attrs


def resize(rng, x, c, h, w):
    attrs = {
        "mode": rng.choice(["nearest", "linear", "cubic"]),
        "coordinate_transformation_mode": rng.choice(["half_pixel", "asymmetric", "align_corners"]),
        "nearest_mode": rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    }
    factors = rng.choice([0.5, 1.5, 2.0], 2)
    sizes = ints(int(h * factors[0]), int(w * factors[1]))
    given = ["", sizes] if rng.random() < 0.5 else [factors.astype(np.float32)]
    return "Resize", [x, "", *given], attrs | {"axes": [2, 3]}


def cut(rng, x, c, h, w):
    return (
        "Slice",
        [x, rng.integers(0, 3, 2), ints(h, w) - rng.integers(0, 2, 2), ints(2, 3), rng.integers(1, 3, 2)],
        {},
    )


def padded(rng, x, c, h, w):
    return "Pad", [x, rng.integers(0, 3, 4), "", ints(2, 3)], {}


def blocks(rng, x, c, h, w):
    if h % 2 == w % 2 == 0 and rng.random() < 0.5:
        return "SpaceToDepth", [x], {"blocksize": 2}
    if c % 4 == 0:
        return "DepthToSpace", [x], {"blocksize": 2, "mode": rng.choice(["DCR", "CRD"])}
    return "Conv", [x, rng.uniform(0.5, 1, (4, c, 1, 1))], {}


LAYERS = [conv, conv, average, transposed, resize, cut, padded, blocks]


def random_graph(rng):
    """A chain of random layers with branches that are added or concatenated; every weight is positive."""
    nodes, weights, shape, at = [], {}, (1, SIDE, SIDE), "x"

    def append(op, inputs, attrs):
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                weights[f"w{len(weights)}"] = value.astype(np.float32) if value.dtype == np.float64 else value
                value = f"w{len(weights) - 1}"
            names.append(value)
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
        nodes.append(node(op, names, [f"t{len(nodes)}"], **{k: str(v) if "mode" in k else v for k, v in plain.items()}))
        return nodes[-1].output[0]

    for _ in range(rng.integers(3, 7)):
        if min(shape[1:]) < 6 or max(shape) > 80:
            break
        if rng.random() < 0.25:
            k = int(rng.choice([1, 3]))
            branch = append("Conv", [at, rng.uniform(0.5, 1, (shape[0], shape[0], k, 3))], {"pads": [k // 2, 1] * 2})
            at = append("Add", [at, branch], {}) if k > 1 else append("Concat", [at, branch], {"axis": 1})
        else:
            at = append(*LAYERS[rng.integers(len(LAYERS))](rng, at, *shape))
        built = onnx.shape_inference.infer_shapes(
            model(nodes, {"x": [1, 1, SIDE, SIDE]}, {at: None}, weights, opset=19), data_prop=True
        )
        shape = tuple(d.dim_value for d in built.graph.output[0].type.tensor_type.shape.dim)[1:]
    return nodes, weights


@pytest.mark.parametrize("seed", range(40))
def test_brute_force(seed):
    """Each pixel is lit in turn; a unit must answer to exactly those inside its interval (away from the border)."""
    rng = np.random.default_rng(seed)
    nodes, weights = random_graph(rng)
    names = [n.output[0] for n in nodes]
    fields = receptive_field(model(nodes, {"x": [1, 1, SIDE, SIDE]}, {names[-1]: None}, weights, opset=19))
    assert not fields.unknown
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    built = model(nodes, {"x": ["N", 1, SIDE, SIDE]}, dict.fromkeys(names), weights, opset=19)
    session = ort.InferenceSession(built.SerializeToString(), options)
    pixels = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, 1, SIDE, SIDE)
    for name, answer in zip(names, session.run(names, {"x": pixels}), strict=True):
        field = fields[name]
        answer = (answer != 0).any(axis=tuple({1, 2, 3} - set(field.axes)))
        inner = answer.shape[1:]
        for index in [tuple(n // 2 for n in inner), *(tuple(rng.integers(0, inner)) for _ in range(8))]:
            claim = field.interval(index)
            if all(start >= MARGIN and stop <= SIDE - MARGIN for start, stop in claim):
                lit = answer[(slice(None), *index)].reshape(SIDE, SIDE)
                found = tuple((int(p.min()), int(p.max()) + 1) for p in np.nonzero(lit))
                assert found == claim or (not field.exact and _contains(claim, found)), (name, index)


def _contains(outer, inner):
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_operators_of_the_specification():
    """Every float32 test of ONNX's own suite: what changes when an element does lies inside the interval claimed.

    Not at borders: nearest Resize may repeat them, and there the image counts as continued.
    """
    from onnx.backend.test.case.node import collect_testcases

    checked = 0
    for case in collect_testcases(None):
        arrays = case.data_sets[0][0] if case.data_sets else []
        names = [i.name for i in case.model.graph.input]
        whole = bool(arrays) and len(arrays) == len(names) and all(isinstance(a, np.ndarray) for a in arrays)
        if whole and arrays[0].dtype == np.float32 and 2 <= arrays[0].size <= 64 and "_resize_" not in case.name:
            checked += _stays_inside(case.name, case.model, dict(zip(names, arrays, strict=True)))
    assert checked > 500


def _stays_inside(title, given, arrays):
    """Number of outputs that were compared."""
    (name, x), *others = arrays.items()
    fixed = onnx.ModelProto()
    fixed.CopyFrom(given)
    del fixed.graph.input[1:]
    fixed.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in others)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(given.SerializeToString(), options)
        outputs = [o.name for o in session.get_outputs()]
        base = session.run(outputs, arrays)
        changed = []
        for place in np.ndindex(x.shape):
            moved = x.copy()
            moved[place] += 0.37
            found = session.run(outputs, arrays | {name: moved})
            changed.append([_differs(a, b) for a, b in zip(found, base, strict=True)])
    except Exception:
        return 0  # no kernel for it, or shapes that change with the values
    try:
        fields = receptive_field(fixed, wrt=name, axes=range(x.ndim))
    except AnalyzerError:
        return 0
    count = 0
    for k, output in enumerate(outputs):
        if output in fields.unknown:
            continue
        answers = np.array([c[k] for c in changed]).reshape(x.shape + base[k].shape)
        assert output in fields or not answers.any(), (title, output)
        for unit in np.argwhere(answers.any(axis=tuple(range(x.ndim)))):
            field = fields[output]
            claim = field.interval([unit[a] for a in field.axes])
            lit = np.nonzero(answers[(..., *unit)])
            found = [(int(p.min()), int(p.max()) + 1) for p in lit]
            assert _contains(claim, found), (title, output, unit, claim, found)
        count += 1
    return count


def _differs(a, b):
    if a.shape != b.shape:
        raise ValueError("the shape depends on the values")
    return (a != b) & ~((a != a) & (b != b))


# ---- By the support of a gradient ----


def test_gradients_prove_every_feature_map():
    """ReLU, maxima and random weights do not hide anything; the image grows where 12×12 is too small."""
    explainer = Explainer(small_cnn())
    fields = receptive_field(explainer.plain)
    assert fields["r2"].size == (8, 8)
    for name in ("c1", "p1", "r2", "g", "logits"):
        assert verify_receptive_field(explainer, name, fields[name]) == "equal", name


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (nets.alexnet, "conv5"),
        (nets.vgg16, "pool5"),
        (nets.resnet50, "block4"),
        (nets.mobilenet_v2, "features"),
        (nets.densenet121, "features"),
    ],
)
def test_gradients_prove_published_numbers(build, name):
    explainer = Explainer(build())
    assert verify_receptive_field(explainer, name, receptive_field(explainer.plain)[name]) == "equal"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("image", [TensorProto.UINT8, TensorProto.FLOAT])
def test_gradients_prove_quantized_models(image, per_channel):
    """Quantizers hide nothing: their steps, zero points, saturation and integer inputs are left out of the twin."""
    explainer = Explainer(quantized_cnn(image, per_channel))
    fields = receptive_field(explainer.plain)
    assert fields["r2"].size == (8, 8)
    for name in ("c1", "p1", "r2"):
        assert verify_receptive_field(explainer, name, fields[name]) == "equal", name
    claimed = verify_receptive_field(explainer, "p1", fields["c2"])
    assert claimed.startswith("smaller: pixels")


def quantized_cnn(image, per_channel):
    """Conv–Relu–MaxPool–Conv–Relu as quantizers write it; zero points in the middle, so that many values saturate."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {"s": np.float32(0.02), "z": np.uint8(128)}
    zero = ["z"]
    at = "x"
    if image == TensorProto.FLOAT:
        nodes.append(node("QuantizeLinear", ["x", "s", "z"], ["xq"]))
        at = "xq"
    nodes.append(node("DequantizeLinear", [at, "s", *zero], ["xd"]))
    at = "xd"
    for i, (k, c) in enumerate([(8, 3), (4, 8)], 1):
        weights[f"w{i}"] = rng.integers(-128, 128, (k, c, 3, 3)).astype(np.int8)
        shape = (k,) if per_channel else ()
        weights[f"ws{i}"] = np.full(shape, 0.01, np.float32)
        weights[f"wz{i}"] = np.zeros(shape, np.int8)
        axis = {"axis": 0} if per_channel else {}
        nodes += [
            node("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"wd{i}"], **axis),
            node("Conv", [at, f"wd{i}"], [f"c{i}"], pads=[1] * 4),
            node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        at = f"r{i}"
        if i == 1:
            nodes.append(node("MaxPool", [at], ["p1"], kernel_shape=[2, 2], strides=[2, 2]))
            at = "p1"
        nodes += [
            node("QuantizeLinear", [at, "s", "z"], [f"q{i}"]),
            node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
        ]
        at = f"d{i}"
    made = model(nodes, {"x": [1, 3, 32, 32]}, {at: None}, weights)
    made.graph.input[0].type.tensor_type.elem_type = image
    return made


def test_verify_shows_progress(tmp_path, monkeypatch):
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path)
    monkeypatch.setattr("analyzer.commands.common.shows_progress", lambda: True)
    shown = CliRunner().invoke(cli, ["receptive-field", str(path), "--verify"])
    assert shown.exit_code == 0 and "verify ████" in shown.output


def test_wrong_claims_are_found_out():
    explainer = Explainer(small_cnn(size=32))
    fields = receptive_field(explainer.plain)
    assert verify_receptive_field(explainer, "c2", fields["p1"]).startswith(
        "differs: pixels 13 to 20 of axis 0, not 15 to 18"
    )
    assert verify_receptive_field(explainer, "p1", fields["c2"]).startswith("smaller: pixels")


def test_less_than_a_claim_that_reaches_over_the_border_is_inside():
    """Of c2's interval, 1 to 8 of 8 pixels, the last is over the border; p1 reads 4 to 7."""
    explainer = Explainer(small_cnn(size=8))
    claim = receptive_field(explainer.plain)["c2"]
    assert verify_receptive_field(explainer, "p1", claim) == "inside"


def test_integers_have_no_gradient():
    nodes = [node("Conv", ["x", "w"], ["a"]), node("ArgMax", ["a"], ["b"], axis=1)]
    explainer = Explainer(model(nodes, {"x": [1, 1, 8, 8]}, {"a": None}, {"w": ones(2, 1, 3, 3)}))
    field = receptive_field(explainer.plain)["b"]
    assert field.size == (3, 3)
    assert verify_receptive_field(explainer, "b", field).startswith("not checked: ")


def test_a_gradient_that_is_zero_everywhere_proves_nothing():
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Floor", ["a"], ["b"])]
    explainer = Explainer(model(nodes, {"x": [1, 1, 8, 8]}, {"b": None}, {"w": ones(2, 1, 3, 3)}))
    field = receptive_field(explainer.plain)["b"]
    assert field.size == (3, 3)
    assert verify_receptive_field(explainer, "b", field) == "not checked: the gradient of 'b' is 0 everywhere"


def test_command(tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path)
    shown = CliRunner().invoke(cli, ["receptive-field", str(path), "--verify", "--format", "json"])
    assert shown.exit_code == 0, shown.output
    rows = {r["tensor"]: r for r in json.loads(shown.output)["tensors"]}
    assert rows["r2"]["size"] == [8, 8] and rows["r2"]["stride"] == [2, 2] and rows["r2"]["padding"] == [3, 3]
    assert all(r["verified"] == "equal" for r in rows.values())
