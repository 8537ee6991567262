"""Detectors that have chosen what they output, and those with queries: TopK, non-maximum suppression, DETR."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.graph import Builder, Graph
from analyzer.images import Preprocess
from analyzer.images.feeding import Feeding, PictureSlot, Slot
from analyzer.runtime import Session
from analyzer.tasks import recognise
from analyzer.tasks.detection import Detection
from analyzer.tasks.detection.codings import Corners
from tests.models import model, node

SIDE, ROWS = 64, 5


def heads(logit: float = 12.0) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The places of a grid of 8 × 8: `logits` (1, 64, 3), how red, green or blue each is, and `corners` (1, 64, 4)."""
    kernel = np.full((3, 3, 1, 1), -1.0, np.float32)
    kernel[range(3), range(3)] = 1
    row, column = np.indices((8, 8)).reshape(2, -1) * 8.0
    corners = np.stack([column, row, column + 8, row + 12], axis=1)[None].astype(np.float32)
    weights = {
        "kernel": kernel,
        "scale": (logit * np.eye(3, dtype=np.float32)).reshape(3, 3, 1, 1),
        "bias": np.full(3, -6.0, np.float32),
        "flat": np.array([0, 3, -1], np.int64),
        "corners": corners,
        "rows": np.array([ROWS], np.int64),
        "classes": np.array(3, np.int64),
        "row": np.array([1, -1], np.int64),
        "last": np.array([2], np.int64),
        "four": np.array([1, 1, 4], np.int64),
        "first": np.array([0], np.int64),
    }
    nodes = [
        node("Conv", ["x", "kernel"], ["colour"]),
        node("Relu", ["colour"], ["seen"]),
        node("AveragePool", ["seen"], ["map"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Conv", ["map", "scale", "bias"], ["raw"]),
        node("Reshape", ["raw", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["logits"], perm=[0, 2, 1]),
    ]
    return nodes, weights


def chosen(sizes: bool = False, batched: bool = True, joined: bool = False, logit: float = 12.0) -> onnx.ModelProto:
    """A detector with a TopK over places and classes, as RT-DETR has it.

    Args:
        sizes: boxes are shares of the picture, multiplied by the input `orig_target_sizes`.
        joined: (1, 5, 6) box, score, class.
    """
    nodes, weights = heads(logit)
    nodes += [
        node("Sigmoid", ["logits"], ["all"]),
        node("Flatten", ["all"], ["flattened"]),
        node("TopK", ["flattened", "rows"], ["best", "index"], axis=-1),
        node("Mod", ["index", "classes"], ["label"]),
        node("Div", ["index", "classes"], ["place"]),
        node("Unsqueeze", ["place", "last"], ["places"]),
        node("Expand", ["places", "four"], ["four_places"]),
        node("GatherElements", ["scaled", "four_places"], ["box"], axis=1),
    ]
    inputs: dict[str, list[int | str]] = {"x": [1, 3, SIDE, SIDE]}
    scaling = [node("Mul", ["corners", "factor"], ["scaled"])]
    weights["factor"] = np.ones(4, np.float32)
    if sizes:
        del weights["factor"]
        weights["corners"] = weights["corners"] / SIDE
        scaling = [
            node("Cast", ["orig_target_sizes"], ["size"], to=1),
            node("Concat", ["size", "size"], ["factor"], axis=1),
            *scaling,
        ]
    at = next(i for i, n in enumerate(nodes) if n.op_type == "GatherElements")
    nodes[at:at] = scaling
    if joined:
        nodes += [
            node("Unsqueeze", ["best", "last"], ["best_column"]),
            node("Cast", ["label"], ["label_number"], to=1),
            node("Unsqueeze", ["label_number", "last"], ["label_column"]),
            node("Concat", ["box", "best_column", "label_column"], ["output0"], axis=2),
        ]
        return net(nodes, inputs, {"output0": onnx.TensorProto.FLOAT}, weights, sizes)
    names = {"labels": "label", "boxes": "box", "scores": "best"}
    for name, value in names.items():
        nodes.append(node("Identity" if batched else "Squeeze", [value] if batched else [value, "first"], [name]))
    kinds = {"labels": onnx.TensorProto.INT64, "boxes": onnx.TensorProto.FLOAT, "scores": onnx.TensorProto.FLOAT}
    return net(nodes, inputs, kinds, weights, sizes)


def net(nodes, inputs, outputs, weights, sizes: bool = False) -> onnx.ModelProto:
    made = model(nodes, inputs, dict.fromkeys(outputs), weights)
    for value in made.graph.output:
        value.type.tensor_type.elem_type = outputs[value.name]
    if sizes:
        made.graph.input.append(onnx.helper.make_tensor_value_info("orig_target_sizes", onnx.TensorProto.INT64, [1, 2]))
    return onnx.shape_inference.infer_shapes(made)


def picture(*squares: tuple[int, int, int, float]) -> np.ndarray:
    """(channel, y, x, brightness) of cells of 8 × 8."""
    x = np.zeros((1, 3, SIDE, SIDE), np.float32)
    for channel, row, column, value in squares:
        x[0, channel, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = value
    return x


TWO = picture((1, 2, 5, 1.0), (0, 6, 1, 0.9))


def task_of(made: onnx.ModelProto, **feeds: np.ndarray) -> Detection:
    explainer = Explainer(made)
    found = task_for(explainer, Question(), {"x": TWO, **feeds})
    assert isinstance(found, Detection)
    return found


def said(made: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(made.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": TWO, **feeds}), strict=True))


def with_more(columns: np.ndarray, turned: bool = False) -> onnx.ModelProto:
    """Rows of box, score and class, and further numbers of each place, (64, n), the last one an angle perhaps."""
    made = chosen(joined=True)
    last = made.graph.node[-1]
    last.input.append("more")
    weights = {
        "of_place": columns[None].astype(np.float32),
        "each": np.array([1, 1, columns.shape[1]], np.int64),
        "angle": np.float32(0.5),
    }
    extra = [
        node("Expand", ["places", "each"], ["each_place"]),
        node("GatherElements", ["of_place", "each_place"], ["more"], axis=1),
    ]
    if turned:  # boxes that depend on sines and cosines, as those that are decoded with an angle do
        extra += [
            node("Cos", ["angle"], ["cos"]), node("Sin", ["angle"], ["sin"]),
            node("Mul", ["cos", "cos"], ["cos2"]), node("Mul", ["sin", "sin"], ["sin2"]),
            node("Add", ["cos2", "sin2"], ["one"]), node("Mul", ["box", "one"], ["turned"]),
        ]  # fmt: skip
        last.input[0] = "turned"
    for one in extra:
        made.graph.node.insert(len(made.graph.node) - 1, one)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in weights.items())
    made.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 6 + columns.shape[1]
    return made


def test_rows_with_keypoints() -> None:
    noise = np.random.default_rng(3)
    columns = np.stack([*noise.uniform(0, SIDE, (2, 64)), noise.uniform(0, 1, 64)] * 2, axis=1)
    made = with_more(columns)
    task, rows = task_of(made), said(made)["output0"][0]
    surest = task.predictions(task.answer({"output0": rows[None]}))[0]
    assert np.allclose(surest.box, rows[0, :4]) and np.allclose(np.ravel(surest.points), rows[0, 6:])
    (nose,) = task.resolve("keypoint:1", task.answer({"output0": rows[None]}))
    assert nose.slot == "output0[:, 0, 11]" and np.isclose(nose.score, rows[0, 11])


def test_rows_with_an_angle() -> None:
    made = with_more(np.random.default_rng(3).uniform(0, 3, (64, 1)), turned=True)
    task, rows = task_of(made), said(made)["output0"][0]
    surest = task.predictions(task.answer({"output0": rows[None]}))[0]
    x, y, wide, high, *_, angle = rows[0].tolist()
    known = cv2.boxPoints(((x, y), (wide, high), np.degrees(angle)))
    assert np.allclose(sorted(surest.corners), sorted(map(tuple, known)), atol=1e-3)
    assert task_of(with_more(np.zeros((64, 1)))).decoder.coding == Corners()  # of no angle


def test_rows_that_fill_up_tell_nothing_of_the_unit() -> None:
    """For noise, a suppression that keeps only what is sure gives rows of zeros."""
    made = chosen(joined=True)
    made.graph.node[-1].output[0] = "rows_found"
    numbers = {"sure": np.float32(0.9), "zero": np.float32(0)}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in numbers.items())
    made.graph.node.extend(
        [
            node("Greater", ["best_column", "sure"], ["is_sure"]),
            node("Where", ["is_sure", "rows_found", "zero"], ["output0"]),
        ]
    )
    task = task_of(made)
    assert isinstance(task.decoder.coding, Corners) and not task.decoder.coding.unit


def test_what_is_not_read_has_a_role() -> None:
    made = chosen()
    made.graph.output.append(onnx.helper.make_tensor_value_info("index", onnx.TensorProto.INT64, [1, ROWS]))
    made.graph.output.append(onnx.helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE]))
    roles = {role.output: role.role for role in task_of(made).others}
    assert roles.keys() == {"index", "seen"} and roles["index"] == "int64 numbers" and roles["seen"]


FORMS = [{}, {"batched": False}, {"joined": True}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_was_chosen_is_what_is_found(form) -> None:
    made = chosen(**form)
    task = task_of(made)
    found = task.predictions(task.answer(task.said(said(made))))
    assert [(p.index, p.box) for p in found] == [(1, (40, 16, 48, 28)), (0, (8, 48, 16, 60))]
    assert np.allclose([p.score for p in found], 1 / (1 + np.exp([-6.0, -4.8])), atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("target", "square"), [("detection:0", (16, 40)), ("detection:1", (48, 8))])
def test_heat_lies_on_it(form, target, square) -> None:
    explained = analyzer.explain(chosen(**form), TWO, "layer-cam", target)
    heat, (y, x) = explained.heatmap[0], square
    assert heat.sum() > 0
    assert heat[y : y + 8, x : x + 8].sum() > 0.3 * heat.sum()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert y <= row < y + 8 and x <= column < x + 8


def test_a_saturated_score_is_explained_by_its_logit() -> None:
    """Its sigmoid is exactly 1: it has no gradient."""
    made = chosen(logit=60.0)
    assert said(made)["scores"][0, 0] == 1
    assert analyzer.explain(made, TWO, "layer-cam", "detection:0").heatmap.sum() > 0
    assert task_of(made).decoder.traced


def test_boxes_scaled_by_the_size_of_the_picture_come_out_in_its_pixels() -> None:
    made, size = chosen(sizes=True), np.array([[640, 320]], np.int64)
    task = task_of(made, orig_target_sizes=size)
    answer = task.answer(task.said(said(made, orig_target_sizes=size)))
    first = task.predictions(answer)[0]
    assert first.box == pytest.approx((400, 80, 480, 140)) and first.scaled == "orig_target_sizes"
    how = Preprocess(size=(SIDE, SIDE))
    slots = Slot("x", (1, 3, SIDE, SIDE)), Slot("orig_target_sizes", (1, 2), "int64")
    fed = Feeding(PictureSlot(slots[0], how), sizes=slots[1:]).feed(np.zeros((320, 640, 3), np.uint8))
    assert fed.feeds["orig_target_sizes"].tolist() == [[640, 320]]
    assert fed.box(first.box, first.scaled) == pytest.approx((400, 80, 480, 140))


def test_a_model_runs_once_to_be_recognised(monkeypatch) -> None:
    runs: list[list[str]] = []
    explainer, run = Explainer(chosen()), Explainer.run
    monkeypatch.setattr(Explainer, "run", lambda self, *given: runs.append(list(given[2])) or run(self, *given))
    for labels in (None, ["red", "green", "blue"]):
        found = task_for(explainer, Question(labels=labels), {"x": np.zeros((1, 3, SIDE, SIDE), np.float32)})
        assert isinstance(found, Detection)
    assert len(runs) == 1


def test_rows_without_a_choice_are_no_detections() -> None:
    """Beside boxes, numbers of rows that no TopK or suppression chose."""
    nodes, weights = heads()
    nodes += [
        node("ReduceMax", ["logits"], ["scores"], axes=[2], keepdims=0),
        node("ArgMax", ["logits"], ["labels"], axis=2, keepdims=0),
        node("Identity", ["corners"], ["boxes"]),
    ]
    kinds = {"labels": onnx.TensorProto.INT64, "boxes": onnx.TensorProto.FLOAT, "scores": onnx.TensorProto.FLOAT}
    assert not isinstance(recognise(Graph.read(net(nodes, {"x": [1, 3, SIDE, SIDE]}, kinds, weights))), Detection)


def suppressed() -> onnx.ModelProto:
    """A NonMaxSuppression inside, then gathers, without a batch axis: torchvision's outputs."""
    nodes, weights = heads()
    weights |= {
        "most": np.array([20], np.int64),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.3], np.float32),
        "class_column": np.array(1, np.int64),
        "place_column": np.array(2, np.int64),
        "two": np.array([1], np.int64),
    }
    nodes += [
        node("Sigmoid", ["logits"], ["all"]),
        node("Transpose", ["all"], ["by_class"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["corners", "by_class", "most", "overlap", "least"], ["kept"]),
        node("Gather", ["kept", "class_column"], ["labels"], axis=1),
        node("Gather", ["kept", "place_column"], ["place"], axis=1),
        node("Squeeze", ["corners", "first"], ["all_boxes"]),
        node("Gather", ["all_boxes", "place"], ["boxes"], axis=0),
        node("GatherND", ["by_class", "kept"], ["scores"]),
    ]
    kinds = {"boxes": onnx.TensorProto.FLOAT, "scores": onnx.TensorProto.FLOAT, "labels": onnx.TensorProto.INT64}
    return net(nodes, {"x": [1, 3, SIDE, SIDE]}, kinds, weights)


def test_how_many_are_found_may_be_known_when_the_model_runs() -> None:
    made = suppressed()
    task = task_of(made)
    assert task.classes is None and task.decoder.traced
    found = task.predictions(task.answer(task.said(said(made))))
    assert sorted((p.index, p.box) for p in found) == [(0, (8, 48, 16, 60)), (1, (40, 16, 48, 28))]
    explained = analyzer.explain(made, TWO, "layer-cam")
    row, column = np.unravel_index(explained.heatmap[0].argmax(), explained.heatmap[0].shape)
    assert 16 <= row < 24 and 40 <= column < 48


def test_nothing_may_be_found() -> None:
    made, nothing = suppressed(), np.zeros_like(TWO)
    assert task_of(made).says_nothing(task_of(made).said(said(made, x=nothing)))


def queries(softmax: bool, logit: float = 4.0) -> onnx.ModelProto:
    """Six queries that attend to a map: a class of three each, or none, and a box in shares of the picture."""
    rng, columns = np.random.default_rng(0), 4 if softmax else 3
    nodes, weights = heads()
    weights |= {
        "query": rng.standard_normal((1, 6, 3)).astype(np.float32),
        "classify": rng.standard_normal((3, columns)).astype(np.float32) * logit,
        "class_bias": np.full(columns, 0.0 if softmax else -4.6, np.float32),
        "place_box": rng.standard_normal((3, 4)).astype(np.float32),
    }
    nodes = [
        *nodes[:3],
        node("Reshape", ["map", "flat"], ["tokens"]),
        node("MatMul", ["query", "tokens"], ["alike"]),
        node("Softmax", ["alike"], ["attention"], axis=-1),
        node("Transpose", ["tokens"], ["values"], perm=[0, 2, 1]),
        node("MatMul", ["attention", "values"], ["answer"]),
        node("Add", ["answer", "query"], ["state"]),
        node("MatMul", ["state", "classify"], ["classified"]),
        node("Add", ["classified", "class_bias"], ["logits"]),
        node("MatMul", ["state", "place_box"], ["placed"]),
        node("Sigmoid", ["placed"], ["pred_boxes"]),
    ]
    kinds = {"logits": onnx.TensorProto.FLOAT, "pred_boxes": onnx.TensorProto.FLOAT}
    return net(nodes, {"x": [1, 3, SIDE, SIDE]}, kinds, weights)


@pytest.mark.parametrize("softmax", [True, False])
def test_queries_are_decoded_as_transformers_does(softmax) -> None:
    """`post_process_object_detection` of DETR and RT-DETR."""
    made = queries(softmax)
    task, outputs = task_of(made), said(made)
    assert task.decoder.family == ("DETR" if softmax else "RT-DETR") and task.decoder.classes == 3
    logits, (cx, cy, w, h) = outputs["logits"][0], outputs["pred_boxes"][0].T
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (raised / raised.sum(axis=1, keepdims=True))[:, :-1] if softmax else 1 / (1 + np.exp(-logits))
    found = task.decoder.candidates(task.said(outputs))
    assert np.allclose(found.scores, scores, atol=1e-6)
    assert np.allclose(found.boxes, np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * SIDE, atol=1e-4)


def test_boxes_beside_points_of_reference_have_scores_of_a_sigmoid() -> None:
    """Conditional DETR, as transformers initializes it: no bias tells of a focal loss."""
    made = queries(False)
    bias = next(t for t in made.graph.initializer if t.name == "class_bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "class_bias"))
    assert task_of(made).decoder.family == "DETR"  # of two classes and no object
    del made.graph.node[-1]
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 6, 2), 0.1, np.float32), "point"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 2], np.int64), "two and two"))
    made.graph.node.extend(
        [
            node("Split", ["placed", "two and two"], ["middle", "size"], axis=2),
            node("Add", ["middle", "point"], ["moved"]),
            node("Concat", ["moved", "size"], ["all four"], axis=2),
            node("Sigmoid", ["all four"], ["pred_boxes"]),
        ]
    )
    task, outputs = task_of(made), said(made)
    found = task.decoder.candidates(task.said(outputs))
    assert np.allclose(found.scores, 1 / (1 + np.exp(-outputs["logits"][0])), atol=1e-6)


