"""Fused operators as the standard ones they were fused from: one row per operator, filled by `@unfuse`.

onnxruntime's optimizers and quantisers write operators of their own into saved files. Each row says what such an
operator means in opset 21; the runtime fuses the result again when it creates a session, so the forward keeps its
kernels. Outputs keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.graph.load import Source, add_weight

MS = "com.microsoft"
Rewrite = Callable[["Emit", "Fused"], Any]
Shapes = Mapping[str, list]
TABLE: dict[tuple[str, str], Rewrite] = {}


def unfuse(*ops: str, domain: str = MS) -> Callable[[Rewrite], Rewrite]:
    """Registers what `ops` mean. The function returns the name of the first output, or names of several."""

    def register(rewrite: Rewrite) -> Rewrite:
        for op in ops:
            TABLE[domain, op] = rewrite
        return rewrite

    return register


class _UndeterminedError(Exception):
    """The shape of a tensor is not known, or not yet: it comes out of another fused node."""


class Fused:
    """A fused node: `x = f[0]` an input ("" where omitted), `f.attr(name, default)` an attribute."""

    def __init__(
        self, node: onnx.NodeProto, source: Source | None = None, shapes: Shapes | None = None, last: bool = True
    ) -> None:
        self.node, self.source, self.shapes, self.last = node, source, shapes or {}, last
        self._attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __getitem__(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def attr(self, name: str, default: Any = None) -> Any:
        value = self._attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def window(self, *extra: str) -> dict[str, Any]:
        """The attributes of a convolution or pooling that are present."""
        names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", *extra)
        return {n: self.attr(n) for n in names if n in self._attrs}

    def known(self, index: int) -> np.ndarray | None:
        """The constant that an input holds, if it is one."""
        assert self.source is not None
        name = self[index]
        if name in self.source.weights:
            return self.source.weights[name]
        tensor = next((t for t in self.source.proto.graph.initializer if t.name == name), None)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def array(self, index: int) -> np.ndarray:
        """The constant that an input must hold."""
        known = self.known(index)
        if known is None:
            raise self.refuse(f"its input {self[index]!r} is computed, not a weight")
        return known

    def shape(self, index: int) -> list:
        """The sizes of an input, None or a name where one is not known before the model runs."""
        shape = self.shapes.get(self[index])
        if shape is None:
            raise _UndeterminedError(f"the number of axes of {self[index]!r} is not known")
        return shape

    def axes(self, index: int) -> int | None:
        """The number of axes of an input, None where it will never be known."""
        return None if self.last and self[index] not in self.shapes else len(self.shape(index))

    def refuse(self, why: str, hint: str = "give the file that was not optimised") -> UnsupportedError:
        return UnsupportedError(f"cannot take {self.node.op_type} apart (node {self.node.name!r}): {why}", hint)


class Emit:
    """`e.Conv(x, w, strides=[1, 1])` appends a node and returns the name of its output."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.count = prefix, 0
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __getattr__(self, op: str) -> Callable[..., str]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *inputs, **attrs: self.node(op, inputs, **attrs)[0]

    def node(self, op: str, inputs: Iterable[Any], outputs: int = 1, **attrs: Any) -> list[str]:
        self.count += 1
        names = [f"{self.prefix}/{op}_{self.count}" + (f":{i}" if i else "") for i in range(outputs)]
        given = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(onnx.helper.make_node(op, given, names, name=names[0], **attrs))
        return names

    def constant(self, value: Any) -> str:
        self.count += 1
        name = f"{self.prefix}/constant_{self.count}"
        self.constants[name] = np.asarray(value)
        return name

    def scalar_like(self, value: float, like: str) -> str:
        """A scalar of the element type of `like`."""
        return self.CastLike(np.float32(value), like)


def unfuse_model(source: Source, shapes: Callable[[onnx.ModelProto], Shapes]) -> None:
    """Replaces every fused operator that has a row.

    Rows that ask for the shape of what another fused node gives wait until that one is taken apart.

    Args:
        shapes: {tensor: sizes} of a model, as far as they are known.

    Raises:
        UnsupportedError: a node is of a kind, or has an input, that its row does not know.
    """
    known, last = shapes(source.proto), False
    while waiting := _take_apart(source, known, last):
        found = shapes(source.proto)
        if found == known and last:
            raise waiting[0]
        known, last = found, found == known


