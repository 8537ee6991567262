"""Measures of detections: which are the same, keypoints, heat in a box; and what compare is to make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.graph import Graph
from analyzer.metrics.boxes import iou, probiou, suppressed_rotated
from analyzer.metrics.detections import Detections, matched, pair_quality, score_drift
from analyzer.metrics.energy import energy_inside, hit_rate
from analyzer.metrics.keypoints import COCO_SIGMAS, oks
from analyzer.metrics.pointing_game import pointing_game
from analyzer.tasks.detection import Detection
from analyzer.tasks.detection.codings import Corners, rotated_corners
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Level, Part
from tests.models import model, node
from tests.test_detection import BOTH, detector

BOX = [10.0, 10.0, 30.0, 50.0]


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(classes, int))


def moved(box: list[float], right: float) -> list[float]:
    return [box[0] + right, box[1], box[2] + right, box[3]]


# ---- Rotated boxes ----

TURNED = np.array(
    [
        [50, 50, 40, 8, 0],
        [50, 50, 40, 8, np.pi / 2],
        [50, 50, 40, 8, np.pi / 4],
        [52, 51, 38, 9, 0.1],
        [80, 20, 10, 30, -0.5],
    ]
)


def test_rotated_boxes_are_compared_as_gaussians():
    theirs = [1 - 3e-4, 0.21554, 0.29834, 0.78465, 0.000347]  # batch_probiou of ultralytics 8.4.190
    assert np.allclose(probiou(TURNED[:1], TURNED)[0], theirs, atol=5e-4)
    step = 0.25
    grid = np.stack(np.meshgrid(*[np.arange(-60, 180, step)] * 2), axis=-1)
    roots = []
    for x, y, wide, high, angle in TURNED:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        covariance = turn @ np.diag([wide**2 / 12, high**2 / 12]) @ turn.T
        away = grid - (x, y)
        power = np.einsum("ijk,kl,ijl->ij", away, np.linalg.inv(covariance), away)
        roots.append(np.sqrt(np.exp(-power / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))))
    shared = np.einsum("aij,bij->ab", roots, roots) * step**2  # the Bhattacharyya coefficients, integrated
    assert np.allclose(probiou(TURNED, TURNED), 1 - np.sqrt(np.maximum(1 - shared, 0)), atol=1e-4)


def test_flat_boxes_overlap_nothing():
    flat = np.array([[50, 50, 40, 0, 0], [50, 50, 0, 0, 0.0]])
    assert (probiou(flat, np.concatenate([flat, TURNED])) < 0.01).all()


def test_crossing_bars_are_two_things():
    scores, classes = np.array([0.9, 0.8, 0.7]), np.zeros(3, int)
    bars = TURNED[[2, 2, 3]] * [1, 1, 1, 1, -1] + [[0, 0, 0, 0, np.pi / 2], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    upright = [[*c.min(0), *c.max(0)] for c in rotated_corners(bars)]
    assert iou(np.array(upright[:1]), np.array(upright[1:2]))[0, 0] > 0.99
    assert suppressed_rotated(bars, scores, classes, 0.45).tolist() == [0, 1, 2]
    assert suppressed_rotated(bars[[0, 0, 1]], scores, classes, 0.45).tolist() == [0, 2]
    assert suppressed_rotated(bars[[0, 0, 1]], scores[::-1], classes, 0.45).tolist() == [2, 1]
    assert suppressed_rotated(bars[[0, 0, 1]], scores, np.array([0, 1, 0]), 0.45).tolist() == [0, 1, 2]
    assert suppressed_rotated(bars[:0], scores[:0], classes[:0], 0.45).tolist() == []


def test_what_is_dropped_drops_others_still():
    """Fast NMS: the third overlaps only the second, which the first drops."""
    row = np.array([[50 + 9 * i, 50, 40, 8, 0.0] for i in range(3)])
    assert probiou(row[:1], row)[0, 1] > 0.5 > probiou(row[:1], row)[0, 2]
    assert suppressed_rotated(row, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), 0.5).tolist() == [0]


def test_many_are_as_each_with_all():
    noise = np.random.default_rng(0)
    boxes = noise.uniform([0, 0, 8, 8, 0], [150, 150, 60, 60, 3], (200, 5))
    scores, classes = noise.permutation(200) / 200, noise.integers(0, 2, 200)
    over = (probiou(boxes, boxes) > 0.3) & (classes[:, None] == classes) & (scores[:, None] < scores)
    wanted = np.flatnonzero(~over.any(axis=1))
    assert suppressed_rotated(boxes, scores, classes, 0.3).tolist() == wanted[np.argsort(-scores[wanted])].tolist()


# ---- Matching ----


def test_the_surest_chooses_first_and_takes_what_it_overlaps_most():
    a = found((moved(BOX, 4), 0.5, 0), (BOX, 0.9, 0))
    b = found((moved(BOX, 1), 0.4, 0), (moved(BOX, 3), 0.8, 0))
    matching = matched(a, b)
    assert matching.pairs.tolist() == [[1, 0], [0, 1]]  # not the surer of b: the nearer
    assert np.allclose(matching.overlaps, [19 / 21, 19 / 21])
    assert not matching.missed.size and not matching.added.size


def test_another_class_and_another_place_are_no_match():
    a = found((BOX, 0.9, 0), (moved(BOX, 100), 0.8, 1))
    b = found((BOX, 0.9, 1), (moved(BOX, 100), 0.7, 1), (moved(BOX, 300), 0.6, 0))
    matching = matched(a, b)
    assert matching.pairs.tolist() == [[1, 1]]
    assert matching.missed.tolist() == [0] and matching.added.tolist() == [0, 2]
    assert score_drift(a, b, matching) == {1: pytest.approx(-0.1)}


def test_one_is_the_partner_of_one():
    a, b = found((BOX, 0.9, 0), (moved(BOX, 1), 0.8, 0)), found((BOX, 0.9, 0))
    assert matched(a, b).pairs.tolist() == [[0, 0]] and matched(a, b).missed.tolist() == [1]
    assert matched(b, a).added.tolist() == [1]


def test_equal_boxes_match_even_where_they_are_empty():
    a = found(([5, 5, 5, 5], 0.9, 0), ([9, 9, 2, 2], 0.8, 0))
    assert matched(a, a).overlaps.tolist() == [1, 1]


def test_nothing_matches_nothing():
    for a, b in ((found(), found()), (found((BOX, 1, 0)), found()), (found(), found((BOX, 1, 0)))):
        matching = matched(a, b)
        assert len(matching.pairs) == 0
        assert (len(matching.missed), len(matching.added)) == (len(a), len(b))


def test_drift_is_a_mean_per_class():
    a = found((BOX, 0.9, 3), (moved(BOX, 99), 0.5, 3), (moved(BOX, 200), 0.6, 7))
    b = found((BOX, 0.8, 3), (moved(BOX, 99), 0.5, 3), (moved(BOX, 200), 0.7, 7))
    assert score_drift(a, b, matched(a, b)) == {3: pytest.approx(-0.05), 7: pytest.approx(0.1)}


def test_quality_is_overlap_times_ratio():
    a, b = found((BOX, 0.9, 0), (moved(BOX, 99), 0, 0)), found((moved(BOX, 4), 0.6, 0), (moved(BOX, 99), 0, 0))
    assert pair_quality(a, b, matched(a, b)) == pytest.approx([16 / 24 * 2 / 3, 1])


# ---- Keypoints ----


def test_oks_is_cocos():
    points = np.random.default_rng(0).uniform(0, 100, (17, 3))
    other = points + np.array([3, 4, 0])
    expected = np.mean([np.exp(-25 / (2 * 900 * (2 * s) ** 2)) for s in COCO_SIGMAS])
    assert oks(points, other, 900) == pytest.approx(expected)
    assert oks(points, points, 900) == 1


def test_oks_of_what_is_not_visible():
    points = np.array([[0, 0, 1], [50, 50, 0]], float)
    far = np.array([[0, 0, 1], [90, 90, 1]], float)
    assert oks(points, far, 100) == 1  # only the visible one is judged
    assert oks(points * [1, 1, 0], far, 100) == 0
    assert oks(points, points, 0) == 1


# ---- Heat ----


def test_pointing_game():
    heat = np.zeros((20, 20))
    assert not pointing_game(heat, (0, 0, 20, 20))  # no heat points nowhere
    heat[4, 7] = 1
    assert pointing_game(heat, (7, 4, 8, 5)) and not pointing_game(heat, (4, 7, 5, 8))
    heat[15, 15] = 1
    assert not pointing_game(heat, (7, 4, 8, 5))  # it points at two places


def test_energy_and_hit_rate():
    heat = np.zeros((10, 10))
    heat[2, 2:6] = [4, 3, 2, -1]
    box = (2, 2, 4, 3)
    assert energy_inside(heat, box) == pytest.approx(7 / 9) and energy_inside(0 * heat, box) == 0
    assert hit_rate(heat, box) == 1 and hit_rate(heat, (3, 2, 5, 3)) == 0.5
    assert hit_rate(np.ones((10, 10)), box) == pytest.approx(0.02)  # all alike: the share of the box
    assert hit_rate(heat, (2.6, 2.6, 2.7, 2.7)) == 0  # no pixel's middle


# ---- Agreement ----

DETECTOR = model([node("Identity", ["x"], ["scores"]), node("Identity", ["y"], ["boxes"])],
                 {"x": [1, 6, 3], "y": [1, 6, 4]}, {"scores": [1, 6, 3], "boxes": [1, 6, 4]})  # fmt: skip
SCORES = Graph.read(DETECTOR)["scores"]
TASK = Detection(SCORES, SCORES, decoder=Decoder("", (Level(Part("scores"), Part("boxes")),), Corners(), (100, 100), 3))


def said(*rows: tuple[list[float], float, int]) -> dict[str, np.ndarray]:
    """The outputs of a detector of six candidates and three classes."""
    boxes, scores = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6, 3), np.float32)
    for place, (box, score, index) in enumerate(rows):
        boxes[0, place], scores[0, place, index] = box, score
    return {"boxes": boxes, "scores": scores}


THERE = said((BOX, 0.9, 0), ([50, 50, 90, 90], 0.7, 2))


def test_a_detector_agrees_with_itself():
    assert TASK.agreement(THERE, THERE).value == 1 and TASK.agreement(THERE, THERE).agrees
    assert TASK.agreement(said(), said()).agrees
    empty = said(([9, 9, 2, 2], 0.9, 0))
    assert TASK.agreement(empty, empty).agrees  # boxes that are no boxes


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda b, s: (b + 50, s), id="boxes moved"),
        pytest.param(lambda b, s: (np.minimum(b, 45), s), id="boxes clipped"),
        pytest.param(lambda b, s: (b * [1, 1, 1, 0.6], s), id="boxes of another shape"),
        pytest.param(lambda b, s: (b[:, ::-1], s), id="boxes of others"),
        pytest.param(lambda b, s: (b, s * 0.5), id="scores halved"),
        pytest.param(lambda b, s: (b, s * 0), id="no scores"),
        pytest.param(lambda b, s: (b, s[..., ::-1]), id="classes exchanged"),
        pytest.param(lambda b, s: (b, s + 0.3), id="more detections"),
    ],
)
def test_boxes_that_agree_hide_no_scores_and_scores_no_boxes(change):
    boxes, scores = change(THERE["boxes"], THERE["scores"])
    agreement = TASK.agreement(THERE, {"boxes": boxes, "scores": scores})
    assert not agreement.agrees and agreement.value < 0.7
    back = TASK.agreement({"boxes": boxes, "scores": scores}, THERE)
    assert back.value == pytest.approx(agreement.value)


def test_small_changes_agree():
    boxes, scores = THERE["boxes"] + [0, 1, 1, -1], THERE["scores"] * 0.95
    agreement = TASK.agreement(THERE, {"boxes": boxes, "scores": scores})
    assert agreement.agrees and agreement.value < 0.95


def test_near_the_threshold_nothing_is_missed():
    above, below = said((BOX, 0.26, 0)), said((BOX, 0.24, 0))
    for a, b in ((above, below), (below, above)):
        assert TASK.agreement(a, b).value == pytest.approx(0.24 / 0.26)
        assert not TASK.matching(a, b)[2].missed.size and not TASK.matching(a, b)[2].added.size
    strict = replace(TASK, threshold_=0.6)
    assert len(strict.matching(above, below)[2].pairs) == 0  # nobody detects it


def test_missed_and_added():
    other = said(([200, 10, 220, 50], 0.8, 0), ([50, 50, 90, 90], 0.6, 2))
    a, b, matching = TASK.matching(THERE, other)
    assert a.scores[matching.missed].tolist() == [np.float32(0.9)]
    assert b.scores[matching.added].tolist() == [np.float32(0.8)]
    assert score_drift(a, b, matching) == {2: pytest.approx(-0.1, abs=1e-6)}
    assert TASK.agreement(THERE, other).value == pytest.approx(2 * 6 / 7 / 4)


# ---- Models ----


def apart(*ends: onnx.NodeProto, **numbers: float) -> onnx.ModelProto:
    """A detector with boxes and scores as outputs, (1, 80, 4) and (1, 80, 3); `ends` change what it calls "boxes_" and
    "scores_"."""
    net = onnx.ModelProto.FromString(detector(joined=False).SerializeToString())
    for each in net.graph.node:
        for names in (each.input, each.output):
            names[:] = [f"{n}_across" if n in ("boxes", "scores") else n for n in names]
    changed = {n.output[0] for n in ends}
    for output in ("boxes", "scores"):
        name = f"{output}_" if output in changed else output
        net.graph.node.append(node("Transpose", [f"{output}_across"], [name], perm=[0, 2, 1]))
    net.graph.node.extend(ends)
    net.graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(v), n) for n, v in numbers.items())
    del net.graph.output[:]
    for output, width in (("boxes", 4), ("scores", 3)):
        shape = [1, 80, width]
        net.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))
    return net


def ending(op: str, output: str, *numbers: float) -> onnx.ModelProto:
    """`apart` with one more operator before an output."""
    given = {f"number{i}": number for i, number in enumerate(numbers)}
    return apart(node(op, [f"{output}_", *given], [output]), **given)


def said_of(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(net.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": BOTH}), strict=True))


@pytest.mark.parametrize(("op", "output", "numbers"), [
    ("Add", "boxes", [50.0]), ("Clip", "boxes", [-32.0, 31.0]), ("Mul", "boxes", [1.5]),
    ("Mul", "scores", [0.4]), ("Clip", "scores", [0.0, 0.1]),
])  # fmt: skip
def test_models_that_differ_in_one_output_disagree(op, output, numbers):
    explainer = Explainer(apart())
    task = task_for(explainer, Question(), explainer.feeds(BOTH))
    said = said_of(apart())
    assert task.kind == "detection" and len(task.predictions(said)) >= 2
    assert task.agreement(said, said).value == 1
    assert task.agreement(said, said_of(ending("Mul", output, 1.01))).agrees
    assert not task.agreement(said, said_of(ending(op, output, *numbers))).agrees
