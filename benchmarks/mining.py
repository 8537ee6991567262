"""Pictures per second of mining, against a bare onnxruntime loop over the same file with the same decoding.

    python -m benchmarks.mining MODEL FOLDER [-l LAYER …] [--pictures 1000] [--batch 8] [--rounds 3]

The bare loop decodes and preprocesses a batch, runs the whole model as it is, and throws the scores away; once
more it decodes the next batch in a thread meanwhile. The loop has the threads that onnxruntime chooses; mining has a
session of one thread, which as many batches use at once as there are CPUs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from analyzer.attribution import Explainer
from analyzer.data import find_pictures
from analyzer.graph.query import image_input
from analyzer.images import Preprocess, decode, model_card
from analyzer.mining import mine
from benchmarks.ratios import plain


def bare(model: Path, paths: list[Path], how: Preprocess, batch: int, ahead: bool) -> None:
    """The loop that mining is measured against."""
    session = plain(model, 0)
    name = session.get_inputs()[0].name

    def fetch(start: int) -> np.ndarray:
        return np.concatenate([how.apply(decode(path))[0] for path in paths[start : start + batch]])

    starts = range(0, len(paths), batch)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(fetch, 0)
        for start in starts:
            array = coming.result() if ahead else fetch(start)
            if ahead and start + batch < len(paths):
                coming = pool.submit(fetch, start + batch)
            session.run(None, {name: array})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-l", "--layer", action="append", default=[])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="imagenet")
    parser.add_argument("--size", default="224x224")
    given = parser.parse_args()
    explainer = Explainer(given.model, threads=1)
    image = image_input(explainer.plain)
    flags = {"preset": given.preset, "size": given.size, "resize": "crop"}
    how = model_card(given.model, flags, image.shape, image.dtype).preprocess
    samples = find_pictures([given.folder])[: given.pictures]
    paths = [sample.source for sample in samples]

    def mined() -> None:
        with tempfile.TemporaryDirectory() as folder:
            mine(explainer, samples, given.layer or ["auto"], how, folder=folder, batch=given.batch)

    candidates = {
        "bare loop": lambda: bare(given.model, paths, how, given.batch, False),
        "bare loop, decoding ahead": lambda: bare(given.model, paths, how, given.batch, True),
        "mining": mined,
    }
    mine(explainer, samples[: given.batch], given.layer or ["auto"], how, batch=given.batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: dict[str, list[float]] = {name: [] for name in candidates}
    grown = 0
    for _ in range(given.rounds):
        for name in reversed(candidates):
            start = time.perf_counter()
            candidates[name]()
            times[name].append(time.perf_counter() - start)
            if name == "mining" and not grown:
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    rates = {name: len(paths) / statistics.median(seconds) for name, seconds in times.items()}
    print("| loop | images/s | mining's rate relative to it |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} | {rates['mining'] / rate:.0%} |")
    print(f"\nmemory grew by {grown / 1024:.0f} MiB while mining {len(paths)} pictures")


if __name__ == "__main__":
    main()
