"""The map by which a detection is explained: where the scales of a pyramid come together."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.analysis.feature_maps import feature_maps, meetings
from analyzer.graph import Graph
from tests.models import model, node
from tests.test_detection import BOTH, LARGE_GREEN, SMALL_RED, detector, task_of


def pyramid() -> onnx.ModelProto:
    """The detector with a neck: the coarse map is enlarged and joined to the fine one, and that reduced to it."""
    net = onnx.ModelProto.FromString(detector().SerializeToString())
    at = {n.output[0]: i for i, n in enumerate(net.graph.node)}
    nodes = list(net.graph.node)
    first, second = nodes[at["pooled8"]], nodes[at["pooled16"]]
    neck = [
        first, second,
        node("Relu", ["pooled8"], ["c8"]), node("Relu", ["pooled16"], ["c16"]),
        node("Resize", ["c16", "", "twice"], ["up"], mode="nearest"),
        node("Concat", ["c8", "up"], ["cat8"], axis=1),
        node("Conv", ["cat8", "mix8"], ["mixed8"]), node("Relu", ["mixed8"], ["map8"]),
        node("AveragePool", ["cat8"], ["down"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["down", "c16"], ["cat16"], axis=1),
        node("Conv", ["cat16", "mix16"], ["mixed16"]), node("Relu", ["mixed16"], ["map16"]),
    ]  # fmt: skip
    rest = [n for n in nodes if n.output[0] not in ("pooled8", "pooled16", "map8", "map16")]
    del net.graph.node[:]
    net.graph.node.extend([*rest[:2], *neck, *rest[2:]])
    mix8, mix16 = np.zeros((3, 6, 1, 1), np.float32), np.zeros((3, 9, 1, 1), np.float32)
    mix8[range(3), range(3)], mix16[range(3), range(6, 9)] = 1, 1
    for name, array in {"twice": np.array([1, 1, 2, 2], np.float32), "mix8": mix8, "mix16": mix16}.items():
        net.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return net


def test_a_level_is_explained_where_the_scales_meet() -> None:
    task = task_of(pyramid())
    assert [level.layer for level in task.decoder.levels] == ["cat8", "cat16"]
    assert [level.layer for level in task_of(detector()).decoder.levels] == ["map8", "map16"]  # nothing meets


@pytest.mark.parametrize(("target", "square"), [(0, SMALL_RED), (1, LARGE_GREEN)])
def test_its_heat_lies_on_the_detection(target, square) -> None:
    found = analyzer.explain(pyramid(), BOTH, "layer-cam", target)
    _, y, x, side = square
    assert found.layer == "cat8"
    heat = found.heatmap[0]
    assert heat[y : y + side, x : x + side].sum() > 0.3 * heat.sum() > 0
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert y <= row < y + side and x <= column < x + side


def ended(end: str, surest: int = 8) -> onnx.ModelProto:
    """The detector with what is found chosen inside: by NonMaxSuppression, in three outputs and without a batch axis as
    torchvision has it, or by TopK, in one output as YOLOv10 has it. "objectness" is the former, with scores that are
    multiplied by an objectness; "filled" the latter, with scores that are cut out of rows of boxes and scores, and with
    two rows of zeros at the end, put into an array of zeros, as YOLO11 exported with its suppression has it."""
    net = onnx.ModelProto.FromString(detector(surest=surest).SerializeToString())
    del net.graph.node[-1], net.graph.output[:]
    nodes = [
        node("Transpose", ["boxes"], ["centred"], perm=[0, 2, 1]),
        node("Split", ["centred", "cut"], ["middle", "extent"], axis=2),
        node("Mul", ["extent", "reach"], ["reached"]),
        node("Sub", ["middle", "reached"], ["before"]), node("Add", ["middle", "reached"], ["after"]),
        node("Concat", ["before", "after"], ["corners"], axis=2),
    ]  # fmt: skip
    weights = {"reach": np.float32(0.5)}
    kinds = {
        "box rows": onnx.TensorProto.FLOAT,
        "score rows": onnx.TensorProto.FLOAT,
        "label rows": onnx.TensorProto.INT64,
    }
    objectness = end == "objectness"
    if end != "TopK":
        weights |= {
            "most": np.array([20], np.int64), "overlap": np.float32([0.5]), "least": np.float32([0.3]),
            "one": np.array(1, np.int64), "two": np.array(2, np.int64), "first": np.array([0], np.int64),
            "things": np.full((1, 1, 80), 0.9, np.float32),
        }  # fmt: skip
        nodes += [
            node("Mul" if objectness else "Identity", ["scores", "things"][: 1 + objectness], ["sure"]),
            node("NonMaxSuppression", ["corners", "sure", "most", "overlap", "least"], ["kept"]),
            node("Gather", ["kept", "one"], ["label rows"], axis=1), node("Gather", ["kept", "two"], ["place"], axis=1),
            node("Squeeze", ["corners", "first"], ["all boxes"]),
            node("Gather", ["all boxes", "place"], ["box rows"], axis=0),
            node("GatherND", ["sure", "kept"], ["score rows"]),
        ]  # fmt: skip
    else:
        weights |= {"rows": np.array([6], np.int64), "last": np.array([2], np.int64), "four": np.int64([1, 1, 4])}
        filled = end == "filled"
        if filled:
            weights |= {
                "four at": np.int64([4]), "seven": np.int64([7]), "two": np.int64([2]),
                "pads": np.int64([0, 0, 0, 0, 2, 0]),
                "zeros": np.zeros((1, 8, 6), np.float32), "all of it": np.int64([[0]]), "none": np.float32(0),
            }  # fmt: skip
            nodes += [
                node("Transpose", ["scores"], ["by place"], perm=[0, 2, 1]),
                node("Concat", ["corners", "by place"], ["everything"], axis=2),
                node("Slice", ["everything", "four at", "seven", "two"], ["cut out"]),
                node("Pad", ["found", "pads", "none"], ["padded"]),
                node("ScatterND", ["zeros", "all of it", "padded"], ["output0"]),
            ]
        scores, axis, found = ("cut out", 2, "found") if filled else ("scores", 1, "output0")
        nodes += [
            node("ReduceMax", [scores], ["surest"], axes=[axis], keepdims=0),
            node("ArgMax", ["scores"], ["kind"], axis=1, keepdims=0),
            node("TopK", ["surest", "rows"], ["best", "place"], axis=1),
            node("GatherElements", ["kind", "place"], ["label"], axis=1),
            node("Unsqueeze", ["place", "last"], ["places"]), node("Expand", ["places", "four"], ["each"]),
            node("GatherElements", ["corners", "each"], ["box"], axis=1),
            node("Unsqueeze", ["best", "last"], ["best column"]),
            node("Cast", ["label"], ["label number"], to=1), node("Unsqueeze", ["label number", "last"], ["labels"]),
            node("Concat", ["box", "best column", "labels"], [found], axis=2),
        ]  # fmt: skip
        nodes.sort(key=lambda one: one.op_type in ("Pad", "ScatterND"))
        kinds = {"output0": onnx.TensorProto.FLOAT}
    net.graph.node.extend(nodes)
    net.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    net.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    return onnx.shape_inference.infer_shapes(net)


@pytest.mark.parametrize("end", ["NonMaxSuppression", "objectness", "TopK", "filled"])
def test_what_the_model_chose_is_explained_at_its_own_level(end) -> None:
    found = analyzer.explain(ended(end), BOTH, "layer-cam", "all")
    sides = [round(p.box[2] - p.box[0]) for p in found.predicted()]
    assert set(sides) == {8, 16} and found.task.layers == ("map8", "map16")
    assert [found.layer_of(row) for row in range(len(sides))] == [f"map{side}" for side in sides]


@pytest.mark.parametrize("surest", [8, 16])
@pytest.mark.parametrize("end", ["NonMaxSuppression", "TopK", "filled"])
def test_so_it_is_in_an_exported_file(end, surest, tmp_path) -> None:
    net = ended(end, surest)
    analyzer.export(net, tmp_path / "exported.onnx", "layer-cam")
    session = onnxruntime.InferenceSession(tmp_path / "exported.onnx")
    explained = analyzer.explain(net, BOTH, "layer-cam")
    assert explained.layer == f"map{surest}"
    assert np.allclose(session.run(["heatmap"], {"x": BOTH})[0], explained.heatmap, atol=1e-5)
    nothing = session.run(["heatmap"], {"x": np.zeros_like(BOTH)})[0]
    assert nothing.shape == explained.heatmap.shape and not nothing.any()


def met(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> list[str]:
    net = model(nodes, {"x": [1, 3, 16, 16]}, {nodes[-1].output[0]: None}, weights)
    graph = Graph.read(net)
    return [m.name for m in meetings(graph, feature_maps(graph)[-1])]


POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
TWICE = np.array([1, 1, 2, 2], np.float32)


def test_residual_connections_do_not_grow() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]), node("Sigmoid", ["a"], ["b"]), node("Add", ["a", "b"], ["c"]),
        node("AveragePool", ["c"], ["d"], **POOL), node("MaxPool", ["c"], ["e"], **POOL),
        node("Add", ["d", "e"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]), node("Sigmoid", ["g"], ["gate"]), node("Mul", ["f", "gate"], ["h"]),
    ]  # fmt: skip
    assert met(nodes) == []


def test_an_enlarged_branch_meets_the_other() -> None:
    nodes = [
        node("Relu", ["x"], ["fine"]), node("AveragePool", ["fine"], ["coarse"], **POOL),
        node("Resize", ["coarse", "", "twice"], ["up"], mode="nearest"), node("Add", ["fine", "up"], ["met"]),
        node("Relu", ["met"], ["after"]), node("AveragePool", ["after"], ["end"], **POOL),
    ]  # fmt: skip
    assert met(nodes, twice=TWICE) == ["met"]


def test_a_meeting_is_on_every_way() -> None:
    """`first` is passed by: what is read later comes from `fine` as well."""
    nodes = [
        node("Relu", ["x"], ["fine"]), node("AveragePool", ["fine"], ["coarse"], **POOL),
        node("Resize", ["coarse", "", "twice"], ["up"], mode="nearest"), node("Add", ["fine", "up"], ["first"]),
        node("Relu", ["first"], ["after"]), node("Concat", ["after", "fine"], ["second"], axis=1),
    ]  # fmt: skip
    assert met(nodes, twice=TWICE) == ["second"]
