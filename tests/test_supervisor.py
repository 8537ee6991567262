"""The command runs in a child: what crashes it, or takes too much, ends in a sentence and exit code 3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer.commands.supervisor import RESTARTS
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph.bounds import propagates_little
from analyzer.graph.load import load
from analyzer.graph.passes import normalize
from tests.models import model, node

ROOT = Path(__file__).resolve().parent.parent
forks = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="the command runs in this process here")

SCRIPT = """
import os, signal, sys, time
from analyzer.commands.supervisor import supervised
from analyzer import heartbeat
{}
raise SystemExit(supervised(run))
"""


def started(body: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT.format(body), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def ran(body: str, *arguments: str) -> tuple[int, str, str]:
    process = started(body, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


@forks
def test_what_the_child_says_is_what_is_said() -> None:
    assert ran("def run(): print('out'); print('err', file=sys.stderr); return 5") == (5, "out\n", "err\n")


@forks
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_crash_is_a_sentence(name: str, tmp_path: Path) -> None:
    left = tmp_path / "half.part"
    body = (
        f"def run():\n    open({str(left)!r}, 'w').close()\n    heartbeat.made({str(left)!r})\n"
        f"    os.kill(os.getpid(), signal.{name})"
    )
    code, out, err = ran(body, "--format", "json")
    assert code == 3 and err.startswith(f"error: native code crashed ({name}) on this input\n  hint: ")
    assert json.loads(out)["exit_code"] == 3 and not left.exists()


@forks
def test_a_server_that_crashes_is_started_again_in_its_place() -> None:
    body = (
        "def run():\n    print('at', heartbeat.past.serving, file=sys.stderr, flush=True)\n"
        "    heartbeat.serving('80 token')\n    {}os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    code, _, err = ran(body.format("if heartbeat.past.serving: return 0\n    "))
    assert (code, err) == (0, "at \nwarning: native code crashed (SIGSEGV) on this input; started again\nat 80 token\n")
    code, _, err = ran(body.format(""))
    assert code == 3 and err.count("at 80 token") == RESTARTS and "error: native code crashed" in err
    code, _, err = ran(body.format("pass; ").replace("heartbeat.serving", "str"))  # it never served
    assert code == 3 and err.count("at ") == 1


@forks
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_bounded() -> None:
    body = "def run():\n    kept = []\n    while True:\n        kept.append(bytearray(1 << 24)); time.sleep(0.005)"
    code, _, err = ran(body, "--memory-limit", "0.3")
    assert code == 3 and err.startswith("error: more than 0.3 GiB of memory is needed")


@forks
def test_time_is_bounded_by_what_is_finished() -> None:
    steps = "for _ in range(4):\n        time.sleep(0.6); heartbeat.alive()"
    body = "def run():\n    " + steps + "\n    time.sleep({})\n    return 0"
    assert ran(body.format(0), "--time-limit=2")[0] == 0
    code, _, err = ran(body.format(60), "--time-limit=2")
    assert code == 3 and err == "error: nothing was finished within 2 s\n  hint: raise --time-limit\n"


@forks
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_command(number: int, code: int) -> None:
    body = (
        "def run():\n"
        f"    signal.signal({int(number)}, lambda *_: (print('in order', flush=True), os._exit({code})))\n"
        "    print('ready', flush=True)\n    time.sleep(60)"
    )
    process = started(body)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, b"in order\n")


@forks
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has ended")
def test_the_child_ends_with_its_parent() -> None:
    process = started("def run():\n    print(os.getpid(), flush=True)\n    time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the child goes on")


def test_without_the_sandbox_there_is_no_child() -> None:
    body = "me = os.getpid()\ndef run(): print(os.getpid() == me, sys.argv[1:]); return 0"
    assert ran(body, "--no-sandbox", "inspect")[1] == "True ['inspect']\n"
    assert ran("import numpy\n" + body)[1] == "True []\n"
    if hasattr(signal, "sigtimedwait"):
        assert ran(body)[1] == "False []\n"


# ---- What a file may ask for ----


def small(*more: onnx.NodeProto, output: str = "y", **weights: np.ndarray) -> onnx.ModelProto:
    arrays = {"w": np.ones((2, 3, 3, 3), np.float32), **weights}
    nodes = [node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]), *more]
    return model(nodes, {"x": [1, 3, 8, 8]}, {output: None if output != "y" else [1, 2, 8, 8]}, arrays)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BIG = 2**62


def pooled(**attributes: object) -> onnx.ModelProto:
    return small(node("MaxPool", ["y"], ["z"], **attributes), output="z")


def sliced(step: int) -> onnx.ModelProto:
    given = {"b": ints(0), "e": ints(2), "a": ints(1), "s": ints(step)}
    return small(node("Slice", ["y", *given], ["z"]), output="z", **given)


def counted(limit: int) -> onnx.ModelProto:
    given = {"b": np.array(0), "e": np.array(limit), "s": np.array(1)}
    return small(node("Range", [*given], ["r"]), **given)


REFUSED = {
    "kernel_shape is": lambda: pooled(kernel_shape=[2**31 - 1] * 2),
    "strides is": lambda: pooled(kernel_shape=[2, 2], strides=[0, 1]),
    "pads is": lambda: small(node("Conv", ["x", "w"], ["z"], pads=[BIG, 0, 0, 0]), output="z"),
    "steps are": lambda: sliced(BIG),
    "a range of 4,611,686,018,427,387,904": lambda: counted(BIG),
    "2 inputs; it takes 1": lambda: small(node("Relu", ["y", "y"], ["z"]), output="z"),
    "is of type STRING, not INT": lambda: small(node("Flatten", ["y"], ["z"], axis="one"), output="z"),
    "too long": lambda: small(node("Relu", ["y"], ["z" * 5000])),
}


@pytest.mark.parametrize("words", REFUSED)
def test_numbers_that_cannot_be_meant_are_refused(words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(REFUSED[words]())
    for sound in (pooled(kernel_shape=[2, 2]), sliced(2), counted(5)):
        load(sound)


def test_dimensions_that_cannot_be_meant_are_refused() -> None:
    given = small()
    given.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -(2**31)
    with pytest.raises(InputError, match="dimension of -2147483648"):
        load(given)


def test_a_loop_without_an_end_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])], "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in
         (("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, [1, 2, 8, 8]))],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in
         (("c2", TensorProto.BOOL, []), ("v2", TensorProto.FLOAT, [1, 2, 8, 8]))],
    )  # fmt: skip
    given = small(node("Loop", ["m", "", "y"], ["z"], body=body), output="z", m=np.int64(BIG))
    with pytest.raises(InputError, match="4611686018427387904 steps of a loop"):
        load(given)


def test_functions_that_multiply_are_refused_and_others_are_not() -> None:
    def laughing(depth: int) -> onnx.ModelProto:
        given = small(onnx.helper.make_node("F0", ["y"], ["z"], domain="own"), output="z")
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        for i in range(depth):
            inner, domain = ("Relu", "") if i + 1 == depth else (f"F{i + 1}", "own")
            nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in (("a", "b"), ("b", "c"))]
            given.functions.append(helper.make_function("own", f"F{i}", ["a"], ["c"], nodes, imports))
        given.opset_import.append(imports[1])
        return given

    load(laughing(10))
    with pytest.raises(UnsupportedError, match="16 functions expand to 65,537 nodes"):
        load(laughing(16))
    endless = laughing(2)
    endless.functions[1].node[0].op_type, endless.functions[1].node[0].domain = "F0", "own"
    with pytest.raises(UnsupportedError, match="calls itself"):
        load(endless)


def test_a_list_that_doubles_is_refused_before_it_is_made() -> None:
    nodes = [node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
    given = small(*nodes, d0=np.ones(1, np.float32))
    given.graph.output.append(helper.make_tensor_value_info("d40", TensorProto.FLOAT, None))
    assert not propagates_little(given)
    with pytest.raises(UnsupportedError, match="is a constant of"):
        normalize(given)
    short = small(node("Concat", ["d0", "d0"], ["d1"], axis=0), d0=numpy_helper.to_array(given.graph.initializer[1]))
    assert propagates_little(short)


# ---- One sample of many ----

LOSING = """
import ctypes, json, os, sys, time
from analyzer.commands.boundary import open_streams
from analyzer.commands.supervisor import watched
from analyzer.data import Sample
from analyzer.errors import UnsupportedError
from analyzer.passes import Pass, run

