"""Maps of text: recognised by the head that computes them or by the card, boxes by PaddleOCR's recipe, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.errors import InputError, NotFoundError
from analyzer.images import write_png
from analyzer.images.rectangles import rectangles
from analyzer.tasks import Declared, task_from
from analyzer.tasks.detection.text_maps import TextMap
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node

H, W = 64, 96
# Left, top, right and bottom of what is bright, one past the last.
FIRST, SECOND = (16, 8, 48, 20), (56, 36, 88, 52)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def picture(*bright: tuple[int, int, int, int], value: float = 1.0) -> np.ndarray:
    x = np.zeros((1, 3, H, W), np.float32)
    for left, top, right, bottom in bright:
        x[..., top:bottom, left:right] = value
    return x


BOTH = np.maximum(picture(FIRST), picture(SECOND, value=0.8))


def detector(pyramid: int = 3, upsampled: str = "ConvTranspose", size: Any = (H, W)) -> onnx.ModelProto:
    """The logit is 12 times the brightness of a fourth of the picture, less 5: DB's head on a pyramid of pools."""
    nodes, merged = [], []
    weights: dict[str, Any] = {
        "mix": np.zeros((1, 3 * pyramid, 1, 1), np.float32),
        "ones": np.ones((1, 1, 2, 2), np.float32),
        "low": np.full((1, 1, 1, 1), -5, np.float32),
        "two": np.array([1, 1, 2, 2], np.float32),
    }
    weights["mix"][0, :3] = 4
    for at in range(pyramid):
        stride, name = 4 * 2**at, f"pool{at}"
        nodes.append(node("AveragePool", ["x"], [name], kernel_shape=[stride] * 2, strides=[stride] * 2))
        if at:
            weights[f"by{at}"] = np.array([1, 1, 2**at, 2**at], np.float32)
            nodes.append(node("Resize", [name, "", f"by{at}"], [f"up{at}"], mode="nearest"))
        merged.append(f"up{at}" if at else name)

    def larger(read: str, name: str) -> onnx.NodeProto:
        if upsampled == "ConvTranspose":
            return node("ConvTranspose", [read, "ones"], [name], strides=[2, 2])
        return node("Resize", [read, "", "two"], [name], mode="nearest")

    nodes += [
        node("Concat", merged, ["merged"], axis=1),
        node("Conv", ["merged", "mix"], ["mixed"]),
        node("Relu", ["mixed"], ["seen"]),
        larger("seen", "half"),
        node("Relu", ["half"], ["half seen"]),
        larger("half seen", "whole"),
        node("Add", ["whole", "low"], ["logits"]),
        node("Sigmoid", ["logits"], ["prob"]),
    ]
    return model(nodes, {"x": ["n", 3, *size]}, {"prob": ["n", 1, *size]}, weights)


def task_of(made: onnx.ModelProto, x: np.ndarray = BOTH, **declared: Any) -> Any:
    explainer = Explainer(made)
    found = task_for(explainer, Question(declared=Declared(**declared)), explainer.feeds(x))
    return task_from(found.as_data())


