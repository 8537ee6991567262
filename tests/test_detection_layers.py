"""The map by which a detection is explained: where the scales of a pyramid come together."""

from __future__ import annotations

import numpy as np
import onnx
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
