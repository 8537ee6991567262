"""One model, many threads: every answer is the one that a single thread gets."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import analyzer
from analyzer.api import models as api
from analyzer.attribution import Explainer, Job, Model, Question, answer
from analyzer.runtime.pool import LIVE, Pool
from tests.models import small_cnn

THREADS, ROUNDS = 8, 5
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
WORDS = [f"class {i}" for i in range(small_cnn().graph.output[0].type.tensor_type.shape.dim[1].dim_value)]


def questions() -> list[dict]:
    """Questions that differ in one thing at a time: labels, arrays, targets, methods, layers, options."""
    rng = np.random.default_rng(1)
    masks = [rng.random((6, 6)).astype(np.float32) for _ in range(3)]
    return [
        {"target": "class 1", "labels": WORDS},
        {"target": "class 1", "labels": WORDS[::-1]},
        *({"target": "(r2[:, 2] * mask).sum()", "arrays": {"mask": mask}} for mask in masks),
        {"method": "gradient", "target": 0},
        {"method": "gradient", "target": [0, 1]},
        {"method": "grad-cam", "layer": "r1"},
        {"method": "layer-cam", "layer": "r2"},
        {"method": "guided-backprop"},
        {"method": "occlusion", "target": 1, "patch": 4},
        {"method": "occlusion", "target": 1, "patch": 6},
    ]


@pytest.fixture
def paths(tmp_path):
    """Two files of one network with other weights."""
    found = []
    for seed in (0, 1):
        proto = small_cnn()
        rng = np.random.default_rng(seed)
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
                values = rng.standard_normal(tuple(tensor.dims)).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        found.append(tmp_path / f"{seed}.onnx")
        onnx.save(proto, found[-1])
    return found


def test_every_thread_gets_its_own_answer(paths):
    asked = [(path, question) for path in paths for question in questions()]

    def ask(at: int) -> np.ndarray:
        path, question = asked[at]
        found = analyzer.explain(str(path), IMAGES, **question)
        return np.concatenate([found.raw.ravel(), found.heatmap.ravel(), found.target.ravel()])

    expected = []
    for at in range(len(asked)):
        api._models.clear()
        expected.append(ask(at))
    api._models.clear()
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(len(asked)), ROUNDS)).tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        for at, found in zip(order, pool.map(ask, order), strict=True):
            assert np.array_equal(found, expected[at]), asked[at]


def test_equal_questions_have_equal_keys():
    mask = np.ones((2, 2), np.float32)
    base = Question((Job("grad-cam", "r2", {"b": 1, "a": 2}),), "class 1", labels=["a", "b"], arrays={"m": mask})
    same = Question((Job("grad-cam", "r2", {"a": 2, "b": 1}),), "class 1", labels=["a", "b"], arrays={"m": mask.copy()})
    assert base.key == same.key
    others = [
        Question((Job("grad-cam", "r2", {"b": 1, "a": 3}),), "class 1", labels=["a", "b"], arrays={"m": mask}),
        Question((Job("grad-cam", "r1", {"b": 1, "a": 2}),), "class 1", labels=["a", "b"], arrays={"m": mask}),
        Question(base.jobs, "class 2", labels=["a", "b"], arrays={"m": mask}),
        Question(base.jobs, "class 1", labels=["b", "a"], arrays={"m": mask}),
        Question(base.jobs, "class 1", labels=["a", "b"], arrays={"m": 2 * mask}),
        Question(base.jobs, "class 1", labels=["a", "b"], arrays={"n": mask}),
        Question(base.jobs, "class 1", labels=["a", "b"], arrays={"m": mask}, references={"r": mask}),
        Question(base.jobs, "class 1", labels=["a", "b"], arrays={"m": mask}, grey=mask),
        Question(base.jobs, "class 1", labels=["a", "b"], arrays={"m": mask}, runtime="tensorrt"),
        Question(base.jobs, "class 1", "y", labels=["a", "b"], arrays={"m": mask}),
    ]
    assert len({q.key for q in [base, *others]}) == len(others) + 1


def test_a_pool_makes_each_value_once_and_keeps_few():
    pool, made = Pool(3), []
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda i: pool.get("me", i % 2, lambda: made.append(i)), range(64)))
    assert len(made) == 2
    for key in range(10):
        pool.get("me", key, lambda: None)
    assert len(pool._kept) == 3
    pool.drop("me")
    assert not pool._kept


def test_what_fails_is_tried_again():
    pool, tries = Pool(2), []

    def fails_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return "made"

    with pytest.raises(ValueError):
        pool.get("me", "key", fails_once)
    assert pool.get("me", "key", fails_once) == "made"


def test_sessions_of_all_models_together_are_few():
    from analyzer.runtime import pool

    models = [Model(small_cnn()) for _ in range(6)]
    for model in models:
        for layer in ("r1", "r2"):
            for method in ("grad-cam", "layer-cam", "hires-cam"):
                answer(model, Question((Job(method, layer),)), IMAGES)
    assert len(pool.LIVE._kept) <= pool.KEPT


class Held:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_a_model_that_is_gone_leaves_nothing_in_the_pool():
    model = Explainer(small_cnn())
    model.explain(np.zeros((1, 3, 12, 12), np.float32))
    owners = {model._owner, model._sources}
    assert owners <= {owner for owner, _ in LIVE._kept}
    del model
    gc.collect()
    assert not owners & {owner for owner, _ in LIVE._kept}


def test_a_pool_keeps_what_fits_its_budget_and_always_the_last():
    pool, shared = Pool(99, budget=100), Held(40)
    for key, value in enumerate([Held(60), [shared, shared], Held(30)]):
        pool.get("me", key, lambda value=value: value)
    assert [key for _, key in pool._kept] == [1, 2] and pool.bytes == 70
    pool.get("me", 1, lambda: None)
    pool.get("me", 3, lambda: Held(50))
    assert [key for _, key in pool._kept] == [1, 3], "the least recently used goes"
    pool.get("me", 4, lambda: Held(500))
    assert [key for _, key in pool._kept] == [4]
    pool.limit_bytes(1000)
    pool.get("me", 5, lambda: Held(100))
    pool.limit_bytes(550)
    assert [key for _, key in pool._kept] == [5], "a smaller budget holds at once"
    pool.limit_bytes(50)
    assert [key for _, key in pool._kept] == [5]


def test_what_is_available_is_that_of_the_control_group(tmp_path):
    from analyzer.runtime.pool import available

    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/memory.max": "max",
        "sys/fs/cgroup/a/memory.max": "5000000",
        "sys/fs/cgroup/a/memory.current": "2000000",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 500000\nactive_file 250000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available(tmp_path) == 3_750_000
    (tmp_path / "proc/self/cgroup").unlink()
    assert available(tmp_path) == 8_192_000


def test_the_option_bounds_numpy_and_opencv_which_are_not_imported_yet():
    import subprocess
    import sys

    script = """
