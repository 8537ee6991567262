"""Effective receptive fields: closed forms, the claims of Luo et al. 2016, layouts, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto

import analyzer
from analyzer.analysis import receptive_field
from analyzer.analysis.effective_field import EffectiveField, FieldSum
from analyzer.attribution import Explainer
from analyzer.attribution.effective_field import FieldMeter, effective_field, measured_layers
from analyzer.attribution.field_views import EffectiveFields, draw_fields, overlaps
from analyzer.attribution.units import Units
from analyzer.commands import cli
from analyzer.errors import AnalyzerError, InputError, NotFoundError, UnsupportedError
from analyzer.images import decode, model_card, write_png
from analyzer.images.fields import SPREAD, TILE, count_tile, ending, field_tile, unit_tile
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node, small_cnn
from tests.test_receptive_field import quantized_cnn


def plain_cnn(
    depth: int, size: int, channels: int = 1, kernel: int = 3, activation: str = "", seed: int | None = None
) -> onnx.ModelProto:
    """Convolutions in a row: of ones, or with a seed of independent normal weights that keep the variance."""
    rng, nodes, weights, at = np.random.default_rng(seed), [], {}, "x"
    for i in range(1, depth + 1):
        shape = (channels, 1 if i == 1 else channels, kernel, kernel)
        drawn = rng.standard_normal(shape) * np.sqrt((2 if activation == "Relu" else 1) / np.prod(shape[1:]))
        weights[f"w{i}"] = (np.ones(shape) if seed is None else drawn).astype(np.float32)
        nodes.append(node("Conv", [at, f"w{i}"], [f"c{i}"], pads=[kernel // 2] * 4))
        at = f"c{i}"
        if activation:
            nodes.append(node(activation, [at], [f"a{i}"]))
            at = f"a{i}"
    return model(nodes, {"x": ["N", 1, size, size]}, {at: None}, weights)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def binomial(depth: int, kernel: int = 3) -> np.ndarray:
    """Kernels of ones, convolved with each other; their sum is 1."""
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, np.ones(kernel))
    return line / line.sum()


# ---- Closed forms ----


@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (4, 3), (9, 3), (3, 5), (2, 7)])
def test_kernels_of_ones_give_binomial_fields(depth: int, kernel: int) -> None:
    """The gradient is a convolution of boxes: its variance is n(k² − 1)/12 along each axis."""
    size = depth * (kernel - 1) + 9
    network = plain_cnn(depth, size, kernel=kernel)
    (found,) = effective_field(network, noise(1, 1, size, size), f"c{depth}", measure="absolute").values()
    line = binomial(depth, kernel)
    np.testing.assert_allclose(found.map, np.multiply.outer(line, line), atol=1e-9, rtol=1e-4)
    assert found.sigma == pytest.approx((np.sqrt(depth * (kernel**2 - 1) / 12),) * 2, rel=1e-5)
    assert found.center == pytest.approx((0, 0), abs=1e-5)
    assert found.size == found.window == (1 + depth * (kernel - 1),) * 2
    assert found.ratio == pytest.approx(4 * found.sigma[0] / found.window[0])
    (squared,) = effective_field(network, noise(1, 1, size, size), f"c{depth}").values()
    line = line**2 / (line**2).sum()
    np.testing.assert_allclose(squared.map, np.multiply.outer(line, line), atol=1e-9, rtol=1e-4)


def test_strides_dilations_and_pools_spread_the_kernels_that_follow() -> None:
    """Conv 3 (stride 2), AveragePool 2×2 (stride 2), Conv 3 (dilation 2): boxes at distances 1, 2 and 8."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1] * 4),
        node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["b", "w"], ["c"], dilations=[2, 2], pads=[2] * 4),
    ]
    network = model(nodes, {"x": [1, 1, 96, 96]}, {"c": None}, {"w": np.ones((1, 1, 3, 3), np.float32)})
    (found,) = effective_field(network, noise(1, 1, 96, 96), "c", measure="absolute").values()
    line = np.convolve(np.ones(3), [1, 0, 1])
    line = np.convolve(line, np.eye(1, 17)[0] + np.eye(1, 17, 8)[0] + np.eye(1, 17, 16)[0])
    line /= line.sum()
    np.testing.assert_allclose(found.profile(0), line, atol=1e-7)
    np.testing.assert_allclose(found.map, np.multiply.outer(line, line), atol=1e-8)
    assert found.sigma[0] ** 2 == pytest.approx(1**2 * 8 / 12 + 2**2 * 3 / 12 + 8**2 * 8 / 12, rel=1e-4)


