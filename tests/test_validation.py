"""Comparisons: sound builds pass, planted defects are found and named."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.commands import main
from analyzer.errors import InputError
from analyzer.graph.protos import replace_all
from analyzer.images import decode, model_card
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.overlap import top_iou
from analyzer.metrics.similarity import maximum_shift, spearman
from analyzer.report.comparison import DEFINITIONS
from analyzer.store import key_of
from analyzer.validation import SAMPLE, Pair, Side, Store, Thresholds, compare, judge
from analyzer.validation.compare import Comparing
from analyzer.validation.inputs import Prepared, input_difference
from analyzer.validation.matching import match_by_activations
from analyzer.validation.metrics import Drift
from analyzer.validation.side import sampled
from tests.models import model, node, small_cnn

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "models" / "digits_cnn.onnx"
EXAMPLES = sorted((ROOT / "examples").glob("digits_*.png"))


def pictures(card_of: Path = REFERENCE, change=lambda x: x) -> list[Pair]:
    preprocess = model_card(card_of).preprocess
    arrays = [preprocess.apply(decode(p))[0] for p in EXAMPLES]
    return [Pair(p.name, a, change(a)) for p, a in zip(EXAMPLES, arrays, strict=True)]


def findings(candidate, change=lambda x: x) -> dict[str, str]:
    """{code: where} of the first finding of each code."""
    given = pictures(change=change)
    sides = [Side(m, given[0].reference.shape) for m in (REFERENCE, candidate)]
    found: dict[str, str] = {}
    for finding in judge(compare(*sides, given, methods=("grad-cam",)).report, Thresholds()):
        found.setdefault(finding.code, finding.where)
    return found


def changed(edit) -> bytes:
    """The reference with its weights {name: array} edited in place."""
    model = onnx.load(REFERENCE)
    weights = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    edit(model, weights)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return model.SerializeToString()


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "Conv"]


# ---- Sound builds ----


@pytest.mark.parametrize("build", ["fp16", "int8", "dynamo"])
def test_sound_builds_pass(build):
    assert findings(REFERENCE.with_name(f"digits_cnn_{build}.onnx")) == {}


def test_a_model_against_itself_is_equal():
    given = pictures()
    sides = [Side(REFERENCE, given[0].reference.shape) for _ in range(2)]
    report = compare(*sides, given).report
    assert report["outputs"]["label_agreement"] == 1 and report["outputs"]["score_drift_max"] == 0
    assert all(row["sqnr_db"] == 200 and row["cosine"] > 1 - 1e-9 for row in report["layers"])
    assert report["evidence"]["grad-cam"]["top_iou"] == 1 and not report["weights"]


# ---- Plants ----


@pytest.mark.parametrize("index", [0, 3, 6, 9])
def test_a_perturbed_weight_is_named(index):
    def edit(model, weights):
        name = convolutions(model)[index].input[1]
        rng = np.random.default_rng(0)
        weights[name] += rng.standard_normal(weights[name].shape).astype(np.float32) * weights[name].std()

    data = changed(edit)
    found = findings(data)
    assert found["weight-differs"] == convolutions(onnx.load_from_string(data))[index].input[1]
    assert "features-diverge" in found


def test_swapped_channels_of_the_first_convolution():
    def edit(model, weights):
        name = convolutions(model)[0].input[1]
        weights[name] = weights[name][:, ::-1].copy()

    given = pictures()
    sides = [Side(m, given[0].reference.shape) for m in (REFERENCE, changed(edit))]
    words = [
        f.words for f in judge(compare(*sides, given, methods=()).report, Thresholds()) if f.code == "weight-differs"
    ]
    assert "reverse order" in words[0]


def test_a_wrong_mean_and_std_and_swapped_channels_of_the_input():
    assert findings(REFERENCE, lambda x: x * 0.5 + 0.3)["input-differs"] == "scale"
    assert findings(REFERENCE, lambda x: x[:, ::-1])["input-differs"] == "channels"
    assert findings(REFERENCE, lambda x: np.roll(x, 3, -1))["input-differs"] == "values"


def test_a_quantiser_whose_range_is_too_small():
    model = onnx.load(REFERENCE.with_name("digits_cnn_int8.onnx"))
    weights = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scale = next(n.input[1] for n in nodes if n.op_type == "QuantizeLinear" and "stage1.0/Relu_output" in n.input[0])
    tensor = weights[scale]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 6, scale))
    found = findings(model.SerializeToString())
    assert "stage1.0/Relu_output" in found["saturated"]


def test_renamed_layers_are_matched_by_what_they_hold():
    model = onnx.load(REFERENCE)
    for one in model.graph.node:
        for names in (one.input, one.output):
            for i, name in enumerate(names):
                if name and name not in ("image", "probabilities") and "output" in name:
                    names[i] = f"t{abs(hash(name))}"
    given = pictures()[:2]
    sides = [Side(m, given[0].reference.shape) for m in (REFERENCE, model)]
    layers = compare(*sides, given, methods=()).report["layers"]
    assert {row["rule"] for row in layers} == {"activations"}
    assert all(row["cosine"] > 1 - 1e-9 for row in layers) and len(layers) >= 10


# ---- Kept results ----


def test_a_recorded_side_is_not_run_again(tmp_path, monkeypatch):
    given = pictures()
    shape = given[0].reference.shape
    candidate = REFERENCE.with_name("digits_cnn_int8.onnx")
    side = Side(REFERENCE, shape, store=Store(tmp_path))
    for picture in given:
        assert side.record(picture.reference, ("grad-cam", "gradient")) == {}
    live = compare(Side(REFERENCE, shape), Side(candidate, shape), given).report
    recorded = Side(REFERENCE, shape, store=Store(tmp_path))

    def fail(*_):
        raise AssertionError("the reference runs")

    for name in ("_run", "_measured"):
        monkeypatch.setattr(recorded, name, fail)
    report = compare(recorded, Side(candidate, shape, store=Store(tmp_path)), given).report
    assert report["rows"] == live["rows"] and report["evidence"] == live["evidence"]
    for a, b in zip(report["layers"], live["layers"], strict=True):
        assert a["layer"] == b["layer"] and a["cosine"] == pytest.approx(b["cosine"], abs=2e-4)
        assert a["sqnr_db"] == pytest.approx(b["sqnr_db"], abs=0.5)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_comparison_is_the_same_for_any_number_of_workers_and_interruptions(tmp_path, monkeypatch, workers):
    given = pictures()[:5]
    int8 = REFERENCE.with_name("digits_cnn_int8.onnx")

    def compared(**options):
        sides = [Side(m, given[0].reference.shape, threads=1) for m in (REFERENCE, int8)]
        return compare(*sides, given, keep=2, **options)

    whole, real = compared(workers=1), Comparing.step

    def stops(self, batch):
        if batch[0].sample.number == 3:
            raise KeyboardInterrupt
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Comparing, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            compared(folder=tmp_path, workers=workers)
    for found in (compared(folder=tmp_path, workers=workers), compared(folder=tmp_path, workers=workers)):
        assert json.dumps(found.report) == json.dumps(whole.report)
        assert list(found.maps) == list(whole.maps) and len(found.maps) == 2
        for name, by_method in whole.maps.items():
            for method, pair in by_method.items():
                for a, b in zip(pair, found.maps[name][method], strict=True):
                    np.testing.assert_array_equal(a, b)


def test_a_store_does_not_mix_runtimes(tmp_path, monkeypatch):
    given = pictures()
    side = Side(REFERENCE, given[0].reference.shape, store=Store(tmp_path))
    side.record(given[0].reference, ())
    monkeypatch.setattr("analyzer.runtime.host.runtime_version", lambda: "0.1")
    elsewhere = Side(REFERENCE, given[0].reference.shape, store=Store(tmp_path))
    assert elsewhere.output(given[0].reference).shape == (10,)
    with pytest.raises(InputError, match=r"onnxruntime: .* there, 0\.1 here"):
        elsewhere.output(given[1].reference)


def test_a_damaged_result_is_made_anew(tmp_path):
    store = Store(tmp_path)
    store.put("a", {"x": np.arange(3)})
    file = tmp_path / "a.npz"
    file.write_bytes(file.read_bytes()[:40])
    assert store.get("a") is None
    assert store.kept("a", lambda: {"x": np.arange(4)})["x"].size == 4
    assert key_of("m", np.zeros(2)) != key_of("m", np.zeros(3)) and sampled(np.zeros((200, 200))).shape == (SAMPLE,)


def test_quantised_scores_are_read_as_what_they_stand_for():
    plain, quantised = small_cnn(), small_cnn()
    name = quantised.graph.output[0].name
    quantised.graph.node.append(node("QuantizeLinear", [name, "scale", "zero"], ["q"]))
    quantised.graph.initializer.extend(
        numpy_helper.from_array(a, n) for a, n in ((np.float32(1 / 256), "scale"), (np.uint8(3), "zero"))
    )
    quantised.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, ["N", 4]))
    image = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    a, b = (Side(m, image.shape).output(image) for m in (plain, quantised))
    assert np.abs(a - b).max() <= 1 / 512 + 1e-6


# ---- Numbers ----


def test_metrics():
    rng = np.random.default_rng(0)
    a = rng.random((8, 8))
    assert spearman(a, a**3) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    assert spearman(np.ones(4), np.ones(4)) == 1 and spearman(a, np.ones((8, 8))) == 0
    assert top_iou(a, a * 2 + 1) == 1 and top_iou(a, -a) == 0
    assert maximum_shift(np.eye(1, 64, 0).reshape(8, 8), np.eye(1, 64, 63).reshape(8, 8)) == pytest.approx(1)
    assert energy_inside(np.ones((4, 4)), np.array([[0, 0, 2, 4]])) == 0.5
    drift = Drift()
    drift.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert drift.sqnr == pytest.approx(20) and drift.largest == 0.5


def test_spearman_as_scipy_has_it():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 60), rng.integers(0, 5, 60)
    assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)


def test_the_matching_keeps_the_order():
    rng = np.random.default_rng(2)
    a, b, c = (rng.standard_normal((1, 3, 4, 4)) for _ in range(3))
    found = match_by_activations({"a": a, "b": b, "c": c}, {"x": a, "y": rng.standard_normal((1, 3, 4, 4)), "z": c})
    assert [(m.reference, m.candidate) for m in found] == [("a", "x"), ("c", "z")]


def given(array: np.ndarray, rounded: bool = False, inside: bool = False) -> Prepared:
    return Prepared(array, rounded, inside)


def test_input_difference_of_equal_inputs_in_two_layouts():
    x = np.random.default_rng(0).random((1, 3, 5, 6))
    assert input_difference(given(x), given(np.moveaxis(x, 1, -1))) is None


MEAN, STD = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.25, 0.3], np.float32)


def of_bytes(how: str, scale: float = 255.0) -> onnx.ModelProto:
    """`small_cnn` with its preprocessing inside: bytes, NHWC or NCHW."""
    proto = small_cnn(size=12, batch=1)
    graph = proto.graph
    nhwc = how == "casts"
    graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, [1, 12, 12, 3] if nhwc else [1, 3, 12, 12])
    )
    shape = (3,) if nhwc else (3, 1, 1)
    arrays = {
        "full": np.float32(scale),
        "step": np.float32(1 / scale),
        "zero": np.uint8(0),
        "mean": MEAN.reshape(shape),
        "std": STD.reshape(shape),
        "unit": (1 / STD / scale).astype(np.float32),
        "offset": -MEAN / STD,
        "none": np.zeros(3, np.float32),
        "one": np.ones(3, np.float32),
    }
    scaled = [
        node("Sub", ["pixels", "mean"], ["centered"]),
        node("Div", ["centered", "std"], ["x" if not nhwc else "last"]),
    ]
    front = {
        "casts": [
            node("Cast", ["bytes"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("Div", ["floats", "full"], ["pixels"]),
            *scaled,
            node("Transpose", ["last"], ["x"], perm=[0, 3, 1, 2]),
        ],
        "dequantized": [node("DequantizeLinear", ["bytes", "step", "zero"], ["pixels"]), *scaled],
        "normalized": [
            node("Cast", ["bytes"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("BatchNormalization", ["floats", "unit", "offset", "none", "one"], ["x"], epsilon=0.0),
        ],
    }[how]
    read = {name for n in front for name in n.input}
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n in read)
    nodes = [*front, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize("how", ["casts", "dequantized", "normalized"])
def test_inputs_are_compared_after_the_preprocessing_in_the_file(how):
    pictures = np.random.default_rng(3).integers(0, 256, (3, 1, 3, 12, 12), np.uint8)
    floats = ((pictures / 255 - MEAN.reshape(3, 1, 1)) / STD.reshape(3, 1, 1)).astype(np.float32)
    shape = (1, 12, 12, 3) if how == "casts" else (1, 3, 12, 12)
    fed = np.moveaxis(pictures, 2, -1) if how == "casts" else pictures
    given = [Pair(str(i), a, b) for i, (a, b) in enumerate(zip(floats, fed, strict=True))]
    found = {}
    for scale in (255.0, 128.0):
        sides = Side(small_cnn(size=12, batch=1), (1, 3, 12, 12)), Side(of_bytes(how, scale), shape)
        report = compare(*sides, given, methods=("grad-cam",)).report
        found[scale] = judge(report, Thresholds())
        assert {row["layer"] for row in report["layers"]} == {"r1", "p1", "r2", "logits"}
    assert not found[255.0]
    assert (found[128.0][0].code, found[128.0][0].where) == ("input-differs", "scale")
    assert found[128.0][0].words.startswith("after the preprocessing inside the files, the candidate's input is")


def test_a_scale_that_the_first_weight_makes_up_for_is_no_finding():
    """A quantised build that takes pixels of 0–255: its layers are some 35 dB from the reference's."""
    candidate = small_cnn(size=12, batch=1)
    for tensor in candidate.graph.initializer:
        if tensor.name == "w1":
            weight = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).standard_normal(weight.shape) * np.abs(weight).mean() * 0.02
            tensor.CopyFrom(onnx.numpy_helper.from_array(((weight + noise) / 255).astype(np.float32), "w1"))
    pictures = np.random.default_rng(3).random((3, 1, 3, 12, 12)).astype(np.float32)
    for scale, codes in ((255, set()), (128, {"input-differs"})):
        given = [Pair(str(i), a, a * scale) for i, a in enumerate(pictures)]
        sides = Side(small_cnn(size=12, batch=1), (1, 3, 12, 12)), Side(candidate, (1, 3, 12, 12))
        report = compare(*sides, given, methods=("grad-cam",)).report
        assert report["input"]["kind"] == "scale"
        assert {f.code for f in judge(report, Thresholds())} & {"input-differs"} == codes