import sys
import analyzer.commands.explain, analyzer.commands.compare
from analyzer.commands.options import Given, SessionOptions, group
class Asked(Given):
    session: SessionOptions = group(SessionOptions)
@Asked.command("asked")
def command(given):
    assert not {"numpy", "cv2"} & set(sys.modules)
    import os, cv2, numpy
    print(given.session.threads, cv2.getNumThreads(), os.environ["OPENBLAS_NUM_THREADS"])
command(["--threads", "1"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1", "1"], done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_sessions_share_one_pool_where_the_process_is_ours(tmp_path):
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    np.save(tmp_path / "picture.npy", IMAGES)
    script = f"""
import os
os.cpu_count = lambda: 16
import numpy as np
from analyzer.attribution import Explainer
from analyzer.runtime import share_threads
image, before = np.load({str(tmp_path / "picture.npy")!r}), len(os.listdir("/proc/self/task"))
if SHARED:
    share_threads(16)
explainers = [Explainer({str(tmp_path / "m.onnx")!r}, threads=16) for _ in range(3)]
found = [e.explain(image, m, 1).raw.sum() for e in explainers for m in ("grad-cam", "gradient", "guided-backprop")]
print(len(os.listdir("/proc/self/task")) - before, float(sum(found)).hex())
"""
    shared, own = (_printed(script.replace("SHARED", said)).split() for said in ("True", "False"))
    assert shared[1] == own[1]
    assert int(shared[0]) < 2 * 16 < 8 * 16 < int(own[0])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_threads_of_the_command_line_do_not_grow_with_its_sessions():
    script = """
import os, sys
os.cpu_count = lambda: 16
from analyzer.commands.boundary import run
from analyzer.runtime import Session
create, seen = Session.__init__, []
def counted(*args, **options):
    create(*args, **options)
    seen.append(len(os.listdir("/proc/self/task")))
Session.__init__ = counted
sys.argv = "onnx-analyzer explain models/digits_cnn.onnx examples/digits_chelsea.png --threads 16".split()
sys.argv += "-m grad-cam -m occlusion -m ablation-cam -m rise".split()
assert run() == 0
print(len(seen), max(seen))
"""
    sessions, most = map(int, _printed(script).split()[-2:])
    assert sessions > 3 and most < 2 * 16


def _printed(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
