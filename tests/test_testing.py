"""The helper for test suites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.testing import assert_same_evidence
from tests.models import small_cnn

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
HOW = {"preset": "0-1", "method": "grad-cam"}


def scaled(factor: float) -> onnx.ModelProto:
    """The network with one weight times a factor."""
    net = small_cnn()
    (weight,) = [t for t in net.graph.initializer if t.name == "w2"]
    array = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return net


def test_a_model_agrees_with_itself():
    done = assert_same_evidence(small_cnn(), small_cnn(), list(PICTURES), **HOW)
    assert done.passed and done.report["pictures"] == 3


def test_what_differs_fails_with_a_line_for_each_finding(tmp_path: Path):
    with pytest.raises(AssertionError) as raised:
        assert_same_evidence(small_cnn(), scaled(-1), list(PICTURES), report=tmp_path / "r.html", **HOW)
    text = str(raised.value)
    assert "weight-differs" in text and text.count("\n- ") == int(text.split()[0]) and "w2" in text
    assert (tmp_path / "r.html").exists()


def test_pictures_that_do_not_settle_a_rate_fail_only_if_asked():
    near = small_cnn(), scaled(1.02), list(PICTURES)  # three equal labels say little of the next
    assert assert_same_evidence(*near, **HOW).inconclusive
    with pytest.raises(AssertionError, match="inconclusive"):
        assert_same_evidence(*near, strict=True, **HOW)
