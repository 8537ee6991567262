"""Exported models with a heatmap in OpenVINO itself: the same maps, and what they cost there.

    python -m benchmarks.openvino [--networks resnet50 mobilenet_v2] [--methods grad-cam gradient]

Cosines are of the maps and onnxruntime's; costs are ratios of medians to OpenVINO's own plain forward, interleaved. At
float32, which must be asked for: on processors that have it, OpenVINO computes in bfloat16 by default.
Needs `pip install openvino`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution.export import OUTPUT, export
from analyzer.metrics.similarity import cosine_of
from analyzer.runtime import Session
from benchmarks.timing import interleaved
from benchmarks.zoo import network

NETWORKS = ("resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_small_patch16_224")


def compiled(core: Any, path: Path, shape: tuple[int, ...]) -> Any:
    model = core.read_model(str(path))
    model.reshape({"image": list(shape)})
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


def measure(core: Any, name: str, methods: list[str], rounds: int) -> list[str]:
    import onnx

    path = network(name)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    plain = compiled(core, path, image.shape).create_infer_request()
    runs, cells = [lambda: plain.infer({"image": image})], []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            file = export(path, Path(folder) / f"{method}.onnx", method, 0, input_shapes={"image": image.shape})
            expected = Session(onnx.load(file), threads=1).run({"image": image}, [OUTPUT])[OUTPUT]
            try:
                request = compiled(core, file, image.shape).create_infer_request()
                found = request.infer({"image": image})[OUTPUT]
            except Exception as error:
                cells.append(f"fails: {' '.join(str(error).split())[:80]}")
                continue
            cells.append(f"{cosine_of(*(x.astype(np.float64) for x in (found, expected))):.6f}")
            runs.append(lambda r=request: r.infer({"image": image}))
        forward, *others = interleaved(runs, rounds)
    return [f"{forward * 1e3:.0f}", *cells, *(f"{t / forward:.2f}" for t in others)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=["grad-cam", "gradient"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    import openvino

    core = openvino.Core()
    print(f"OpenVINO {openvino.__version__.split('-')[0]}")
    heads = ["network", "forward ms", *(f"{m}: cosine" for m in given.methods), *given.methods]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name in given.networks:
        print("| " + " | ".join([name, *measure(core, name, given.methods, given.rounds)]) + " |", flush=True)


if __name__ == "__main__":
    main()
