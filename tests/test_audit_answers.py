"""Audits of detectors, segmenters, text and embeddings, and which checks do not apply to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import analyzer
from analyzer.images import write_png
from analyzer.metrics.detections import Detections
from analyzer.metrics.text import edit_distance, text_similarity
from analyzer.tasks import Task
from analyzer.tasks.base import Prediction
from analyzer.tasks.detection.boxed import Boxed
from analyzer.validation.answers import Found, Masks, answers_of, shrunk
from analyzer.validation.checks import CHECKS, CLASSES, DETECTIONS, EMBEDDINGS, MASKS, TEXTS, why_not
from tests.models import model, node

ROOT = Path(__file__).resolve().parents[1]
PICTURES = sorted((ROOT / "examples").glob("digits_*.png"))
SPACE = (2, 3)


def picture(y: int, x: int, side: int = 20) -> np.ndarray:
    array = np.zeros((1, 1, 64, 64), np.float32)
    array[..., y : y + side, x : x + side] = 1
    return array


@dataclass(frozen=True)
class Boxes(Boxed):
    """Its answers are detections."""

    @property
    def threshold(self) -> float:
        return 0.5

    def judged(self, output):
        return output

    def predictions(self, answer, labels=None, limit=None):
        boxes = zip(answer.boxes.tolist(), answer.scores.tolist(), strict=True)
        return [Prediction(f"detection:{n}", "it", score, 0, n, tuple(box)) for n, (box, score) in enumerate(boxes)]


def found(boxes, scores=None) -> Detections:
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), 0.9) if scores is None else np.array(scores), np.zeros(len(boxes)))


def bright(array: np.ndarray) -> Detections:
    """The box around what is bright."""
    rows, columns = np.nonzero(array[0, 0] > 0.5)
    return found([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def steady(read, array=None) -> dict[str, float]:
    array = picture(20, 30) if array is None else array
    task = Boxes.__new__(Boxes)  # no output of a graph is read
    return Found(task, read, SPACE).steady(read(array), array)


def disturbed(read) -> dict[str, list[Prediction]]:
    array = picture(20, 30)
    return Found(Boxes.__new__(Boxes), read, SPACE).disturbed(read(array), array)


def test_detections_of_a_moved_picture_are_drawn_where_they_were():
    shown = disturbed(bright)
    assert [words.partition(": ")[2] for words in shown] == ["0% missed", "0% missed"]
    for found_again in shown.values():
        assert np.allclose(found_again[0].box, [30, 20, 50, 40], atol=1)


def test_the_move_by_which_most_is_missed_is_drawn():
    def blind_on_the_right(array):
        return found([]) if bright(array).boxes[0, 0] > 32 else bright(array)

    assert disturbed(blind_on_the_right)["4 pixels right: 100% missed"] == []
    assert "4 pixels up: 100% missed" in disturbed(lambda a: found([]) if bright(a).boxes[0, 1] < 18 else bright(a))


def test_a_detector_that_follows_the_picture_misses_nothing():
    assert steady(bright) == {"missed": 0, "doubled": 0, "missed_when_smaller": 0}


def test_boxes_that_stay_where_they_are_are_missed():
    """Of 10-pixel boxes that should have moved by 4, the IoU is 6 / 14; of 40-pixel ones 36 / 44."""
    assert steady(lambda _: found([20, 20, 30, 30]))["missed"] == 1
    assert steady(lambda _: found([10, 10, 50, 50]))["missed"] == 0


def test_what_appears_beside_a_detection_is_doubled():
    def twice(array):
        (x0, y0, x1, y1), moved = bright(array).boxes[0], not np.array_equal(array, picture(20, 30))
        return found([[x0, y0, x1, y1], [x0 + 5, y0, x1 + 5, y1]] if moved else [x0, y0, x1, y1])

    assert steady(twice) | {"missed_when_smaller": 0} == {"missed": 0, "doubled": 1, "missed_when_smaller": 0}


def test_a_partner_may_be_half_as_sure():
    def unsure(score):
        def read(array):
            first = np.array_equal(array, picture(20, 30))
            return found(bright(array).boxes, [0.9 if first else score])

        return read

    assert steady(unsure(0.3))["missed"] == 0
    left = Found(Boxes.__new__(Boxes), unsure(0.3), SPACE).left
    assert left(found([0, 0, 9, 9]), found([0, 0, 9, 9], [0.3])) == pytest.approx(0.3)
    assert left(found([0, 0, 9, 9]), found([20, 0, 29, 9])) == 0 == left(found([0, 0, 9, 9]), found([]))


def test_the_smaller_picture_is_in_the_corner():
    array = picture(20, 30)
    small = shrunk(array, SPACE)
    assert small.shape == array.shape and small.dtype == array.dtype
    np.testing.assert_allclose(bright(small).boxes[0], [24, 16, 40, 32], atol=1)
    np.testing.assert_allclose(small[0, 0, 60], array.mean())
    np.testing.assert_array_equal(shrunk(np.moveaxis(array, 1, 3), (1, 2)), np.moveaxis(small, 1, 3))


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "ab", 2), ("ab", "ab", 0)]
)
def test_known_edit_distances(a, b, distance):
    """Textbook examples."""
    assert edit_distance(a, b) == distance == edit_distance(b, a)
    assert text_similarity(a, b) == 1 - distance / max(len(a), len(b))


# ---- Whole audits ----


def by_check(report) -> dict[str, dict]:
    return {row["check"]: row for row in report["checks"]}


def audited(name: str, pictures=PICTURES, **options):
    done = analyzer.audit(ROOT / "models" / f"{name}.onnx", pictures, **options)
    return done, by_check(done.report)


def test_a_detector():
    done, checks = audited("digits_detector")
    assert done.findings == [] and done.report["identity"]["method"] == "layer-cam"
    assert checks["own_region"]["value"] > 2 and checks["missed"]["value"] <= 0.2 and checks["doubled"]["value"] == 0
    assert checks["insertion"]["value"] > checks["insertion_random"]["value"]
    assert checks["follows_shift"]["value"] > 0.8 and "declared" in done.report["contract"]
    assert "IoU of at least 0.5" in checks["deletion"]["definition"]


def test_a_detector_that_finds_nothing(tmp_path):
    write_png(tmp_path / "p.png", np.full((96, 96, 3), 128, np.uint8))
    done, checks = audited("digits_detector", [tmp_path / "p.png"])
    assert {f["code"] for f in done.findings} >= {"no-answer"}
    assert checks["missed"]["why"] == "no picture has a value" and checks["missed"]["applies"]
    assert done.report["layers"]  # dead channels are counted all the same


def test_a_segmenter():
    done, checks = audited("digits_segmenter", probes=2)
    assert done.findings == [] and checks["own_region"]["value"] > 2 and checks["answer_kept"]["value"] > 0.8


def test_a_segmenter_that_follows_the_picture_keeps_its_mask():
    """A 1×1 convolution: away from the border, nothing of the mask changes when the picture moves."""
    weights = {"w": np.array([[1.0], [-1.0]], np.float32).reshape(2, 1, 1, 1), "b": np.array([0, 1], np.float32)}
    file = model([node("Conv", ["x", "w", "b"], ["y"])], {"x": [1, 1, 64, 64]}, {"y": [1, 2, 64, 64]}, weights)
    done = analyzer.audit(
        file, [(picture(20, 30)[0, 0, :, :, None] * 255).astype(np.uint8).repeat(3, 2)], preprocess={"preset": "0-1"}
    )
    assert done.report["identity"]["answers"] == MASKS and done.report["summary"]["answer_kept"] == 1


def test_a_text():
    done, checks = audited("digits_reader", [ROOT / "examples" / "line.png"])
    assert done.findings == [] and checks["answer_kept"]["value"] > 0.8 and checks["random_head"]["value"] < 0.7
    assert done.report["rows"][0]["top"].isdigit() and checks["border"]["why"].startswith("a line of text")


def test_an_embedding():
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("LpNormalization", ["f"], ["embedding"], axis=1),
    ]
    weights = {"w": rng.standard_normal((16, 3, 3, 3)).astype(np.float32)}
    file = model(nodes, {"x": [1, 3, 48, 48]}, {"embedding": [1, 16]}, weights)
    done = analyzer.audit(file, PICTURES[:2], preprocess={"preset": "0-1"})
    checks = by_check(done.report)
    assert done.report["identity"]["answers"] == EMBEDDINGS
    assert checks["answer_kept"]["value"] > 0.95 and "border" in done.report["summary"]
    assert checks["confidence"] | {"why": "a vector has no confidence", "applies": False} == checks["confidence"]


def test_every_check_applies_to_some_answers():
    kinds = (CLASSES, DETECTIONS, MASKS, TEXTS, EMBEDDINGS)
    for check in CHECKS:
        assert any(not why_not(check.name, kind) for kind in kinds), check.name


def test_a_task_without_rules_is_judged_by_nothing():
    answers = answers_of(Task.__new__(Task), bright, SPACE)
    assert type(answers).__name__ == "Answers" and answers.left(1, 2) is None and answers.steady(1, picture(0, 0)) == {}
    assert not isinstance(answers, Masks)
