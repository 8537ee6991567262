"""Quantised files: the scores are the deployed ones, and what saturates is explained or named."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer.analysis.scores import is_quantised
from analyzer.attribution import Explainer, Job
from analyzer.commands import main
from analyzer.graph.query import image_input
from analyzer.images import decode, model_card, write_png
from analyzer.tasks import recognise
from analyzer.validation import Side
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 3, 12, 12)).astype(np.float32)
LOGITS = "logits"


def quantised(net: onnx.ModelProto, images: np.ndarray, narrow: dict[str, float] | None = None) -> onnx.ModelProto:
    """`net` with a QuantizeLinear and a DequantizeLinear behind every node, int8, calibrated on `images`.

    Args:
        narrow: {tensor: factor} that its range is multiplied by.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(net)
    names = [o for n in net.graph.node for o in n.output]
    del tapped.graph.output[:]
    tapped.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    given = net.graph.input[0].name
    found = ort.InferenceSession(tapped.SerializeToString()).run(names, {given: images})
    reach = dict(zip(names, (float(np.abs(a).max()) for a in found), strict=True)) | {
        given: float(np.abs(images).max())
    }
    nodes, weights = [], list(net.graph.initializer)
    behind = {}

    def wrap(name: str) -> None:
        scale = np.float32(reach[name] * (narrow or {}).get(name, 1.0) / 127)
        weights.extend([numpy_helper.from_array(scale, f"{name}/s"), numpy_helper.from_array(np.int8(0), f"{name}/z")])
        parameters = [f"{name}/s", f"{name}/z"]
        nodes.append(node("QuantizeLinear", [name, *parameters], [f"{name}/q"], f"{name}/quantise"))
        nodes.append(node("DequantizeLinear", [f"{name}/q", *parameters], [f"{name}/d"]))
        behind[name] = f"{name}/d"

    wrap(given)
    for one in net.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(one)
        copy.input[:] = [behind.get(i, i) for i in one.input]
        nodes.append(copy)
        wrap(one.output[0])
    (output,) = net.graph.output
    ends = [helper.make_tensor_value_info(behind[output.name], TensorProto.FLOAT, ["N", None])]
    graph = helper.make_graph(nodes, "quantised", net.graph.input, ends, weights)
    return helper.make_model(graph, opset_imports=net.opset_import, ir_version=net.ir_version)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def stock(file: str | bytes, x: np.ndarray) -> np.ndarray:
    """The first output of a plain session."""
    session = ort.InferenceSession(file)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


# ---- Deployed scores ----

BUILDS = ["cases/situations/c15_se_int8_qop", "cases/situations/c15_se_int8", "models/shufflenet_v2_12_int8",
          "models/squeezenet1.1_ortquant_qdq_perchannel_s8", "models/mobilenet_v2_1.0_224_quant",
          "models/mobilenet_v1_0.5_160_quant", "models/vww_96_int8"]  # fmt: skip


@needs_corpus
@pytest.mark.parametrize("build", BUILDS)
def test_scores_are_those_of_stock_onnxruntime(build):
    """Bit for bit, as the numbers that they stand for, whichever method is appended and by whatever entry."""
    file = CORPUS / f"{build}.onnx"
    explainer = Explainer(file)
    given = image_input(explainer.plain)
    shape = [d if isinstance(d, int) else (1, 3, 224, 224)[i] for i, d in enumerate(given.shape)]
    x = RNG.random(shape).astype(np.float32) if given.dtype.kind == "f" else RNG.integers(0, 128, shape, given.dtype)
    expected = recognise(explainer.plain).quantisation.real(stock(str(file), x)).reshape(1, -1)
    for found in [
        *explainer.explain_all(x, [Job("gradient"), Job("grad-cam"), Job("occlusion", "auto", {"patch": 128})])
    ]:
        assert found.scores.dtype == np.float32 and np.array_equal(found.scores, expected)
        assert found.target[0] == expected.argmax()
    side = Side(explainer, x.shape)
    assert side.classes(x).argmax() == expected.argmax()


def test_scores_of_bytes_are_deployed_ones_too():
    net = quantised(small_cnn(), IMAGES)
    found = Explainer(net.SerializeToString()).explain(IMAGES, "gradient")
    assert np.array_equal(found.scores, stock(net.SerializeToString(), IMAGES))


