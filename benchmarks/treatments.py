"""What production does to an exported file, by name: a function of (network, float file, path to write) each.

Needs `pip install '.[torch]' onnxconverter-common onnxsim onnxslim`. A treatment raises where its own tool refuses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from benchmarks import small_networks
from benchmarks.small_networks import NETWORKS

Make = Callable[[str, Path, Path], None]


@dataclass(frozen=True)
class Treatment:
    """One treatment.

    Attributes:
        group: the column of the table.
        kind: "same" keeps the mathematics, "half" rounds to float16, "quantised" rounds to whole numbers.
    """

    group: str
    kind: str
    make: Make


TREATMENTS: dict[str, Treatment] = {}


def treatment(name: str, group: str, kind: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        TREATMENTS[name] = Treatment(group, kind, make)
        return make

    return register


# ---- float16 ----


@treatment("fp16 onnxconverter", "float16", "half")
def by_onnxconverter(name: str, source: Path, path: Path) -> None:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), path)


@treatment("fp16 onnxconverter, inputs too", "float16", "half")
def by_onnxconverter_whole(name: str, source: Path, path: Path) -> None:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=False), path)


@treatment("fp16 onnxruntime.transformers", "float16", "half")
def by_transformers(name: str, source: Path, path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), path)


@treatment("fp16 onnxruntime.transformers.optimizer", "float16", "half")
def by_optimizer(name: str, source: Path, path: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    found = optimize_model(str(source), "vit", opt_level=0)
    if not any(o.domain == "com.microsoft" for o in found.model.opset_import):  # else inferring shapes fails
        found.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    found.convert_float_to_float16(keep_io_types=False, use_symbolic_shape_infer=False)
    found.save_model_to_file(str(path))


@treatment("fp16 torch", "float16", "half")
def by_torch(name: str, source: Path, path: Path) -> None:
    small_networks.export(name, _module(name).half(), path, NETWORKS[name].opset, half=True)


def _module(name: str) -> Any:
    if not small_networks.is_module(name):
        raise ValueError("no module of torch")
    return small_networks.module(name)


# ---- Static quantisation ----

STATIC: dict[str, tuple[str, dict[str, Any]]] = {
    "qdq u8u8": ("QDQ", {"activation_type": "QUInt8", "weight_type": "QUInt8"}),
    "qdq u8s8 per channel": ("QDQ", {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}),
    "qdq s8s8 per channel": ("QDQ", {"activation_type": "QInt8", "weight_type": "QInt8", "per_channel": True}),
    "qdq s8s8 symmetric": (
        "QDQ",
        {"activation_type": "QInt8", "weight_type": "QInt8", "extra_options": {"ActivationSymmetric": True}},
    ),
    "qdq u16u8": ("QDQ", {"activation_type": "QUInt16", "weight_type": "QUInt8"}),
    "qdq s16s16": ("QDQ", {"activation_type": "QInt16", "weight_type": "QInt16"}),
    "qdq u16s4": ("QDQ", {"activation_type": "QUInt16", "weight_type": "QInt4", "per_channel": True}),
    "qoperator u8u8": ("QOperator", {"activation_type": "QUInt8", "weight_type": "QUInt8"}),
    "qoperator u8s8 per channel": (
        "QOperator",
        {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True},
    ),
    "qoperator s8s8": ("QOperator", {"activation_type": "QInt8", "weight_type": "QInt8"}),
}


def static(name: str, source: Path, path: Path, form: str, options: dict[str, Any]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            image = onnx.load(source, load_external_data=False).graph.input[0].name
            self.left = iter([{image: p[None]} for p in NETWORKS[name].pictures(7, 8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    types = {k: getattr(QuantType, v) if k.endswith("_type") else v for k, v in options.items()}
    quantize_static(str(source), str(path), Pictures(), quant_format=getattr(QuantFormat, form), **types)


for _name, (_form, _options) in STATIC.items():
    TREATMENTS[_name] = Treatment(_form, "quantised", functools.partial(static, form=_form, options=_options))


# ---- Dynamic quantisation, weights alone ----


@treatment("dynamic s8", "dynamic", "quantised")
def dynamic_signed(name: str, source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    types = ["MatMul", "Gemm", "LSTM", "Attention"]  # ConvInteger has no kernel for signed weights
    given = _untyped(source)
    quantize_dynamic(given, str(path), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=types)


@treatment("dynamic u8", "dynamic", "quantised")
def dynamic_unsigned(name: str, source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(_untyped(source), str(path), weight_type=QuantType.QUInt8)


def _untyped(source: Path) -> onnx.ModelProto:
    """Without the shapes that the exporter wrote, which contradict what the quantiser makes of Gemm."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    return model