# ---- The command ----


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", "compare", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def test_the_command_and_its_forms(run, tmp_path):
    candidate = tmp_path / "candidate.onnx"
    candidate.write_bytes(changed(lambda m, w: w[convolutions(m)[2].input[1]].__imul__(-1)))
    both = [str(REFERENCE), str(candidate), "--data", str(EXAMPLES[0].parent), "--limit", "2", "--preset", "imagenet"]
    reports = {ending: tmp_path / f"report.{ending}" for ending in ("json", "html", "md", "xml", "sarif")}
    asked = [word for path in reports.values() for word in ("--report", str(path))]
    code, out, err = run(*both, "-m", "grad-cam", *asked)
    assert code == 1 and "weight-differs" in out and "Traceback" not in err
    (first, *_) = json.loads(reports["json"].read_text())["findings"]
    assert all(first["where"] in path.read_text() for path in reports.values())
    assert out.startswith(f"{len(json.loads(reports['json'].read_text())['findings'])} findings: {first['where']}: ")
    page = reports["html"].read_text()
    assert (
        "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "data:image/webp" in page
    )
    assert ElementTree.fromstring((tmp_path / "report.xml").read_text().split("\n", 1)[1]).get("failures") != "0"
    assert json.loads((tmp_path / "report.sarif").read_text())["version"] == "2.1.0"
    first = (tmp_path / "report.json").read_bytes()
    run(*both, "-m", "grad-cam", "--report", str(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == first
    loose = [f"--limit-of={n}=0" for n in ("label_agreement", "feature_cosine", "evidence_correlation", "evidence_iou")]
    loose += [f"--limit-of={n}=9" for n in ("weight_error", "score_drift")] + ["--limit-of=float_sqnr=-99"]
    code, out, _ = run(*both, "--judge", str(tmp_path / "report.json"), *loose)
    assert code == 0 and "pass:" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", str(ROOT / "docs"), "--limit-of", "label_agreement=x"], "NAME=VALUE"),
        (["--data", str(ROOT / "examples"), "--limit-of", "label=1"], "label"),
        (["--data", str(ROOT / "examples"), "--thresholds", "nothing.toml"], "nothing.toml"),
        (["--data", str(ROOT / "examples"), "--limit", "1", "--report", "report.docx"], ".docx"),
    ],
)
def test_bad_calls(run, arguments, words):
    code, out, err = run(str(REFERENCE), str(REFERENCE), *arguments)
    assert code == 2 and words in err and "Traceback" not in err and out == ""