def _is_fused(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) in TABLE


def _take_apart(source: Source, shapes: Shapes, last: bool) -> list[UnsupportedError]:
    """Replaces what can be replaced now; a reason for each node that waits for a shape."""
    graph = source.proto.graph
    nodes: list[onnx.NodeProto] = []
    waiting = []
    for node in graph.node:
        if not _is_fused(node):
            nodes.append(node)
            continue
        emit, fused = Emit(f"{node.output[0]}/{node.op_type}"), Fused(node, source, shapes, last)
        try:
            results = TABLE[node.domain, node.op_type](emit, fused)
        except _UndeterminedError as unknown:
            waiting.append(fused.refuse(str(unknown), "give the sizes of the input (--size, --shape)"))
            nodes.append(node)
            continue
        replace_outputs(emit, [results] if isinstance(results, str) else list(results), list(node.output), node)
        nodes.extend(emit.nodes)
        for name, array in emit.constants.items():
            add_weight(source, name, array)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return waiting


def replace_outputs(emit: Emit, results: list[str], outputs: list[str], node: onnx.NodeProto) -> None:
    """Gives what `emit` made for `node` the names of its outputs."""
    names = {r: o for r, o in zip(results, outputs, strict=False) if o}
    missing = [o for o in outputs[len(results) :] if o]
    if missing:
        raise Fused(node).refuse(f"its output {missing[0]!r} has no equivalent")
    for inner in emit.nodes:
        inner.output[:] = [names.get(o, o) for o in inner.output]
        inner.input[:] = [names.get(i, i) for i in inner.input]
    for inner in emit.nodes:
        if node.output[0] in inner.output:
            inner.name = node.name or inner.name
            inner.metadata_props.extend(node.metadata_props)


# ---- Activations ----


@unfuse("Gelu")
def gelu(e: Emit, f: Fused) -> str:
    return e.Gelu(f[0])


@unfuse("BiasGelu")
def bias_gelu(e: Emit, f: Fused) -> str:
    return e.Gelu(e.Add(f[0], f[1]))


@unfuse("FastGelu")
def fast_gelu(e: Emit, f: Fused) -> str:
    return e.Gelu(e.Add(f[0], f[1]) if f[1] else f[0], approximate="tanh")


@unfuse("QuickGelu")
def quick_gelu(e: Emit, f: Fused) -> str:
    alpha = f.attr("alpha", 1.702)
    inner = f[0] if alpha == 1 else e.Mul(f[0], e.scalar_like(alpha, f[0]))
    return e.Mul(f[0], e.Sigmoid(inner))


@unfuse("BiasSplitGelu")
def bias_split_gelu(e: Emit, f: Fused) -> str:
    left, right = e.node("Split", [e.Add(f[0], f[1])], 2, axis=-1, num_outputs=2)
    return e.Mul(left, e.Gelu(right))


@unfuse("BiasSoftmax")
def bias_softmax(e: Emit, f: Fused) -> str:
    if not f.attr("is_inner_broadcast", 1):
        raise f.refuse("its bias is broadcast over outer axes")
    return e.Softmax(e.Add(f[0], f[1]), axis=f.attr("axis", 1))


@unfuse("BiasAdd")
def bias_add(e: Emit, f: Fused) -> str:
    return e.Add(e.Add(f[0], f[1]), f[2])


@unfuse("ParametricSoftplus", domain="")
def parametric_softplus(e: Emit, f: Fused) -> str:
    scaled = e.Mul(f[0], e.scalar_like(f.attr("beta", 1.0), f[0]))
    return e.Mul(e.Softplus(scaled), e.scalar_like(f.attr("alpha", 1.0), f[0]))


@unfuse("ScaledTanh", domain="")
def scaled_tanh(e: Emit, f: Fused) -> str:
    scaled = e.Mul(f[0], e.scalar_like(f.attr("beta", 1.0), f[0]))
    return e.Mul(e.Tanh(scaled), e.scalar_like(f.attr("alpha", 1.0), f[0]))


