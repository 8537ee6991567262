"""Which channels make two Grad-CAMs differ: against the maps of `explain`, and a build with one spoiled channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import analyzer
from analyzer.errors import UnsupportedError
from analyzer.images import decode, model_card
from analyzer.validation import Side
from analyzer.validation.evidence_difference import Terms, contributions, regions

ROOT = Path(__file__).resolve().parents[1]
FLOAT, INT8 = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_cnn_int8.onnx"
EXAMPLES = sorted((ROOT / "examples").glob("digits_*.png"))
SPOILED = 7


def test_the_sum_of_the_terms_is_grad_cam():
    array = model_card(FLOAT).preprocess.apply(decode(EXAMPLES[0]))[0]
    side = Side(FLOAT, array.shape)
    found = analyzer.explain(FLOAT, array, "grad-cam", 3, layer=side.layer)
    np.testing.assert_allclose(np.maximum(Terms(side, side.layer).of(array, 3).sum(0), 0), found.raw[0], atol=1e-5)


def test_contributions_add_up_to_the_difference():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 6, 5, 4))
    difference, parts = contributions(ours, theirs)
    np.testing.assert_allclose(parts.sum(0), difference, atol=1e-12)
    np.testing.assert_allclose(difference, np.maximum(theirs.sum(0), 0) - np.maximum(ours.sum(0), 0), atol=1e-12)


def test_regions_are_where_it_is():
    difference = np.zeros((10, 20))
    difference[2:4, 5:10], difference[7, 0] = 1.0, -0.8
    gained, lost = regions(difference)
    assert gained == {"change": "gained", "box": [0.25, 0.2, 0.5, 0.4], "share": pytest.approx(10 / 10.8)}
    assert lost["change"] == "lost" and lost["box"] == [0, 0.7, 0.05, 0.8]


def spoiled(folder: Path) -> Path:
    """The network with one weight of the head, that of a channel, made larger for every class."""
    proto = onnx.load(FLOAT)
    gemm = next(n for n in proto.graph.node if n.op_type == "Gemm")
    weight = next(t for t in proto.graph.initializer if t.name == gemm.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[:, SPOILED] += 3 * np.abs(values).max()
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, folder / "spoiled.onnx")
    return folder / "spoiled.onnx"


def test_the_spoiled_channel_makes_all_of_the_difference(tmp_path):
    page = tmp_path / "r.html"
    how = {"evidence_difference": True, "method": "grad-cam", "preprocess": model_card(FLOAT).preprocess}
    done = analyzer.compare(FLOAT, spoiled(tmp_path), EXAMPLES, report=page, **how)
    found = done.report["evidence_difference"]
    assert found["channels"][0] == {"channel": SPOILED, "share": pytest.approx(1, abs=1e-3)}
    assert len(found["pictures"]) == len(EXAMPLES) and all(row["regions"] for row in found["pictures"])
    assert f"channels {SPOILED} (100%)" in page.read_text() and "the evidence difference" in page.read_text()


def test_equal_builds_and_quantized_ones():
    how = {"evidence_difference": True, "method": "grad-cam", "preprocess": model_card(FLOAT).preprocess}
    same = analyzer.compare(FLOAT, FLOAT, EXAMPLES[:1], **how).report["evidence_difference"]
    assert same["channels"] == [] and same["pictures"][0]["size"] == 0
    small = analyzer.compare(FLOAT, INT8, EXAMPLES[:1], **how).report["evidence_difference"]
    assert 0 < small["pictures"][0]["size"] < 0.2 and small["candidate"].endswith("DequantizeLinear_Output")


def test_detectors_are_refused():
    detector = ROOT / "models" / "digits_detector.onnx"
    with pytest.raises(UnsupportedError, match="one score per class"):
        analyzer.compare(detector, detector, EXAMPLES[:1], evidence_difference=True)