# ---- The plan ----


def test_reading_layers_keeps_the_integer_kernels():
    given = pictures()[:1]
    int8 = REFERENCE.with_name("digits_cnn_int8.onnx")
    sides = [Side(m, given[0].reference.shape) for m in (REFERENCE, int8)]
    plans = compare(*sides, given, methods=()).report["plan"]
    assert plans["candidate"]["same"] and plans["candidate"]["integer"][0] == plans["candidate"]["integer"][1] > 10
    assert not plans["reference"]["same"] and "Add" in plans["reference"]["words"]


def test_a_plan_that_turns_to_floating_point_is_told():
    side = Side(REFERENCE.with_name("digits_cnn_int8.onnx"), (1, 3, 96, 96))
    quantised = [
        n.inputs[0].name for n in side.graph.forward_nodes() if n.op == "QuantizeLinear" and n.inputs[0].inputs
    ]
    side.tap(quantised)
    assert "run in floating point" in side.kernels()["words"]
    side.explainer.session_options["level"] = "disable"
    assert side.kernels()["same"]


def test_files_fused_to_integer_operators_are_read_dequantised(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "extended.onnx")
    ort.InferenceSession(str(REFERENCE.with_name("digits_cnn_int8.onnx")), options, ["CPUExecutionProvider"])
    assert findings(tmp_path / "extended.onnx") == {}