def test_every_channel_counts_once() -> None:
    """Signs drawn at random give Σ_c (∂A_c/∂x)² on the mean: here a column of channel 0, a row twice as strong of 1."""
    weight = np.zeros((2, 1, 3, 3), np.float32)
    weight[0, 0, :, 1], weight[1, 0, 1, :] = 1, 2
    network = model([node("Conv", ["x", "w"], ["y"])], {"x": [1, 1, 40, 40]}, {"y": None}, {"w": weight})
    (found,) = effective_field(network, noise(1, 1, 40, 40), "y", positions=1200).values()
    truth = (weight**2).sum(axis=(0, 1))
    np.testing.assert_allclose(found.map, truth / truth.sum(), atol=0.01)
    (found,) = effective_field(network, noise(1, 1, 40, 40), "y", positions=1200, measure="absolute").values()
    truth = np.abs(weight).sum(axis=(0, 1))
    np.testing.assert_allclose(found.map, truth / truth.sum(), atol=0.01)


def test_as_autograd_computes_it() -> None:
    torch = pytest.importorskip("torch")
    proto = small_cnn(size=40)
    x = noise(1, 3, 40, 40)
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in proto.graph.initializer}
    explainer = Explainer(proto)
    for place in [(7, 9), (10, 6)]:
        pixels = torch.tensor(x, requires_grad=True)
        found = torch.relu(torch.conv2d(pixels, weights["w1"], weights["b1"], padding=1))
        found = torch.relu(torch.conv2d(torch.max_pool2d(found, 2), weights["w2"], padding=1))
        total = np.zeros((40, 40))
        for channel in range(16):
            (gradient,) = torch.autograd.grad(found[0, channel, *place], pixels, retain_graph=True)
            total += (gradient.numpy()[0].astype(np.float64) ** 2).sum(axis=0)
        y, x0 = (2 * p - 3 for p in place)  # stride 2, padding 3
        meter = FieldMeter(explainer, {"x": (1, 3, 40, 40)}, "r2", at=place)
        sums = [dict(meter.measure({"x": x}, (seed,)))["r2"] for seed in range(400)]
        places = sum(sums[1:], sums[0]).field("r2", "squared").map
        truth = total[y : y + 8, x0 : x0 + 8]
        assert total.sum() == pytest.approx(truth.sum())
        # Of Σ s_c J_c with random signs the square scatters by √2 at most: 7 % over 400 draws, here five times that.
        np.testing.assert_allclose(places, truth / truth.sum(), rtol=0.35, atol=1e-9)
        assert np.corrcoef(places.ravel(), truth.ravel())[0, 1] > 0.99


# ---- The claims of the paper ----


@pytest.mark.parametrize("activation", ["", "Relu", "Tanh"])
def test_random_networks_grow_as_the_square_root_of_depth(activation: str) -> None:
    """With independent weights, σ = √(n(k² − 1)/12), and the ratio falls as 1/√n (Luo et al., sections 2 and 3)."""
    depths, sigmas, ratios = [5, 10, 20, 40], [], []
    for depth in depths:
        found = []
        for seed in range(3):
            network = plain_cnn(depth, 99, 8, activation=activation, seed=seed)
            layer = f"{'a' if activation else 'c'}{depth}"
            found.append(effective_field(network, noise(2, 1, 99, 99, seed=seed), layer, positions=8)[layer])
        sigmas.append(np.mean([f.sigma for f in found]))
        ratios.append(np.mean([f.ratio for f in found]))
        assert sigmas[-1] == pytest.approx(np.sqrt(depth * 8 / 12), rel=0.12)
        assert found[0].cut == 0 and found[0].units == 16
    slope = np.polyfit(np.log(depths), np.log(sigmas), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.05)
    scaled = np.array(ratios) * np.sqrt(depths)
    assert scaled[1:] == pytest.approx(scaled[-1], rel=0.15) and ratios == sorted(ratios, reverse=True)


# ---- Numbers of one field ----


def field_of(values: np.ndarray, size: tuple[int | None, ...] | None = None) -> EffectiveField:
    total = FieldSum.zeros(values.shape, size or values.shape)
    total.add(values, (0,) * values.ndim)
    return total.field("layer", "squared")


