"""Mining equals brute force, whatever is killed, resumed or divided."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer.attribution import Explainer
from analyzer.errors import UnsupportedError
from analyzer.images import Preprocess, decode, write_png
from analyzer.mining import PeakStatistics, Ranking, mine
from analyzer.mining.described import describe
from analyzer.mining.patches import check_projectable, collect_patches, strongest_channels
from tests.models import model, node, small_cnn

HOW = Preprocess(size=(12, 12), scale=1 / 255)
COUNT, LAYERS = 53, ("r1", "r2")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model and pictures: noise of different strengths, one file that is none."""
    folder = tmp_path_factory.mktemp("mining")
    onnx.save(small_cnn(), folder / "model.onnx")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(2)
    for number in range(COUNT):
        low, high = sorted((int(rng.integers(0, 128)), int(rng.integers(129, 256))))
        write_png(folder / "pictures" / f"{number:03}.png", rng.integers(low, high, (14, 17, 3), np.uint8))
    (folder / "pictures" / "020.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def brute(place: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{layer: (values, pictures)} by running everything and sorting, with onnxruntime alone."""
    proto = onnx.load(place / "model.onnx")
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in LAYERS)
    session = ort.InferenceSession(proto.SerializeToString())
    numbers = [n for n in range(COUNT) if n != 20]
    images = [HOW.apply(decode(place / "pictures" / f"{n:03}.png"))[0] for n in numbers]
    found = {}
    for layer in LAYERS:
        maps = np.concatenate([session.run([layer], {"x": image})[0] for image in images])
        peaks = maps.reshape(*maps.shape[:2], -1)
        order = np.argsort(-peaks.max(2), axis=0, kind="stable")[:9].T
        best = np.take_along_axis(peaks.max(2).T, order, 1)
        places = np.take_along_axis(peaks.argmax(2).T, order, 1)
        found[layer] = best, np.array(numbers)[order], places
    return found


def assert_same(result, brute) -> None:
    for layer, (values, images, places) in brute.items():
        ranking = result.rankings[layer]
        np.testing.assert_array_equal(ranking.values, values)
        np.testing.assert_array_equal(ranking.images, images)
        np.testing.assert_array_equal(ranking.places, places)
    assert [Path(p).stem for p in result.failed] == ["020"]


def run(place: Path, **options):
    return mine(Explainer(place / "model.onnx"), [place / "pictures"], LAYERS, HOW, **options)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_equals_brute_force(place: Path, brute, batch: int) -> None:
    assert_same(run(place, batch=batch), brute)


def test_shards_merge_to_the_whole(place: Path, brute, tmp_path: Path) -> None:
    for i in (3, 1):
        run(place, folder=tmp_path, shard=(i, 3))
    early = run(place, folder=shutil.copytree(tmp_path, tmp_path / "early"))
    assert 2 * COUNT // 3 - 8 < early.resumed < COUNT, "what the shards left is done"
    run(place, folder=tmp_path, shard=(2, 3))
    result = run(place, folder=tmp_path)
    assert result.resumed == COUNT
    whole = run(place)
    for found in (early, result):
        assert_same(found, brute)
        assert_equal_statistics(found, whole)


def assert_equal_statistics(found, other) -> None:
    for layer in LAYERS:
        assert found.statistics[layer].count == COUNT - 1
        for name in ("mean_sum", "peak_sum", "highest", "lowest", "histogram", "products"):
            ours, theirs = (getattr(r.statistics[layer], name) for r in (found, other))
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same(place: Path, workers: int) -> None:
    found, other = (run(place, batch=2, workers=n) for n in (1, workers))
    assert describe(found) == describe(other)
    assert_equal_statistics(found, other)


KILLED = """
import os, signal, sys
from analyzer.attribution import Explainer
from analyzer.mining import mine
from tests.test_mining import HOW, LAYERS
done = []
def count(pictures):
    done.append(pictures)
    if len(done) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
mine(Explainer(sys.argv[1] + "/model.onnx"), [sys.argv[1] + "/pictures"], LAYERS, HOW, folder=sys.argv[2], batch=2,
     progress=count)
"""


