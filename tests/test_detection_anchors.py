"""Detectors with anchors, and with boxes and scores apart, against transcriptions of the projects' own decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import sqrt

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.errors import InputError
from analyzer.graph import Builder, Graph
from analyzer.graph.query import image_input
from analyzer.images import decode, model_card
from analyzer.metrics.boxes import iou
from analyzer.runtime import Session
from analyzer.tasks import recognise, task_from
from analyzer.tasks.detection.codings import Corners
from analyzer.tasks.detection.decoder import Candidates
from analyzer.tasks.detection.families.anchors import decoded as read_boxes
from analyzer.tasks.detection.parts import Part
from analyzer.tasks.detection.pyramid import Stage
from analyzer.tasks.detection.view import View
from analyzer.tasks.recognise import NOTHING, Declared
from tests import sides
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node

SMALL = [(8, 8), (4, 4), (2, 2), (1, 1)]  # grids of strides 8 to 64 in 64 × 64 pixels


class Net:
    """A network under construction: maps of some grids, each behind a Relu, and rows of numbers of their places."""

    def __init__(self, size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> None:
        self.rng, self.size, self.grids = np.random.default_rng(0), size, grids
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        for at, grid in enumerate(grids):
            sizes, weight = self.constant(np.array([1, 3, *grid], np.int64)), self.drawn((6, 3, 3, 3), 1.0)
            self.nodes += [
                node("Resize", ["x", "", "", sizes], [f"small{at}"], mode="linear"),
                node("Conv", [f"small{at}", weight], [f"mixed{at}"], pads=[1, 1, 1, 1]),
                node("Relu", [f"mixed{at}"], [f"map{at}"]),
            ]

    def constant(self, array: np.ndarray) -> str:
        name = f"constant{len(self.weights)}"
        self.weights[name] = array
        return name

    def drawn(self, shape: tuple[int, ...], scale: float) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, op: str, inputs: list[str], output: str = "", **attrs: object) -> str:
        output = output or f"made{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [output], **attrs))
        return output

    def head(self, at: int, channels: int, scale: float = 0.5, output: str = "", depthwise: bool = False) -> str:
        """A convolution of a map."""
        source = f"map{at}"
        if depthwise:
            source = self.add("Conv", [source, self.drawn((6, 1, 3, 3), 0.5)], group=6, pads=[1, 1, 1, 1])
        weight, bias = self.drawn((channels, 6, 1, 1), scale), self.drawn((channels,), scale)
        return self.add("Conv", [source, weight, bias], output)

    def rows(self, at: int, cell: int, width: int, batched: bool = True, output: str = "", **given: float) -> str:
        """(1, places · cell, width) or (places · cell, width) of a head."""
        flat = self.add("Transpose", [self.head(at, cell * width, **given)], perm=[0, 2, 3, 1])
        shape = [1, -1, width] if batched else [-1, width]
        return self.add("Reshape", [flat, self.constant(np.array(shape, np.int64))], output)

    def joined(self, cells: Sequence[int], width: int, output: str = "", **given: float) -> str:
        return self.add("Concat", [self.rows(i, c, width, **given) for i, c in enumerate(cells)], output, axis=1)

    def made(self, *outputs: str) -> onnx.ModelProto:
        return model(self.nodes, {"x": [1, 3, *self.size]}, dict.fromkeys(outputs), self.weights)


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (1, 3, *size)).astype(np.float32)


def said(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(net.SerializeToString())
    size = tuple(session.get_inputs()[0].shape[2:])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": picture(size)}), strict=True))


def task_of(net: onnx.ModelProto, declared: Declared = NOTHING):
    explainer = Explainer(net)
    size = tuple(explainer.plain.inputs[0].shape[2:])
    return task_for(explainer, Question(declared=declared), explainer.feeds(picture(size)))


def decoded(net: onnx.ModelProto, family: str, declared: Declared = NOTHING) -> Candidates:
    """What is read from the outputs, also by a task that was stored."""
    task = task_of(net, declared)
    assert task.kind == "detection" and task.decoder.family == family, task.described()
    answer = task.answer(said(net))
    found, again = task.decoder.candidates(answer), task_from(task.as_data()).decoder.candidates(answer)
    assert np.array_equal(found.boxes, again.boxes)
    graph = Graph.read(net)
    compiled = graph.add_output(task.decoder.scores_in(Builder(graph, "t")), "all")
    scores = Session(graph, outputs=[compiled.name]).run({"x": picture(graph.inputs[0].shape[2:])})[compiled.name]
    assert np.allclose(scores[0], found.scores, atol=1e-5)
    assert all(level.layer == f"map{task.decoder.levels.index(level)}" for level in task.decoder.levels[:-1])
    assert sides.follow(net, task, {"x": picture(graph.inputs[0].shape[2:])}) or family in NO_SIDES
    return found


NO_SIDES = ("boxes and scores", "EfficientDet")  # rows of four axes; several candidates share a channel axis


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def check(found: Candidates, boxes: np.ndarray, scores: np.ndarray, points: np.ndarray | None = None) -> None:
    assert found.boxes.shape == boxes.shape and np.allclose(found.boxes, boxes, rtol=1e-4, atol=1e-3)
    assert np.allclose(found.scores, scores, atol=1e-5)
    assert (found.points is None) == (points is None)
    if points is not None:
        assert np.allclose(found.points[..., :2], points, rtol=1e-4, atol=1e-3)


# ---- The projects' decoders, transcribed ----


def ssd_decode(loc: np.ndarray, priors: np.ndarray, variances: Sequence[float] = (0.1, 0.2)) -> np.ndarray:
    """`decode` of ssd.pytorch, Pytorch_Retinaface and UltraFace: corners as shares of the input."""
    boxes = np.concatenate(
        (
            priors[:, :2] + loc[:, :2] * variances[0] * priors[:, 2:],
            priors[:, 2:] * np.exp(loc[:, 2:4] * variances[1]),
        ),
        1,
    )
    boxes[:, :2] -= boxes[:, 2:] / 2
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def decode_landm(pre: np.ndarray, priors: np.ndarray) -> np.ndarray:
    parts = [priors[:, :2] + pre[:, 2 * k : 2 * k + 2] * 0.1 * priors[:, 2:] for k in range(5)]
    return np.stack(parts, axis=1)


def face_priors(
    size: tuple[int, int], grids: Sequence[tuple[int, int]], min_sizes: Sequence[Sequence[int]], steps: Sequence[int]
) -> np.ndarray:
    """`PriorBox` of Pytorch_Retinaface."""
    anchors = []
    for k, f in enumerate(grids):
        for i, j in product(range(f[0]), range(f[1])):
            for min_size in min_sizes[k]:
                s_kx, s_ky = min_size / size[1], min_size / size[0]
                anchors += [(j + 0.5) * steps[k] / size[1], (i + 0.5) * steps[k] / size[0], s_kx, s_ky]
    return np.array(anchors).reshape(-1, 4)


SLIM = [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]]


def ssd_priors(min_sizes: Sequence[int], max_sizes: Sequence[int]) -> np.ndarray:
    """`PriorBox` of ssd.pytorch for 300 pixels."""
    mean = []
    steps, ratios = [8, 16, 32, 64, 100, 300], [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    for k, f in enumerate([38, 19, 10, 5, 3, 1]):
        for i, j in product(range(f), repeat=2):
            f_k = 300 / steps[k]
            cx, cy = (j + 0.5) / f_k, (i + 0.5) / f_k
            s_k = min_sizes[k] / 300
            mean += [cx, cy, s_k, s_k]
            s_k_prime = sqrt(s_k * (max_sizes[k] / 300))
            mean += [cx, cy, s_k_prime, s_k_prime]
            for ar in ratios[k]:
                mean += [cx, cy, s_k * sqrt(ar), s_k / sqrt(ar)]
                mean += [cx, cy, s_k / sqrt(ar), s_k * sqrt(ar)]
    found = np.array(mean).reshape(-1, 4)
    found[:, 2:] = found[:, 2:].clip(0, 1)
    return found


# ---- Boxes and scores apart, decoded in the graph ----


def ultraface(unit: bool = True, centred: bool = False, rows_first: bool = False, squashed: bool = True) -> Net:
    net = Net((64, 96), [(8, 12), (4, 6), (2, 3), (1, 2)])
    priors = face_priors(net.size, net.grids, SLIM, [8, 16, 32, 64])[None].astype(np.float32)
    priors = priors if unit else priors * np.array([96, 64, 96, 64], np.float32)
    cells = [3, 2, 2, 3]
    logits = net.joined(cells, 2, "" if squashed else "scores", scale=1.5)
    if squashed:
        net.add("Softmax", [logits], "scores", axis=2)
    loc = net.joined(cells, 4)
    two, end, axis, start = (net.constant(np.array([i], np.int64)) for i in (2, 9, 2, 0))
    low, high = net.add("Slice", [loc, start, two, axis]), net.add("Slice", [loc, two, end, axis])
    middle = net.add("Mul", [net.add("Mul", [low, net.constant(np.float32(0.1))]), net.constant(priors[..., 2:])])
    middle = net.add("Add", [middle, net.constant(priors[..., :2])])
    extent = net.add("Exp", [net.add("Mul", [high, net.constant(np.float32(0.2))])])
    extent = net.add("Mul", [extent, net.constant(priors[..., 2:])])
    if not centred:
        half = net.add("Div", [extent, net.constant(np.float32(2))])
        middle, extent = net.add("Sub", [middle, half]), net.add("Add", [middle, half])
    boxes = net.add("Concat", [middle, extent], "" if rows_first else "boxes", axis=2)
    if rows_first:
        net.add("Gather", [boxes, net.constant(np.array([1, 0, 3, 2], np.int64))], "boxes", axis=2)
    return net


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("rows_first", [True, False])
def test_boxes_decoded_in_the_graph_are_read_as_they_are_written(unit: bool, centred: bool, rows_first: bool):
    net = ultraface(unit, centred, rows_first).made("scores", "boxes")
    found, plain = decoded(net, "UltraFace"), said(ultraface().made("scores", "boxes"))
    check(found, plain["boxes"][0] * [96, 64, 96, 64], plain["scores"][0, :, 1:])
    assert task_of(net).label(0, None) == "face"


def test_what_cannot_be_run_is_read_by_the_priors_among_its_constants():
    for unit in (True, False):
        graph = Graph.read(ultraface(unit).made("scores", "boxes"))
        assert recognise(graph).decoder.coding.unit == unit


def test_a_box_is_explained_at_its_own_map_by_the_odds_of_its_score():
    net = ultraface().made("scores", "boxes")
    found, scores = analyzer.explain(net, picture((64, 96)), "layer-cam"), said(net)["scores"][0, :, 1]
    assert np.isclose(found.value[0], scores.max(), atol=1e-5)
    best = int(scores.argmax())
    assert found.layer == f"map{np.searchsorted([288, 336, 348, 354], best, 'right')}"


def yolov4() -> onnx.ModelProto:
    """Boxes (N, places, 1, 4), scores already multiplied by objectness."""
    net = Net((64, 64), [(8, 8), (4, 4), (2, 2)])
    grid = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2) / [w, h] for h, w in net.grids]
    corner = np.concatenate([np.repeat(g, 3, axis=0) for g in grid])[None].astype(np.float32)
    wide = net.add("Exp", [net.joined([3, 3, 3], 2, scale=0.1)])
    wide = net.add("Mul", [wide, net.constant(np.full((1, corner.shape[1], 2), 0.1, np.float32))])
    low = net.add("Sub", [net.constant(corner), wide])
    boxes = net.add("Concat", [low, net.add("Add", [net.constant(corner), wide])], axis=2)
    net.add("Unsqueeze", [boxes, net.constant(np.array([2], np.int64))], "boxes")
    both = [net.add("Sigmoid", [net.joined([3, 3, 3], n)]) for n in (5, 1)]
    net.add("Mul", both, "confs")
    return net.made("boxes", "confs")


def test_scores_that_are_products_are_as_they_are():
    net = yolov4()
    found, answer = decoded(net, "boxes and scores"), said(net)
    check(found, answer["boxes"][0, :, 0] * 64, answer["confs"][0])


def test_candidates_of_a_place_can_lie_apart():
    """All places of the first candidate, then all of the second."""
    net = Net((64, 96), [(8, 12)])
    for width, output in ((3, "scores"), (4, "boxes")):
        head = net.head(0, 2 * width)
        head = net.add("Sigmoid", [head]) if width == 3 else net.add("Add", [head, net.constant(np.float32(20))])
        parts = net.add("Reshape", [head, net.constant(np.array([1, 2, width, 96], np.int64))])
        parts = net.add("Transpose", [parts], perm=[0, 1, 3, 2])
        net.add("Reshape", [parts, net.constant(np.array([1, 192, width], np.int64))], output)
    (level,) = task_of(net.made("scores", "boxes")).decoder.levels
    assert level.grid == (8, 12) and level.cell == 2 and level.planes and level.layer == "map0"
    assert level.places[0][:13].tolist() == [[i, 0] for i in range(12)] + [[0, 1]]


def test_logits_apart_from_decoded_boxes_are_squashed():
    net = ultraface(squashed=False).made("scores", "boxes")
    answer = said(net)
    found = task_of(net).decoder.candidates(task_of(net).answer(answer))
    check(found, answer["boxes"][0] * [96, 64, 96, 64], sigmoid(answer["scores"][0]))


# ---- Relative to priors ----


def test_retinaface():
    net = Net((64, 96), [(8, 12), (4, 6), (2, 3)])
    net.joined([2] * 3, 4, "loc")
    net.joined([2] * 3, 2, "conf")
    net.joined([2] * 3, 10, "landms")
    proto = net.made("loc", "conf", "landms")
    answer = said(proto)
    priors = face_priors(net.size, net.grids, [[16, 32], [64, 128], [256, 512]], [8, 16, 32])
    boxes = ssd_decode(answer["loc"][0], priors) * [96, 64, 96, 64]
    points = decode_landm(answer["landms"][0], priors) * [96, 64]
    check(decoded(proto, "RetinaFace"), boxes, softmax(answer["conf"][0])[:, 1:], points)


def old_yunet() -> Net:
    net = Net((72, 88), [(9, 11), (4, 5), (2, 2), (1, 1)])
    cells = [3, 2, 2, 3]
    flat = []
    for at, cell in enumerate(cells):
        rows = net.add("Transpose", [net.head(at, cell * 17, scale=0.7)], perm=[0, 2, 3, 1])
        flat.append(net.add("Reshape", [rows, net.constant(np.array([1, -1], np.int64))]))
    whole = net.add("Reshape", [net.add("Concat", flat, axis=1), net.constant(np.array([1, -1, 17], np.int64))])
    cut = net.constant(np.array([14, 2, 1], np.int64))
    net.nodes.append(node("Split", [whole, cut], ["a", "b", "c"], axis=2))
    net.add("Reshape", ["a", net.constant(np.array([-1, 14], np.int64))], "loc")
    conf = net.add("Reshape", ["b", net.constant(np.array([-1, 2], np.int64))])
    net.add("Softmax", [conf], "conf", axis=1)
    net.add("Reshape", ["c", net.constant(np.array([-1, 1], np.int64))], "iou")
    return net


def test_yunet_with_priors():
    net = old_yunet()
    proto = net.made("loc", "conf", "iou")
    answer = said(proto)
    priors = face_priors(net.size, net.grids, SLIM, [8, 16, 32, 64])
    iou = answer["iou"][:, 0].clip(0, 1)
    scores = np.sqrt(answer["conf"][:, 1] * iou)[:, None]
    assert 0 in iou and 1 in iou
    boxes = ssd_decode(answer["loc"], priors) * [88, 72, 88, 72]
    found = decoded(proto, "YuNet")
    check(found, boxes, scores, decode_landm(answer["loc"][:, 4:], priors) * [88, 72])
    explained = analyzer.explain(proto, picture(net.size), "layer-cam")
    assert np.isclose(explained.value[0], scores.max(), atol=1e-5)


SHAPES, STEPS = (((10.0, 20.0), (30.0, 15.0)), ((50.0, 60.0),)), (8, 16)


def own_anchors(columns: int) -> onnx.ModelProto:
    """Two maps of 12 × 8 and 6 × 4 places with two anchors and one."""
    net = Net((64, 96), [(8, 12), (4, 6)])
    net.joined([2, 1], 4, "loc")
    net.joined([2, 1], columns, "conf")
    return net.made("loc", "conf")


@pytest.mark.parametrize(
    ("form", "family", "variances"),
    [
        ("ssd", "SSD", None),
        (None, "SSD", (0.2, 0.3)),
        ("ssd-tensorflow", "SSD", None),
        ("retinanet", "RetinaNet", None),
        ("EfficientDet", "EfficientDet", None),
    ],
)
def test_anchors_of_the_models_card(form: str | None, family: str, variances: tuple[float, float] | None):
    proto = own_anchors(3)
    answer = said(proto)
    loc, conf = answer["loc"][0], answer["conf"][0]
    priors = np.array(
        [
            [(j + 0.5) * step / 96, (i + 0.5) * step / 64, wide / 96, high / 64]
            for step, shapes in zip(STEPS, SHAPES, strict=True)
            for i, j in product(range(64 // step), range(96 // step))
            for wide, high in shapes
        ]
    )
    if form in ("ssd-tensorflow", "EfficientDet"):
        loc = loc[:, [1, 0, 3, 2]]
    usual = (0.1, 0.2) if family == "SSD" else (1.0, 1.0)
    boxes = ssd_decode(loc, priors, variances or usual) * [96, 64, 96, 64]
    scores = softmax(conf)[:, 1:] if form in ("ssd", None) else sigmoid(conf)
    scores = scores[:, 1:] if form == "ssd-tensorflow" else scores
    check(decoded(proto, family, Declared(None, {}, form, None, None, SHAPES, STEPS, variances)), boxes, scores)


@pytest.mark.parametrize(
    ("strides", "form", "says"),
    [((8, 8), "ssd", "288, at 2 strides"), ((8,), "ssd", "1 strides"), ((), "ssd", "strides"), (STEPS, "yolo", "yolo")],
)
def test_anchors_that_do_not_fit_are_an_error(strides: tuple[int, ...], form: str, says: str):
    with pytest.raises(InputError, match=says):
        task_of(own_anchors(3), Declared("detection", decode=form, anchors=SHAPES, strides=strides))


@pytest.mark.parametrize("classes", [21, 81])
def test_ssd300(classes: int):
    net = Net((300, 300), [(n, n) for n in (38, 19, 10, 5, 3, 1)])
    net.joined([4, 6, 6, 6, 4, 4], 4, "loc")
    net.joined([4, 6, 6, 6, 4, 4], classes, "conf")
    proto = net.made("loc", "conf")
    voc, coco = (
        ([30, 60, 111, 162, 213, 264], [60, 111, 162, 213, 264, 315]),
        (
            [21, 45, 99, 153, 207, 261],
            [45, 99, 153, 207, 261, 315],
        ),
    )
    priors, answer = ssd_priors(*(voc if classes == 21 else coco)), said(proto)
    check(decoded(proto, "SSD"), ssd_decode(answer["loc"][0], priors) * 300, softmax(answer["conf"][0])[:, 1:])


def tensorflow_anchors() -> np.ndarray:
    """`ssd_anchor_generator` with a scale of 0.2 to 0.95 and a reduced lowest layer: ymin, xmin, ymax, xmax."""
    scales = [0.2 + (0.95 - 0.2) * i / 5 for i in range(6)] + [1.0]
    anchors = []
    for layer, n in enumerate([19, 10, 5, 3, 2, 1]):
        scale, scale_next = scales[layer], scales[layer + 1]
        if layer == 0:
            specs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            specs = [(scale, r) for r in (1.0, 2.0, 0.5, 3.0, 0.3333)] + [(sqrt(scale * scale_next), 1.0)]
        for y, x in product(range(n), repeat=2):
            for s, ratio in specs:
                h, w, cy, cx = s / sqrt(ratio), s * sqrt(ratio), (y + 0.5) / n, (x + 0.5) / n
                anchors.append([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2])
    return np.array(anchors)


def test_ssd_of_tensorflow():
    net = Net((300, 300), [(n, n) for n in (19, 10, 5, 3, 2, 1)])
    net.joined([3, 6, 6, 6, 6, 6], 4, "loc")
    net.add("Sigmoid", [net.joined([3, 6, 6, 6, 6, 6], 91)], "conf")
    proto = net.made("loc", "conf")
    answer, anchors = said(proto), tensorflow_anchors()
    ty, tx, th, tw = (answer["loc"][0] / [10, 10, 5, 5]).T  # FasterRcnnBoxCoder
    ha, wa = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    yc, xc = ty * ha + anchors[:, 0] + ha / 2, tx * wa + anchors[:, 1] + wa / 2
    h, w = np.exp(th) * ha, np.exp(tw) * wa
    boxes = np.stack([xc - w / 2, yc - h / 2, xc + w / 2, yc + h / 2], 1) * 300
    check(decoded(proto, "SSD"), boxes, answer["conf"][0, :, 1:])


def retinanet_anchors(size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """`AnchorGenerator` of torchvision's RetinaNet: corners."""
    found = []
    for x, (h, w) in zip([32, 64, 128, 256, 512], grids, strict=True):
        scales = np.array([x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))], np.float64)
        h_ratios = np.sqrt([0.5, 1.0, 2.0])
        ws = ((1 / h_ratios)[:, None] * scales[None]).reshape(-1)
        hs = (h_ratios[:, None] * scales[None]).reshape(-1)
        base = np.round(np.stack([-ws, -hs, ws, hs], 1) / 2)
        sy, sx = np.meshgrid(np.arange(h) * (size[0] // h), np.arange(w) * (size[1] // w), indexing="ij")
        shifts = np.stack([sx.ravel(), sy.ravel(), sx.ravel(), sy.ravel()], 1)
        found.append((shifts[:, None] + base[None]).reshape(-1, 4))
    return np.concatenate(found)


FIVE = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_retinanet():
    net = Net((128, 192), FIVE)
    net.joined([9] * 5, 4, "boxes")
    net.joined([9] * 5, 7, "logits")
    proto = net.made("boxes", "logits")
    answer, anchors = said(proto), retinanet_anchors(net.size, FIVE)
    deltas, wide = answer["boxes"][0].astype(np.float64), anchors[:, 2:] - anchors[:, :2]
    middle, size = deltas[:, :2] * wide + anchors[:, :2] + 0.5 * wide, np.exp(deltas[:, 2:]) * wide
    boxes = np.concatenate([middle - size / 2, middle + size / 2], 1)
    check(decoded(proto, "RetinaNet"), boxes, sigmoid(answer["logits"][0]))


def efficientdet_anchors(size: tuple[int, int]) -> np.ndarray:
    """`Anchors` of automl: ymin, xmin, ymax, xmax."""
    found = []
    for stride in (8, 16, 32, 64, 128):
        level = []
        for octave, aspect in product((0, 1, 2), ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))):
            base = 4.0 * stride * 2 ** (octave / 3.0)
            half_x, half_y = base * aspect[0] / 2.0, base * aspect[1] / 2.0
            x, y = np.arange(stride / 2, size[1], stride), np.arange(stride / 2, size[0], stride)
            xv, yv = (v.reshape(-1) for v in np.meshgrid(x, y))
            level.append(np.stack([yv - half_y, xv - half_x, yv + half_y, xv + half_x], 1)[:, None])
        found.append(np.concatenate(level, axis=1).reshape(-1, 4))
    return np.concatenate(found)


