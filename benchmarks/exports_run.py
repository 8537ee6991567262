"""Whether exported files run in stock onnxruntime, at every level, and give the maps of `explain`.

    python -m benchmarks.exports_run [folder or file …] [--method METHOD …]

Each model of the corpus (or of what is named) is exported by each method. `export` itself runs its file at the default
level beside `explain`; here the file is run again by sessions of each level, with one thread and with two. A row per
model: the relative distance of the heatmaps from `explain`, the largest over levels and threads from the default
level's; or why the export was refused.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import analyzer
from analyzer.errors import AnalyzerError
from analyzer.runtime import random_feeds

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
FOLDERS = ("models", "exports", "cases/treated", "cases/real", "cases/situations")
METHODS = ("grad-cam", "gradient", "guided-backprop")
LEVELS = ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")


def heatmap(path: Path, level: str, threads: int, sizes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """What a plain session gives for random input."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = random_feeds({i.name: (i.type, i.shape) for i in session.get_inputs()}, sizes=sizes)
    return np.nan_to_num(np.asarray(session.run(["heatmap"], feeds)[0]))


def spread(path: Path, sizes: dict[str, tuple[int, ...]]) -> float:
    """The largest relative distance between the default level's map and those of other levels and threads."""
    first = heatmap(path, LEVELS[0], 1, sizes)
    others = [heatmap(path, level, threads, sizes) for level in LEVELS for threads in (1, 2)]
    return max(float(np.linalg.norm(o - first) / (np.linalg.norm(first) or 1.0)) for o in others)


def measured(model: Path, method: str, folder: Path) -> tuple[str, str]:
    """("runs" | "refused" | "FAILS", what to print)"""
    try:
        path = analyzer.export(model, folder / "exported.onnx", method)
    except AnalyzerError as error:
        return "refused", str(error)
    except Exception as error:
        return "FAILS", f"{type(error).__name__}: {error}"
    metadata = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    record = json.loads(metadata["onnx-analyzer"])
    if not record["executed"]:
        return "not executed", record["heatmap_difference"]
    try:
        among = spread(path, {name: tuple(sizes) for name, sizes in record["executed"][0].items()})
    except Exception as error:
        return "FAILS", f"{type(error).__name__}: {error}"
    receipt = f"{record['receipt']:.1g}" if isinstance(record["receipt"], float) else "–"
    return "runs", f"{receipt} {record['heatmap_difference']:.1g} {among:.1g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--method", action="append")
    given = parser.parse_args()
    paths = given.paths or [CORPUS / folder for folder in FOLDERS]
    models = sorted(m for p in paths for m in ([p] if p.is_file() else p.glob("*.onnx")))
    print("receipt of the outputs, heatmap from explain, heatmap among levels and threads\n")
    print("| model | method | | |\n|---|---|---|---|")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            for method in given.method or METHODS:
                start = time.perf_counter()
                outcome, words = measured(model, method, Path(folder))
                counts[outcome] += 1
                seconds = time.perf_counter() - start
                print(
                    f"| {model.name} | {method} | {outcome} | {' '.join(words.split())[:240]} ({seconds:.0f} s) |",
                    flush=True,
                )
    print("\n" + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))


if __name__ == "__main__":
    main()