def test_dequantised_scores_of_an_integer_output():
    """scale · (q − zero), also where a Reshape comes after the quantiser."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Reshape", ["q", "shape"], ["y"]),
    ]
    weights = {"s": np.float32(0.5), "z": np.uint8(3), "shape": np.array([1, 4])}
    net = model(nodes, {"x": [1, 4, 1, 1]}, {"y": [1, 4]}, weights)
    net.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    x = np.array([0.4, 2.0, -0.6, 1.1], np.float32).reshape(1, 4, 1, 1)
    assert Side(net, x.shape).classes(x).tolist() == [0.5, 2.0, -0.5, 1.0]


def test_what_counts_as_quantised():
    assert not is_quantised(small_cnn()) and is_quantised(quantised(small_cnn(), IMAGES))
    body = helper.make_graph([node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], "b", [], [])
    net = small_cnn()
    net.graph.node.append(node("If", ["c"], ["o"], then_branch=body, else_branch=body))
    assert is_quantised(net)
    net = small_cnn()
    net.graph.node[0].op_type, net.graph.node[0].domain = "MatMulNBits", "com.microsoft"
    assert is_quantised(net)


# ---- Saturation ----


@pytest.mark.parametrize("softmax", [False, True])
def test_saturated_scores_are_explained_as_in_the_float_network(softmax):
    """The range of the logits is a fifth of what it should be: the best classes tie; the map is the float twin's."""
    net = small_cnn(classes=8, softmax=softmax)
    narrow = quantised(net, IMAGES, {LOGITS: 0.2})
    twin, explainer = Explainer(net), Explainer(narrow)
    found = explainer.explain(IMAGES, "gradient")
    assert (found.tied >= 2).all() and "classes tie at the maximum of the output's quantizer" in found.doubt
    assert "'logits/quantise'" in found.doubt
    for method in ("gradient", "grad-cam", "guided-backprop"):
        raw = explainer.explain(IMAGES, method).raw
        expected = twin.explain(IMAGES, method, list(found.target)).raw
        assert min(cosine(a, b) for a, b in zip(raw, expected, strict=True)) > 0.97, method
    found = explainer.explain(IMAGES, "gradient", f'"{LOGITS}/d"[:, {found.target[0]}]')
    assert found.raw[0].any() and not found.doubt


def test_ties_below_the_ceiling_are_no_saturation():
    net = quantised(small_cnn(classes=8, softmax=False), IMAGES, {LOGITS: 20})
    found = Explainer(net).explain(IMAGES, "gradient")
    assert not found.tied.any() and not found.doubt
    assert (found.scores.argmax(-1) == found.target).all()


def test_other_quantisers_stay_masked_and_are_named():
    """The pooled features are far beyond their range: nothing behind them depends on the picture."""
    net = small_cnn(classes=8, softmax=False)
    for n in net.graph.initializer:
        if n.name == "w2":
            n.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(n)), "w2"))
    explainer = Explainer(quantised(net, IMAGES, {"g": 1e-3}))
    for method in ("gradient", "grad-cam"):
        found = explainer.explain(IMAGES, method)
        assert not found.raw.any()
        for said in found.diagnosis:
            assert "'g/quantise' (100% of its values are saturated)" in said


def test_audit_and_explain_say_that_scores_tie(tmp_path, capsys, monkeypatch):
    pixels = RNG.random((1, 3, 32, 32)).astype(np.float32)
    net = small_cnn(classes=8, size=32, batch=1, seed=1)
    file = tmp_path / "narrow.onnx"
    onnx.save(quantised(net, pixels, {LOGITS: 0.2}), file)
    pictures = []
    for i in range(3):
        write_png(tmp_path / f"{i}.png", RNG.integers(0, 255, (32, 32, 3)).astype(np.uint8))
        pictures.append(Picture(str(i), decode(tmp_path / f"{i}.png")))
    how = model_card(file, {"preset": "0-1"}, [1, 3, 32, 32], np.float32).preprocess
    found = {f.code: f for f in findings(audit(Explainer(file), how, pictures).report)}
    assert found["saturated-scores"].value == 1.0
    sound = Explainer(quantised(net, pixels))
    assert "saturated-scores" not in {f.code for f in findings(audit(sound, how, pictures).report)}
    given = ["explain", str(file), str(tmp_path / "0.png"), "--preset", "0-1", "--format", "json", "-v"]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *given])
    with pytest.raises(SystemExit, match="0"):
        main()
    captured = capsys.readouterr()
    result = json.loads(captured.out)["results"][0]
    assert "tie at the maximum" in result["doubt"] and "tie at the maximum" in captured.err
    assert "bit for bit" in captured.err
    assert result["maps"][0]["class"] == result["top"][0]["class"]


@needs_corpus
@pytest.mark.parametrize(
    ("name", "picture", "box"),
    [  # of the animal, in pixels of the centre crop as a share of its side
        ("mobilenet_v1_0.5_160_quant", "orie_goldfish.jpg", (0.0, 0.15, 1.0, 0.85)),
        ("mobilenet_v2_1.0_224_quant", "coral_dragonfly.bmp", (0.1, 0.15, 0.9, 0.8)),
    ],
)
def test_a_sure_uint8_classifier_looks_at_the_animal(name, picture, box):
    file = CORPUS / "models" / f"{name}.onnx"
    explainer = Explainer(file)
    given = image_input(explainer.plain)
    card = model_card(file, {"resize": "crop"}, given.shape, given.dtype)
    x, _ = card.preprocess.apply(decode(CORPUS / "images" / picture))
    found = explainer.explain(x, "grad-cam")
    assert found.diagnosis == [""] and found.target[0] == found.scores[0].argmax()
    y, x = np.divmod(found.heatmap[0].argmax(), found.heatmap.shape[2]) / np.array(found.heatmap.shape[1:])
    assert box[0] <= x <= box[2] and box[1] <= y <= box[3]
    assert explainer.explain(card.preprocess.apply(decode(CORPUS / "images" / picture))[0], "gradient").raw.any()