def test_a_perturbed_weight_is_named_where_names_are_lost():
    def edit(model, weights):
        name = convolutions(model)[4].input[1]
        weights[name] *= 1 + 0.2 * np.random.default_rng(0).standard_normal(weights[name].shape).astype(np.float32)

    model = onnx.load_from_string(changed(edit))
    planted = convolutions(model)[4].input[1]
    for one in model.graph.node:
        one.input[:] = [n.replace("onnx::Conv", "w") for n in one.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("onnx::Conv", "w")
    assert findings(model)["weight-differs"] == planted


def test_a_range_too_small_in_front_of_a_relu():
    model = onnx.load(REFERENCE.with_name("digits_cnn_int8.onnx"))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("stem.1.0/Conv_output_0_scale"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 4, tensor.name))
    assert findings(model.SerializeToString())["saturated"].endswith("stem.1.0/Conv_output_0")


# ---- Every output ----


def detector(shift: float = 0.0, numbers: bool = False, narrow: float = 0.0, ordered: bool = False) -> onnx.ModelProto:
    """Scores (1, 16, 3) and boxes (1, 16, 4) of one feature map; as a builder breaks it.

    Args:
        shift: of the boxes. numbers: an output of integers as well. narrow: scale of uint8 boxes, 0 for floats.
        ordered: the boxes in the order of the scores.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.3,
        "ws": rng.standard_normal((3, 8, 1, 1)).astype(np.float32) * 0.2,
        "wb": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
        "off": np.array([6 + shift], np.float32),
        "s3": np.array([1, 3, 16], np.int64),
        "s4": np.array([1, 4, 16], np.int64),
    }
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1], strides=[3, 3]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "ws"], ["cs"], "class"),
        node("Sigmoid", ["cs"], ["probable"], "squash"),
        node("Reshape", ["probable", "s3"], ["rows"], "rows"),
        node("Transpose", ["rows"], ["scores"], "scores", perm=[0, 2, 1]),
        node("Conv", ["r1", "wb"], ["cb"], "box"),
        node("Add", ["cb", "off"], ["moved"], "move"),
        node("Reshape", ["moved", "s4"], ["columns"], "columns"),
        node("Transpose", ["columns"], ["boxes"], "boxes", perm=[0, 2, 1]),
    ]
    outputs: dict[str, list] = {"scores": [1, 16, 3], "boxes": [1, 16, 4]}
    types = {"scores": onnx.TensorProto.FLOAT, "boxes": onnx.TensorProto.FLOAT}
    if numbers:
        nodes.append(node("ArgMax", ["scores"], ["labels"], "labels", axis=2, keepdims=0))
        outputs["labels"], types["labels"] = [1, 16], onnx.TensorProto.INT64
    if narrow:
        weights |= {"step": np.float32(narrow), "zero": np.uint8(0)}
        nodes[-1].output[0] = "boxes32"
        nodes.append(node("QuantizeLinear", ["boxes32", "step", "zero"], ["boxes"], "quantise"))
        types["boxes"] = onnx.TensorProto.UINT8
    if ordered:
        weights |= {"all": np.array([16], np.int64), "last": np.array([2], np.int64)}
        nodes[-1].output[0] = "unordered"
        nodes += [
            node("ReduceMax", ["scores"], ["best"], axes=[2], keepdims=0),
            node("TopK", ["best", "all"], ["values", "order"], "top", axis=1),
            node("Unsqueeze", ["order", "last"], ["index"]),
            node("Expand", ["index", "four"], ["indices"]),
            node("GatherElements", ["unordered", "indices"], ["boxes"], axis=1),
        ]
        weights["four"] = np.array([1, 16, 4], np.int64)
    proto = model(nodes, {"x": [1, 3, 12, 12]}, outputs, weights)
    for value in proto.graph.output:
        value.type.tensor_type.elem_type = types[value.name]
    return proto


def over_noise(reference, candidate, folder=None):
    """(findings, report) over three pictures of noise."""
    arrays = np.random.default_rng(1).random((3, 1, 3, 12, 12)).astype(np.float32)
    sides = [Side(m, (1, 3, 12, 12)) for m in (reference, candidate)]
    given = [Pair(str(i), a, a) for i, a in enumerate(arrays)]
    report = compare(*sides, given, methods=("grad-cam",), folder=folder).report
    return judge(report, Thresholds()), report


@pytest.mark.parametrize(
    "candidate",
    [detector(shift=5), detector(narrow=0.02), detector(shift=-40)],
    ids=["moved", "clipped by a quantiser", "far"],
)
def test_broken_boxes_beside_sound_scores_are_found(candidate, tmp_path):
    files = [tmp_path / f"{name}.onnx" for name in ("reference", "candidate")]
    for file, proto in zip(files, (detector(), candidate), strict=True):
        onnx.save(proto, file)
    for folder in (None, tmp_path / "s", tmp_path / "s"):
        found, report = over_noise(*files, folder)
        places = {"outputs-differ": "boxes", "first-deviation": "moved", "features-diverge": "moved"}
        assert found[0].where == places[found[0].code]
        assert "'boxes'" in found[0].words and "'scores'" not in found[0].words
        assert {f.code for f in found[1:]} <= {"features-diverge", "outputs-differ", "predictions-differ"}
        assert "moved" in {row["layer"] for row in report["layers"]}
        assert [(r["output"], r["error_mean"] > 0.15) for r in report["compared"]] == [
            ("scores", False),
            ("boxes", True),
        ]


def test_the_error_of_boxes_is_that_of_its_definition():
    """A shift by 5 of every coordinate, over the RMS of the coordinate that is smallest."""
    _, report = over_noise(detector(), detector(shift=5))
    arrays = np.random.default_rng(1).random((3, 1, 3, 12, 12)).astype(np.float32)
    boxes = np.concatenate([Side(detector(), (1, 3, 12, 12)).all_outputs(a)["boxes"] for a in arrays])
    expected = 5 / np.sqrt((boxes**2).mean(axis=(0, 1))).min()
    assert report["compared"][1]["error_mean"] == pytest.approx(expected, rel=1e-5)


def test_outputs_of_other_names_are_paired_by_their_shapes():
    other = detector(shift=5)
    for index, (old, new) in enumerate((("scores", "confidence"), ("boxes", "corners"))):
        other.graph.output[index].name = new
        for one in other.graph.node:
            one.input[:] = [new if n == old else n for n in one.input]
            one.output[:] = [new if n == old else n for n in one.output]
    found, report = over_noise(detector(), other)
    pairs = [(r["output"], r["candidate"]) for r in report["compared"]]
    assert pairs == [("scores", "confidence"), ("boxes", "corners")] and not report["not_compared"]
    assert [(f.code, f.where) for f in found[:2]] == [("first-deviation", "moved"), ("outputs-differ", "boxes")]


@pytest.mark.parametrize("turned", [False, True])
def test_the_pictures_that_agree_least_are_shown(turned):
    given = pictures()[::-1] if turned else pictures()
    sides = [Side(m, given[0].reference.shape) for m in (REFERENCE, REFERENCE.with_name("digits_cnn_int8.onnx"))]
    done = compare(*sides, given, methods=("grad-cam",), keep=1)
    agreed = {row["picture"]: row["evidence"]["grad-cam"]["rank_correlation"] for row in done.report["rows"]}
    assert len(set(agreed.values())) == len(given) and list(done.maps) == [min(agreed, key=agreed.__getitem__)]


def test_quantised_boxes_are_compared_by_what_they_stand_for():
    found, report = over_noise(detector(), detector(narrow=0.1))
    assert {f.code for f in found} <= {
        "first-deviation",
        "predictions-differ",
    }  # the random boxes are no larger than a step
    assert 0 < report["compared"][1]["error_mean"] < 0.05


def test_what_cannot_be_compared_is_said(run, tmp_path):
    found, report = over_noise(detector(numbers=True), detector())
    assert not found and report["not_compared"] == [{"output": "labels", "side": "reference", "why": "type int64"}]
    found, report = over_noise(detector(ordered=True), detector(ordered=True, shift=5))
    assert {f.code for f in found} <= {"first-deviation", "predictions-differ"}
    assert report["compared"][1]["sorted"] == "top"
    files = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    onnx.save(detector(numbers=True), files[0])
    onnx.save(detector(), files[1])
    both = [*files, "--data", str(EXAMPLES[0].parent), "--limit", "1", "--preset", "0-1", "-m", "grad-cam"]
    for ending in ("html", "md", "xml", "sarif", "json"):
        code, out, _ = run(*both, "--report", str(tmp_path / f"r.{ending}"))
        assert code == 0 and "not compared: labels (reference): type int64" in out
        text = (tmp_path / f"r.{ending}").read_text()
        assert "boxes" in text and "type int64" in text, ending


# ---- Names that mean nothing ----


def renamed(proto: onnx.ModelProto, change) -> onnx.ModelProto:
    """The same network, `change` giving the new names of its weights, and of its tensors, from the old."""
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    kept = {v.name for v in (*new.graph.input, *new.graph.output)}
    names: dict[str, str] = {}
    for group in ([t.name for t in new.graph.initializer], [o for n in new.graph.node for o in n.output if o]):
        own = [n for n in group if n not in kept]
        names |= dict(zip(own, change(own), strict=True))
    for tensor in new.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for one in new.graph.node:
        one.input[:] = [names.get(n, n) for n in one.input]
        one.output[:] = [names.get(n, n) for n in one.output]
    del new.graph.value_info[:]
    return new


def shuffled(names: list[str]) -> list[str]:
    return [str(n) for n in np.random.default_rng(0).permutation(names)]


def shifted(names: list[str]) -> list[str]:
    """As a re-export with one node more at the front numbers them."""
    return [*names[1:], f"{names[-1]}_next"]


def with_identities(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Two Negs after every Conv."""
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    nodes = []
    for one in new.graph.node:
        nodes.append(one)
        if one.op_type == "Conv":
            output = one.output[0]
            one.output[0] = f"{output}/a"
            nodes += [node("Neg", [f"{output}/a"], [f"{output}/b"]), node("Neg", [f"{output}/b"], [output])]
    del new.graph.value_info[:]
    replace_all(new.graph.node, nodes)
    return new