@unfuse("Affine", domain="")
def affine(e: Emit, f: Fused) -> str:
    scaled = e.Mul(f[0], e.scalar_like(f.attr("alpha", 1.0), f[0]))
    return e.Add(scaled, e.scalar_like(f.attr("beta", 0.0), f[0]))


@unfuse("Scale", domain="")
def scale(e: Emit, f: Fused) -> str:
    return e.Mul(f[0], e.scalar_like(f.attr("scale", 1.0), f[0]))


@unfuse("ImageScaler", domain="")
def image_scaler(e: Emit, f: Fused) -> str:
    bias = np.asarray(f.attr("bias", []), np.float32)[:, None, None]
    return e.Add(e.Mul(f[0], e.scalar_like(f.attr("scale", 1.0), f[0])), e.CastLike(bias, f[0]))


def activation(e: Emit, f: Fused, value: str, name: str, parameters: list[float]) -> str:
    """The activation that a fused node names, with its parameters in the operator's order."""
    if not name:
        return value
    if name in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
        return getattr(e, name)(value)
    if name == "LeakyRelu":
        return e.LeakyRelu(value, alpha=parameters[0] if parameters else 0.01)
    if name == "HardSigmoid":
        return e.HardSigmoid(value, alpha=parameters[0], beta=parameters[1])
    if name == "Elu":
        return e.Elu(value, alpha=parameters[0] if parameters else 1.0)
    if name == "Clip":
        weight = f.known(1)  # bounds of its type are constants, by which a Clip is known as ReLU6
        low, high = (e.scalar_like(p, value) if weight is None else np.asarray(p, weight.dtype) for p in parameters)
        return e.Clip(value, low, high)
    raise f.refuse(f"unknown activation {name!r}")


# ---- Convolution and matrix products ----


@unfuse("FusedConv")
def fused_conv(e: Emit, f: Fused) -> str:
    y = e.Conv(f[0], f[1], f[2], **f.window())
    y = e.Add(y, f[3]) if f[3] else y
    return activation(e, f, y, f.attr("activation", ""), list(f.attr("activation_params", [])))


@unfuse("NhwcConv", "NhwcFusedConv")
def nhwc_conv(e: Emit, f: Fused) -> str:
    """NHWC data and OHWI weights."""
    forward, back = [0, 3, 1, 2], [0, 2, 3, 1]
    weight = e.Transpose(f[1], perm=forward) if f.node.op_type == "NhwcConv" else f[1]
    y = e.Conv(e.Transpose(f[0], perm=forward), weight, f[2], **f.window())
    y = e.Add(y, e.Transpose(f[3], perm=forward)) if f[3] else y
    y = activation(e, f, y, f.attr("activation", ""), list(f.attr("activation_params", [])))
    return e.Transpose(y, perm=back)


@unfuse("NhwcMaxPool")
def nhwc_max_pool(e: Emit, f: Fused) -> str:
    y = e.MaxPool(e.Transpose(f[0], perm=[0, 3, 1, 2]), **f.window("ceil_mode"))
    return e.Transpose(y, perm=[0, 2, 3, 1])


@unfuse("FusedGemm")
def fused_gemm(e: Emit, f: Fused) -> str:
    names = ("alpha", "beta", "transA", "transB")
    y = e.Gemm(f[0], f[1], f[2], **{n: f.attr(n) for n in names if f.attr(n) is not None})
    parameters = [p for p in (f.attr("activation_alpha"), f.attr("activation_beta")) if p is not None]
    return activation(e, f, y, f.attr("activation", ""), parameters)


@unfuse("FusedMatMul", "TransposeMatMul")
def fused_matmul(e: Emit, f: Fused) -> str:
    a = _operand(e, f, 0, f.attr("transA", 0), f.attr("transBatchA", 0))
    b = _operand(e, f, 1, f.attr("transB", 0), f.attr("transBatchB", 0))
    y = e.MatMul(a, b)
    alpha = f.attr("alpha", 1.0)
    return y if alpha == 1 else e.Mul(y, e.scalar_like(alpha, y))


