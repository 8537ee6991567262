"""Cost of explanations in units of a plain onnxruntime forward of the same file.

    python -m benchmarks.ratios [--networks resnet50 vgg16] [--batches 1 8] [--threads 1 0] [--out results.json]

Prints a Markdown table. Threads 0 means all. `--rivals` adds other tools where they are installed (see rivals.py);
`--more` (batch 1) Grad-CAM at a middle layer, Grad-CAM of all classes, three methods in one run, integrated gradients
of 50 steps and Ablation-CAM. `--against stored.json` is a gate: exits with 1 where a ratio is more than a tenth above
the stored one.

Two sessions of one graph may differ by a tenth, by how their memory happens to lie: `--repeats 3` takes three of each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from analyzer.analysis.feature_maps import feature_maps
from analyzer.attribution import Explainer, Job, Question
from analyzer.attribution.class_maps import class_maps
from analyzer.attribution.compiler import ready
from analyzer.errors import AnalyzerError
from analyzer.runtime.session import DISABLED_OPTIMIZERS
from benchmarks.rivals import RIVALS, rivals
from benchmarks.timing import interleaved
from benchmarks.zoo import NETWORKS, network

METHODS = ("grad-cam", "gradient", "guided-backprop")
MORE = ("grad-cam, middle", "grad-cam, all classes", "three methods", "integrated-gradients", "ablation-cam")
STORED = Path(__file__).parent / "ratios.json"
SLACK = 1.1


def plain(path: Path, threads: int) -> ort.InferenceSession:
    """The file as it is, with the one setting that its rewritten twin gets too."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS)


def more(explainer: Explainer, image: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Further methods; a column is missing where one is not defined for the network."""
    maps = [m.name for m in feature_maps(explainer.graph({"image": image.shape})) if len(m.layout.grid) == 2]
    middle = maps[len(maps) // 2]

    def runs(*jobs: Job) -> Callable[[], Any]:
        # The session alone: networks of random weights have empty maps, which `explain` would look into each time.
        compiled = ready(explainer, Question(jobs), [None], {"image": image.shape})
        feeds = {"image": image, compiled[0].target_inputs[0]: np.full(len(image), -1, np.int64)}
        return lambda: compiled[0].session.run(feeds, [c.slots[0][0] for c in compiled])

    return {
        MORE[0]: runs(Job("grad-cam", middle)),
        MORE[1]: lambda: class_maps(explainer, image),
        MORE[2]: runs(*(Job(m) for m in METHODS)),
        MORE[3]: lambda: explainer.explain(image, "integrated-gradients", 0, steps=50),
        MORE[4]: lambda: explainer.explain(image, "ablation-cam", 0),
    }


def measure(name: str, batch: int, threads: int, rounds: int, others: bool, extended: bool) -> dict[str, Any]:
    """Ratios of one network at one batch size and thread count."""
    path = network(name)
    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    session = plain(path, threads)
    start = time.perf_counter()
    explainer = Explainer(path, threads=threads or None)
    shapes = {"image": image.shape}
    graph = explainer.compile("gradient", shapes=shapes).graph
    graph.stub()
    built = time.perf_counter() - start
    candidates = [lambda: session.run(None, {"image": image})]
    for method in METHODS:
        (compiled,) = ready(explainer, Question((Job(method),)), [None], shapes)
        feeds = {"image": image, compiled.target_inputs[0]: np.full(batch, -1, np.int64)}
        candidates.append(lambda s=compiled.session, f=feeds, r=compiled.slots[0][0]: s.run(f, [r]))
    names = list(METHODS)
    for title, call in rivals(path, image, threads).items() if others else ():
        candidates.append(call)
        names.append(title)
    for title, call in more(explainer, image).items() if extended and batch == 1 else ():
        try:
            call()
        except AnalyzerError:
            continue
        candidates.append(call)
        names.append(title)
    forward, *times = interleaved(candidates, rounds, budget=60, pause=0.2 * (threads != 1))
    ratios = {m: t / forward for m, t in zip(names, times, strict=True)}
    return {
        "network": name,
        "batch": batch,
        "threads": threads,
        "forward_ms": forward * 1e3,
        "build_s": built,
        **ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=1, help="Sessions of each; medians over them.")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path, nargs="?", const=STORED, help="[benchmarks/ratios.json]")
    given = parser.parse_args()
    rows = []
    header = ["network", "batch", "threads", "forward ms", "build s", *METHODS]
    header += [*(RIVALS if given.rivals else []), *(MORE if given.more else [])]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in given.networks:
        for batch in given.batches:
            for threads in given.threads:
                runs = [
                    measure(name, batch, threads, given.rounds, given.rivals, given.more) for _ in range(given.repeats)
                ]
                row = {
                    k: statistics.median(r[k] for r in runs if k in r) if isinstance(v, float) else v
                    for k, v in runs[0].items()
                }
                rows.append(row)
                cells = [name, str(batch), str(threads or "all"), f"{row['forward_ms']:.0f}", f"{row['build_s']:.2f}"]
                cells += [f"{row[m]:.2f}" if m in row else "–" for m in header[5:]]
                print("| " + " | ".join(cells) + " |", flush=True)
    if given.out:
        about = {"onnxruntime": ort.__version__, "processor": platform.processor() or platform.machine()}
        given.out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    if given.against:
        worse = regressions(rows, json.loads(given.against.read_text())["rows"])
        print("\n".join(worse) or "no ratio is worse than the stored one")
        sys.exit(1 if worse else 0)


def regressions(rows: list[dict[str, Any]], stored: list[dict[str, Any]]) -> list[str]:
    """A sentence per ratio that is more than `SLACK` times the stored one."""
    known = {(r["network"], r["batch"], r["threads"]): r for r in stored}
    found = []
    for row in rows:
        before = known.get((row["network"], row["batch"], row["threads"]), {})
        for name in (*METHODS, *MORE):
            if name in row and name in before and row[name] > SLACK * before[name]:
                where = f"{row['network']}, batch {row['batch']}, {row['threads'] or 'all'} threads"
                found.append(f"{where}: {name} costs {row[name]:.2f} forwards, stored {before[name]:.2f}")
    return found


if __name__ == "__main__":
    main()
