"""Gradients and maps of the shipped models against stored ones of torch.autograd in float64 (models/references.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import analyzer
from analyzer.images import model_card
from analyzer.images.card import ModelCard

ROOT = Path(__file__).resolve().parents[1]
# Relative L2 distance. float32 against float64 differs by some 1e-6; storing rounds by 3e-5.
TOLERANCE = 1e-4
METHODS = {"gradient": "input_gradient", "grad-cam": "grad_cam", "guided-backprop": "guided_backprop"}
STORED = {"digits_cnn": "digits_cnn", "digits_cnn_dynamo": "digits_cnn", "digits_vit": "digits_vit"}


def distance(found: np.ndarray, stored: np.ndarray) -> float:
    """‖found − stored‖ / ‖stored‖"""
    assert found.shape == stored.shape
    return float(np.linalg.norm(found - stored) / np.linalg.norm(stored))


def references(name: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "references" / f"{STORED[name]}.npz") as file:
        return dict(file)


class Case:
    """A model with its card, the stored references and their image."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / "models" / f"{name}.onnx"
        self.card: ModelCard = model_card(self.path)
        self.stored = references(name)
        self.target = int(self.stored["target"])
        self.image, _ = self.card.preprocess.apply(self.stored["pixels"])

    def explain(self, method: str) -> np.ndarray:
        return analyzer.explain(self.path, self.image, method, self.target, self.card.default_layer).raw


@pytest.fixture(params=STORED, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_probabilities(case: Case) -> None:
    session = ort.InferenceSession(case.path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"image": case.image})
    assert np.allclose(found, 1 / (1 + np.exp(-case.stored["logits"])), atol=1e-5)


@pytest.mark.parametrize(("method", "stored"), METHODS.items())
def test_methods(case: Case, method: str, stored: str) -> None:
    if stored not in case.stored:
        pytest.skip(f"no {method} is stored for {case.path.stem}")
    assert distance(case.explain(method), case.stored[stored]) <= TOLERANCE


def test_gradient_at_the_default_layer(case: Case) -> None:
    layer = case.card.default_layer
    logits = next(n.input[0] for n in onnx.load(case.path).graph.node if n.op_type == "Sigmoid")
    vjp = analyzer.append_vjp(case.path, [logits], [layer])
    session = ort.InferenceSession(vjp.model.SerializeToString(), providers=["CPUExecutionProvider"])
    cotangent = np.zeros((1, 10), np.float32)
    cotangent[0, case.target] = 1
    feed = {"image": case.image, vjp.cotangents[logits]: cotangent}
    (found,) = session.run([vjp.gradients[layer]], feed)
    assert distance(found, case.stored["layer_gradient"]) <= TOLERANCE