def _operand(e: Emit, f: Fused, index: int, swapped: int, batch_moved: int) -> str:
    """An input with its first axis moved before the last, and then the last two exchanged, where that is asked for."""
    value = f[index]
    if batch_moved:
        last = len(f.shape(index)) - 1
        value = e.Transpose(value, perm=[*range(1, last), 0, last])
    if not swapped:
        return value
    rank = f.axes(index)
    return _swap(e, value) if rank is None else e.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _swap(e: Emit, value: str) -> str:
    """The last two axes exchanged, where the rank is not known: (…, r, c) as (−1, r, c), transposed, back."""
    rows = e.Shape(value, start=-2, end=-1)
    columns = e.Shape(value, start=-1)
    flat = e.Reshape(value, e.Concat(np.array([-1], np.int64), rows, columns, axis=0))
    return e.Reshape(e.Transpose(flat, perm=[0, 2, 1]), e.Concat(e.Shape(value, end=-2), columns, rows, axis=0))


@unfuse("FusedMatMulActivation")
def fused_matmul_activation(e: Emit, f: Fused) -> str:
    parameters = [p for p in (f.attr("activation_alpha"), f.attr("activation_beta")) if p is not None]
    return activation(e, f, fused_matmul(e, f), f.attr("activation", ""), parameters)


# ---- Normalisation ----


@unfuse("SkipLayerNormalization")
def skip_layer_normalization(e: Emit, f: Fused) -> list[str]:
    """LayerNormalization(input + skip + bias); the sum is the fourth output."""
    total = e.Add(f[0], f[1])
    total = e.Add(total, f[4]) if f[4] else total
    y, mean, inverse = e.node("LayerNormalization", [total, f[2], f[3]], 3, axis=-1, epsilon=f.attr("epsilon", 1e-12))
    return [y, mean, inverse, total]


