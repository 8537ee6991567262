"""What other tools take for the same file and picture, each prepared once and called as its manual says.

`pip install onnx-ad onnx2torch captum grad-cam openvino-xai` brings them; openvino-xai 1.1 wants openvino 2024.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]


def onnx_ad_gradient(path: Path, image: np.ndarray, threads: int) -> Run:
    """onnx-ad: a graph of gradients, in onnxruntime."""
    import onnx
    import onnx_ad
    import onnxruntime as ort

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(image)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    adjoint = onnx_ad.reverse(model, layout="onnx").SerializeToString()
    session = ort.InferenceSession(adjoint, options, ["CPUExecutionProvider"])
    own = {o.name for o in model.graph.output}
    gradients = [o.name for o in session.get_outputs() if o.name not in own]
    # It takes a stack of cotangents: one of them.
    seeds = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
    feeds = {name: np.ones(shape, np.float32) for name, shape in seeds.items() if name != "image"}
    return lambda: session.run(gradients, {"image": image, **feeds})


def captum_gradient(path: Path, image: np.ndarray, threads: int) -> Run:
    """The file made a torch module by onnx2torch; captum's Saliency."""
    from captum.attr import Saliency

    module, given = _torch_module(path, image, threads), _tensor(image)
    saliency = Saliency(module)
    return lambda: saliency.attribute(given, target=0, abs=False)


def torch_grad_cam(path: Path, image: np.ndarray, threads: int) -> Run:
    """The file made a torch module by onnx2torch; pytorch-grad-cam at the last convolution."""
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, given = _torch_module(path, image, threads), _tensor(image)
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    if len(convolutions) < 2:
        raise ValueError("the network has no convolution but the one that makes patches")
    cam = GradCAM(model=module, target_layers=convolutions[-1:])
    return lambda: cam(input_tensor=given, targets=[ClassifierOutputTarget(0)] * len(image))


def openvino_reciprocam(path: Path, image: np.ndarray, threads: int) -> Run:
    """openvino-xai's own choice of white-box method, Recipro-CAM (no gradients), of all classes; at float32."""
    import openvino
    import openvino_xai

    logging.disable(logging.INFO)
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({"image": list(image.shape)})
    with_maps = openvino_xai.insert_xai(model, task=openvino_xai.Task.CLASSIFICATION)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(with_maps, "CPU", settings).create_infer_request()
    return lambda: request.infer({"image": image})


RIVALS: dict[str, Callable[[Path, np.ndarray, int], Run]] = {
    "onnx-ad gradient": onnx_ad_gradient,
    "onnx2torch + captum gradient": captum_gradient,
    "onnx2torch + pytorch-grad-cam": torch_grad_cam,
    "openvino-xai Recipro-CAM": openvino_reciprocam,
}


def rivals(path: Path, image: np.ndarray, threads: int) -> dict[str, Run]:
    """Those that are installed and get through with this file; of the others, why not, on stderr."""
    found = {}
    for name, prepare in RIVALS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = prepare(path, image, threads)
                run()
        except Exception as error:
            print(f"{path.stem}: {name}: {' '.join(str(error).split())[:160]}", file=sys.stderr)
        else:
            found[name] = run
    return found


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(image).requires_grad_()


def _torch_module(path: Path, image: np.ndarray, threads: int) -> Any:
    """By onnx2torch, which is given the file as onnxruntime's basic optimisations leave it, at this batch.

    It cannot read the files as they are: it wants every bias to be an initializer.
    """
    import onnx
    import onnx2torch
    import onnxruntime as ort
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(image)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/simple.onnx"
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        module = onnx2torch.convert(options.optimized_model_filepath)
    return module.eval().requires_grad_(False)
