"""Statistics of channels over pictures: against NumPy on the activations that onnxruntime gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer.attribution import Model
from analyzer.attribution.channel_sums import ChannelSums
from analyzer.data import find_pictures
from analyzer.errors import NotFoundError
from analyzer.images import Preprocess, decode, write_png
from analyzer.passes import run
from analyzer.passes.channels import MeasuringChannels
from analyzer.passes.codec import encode
from tests.models import small_cnn

COUNT = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and pictures; channel 3 of its first layer is dead."""
    folder = tmp_path_factory.mktemp("channels")
    net = small_cnn()
    for weight in net.graph.initializer:
        if weight.name in ("w1", "b1"):
            values = onnx.numpy_helper.to_array(weight).copy()
            values[3] = -1 if weight.name == "b1" else 0
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    net.graph.output.append(onnx.helper.make_tensor_value_info("r1", onnx.TensorProto.FLOAT, None))
    onnx.save(net, folder / "net.onnx")
    rng = np.random.default_rng(2)
    for number in range(COUNT):
        picture = rng.integers(0, 256, (12, 12, 3)) // (number + 1)
        write_png(folder / f"{number}.png", picture.astype(np.uint8))
    return folder


def measured(place, workers, **options):
    model = Model(place / "net.onnx", threads=1)
    work = MeasuringChannels(model, Preprocess(size=(12, 12), scale=1 / 255), ["r1", "probabilities"])
    return run(work, find_pictures([place]), workers=workers, **options)


def test_the_values_are_numpys(place):
    session = ort.InferenceSession(place / "net.onnx", providers=["CPUExecutionProvider"])
    pictures = [decode(place / f"{n}.png").transpose(2, 0, 1)[None] / np.float32(255) for n in range(COUNT)]
    found = [session.run(["r1"], {"x": picture.astype(np.float32)})[0][0] for picture in pictures]
    values = np.concatenate([one.reshape(len(one), -1) for one in found], axis=1).astype(np.float64)
    sums = measured(place, 1).result["r1"]
    assert (sums.pictures, sums.count) == (COUNT, values.shape[1])
    for name, expected in (
        ("low", values.min(1)),
        ("high", values.max(1)),
        ("mean", values.mean(1)),
        ("std", values.std(1)),
        ("active", (values > 0).mean(1)),
    ):
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert sums.dead.nonzero()[0].tolist() == [3]


def test_sums_of_pictures_of_different_sizes_add_up():
    values = np.random.default_rng(0).standard_normal((2, 50)) + 100
    parts = [values[:, :7], values[:, 7:]]
    sums = [
        ChannelSums(
            1, v.shape[1], v.min(1), v.max(1), v.mean(1), ((v - v.mean(1)[:, None]) ** 2).sum(1), (v > 0).sum(1)
        )
        for v in parts
    ]
    both = sums[0] + sums[1]
    assert (both.pictures, both.count) == (2, 50)
    np.testing.assert_allclose(both.mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(both.std, values.std(1), rtol=1e-12)


def test_any_workers_give_the_same_bytes_and_a_vector_has_channels_too(place, tmp_path):
    one, two = measured(place, 1), measured(place, 2, folder=tmp_path)
    assert encode({n: vars(s) for n, s in one.result.items()}) == encode({n: vars(s) for n, s in two.result.items()})
    assert one.result["probabilities"].count == COUNT
    np.testing.assert_allclose(one.result["probabilities"].mean.sum(), 1, rtol=1e-5)


def test_what_cannot_be_summed_up_is_left_out(place, tmp_path):
    (tmp_path / "1.png").write_text("no picture")
    write_png(tmp_path / "0.png", np.zeros((12, 12, 3), np.uint8))
    model = Model(place / "net.onnx", threads=1)
    done = run(MeasuringChannels(model, Preprocess(size=(12, 12)), ["r1"]), find_pictures([tmp_path]), workers=1)
    assert [*done.failed] == [str(tmp_path / "1.png")] and done.result["r1"].pictures == 1
    endless = MeasuringChannels(model, Preprocess(size=(12, 12), scale=3e38), ["r1"])
    write_png(tmp_path / "2.png", np.full((12, 12, 3), 255, np.uint8))
    with np.errstate(over="ignore"):
        done = run(endless, find_pictures([tmp_path / "0.png", tmp_path / "2.png"]), workers=1)
    assert [*done.failed] == [str(tmp_path / "2.png")]
    with pytest.raises(NotFoundError, match="no tensor or node 'r9'"):
        MeasuringChannels(model, Preprocess(size=(12, 12)), ["r9"])
