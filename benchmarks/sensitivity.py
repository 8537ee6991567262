"""Does `compare --sensitivity` name the layers that onnxruntime's quantizer should leave in float?

    python -m benchmarks.sensitivity MODEL [MODEL …] --data PICTURES --preset 0-1 [--crops 8] [--randoms 200]

Every float MODEL is quantized by `onnxruntime.quantization` (QDQ, 8 bits, one scale per tensor, four pictures of
calibration). The truth is measured with files of that quantizer: one per layer, quantized without that layer, and one
for each of 200 random choices of five layers. Their drift is that of `analyzer.validation.sensitivity`, over random
crops of the pictures; shares are estimated on as many of them as the command takes.

How noisy the truth itself is: its rank correlation between two halves of the pictures, beside that of the estimates of
one half with the truth of the other. Seconds are the processor's, of one thread; loading and sessions are included.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry

from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.data import find_pictures
from analyzer.runtime import Session
from analyzer.validation.sensitivity import PICTURES, STEPS, drawn, drift, sensitivity, squares
from analyzer.validation.side import Side

CALIBRATION = 4
FIRST = 5
FEW = 16  # pictures that random choices are measured on
HALVES = 4  # random ones


class Reader(CalibrationDataReader):
    def __init__(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{name: array} for array in arrays])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


class Quantizer:
    """One float model and its calibration, of which any choice of layers is quantized."""

    def __init__(self, model: Path, folder: Path, arrays: Sequence[np.ndarray], bits: int) -> None:
        self.file, self.folder = named(model, folder), folder
        self.kind = {4: QuantType.QInt4, 8: QuantType.QInt8}[bits]
        calibrator = create_calibrator(str(self.file), augmented_model_path=str(folder / "augmented.onnx"))
        calibrator.collect_data(Reader(onnx.load(self.file).graph.input[0].name, arrays[:CALIBRATION]))
        self.ranges = calibrator.compute_data()
        self.count = 0

    def without(self, layers: Sequence[str]) -> Path:
        """The quantized file with `layers` in float."""
        self.count += 1
        path = self.folder / f"{self.count}.onnx"
        made = QDQQuantizer(
            onnx.load(self.file), False, False, self.kind, QuantType.QUInt8, self.ranges, [], list(layers),
            list(QDQRegistry), {"MinimumRealRange": None},
        )  # fmt: skip
        made.quantize_model()
        made.model.save_model_to_file(str(path), False)
        return path


def named(model: Path, folder: Path) -> Path:
    """The model at opset 13 or above, each node with a name, up to its logits: that is how such files are quantized."""
    proto = onnx.load(model)
    logits = str(Side(Explainer(model), first_shapes(model)).scores.logits.name)
    ends = {name for node in proto.graph.node for name in node.output}
    if logits in ends and logits != proto.graph.output[0].name:
        proto = up_to(proto, logits)
    if proto.opset_import[0].version < 13:
        proto = onnx.version_converter.convert_version(proto, 13)
    weights = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    path = folder / model.name
    onnx.save(proto, path)
    return path


def first_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    graph = Explainer(model).plain
    return {v.name: tuple(d if isinstance(d, int) else 1 for d in v.shape) for v in graph.inputs}


def up_to(proto: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The part of a model that computes a tensor, its only output."""
    needed, kept = {output}, []
    for node in reversed(proto.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del proto.graph.node[:], proto.graph.output[:]
    proto.graph.node.extend(reversed(kept))
    proto.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    return proto


def arrays_of(model: Path, pictures: Sequence[Path], preset: str | None, crops: int) -> list[np.ndarray]:
    """Random crops of half the size or more of every picture, the first the whole, as the model takes them."""
    from analyzer.images import decode

    explainer, rng = Explainer(model), np.random.default_rng(0)
    card = read_card(explainer, None, {"preset": preset} if preset else {})
    images = [decode(picture) for picture in pictures]
    found = []
    for crop in range(crops):
        for image in images:
            sizes = [round(s * (rng.uniform(0.5, 0.95) if crop else 1)) for s in image.shape[:2]]
            y, x = (int(rng.integers(whole - s + 1)) for s, whole in zip(sizes, image.shape, strict=False))
            found.append(card.feeds.feed(image[y : y + sizes[0], x : x + sizes[1]]).main.array)
    return found


class Runs:
    """A file as onnxruntime runs it: its first output.

    Args:
        again: let the session quantize the weights of layers that the file has in float (its default).
    """

    def __init__(self, path: Path, again: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        without = [] if again else ["WeightBiasQuantization"]
        self.session = ort.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=without)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: array})[0])

    def drifts(self, arrays: Sequence[np.ndarray], expected: Sequence[np.ndarray], size: float) -> np.ndarray:
        """(pictures,) their parts of D."""
        return np.array([drift([self(a)], [y], [size]) for a, y in zip(arrays, expected, strict=True)])


