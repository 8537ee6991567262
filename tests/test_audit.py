"""Audits: a sound model passes, planted defects are found; costs against published numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.analysis.cost import cost
from analyzer.attribution import Explainer
from analyzer.commands import main
from analyzer.graph import Graph
from analyzer.images import Preprocess, decode, model_card
from analyzer.report import files
from analyzer.validation.audit import Auditing, Picture, audit, shortcut_signs
from analyzer.validation.checks import CHECKS, findings
from analyzer.validation.randomised import randomised_head
from tests.models import model, node, small_cnn

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits_cnn.onnx"
DATA = str(ROOT / "examples" / "digits_*.png")
EXAMPLES = sorted((ROOT / "examples").glob("digits_*.png"))
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def codes(file=MODEL, preprocess=None, method="grad-cam", labels=(None,) * 4) -> dict[str, str]:
    """{code: where} of the findings on the example pictures."""
    how = preprocess or model_card(MODEL).preprocess
    pictures = [Picture(p.name, decode(p), label) for p, label in zip(EXAMPLES, labels, strict=True)]
    return {f.code: f.where for f in findings(audit(Explainer(file), how, pictures, method).report)}


def test_a_sound_model_passes():
    assert codes() == {}


@pytest.mark.parametrize("name", ["digits_vit", "digits_cnn_int8", "digits_cnn_fp16", "digits_cnn_dynamo"])
def test_other_kinds_of_models_are_audited(name):
    file = MODEL.with_name(f"{name}.onnx")
    report = audit(Explainer(file), model_card(file).preprocess, [Picture("one", decode(EXAMPLES[0]))]).report
    assert report["layers"] and report["identity"]["macs"] > 0


def test_a_wrong_preset_is_doubted():
    right = model_card(MODEL).preprocess
    explainer = Explainer(MODEL)
    labels = [int(explainer.explain(right.apply(decode(p))[0]).target[0]) for p in EXAMPLES]
    wrong = model_card(MODEL, {"preset": "raw"}).preprocess
    assert codes(preprocess=wrong, labels=labels)["preprocessing-doubtful"] == "imagenet"
    assert codes(labels=labels) == {}


def test_dead_channels_are_counted():
    model = onnx.load(MODEL)
    weights = {t.name: t for t in model.graph.initializer}
    node = [n for n in model.graph.node if n.op_type == "Conv"][1]
    for name in node.input[1:]:
        array = numpy_helper.to_array(weights[name]).copy()
        array[: len(array) // 2] = 0
        weights[name].CopyFrom(numpy_helper.from_array(array, name))
    assert (
        node.output[0] in codes(model.SerializeToString())["dead-channels"] or "stem.1" in codes(model)["dead-channels"]
    )


def test_channels_at_the_end_of_their_range_are_counted():
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Clip", ["c", "zero", "six"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32) * 0.1,
        "b": np.array([6.5, 6.5, 0, 0], np.float32),  # two of four mostly beyond six
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    how = model_card(MODEL).preprocess
    given = Explainer(model(nodes, {"x": [1, 3, *how.size]}, {"y": None}, weights))
    report = audit(given, how, [Picture("one", decode(EXAMPLES[0]))]).report
    (row,) = (r for r in report["layers"] if r["layer"] == "r")
    assert row["saturated"] == 2 and row["dead"] == 0
    assert "saturated-channels" in {f.code for f in findings(report)}


def test_an_audit_goes_on_where_it_was(tmp_path, monkeypatch):
    how, explainer = model_card(MODEL).preprocess, Explainer(MODEL)
    pictures = [Picture(p.name, decode(p)) for p in EXAMPLES]
    whole = audit(explainer, how, pictures)
    audit(explainer, how, pictures[:3], folder=tmp_path)
    step, measured = Auditing.step, []
    monkeypatch.setattr(Auditing, "step", lambda work, b: measured.append(b[0].item.name) or step(work, b))
    resumed = audit(explainer, how, pictures, folder=tmp_path)
    assert measured == [EXAMPLES[3].name] and json.dumps(resumed.report) == json.dumps(whole.report)
    assert all(np.array_equal(resumed.maps[t], m) for t, m in whole.maps.items())


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same(workers):
    how, explainer = model_card(MODEL).preprocess, Explainer(MODEL, threads=1)
    pictures = [Picture(f"{p.name} {i}", decode(p)) for i in range(3) for p in EXAMPLES]
    found, other = (audit(explainer, how, pictures, probes=3, workers=n) for n in (1, workers))
    assert json.dumps(found.report) == json.dumps(other.report) and found.maps.keys() == other.maps.keys()
    assert all(np.array_equal(other.maps[title], heat) for title, heat in found.maps.items())


def test_a_map_that_ignores_the_class_is_told():
    assert "sanity-labels" in codes(method="eigen-cam")


def test_border_and_corners():
    even = shortcut_signs(np.ones((40, 40)))
    assert even["border"] == pytest.approx(1) and even["corners"] == pytest.approx(1)
    marked = np.zeros((40, 40))
    marked[38, 1] = 1
    signs = shortcut_signs(marked)
    assert signs["border"] > 2 and signs["corners"] > 4 and signs["maximum_y"] > 0.9


def test_the_cost_of_vgg16s_convolutions():
    """15.35 GMACs and 14.7 million weights at 224×224 (Simonyan & Zisserman 2014, configuration D)."""
    nodes, weights, inputs, value = [], {}, 3, "x"
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for index in range(depth):
            name = f"{stage}_{index}"
            weights[f"w{name}"] = np.zeros((width, inputs, 3, 3), np.float16)
            nodes.append(node("Conv", [value, f"w{name}"], [f"c{name}"], pads=[1, 1, 1, 1]))
            inputs, value = width, f"c{name}"
        nodes.append(node("MaxPool", [value], [f"p{stage}"], kernel_shape=[2, 2], strides=[2, 2]))
        value = f"p{stage}"
    given = model(nodes, {"x": [1, 3, 224, 224]}, {value: None}, weights, dtype=onnx.TensorProto.FLOAT16)
    found = cost(Graph.read(given))
    assert found.macs == 15_346_630_656 and found.parameters == 14_710_464


def test_the_cost_of_products():
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Gemm", ["m", "v"], ["y"], transB=1)]
    weights = {"w": np.zeros((6, 5), np.float32), "v": np.zeros((3, 5), np.float32)}
    found = cost(Graph.read(model(nodes, {"x": [4, 6]}, {"y": None}, weights)))
    assert found.by_operator == {"MatMul": 4 * 5 * 6, "Gemm": 4 * 3 * 5}


def test_the_command(monkeypatch, capsys, tmp_path):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", "audit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    boxes = ROOT / "examples" / "boxes.json"
    classes = tmp_path / "classes.json"
    first = {n: LABELS.index(next(iter(b))) for n, b in json.loads(boxes.read_text()).items()}
    classes.write_text(json.dumps(first))
    for ending in ("html", "md", "json"):
        report = tmp_path / f"audit.{ending}"
        code, out, err = run(str(MODEL), "--data", DATA, "--boxes", str(boxes), "--report", str(report))
        assert code == 0 and report.exists() and "nothing found" in out and "Traceback" not in err
    maps = tmp_path / "maps.png"
    code, _, _ = run(str(MODEL), "--data", DATA, "--maps", str(maps))
    assert code == 0 and decode(maps).ndim == 3
    with monkeypatch.context() as patch:
        patch.setattr(files, "mean_maps", lambda *_: pytest.fail("nobody sees these maps"))
        for ending in ("md", "json"):
            assert run(str(MODEL), str(EXAMPLES[0]), "--report", str(tmp_path / f"one.{ending}"))[0] == 0
    page = (tmp_path / "audit.html").read_text()
    assert "https://" not in page and "data:image/webp" in page and "onnx-analyzer audit" in page
    figures = json.loads((tmp_path / "audit.json").read_text())["audit"]["summary"]
    defined = {check.name for check in CHECKS}
    undefined = [name for name in figures if name not in defined]
    assert not undefined and "pointing_game" in figures and "deletion_random" in figures
    code, out, _ = run(str(MODEL), "--data", DATA, "--classes", str(classes), "--format", "json")
    assert code == 0 and "accuracy" in json.loads(out)["audit"]["summary"]
    code, _, err = run(str(MODEL), "--data", DATA, "--report", "audit.pdf")
    assert code == 2 and ".pdf" in err


def test_a_head_without_numbers_is_shuffled_as_well():
    weights = {"v": np.ones((4, 0), np.float32), "w": np.ones((0, 4), np.float32)}
    nodes = [node("MatMul", ["x", "v"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    empty = randomised_head(Explainer(model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, weights)), 3)
    assert [list(w.dims) for w in empty.proto.graph.initializer if w.name == "w"] == [[0, 4]]


def test_the_head_is_shuffled_without_the_other_weights_in_one_protobuf(monkeypatch):
    explainer = Explainer(small_cnn())
    monkeypatch.setattr("analyzer.graph.ir.PROTOBUF_LIMIT", 0)
    shuffled = Explainer(randomised_head(explainer, 3))

    def weights(of):
        stub, large = of.graph().stub()
        return {t.name: large[t.name] if t.name in large else numpy_helper.to_array(t) for t in stub.graph.initializer}

    before, after = weights(explainer), weights(shuffled)
    (changed,) = [name for name, array in before.items() if not np.array_equal(array, after[name])]
    head = before[changed]
    expected = np.random.default_rng(3).permutation(head.ravel()).reshape(head.shape)
    np.testing.assert_array_equal(after[changed], expected)
    assert shuffled.loaded.identity != explainer.loaded.identity


@pytest.mark.parametrize(
    "change", ["nothing", "weights", "a pixel", "a label", "preprocessing", "names", "seed", "code"]
)
def test_the_hash_of_an_audit_covers_what_it_depends_on(change, tmp_path, monkeypatch):
    def hashed(changed: bool) -> str:
        path = tmp_path / f"{changed}" / "m.onnx"
        path.parent.mkdir()
        net = small_cnn()
        if changed and change == "weights":
            array = numpy_helper.to_array(net.graph.initializer[0]).copy()
            array.flat[0] += 1
            net.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, net.graph.initializer[0].name))
        onnx.save(net, path, save_as_external_data=True, location="m.data", size_threshold=0)
        pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
        pixels[0, 0, 0] = 1 + (changed and change == "a pixel")
        label = 1 + (changed and change == "a label")
        how = Preprocess(size=(12, 12), scale=1 / 255 if changed and change == "preprocessing" else 1 / 127)
        names = ["a", "b", "c", "e" if changed and change == "names" else "d"]
        if changed and change == "code":
            monkeypatch.setattr("analyzer.store.code_stamp", lambda: "another")
        explainer = Explainer(path, labels=names)
        given = [Picture("p", pixels, label)]
        done = audit(explainer, how, given, probes=1, seed=1 + (changed and change == "seed"))
        return done.report["identity"]["audit"]

    assert (hashed(False) == hashed(True)) == (change == "nothing")
