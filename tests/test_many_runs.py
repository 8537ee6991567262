"""Methods that evaluate the model many times: published numbers, brute force with plain onnxruntime, identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import analyzer
from analyzer import explain
from analyzer.analysis.feature_maps import default_layer
from analyzer.attribution import Explainer, Job
from analyzer.attribution.centers import Probe
from analyzer.attribution.evaluator import Evaluator
from analyzer.attribution.methods import METHODS
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph.cut import behind, frontier
from analyzer.images import decode, model_card
from analyzer.runtime import Session
from analyzer.tasks import recognise
from tests.models import model, node, small_cnn

MODELS = Path(__file__).parents[1] / "models"
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
CNN = small_cnn()
RUNS = sorted(n for n, m in METHODS.items() if m.runs and n != "d-rise")  # of classifiers


def run(net: onnx.ModelProto, output: str, **feeds: np.ndarray) -> np.ndarray:
    """An output of a model by plain onnxruntime."""
    return ort.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"]).run([output], feeds)[0]


def masked(net: onnx.ModelProto, layer: str, outputs: list[str]) -> onnx.ModelProto:
    """`net` with tensor `layer` multiplied by a new input `mask`, and with further outputs."""
    net = onnx.ModelProto.FromString(net.SerializeToString())
    at = next(i for i, n in enumerate(net.graph.node) if layer in n.output)
    for other in net.graph.node:
        for i, name in enumerate(other.input):
            other.input[i] = "masked" if name == layer else name
    net.graph.node.insert(at + 1, node("Mul", [layer, "mask"], ["masked"]))
    net.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [None] * 4))
    net.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
    return net


def one_conv() -> onnx.ModelProto:
    """captum's BasicModel_ConvNet_One_Conv, called with a second input of ones."""
    weights = {
        "one": np.float32(1), "w": np.ones((2, 1, 3, 3), np.float32), "b": np.array([-50, -75], np.float32),
        "fc": np.tile(np.array([1, 1, 1, 1, 1, -1, -1, -1], np.float32), (4, 1)),
    }  # fmt: skip
    nodes = [
        node("Add", ["x", "one"], ["s"]),
        node("Conv", ["s", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["v"]),
        node("Gemm", ["v", "fc"], ["f"], transB=1),
        node("Relu", ["f"], ["y"]),
    ]
    return model(nodes, {"x": [1, 1, 4, 4]}, {"y": [1, 4]}, weights)


def residual() -> onnx.ModelProto:
    """Two branches that meet behind the layer `a`, and squeeze-and-excitation."""
    rng = np.random.default_rng(1)
    weights = {
        n: rng.standard_normal(s).astype(np.float32) * 0.3
        for n, s in {"w0": (4, 3, 3, 3), "w1": (4, 4, 3, 3), "w2": (4, 4, 1, 1), "w3": (4, 5)}.items()
    }
    nodes = [
        node("Conv", ["x", "w0"], ["stem"], pads=[1, 1, 1, 1]),
        node("Conv", ["stem", "w1"], ["a0"], pads=[1, 1, 1, 1]),
        node("Relu", ["a0"], ["a"]),
        node("Conv", ["a", "w2"], ["b"]),
        node("Add", ["b", "stem"], ["s"]),
        node("GlobalAveragePool", ["stem"], ["g0"]),
        node("Sigmoid", ["g0"], ["gate"]),
        node("Mul", ["s", "gate"], ["t"]),
        node("Relu", ["t"], ["u"]),
        node("GlobalMaxPool", ["u"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w3"], ["logits"]),
    ]
    return model(nodes, {"x": ["N", 3, 12, 12]}, {"logits": ["N", 5]}, weights)


# ---- Published numbers ----


def test_captum_occlusion_goldens():
    """tests/attr/test_occlusion.py, test_simple_multi_input_conv, the part of the first input."""
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert np.allclose(explain(one_conv(), x, "occlusion", 0, patch=4, fill=0).raw, 67)
    found = explain(one_conv(), x, "occlusion", 0, patch="2x3", stride=(2, 1), fill="zero")
    assert np.allclose(found.raw[0], [[17] * 4, [17] * 4, [64, 65.5, 65.5, 67], [64, 65.5, 65.5, 67]])


def test_pair_occlusion_goldens():
    """saliency/core/occlusion_test.py: drops are summed there over the patches that cover a pixel, averaged here."""
    net = model(
        [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Mul", ["s", "three"], ["t"]),
         node("Reshape", ["t", "shape"], ["y"])],
        {"x": [1, 1, 5, 5]}, {"y": [1, 1]}, {"three": np.float32(3), "shape": np.array([1, 1])},
    )  # fmt: skip
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 1, 1] = x[0, 0, 3, 3] = 1
    found = explain(net, x, "occlusion", 0, patch=3, stride=1, fill=0).raw[0]
    cover = np.array([1, 2, 3, 2, 1])
    expected = [[3, 6, 6, 3, 0], [6, 15, 18, 12, 3], [6, 18, 24, 18, 6], [3, 12, 18, 15, 6], [0, 3, 6, 6, 3]]
    assert np.allclose(found * np.outer(cover, cover), expected)


def test_pair_integrated_gradients_goldens():
    """saliency/core/integrated_gradients_test.py: y = 5a + b² + sin c from (0.5, 1, 1) to (1, 2, 3)."""
    nodes = [
        node("Add", ["x", "start"], ["z"]),
        node("Split", ["z"], ["a", "b", "c"], axis=3, num_outputs=3),
        node("Mul", ["a", "five"], ["p"]),
        node("Mul", ["b", "b"], ["q"]),
        node("Sin", ["c"], ["r"]),
        node("Sum", ["p", "q", "r"], ["s"]),
        node("Flatten", ["s"], ["y"]),
    ]
    start = np.array([0.5, 1, 1], np.float32)
    net = model(
        nodes, {"x": [1, 1, 1, 3]}, {"y": [1, 1]}, {"start": start.reshape(1, 1, 1, 3), "five": np.float32(5)}, opset=18
    )
    x = np.array([1, 2, 3], np.float32) - start
    found = explain(net, x.reshape(1, 1, 1, 3), "integrated-gradients", 0)
    assert np.allclose(found.raw.ravel(), [2.5, 3, np.sin(3) - np.sin(1)], atol=1e-5)
    assert abs(found.details["completeness"][0]) < 1e-5


def test_captum_integrated_gradients_goldens():
    """tests/attr/test_integrated_gradients_basic.py, BasicModel2: relu(relu(3) − 1 − relu(1)) gives 1.5 and −0.5."""
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Split", ["r"], ["a", "b"], axis=3, num_outputs=2),
        node("Sub", ["a", "one"], ["p"]),
        node("Sub", ["p", "b"], ["q"]),
        node("Relu", ["q"], ["s"]),
        node("Flatten", ["s"], ["y"]),
    ]
    net = model(nodes, {"x": [1, 1, 1, 2]}, {"y": [1, 1]}, {"one": np.float32(1)}, opset=18)
    x = np.array([3, 1], np.float32).reshape(1, 1, 1, 2)
    found = explain(net, x, "integrated-gradients", 0, steps=300).raw
    assert np.allclose(found.ravel(), [1.5, -0.5], atol=0.02)


# ---- Brute force ----


def test_occlusion_is_the_loop():
    size, step = 5, 3
    found = explain(CNN, IMAGE, "occlusion", 2, patch=size, stride=step, fill="mean", score="probability")
    plain = run(CNN, "probabilities", x=IMAGE)[0, 2]
    total, cover = np.zeros((12, 12)), np.zeros((12, 12))
    for row, top in enumerate(range(0, 10, step)):
        for column, left in enumerate(range(0, 10, step)):
            changed = IMAGE.copy()
            part = np.s_[:, :, top : top + size, left : left + size]
            changed[part] = IMAGE.mean(axis=(2, 3), keepdims=True)
            scores = run(CNN, "probabilities", x=changed)[0]
            assert found.details["score"][0, row, column] == pytest.approx(scores[2], abs=1e-6)
            assert found.details["top"][0, row, column] == scores.argmax()
            total[part[2:]] += plain - scores[2]
            cover[part[2:]] += 1
    assert np.allclose(found.raw[0], total / cover, atol=1e-6)


def test_occlusion_of_a_feature_maps_activation():
    found = explain(CNN, IMAGE, "occlusion", '"r1"[:, 3].sum()', patch=6, stride=6, fill=0)
    net = masked(CNN, "r2", ["r1"])
    mask = np.ones((1, 16, 6, 6), np.float32)
    changed = IMAGE.copy()
    changed[:, :, 6:, :6] = 0
    assert found.details["score"][0, 1, 0] == pytest.approx(run(net, "r1", x=changed, mask=mask)[0, 3].sum(), rel=1e-5)


def weighted(effect: np.ndarray, score: float, maps: np.ndarray) -> np.ndarray:
    return np.maximum(np.einsum("k,kij->ij", effect / abs(score), maps), 0)


@pytest.mark.parametrize(("net", "layer", "output"), [
    (CNN, "r1", "logits"), (CNN, "r2", "logits"), (residual(), "a", "logits"), (residual(), "stem", "logits"),
])  # fmt: skip
def test_ablation_cam_is_brute_force(net, layer, output):
    found = explain(net, IMAGE, "ablation-cam", 1, layer)
    maps = analyzer.features(net, IMAGE, [layer])[layer]
    net = masked(net, layer, [output] if output not in [o.name for o in net.graph.output] else [])
    ones = np.ones_like(maps)
    score = run(net, output, x=IMAGE, mask=ones)[0, 1]
    effect = []
    for k in range(maps.shape[1]):
        mask = ones.copy()
        mask[:, k] = 0
        effect.append(score - run(net, output, x=IMAGE, mask=mask)[0, 1])
    expected = weighted(np.array(effect), score, maps[0])
    assert np.allclose(found.raw[0], expected, atol=1e-5 * np.abs(expected).max() + 1e-7)


def test_ablation_cam_of_an_image_of_integers_is_that_of_the_same_numbers():
    floats = small_cnn(softmax=False)
    integers = onnx.ModelProto.FromString(floats.SerializeToString())
    integers.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    integers.graph.node[0].input[0] = "numbers"
    integers.graph.node.insert(0, node("Cast", ["x"], ["numbers"], to=onnx.TensorProto.FLOAT))
    image = RNG.integers(0, 256, (1, 3, 12, 12), np.uint8)
    found = explain(integers, image, "ablation-cam", 1), explain(floats, image.astype(np.float32), "ablation-cam", 1)
    assert found[0].raw.max() > 0
    np.testing.assert_allclose(found[0].raw, found[1].raw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gaussian", [False, True])
def test_recipro_cam_is_brute_force(gaussian):
    found = explain(residual(), IMAGE, "recipro-cam", 1, "a", gaussian=gaussian, score="score").raw[0]
    net = masked(residual(), "a", [])
    window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]) if gaussian else np.outer([0, 1, 0], [0, 1, 0])
    for i, j in [(0, 0), (5, 7), (11, 11), (3, 0)]:
        mask = np.zeros((1, 1, 14, 14), np.float32)
        mask[0, 0, i : i + 3, j : j + 3] = window
        assert found[i, j] == pytest.approx(run(net, "logits", x=IMAGE, mask=mask[:, :, 1:-1, 1:-1])[0, 1], abs=1e-5)


