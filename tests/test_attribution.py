"""Methods against identities that hold for any correct engine, and against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import analyzer
from analyzer import explain
from analyzer.analysis.linear import last_linear
from analyzer.attribution import Explainer, Job, compiler
from analyzer.attribution import model as loaded_model
from analyzer.attribution.methods import METHODS
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 3, 12, 12)).astype(np.float32)
CNN = small_cnn()
NAMES = sorted(m for m in METHODS if m not in ("attention-rollout", "gradient-rollout", "d-rise"))


@pytest.mark.parametrize("method", NAMES)
def test_shapes_ranges_and_types(method):
    result = explain(CNN, IMAGE, method)
    kind = METHODS[method].kind
    assert result.raw.shape == {"cam": (2, 6, 6), "map": (2, 12, 12), "gradient": IMAGE.shape}[kind]
    assert result.raw.dtype == np.float32
    assert result.heatmap.shape == (2, 12, 12)
    assert result.heatmap.min() == 0 and result.heatmap.max() == 1
    assert result.scores.shape == (2, 4)
    assert np.allclose(result.scores.sum(1), 1, atol=1e-6)
    assert result.method == method and result.diagnosis == ["", ""]
    assert (result.target == result.scores.argmax(1)).all()


@pytest.mark.parametrize("method", NAMES)
def test_a_batch_is_its_singles(method):
    together = explain(CNN, IMAGE, method, target=1)
    for i in range(2):
        alone = explain(CNN, IMAGE[i : i + 1], method, target=1)
        scale = np.abs(alone.raw).max()
        assert np.allclose(together.raw[i], alone.raw[0], atol=1e-5 * scale)


@pytest.mark.parametrize("method", NAMES)
def test_an_answer_has_arrays_of_its_own(method):
    explainer, given = Explainer(CNN), IMAGE.copy()
    result = explainer.explain(given, method)
    assert np.array_equal(given, IMAGE)
    kept = {name: getattr(result, name).copy() for name in ("raw", "heatmap", "scores", "target", "image")}
    given[:] = 7
    other = explainer.explain(given, method)
    other.raw[:], other.heatmap[:], other.scores[:], other.target[:] = 1, 1, 1, 1
    for name, array in kept.items():
        assert np.array_equal(getattr(result, name), array), name


@pytest.mark.parametrize("method", NAMES)
def test_several_targets_are_those_one_by_one(method):
    several = explain(CNN, IMAGE[:1], method, target=[2, 0, "top1"])
    assert several.target.tolist()[:2] == [2, 0]
    assert several.image.tolist() == [0, 0, 0]
    for row, target in enumerate([2, 0]):
        assert np.allclose(several.raw[row], explain(CNN, IMAGE[:1], method, target=target).raw[0], atol=1e-6)


def test_one_target_per_image():
    result = explain(CNN, IMAGE, target=[3, 1])
    assert result.target.tolist() == [3, 1]
    assert np.allclose(result.raw[1], explain(CNN, IMAGE[1:], target=1).raw[0], atol=1e-6)


def test_cam_is_z_times_grad_cam_and_hires_cam_is_grad_cam_before_pooling_and_linear_layer():
    cam = explain(CNN, IMAGE, "cam").raw
    grad_cam = explain(CNN, IMAGE, "grad-cam").raw
    assert np.allclose(np.maximum(cam, 0), 36 * grad_cam, rtol=1e-4, atol=1e-5)
    assert np.allclose(explain(CNN, IMAGE, "hires-cam").raw, grad_cam, rtol=1e-4, atol=1e-6)


def test_cam_weights_are_those_of_the_linear_layer():
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in CNN.graph.initializer}
    maps = analyzer.features(CNN, IMAGE, ["r2"])["r2"]
    expected = np.einsum("k,nkij->nij", weights["w3"][:, 2], maps)
    assert np.allclose(explain(CNN, IMAGE, "cam", target=2).raw, expected, rtol=1e-4, atol=1e-5)


def test_softmax_is_left_out():
    with_softmax, without = explain(CNN, IMAGE, target=0), explain(small_cnn(softmax=False), IMAGE, target=0)
    assert with_softmax.stripped == ("Softmax",)
    assert np.allclose(with_softmax.raw, without.raw, atol=1e-7)


def test_eigen_cam_is_the_first_singular_vector():
    maps = analyzer.features(CNN, IMAGE, ["r2"])["r2"].astype(np.float64)
    for found, a in zip(explain(CNN, IMAGE, "eigen-cam").raw, maps, strict=True):
        flat = a.reshape(16, -1).T
        centred = flat - flat.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        expected = (u[:, 0] * s[0]).reshape(6, 6)
        expected *= np.sign((expected * centred.mean(1).reshape(6, 6)).sum())
        assert np.allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_guided_is_gradient_without_rectifiers():
    weights = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"])]
    net = model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 4]}, weights)
    found = [explain(net, IMAGE, m).raw for m in ("gradient", "guided-backprop", "deconvnet")]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


@pytest.mark.parametrize("spelling", ["Relu", "Clip", "Max", "ReLU6"])
def test_rectifiers_are_recognised_however_they_are_written(spelling):
    """captum's hand-computed numbers: tests/attr/test_guided_backprop.py and test_deconvolution.py."""
    weights = {
        "w": np.ones((2, 1, 3, 3), np.float32), "b": np.array([-50, -75], np.float32),
        "zero": np.float32(0), "six": np.float32(1e9), "w1": np.ones((8, 8), np.float32),
        "w2": np.ones((10, 8), np.float32),
    }  # fmt: skip
    relu = {
        "Relu": lambda x, y: node("Relu", [x], [y]),
        "Clip": lambda x, y: node("Clip", [x, "zero"], [y]),
        "ReLU6": lambda x, y: node("Clip", [x, "zero", "six"], [y]),
        "Max": lambda x, y: node("Max", ["zero", x], [y]),
    }[spelling]
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        relu("c", "r"),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[1, 1]),
        node("Flatten", ["p"], ["y"]),
    ]
    net = model(nodes, {"x": [1, 1, 4, 4]}, {"y": [1, 2]}, weights)
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    gradient = explain(net, x, "gradient", target=0).raw
    guided = explain(net, x, "guided-backprop", target=0).raw
    assert np.array_equal(gradient, guided)
    assert guided[0, 0].sum() == 9


