"""`status` says how far runs are; `run` is the command line that a file describes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from analyzer.commands.run import expanded, words_of
from analyzer.data import Sample
from analyzer.errors import InputError
from analyzer.passes import Loaded, run, states
from tests.numbered import Numbers

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = [Sample(f"sample {number}", number, b"") for number in range(20)]


class Halting(Numbers):
    """The numbers of its samples; the third fails, and it waits at the eleventh for what it is given."""

    batch = 2

    def __init__(self, reached: threading.Event | None = None, gate: threading.Event | None = None) -> None:
        self.reached, self.gate = reached, gate

    def load(self, sample: Sample) -> int:
        if sample.number == 3:
            raise InputError("it is bad")
        return sample.number

    def step(self, batch: Sequence[Loaded]) -> list[int]:
        found = [number for _, number in batch]
        time.sleep(0.005)  # more than a file's time is rounded by, so that there is a rate
        if 10 in found and self.reached and self.gate:
            self.reached.set()
            assert self.gate.wait(20)
        return found


def test_a_run_that_is_going_stopped_and_finished(tmp_path: Path) -> None:
    reached, gate = threading.Event(), threading.Event()
    done: list[Any] = []
    work = threading.Thread(target=lambda: done.append(run(Halting(reached, gate), SAMPLES, tmp_path, workers=1)))
    work.start()
    assert reached.wait(20)
    (state,) = states(tmp_path)
    assert (state.name, state.shard, state.done, state.failed, state.of, state.running) == (
        "numbers",
        "1/1",
        10,
        1,
        20,
        True,
    )
    assert state.rate and state.rate > 0
    gate.set()
    work.join()
    (state,) = states(tmp_path)
    assert (state.done, state.failed, state.of, state.running) == (20, 1, 20, False)
    assert len(done[0].result) == 19


def test_a_run_is_seen_before_its_first_picture_and_has_the_rate_of_its_process(tmp_path: Path) -> None:
    now = time.time
    with patch("analyzer.passes.journal.time.time", lambda: now() - 3600), suppress(KeyboardInterrupt):
        run(Halting(), SAMPLES, tmp_path, each=interrupt, workers=1)
    assert list(tmp_path.glob("*.journal"))
    seen = list[Any]()

    class Watching(Halting):
        def setup(self, first: Loaded | None) -> None:
            seen.append(states(tmp_path)[0])

    run(Watching(), SAMPLES, tmp_path, workers=1)
    assert seen[0].running and seen[0].of == 20 and seen[0].rate is None


def interrupt(partial: Any, failed: Any) -> None:
    raise KeyboardInterrupt


def test_shards_have_their_share(tmp_path: Path) -> None:
    run(Halting(), SAMPLES, tmp_path, shard=(2, 3))
    (state,) = states(tmp_path)
    assert (state.shard, state.done, state.of) == ("2/3", 6, 6)


def said(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_command_that_says_it(tmp_path: Path) -> None:
    run(Halting(), SAMPLES, tmp_path)
    words = said("status", str(tmp_path)).stdout.splitlines()[-1].split()
    assert words[:6] == ["numbers", "1/1", "finished", "20", "20", "1"]
    (row,) = json.loads(said("status", str(tmp_path), "--format", "json").stdout)["runs"]
    assert (row["run"], row["state"], row["done"], row["of"]) == ("numbers", "finished", 20, 20)
    (tmp_path / "empty").mkdir()
    nothing = said("status", str(tmp_path / "empty"))
    assert nothing.returncode == 2 and "has no run" in nothing.stderr


JOB = """
command = "inspect"
arguments = ["models/digits_cnn.onnx"]
[options]
format = "json"
"""


def test_a_job_is_the_command_that_it_describes(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    typed = said("inspect", "models/digits_cnn.onnx", "--format", "json")
    assert typed.returncode == 0
    assert said("run", str(tmp_path / "job.toml")).stdout == typed.stdout
    text = said("run", str(tmp_path / "job.toml"), "--format", "text")
    assert text.stdout == said("inspect", "models/digits_cnn.onnx").stdout != typed.stdout


def test_the_words_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        'command = "compare"\narguments = ["a.onnx", "b.onnx"]\n'
        '[options]\nreport = ["r.html", "r.json"]\nlimit = 5\nstrict = true\nexit_zero = false\nmemory_limit = 2.5\n'
        'l = ["conv1", "conv2"]\n'
    )
    layers = ["-l", "conv1", "-l", "conv2"]
    words = ["compare", "a.onnx", "b.onnx", "--report=r.html", "--report=r.json", "--limit=5", "--strict"]
    assert words_of(str(path)) == [*words, "--memory-limit=2.5", *layers]
    assert expanded(["run", str(path), "--limit", "7"]) == [*words, "--memory-limit=2.5", *layers, "--limit", "7"]
    assert expanded(["run", "--help"]) == ["run", "--help"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('command = "explian"', "command = 'explian' is no command\n  hint: did you mean 'explain'"),
        ("", "command = None is no command"),
        ('command = "run"', "command = 'run' is no command"),
        ('command = "inspect"\nmodel = "a"', "unknown model\n  hint: a job has command, arguments and options"),
        ('command = "inspect"\narguments = "a"', "arguments is a list"),
        ('command = ["inspect"]', "command = ['inspect'] is no command"),
        (
            'command = "mine"\narguments = [["a"]]\n[options]\nout = 2026-11-28\nlimit = {a = 1}',
            "arguments, out, limit",
        ),
        ("command =", "cannot read the job"),
    ],
)
def test_a_file_that_is_no_job(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(InputError) as raised:
        words_of(str(tmp_path / "job.toml"))
    assert words in str(raised.value)


def test_a_job_that_is_not_there_is_one_sentence() -> None:
    done = said("run", "none.toml")
    assert done.returncode == 2 and done.stderr.startswith("error: cannot read the job none.toml: No such file")


@pytest.mark.parametrize(
    ("kept", "words"), [(True, "interrupted; run the same command again to continue"), (False, "interrupted")]
)
def test_an_interrupt_says_whether_the_run_can_be_continued(kept: bool, words: str, tmp_path: Path) -> None:
    script = """
import sys
from analyzer.commands.boundary import run
from analyzer.passes.explaining import Explaining
result_of, seen = Explaining.result_of, []
def interrupted(self, picture, *args):
    seen.append(picture)
    if len(seen) == 3:
        raise KeyboardInterrupt
    return result_of(self, picture, *args)
Explaining.result_of = interrupted
sys.argv[1:] = ["explain", "models/digits_cnn.onnx", "examples", "--workers", "1", *sys.argv[1:]]
raise SystemExit(run())
"""
    store = ["--store", str(tmp_path)] if kept else []
    done = subprocess.run([sys.executable, "-c", script, *store], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130 and done.stderr.strip().splitlines()[-1] == words