def test_score_cam_is_brute_force():
    import cv2

    found = explain(CNN, IMAGE, "score-cam", 3, "r2").raw[0]
    net = masked(CNN, "r1", ["logits", "r2"])
    mask = np.ones((1, 1, 1, 1), np.float32)
    maps = run(net, "r2", x=IMAGE, mask=mask)[0]
    wide = np.stack([cv2.resize(m, (12, 12), interpolation=cv2.INTER_LINEAR) for m in maps])
    low, high = wide.min(axis=(1, 2), keepdims=True), wide.max(axis=(1, 2), keepdims=True)
    unit = (wide - low) / np.where(high == low, 1, high - low)
    scores = np.array([run(net, "logits", x=IMAGE * u, mask=mask)[0, 3] for u in unit], np.float64)
    weights = np.exp(scores) / np.exp(scores).sum()
    assert np.allclose(found, np.maximum(np.einsum("k,kij->ij", weights, maps), 0), atol=1e-5)


def test_rise_is_its_definition_and_the_seed_decides():
    found = explain(CNN, IMAGE, "rise", 1, masks=40, cells=3).raw
    assert np.array_equal(found, explain(CNN, IMAGE, "rise", 1, masks=40, cells=3).raw)
    assert not np.allclose(found, explain(CNN, IMAGE, "rise", 1, masks=40, cells=3, seed=1).raw)
    # All cells kept: every mask is one, so that R = y / p everywhere.
    whole = explain(CNN, IMAGE, "rise", 1, masks=3, keep=1.0).raw
    assert np.allclose(whole, run(CNN, "probabilities", x=IMAGE)[0, 1], atol=1e-6)


