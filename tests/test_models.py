"""The shipped models and example pictures: intact, small, described by cards, and right."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer import Explainer
from analyzer.images import decode, model_card
from analyzer.images.card import ModelCard
from analyzer.tasks import Declared

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted((ROOT / "models").glob("*.onnx"))
SEGMENTER, READER = (ROOT / "models" / f"digits_{name}.onnx" for name in ("segmenter", "reader"))
CLASSIFIERS = [path for path in MODELS if path.stem.startswith(("digits_cnn", "digits_vit"))]
TABLES = tomllib.loads((ROOT / "models" / "models.toml").read_text(encoding="utf-8"))
BOXES = json.loads((ROOT / "examples" / "boxes.json").read_text(encoding="utf-8"))
LINE, TEXT = ROOT / "examples" / "line.png", "052263"
each_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
each_classifier = pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)


def card_of(path: Path) -> ModelCard:
    return model_card(path, input_shape=["batch", 3, 96, 96], input_dtype=np.float32)


def test_models_and_tables_are_the_same_set() -> None:
    assert {path.name for path in MODELS} == set(TABLES)


@each_model
def test_a_file_is_the_one_measured_and_small(path: Path) -> None:
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == TABLES[path.name]["sha256"]
    assert len(data) < (500_000 if path in (SEGMENTER, READER) else 1_000_000)
    assert not list(path.parent.glob("*.data"))


@each_classifier
def test_a_card_names_ten_labels_and_a_tensor_of_the_file(path: Path) -> None:
    card = card_of(path)
    assert card.labels is not None and len(card.labels) == 10
    assert card.preprocess.size == (96, 96) and "guessed" not in card.source
    assert card.default_layer in {name for node in onnx.load(path).graph.node for name in node.output}


@each_classifier
def test_predictions_on_the_example_pictures(path: Path) -> None:
    card = card_of(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = [card.preprocess.apply(decode(ROOT / "examples" / name))[0] for name in BOXES]
    (probabilities,) = session.run(["probabilities"], {"image": np.concatenate(images)})
    for row, boxes in zip(probabilities, BOXES.values(), strict=True):
        assert {card.label(k) for k in np.flatnonzero(row > 0.5)} == set(boxes)


@pytest.mark.parametrize(
    ("path", "kind", "first"), [(SEGMENTER, "segmentation", "background"), (READER, "text recognition", "blank")]
)
def test_a_card_says_the_task_that_is_guessed_too(path: Path, kind: str, first: str) -> None:
    card = model_card(path)
    assert card.labels is not None and len(card.labels) == 11 and card.labels[0] == first
    assert card.task == kind and "guessed" not in card.source
    image, _ = card.preprocess.apply(decode(LINE))
    assert Explainer(path).explain(image).task.kind == kind


def test_the_segmenter_finds_the_digits_of_the_example_pictures() -> None:
    """The bounding box of a digit's pixels, and the box that is known: their mean intersection over union."""
    card = model_card(SEGMENTER)
    session = ort.InferenceSession(SEGMENTER, providers=["CPUExecutionProvider"])
    ious = []
    for name, boxes in BOXES.items():
        image, placement = card.preprocess.apply(decode(ROOT / "examples" / name))
        classes = session.run(["logits"], {"image": image})[0][0].argmax(axis=0)
        for label, box in boxes.items():
            ious.append(iou_of_bounds(classes == card.labels.index(label), placement.box_to_input(box)))
    print([round(iou, 2) for iou in ious])
    assert np.mean(ious) > 0.6


def iou_of_bounds(pixels: np.ndarray, box: np.ndarray) -> float:
    """Of the bounding box of the pixels that are True with a box (x0, y0, x1, y1); 0 where no pixel is."""
    if not pixels.any():
        return 0.0
    ys, xs = np.nonzero(pixels)
    a, b = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]), np.asarray(box)
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner))


def test_the_reader_reads_the_line_and_every_character_has_its_place() -> None:
    card, explainer = model_card(READER), Explainer(READER)
    image, _ = card.preprocess.apply(decode(LINE))
    found = explainer.explain(image, "layer-cam", target="all", labels=card.labels)
    assert "".join(name.split()[1] for name in found.names) == TEXT
    places = [int(heat.sum(axis=0).argmax()) for heat in found.heatmap]
    assert places == sorted(set(places))


def test_example_pictures_and_boxes_go_together() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.png")} == {*BOXES, LINE.name}
    for name, boxes in BOXES.items():
        height, width = decode(ROOT / "examples" / name).shape[:2]
        for x0, y0, x1, y1 in boxes.values():
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


@each_model
@pytest.mark.parametrize("picture", sorted((ROOT / "examples").glob("*.png")), ids=lambda path: path.stem)
def test_every_model_explains_every_example(path: Path, picture: Path) -> None:
    """Or says that there is nothing to explain."""
    card = model_card(path)
    batch, _ = card.preprocess.apply(decode(picture))
    explainer = Explainer(path)
    explainer.declared = Declared.of(card)
    found = explainer.explain(batch, labels=card.labels)
    assert np.isfinite(found.heatmap).all()
    assert found.heatmap.any() or (not len(found.heatmap) and found.task.nothing)
