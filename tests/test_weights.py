"""How weights reach a session, and what it holds."""

from __future__ import annotations

import mmap
import tempfile

import numpy as np
import onnx
import pytest

from analyzer.attribution import Explainer
from analyzer.errors import InputError
from analyzer.graph import Graph
from analyzer.runtime import Session, optimised, weights
from tests.models import model, node, small_cnn

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def mapped(tmp_path):
    """A file whose weights are external data."""
    path = tmp_path / "m.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


@pytest.fixture
def given(monkeypatch):
    """What sessions were given: (stub, options) of each."""
    seen, made = [], weights.handed

    def spy(proto, arrays, options):
        seen.append(proto)
        return made(proto, arrays, options)

    monkeypatch.setattr("analyzer.runtime.session.handed", spy)
    return seen


def places(proto: onnx.ModelProto) -> set[str]:
    stubs = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    return {e.value for t in stubs for e in t.external_data if e.key == "location"}


def test_mapped_weights_are_named_by_their_file(mapped, given):
    found = Explainer(mapped).explain(IMAGE, "gradient", 1)
    assert any(place.endswith("m.data") for proto in given for place in places(proto))
    in_memory = Explainer(small_cnn()).explain(IMAGE, "gradient", 1)
    np.testing.assert_array_equal(found.raw, in_memory.raw)


def test_turned_weights_are_views_and_go_through_a_file_where_they_are_large(mapped, given, monkeypatch):
    expected = Explainer(small_cnn()).explain(IMAGE, "gradient", 1)
    monkeypatch.setattr(weights, "LARGEST_COPY", 0)
    explainer = Explainer(mapped)
    graph = explainer.compile("gradient", targets=(1,), shapes={"x": IMAGE.shape}).graph
    turned = [w for n, w in graph.stub()[1].items() if n.endswith("/turned")]
    assert turned and all(_map_behind(w) for w in turned), "no copy is made before there is a session"
    given.clear()
    np.testing.assert_array_equal(explainer.explain(IMAGE, "gradient", 1).raw, expected.raw)
    assert any("onnx-analyzer-" in place for proto in given for place in places(proto))
    monkeypatch.setattr(tempfile, "tempdir", None)


def _map_behind(array: np.ndarray) -> bool:
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def test_a_session_is_refused_whose_weights_changed(mapped):
    explainer = Explainer(mapped)
    graph = explainer.graph({"x": IMAGE.shape})
    data = mapped.with_name("m.data")
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(InputError, match="changed"):
        explainer.session(graph)


def test_what_a_session_holds_counts_packed_weights_per_node():
    explainer = Explainer(small_cnn())
    sessions = [explainer.compile(m, targets=(1,), shapes={"x": IMAGE.shape}) for m in ("grad-cam", "gradient")]
    held = [explainer.session(c.graph, c.names).nbytes for c in sessions]
    size = sum(w.nbytes for w in explainer.loaded.detached.values())
    assert size < held[0] < held[1]


def test_a_plan_is_read_without_its_weights(mapped, monkeypatch):
    sizes = []

    class Watched(Session):
        def __init__(self, *given, plan_file, **options):
            super().__init__(*given, plan_file=plan_file, **options)
            sizes.extend(file.stat().st_size for file in plan_file.parent.iterdir())

    graph = Explainer(mapped).graph({"x": (1, 3, 12, 12)})
    weight = np.ones((64, 64, 3, 3), np.float32)  # 144 KiB, which the runtime packs anew
    nodes, given = [node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], {"w": weight}
    packed = Graph.read(model(nodes, {"x": [1, 64, 8, 8]}, {"y": [1, 64, 8, 8]}, given))
    monkeypatch.setattr(optimised, "Session", Watched)
    assert optimised.kernels(graph, "cpu", ["logits"])["Conv"] > 0
    assert optimised.kernels(packed, "cpu", ["y"])["Conv"] == 1
    assert max(sizes) < 64 << 10


def test_the_budget_of_kept_sessions_is_a_public_name_and_an_option(monkeypatch):
    import analyzer
    from analyzer.commands.options import SessionOptions
    from analyzer.runtime.pool import LIVE

    monkeypatch.setattr(LIVE, "budget", None)
    analyzer.limit_memory(1 << 20)
    assert LIVE.budget == 1 << 20
    names = list(SessionOptions.fields())
    given = SessionOptions(dict.fromkeys(names) | {"session_memory": 1.5}).keywords("cpu")
    assert LIVE.budget == 3 << 29 and "session_memory" not in given


def test_weights_of_a_large_model_stay_where_they_are_mapped(mapped, monkeypatch):
    packed = Explainer(mapped)
    expected = packed.explain(IMAGE, "gradient", 1).raw
    monkeypatch.setattr("analyzer.runtime.session.MAPPED", 0)
    lean = Explainer(mapped)
    np.testing.assert_allclose(lean.explain(IMAGE, "gradient", 1).raw, expected, rtol=1e-4, atol=1e-6)
    small = lean.session(lean.graph({"x": IMAGE.shape}))
    monkeypatch.undo()
    large = packed.session(packed.graph({"x": IMAGE.shape}))
    assert small.nbytes < large.nbytes - sum(w.nbytes for w in packed.loaded.detached.values()) / 2
