"""Treated files against the interpreter of `straight_through`, and that interpreter against torch itself.

Needs the `torch` extra; skipped without it. The sweep over many networks and treatments is benchmarks/treated.py.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.attribution import Explainer
from benchmarks import small_networks
from benchmarks.small_networks import NETWORKS
from benchmarks.treatments import TREATMENTS
from tests.test_torch_models import distance, guide, torch

straight_through = pytest.importorskip("tests.straight_through")
Interpreter, target_of = straight_through.Interpreter, straight_through.target_of

CLASSIFIERS = ("squeezenet", "mobilenet_v2", "densenet", "inception", "swin", "channels_last")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def interpreted(model: onnx.ModelProto, picture: np.ndarray, index: int, **options: object) -> np.ndarray:
    """The gradient of a class of the first output."""
    at = target_of(model, model.graph.output[0].name)
    values = Interpreter(model, passing=at.passing, **options).run({model.graph.input[0].name: picture})
    logits = values[at.name] * (values[at.scale] if at.scale else 1)
    return torch.autograd.grad(logits.reshape(-1)[index], values[model.graph.input[0].name])[0].numpy()


@pytest.mark.parametrize(
    ("name", "guided"), [*((name, False) for name in CLASSIFIERS), ("squeezenet", True), ("inception", True)]
)
def test_interpreter_is_torch(name, guided, folder):
    """Of the exported file and of the module: the same gradient in float64."""
    model = onnx.load(small_networks.file(name, folder))
    net = small_networks.module(name).double()
    if guided:
        guide(net)
    picture = NETWORKS[name].pictures(1, 1)
    image = torch.from_numpy(picture).double().requires_grad_()
    expected = torch.autograd.grad(net(image)[0, 3], image)[0].numpy()
    assert distance(interpreted(model, picture, 3, guided=guided), expected) < 1e-5


@pytest.mark.parametrize("treatment", ["qdq u16u8", "qoperator u8u8", "qoperator u8s8 per channel", "dynamic u8"])
@pytest.mark.parametrize("method", ["gradient", "guided-backprop"])
@pytest.mark.parametrize("name", ["channels_last", "recogniser"])
def test_quantised_file(name, method, treatment, folder):
    """Agreement on one of three pictures: on others a value may be rounded to the other side."""
    path = folder / f"{name} {treatment}.onnx"
    TREATMENTS[treatment].make(name, small_networks.file(name, folder), path)
    explainer, model = Explainer(path), onnx.load(path)
    best = np.inf
    for picture in NETWORKS[name].pictures(1, 3):
        if name == "recogniser":
            found = explainer.explain(picture[None], method, "character:0")
            ((step, character, _), *_) = found.task.characters(found.said[0][found.task.output.name])
            index = step * found.task.classes + character
        else:
            found = explainer.explain(picture[None], method)
            index = int(found.target[0])
        expected = interpreted(model, picture[None], index, guided=method != "gradient")
        assert np.any(expected)
        best = min(best, distance(found.raw, expected))
    assert best < 1e-5


def test_saturated_values_pass_nothing(rng):
    """y = DQ(Q(x)): 1 inside the range of uint8 and 0 outside, against differences of the same without rounding."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("Mul", ["d", "w"], ["y"]),
    ]
    x = rng.uniform(-2, 2, (1, 64)).astype(np.float32)
    weights = {"s": np.float32(0.01), "z": np.uint8(100), "w": np.ones(1, np.float32)}
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 64]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "test", ends[:1], ends[1:])
    graph.initializer.extend(numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items())
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    values = Interpreter(model).run({"x": x})
    (slope,) = torch.autograd.grad(values["y"].sum(), values["x"])
    inside = (x / 0.01 + 100 > 0) & (x / 0.01 + 100 < 255)
    assert np.array_equal(slope.numpy(), inside.astype(float)) and 10 < inside.sum() < 54