def test_scores_in_the_graph_are_those_of_the_decoder() -> None:
    for made in (*(chosen(**form) for form in FORMS), queries(True), queries(False)):
        task = task_of(made)
        graph = Graph.read(made)
        op = Builder(graph, "test")
        inside, outside = task.decoder.scores_in(op), task.decoder.scores(task.said(said(made)))
        assert np.allclose(Session(graph, outputs=[inside.name]).run({"x": TWO})[inside.name][0], outside, atol=1e-6)


# ---- CenterNet ----


def centernet(squashed: bool) -> onnx.ModelProto:
    """Finds red and green squares of 8×8 at stride 4: a heat map per colour, sizes and offsets."""
    kernel = np.full((2, 3, 8, 8), -1 / 64, np.float32)
    kernel[0, 0], kernel[1, 1] = 1 / 64, 1 / 64
    weights = {
        "kernel": kernel,
        "steep": (12 * np.eye(2, dtype=np.float32)).reshape(2, 2, 1, 1),
        "bias": np.full(2, -8, np.float32),
        "none": np.zeros((2, 2, 1, 1), np.float32),
        "two": np.full(2, 2, np.float32),
        "half": np.full(2, 0.5, np.float32),
    }
    nodes = [
        node("Conv", ["x", "kernel"], ["seen"], strides=[4, 4], pads=[2, 2, 2, 2]),
        node("Relu", ["seen"], ["map"]),
        node("Conv", ["map", "steep", "bias"], ["logits"]),
        node("Sigmoid" if squashed else "Identity", ["logits"], ["hm"]),
        node("Conv", ["map", "none", "two"], ["wh"]),
        node("Conv", ["map", "none", "half"], ["reg"]),
    ]
    shapes = {"hm": [1, 2, 16, 16], "wh": [1, 2, 16, 16], "reg": [1, 2, 16, 16]}
    return model(nodes, {"x": [1, 3, 64, 64]}, shapes, weights)


@pytest.mark.parametrize("squashed", [True, False])
def test_peaks_of_a_heat_map_are_detections(squashed):
    x = np.zeros((1, 3, 64, 64), np.float32)
    x[:, 0, 10:18, 38:46] = 1
    x[:, 1, 42:50, 6:14] = 1
    found = analyzer.explain(centernet(squashed), x, target="all")
    assert found.task.decoder.family == "CenterNet"
    boxes = {p.index: p.box for p in found.predicted()}
    assert len(found.predicted()) == 2  # neighbours of a peak are none
    assert np.allclose(boxes[0], (38, 10, 46, 18)) and np.allclose(boxes[1], (6, 42, 14, 50))
    for row, prediction in enumerate(found.predicted()):
        y, x_ = np.unravel_index(found.heatmap[row].argmax(), (64, 64))
        x0, y0, x1, y1 = prediction.box
        assert x0 <= x_ < x1 and y0 <= y < y1
