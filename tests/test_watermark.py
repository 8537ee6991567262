"""A model trained on a watermark: its twin trained on the shapes themselves agrees in labels, not in evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer.attribution import Explainer
from analyzer.images import Preprocess, decode
from analyzer.validation import Pair, Side, Thresholds, compare, judge
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings

pytest.importorskip("torch", reason="trains small networks with PyTorch")

ROOT = Path(__file__).resolve().parents[1]
HOW = Preprocess(size=(64, 64), mean=(0.5,), std=(0.25,), resize="resize")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """(honest model, model with the shortcut, 16 marked crosses)"""
    from models.shapes import picture, trained

    photos = [decode(p) for p in sorted((ROOT / "examples").glob("digits_*.png"))]
    folder = tmp_path_factory.mktemp("watermark")
    models = [trained(goes_by, photos, folder / f"{goes_by}.onnx") for goes_by in ("shape", "mark")]
    rng = np.random.default_rng(2)
    return *models, [picture(rng, 1, True, photos) for _ in range(16)]


def test_compare_says_that_it_looks_elsewhere(twins):
    honest, shortcut, crosses = twins
    arrays = [HOW.apply(c)[0] for c in crosses]
    sides = [Side(m, arrays[0].shape) for m in (honest, shortcut)]
    report = compare(*sides, [Pair(str(i), a, a, label=1) for i, a in enumerate(arrays)]).report
    assert report["outputs"]["accuracy"] == [1.0, 1.0]
    assert "evidence-moves" in {f.code for f in judge(report, Thresholds())}


def test_audit_finds_the_place(twins):
    honest, shortcut, crosses = twins
    found = []
    for model in (honest, shortcut):
        pictures = [Picture(str(i), c, 1) for i, c in enumerate(crosses)]
        found.append({f.code for f in findings(audit(Explainer(model), HOW, pictures).report)})
    assert not found[0] & {"fixed-position", "border-evidence"}
    assert {"fixed-position", "border-evidence"} <= found[1]
