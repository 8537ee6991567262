"""Sound conversions of a float network, by name: what optimizers, exporters, quantizers and people do to a file.

A conversion is a function of (source file, pictures to calibrate on, path to write). It may also write a card beside
the path, where the converted file takes its pictures in another form. `KINDS` says how much it may round: "same" up to
float32, "half" to float16, "quantized" to eight bits. A conversion raises `Unsuitable` where a network has nothing to
convert, and whatever its tool raises where that refuses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, version_converter

from benchmarks import treatments
from benchmarks.edited import Edited, attribute, dimensions

Convert = Callable[[Path, Sequence[dict[str, np.ndarray]], Path], "dict[str, Any] | None"]
SOUND: dict[str, Convert] = {}
KINDS: dict[str, str] = {}


class UnsuitableError(Exception):
    """The network has nothing that the conversion could change."""


def conversion(name: str, kind: str = "same") -> Callable[[Convert], Convert]:
    def register(make: Convert) -> Convert:
        SOUND[name], KINDS[name] = make, kind
        return make

    return register


def edit(name: str) -> Callable[[Callable[[Edited], bool]], Callable[[Edited], bool]]:
    """One that edits the file; returns whether there was anything to edit."""

    def register(change: Callable[[Edited], bool]) -> Callable[[Edited], bool]:
        def convert(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
            file = Edited(onnx.load(source))
            if not change(file):
                raise UnsuitableError
            onnx.save(file.finished(), path)

        SOUND[name], KINDS[name] = convert, "same"
        return change

    return register


# ---- Tools ----


def by_tool(name: str, kind: str, make: Callable[..., None]) -> None:
    def convert(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
        make("", source, path)

    SOUND[name], KINDS[name] = convert, kind


for _level in ("basic", "extended", "all"):
    by_tool(f"onnxruntime, {_level}", "same", functools.partial(treatments.saved, level=_level))
by_tool("onnxsim", "same", treatments.simplified)
by_tool("FP16 by onnxconverter-common", "half", treatments.by_onnxconverter)
by_tool("FP16 by onnxruntime.transformers", "half", treatments.by_transformers)


@conversion("onnxoptimizer")
def optimized(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
    import onnxoptimizer

    names = ["fuse_bn_into_conv", "fuse_add_bias_into_conv", "eliminate_identity", "eliminate_nop_transpose",
             "fuse_consecutive_transposes", "fuse_pad_into_conv", "eliminate_deadend"]  # fmt: skip
    onnx.save(onnxoptimizer.optimize(onnx.load(source), names), path)


def to_opset(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path, opset: int) -> None:
    model = onnx.load(source)
    if Edited(model).opset == opset:
        raise UnsuitableError
    onnx.save(version_converter.convert_version(model, opset), path)


for _opset in (13, 18, 21, 23):
    conversion(f"opset {_opset}")(functools.partial(to_opset, opset=_opset))


def to_int8(
    source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path, form: str, activations: str, **extra: Any
) -> None:
    """Static quantisation with a scale per output channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(path), Pictures(), quant_format=getattr(QuantFormat, form), per_channel=True,
        activation_type=getattr(QuantType, activations), weight_type=QuantType.QInt8, extra_options=extra,
    )  # fmt: skip
    prepared.unlink()


for _name, (_form, _activations, _extra) in {
    "INT8 QDQ, unsigned activations": ("QDQ", "QUInt8", {}),
    "INT8 QDQ, signed activations": ("QDQ", "QInt8", {}),
    "INT8 QDQ, symmetric": ("QDQ", "QInt8", {"ActivationSymmetric": True}),
    "INT8 QOperator": ("QOperator", "QUInt8", {}),
}.items():
    conversion(_name, "quantized")(functools.partial(to_int8, form=_form, activations=_activations, **_extra))