def test_shares_inside_cut_pixels_exactly() -> None:
    found = field_of(np.full((5, 7), 3.0))
    assert [found.inside(f) for f in (0.25, 0.5, 0.75, 1)] == pytest.approx([0.0625, 0.25, 0.5625, 1])
    assert np.isnan(found.gaussian)
    assert repr(found) == "<effective field of 'layer': 5.66×8 of 5×7 pixels, 1 units>"


def test_a_gaussian_is_found_again() -> None:
    y, x = np.mgrid[:81, :61]
    found = field_of(np.exp(-(((y - 44) / 6) ** 2 + ((x - 27) / 4) ** 2) / 2))
    assert found.sigma == pytest.approx((6, 4), rel=1e-3) and found.center == pytest.approx((4, -3), abs=1e-3)
    assert found.gaussian == pytest.approx(1, abs=1e-5)
    assert found.effective_size == pytest.approx((24, 16), rel=1e-3)


def test_units_are_laid_on_each_other_and_what_is_outside_does_not_count() -> None:
    picture = np.arange(36.0).reshape(6, 6)
    total = FieldSum.zeros((3, 3), (3, 3))
    total.add(picture, (-1, 4))  # row −1 and column 6 are outside
    total.add(picture, (2, 2))
    assert total.units == 2 and total.cut == 1
    np.testing.assert_array_equal(total.seen, [[1, 1, 1], [2, 2, 1], [2, 2, 1]])
    np.testing.assert_array_equal(total.total, [[14, 15, 16], [24, 26, 22], [36, 38, 28]])
    mean = np.array([[14, 15, 16], [12, 13, 22], [18, 19, 28]])
    np.testing.assert_allclose(total.field("a", "squared").map, mean / mean.sum())
    never = FieldSum.zeros((3, 3), (3, 3))
    never.add(picture, (-1, 0))
    found = never.field("a", "squared")
    assert np.isnan(found.map[0]).all() and not np.isnan(found.map[1:]).any() and found.sigma[1] > 0


def test_gradients_that_are_not_finite_are_left_out() -> None:
    total = FieldSum.zeros((2, 2), (2, 2))
    total.add(np.array([[np.nan, 1], [1, 1]]), (0, 0))
    total.add(np.ones((2, 2)), (0, 0))
    assert total.field("a", "squared").broken == 1 and total.units == 1
    np.testing.assert_array_equal(total.field("a", "squared").map, np.full((2, 2), 0.25))


# ---- Layouts, tokens, types ----


def test_channels_last_give_the_same_field() -> None:
    first = small_cnn(size=32)
    last = small_cnn(size=32)
    last.graph.node.insert(0, node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]))
    last.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 32, 32, 3]))
    x = noise(2, 3, 32, 32)
    one, other = effective_field(first, x, "r2"), effective_field(last, x.transpose(0, 2, 3, 1), "r2")
    np.testing.assert_allclose(one["r2"].map, other["r2"].map, atol=1e-9)
    assert one["r2"].units == 8


