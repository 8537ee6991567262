"""YOLO's outputs and heads per stride: recognised by structure, decoded as their projects' formulas say."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.graph import Graph
from analyzer.tasks import recognise
from analyzer.tasks.detection import Detection
from analyzer.tasks.recognise import NOTHING, Declared
from tests import sides
from tests.models import model, node

SIDE, CLASSES = 64, 3
STRIDES = (8, 16, 32)
RNG = np.random.default_rng(0)
X = RNG.random((1, 3, SIDE, SIDE)).astype(np.float32)


def backbone() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """`map8`, `map16` and `map32`, (1, 4, h, w)."""
    nodes, weights, before, stride = [], {}, "x", 8
    for name in ("map8", "map16", "map32"):
        channels = 3 if before == "x" else 4
        weights[f"w{name}"] = RNG.standard_normal((4, channels, stride, stride)).astype(np.float32) / stride
        nodes += [
            node("Conv", [before, f"w{name}"], [f"c{name}"], strides=[stride, stride]),
            node("Sigmoid", [f"c{name}"], [f"g{name}"]),
            node("Mul", [f"c{name}", f"g{name}"], [name]),
        ]
        before, stride = name, 2
    return nodes, weights


def conv(weights: dict[str, np.ndarray], read: str, name: str, numbers: int, scale: float = 1.0) -> onnx.NodeProto:
    weights[f"w{name}"] = (scale * RNG.standard_normal((numbers, 4, 1, 1))).astype(np.float32)
    return node("Conv", [read, f"w{name}"], [name])


NO_SIDES = ("YOLOv5", "YOLOv8-obb", "FastestDet")  # several candidates share a channel axis; turned boxes; tanh


def explained(net: onnx.ModelProto, declared: Declared = NOTHING) -> tuple[Detection, dict[str, np.ndarray]]:
    session = onnxruntime.InferenceSession(net.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    explainer = Explainer(net)
    task = task_for(explainer, Question(declared=declared), explainer.feeds(X))
    assert isinstance(task, Detection), task.described()
    assert sides.follow(net, task, {"x": X}) or task.decoder.family in NO_SIDES, task.decoder.coding
    return task, task.answer(dict(zip(names, session.run(names, {"x": X}), strict=True)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def corners(x, y, w, h):
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=-1)


ANCHORS5 = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]]


@pytest.mark.parametrize("layout", ["channels", "five axes", "five axes, squashed", "anchors of the card"])
def test_raw_heads_with_anchors(layout):
    """xy = (2σ − ½ + grid) · stride, wh = (2σ)² · anchor, score = σ σ (YOLOv5)."""
    nodes, weights = backbone()
    outputs = {}
    for stride in STRIDES:
        side, name = SIDE // stride, f"head{stride}"
        nodes.append(conv(weights, f"map{stride}", name, 3 * (5 + CLASSES)))
        outputs[name] = [1, 3 * (5 + CLASSES), side, side]
        if "five" in layout:
            weights[f"five{stride}"] = np.array([1, 3, 5 + CLASSES, side, side])
            nodes += [
                node("Reshape", [name, f"five{stride}"], [f"r{stride}"]),
                node("Transpose", [f"r{stride}"], [f"t{stride}"], perm=[0, 1, 3, 4, 2]),
                node("Sigmoid" if "squashed" in layout else "Identity", [f"t{stride}"], [f"out{stride}"]),
            ]
            outputs[f"out{stride}"] = [1, 3, side, side, 5 + CLASSES]
            del outputs[name]
    known, declared = ANCHORS5, NOTHING
    if "card" in layout:
        known = [[(7 + a + 20 * level, 9 + 3 * a) for a in range(3)] for level in range(3)]
        declared = Declared("detection", anchors=tuple(map(tuple, known)), strides=STRIDES)
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, outputs, weights), declared)
    assert task.decoder.family == "YOLOv5" and [level.layer for level in task.decoder.levels] == [
        "map8",
        "map16",
        "map32",
    ]
    expected, scores = [], []
    for stride, anchors in zip(STRIDES, known, strict=True):
        side = SIDE // stride
        if "five" not in layout:
            rows = said[f"head{stride}"].reshape(3, 5 + CLASSES, side, side).transpose(2, 3, 0, 1)  # y, x, anchor
        else:
            rows = said[f"out{stride}"][0]  # anchor, y, x
        share = rows if "squashed" in layout else sigmoid(rows)
        order = np.indices(rows.shape[:3]).reshape(3, -1)
        y, x, a = order if "five" not in layout else (order[1], order[2], order[0])
        t = share.reshape(-1, 5 + CLASSES)
        size = np.array(anchors)[a]
        expected.append(
            corners(
                (2 * t[:, 0] - 0.5 + x) * stride, (2 * t[:, 1] - 0.5 + y) * stride,
                (2 * t[:, 2]) ** 2 * size[:, 0], (2 * t[:, 3]) ** 2 * size[:, 1],
            )
        )  # fmt: skip
        scores.append(t[:, 4:5] * t[:, 5:])
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, np.concatenate(expected), rtol=1e-5, atol=1e-3)
    assert np.allclose(found.scores, np.concatenate(scores), rtol=1e-5)


def joined(extra: int = 0, constant: bool = False, pose: int = 0) -> onnx.ModelProto:
    """(1, 4 + 3 + …, 84): boxes as YOLOv8 decodes them, scores, and more numbers."""
    nodes, weights = backbone()
    weights |= {"two": np.array([2, 2]), "half": np.float32(0.5)}
    boxes, scores, more = [], [], []
    for stride in STRIDES:
        side = SIDE // stride
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side))).reshape(1, 2, -1) + 0.5
        weights |= {f"g{stride}": (grid * stride).astype(np.float32), f"s{stride}": np.float32(stride)}
        nodes += [
            conv(weights, f"map{stride}", f"side{stride}", 4, 0.1),
            conv(weights, f"map{stride}", f"class{stride}", CLASSES),
        ]
        for name, numbers in (("side", 4), ("class", CLASSES)):
            weights[f"row{name}{stride}"] = np.array([1, numbers, -1])
            nodes.append(node("Reshape", [f"{name}{stride}", f"row{name}{stride}"], [f"{name}row{stride}"]))
        nodes += [
            node("Exp", [f"siderow{stride}"], [f"e{stride}"]),
            node("Mul", [f"e{stride}", f"s{stride}"], [f"d{stride}"]),
            node("Split", [f"d{stride}", "two"], [f"low{stride}", f"high{stride}"], axis=1),
            node("Sub", [f"high{stride}", f"low{stride}"], [f"shift{stride}"]),
            node("Mul", [f"shift{stride}", "half"], [f"h{stride}"]),
            node("Add", [f"g{stride}", f"h{stride}"], [f"middle{stride}"]),
            node("Add", [f"high{stride}", f"low{stride}"], [f"extent{stride}"]),
            node("Concat", [f"middle{stride}", f"extent{stride}"], [f"box{stride}"], axis=1),
        ]
        boxes.append(f"box{stride}")
        scores.append(f"classrow{stride}")
        if extra or pose:
            numbers = extra or 3 * pose
            weights[f"rowmore{stride}"] = np.array([1, numbers, -1])
            nodes += [
                conv(weights, f"map{stride}", f"more{stride}", numbers),
                node("Reshape", [f"more{stride}", f"rowmore{stride}"], [f"morerow{stride}"]),
            ]
            more.append(f"morerow{stride}")
    nodes += [
        node("Concat", boxes, ["boxes"], axis=2),
        node("Concat", scores, ["logits"], axis=2),
        node("Sigmoid", ["logits"], ["scores"]),
    ]
    parts, count = ["boxes", "scores"], 4 + CLASSES
    if constant:
        weights["ones"] = np.ones((1, 1, 84), np.float32)
        parts, count = ["boxes", "ones", "scores"], count + 1
    if extra:
        nodes.append(node("Concat", more, ["more"], axis=2))
        parts, count = [*parts, "more"], count + extra
    for k in range(pose):
        weights |= {f"from{k}": np.array([3 * k]), f"seen{k}": np.array([3 * k + 2]), f"to{k}": np.array([3 * k + 3])}
        if not k:
            weights["axis"] = np.array([1])
            nodes.append(node("Concat", more, ["more"], axis=2))
        nodes += [
            node("Slice", ["more", f"from{k}", f"seen{k}", "axis"], [f"xy{k}"]),
            node("Mul", [f"xy{k}", "half"], [f"place{k}"]),
            node("Slice", ["more", f"seen{k}", f"to{k}", "axis"], [f"v{k}"]),
            node("Sigmoid", [f"v{k}"], [f"visible{k}"]),
        ]
        parts, count = [*parts, f"place{k}", f"visible{k}"], count + 3
    nodes.append(node("Concat", parts, ["output0"], axis=1))
    return model(nodes, {"x": [1, 3, SIDE, SIDE]}, {"output0": [1, count, 84]}, weights)


@pytest.mark.parametrize(
    ("arguments", "family", "start"),
    [
        ({}, "YOLOv8", 4),
        ({"extra": 32}, "YOLOv8-seg", 4),
        ({"constant": True}, "YOLOv8", 5),
        ({"pose": 5}, "YOLOv8-pose", 4),
    ],
)
def test_what_stands_beside_boxes_and_scores(arguments, family, start):
    task, said = explained(joined(**arguments))
    assert (task.decoder.family, task.decoder.classes) == (family, CLASSES)
    rows = said["output0"][0].T.astype(np.float64)
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, corners(*rows[:, :4].T), atol=1e-3)
    assert np.allclose(found.scores, rows[:, start : start + CLASSES])
    assert [level.layer for level in task.decoder.levels] == ["map8", "map16", "map32"]
    if arguments.get("pose"):
        assert np.allclose(found.points.reshape(len(rows), -1), rows[:, 4 + CLASSES :], atol=1e-6)


def test_rotated_boxes_are_upright_around_them():
    net = joined(extra=1)
    last = net.graph.node[-1]
    last.input[2] = "angle"
    net.graph.node.insert(len(net.graph.node) - 1, node("Sigmoid", ["more"], ["turn"]))
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3), "three"))
    net.graph.node.insert(len(net.graph.node) - 1, node("Mul", ["turn", "three"], ["angle"]))
    task, said = explained(net)
    assert task.decoder.family == "YOLOv8-obb"
    x, y, w, h, *_, angle = said["output0"][0].astype(np.float64)
    points = []
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        dx, dy = sx * w / 2, sy * h / 2
        points.append((x + dx * np.cos(angle) - dy * np.sin(angle), y + dx * np.sin(angle) + dy * np.cos(angle)))
    px, py = np.array(points).transpose(1, 0, 2)
    around = np.stack([px.min(0), py.min(0), px.max(0), py.max(0)], axis=1)
    assert np.allclose(task.decoder.candidates(said).boxes, around, atol=1e-3)
    surest = task.predictions(task.answer(said))[0]
    place = surest.slot // CLASSES
    known = cv2.boxPoints(((x[place], y[place]), (w[place], h[place]), np.degrees(angle[place])))
    assert np.allclose(sorted(surest.corners), sorted(map(tuple, known)), atol=1e-3)


@pytest.mark.parametrize("form", ["maps", "rows", "one map"])
def test_distributions_of_sides_per_stride(form):
    """Distance = Σ i · softmax(t)_i strides from the middle of the place (2006.04388)."""
    bins = 8 if form != "one map" else 16
    nodes, weights = backbone()
    outputs = {}
    for stride in STRIDES:
        side = SIDE // stride
        nodes += [
            conv(weights, f"map{stride}", f"c{stride}", CLASSES),
            conv(weights, f"map{stride}", f"b{stride}", 4 * bins),
            node("Sigmoid" if form != "one map" else "Identity", [f"c{stride}"], [f"cls{stride}"]),
        ]
        if form == "one map":
            nodes.append(node("Concat", [f"b{stride}", f"c{stride}"], [f"out{stride}"], axis=1))
            outputs[f"out{stride}"] = [1, 4 * bins + CLASSES, side, side]
        elif form == "maps":
            outputs |= {f"cls{stride}": [1, CLASSES, side, side], f"b{stride}": [1, 4 * bins, side, side]}
        else:
            for name, numbers in (("cls", CLASSES), ("b", 4 * bins)):
                weights[f"n{name}{stride}"] = np.array([1, numbers, -1])
                nodes += [
                    node("Reshape", [f"{name}{stride}", f"n{name}{stride}"], [f"{name}r{stride}"]),
                    node("Transpose", [f"{name}r{stride}"], [f"{name}t{stride}"], perm=[0, 2, 1]),
                ]
                outputs[f"{name}t{stride}"] = [1, side * side, numbers]
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, outputs, weights))
    expected, scores = [], []
    for stride in STRIDES:
        side = SIDE // stride
        if form == "rows":
            t, s = said[f"bt{stride}"][0], said[f"clst{stride}"][0]
        else:
            both = (
                (said[f"b{stride}"], said[f"cls{stride}"])
                if form == "maps"
                else np.split(said[f"out{stride}"], [4 * bins], axis=1)
            )
            t, s = (a[0].reshape(a.shape[1], -1).T for a in both)
        e = np.exp(t.astype(np.float64)).reshape(-1, 4, bins)
        distance = (e / e.sum(-1, keepdims=True)) @ np.arange(bins) * stride
        y, x = (np.indices((side, side)).reshape(2, -1) + 0.5) * stride
        left, top, right, bottom = distance.T
        expected.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
        scores.append(sigmoid(s) if form == "one map" else s)
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, np.concatenate(expected), atol=1e-3)
    assert np.allclose(found.scores, np.concatenate(scores), atol=1e-6)


@pytest.mark.parametrize("form", ["raw", "relu", "exp", "times stride", "no centerness", "rows", "together"])
def test_distances_of_sides_per_stride(form):
    """Sides are so far from the middle of the place, in strides or in pixels, and a score is the root of class and
    centerness (FCOS, 1904.01355); from the corner of the place without centerness (RTMDet, 2212.07784), and in the rows
    of torchvision's head."""
    nodes, weights = backbone()
    outputs, boxes = {}, {"raw": "r", "relu": "b", "exp": "e", "rows": "b", "together": "b"}.get(form, "p")
    kinds = {"c": CLASSES, boxes: 4, "t": 1}
    if form in ("raw", "no centerness"):  # raw sides with an objectness are YOLOX's
        del kinds["t"]
    for stride in STRIDES:
        side = SIDE // stride
        weights[f"stride{stride}"] = np.float32(stride)
        nodes += [
            conv(weights, f"map{stride}", f"c{stride}", CLASSES),
            conv(weights, f"map{stride}", f"r{stride}", 4),
            conv(weights, f"map{stride}", f"t{stride}", 1),
            node("Relu", [f"r{stride}"], [f"b{stride}"]),
            node("Exp", [f"r{stride}"], [f"e{stride}"]),
            node("Mul", [f"b{stride}", f"stride{stride}"], [f"p{stride}"]),
        ]
        for name, numbers in kinds.items():
            weights[f"flat{name}"] = np.array([1, numbers, -1])
            nodes += [
                node("Reshape", [f"{name}{stride}", f"flat{name}"], [f"{name}{stride} flat"]),
                node("Transpose", [f"{name}{stride} flat"], [f"{name}{stride} rows"], perm=[0, 2, 1]),
            ]
            if form == "rows":
                outputs[f"{name}{stride} rows"] = [1, side * side, numbers]
            elif form != "together":
                outputs[f"{name}{stride}"] = [1, numbers, side, side]
    if form == "together":
        for name, numbers in kinds.items():
            nodes.append(node("Concat", [f"{name}{stride} rows" for stride in STRIDES], [f"{name} rows"], axis=1))
            outputs[f"{name} rows"] = [1, sum((SIDE // stride) ** 2 for stride in STRIDES), numbers]
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, outputs, weights))
    assert task.decoder.family == ("RTMDet" if form == "no centerness" else "FCOS")
    assert [level.layer for level in task.decoder.levels] == ["map8", "map16", "map32"]

    def read(name: str) -> np.ndarray:
        """(places of all strides, numbers)"""
        if form == "together":
            return said[f"{name} rows"][0].astype(np.float64)
        rows = [said[f"{name}{s} rows"][0] if form == "rows" else said[f"{name}{s}"][0] for s in STRIDES]
        rows = rows if form == "rows" else [one.reshape(kinds[name], -1).T for one in rows]
        return np.concatenate(rows).astype(np.float64)

    steps = np.repeat(STRIDES, [(SIDE // stride) ** 2 for stride in STRIDES])[:, None]
    places = np.concatenate([np.indices((SIDE // s,) * 2).reshape(2, -1).T[:, ::-1] for s in STRIDES])
    middle = (places + (0.0 if form in ("no centerness", "rows", "together") else 0.5)) * steps
    far = read(boxes) * (1 if boxes in "pe" else steps)
    expected = np.concatenate([middle - far[:, :2], middle + far[:, 2:]], axis=1)
    scores = np.sqrt(sigmoid(read("c")) * sigmoid(read("t"))) if "t" in kinds else sigmoid(read("c"))
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, expected, atol=1e-3)
    assert np.allclose(found.scores, scores, atol=1e-6)


@pytest.mark.parametrize("form", ["joined", "maps"])
def test_yolox(form):
    """xy = (t + column) · stride, wh = eᵗ · stride, score = σ σ (2107.08430)."""
    nodes, weights = backbone()
    outputs, rows = {}, []
    for stride in STRIDES:
        side = SIDE // stride
        nodes += [
            conv(weights, f"map{stride}", f"b{stride}", 4, 0.3),
            conv(weights, f"map{stride}", f"o{stride}", 1),
            conv(weights, f"map{stride}", f"c{stride}", CLASSES),
            node("Sigmoid", [f"o{stride}"], [f"os{stride}"]), node("Sigmoid", [f"c{stride}"], [f"cs{stride}"]),
            node("Concat", [f"b{stride}", f"os{stride}", f"cs{stride}"], [f"out{stride}"], axis=1),
            node("Reshape", [f"out{stride}", "flat"], [f"row{stride}"]),
        ]  # fmt: skip
        rows.append(f"row{stride}")
        outputs[f"out{stride}"] = [1, 5 + CLASSES, side, side]
    weights["flat"] = np.array([1, 5 + CLASSES, -1])
    if form == "joined":
        nodes += [node("Concat", rows, ["all"], axis=2), node("Transpose", ["all"], ["output"], perm=[0, 2, 1])]
        outputs = {"output": [1, 84, 5 + CLASSES]}
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, outputs, weights))
    assert task.decoder.family == "YOLOX"
    found = [said[name][0].reshape(5 + CLASSES, -1).T for name in outputs] if form == "maps" else said["output"]
    whole = np.concatenate(found).astype(np.float64)
    places = [np.indices((SIDE // s, SIDE // s)).reshape(2, -1)[::-1].T for s in STRIDES]
    stride = np.concatenate([np.full(len(p), s) for p, s in zip(places, STRIDES, strict=True)])
    x, y = ((whole[:, :2] + np.concatenate(places)) * stride[:, None]).T
    w, h = (np.exp(whole[:, 2:4]) * stride[:, None]).T
    got = task.decoder.candidates(said)
    assert np.allclose(got.boxes, corners(x, y, w, h), rtol=1e-5, atol=1e-3)
    assert np.allclose(got.scores, whole[:, 4:5] * whole[:, 5:], atol=1e-6)


def test_nanodet_plus():
    """Scores, then distributions of the distances from the corner of the place, in strides."""
    nodes, weights = backbone()
    weights["flat"], rows, bins = np.array([1, CLASSES + 32, -1]), [], 8
    for stride in STRIDES:
        nodes += [
            conv(weights, f"map{stride}", f"h{stride}", CLASSES + 4 * bins),
            node("Split", [f"h{stride}", "cut"], [f"c{stride}", f"b{stride}"], axis=1),
            node("Sigmoid", [f"c{stride}"], [f"s{stride}"]),
            node("Concat", [f"s{stride}", f"b{stride}"], [f"o{stride}"], axis=1),
            node("Reshape", [f"o{stride}", "flat"], [f"row{stride}"]),
        ]
        rows.append(f"row{stride}")
    weights["cut"] = np.array([CLASSES, 4 * bins])
    nodes += [node("Concat", rows, ["all"], axis=2), node("Transpose", ["all"], ["output"], perm=[0, 2, 1])]
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, {"output": [1, 84, CLASSES + 4 * bins]}, weights))
    assert task.decoder.family == "NanoDet"
    whole, at = said["output"][0].astype(np.float64), 0
    e = np.exp(whole[:, CLASSES:]).reshape(-1, 4, bins)
    far = (e / e.sum(-1, keepdims=True)) @ np.arange(bins)
    expected = []
    for stride in STRIDES:
        y, x = np.indices((SIDE // stride, SIDE // stride)).reshape(2, -1) * stride
        left, top, right, bottom = far[at : at + len(x)].T * stride
        expected.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
        at += len(x)
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, np.concatenate(expected), atol=1e-3)
    assert np.allclose(found.scores, whole[:, :CLASSES], atol=1e-6)


def test_yolo_nas():
    """Its export (super-gradients 3.7, NDFLHeads): corners in pixels from the mean of a softmax over 17 distances, by a
    convolution, and scores behind a sigmoid."""
    nodes, weights = backbone()
    weights |= {
        "steps": np.arange(17, dtype=np.float32).reshape(1, 17, 1, 1),
        "one": np.int64([1]),
        "two": np.int64([2, 2]),
    }
    middles, strides = [], []
    for stride in STRIDES:
        side = SIDE // stride
        weights[f"four{stride}"] = np.array([-1, 4, 17, side * side])
        weights[f"each{stride}"] = np.array([1, CLASSES, side * side])
        nodes += [
            conv(weights, f"map{stride}", f"b{stride}", 4 * 17),
            conv(weights, f"map{stride}", f"c{stride}", CLASSES),
            node("Reshape", [f"b{stride}", f"four{stride}"], [f"sides{stride}"]),
            node("Transpose", [f"sides{stride}"], [f"bins{stride}"], perm=[0, 2, 3, 1]),
            node("Softmax", [f"bins{stride}"], [f"shares{stride}"], axis=1),
            node("Conv", [f"shares{stride}", "steps"], [f"mean{stride}"]),
            node("Squeeze", [f"mean{stride}", "one"], [f"far{stride}"]),
            node("Reshape", [f"c{stride}", f"each{stride}"], [f"logits{stride}"]),
        ]
        y, x = np.indices((side, side)).reshape(2, -1) + 0.5
        middles.append(np.stack([x, y], axis=1))
        strides.append(np.full((side * side, 1), stride))
    weights["middles"], weights["strides"] = (np.concatenate(a).astype(np.float32) for a in (middles, strides))
    nodes += [
        node("Concat", [f"logits{s}" for s in STRIDES], ["logits"], axis=2),
        node("Transpose", ["logits"], ["by place"], perm=[0, 2, 1]),
        node("Sigmoid", ["by place"], ["pred_scores"]),
        node("Concat", [f"far{s}" for s in STRIDES], ["far"], axis=1),
        node("Split", ["far", "two"], ["low", "high"], axis=2),
        node("Sub", ["middles", "low"], ["first"]),
        node("Add", ["high", "middles"], ["second"]),
        node("Concat", ["first", "second"], ["corners"], axis=2),
        node("Mul", ["corners", "strides"], ["pred_bboxes"]),
    ]
    count = len(weights["strides"])
    outputs = {"pred_bboxes": [1, count, 4], "pred_scores": [1, count, CLASSES], "far": [1, count, 4]}
    net = model(nodes, {"x": [1, 3, SIDE, SIDE]}, outputs, weights)
    (far,) = onnxruntime.InferenceSession(net.SerializeToString()).run(["far"], {"x": X})
    del net.graph.output[2]
    task, said = explained(net)
    points, steps = weights["middles"], weights["strides"]
    expected = np.concatenate([points - far[0, :, :2], points + far[0, :, 2:]], axis=1) * steps
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, expected, atol=1e-3) and np.array_equal(found.scores, said["pred_scores"][0])
    assert task.layers == ("map8", "map16", "map32")


def test_fastest_det():
    """x = (tanh t + column) · 16, w = σ(t) · side, score = objectness^0.6 · class^0.4."""
    nodes, weights = backbone()
    nodes += [
        conv(weights, "map16", "o", 1), conv(weights, "map16", "b", 4), conv(weights, "map16", "c", CLASSES),
        node("Sigmoid", ["o"], ["thing"]), node("Softmax", ["c"], ["class"], axis=1),
        node("Concat", ["thing", "b", "class"], ["out"], axis=1),
    ]  # fmt: skip
    task, said = explained(model(nodes, {"x": [1, 3, SIDE, SIDE]}, {"out": [1, 5 + CLASSES, 4, 4]}, weights))
    assert task.decoder.family == "FastestDet"
    rows = said["out"][0].reshape(5 + CLASSES, -1).T.astype(np.float64)
    row, column = np.indices((4, 4)).reshape(2, -1)
    expected = corners(
        (np.tanh(rows[:, 1]) + column) * 16, (np.tanh(rows[:, 2]) + row) * 16,
        sigmoid(rows[:, 3]) * SIDE, sigmoid(rows[:, 4]) * SIDE,
    )  # fmt: skip
    found = task.decoder.candidates(said)
    assert np.allclose(found.boxes, expected, atol=1e-3)
    assert np.allclose(found.scores, rows[:, :1] ** 0.6 * rows[:, 5:] ** 0.4, atol=1e-5)


def test_maps_of_features_are_no_heads():
    nodes, weights = backbone()
    net = model(nodes, {"x": [1, 3, SIDE, SIDE]}, {f"map{s}": [1, 4, SIDE // s, SIDE // s] for s in STRIDES}, weights)
    assert not isinstance(recognise(Graph.read(net)), Detection)