@conversion("INT8 QDQ, optimized by onnxruntime", "quantized")
def optimized_int8(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
    before = path.with_suffix(".int8.onnx")
    to_int8(source, calibration, before, "QDQ", "QUInt8")
    treatments.saved("", before, path, "extended")
    before.unlink()


# ---- Names, order, storage ----


@edit("every name lost")
def nameless(file: Edited) -> bool:
    """The interface's names stay."""
    kept = {v.name for v in (*file.graph.input, *file.graph.output)} - {t.name for t in file.graph.initializer}
    names: dict[str, str] = {}

    def fresh(name: str) -> str:
        return name if name in kept or not name else names.setdefault(name, f"t{len(names)}")

    rename(file, fresh)
    for index, node in enumerate(file.graph.node):
        node.name = f"n{index}"
    return not any(n.attribute and _has_body(n) for n in file.nodes)


@edit("automatic names shifted by three")
def shifted(file: Edited) -> bool:
    """Every tensor gets the name of the third after it, as when a re-export inserts nodes."""
    kept = {v.name for v in (*file.graph.input, *file.graph.output)} - {t.name for t in file.graph.initializer}
    made = [o for n in file.nodes for o in n.output if o and o not in kept]
    weights = [t.name for t in file.graph.initializer]
    new = dict(zip(made, [*made[3:], "a0", "a1", "a2"][: len(made)], strict=False))
    new |= dict(zip(weights, [*weights[1:], "w0"], strict=False))
    rename(file, lambda name: new.get(name, name))
    return len(made) > 6 and not any(_has_body(n) for n in file.nodes)


def rename(file: Edited, fresh: Callable[[str], str]) -> None:
    for tensor in file.graph.initializer:
        tensor.name = fresh(tensor.name)
    for value in file.graph.input:
        value.name = fresh(value.name)
    for node in file.graph.node:
        node.input[:] = [fresh(n) for n in node.input]
        node.output[:] = [fresh(n) for n in node.output]


def _has_body(node: onnx.NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


@edit("weights as Constant nodes")
def constants(file: Edited) -> bool:
    weights = list(file.graph.initializer)
    if not weights:
        return False
    names = {t.name for t in weights}
    given = [i for i in file.graph.input if i.name not in names]
    nodes = [helper.make_node("Constant", [], [t.name], name=f"constant_{i}", value=t) for i, t in enumerate(weights)]
    nodes += list(file.graph.node)
    del file.graph.initializer[:], file.graph.input[:], file.graph.node[:]
    file.graph.input.extend(given)
    file.graph.node.extend(nodes)
    return True


@edit("Constant nodes as weights")
def initializers(file: Edited) -> bool:
    found = [n for n in file.nodes if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in found:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        file.graph.initializer.append(tensor)
        file.graph.node.remove(node)
    return bool(found)


@conversion("external data")
def external(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> None:
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=256)


@edit("nodes in another order")
def reordered(file: Edited) -> bool:
    """A topological order that takes the last node that is ready."""
    left, known = file.nodes, {""} | {t.name for t in file.graph.initializer} | {i.name for i in file.graph.input}
    if any(_has_body(n) for n in left):
        return False
    before, after = [n.output[0] for n in left], []
    while left:
        node = next(n for n in reversed(left) if known.issuperset(n.input))
        left.remove(node)
        known.update(node.output)
        after.append(node)
    del file.graph.node[:]
    file.graph.node.extend(after)
    return before != [n.output[0] for n in after]


@edit("outputs in another order")
def outputs_reordered(file: Edited) -> bool:
    outputs = list(file.graph.output)
    del file.graph.output[:]
    file.graph.output.extend(reversed(outputs))
    return len(outputs) > 1


# ---- The same mathematics otherwise ----


def maps(file: Edited) -> list[str]:
    """What convolutions and dense layers make, outputs left out."""
    made = [n.output[0] for n in file.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    return [m for m in made if m not in file.outputs]


def spread(names: list[str], count: int) -> list[str]:
    return (
        [names[i] for i in sorted({round(i * (len(names) - 1) / (count - 1)) for i in range(count)})] if names else []
    )


@edit("pairs of Neg inserted")
def negated(file: Edited) -> bool:
    for name in spread(maps(file), 6):

        def twice(a: str, b: str) -> list[onnx.NodeProto]:
            return [helper.make_node("Neg", [a], [f"{a}/neg"]), helper.make_node("Neg", [f"{a}/neg"], [b])]

        file.change(name, twice)
    return bool(maps(file))


@edit("Identity nodes inserted")
def identities(file: Edited) -> bool:
    for name in spread(maps(file), 6):
        file.change(name, lambda a, b: [helper.make_node("Identity", [a], [b])])
    return bool(maps(file))


@edit("pairs of Transpose inserted")
def turned(file: Edited) -> bool:
    """Layers in NHWC in between, as converters leave them."""
    names = [n.output[0] for n in file.nodes if n.op_type == "Conv" and n.output[0] not in file.outputs]
    names = [n for n in names if _rank(file, n) == 4]
    for name in spread(names, 4):

        def there_and_back(a: str, b: str) -> list[onnx.NodeProto]:
            return [
                helper.make_node("Transpose", [a], [f"{a}/nhwc"], perm=[0, 2, 3, 1]),
                helper.make_node("Transpose", [f"{a}/nhwc"], [b], perm=[0, 3, 1, 2]),
            ]

        file.change(name, there_and_back)
    return bool(names)


def _rank(file: Edited, name: str) -> int:
    made = file.producer(name)
    weight = None if made is None else file.weight(made)
    return 0 if weight is None else weight.ndim


@edit("activations in NHWC")
def nhwc(file: Edited) -> bool:
    """Every Relu and Clip between two Transposes."""
    nodes = [n for n in file.nodes if n.op_type in ("Relu", "Clip") and _rank(file, n.input[0]) == 4]
    nodes = [n for n in nodes if n.output[0] not in file.outputs]
    for node in nodes:
        before, after = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{after}/in", f"{after}/out"
        file.insert(node, [helper.make_node("Transpose", [before], [f"{after}/in"], perm=[0, 2, 3, 1])], behind=False)
        here = next(n for n in file.graph.node if f"{after}/out" in n.output)
        file.insert(here, [helper.make_node("Transpose", [f"{after}/out"], [after], perm=[0, 3, 1, 2])])
    return bool(nodes)


@edit("BatchNormalization split off")
def split_off(file: Edited) -> bool:
    """A BatchNormalization behind every third convolution, whose scale the weight loses."""
    rng = np.random.default_rng(0)
    nodes = [n for n in file.nodes if n.op_type == "Conv" and file.weight(n) is not None]
    nodes = [n for n in nodes if len(n.input) == 2 or file.weight(n, 2) is not None]
    for index, node in enumerate(nodes[::3]):
        weight, name = np.asarray(file.weight(node)), node.output[0]
        scale = rng.uniform(0.3, 3, len(weight)).astype(np.float32)
        bias = np.asarray(file.weight(node, 2)) if len(node.input) > 2 else scale * 0
        if len(file.readers(node.input[1])) > 1:
            return False
        file.replace(node.input[1], weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
        mean = rng.uniform(-1, 1, len(weight)).astype(np.float32)
        values = {"scale": scale, "bias": bias + mean * scale, "mean": mean, "var": scale * 0 + 1}
        del node.input[2:]
        given = [file.add(v.astype(np.float32), f"bn{index}_{key}") for key, v in values.items()]
        file.change(
            name, lambda a, b, g=given: [helper.make_node("BatchNormalization", [a, *g], [b], epsilon=1e-12)]
        )  # fmt: skip
    return bool(nodes)


@edit("BatchNormalization as Mul and Add")
def spelled_normalization(file: Edited) -> bool:
    nodes = [n for n in file.nodes if n.op_type == "BatchNormalization"]
    for index, node in enumerate(nodes):
        scale, bias, mean, var = (np.asarray(file.weight(node, i), np.float64) for i in range(1, 5))
        factor = scale / np.sqrt(var + float(attribute(node, "epsilon", 1e-5)))  # type: ignore[arg-type]
        a, b = (v.astype(np.float32).reshape(1, -1, 1, 1) for v in (factor, bias - mean * factor))
        mul, add = file.add(a, f"bn{index}_mul"), file.add(b, f"bn{index}_add")
        before, after = node.input[0], node.output[0]
        file.insert(
            node,
            [
                helper.make_node("Mul", [before, mul], [f"{after}/scaled"]),
                helper.make_node("Add", [f"{after}/scaled", add], [after]),
            ],
        )
        file.graph.node.remove(node)
    return bool(nodes)


@edit("dense layers as MatMul and Add")
def spelled_dense(file: Edited) -> bool:
    nodes = [n for n in file.nodes if n.op_type == "Gemm" and file.weight(n) is not None and len(n.input) > 2]
    nodes = [n for n in nodes if not attribute(n, "transA") and attribute(n, "alpha", 1.0) == 1.0]
    for index, node in enumerate(nodes):
        weight = np.asarray(file.weight(node))
        weight = weight.T if attribute(node, "transB") else weight
        name, after = file.add(weight, f"dense{index}"), node.output[0]
        file.insert(
            node,
            [
                helper.make_node("MatMul", [node.input[0], name], [f"{after}/product"]),
                helper.make_node("Add", [f"{after}/product", node.input[2]], [after]),
            ],
        )
        file.graph.node.remove(node)
    return bool(nodes)


@edit("dense weights stored transposed")
def stored_transposed(file: Edited) -> bool:
    """A weight that Gemm reads transposed is stored the other way round."""
    nodes = [n for n in file.nodes if n.op_type == "Gemm" and file.weight(n) is not None]
    for node in nodes:
        weight = np.asarray(file.weight(node))
        node.input[1] = file.add(weight.T, f"{node.input[1]}_turned")
        turned = int(not attribute(node, "transB", 0))
        rest = [a for a in node.attribute if a.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*rest, helper.make_attribute("transB", turned)])
    return bool(nodes)


@edit("Relu as Max")
def clipped(file: Edited) -> bool:
    nodes = [n for n in file.nodes if n.op_type == "Relu"]
    zero = file.add(np.array(0, np.float32), "zero")
    for node in nodes:
        node.op_type = "Max"
        node.input.append(zero)
    return bool(nodes)


@edit("bias of convolutions as Add")
def unbiased(file: Edited) -> bool:
    nodes = [n for n in file.nodes if n.op_type == "Conv" and len(n.input) > 2 and file.weight(n, 2) is not None]
    for index, node in enumerate(nodes):
        rank = np.asarray(file.weight(node)).ndim
        bias = file.add(np.asarray(file.weight(node, 2)).reshape(1, -1, *[1] * (rank - 2)), f"added_bias{index}")
        del node.input[2:]
        file.change(node.output[0], lambda a, b, given=bias: [helper.make_node("Add", [a, given], [b])])
    return bool(nodes)


# ---- Heads ----


@edit("probabilities instead of logits")
def softmax_added(file: Edited) -> bool:
    (output, *others) = file.graph.output
    made = file.producer(output.name)
    sizes = dimensions(output)
    if others or made is None or len(sizes) != 2 or made.op_type not in ("Gemm", "MatMul", "Add", "Reshape", "Flatten"):
        return False
    file.change(output.name, lambda a, b: [helper.make_node("Softmax", [a], [b], axis=-1 if file.opset >= 11 else 1)])
    return True


@edit("logits instead of probabilities")
def softmax_dropped(file: Edited) -> bool:
    if len(file.graph.output) > 1:
        return False
    made = file.producer(file.outputs[0])
    if made is None or made.op_type not in ("Softmax", "Sigmoid", "LogSoftmax"):
        return False
    file.as_identity(made)
    return True


# ---- The picture's form ----


def card_of(source: Path) -> dict[str, Any]:
    """The normalization that the source's card declares: {scale, mean, std, layout, channels}, numbers per channel."""
    from analyzer.images import model_card

    how = model_card(source).preprocess
    return {"scale": how.scale, "mean": how.mean, "std": how.std, "layout": how.layout, "channels": how.channels}


def form(name: str) -> Callable[[Callable[[Edited, dict[str, Any]], dict[str, Any] | None]], Any]:
    """One that changes what the file takes; returns what its card says instead, None where it does not apply."""

    def register(change: Callable[[Edited, dict[str, Any]], dict[str, Any] | None]) -> Any:
        def convert(source: Path, calibration: Sequence[dict[str, np.ndarray]], path: Path) -> dict[str, Any]:
            file = Edited(onnx.load(source))
            if len(file.image.type.tensor_type.shape.dim) != 4:
                raise UnsuitableError
            told = change(file, card_of(source))
            if told is None:
                raise UnsuitableError
            onnx.save(file.finished(), path)
            return told

        SOUND[name], KINDS[name] = convert, "same"
        return change

    return register


def retyped(file: Edited, kind: int, order: Sequence[int] | None = None) -> None:
    """The picture's type, and its axes in another order."""
    tensor = file.image.type.tensor_type
    tensor.elem_type = kind
    if order is not None:
        dims = list(tensor.shape.dim)
        copies = [onnx.TensorShapeProto.Dimension() for _ in dims]
        for copy, at in zip(copies, order, strict=True):
            copy.CopyFrom(dims[at])
        del tensor.shape.dim[:]
        tensor.shape.dim.extend(copies)


@form("input in the other layout")
def other_layout(file: Edited, card: dict[str, Any]) -> dict[str, Any] | None:
    nchw = card["layout"] == "NCHW"
    to, back = ([0, 2, 3, 1], [0, 3, 1, 2]) if nchw else ([0, 3, 1, 2], [0, 2, 3, 1])
    retyped(file, TensorProto.FLOAT, to)
    file.change_input(lambda a, b: [helper.make_node("Transpose", [a], [b], perm=back)])
    return {"layout": "NHWC" if nchw else "NCHW"}


def normalization(file: Edited, card: dict[str, Any]) -> tuple[str, str]:
    """Two constants (a, b): a model's input is a · pixel + b."""
    count = max(len(card["mean"]), len(card["std"]))
    mean, std = (np.broadcast_to(np.asarray(card[k], np.float64), (count,)) for k in ("mean", "std"))
    shape = (1, count, 1, 1) if card["layout"] == "NCHW" else (1, 1, 1, count)
    factor = (card["scale"] / std).astype(np.float32).reshape(shape)
    shift = (-mean / std).astype(np.float32).reshape(shape)
    return file.add(factor, "pixel_factor"), file.add(shift, "pixel_shift")


RAW = {"preset": "raw"}


@form("mean and std inside the file")
def normalized_inside(file: Edited, card: dict[str, Any]) -> dict[str, Any] | None:
    factor, shift = normalization(file, card)

    def nodes(a: str, b: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Mul", [a, factor], [f"{a}/scaled"]),
                helper.make_node("Add", [f"{a}/scaled", shift], [b])]  # fmt: skip

    file.change_input(nodes)
    return RAW


@form("bytes as input, cast and normalized inside the file")
def bytes_inside(file: Edited, card: dict[str, Any]) -> dict[str, Any] | None:
    factor, shift = normalization(file, card)
    retyped(file, TensorProto.UINT8)

    def nodes(a: str, b: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Cast", [a], [f"{a}/float"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{a}/float", factor], [f"{a}/scaled"]),
                helper.make_node("Add", [f"{a}/scaled", shift], [b])]  # fmt: skip

    file.change_input(nodes)
    return RAW


@form("bytes as input, dequantized inside the file")
def dequantized_inside(file: Edited, card: dict[str, Any]) -> dict[str, Any] | None:
    factor, shift = (np.asarray(file.constant(name)) for name in normalization(file, card))
    zero = -(shift / factor).ravel()
    if file.opset < 10 or np.ptp(factor) or np.ptp(zero) or abs(zero[0] - round(zero[0])) > 1e-3 or zero[0] > 255:
        return None
    retyped(file, TensorProto.UINT8)
    scale = file.add(factor.ravel()[0], "pixel_scale")
    point = file.add(np.array(round(zero[0]), np.uint8), "pixel_zero")
    file.change_input(lambda a, b: [helper.make_node("DequantizeLinear", [a, scale, point], [b])])
    return RAW


@form("channels reversed at both ends")
def reversed_channels(file: Edited, card: dict[str, Any]) -> dict[str, Any] | None:
    """A file for BGR made of one for RGB, or the other way round."""
    other = {"RGB": "BGR", "BGR": "RGB"}.get(card["channels"])
    if other is None:
        return None
    axis = 1 if card["layout"] == "NCHW" else 3
    order = file.add(np.array([2, 1, 0]), "order")
    file.change_input(lambda a, b: [helper.make_node("Gather", [a, order], [b], axis=axis)])
    return {"channels": other, **{k: list(card[k])[::-1] for k in ("mean", "std") if len(card[k]) == 3}}
