"""Peak memory of an explanation, in units of a process that only loads the model and runs it once.

    python -m benchmarks.memory [--networks resnet50 vgg16] [--methods grad-cam gradient]

Each candidate is a process of its own; its peak is the operating system's (ru_maxrss).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo import NETWORKS, network

ROOT = Path(__file__).resolve().parents[1]
PLAIN = """
import resource, sys
import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 224, 224), np.float32)})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
# The session alone: networks of random weights have empty maps, which `explain` would look into.
EXPLAIN = """
import resource, sys
import numpy as np
from analyzer.attribution import Job, Model, Question
from analyzer.attribution.compiler import ready
image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
(compiled,) = ready(Model(sys.argv[1]), Question((Job(sys.argv[2]),)), [None], {"image": image.shape})
compiled.session.run({"image": image, compiled.target_inputs[0]: np.full(1, -1, np.int64)})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(script: str, *arguments: str) -> int:
    """Peak resident memory of the script, KiB."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=True, capture_output=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=["grad-cam", "gradient"])
    given = parser.parse_args()
    print("| network | plain MiB | " + " | ".join(given.methods) + " |")
    print("|---|" + "---|" * (1 + len(given.methods)))
    for name in given.networks:
        path = str(network(name))
        plain = peak(PLAIN, path)
        ratios = [peak(EXPLAIN, path, method) / plain for method in given.methods]
        print(f"| {name} | {plain / 1024:.0f} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
