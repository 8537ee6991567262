"""Runs an ONNX file in other runtimes than onnxruntime, each in a process of its own: some end it where they fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analyzer.errors import UnsupportedError
from analyzer.files import temporary_folder

Arrays = dict[str, np.ndarray]
INSTALL = {
    "openvino": "pip install openvino",
    "opencv": "pip install opencv-python-headless onnx",
    "tract": "pip install tract onnx",
    "web": "npm install onnxruntime-web, in the current folder, with node",
}
_FOLDER = Path(__file__).parent
_SECONDS = 600


def version_in(runtime: str, python: str = sys.executable) -> str | None:
    """The version of a runtime; None where it is not installed.

    Args:
        runtime: a name of `INSTALL`, "reference" (ONNX's evaluator) or "ort" (onnxruntime on its own file format).
        python: the Python in whose environment the runtime is looked for; onnxruntime-web in the current folder.
    """
    if runtime == "web" and shutil.which("node") is None:
        return None
    done = _run(_command(runtime, python))
    return done.stdout.strip() if done.returncode == 0 else None


def run_in(runtime: str, path: Path, feeds: Mapping[str, np.ndarray], python: str = sys.executable) -> Arrays:
    """{output: array} of one run on the CPU.

    Args:
        runtime, python: as for `version_in`.

    Raises:
        UnsupportedError: the runtime does not load or run the file, or takes more than ten minutes.
    """
    with temporary_folder() as folder:
        given, results = folder / "given", folder / "results"
        given.mkdir()
        results.mkdir()
        if runtime == "web":
            _write(feeds, given)
            files = [str(given), str(results)]
        else:
            np.savez(given / "feeds.npz", **{name: np.asarray(array) for name, array in feeds.items()})  # type: ignore[arg-type]
            files = [str(given / "feeds.npz"), str(results / "results.npz")]
        try:
            done = _run([*_command(runtime, python), str(path), *files])
        except subprocess.TimeoutExpired:
            raise UnsupportedError(f"{runtime} takes more than {_SECONDS // 60} minutes") from None
        if done.returncode:
            raise UnsupportedError(f"{runtime}: {_reason(done)}")
        if runtime == "web":
            return _read(results)
        with np.load(results / "results.npz") as found:
            return dict(found)


def _command(runtime: str, python: str) -> list[str]:
    return ["node", str(_FOLDER / "child.mjs")] if runtime == "web" else [python, str(_FOLDER / "child.py"), runtime]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RUST_BACKTRACE": "0", "OPENCV_LOG_LEVEL": "OFF"}
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the runtime said: from the last line of Python's trace on, else the last that it wrote."""
    if done.returncode < 0:
        return f"the process died by signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    raised = [i for i, line in enumerate(lines) if line.partition(":")[0].endswith(("Error", "error", "Exception"))]
    return " ".join(lines[raised[-1] :] if raised else lines[-3:])[:400] or f"exit code {done.returncode}"


def _write(arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    listed = []
    for index, (name, array) in enumerate(arrays.items()):
        (folder / str(index)).write_bytes(np.ascontiguousarray(array).tobytes())
        listed.append({"name": name, "type": array.dtype.name, "dims": list(array.shape), "file": str(index)})
    (folder / "tensors.json").write_text(json.dumps(listed), encoding="utf-8")


def _read(folder: Path) -> Arrays:
    listed = json.loads((folder / "tensors.json").read_text(encoding="utf-8"))
    return {
        t["name"]: np.frombuffer((folder / t["file"]).read_bytes(), t["type"]).reshape(t["dims"]).copy() for t in listed
    }