@pytest.mark.parametrize("change", [shuffled, shifted])
@pytest.mark.parametrize("proto", [onnx.load(REFERENCE), with_identities(onnx.load(REFERENCE))], ids=["", "identities"])
def test_a_network_against_itself_passes_whatever_its_names(change, proto):
    assert findings(renamed(proto, change)) == {}
    assert findings(proto) == {}


@pytest.mark.parametrize("change", [shuffled, shifted])
def test_a_perturbed_weight_is_named_although_names_are_dealt_anew(change):
    def edit(proto, weights):
        name = convolutions(proto)[4].input[1]
        noise = np.random.default_rng(0).standard_normal(weights[name].shape).astype(np.float32)
        weights[name] += 0.3 * noise * np.linalg.norm(weights[name]) / np.linalg.norm(noise)

    broken = onnx.load_from_string(changed(edit))
    assert findings(renamed(broken, change))["weight-differs"] == convolutions(broken)[4].input[1]


@pytest.mark.parametrize("softmax", [0, 1])
def test_logits_against_probabilities_pass(softmax):
    files = small_cnn(softmax=False), small_cnn(softmax=True)
    found, report = over_noise(files[softmax], files[1 - softmax])
    assert not found and report["outputs"]["compared_after"] == "Softmax"
    assert report["outputs"]["score_drift_max"] < 1e-5