def test_captum_grad_cam_goldens():
    """BasicModel_ConvNet_One_Conv of captum's tests/attr/layer/test_grad_cam.py: conv1 before its ReLU.

    Captum sums without ReLU and keeps the map's size; these maps are positive, so ReLU changes nothing.
    """
    weights = {
        "w": np.ones((2, 1, 3, 3), np.float32),
        "b": np.array([-50, -75], np.float32),
        "fc": np.tile(np.array([1, 1, 1, 1, 1, -1, -1, -1], np.float32), (4, 1)),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv1"),
        node("Relu", ["c"], ["r"], "relu1"),
        node("Flatten", ["r"], ["v"]),
        node("Gemm", ["v", "fc"], ["s"], transB=1),
        node("Relu", ["s"], ["y"]),
    ]
    net = model(nodes, {"x": [1, 1, 4, 4]}, {"y": [1, 4]}, weights)
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert np.allclose(explain(net, x, "grad-cam", 0, "conv1").raw, [[[11.25, 13.5], [20.25, 22.5]]])
    assert np.allclose(explain(net, x, "grad-cam", 0, "relu1").raw, [[[0, 4], [28, 32.5]]])


@pytest.mark.parametrize("target", ["probabilities[:, 2]", '"logits"[:, 2] - "logits"[:, 1]', "logits[:, 1:3].max()"])
def test_expressions(target):
    result = explain(CNN, IMAGE, "gradient", target)
    step = 1e-3
    direction = RNG.standard_normal(IMAGE.shape).astype(np.float32)

    def score(x):
        found = analyzer.features(CNN, x, ["probabilities", "logits"])
        p, z = found["probabilities"].astype(np.float64), found["logits"].astype(np.float64)
        return {0: p[:, 2], 1: z[:, 2] - z[:, 1], 2: z[:, 1:3].max(1)}[
            0 if target.startswith("prob") else 1 if "-" in target else 2
        ]

    numeric = (score(IMAGE + step * direction) - score(IMAGE - step * direction)) / (2 * step)
    analytic = (result.raw.astype(np.float64) * direction).sum((1, 2, 3))
    assert np.allclose(analytic, numeric, rtol=0.05, atol=0.02 * np.abs(numeric).max())


