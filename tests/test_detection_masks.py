"""Masks of instances: as formats write them, in the picture, in JSON and in COCO's format, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.images import Found, draw_found, write_png
from analyzer.metrics.masks import Mask, area_of, rle
from analyzer.tasks import task_from
from analyzer.tasks.detection.masks import Chosen, OwnMasks
from tests import test_detection_ends as ends
from tests.models import node
from tests.test_detection import SIDE, STRIDES, detector, said


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def segmenter() -> onnx.ModelProto:
    """`detector` with masks as YOLOv8-seg has them: four numbers more per candidate, and four prototypes, of which
    three are how red, green and blue a fourth of the picture is and the last one is −1 everywhere."""
    made = detector()
    made.graph.node.pop()
    weights = {
        "weigh": np.vstack([4 * np.eye(3), np.full((1, 3), 2.4)]).astype(np.float32).reshape(4, 3, 1, 1),
        "four": np.array([0, 4, -1], np.int64),
        "minus": np.array([0, 0, 0, -1], np.float32),
        "lift": np.vstack([np.eye(3), np.zeros((1, 3))]).astype(np.float32).reshape(4, 3, 1, 1),
    }
    nodes = []
    for s in STRIDES:
        nodes.append(node("Conv", [f"map{s}", "weigh"], [f"more{s}"]))
        nodes.append(node("Reshape", [f"more{s}", "four"], [f"rows{s}"]))
    nodes += [
        node("Concat", [f"rows{s}" for s in STRIDES], ["more"], axis=2),
        node("Concat", ["boxes", "scores", "more"], ["output0"], axis=1),
        node("AveragePool", ["seen"], ["fourth"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Conv", ["fourth", "lift", "minus"], ["output1"]),
    ]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in weights.items())
    del made.graph.output[:]
    for name, shape in {"output0": [1, 11, 80], "output1": [1, 4, 16, 16]}.items():
        made.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(made)
    return made


def disc() -> np.ndarray:
    """A red disc of 8 pixels' radius in the middle of a cell of 16."""
    y, x = np.indices((SIDE, SIDE)) + 0.5
    picture = np.zeros((1, 3, SIDE, SIDE), np.float32)
    picture[0, 0] = (y - 24) ** 2 + (x - 40) ** 2 < 64
    return picture


def task_and_said(made: onnx.ModelProto, x: np.ndarray):
    explainer = Explainer(made)
    task = task_for(explainer, Question(), explainer.feeds(x))
    return task_from(task.as_data()), task.answer(task.said(said(made, x)))


def test_prototypes_are_summed_and_cut_off_at_the_box():
    task, found = task_and_said(segmenter(), disc())
    assert task.decoder.family == "YOLOv8-seg"
    widest = max(task.predictions(found), key=lambda p: p.box[2] - p.box[0])
    place = widest.slot // task.decoder.classes
    low = np.tensordot(found["output0"][0, 7:, place], found["output1"][0], 1)
    x0, y0, x1, y1 = widest.box
    middles = np.arange(16) * 4 + 2
    got = widest.mask.inside(middles, middles)  # at the middles of the prototypes' cells nothing is between
    box = (middles[:, None] >= y0) & (middles[:, None] < y1) & (middles >= x0) & (middles < x1)
    assert np.array_equal(got, (low > 0) & box) and 4 < got.sum() < 16
    fine = np.arange(SIDE) + 0.5
    whole, right = widest.mask.inside(fine, fine), disc()[0, 0] > 0
    assert (whole & right).sum() / (whole | right).sum() > 0.7


