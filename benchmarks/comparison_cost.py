"""What `compare` of SqueezeNet on six photographs costs, in forward passes per picture and side.

    python -m benchmarks.comparison_cost [--rounds 5]

Two exports of the same weights (opset 7, and opset 17 with symbolic sizes) by `analyzer.compare` with its default
methods and one thread. Counted are runs of sessions; a run with a gradient in it costs more than a forward pass. Timed
is the processor time of the process, against that of a forward pass in a bare session of onnxruntime, in turn with it:
with all that happens once (loading, rewriting, sessions), and what a picture adds (twelve pictures against six).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.compared_networks import CORPUS, PHOTOS

REFERENCE, CANDIDATE = (
    str(CORPUS / "models" / f"squeezenet1.1_torchscript_{name}.onnx") for name in ("op7", "op17_dynHW")
)
PICTURES = ("coral_cat_720p.jpg", "coral_parrot.jpg", "ort_dog.jpeg", "coral_hot_dog.jpg", "coral_owl.jpg",
            "coral_bird.bmp", "orie_goldfish.jpg", "ort_kitten_224.png", "orie_cat_224x224.png", "coral_dragonfly.bmp",
            "coral_sunflower.bmp", "ort_fish_720.png")  # fmt: skip
FORWARDS = 20  # of one measurement


def compared(count: int, **options: Any) -> tuple[float, int]:
    """(seconds of the processor, runs of sessions)"""
    import analyzer
    from analyzer.runtime import Session

    runs, run = [0], Session.run

    def counted(self: Session, *given: Any, **more: Any) -> Any:
        runs[0] += 1
        return run(self, *given, **more)

    Session.run = counted  # type: ignore[method-assign]
    try:
        start = time.process_time()
        paths = [str(PHOTOS / name) for name in PICTURES[:count]]
        analyzer.compare(REFERENCE, CANDIDATE, paths, workers=1, preset="imagenet", **options)
        return time.process_time() - start, runs[0]
    finally:
        Session.run = run  # type: ignore[method-assign]


def bare() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(REFERENCE, options, ["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])


def forward(session: Any) -> float:
    """Seconds of the processor of a forward pass."""
    given = {session.get_inputs()[0].name: np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    start = time.process_time()
    for _ in range(FORWARDS):
        session.run(None, given)
    return (time.process_time() - start) / FORWARDS


def medians(columns: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in columns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    session = bare()
    forward(session)
    first, runs = compared(6)  # with the import of everything
    rows = []
    for _ in range(given.rounds):
        rows.append((forward(session), compared(6)[0], compared(12)[0]))
        print(", ".join(f"{seconds:.3f} s" for seconds in rows[-1]), flush=True)
    one, six, twelve = medians(list(zip(*rows, strict=True)))
    share = 2 * 6 * one
    print(f"forward pass: {one * 1000:.1f} ms")
    print(f"session runs per picture and side: {runs / 12:.1f}")
    print("| | seconds | forward passes per picture and side |\n|---|---|---|")
    print(f"| six photographs, the first comparison of a process | {first:.2f} | {first / share:.1f} |")
    print(f"| six photographs, files loaded before | {six:.2f} | {six / share:.1f} |")
    print(f"| what six more photographs add | {twelve - six:.2f} | {(twelve - six) / share:.1f} |")


if __name__ == "__main__":
    main()