def test_labels_and_globs():
    labels = ["cat", "dog, hound", "cow", "emu"]
    assert explain(CNN, IMAGE[:1], target="hound", labels=labels).target.tolist() == [1]
    assert explain(CNN, IMAGE[:1], layer="relu*").layer == "r2"
    assert explain(CNN, IMAGE[:1], layer="relu1").raw.shape == (1, 12, 12)
    with pytest.raises(NotFoundError, match=r"did you mean 'dog, hound'|cow"):
        explain(CNN, IMAGE[:1], target="hund", labels=labels)
    with pytest.raises(NotFoundError, match="relu1"):
        explain(CNN, IMAGE[:1], layer="rellu1")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"method": "gradcam"}, NotFoundError, "did you mean 'grad-cam'"),
        ({"target": 4}, InputError, "0 to 3"),
        ({"target": -2}, InputError, "negative"),
        ({"target": "cat"}, NotFoundError, "labels"),
        ({"target": "logits["}, InputError, "expression"),
        ({"target": "__import__('os').system('true')"}, InputError, "target"),
        ({"layer": "logits"}, UnsupportedError, "not a feature map"),
        ({"layer": "w1"}, UnsupportedError, "feature map"),
        ({"inputs": IMAGE[:, :2]}, InputError, "takes the shape"),
        ({"inputs": IMAGE.astype(np.int64)}, InputError, "takes float32"),
        ({"inputs": np.full_like(IMAGE, np.nan)}, InputError, "NaN"),
        ({"inputs": {"y": IMAGE}}, InputError, "no input"),
        ({"provider": "cuda:9"}, Exception, "CUDA|cuda"),
        ({"provider": "gpu"}, Exception, "execution provider"),
        ({"method": "cam", "layer": "relu1"}, UnsupportedError, "MaxPool|before any global"),
        ({"epsilon": 1}, InputError, "no option"),
    ],
)
def test_bad_input_is_one_clear_error(change, error, says):
    with pytest.raises(error, match=says) as caught:
        explain(**{"model": CNN, "inputs": IMAGE, **change})
    assert isinstance(caught.value, analyzer.AnalyzerError)


def test_a_target_that_does_not_depend_on_the_layer():
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
    ]
    net = model(nodes, {"x": [1, 3, 8, 8]}, {"m": [1, 3], "r": [1, 2, 8, 8]}, {"w": np.ones((2, 3, 1, 1), np.float32)})
    with pytest.raises(UnsupportedError, match="does not depend on"):
        explain(net, IMAGE[:1, :, :8, :8], layer="r")


def test_degenerate_maps_are_diagnosed():
    dead = small_cnn()
    for tensor in dead.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((16, 8, 3, 3), np.float32), "w2"))
    assert "zero everywhere" in explain(dead, IMAGE[:1]).diagnosis[0]
    negative = small_cnn()
    for tensor in negative.graph.initializer:
        if tensor.name == "w3":
            tensor.CopyFrom(onnx.numpy_helper.from_array(-np.ones((16, 4), np.float32), "w3"))
    assert "≤ 0" in explain(negative, IMAGE[:1]).diagnosis[0]
    broken = small_cnn()
    for tensor in broken.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(8, np.inf, np.float32), "b1"))
    assert "conv1" in explain(broken, IMAGE[:1]).diagnosis[0]


