"""Exports of several frameworks against references that the source framework's own autodiff computed."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from analyzer import append_vjp
from analyzer.attribution import Explainer
from analyzer.runtime import Session
from tests.corpus import EXPORTS, needs_corpus

CAMS = {"grad-cam": "gradcam", "grad-cam++": "gradcampp", "layer-cam": "layercam", "hires-cam": "hirescam"}


@functools.cache
def explainer(path: Path) -> Explainer:
    return Explainer(path)


@functools.cache
def reference(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as stored:
        return dict(stored)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    norm = np.linalg.norm(expected.astype(np.float64))
    return float(np.linalg.norm(found.astype(np.float64) - expected) / max(norm, 1e-30))


def tolerance(stored: dict[str, np.ndarray], key: str) -> float:
    """1e-4, or ten times the source framework's own float32-against-float64 distance where that is larger."""
    noise = float(stored.get(f"{key}_ref64_l2", 0.0))
    return max(1e-4, 10 * noise)


pytestmark = needs_corpus
classifiers = [p for p in EXPORTS if "seed" not in np.load(p.with_suffix(".npz")).files]
others = [p for p in EXPORTS if p not in classifiers]


@pytest.mark.parametrize("path", classifiers, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("method", "key"),
    [("gradient", "input_grad"), ("guided-backprop", "guided_input_grad"), ("deconvnet", "deconv_input_grad")],
)
def test_gradients_of_the_image(path, method, key):
    stored = reference(path)
    if key not in stored:
        pytest.skip("not defined for this network: it has no ReLU")
    found = explainer(path).explain(stored["input"], method, int(stored["class_idx"]))
    assert distance(found.raw, stored[key]) <= tolerance(stored, "input_grad")
    assert np.allclose(found.scores, stored["logits"].reshape(found.scores.shape), atol=1e-4)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("layer", ["feat", "mid"])
@pytest.mark.parametrize("path", classifiers, ids=lambda p: p.stem)
def test_maps(path, layer, method):
    stored = reference(path)
    name, expected = str(stored[f"{layer}_tensors"][0]), stored[f"{layer}_{CAMS[method]}"]
    found = explainer(path).explain(stored["input"], method, int(stored["class_idx"]), name)
    # References are stored before or after ReLU; ReLU of either is the map.
    expected = np.maximum(expected.reshape(found.raw.shape), 0)
    if not expected.any():
        assert np.abs(found.raw).max() < 1e-6
        return
    # Where the channels' products cancel (they do behind a LayerNorm), the map is what rounding left of them.
    rounding = 1e-6 * np.linalg.norm(stored[layer]) * np.linalg.norm(stored[f"{layer}_grad"])
    if np.linalg.norm(found.raw - expected) > rounding:
        assert distance(found.raw, expected) <= tolerance(stored, f"{layer}_grad")


@pytest.mark.parametrize("path", EXPORTS, ids=lambda p: p.stem)
def test_gradients_of_feature_maps(path):
    stored = reference(path)
    if "feat_tensors" not in stored or not len(stored["feat_tensors"]):
        pytest.skip("no tensor of the file holds the feature map")
    output, image = str(stored["onnx_output"]), str(stored["onnx_input"])
    names = [str(stored[f"{k}_tensors"][0]) for k in ("feat", "mid") if len(stored[f"{k}_tensors"])]
    result = append_vjp(path, [output], [image, *names])
    seed = stored["seed"] if "seed" in stored else _one_hot(stored)
    found = Session(result.model).run({image: stored["input"], result.cotangents[output]: seed})
    assert distance(found[result.gradients[image]], stored["input_grad"]) <= tolerance(stored, "input_grad")
    for key, name in zip(("feat", "mid"), names, strict=False):
        gradient = _as_stored(found[result.gradients[name]], stored, key)
        assert distance(gradient, stored[f"{key}_grad"]) <= tolerance(stored, f"{key}_grad")


def _one_hot(stored: dict[str, np.ndarray]) -> np.ndarray:
    seed = np.zeros_like(stored["logits"])
    seed.reshape(len(seed), -1)[:, int(stored["class_idx"])] = 1
    return seed


def _as_stored(gradient: np.ndarray, stored: dict[str, np.ndarray], key: str) -> np.ndarray:
    """The file may hold the map with its axes in another order than the framework."""
    expected = stored[f"{key}_grad"]
    if str(stored[f"{key}_perms"][0]) == "id" and gradient.shape == expected.shape:
        return gradient
    return np.transpose(gradient, (0, 2, 3, 1)) if gradient.ndim == 4 else gradient
