"""Suppressions of TensorRT and TensorFlow Lite: as standard operators, against OpenCV; and detectors that end so."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import analyzer
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.runtime import Session
from tests.models import model, node
from tests.test_detection import BOTH, COLOURS, SIDE, STRIDES, detector

PICTURES, COUNT, CLASSES, KEEP, OVERLAP, LEAST = 2, 60, 4, 50, 0.4, 0.35


def sample(each: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, B, 4) corners of boxes, (N, B, C, 4) where `each` class has its own, and (N, B, C) scores."""
    rng = np.random.default_rng(2)
    shape = (PICTURES, COUNT, *[CLASSES] * each)
    middle, size = rng.uniform(20, 60, (*shape, 2)), rng.uniform(10, 30, (*shape, 2))
    boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=-1).astype(np.float32)
    return boxes, rng.uniform(0.01, 0.99, (PICTURES, COUNT, CLASSES)).astype(np.float32)


def kept(boxes: np.ndarray, scores: np.ndarray, agnostic: bool = False) -> list[tuple[float, int, list[float]]]:
    """(score, class, box) of what OpenCV keeps of one picture, (B, C, 4) boxes and (B, C) scores, the surest first."""
    best = scores == scores.max(axis=1, keepdims=True) if agnostic else np.ones_like(scores, bool)
    rows, kinds = np.nonzero(best)
    corners = boxes[rows, kinds]
    extents = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    which = np.zeros_like(kinds) if agnostic else kinds
    chosen = cv2.dnn.NMSBoxesBatched(extents.tolist(), scores[rows, kinds].tolist(), which.tolist(), LEAST, OVERLAP)
    found = [(float(scores[rows[i], kinds[i]]), int(kinds[i]), corners[i].tolist()) for i in np.ravel(chosen)]
    return sorted(found, reverse=True)[:KEEP]


def said(op: str, arrays: list[np.ndarray], outputs: int = 4, domain: str = "TRT", **attrs) -> list[np.ndarray]:
    """What an operator gives, as it is taken apart."""
    names = [f"y{i}" for i in range(outputs)]
    inputs = [f"x{i}" for i in range(len(arrays))]
    end = helper.make_node(op, inputs, names, domain=domain, **attrs)
    net = model([end], {n: list(a.shape) for n, a in zip(inputs, arrays, strict=True)}, {}, domains={domain: 1})
    net.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    for value, kind in zip(net.graph.output, kinds, strict=True):
        if op == "EfficientNMS_TRT":
            value.type.tensor_type.elem_type = kind
    found = Session(Graph.read(net)).run(dict(zip(inputs, arrays, strict=True)))
    return [found[name] for name in names]


def check(said: list[np.ndarray], wanted: list[list[tuple[float, int, list[float]]]]) -> None:
    """The numbers of detections, boxes, scores and classes of every picture, and zeros after them."""
    for count, boxes, scores, kinds, known in zip(*said, wanted, strict=True):
        assert 3 < int(np.ravel(count)[0]) == len(known) and len(scores) == KEEP
        assert np.allclose(scores[: len(known)], [score for score, _, _ in known], atol=1e-6)
        assert kinds[: len(known)].tolist() == [kind for _, kind, _ in known]
        assert np.allclose(boxes[: len(known)], [box for _, _, box in known], atol=1e-4)
        assert not any(array[len(known) :].any() for array in (boxes, scores, kinds))


COMMON = {"score_threshold": LEAST, "iou_threshold": OVERLAP, "max_output_boxes": KEEP}


@pytest.mark.parametrize("each", [0, 1])
@pytest.mark.parametrize("background", [-1, 0, 2])
def test_efficient_nms(each: int, background: int) -> None:
    boxes, scores = sample(each)
    found = said("EfficientNMS_TRT", [boxes, scores], background_class=background, **COMMON)
    scores = scores * (np.arange(CLASSES) != background)
    of_class = boxes if each else np.repeat(boxes[:, :, None], CLASSES, axis=2)
    check(found, [kept(*one) for one in zip(of_class, scores, strict=True)])


def test_efficient_nms_over_all_classes() -> None:
    boxes, scores = sample()
    found = said("EfficientNMS_TRT", [boxes, scores], class_agnostic=1, **COMMON)
    of_class = np.repeat(boxes[:, :, None], CLASSES, axis=2)
    check(found, [kept(*one, agnostic=True) for one in zip(of_class, scores, strict=True)])
    with pytest.raises(UnsupportedError, match="boxes of its own"):
        said("EfficientNMS_TRT", list(sample(1)), class_agnostic=1, **COMMON)


