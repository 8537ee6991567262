"""Models that take or give whole numbers: what is shown is what these stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer.analysis.scores import input_quantisation
from analyzer.attribution import Explainer
from analyzer.attribution.dream import Dreamer
from analyzer.attribution.parametrizations import DreamOptions
from analyzer.attribution.probes import Probe
from analyzer.images import Preprocess, decode, file_name, model_card, write_png
from analyzer.validation.side import Side

RNG = np.random.default_rng(16)
KERNEL = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32)
WEIGHT = (3 * RNG.normal(size=(6, 5))).astype(np.float32)
PICTURE = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)


def net(
    before: Sequence[onnx.NodeProto] = (),
    kind: int = TensorProto.FLOAT,
    shape: Sequence[int] = (1, 3, 12, 12),
    uint8_out: bool = False,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """`before` makes "real", (1, 3, 12, 12), of the input "x"; then Conv, Relu, GlobalAveragePool, Gemm, Softmax.

    Args:
        uint8_out: the probabilities are quantised, by 1/128 from 3 on.
    """
    tail = [
        helper.make_node("Conv", ["real" if before else "x", "kernel"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    constants |= {"kernel": KERNEL, "weight": WEIGHT}
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 5])
    if uint8_out:
        tail.append(helper.make_node("QuantizeLinear", ["probabilities", "step", "zero"], ["q"]))
        constants |= {"step": np.array(1 / 128, np.float32), "zero": np.array(3, np.uint8)}
        out = helper.make_tensor_value_info("q", TensorProto.UINT8, [1, 5])
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    given = helper.make_tensor_value_info("x", kind, shape)
    graph = helper.make_graph([*before, *tail], "net", [given], [out], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def uint8_net(divisor: float = 255, **how: bool) -> onnx.ModelProto:
    """The build of `net` that takes pixels, (1, 12, 12, 3), and divides them itself."""
    before = [
        helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "divisor"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["real"], perm=[0, 3, 1, 2]),
    ]
    return net(before, TensorProto.UINT8, (1, 12, 12, 3), divisor=np.array(divisor, np.float32), **how)


def dequantising_net(scale: float, zero: np.integer, **how: bool) -> onnx.ModelProto:
    """The build of `net` whose input is quantised: (x − zero) · scale is what `net` takes."""
    before = [helper.make_node("DequantizeLinear", ["x", "scale", "point"], ["real"])]
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    return net(before, kind, scale=np.array(scale, np.float32), point=np.array(zero), **how)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of the builds and a picture."""
    onnx.save(net(), tmp_path / "float.onnx")
    onnx.save(uint8_net(), tmp_path / "uint8.onnx")
    onnx.save(uint8_net(128), tmp_path / "wrong.onnx")
    onnx.save(dequantising_net(1 / 255, np.int8(-128)), tmp_path / "int8.onnx")
    onnx.save(uint8_net(uint8_out=True), tmp_path / "out.onnx")
    write_png(tmp_path / "picture.png", PICTURE)
    return tmp_path


# ---- Scores ----


def test_scores_are_real_numbers_wherever_they_are_read(run) -> None:
    pixels = PICTURE[None]
    real = Explainer(uint8_net(), threads=1).explain(pixels).scores
    explainer = Explainer(uint8_net(uint8_out=True), threads=1)
    found = explainer.explain(pixels)
    np.testing.assert_allclose(found.scores, real, atol=0.51 / 128)
    np.testing.assert_allclose(explainer.explain(pixels, method="occlusion", patch=6, stride=6).scores, found.scores)
    how = Preprocess(size=(12, 12), layout="NHWC", scale=1.0, dtype="uint8")
    np.testing.assert_allclose(Probe(explainer, ["relu"], how).run([PICTURE]).probabilities, found.scores)
    side = Side(explainer, (1, 12, 12, 3))
    np.testing.assert_allclose(side.classes(pixels), found.scores[0])
    code, out, _ = run("explain", "out.onnx", "picture.png", "--format", "json")
    assert code == 0
    assert f"{real.max():.2f}"[:3] in out


