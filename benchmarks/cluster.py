"""Rates of engines in steady state: a bare loop, threads of one process, processes, Ray on the same cores; memory.

    python -m benchmarks.cluster [--model models/digits_cnn.onnx] [--pictures 4000] [--rounds 3] [--memory 1000 100000]

`explain` without -o goes over small pictures (parts of the examples, each used many times). A rate is that of all but
a quarter of the pictures: the time for all, less that for a quarter, so that starting the cluster and its actors, and
compiling, does not count; how long they take is printed. The bare loop is that of benchmarks.passes, with as many
threads as workers. Rounds are interleaved, rates are of medians. `--memory` runs the local engine over so many
pictures, each in a process of its own, and prints the peak of its memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from analyzer.attribution import Job, Model, Question
from analyzer.data import Sample
from analyzer.images import decode, model_card, write_png
from analyzer.passes import Processes, Ray, run
from analyzer.passes.explaining import Explaining
from benchmarks.passes import MODELS, bare

FILES = 200


def samples(folder: str, count: int) -> list[Sample]:
    """So many samples of the pictures in a folder, which are made unless they are there."""
    if not (Path(folder) / f"{FILES - 1}.png").exists():
        rng = np.random.default_rng(0)
        photographs = [decode(path) for path in sorted((MODELS.parent / "examples").glob("digits_*.png"))]
        for number in range(FILES):
            whole = photographs[number % len(photographs)]
            y, x = (int(rng.integers(0, size - 192)) for size in whole.shape[:2])
            write_png(Path(folder) / f"{number}.png", np.ascontiguousarray(whole[y : y + 192 : 2, x : x + 192 : 2]))
    return [Sample(f"sample {n}", n, Path(folder) / f"{n % FILES}.png") for n in range(count)]


def work_of(path: Path, threads: int = 1) -> Explaining:
    model = Model(path, threads=threads)
    card = model_card(path, None, model.plain.inputs[0].shape)
    return Explaining(model, Question((Job("grad-cam"),), labels=card.labels), card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "digits_cnn.onnx")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # of a run in this process: pictures, their folder
    given = parser.parse_args()
    if given.peak:
        peak(given.model, int(given.peak[0]), given.peak[1], given.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        samples(folder, 1)
        if given.memory:
            print("| pictures | peak memory |\n|---|---|")
        for count in given.memory:
            asked = [
                sys.executable,
                "-m",
                "benchmarks.cluster",
                "--model",
                str(given.model),
                "--peak",
                str(count),
                folder,
            ]
            done = subprocess.run(asked, check=True, capture_output=True, text=True)
            print(f"| {count:,} | {done.stdout.strip()} |", flush=True)
        if given.rounds:
            rates(given, folder)


def peak(model: Path, count: int, folder: str, workers: int) -> None:
    work = work_of(model)
    work.finish = lambda total: None  # type: ignore[method-assign, assignment, return-value]
    work.merge = lambda left, right: right  # type: ignore[method-assign]
    run(work, samples(folder, count), workers=workers)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def rates(given: argparse.Namespace, folder: str) -> None:
    work, some, all_ = work_of(given.model), samples(folder, given.pictures // 4), samples(folder, given.pictures)
    workers, model, how = given.workers, Model(given.model, threads=1), work.card.preprocess
    cluster, wide = Ray(count=workers), work_of(given.model, workers)
    candidates: dict[str, Callable[[list[Sample]], object]] = {
        "bare loop": lambda chosen: bare(model, work.question, how, chosen, workers),
        "local, threads": lambda chosen: run(work, chosen, workers=workers),
        "processes": lambda chosen: run(work, chosen, workers=Processes(workers)),
        f"one worker, sessions of {workers} threads": lambda chosen: run(wide, chosen, workers=1),
        "ray": lambda chosen: run(work, chosen, workers=cluster),
    }
    start = time.perf_counter()
    try:
        import ray

        ray.init("local", include_dashboard=False, num_cpus=workers, log_to_driver=False)
        print(f"starting a cluster: {time.perf_counter() - start:.1f} s")
    except ImportError:
        del candidates["ray"]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for one in candidates.values():
        one(some[:50])
    for _ in range(given.rounds):
        for name, one in candidates.items():
            pair = []
            for chosen in (some, all_):
                start = time.perf_counter()
                one(chosen)
                pair.append(time.perf_counter() - start)
            times[name].append((pair[0], pair[1]))
    found = {
        name: (len(all_) - len(some)) / statistics.median(whole - part for part, whole in pairs)
        for name, pairs in times.items()
    }
    print(f"| engine, {workers} workers | pictures/s | of the bare loop | starting |\n|---|---|---|---|")
    for name, rate in found.items():
        begin = statistics.median(part for part, _ in times[name]) - len(some) / rate
        print(f"| {name} | {rate:.0f} | {rate / found['bare loop']:.0%} | {begin:.1f} s |")


if __name__ == "__main__":
    main()