@unfuse("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(e: Emit, f: Fused) -> list[str]:
    total = e.Add(f[0], f[1])
    total = e.Add(total, f[3]) if f[3] else total
    y, inverse = _rms(e, total, f[2], f.attr("epsilon", 1e-12), -1)
    return [y, e.ReduceMean(total, np.array([-1], np.int64)), inverse, total]


@unfuse("SimplifiedLayerNormalization", domain="")
def simplified_layer_normalization(e: Emit, f: Fused) -> list[str]:
    axis = f.attr("axis", -1)
    if axis != -1:
        raise f.refuse("it normalises over more than the last axis")
    return list(_rms(e, f[0], f[1], f.attr("epsilon", 1e-5), axis))


def _rms(e: Emit, x: str, weight: str, epsilon: float, axis: int) -> tuple[str, str]:
    mean = e.ReduceMean(e.Mul(x, x), np.array([axis], np.int64))
    inverse = e.Reciprocal(e.Sqrt(e.Add(mean, e.scalar_like(epsilon, x))))
    return e.Mul(e.Mul(x, inverse), weight), inverse


@unfuse("GroupNorm", "SkipGroupNorm")
def group_norm(e: Emit, f: Fused) -> list[str]:
    """On NHWC data where `channels_last`; activation 1 is SiLU."""
    skipped = f.node.op_type == "SkipGroupNorm"
    x = e.Add(f[0], f[3]) if skipped else f[0]
    x = e.Add(x, f[4]) if skipped and f[4] else x
    last = f.attr("channels_last", 1)
    inner = e.Transpose(x, perm=[0, 3, 1, 2]) if last else x
    y = e.GroupNormalization(
        inner,
        e.CastLike(f[1], inner),
        e.CastLike(f[2], inner),
        num_groups=f.attr("groups"),
        epsilon=f.attr("epsilon", 1e-5),
    )
    y = e.Mul(y, e.Sigmoid(y)) if f.attr("activation", 0) else y
    y = e.Transpose(y, perm=[0, 2, 3, 1]) if last else y
    return [y, x] if skipped else [y]


# ---- Quantised operators: dequantise, compute, quantise ----


@unfuse("QLinearConv")
@unfuse("QLinearConv", domain="")
def qlinear_conv(e: Emit, f: Fused) -> str:
    x, w = e.DequantizeLinear(f[0], f[1], f[2]), e.DequantizeLinear(f[3], f[4], f[5], axis=0)
    bias = _bias(e, f[8], f[1], f[4])
    last = f.attr("channels_last", 0)
    x = e.Transpose(x, perm=[0, 3, 1, 2]) if last else x
    y = e.Conv(x, w, bias, **f.window())
    y = e.Transpose(y, perm=[0, 2, 3, 1]) if last else y
    return e.QuantizeLinear(y, f[6], f[7])


def _bias(e: Emit, bias: str, x_scale: str, w_scale: str) -> str:
    """int32 biases are in units of the product of both scales."""
    if not bias:
        return ""
    return e.DequantizeLinear(bias, e.Mul(x_scale, w_scale), axis=0)


@unfuse("QLinearMatMul", domain="")
def qlinear_matmul(e: Emit, f: Fused) -> str:
    y = e.MatMul(_dequantize(e, f[0], f[1], f[2]), _dequantize(e, f[3], f[4], f[5]))
    return e.QuantizeLinear(y, f[6], f[7])


def real_weight(e: Emit, f: Fused, weight: int, scale: int, zero: int) -> str:
    """(q − zero) · scale of a constant, dequantised here.

    A DequantizeLinear before a MatMul would have the runtime compute both in eight bits (MatMulNBits).
    """
    q, s, z = f.known(weight), f.known(scale), f.known(zero) if f[zero] else np.float32(0)
    if q is None or s is None or z is None:
        return _dequantize(e, f[weight], f[scale], f[zero])
    return e.constant((q.astype(np.float32) - z.astype(np.float32)) * s)


def _dequantize(e: Emit, x: str, scale: str, zero: str) -> str:
    """(x − zero) · scale with scales per tensor or per column; DequantizeLinear where there is one scale."""
    return e.DequantizeLinear(x, scale, zero, axis=-1)


@unfuse("QGemm")
def qgemm(e: Emit, f: Fused) -> str:
    axis = 0 if f.attr("transB", 0) else 1
    a, b = e.DequantizeLinear(f[0], f[1], f[2]), e.DequantizeLinear(f[3], f[4], f[5], axis=axis)
    names = {n: f.attr(n) for n in ("transA", "transB") if f.attr(n)}
    y = e.Gemm(a, b, alpha=f.attr("alpha", 1.0), **names)
    y = e.Add(y, _bias(e, f[6], f[1], f[4])) if f[6] else y
    return e.QuantizeLinear(y, f[7], f[8]) if f[7] else y


@unfuse("QLinearAdd", "QLinearMul")
def qlinear_binary(e: Emit, f: Fused) -> str:
    a, b = e.DequantizeLinear(f[0], f[1], f[2]), e.DequantizeLinear(f[3], f[4], f[5])
    y = e.Add(a, b) if f.node.op_type == "QLinearAdd" else e.Mul(a, b)
    return e.QuantizeLinear(y, f[6], f[7])


@unfuse("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearReduceMean")
def qlinear_unary(e: Emit, f: Fused) -> str:
    x = e.DequantizeLinear(f[0], f[1], f[2])
    op = f.node.op_type.removeprefix("QLinear")
    if op == "LeakyRelu":
        y = e.LeakyRelu(x, alpha=f.attr("alpha", 0.01))
    elif op == "Softmax":
        y = e.Softmax(x, axis=f.attr("axis", -1))
    elif op == "ReduceMean":
        axes = f.attr("axes")
        inputs = [x, np.asarray(axes, np.int64)] if axes else [x]
        y = e.node("ReduceMean", inputs, keepdims=f.attr("keepdims", 1))[0]
    else:
        y = e.Sigmoid(x)
    return e.QuantizeLinear(y, f[3], f[4])


@unfuse("QLinearAveragePool", "QLinearGlobalAveragePool")
def qlinear_pool(e: Emit, f: Fused) -> str:
    x = e.DequantizeLinear(f[0], f[1], f[2])
    last = f.attr("channels_last", 0)
    x = e.Transpose(x, perm=[0, 3, 1, 2]) if last else x
    if f.node.op_type == "QLinearGlobalAveragePool":
        y = e.GlobalAveragePool(x)
    else:
        y = e.AveragePool(x, **f.window("ceil_mode", "count_include_pad"))
    y = e.Transpose(y, perm=[0, 2, 3, 1]) if last else y
    return e.QuantizeLinear(y, f[3], f[4])


@unfuse("QLinearConcat")
def qlinear_concat(e: Emit, f: Fused) -> str:
    parts = [e.DequantizeLinear(f[i], f[i + 1], f[i + 2]) for i in range(2, len(f.node.input), 3)]
    return e.QuantizeLinear(e.Concat(*parts, axis=f.attr("axis")), f[0], f[1])


@unfuse("QLinearWhere")
def qlinear_where(e: Emit, f: Fused) -> str:
    a, b = e.DequantizeLinear(f[1], f[2], f[3]), e.DequantizeLinear(f[4], f[5], f[6])
    return e.QuantizeLinear(e.Where(f[0], a, b), f[7], f[8])


@unfuse("MatMulIntegerToFloat")
def matmul_integer_to_float(e: Emit, f: Fused) -> str:
    y = e.MatMul(_dequantize(e, f[0], f[2], f[4]), real_weight(e, f, 1, 3, 5))
    return e.Add(y, f[6]) if f[6] else y


@unfuse("DynamicQuantizeMatMul")
def dynamic_quantize_matmul(e: Emit, f: Fused) -> str:
    x, scale_, zero = e.node("DynamicQuantizeLinear", [f[0]], 3)
    y = e.MatMul(e.DequantizeLinear(x, scale_, zero), real_weight(e, f, 1, 2, 3))
    return e.Add(y, f[4]) if f[4] else y


@unfuse("DynamicQuantizeLSTM")
def dynamic_quantize_lstm(e: Emit, f: Fused) -> list[str]:
    """i, o, f, g of W q(x)ₜ + R q(hₜ₋₁) + b, cₜ = f cₜ₋₁ + i g, hₜ = o tanh cₜ, as a Scan.

    q rounds to 8 bits over the values at hand: the whole sequence, and the states of all rows at a step. (Where the
    kernel shares the rows of a batch among threads, it rounds those of each thread by themselves.)
    """
    strange = {
        "sequence lengths": f[4],
        "peepholes": f[7],
        "clip": f.attr("clip"),
        "input_forget": f.attr("input_forget"),
    }
    strange["activations of its own"] = {n.decode().lower() for n in f.attr("activations", [])} - {"sigmoid", "tanh"}
    for what, present in strange.items():
        if present:
            raise f.refuse(f"it has {what}")
    directions = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[f.attr("direction", "forward")]
    x = _rounded(e, f[0])
    every, last, cells = zip(*(_one_direction(e, f, x, d, way) for d, way in enumerate(directions)), strict=True)
    first, second = np.array([0], np.int64), np.array([1], np.int64)
    joined = [e.Concat(*(e.Unsqueeze(y, second) for y in every), axis=1)]
    return joined + [e.Concat(*(e.Unsqueeze(v, first) for v in ends), axis=0) for ends in (last, cells)]


def _one_direction(e: Emit, f: Fused, x: str, d: int, backward: int) -> tuple[str, str, str]:
    """(all hₜ (T, B, H), the last one (B, H), the last cₜ) of direction `d`."""

    def own(name: str) -> str:
        return e.Gather(name, np.int64(d), axis=0)

    def weights(index: int, scale: int) -> str:
        whole = e.Cast(own(f[index]), to=onnx.TensorProto.FLOAT)
        zero = e.Cast(own(f[scale + 1]), to=onnx.TensorProto.FLOAT) if f[scale + 1] else np.float32(0)
        return e.Mul(e.Sub(whole, zero), own(f[scale]))

    z, r = e.MatMul(x, weights(1, 8)), weights(2, 10)
    if f[3]:
        z = e.Add(z, e.Add(*e.node("Split", [own(f[3])], 2, axis=0, num_outputs=2)))
    batch = e.Shape(x, start=1, end=2)
    none = e.Expand(np.float32(0), e.Concat(batch, np.array([f.attr("hidden_size")], np.int64), axis=0))
    starts = [own(f[i]) if f[i] else none for i in (5, 6)]
    c, h, y = e.node(
        "Scan", [starts[1], starts[0], z], 3, body=_step(e, r), num_scan_inputs=1,
        scan_input_directions=[backward], scan_output_directions=[backward],
    )  # fmt: skip
    return y, h, c


def _step(e: Emit, r: str) -> onnx.GraphProto:
    """(c, h, z) → (c, h, h): one step of an LSTM whose states are rounded before they meet the weights `r`."""
    e.count += 1
    body = Emit(f"{e.prefix}/step_{e.count}")
    names = [f"{body.prefix}/{n}" for n in ("cell", "state", "slice")]
    gates = body.Add(names[2], body.MatMul(_rounded(body, names[1]), r))
    i, o, keep, new = body.node("Split", [gates], 4, axis=1, num_outputs=4)
    cell = body.Add(body.Mul(body.Sigmoid(keep), names[0]), body.Mul(body.Sigmoid(i), body.Tanh(new)))
    state = body.Mul(body.Sigmoid(o), body.Tanh(cell))
    kinds = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, None]) for n in names]
    ends = [cell, state, body.Identity(state)]
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, None]) for n in ends]
    return onnx.helper.make_graph(body.nodes, "step", kinds, outputs)


