"""Resize by copies is undone by sums over blocks."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, idiom, known_shape
from analyzer.gradient.rules.resampling import axes_of, resize_vjp


@idiom(resize_vjp)
def resize_by_average_pool(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """A picture enlarged by copies, in float32: the sum over each block is an AveragePool times its size, which
    onnxruntime computes in its blocked layout."""
    block = _copies(op, node)
    if block is None or len(block) != 4 or block[:2] != [1, 1] or ct.dtype != np.float32:
        return NotImplemented
    pooled = op.AveragePool(ct, kernel_shape=block[2:], strides=block[2:])
    return op.shaped_as(op.Mul(pooled, float(block[2] * block[3])), node.x)


@idiom(resize_vjp)
def resize_by_sums(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """Enlarged by copies: x̄ is the sum of ȳ over each block, not a product with matrices of ones."""
    block = _copies(op, node)
    if block is None:
        return NotImplemented
    dims = [d for a, f in enumerate(block) for d in (op.shape(node.x, a, a + 1), op.value([f]))]
    blocks = op.Reshape(ct, op.Concat(*dims, axis=0))
    return op.shaped_as(op.ReduceSum(blocks, [2 * a + 1 for a in range(len(block))], keepdims=0), node.x)


def _copies(op: Builder, node: Primal) -> list[int] | None:
    """How often every element is repeated along each axis, where the Resize does no more than that; else None."""
    if node.attr("mode") != "nearest" or node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    mode, rounding = node.attr("coordinate_transformation_mode"), node.attr("nearest_mode")
    halves = mode in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round_prefer")
    factors = _factors(op, node) if halves or (mode == "asymmetric" and rounding == "floor") else None
    if factors is None or not all(f >= 1 and f == int(f) for f in factors):
        return None
    return [int(f) for f in factors]


def _factors(op: Builder, node: Primal) -> list[float] | None:
    """Scale of every axis, where the file fixes them."""
    scales, result = node.const(2), [1.0] * op.rank(node.x)
    for place, axis in enumerate(axes_of(op, node)):
        if scales is not None and scales.size:
            result[axis] = float(scales[place])
            continue
        before, after = op.dim(node.x, axis), op.dim(node.y, axis)
        if before is None or after is None:
            if known_shape(node.x)[axis] is not None and known_shape(node.x)[axis] == known_shape(node.y)[axis]:
                continue
            return None
        result[axis] = after / before
    return result
