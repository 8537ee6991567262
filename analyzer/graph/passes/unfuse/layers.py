"""Activations, convolutions, matrix products and normalisations, with what was fused into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from analyzer.graph.passes.unfuse.table import Emit, Fused, unfuse

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
    return _scaled(e, e.Softplus(_scaled(e, f[0], f.attr("beta", 1.0))), f.attr("alpha", 1.0))


@unfuse("ScaledTanh", domain="")
def scaled_tanh(e: Emit, f: Fused) -> str:
    return _scaled(e, e.Tanh(_scaled(e, f[0], f.attr("beta", 1.0))), f.attr("alpha", 1.0))


@unfuse("Affine", domain="")
def affine(e: Emit, f: Fused) -> str:
    return _scaled(e, f[0], f.attr("alpha", 1.0), f.attr("beta", 0.0))


@unfuse("Scale", domain="")
def scale(e: Emit, f: Fused) -> str:
    return _scaled(e, f[0], f.attr("scale", 1.0))


@unfuse("ImageScaler", domain="")
def image_scaler(e: Emit, f: Fused) -> str:
    """y = s x + b, b one per channel of (N, C, H, W)."""
    return _scaled(e, f[0], f.attr("scale", 1.0), np.reshape(f.attr("bias", [0.0]), (-1, 1, 1)))


def _scaled(e: Emit, x: str, factor: float, offset: Any = 0.0) -> str:
    y = e.Mul(x, e.scalar_like(factor, x))
    return e.Add(y, e.CastLike(np.asarray(offset, np.float32), x)) if np.any(offset) else y


def activation(e: Emit, f: Fused, value: str, name: str, parameters: list[float]) -> str:
    """The activation that a fused node names, with its parameters in the operator's order."""
    if not name:
        return value
    if name in ("HardSwish", "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
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
    flat = e.Reshape(value, e.Concat([-1], rows, columns, axis=0))
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
    return [y, e.ReduceMean(total, [-1]), inverse, total]


@unfuse("SimplifiedLayerNormalization", domain="")
def simplified_layer_normalization(e: Emit, f: Fused) -> list[str]:
    axis = f.attr("axis", -1)
    if axis != -1:
        raise f.refuse("it normalizes over more than the last axis")
    return list(_rms(e, f[0], f[1], f.attr("epsilon", 1e-5), axis))


def _rms(e: Emit, x: str, weight: str, epsilon: float, axis: int) -> tuple[str, str]:
    mean = e.ReduceMean(e.Mul(x, x), [axis])
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
    return e.Unsqueeze(f[0], e.Reshape(e.Cast(f[1], to=onnx.TensorProto.INT64), [1]))


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
