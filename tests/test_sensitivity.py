"""Which layers to keep in float: estimates against measured runs and against onnxruntime's own quantizer."""

from __future__ import annotations

import itertools
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from analyzer.commands import main
from analyzer.errors import UnsupportedError
from analyzer.images import decode, model_card
from analyzer.validation import Side
from analyzer.validation.gates import Site
from analyzer.validation.sensitivity import (
    Gates,
    drawn,
    drift,
    is_stable,
    ordered,
    refined,
    sensitivity,
    share_of,
    squares,
)

ROOT = Path(__file__).resolve().parents[1]
FLOAT = ROOT / "models" / "digits_cnn.onnx"
EXAMPLES = sorted((ROOT / "examples").glob("digits_*.png"))
SPOILED = "/network/stage2/stage2.0/conv2/Conv"


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    preprocess = model_card(FLOAT).preprocess
    return [preprocess.apply(decode(p))[0] for p in EXAMPLES]


@pytest.fixture(scope="module")
def builds(tmp_path_factory, arrays):
    """(a float model one of whose weights has an outlier, a function that quantizes it without some nodes)"""
    folder = tmp_path_factory.mktemp("builds")
    proto = onnx.load(FLOAT)
    node = next(n for n in proto.graph.node if n.name == SPOILED)
    weight = next(t for t in proto.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 60 * np.abs(values).max()  # one scale for all then leaves the others two bits
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    (last,) = [n for n in proto.graph.node if n.op_type == "Sigmoid"]  # logits are what is compared
    proto.graph.output[0].name = last.input[0]
    proto.graph.node.remove(last)
    onnx.save(proto, folder / "float.onnx")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{proto.graph.input[0].name: a} for a in arrays])

        def get_next(self):
            return next(self.left, None)

    def quantized(name: str, without: list[str]) -> Path:
        logging.disable(logging.WARNING)
        path = folder / f"{name}.onnx"
        quantize_static(folder / "float.onnx", path, Reader(), nodes_to_exclude=without, weight_type=QuantType.QInt8)
        logging.disable(logging.NOTSET)
        return path

    return folder / "float.onnx", quantized


def sides(reference: Path, candidate: Path, arrays) -> list[Side]:
    return [Side(path, arrays[0].shape, threads=1) for path in (reference, candidate)]


def test_the_spoiled_layer_is_first_and_the_quantizer_agrees(builds, arrays):
    reference, quantized = builds
    ours, theirs = sides(reference, quantized("all", []), arrays)
    found = sensitivity(ours, theirs, [(a, a) for a in arrays])
    assert found["nodes_to_exclude"][0] == SPOILED == found["layers"][0]["layer"]
    assert found["exclude"][0]["left"] < 0.2 and found["unnamed"] == 0

    def measured(path: Path) -> float:
        """As onnxruntime runs it, but without quantizing the weights of layers that the file has in float."""
        session = ort.InferenceSession(path, disabled_optimizers=["WeightBiasQuantization"])
        name = session.get_inputs()[0].name
        return sum(drift(session.run(None, {name: a}), [y], sizes) for a, y in zip(arrays, expected, strict=True))

    expected = [ours.output(a)[None] for a in arrays]
    sizes = [squares(expected)]
    all_layers = measured(quantized("all", []))
    assert found["drift"] == pytest.approx(all_layers, rel=0.2)
    assert measured(quantized("better", [SPOILED])) / all_layers == pytest.approx(found["exclude"][0]["left"], abs=0.02)


def test_gates_go_from_the_candidate_to_the_reference(builds, arrays):
    reference, quantized = builds
    ours, theirs = sides(reference, quantized("all", []), arrays)
    gates = Gates(ours, theirs)
    expected = gates.expected(arrays[0])
    sizes = [squares(expected)]
    assert gates.drift(arrays[0], expected, sizes, set(gates.layers)) < 1e-9
    closed = gates.drift(arrays[0], expected, sizes, set())
    deployed = [theirs.output(arrays[0])], [ours.output(arrays[0])]
    assert closed == pytest.approx(drift(*deployed, sizes), rel=0.2)
    assert {s.kind for s in gates.sites} == {"weight", "activation"}


def test_estimates_are_the_derivative(arrays, tmp_path):
    """By central differences, of a build that rounds only weights: its drift is smooth."""
    proto = onnx.load(FLOAT)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            step = np.abs(values).max() / 16
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / step) * step).astype(np.float32), tensor.name))
    onnx.save(proto, tmp_path / "rounded.onnx")
    gates = Gates(*sides(FLOAT, tmp_path / "rounded.onnx", arrays))
    expected = gates.expected(arrays[0])
    sizes = [squares(expected)]
    _, slopes = gates.gradient(arrays[0], expected, sizes)

    def at(index: int, value: float) -> float:
        given = np.zeros(len(gates.sites), np.float32)
        given[index] = value
        feeds = {gates.base.input: arrays[0], "gates": given}
        return drift(list(gates._forward[0].run(feeds).values()), expected, sizes)

    h = 0.02
    measured = [-(at(i, h) - at(i, -h)) / (4 * h) for i in range(len(gates.sites))]
    np.testing.assert_allclose(slopes, measured, atol=0.03 * np.abs(measured).max())


