"""Writes the included classifier for LiteRT (int8) and OpenVINO (int8), from the ONNX files here.

    pip install . litert-torch ai-edge-quantizer openvino && python models/runners.py [--out FOLDER] [--float]

LiteRT's file is converted through PyTorch, without TensorFlow, with channels last, and quantised after training on the
example pictures, turned and mirrored. OpenVINO reads the quantised ONNX file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from analyzer.images import decode, model_card

HERE = Path(__file__).parent
EXAMPLES = sorted((HERE.parent / "examples").glob("digits_*.png"))


def convolution(given: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    pads = attributes.get("pads", [0, 0, 0, 0])
    assert pads[:2] == pads[2:], "PyTorch pads both sides alike"
    bias = given[2] if len(given) > 2 else None
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return functional.conv2d(given[0], given[1], bias, strides, pads[:2], dilations, attributes.get("group", 1))


def linear(given: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    return functional.linear(given[0], given[1] if attributes.get("transB") else given[1].T, given[2])


OPERATORS: dict[str, Callable[[list[Tensor], dict[str, Any]], Tensor]] = {
    "Add": lambda given, _: given[0] + given[1],
    "Conv": convolution,
    "Flatten": lambda given, attributes: given[0].flatten(attributes.get("axis", 1)),
    "Gemm": linear,
    "GlobalAveragePool": lambda given, _: given[0].mean((2, 3), keepdim=True),
    "Relu": lambda given, _: functional.relu(given[0]),
    "Sigmoid": lambda given, _: torch.sigmoid(given[0]),
}


class Interpreted(torch.nn.Module):
    """An ONNX file of these operators, one input and one output, as a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.graph = onnx.load(path).graph
        self.weights = {t.name: f"weight_{i}" for i, t in enumerate(self.graph.initializer)}
        for tensor in self.graph.initializer:
            self.register_buffer(self.weights[tensor.name], torch.tensor(numpy_helper.to_array(tensor).copy()))

    def forward(self, image: Tensor) -> Tensor:
        known = {self.graph.input[0].name: image}
        for node in self.graph.node:
            given = [known[n] if n in known else getattr(self, self.weights[n]) for n in node.input if n]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            known[node.output[0]] = OPERATORS[node.op_type](given, attributes)
        return known[self.graph.output[0].name]


def calibration() -> np.ndarray:
    """(n, H, W, 3): the example pictures as the classifier takes them, turned and mirrored."""
    preprocess = model_card(HERE / "digits_cnn.onnx").preprocess
    arrays = [preprocess.apply(decode(path))[0][0] for path in EXAMPLES]
    turned = [np.rot90(array, turns, (1, 2)) for array in arrays for turns in range(4)]
    return np.stack([np.moveaxis(a, 0, 2) for t in turned for a in (t, t[:, :, ::-1])]).astype(np.float32)


def write_litert(source: Path, target: Path) -> None:
    """A float file."""
    import litert_torch

    module = litert_torch.to_channel_last_io(Interpreted(source).eval(), args=[0])
    litert_torch.convert(module, (torch.rand(1, 96, 96, 3),)).export(str(target))


def quantize(source: Path, target: Path) -> None:
    """A LiteRT file with weights and activations in eight bits."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((signature, ends),) = Interpreter(str(source)).get_signature_list().items()
    tool = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = tool.calibrate({signature: [{ends["inputs"][0]: picture[None]} for picture in calibration()]})
    target.unlink(missing_ok=True)
    tool.quantize(ranges).export_model(str(target))
    target.chmod(0o644)


def write_openvino(source: Path, target: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(source), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--float", action="store_true", help="also write the float files")
    given = parser.parse_args()
    write_openvino(HERE / "digits_cnn_int8.onnx", given.out / "digits_cnn_int8.xml")
    with tempfile.TemporaryDirectory() as folder:
        plain = (given.out if given.float else Path(folder)) / "digits_cnn.tflite"
        write_litert(HERE / "digits_cnn.onnx", plain)
        quantize(plain, given.out / "digits_cnn_int8.tflite")
    if given.float:
        write_openvino(HERE / "digits_cnn.onnx", given.out / "digits_cnn.xml")


if __name__ == "__main__":
    main()