def patches(globally: bool) -> onnx.ModelProto:
    """Patches of 4×4 as tokens behind a class token; then, if asked for, the mean of all tokens is added."""
    nodes = [
        node("Conv", ["x", "w"], ["map"], strides=[4, 4]),
        node("Reshape", ["map", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["places"], perm=[0, 2, 1]),
        node("Concat", ["class", "places"], ["tokens"], axis=1),
    ]
    if globally:
        nodes += [
            node("ReduceMean", ["tokens"], ["mean"], axes=[1], keepdims=1),
            node("Add", ["tokens", "mean"], ["mixed"]),
        ]
    weights = {
        "w": np.ones((6, 3, 4, 4), np.float32),
        "flat": np.array([1, 6, 64]),
        "class": np.zeros((1, 1, 6), np.float32),
    }
    return model(nodes, {"x": [1, 3, 32, 32]}, {"mixed" if globally else "tokens": None}, weights)


def test_tokens_have_places_in_the_picture() -> None:
    (found,) = effective_field(patches(False), noise(1, 3, 32, 32), "tokens", measure="absolute").values()
    assert found.size == (4, 4) and found.cut == 0
    np.testing.assert_allclose(found.map, np.full((4, 4), 1 / 16), rtol=1e-5)


def test_what_sees_the_whole_picture_has_it_as_its_window() -> None:
    """Around a token in the middle; its own patch is (1 + 1/65) against 1/65."""
    explainer = Explainer(patches(True))
    meter = FieldMeter(explainer, {"x": (1, 3, 32, 32)}, "mixed", measure="absolute", at=(4, 3))
    found = dict(meter.measure({"x": noise(1, 3, 32, 32)}, (0,)))["mixed"].field("mixed", "absolute")
    assert found.size == (None, None) and found.window == (32, 32)
    inside = found.map[14:18, 14:18]
    np.testing.assert_allclose(inside / np.nanmin(found.map), 66, rtol=1e-3)
    # The center of the patch, (17.5, 13.5), lies on the middle of the window, (15.5, 15.5).
    assert np.isnan(found.map[:, :2]).all() and np.isnan(found.map[-2:]).all()
    assert np.count_nonzero(~np.isnan(found.map)) == 30 * 30


@pytest.mark.parametrize("image", [TensorProto.UINT8, TensorProto.FLOAT])
def test_quantized_models_go_straight_through(image: int) -> None:
    """The field of the file in float, where nothing saturates."""
    network = quantized_cnn(image, False)
    x = np.random.default_rng(0).integers(100, 156, (1, 3, 32, 32))
    pixels = x.astype(np.uint8) if image == TensorProto.UINT8 else (0.02 * (x - 128)).astype(np.float32)
    found = effective_field(network, pixels, "c1")["c1"]
    weight = onnx.numpy_helper.to_array(next(t for t in network.graph.initializer if t.name == "w1")).astype(float)
    plain = model([node("Conv", ["x", "w"], ["c1"], pads=[1] * 4)], {"x": [1, 3, 32, 32]}, {"c1": None}, {})
    plain.graph.initializer.append(onnx.numpy_helper.from_array((0.01 * weight).astype(np.float32), "w"))
    other = effective_field(plain, (0.02 * (x - 128)).astype(np.float32), "c1")["c1"]
    np.testing.assert_allclose(found.map, other.map, atol=1e-6)
    assert not effective_field(network, pixels, "c2")["c2"].empty


def test_a_batch_that_the_file_fixes() -> None:
    x = noise(3, 3, 16, 16)
    one = effective_field(small_cnn(size=16), x, "r2")["r2"]
    other = effective_field(small_cnn(size=16, batch=2), np.concatenate([x, x[:1]]), "r2")["r2"]
    free = effective_field(small_cnn(size=16), np.concatenate([x, x[:1]]), "r2")["r2"]
    np.testing.assert_allclose(other.map, free.map, atol=1e-9)
    assert (one.units, other.units) == (12, 16)


# ---- Which units and layers ----


def test_units_that_see_all_of_their_field_are_preferred() -> None:
    found = effective_field(small_cnn(size=32), noise(5, 3, 32, 32), "r2", positions=9)["r2"]
    assert found.units == 45 and found.cut == 0
    small = effective_field(small_cnn(size=6), noise(1, 3, 6, 6), "r2", positions=4)["r2"]
    assert small.units == small.cut == 4


def test_a_layer_is_the_same_whatever_the_others_are() -> None:
    x = noise(2, 3, 24, 24)
    alone, beside = effective_field(small_cnn(size=24), x, "r2"), effective_field(small_cnn(size=24), x)
    assert list(beside) == ["r1", "p1", "r2"]
    np.testing.assert_array_equal(alone["r2"].map, beside["r2"].map)
    other = effective_field(small_cnn(size=24), x, "r2", seed=1)
    assert not np.array_equal(alone["r2"].map, other["r2"].map)


def test_positions_are_drawn_for_each_picture() -> None:
    """Behind a tanh a unit's field depends on where it is; of a single channel the sign makes no difference."""
    network, x = plain_cnn(3, 24, activation="Tanh", seed=1), noise(1, 1, 24, 24)
    one, other = (effective_field(network, x, "a3", positions=3, seed=seed)["a3"].map for seed in (0, 1))
    both = effective_field(network, np.concatenate([x, x]), "a3", positions=3)["a3"].map
    assert not np.allclose(one, other) and not np.allclose(one, both)


def test_default_layers_are_spread_over_the_depth() -> None:
    names = measured_layers(Explainer(plain_cnn(40, 32)).graph({"x": (1, 1, 32, 32)}))
    assert len(names) == 12 and names[0] == "c1" and names[-1] == "c40"


def test_what_cannot_be_measured_is_refused() -> None:
    network, x = small_cnn(size=16), noise(1, 3, 16, 16)
    with pytest.raises(NotFoundError, match="no tensor or node 'nothing'"):
        effective_field(network, x, "nothing")
    with pytest.raises(InputError, match="no measure 'cubed'"):
        effective_field(network, x, measure="cubed")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="positions must be at least 1"):
        effective_field(network, x, positions=0)
    with pytest.raises(NotFoundError, match="no position 9,9: its grid is 8×8"):
        FieldMeter(Explainer(network), {"x": (1, 3, 16, 16)}, "r2", at=(9, 9))
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Shape", ["a"], ["s"])]
    shaped = model(nodes, {"x": [1, 1, 8, 8]}, {"a": None}, {"w": np.ones((1, 1, 3, 3), np.float32)})
    with pytest.raises(UnsupportedError):
        effective_field(shaped, noise(1, 1, 8, 8), "s")


