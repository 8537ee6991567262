"""Rewritten graphs from the cache: the same results, nothing rewritten; bounded, and harmless when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import analyzer
from analyzer.api import models as api
from analyzer.attribution import Explainer, compiler
from analyzer.attribution import model as loaded_model
from analyzer.images import decode, model_card
from analyzer.store import ABANDONED, Cache, user_cache
from tests.models import small_cnn

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
PICTURE = next((ROOT / "examples").glob("digits_*.png"))


def picture(model: Path) -> np.ndarray:
    return model_card(model).preprocess.apply(decode(PICTURE))[0]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "digits_cnn_int8", "digits_cnn_fp16"])
@pytest.mark.parametrize("method", ["grad-cam", "guided-backprop", "full-grad"])
def test_the_second_process_rewrites_nothing(name, method, tmp_path, monkeypatch):
    model = MODELS / f"{name}.onnx"
    array, target = picture(model), [3, "top1"]
    first = Explainer(model, cache=Cache(tmp_path)).explain(array, method, target)
    again = Explainer(model, cache=Cache(tmp_path))

    def fail(*_, **__):
        raise AssertionError("rewritten")

    monkeypatch.setattr(loaded_model, "normalize", fail)
    monkeypatch.setattr(compiler, "compile_question", fail)
    second = again.explain(array, method, target)
    for field in ("raw", "heatmap", "scores", "target"):
        assert np.array_equal(getattr(first, field), getattr(second, field))
    assert (first.layer, first.stripped, first.diagnosis) == (second.layer, second.stripped, second.diagnosis)
    assert all(np.array_equal(first.details[n], second.details[n]) for n in first.details)


def test_another_model_of_the_same_name_is_another(tmp_path):
    file, array = tmp_path / "model.onnx", picture(MODELS / "digits_cnn.onnx")
    heats = []
    for scale in (1, 2):
        proto = onnx.load(MODELS / "digits_cnn.onnx")
        bias = next(t for t in proto.graph.initializer if t.name == "network.head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * scale, bias.name))
        onnx.save(proto, file)
        cached = Explainer(file, cache=Cache(tmp_path / "cache")).explain(array, target=3).scores
        assert np.array_equal(cached, Explainer(file).explain(array, target=3).scores)
        heats.append(cached)
    assert not np.array_equal(*heats)


def test_damaged_and_foreign_files_are_made_anew(tmp_path):
    model = MODELS / "digits_cnn.onnx"
    array = picture(model)
    wanted = Explainer(model, cache=Cache(tmp_path)).explain(array)
    for at, file in enumerate(sorted(tmp_path.glob("*.npz"))):
        file.write_bytes(file.read_bytes()[:100] if at % 2 else b"PK nonsense")
    assert np.array_equal(Explainer(model, cache=Cache(tmp_path)).explain(array).raw, wanted.raw)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_files_that_are_not_ours_are_not_read(tmp_path):
    """An empty archive has no arrays, a compressed one may have any size, a pipe blocks."""
    cache, arrays = Cache(tmp_path), {"x": np.arange(5)}
    cache.put("a", arrays)
    assert cache.get("a") is not None
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    zipfile.ZipFile(tmp_path / "b.npz", "w").close()
    os.mkfifo(tmp_path / "c.npz")
    cache.put("c", arrays)
    assert cache.get("a") is cache.get("b") is cache.get("c") is None


def test_what_was_used_longest_ago_goes(tmp_path):
    cache = Cache(tmp_path, limit=10_000)
    for i in range(12):
        cache.put(f"k{i}", {"x": np.zeros(1000, np.uint8)})
        os.utime(tmp_path / f"k{i}.npz", (i, i))
        if i > 0:
            cache.get("k0")
    kept = {p.stem for p in tmp_path.glob("*.npz")}
    assert sum(p.stat().st_size for p in tmp_path.glob("*.npz")) <= 10_000
    assert "k0" in kept and "k11" in kept and "k1" not in kept
    cache.put("large", {"x": np.zeros(5000, np.uint8)})
    assert cache.get("large") is None


def test_several_writers(tmp_path):
    cache, array = Cache(tmp_path), np.arange(100_000)

    def work():
        for i in range(20):
            cache.put(f"k{i % 3}", {"x": array})
            found = cache.get(f"k{i % 3}")
            assert found is not None and np.array_equal(found["x"], array)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not list(tmp_path.glob("*.part"))


def test_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNX_ANALYZER_CACHE", "")
    assert user_cache() is None
    monkeypatch.setenv("ONNX_ANALYZER_CACHE", str(tmp_path / "here"))
    assert user_cache().folder == tmp_path / "here"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNX_ANALYZER_CACHE", str(tmp_path / "file" / "cache"))
    assert user_cache() is None


def test_the_folder_is_listed_rarely_and_unfinished_files_go(tmp_path, monkeypatch):
    cache, listed = Cache(tmp_path, limit=160_000), []
    trim = Cache._trim
    monkeypatch.setattr(Cache, "_trim", lambda self: listed.append(1) or trim(self))
    for name, age in ((".0123456789abcdef.part", 2 * ABANDONED), (".fedcba9876543210.part", 1)):
        (tmp_path / name).write_bytes(bytes(50_000))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    for number in range(12):
        cache.put(f"{number}", {"x": np.zeros(250)})
    assert len(listed) == 3  # the first, then every 10,000 bytes of about 2,300 each
    assert [p.name for p in tmp_path.glob(".*")] == [".fedcba9876543210.part"]
    for number in range(12, 80):
        cache.put(f"{number}", {"x": np.zeros(250)})
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 160_000
    assert cache.get("79") is not None and cache.get("0") is None


@pytest.mark.parametrize("given", [lambda m: m.SerializeToString(), lambda m: m], ids=["bytes", "ModelProto"])
def test_a_model_in_memory_is_compiled_once(given, monkeypatch):
    loads, real = [], api.Explainer
    monkeypatch.setattr(api, "Explainer", lambda *a, **k: loads.append(1) or real(*a, **k))
    image, network = np.random.default_rng(0).random((1, 3, 12, 12)).astype(np.float32), small_cnn()
    network.producer_name = str(given)  # nobody else's
    first, second = (analyzer.explain(given(network), image) for _ in range(2))
    assert loads == [1] and np.array_equal(first.raw, second.raw)
    network.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(
            np.zeros(network.graph.initializer[0].dims, np.float32), network.graph.initializer[0].name
        )
    )
    assert not np.array_equal(analyzer.explain(given(network), image).scores, first.scores) and loads == [1, 1]


SHARING = """
import sys
import numpy as np
from analyzer.errors import InputError
from analyzer.passes.journal import Journal
from analyzer.store import Cache
cache, wrong = Cache("cache", limit=200_000), 0
print("ready", flush=True)
sys.stdin.readline()
for turn in range(60):
    key, array = str(turn % 20), np.full(2_000, turn % 20)
    found = cache.get(key)
    wrong += found is not None and not np.array_equal(found["x"], array)
    cache.put(key, {"x": array})
try:
    journal = Journal("mined", "mine", {})
    print("alone", wrong, flush=True)
except InputError:
    print("refused", wrong, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_eight_processes_share_a_cache_and_one_of_them_a_folder_of_mine(tmp_path):
    (tmp_path / "mined").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHARING]
    how = {"cwd": tmp_path, "env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **how) for _ in range(8)]

    def said() -> list[str]:
        return [process.stdout.readline().strip() for process in started]

    def go_on() -> None:
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()

    assert said() == ["ready"] * 8
    go_on()
    assert sorted(said()) == ["alone 0", *["refused 0"] * 7]
    go_on()
    assert all(process.wait(60) == 0 for process in started)
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left and all(name.endswith(".npz") and not name.startswith(".") for name in left)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 240_000
