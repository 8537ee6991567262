"""The fuzzer finds what it looks for, and what it found once stays mended."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import onnx
import pytest

from analyzer.commands import boundary
from tests.fuzz.cases import WHAT_READS_MODELS, WHAT_READS_PICTURES, case, made
from tests.fuzz.harness import Case, run
from tests.fuzz.minimize import minimized
from tests.fuzz.replay import finds, load, save
from tests.fuzz.seeds import CARD, models, pictures
from tests.models import small_cnn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and is supervised")

GOOD = Case({"m.onnx": small_cnn().SerializeToString()}, ["inspect", "m.onnx"])


@pytest.mark.parametrize("place", list(finds()), ids=lambda p: p.name)
def test_what_was_found_once_stays_mended(place: Path, tmp_path: Path) -> None:
    verdict = run(load(place), tmp_path / "case")
    assert not verdict.kind, (verdict.kind, verdict.place, verdict.err, verdict.left)


def test_a_good_case_is_as_it_should_be(tmp_path: Path) -> None:
    verdict = run(GOOD, tmp_path / "case")
    assert (verdict.kind, verdict.code, verdict.contained) == ("", 0, "") and "default layer: r2" in verdict.out


@pytest.mark.parametrize("command", sorted({*WHAT_READS_MODELS, *WHAT_READS_PICTURES}), ids=" ".join)
def test_what_is_not_mutated_is_no_error(command: tuple[str, ...], tmp_path: Path) -> None:
    net = models()[1]
    found = run(case(command, net, net, ".png", pictures()[".png"], CARD.encode()), tmp_path / "case")
    assert not found.kind and found.code in (0, 1), (found.kind, found.err, found.left)


def fails(number: str) -> int:
    match number:
        case "traceback":
            raise TypeError("no way")
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(60)
        case "signal":
            os.kill(os.getppid(), signal.SIGSEGV)
            time.sleep(60)
        case "stray":
            Path("left.part").touch()
        case "unclear":
            return 2
        case "unescaped":
            os.write(1, b"\x1b[31m")
    return 0


@pytest.mark.parametrize("kind", ["traceback", "hang", "signal", "stray", "unclear", "unescaped"])
def test_what_goes_wrong_is_noticed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "_guarded", lambda: fails(kind))
    assert run(GOOD, tmp_path / "case", seconds=0.5).kind == kind


def test_a_crash_of_native_code_is_contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "_guarded", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    verdict = run(GOOD, tmp_path / "case")
    assert (verdict.kind, verdict.contained, verdict.code) == ("", "crash", 3)


def test_a_case_is_known_by_its_number() -> None:
    assert made(3, 5) == made(3, 5) != made(3, 6)


def test_a_case_is_made_small(tmp_path: Path) -> None:
    def has_pool(case: Case) -> bool:
        nodes = onnx.ModelProto.FromString(case.files["m.onnx"]).graph.node
        return any(n.op_type == "MaxPool" for n in nodes)

    small = minimized(GOOD, has_pool)
    graph = onnx.ModelProto.FromString(small.files["m.onnx"]).graph
    assert [n.op_type for n in graph.node] == ["MaxPool"] and not graph.initializer
    save(small, tmp_path / "find")
    assert load(tmp_path / "find") == small
