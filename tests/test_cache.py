"""Rewritten graphs from the cache: the same results, nothing rewritten; bounded, and harmless when damaged."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.attribution import Explainer, compiler
from analyzer.attribution import model as loaded_model
from analyzer.images import decode, model_card
from analyzer.store import Cache, user_cache

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
PICTURE = next((ROOT / "examples").glob("*.png"))


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
