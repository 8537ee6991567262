"""Networks as ONNX files: both exporters of PyTorch, float16, and int8 by static quantisation."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from networks import SIDE
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

LIMIT = 1_000_000  # bytes per file
INPUT, OUTPUT = "image", "probabilities"
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def export(
    model: nn.Module,
    path: Path,
    dynamo: bool,
    opset: int,
    shape: tuple[int, int, int] = (3, SIDE, SIDE),
    output: str = OUTPUT,
) -> None:
    """Writes `output` = model(`image` (batch, *shape)), float32, batch dynamic."""
    model.eval()
    example = torch.zeros(2, *shape)
    names = {"input_names": [INPUT], "output_names": [output], "opset_version": opset}
    with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        if dynamo:
            shapes = {"image": {0: torch.export.Dim("batch")}}
            torch.onnx.export(model, (example,), file, dynamo=True, external_data=False, dynamic_shapes=shapes, **names)
        else:
            axes = {INPUT: {0: "batch"}, output: {0: "batch"}}
            torch.onnx.export(model, (example,), str(file), dynamo=False, dynamic_axes=axes, **names)
        save(onnx.load(file), path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a checked model without the exporter's notes, which hold paths of this machine and stack traces."""
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    if len(data) >= LIMIT:
        raise ValueError(f"{path.name} has {len(data)} bytes, {LIMIT} is too many")
    path.write_bytes(data)


def feature_map(model: onnx.ModelProto) -> str:
    """The default layer: the input of the global pooling, or the tokens (N, 1 + cells, width) the last attention reads.

    Behind the last attention only the class token has an influence, so the map before it is the last worth showing.
    """
    nodes = model.graph.node
    pooled = [n.input[0] for n in nodes if n.op_type == "GlobalAveragePool"]
    pooled += [n.input[0] for n in nodes if n.op_type == "ReduceMean"]
    normalised = [n.output[0] for n in nodes if n.op_type == "LayerNormalization"]
    return pooled[0] if pooled else normalised[-3]


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 weights and arithmetic between two Casts, its input and output still float32.

    For graphs whose only floating-point tensors are float32 and whose operators all have a float16 form.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        narrow(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                narrow(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = HALF
        rename(node.input, {INPUT: f"{INPUT}_half"})
        rename(node.output, {OUTPUT: f"{OUTPUT}_half"})
    graph.node.insert(0, helper.make_node("Cast", [INPUT], [f"{INPUT}_half"], "image_to_half", to=HALF))
    graph.node.append(helper.make_node("Cast", [f"{OUTPUT}_half"], [OUTPUT], "probabilities_to_float", to=FLOAT))
    return onnx.shape_inference.infer_shapes(half, strict_mode=True)


def narrow(tensor: onnx.TensorProto) -> None:
    """Rounds a float32 tensor to float16 in place; leaves other types alone."""
    if tensor.data_type == FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def rename(names: list[str], new: dict[str, str]) -> None:
    for i, name in enumerate(names):
        names[i] = new.get(name, name)


class Calibration(CalibrationDataReader):
    """Preprocessed training pictures (N, 3, 96, 96), one part at a time."""

    def __init__(self, images: np.ndarray, parts: int) -> None:
        self.parts: Iterator[np.ndarray] = iter(np.array_split(images, parts))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.parts, None)
        return None if part is None else {INPUT: part}


def to_int8(source: Path, path: Path, images: np.ndarray, kinds: list[str] | None = None) -> None:
    """QuantizeLinear and DequantizeLinear around every operator: int8 weights per channel, uint8 activations.

    `images` (N, 3, 96, 96) float32, preprocessed, calibrate the ranges. The rectifiers stay in the graph, though the
    quantised range in front of them would do their work: explanations that change their gradient need them.
    `kinds` are the operators that are quantised, all unless given.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        quantize_static(
            source,
            file,
            Calibration(images, parts=8),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=kinds,
            extra_options={"QDQKeepRemovableActivations": True},
        )
        save(onnx.load(file), path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
