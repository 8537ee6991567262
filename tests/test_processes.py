"""Worker processes do what threads of one process do, to the byte; one that ends is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import analyzer
from analyzer import InputError, Processes, UnsupportedError
from analyzer.attribution import Job, Model, Question
from analyzer.data import find_pictures
from analyzer.images import model_card
from analyzer.passes import Loaded, processes, run
from analyzer.passes.codec import encode
from analyzer.passes.explaining import Explaining
from analyzer.plain import as_json
from analyzer.runtime.host import gpus
from tests.numbered import Deadly, Numbers, numbered, pictures_in

ROOT = Path(__file__).resolve().parents[1]
CNN, INT8 = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_cnn_int8.onnx"


class Seeing(Numbers):
    """Instead of a number the GPUs that the process sees."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(provider="cuda")

    def step(self, batch: Sequence[Loaded]) -> list[Any]:
        time.sleep(0.01)
        return [os.environ.get("CUDA_VISIBLE_DEVICES")] * len(batch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("pictures"), 20)


def test_mining_is_that_of_threads(pictures: Path, tmp_path: Path) -> None:
    analyzer.mine(CNN, pictures, out=tmp_path / "threads", policy=None, draw=0, workers=1)
    for how in (Processes(1), Processes(2), Processes(2, threads=2)):
        out = tmp_path / f"{how.count} {how.threads}"
        found = analyzer.mine(CNN, pictures, out=out, policy=None, draw=0, workers=how)
        assert list(found.failed) == [str(pictures / "broken.png")]
        assert (out / "top.json").read_bytes() == (tmp_path / "threads" / "top.json").read_bytes()


def test_what_is_explained_compared_and_audited_is_that_of_threads(pictures: Path) -> None:
    model = Model(CNN, threads=1)
    card = model_card(CNN, None, model.plain.inputs[0].shape)
    work = Explaining(model, Question((Job("grad-cam"),), labels=card.labels), card)
    samples = find_pictures([pictures])
    here, there = run(work, samples, workers=1), run(work, samples, workers=Processes(2))
    assert encode(here.result) == encode(there.result)
    assert {name: str(e) for name, e in here.failed.items()} == {name: str(e) for name, e in there.failed.items()}
    for measured in (
        lambda how: analyzer.compare(CNN, INT8, pictures, workers=how),
        lambda how: analyzer.audit(CNN, pictures, workers=how),
    ):
        threads, others = (measured(how).report for how in (1, Processes(2)))
        assert as_json(threads) == as_json(others)


def test_a_process_that_dies_once_changes_nothing(tmp_path: Path) -> None:
    done = run(Deadly(str(tmp_path / "grave"), by=signal.SIGSEGV), numbered(300), workers=Processes(2))
    assert done.result == list(range(300)) and not done.failed
    assert (tmp_path / "grave").exists()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_sample_on_which_every_process_dies_is_left_out(batch: int) -> None:
    done = run(Deadly(always=[11, 70], batch=batch, by=signal.SIGSEGV), numbered(200), workers=Processes(2))
    assert done.result == [n for n in range(200) if n not in (11, 70)]
    assert set(done.failed) == {"sample 11", "sample 70"}
    assert "native code crashed (SIGSEGV)" in str(done.failed["sample 11"])


def test_processes_that_end_again_and_again_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BARREN", 3)
    with pytest.raises(UnsupportedError, match=r"4 processes ended, one after the other: native code crashed"):
        run(Deadly(always=range(100), by=signal.SIGSEGV), numbered(100), workers=Processes(1))


