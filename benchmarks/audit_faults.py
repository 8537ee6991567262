"""Does `audit` name the fault of a broken classifier, and nothing where there is none?

    python -m benchmarks.audit_faults [CLEAN_MODEL[,KEY=VALUE…] …] [--data PICTURES] [--classes FILE]

Faults are put into `models/digits_cnn.onnx` and its INT8 build, or into their preprocessing, and audited on held-out
pictures of one digit each, which `models/pictures.py` composes; and into networks of rings and crosses, which
`models/shapes.py` trains within a minute. A fault is found if its code is among the findings, and named if its
sentence says what was done. Further models are audited as they are on the given pictures, with the given keys of their
preprocessing; every finding of theirs is listed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import analyzer
from analyzer.attribution import Explainer
from analyzer.images import Preprocess, decode, model_card
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings

ROOT = Path(__file__).resolve().parents[1]

PICTURES, SEED, PROBES = 60, 7, 16
MODEL, QUANTIZED = (ROOT / "models" / f"digits_cnn{kind}.onnx" for kind in ("", "_int8"))
SHAPES = Preprocess(size=(64, 64), mean=(0.5,), std=(0.25,), resize="resize")
Change = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Case:
    """A model with a fault, or none.

    Attributes:
        code: that should be found; "" for a model without a fault.
        change: what is changed in the file.
        named: what the finding's sentence should say.
    """

    fault: str
    code: str
    file: Path
    preprocess: Preprocess
    pictures: Sequence[Picture]
    change: Change | None = None
    named: str = ""


def composed() -> list[Picture]:
    """Held-out pictures of one digit, with its class."""
    sys.path.insert(0, str(ROOT / "models"))
    from pictures import Composer

    composer = Composer("held-out", SEED, counts=(1,))
    drawn = [p for p in (composer.picture() for _ in range(PICTURES)) if p.labels]
    return [Picture(f"{i}", p.pixels, p.labels[0], p.boxes.astype(float)) for i, p in enumerate(drawn)]


def shapes(marked: bool, colored: bool = False) -> list[Picture]:
    """Rings and crosses, half of each; `marked` has the mark on every cross."""
    from models.shapes import picture

    rng, known = np.random.default_rng(SEED), photos()
    return [Picture(f"{i}", picture(rng, i % 2, marked and i % 2 == 1, known, colored), i % 2) for i in range(PICTURES)]


def photos() -> list[np.ndarray]:
    return [decode(path) for path in sorted((ROOT / "examples").glob("digits_*.png"))]


def twice_as_wide(pictures: Sequence[Picture]) -> list[Picture]:
    return [Picture(p.name, p.pixels.repeat(2, axis=1), p.label) for p in pictures]


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


def cases(folder: Path) -> Iterator[Case]:
    how, digits = model_card(MODEL).preprocess, composed()
    doubtful = "preprocessing-doubtful"
    yield Case("none", "", MODEL, how, digits)
    yield Case("none, INT8", "", QUANTIZED, how, digits)
    for preset in ("raw", "0-1", "-1-1", "caffe"):
        wrong = model_card(MODEL, {"preset": preset}).preprocess
        yield Case(f"preset {preset}", doubtful, MODEL, wrong, digits, None, "'imagenet'")
    wide = twice_as_wide(digits)
    yield Case("none, pictures twice as wide", "", MODEL, how, wide)
    yield Case("they are cropped", doubtful, MODEL, how.replace(resize="crop"), wide, None, "'stretched'")
    yield Case("channels swapped, digits of random colors", "", MODEL, how.replace(channels="BGR"), digits)
    yield Case("dead units", "dead-channels", MODEL, how, digits, dead_units)
    yield Case("mirrored labels", "labels-mixed-up", MODEL, how, digits, mirrored_labels)
    yield Case("saturated scores, INT8", "saturated-scores", QUANTIZED, how, digits, saturated_scores)
    yield from shape_cases(folder, doubtful)


def shape_cases(folder: Path, doubtful: str) -> Iterator[Case]:
    """Networks of rings and crosses that are trained here."""
    from models.shapes import trained

    by = {kind: trained(kind, photos(), folder / f"{kind}.onnx") for kind in ("shape", "mark", "color")}
    plain, marked, colored = shapes(False), shapes(True), shapes(False, colored=True)
    yield Case("none, rings and crosses", "", by["shape"], SHAPES, plain)
    yield Case("none, marked crosses, network of shapes", "", by["shape"], SHAPES, marked)
    yield Case("network trained on marked crosses", "fixed-position", by["mark"], SHAPES, marked, None, "bottom right")
    wrong = SHAPES.replace(size=(128, 128))
    yield Case("size 128", doubtful, by["shape"], wrong, plain, None, "'size 64x64'")
    yield Case("none, shapes that go by color", "", by["color"], SHAPES, colored)
    wrong = SHAPES.replace(channels="BGR")
    yield Case("channels swapped, network of colors", doubtful, by["color"], wrong, colored, None, "'channels swapped'")


def found_in(case: Case) -> dict[str, str]:
    """{code: the sentence} of the findings."""
    model = onnx.load(case.file)
    if case.change is not None:
        case.change(model)
    explainer = Explainer(model if case.change is not None else case.file, threads=1)
    report = audit(explainer, case.preprocess, case.pictures, probes=PROBES).report
    return {f.code: f"{f.where} {f.words}".strip() for f in findings(report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--classes")
    given = parser.parse_args()
    print("| fault | found | what the audit says of it | other findings |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder)):
            found = found_in(case)
            said = found.get(case.code, "–")
            others = ", ".join(sorted(set(found) - {case.code})) or "–"
            yes = "–" if not case.code else "no" if said == "–" else "yes" if case.named in said else "not named"
            print(f"| {case.fault} | {yes} | {said} | {others} |", flush=True)
    for name, *keys in (asked.split(",") for asked in given.models):
        options = dict(key.split("=", 1) for key in keys)
        listed = analyzer.audit(name, given.data, probes=PROBES, classes=given.classes, **options).findings
        print(f"| none, {Path(name).name} | – | – | {', '.join(f['code'] for f in listed or ()) or '–'} |", flush=True)


if __name__ == "__main__":
    main()