@pytest.mark.parametrize("size", [8, SIDE], ids=["over the box", "over the input"])
def test_masks_of_what_was_chosen_lie_over_the_box_or_the_input(size):
    """Mask R-CNN: (rows, 1, 8, 8) over each box, or (rows, 1, H, W)."""
    made, values = ends.chosen(batched=False), np.zeros((ends.ROWS, 1, size, size), np.float32)
    values[:, :, size // 2 :] = 0.9  # the lower half
    made.graph.initializer.append(onnx.numpy_helper.from_array(values, "values"))
    made.graph.node.append(node("Identity", ["values"], ["masks"]))
    made.graph.output.append(onnx.helper.make_tensor_value_info("masks", onnx.TensorProto.FLOAT, values.shape))
    task, found = task_and_said(made, ends.TWO)
    fine = np.arange(SIDE) + 0.5
    predictions = task.predictions(found)
    assert [p.box for p in predictions] == [(40, 16, 48, 28), (8, 48, 16, 60)]
    for p in predictions:
        right = np.zeros((SIDE, SIDE), bool)
        x0, y0, x1, y1 = map(int, p.box) if size == 8 else (0, 0, SIDE, SIDE)
        right[(y0 + y1) // 2 : y1, x0:x1] = True
        assert np.array_equal(p.mask.inside(fine, fine), right)


def test_logits_are_inside_above_zero():
    values = np.array([[[[0.2, 0.2], [-3.0, 0.7]]]], np.float32)
    at, boxes = np.array([2.0, 6.0]), np.array([[0.0, 0, 8, 8]])
    for logits, right in ((True, [[1, 1], [0, 1]]), (False, [[0, 0], [0, 1]])):
        chosen = Chosen({"m": values}, (), np.array([0]), boxes, (99, 99))
        (mask,) = OwnMasks("m", logits).of(chosen)
        assert mask.inside(at, at).astype(int).tolist() == right


def test_run_lengths_are_cocos():
    """The texts are those of pycocotools 2.0.11."""
    small = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]], bool)
    assert rle(small) == {"size": [3, 4], "counts": "141M30"}
    large = np.zeros((300, 400), bool)
    large[10:250, 33:300] = True
    assert rle(large)["counts"] == "fe9`7l1" + "0" * 531 + "VYm0"
    assert rle(np.ones((2, 3), bool))["counts"] == "06"
    for mask in (small, large, ~large, np.zeros((4, 4), bool)):
        assert area_of(rle(mask)) == mask.sum()


def test_nothing_beyond_the_values_or_the_box_is_inside():
    mask = Mask(np.ones((2, 2), np.float32), (0, 0, 8, 8), (2, 3, 20, 20))
    at = np.arange(-2, 12) + 0.5
    right = np.outer((at > 3) & (at < 8), (at > 2) & (at < 8))
    assert np.array_equal(mask.inside(at, at), right)


def test_masks_are_printed_and_drawn(run, place):
    """In the pixels of a picture that is twice as large and letterboxed."""
    onnx.save(segmenter(), place / "m.onnx")
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, SIDE // 2 : 3 * SIDE // 2] = 255 * disc()[0].transpose(1, 2, 0).astype(np.uint8)
    write_png(place / "p.png", wide.repeat(4, 0).repeat(4, 1))
    flags = ("--preset", "0-1", "--resize", "letterbox", "--size", f"{SIDE}x{SIDE}")
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "--format", "coco", "-o", "heat.png")
    found = json.loads(out)["annotations"]
    assert code == 0 and (place / "heat.png").exists() and found
    for one in found:
        assert one["segmentation"]["size"] == [4 * SIDE, 8 * SIDE] and one["area"] == area_of(one["segmentation"])
        assert 0 < one["area"] <= one["bbox"][2] * one["bbox"][3]


def test_a_mask_is_drawn_in_the_color_of_its_class():
    picture = np.full((512, 512, 3), 255, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:32, 16:48] = True
    drawn = draw_found(picture, [Found("a", 0.9, (100, 100, 400, 400), mask=mask)])
    box = drawn[101, 250]  # a line of the box, in the color of the class
    assert np.allclose(drawn[200, 250], 0.3 * box + 0.7 * 255, atol=1)
    assert (drawn[300, 250] == 255).all()