class Names(Pass):
    def __init__(self, batch, bad): self.batch, self.bad = batch, bad
    @property
    def identity(self): return {{}}
    def load(self, sample):
        if sample.number in self.bad.get("load", ()): ctypes.string_at(0)
        return sample.number
    def step(self, batch):
        for sample, number in batch:
            if number in self.bad.get("crash", ()): ctypes.string_at(0)
            if number in self.bad.get("sleep", ()): time.sleep(60)
        return {{"names": [sample.id for sample, _ in batch]}}

def command():
    open_streams()
    each = lambda partial, failed: print("n" * 3000, [*(partial or {{"names": []}})["names"], *map(str, failed)])
    outcome = run(Names({batch}, {bad}), [Sample(str(i), i, b"") for i in range(12)], {folder}, {workers}, each=each)
    print(json.dumps([outcome.result, {{k: str(e) for k, e in outcome.failed.items()}}]))
    sys.stdout.flush()
    return 5 if outcome.failed else 0

raise SystemExit(watched(command, None, {seconds}))
"""


def losing(bad: dict[str, list[int]], folder: Path | None = None, workers: int = 2, batch: int = 1) -> tuple:
    script = LOSING.format(
        bad=bad,
        folder=repr(str(folder)) if folder else None,
        workers=workers,
        batch=batch,
        seconds=3 if "sleep" in bad else None,
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    *printed, last = done.stdout.splitlines() or [""]
    return done.returncode, printed, json.loads(last) if done.returncode in (0, 5) else None, done.stderr


@forks
@pytest.mark.parametrize(
    ("bad", "workers", "batch"),
    [
        ({"crash": [3]}, 1, 1),
        ({"crash": [3, 4, 11]}, 2, 1),
        ({"load": [0], "crash": [7]}, 2, 4),
        ({"sleep": [5]}, 2, 1),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_a_crash_costs_one_sample(bad: dict, workers: int, batch: int, kept: bool, tmp_path: Path) -> None:
    lost = sorted(str(number) for numbers in bad.values() for number in numbers)
    code, printed, found, err = losing(bad, tmp_path if kept else None, workers, batch)
    assert code == 5, err
    assert found is not None and found[0]["names"] == [str(i) for i in range(12) if str(i) not in lost]
    assert sorted(found[1]) == lost
    words = "nothing was finished within 3 s" if "sleep" in bad else "native code crashed (SIGSEGV)"
    assert all(why.startswith(words) for why in found[1].values())
    assert len(printed) == 12 // batch and all(line.startswith("n" * 3000 + " [") for line in printed)


@forks
def test_what_crashes_on_every_sample_ends_soon() -> None:
    code, _, _, err = losing({"crash": list(range(12))})
    assert code == 3 and err.startswith("error: native code crashed (SIGSEGV)")
