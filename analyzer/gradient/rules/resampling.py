"""Resize: linear in the picture, axis by axis."""

from __future__ import annotations

import functools

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.elementwise import confined

FLOAT32 = np.dtype(np.float32)


@vjp("Resize", since=11)
def resize_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = M₁ x M₂ᵀ …, one matrix per resized axis   ⇒   x̄ = M₁ᵀ ȳ M₂ …; Mₐ is the identity, resized along a"""
    stretched = node.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    for axis in _resized(op, node):
        matrix = op.cast((_matrix if stretched else _matrix_in_proportion)(op, node, axis), ct.dtype)
        ct = confined(op, node, ct, functools.partial(_along, op, axis), matrix)
    return op.shaped_as(ct, node.x), None, None, None


def axes_of(op: Builder, node: Primal) -> list[int]:
    """The axes that scales, sizes and roi speak of."""
    rank = op.rank(node.x)
    return [int(a) % rank for a in node.attr("axes") or range(rank)]


def _resized(op: Builder, node: Primal) -> list[int]:
    """The axes whose matrix is not, or not surely, the identity."""
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return axes_of(op, node)
    scales = node.const(2)
    if scales is not None and scales.size:
        return [a for a, s in zip(axes_of(op, node), scales, strict=True) if s != 1]
    return [a for a in axes_of(op, node) if op.dim(node.x, a) is None or op.dim(node.x, a) != op.dim(node.y, a)]


def _matrix(op: Builder, node: Primal, axis: int) -> Value:
    """M of an axis, (resized, original): what the Resize itself makes of the identity."""
    place = axes_of(op, node).index(axis)
    size, identity = _identity(op, node, axis)
    roi = scales = sizes = None
    attrs = {k: v for k, v in node.node.attrs.items() if k not in ("axes", "extrapolation_value") and v is not None}
    _, given_roi, given_scales, _ = node.inputs
    if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        count = len(axes_of(op, node))
        ends = op.Gather(given_roi, [place, place + count])
        low, high = op.Gather(ends, [0]), op.Gather(ends, [1])
        zero, one = (op.constant(np.full(1, v, given_roi.dtype)) for v in (0, 1))
        roi = op.Concat(zero, zero, low, zero, one, one, high, one, axis=0)
        attrs["extrapolation_value"] = 0.0
    if given_scales is not None and op.dim(given_scales, 0) != 0:
        ones = op.constant(np.ones(1, np.float32))
        scales = op.Concat(ones, ones, op.Gather(given_scales, [place]), ones, axis=0)
    else:
        sizes = op.Concat(op.value([1, 1]), op.shape(node.y, axis, axis + 1), size, axis=0)
    return op.Squeeze(op.Resize(op.Unsqueeze(identity, [0, 1]), roi, scales, sizes, **attrs), [0, 1])


def _identity(op: Builder, node: Primal, axis: int) -> tuple[Value, Value]:
    """The size of an axis, and the identity of that size."""
    size = op.shape(node.x, axis, axis + 1)
    line = op.Range(np.int64(0), op.Squeeze(size, [0]), np.int64(1))
    return size, op.cast(op.Equal(op.Unsqueeze(line, [1]), op.Unsqueeze(line, [0])), FLOAT32)


def _matrix_in_proportion(op: Builder, node: Primal, axis: int) -> Value:
    """M of an axis where one scale holds for all: the identity along it, the other axis as long as it is."""
    x, sizes = node.x, node.inputs[3]
    if op.rank(x) != 4 or sizes is None or not set(axes_of(op, node)) <= {2, 3}:
        raise node.refuse(f"keep_aspect_ratio_policy={node.attr('keep_aspect_ratio_policy')!r} of other than pictures")
    size, identity = _identity(op, node, axis)
    lines = op.Unsqueeze(identity, [1, 5 - axis])
    lines = op.Expand(lines, op.Concat(size, op.value([1]), op.shape(x, 2), axis=0))
    attrs = {k: v for k, v in node.node.attrs.items() if k != "extrapolation_value" and v is not None}
    resized = op.Gather(op.Resize(lines, None, None, sizes, **attrs), np.int64(0), axis=5 - axis)
    return op.Transpose(op.Squeeze(resized, [1]), perm=[1, 0])


def _along(op: Builder, axis: int, ct: Value, matrix: Value) -> Value:
    """Mᵀ applied along an axis."""
    rank = op.rank(ct)
    if axis == rank - 2:
        return op.MatMul(op.Transpose(matrix, perm=[1, 0]), ct)
    perm = [a for a in range(rank) if a != axis] + [axis]
    moved = op.MatMul(op.Transpose(ct, perm=perm), matrix)
    return op.Transpose(moved, perm=np.argsort(perm).tolist())