def test_errors_are_those_of_threads() -> None:
    with pytest.raises(InputError, match="sample 3 is refused\\n  hint: leave it out"):
        run(Deadly(refused=3), numbered(10), workers=Processes(2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by mistake"):
        run(Deadly(broken=3), numbered(10), workers=Processes(2))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_an_interrupted_run_leaves_no_process_and_resumes(tmp_path: Path) -> None:
    seen = []

    def stop(partial: Any, failed: Any) -> None:
        seen.append(partial)
        if len(seen) == 3:
            raise KeyboardInterrupt

    def ours() -> list[str]:
        found = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdecimal()]
        texts = [path.read_bytes() if path.exists() else b"" for path in found]
        parents = [path.parent for path, text in zip(found, texts, strict=True) if b"passes.worker" in text]
        return [str(p) for p in parents if f"PPid:\t{os.getpid()}\n" in (p / "status").read_text()]

    with pytest.raises(KeyboardInterrupt):
        run(Deadly(), numbered(400), tmp_path, Processes(2), each=stop)
    assert not ours()
    done = run(Deadly(), numbered(400), tmp_path, workers=1)
    assert done.result == list(range(400)) and done.resumed


def test_a_killed_driver_takes_its_processes_along(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux ends them; elsewhere they end at their next answer")
    script = (
        "from tests.test_processes import *\n"
        f"run(Deadly(), numbered(100000), {str(tmp_path)!r}, Processes(2), each=lambda *found: print('on', flush=True))"
    )
    started = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "on\n"
    pids = Path(f"/proc/{started.pid}/task").iterdir()
    below = [pid for task in pids for pid in (task / "children").read_text().split()]
    assert len(below) == 2
    started.kill()
    started.wait()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_a_pass_of_the_program_itself_is_one_sentence() -> None:
    script = (
        "from tests.test_processes import *\nclass Mine(Deadly):\n    name = 'mine'\n"
        "run(Mine(), numbered(3), workers=Processes(2))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "mine is defined in the program itself" in done.stderr


def test_each_gpu_has_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: ["0", "GPU-1"])
    done = run(Seeing(), numbered(200), workers=2)
    assert set(done.result) == {"0", "GPU-1"}
    assert processes.suggested(Seeing(), 200, 8) == Processes(2, 4)
    few = run(Seeing(), numbered(20), workers=2)
    assert set(few.result) == {os.environ.get("CUDA_VISIBLE_DEVICES")}  # in threads of this process


def test_many_cpus_have_several_processes() -> None:
    assert processes.suggested(Deadly(), 10_000, processes.THREADS) is None
    assert processes.suggested(Deadly(), 10_000, 40) == Processes(3, 14)
    assert processes.suggested(Deadly(), 100, 40) is None
    assert processes.suggested(Seeing(), 10_000, 4) is None or len(gpus()) > 1


def test_a_model_without_a_file_stays_in_threads(monkeypatch: pytest.MonkeyPatch, pictures: Path) -> None:
    model = Model(CNN.read_bytes(), threads=1)
    card = model_card(CNN, None, model.plain.inputs[0].shape)
    work = Explaining(model, Question((Job("grad-cam"),), labels=card.labels), card)
    assert processes.suggested(work, 10_000, 40) is None
    with pytest.raises(InputError, match="save it as a file first"):
        run(work, find_pictures([pictures]), workers=Processes(2))


def test_gpus_are_those_that_cuda_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, expected in {"": [], "-1": [], "2, 0": ["2", "0"], "MIG-a": ["MIG-a"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert gpus() == expected


def test_the_command_has_them(pictures: Path) -> None:
    words = [sys.executable, "cli.py", "explain", str(CNN), str(pictures), "--format", "jsonl"]
    threads, others = (
        subprocess.run([*words, *engine], cwd=ROOT, capture_output=True, text=True, timeout=120)
        for engine in ([], ["--engine", "processes", "--workers", "2"])
    )
    assert threads.stdout == others.stdout and threads.returncode == others.returncode == 5


@pytest.mark.parametrize(("allowed", "code"), [("0", 5), ("1", 0), ("4%", 5), ("5%", 0), ("1%", 5)])
def test_some_pictures_may_fail(pictures: Path, allowed: str, code: int) -> None:
    """One of 21."""
    words = ["explain", str(CNN), str(pictures), "--allow-failed", allowed]
    done = subprocess.run([sys.executable, "cli.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "broken.png" in done.stderr


@pytest.mark.parametrize("allowed", ["some", "-1", "101%", "1.5", "nan%"])
def test_how_many_may_fail_is_a_number_or_a_share(pictures: Path, allowed: str) -> None:
    words = ["explain", str(CNN), str(pictures), "--allow-failed", allowed]
    done = subprocess.run([sys.executable, "cli.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "neither a number of pictures nor a share" in done.stderr


def test_where_none_can_be_used_the_code_is_5_whatever_is_allowed(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["explain", str(CNN), str(tmp_path), "--allow-failed", "100%"]
    done = subprocess.run([sys.executable, "cli.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
