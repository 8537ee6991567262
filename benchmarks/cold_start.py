"""`explain` from process start to written PNG, against a bare script that runs the model once and writes a PNG.

    python -m benchmarks.cold_start [--network resnet50] [--rounds 7]

With compiled bytecode, as an installed package has it; without a cache of graphs, then with a filled one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import interleaved
from benchmarks.zoo import network

BARE = """
import sys
import cv2
import numpy as np
import onnxruntime as ort
model, picture, out = sys.argv[1:]
image = cv2.resize(cv2.imread(picture), (224, 224))[:, :, ::-1]
array = ((image / 255 - [.485, .456, .406]) / [.229, .224, .225]).transpose(2, 0, 1)[None].astype(np.float32)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: array})
cv2.imwrite(out, image[:, :, ::-1])
"""
ROOT = Path(__file__).resolve().parents[1]


def environment(cache: str) -> dict[str, str]:
    """This one, with bytecode, and that cache."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"ONNX_ANALYZER_CACHE": cache}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50")
    picture = next(iter(sorted((ROOT / "examples").glob("digits_*.png"))), None)
    parser.add_argument("--picture", type=Path, default=picture)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    model = network(given.network)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.png")
        bare = [sys.executable, "-c", BARE, str(model), str(given.picture), out]
        ours = [sys.executable, str(ROOT / "cli.py"), "explain", str(model), str(given.picture), "-o", out]
        cached, uncached = environment(str(Path(folder) / "cache")), environment("")
        commands = ((bare, uncached), (ours, uncached), (ours, cached))
        runs = [lambda c=c, e=e: subprocess.run(c, check=True, capture_output=True, env=e) for c, e in commands]
        base, explain, again = interleaved(runs, given.rounds, budget=120)
    print(
        f"{given.network}: bare script {base:.2f} s; explain {explain:.2f} s, {explain / base:.2f} times; "
        f"with its graph from the cache {again:.2f} s, {again / base:.2f} times"
    )


if __name__ == "__main__":
    main()
