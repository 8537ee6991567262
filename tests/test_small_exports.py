"""Exported networks, small enough to lie here, against torch.autograd in float64 (tests/exports/make.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from analyzer import explain
from analyzer.attribution.result import Attribution

FOLDER = Path(__file__).parent / "exports"
FILES = sorted(FOLDER.glob("*.onnx"))
TOLERANCE = 2e-4  # relative L2; float32 against float64


def stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as file:
        return dict(file)


def explained(path: Path, known: dict[str, np.ndarray], method: str, layer: str = "auto") -> Attribution:
    return explain(path, known["image"], method, int(known["target"]), layer)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    size = float(np.linalg.norm(expected))
    assert size > 0 and float(np.linalg.norm(found - expected)) <= TOLERANCE * size


def test_there_are_a_dozen_each_small_with_references() -> None:
    assert len(FILES) >= 12
    assert all(file.stat().st_size < 100_000 and file.with_suffix(".npz").exists() for file in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_scores(path: Path) -> None:
    known = stored(path)
    (scores,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": known["image"]})
    assert np.allclose(scores, known["scores"], rtol=1e-3, atol=1e-5)
    found = explain(path, known["image"], "gradient")
    assert np.allclose(found.scores, known["scores"], rtol=1e-3, atol=1e-5)
    assert found.target.tolist() == [int(known["target"])]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_gradient(path: Path) -> None:
    known = stored(path)
    assert_near(explained(path, known, "gradient").raw, known["gradient"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_grad_cam(path: Path) -> None:
    known = stored(path)
    assert_near(explained(path, known, "grad-cam", str(known["layer"])).raw, known["grad_cam"])


@pytest.mark.parametrize("path", [f for f in FILES if "guided" in stored(f)], ids=lambda p: p.stem)
def test_guided_backprop(path: Path) -> None:
    known = stored(path)
    assert_near(explained(path, known, "guided-backprop").raw, known["guided"])
