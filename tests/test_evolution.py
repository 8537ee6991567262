"""Features over checkpoints: each column is what mining finds, jumps are changes of the picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.errors import InputError, NotFoundError
from analyzer.images import Preprocess, decode, write_png
from analyzer.images.mosaic import MARK
from analyzer.mining import mine
from analyzer.mining.evolution import evolution
from tests.models import small_cnn

HOW = Preprocess(size=(12, 12))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evolution")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(7)
    for number in range(12):
        write_png(folder / "pictures" / f"{number:02}.png", rng.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    for step, seed in enumerate((0, 0, 1)):
        onnx.save(small_cnn(seed=seed), folder / f"step{step}.onnx")
    onnx.save(small_cnn(classes=5), folder / "other.onnx")
    return folder


def test_columns_are_mined_and_jumps_are_changes(place: Path) -> None:
    files = [place / f"step{i}.onnx" for i in range(3)]
    found = evolution(files, [place / "pictures"], "r2", HOW, range(16))
    assert found.checkpoints == ("step0", "step1", "step2")
    rankings = [mine(Explainer(f), [place / "pictures"], ["r2"], HOW, 1).rankings["r2"] for f in files]
    jumped = 0
    for channel, patches in found.patches.items():
        for patch, ranking in zip(patches, rankings, strict=True):
            if patch is not None:
                assert patch.value == ranking.values[channel, 0] and patch.picture == ranking.images[channel, 0]
        first, second, third = found.jumps(channel)
        assert not first and not second
        jumped += third
    assert jumped > 4
    red = (found.figure() == MARK).all(axis=2)
    assert red.any()
    still = evolution(files[:2], [place / "pictures"], "r2", HOW, range(16))
    assert not (still.figure() == MARK).all(axis=2).any()


def test_what_cannot_be_compared(place: Path) -> None:
    with pytest.raises(InputError, match="two checkpoints"):
        evolution([place / "step0.onnx"], [place / "pictures"], "r2", HOW)
    with pytest.raises(NotFoundError):
        evolution([place / "step0.onnx", place / "step1.onnx"], [place / "pictures"], "r9", HOW)
    with pytest.raises(InputError, match="channels"):
        evolution([place / "step0.onnx", place / "step1.onnx"], [place / "pictures"], "r2", HOW, [16])


def test_the_command(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    from analyzer.commands import main

    files = [str(place / f"step{i}.onnx") for i in range(3)]
    command = ["evolution", *files, "-i", str(place / "pictures"), "-l", "r2", "--size", "12x12", "--preset", "0-1"]
    written = ["-o", str(tmp_path / "out.png"), "--raw", str(tmp_path / "raw.npz")]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command, *written, "--format", "json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    channels = json.loads(capsys.readouterr().out)["channels"]
    assert not stopped.value.code and len(channels) == 6 and len(channels[0]["values"]) == 3
    assert decode(tmp_path / "out.png").shape[0] > 200
    arrays, first = np.load(tmp_path / "raw.npz"), channels[0]
    steps = [step for step, value in enumerate(first["values"]) if value is not None]
    names = [f"{first['channel']}/{step}/{kind}" for step in steps for kind in ("patch", "projection")]
    assert steps and set(names) <= set(arrays) and arrays[names[0]].shape == arrays[names[1]].shape


def test_channels_that_are_drawn_differ(place: Path, tmp_path: Path) -> None:
    """Twins of channels that are drawn are not: the second half of the layer is the first half, half as strong."""
    network = small_cnn()
    for weights in network.graph.initializer:
        if weights.name == "w2":
            kernels = numpy_helper.to_array(weights)[:8]
            weights.CopyFrom(numpy_helper.from_array(np.concatenate([kernels, kernels / 2]), "w2"))
    onnx.save(network, tmp_path / "twins.onnx")
    found = evolution([tmp_path / "twins.onnx"] * 2, [place / "pictures"], "r2", HOW, count=6)
    drawn = list(found.patches)
    assert len(drawn) == len({channel % 8 for channel in drawn}) == 6
    inputs = np.concatenate([HOW.apply(decode(file))[0] for file in sorted((place / "pictures").iterdir())])
    peaks = features(network, inputs, ["r2"])["r2"].max(axis=(2, 3))
    result = mine(Explainer(network), [place / "pictures"], ["r2"], HOW, 1)
    known = result.statistics["r2"].correlation
    live = peaks.std(axis=0) > 0
    np.testing.assert_allclose(known[live][:, live], np.corrcoef(peaks[:, live].T), atol=1e-4)