def test_no_gradient_is_said() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"])]
    weight = -np.ones((2, 1, 3, 3), np.float32)
    dead = model(nodes, {"x": [1, 1, 8, 8]}, {"b": None}, {"w": weight})
    found = effective_field(dead, np.ones((1, 1, 8, 8), np.float32), "b")["b"]
    assert found.empty and np.isnan(found.ratio) and np.isnan(found.inside(0.5)) and np.isnan(found.gaussian)


# ---- Drawing ----


def test_a_field_is_drawn_with_its_window_and_its_width() -> None:
    y, x = np.mgrid[:45, :45]
    found = field_of(np.exp(-(((y - 22) / 5) ** 2 + ((x - 22) / 5) ** 2) / 2))
    tile = field_tile(found.map, found.center, found.sigma)
    scale, edge = TILE / (45 * 1.12), round(268 * 0.06)
    white = np.argwhere((tile == 255).all(axis=2))
    assert white.min() == edge - 1 and white.max() == edge + round(45 * scale)
    blue = np.argwhere(np.abs(tile.astype(int) - SPREAD).max(axis=2) < 30)
    assert np.ptp(blue[:, 0]) == pytest.approx(4 * 5 * scale, abs=3)
    middle = tile[tile.shape[0] // 2, tile.shape[1] // 2].astype(int)
    assert middle.sum() > tile[edge + 5, edge + 5].astype(int).sum() + 300


def test_fields_show_themselves(tmp_path: Path) -> None:
    found = effective_field(small_cnn(size=16), noise(2, 3, 16, 16))
    assert repr(found) == "<effective fields of 3 layers over 2 pictures>"
    assert list(found) == ["r1", "p1", "r2"] and found["r2"].pictures == 2
    found.save(tmp_path / "field.png")
    picture = decode(tmp_path / "field.png")
    np.testing.assert_array_equal(picture, found.figure())
    np.testing.assert_array_equal(decode(found._repr_png_()), picture)
    assert EffectiveFields({})._repr_png_() is None
    with pytest.raises(InputError, match="no effective field"):
        EffectiveFields({}).figure()


def test_lines_and_volumes_are_drawn() -> None:
    volume = field_of(np.random.default_rng(0).random((4, 9, 9)))
    line = field_of(np.random.default_rng(0).random(31))
    assert EffectiveFields({"a": volume, "b": line}).figure().shape[2] == 3


def test_a_window_is_drawn_where_it_is() -> None:
    picture = np.full((60, 90, 3), 100, np.uint8)
    tile = unit_tile(picture, ((12, 42), (-15, 15)))
    scale = TILE / 105  # columns −15 to 90
    inside = tile[round(30 * scale), round(20 * scale)]
    assert tile.shape[:2] == (round(60 * scale), TILE)
    np.testing.assert_array_equal(inside, (100, 100, 100))
    assert tile[round(50 * scale), round(60 * scale)][0] == round(0.45 * 100 + 0.55 * 255)
    line = np.flatnonzero((tile[round(30 * scale)] == SPREAD).all(axis=1))
    assert line.min() <= 1 and line.max() == pytest.approx(30 * scale, abs=2)


def test_units_that_see_a_pixel_are_counted() -> None:
    graph = Explainer(small_cnn(size=16)).graph({"x": (1, 3, 16, 16)})
    fields, units = receptive_field(graph), Units.of(graph, "r2")
    counts = np.zeros((16, 16), int)
    for y in range(8):
        for x in range(8):
            (a, b), (c, d) = fields["r2"].interval((y, x), clip=True)  # type: ignore[misc]
            counts[a:b, c:d] += 1
    figure = draw_fields({"r2": units}, fields, (16, 16))
    tile = count_tile(counts)
    height, width = tile.shape[:2]
    assert any(
        np.array_equal(figure[y : y + height, x : x + width], tile)
        for y in range(figure.shape[0] - height)
        for x in range(figure.shape[1] - width)
        if np.array_equal(figure[y, x : x + width : 37], tile[0, ::37])
    )
    assert overlaps(fields["r2"]) == pytest.approx(1 - 2 / 8)
    assert overlaps(fields["g"]) is None


def test_the_end_of_a_name_is_kept() -> None:
    assert ending("conv1") == "conv1"
    assert ending("block/conv;block/bn;other") == "block/conv"
    long = ending("/a" * 60 + "/relu")
    assert long.startswith("…") and long.endswith("/relu") and len(long) < 60


# ---- The command ----


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(small_cnn(size=24), tmp_path / "model.onnx")
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 256, (30, 40, 3)).astype(np.uint8)
        write_png(tmp_path / f"{i}.png", picture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, ["receptive-field", "model.onnx", *words, "--preset", "0-1"])
    assert done.exit_code == code, done.output
    return done


