"""Faults of deployed networks, by name: each changes one thing of a file and says what it changed.

A fault is a function of (the edited file, random numbers) that returns the names of what it changed (nodes, weights,
tensors, outputs), or None where the network has nothing of the kind. `IN_FILE` are faults of a float file, `QUANTISED`
of its INT8 build, `PREPROCESSING` of how the candidate's card feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.edited import Edited, attribute, dimensions, set_attribute

Fault = Callable[[Edited, np.random.Generator], "set[str] | None"]
IN_FILE: dict[str, Fault] = {}
QUANTISED: dict[str, Fault] = {}
# Keys of a card, by what the reference's card says; None where that is what the reference itself does.
PREPROCESSING: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {}
LINEAR = ("Conv", "Gemm", "MatMul", "ConvTranspose")
ACTIVATIONS = ("Relu", "Clip", "PRelu", "LeakyRelu", "HardSigmoid", "HardSwish", "Softplus")


def fault(name: str, faults: dict[str, Fault] | None = None) -> Callable[[Fault], Fault]:
    def register(make: Fault) -> Fault:
        (IN_FILE if faults is None else faults)[name] = make
        return make

    return register


def about(node: onnx.NodeProto, *inputs: str) -> set[str]:
    """A node, what it makes, and some of its inputs."""
    return {n for n in (node.name, *node.output, *inputs) if n}


def chosen(nodes: Iterable[onnx.NodeProto], rng: np.random.Generator) -> onnx.NodeProto | None:
    found = list(nodes)
    return found[int(rng.integers(len(found)))] if found else None


def of_kind(file: Edited, *kinds: str) -> list[onnx.NodeProto]:
    return [n for n in file.nodes if n.op_type in kinds]


# ---- Weights ----


def weighted(file: Edited, accepts: Callable[[onnx.NodeProto, np.ndarray], bool] = lambda n, w: True) -> list[Any]:
    """Convolutions and matrix products whose weight is a constant that no other node reads."""
    found = []
    for node in of_kind(file, *LINEAR):
        weight = file.weight(node)
        if weight is not None and weight.ndim >= 2 and len(file.readers(node.input[1])) == 1 and accepts(node, weight):
            found.append(node)
    return found


def weight_fault(
    name: str,
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    accepts: Callable[[onnx.NodeProto, np.ndarray], bool] = lambda n, w: True,
) -> None:
    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        node = chosen(weighted(file, accepts), rng)
        if node is None:
            return None
        file.replace(node.input[1], lambda w: change(w, rng))
        return about(node, node.input[1])

    IN_FILE[name] = inject


def of_channel(weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    return weight.copy(), int(rng.integers(len(weight)))


def one_scaled(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    new, channel = of_channel(weight, rng)
    new[channel] *= 20
    return new


def noisy(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(weight.shape)
    return weight + noise * (0.3 * np.linalg.norm(weight) / np.linalg.norm(noise))


def coarse(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = np.abs(weight).max() / 2
    return np.round(weight / step) * step


def square(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    return weight.ndim == 4 and weight.shape[2] == weight.shape[3] > 1


weight_fault("weight × 2", lambda w, rng: w * 2)
weight_fault("weight zeroed", lambda w, rng: w * 0)
weight_fault("output channels of a weight reversed", lambda w, rng: w[::-1], lambda n, w: len(w) > 2)
weight_fault("input channels of a weight reversed", lambda w, rng: w[:, ::-1], lambda n, w: w.shape[1] > 2)
weight_fault("kernel transposed", lambda w, rng: w.swapaxes(2, 3), square)
weight_fault("kernel rotated by half a turn", lambda w, rng: w[:, :, ::-1, ::-1], square)
weight_fault("one channel of a weight × 20", one_scaled, lambda n, w: len(w) > 2)
weight_fault("noise of 30 % in a weight", noisy)
weight_fault("weight rounded to five levels", coarse)


@fault("weights of two layers exchanged")
def exchanged(file: Edited, rng: np.random.Generator) -> set[str] | None:
    found = weighted(file)
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]
             if file.weight(a).shape == file.weight(b).shape]  # type: ignore[union-attr]  # fmt: skip
    if not pairs:
        return None
    a, b = pairs[int(rng.integers(len(pairs)))]
    ours, theirs = file.weight(a), file.weight(b)
    file.replace(a.input[1], np.asarray(theirs))
    file.replace(b.input[1], np.asarray(ours))
    return about(a, a.input[1]) | about(b, b.input[1])


def biased(file: Edited) -> list[onnx.NodeProto]:
    return [n for n in weighted(file) if len(n.input) > 2 and file.weight(n, 2) is not None]


@fault("bias dropped")
def bias_dropped(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(biased(file), rng)
    if node is None:
        return None
    file.replace(node.input[2], lambda b: b * 0)
    return about(node, *node.input[1:3])


@fault("bias of reversed channels")
def bias_reversed(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen([n for n in biased(file) if len(file.weight(n, 2)) > 2], rng)  # type: ignore[arg-type]
    if node is None:
        return None
    file.replace(node.input[2], lambda b: b[::-1])
    return about(node, *node.input[1:3])


# ---- Normalization ----


def normalization_fault(name: str, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        nodes = [n for n in of_kind(file, "BatchNormalization") if file.weight(n, index) is not None]
        node = chosen(nodes, rng)
        if node is None:
            return None
        file.replace(node.input[index], change)
        return about(node, node.input[index], node.input[0])

    IN_FILE[name] = inject


normalization_fault("mean of a BatchNormalization zeroed", 3, lambda mean: mean * 0)
normalization_fault("variance of a BatchNormalization taken for a deviation", 4, np.sqrt)
normalization_fault("scale of a BatchNormalization reversed", 1, lambda scale: scale[::-1])


@fault("epsilon of a normalization 1")
def epsilon(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(of_kind(file, "BatchNormalization", "LayerNormalization"), rng)
    if node is None:
        return None
    set_attribute(node, "epsilon", 1.0)
    return about(node, node.input[0])


# ---- Activations ----


@fault("activation dropped")
def activation_dropped(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(of_kind(file, *ACTIVATIONS), rng)
    if node is None:
        return None
    places = about(node, node.input[0])
    file.as_identity(node)
    return places


@fault("activation clipped at 1")
def activation_clipped(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(of_kind(file, "Relu", "Clip", "PRelu", "LeakyRelu"), rng)
    if node is None:
        return None
    places = about(node, node.input[0])
    limit = file.add(np.array(1, np.float32), "limit")
    if node.op_type == "Relu" and file.opset >= 11:
        node.op_type = "Clip"
        node.input.extend([file.add(np.array(0, np.float32), "zero"), limit])
    else:  # a node of its own behind the activation, which stays as it was
        places = places.union(*(about(n) for n in file.readers(node.output[0])))
        file.change(node.output[0], lambda a, b: [helper.make_node("Min", [a, limit], [b])])
    return places


@fault("slope of a leaky activation × 4")
def leaky(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(of_kind(file, "PRelu", "LeakyRelu"), rng)
    if node is None:
        return None
    if node.op_type == "PRelu":
        file.replace(node.input[1], lambda s: s * 4)
    else:
        set_attribute(node, "alpha", 4 * float(attribute(node, "alpha", 0.01)))  # type: ignore[arg-type]
    return about(node, *node.input)


# ---- Geometry ----


@fault("padding shifted by a pixel")
def padding(file: Edited, rng: np.random.Generator) -> set[str] | None:
    """SAME_LOWER for SAME_UPPER, or a row and a column moved from the end to the beginning."""
    found = []
    for node in of_kind(file, "Conv", "MaxPool", "AveragePool"):
        pads = attribute(node, "pads") or [0]
        if attribute(node, "auto_pad") == b"SAME_UPPER" or (len(pads) == 4 and pads[2] and pads[3]):  # type: ignore[arg-type,index]
            found.append(node)
    node = chosen(found, rng)
    if node is None:
        return None
    if attribute(node, "auto_pad") == b"SAME_UPPER":
        set_attribute(node, "auto_pad", "SAME_LOWER")
    else:
        top, left, bottom, right = attribute(node, "pads")  # type: ignore[misc]
        set_attribute(node, "pads", [top + 1, left + 1, bottom - 1, right - 1])
    return about(node)


@fault("max pooling instead of average")
def pooled_otherwise(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(of_kind(file, "GlobalAveragePool", "MaxPool"), rng)
    if node is None:
        return None
    node.op_type = {"GlobalAveragePool": "GlobalMaxPool", "MaxPool": "AveragePool"}[node.op_type]
    kept = [a for a in node.attribute if a.name not in ("storage_order", "dilations")]
    del node.attribute[:]
    node.attribute.extend(kept)
    return about(node)


@fault("resized by nearest neighbor")
def nearest(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen(
        [n for n in of_kind(file, "Resize", "Upsample") if attribute(n, "mode") in (b"linear", b"cubic")], rng
    )
    if node is None:
        return None
    set_attribute(node, "mode", "nearest")
    return about(node)


@fault("resized with aligned corners")
def corners(file: Edited, rng: np.random.Generator) -> set[str] | None:
    nodes = [n for n in of_kind(file, "Resize") if attribute(n, "mode") == b"linear"]
    node = chosen([n for n in nodes if attribute(n, "coordinate_transformation_mode") != b"align_corners"], rng)
    if node is None or file.opset < 11:
        return None
    set_attribute(node, "coordinate_transformation_mode", "align_corners")
    return about(node)


@fault("dilation dropped")
def dilation(file: Edited, rng: np.random.Generator) -> set[str] | None:
    node = chosen([n for n in of_kind(file, "Conv") if max(attribute(n, "dilations") or [1]) > 1], rng)  # type: ignore[call-overload]
    if node is None:
        return None
    old = max(attribute(node, "dilations"))  # type: ignore[call-overload]
    set_attribute(node, "dilations", [1, 1])
    if attribute(node, "pads"):
        set_attribute(node, "pads", [p // old for p in attribute(node, "pads")])  # type: ignore[attr-defined]
    return about(node)


@fault("residual dropped")
def residual(file: Edited, rng: np.random.Generator) -> set[str] | None:
    def computed(node: onnx.NodeProto) -> bool:
        made = [file.producer(i) for i in node.input]
        return all(m is not None and m.op_type in (*LINEAR, *ACTIVATIONS, "Add", "BatchNormalization") for m in made)

    node = chosen([n for n in of_kind(file, "Add") if computed(n) and n.input[0] != n.input[1]], rng)
    if node is None:
        return None
    places = about(node, *node.input)
    file.as_identity(node)
    return places


@fault("flattened in the other layout")
def flattened(file: Edited, rng: np.random.Generator) -> set[str] | None:
    """(C, H, W) → (H, W, C) before the first dense layer."""
    found = []
    for node in of_kind(file, "Flatten", "Reshape"):
        made = file.producer(node.input[0])
        after = file.readers(node.output[0])
        dense = len(after) == 1 and after[0].op_type in ("Gemm", "MatMul")
        if dense and made is not None and made.op_type in ("MaxPool", "Relu", "Conv", "AveragePool"):
            found.append(node)
    node = chosen(found, rng)
    if node is None:
        return None
    tensor = node.input[0]
    file.insert(node, [helper.make_node("Transpose", [tensor], [f"{tensor}/turned"], perm=[0, 2, 3, 1])], behind=False)
    at = next(n for n in file.graph.node if tensor in n.input and n.op_type == node.op_type and n.name == node.name)
    at.input[0] = f"{tensor}/turned"
    return about(at, tensor)


@fault("two branches of a Concat exchanged")
def branches(file: Edited, rng: np.random.Generator) -> set[str] | None:
    def alike(node: onnx.NodeProto) -> bool:
        made = [file.producer(i) for i in node.input[:2]]
        return len(node.input) > 1 and all(m is not None and m.op_type in (*LINEAR, *ACTIVATIONS) for m in made)

    node = chosen([n for n in of_kind(file, "Concat") if alike(n)], rng)
    if node is None:
        return None
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return about(node)


# ---- Outputs ----


def real_outputs(file: Edited) -> list[onnx.ValueInfoProto]:
    seen: dict[str, onnx.ValueInfoProto] = {}
    for output in file.graph.output:
        if output.type.tensor_type.elem_type == TensorProto.FLOAT and file.producer(output.name) is not None:
            seen.setdefault(output.name, output)
    return list(seen.values())


def output_fault(
    name: str,
    make: Callable[[Edited, onnx.ValueInfoProto, str, str], list[onnx.NodeProto] | None],
    accepts: Callable[[onnx.ValueInfoProto], bool] = lambda output: True,
) -> None:
    """One that changes an output, drawn by lot, and nothing else."""

    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        found = [o for o in real_outputs(file) if accepts(o)]
        if not found:
            return None
        output = found[int(rng.integers(len(found)))]
        made = file.producer(output.name)
        assert made is not None
        places = {output.name, *([made.name] if made.name else [])}
        file.change(output.name, lambda a, b: make(file, output, a, b) or [helper.make_node("Identity", [a], [b])])
        return places

    IN_FILE[name] = inject


def scalar(operator: str, value: float) -> Callable[..., list[onnx.NodeProto]]:
    def make(file: Edited, output: onnx.ValueInfoProto, before: str, after: str) -> list[onnx.NodeProto]:
        return [helper.make_node(operator, [before, file.add(np.array(value, np.float32), "value")], [after])]

    return make


def rolled(axis: int) -> Callable[..., list[onnx.NodeProto]]:
    """Everything one further along an axis."""

    def make(file: Edited, output: onnx.ValueInfoProto, before: str, after: str) -> list[onnx.NodeProto]:
        length = dimensions(output)[axis]
        indices = file.add(np.roll(np.arange(length), 1), "indices")
        return [helper.make_node("Gather", [before, indices], [after], axis=axis % len(dimensions(output)))]

    return make


def class_axis(output: onnx.ValueInfoProto) -> int:
    """The shortest axis longer than 1, the last of those."""
    sizes = dimensions(output)
    known = [(size, -i) for i, size in enumerate(sizes) if i and size and size > 1]
    return -min(known)[1]


def has_classes(output: onnx.ValueInfoProto) -> bool:
    return any(i and size and size > 1 for i, size in enumerate(dimensions(output)))


def is_map(output: onnx.ValueInfoProto) -> bool:
    sizes = dimensions(output)
    return len(sizes) == 4 and all(s and s > 8 for s in sizes[2:])


def permuted(file: Edited, output: onnx.ValueInfoProto, before: str, after: str) -> list[onnx.NodeProto]:
    return rolled(class_axis(output))(file, output, before, after)


output_fault("output × 0.1", scalar("Mul", 0.1))
output_fault("output × 0", scalar("Mul", 0.0))
output_fault("output + 1", scalar("Add", 1.0))
output_fault("output cut off above 0.05", scalar("Min", 0.05))
output_fault("sigmoid of an output", lambda f, o, a, b: [helper.make_node("Sigmoid", [a], [b])])
output_fault("classes or coordinates of an output permuted", permuted, has_classes)
output_fault("map shifted by a pixel", rolled(3), is_map)
output_fault(
    "map transposed", lambda f, o, a, b: [helper.make_node("Transpose", [a], [b], perm=[0, 1, 3, 2])],
    lambda o: is_map(o) and dimensions(o)[2] == dimensions(o)[3],
)  # fmt: skip


@fault("two outputs exchanged")
def outputs_exchanged(file: Edited, rng: np.random.Generator) -> set[str] | None:
    found = real_outputs(file)
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :] if dimensions(a) == dimensions(b)]
    if not pairs:
        return None
    ours, theirs = (o.name for o in pairs[int(rng.integers(len(pairs)))])
    names = {ours: theirs, theirs: ours}
    for node in file.graph.node:
        node.output[:] = [names.get(o, o) for o in node.output]
        node.input[:] = [names.get(i, i) for i in node.input]
    return {ours, theirs} | {n.name for n in file.nodes if n.name and names.keys() & set(n.output)}


@fault("anchors moved by one")
def anchors(file: Edited, rng: np.random.Generator) -> set[str] | None:
    """Rows of a table that a detector adds to its predictions, or multiplies them with."""
    found = []
    for node in of_kind(file, "Add", "Mul", "Sub"):
        for name in node.input:
            table = file.constant(name)
            if table is not None and table.ndim >= 2 and max(table.shape) > 64 and table.dtype == np.float32:
                found.append((node, name, int(np.argmax(table.shape))))
    if not found:
        return None
    node, name, axis = found[int(rng.integers(len(found)))]
    file.replace(name, lambda t: np.roll(t, 1, axis))
    return about(node, name)


# ---- Inputs, inside the file ----


def shaped(file: Edited, values: list[float]) -> np.ndarray:
    """A number per channel of the picture, to be broadcast."""
    sizes = dimensions(file.image)
    count = len(values)
    at = len(sizes) - 1 if sizes[-1] in (1, 3) and sizes[1] not in (1, 3) else 1
    return np.array(values, np.float32).reshape([count if i == at else 1 for i in range(len(sizes))])


def channel_axis(file: Edited) -> int | None:
    sizes = dimensions(file.image)
    return next((i for i in (1, len(sizes) - 1) if sizes[i] == 3), None)


@fault("channels of the picture reversed in the file")
def reversed_input(file: Edited, rng: np.random.Generator) -> set[str] | None:
    axis = channel_axis(file)
    if axis is None:
        return None
    order = file.add(np.array([2, 1, 0]), "order")
    file.change_input(lambda a, b: [helper.make_node("Gather", [a, order], [b], axis=axis)])
    return {file.image.name}


def input_fault(name: str, operator: str, value: float) -> None:
    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        if file.image.type.tensor_type.elem_type != TensorProto.FLOAT:
            return None
        constant = file.add(np.array(value, np.float32), "value")
        file.change_input(lambda a, b: [helper.make_node(operator, [a, constant], [b])])
        return {file.image.name}

    IN_FILE[name] = inject


input_fault("divided by 255 once more in the file", "Mul", 1 / 255)
input_fault("divided by 128 instead of 255 in the file", "Mul", 255 / 128)
input_fault("half of the input's range added in the file", "Add", 0.5)


# ---- Inputs, by the candidate's card ----


def card_fault(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Callable[..., Any]:
        PREPROCESSING[name] = change
        return change

    return register


@card_fault("fed in BGR instead of RGB")
def fed_reversed(card: dict[str, Any]) -> dict[str, Any] | None:
    now = card.get("channels", "RGB")
    return {"RGB": {"channels": "BGR"}, "BGR": {"channels": "RGB"}}.get(now)


@card_fault("fed with another mean and std")
def fed_scaled(card: dict[str, Any]) -> dict[str, Any] | None:
    return {"preset": "0-1" if card["preset"] != "0-1" else "-1-1"}


@card_fault("fed with raw pixels")
def fed_raw(card: dict[str, Any]) -> dict[str, Any] | None:
    return None if card["preset"] == "raw" else {"preset": "raw"}


@card_fault("fed with the center instead of the whole picture")
def fed_cropped(card: dict[str, Any]) -> dict[str, Any] | None:
    return {"resize": "crop"} if card.get("resize") != "crop" else {"resize": "resize"}


# ---- INT8 builds ----


def quantised_weights(file: Edited) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """(DequantizeLinear of a weight, the node that reads it)"""
    found = []
    for node in of_kind(file, "DequantizeLinear"):
        readers = file.readers(node.output[0])
        weight = file.constant(node.input[0])
        if weight is not None and weight.ndim >= 2 and len(readers) == 1 and readers[0].op_type in LINEAR:
            found.append((node, readers[0]))
    return found


def quantised_weight_fault(name: str, change: Callable[[np.ndarray, np.random.Generator], np.ndarray], at: int) -> None:
    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        found = [(n, r) for n, r in quantised_weights(file) if file.weight(n, at) is not None]
        if not found:
            return None
        node, reader = found[int(rng.integers(len(found)))]
        file.replace(node.input[at], lambda s: change(s, rng))
        return about(node, *node.input) | about(reader) | {node.input[0].removesuffix("_quantized")}

    QUANTISED[name] = inject


def one_of_scales(scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    new = np.array(scale)
    new.reshape(-1)[int(rng.integers(new.size))] *= 10
    return new


quantised_weight_fault("INT8: scale of a weight × 2", lambda s, rng: s * 2, 1)
quantised_weight_fault("INT8: scale of a weight × 10", lambda s, rng: s * 10, 1)
quantised_weight_fault("INT8: one channel's scale of a weight × 10", one_of_scales, 1)
quantised_weight_fault("INT8: zero point of a weight off by 20", lambda z, rng: z + 20, 2)


def quantised_activation_fault(name: str, at: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    def inject(file: Edited, rng: np.random.Generator) -> set[str] | None:
        """At both the QuantizeLinear and the DequantizeLinear, as calibration sets them."""
        found = [n for n in of_kind(file, "QuantizeLinear") if file.weight(n, at) is not None]
        found = [n for n in found if n.input[0] not in (file.image.name, *file.outputs)]
        node = chosen(found, rng)
        if node is None:
            return None
        file.replace(node.input[at], change)
        changed = file.readers(node.input[at])  # a Resize or Squeeze shares the quantizer of what it reads
        quantizers = [n for n in changed if n.op_type == "QuantizeLinear"]
        return about(node, *node.input).union(*map(about, changed), *(about(n, n.input[0]) for n in quantizers))

    QUANTISED[name] = inject


def moved(zero: np.ndarray) -> np.ndarray:
    return zero + 40 if int(zero) < 128 else zero - 40


quantised_activation_fault("INT8: range of an activation ÷ 4", 1, lambda s: s / 4)
quantised_activation_fault("INT8: range of an activation × 30", 1, lambda s: s * 30)
quantised_activation_fault("INT8: zero point of an activation off by 40", 2, moved)


@fault("INT8: activation dequantized with twice its scale", QUANTISED)
def dequantized_otherwise(file: Edited, rng: np.random.Generator) -> set[str] | None:
    found = [n for n in of_kind(file, "DequantizeLinear") if file.constant(n.input[0]) is None]
    node = chosen([n for n in found if file.weight(n) is not None and n.output[0] not in file.outputs], rng)
    if node is None:
        return None
    node.input[1] = file.add(np.asarray(file.weight(node)) * 2, f"{node.input[1]}/2")
    quantize = file.producer(node.input[0])
    return about(node, node.input[0]) | (about(quantize, quantize.input[0]) if quantize is not None else set())


# ---- FP16 builds ----


def out_of_range(file: Edited, rng: np.random.Generator) -> set[str] | None:
    """Scales a layer up and the next one down, which changes nothing in float32 and overflows in float16.

    To be injected into the reference; its FP16 build is the candidate.
    """
    found = []
    for node in weighted(file):
        (relu, *others) = file.readers(node.output[0]) or [None]
        if relu is None or others or relu.op_type != "Relu" or node.op_type != "Conv":
            continue
        (after, *others) = file.readers(relu.output[0]) or [None]
        if after is not None and not others and after in weighted(file) and after.op_type == "Conv":
            found.append((node, relu, after))
    if not found:
        return None
    node, relu, after = found[int(rng.integers(len(found)))]
    for name in node.input[1:3]:
        if file.constant(name) is None:
            return None
        file.replace(name, lambda w: w * 1e5)
    file.replace(after.input[1], lambda w: w / 1e5)
    return about(node, *node.input[1:3]) | about(relu)
