"""What an explanation costs as the model deepens, as targets are added, and where a map is empty: CPU seconds.

    python -m benchmarks.scaling [--nodes 3000 10000 30000] [--targets 30 100 300]

- depth: the first `explain(model, x, "gradient")` of a chain of Conv–Relu–Add blocks, each in a process of its own.
- targets: Grad-CAM of digits_cnn for that many targets, the first time and again.
- empty maps: Grad-CAM of a class that nothing speaks for beside one with a map, both asked before; ratio of medians.

The exponent of a row is log(CPU ratio) / log(size ratio) from the row above: 1 where costs grow as the work does.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer.attribution import Explainer
from analyzer.images import decode, model_card

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"
EXAMPLES = MODEL.parents[1] / "examples"
DEEP = """
import sys, time, numpy as np, analyzer
from analyzer.attribution import Explainer
start = time.process_time()
found = Explainer(sys.argv[1]).explain(np.ones((1, 4, 8, 8), np.float32), "gradient", target="a%s.sum()" % sys.argv[2])
assert np.isfinite(found.raw).all() and found.raw.any()
print(time.process_time() - start)
"""


def chain(nodes: int) -> onnx.ModelProto:
    """Conv–Relu–Add blocks, `nodes` nodes in all, on a small map."""
    rng = np.random.default_rng(0)
    made, weights, value, scale = [], [], "x", min(0.1, 1 / nodes)  # finite at any depth
    for index in range(nodes // 3):
        weights.append(
            numpy_helper.from_array(scale * rng.standard_normal((4, 4, 3, 3)).astype(np.float32), f"w{index}")
        )
        made.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        made.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        made.append(helper.make_node("Add", [f"r{index}", value], [f"a{index}"]))
        value = f"a{index}"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("x", value)]
    graph = helper.make_graph(made, "chain", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shown() -> np.ndarray:
    """A picture as digits_cnn takes it."""
    return model_card(MODEL).preprocess.apply(decode(sorted(EXAMPLES.glob("digits_*.png"))[0]))[0]


def deep(nodes: int) -> float:
    """CPU seconds of the first gradient of a chain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        onnx.save(chain(nodes), path)
        words = [sys.executable, "-c", DEEP, str(path), str(nodes // 3 - 1)]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def many(targets: int) -> tuple[float, float]:
    """CPU seconds of Grad-CAM for many targets, the first time and again."""
    explainer, picture = Explainer(MODEL, threads=1), shown()
    wanted = [i % 10 for i in range(targets)]
    seconds = []
    for _ in range(2):
        start = time.process_time()
        explainer.explain(picture, target=wanted)
        seconds.append(time.process_time() - start)
    return seconds[0], seconds[1]


def empty(rounds: int = 40) -> float:
    """How many times the CPU time of a map an empty map costs."""
    explainer, picture = Explainer(MODEL, threads=1), shown()
    diagnoses = [explainer.explain(picture, target=t).diagnosis[0] for t in range(10)]
    chosen = next(t for t, d in enumerate(diagnoses) if d), next(t for t, d in enumerate(diagnoses) if not d)
    times: dict[int, list[float]] = {t: [] for t in chosen}
    for _ in range(rounds):
        for target, seconds in times.items():
            start = time.process_time()
            explainer.explain(picture, target=target)
            seconds.append(time.process_time() - start)
    return statistics.median(times[chosen[0]]) / statistics.median(times[chosen[1]])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> str:
    if len(sizes) < 2:
        return ""
    return f"{math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="*", type=int, default=[3000, 10000, 30000])
    parser.add_argument("--targets", nargs="*", type=int, default=[30, 100, 300])
    given = parser.parse_args()
    print("| nodes | CPU s | exponent |\n|---|---|---|")
    seconds: list[float] = []
    for at, nodes in enumerate(given.nodes):
        seconds.append(deep(nodes))
        print(f"| {nodes:,} | {seconds[-1]:.1f} | {exponent(given.nodes[: at + 1], seconds)} |", flush=True)
    print("\n| targets | CPU s, first | exponent | again |\n|---|---|---|---|")
    seconds = []
    for at, targets in enumerate(given.targets):
        first, again = many(targets)
        seconds.append(first)
        print(f"| {targets} | {first:.2f} | {exponent(given.targets[: at + 1], seconds)} | {again:.3f} |", flush=True)
    print(f"\nan empty map costs {empty():.2f} times what a map costs")


if __name__ == "__main__":
    main()
