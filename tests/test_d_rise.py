"""D-RISE: its formula is in test_oracles; here what it takes, refuses and shares."""

from __future__ import annotations

import numpy as np
import pytest

import analyzer
from analyzer import explain
from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.evaluator import Evaluator
from analyzer.errors import InputError, UnsupportedError
from analyzer.metrics.pointing_game import pointing_game
from tests.models import small_cnn
from tests.test_detection import BOTH, SMALL_RED, detector
from tests.test_detection_layers import pyramid

NET = detector()


@pytest.fixture
def runs(monkeypatch):
    """How many images each run of a model had."""
    seen: list[int] = []
    original = Evaluator._run
    monkeypatch.setattr(Evaluator, "_run", lambda self, p, f: seen.append(len(f[p.image])) or original(self, p, f))
    return seen


def test_the_heat_lies_on_the_detection():
    found = explain(NET, BOTH, "d-rise", 0, masks=300)
    (prediction,) = found.task.chosen(0, found.said[0])
    assert pointing_game(found.heatmap[0], prediction.box)
    _, y, x, side = SMALL_RED
    outside = found.heatmap[0].copy()
    inside = outside[y : y + side, x : x + side].mean()
    outside[y - 4 : y + side + 4, x - 4 : x + side + 4] = 0
    assert inside > 0.6 > outside.max() / 1.5


def test_a_seed_decides():
    first, second = (explain(NET, BOTH, "d-rise", 0, masks=20).raw for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.allclose(first, explain(NET, BOTH, "d-rise", 0, masks=20, seed=1).raw)


def test_a_fixed_batch_gives_the_same():
    fixed, free = (explain(detector(batch=b), BOTH, "d-rise", 0, masks=20) for b in (1, "N"))
    assert np.allclose(fixed.raw, free.raw, atol=1e-6)


def test_targets_share_the_runs_whatever_their_level(runs):
    every = explain(NET, BOTH, "d-rise", "all", masks=20)
    assert sum(runs) == 1 + 20 and len(every.raw) > 1
    layers = {p.layer for p in every.task.predictions(every.said[0])}
    assert len(layers) == 2  # not even these make it two
    for k in range(len(every.raw)):
        single = explain(NET, BOTH, "d-rise", f"detection:{k}", masks=20)
        assert np.allclose(single.raw[0], every.raw[k], atol=1e-6)
        assert single.names == [every.names[k]]


def test_methods_with_a_layer_are_asked_beside_it(runs):
    jobs = (Job("layer-cam"), Job("d-rise", options={"masks": 20}), Job("gradient"))
    cam, rise, gradient = answer(Explainer(pyramid()), Question(jobs, "all"), BOTH)
    assert sum(runs) == 21
    assert cam.names == rise.names == gradient.names and len(cam.names) > 1
    for k, name in enumerate(cam.names):
        for found in (cam, rise, gradient):
            options = {"masks": 20} if found is rise else {}
            single = explain(pyramid(), BOTH, found.method, name.split()[0], **options)
            assert np.allclose(single.heatmap[0], found.heatmap[k], atol=1e-5)


@pytest.mark.parametrize(("net", "target", "says"), [
    (small_cnn(), 1, "its output is no detection"),
    (NET, "detection:0.left", "the target is an expression"),
])  # fmt: skip
def test_it_explains_detections_only(net, target, says):
    image = BOTH if net is NET else np.zeros((1, 3, 12, 12), np.float32)
    with pytest.raises(UnsupportedError, match=says):
        explain(net, image, "d-rise", target)


def test_its_options_are_checked():
    with pytest.raises(InputError, match="d-rise needs masks ≥ 1"):
        explain(NET, BOTH, "d-rise", 0, masks=0)


def test_it_is_no_graph_to_export(tmp_path):
    with pytest.raises(UnsupportedError, match="cannot be a single graph"):
        analyzer.export(NET, tmp_path / "m.onnx", "d-rise")
