"""Where the time of an input gradient goes, operator by operator, in units of the whole plain forward.

    python -m benchmarks.nodes resnet50 [--method gradient] [--nodes 15]

From onnxruntime's own traces of both, one thread, batch 1: medians per node over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from analyzer.attribution import Explainer
from analyzer.runtime import Session
from benchmarks.zoo import network

Node = tuple[str, str]  # operator, name


def times_of(session: Session) -> dict[Node, float]:
    """Median microseconds of every node over the runs so far."""
    times: dict[Node, list[float]] = defaultdict(list)
    for event in json.loads(Path(session.end_trace()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"])
    return {node: statistics.median(t[2:]) for node, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--method", default="gradient")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--nodes", type=int, default=15, help="How many single nodes to list.")
    given = parser.parse_args()
    path = given.network if given.network.endswith(".onnx") else network(given.network)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    explainer = Explainer(path)
    name = explainer.plain.inputs[0].name
    shapes = {name: image.shape}
    compiled = explainer.compile(given.method, shapes=shapes)
    with tempfile.TemporaryDirectory() as folder:
        plain = Session(explainer.graph(shapes), threads=1, trace=f"{folder}/plain")
        whole = Session(compiled.graph, threads=1, outputs=compiled.names, trace=f"{folder}/whole")
        feeds = {name: image} | {t: np.full(1, -1, np.int64) for t in compiled.target_inputs}
        for _ in range(given.rounds + 2):
            plain.run({name: image}, plain.outputs)
            whole.run(feeds, [compiled.slots[0][0]])
        forward, both = times_of(plain), times_of(whole)
    total = sum(forward.values())
    print(f"{given.network}: {given.method} {sum(both.values()) / total:.2f} of the forward, {total / 1e3:.1f} ms")
    print("| operator | forward | with the gradient |\n|---|---|---|")
    sums = [defaultdict(float), defaultdict(float)]
    for table, nodes in zip(sums, (forward, both), strict=True):
        for (op, _), time in nodes.items():
            table[op] += time / total
    for op in sorted({*sums[0], *sums[1]}, key=lambda o: (-sums[1][o], o)):
        if max(sums[0][op], sums[1][op]) > 0.002:
            print(f"| {op} | {sums[0][op]:.3f} | {sums[1][op]:.3f} |")
    for (op, node), time in sorted(both.items(), key=lambda x: -x[1])[: given.nodes]:
        before = forward.get((op, node))
        print(f"{time / total:.4f} {op} {node}" + (f" (forward {before / total:.4f})" if before else ""))


if __name__ == "__main__":
    main()
