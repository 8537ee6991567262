"""Functions that decide what is said or done in rare cases, asked directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from analyzer import explain, features
from analyzer.analysis.layouts import Layout
from analyzer.attribution import Explainer, finite
from analyzer.attribution.correspondence import correspondence
from analyzer.attribution.dream import Dreamer
from analyzer.attribution.evaluator import channel_mask, position_mask
from analyzer.attribution.export import _difference
from analyzer.attribution.invariance import TRANSFORMS
from analyzer.attribution.parametrizations import DreamOptions
from analyzer.attribution.result import Attribution, joined
from analyzer.attribution.units import Units
from analyzer.errors import InputError
from analyzer.gradient.rules import poles
from analyzer.graph import Graph
from analyzer.images import Preprocess
from analyzer.images.placement import Placement
from analyzer.runtime import Session
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
    assert attribution(image=np.array([5, 6]), first=5).scores_of_rows.tolist() == [[0.1, 0.9], [0.7, 0.3]]


def test_parts_are_joined_row_by_row() -> None:
    one = attribution(details={"a": np.array([1, 2])}, doubt="why", diagnosis=["x", ""])
    two = attribution(details={"a": np.array([3, 4])}, doubt="why", image=np.array([2, 3]))
    both = joined([one, two])
    assert both.image.tolist() == [0, 1, 2, 3] and both.details["a"].tolist() == [1, 2, 3, 4]
    assert both.diagnosis == ["x", "", "", ""] and both.doubt == "why" and both.raw.shape == (4, 2, 2)
    assert joined([one]) is one


# ---- Targets, sizes, what export measures ----


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
        (np.broadcast_to(columns, (2, 4, 4)), "all channel weights of 'r' are ≤ 0"),
        (np.stack([np.full((4, 4), 0.1), np.full((4, 4), -4.0)]), "the weighted sum of 'r' is ≤ 0 everywhere"),
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


# ---- Masks over layers, of any layout ----


@pytest.mark.parametrize(
    ("layout", "rank", "shape"),
    [
        (Layout("NCHW", (2, 3)), 4, (2, 1, 2, 3)),
        (Layout("NHWC", (2, 3)), 4, (2, 2, 3, 1)),
        (Layout("NLC", (2, 3), 1, 2), 3, (2, 9, 1)),
        (Layout("NCL", (2, 3), 0, 1), 3, (2, 1, 7)),
    ],
    ids=str,
)
def test_masks_of_positions_leave_other_tokens_as_they_are(layout: Layout, rank: int, shape: tuple[int, ...]) -> None:
    rows = RNG.uniform(2, 3, (2, 2, 3))
    mask = position_mask(layout, rank, rows)
    assert mask.shape == shape
    flat = mask.reshape(2, -1)
    end = flat.shape[1] - layout.suffix
    assert np.array_equal(flat[:, layout.prefix : end], rows.reshape(2, -1))
    assert (flat[:, : layout.prefix] == 1).all() and (flat[:, end:] == 1).all()


def test_masks_of_channels_lie_along_their_axis() -> None:
    rows = RNG.uniform(0, 1, (2, 5))
    assert np.array_equal(channel_mask(Layout("NCHW"), 4, rows), rows[:, :, None, None])
    assert np.array_equal(channel_mask(Layout("NLC"), 3, rows), rows[:, None, :])


# ---- Expressions, beside NumPy ----

SCORES = RNG.standard_normal((1, 6)).astype(np.float32)
EXPRESSIONS = {
    "-logits[:, 1]": lambda z: -z[:, 1],
    "+logits[:, 1]": lambda z: z[:, 1],
    "logits[:, 1] * -2": lambda z: -2 * z[:, 1],
    "logits[:, 1] - logits[:, 2]": lambda z: z[:, 1] - z[:, 2],
    "3 - logits[:, 1]": lambda z: 3 - z[:, 1],
    "logits[:, 1] / (logits[:, 2] * logits[:, 2] + 1)": lambda z: z[:, 1] / (z[:, 2] ** 2 + 1),
    "logits[:, 1:4].sum()": lambda z: z[:, 1:4].sum(),
    "logits[:, 1:4].mean()": lambda z: z[:, 1:4].mean(),
    "logits[:, 2:].max()": lambda z: z[:, 2:].max(),
    "logits[:, -1]": lambda z: z[:, -1],
    "logits[:, :2].sum() + logits[:, 5]": lambda z: z[:, :2].sum() + z[:, 5],
    "logits.where(logits > 0).sum()": lambda z: z[z > 0].sum(),
    "logits.where(logits <= 0).sum()": lambda z: z[z <= 0].sum(),
    "logits.softmax(1)[:, 3]": lambda z: (np.exp(z) / np.exp(z).sum())[:, 3],
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_are_what_numpy_makes_of_them(text: str) -> None:
    """The scores are the input itself: the gradient is that of the expression."""
    arrays = {"size": np.array([1, 6])}
    net = model([node("Reshape", ["x", "size"], ["logits"])], {"x": [1, 1, 2, 3]}, {"logits": [1, 6]}, arrays)
    found = explain(net, SCORES.reshape(1, 1, 2, 3), "gradient", text).raw.reshape(6)

    def value(z: np.ndarray) -> float:
        return float(np.asarray(EXPRESSIONS[text](z)).sum())

    expected = []
    for at in range(6):
        step = np.zeros((1, 6))
        step[0, at] = 1e-6
        z = SCORES.astype(np.float64)
        expected.append((value(z + step) - value(z - step)) / 2e-6)
    assert np.allclose(found, expected, atol=1e-5)


def test_corners_and_overlap_of_boxes() -> None:
    """Boxes as centre and size: x 4, y 5, width 6, height 2."""
    net = model(
        [node("Reshape", ["x", "size"], ["boxes"])],
        {"x": [1, 1, 2, 4]},
        {"boxes": [1, 2, 4]},
        {"size": np.array([1, 2, 4])},
    )
    x = np.array([[[[4, 5, 6, 2], [9, 9, 1, 1]]]], np.float32)
    found = explain(net, x, "gradient", "boxes.corners()[:, 0, 2].sum()").raw[0, 0, 0]
    assert found.tolist() == [1, 0, 0.5, 0]  # x + width / 2
    (overlap,) = features(net, x, ["boxes"]).values()
    assert overlap.shape == (1, 2, 4)


# ---- Progress, units, what is read at once ----


def test_progress_is_told_once_per_picture() -> None:
    net = small_cnn()
    pictures = {n: RNG.integers(0, 255, (12, 12, 3), np.uint8) for n in "ab"}
    boxes = {name: {"eye": (2, 2, 6, 6)} for name in pictures}
    steps: list[int] = []
    correspondence(
        Explainer(net), pictures, boxes, ["r1"], Preprocess(size=(12, 12)), repeats=2, progress=lambda: steps.append(1)
    )
    assert len(steps) == 2


def test_units_of_maps_and_of_vectors() -> None:
    graph = Explainer(small_cnn(batch=1)).graph({})
    auto, named, flat = Units.of(graph), Units.of(graph, "relu1"), Units.of(graph, "logits")
    assert (auto.name, auto.channels, auto.grid) == ("r2", 16, (6, 6))
    assert (named.name, named.channels, named.grid) == ("r1", 8, (12, 12))
    assert (flat.name, flat.channels, flat.positions) == ("logits", 4, 1)
    assert named.positions == 144 and named.position((2, 3)) == 27


def test_where_values_stop_to_be_finite_is_found_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_with_infinity()
    image = RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
    words = explain(net, image).diagnosis
    assert "conv2" in words[0]
    runs: list[int] = []
    plain = Session.run

    def counted(self: Session, *given: Any, **more: Any) -> Any:
        runs.append(1)
        return plain(self, *given, **more)

    monkeypatch.setattr(Session, "run", counted)
    explain(net, image)
    once = len(runs)
    monkeypatch.setattr(finite, "READ_AT_ONCE", 1)
    assert explain(small_with_infinity(seed=1), image).diagnosis == words  # another file: nothing of it is kept
    assert len(runs) > 2 * once


def small_with_infinity(seed: int = 0) -> onnx.ModelProto:
    net = small_cnn(seed=seed)
    for tensor in net.graph.initializer:
        if tensor.name == "w2":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = np.inf
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    return net


def test_a_dream_is_moved_both_ways_and_in_every_size() -> None:
    how = Preprocess(size=(12, 12))
    dreamer = Dreamer(Explainer(small_cnn(batch=1)), "r1", how)
    options = DreamOptions(jitter=3, degrees=0.0, rescale=False)
    rng = np.random.default_rng(0)
    picture = np.zeros((12, 12, 3), np.float32)
    picture[6, 6] = 1
    seen = set()
    for _ in range(200):
        moved = dreamer._transform(options, rng).apply(picture)[..., 0]
        y, x = np.unravel_index(moved.argmax(), moved.shape)
        seen.add((int(y) - 6, int(x) - 6))
    assert seen == {(y, x) for y in range(-3, 4) for x in range(-3, 4)}
    still = DreamOptions(jitter=0, degrees=0.0, rescale=False)
    assert np.allclose(dreamer._transform(still, rng).apply(picture), picture, atol=1e-6)


# ---- The edge of what the network saw ----


def test_a_pixel_is_covered_where_its_centre_lies_inside() -> None:
    """Centres at −0.5, 0.5, 1.5 and 2.5 of an input of 2; moved by a half they lie on its edges, which are outside."""
    inside = Placement((4, 1), (2, 1), (1.0, 1.0), (-1.0, 0.0))
    assert inside.covered[:, 0].tolist() == [False, True, True, False]
    on_edge = Placement((4, 1), (2, 1), (1.0, 1.0), (-0.5, 0.0))
    assert on_edge.covered[:, 0].tolist() == [False, True, False, False]
    sideways = Placement((1, 4), (1, 2), (1.0, 1.0), (0.0, -0.5))
    assert sideways.covered[0].tolist() == [False, True, False, False]


def test_what_the_network_did_not_see_has_no_heat() -> None:
    crop = Placement((6, 4), (4, 4), (1.0, 1.0), (-1.0, 0.0))
    found = crop.map_to_image(np.full((4, 4), 5, np.float32))
    assert (found[[0, 5]] == 0).all() and (found[1:5] == 5).all()


def test_a_map_is_moved_cut_and_enlarged_even_where_nothing_is_scaled() -> None:
    heat = RNG.uniform(0, 1, (4, 4)).astype(np.float32)
    shifted = Placement((4, 4), (4, 4), (1.0, 1.0), (1.0, 0.0)).map_to_image(heat)
    assert np.allclose(shifted[:3], heat[1:]) and (shifted[3] == 0).all()
    padded = Placement((3, 2), (4, 4), (1.0, 1.0), (0.0, 0.0)).map_to_image(heat)
    assert padded.shape == (3, 2) and np.allclose(padded, heat[:3, :2])
    same = Placement((4, 4), (4, 4), (1.0, 1.0), (0.0, 0.0))
    coarse = same.map_to_image(np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert coarse.shape == (4, 4) and np.allclose(coarse[0], [0, 0.25, 0.75, 1])


def test_maps_of_several_channels_and_of_none() -> None:
    placement = Placement((4, 6), (2, 3), (0.5, 0.5), (0.0, 0.0))
    heat = RNG.uniform(0, 1, (2, 3, 5)).astype(np.float32)
    found = placement.map_to_image(heat)
    assert found.shape == (4, 6, 5)
    assert all(np.allclose(found[..., k], placement.map_to_image(heat[..., k]), atol=1e-6) for k in range(5))
    assert placement.map_to_image(heat[..., :0]).shape == (4, 6, 0)
    for bad in (heat[0, 0], heat[:0, :, 0], heat[:, :0, 0]):
        with pytest.raises(InputError, match="no height and width"):
            placement.map_to_image(bad)
    same = Placement((2, 3), (2, 3), (1.0, 1.0), (0.0, 0.0))
    assert same.map_to_image(heat[..., 0]) is not heat and np.array_equal(same.map_to_image(heat), heat)


def test_a_model_reads_any_tensor() -> None:
    net, image = small_cnn(), RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
    read = Explainer(net).reading(image)
    graph = Explainer(net).graph({})
    for name, expected in features(net, image, ["r1", "r2", "logits"]).items():
        assert np.allclose(read(graph[name]), expected, atol=1e-6)


def test_transforms_go_both_ways_and_by_nothing() -> None:
    for name in ("translation", "horizontal"):
        values = TRANSFORMS[name].values((20, 40))
        quarter = 5 if name == "translation" else 10
        assert (len(values), values[0], values[10], values[20]) == (21, -quarter, 0, quarter)
    assert np.allclose(TRANSFORMS["scaling"].values((20, 40)), 1 + 0.05 * np.arange(17))
    assert TRANSFORMS["rotation"].values((20, 40)).tolist() == list(range(0, 351, 15))