def test_a_killed_run_goes_on_where_it_was(place: Path, brute, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(place), str(tmp_path)], cwd=ROOT, env=environment)
    assert done.returncode == -signal.SIGKILL
    (journal,) = tmp_path.glob("*.journal")
    with journal.open("ab") as file:
        file.write(b"pass\x00\x01 torn")
    seen = []
    result = run(place, folder=tmp_path, batch=2, progress=seen.append)
    assert result.resumed == 22 and sum(seen) == COUNT and len(seen) == 1 + -(-(COUNT - 22) // 2)
    assert_same(result, brute)
    assert_equal_statistics(result, run(place, batch=2))
    assert not journal.exists()
    again = run(place, folder=tmp_path, batch=2)
    assert again.resumed == COUNT
    assert_same(again, brute)


def test_a_folder_may_hold_several_runs(place: Path, brute, tmp_path: Path) -> None:
    run(place, folder=tmp_path)
    other = run(place, folder=tmp_path, k=3)
    assert other.resumed == 0 and "a run with different k" in other.doubt
    assert run(place, folder=tmp_path).resumed == run(place, folder=tmp_path, k=3).resumed == COUNT
    for state in tmp_path.glob("*.state"):
        state.write_bytes(b"PK garbage")
    result = run(place, folder=tmp_path)
    assert result.resumed == 0
    assert_same(result, brute)


def test_ties_go_to_the_earlier_picture() -> None:
    ranking = Ranking.empty(1, 2)
    for image, value in ((0, 1.0), (1, 2.0), (2, 2.0), (3, 2.0), (4, np.nan)):
        ranking.update(np.array([[value]], np.float32), np.array([[image]]), np.array([image]))
    assert ranking.images.tolist() == [[1, 2]]
    other = Ranking(np.array([[3, 2.0]], np.float32), np.array([[9, 0]]), np.array([[0, 0]]))
    assert other.merge(ranking).images.tolist() == ranking.merge(other).images.tolist() == [[9, 0]]


def test_statistics_of_channels() -> None:
    rng = np.random.default_rng(0)
    peaks = rng.uniform(0.5, 4, (50, 4)).astype(np.float32)
    peaks[:, 1], peaks[:, 3] = 2 * peaks[:, 0], 0
    statistics = PeakStatistics.empty(4)
    statistics.update(peaks[:20], peaks[:20])
    statistics.update(peaks[20:], peaks[20:])
    assert statistics.dead.tolist() == [False, False, False, True]
    np.testing.assert_allclose(statistics.mean, peaks.mean(0, dtype=np.float64))
    assert statistics.histogram.sum(1).tolist() == [50] * 4 and statistics.histogram[3, 0] == 50
    ((i, j, r),) = statistics.correlated()
    assert (i, j) == (0, 1) and r == pytest.approx(1)
    correlation = np.corrcoef(peaks[:, :3].T.astype(np.float64))[0, 2]
    found = {(a, b): c for a, b, c in statistics.correlated(0)}
    assert found[0, 2] == pytest.approx(correlation)


def test_patches_are_the_pixels_of_the_receptive_field(place: Path) -> None:
    explainer = Explainer(place / "model.onnx")
    result = run(place)
    (patches,) = collect_patches(explainer, result, HOW, {"r1": strongest_channels(result, "r1", 2)}, "gradient")
    for channel, found in patches.channels.items():
        for rank, patch in enumerate(found):
            y, x = np.unravel_index(result.rankings["r1"].places[channel, rank], (12, 12))
            rows, columns = patch.window
            assert rows == (max(0, y - 1), min(12, y + 2)) and columns == (max(0, x - 1), min(12, x + 2))
            seen = HOW.undo(HOW.apply(decode(result.samples[patch.picture].source))[0][0])
            top, left = max(0, 1 - y), max(0, 1 - x)
            part = seen[rows[0] : rows[1], columns[0] : columns[1]]
            shown = patch.pixels[top : top + part.shape[0], left : left + part.shape[1]]
            np.testing.assert_array_equal(shown, part)
            assert patch.projection is not None and patch.projection.shape == patch.pixels.shape == (3, 3, 3)


def test_the_command(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    from analyzer.commands import main

    def call(*arguments: str) -> tuple[int, str]:
        command = ["mine", f"{place}/model.onnx", f"{place}/pictures", "-l", "r2", "-o", f"{tmp_path}/mined"]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command, "--size", "12x12", "--preset", "0-1", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    code, out = call("--draw", "3", "--format", "json")
    assert code == 5 and json.loads(out)["layers"][0]["channels"] == 16
    page = (tmp_path / "mined" / "index.html").read_text()
    assert page.count("<h3>Channel ") == 3 and "http:" not in page and "https:" not in page
    top = json.loads((tmp_path / "mined" / "top.json").read_text())
    assert len(top["layers"][0]["channels"][0]["top"]) == 9
    assert (tmp_path / "mined" / "r2.png").exists()
    assert call("-u", "99")[0] == 2
    assert len(list((tmp_path / "mined").glob("mine-*.1-of-1.state"))) == 1


def test_a_missing_rule_is_told_before_mining(place: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Magic", ["r"], ["y"], domain="acme"),
    ]
    given = {"w": np.ones((2, 3, 3, 3), np.float32)}
    network = model(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 2, 12, 12]}, given, domains={"acme": 1})
    explainer = Explainer(network)
    check_projectable(explainer, ["r"], "deconvnet")
    with pytest.raises(UnsupportedError, match="Magic"):
        check_projectable(explainer, ["*"], "deconvnet")
