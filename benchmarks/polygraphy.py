"""`compare` and Polygraphy on the same pairs and inputs: the drift that both report per layer, time, and memory.

    python -m benchmarks.polygraphy [--rounds 3] [--only TEXT]

Needs `pip install polygraphy colored` and the corpus beside the checkout. Both are processes of their own, run in turn;
Polygraphy as its manual says, with `--onnxrt --onnx-outputs mark all` on each file, and its saved outputs are compared
here by name. Time is that of the processor, so that other work on the machine counts less; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compared_networks import CORPUS, ROOT

MODELS, OTHERS = ROOT / "models", CORPUS / "models"
PAIRS: dict[str, tuple[Path, Path, tuple[int, ...]]] = {
    "CNN, INT8": (MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_int8.onnx", (1, 3, 96, 96)),
    "CNN, FP16": (MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_fp16.onnx", (1, 3, 96, 96)),
    "detector, INT8": (MODELS / "digits_detector.onnx", MODELS / "digits_detector_int8.onnx", (1, 3, 96, 96)),
    "ResNet-20, optimized": (
        OTHERS / "resnet20_cifar10_torchscript_op10.onnx",
        OTHERS / "resnet20_cifar10_ortopt_extended.onnx",
        (1, 3, 32, 32),
    ),
    "SqueezeNet, opset 17": (
        OTHERS / "squeezenet1.1_torchscript_op7.onnx",
        OTHERS / "squeezenet1.1_torchscript_op17_dynHW.onnx",
        (1, 3, 224, 224),
    ),
}
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
    yield {%r: np.load(%r)}
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor, and peak MiB of the largest process."""

    seconds: float
    memory: float


def timed(command: list[str]) -> Cost:
    """What a process costs."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} failed: {told.decode()[-500:]}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def ours(pair: str, folder: Path) -> tuple[Cost, list[dict[str, Any]]]:
    """What the comparison costs, and the layers of its report."""
    reference, candidate, _ = PAIRS[pair]
    files = [str(folder / "x.npy"), str(folder / "layers.json")]
    cost = timed([sys.executable, "-c", OURS, str(reference), str(candidate), *files])
    return cost, json.loads((folder / "layers.json").read_text())


def theirs(pair: str, folder: Path) -> tuple[Cost, list[dict[str, np.ndarray]]]:
    """What both runs cost, and {tensor: array} of each."""
    from polygraphy.comparator import RunResults

    costs, found = [], []
    for model in PAIRS[pair][:2]:
        saved = folder / "saved.json"
        tool = str(Path(sys.executable).with_name("polygraphy"))
        command = [tool, "run", str(model), "--onnxrt", "--onnx-outputs", "mark", "all"]
        (folder / "data.py").write_text(LOADER % (input_of(model), str(folder / "x.npy")))
        costs.append(timed([*command, "--data-loader-script", str(folder / "data.py"), "--save-outputs", str(saved)]))
        (_, iterations), *_ = RunResults.load(str(saved))
        found.append({n: np.asarray(a) for n, a in iterations[0].items()})
    return Cost(sum(c.seconds for c in costs), max(c.memory for c in costs)), found


def input_of(model: Path) -> str:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return next(i.name for i in graph.input if i.name not in {t.name for t in graph.initializer})


def gaps(layers: Sequence[dict[str, Any]], outputs: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """How far the figures of a layer that both report are apart: largest error, mean error, cosine."""
    found = []
    for row in layers:
        if row["layer"] in outputs[0] and row["candidate"] in outputs[1]:
            x, y = outputs[0][row["layer"]], outputs[1][row["candidate"]]
            if x.size != y.size:
                continue
            x, y = (t.astype(np.float64).ravel() for t in (x, y))
            said = np.abs(x - y).max(), np.abs(x - y).mean(), x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            kept = [row[k] for k in ("max_error", "mean_error", "cosine")]
            found.append(np.abs(np.subtract(said, kept)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    given = parser.parse_args()
    print("| pair | compare | Polygraphy | time | memory | layers in both, largest gap of a figure |")
    print("|---|---|---|---|---|---|")
    for pair in [name for name in PAIRS if given.only in name]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "x.npy", np.random.default_rng(0).standard_normal(PAIRS[pair][2]).astype(np.float32))
            rounds = [(ours(pair, folder), theirs(pair, folder)) for _ in range(given.rounds)]
        (_, layers), (_, outputs) = rounds[0]
        seconds = [statistics.median(r[i][0].seconds for r in rounds) for i in (0, 1)]
        memory = [statistics.median(r[i][0].memory for r in rounds) for i in (0, 1)]
        found = gaps(layers, outputs)
        cells = [f"{s:.1f} s, {m:.0f} MiB" for s, m in zip(seconds, memory, strict=True)]
        cells += [f"{seconds[0] / seconds[1]:.2f}", f"{memory[0] / memory[1]:.2f}"]
        cells.append(f"{len(found)} of {len(layers)}, {np.max(found) if found else np.nan:.1g}")
        print(f"| {pair} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
