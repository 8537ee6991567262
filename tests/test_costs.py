"""What an answer costs grows as the question does: with depth, with targets, with empty maps."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer.attribution import Explainer, Job, Model, Question
from analyzer.attribution.compiler import compile_question
from analyzer.runtime import Session, session
from benchmarks.scaling import chain
from tests.models import small_cnn

IMAGE = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


def gradient_of(nodes: int):
    """A chain with its gradient, as `Graph.stub` gives it, and its feeds."""
    (done,) = compile_question(Model(chain(nodes)), Question((Job("gradient"),)), [None], {"x": IMAGE.shape})
    return done.graph.stub(done.names), {"x": IMAGE, done.target_inputs[0]: np.zeros(1, np.int64)}


@pytest.fixture
def created(monkeypatch):
    """What sessions were created from: [(ModelProto, names of optimizers left out)]."""
    seen = []

    class Spy(ort.InferenceSession):
        def __init__(self, data, *given, disabled_optimizers=(), **options):
            seen.append((onnx.ModelProto.FromString(data), list(disabled_optimizers)))
            super().__init__(data, *given, disabled_optimizers=disabled_optimizers, **options)

    monkeypatch.setattr(ort, "InferenceSession", Spy)
    return seen


def most_waiting(proto: onnx.ModelProto) -> int:
    """The most nodes that could run and come later, as a graph is run in order: what onnxruntime's sorting walks."""
    inside = {o for n in proto.graph.node for o in n.output}
    missing = {i: {n for n in node.input if n in inside} for i, node in enumerate(proto.graph.node)}
    readers: dict[str, list[int]] = {}
    for i, names in missing.items():
        for name in names:
            readers.setdefault(name, []).append(i)
    waiting = most = sum(not names for names in missing.values())
    for node in proto.graph.node:
        waiting -= 1
        for name in node.output:
            for reader in readers.get(name, ()):
                missing[reader].discard(name)
                waiting += not missing[reader]
        most = max(most, waiting)
    return most


def test_few_nodes_of_a_deep_gradient_wait_while_it_is_sorted(created, monkeypatch):
    stub, feeds = gradient_of(300)
    plain = Session(stub).run(feeds)
    monkeypatch.setattr(session, "BY_DEPTH", 1)
    found = Session(stub).run(feeds)
    assert most_waiting(created[0][0]) > 100
    assert most_waiting(created[1][0]) < 10
    for name, array in plain.items():
        assert np.array_equal(array, found[name])


def test_large_graphs_leave_out_slow_passes_unless_a_level_is_asked_for(created, monkeypatch):
    stub, _ = gradient_of(30)
    Session(stub)
    monkeypatch.setattr(session, "LARGE", 1)
    Session(stub)
    Session(stub, level="all")
    small, large, asked = (left_out for _, left_out in created)
    assert small == asked == ["Pad_Fusion"]
    assert large == ["Pad_Fusion", *session.SLOW_OPTIMIZERS]


def calls(function) -> int:
    """How many Python functions are called: what does not depend on how busy the machine is."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("method", ["grad-cam", "gradient", "guided-grad-cam"])
@pytest.mark.parametrize("kind", ["class", "expression"])
def test_targets_are_appended_in_steps_that_grow_with_their_number(method, kind):
    model, question = Model(small_cnn()), Question((Job(method),))
    name = model.plain.outputs[0].name
    slots = [None if kind == "class" else f'"{name}"[:, {i % 4}] * {i}' for i in range(80)]
    compile_question(model, question, slots[:1])
    few, many = (calls(lambda n=n: compile_question(model, question, slots[:n])) for n in (10, 80))
    assert many < 8.5 * few


def test_a_gradient_is_appended_in_steps_that_grow_with_the_depth():
    gradient_of(30)
    few, many = (calls(lambda n=n: gradient_of(n)) for n in (300, 2400))
    assert many < 8.5 * few


@pytest.mark.parametrize("target", [0, "logits[:, 0]"])
def test_an_empty_map_costs_one_run_more_and_one_session_for_all(created, monkeypatch, target):
    against = small_cnn()
    for tensor in against.graph.initializer:
        if tensor.name == "w3":
            tensor.CopyFrom(onnx.numpy_helper.from_array(-np.ones((16, 4), np.float32), "w3"))
    explainer = Explainer(against)
    pictures = np.random.default_rng(0).standard_normal((4, 1, 3, 12, 12)).astype(np.float32)
    assert "≤ 0" in explainer.explain(pictures[0], target=target).diagnosis[0]
    sessions, runs, plain = len(created), [], Session.run
    monkeypatch.setattr(Session, "run", lambda self, *a: runs.append(1) or plain(self, *a))
    for picture in pictures:
        found = explainer.explain(picture, target=target or 1)
        assert "≤ 0" in found.diagnosis[0]
    assert len(created) == sessions and len(runs) == 2 * len(pictures)