def costs(work: Callable[[], Any]) -> tuple[Any, str]:
    """What it gives, and (seconds of the processor, runs of sessions) in words."""
    runs, run, plain = [0], Session.run, Runs.__call__

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*given: Any, **more: Any) -> Any:
            runs[0] += 1
            return call(*given, **more)

        return one

    Session.run, Runs.__call__ = counted(run), counted(plain)  # type: ignore[method-assign]
    try:
        start = time.process_time()
        found = work()
        return found, f"{time.process_time() - start:.1f} s, {runs[0]} runs"
    finally:
        Session.run, Runs.__call__ = run, plain  # type: ignore[method-assign]


def benchmark(
    model: Path, pictures: Sequence[Path], preset: str | None, crops: int, randoms: int, bits: int
) -> dict[str, Any]:
    arrays = arrays_of(model, pictures, preset, crops)
    pairs = [(a, a) for a in arrays]
    with tempfile.TemporaryDirectory() as name:
        quantizer = Quantizer(model, Path(name), arrays, bits)
        path = quantizer.without([])
        expected = [Runs(quantizer.file)(a) for a in arrays]
        size = squares(expected)

        def ranked(given: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> dict[str, Any]:
            sides = [Side(Explainer(file, threads=1), arrays[0].shape) for file in (quantizer.file, path)]
            return sensitivity(*sides, given, steps)

        def drifts(without: Sequence[str], count: int = len(arrays), again: bool = False) -> np.ndarray:
            return Runs(quantizer.without(without), again).drifts(arrays[:count], expected[:count], size)

        def recovered(chosen: Sequence[str], again: bool = False) -> float:
            return 1 - float(drifts(chosen, FEW, again).sum() / whole[:FEW].sum())

        whole = drifts([])
        found, estimating = costs(lambda: ranked(drawn(pairs, PICTURES), 0))
        listed, listing = costs(lambda: ranked(drawn(pairs, PICTURES), STEPS))
        layers = [row["layer"] for row in found["layers"]]
        truth, leaving = costs(lambda: np.array([whole - drifts([layer]) for layer in layers]))
        rng = np.random.default_rng(0)
        halves = []
        for _ in range(HALVES):
            one, other = np.array_split(rng.permutation(len(arrays)), 2)
            there = {row["layer"]: row["share"] for row in ranked([pairs[i] for i in one], 0)["layers"]}
            known = truth[:, other].sum(axis=1)
            guesses = truth[:, one].sum(axis=1), [there[layer] for layer in layers]
            halves.append([rank_correlation(guess, known) for guess in guesses])
        of_truth, of_estimates = np.mean(halves, axis=0)
        first = listed["nodes_to_exclude"][:FIRST]
        fives = [recovered(rng.choice(layers, FIRST, replace=False).tolist()) for _ in range(randoms)]
        ours, default = recovered(first), recovered(first, again=True)
    return {
        "model": model.name,
        "bits": bits,
        "layers": len(layers),
        "pictures": len(arrays),
        "pictures of the estimates": found["pictures"],
        "drift": float(whole.sum()),
        "rank correlation": rank_correlation([row["share"] for row in found["layers"]], truth.sum(axis=1)),
        "truth of one half with truth of the other": float(of_truth),
        "estimates of one half with truth of the other": float(of_estimates),
        "estimates": estimating,
        "estimates and list": listing,
        "leave-one-out": leaving,
        "first five": ours,
        "first five, default session": default,
        "random fives, 95%": float(np.quantile(fives, 0.95)) if fives else None,
        "random fives below": float(np.mean([ours > r for r in fives])) if fives else None,
        "names": first,
    }


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--limit", type=int, default=17)
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--randoms", type=int, default=200)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    pictures = [Path(str(s.source)) for s in find_pictures([str(given.data)], given.limit)]
    for model in given.models:
        for key, value in benchmark(model, pictures, given.preset, given.crops, given.randoms, given.bits).items():
            print(f"{key}: {value}", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
