"""Quantised operators, straight through: rounding counts as the identity, saturation as a bound.

Integer tensors carry cotangents per step: ∂/∂q, in floating point.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.convolution import Windows, input_bar
from analyzer.gradient.rules.elementwise import masked, where
from analyzer.gradient.rules.linear import transposed

FLOAT32 = np.dtype(np.float32)
LARGEST_FLOAT8 = {17: 448.0, 18: 240.0, 19: 57344.0, 20: 57344.0}  # by TensorProto.DataType: E4M3FN, …FNUZ, E5M2, …FNUZ


def like_x(op: Builder, node: Primal, parameter: Value) -> Value:
    """Scale or zero point, to go with x: one for all, or one per index of `axis` or per block of it."""
    rank = op.rank(parameter)
    if rank == 0 or op.static(parameter) == (1,):
        return op.Squeeze(parameter, [0]) if rank else parameter
    if node.attr("block_size"):
        axis, block = node.attr("axis") % rank, node.attr("block_size")
        copies = op.Expand(op.Unsqueeze(parameter, [axis + 1]), np.array([block] + [1] * (rank - axis - 1), np.int64))
        dims = [op.value([-1]) if a == axis else op.shape(parameter, a, a + 1) for a in range(rank)]
        wide = op.Reshape(copies, op.Concat(*dims, axis=0))
        return op.Slice(wide, [0], op.shape(node.x, axis, axis + 1), [axis])
    wide = [1] * op.rank(node.x)
    wide[node.attr("axis")] = -1
    return op.Reshape(parameter, wide)


@vjp("QuantizeLinear", since=10, integer=True)
def quantize_linear_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """q = saturate(round(x / s) + z)   ⇒   x̄ = q̄ / s where q is not saturated (straight through)"""
    s = op.cast(like_x(op, node, node.inputs[1]), ct.dtype)
    return masked(op, node, within_range(op, node, ct.dtype), op.Div(ct, s))


def within_range(op: Builder, node: Primal, dtype: np.dtype) -> Value:
    """Where a QuantizeLinear does not saturate."""
    x, scale, zero = node.inputs
    exact = op.Div(op.cast(x, dtype), op.cast(like_x(op, node, scale), dtype))
    if node.y.dtype in LARGEST_FLOAT8:
        return op.LessOrEqual(op.Abs(exact), LARGEST_FLOAT8[node.y.dtype])
    if zero is not None:
        exact = op.Add(exact, op.cast(like_x(op, node, zero), dtype))
    limits = ml_dtypes.iinfo(node.y.dtype)
    return op.And(op.Greater(exact, limits.min - 0.5), op.Less(exact, limits.max + 0.5))


@vjp("DequantizeLinear", since=10)
def dequantize_linear_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """x = (q − z) s   ⇒   q̄ = x̄ s, s̄ = Σ x̄ (q − z)"""
    s = like_x(op, node, node.inputs[1])
    scale_bar = None
    if node.needs(1):
        per_step = where(op, op.Not(op.Equal(op.Expand(s, op.shape(ct)), 0.0)), op.Div(node.y, s))
        products = op.Mul(ct, per_step)
        if node.attr("block_size"):
            return op.Mul(ct, s), _per_block(op, node, products)
        axes = [a for a in range(op.rank(ct)) if op.rank(s) and a != node.attr("axis") % op.rank(ct)]
        scale_bar = op.ReduceSum(products, axes, keepdims=0) if axes else op.ReduceSum(products, keepdims=0)
        scale_bar = op.reshape_like(scale_bar, node.inputs[1])
    return op.Mul(ct, s), scale_bar


def _per_block(op: Builder, node: Primal, products: Value) -> Value:
    """Σ over each block of `axis`, the last one perhaps cut short."""
    scale, block = node.inputs[1], node.attr("block_size")
    axis = node.attr("axis") % op.rank(scale)
    blocks = op.shape(scale, axis, axis + 1)
    more = op.Sub(op.Mul(blocks, np.int64(block)), op.shape(products, axis, axis + 1))
    full = op.Pad(products, op.Concat(op.value([0]), more, axis=0), 0.0, [axis])
    parts = op.Concat(op.shape(scale, 0, axis + 1), op.value([block]), op.shape(scale, axis + 1), axis=0)
    return op.shaped_as(op.ReduceSum(op.Reshape(full, parts), [axis + 1], keepdims=0), scale)


@vjp("DynamicQuantizeLinear", since=11, integer=True)
def dynamic_quantize_linear_vjp(op: Builder, node: Primal, ct: Cotangent, *_: Cotangent) -> Cotangent:
    """q, s, z = x quantized over its own range   ⇒   x̄ = q̄ / s (straight through; s and z count as constants)"""
    return None if ct is None else op.Div(ct, node.outputs[1])


@vjp("ConvInteger", since=10, integer=True)
def conv_integer_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = (w − z_w) ∗ (q − z)   ⇒   q̄ = (w − z_w)ᵀ ∗ ȳ"""
    w = _without_zero(op, node, [-1] + [1] * (op.rank(node.inputs[1]) - 1))
    return input_bar(op, node, ct, w, Windows(op, node))


@vjp("MatMulInteger", since=10, integer=True)
def matmul_integer_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """Y = (A − z_a) (B − z_b)   ⇒   Ā = Ȳ (B − z_b)ᵀ"""
    b = _without_zero(op, node, [1] * (op.rank(node.inputs[1]) - 1) + [-1])
    return op.MatMul(ct, transposed(op, b))


def _without_zero(op: Builder, node: Primal, wide: list[int]) -> Value:
    """The second factor less its zero point, in float32."""
    zero, known, known_zero = node.inputs[3], node.const(1), node.const(3)
    if known is not None and (zero is None or known_zero is not None):
        offset = np.float32(0) if known_zero is None else known_zero.astype(np.float32)
        offset = offset.reshape(wide) if known_zero is not None and known_zero.ndim else offset
        return op.constant(known.astype(np.float32) - offset, f"{node.inputs[1].name}/float")
    value = op.cast(node.inputs[1], FLOAT32)
    if zero is None:
        return value
    offset = op.cast(zero, FLOAT32)
    return op.Sub(value, op.Reshape(offset, wide) if op.rank(zero) else offset)