@pytest.mark.parametrize(("output", "found"), [("logit", set()), ("age", {"scores-drift"})])
def test_a_sigmoid_makes_probabilities_of_a_logit_and_is_a_fault_after_a_value(output, found):
    def network(*last):
        nodes = [
            node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w2"], ["y" if last else output]),
        ]
        rng = np.random.default_rng(0)
        arrays = {"w1": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w2": np.full((4, 1), 2, np.float32)}
        nodes += [node(op, ["y"], [output]) for op in last]
        return model(nodes, {"x": [1, 3, 12, 12]}, {output: [1, 1]}, arrays)

    codes = {f.code for f in over_noise(network(), network("Sigmoid"))[0]}
    assert codes >= found and bool(codes) == bool(found)


def test_another_scale_of_pixels_that_the_file_undoes_is_none():
    """The candidate divides by 255 itself, or by 128, which is found by its cause."""

    def fed_raw(divisor: float) -> onnx.ModelProto:
        proto = small_cnn()
        proto.graph.node[0].input[0] = "scaled"
        proto.graph.node.insert(0, node("Div", ["x", "divisor"], ["scaled"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(divisor, np.float32), "divisor"))
        return proto

    arrays = np.random.default_rng(1).random((3, 1, 3, 12, 12)).astype(np.float32)
    given = [Pair(str(i), a, 255 * a) for i, a in enumerate(arrays)]
    for divisor, codes in ((255, []), (128, ["input-differs"])):
        sides = [Side(m, (1, 3, 12, 12)) for m in (small_cnn(), fed_raw(divisor))]
        found = judge(compare(*sides, given, methods=()).report, Thresholds())
        assert [f.code for f in found][:1] == codes


def test_weights_are_compared_a_few_rows_at_a_time(monkeypatch):
    from analyzer.validation import weights as compared

    rng = np.random.default_rng(0)
    a = rng.standard_normal((20, 6)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32) * np.float32(0.1)
    whole = [compared._relative(a, b, folded) for folded in (False, True)]
    assert whole[0] == np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a.astype(np.float64))
    sizes, rescaled = [], compared._rescaled
    monkeypatch.setattr(compared, "CHUNK", 18)
    monkeypatch.setattr(compared, "_rescaled", lambda x, y: sizes.append(len(x)) or rescaled(x, y))
    np.testing.assert_allclose([compared._relative(a, b, folded) for folded in (False, True)], whole, rtol=1e-12)
    assert max(sizes) == 3 and sum(sizes) == 20


MODELS = Path(__file__).parents[1] / "models"
DIGITS = sorted((Path(__file__).parents[1] / "examples").glob("digits_*.png"))


def moved_boxes(pixels):
    """The digits detector, its centers moved to the right: far less than a box's coordinates, but beside the digits."""
    proto = onnx.load(MODELS / "digits_detector.onnx")
    output = proto.graph.output[0]
    for made in proto.graph.node:
        made.output[:] = ["unmoved" if name == output.name else name for name in made.output]
    shift = np.zeros((1, 14, 1), np.float32)
    shift[0, 0] = pixels
    proto.graph.initializer.append(onnx.numpy_helper.from_array(shift, "shift"))
    proto.graph.node.append(onnx.helper.make_node("Add", ["unmoved", "shift"], [output.name]))
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("candidate", "found_at"),
    [
        (lambda: MODELS / "digits_detector_int8.onnx", []),
        (lambda: moved_boxes(0), []),
        (lambda: moved_boxes(6), [("predictions-differ", "output0")]),
    ],
    ids=["INT8", "as it is", "moved"],
)
def test_detections_are_compared_as_what_they_say(candidate, found_at, tmp_path):
    reference = MODELS / "digits_detector.onnx"
    shutil.copy(MODELS / "models.toml", tmp_path)
    arrays = [model_card(reference).preprocess.apply(decode(picture))[0] for picture in DIGITS]
    found = candidate()
    if isinstance(found, bytes):
        (tmp_path / reference.name).write_bytes(found)
        found = tmp_path / reference.name
    sides = [Side(file, (1, 3, 96, 96)) for file in (reference, found)]
    pairs = [Pair(picture.name, array, array) for picture, array in zip(DIGITS, arrays, strict=True)]
    report = compare(*sides, pairs, methods=("grad-cam",)).report
    by_words = Thresholds(float_sqnr=0.0)  # the numbers of two float builds need not be near each other
    assert [(f.code, f.where) for f in judge(report, by_words)] == found_at
    about = report["predictions"]
    assert (about["measure"], about["pictures"]) == ("detection quality", len(DIGITS))
    assert (about["mean"] < 0.75) == bool(found_at)


