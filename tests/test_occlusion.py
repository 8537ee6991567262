"""Pictures under a moving square: against what onnxruntime says of pictures that are covered here, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from analyzer.attribution import Explainer
from analyzer.attribution.occlusion import Occlusion, Squares, occlusion
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.images import Preprocess, decode, write_png
from analyzer.report.occlusion import NAMED, figure
from tests.models import small_cnn
from tests.test_detection import BOTH, detector, scene
from tests.test_integers import net, uint8_net

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8)
HOW = Preprocess(size=(12, 12), scale=1 / 255)


def covered(picture: np.ndarray, y: int, x: int, side: int, gray: int) -> np.ndarray:
    """A square around the pixel (y, x): `side` is odd."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    inside = (abs(rows - y) <= side // 2) & (abs(columns - x) <= side // 2)
    return np.where(inside[..., None], np.uint8(gray), picture)


def said(network: onnx.ModelProto, picture: np.ndarray, name: str) -> np.ndarray:
    """A tensor, by a plain session."""
    opened = onnx.ModelProto.FromString(network.SerializeToString())
    if name not in [o.name for o in opened.graph.output]:
        opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(opened.SerializeToString())
    given = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return session.run([name], {"x": given})[0]


def test_maps_are_what_the_network_says_of_covered_pictures() -> None:
    network = small_cnn()
    found = occlusion(Explainer(network), PICTURE, HOW, 2, "r2", None, 5, 3, 100)
    totals = said(network, PICTURE, "r2")[0].sum(axis=(1, 2))
    assert found.channel == totals.argmax() and found.whole_activation == pytest.approx(totals.max(), rel=1e-5)
    assert found.probability.shape == found.activation.shape == (4, 4)
    for row, column in np.ndindex(4, 4):
        picture = covered(PICTURE, 3 * row + 1, 3 * column + 1, 5, 100)
        row_of = said(network, picture, "probabilities")[0]
        total = said(network, picture, "r2")[0, found.channel].sum()
        assert found.probability[row, column] == pytest.approx(row_of[2], abs=1e-6)
        assert found.activation[row, column] == pytest.approx(total, rel=1e-5)
        assert found.names[found.top[row, column]] == str(row_of.argmax())
    assert sum(found.shares.values()) == pytest.approx(1)


def test_the_square_moves_over_the_whole_picture() -> None:
    squares = Squares((10, 13), 4, 3)
    seen = np.zeros((10, 13), int)
    for place in np.ndindex(squares.grid):
        seen[squares.window((place[0], place[1]))] += 1
    assert squares.grid == (4, 5) and seen.min() == 1


def test_the_probability_of_a_detection_is_of_its_own_box() -> None:
    """Covered, a square of the scene is no longer found; the other one is then what is."""
    network, picture = detector(), np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    how = Preprocess(size=(64, 64), scale=1 / 255)
    found = occlusion(
        Explainer(network, labels=["red", "green", "blue"]), picture, how, "detection:0", side=9, stride=8
    )
    best = said(network, picture, "output0")[0, 4:].max()
    assert found.whole_probability == pytest.approx(best, abs=1e-6)
    assert found.probability.min() >= 0 and found.probability.max() <= 1
    assert found.worst == (1, 5)  # the small red square lies at (8, 40)
    assert found.probability[1, 5] < 0.1 and found.probability[5, 2] == pytest.approx(best, abs=1e-6)
    assert found.names[found.top[1, 5]] == "green" and found.names[found.top[5, 2]] == found.label
    empty = scene()
    black = np.ascontiguousarray((empty[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    with pytest.raises(NotFoundError, match="nothing to explain"):
        occlusion(Explainer(network), black, how)


def test_a_uint8_model_reads_the_probabilities_of_the_float_one() -> None:
    """Pixels go in and, rounded to 1/128, probabilities come out: those of the float build."""
    how = Preprocess(size=(12, 12), dtype="uint8", layout="NHWC", scale=1)
    dark = PICTURE // 8  # the network is very sure of bright ones
    found = occlusion(Explainer(uint8_net(uint8_out=True)), dark, how, 0, "relu", side=5, stride=4)
    truth = occlusion(Explainer(net()), dark, HOW, 0, "relu", side=5, stride=4)
    assert found.channel == truth.channel and np.ptp(truth.probability) > 0.02
    np.testing.assert_allclose(found.probability, truth.probability, atol=0.5 / 128 + 1e-6)
    assert found.probability.min() >= 0 and found.probability.max() <= 1
    np.testing.assert_allclose(found.activation, truth.activation, rtol=1e-5)


def test_what_cannot_be_measured() -> None:
    explainer = Explainer(small_cnn())
    with pytest.raises(InputError, match="class 9"):
        occlusion(explainer, PICTURE, HOW, 9)
    with pytest.raises(InputError, match="expression"):
        occlusion(explainer, PICTURE, HOW, "logits[:, 1]")
    with pytest.raises(NotFoundError, match="no channel 16"):
        occlusion(explainer, PICTURE, HOW, layer="r2", channel=16)
    network = small_cnn()
    del network.graph.node[-4:]
    network.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("r2", onnx.TensorProto.FLOAT, ["N", 16, 6, 6]))
    with pytest.raises(UnsupportedError):
        occlusion(Explainer(network), PICTURE, HOW)


def test_a_legend_names_the_most_frequent_labels() -> None:
    """Each label has its own color where it is the most probable; beyond eight they share one."""
    grid = np.arange(16).reshape(4, 4) % 10
    squares = Squares((16, 16), 4, 4)
    one = Occlusion(
        np.zeros((16, 16, 3), np.uint8), squares, "r", 0, grid * 1.0, 9.0, "0", "a", grid / 10, 0.9, grid,
        tuple("abcdefghij"),
    )  # fmt: skip
    drawn = figure({"a": one})
    assert drawn.ndim == 3 and list(one.shares)[:6] == list("abcdef") and len(one.shares) > NAMED
    blue = (drawn == (29, 120, 200)).all(axis=2).sum()
    cell = (336 // 4) ** 2
    assert 2 * cell <= blue < 2.2 * cell  # two of sixteen cells are «a», and a mark in the legend


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(run) -> None:
    onnx.save(small_cnn(), "m.onnx")
    for name in ("a", "b", "c"):
        write_png(f"{name}.png", RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8))
    flags = ("--size", "12x12", "--preset", "0-1", "-l", "r2")
    call = ("occlusion", "m.onnx", "a.png", "b.png", *flags, "--data", "c.png", "-o", "f.png", "--raw", "f.npz")
    code, out, err = run(*call, "--format", "json")
    rows = json.loads(out)["pictures"]
    assert code == 0 and [row["picture"] for row in rows] == ["a.png", "b.png"], err
    assert decode("f.png").shape[1] > 1500
    arrays = np.load("f.npz")
    assert np.allclose(arrays["a.png/probability"], rows[0]["maps"]["probability"])
    assert rows[0]["lowest_probability"] == pytest.approx(arrays["a.png/probability"].min())
    code, out, _ = run("occlusion", "m.onnx", "a.png", *flags, "--policy", "none", "-o", "g.png")
    assert code == 0 and decode("g.png").shape[1] < decode("f.png").shape[1]