def test_ties_at_the_ceiling_are_still_counted() -> None:
    made = net(uint8_out=True)
    made.graph.initializer.append(numpy_helper.from_array(np.array(1 / 2048, np.float32), "fine"))
    made.graph.node[-1].input[1] = "fine"  # the ceiling is 0.123
    found = Explainer(made, threads=1).explain(PICTURE.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    ceiling = np.float32((255 - 3) / 2048)
    tied = int((found.scores == ceiling).sum())
    assert found.tied.tolist() == [tied if tied > 1 else 0]
    assert found.scores.max() == ceiling


# ---- Inputs ----


@pytest.mark.parametrize("preset", ["0-1", "-1-1", "imagenet"])
def test_a_preset_is_the_float_models(preset: str) -> None:
    """An input that is not dequantised gets raw pixels, int8 those − 128."""
    for dtype, shift in (("uint8", 0), ("int8", 128)):
        card = model_card(None, {"preset": preset}, [1, 3, 12, 12], dtype)
        np.testing.assert_array_equal(
            card.preprocess.apply(PICTURE)[0][0].transpose(1, 2, 0) + np.int16(shift), PICTURE
        )
        assert preset in card.remark and dtype in card.remark
    assert not model_card(None, {"preset": preset}, [1, 3, 12, 12], "float32").remark
    assert not model_card(None, {"preset": "raw"}, [1, 3, 12, 12], "uint8").remark


def test_a_dequantised_input_is_given_the_quantised_float_input() -> None:
    """q = x / scale + zero point, unless that is the raw pixel up to rounding, or far from what the type holds."""
    flags, shape = {"preset": "imagenet"}, [1, 3, 12, 12]
    real = model_card(None, flags, shape, "float32").preprocess.apply(PICTURE)[0]
    how = model_card(None, flags, shape, "int8", (-14.0, 0.0187)).preprocess
    np.testing.assert_array_equal(how.apply(PICTURE)[0], np.clip(np.rint(real / 0.0187 - 14), -128, 127))
    for quantisation in ((128.0, 1 / 128), (0.0, 1.0), (0.0, 1e-4)):
        card = model_card(None, {"preset": "-1-1"}, shape, "uint8", quantisation)
        np.testing.assert_array_equal(card.preprocess.apply(PICTURE)[0][0].transpose(1, 2, 0), PICTURE)
        assert "raw pixels" in card.remark


def test_one_preset_serves_both_sides_of_a_pair(run) -> None:
    for build in ("uint8.onnx", "int8.onnx"):
        code, out, err = run("compare", "float.onnx", build, "picture.png", "--preset", "0-1", "--format", "json")
        assert code == 0, out + err
        assert err.count("the normalization 0-1 is the float model's") == 1
        assert json.loads(out)["findings"] == []
    code, out, _ = run("compare", "float.onnx", "wrong.onnx", "picture.png", "--preset", "0-1", "--format", "json")
    assert code == 1
    assert "scale" in out


def test_a_preset_explains_an_integer_build_as_its_float_twin(run) -> None:
    maps = []
    for build in ("float.onnx", "uint8.onnx"):
        code, _, err = run("explain", build, "picture.png", "--preset", "0-1", "--raw", "map.npy")
        assert code == 0 and ("raw pixels" in err) == (build == "uint8.onnx")
        maps.append(np.load("map.npy"))
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-4, atol=1e-6)


# ---- Dreams ----


@pytest.mark.parametrize("build", ["uint8.onnx", "int8.onnx"])
def test_a_dream_of_an_integer_build_is_that_of_its_float_twin(build: str, place: Path) -> None:
    options = DreamOptions(steps=12, jitter=1)
    dreams = []
    for file in ("float.onnx", build):
        explainer = Explainer(place / file, threads=1)
        given = explainer.plain[explainer.image]
        flags = {"preset": "0-1"}
        quantisation = input_quantisation(explainer.plain, given)
        card = model_card(None, flags, given.shape, given.dtype, quantisation)
        dreams.append(Dreamer(explainer, "logits", card.preprocess).run(2, options=options))
    assert dreams[1].score == pytest.approx(dreams[0].score, rel=1e-3)
    assert dreams[1].score > dreams[1].scores[0]
    np.testing.assert_allclose(dreams[1].image.astype(int), dreams[0].image.astype(int), atol=2)


def test_the_dream_command_takes_integer_inputs(run) -> None:
    code, _, err = run("dream", "uint8.onnx", "-l", "logits", "-u", "1", "-o", "dream.png", "--steps", "4")
    assert code == 0, err
    assert decode("dream.png").shape[2] == 3


# ---- Long names ----


def test_file_names_are_short_and_differ() -> None:
    names = [file_name(f"{'model/block_1/conv;' * 30}{i}") for i in range(3)]
    names += [file_name("ж" * 99 + str(i)) for i in range(2)]
    assert len(set(names)) == 5
    assert all(len(n.encode()) <= 100 for n in names)
    assert file_name("block1/relu:0") == "block1_relu_0"


def test_tensors_of_long_names_are_written_to_files(run, place: Path) -> None:
    made = net()
    relu = "net/block_1/relu;net/block_1/conv;" * 15
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [relu if n == "relu" else n for n in names]
    onnx.save(made, place / "long.onnx")
    write_png(place / f"{'p' * 240}.png", PICTURE)
    (place / "out").mkdir()
    for command in (
        ["features", "long.onnx", "picture.png", f"{'p' * 240}.png", "-l", relu, "-o", "out"],
        ["mine", "long.onnx", "picture.png", "-l", relu, "-o", "out"],
        ["localize", "long.onnx", "picture.png", "-t", f'"{relu}"[:, 0].max()', "--masks-out", "out"],
        ["explain", "long.onnx", "picture.png", "-l", relu, "-o", "out"],
    ):
        code, _, err = run(*command)
        assert code == 0, (command[0], err)