@pytest.mark.parametrize("anchored", [True, False])
def test_efficient_nms_of_raw_scores_and_centers(anchored: bool) -> None:
    boxes, scores = sample()
    of_class = np.repeat(boxes[:, :, None], CLASSES, axis=2)
    middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    given = [np.concatenate([middle, size], axis=-1), np.log(scores / (1 - scores))]
    if anchored:
        anchor = np.random.default_rng(3).uniform(10, 50, (1, COUNT, 4)).astype(np.float32)
        moved, grown = (middle - anchor[..., :2]) / anchor[..., 2:], np.log(size / anchor[..., 2:])
        given = [np.concatenate([moved, grown], axis=-1), given[1], anchor]
    found = said("EfficientNMS_TRT", given, score_activation=1, box_coding=1, **COMMON)
    check(found, [kept(*one) for one in zip(of_class, scores, strict=True)])


LITE = {
    "max_detections": KEEP, "max_classes_per_detection": 1, "detections_per_class": COUNT, "num_classes": CLASSES,
    "nms_score_threshold": LEAST, "nms_iou_threshold": OVERLAP,
    "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
}  # fmt: skip


@pytest.mark.parametrize("regular", [True, False])
def test_tflite_detection_post_process(regular: bool) -> None:
    boxes, scores = (array[:1] for array in sample())
    anchor = np.random.default_rng(3).uniform(10, 50, (COUNT, 4)).astype(np.float32)
    middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    offsets = np.concatenate([(middle - anchor[:, :2]) / anchor[:, 2:] * 10, np.log(size / anchor[:, 2:]) * 5], axis=-1)
    given = [offsets, np.concatenate([np.ones((1, COUNT, 1), np.float32), scores], axis=2), anchor]
    lite = LITE | {"use_regular_nms": int(regular)}
    places, kinds, sure, count = said("TFLite_Detection_PostProcess", given, domain="ai.onnx.contrib", **lite)
    of_class = np.repeat(boxes[:, :, None], CLASSES, axis=2)
    check([count, places, sure, kinds], [kept(of_class[0], scores[0], agnostic=not regular)])
    if not regular:
        with pytest.raises(UnsupportedError, match="several classes for each box"):
            said("TFLite_Detection_PostProcess", given, domain="", **lite | {"max_classes_per_detection": 3})


# ---- Detectors that end so ----