def said(made: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(made.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def unclipped(left: int, top: int, right: int, bottom: int) -> list[float]:
    """The box of text that is bright here: from the middle of its first pixel to that of its last, moved outwards."""
    width, height = right - 1 - left, bottom - 1 - top
    by = 1.5 * width * height / (2 * (width + height))
    return [left - by, top - by, right - 1 + by, bottom - 1 + by]


@pytest.mark.parametrize("size", [(H, W), ("h", "w")], ids=["fixed", "open"])
def test_boxes_are_moved_outwards_and_scored_as_paddleocr_does(size):
    made = detector(size=size)
    task, found = task_of(made), said(made, BOTH)
    assert isinstance(task, TextMap) and "1911.08947" in task.evidence and task.layers == ("merged",)
    first, second = task.predictions(found)
    assert np.allclose(first.box, unclipped(*FIRST), atol=1e-3) and np.allclose(
        second.box, unclipped(*SECOND), atol=1e-3
    )
    for p, (left, top, right, bottom) in ((first, FIRST), (second, SECOND)):
        assert p.score == pytest.approx(found["prob"][0, 0, top:bottom, left:right].mean(), abs=1e-5)
    assert [p.target for p in task.predictions(found, limit=1)] == ["detection:0"]


def test_what_is_small_or_unsure_is_no_text():
    made, thin = detector(), picture((16, 8, 48, 12), (8, 40, 12, 44))
    assert len(task_of(made).predictions(said(made, thin))) == 2  # the narrowest that are found: 3 pixels
    dim = picture(FIRST, value=0.45)  # a logit of 0.4: text, but with a score below 0.6
    task, found = task_of(made), said(made, dim)
    assert not task.predictions(found) and not task.says_nothing(found)
    assert len(task_of(made, score_threshold=0.55).predictions(found)) == 1
    nothing = said(made, picture())
    assert task.says_nothing(nothing) and not task.chosen(-1, nothing)
    dimmer = task.nearest(said(made, picture(FIRST, value=0.2)))
    left, top, right, bottom = FIRST
    assert 0 < dimmer.score < 0.3 and left <= dimmer.box[0] < right and top <= dimmer.box[1] < bottom


def test_a_tilted_text_has_a_tilted_box():
    y, x = np.indices((H, W))
    turned = np.abs((x - 48) * 0.5 + (y - 32) * 0.866) < 6
    (found,) = rectangles(turned & (np.abs((x - 48) * 0.866 - (y - 32) * 0.5) < 30))
    assert found.size == pytest.approx((11, 59), abs=1.5) or found.size == pytest.approx((59, 11), abs=1.5)
    long = np.ptp(found.corners, axis=0)
    assert long == pytest.approx((59 * 0.866 + 11 * 0.5, 59 * 0.5 + 11 * 0.866), abs=2)
    assert np.allclose(found.grown(3).size, np.add(found.size, 6))


@pytest.mark.parametrize(("target", "bright"), [("detection:0", FIRST), ("detection:1", SECOND)])
def test_heat_lies_on_the_text_that_is_asked_for(target, bright):
    explained = analyzer.explain(detector(), BOTH, "layer-cam", target)
    heat, (left, top, right, bottom) = explained.heatmap[0], bright
    assert explained.layer == "merged" and heat.sum() > 0
    assert heat[top - 4 : bottom + 4, left - 4 : right + 4].sum() > 0.99 * heat.sum()
    assert explained.value[0] == pytest.approx(7.0 if bright is FIRST else 4.6, abs=1e-3)  # the mean logit


def test_all_text_is_explained_by_default_and_exported(tmp_path):
    made = detector(size=("h", "w"))
    explained = analyzer.explain(made, BOTH, "layer-cam")
    heat = explained.heatmap[0]
    for left, top, right, bottom in (FIRST, SECOND):
        assert heat[top:bottom, left:right].mean() > 0.5
    analyzer.export(made, tmp_path / "m.onnx", "layer-cam")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for x, right in ((BOTH, heat), (picture(), np.zeros((H, W)))):
        (found,) = session.run(["heatmap"], {"x": x})
        assert np.allclose(found[0], right, atol=1e-5)
    with pytest.raises(InputError, match="known only once the model has run"):
        analyzer.export(made, tmp_path / "n.onnx", "layer-cam", "detection:0")


def test_words():
    made = detector()
    task, found = task_of(made), said(made, BOTH)
    assert len(task.resolve("all", found)) == 2 and task.resolve("nonsense", found) is None
    with pytest.raises(NotFoundError, match="detects 2"):
        task.resolve("detection:2", found)
    with pytest.raises(InputError, match="no simple expression"):
        task.resolve("detection:0.left", found)
    assert task.agreement(found, found).value == 1
    assert not task.agreement(found, said(made, picture(FIRST))).agrees


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(detector(upsampled="Resize"), id="enlarged by Resize"),
        pytest.param(detector(pyramid=2), id="two maps merged"),
    ],
)
def test_other_maps_of_one_channel_are_masks(made):
    assert task_of(made).kind == "segmentation"
    declared = task_of(made, task="detection", decode="db")
    assert (
        isinstance(declared, TextMap)
        and "TOML" in declared.evidence
        and len(declared.predictions(said(made, BOTH))) == 2
    )
    assert task_of(detector(), task="segmentation").kind == "segmentation"


def test_lines_reach_as_far_as_their_map_says():
    """(N, 3, h, w): the logit of a line's core, and how many pixels it reaches up and down from there."""
    weights: dict[str, Any] = {
        "core": np.array([4, 4, 4], np.float32).reshape(1, 3, 1, 1),
        "nothing": np.zeros((2, 3, 1, 1), np.float32),
        "low": np.array([-5], np.float32),
        "far": np.log(np.expm1(np.array([3.0, 4.0], np.float32))),
        "two": np.array(2.0, np.float32),
    }
    nodes = [
        node("AveragePool", ["x"], ["map"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["map", "core", "low"], ["logits"]),
        node("Conv", ["map", "nothing", "far"], ["ends"]),
        node("Softplus", ["ends"], ["positive"]),
        node("Mul", ["positive", "two"], ["pixels"]),
        node("Concat", ["logits", "pixels"], ["out"], axis=1),
    ]
    made = model(nodes, {"x": [1, 3, H, W]}, {"out": [1, 3, H // 2, W // 2]}, weights)
    task, x = task_of(made), picture(FIRST)
    assert isinstance(task, TextMap) and task.form == "lines"
    (found,) = task.predictions(said(made, x))
    left, top, right, bottom = FIRST
    middle, height = (top + bottom) / 2, 6 + 8
    assert np.allclose(found.box, [left - 0.15 * height, middle - 6, right + 0.15 * height, middle + 8], atol=1e-4)
    assert analyzer.explain(made, x, "gradient", "detection:0").value[0] == pytest.approx(7)


def test_the_command_lists_and_draws_text(run, place):
    onnx.save(detector(), place / "m.onnx")
    write_png(place / "p.png", np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8)))
    code, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "-t", "all", "-o", "heat.png")
    assert code == 0 and out.count("text") >= 4 and (place / "heat.png").exists()
    code, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--format", "coco")
    first = json.loads(out)["annotations"][0]
    assert (
        code == 0
        and len(first["segmentation"][0]) == 8
        and first["bbox"][0] == pytest.approx(unclipped(*FIRST)[0], abs=0.01)
    )
    code, out, _ = run("inspect", "m.onnx")
    assert "two transposed convolutions" in out and "default layer: merged" in out


@needs_corpus
@pytest.mark.parametrize("name", ["cases/real/ppocrv3_det", "cases/real/ppocrv6_det_tiny", "models/ppocrv3_en_det"])
def test_detectors_of_text_are_recognised(name):
    explainer = Explainer(CORPUS / f"{name}.onnx")
    task = task_for(explainer, Question(), explainer.feeds(np.zeros((1, 3, 64, 64), np.float32)))
    assert isinstance(task, TextMap) and task.form == "db"
