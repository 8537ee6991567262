"""Functions that decide what is said or done in rare cases, asked directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from analyzer import explain
from analyzer.attribution.export import _difference
from analyzer.attribution.result import Attribution, joined
from analyzer.attribution.targets import _unlike_classes
from analyzer.gradient.rules import poles
from analyzer.graph import Graph
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)


# ---- Where a slope has no bound ----


def graph_of(*nodes: onnx.NodeProto, **weights: Any) -> Graph:
    arrays = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    return Graph.read(model(list(nodes), {"x": [2, 3]}, {"y": None}, arrays).SerializeToString())


UNARY = {op: graph_of(node(op, ["x"], ["y"])) for op in ("Abs", "Relu", "Sqrt", "Exp", "Sigmoid", "Neg", "Tanh", "Log")}


@pytest.mark.parametrize("op", UNARY)
def test_what_is_never_negative(op: str) -> None:
    graph = UNARY[op]
    assert poles.is_not_negative(graph, graph["y"]) == (op in ("Abs", "Relu", "Sqrt", "Exp", "Sigmoid"))
    assert not poles.is_away_from_zero(graph, graph["y"]) and not poles.is_not_negative(graph, graph["x"])


@pytest.mark.parametrize(
    ("nodes", "weights", "away", "positive"),
    [
        ([node("Add", ["x", "c"], ["y"])], {"c": 0.1}, False, False),
        ([node("Abs", ["x"], ["a"]), node("Add", ["a", "c"], ["y"])], {"c": 0.1}, True, True),
        ([node("Abs", ["x"], ["a"]), node("Add", ["c", "a"], ["y"])], {"c": 0.1}, True, True),
        ([node("Abs", ["x"], ["a"]), node("Add", ["a", "c"], ["y"])], {"c": 0.0}, False, True),
        ([node("Abs", ["x"], ["a"]), node("Add", ["a", "c"], ["y"])], {"c": -0.1}, False, False),
        ([node("Mul", ["x", "x"], ["a"]), node("Add", ["a", "c"], ["y"])], {"c": 1e-5}, True, True),
        ([node("Mul", ["x", "c"], ["y"])], {"c": 2.0}, False, False),
        ([node("Pow", ["x", "c"], ["y"])], {"c": 2.0}, False, True),
        ([node("Pow", ["x", "c"], ["y"])], {"c": 3.0}, False, False),
        ([node("Max", ["x", "c"], ["y"])], {"c": 0.5}, True, True),
        ([node("Max", ["x", "c"], ["y"])], {"c": 0.0}, False, True),
        ([node("Max", ["x", "c"], ["y"])], {"c": -0.5}, False, False),
        ([node("Clip", ["x", "c"], ["y"])], {"c": 0.5}, True, False),
        ([node("Clip", ["x", "c"], ["y"])], {"c": -0.5}, False, False),
        ([node("Exp", ["x"], ["e"]), node("ReduceSum", ["e"], ["y"])], {}, True, True),
        (
            [node("Abs", ["x"], ["a"]), node("Max", ["a", "c"], ["m"]), node("Sqrt", ["m"], ["y"])],
            {"c": 0.5},
            True,
            True,
        ),
    ],
    ids=lambda v: "-".join(n.op_type for n in v) if isinstance(v, list) else str(v),
)
def test_what_is_away_from_zero(nodes: list, weights: dict[str, float], away: bool, positive: bool) -> None:
    graph = graph_of(*nodes, **weights)
    assert poles.is_away_from_zero(graph, graph["y"]) == away
    assert poles.is_not_negative(graph, graph["y"]) == positive


@pytest.mark.parametrize(
    ("exponent", "pole"), [(0.5, True), (-1.0, True), (0.0, False), (1.0, False), (1.5, False), (2.0, False)], ids=str
)
def test_powers_with_a_pole_at_zero(exponent: float, pole: bool) -> None:
    graph = graph_of(node("Pow", ["x", "c"], ["y"]), c=exponent)
    assert poles.is_root_of_zero(graph, graph.producer(graph["y"])) == pole


# ---- Attributions ----


def attribution(**given: Any) -> Attribution:
    usual = {
        "raw": np.ones((2, 2, 2), np.float32), "heatmap": np.ones((2, 4, 4), np.float32),
        "scores": np.array([[0.1, 0.9], [0.7, 0.3]]), "target": np.array([1, 0]), "layer": "r",
        "method": "grad-cam", "image": np.array([0, 1]), "diagnosis": ["", ""],
    }  # fmt: skip
    return Attribution(**(usual | given))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_is_legible_where_its_map_and_its_score_are_finite(bad: float) -> None:
    assert attribution().legible.tolist() == [True, True]
    assert attribution(scores=np.array([[0.1, 0.9], [bad, 0.3]])).legible.tolist() == [True, False]  # class 0
    assert attribution(scores=np.array([[0.1, bad], [0.7, 0.3]])).legible.tolist() == [False, True]
    assert attribution(scores=np.array([[bad, 0.9], [0.7, bad]])).legible.tolist() == [True, True]  # other classes
    raw = np.ones((2, 2, 2), np.float32)
    raw[1, 0, 1] = bad
    assert attribution(raw=raw).legible.tolist() == [True, False]
    assert attribution(target=np.array([-1, -1]), raw=raw).legible.tolist() == [True, False]


def test_scores_of_rows_are_those_of_their_pictures() -> None:
    found = attribution(image=np.array([0, 0, 1, 1]), target=np.array([0, 1, 0, 1]), raw=np.ones((4, 2, 2)))
    assert found.scores_of_rows.tolist() == [[0.1, 0.9], [0.1, 0.9], [0.7, 0.3], [0.7, 0.3]]
    assert attribution(image=np.array([5, 6])).scores_of_rows.tolist() == [[0.1, 0.9], [0.7, 0.3]]


def test_parts_are_joined_row_by_row() -> None:
    one = attribution(details={"a": np.array([1, 2])}, doubt="why", diagnosis=["x", ""])
    two = attribution(details={"a": np.array([3, 4])}, doubt="why", image=np.array([2, 3]))
    both = joined([one, two])
    assert both.image.tolist() == [0, 1, 2, 3] and both.details["a"].tolist() == [1, 2, 3, 4]
    assert both.diagnosis == ["x", "", "", ""] and both.doubt == "why" and both.raw.shape == (4, 2, 2)
    assert joined([one]) is one


# ---- Targets, sizes, what export measures ----


@pytest.mark.parametrize(
    ("shape", "rank"),
    [((1, 5), 0), (("N", 2), 0), ((1, 5, 1, 1), 1), ((1, 1, 5), 1), ((1, 1), 2), ((1, 5, 3, 3), 2), ((1, 1, 1, 1), 2)],
    ids=str,
)
def test_outputs_that_look_like_classes(shape: tuple, rank: int) -> None:
    net = model([node("Identity", ["x"], ["y"])], {"x": list(shape)}, {"y": list(shape)})
    assert _unlike_classes(Graph.read(net.SerializeToString())["x"]) == rank


def test_inputs_with_open_sizes_take_any_and_fixed_ones_their_own() -> None:
    net = small_cnn(size="S")
    image = RNG.standard_normal((1, 3, 10, 14)).astype(np.float32)
    assert explain(net, image).heatmap.shape == (1, 10, 14)


def test_differences_are_relative_to_what_is_expected() -> None:
    expected, found = np.array([1.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32)
    assert np.isclose(_difference(expected, found), 1.0) and np.isclose(_difference(found, expected), 0.5)
    assert _difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert _difference(expected, found[:1]) == np.inf
    tiny = np.array([1e-6, 2e-6], np.float32)
    assert _difference(tiny, 2 * tiny) < 0.03  # rounding near 0 is no difference


def test_a_map_that_is_cut_to_nothing_says_by_what() -> None:
    """Channel weights are means over positions, whatever single columns say."""
    columns = np.array([3.0, -2, -2, -2])
    for weights, words in (
        (np.broadcast_to(columns, (2, 4, 4)), "all its channel weights are ≤ 0"),
        (np.stack([np.full((4, 4), 0.1), np.full((4, 4), -4.0)]), "the weighted sum is ≤ 0 everywhere"),
    ):
        nodes = [
            node("Conv", ["x", "eye"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Reshape", ["r", "flat"], ["f"]),
            node("MatMul", ["f", "w"], ["logits"]),
        ]
        arrays = {
            "eye": np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), "flat": np.array([1, 32]),
            "w": np.stack([weights.reshape(32), np.zeros(32)], axis=1).astype(np.float32),
        }  # fmt: skip
        net = model(nodes, {"x": [1, 2, 4, 4]}, {"logits": [1, 2]}, arrays)
        image = np.tile(np.linspace(1, 2, 16, dtype=np.float32).reshape(4, 4), (1, 2, 1, 1))
        found = explain(net, image, "grad-cam", 0, "r")
        assert words in found.diagnosis[0]
