"""`explain` from process start to written PNG, against a bare script that runs the model once and writes a PNG.

python -m benchmarks.cold_start [--network resnet50] [--rounds 7]
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--picture", type=Path, default=next(iter(sorted((ROOT / "examples").glob("*.png"))), None))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    model = network(given.network)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.png")
        bare = [sys.executable, "-c", BARE, str(model), str(given.picture), out]
        ours = [sys.executable, str(ROOT / "cli.py"), "explain", str(model), str(given.picture), "-o", out]
        runs = [lambda c=c: subprocess.run(c, check=True, capture_output=True) for c in (bare, ours)]
        base, explain = interleaved(runs, given.rounds, budget=120)
    print(f"{given.network}: bare script {base:.2f} s, explain {explain:.2f} s, ratio {explain / base:.2f}")


if __name__ == "__main__":
    main()
