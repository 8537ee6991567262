"""Kernels: gratings lie in their band, strides fold what subsampling does, weights are those of the file."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest

from analyzer.analysis import filters
from analyzer.analysis.filters import FilterBank, filter_bank
from analyzer.errors import NotFoundError, UnsupportedError
from analyzer.graph import Graph
from analyzer.report.filters import FilterDrawing
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(3)


def bank(weights: np.ndarray, stride: int = 1) -> FilterBank:
    return FilterBank("conv", "y", weights.astype(np.float32), (stride, stride), 1, True)


def grating(frequency: float, angle: float = 0.0, size: int = 15) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    window = np.hanning(size + 2)[1:-1]
    phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
    return (np.cos(phase) * np.outer(window, window))[None, None]


@pytest.mark.parametrize(("frequency", "band"), [(0.0, 0), (0.05, 0), (0.25, 1), (0.45, 2)])
@pytest.mark.parametrize("angle", [0.0, np.pi / 2])
def test_a_grating_lies_in_its_band(frequency: float, band: int, angle: float) -> None:
    bands = bank(grating(frequency, angle)).bands[0]
    assert bands[band] > 0.85 and bands.sum() == pytest.approx(1)


def test_energy_is_that_of_the_kernel() -> None:
    weights = RNG.standard_normal((4, 3, 5, 5))
    found = bank(weights)
    np.testing.assert_allclose(found.power.mean(axis=(1, 2)), (weights**2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.norms**2, (weights**2).sum((1, 2, 3)), rtol=1e-5)


def test_filters_are_transformed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, sizes, transform = RNG.standard_normal((40, 6, 3, 3)), [], np.fft.fft2
    whole = bank(weights)
    expected = whole.power, whole.norms
    monkeypatch.setattr(filters, "CHUNK", 32 * 32 * 6 * 7)
    monkeypatch.setattr(np.fft, "fft2", lambda w, n: sizes.append(len(w)) or transform(w, n))
    chunked = bank(weights)
    np.testing.assert_array_equal(chunked.power, expected[0])
    np.testing.assert_array_equal(chunked.norms, expected[1])
    assert max(sizes) == 7 and sum(sizes) == 40


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_delta_folds_what_subsampling_folds(stride: int) -> None:
    delta = np.zeros((1, 1, 7, 7))
    delta[0, 0, 3, 3] = 1
    points = int((np.abs(np.fft.fftfreq(32)) <= 0.5 / stride).sum())
    assert bank(delta, stride).aliased[0] == pytest.approx(1 - (points / 32) ** 2)
    assert bank(np.ones((1, 1, 12, 12)), stride).aliased[0] < 0.1


def test_dead_and_duplicate_filters() -> None:
    weights = RNG.standard_normal((6, 3, 3, 3))
    weights[1], weights[4], weights[5] = 2 * weights[0], -weights[3], 1e-6
    found = bank(weights)
    assert found.dead.tolist() == [False] * 5 + [True]
    assert {(i, j, round(c)) for i, j, c in found.duplicates} == {(0, 1, 1), (3, 4, -1)}


def test_the_kernels_of_a_file() -> None:
    graph = Graph.read(small_cnn())
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in small_cnn().graph.initializer}
    first, second = filter_bank(graph), filter_bank(graph, "r2")
    np.testing.assert_array_equal(first.weights, weights["w1"])
    np.testing.assert_array_equal(second.weights, weights["w2"])
    assert first.reads_image and not second.reads_image and second.layer == "c2"
    with pytest.raises(NotFoundError):
        filter_bank(graph, "conv9")
    with pytest.raises(UnsupportedError, match="no convolution"):
        filter_bank(graph, "logits")


def test_quantised_kernels_are_dequantised() -> None:
    weights = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    scale = (np.abs(weights).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    stored = np.rint(weights / scale[:, None, None, None]).astype(np.int8)
    nodes = [
        node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
        node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Conv", ["nchw", "w"], ["y"], strides=[2, 2]),
    ]
    given = {"q": stored, "scale": scale, "zero": np.zeros(4, np.int8)}
    found = filter_bank(Graph.read(model(nodes, {"x": [1, 8, 8, 3]}, {"y": [1, 4, 3, 3]}, given)))
    assert np.abs(found.weights - weights).max() <= scale.max() / 2 * 1.001
    assert found.reads_image and found.strides == (2, 2)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main
    from analyzer.images import decode

    onnx.save(small_cnn(), tmp_path / "model.onnx")
    for layer in ("conv1", "conv2"):
        arguments = ["filters", "model.onnx", "-l", layer, "-o", f"{layer}.png", "--format", "json"]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main()
        row = json.loads(capsys.readouterr().out)["layers"][0]
        assert not stopped.value.code and sum(row["bands"]) == pytest.approx(1, abs=1e-3)
        assert decode(tmp_path / f"{layer}.png").std() > 10


def test_filters_are_drawn_by_their_weights() -> None:
    """A filter of one weight is gray but for that pixel, which has the color of its channel; a dead one is hatched."""
    weights = np.zeros((4, 3, 3, 3), np.float32)
    weights[0, 0, 0, 2], weights[1, 2, 1, 1], weights[2, 1, 2, 0] = 1, 3, 2
    of = bank(weights)
    assert FilterDrawing(strongest=True, most=3).picks(of) == [1, 2, 0]
    assert FilterDrawing(chosen=(3, 0)).picks(of) == [3, 0]
    for order, channel in (("RGB", 0), ("BGR", 2)):
        drawn = FilterDrawing(order, chosen=(0,)).picture(of)
        colored = (np.ptp(drawn.astype(int), axis=2) > 100) & (drawn[..., channel] == 255)
        rows, columns = np.nonzero(colored)
        gray = np.nonzero((drawn == 128).all(axis=2))
        assert rows.max() < np.median(gray[0]) and columns.min() > np.median(gray[1])  # the upper right ninth
        assert colored.sum() == pytest.approx((colored.sum() + len(gray[0])) / 9, rel=0.05)
    live, dead = (FilterDrawing(chosen=(i,)).picture(of) for i in (0, 3))
    assert not (dead == 128).all(axis=2).any() and (live == 128).all(axis=2).any()
    with pytest.raises(NotFoundError, match="no filter 4"):
        FilterDrawing(chosen=(4,)).picture(of)


def test_two_models_stand_side_by_side(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main
    from analyzer.images import decode, write_png

    for seed in (0, 1):
        onnx.save(small_cnn(seed=seed), tmp_path / f"{seed}.onnx")
        write_png(tmp_path / f"{seed}.png", RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    widths = {}
    for name, more in (("alone", []), ("both", ["--beside", "1.onnx"]), ("data", ["--beside", "1.onnx", "-d", "."])):
        written = ["-o", f"{name}.jpg", "--raw", f"{name}.npz"]
        arguments = ["filters", "0.onnx", "-l", "conv1", "-l", "conv2", *written, "--format", "json", *more]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        document = json.loads(capsys.readouterr().out)
        assert not stopped.value.code, document
        widths[name] = decode(tmp_path / f"{name}.jpg").shape
    first, second = document["layers"], document["beside"]["layers"]
    for seed, rows in ((0, first), (1, second)):
        truth = {t.name: onnx.numpy_helper.to_array(t) for t in small_cnn(seed=seed).graph.initializer}
        for row, name in zip(rows, ("w1", "w2"), strict=True):
            norms = np.linalg.norm(truth[name].reshape(len(truth[name]), -1), axis=1)
            np.testing.assert_allclose(row["per_filter"]["norm"], norms, rtol=1e-5)
            arrays = np.load("both.npz")
            np.testing.assert_array_equal(arrays[f"{seed}.onnx/{row['layer']}/kernels"], truth[name])
            power = arrays[f"{seed}.onnx/{row['layer']}/power"]
            energy = power.mean(axis=(1, 2)), (truth[name].astype(np.float64) ** 2).sum(axis=(1, 2, 3))
            np.testing.assert_allclose(*energy, rtol=1e-6)  # Parseval
    assert set(np.load("alone.npz")) == {f"{row['layer']}/{key}" for row in first for key in ("kernels", "power")}
    assert widths["both"][1] > 1.5 * widths["alone"][1] and widths["data"][0] > widths["both"][0]
