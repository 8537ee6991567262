"""Curves of features and probability: against what onnxruntime says of the same warped pictures."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer import features
from analyzer.analysis.scores import Quantisation
from analyzer.attribution import Explainer
from analyzer.attribution.invariance import TRANSFORMS, invariance
from analyzer.attribution.probes import Probe
from analyzer.errors import InputError, NotFoundError
from analyzer.images import Preprocess, decode, write_png
from analyzer.images.plot import Chart, plot
from analyzer.images.warp import Warp
from tests.models import node, small_cnn

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8)
HOW = Preprocess(size=(12, 12))


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_distances_and_probabilities(softmax: bool, transform: str) -> None:
    network = small_cnn(softmax=softmax)
    (curve,) = invariance(Explainer(network), {"a": PICTURE}, ["r1", "r2"], HOW, {"a": 2}, [transform], 50)
    still = features(network, HOW.apply(PICTURE)[0], ["r1", "r2"])
    for i in (0, 5, len(curve.values) - 1):
        warp = Warp.affine((12, 12), **TRANSFORMS[transform].arguments(float(curve.values[i])))
        tensor = HOW.apply(warp.apply(PICTURE, 50))[0]
        moved = features(network, tensor, ["r1", "r2", "logits"])
        for layer in ("r1", "r2"):
            distance = np.sqrt(((moved[layer] - still[layer]) ** 2).sum())
            assert curve.distances[layer][i] == pytest.approx(distance, rel=1e-4, abs=1e-4)
        exponential = np.exp(moved["logits"][0] - moved["logits"][0].max())
        assert curve.probability[i] == pytest.approx(exponential[2] / exponential.sum(), rel=1e-4)
    identity = np.argmin(np.abs(curve.values - (1 if transform == "scaling" else 0)))
    assert curve.distances["r2"][identity] == pytest.approx(0, abs=1e-4)


def test_the_first_choice_is_the_class_unless_told() -> None:
    (curve,) = invariance(Explainer(small_cnn()), {"a": PICTURE}, ["r2"], HOW, transforms=["rotation"])
    assert curve.target == Explainer(small_cnn()).explain(HOW.apply(PICTURE)[0], "gradient").target[0]
    with pytest.raises(NotFoundError, match="rotation"):
        invariance(Explainer(small_cnn()), {"a": PICTURE}, ["r2"], HOW, transforms=["rotate"])
    with pytest.raises(InputError, match="class 9"):
        invariance(Explainer(small_cnn()), {"a": PICTURE}, ["r2"], HOW, {"a": 9})


@pytest.mark.parametrize("tail", ["logits", "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("quantized", [False, True])
def test_scores_become_probabilities(tail: str, quantized: bool) -> None:
    """Of logits, of their softmax and its logarithm, in float and in 8 bits: those of the float network."""
    network = small_cnn(softmax=tail != "logits")
    if tail == "LogSoftmax":
        network.graph.node[-1].op_type = tail
    truth = features(small_cnn(), HOW.apply(PICTURE)[0], ["probabilities"])["probabilities"]
    if quantized:
        low = {"logits": -8.0, "LogSoftmax": -16.0}.get(tail, 0.0)
        network = quantized_output(network, low, 8.0 if tail == "logits" else 1.0)
    found = Probe(Explainer(network), ["r2"], HOW).run([PICTURE]).probabilities
    np.testing.assert_allclose(found, truth, atol=0.03 if quantized else 1e-5)


def quantized_output(network: onnx.ModelProto, low: float, high: float) -> onnx.ModelProto:
    """Its only output as uint8, over a range."""
    out, step = network.graph.output[0], (high - low) / 255
    network.graph.initializer.extend(
        [numpy_helper.from_array(np.array(step, np.float32), "step"),
         numpy_helper.from_array(np.array(round(-low / step), np.uint8), "zero")]
    )  # fmt: skip
    network.graph.node.append(node("QuantizeLinear", [out.name, "step", "zero"], ["q"]))
    made = onnx.helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, [1, 4])
    network.graph.output.pop()
    network.graph.output.append(made)
    return network


def test_a_quantized_distribution_of_unknown_origin_stays() -> None:
    """Rounded to 1/256, a thousand probabilities need not sum to 1; logits of such a model do not look like it."""
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.full(1000, 0.05), 4)
    output = Probe(Explainer(small_cnn(softmax=False)), ["r2"], HOW).task
    task = replace(output, quantisation=Quantisation(0, 1 / 256))
    rounded = np.rint(256 * scores) / 256
    assert np.abs(rounded.sum(axis=1) - 1).max() > 0.01
    assert (task.probabilities(rounded) == rounded).all()
    assert (task.probabilities(100 * rounded) != 100 * rounded).any()


def test_a_plot_has_a_line_per_series() -> None:
    series = {"rising": ([0, 1, 2], [0, 1, 2]), "broken": ([0, 1, 2], [2, np.nan, 0])}
    empty = plot([Chart("t", "x", "y", {"rising": ([0, 2], [np.nan, np.nan])}, 0, 2)], 1)
    drawn = plot([Chart("t", "x", "y", series)] * 2, 2, "title")
    assert drawn.shape[1] > empty.shape[1] and drawn.dtype == np.uint8
    blue = (drawn.astype(int) - (29, 120, 200) == 0).all(axis=2)
    assert blue.sum() > 200
    with pytest.raises(InputError):
        plot([], 1)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main

    onnx.save(small_cnn(), tmp_path / "model.onnx")
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8))

    def call(*arguments: str) -> tuple[int, str]:
        command = ["invariance", "model.onnx", "a.png", "b.png", "--size", "12x12", "--preset", "0-1", *arguments]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    code, out = call("-l", "r1", "-l", "r2", "-o", "curves.png", "--format", "json", "-t", "1")
    assert code == 0 and len(json.loads(out)["curves"]) == 6
    assert decode(tmp_path / "curves.png").shape[1] > 900
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert len(rows) == 2 * (21 + 17 + 24) and rows[0]["class"] == "1" and float(rows[0]["distance r1"]) >= 0
    assert call("-l", "r1", "-t", "1", "-t", "2", "-t", "3")[0] == 2
