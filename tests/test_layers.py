"""Which tensors are feature maps, and which of them is taken where the user names none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from analyzer.attribution import Explainer
from analyzer.attribution.targets import find_scores
from analyzer.graph.query import default_layer, feature_maps
from tests.models import model, node


def detector(size: int | str = "size", levels: int = 2, bins: int = 5) -> ModelProto:
    """A backbone and a head per level; box sides are expectations over `bins`, taken by a fixed 1×1 convolution.

    As YOLOv8 is exported with dynamic axes: each level is flattened by what `Shape` says, and the finest level's shape
    makes the anchors that all boxes are added to.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3), np.float32),
        "bins": np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1),
        "sides": np.array([0, 4, bins, -1], np.int64),
        "boxes": np.array([0, 4, -1], np.int64),
        "flat": np.array([1, 4 * bins, -1], np.int64),
        "zero": np.zeros(1, np.int64),
        "one": np.ones(1, np.int64),
    }
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["trunk"])]
    for i in range(levels):
        weights[f"w{i}"] = rng.standard_normal((4 * bins, 6, 3, 3), np.float32) * 0.2
        nodes += [
            node("Conv", ["trunk", f"w{i}"], [f"h{i}"], strides=[2**i] * 2, pads=[1] * 4),
            node("Reshape", [f"h{i}", "flat"], [f"f{i}"]),
        ]
    nodes += [
        node("Concat", [f"f{i}" for i in range(levels)], ["all"], axis=2),
        node("Reshape", ["all", "sides"], ["split"]),
        node("Transpose", ["split"], ["binned"], perm=[0, 2, 1, 3]),
        node("Softmax", ["binned"], ["p"], axis=1),
        node("Conv", ["p", "bins"], ["expected"]),
        node("Reshape", ["expected", "boxes"], ["distances"]),
        node("Shape", ["h0"], ["shape"]),
        node("Slice", ["shape", "zero", "one", "zero"], ["rows"]),
        node("Cast", ["rows"], ["anchor"], to=1),
        node("Add", ["distances", "anchor"], ["y"]),
    ]
    return model(nodes, {"x": ["batch", 3, size, size]}, {"y": ["batch", 4, None]}, weights)


@pytest.mark.parametrize("size", [16, "size"])
def test_a_detector_with_expected_box_sides(size):
    """The sides of all boxes, 4 × 320, are no picture, and a level's size does not carry its evidence."""
    explainer = Explainer(detector(size))
    for sizes in ({}, {"x": (1, 3, 16, 16)}):
        graph = explainer.graph(sizes)
        assert "expected" not in {m.name for m in feature_maps(graph)}
        assert default_layer(graph, find_scores(graph).logits).name == "trunk"


def tokens(unrolled: bool) -> ModelProto:
    """A batch norm over 4 × 4 tokens with the batch merged in front, as LeViT's; or tokens in another order."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 2, 2), np.float32),
        "v": rng.standard_normal((6, 5), np.float32),
        "all": np.array([1, 6, 16], np.int64),
        "merged": np.array([16, 5], np.int64),
        "apart": np.array([1, 16, 5], np.int64),
        "windows": np.array([1, 2, 2, 2, 2, 5], np.int64),
        **{name: np.ones(5, np.float32) for name in ("gain", "bias", "mean", "var")},
    }
    nodes = [
        node("Conv", ["x", "w"], ["patches"], strides=[2, 2]),
        node("Reshape", ["patches", "all"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "v"], ["wide"]),
    ]
    if unrolled:
        nodes += [
            node("Reshape", ["wide", "windows"], ["split"]),
            node("Transpose", ["split"], ["turned"], perm=[0, 1, 3, 2, 4, 5]),
            node("Reshape", ["turned", "apart"], ["last"]),
        ]
    else:
        nodes += [
            node("Reshape", ["wide", "merged"], ["rows"]),
            node("BatchNormalization", ["rows", "gain", "bias", "mean", "var"], ["normal"]),
            node("Reshape", ["normal", "apart"], ["last"]),
        ]
    nodes += [node("Relu", ["last"], ["r"]), node("ReduceMean", ["r"], ["y"], axes=[1], keepdims=0)]
    return model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5]}, weights)


@pytest.mark.parametrize("unrolled", [False, True])
def test_tokens_are_found_again_behind_a_merged_batch(unrolled):
    graph = Explainer(tokens(unrolled)).graph({})
    assert default_layer(graph, find_scores(graph).logits).name == ("wide" if unrolled else "r")
