"""Units carried back to pixels: against autograd-free identities, their receptive fields, and swapped switches."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from analyzer import append_vjp
from analyzer.analysis import receptive_field
from analyzer.attribution import Explainer
from analyzer.attribution.projection import Projector, Switches, mean_switches, project, read_switches
from analyzer.attribution.units import WHOLE, Units, clipped, parse_unit
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.runtime import Session
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(1)
IMAGES = RNG.standard_normal((3, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(small_cnn())


def activations(explainer: Explainer, layer: str) -> np.ndarray:
    graph = explainer.graph({"x": IMAGES.shape})
    return Session(graph, outputs=[graph.add_output(graph[layer]).name]).run({"x": IMAGES}, [layer])[layer]


@pytest.mark.parametrize("policy", ["gradient", "guided", "deconvnet"])
def test_a_projection_is_the_vjp_of_the_units_activation(explainer: Explainer, policy: str) -> None:
    found = project(explainer, IMAGES, "r2", 5, policy=policy)
    layer = activations(explainer, "r2")
    flat = layer[:, 5].reshape(3, -1)
    assert (found.position == flat.argmax(1)).all()
    np.testing.assert_array_equal(found.activation, flat.max(1))
    seed = np.zeros_like(layer)
    seed.reshape(3, 16, -1)[range(3), 5, found.position] = flat.max(1)
    vjp = append_vjp(small_cnn(), ["r2"], ["x"], policy)
    session = Session(vjp.graph, outputs=[vjp.gradients["x"]])
    expected = session.run({"x": IMAGES, vjp.cotangents["r2"]: seed})[vjp.gradients["x"]]
    np.testing.assert_allclose(found.pixels, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 0


def test_strongest_channel_and_whole_channels(explainer: Explainer) -> None:
    layer = activations(explainer, "r2").reshape(3, 16, -1)
    strongest = project(explainer, IMAGES, "r2")
    assert (strongest.channel == layer.max(2).argmax(1)).all()
    channel = int(strongest.channel[0])
    parts = [project(explainer, IMAGES[:1], "r2", channel, p, "gradient").pixels for p in range(36)]
    whole = project(explainer, IMAGES[:1], "r2", channel, WHOLE, "gradient").pixels
    np.testing.assert_allclose(whole, sum(parts), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["gradient", "guided", "deconvnet"])
def test_a_projection_stays_inside_the_receptive_field(explainer: Explainer, policy: str) -> None:
    graph = explainer.graph({"x": (1, 3, 12, 12)})
    units, fields = Units.of(graph, "r2"), receptive_field(graph)
    for position in (0, 5, 14, 35):
        (y0, y1), (x0, x1) = clipped(units.window(fields, 3, position, (12, 12)), (12, 12))
        lit = np.argwhere(project(explainer, IMAGES[:1], "r2", 3, position, policy).pixels[0].any(axis=0))
        assert ((lit >= (y0, x0)) & (lit < (y1, x1))).all()


def test_switches_are_saved_used_again_and_swapped(explainer: Explainer, tmp_path) -> None:
    one, other = IMAGES[:1], IMAGES[1:2]
    switches = read_switches(explainer, one, "r2")
    assert set(switches) == {"p1"} and switches["p1"].shape == (1, 8, 6, 6)
    pooled = activations(explainer, "r1")[:1].ravel()[switches["p1"]]
    np.testing.assert_array_equal(pooled, activations(explainer, "p1")[:1])
    switches.save(tmp_path / "switches.npz")
    again = Switches.load(tmp_path / "switches.npz")
    own = project(explainer, one, "r2", 5)
    np.testing.assert_array_equal(project(explainer, one, "r2", 5, switches=again).pixels, own.pixels)
    swapped = project(explainer, one, "r2", 5, switches=read_switches(explainer, other, "r2"))
    assert not np.array_equal(swapped.pixels, own.pixels)
    with pytest.raises(InputError, match="no switches for"):
        project(explainer, one, "r2", 5, switches=Switches({}))
    with pytest.raises(InputError, match="shape"):
        project(explainer, one, "r2", 5, switches=Switches({"p1": switches["p1"][:, :2]}))


def test_tokens_channels_last_and_vectors() -> None:
    weights = {"w": RNG.standard_normal((4, 3, 2, 2)).astype(np.float32), "shape": np.array([1, 4, 36])}
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("Relu", ["c"], ["map"]),
        node("Reshape", ["map", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("Transpose", ["map"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["tokens"], ["vector"], axes=[1], keepdims=0),
    ]
    shapes = {"tokens": [1, 36, 4], "nhwc": [1, 6, 6, 4], "vector": [1, 4]}
    explainer = Explainer(model(nodes, {"x": [1, 3, 12, 12]}, shapes, weights))
    expected = project(explainer, IMAGES[:1], "map", 2, 17, "gradient")
    for layer in ("tokens", "nhwc"):
        found = project(explainer, IMAGES[:1], layer, 2, 17, "gradient")
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert project(explainer, IMAGES[:1], "vector", 2, policy="gradient").pixels.any()


def test_units_by_name(explainer: Explainer) -> None:
    units = Units.of(explainer.graph({"x": IMAGES.shape}), "r2")
    assert [parse_unit(units, t) for t in ("3", "3@1,2", "3@all", "max")] == [(3, -1), (3, 8), (3, -2), (-1, -1)]
    for text, words in (("16", "channel 16"), ("3@6,0", "6×6"), ("3@1", "6×6")):
        with pytest.raises(NotFoundError, match=words):
            parse_unit(units, text)
    with pytest.raises(InputError, match="is not a unit"):
        parse_unit(units, "three")


def test_what_cannot_be_projected(explainer: Explainer) -> None:
    with pytest.raises(NotFoundError):
        project(explainer, IMAGES, "r9")
    with pytest.raises(NotFoundError):
        project(explainer, IMAGES, "r2", 99)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    import json
    import sys

    from analyzer.commands import main
    from analyzer.images import write_png

    onnx.save(small_cnn(), tmp_path / "model.onnx")
    for name in ("one.png", "two.png"):
        write_png(tmp_path / name, RNG.integers(0, 256, (20, 20, 3), np.uint8))

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["project", "model.onnx", "one.png", "--size", "12x12", "--preset", "0-1", "-l", "r2", *arguments]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    files = ["-o", "out.png", "--raw", "out.npy", "--save-switches", "own.npz"]
    code, out, _ = call("-u", "3@1,2", "-u", "max", "-u", "5@all", *files, "--format", "json")
    found = json.loads(out)["units"]
    assert code == 0 and found[0]["position"] == [1, 2] and found[0]["receptive_field"] == [1, 0, 9, 7]
    own = np.load(tmp_path / "out.npy")
    assert own.shape == (3, 12, 12, 3) and (tmp_path / "out.png").exists()
    for source, same in (("own.npz", True), ("two.png", False)):
        assert call("-u", "max", "--switches", source, "--raw", "again.npy")[0] == 0
        assert np.array_equal(np.load(tmp_path / "again.npy")[0], own[1]) is same
    assert call("-u", "3@9,9")[0] == 2
    code, _, err = call("-u", "5", "--switches", "nowhere.npz")
    assert code == 2 and "nowhere.npz" in err


def test_class_tokens_in_front_are_no_positions() -> None:
    weights = {
        "w": RNG.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "shape": np.array([1, 4, 36]),
        "class": RNG.standard_normal((1, 1, 4)).astype(np.float32),
        "mix": np.eye(4, dtype=np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], ["map"], strides=[2, 2]),
        node("Reshape", ["map", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("Concat", ["class", "tokens"], ["joined"], axis=1),
        node("MatMul", ["joined", "mix"], ["all"]),
    ]
    explainer = Explainer(model(nodes, {"x": [1, 3, 12, 12]}, {"all": [1, 37, 4]}, weights))
    units = Units.of(explainer.graph({"x": (1, 3, 12, 12)}), "all")
    assert (units.prefix, units.positions, units.channels) == (1, 36, 4)
    expected = project(explainer, IMAGES[:1], "map", 2, 17, "gradient")
    found = project(explainer, IMAGES[:1], "all", 2, 17, "gradient")
    np.testing.assert_allclose(found.pixels, expected.pixels, rtol=1e-6)
    assert found.activation == pytest.approx(expected.activation)


@pytest.mark.parametrize("policy", ["gradient", "guided", "deconvnet"])
def test_projections_are_those_of_torch(policy: str) -> None:
    """Backward hooks on the rectifiers of the same network in PyTorch, one unit's activation as the cotangent."""
    torch = pytest.importorskip("torch")
    weights = {w.name: torch.tensor(onnx.numpy_helper.to_array(w)) for w in small_cnn().graph.initializer}

    class Rectifier(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            gradient = gradient.clamp(min=0) if policy != "gradient" else gradient
            return gradient * (x > 0) if policy != "deconvnet" else gradient

    image = torch.tensor(IMAGES, requires_grad=True)
    first = Rectifier.apply(torch.conv2d(image, weights["w1"], weights["b1"], padding=1))
    layer = Rectifier.apply(torch.conv2d(torch.max_pool2d(first, 2), weights["w2"], padding=1))
    flat = layer.detach()[:, 5].flatten(1)
    seed = torch.zeros_like(layer)
    seed.view(3, 16, -1)[torch.arange(3), 5, flat.argmax(1)] = flat.amax(1)
    layer.backward(seed)
    found = project(Explainer(small_cnn()), IMAGES, "r2", 5, policy=policy)
    np.testing.assert_allclose(found.pixels, image.grad.numpy(), rtol=1e-4, atol=1e-5)


# ---- Without a picture ----


def all_convolutional() -> onnx.ModelProto:
    """Three convolutions, the second of stride 2, with Relu and biases between: no pooling."""
    rng = np.random.default_rng(2)
    shapes = {"w1": (6, 3, 3, 3), "w2": (8, 6, 3, 3), "w3": (5, 8, 3, 3)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    weights |= {f"b{i}": rng.standard_normal(weights[f"w{i}"].shape[0]).astype(np.float32) for i in (1, 2, 3)}
    nodes = []
    for i, (given, stride) in enumerate((("x", 1), ("r1", 2), ("r2", 1)), 1):
        nodes.append(node("Conv", [given, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4, strides=[stride] * 2))
        nodes.append(node("Relu", [f"c{i}"], [f"r{i}"]))
    return model(nodes, {"x": [1, 3, 12, 12]}, {"r3": [1, 5, 6, 6]}, weights)


def test_without_pooling_a_deconvnet_needs_no_picture() -> None:
    """By PyTorch's transposed convolutions, from a 1 in the middle, and of nothing but the weights."""
    torch = pytest.importorskip("torch")
    network = all_convolutional()
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t).copy()) for t in network.graph.initializer}
    projector = Projector(Explainer(network), {"x": (1, 3, 12, 12)}, "r3", blind=True)
    assert "x" not in projector.session.inputs
    for channel in range(5):
        signal = torch.zeros(1, 5, 6, 6)
        signal[0, channel, 3, 3] = 1
        for i, (stride, more) in ((3, (1, 0)), (2, (2, 1)), (1, (1, 0))):
            signal = torch.nn.functional.conv_transpose2d(
                torch.relu(signal), weights[f"w{i}"], stride=stride, padding=1, output_padding=more
            )
        found = projector.run({}, channel)
        np.testing.assert_allclose(found.pixels, signal.numpy(), rtol=1e-4, atol=1e-5)
        assert found.activation[0] == 1
    with pytest.raises(InputError, match="only in a picture"):
        projector.run({})
    with pytest.raises(UnsupportedError, match="depends on a picture"):
        Projector(Explainer(network), {"x": (1, 3, 12, 12)}, "r3", "guided", blind=True)