def _rounded(e: Emit, x: str) -> str:
    """x rounded to 8 bits over its own range."""
    return e.DequantizeLinear(*e.node("DynamicQuantizeLinear", [x], 3))


@unfuse("QuantizeLinear", "DequantizeLinear")
def quantize(e: Emit, f: Fused) -> str:
    """The variants for 16- and 4-bit types that the standard got at opset 21."""
    return getattr(e, f.node.op_type)(f[0], f[1], f[2], axis=f.attr("axis", 1))


# ---- Others ----


@unfuse("Trilu")
def trilu(e: Emit, f: Fused) -> str:
    return e.Trilu(f[0], f[1], upper=f.attr("upper", 1))


@unfuse("GridSample")
def grid_sample(e: Emit, f: Fused) -> str:
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(f.attr("mode", "bilinear"), f.attr("mode", "bilinear"))
    return e.GridSample(
        f[0],
        f[1],
        mode=mode,
        padding_mode=f.attr("padding_mode", "zeros"),
        align_corners=f.attr("align_corners", 0),
    )


@unfuse("ExpandDims")
def expand_dims(e: Emit, f: Fused) -> str:
    return e.Unsqueeze(f[0], e.Reshape(e.Cast(f[1], to=onnx.TensorProto.INT64), np.array([1], np.int64)))