def test_half_precision(arrays):
    found = sensitivity(*sides(FLOAT, FLOAT.with_name("digits_cnn_fp16.onnx"), arrays), [(a, a) for a in arrays])
    assert 0 < found["drift"] < 1e-5 and found["exclude"][-1]["left"] < 0.9


def test_equal_builds_have_nothing_to_rank(arrays):
    with pytest.raises(UnsupportedError, match="nothing in it is quantized"):
        sensitivity(*sides(FLOAT, FLOAT, arrays), [(arrays[0], arrays[0])])


def test_the_error_of_a_share_is_that_of_a_ratio_of_means():
    """By the jackknife (Tukey 1958), which agrees to first order."""
    rng = np.random.default_rng(0)
    parts = rng.uniform(1, 2, 200)
    gains = 0.3 * parts + rng.normal(0, 0.2, 200)
    share, error = share_of(parts, gains)
    without = (gains.sum() - gains) / (parts.sum() - parts)
    assert share == pytest.approx(gains.sum() / parts.sum())
    assert error == pytest.approx(np.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum()), rel=0.01)
    assert share_of(parts[:1], gains[:1])[1] is None


def test_a_ranking_is_stable_where_two_halves_of_the_pictures_agree():
    rng = np.random.default_rng(0)
    layers = rng.random(40)
    noise = rng.standard_normal((32, 40))
    assert is_stable(layers + 0.1 * noise) and not is_stable(layers + 3 * noise) and not is_stable(-noise)


def test_no_more_pictures_are_run_than_the_ranking_needs(builds, arrays, monkeypatch):
    for name, value in {"FIRST": 4, "MORE": 2, "MEASURED": 3}.items():
        monkeypatch.setattr(f"analyzer.validation.sensitivity.{name}", value)
    reference, quantized = builds
    ours, theirs = sides(reference, quantized("all", []), arrays)
    pairs = [(arrays[i % len(arrays)],) * 2 for i in range(9)]
    drift_of_few = sensitivity(ours, theirs, pairs[:3], 0)["drift"]
    for stable, pictures in ((-1, 4), (2, 9)):
        monkeypatch.setattr("analyzer.validation.sensitivity.STABLE", stable)
        found = sensitivity(ours, theirs, pairs, 0)
        assert (found["pictures"], found["measured"]) == (pictures, 3) and found["layers"][0]["layer"] == SPOILED
        assert found["drift"] == pytest.approx(drift_of_few, rel=0.5)


def test_pictures_are_drawn_without_a_period():
    chosen = drawn(range(272), 16)
    assert chosen == sorted(set(chosen)) == drawn(range(272), 16) and len(chosen) == 16
    assert len({at % 17 for at in chosen}) > 5 and drawn(range(3), 16) == [0, 1, 2]


# ---- Choosing ----


def test_layers_that_share_a_tensor_come_together():
    sites = [Site(str(i), "", frozenset(owners)) for i, owners in enumerate(("a", "bc", "b", "d"))]
    steps = ordered(sites, np.array([1.0, 6.0, 0.5, 9.0]), set("abc"))
    assert [("".join(sorted(s.layers)), s.gain) for s in steps] == [("bc", 6.5), ("a", 1.0)]


def test_lazy_greedy_is_greedy_with_fewer_runs():
    rng = np.random.default_rng(0)
    covers = {frozenset({str(i)}): set(rng.choice(40, 9).tolist()) for i in range(8)}
    calls = itertools.count()

    def left(layers) -> float:
        next(calls)
        covered = set().union(*(covers[frozenset({layer})] for layer in layers))
        return 1 - len(covered) / 40

    found = refined(dict.fromkeys(covers, 0.1), left)
    lazy = next(calls)
    chosen: frozenset[str] = frozenset()
    for layers, rest in found:
        best = min(left(chosen | g) for g in covers if not g <= chosen)
        assert rest == best == left(chosen | layers)
        chosen |= layers
    assert lazy < 30


# ---- The command ----


def test_the_command(builds, tmp_path, monkeypatch, capsys):
    reference, quantized = builds
    report = tmp_path / "r.html"
    call = [str(reference), str(quantized("all", [])), *map(str, EXAMPLES[:2]), "--preset", "imagenet"]
    call += ["--sensitivity", "--report", str(report), "--exit-zero", "-m", "gradient"]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", "compare", *call])
    with pytest.raises(SystemExit) as stopped:
        main()
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and f"nodes_to_exclude: ['{SPOILED}'" in out
    assert "Layers to keep in float" in report.read_text() and SPOILED in report.read_text()