def test_max_pooling_wants_switches_and_mean_ones_lie_between(explainer: Explainer) -> None:
    with pytest.raises(UnsupportedError, match="switches"):
        Projector(explainer, {"x": (1, 3, 12, 12)}, "r2", blind=True)
    each = [read_switches(explainer, IMAGES[i : i + 1], "r2")["p1"] for i in range(3)]
    mean = mean_switches(explainer, (IMAGES[i : i + 1] for i in range(3)), "r2")
    for axis in (2, 3):
        rows = [np.unravel_index(one, (1, 8, 12, 12))[axis] for one in each]
        expected = np.rint(np.mean(rows, axis=0))
        assert (np.unravel_index(mean["p1"], (1, 8, 12, 12))[axis] == expected).all()
    same = mean_switches(explainer, [IMAGES[:1]], "r2")
    seen = project(explainer, IMAGES[:1], "r2")
    at = int(seen.channel[0]), int(seen.position[0])
    found = Projector(explainer, {"x": (1, 3, 12, 12)}, "r2", swapped=True, blind=True).run({}, *at, same)
    np.testing.assert_allclose(found.pixels * seen.activation[0], seen.pixels, rtol=1e-4, atol=1e-6)
    assert np.abs(seen.pixels).max() > 0


def test_the_command_without_a_picture(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main
    from analyzer.images import decode, write_png

    onnx.save(small_cnn(), tmp_path / "m.onnx")
    (tmp_path / "pics").mkdir()
    for i in range(2):
        write_png(tmp_path / "pics" / f"{i}.png", RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    monkeypatch.chdir(tmp_path)

    def call(*more: str) -> tuple[int, str]:
        flags = ["-l", "r2", "-u", "5", "--size", "12x12", "--preset", "0-1", "-o", "out.png"]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", "project", "m.onnx", *flags, *more])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    code, said = call()
    assert code == 3 and "switches" in said
    code, said = call("--switches", "pics", "--save-switches", "mean.npz")
    assert code == 0 and decode("out.png").std() > 1, said
    first = decode("out.png")
    assert call("--switches", "mean.npz")[0] == 0 and (decode("out.png") == first).all()
