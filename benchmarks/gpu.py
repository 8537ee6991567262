"""On a machine with a GPU: are the results those of the CPU, does everything stay on the device, and what does it cost?

    python -m benchmarks.gpu [--provider cuda:0] [--networks resnet50 vit_b_16] [--batches 1 8] [--rules]

For the shipped models and the benchmark's networks (where PyTorch can export them): the largest difference of maps and
input gradients from the CPU provider's, relative to their largest value; float nodes that fell to the CPU; ratios of
medians to the plain forward on the same provider, interleaved. TensorFloat-32 is off. Exits with 1 where a result
differs by more than 1 % (fp16 and int8 builds: 5 %), or anything fell to the CPU. `--rules` compares the gradient of
every sample of every rule (tests/samples) as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from analyzer.attribution import Explainer, Job, Question
from analyzer.attribution.compiler import ready
from analyzer.errors import AnalyzerError
from analyzer.runtime import Session, runtime_version
from benchmarks.timing import interleaved
from benchmarks.zoo import NETWORKS, network

SHIPPED = sorted((Path(__file__).resolve().parents[1] / "models").glob("*.onnx"))
METHODS = ("grad-cam", "gradient", "guided-backprop")


def check(path: Path, provider: str, batch: int, rounds: int) -> tuple[list[str], bool]:
    """(a row, whether all is well)"""
    here, there = Explainer(path), Explainer(path, provider, allow_fallback=True)
    given = here.plain.inputs[0]
    sizes = [d if isinstance(d, int) and d > 0 else batch if axis == 0 else 224 for axis, d in enumerate(given.shape)]
    image = np.random.default_rng(0).standard_normal(sizes).astype(given.dtype)
    target = [int(c) for c in here.explain(image, "grad-cam").target]
    graph = there.graph({given.name: image.shape})
    plain = Session(graph, provider, allow_fallback=True)
    runs, differences, fallen = [lambda: plain.run({given.name: image})], [], set(plain.fallbacks)
    for method in METHODS:
        chosen = target if len(target) > 1 else target[0]
        a, b = (e.explain(image, method, chosen).raw.astype(np.float64) for e in (here, there))
        differences.append(float(np.abs(a - b).max() / (np.abs(a).max() or 1)))
        (one,) = ready(there, Question((Job(method),)), [None], {given.name: image.shape})
        fallen |= set(one.session.fallbacks)
        feeds = {given.name: image, one.target_inputs[0]: np.array(target, np.int64)}
        runs.append(lambda s=one.session, f=feeds, n=one.slots[0][0]: s.run(f, [n]))
    forward, *others = interleaved(runs, rounds)
    limit = 0.05 if any(s in path.stem for s in ("fp16", "int8")) else 0.01
    row = [path.stem, str(len(image)), f"{forward * 1e3:.2f}", *(f"{t / forward:.2f}" for t in others)]
    row += [*(f"{d:.0e}" for d in differences), ", ".join(sorted(fallen)[:3]) or "none"]
    return row, max(differences) < limit and not fallen


def rules(provider: str) -> bool:
    """Prints how many samples of rules have the CPU's gradient, and those that have not; whether all have it."""
    from analyzer import append_vjp
    from tests.rule_checks import build, feeds
    from tests.test_rules import SAMPLES

    differ, failed, alike = [], [], 0
    for sample in SAMPLES:
        found = append_vjp(build(sample, "float32", baked=True), [f"y{i}" for i in sample.cotangents],
                           [f"x{i}" for i in sample.targets])  # fmt: skip
        rng = np.random.default_rng(0)
        names = list(found.gradients.values())
        try:
            here = Session(found.model)
            inputs = feeds(sample, found.model, "float32")
            given = dict(inputs)
            for output, name in found.cotangents.items():
                value = Session(build(sample, "float32", baked=True)).run(inputs, [output])[output]
                given[name] = rng.standard_normal(value.shape).astype(value.dtype)
            a = here.run(given, names)
            b = Session(found.model, provider, allow_fallback=True).run(given, names)
        except AnalyzerError as error:
            failed.append(f"{sample.id}: {error.message[:150]}")
            continue
        size = max(max(float(np.linalg.norm(a[n])) for n in names), 1e-6)
        far = max(float(np.linalg.norm(a[n].astype(np.float64) - b[n])) for n in names) / size
        alike += far < 1e-3
        if not far < 1e-3:
            differ.append(f"{sample.id} ({far:.1e})")
    print(f"\n{alike} of {len(SAMPLES)} samples of rules have the CPU's gradient on {provider}; "
          f"differ: {', '.join(differ) or 'none'}; not run: {'; '.join(failed) or 'none'}", flush=True)  # fmt: skip
    return not differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rules", action="store_true", help="Compare every sample of every rule, too.")
    given = parser.parse_args()
    paths = list(SHIPPED)
    for name in given.networks:
        try:
            paths.append(network(name))
        except SystemExit as missing:
            print(f"{name}: {missing}", file=sys.stderr)
    print(f"onnxruntime {runtime_version()}, {given.provider}")
    heads = ["model", "batch", "forward ms", *METHODS, *(f"{m} differs by" for m in METHODS), "fell to the CPU"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    well = rules(given.provider) if given.rules else True
    for path in paths:
        for batch in given.batches:
            try:
                row, fine = check(path, given.provider, batch, given.rounds)
            except AnalyzerError as error:
                row, fine = [path.stem, str(batch), f"error: {error.message}"], False
            well &= fine
            print("| " + " | ".join(row) + " |", flush=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