# ---- Gradients ----


def test_smooth_grad_without_noise_is_the_gradient():
    gradient = explain(CNN, IMAGE, "gradient", 1).raw
    assert np.allclose(explain(CNN, IMAGE, "smooth-grad", 1, noise=0.0, samples=3).raw, gradient, atol=1e-6)
    assert np.abs(explain(CNN, IMAGE, "var-grad", 1, noise=0.0, samples=3).raw).max() < 1e-9


def test_smooth_grad_and_var_grad_are_the_moments_of_gradients():
    sigma = 0.2 * (IMAGE.max() - IMAGE.min())
    noisy = [IMAGE[0] + sigma * np.random.default_rng([5, i]).standard_normal(IMAGE[0].shape) for i in range(20)]
    gradients = explain(CNN, np.stack(noisy).astype(np.float32), "gradient", 1).raw
    options = {"noise": 0.2, "samples": 20, "seed": 5}
    assert np.allclose(explain(CNN, IMAGE, "smooth-grad", 1, **options).raw[0], gradients.mean(0), atol=1e-6)
    assert np.allclose(explain(CNN, IMAGE, "var-grad", 1, **options).raw[0], gradients.var(0), atol=1e-6)


@pytest.mark.parametrize("method", RUNS)
def test_random_numbers_are_of_a_pixel_and_channel_not_of_a_layout(method):
    given = {"samples": 6} if method in ("smooth-grad", "var-grad") else {}
    given |= {"masks": 6, "cells": 3} if method == "rise" else {}
    first = explain(CNN, IMAGE, method, 1, **given).raw
    last = explain(channels_last(CNN), IMAGE.transpose(0, 2, 3, 1), method, 1, **given).raw
    last = last.transpose(0, 3, 1, 2) if last.ndim == 4 else last
    assert np.abs(first - last).max() <= 1e-5 * np.abs(first).max()