def ended(end: str) -> onnx.ModelProto:
    """The detector with a suppression at its end: of TensorRT, of TensorFlow Lite (y before x, shares of the picture),
    as tf2onnx writes the latter ("padded"), or only its indices beside all candidates, as Keras's YOLOv3 has them."""
    net = onnx.ModelProto.FromString(detector(joined=False).SerializeToString())
    del net.graph.output[:]
    rows = [(y, x, stride) for stride in STRIDES for y in range(SIDE // stride) for x in range(SIDE // stride)]
    anchors = [[(y + 0.5) * stride, (x + 0.5) * stride, stride, stride] for y, x, stride in rows]
    corners = np.array([[y * s, x * s, (y + 1) * s, (x + 1) * s] for y, x, s in rows], np.float32)
    weights = {
        "anchors": np.array(anchors, np.float32) / SIDE, "none": np.float32(0), "half of it": np.float32(0.5),
        "shares": corners[None] / SIDE, "most": np.int64([20]), "overlap": np.float32([0.5]), "zero": np.int64([0]),
        "least": np.float32([0.3]), "0": np.int64(0), "1": np.int64(1), "2": np.int64(2), "ten": np.int64([10]),
        "front": np.int64([0, 0]),
    }  # fmt: skip
    nodes = [
        node("Mul", ["box rows", "none"], ["offsets"]),
        node("Split", ["box rows", "cut"], ["middle", "extent"], axis=2),
        node("Mul", ["extent", "half of it"], ["reach"]),
        node("Sub", ["middle", "reach"], ["before"]), node("Add", ["middle", "reach"], ["after"]),
        node("Concat", ["before", "after"], ["corners"], axis=2),
    ]  # fmt: skip
    floats, whole = TensorProto.FLOAT, TensorProto.INT32
    if end == "EfficientNMS_TRT":
        outputs = {"num_dets": whole, "det_boxes": floats, "det_scores": floats, "det_classes": whole}
        attrs = {"score_threshold": 0.3, "iou_threshold": 0.5, "max_output_boxes": 20, "plugin_version": "1"}
        nodes.append(helper.make_node(end, ["corners", "score rows"], list(outputs), domain="TRT", **attrs))
        net.opset_import.append(helper.make_opsetid("TRT", 1))
    elif end == "TFLite_Detection_PostProcess":
        outputs = dict.fromkeys((end, f"{end}:1", f"{end}:2", f"{end}:3"), floats)
        attrs = LITE | {"num_classes": COLOURS, "nms_iou_threshold": 0.5, "use_regular_nms": 1}
        inputs, domain = ["offsets", "score rows", "anchors"], "ai.onnx.converters.tensorflow"
        nodes.append(helper.make_node(end, inputs, list(outputs), domain=domain, **attrs))
        net.opset_import.append(helper.make_opsetid(domain, 1))
    elif end == "padded":
        outputs = {"out": floats, "out:1": floats, "out:2": floats}
        nodes += [
            node("Add", ["offsets", "shares"], ["placed"]),
            node("NonMaxSuppression", ["placed", "scores", "most", "overlap", "least"], ["kept"]),
            node("Gather", ["kept", "1"], ["kind"], axis=1), node("Gather", ["kept", "2"], ["place"], axis=1),
            node("GatherND", ["scores", "kept"], ["sure"]), node("Shape", ["place"], ["many"]),
            node("Min", ["many", "ten"], ["few"]), node("TopK", ["sure", "few"], ["best", "order"]),
            node("Squeeze", ["placed", "zero"], ["all boxes"]), node("Gather", ["all boxes", "place"], ["boxes kept"]),
            node("Unsqueeze", ["order", "zero"], ["orders"]), node("Unsqueeze", ["best", "zero"], ["one row"]),
            node("Gather", ["kind", "orders"], ["kinds"]), node("Cast", ["kinds"], ["number"], to=floats),
            node("Gather", ["boxes kept", "orders"], ["sorted"]), node("Sub", ["ten", "few"], ["left"]),
            node("Concat", ["front", "zero", "left"], ["pads"], axis=0),
            node("Concat", ["front", "front", "left", "zero"], ["box pads"], axis=0),
            node("Pad", ["sorted", "box pads"], ["out"]), node("Pad", ["number", "pads"], ["out:1"]),
            node("Pad", ["one row", "pads"], ["out:2"]),
        ]  # fmt: skip
    else:
        outputs = {"corners": floats, "scores": floats, "indices": TensorProto.INT64}
        nodes.append(node("NonMaxSuppression", ["corners", "scores", "most", "overlap", "least"], ["indices"]))
    net.graph.node.extend(nodes)
    net.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    net.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items())
    return net


ENDS = ["EfficientNMS_TRT", "TFLite_Detection_PostProcess", "padded", "indices"]


@pytest.mark.parametrize("end", ENDS)
def test_what_is_found_is_explained_before_it_at_its_own_level(end: str) -> None:
    found = analyzer.explain(ended(end), BOTH, "layer-cam", "all")
    predicted = found.predicted()
    assert (predicted[0].index, predicted[0].box) == (0, (40, 8, 48, 16)) and len(predicted) == 6
    assert (predicted[-1].index, predicted[-1].box) == (1, (16, 32, 32, 48))
    assert [found.layer_of(row) for row in range(6)] == [*["map8"] * 5, "map16"]
    assert found.task.decoder.traced  # to the logits
    for row, one in enumerate(predicted):
        y, x = np.unravel_index(found.heatmap[row].argmax(), (SIDE, SIDE))
        assert one.box[0] <= x < one.box[2] and one.box[1] <= y < one.box[3]


@pytest.mark.parametrize("end", ["EfficientNMS_TRT", "indices"])
def test_and_in_an_exported_file_that_stock_onnxruntime_runs(end: str, tmp_path) -> None:
    analyzer.export(ended(end), tmp_path / "exported.onnx", "layer-cam")
    session = onnxruntime.InferenceSession(tmp_path / "exported.onnx")
    explained = analyzer.explain(ended(end), BOTH, "layer-cam")
    assert np.allclose(session.run(["heatmap"], {"x": BOTH})[0], explained.heatmap, atol=1e-5)
    assert not session.run(["heatmap"], {"x": np.zeros_like(BOTH)})[0].any()
