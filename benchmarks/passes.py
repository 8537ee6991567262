"""What a pass costs beside a bare loop of the same onnxruntime calls, and how much memory it takes.

    python -m benchmarks.passes [--model models/digits_cnn.onnx] [--pictures 5000] [--rounds 3]

Small pictures are made on the spot. `explain` without -o goes over them: classes and where the map is highest, nothing
drawn. The bare loop decodes and preprocesses ahead in as many threads, and runs the same session with the same threads;
with several workers it calls it from as many threads. Both are measured in turn; ratios are those of medians, of wall
time and of the CPU time of the process, which other jobs on the machine disturb less.
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

from analyzer.attribution import Job, Model, Question
from analyzer.attribution.compiler import ready
from analyzer.data import Sample, find_pictures
from analyzer.images import Preprocess, decode, model_card, write_png
from analyzer.passes import run
from analyzer.passes.explaining import Explaining

MODELS = Path(__file__).resolve().parents[1] / "models"


def bare(model: Model, question: Question, how: Preprocess, samples: list[Sample], workers: int) -> None:
    """The loop that the pass is measured against."""
    array = how.apply(decode(samples[0].source))[0]
    (compiled,) = ready(model, question, [None], {model.image: array.shape})
    assert compiled.session is not None
    session, names, target = compiled.session._session, compiled.names, compiled.target_inputs[0]
    top = np.array([-1])

    def once(array: np.ndarray) -> None:
        session.run(names, {model.image: array, target: top})

    with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(workers) as runners:
        ahead = 2 + workers
        coming = [decoders.submit(lambda s: how.apply(decode(s.source))[0], s) for s in samples[:ahead]]
        running = []
        for number in range(len(samples)):
            array = coming[number].result()
            coming[number] = None  # type: ignore[call-overload]
            if number + ahead < len(samples):
                coming.append(decoders.submit(lambda s: how.apply(decode(s.source))[0], samples[number + ahead]))
            if workers == 1:
                once(array)
                continue
            running.append(runners.submit(once, array))
            if len(running) >= 2 * workers:
                running.pop(0).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "digits_cnn.onnx")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = Model(given.model, threads=1)
    card = model_card(given.model, None, model.plain.inputs[0].shape)
    question = Question((Job("grad-cam"),), labels=card.labels)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        photographs = [decode(path) for path in sorted((MODELS.parent / "examples").glob("digits_*.png"))]
        for number in range(given.pictures):  # parts of the examples that hold digits, so that few maps are empty
            whole = photographs[number % len(photographs)]
            y, x = (int(rng.integers(0, size - 192)) for size in whole.shape[:2])
            write_png(Path(folder) / f"{number:05}.png", np.ascontiguousarray(whole[y : y + 192 : 2, x : x + 192 : 2]))
        samples = find_pictures([folder])
        print("| workers | bare loop, s | pass, s | pass / bare | CPU: pass / bare | memory grew by |")
        print("|---|---|---|---|---|---|")
        for workers in (1, 2):
            work = Explaining(model, question, card)
            run(work, samples[:50], workers=workers)
            times: dict[str, list[tuple[float, float]]] = {"bare": [], "pass": []}
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(given.rounds):
                for name in times:
                    start, used = time.perf_counter(), time.process_time()
                    if name == "bare":
                        bare(model, question, card.preprocess, samples, workers)
                    else:
                        run(work, samples, workers=workers)
                    times[name].append((time.perf_counter() - start, time.process_time() - used))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            (a, b), (c, d) = (
                [statistics.median(kind) for kind in zip(*times[name], strict=True)] for name in ("bare", "pass")
            )
            print(f"| {workers} | {a:.1f} | {c:.1f} | {c / a:.2f} | {d / b:.2f} | {grown:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
