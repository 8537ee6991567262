"""What is mutated: models with every operator that has a rule, of every task; pictures in every format; cards."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tests.samples
from tests.models import small_cnn
from tests.samples import Sample

EXPORTS = Path(__file__).resolve().parents[1] / "exports"
LARGEST = 200_000  # bytes of a model that is worth mutating
SIDE = 12
PLAIN = '[preprocess]\npreset = "0-1"\n'
CARD = f"""task = "classification"
default-layer = "r2"
labels = ["cat", "dog", "bird", "fish"]
score-threshold = 0.3
iou-threshold = 0.5
about = {{ made = "by hand" }}

[preprocess]
size = [{SIDE}, {SIDE}]
resize = "crop"
crop-fraction = 0.9
channels = "RGB"
layout = "NCHW"
mean = [0.5, 0.5, 0.5]
std = 0.25
scale = 0.00392
"""


@functools.cache
def models() -> list[bytes]:
    """One per sample of a rule, behind a convolution of a picture; small networks of every task; exported ones."""
    made = [small_cnn(), small_cnn(size=SIDE, batch=1), small_cnn(softmax=False, size="S"), *_of_tasks()]
    for family in pkgutil.iter_modules(tests.samples.__path__):
        samples = importlib.import_module(f"tests.samples.{family.name}").SAMPLES
        made += [picture_model(sample) for sample in samples]
    found = [model.SerializeToString() for model in made]
    found += [path.read_bytes() for path in sorted(EXPORTS.glob("*.onnx"))]
    return [data for data in found if len(data) <= LARGEST]


def _of_tasks() -> list[onnx.ModelProto]:
    from tests import test_control, test_detection, test_detection_ends, test_detection_masks, test_keypoints

    return [
        test_detection.detector(),
        test_detection_ends.suppressed(),
        test_detection_masks.segmenter(),
        test_keypoints.movenet(),
        test_keypoints.simcc_model(),
        *(test_control.maps(kind) for kind in ("If", "Loop", "Scan")),
    ]


def picture_model(sample: Sample) -> onnx.ModelProto:
    """The sample's operator in a classifier of pictures: x → Conv → Relu → Gemm → Reshape → operator → scores."""
    rng = np.random.default_rng(0)
    arrays = [a.astype(np.float32) if a is not None and a.dtype.kind == "f" else a for a in sample.inputs]
    first = next((i for i, a in enumerate(arrays) if a is not None and a.dtype == np.float32), None)
    names = ["" if a is None else f"i{at}" for at, a in enumerate(arrays)]
    weights = {name: a for name, a in zip(names, arrays, strict=True) if a is not None}
    shape = (4,)
    if first is not None:
        shape = weights.pop(names[first]).shape
    count = max(1, int(np.prod(shape)))
    weights |= {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "m": rng.standard_normal((4, count)).astype(np.float32),
        "shape": np.array(shape, np.int64),
        "row": np.array([1, -1], np.int64),
    }
    outputs = [f"o{i}" for i in range(sample.outputs)]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "m"], ["d"], "dense"),
        helper.make_node("Reshape", ["d", "shape"], [names[first] if first is not None else "unused"], "shaped"),
        helper.make_node(sample.op, names, outputs, "operator", domain=sample.domain, **sample.attrs),
        helper.make_node("Cast", [outputs[0]], ["number"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["number", "row"], ["scores"], "scores"),
    ]
    graph = helper.make_graph(
        nodes,
        sample.op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, None])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", sample.opset)]
    opsets += [helper.make_opsetid(sample.domain, 1)] if sample.domain else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if sample.opset <= 21 else 13)


@functools.cache
def pictures() -> dict[str, bytes]:
    """{suffix: a small picture of that format}."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE + 3, 3), np.uint8)
    deep = pixels.astype(np.uint16) * 257
    found = {f".{kind}": _encoded(f".{kind}", pixels) for kind in ("png", "jpg", "bmp", "webp", "tiff", "ppm")}
    found |= {".deep.png": _encoded(".png", deep), ".gray.png": _encoded(".png", pixels[..., 0])}
    return found


def _encoded(suffix: str, pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()
