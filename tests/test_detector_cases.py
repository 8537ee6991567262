"""The detectors among the corpus's cases: what they find without a flag, and what a comparison says of their builds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.corpus import CORPUS, needs_corpus

pytestmark = needs_corpus
CASES, IMAGES = CORPUS / "cases", CORPUS / "images"


@pytest.fixture
def place(tmp_path):
    return tmp_path


def result_of(run, model, picture, *flags):
    code, out, err = run("explain", str(CASES / model), str(picture), *flags, "--format", "json")
    assert code == 0, err
    return json.loads(out)["results"][0]


def covers(box, point):
    first, last, point = np.array(box[:2]), np.array(box[2:]), np.array(point)
    return bool((first <= point).all() and (point <= last).all())


def test_what_is_found_is_in_the_pixels_of_the_picture_and_explained(run):
    found = result_of(run, "situations/c04b_rtdetr.onnx", CASES / "situations" / "scene.png", "--preset", "0-1")
    first = found["predictions"][0]
    assert covers(first["box"], found["maps"][0]["maximum"])
    assert all(covers((0, 0, 320, 240), corner) for corner in (first["box"][:2], first["box"][2:]))


@pytest.mark.parametrize(
    ("model", "layer"), [("c04d_det", "feat_8"), ("c26_yolo", "neck"), ("c26_yolo_int8_two_scales", "neck")]
)
def test_detections_are_explained_before_the_output(run, model, layer):
    found = result_of(run, f"situations/{model}.onnx", CASES / "situations" / "scene.png", "--preset", "0-1")
    assert found["predictions"] and found["maps"][0]["layer"].startswith(layer)


@pytest.mark.parametrize(
    ("reference", "candidate", "code", "word"),
    [
        ("c04d_det", "c04d_det_boxes_broken", 1, "boxes"),
        ("c04d_det", "c04d_det_boxes_saturated", 1, "boxes"),
        ("c04d_det", "c04d_det_boxweights", 1, "boxes"),
        ("c26_yolo", "c26_yolo_int8_two_scales", 0, ""),
        ("c26_yolo", "c26_yolo_int8_one_scale", 1, "score"),
    ],
)
def test_builds_of_detectors(run, reference, candidate, code, word):
    root = CASES / "situations"
    models = (str(root / f"{name}.onnx") for name in (reference, candidate))
    got, out, err = run("compare", *models, str(root / "many"), "--preset", "0-1", "--format", "json")
    assert got == code, err
    assert word in out


def test_a_small_detector_with_queries_explains_what_it_is_sure_of(run):
    labels = ("--labels", str(IMAGES / "coco_classes.txt"))
    found = result_of(run, "real/deimv2_atto_int8.onnx", IMAGES / "coral_grace_hopper.bmp", *labels)
    first = found["predictions"][0]
    assert first["label"] == "tie" and covers(first["box"], found["maps"][0]["maximum"])
