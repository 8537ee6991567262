"""Pictures whose values are not finite: commands end well, other pictures are as if alone, the node is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from analyzer.analysis.layouts import Layout
from analyzer.attribution import Explainer, finite
from analyzer.attribution.class_maps import class_maps
from analyzer.attribution.features import channel_statistics
from analyzer.attribution.finite import find_origins
from analyzer.attribution.methods import METHODS
from analyzer.attribution.probes import Probe
from analyzer.commands import main
from analyzer.images import Preprocess, write_png
from analyzer.metrics.similarity import cosine_of
from analyzer.mining import mine
from analyzer.plain import as_json
from analyzer.validation import Pair, Side, Thresholds, compare, judge
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings
from analyzer.validation.metrics import Drift
from tests.models import model, node, small_cnn

ROOT = Path(__file__).resolve().parents[1]
HOW = Preprocess(size=(12, 12), scale=1 / 255)
RNG = np.random.default_rng(0)
NOISE = RNG.random((2, 3, 12, 12)).astype(np.float32)
FLAT = np.zeros((1, 3, 12, 12), np.float32)
BATCH = np.concatenate([NOISE[:1], FLAT, NOISE[1:]])


def before(nodes: list[onnx.NodeProto], name: str, weights: dict[str, np.ndarray], softmax: bool = False, batch="N"):
    """`small_cnn` that reads what `nodes` make of "x", the tensor called `name`."""
    proto = small_cnn(softmax=softmax, batch=batch)
    proto.graph.node[0].input[0] = name
    for index, one in enumerate(nodes):
        proto.graph.node.insert(index, one)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return proto


def standardising(softmax: bool = False, epsilon: float = 0.0, batch="N") -> onnx.ModelProto:
    """(x − mean x) / (std x + ε): 0 / 0 for a flat picture, where ε is 0."""
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3]),
        node("Sub", ["x", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["squared"]),
        node("ReduceMean", ["squared"], ["variance"], axes=[1, 2, 3]),
        node("Sqrt", ["variance"], ["deviation"]),
        node("Add", ["deviation", "epsilon"], ["divisor"]),
        node("Div", ["centred", "divisor"], ["standardised"], "standardise"),
    ]
    return before(nodes, "standardised", {"epsilon": np.array(epsilon, np.float32)}, softmax, batch)


def overflowing() -> onnx.ModelProto:
    """1e38 · 1e38 · x: ∞ for every picture but a black one."""
    nodes = [node("Mul", ["x", "large"], ["once"], "first"), node("Mul", ["once", "large"], ["twice"], "second")]
    return before(nodes, "twice", {"large": np.array(1e38, np.float32)})


# ---- explain ----


@pytest.mark.parametrize("method", sorted(m for m in METHODS if "rollout" not in m and m != "d-rise"))
def test_a_picture_that_is_not_finite_changes_no_other(method):
    given = {"rise": {"masks": 12}, "integrated-gradients": {"steps": 4}}.get(method, {})
    given |= {"samples": 3} if method in ("smooth-grad", "var-grad") else {}
    explainer = Explainer(standardising(softmax=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explainer.explain(BATCH, method, 1, **given)
        for row, alone in ((0, NOISE[:1]), (2, NOISE[1:])):
            single = explainer.explain(alone, method, 1, **given)
            np.testing.assert_allclose(found.raw[row], single.raw[0], rtol=1e-4, atol=1e-6 * np.abs(single.raw).max())
            np.testing.assert_allclose(found.heatmap[row], single.heatmap[0], atol=1e-4)
            assert found.diagnosis[row] == single.diagnosis[0]
    assert np.isnan(found.scores[1]).all() and not found.heatmap[1].any()
    assert "NaN first appears at Div (node 'standardise', tensor 'standardised')" in found.diagnosis[1]
    assert found.legible.tolist() == [True, False, True]


def test_the_diagnosis_runs_once_for_a_batch(monkeypatch):
    runs, original = [], finite._Search.run
    monkeypatch.setattr(finite._Search, "run", lambda self, *a: runs.append(1) or original(self, *a))
    found = Explainer(standardising()).explain(np.repeat(FLAT, 3, axis=0), target=[0, 1])
    assert len(runs) == 1 and len(found.diagnosis) == 6 and all(found.diagnosis)


def test_options_of_a_session_do_not_clash_with_the_diagnosis():
    found = Explainer(standardising(), level="disable", threads=1).explain(FLAT)
    assert "standardise" in found.diagnosis[0]


def test_the_node_is_named_for_fewer_pictures_than_the_file_takes_at_once():
    origin = find_origins(Explainer(standardising(batch=2)), {"x": FLAT}, [0])[0]
    assert (origin.node, origin.kind) == ("standardise", "NaN")


def test_infinity_is_named_where_it_begins():
    found = Explainer(overflowing()).explain(np.concatenate([FLAT, NOISE[:1]]), target=0)
    assert "∞ first appears at Mul (node 'second', tensor 'twice')" in found.diagnosis[1]
    assert "first appears" not in found.diagnosis[0]


def test_origins_are_those_of_plain_onnxruntime():
    """The first tensor that onnxruntime itself gives as not finite, each read as an output of the file."""
    for proto, array in ((standardising(), FLAT), (overflowing(), NOISE[:1])):
        tapped = onnx.shape_inference.infer_shapes(proto)
        tapped.graph.output.extend(v for v in tapped.graph.value_info)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(tapped.SerializeToString(), options, ["CPUExecutionProvider"])
        found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": array}), strict=True))
        order = [o for n in proto.graph.node for o in n.output]
        first = next(name for name in order if not np.isfinite(found[name]).all())
        assert find_origins(Explainer(proto), {"x": array}, [0])[0].tensor == first


def test_a_mask_of_infinities_is_not_named():
    """−∞ before a Softmax is finite after it; the division that follows is what made NaN."""
    nodes = [
        node("Add", ["x", "mask"], ["masked"], "mask"),
        node("Softmax", ["masked"], ["soft"], "soft", axis=-1),
        node("Sub", ["soft", "soft"], ["nothing"], "nothing"),
        node("Div", ["nothing", "nothing"], ["y"], "divide"),
    ]
    mask = np.array([0, 0, 0, -np.inf], np.float32)
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"mask": mask})
    origin = find_origins(Explainer(proto), {"x": np.ones((2, 4), np.float32)}, [1])[1]
    assert (origin.node, origin.kind) == ("divide", "NaN")


def test_half_precision_is_read_as_the_file_holds_it():
    """300 · 300 is finite in float32 and ∞ in float16."""
    nodes = [
        node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        node("Mul", ["half", "half"], ["square"], "square"),
        node("Sub", ["square", "square"], ["rest"], "rest"),
        node("Cast", ["rest"], ["y"], to=TensorProto.FLOAT),
    ]
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})
    search = find_origins(Explainer(proto), {"x": np.full((1, 3), 300, np.float32)}, [0])[0]
    assert (search.node, search.kind) == ("square", "∞")


def test_a_target_that_divides_by_an_embedding_of_zeros_names_it():
    proto = small_cnn(softmax=False)
    for tensor in proto.graph.initializer:
        if tensor.name in ("b1", "b3"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    arrays = {"reference": np.ones(4, np.float32)}
    found = Explainer(proto).explain(
        np.concatenate([NOISE[:1], FLAT]), target="logits.cosine(reference)", arrays=arrays
    )
    assert not found.diagnosis[0] and "node 'fc', tensor 'logits'" in found.diagnosis[1]


def test_class_maps_of_such_a_picture_warn_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.isfinite(class_maps(overflowing(), NOISE[:1])).all()


# ---- Every command ----


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONNX_ANALYZER_CACHE", "")
    onnx.save(standardising(), "standardising.onnx")
    onnx.save(overflowing(), "overflowing.onnx")
    Path("pics").mkdir()
    for name, array in zip("abc", BATCH, strict=True):
        write_png(f"pics/{name}.png", np.rint(255 * array.transpose(1, 2, 0)).astype(np.uint8))
    Path("boxes.json").write_text(json.dumps({f"pics/{n}.png": {"eye": [1, 1, 5, 5]} for n in "abc"}))
    return tmp_path


COMMANDS = {
    "explain": "explain M pics/a.png pics/b.png pics/c.png -o out",
    "explain, many runs": "explain M pics/a.png pics/b.png -m occlusion -m score-cam -m ablation-cam -o out",
    "localize": "localize M pics/a.png pics/b.png pics/c.png -o out --units 2 --masks-out masks",
    "features": "features M pics/a.png pics/b.png pics/c.png -l * -o out",
    "project": "project M pics/b.png -l r2 -o out.png --raw out.npy",
    "dream": "dream M -t 1 -o out.png --steps 2",
    "dream, variants": "dream M -l r2 -u 2 --variants 2 -o out.png --steps 2",
    "occlusion": "occlusion M pics/a.png pics/b.png -l r2 -o out.png --stride 6 --data pics",
    "invariance": "invariance M pics/a.png pics/b.png -l r2 -o out.png --transform translation",
    "correspondence": "correspondence M boxes.json -l r2 -o out.png --repeats 2",
    "mine": "mine M pics -l r2 -o out --draw 2",
    "evolution": "evolution M M -i pics -l r2 -o out.png",
    "filters": "filters M -o out.png",
    "compare": "compare M M -d pics --report out.json",
    "compare, html": "compare M M -d pics --report out.html",
    "record": "record M -d pics --store out",
    "audit": "audit M -d pics --report out.json --maps out.png --exit-zero",
    "audit, kept": "audit M -d pics --store out --exit-zero",
}


@pytest.mark.parametrize("file", ["standardising", "overflowing"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_well(place, monkeypatch, capsys, name, file):
    words = COMMANDS[name].replace("M", f"{file}.onnx").split()
    words += [] if name == "filters" else ["--preset", "0-1"]
    words += [] if name == "record" else ["--format", "json"]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *words])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        warnings.simplefilter("error", RuntimeWarning)
        main()
    said = capsys.readouterr()
    assert not stopped.value.code and "Traceback" not in said.err, said.err
    for text in [said.out, *(p.read_text() for p in place.rglob("*.json"))]:
        json.loads(text or "null", parse_constant=lambda word: pytest.fail(f"JSON holds {word}"))
    if name.startswith("explain"):
        results = json.loads(said.out)["results"]
        maps = [(r["picture"] == "pics/b.png", m["maximum"], m["diagnosis"]) for r in results for m in r["maps"]]
        for black, maximum, diagnosis in maps:
            if black == (file == "standardising"):
                assert maximum is None and "first appears at" in diagnosis
            elif name == "explain" or not black:  # a black picture with a grey patch may overflow
                assert maximum is not None
    if name not in ("filters", "dream", "dream, variants", "record", "compare, html") and not (
        name == "project" and file == "overflowing"
    ):
        node_name = {"standardising": "standardise", "overflowing": "second"}[file]
        assert f"node '{node_name}'" in said.out + said.err


def test_no_warning_of_numpy_is_seen_outside(place):
    words = ["explain", "standardising.onnx", "pics/a.png", "pics/b.png", "pics/c.png", "--preset", "0-1", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(ROOT / "cli.py"), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "pics/b.png" in done.stderr and "standardise" in done.stderr
    assert {p.name for p in (place / "out").iterdir()} == {"a.png", "b.png", "c.png"}


# ---- Statistics, journals ----


def test_mining_is_as_without_the_picture(place):
    without = mine(Explainer("standardising.onnx"), ["pics/a.png", "pics/c.png"], ["r2"], HOW, 2)
    for folder, shards in (("one", [(1, 1)]), ("two", [(1, 2), (2, 2), (1, 1)])):
        for shard in shards:
            found = mine(Explainer("standardising.onnx"), ["pics"], ["r2"], HOW, 2, folder, shard=shard)
        again = mine(Explainer("standardising.onnx"), ["pics"], ["r2"], HOW, 2, folder)
        for result in (found, again):
            ((picture, why),) = result.not_finite.items()
            assert Path(picture).stem == "b" and "standardise" in why and not result.failed
            np.testing.assert_allclose(result.rankings["r2"].values, without.rankings["r2"].values, rtol=1e-5)
            assert result.statistics["r2"].count == 2
            np.testing.assert_allclose(result.statistics["r2"].mean, without.statistics["r2"].mean, rtol=1e-5)


def test_statistics_are_over_what_is_finite():
    array = np.array([[[[1.0, np.nan]], [[np.nan, np.inf]]]])
    found = channel_statistics(array, Layout("NCHW", (1, 2)))
    assert (found.low[0], found.high[0], found.mean[0], found.active[0]) == (1, 1, 1, 1)
    assert np.isnan([found.low[1], found.high[1], found.mean[1], found.active[1]]).all()


def test_probabilities_beside_a_row_that_is_not_finite_stay():
    rows = np.array([[0.25, 0.75], [np.nan, np.nan]])
    task = Probe(Explainer(small_cnn(2, softmax=False)), ["r2"], Preprocess(size=(12, 12))).task
    assert (task.probabilities(rows)[0] == rows[0]).all()


def test_json_is_written_in_one_place():
    holders = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "analyzer").rglob("*.py") if "json.dump" in p.read_text()
    }
    assert holders <= {
        "analyzer/plain.py",
        "analyzer/store.py",
        "analyzer/attribution/trial.py",
        "analyzer/passes/codec.py",
        "analyzer/runtime/runners/http.py",
        "analyzer/runtime/elsewhere/__init__.py",
    }  # all but the first write no documents
    text = as_json({"a": [np.float32("nan"), float("inf"), np.array([1.0, -np.inf])], 3: Path("x"), "b": True})
    assert json.loads(text) == {"a": [None, None, [1.0, None]], "3": "x", "b": True}


# ---- compare and audit ----


def compared(reference, candidate, arrays=BATCH, methods=("grad-cam",), folder=None):
    sides = [Side(m, arrays[:1].shape) for m in (reference, candidate)]
    given = [Pair(f"p{i}", a[None], a[None]) for i, a in enumerate(arrays)]
    report = compare(*sides, given, methods=methods, folder=folder).report
    return judge(report, Thresholds()), report


def test_one_side_that_is_not_finite_is_found_with_picture_and_node(tmp_path):
    pair = str(tmp_path / "sound.onnx"), str(tmp_path / "fragile.onnx")
    onnx.save(standardising(epsilon=1e-6), pair[0])
    onnx.save(standardising(), pair[1])
    for folder in (None, tmp_path, tmp_path):
        for reference, candidate, who in ((*pair, "candidate"), (*pair[::-1], "reference")):
            found, report = compared(reference, candidate, folder=folder)
            assert found[0].code == "not-finite" and who in found[0].words
            assert "p1" in found[0].words and "node 'standardise'" in found[0].words
            assert report["rows"][1]["agree"] is None and report["outputs"]["judged"] == 2
            assert report["outputs"]["label_agreement"] == 1


def test_both_sides_that_are_not_finite_are_said_and_nothing_else_is_moved():
    found, report = compared(standardising(), standardising())
    assert not found and report["outputs"]["judged"] == 2 and report["outputs"]["score_drift_max"] == 0
    assert [(row["picture"], row["side"]) for row in report["not_finite"]] == [("p1", "both")]
    found, report = compared(standardising(), standardising(), np.repeat(FLAT, 2, axis=0))
    assert [f.code for f in found] == ["not-finite"] and report["outputs"]["label_agreement"] is None


def test_an_overflow_in_half_precision_names_the_layer():
    """x · 40,000 twice the largest float16 where a picture is bright, and back: the outputs alone are finite."""

    def net(half: bool) -> onnx.ModelProto:
        proto = before(
            [
                node("Mul", ["x", "up"], ["loud"], "amplify"),
                node("Relu", ["loud"], ["kept"], "rectify"),
                node("Mul", ["kept", "down"], ["quiet"], "attenuate"),
            ],
            "quiet",
            {"up": np.array(100_000, np.float32), "down": np.array(1e-5, np.float32)},
        )
        if half:
            for tensor in proto.graph.initializer:
                array = numpy_helper.to_array(tensor)
                array = np.array(60_000) if tensor.name == "up" else array / 0.6 if tensor.name == "down" else array
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
            proto.graph.node.insert(0, node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
            proto.graph.node[1].input[0] = "x16"
            proto.graph.node[-1].output[0] = "logits16"
            proto.graph.node.append(node("Cast", ["logits16"], ["logits"], to=TensorProto.FLOAT))
        else:
            proto.graph.initializer[-2].CopyFrom(numpy_helper.from_array(np.array(60_000, np.float32), "up"))
            proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array(1e-5 / 0.6, np.float32), "down"))
        return proto

    loud = np.concatenate([NOISE[:1], 1.5 * NOISE[1:] / NOISE[1:].max()])
    found, _ = compared(net(False), net(True), loud, methods=())
    assert found[0].code == "not-finite" and found[0].where == "kept" and "p1" in found[0].words
    assert "∞ first appears" in found[0].words and "p0" not in found[0].words
    assert [f.code for f in compared(net(False), net(True), 0.9 * NOISE, methods=())[0]] == []


def test_numbers_are_over_what_is_finite():
    a, b = np.array([1.0, np.nan, np.inf, 2.0]), np.array([1.0, np.nan, np.inf, 2.0])
    drift = Drift()
    drift.add(a, b)
    assert drift.finite and drift.sqnr == 200 and cosine_of(a, b) == pytest.approx(1)
    drift.add(a, np.array([1.0, 0.0, np.inf, 2.0]))
    assert not drift.finite
    assert cosine_of(np.array([1e300, 1e300]), np.array([1e300, 1e300])) == pytest.approx(1)


def test_audit_counts_them_as_a_finding(tmp_path):
    pictures = [Picture(f"p{i}", np.rint(255 * a.transpose(1, 2, 0)).astype(np.uint8)) for i, a in enumerate(BATCH)]
    explainer = Explainer(standardising())
    alone = audit(explainer, HOW, [pictures[0], pictures[2]]).report
    for folder in (None, tmp_path, tmp_path):
        report = audit(explainer, HOW, pictures, folder=folder).report
        (found,) = [f for f in findings(report) if f.code == "not-finite"]
        assert found.value == pytest.approx(1 / 3) and found.where == "p1" and "node 'standardise'" in found.words
        assert report["summary"]["confidence"] == pytest.approx(alone["summary"]["confidence"])
        assert report["summary"]["not_finite"] == 1 and report["pictures"] == 3
        assert json.loads(as_json(report)) == json.loads(json.dumps(report, default=str))
    report = audit(explainer, HOW, pictures[1:2]).report
    assert [f.code for f in findings(report)] == ["not-finite"]


def test_no_sentence_repeats_the_batch():
    """What names a picture's node does not name it for its neighbours."""
    found = Explainer(standardising()).explain(BATCH)
    assert [bool(re.search("standardise", d)) for d in found.diagnosis] == [False, True, False]
