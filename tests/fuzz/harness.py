"""One case: files and a command, run in a process of its own as the installed program runs it, and judged.

The process that makes cases has imported everything, and forks for each of them; what it forks is the supervisor, which
forks the command. So a case goes through all that a user's call goes through, but for the imports.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import io
import json
import os
import pkgutil
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY, SECONDS, GRACE = 2.0, 20.0, 5.0  # GiB, and seconds that a command may take; seconds until it must have ended
CODES = {0, 1, 2, 3, 4, 5}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
LINES = 40  # of stderr, beyond which an error is no clear one


@dataclass
class Case:
    """A command on the files of a folder: {name: content}, and the words after the program's name."""

    files: Mapping[str, bytes]
    command: Sequence[str]


@dataclass
class Verdict:
    """How a case ended.

    Attributes:
        kind: "" if as it should; else traceback, signal, hang, memory, stray, unclear, json.
        contained: what the supervisor ended in order: crash, memory, time; else "".
        place: where it went wrong, the same for cases that go wrong in the same way.
    """

    kind: str = ""
    code: int = 0
    contained: str = ""
    place: str = ""
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)


def run(case: Case, folder: Path, seconds: float = SECONDS) -> Verdict:
    """Runs a case in `folder`, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    _import_everything()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _command(case.command, folder, temporary, seconds)
    code, kilobytes = _wait(child, seconds + GRACE)
    verdict = Verdict("", code if code is not None else -1, seconds=time.monotonic() - start)
    verdict.out, verdict.err = ((folder / n).read_bytes().decode(errors="replace") for n in ("stdout", "stderr"))
    crash = "".join(p.read_text(errors="replace") for p in temporary.glob("onnx-analyzer-crash-*"))
    known = {*case.files, "tmp", "stdout", "stderr"}
    verdict.left = [p.name for p in folder.iterdir() if p.name not in known and not _is_store(p)]
    verdict.left += [n for n in os.listdir(temporary) if not n.startswith("onnx-analyzer-crash-")]
    verdict.contained = _contained(verdict.err)
    verdict.kind = _judged(case, verdict, code, kilobytes)
    verdict.place = _place(crash) if crash else _gist(verdict.err)
    return verdict


def _command(words: Sequence[str], folder: Path, temporary: Path, seconds: float) -> None:
    """In the child: becomes the program, called with these words in that folder."""
    try:
        faulthandler.disable()  # that of pytest
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
            setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8"))
        os.environ |= {"TMPDIR": str(temporary), "ONNX_ANALYZER_CACHE": ""}
        import tempfile

        tempfile.tempdir = None
        sys.argv = ["onnx-analyzer", *words]
        from analyzer.commands import boundary
        from analyzer.commands.supervisor import watched

        os._exit(watched(boundary.run, MEMORY, seconds))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


@functools.cache
def _import_everything() -> None:
    """What commands import, so that no case has to."""
    for room in ("runtime", "images", "commands", "attribution", "api", "report", "mining", "validation", "passes"):
        for module in pkgutil.iter_modules([str(ROOT / "analyzer" / room)], f"analyzer.{room}."):
            importlib.import_module(module.name)
    importlib.import_module("onnxruntime")


def _wait(child: int, seconds: float) -> tuple[int | None, int]:
    """(exit code, kilobytes that it took at most); None for a process that did not end and was killed."""
    end = time.monotonic() + seconds
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), used.ru_maxrss
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.wait4(child, 0)
            return None, 0
        time.sleep(0.003)


def _is_store(place: Path) -> bool:
    """A folder of results, which an interrupted run keeps so that it can be resumed, without half-written files."""
    return place.name == "out" and place.is_dir() and not list(place.rglob("*.part"))


def _contained(err: str) -> str:
    said = {"native code crashed": "crash", "of memory is needed": "memory", "finished within": "time"}
    return next((kind for words, kind in said.items() if words in err), "")


def _judged(case: Case, verdict: Verdict, code: int | None, kilobytes: int) -> str:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if code is None:
        return "hang"
    if code < 0:
        return "signal"
    if code == 70 or "Traceback" in verdict.err or code not in CODES:
        return "traceback"
    if kilobytes > MEMORY * 2**20 * 1.5 + own:
        return "memory"
    failed = code in (2, 3, 4)
    if (failed and verdict.left) or any(name.endswith(".part") for name in verdict.left):
        return "stray"
    if failed and ("rror: " not in verdict.err or verdict.err.count("\n") > LINES):
        return "unclear"
    if CONTROL.search(verdict.err) or CONTROL.search(verdict.out):
        return "unescaped"
    if "json" in case.command:
        try:
            json.loads(verdict.out)
        except ValueError:
            return "json"
    return ""


def _place(crash: str) -> str:
    """The last line of our own code in a traceback, and the kind of error."""
    lines = re.findall(r'File "[^"]*/(analyzer/[^"]+)", line (\d+), in (\S+)', crash)
    errors = re.findall(r"^(\w+(?:\.\w+)*(?:Error|Exception|Iteration|Interrupt))\b", crash, re.MULTILINE)
    return f"{':'.join(lines[-1]) if lines else '?'} {errors[-1] if errors else ''}"


def _gist(err: str) -> str:
    """The first error without names and numbers."""
    line = next((line for line in err.splitlines() if "rror: " in line), err[:200])
    return re.sub(r"'[^']*'|\d+", "…", line)[:160]
