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

from analyzer.images import decode, model_card
from analyzer.images.card import ModelCard

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted((ROOT / "models").glob("*.onnx"))
TABLES = tomllib.loads((ROOT / "models" / "models.toml").read_text(encoding="utf-8"))
BOXES = json.loads((ROOT / "examples" / "boxes.json").read_text(encoding="utf-8"))
each_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def card_of(path: Path) -> ModelCard:
    return model_card(path, input_shape=["batch", 3, 96, 96], input_dtype=np.float32)


def test_models_and_tables_are_the_same_set() -> None:
    assert {path.name for path in MODELS} == set(TABLES)


@each_model
def test_a_file_is_the_one_measured_and_small(path: Path) -> None:
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == TABLES[path.name]["sha256"]
    assert len(data) < 1_000_000
    assert not list(path.parent.glob("*.data"))


@each_model
def test_a_card_names_ten_labels_and_a_tensor_of_the_file(path: Path) -> None:
    card = card_of(path)
    assert card.labels is not None and len(card.labels) == 10
    assert card.preprocess.size == (96, 96) and "guessed" not in card.source
    assert card.default_layer in {name for node in onnx.load(path).graph.node for name in node.output}


@each_model
def test_predictions_on_the_example_pictures(path: Path) -> None:
    card = card_of(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = [card.preprocess.apply(decode(ROOT / "examples" / name))[0] for name in BOXES]
    (probabilities,) = session.run(["probabilities"], {"image": np.concatenate(images)})
    for row, boxes in zip(probabilities, BOXES.values(), strict=True):
        assert {card.label(k) for k in np.flatnonzero(row > 0.5)} == set(boxes)


def test_example_pictures_and_boxes_go_together() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.png")} == set(BOXES)
    for name, boxes in BOXES.items():
        height, width = decode(ROOT / "examples" / name).shape[:2]
        for x0, y0, x1, y1 in boxes.values():
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
