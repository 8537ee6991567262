"""Runs an ONNX file in one of the runtimes below: `python child.py RUNTIME MODEL FEEDS.npz RESULTS.npz`.

A process of its own, because some of these end the process in which a model fails. It imports nothing of this package,
so the Python of any environment can run it. With RUNTIME alone it prints the runtime's version.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def openvino(path: str, feeds: Arrays) -> Arrays:
    """On the CPU in float32, which must be asked for: on some processors the default is bfloat16."""
    core = importlib.import_module("openvino").Core()
    model = core.read_model(path)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(feeds)
    return {o.get_any_name(): np.asarray(found[o]) for o in compiled.outputs}


def opencv(path: str, feeds: Arrays) -> Arrays:
    """By the dnn module."""
    net = importlib.import_module("cv2").dnn.readNetFromONNX(path)
    for name, array in feeds.items():
        net.setInput(array, name)
    names = [o.name for o in importlib.import_module("onnx").load(path, load_external_data=False).graph.output]
    return dict(zip(names, map(np.asarray, net.forward(names)), strict=True))


def tract(path: str, feeds: Arrays) -> Arrays:
    """With the sizes of the inputs fixed."""
    model = importlib.import_module("tract").onnx().load(path)
    names = [model.input_name(i) for i in range(model.input_count())]
    for i, name in enumerate(names):
        kind = {"f": "f", "i": "i", "u": "u", "b": "bool"}[feeds[name].dtype.kind] + str(8 * feeds[name].itemsize)
        model.set_input_fact(i, ",".join([*map(str, feeds[name].shape), kind.replace("bool8", "bool")]))
    outputs = [o.name for o in importlib.import_module("onnx").load(path, load_external_data=False).graph.output]
    found = model.into_model().into_runnable().run([feeds[name] for name in names])
    return dict(zip(outputs, (np.asarray(tensor.to_numpy()) for tensor in found), strict=True))


def reference(path: str, feeds: Arrays) -> Arrays:
    """ONNX's reference evaluator."""
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(path)
    return dict(zip(evaluator.output_names, map(np.asarray, evaluator.run(None, feeds)), strict=True))


def ort(path: str, feeds: Arrays) -> Arrays:
    """onnxruntime on the file in its own .ort format."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = os.path.join(os.path.dirname(sys.argv[4]), "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    runtime.InferenceSession(path, options, ["CPUExecutionProvider"])
    session = runtime.InferenceSession(options.optimized_model_filepath, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


RUNTIMES: dict[str, tuple[str, Callable[[str, Arrays], Arrays]]] = {
    "openvino": ("openvino", openvino),
    "opencv": ("cv2", opencv),
    "tract": ("tract", tract),
    "reference": ("onnx", reference),
    "ort": ("onnxruntime", ort),
}


def main() -> None:
    library, run = RUNTIMES[sys.argv[1]]
    if len(sys.argv) == 2:
        version = importlib.import_module(library)
        print(version.version() if library == "tract" else version.__version__.split("-")[0])
        return
    model, feeds, results = sys.argv[2:]
    with np.load(feeds) as given:
        found: dict[str, Any] = dict(run(model, dict(given)))
    np.savez(results, **found)


if __name__ == "__main__":
    main()