@pytest.mark.parametrize("joined", [True, False])
def test_efficientdet(joined: bool):
    net = Net((128, 256), [(128 // s, 256 // s) for s in (8, 16, 32, 64, 128)])
    if joined:
        net.joined([9] * 5, 4, "boxes", depthwise=True)
        net.joined([9] * 5, 7, "logits", depthwise=True)
        names = ["boxes", "logits"]
    else:
        names = [net.head(i, 63, output=f"logits{i}", depthwise=True) for i in range(5)]
        names += [net.head(i, 36, output=f"boxes{i}", depthwise=True) for i in range(5)]
    proto = net.made(*names)
    answer, anchors = said(proto), efficientdet_anchors(net.size)
    if not joined:
        for word, n in (("boxes", 4), ("logits", 7)):
            rows = [answer[f"{word}{i}"].transpose(0, 2, 3, 1).reshape(1, -1, n) for i in range(5)]
            answer[word] = np.concatenate(rows, axis=1)
    ty, tx, th, tw = answer["boxes"][0].astype(np.float64).T
    ya, xa = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    ha, wa = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    w, h, y, x = np.exp(tw) * wa, np.exp(th) * ha, ty * ha + ya, tx * wa + xa
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    check(decoded(proto, "EfficientDet"), boxes, sigmoid(answer["logits"][0]))


def test_priors_that_the_model_gives_are_taken():
    net = Net((64, 64), SMALL[:2])
    priors = np.random.default_rng(2).uniform(0.1, 0.9, (80 * 5, 4)).astype(np.float32)
    net.joined([5, 5], 4, "loc")
    net.joined([5, 5], 3, "conf")
    net.nodes.append(node("Identity", [net.constant(priors)], ["priors"]))
    proto = net.made("loc", "conf", "priors")
    answer = said(proto)
    check(decoded(proto, "SSD"), ssd_decode(answer["loc"][0], priors) * 64, softmax(answer["conf"][0])[:, 1:])


# ---- Faces, with heads per stride ----


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("squashed", [True, False])
def test_scrfd(batched: bool, points: bool, squashed: bool):
    net, names = Net((64, 96), [(8, 12), (4, 6), (2, 3)]), []
    for word, width in [("score", 1), ("bbox", 4), ("kps", 10)][: 3 if points else 2]:
        for at, stride in enumerate((8, 16, 32)):
            names.append(f"{word}_{stride}")
            if word == "score" and squashed:
                net.add("Sigmoid", [net.rows(at, 2, width, batched)], names[-1])
            else:
                net.rows(at, 2, width, batched, names[-1])
    proto = net.made(*names)
    answer = said(proto)
    boxes, scores, faces = [], [], []
    for stride, (height, width) in zip((8, 16, 32), net.grids, strict=True):
        kept = {w: answer[f"{w}_{stride}"].reshape(-1, n) for w, n in (("score", 1), ("bbox", 4))}
        anchor_centers = np.stack(np.mgrid[:height, :width][::-1], axis=-1).astype(np.float32)
        anchor_centers = (anchor_centers * stride).reshape((-1, 2))
        anchor_centers = np.stack([anchor_centers] * 2, axis=1).reshape((-1, 2))
        distance = kept["bbox"] * stride
        boxes.append(np.concatenate([anchor_centers - distance[:, :2], anchor_centers + distance[:, 2:]], axis=1))
        scores.append(kept["score"] if squashed else sigmoid(kept["score"]))
        if points:
            shifts = answer[f"kps_{stride}"].reshape(-1, 5, 2) * stride
            faces.append(anchor_centers[:, None] + shifts)
    found = decoded(proto, "SCRFD")
    check(found, np.concatenate(boxes), np.concatenate(scores), np.concatenate(faces) if points else None)
    explained = analyzer.explain(proto, picture(net.size), "layer-cam")
    assert np.isclose(explained.value[0], np.concatenate(scores).max(), atol=1e-5)


def test_yunet():
    net, names = Net((64, 96), [(8, 12), (4, 6), (2, 3)]), []
    for word, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for at, stride in enumerate((8, 16, 32)):
            names.append(f"{word}_{stride}")
            rows = net.rows(at, 1, width, output="" if width == 1 else names[-1])
            if width == 1:
                net.add("Sigmoid", [rows], names[-1])
    proto = net.made(*names)
    answer = said(proto)
    boxes, scores, faces = [], [], []
    for stride, (rows, cols) in zip((8, 16, 32), net.grids, strict=True):  # FaceDetectorYN of OpenCV
        cls, obj, bbox, kps = (answer[f"{w}_{stride}"][0] for w in ("cls", "obj", "bbox", "kps"))
        for r, c in product(range(rows), range(cols)):
            idx = r * cols + c
            scores.append([sqrt(float(cls[idx, 0]) * float(obj[idx, 0]))])
            cx, cy = (c + bbox[idx, 0]) * stride, (r + bbox[idx, 1]) * stride
            w, h = np.exp(bbox[idx, 2]) * stride, np.exp(bbox[idx, 3]) * stride
            boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            faces.append([((kps[idx, 2 * n] + c) * stride, (kps[idx, 2 * n + 1] + r) * stride) for n in range(5)])
    check(decoded(proto, "YuNet"), np.array(boxes), np.array(scores), np.array(faces))


def mediapipe_anchors(size: int, strides: Sequence[int]) -> np.ndarray:
    """`SsdAnchorsCalculator` with anchors of fixed size, an aspect ratio of 1 and an interpolated one: centres."""
    anchors, layer = [], 0
    while layer < len(strides):
        count, last = 0, layer
        while last < len(strides) and strides[last] == strides[layer]:
            count, last = count + 2, last + 1
        n = -(-size // strides[layer])
        for y, x, _ in product(range(n), range(n), range(count)):
            anchors.append([(x + 0.5) / n, (y + 0.5) / n])
        layer = last
    return np.array(anchors)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("width", "thing"), [(16, "face"), (18, "palm")])
def test_blazeface(joined: bool, width: int, thing: str):
    net = Net((128, 128), [(16, 16), (8, 8)])
    if joined:
        net.joined([2, 6], width, "regressors", scale=5.0)
        net.joined([2, 6], 1, "classificators")
        names = ["regressors", "classificators"]
    else:
        names = [net.rows(i, c, 1, output=f"score{i}") for i, c in enumerate([2, 6])]
        names += [net.rows(i, c, width, output=f"box{i}", scale=5.0) for i, c in enumerate([2, 6])]
    proto = net.made(*names)
    answer = said(proto)
    if not joined:
        answer["regressors"] = np.concatenate([answer["box0"], answer["box1"]], axis=1)
        answer["classificators"] = np.concatenate([answer["score0"], answer["score1"]], axis=1)
    raw, anchors = answer["regressors"][0].astype(np.float64), mediapipe_anchors(128, [8, 16, 16, 16])
    middle, size = raw[:, :2] / 128 + anchors, raw[:, 2:4] / 128
    boxes = np.concatenate([middle - size / 2, middle + size / 2], 1) * 128
    points = np.stack([raw[:, 4 + 2 * k : 6 + 2 * k] / 128 + anchors for k in range(width // 2 - 2)], 1) * 128
    check(decoded(proto, "BlazeFace"), boxes, sigmoid(answer["classificators"][0]), points)
    assert task_of(proto).label(0, None) == thing


# ---- What is no detector ----


def test_a_box_and_scores_of_the_whole_picture_are_no_detector():
    nodes = [
        node("GlobalAveragePool", ["x"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        *(node("MatMul", ["flat", f"w{n}"], [f"out{n}"]) for n in (2, 4, 10)),
    ]
    weights = {f"w{n}": np.ones((3, n), np.float32) for n in (2, 4, 10)}
    net = model(nodes, {"x": ["N", 3, 48, 48]}, {f"out{n}": ["N", n] for n in (2, 4, 10)}, weights)
    assert recognise(Graph.read(net)).kind == "classification"


def test_rows_that_are_of_no_map_are_no_anchors():
    """As DETR's: 100 queries, a box and scores each."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Reshape", ["x", "shape"], ["flat"]),
        *(node("MatMul", ["flat", f"w{n}"], [f"out{n}"]) for n in (4, 7)),
    ]
    weights = {f"w{n}": rng.standard_normal((123, n)).astype(np.float32) for n in (4, 7)}
    weights["shape"] = np.array([1, 100, 123], np.int64)
    net = model(nodes, {"x": [1, 3, 50, 82]}, {"out4": None, "out7": None}, weights)
    assert recognise(Graph.read(net)).kind == "raw"


def test_boxes_that_would_end_before_they_begin_are_no_corners():
    """Centres of which half are beyond the input: as corners, their middles are nearer to the places."""
    nodes = [
        node("Conv", ["x", "w"], ["map"], strides=[8, 8]),
        node("Reshape", ["map", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["boxes"], perm=[0, 2, 1]),
    ]
    weights = {"w": np.ones((4, 3, 8, 8), np.float32), "flat": np.array([1, 4, -1])}
    graph = Explainer(model(nodes, {"x": [1, 3, 64, 64]}, {"boxes": [1, 64, 4]}, weights)).plain
    places = np.indices((8, 8)).reshape(2, -1)[::-1].T
    boxes = np.concatenate([30.0 * places, np.full((64, 2), 6.0)], axis=1)[None].astype(np.float32)
    read = read_boxes(View(graph, run=lambda names: [boxes]), Part("boxes"), [Stage(0, 64, (8, 8))])
    assert read == Corners(centred=True)


# ---- Real models ----

GROUP, PORTRAIT = "zoo_ultraface_1.jpg", "coral_grace_hopper.bmp"
ULTRAFACE, RAW = {"mean": 127, "std": 128, "scale": 1}, {"preset": "raw", "channels": "BGR"}
# Preprocessing as the catalogue of the corpus has it; how many faces there are.
FACES = [
    ("ultraface_rfb320", GROUP, ULTRAFACE, 19),
    ("ultraface_rfb320_maui", GROUP, ULTRAFACE, 19),
    ("yunet_120x160", GROUP, RAW, 19),
    ("yunet_n_dynamic", GROUP, {**RAW, "size": (480, 640)}, 19),
    ("yunet_120x160", PORTRAIT, RAW, 1),
    ("yunet_n_dynamic", PORTRAIT, {**RAW, "size": (320, 320)}, 1),
    ("blazeface_back_opt", PORTRAIT, {"preset": "-1-1"}, 1),
    ("blazeface_front_barracuda", PORTRAIT, {"preset": "-1-1"}, 1),
]


@needs_corpus
@pytest.mark.parametrize(("name", "picture_", "flags", "count"), FACES, ids=str)
def test_faces_are_found_and_the_heat_lies_on_the_surest(name, picture_, flags, count):
    path = CORPUS / "models" / f"{name}.onnx"
    explainer = Explainer(path)
    given = image_input(explainer.plain)
    preprocess = model_card(path, {**flags, "resize": "resize"}, given.shape, given.dtype).preprocess
    batch, _ = preprocess.apply(decode(CORPUS / "images" / picture_))
    task = task_for(explainer, Question(), explainer.feeds(batch))
    outputs = Session(onnx.load(path)).run({given.name: batch}, list(task.decoder.outputs))
    found = task.predictions(task.answer(outputs))
    assert len(found) == count
    explained = explainer.explain(batch, "layer-cam")
    assert explained.layer == found[0].layer
    y, x = np.unravel_index(explained.heatmap[0].argmax(), explained.heatmap[0].shape)
    left, top, right, bottom = found[0].box
    assert left <= x <= right and top <= y <= bottom
    if count == 1:  # her face in the picture's pixels, and all points on it
        height, width = batch.shape[1:3] if batch.shape[3] == 3 else batch.shape[2:]
        scale = np.array([512 / width, 600 / height] * 2)
        face = np.array([[172.0, 125, 360, 335]])
        assert iou(np.array([found[0].box]) * scale, face)[0, 0] > 0.6
        points = np.array(found[0].points)[:, :2] * scale[:2]
        assert ((points > face[0, :2] - 20) & (points < face[0, 2:] + 20)).all()
        assert points[0, 0] < points[1, 0] and points[0, 1] < points[3, 1]  # eyes from left to right, above the mouth


def test_an_output_without_numbers_has_no_candidates() -> None:
    assert Part("boxes").read(np.zeros((1, 0), np.float32)).shape == (1, 0)
    assert Part("boxes", cell=2).read(np.zeros((1, 3, 8), np.float32)).shape == (6, 4)