@unfuse("GemmFastGelu")
def gemm_fast_gelu(e: Emit, f: Fused) -> str:
    y = e.MatMul(f[0], f[1])
    return e.Gelu(e.Add(y, f[2]) if f[2] else y, approximate="tanh")


@unfuse("BiasDropout", "BitmaskDropout", "BitmaskBiasDropout")
def dropout(e: Emit, f: Fused) -> str:
    """In inference nothing is dropped."""
    if f.node.op_type == "BitmaskDropout":
        return e.Identity(f[0])
    y = e.Add(f[0], f[1])
    return e.Add(y, f[2]) if f[2] else e.Identity(y)


# What onnxruntime's optimisers and quantisers write as well, left as it is: no gradient flows through it, and the
# error says why.
LEFT: dict[str, str] = {
    **dict.fromkeys(
        ("PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding", "PagedAttention"),
        "tokens of several sequences are packed without padding",
    ),
    **dict.fromkeys(
        ("GroupQueryAttention", "SparseAttention", "DecoderAttention", "DecoderMaskedSelfAttention",
         "DecoderMaskedMultiHeadAttention", "BeamSearch", "GreedySearch", "Sampling"),
        "a text decoder with its cache",
    ),
    **dict.fromkeys(("LongformerAttention", "RelativePositionBias", "GatedRelativePositionBias"), "text models only"),
    **dict.fromkeys(
        ("QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedMatMul", "QuantizeWithOrder",
         "DequantizeWithOrder"),
        "weights are in the order of one kind of GPU",
    ),
    **dict.fromkeys(("MatMulNBitsMlp", "MatMulNBitsQkv"), "several layers at once, for WebGPU"),
    **dict.fromkeys(("MatMulFpQ4", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "QMoE", "MoE"),
                    "a packing of weights that is not known"),
    "QEmbedLayerNormalization": "eight-bit embeddings of words",
    "SparseToDenseMatMul": "a sparse matrix",
    "EPContext": "a network compiled for one device",
}  # fmt: skip
