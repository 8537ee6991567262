"""onnxruntime's telemetry is off: in a process that imports the package nothing is written to the user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SESSION = "import analyzer, onnxruntime; from analyzer.runtime import diagnose; diagnose()"


def run(code: str, home: Path | str, **environment: str) -> str:
    """stderr of Python running `code` with that home folder."""
    kept = {n: v for n, v in os.environ.items() if n not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    given = kept | {"HOME": str(home), "ONNX_ANALYZER_CACHE": "", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_no_device_id_is_written(tmp_path):
    run(SESSION, tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_home_that_cannot_be_written_to_is_no_matter():
    assert "telemetry" not in run(SESSION, "/dev/null/nowhere").lower()


def test_the_command_line_writes_no_device_id(tmp_path):
    run("import runpy, sys; sys.argv = ['cli.py', 'doctor']; runpy.run_path('cli.py', run_name='__main__')", tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(("given", "after"), [("", "1"), ("1", "1"), ("0", "0")])
def test_who_asks_for_telemetry_keeps_it(tmp_path, given, after):
    run(
        f"import analyzer, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == {after!r}",
        tmp_path,
        ORT_DISABLE_TELEMETRY=given,
    )