def refused(*words: str) -> str:
    """The error that the program prints."""
    done = CliRunner().invoke(cli, ["receptive-field", "model.onnx", *words])
    assert isinstance(done.exception, AnalyzerError), done.output
    return str(done.exception)


def test_command_measures_writes_and_prints(place: Path) -> None:
    words = ["--effective", "--data", "0.png", "-d", "1.png", "-l", "r*", "--positions", "3", "-o", "field.png"]
    document = json.loads(called(*words, "--raw", "maps.npz", "--format", "json").stdout)
    assert [t["tensor"] for t in document["tensors"]] == ["r1", "r2"] and document["written"] == [
        "field.png",
        "maps.npz",
    ]
    measured = document["tensors"][1]["effective"]
    assert (
        measured["units"] == 6 and measured["window"] == [8, 8] and set(measured["inside"]) == {"0.25", "0.5", "0.75"}
    )
    with np.load("maps.npz") as maps:
        assert maps["r2"].shape == (8, 8) and maps["r2"].sum() == pytest.approx(1)
        line = np.nansum(maps["r2"], axis=1)
    at = np.arange(8)
    assert measured["sigma"][0] == pytest.approx(np.sqrt(line @ at**2 - (line @ at) ** 2))
    assert decode("field.png").shape[1] > 600
    assert "theoretical" in called("--effective", "0.png").stdout
    every = json.loads(called("--effective", "0.png", "--all", "--format", "json").stdout)["tensors"]
    assert [t["tensor"] for t in every] == ["c1", "r1", "p1", "c2", "r2", "g", "f", "logits", "probabilities"]
    assert every[-1]["effective"]["window"] == [24, 24]


def test_command_draws_fields_on_a_picture(place: Path) -> None:
    called("0.png", "-l", "r2", "--at", "3,4", "-o", "one.png")
    called("-o", "blank.png", "--shape", "1x3x24x24")
    one, blank = decode("one.png"), decode("blank.png")
    assert one.shape[1] >= 2 * TILE and blank.shape[0] > one.shape[0]
    assert "no position 12,12" in refused("0.png", "-l", "r2", "--at", "12,12", "-o", "x.png")
    assert "write Y,X" in called("--at", "a", code=2).output
    assert not Path("x.png").exists()


def test_command_refuses_what_does_not_fit(place: Path) -> None:
    assert "no pictures given" in refused("--effective")
    assert "--raw writes effective" in refused("--raw", "x.npz")
    assert "--verify checks theoretical" in refused("--effective", "--verify", "0.png")
    onnx.save(small_cnn(size="S"), "model.onnx")
    assert "the size of 'x' is not fixed" in refused("-o", "x.png")
    nodes = [node("Cast", ["x"], [name], to=1) for name in "ab"]
    nodes += [node("Add", ["a", "b"], ["c"]), node("Conv", ["c", "w"], ["y"])]
    twice = model(nodes, {"x": [1, 3, 24, 24]}, {"y": None}, {"w": np.ones((2, 3, 3, 3), np.float32)})
    twice.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(twice, "model.onnx")
    assert "no gradient with respect to it" in refused("--effective", "0.png", "1.png")