def channels_last(net: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with an NHWC input."""
    net = onnx.ModelProto.FromString(net.SerializeToString())
    given = net.graph.input[0]
    net.graph.node.insert(0, node("Transpose", ["pixels"], [given.name], perm=[0, 3, 1, 2]))
    sizes = [d.dim_value or d.dim_param for d in given.type.tensor_type.shape.dim]
    sizes = [sizes[0], *sizes[2:], sizes[1]]
    given.CopyFrom(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, sizes))
    return net


def test_units_are_measured_on_the_same_noise_in_every_layout():
    found = []
    for net in (CNN, channels_last(CNN)):
        file = Explainer(net)
        graph = file.graph({file.image: (1, 3, 12, 12) if net is CNN else (1, 12, 12, 3)})
        layer = default_layer(graph, recognise(graph).logits)
        found.append(Probe(file, graph, layer).measure((1, 1)))
    assert np.allclose(*found, rtol=1e-6)


def test_integrated_gradients_are_complete():
    found = explain(CNN, IMAGE, "integrated-gradients", [0, 2], steps=200)
    total = found.raw.sum(axis=(1, 2, 3))
    net = masked(CNN, "r1", ["logits"])
    mask = np.ones((1, 1, 1, 1), np.float32)
    ends = [run(net, "logits", x=x, mask=mask)[0, [0, 2]] for x in (IMAGE, np.zeros_like(IMAGE))]
    assert np.allclose(found.details["difference"], ends[0] - ends[1], atol=1e-5)
    assert np.allclose(total - found.details["difference"], found.details["completeness"], atol=1e-5)
    assert np.abs(found.details["completeness"]).max() < 0.02 * np.abs(found.details["difference"]).max()


def test_full_grad_of_wide_layers():
    """Biases that are set aside as weights (4 KiB and more)."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "v", "e"], ["y"]),
    ]
    weights = {
        "w": rng.standard_normal((1100, 3, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(1100).astype(np.float32),
        "v": rng.standard_normal((1100, 1100)).astype(np.float32),
        "e": rng.standard_normal(1100).astype(np.float32),
    }
    given = model(nodes, {"x": [1, 3, 8, 8]}, {"y": None}, weights)
    found = explain(given, rng.standard_normal((1, 3, 8, 8)).astype(np.float32), "full-grad", 7)
    assert abs(found.details["completeness"][0]) < 1e-4 * abs(found.details["difference"][0])


def test_full_grad_is_complete():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32),
        "scale": np.float32([1, 2, 0.5, 1]), "shift": np.float32([1, -1, 2, 0]), "mean": np.float32([0.5, 1, 0, -1]),
        "var": np.float32([1, 2, 3, 4]), "half": np.float32(0.5), "fc": rng.standard_normal((4, 2)).astype(np.float32),
        "c": np.float32([3, -2]), "offset": rng.standard_normal((1, 3, 1, 1)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        node("Sub", ["x", "offset"], ["x0"]),
        node("Conv", ["x0", "w", "b"], ["c0"]),
        node("BatchNormalization", ["c0", "scale", "shift", "mean", "var"], ["n"], epsilon=0.01),
        node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        node("Sub", ["half", "r"], ["s"]),
        node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "fc", "c"], ["y"]),
    ]
    net = model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 2]}, weights)
    for net_, classes in ((net, [0, 1]), (CNN, [0, 3])):
        found = explain(net_, np.concatenate([IMAGE, -IMAGE]), "full-grad", [classes[0], classes[1]])
        assert np.abs(found.details["completeness"]).max() < 1e-4
        assert np.abs(found.details["difference"]).min() > 0.01


