"""The included classifier and detector in other runtimes, against their ONNX files: sound builds, and broken ones.

    python models/runners.py --out FOLDER --float   # in an environment with the converters
    python -m benchmarks.runners FOLDER [--mlserver PATH]

Needs the extras `openvino` and `litert`; `--mlserver` is the program of that name in a virtual environment of its own
with onnxruntime. A build is broken by a reference whose weights of one convolution have the other sign, or by a server
that gives the scores in another order.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

import analyzer
from analyzer.errors import AnalyzerError
from analyzer.runtime.runners import address_of, open_runner

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
REFERENCE = MODELS / "digits_cnn.onnx"
PICTURES = sorted((ROOT / "examples").glob("digits_*.png"))

SERVED = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, MetadataTensor


class Served(MLModel):
    async def load(self):
        path = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        ends = self.session.get_inputs(), self.session.get_outputs()
        self.inputs, self.outputs = (
            [MetadataTensor(name=e.name, datatype="FP32", shape=[-1, *e.shape[1:]]) for e in end] for end in ends
        )
        return True

    async def predict(self, payload):
        found = self.session.run(None, {i.name: NumpyCodec.decode_input(i) for i in payload.inputs})
        if self.name == "rolled":
            found = [array[:, ::-1].copy() for array in found]
        outputs = [NumpyCodec.encode_output(o.name, array) for o, array in zip(self.outputs, found)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@contextmanager
def serving(program: str, port: int = 18080) -> Iterator[str]:
    """A server of the models `digits` and `rolled` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "served.py").write_text(SERVED)
        ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
        (place / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **ports}))
        for name in ("digits", "rolled"):
            (place / name).mkdir()
            about = {"name": name, "implementation": "served.Served", "parameters": {"uri": str(REFERENCE)}}
            (place / name / "model-settings.json").write_text(json.dumps(about))
        process = subprocess.Popen(
            [program, "start", folder], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield f"http://127.0.0.1:{port}/v2/models"
        finally:
            process.terminate()
            process.wait()


def wait_for(address: str, seconds: float = 120) -> None:
    """Until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            open_runner(address_of(address))  # type: ignore[arg-type]
            return
        except AnalyzerError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def broken(folder: Path) -> Path:
    """The classifier, the weights of a convolution with the other sign."""
    model = onnx.load(REFERENCE)
    node = next(n for n in model.graph.node if n.op_type == "Conv" and "stage3" in n.name)
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "broken.onnx")
    return folder / "broken.onnx"


def row(title: str, reference: Path, candidate: str) -> str:
    done = analyzer.compare(reference, candidate, PICTURES)
    report: dict[str, Any] = done.report
    outputs, (method, seen) = report["outputs"], next(iter(report["evidence"].items()))
    layers = [f"{layer['cosine']:.4f}" for layer in report["layers"]]
    said = ", ".join(dict.fromkeys(f["code"] for f in done.findings or [])) or "pass"
    cells = [
        title,
        f"{outputs['score_drift_mean']:.2%}",
        f"{len(layers)}, {min(layers)}" if layers else "–",
        f"{method} {seen['rank_correlation']:.3f}",
        f"{seen['top_iou']:.3f}",
        said,
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mlserver")
    given = parser.parse_args()
    heads = ["candidate", "score drift", "layers, least cosine", "evidence", "top IoU", "findings"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    with tempfile.TemporaryDirectory() as folder:
        changed = broken(Path(folder))
        builds = [
            ("OpenVINO, FP16 weights", "openvino", "digits_cnn.xml"),
            ("OpenVINO, int8", "openvino", "digits_cnn_int8.xml"),
            ("LiteRT, float", "litert", "digits_cnn.tflite"),
            ("LiteRT, int8", "litert", "digits_cnn_int8.tflite"),
        ]
        for title, scheme, name in builds:
            for reference, kind in ((REFERENCE, ""), (changed, ", a weight differs")):
                print(row(title + kind, reference, f"{scheme}:{given.folder / name}"), flush=True)
        print(row("onnxruntime, int8", REFERENCE, f"ort:{MODELS / 'digits_cnn_int8.onnx'}"), flush=True)
        print(row("onnxruntime, a weight differs", REFERENCE, f"ort:{changed}"), flush=True)
    if given.mlserver:
        with serving(given.mlserver) as place:
            wait_for(f"{place}/rolled?retries=0")
            wait_for(f"{place}/digits?retries=0")
            print(row("MLServer", REFERENCE, f"{place}/digits"), flush=True)
            print(row("MLServer, scores in another order", REFERENCE, f"{place}/rolled"), flush=True)


if __name__ == "__main__":
    main()