def test_results_do_not_depend_on_workers(place: Path) -> None:
    words = ["--effective", "0.png", "1.png", "2.png", "3.png", "--threads", "1", "--format", "json"]
    assert called(*words, "--workers", "1").stdout == called(*words, "--workers", "3").stdout


def test_the_command_draws_other_units_in_every_picture(place: Path) -> None:
    Path("again.png").write_bytes(Path("0.png").read_bytes())
    one, both = (
        called("--effective", *pictures, "--format", "json").stdout for pictures in (["0.png"], ["0.png", "again.png"])
    )
    sigmas = [json.loads(text)["tensors"][-1]["effective"]["sigma"] for text in (one, both)]
    assert sigmas[0] != pytest.approx(sigmas[1], rel=1e-6)


def test_an_interrupted_run_resumes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--effective", "0.png", "1.png", "2.png", "3.png", "--workers", "1", "--threads", "1", "--format", "json"]
    truth, count, whole = called(*words).stdout, 0, FieldMeter.measure

    def interrupted(self: FieldMeter, feeds: Any, seed: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return whole(self, feeds, seed)

    monkeypatch.setattr(FieldMeter, "measure", interrupted)
    CliRunner().invoke(cli, ["receptive-field", "model.onnx", *words, "--preset", "0-1", "--store", "kept"])
    assert count == 3
    assert called(*words, "--store", "kept").stdout == truth
    assert count == 5


def test_an_interrupted_measurement_ends_at_once() -> None:
    meter = FieldMeter(Explainer(small_cnn(size=16)), {"x": (1, 3, 16, 16)}, positions=1000)
    found = meter.measure({"x": noise(1, 3, 16, 16)}, (0,))
    assert next(found)[0] == "r1"
    meter.stopped = True
    with pytest.raises(KeyboardInterrupt):
        next(found)


def test_progress_counts_layers_and_pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzer.commands.common.shows_progress", lambda: True)
    said = called("--effective", "0.png", "1.png", "--workers", "1").output  # click 8.1 mixes both streams
    assert all(f" {n}/6" in said for n in range(1, 7)) and " 7/6" not in said


def test_pictures_of_other_sizes_are_left_out(place: Path) -> None:
    onnx.save(small_cnn(size="S"), "model.onnx")
    np.save("a.npy", noise(1, 3, 24, 24))
    np.save("b.npy", noise(1, 3, 30, 30))
    said = called("--effective", "a.npy", "b.npy").output
    assert "b.npy gives inputs of other sizes than the first picture" in said and " 4      0    r2" in said


def test_public_names() -> None:
    x = noise(1, 3, 16, 16)
    ours, inner = analyzer.effective_field(small_cnn(size=16), x), effective_field(small_cnn(size=16), x)
    assert ours.keys() == inner.keys() and all(np.array_equal(ours[n].map, inner[n].map, True) for n in ours)
    assert analyzer.EffectiveField is EffectiveField
    assert analyzer.EffectiveFields is EffectiveFields


@needs_corpus
@pytest.mark.parametrize(
    "name", ["mobilenet_v1_0.25_128_quant", "squeezenet1.1_torchscript_op7", "deeplab_v3_mnv2_tf2onnx", "yunet_120x160"]
)
def test_real_models_are_measured_and_drawn(name: str) -> None:
    """uint8 in NHWC, a classifier, a segmenter, a detector: fields lie in their windows, narrower than these."""
    explainer = Explainer(CORPUS / "models" / f"{name}.onnx")
    preprocess = model_card(explainer.loaded.path).preprocess
    batch, _ = preprocess.apply(decode(CORPUS / "images" / "coral_cat_720p.jpg"))
    found = effective_field(explainer, batch, measured_layers(explainer.graph({explainer.image: batch.shape}))[:9:4])
    for field in found.values():
        assert not field.empty and field.broken == 0 and np.nansum(field.map) == pytest.approx(1)
        assert all(abs(c) < n / 4 for c, n in zip(field.center, field.window, strict=True))
    ratios = [field.ratio for field in found.values()]
    assert ratios[0] > 0.6 and ratios[-1] < 0.6
    assert found.figure().shape[2] == 3
