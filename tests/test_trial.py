"""In the library, a model that crashes native code, or takes too much, is an error; the caller's process goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import analyzer
from analyzer import Explainer, InputError, UnsupportedError, heartbeat
from analyzer.attribution import trial, tried
from analyzer.graph import load
from analyzer.runtime import Session
from analyzer.store import Cache
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node, small_cnn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process that crashes stops at a dialog there")
kills = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
PICTURE = np.ones((1, 3, 8, 8), np.float32)


@pytest.fixture(autouse=True)
def tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONNX_ANALYZER_SANDBOX")
    monkeypatch.setenv("ONNX_ANALYZER_CACHE", "")
    monkeypatch.setattr(trial, "_known", set())


@pytest.fixture(scope="module", autouse=True)
def worker_ends() -> Iterator[None]:
    yield
    trial._end()
    trial._worker = None


def crashing() -> onnx.ModelProto:
    """onnxruntime 1.31 aborts on a quantized convolution of a scalar, whose rank shows only when it runs."""
    nodes = [
        node("Flatten", ["x"], ["flat"]),
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Less", ["m", "low"], ["is_low"]),
        node("Cast", ["is_low"], ["none"], to=TensorProto.INT64),
        node("Reshape", ["none", "one"], ["nones"]),
        node("NonZero", ["nones"], ["indices"]),
        node("Reshape", ["indices", "open"], ["shape"]),
        node("Reshape", ["m", "shape"], ["scalar"]),
        node("QuantizeLinear", ["scalar", "scale", "zero"], ["q"]),
        node("QLinearConv", ["q", "scale", "zero", "w", "scale", "zero", "scale", "zero"], ["c"]),
        node("DequantizeLinear", ["c", "scale", "zero"], ["d"]),
        node("ReduceMean", ["d"], ["y"], keepdims=0),
    ]
    weights = {
        "low": np.array(-9, np.float32), "one": np.array([1]), "open": np.array([-1]),
        "scale": np.array(0.1, np.float32), "zero": np.array(3, np.uint8), "w": np.ones((4, 3, 1, 1), np.uint8),
    }  # fmt: skip
    return model(nodes, {"x": [1, 3, 8, 8]}, {"flat": [1, 192], "y": []}, weights)


def endless(grows: bool = False) -> onnx.ModelProto:
    """A loop whose number of steps depends on the picture: 10¹² for one of ones."""
    step = [node("Concat", ["s", "s"], ["t"], axis=0)] if grows else [node("Identity", ["s"], ["t"])]
    size = ["n"] if grows else [1]
    bools = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("goes", "on")]
    states = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in ("s", "t")]
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(
        [*step, node("Identity", ["goes"], ["on"])], "body", [number, bools[0], states[0]], [bools[1], states[1]]
    )
    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Mul", ["m", "many"], ["steps"]),
        node("Cast", ["steps"], ["trips"], to=TensorProto.INT64),
        node("Loop", ["trips", "true", "start"], ["end"], body=body),
        node("Flatten", ["x"], ["flat"]),
    ]
    weights = {"many": np.array(1e12, np.float32), "true": np.array(True), "start": np.ones(1, np.float32)}
    return model(nodes, {"x": [1, 3, 8, 8]}, {"flat": [1, 192], "end": size}, weights)


def saved(made: onnx.ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    onnx.save(made, path)
    return str(path)


def crashes(path: str) -> bool:
    code = (
        "import sys, numpy, onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1])\n"
        "s.run(None, {'x': numpy.ones((1, 3, 8, 8), 'f')})"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True).returncode < 0


def test_what_crashes_native_code_is_an_error(tmp_path: Path) -> None:
    path = saved(crashing(), tmp_path)
    if not crashes(path):
        pytest.skip("this onnxruntime does not crash on it")
    for given in (path, crashing().SerializeToString()):
        with pytest.raises(UnsupportedError, match=r"^(model.onnx|test): native code crashed \(SIGABRT\)"):
            analyzer.explain(given, PICTURE)
    assert Explainer(small_cnn()).plain.outputs  # by another worker


@needs_corpus
def test_hostile_files_raise_our_errors_only() -> None:
    for path in sorted((CORPUS / "cases" / "hostile").rglob("*.onnx")):
        try:
            shape = Explainer(path).plain.inputs[0].shape or (1, 3, 16, 16)
        except analyzer.AnalyzerError:
            continue
        assert isinstance(shape, tuple | list), path


@kills
def test_a_worker_that_is_ended_is_an_error() -> None:
    Explainer(small_cnn(seed=3))  # there is a worker
    working = trial._worker
    assert working is not None and working._process is not None
    threading.Timer(0.5, os.kill, (working._process.pid, signal.SIGSEGV)).start()
    with pytest.raises(UnsupportedError, match=r"native code crashed \(SIGSEGV\), when it was tried"):
        Explainer(endless())


@kills
def test_a_worker_that_nobody_needed_is_replaced() -> None:
    Explainer(small_cnn(seed=4))
    first = trial._worker
    assert first is not None and first._process is not None and first._process.stdin is not None
    first._process.stdin.close()
    first._process.wait()
    assert first._process.returncode == 0
    Explainer(small_cnn(seed=5))
    assert trial._worker is not None and trial._worker is not first


@kills
def test_time_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"loading it and one run take more than 0\.2 s"):
        Explainer(endless(), sandbox=0.2)
    monkeypatch.setattr(trial, "bytes_allowed", lambda: 1 << 29)
    with pytest.raises(UnsupportedError, match=r"more than 0\.5 GiB of memory is needed"):
        Explainer(endless(grows=True))


def test_a_model_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(name: str, request: bytes, seconds: float | None) -> str:
        asked.append(name)
        return trial.identity(load(path))

    path, cache = saved(small_cnn(), tmp_path), Cache(tmp_path / "cache")
    monkeypatch.setattr(trial, "_answer", answer)
    for _ in range(2):
        Explainer(path, cache=cache)
    assert len(asked) == 1
    trial._known.clear()  # as another process
    os.utime(path, (1, 1))
    Explainer(path, cache=cache)
    assert len(asked) == 1
    monkeypatch.setattr(trial, "runtime_version", lambda: "other")
    Explainer(path, cache=cache)
    assert len(asked) == 2
    saved(small_cnn(seed=1), tmp_path)
    Explainer(path, cache=cache)
    assert len(asked) == 3


def test_who_trusts_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_answer", lambda *_: pytest.fail("tried"))
    Explainer(small_cnn(), sandbox=False)
    analyzer.explain(small_cnn(size=8), PICTURE, sandbox=False)
    with monkeypatch.context() as patch:
        patch.setenv("ONNX_ANALYZER_SANDBOX", "0")
        Explainer(small_cnn())
    monkeypatch.setattr(heartbeat, "is_watched", lambda: True)
    Explainer(small_cnn())


def test_a_file_that_is_replaced_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_answer", lambda *_: "of another file")
    with pytest.raises(InputError, match="the file changed while it was read"):
        Explainer(saved(small_cnn(), tmp_path))


def test_without_another_python_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_worker", None)
    monkeypatch.setattr(sys, "executable", "/missing/python")
    with pytest.warns(RuntimeWarning, match="Python cannot be started again"):
        Explainer(small_cnn())


def test_the_worker_runs_the_file_and_its_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(Session, "run", lambda self, feeds: ran.append({n: a.shape for n, a in feeds.items()}))
    path = saved(small_cnn(size="side"), tmp_path)
    request = {"path": path, "cache": str(tmp_path / "cache"), "options": {"threads": 1}}
    assert tried.tried(request, b"") == trial.identity(load(path))
    assert ran == [{"x": (1, 3, 64, 64)}] * 2 and list((tmp_path / "cache").glob("*.npz"))
    assert tried.tried({"options": {}}, b"nonsense") == ""


@kills
def test_the_worker_ends_with_the_process(tmp_path: Path) -> None:
    path = saved(endless(), tmp_path)
    code = (
        "import sys, threading, time, analyzer\nfrom analyzer.attribution import trial\n"
        "class Watched(trial._Worker):\n"
        "    def ask(self, *given):\n        print(self._process.pid, flush=True)\n        return super().ask(*given)\n"
        "trial._Worker = Watched\nanalyzer.Explainer(sys.argv[1])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.5)
    process.kill()
    process.wait()
    for _ in range(600):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the worker goes on")
