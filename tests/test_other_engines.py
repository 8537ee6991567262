"""The lines of docs/scaling.md that run shards on an engine of somebody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer.data import find_pictures
from analyzer.images import decode, write_png
from analyzer.passes import run
from tests.mean_activations import MeanActivations

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits_cnn.onnx"
LAYER = "/network/stage3/Relu_output_0"


def test_the_lines_for_dask(tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed (extra dev)")
    (tmp_path / "photos").mkdir()
    whole = decode(ROOT / "examples" / "digits_chelsea.png")
    for at in range(0, 20 * 8, 8):
        write_png(tmp_path / "photos" / f"{at:03}.png", np.ascontiguousarray(whole[at : at + 96, :96]))
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(from dask.*?)```", page, re.DOTALL)
    lines = lines.replace('"model.onnx", "conv5"', f"{str(MODEL)!r}, {LAYER!r}").replace(
        '"tcp://scheduler:8786"', "n_workers=2, threads_per_worker=1, dashboard_address=None"
    )
    script = (
        "from tests.mean_activations import MeanActivations\n"
        "if __name__ == '__main__':\n"
        + "".join(f"    {line}\n" for line in lines.splitlines())
        + "    client.close()\n"
        "    import numpy\n    numpy.save('sum.npy', done.result['sum'])\n    print(done.resumed)\n"
    )
    (tmp_path / "script.py").write_text(script)
    found = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONNX_ANALYZER_CACHE": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (found.returncode, found.stdout.strip()) == (0, "20"), found.stderr
    here = run(MeanActivations(MODEL, LAYER), find_pictures([tmp_path / "photos"]), workers=1).result["sum"]
    np.testing.assert_array_equal(np.load(tmp_path / "sum.npy"), here)
