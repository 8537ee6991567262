"""Does `audit` name the fault of a broken classifier, and nothing where there is none?

    python -m benchmarks.audit_faults [CLEAN_MODEL …] [--data PICTURES]

Faults are put into `models/digits_cnn.onnx` and its INT8 build, or into their preprocessing, and audited on held-out
pictures of one digit each, which `models/pictures.py` composes. A fault is found if its code is among the findings.
Further models are audited as they are on the given pictures; every finding of theirs is listed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import analyzer
from analyzer.attribution import Explainer
from analyzer.images import Preprocess, model_card
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings

ROOT = Path(__file__).resolve().parents[1]

PICTURES, SEED, PROBES = 60, 7, 16
MODEL, QUANTIZED = (ROOT / "models" / f"digits_cnn{kind}.onnx" for kind in ("", "_int8"))
Change = Callable[[onnx.ModelProto], None]


def composed() -> list[Picture]:
    """Held-out pictures of one digit, with its class."""
    sys.path.insert(0, str(ROOT / "models"))
    from pictures import Composer

    composer = Composer("held-out", SEED, counts=(1,))
    drawn = [p for p in (composer.picture() for _ in range(PICTURES)) if p.labels]
    return [Picture(f"{i}", p.pixels, p.labels[0], p.boxes.astype(float)) for i, p in enumerate(drawn)]


def weights_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in model.graph.initializer}


def dead_units(model: onnx.ModelProto) -> None:
    """Half of the second convolution's filters, and their biases, are 0."""
    known = weights_of(model)
    for name in [n for n in model.graph.node if n.op_type == "Conv"][1].input[1:]:
        array = numpy_helper.to_array(known[name]).copy()
        array[: len(array) // 2] = 0
        known[name].CopyFrom(numpy_helper.from_array(array, name))


def mirrored_labels(model: onnx.ModelProto) -> None:
    """The classes of the last layer in the reverse order."""
    known = weights_of(model)
    head = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul", "Conv")][-1]
    for name in head.input[1:]:
        array = numpy_helper.to_array(known[name])
        axis = next(i for i, size in enumerate(array.shape) if size == 10)
        known[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.flip(array, axis)), name))


def saturated_scores(model: onnx.ModelProto) -> None:
    """The output's quantizer has a range an eighth as wide as calibrated."""
    known = weights_of(model)
    last = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")][-1]
    scale = known[last.input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 8, scale.name))


def cases() -> Iterator[tuple[str, str, Path, Change | None, Preprocess]]:
    """(fault, code that should be found, model, what is changed in it, preprocessing)"""
    how = model_card(MODEL).preprocess
    yield "none", "", MODEL, None, how
    yield "none, INT8", "", QUANTIZED, None, how
    for preset in ("raw", "0-1", "-1-1", "caffe"):
        yield (
            f"preset {preset}",
            "preprocessing-doubtful",
            MODEL,
            None,
            model_card(MODEL, {"preset": preset}).preprocess,
        )
    yield "channels swapped", "preprocessing-doubtful", MODEL, None, how.replace(channels="BGR")
    yield "dead units", "dead-channels", MODEL, dead_units, how
    yield "mirrored labels", "labels-mixed-up", MODEL, mirrored_labels, how
    yield "saturated scores, INT8", "saturated-scores", QUANTIZED, saturated_scores, how


def found_in(file: Path, change: Change | None, how: Preprocess, pictures: Sequence[Picture]) -> dict[str, str]:
    """{code: the sentence} of the findings."""
    model = onnx.load(file)
    if change is not None:
        change(model)
    explainer = Explainer(model if change is not None else file, threads=1)
    return {f.code: f"{f.where} {f.words}" for f in findings(audit(explainer, how, pictures, probes=PROBES).report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", nargs="*", default=[])
    given = parser.parse_args()
    pictures = composed()
    print("| fault | found | what the audit says of it | other findings |\n| --- | --- | --- | --- |")
    for fault, code, file, change, how in cases():
        found = found_in(file, change, how, pictures)
        others = ", ".join(sorted(set(found) - {code})) or "–"
        print(
            f"| {fault} | {'–' if not code else 'yes' if code in found else 'no'} | {found.get(code, '–')} | {others} |"
        )
    for name in given.models:
        listed = analyzer.audit(name, given.data, probes=PROBES).findings
        print(f"| none, {Path(name).name} | – | – | {', '.join(f['code'] for f in listed or ()) or '–'} |")


if __name__ == "__main__":
    main()
