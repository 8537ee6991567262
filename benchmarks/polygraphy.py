"""`compare` and Polygraphy on the same pair and input: the drift that both report per layer, time, and memory.

    python -m benchmarks.polygraphy [REFERENCE CANDIDATE]

Needs `pip install polygraphy`. Both are processes of their own; Polygraphy runs as its manual says, with
`--onnxrt --onnx-outputs mark all` on each file, and its saved outputs are compared here by name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
OURS = """
import json, sys
import numpy as np
from analyzer.validation import Pair, Side, compare
array = np.load(sys.argv[3])
sides = [Side(m, array.shape, threads=1) for m in sys.argv[1:3]]
report = compare(*sides, [Pair("0", array, array)], methods=()).report
json.dump(report["layers"], open(sys.argv[4], "w"))
"""
LOADER = """
import numpy as np
def load_data():
    yield {"image": np.load(%r)}
"""


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} failed: {told.decode()[-500:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def polygraphy(model: str, folder: Path, which: str) -> tuple[float, float, dict[str, np.ndarray], float]:
    """Seconds, MiB, {tensor: array}, and MiB of the JSON it saves."""
    saved = folder / f"{which}.json"
    command = [
        str(Path(sys.executable).with_name("polygraphy")),
        "run",
        model,
        "--onnxrt",
        "--onnx-outputs",
        "mark",
        "all",
    ]
    seconds, memory = timed([*command, "--data-loader-script", str(folder / "data.py"), "--save-outputs", str(saved)])
    from polygraphy.comparator import RunResults

    results = RunResults.load(str(saved))
    (_, iterations), *_ = results
    return seconds, memory, {n: np.asarray(a) for n, a in iterations[0].items()}, saved.stat().st_size / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", nargs="?", default=str(MODELS / "digits_cnn.onnx"))
    parser.add_argument("candidate", nargs="?", default=str(MODELS / "digits_cnn_int8.onnx"))
    parser.add_argument("--shape", default="1x3x96x96")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = tuple(map(int, given.shape.split("x")))
        np.save(folder / "x.npy", np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        (folder / "data.py").write_text(LOADER % str(folder / "x.npy"))
        ours = timed(
            [
                sys.executable,
                "-c",
                OURS,
                given.reference,
                given.candidate,
                *(str(folder / f) for f in ("x.npy", "l.json")),
            ]
        )
        layers = json.loads((folder / "l.json").read_text())
        a = polygraphy(given.reference, folder, "reference")
        b = polygraphy(given.candidate, folder, "candidate")
    gaps = []
    for row in layers:
        if row["layer"] in a[2] and row["candidate"] in b[2]:
            x, y = (t.astype(np.float64).ravel() for t in (a[2][row["layer"]], b[2][row["candidate"]]))
            theirs = (np.abs(x - y).max(), np.abs(x - y).mean(), x @ y / np.linalg.norm(x) / np.linalg.norm(y))
            gaps.append([abs(p - row[k]) for p, k in zip(theirs, ("max_error", "mean_error", "cosine"), strict=True)])
            told = f"max {theirs[0]:.5g} and {row['max_error']:.5g}, cosine {theirs[2]:.6f} and {row['cosine']:.6f}"
            print(f"{row['layer']}: {told}")
    worst = np.max(gaps, axis=0) if gaps else np.full(3, np.nan)
    print(
        f"{len(gaps)} of {len(layers)} layers in both; largest gap: max {worst[0]:.2g}, mean {worst[1]:.2g}, ", end=""
    )
    print(f"cosine {worst[2]:.2g}")
    print(f"compare: {ours[0]:.1f} s, {ours[1]:.0f} MiB")
    print(f"Polygraphy: {a[0] + b[0]:.1f} s, {max(a[1], b[1]):.0f} MiB, JSON {a[3] + b[3]:.1f} MiB")


if __name__ == "__main__":
    main()