def few_bits(name: str, source: Path, path: Path, bits: int, block: int, symmetric: bool, form: str) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    if form == "QDQ":
        model = version_converter.convert_version(model, 21)
    quantizer = MatMulNBitsQuantizer(
        model, bits=bits, block_size=block, is_symmetric=symmetric, quant_format=getattr(QuantFormat, form)
    )
    quantizer.process()
    found = quantizer.model.model
    if not any(n.op_type in ("MatMulNBits", "DequantizeLinear") for n in found.graph.node):
        raise ValueError("no MatMul with a weight")
    onnx.save(found, path)


for _name, _settings in {
    "nbits 4, blocks of 32": (4, 32, True, "QOperator"),
    "nbits 4, blocks of 16, zero points": (4, 16, False, "QOperator"),
    "nbits 8, blocks of 32": (8, 32, False, "QOperator"),
    "nbits 4 as QDQ": (4, 32, False, "QDQ"),
}.items():
    _given = dict(zip(("bits", "block", "symmetric", "form"), _settings, strict=True))
    TREATMENTS[_name] = Treatment("MatMulNBits", "quantised", functools.partial(few_bits, **_given))


# ---- onnxruntime's own optimisers ----


def saved(name: str, source: Path, path: Path, level: str, before: str = "") -> None:
    """What onnxruntime writes of its optimised graph."""
    import onnxruntime as ort

    if before:
        made = path.with_suffix(".before.onnx")
        TREATMENTS[before].make(name, source, made)
        source = made
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(source), options, ["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])


for _level in ("basic", "extended", "all"):
    TREATMENTS[f"saved {_level}"] = Treatment("onnxruntime", "same", functools.partial(saved, level=_level))
for _level, _before in (("extended", "qdq u8s8 per channel"), ("extended", "qdq s8s8 symmetric"),
                        ("extended", "dynamic u8")):  # fmt: skip
    TREATMENTS[f"saved {_level} of {_before}"] = Treatment(
        "onnxruntime", "quantised", functools.partial(saved, level=_level, before=_before)
    )
TREATMENTS["saved extended of fp16"] = Treatment(
    "onnxruntime", "half", functools.partial(saved, level="extended", before="fp16 onnxruntime.transformers")
)


def fused(name: str, source: Path, path: Path, kind: str, blocked: bool = True) -> None:
    """Args: blocked: NhwcConv, for which onnxruntime has no kernel on a CPU, is allowed."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions(kind)
    if not blocked:
        options.enable_nhwc_conv = False
    optimize_model(str(source), kind, opt_level=0, optimization_options=options).save_model_to_file(str(path))


for _kind in ("bert", "vit", "swin", "clip", "unet", "mmdit"):
    TREATMENTS[f"transformers {_kind}"] = Treatment("transformers", "same", functools.partial(fused, kind=_kind))
TREATMENTS["transformers unet, no NhwcConv"] = Treatment(
    "transformers", "same", functools.partial(fused, kind="unet", blocked=False)
)


# ---- Simplifiers and opsets ----


@treatment("onnxsim", "simplified", "same")
def simplified(name: str, source: Path, path: Path) -> None:
    import onnxsim

    found, sound = onnxsim.simplify(onnx.load(source))
    if not sound:
        raise ValueError("onnxsim's own check failed")
    onnx.save(found, path)


@treatment("onnxslim", "simplified", "same")
def slimmed(name: str, source: Path, path: Path) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), path)


def converted(name: str, source: Path, path: Path, opset: int) -> None:
    """By onnx's converter; where that refuses, by torch's exporter."""
    model = onnx.load(source)
    try:
        found = version_converter.convert_version(model, opset)
        if opset < 13:
            found.ir_version = min(found.ir_version, 7)
        onnx.checker.check_model(found)
        onnx.save(found, path)
    except Exception as refusal:
        if not 9 <= opset <= 20 or not small_networks.is_module(name):
            raise
        try:
            small_networks.export(name, _module(name), path, opset)
        except Exception:
            raise refusal from None


for _opset in range(9, 27):
    TREATMENTS[f"opset {_opset}"] = Treatment("opset 9–26", "same", functools.partial(converted, opset=_opset))