@pytest.mark.parametrize("method", ["grad-cam", "guided-backprop", "eigen-cam"])
def test_exported_model_gives_the_same_heatmap_in_plain_onnxruntime(tmp_path, method):
    path = analyzer.export(CNN, tmp_path / "m.onnx", method)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["probabilities", "heatmap"]
    assert [i.name for i in session.get_inputs()] == ["x"]
    probabilities, heatmap = session.run(None, {"x": IMAGE})
    expected = explain(CNN, IMAGE, method)
    assert np.allclose(heatmap, expected.heatmap, atol=1e-4)
    assert np.allclose(probabilities, expected.scores, atol=1e-6)
    assert "receipt" in next(p.value for p in onnx.load(path).metadata_props if p.key == "onnx-analyzer")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_export_leaves_nothing_half_written(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        analyzer.export(CNN, tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(NotFoundError):
        analyzer.export(CNN, tmp_path / "m.onnx", layer="nothing")
    assert not list(tmp_path.iterdir())


def test_features_leave_the_outputs_as_they_are():
    plain = ort.InferenceSession(CNN.SerializeToString()).run(None, {"x": IMAGE})[0]
    found = analyzer.features(CNN, IMAGE, ["relu*", "probabilities"])
    assert list(found) == ["r1", "r2", "probabilities"]
    assert np.allclose(found["probabilities"], plain, atol=1e-6)


def test_methods_and_layers_together_are_those_one_by_one(monkeypatch):
    sessions = []
    plain = compiler.Session
    for room in (compiler, loaded_model):
        monkeypatch.setattr(room, "Session", lambda *a, **k: sessions.append(1) or plain(*a, **k))
    given = small_cnn()
    images = np.random.default_rng(3).standard_normal((2, 3, 12, 12)).astype(np.float32)
    jobs = [
        Job("grad-cam", "r2"),
        Job("grad-cam", "r1"),
        Job("guided-grad-cam"),
        Job("full-grad"),
        Job("occlusion", options={"patch": 4}),
        Job("gradient"),
    ]
    together = Explainer(given).explain_all(images, jobs, [1, "top1"])
    assert len(sessions) == 4  # one for five methods; occlusion runs the model as it is, and batches of two sizes
    for job, found in zip(jobs, together, strict=True):
        alone = Explainer(given).explain(images, job.method, [1, "top1"], job.layer, **job.options)
        assert (found.method, found.layer) == (alone.method, alone.layer)
        assert np.allclose(found.raw, alone.raw, rtol=1e-5, atol=1e-6) and np.array_equal(found.target, alone.target)


@pytest.mark.parametrize("layer", ["r2", "r1"])
@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("softmax", [True, False])
def test_maps_of_all_classes_are_those_one_by_one(layer, batch, softmax):
    explainer = Explainer(small_cnn(classes=130, softmax=softmax, batch=batch))
    image = np.random.default_rng(4).standard_normal((1, 3, 12, 12)).astype(np.float32)
    found = analyzer.class_maps(explainer, image, layer=layer)
    for index in (0, 63, 64, 129):
        alone = explainer.explain(image, "grad-cam", index, layer).raw[0]
        assert np.allclose(found[index], alone, rtol=1e-4, atol=1e-6)
    assert np.allclose(analyzer.class_maps(explainer, image, [5, 2], layer), found[[5, 2]], rtol=1e-5, atol=1e-7)


def test_maps_of_all_classes_of_a_quantised_head():
    """The rows of the last layer are read off the dequantised weights."""
    given = small_cnn(classes=70, softmax=False, batch=1)
    (weights,) = (t for t in given.graph.initializer if t.name == "w3")
    q = np.round(numpy_helper.to_array(weights) / 0.02).clip(-127, 127).astype(np.int8)
    weights.CopyFrom(numpy_helper.from_array(q.T.copy(), "q3"))
    given.graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "s3"))
    fc = given.graph.node[-1]
    fc.input[1] = "t3"
    given.graph.node.insert(0, node("DequantizeLinear", ["q3", "s3"], ["d3"]))
    given.graph.node.insert(1, node("Transpose", ["d3"], ["t3"], perm=[1, 0]))
    explainer = Explainer(given)
    graph = explainer.graph({})
    assert last_linear(graph, graph["logits"]) is not None
    image = np.random.default_rng(4).standard_normal((1, 3, 12, 12)).astype(np.float32)
    found = analyzer.class_maps(explainer, image)
    for index in (0, 69):
        assert np.allclose(found[index], explainer.explain(image, "grad-cam", index).raw[0], rtol=1e-4, atol=1e-6)


def test_class_maps_refuse():
    with pytest.raises(InputError, match="one picture"):
        analyzer.class_maps(small_cnn(), np.zeros((2, 3, 12, 12), np.float32))
    with pytest.raises(InputError, match="class 4 does not exist"):
        analyzer.class_maps(small_cnn(), np.zeros((1, 3, 12, 12), np.float32), [4])
