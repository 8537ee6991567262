"""`explain -o folder/` over small pictures against a bare loop: decode, run the same graph, overlay, write.

    python -m benchmarks.drawing [--pictures 1000] [--rounds 5] [--before CHECKOUT]

CPU seconds (user and system) of whole processes, in turn, and the ratio of their medians. The bare loop runs the model
with Grad-CAM that `export` writes.
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

import numpy as np

from benchmarks.cold_start import ROOT, environment

BARE = """
import sys
from pathlib import Path
import cv2
import numpy as np
import onnxruntime as ort
model, folder, out = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
for path in sorted(Path(folder).iterdir()):
    image = cv2.imread(str(path))
    size = given.shape[3], given.shape[2]
    pixels = cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_BGR2RGB)
    array = pixels[None].transpose(0, 3, 1, 2).astype(np.float32) / 255
    if given.shape[1] == 1:
        array = array.mean(axis=1, keepdims=True)
    heat = session.run(None, {given.name: array})[-1].squeeze()
    heat = cv2.resize(np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8), image.shape[1::-1])
    drawn = cv2.addWeighted(image, 0.5, cv2.applyColorMap(heat, cv2.COLORMAP_TURBO), 0.5, 0)
    cv2.imwrite(str(Path(out) / path.name), drawn)
"""


def cpu_seconds(command: list[str], cache: str) -> float:
    """User and system seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment(cache))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "digits_cnn.onnx")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="Another checkout of this project, to be measured as well.")
    given = parser.parse_args()
    import cv2

    source = cv2.imread(str(ROOT / "examples" / "digits_coffee.png"))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, bare, ours = Path(name) / "in", Path(name) / "bare", Path(name) / "ours"
        for each in (folder, bare, ours):
            each.mkdir()
        for at in range(given.pictures):
            top, left = (int(rng.integers(0, max(1, side - 128))) for side in source.shape[:2])
            cut = cv2.resize(source[top : top + 128, left : left + 128], (128, 128))
            cv2.imwrite(str(folder / f"{at:05}.png"), cut)
        cli, graph = [sys.executable, str(ROOT / "cli.py")], str(Path(name) / "cam.onnx")
        subprocess.run([*cli, "export", str(given.model), "-o", graph], check=True, capture_output=True)
        commands = {
            "bare loop": [sys.executable, "-c", BARE, graph, str(folder), str(bare)],
            "explain": [*cli, "explain", str(given.model), str(folder), "-o", str(ours), "-q"],
            "explain, jpeg": [
                *cli, "explain", str(given.model), str(folder), "-o", str(ours), "-q", "--image-format", "jpeg"
            ],
        }  # fmt: skip
        if given.before:
            old = [sys.executable, str(given.before / "cli.py"), "explain", str(given.model), str(folder)]
            commands["explain before"] = [*old, "-o", str(Path(name) / "before"), "-q"]
        times: dict[str, list[float]] = {who: [] for who in commands}
        for _ in range(given.rounds):
            for who, command in commands.items():
                times[who].append(cpu_seconds(command, os.environ.get("ONNX_ANALYZER_CACHE", "")))
    base = statistics.median(times["bare loop"])
    for who, record in times.items():
        median = statistics.median(record)
        print(f"{who}: {median:.2f} CPU s for {given.pictures} pictures, {median / base:.2f} times the bare loop")


if __name__ == "__main__":
    main()
