"""What it costs to try a model in another process first: CPU time of one `analyzer.explain` in a new process.

    python -m benchmarks.trial [--model models/digits_cnn.onnx] [--rounds 7]

With ONNX_ANALYZER_SANDBOX=0, of a file that is known from the cache folder, and of one that is new. Medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import sys
import analyzer
analyzer.explain(sys.argv[1], sys.argv[2])
"""


def seconds(*arguments: str, **environment: str) -> float:
    """CPU time of a process, and of those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CODE, *arguments]
    subprocess.run(command, check=True, env=kept | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "digits_cnn.onnx")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    call = str(given.model), str(next(iter(sorted((ROOT / "examples").glob("digits_*.png")))))
    off, known, new = [], [], []
    with tempfile.TemporaryDirectory() as cache:
        seconds(*call, ONNX_ANALYZER_CACHE=cache, ONNX_ANALYZER_SANDBOX="1")
        for _ in range(given.rounds):
            off.append(seconds(*call, ONNX_ANALYZER_CACHE=cache, ONNX_ANALYZER_SANDBOX="0"))
            known.append(seconds(*call, ONNX_ANALYZER_CACHE=cache, ONNX_ANALYZER_SANDBOX="1"))
            new.append(seconds(*call, ONNX_ANALYZER_CACHE="", ONNX_ANALYZER_SANDBOX="1"))
    for name, found in (("nothing tried", off), ("a known file", known), ("a new file", new)):
        print(f"{name}: {statistics.median(found):.2f} s of CPU time")


if __name__ == "__main__":
    main()