def test_rows_that_a_model_orders_are_compared_as_what_they_say():
    ordered = {"predictions": {"measure": "detection quality", "outputs": ["rows"], "pictures": 2, "mean": 0.5,
                               "lowest": 0.2, "lowest_picture": "cat.jpg"}}  # fmt: skip
    report = over_noise(detector(ordered=True), detector(ordered=True))[1]
    (finding,) = judge(report | ordered, Thresholds())
    assert (finding.code, finding.where) == ("predictions-differ", "rows")
    assert "lowest 0.200 on cat.jpg" in finding.words


def test_every_measure_of_predictions_is_defined():
    tasks = ROOT / "analyzer" / "tasks"
    files = [tasks / "segmentation.py", tasks / "text.py", *tasks.glob("keypoints/*.py"), *tasks.glob("detection/*.py")]
    measures = {m for f in files for m in re.findall(r'Agreement\(\s*"([^"]+)"', f.read_text(encoding="utf-8"))}
    assert len(measures) >= 4 and measures <= set(DEFINITIONS)


def test_one_scale_for_coordinates_and_scores_is_named():
    """An output of coordinates and scores whose one scale is larger than any score: in INT8 all of these are 0."""

    def network(scale: float | None) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        arrays = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "wide": np.array(300, np.float32)}
        output = "y" if scale is None else "joined"
        nodes = [
            node("Conv", ["x", "w"], ["c"]),
            node("Sigmoid", ["c"], ["scores"]),
            node("Mul", ["scores", "wide"], ["boxes"]),
            node("Concat", ["boxes", "scores"], [output], axis=1),
        ]
        if scale is not None:
            arrays |= {"scale": np.array(scale, np.float32), "zero": np.array(0, np.uint8)}
            nodes += [node("QuantizeLinear", ["joined", "scale", "zero"], ["q"])]
            nodes += [node("DequantizeLinear", ["q", "scale", "zero"], ["y"])]
        return model(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 8, 10, 10]}, arrays)

    found = {scale: over_noise(network(None), network(scale))[0] for scale in (300 / 255, 300 / 2550)}
    words = next(f.words for f in found[300 / 255] if f.code == "outputs-differ")
    assert "one scale, 1.18, quantizes the whole output, but the values there are at most" in words
    assert not any("one scale" in f.words for f in found[300 / 2550])
