"""Whether exported files run in stock onnxruntime, at every level, and give the maps of `explain`.

    python -m benchmarks.exports_run [folder or file …] [--method METHOD …]

Each model of the corpus (or of what is named) is exported by each method. `export` itself runs its file at the default
level beside `explain`; here the file is run again by sessions of each level, with one thread and with two. A row per
model: the relative distance of the heatmaps from `explain`, the largest over levels and threads from the default
level's; or why the export was refused.

    python -m benchmarks.exports_run --elsewhere [--python PYTHON] [file …] [--method METHOD …]

The same files in other runtimes: the relative distance of the heatmap from that of onnxruntime, or why there is none.
Their libraries are looked for in the environment of PYTHON (`pip install openvino opencv-python-headless tract onnx
onnxruntime`), onnxruntime-web in the current folder (`npm install onnxruntime-web`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import analyzer
from analyzer.attribution.export import read_record
from analyzer.errors import AnalyzerError, InputError
from analyzer.runtime import Plain, random_feeds
from analyzer.runtime.elsewhere import INSTALL, run_in, version_in

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
FOLDERS = ("models", "exports", "cases/treated", "cases/real", "cases/situations")
ELSEWHERE = ("openvino", "opencv", "tract", "web", "ort", "reference")
METHODS = ("grad-cam", "gradient", "guided-backprop")
SEEDS = 20  # random inputs, until a map is not empty
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


def elsewhere(model: Path, method: str, folder: Path, python: str, runtimes: list[str]) -> list[str]:
    """A cell per runtime."""
    cells = []
    for runtime in runtimes:
        try:
            file = analyzer.export(
                model, folder / "exported.onnx", method, runtime=runtime if runtime in INSTALL else "onnxruntime"
            )
            executed = read_record(file)["executed"]
            feeds, expected = fed(Plain(file), {n: tuple(shape) for n, shape in executed[0].items()})
        except (AnalyzerError, IndexError) as error:
            return [f"refused: {' '.join(str(error).split())[:80]}", *["–"] * (len(runtimes) - 1)]
        try:
            found = run_in(runtime, file, feeds, python)["heatmap"]
            distance = float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))
            cells.append(f"{distance:.0e}" if distance <= 1e-3 else f"**{distance:.1g}**")
        except AnalyzerError as error:
            cells.append("fails: " + " ".join(str(error).split()).replace("|", "/")[:160])
    return cells


def fed(plain: Plain, sizes: dict[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random input for which the map is not empty, and the map."""
    for seed in range(SEEDS):
        feeds = random_feeds(plain.inputs, seed, sizes=sizes)
        expected = plain.run(feeds)["heatmap"]
        if expected.any():
            return feeds, expected
    raise InputError(f"the map of {SEEDS} random inputs is empty")


def print_elsewhere(models: list[Path], methods: list[str], python: str) -> None:
    runtimes = [runtime for runtime in ELSEWHERE if version_in(runtime, python) is not None]
    print(f"| model | method | {' | '.join(f'{r} {version_in(r, python)}' for r in runtimes)} |")
    print("|---|---|" + "---|" * len(runtimes))
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            for method in methods:
                cells = elsewhere(model, method, Path(folder), python, runtimes)
                print(f"| {model.stem} | {method} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--method", action="append")
    parser.add_argument("--elsewhere", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    paths = given.paths or [CORPUS / folder for folder in FOLDERS]
    models = sorted(m for p in paths for m in ([p] if p.is_file() else p.glob("*.onnx")))
    if given.elsewhere:
        print_elsewhere(models, given.method or ["grad-cam", "gradient", "cam"], given.python)
        return
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