# ---- Attention ----


def vit(target: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(attentions per block, their names, gradients of the logit) of the shipped transformer on a picture of noise."""
    path = MODELS / "digits_vit.onnx"
    image = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    names = [n.output[0] for n in onnx.load(path).graph.node if n.op_type == "Softmax"]
    assert len(names) > 1
    logits = Explainer(path).plain.producer(Explainer(path).plain["probabilities"]).inputs[0].name
    vjp = analyzer.append_vjp(path, [logits], names)
    session = ort.InferenceSession(vjp.model.SerializeToString(), providers=["CPUExecutionProvider"])
    cotangent = np.zeros((1, 10), np.float32)
    cotangent[0, target] = 1
    gradients = session.run([vjp.gradients[n] for n in names], {"image": image, vjp.cotangents[logits]: cotangent})
    found = analyzer.features(path, image, names)
    return image, [found[n][0] for n in names], [g[0] for g in gradients]


def test_rollouts_are_their_definitions():
    image, attentions, gradients = vit(4)
    rollout, relevance = np.eye(145), np.eye(145)
    for a, g in zip(attentions, gradients, strict=True):
        mixed = a.mean(0).astype(np.float64) + np.eye(145)
        rollout = (mixed / mixed.sum(1, keepdims=True)) @ rollout
        relevance = relevance + np.maximum(a * g, 0).mean(0) @ relevance
    path = MODELS / "digits_vit.onnx"
    found = explain(path, image, "attention-rollout").raw[0]
    assert np.allclose(found.ravel(), rollout[0, 1:], rtol=1e-4, atol=1e-7)
    found = explain(path, image, "gradient-rollout", 4).raw[0]
    assert np.allclose(found.ravel(), relevance[0, 1:], rtol=1e-3, atol=1e-6)


def test_no_rollout_without_attention():
    with pytest.raises(UnsupportedError, match="no softmax over tokens"):
        explain(CNN, IMAGE, "attention-rollout")


# ---- The engine ----


@pytest.mark.parametrize("method", RUNS)
def test_a_fixed_batch_gives_the_same(method):
    few = {"rise": {"masks": 20}, "occlusion": {"patch": 6, "stride": 3}}.get(method, {})
    free = explain(CNN, IMAGE, method, 1, **few)
    fixed = explain(small_cnn(batch=1), IMAGE, method, 1, **few)
    assert np.allclose(free.raw, fixed.raw, atol=1e-5 * np.abs(free.raw).max())
    pair = explain(small_cnn(batch=2), np.concatenate([IMAGE, IMAGE]), method, 1, **few)
    assert np.allclose(pair.raw[1], free.raw[0], atol=1e-5 * np.abs(free.raw).max())


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients", "recipro-cam", "ablation-cam"])
@pytest.mark.parametrize("name", ["digits_cnn_fp16.onnx", "digits_cnn_int8.onnx"])
def test_other_precisions(name, method):
    options = {"occlusion": {"patch": 24}, "integrated-gradients": {"steps": 20}}.get(method, {})
    card = model_card(MODELS / "digits_cnn.onnx")
    image, _ = card.preprocess.apply(decode(MODELS.parent / "examples" / "digits_chelsea.png"))
    found, plain = (explain(MODELS / n, image, method, 4, **options) for n in (name, "digits_cnn.onnx"))
    assert np.isfinite(found.raw).all()
    if method != "integrated-gradients" or "int8" not in name:
        assert np.corrcoef(found.heatmap.ravel(), plain.heatmap.ravel())[0, 1] > 0.8


def test_only_the_tail_runs():
    graph = Explainer(residual()).graph({"x": (4, 3, 12, 12)})
    assert frontier(graph, "a", ["logits"]) == ["stem", "gate"]
    tail = behind(graph, ["a", "stem", "gate"], ["logits"], product="a")
    assert sorted(v.name for v in tail.inputs) == ["a/left", "a/right", "gate", "stem"]
    assert {n.op for n in tail.nodes} == {"Mul", "Conv", "Add", "Relu", "GlobalMaxPool", "Flatten", "MatMul"}
    assert sum(n.op == "Conv" for n in tail.nodes) == 1
    feeds = analyzer.features(residual(), np.repeat(IMAGE, 4, axis=0), ["a", "stem", "gate"])
    given = {"a/left": feeds["a"], "a/right": np.ones((1, 1, 1, 1), np.float32), **feeds}
    found = Session(tail).run({n: given[n] for n in ("a/left", "a/right", "stem", "gate")})["logits"]
    assert np.allclose(found[0], run(residual(), "logits", x=IMAGE)[0], atol=1e-6)


def test_memory_is_bounded_by_batches(monkeypatch):
    sizes = []
    original = Evaluator._run
    monkeypatch.setattr(
        Evaluator, "_run", lambda self, p, f: sizes.append(len(f.get("x", "1"))) or original(self, p, f)
    )
    explain(CNN, IMAGE, "rise", 1, masks=70)
    assert max(sizes) <= 16


def test_progress_is_told():
    seen = []
    jobs = [Job("rise", options={"masks": 40})]
    Explainer(CNN).explain_all(IMAGE, jobs, 1, progress=lambda *step: seen.append(step))
    assert seen[0] == ("rise", 0, 40) and seen[-1] == ("rise", 40, 40)


@pytest.mark.parametrize(("method", "options", "says"), [
    ("occlusion", {"patch": "wide"}, "must be in pixels"),
    ("occlusion", {"patch": (1, 2, 3)}, "does not fit"),
    ("occlusion", {"fill": "gry"}, "did you mean 'gray'"),
    ("occlusion", {"fill": float("nan")}, "not a finite number"),
    ("smooth-grad", {"noise": "abc"}, "'abc', not a number"),
    ("smooth-grad", {"samples": 2.5}, "2.5, not a whole number"),
    ("rise", {"masks": True}, "True, not a whole number"),
    ("recipro-cam", {"gaussian": 1}, "1, not true or false"),
    ("occlusion", {"size": 3}, "no option 'size'"),
    ("rise", {"keep": 0.0}, "0 < keep"),
    ("rise", {"score": "logit"}, "must be one of score, probability"),
    ("integrated-gradients", {"steps": 0}, "needs steps ≥ 1"),
    ("integrated-gradients", {"baseline": "inpaint"}, "smaller than the image"),
    ("smooth-grad", {"samples": 0}, "samples must be ≥ 1"),
])  # fmt: skip
def test_options_are_checked(method, options, says):
    with pytest.raises(InputError, match=says):
        explain(CNN, IMAGE, method, 1, **options)


@pytest.mark.parametrize("fill", ["zero", "gray", "grey", "mean", "blur", "inpaint", 0.5, "-1.5"])
def test_fills(fill):
    found = explain(CNN, IMAGE, "occlusion", 1, fill=fill, patch=4)
    assert found.diagnosis == [""]


def test_many_runs_are_no_graph_to_export(tmp_path):
    with pytest.raises(UnsupportedError, match="cannot be a single graph"):
        analyzer.export(CNN, tmp_path / "m.onnx", "rise")
