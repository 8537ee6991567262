"""Quantised operators: dequantise, compute, quantise."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper

from analyzer.graph.passes.unfuse.table import Emit, Fused, unfuse


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
    strange["custom activations"] = {n.decode().lower() for n in f.attr("activations", [])} - {"sigmoid", "tanh"}
    for what, present in strange.items():
        if present:
            raise f.refuse(f"it has {what}")
    directions = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[f.attr("direction", "forward")]
    x = _rounded(e, f[0])
    every, last, cells = zip(*(_one_direction(e, f, x, d, way) for d, way in enumerate(directions)), strict=True)
    first, second = [0], [1]
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
    none = e.Expand(np.float32(0), e.Concat(batch, [f.attr("hidden_size")], axis=0))
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
