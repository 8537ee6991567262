"""Non-maximum suppressions of TensorRT and TensorFlow Lite, which decode boxes and fill up what they find."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from analyzer.graph.passes.unfuse.table import Emit, Fused, unfuse

_END = np.iinfo(np.int64).max
_MOST = 4096  # scores that TensorRT's kernel looks at


@unfuse("EfficientNMS_TRT", domain="TRT")
@unfuse("EfficientNMS_TRT", domain="trt.plugins")
@unfuse("EfficientNMS_TRT", domain="")
def efficient_nms(e: Emit, f: Fused) -> list[str]:
    """Boxes (N, B, 4) or (N, B, C, 4), scores (N, B, C), anchors (1 or N, B, 4) perhaps, of which boxes are offsets.

    Source: NVIDIA/TensorRT, plugin/efficientNMSPlugin.
    """
    boxes, scores, background = _real(e, f[0]), _real(e, f[1]), f.attr("background_class", -1)
    centered, each, agnostic = bool(f.attr("box_coding", 0)), f.axes(0) == 4, bool(f.attr("class_agnostic", 0))
    if each and agnostic:
        raise f.refuse("each class has boxes of its own, and yet classes suppress each other")
    if f[2]:
        anchors = e.Unsqueeze(_real(e, f[2]), [2]) if each else _real(e, f[2])
        boxes = _from_anchors(e, boxes, anchors) if centered else e.Add(boxes, anchors)
    if f.attr("score_activation", 0):
        scores = e.Sigmoid(scores)
    if each and background >= 0:
        boxes = _without(e, boxes, background)
    if background >= 0:
        scores = _without(e, scores, background)
    per_class = f.attr("max_output_boxes_per_class", -1)
    count, *found, kinds = _kept(
        e,
        _corners(e, boxes) if centered else boxes,
        scores,
        keep=f.attr("max_output_boxes", 100),
        per_class=per_class if per_class > 0 else _MOST,
        overlap=f.attr("iou_threshold", 0.5),
        least=f.attr("score_threshold", 0.5),
        each=each,
        agnostic=agnostic,
    )
    if background >= 0:
        after = e.Cast(e.GreaterOrEqual(kinds, np.int64(background)), to=TensorProto.INT64)
        kinds = e.Add(kinds, after)
    whole = (e.Cast(one, to=TensorProto.INT32) for one in (count, kinds))
    return [next(whole), *(e.CastLike(one, f[1]) for one in found), next(whole)]


@unfuse("TFLite_Detection_PostProcess", "TFL_TFLite_Detection_PostProcess", domain="ai.onnx.converters.tensorflow")
@unfuse("TFLite_Detection_PostProcess", "TFL_TFLite_Detection_PostProcess", domain="ai.onnx.contrib")
@unfuse("TFLite_Detection_PostProcess", "TFL_TFLite_Detection_PostProcess", domain="")
def tflite_detection_post_process(e: Emit, f: Fused) -> list[str]:
    """Offsets (1, B, 4) y, x, h, w of anchors (B, 4), scores (1, B, C), after one of the background perhaps.

    Source: tensorflow/lite/kernels/detection_postprocess.cc.
    """
    regular, most = bool(f.attr("use_regular_nms", 0)), f.attr("max_detections")
    if not regular and f.attr("max_classes_per_detection", 1) != 1:
        raise f.refuse("it gives several classes for each box", "set max_classes_per_detection to 1")
    scale = np.array([f.attr(f"{name}_scale", 1.0) for name in "yxhw"], np.float32)
    boxes = _corners(e, _from_anchors(e, e.Div(_real(e, f[0]), scale), _real(e, f[2])))
    count, boxes, scores, kinds = _kept(
        e,
        boxes,
        e.Slice(_real(e, f[1]), [-f.attr("num_classes")], [_END], [2]),
        keep=most,
        per_class=f.attr("detections_per_class", 100) if regular else most,
        overlap=f.attr("nms_iou_threshold"),
        least=f.attr("nms_score_threshold"),
        agnostic=not regular,
    )
    return [boxes, _real(e, kinds), scores, _real(e, e.Squeeze(count, [1]))]


def _kept(
    e: Emit,
    boxes: str,
    scores: str,
    keep: int,
    per_class: int,
    overlap: float,
    least: float,
    each: bool = False,
    agnostic: bool = False,
) -> list[str]:
    """(N, 1) how many are found, int64; (N, keep, 4) their boxes, (N, keep) scores and (N, keep) classes, int64.

    Args:
        boxes: (N, B, 4) corners; (N, B, C, 4) where `each` class has its own.
        scores: (N, B, C).
        keep: rows of the result, the highest scores first; what is not filled is 0.
        agnostic: of each box only the class with the highest score counts, and classes suppress each other.
    """
    scores, kinds = e.Transpose(scores, perm=[0, 2, 1]), ""
    if agnostic:
        scores, kinds = e.ReduceMax(scores, [1], keepdims=1), e.ArgMax(scores, axis=1, keepdims=0)
    places, apart, rows = e.Slice(e.Shape(scores), [2], [3]), scores, boxes
    if each:  # as if every class were a picture of its own
        boxes = e.Transpose(boxes, perm=[0, 2, 1, 3])
        rows = e.Reshape(boxes, [0, -1, 4])
        boxes = e.Reshape(boxes, e.Concat([-1], places, [4], axis=0))
        apart = e.Reshape(scores, e.Concat([-1], [1], places, axis=0))
    chosen = e.NonMaxSuppression(
        boxes, apart, [per_class], np.array([overlap], np.float32), np.array([least], np.float32)
    )
    sure = e.ScatterND(e.ConstantOfShape(e.Shape(apart)), chosen, e.GatherND(apart, chosen))
    sure = e.Reshape(e.Reshape(sure, e.Shape(scores)) if each else sure, [0, -1])
    best, index = e.node("TopK", [e.Pad(sure, [0, 0, 0, keep]), [keep]], 2, axis=1)
    valid, place = e.Greater(best, np.float32(0)), e.Mod(index, places)
    kinds = e.GatherElements(kinds, place, axis=1) if agnostic else e.Div(index, places)
    row = e.Unsqueeze(e.Where(valid, index if each else place, [0]), [2])
    found = e.GatherElements(rows, e.Expand(row, [1, 1, 4]), axis=1)
    return [
        e.ReduceSum(e.Cast(valid, to=TensorProto.INT64), [1], keepdims=1),
        e.Where(e.Unsqueeze(valid, [2]), found, np.float32(0)),
        best,
        e.Where(valid, kinds, [0]),
    ]


def _real(e: Emit, x: str) -> str:
    return e.Cast(x, to=TensorProto.FLOAT)


def _corners(e: Emit, boxes: str) -> str:
    """Of boxes (…, 4) given by their center and size."""
    center, size = _halves(e, boxes)
    reach = e.Mul(size, np.float32(0.5))
    return e.Concat(e.Sub(center, reach), e.Add(center, reach), axis=-1)


def _from_anchors(e: Emit, boxes: str, anchors: str) -> str:
    """Center and size of boxes (…, 4) given by a center in sizes of an anchor and the logarithm of a size in these."""
    (center, size), (middle, extent) = _halves(e, boxes), _halves(e, anchors)
    return e.Concat(e.Add(e.Mul(center, extent), middle), e.Mul(e.Exp(size), extent), axis=-1)


def _halves(e: Emit, boxes: str) -> tuple[str, str]:
    return e.Slice(boxes, [0], [2], [-1]), e.Slice(boxes, [2], [4], [-1])


def _without(e: Emit, x: str, index: int) -> str:
    """Without one place of the third axis."""
    return e.Concat(e.Slice(x, [0], [index], [2]), e.Slice(x, [index + 1], [_END], [2]), axis=2)
