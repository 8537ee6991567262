"""Runs tests on a copy of the project in which one file is changed.

Every run is a process of its own, forked from one that has imported the packages we depend on already.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = ("analyzer", "tests", "models", "benchmarks")  # packages of the project, which a run imports from its copy
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".venv", "build", "dist", "shared")
LATE, PASSED, FAILED, BROKEN, UNKNOWN = (
    -1,
    0,
    1,
    2,
    4,
)  # out of time; pytest: a file that cannot be imported, no such test


@dataclass(frozen=True)
class Verdict:
    """`code` is pytest's, −1 where time ran out; `output` what it printed."""

    code: int
    seconds: float
    output: str

    @property
    def killed(self) -> bool:
        """Whether a test noticed: it failed, could not even be collected, or crashed.

        Where time ran out nothing is known: the machine may be busy.
        """
        return self.code in (FAILED, BROKEN) or self.code > 128

    @property
    def survived(self) -> bool:
        return self.code == PASSED

    @property
    def test(self) -> str:
        """The test that failed first, "" where none did."""
        lines = [line for line in self.output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return lines[0].split(" ", 1)[1].split(" - ")[0] if lines else ""


class Copy:
    """A copy of the project in a temporary folder."""

    def __init__(self, root: Path = ROOT) -> None:
        _import_packages()
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-")
        self.root = Path(self._folder.name) / "project"
        shutil.copytree(root, self.root, ignore=LEFT_OUT)

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def changed(self, file: str, content: bytes, tests: Sequence[str], seconds: float = 120) -> Verdict:
        """What tests say while `file` holds `content`."""
        path = self.root / file
        before = path.read_bytes(), path.stat()
        path.write_bytes(content)
        try:
            return self.run(tests, seconds)
        finally:
            path.write_bytes(before[0])
            os.utime(path, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))

    def run(self, tests: Sequence[str], seconds: float = 120) -> Verdict:
        """What tests (files, or files::names) say; the first failure ends them."""
        log = Path(self._folder.name) / "log"
        start = time.monotonic()
        child = os.fork()
        if not child:
            _test(self.root, tests, log)
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            late = time.monotonic() - start > seconds
            if done or late:
                break
            time.sleep(0.02)
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        code = LATE if not done else os.waitstatus_to_exitcode(status)
        output = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return Verdict(128 - code if done and code < 0 else code, time.monotonic() - start, output)


def _import_packages() -> None:
    import click  # noqa: F401
    import cv2  # noqa: F401
    import numpy  # noqa: F401
    import onnx.reference  # noqa: F401
    import onnx_graphsurgeon  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytest  # noqa: F401


def _test(root: Path, tests: Sequence[str], log: Path) -> None:
    """Ends the process with pytest's exit code."""
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(root)
        for name in [n for n in sys.modules if n.split(".")[0] in OWN]:
            del sys.modules[name]
        sys.path[:] = [str(root), *(p for p in sys.path if p not in ("", str(ROOT)))]
        sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in str(f)]
        os.environ["PYTHONPATH"] = str(root)
        sys.dont_write_bytecode = True
        import pytest

        arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-o", "addopts=", f"--rootdir={root}"]
        code = int(pytest.main([*arguments, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)
