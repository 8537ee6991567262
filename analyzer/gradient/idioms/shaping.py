"""Cutting and joining without indices."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, idiom
from analyzer.gradient.rules.shaping import concat_vjp, slice_vjp


@idiom(concat_vjp)
def concat_by_split(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """Where the gradient of every part is wanted, one Split cuts ȳ instead of a Slice for each."""
    if len(node.inputs) < 2 or not all(node.needs(i) for i in range(len(node.inputs))):
        return NotImplemented
    axis = node.attr("axis") % op.rank(node.y)
    sizes = [op.shape(x, axis, axis + 1) for x in node.inputs]
    return op.Split(ct, op.Concat(*sizes, axis=0), axis=axis, outputs=len(sizes))


@idiom(slice_vjp)
def slice_by_pads(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """Where axes and steps are known, ȳ is padded with zeros to the size of x: no tensor of positions is made, nothing
    scattered."""
    x, starts, _, axes, steps = node.inputs
    count = len(node.const(1)) if node.const(1) is not None else op.dim(starts, 0)
    known_axes = node.const(3) if axes is not None else None if count is None else np.arange(count)
    known_steps = node.const(4) if steps is not None else None if count is None else np.ones(count, np.int64)
    if known_axes is None or known_steps is None or x.shape is None or node.y.shape is None:
        return NotImplemented
    if not len(known_axes):
        return ct
    order = np.argsort(known_axes % len(x.shape))
    starts = starts if (np.diff(order) > 0).all() else op.Gather(starts, order)
    return _place(op, node, ct, starts, (known_axes % len(x.shape))[order].tolist(), known_steps[order])


def _place(op: Builder, node: Primal, ct: Value, starts: Value, axes: list[int], steps: np.ndarray) -> Value:
    """ȳ between zeros: s−1 of them around each element for a step s, the rest before and after."""
    stride, backwards = np.abs(steps).astype(np.int64), (steps < 0).astype(np.int64)
    size, count = op.Gather(op.shape(node.x), axes), op.Gather(op.shape(node.y), axes)
    starts = op.cast(starts, np.dtype(np.int64))
    start = op.Where(op.Less(starts, np.int64(0)), op.Add(starts, size), starts)
    start = op.Max(op.Min(start, op.Sub(size, backwards)), np.int64(0))
    # Going backwards, the last element taken is the first in place.
    last = op.Mul(op.Sub(count, np.int64(1)), backwards * stride)
    begin = op.Max(op.Sub(start, last), np.int64(0))
    if backwards.any():
        turned = [a for a, b in zip(axes, backwards, strict=True) if b]
        ones = np.ones(len(turned), np.int64)
        ct = op.Slice(ct, -ones, ones * np.iinfo(np.int64).min, turned, -ones)
    within = op.Mod(begin, stride)
    if (stride > 1).any():
        ct = _spread(op, node, ct, within, axes, stride)
    before = op.Sub(begin, within)
    after = op.Sub(size, op.Add(before, op.Mul(count, stride)))
    return op.shaped_as(_pad(op, ct, before, after, axes), node.x)


def _spread(op: Builder, node: Primal, ct: Value, within: Value, axes: list[int], stride: np.ndarray) -> Value:
    """Each element along `axes` becomes `stride` of them: itself in place `within`, zeros around."""
    chosen = np.flatnonzero(stride > 1)
    inserted = [axes[c] + 1 + i for i, c in enumerate(chosen)]
    before = op.Gather(within, chosen)
    wide = _pad(op, op.Unsqueeze(ct, inserted), before, op.Sub(stride[chosen] - 1, before), inserted)
    factors = np.ones(op.rank(ct), np.int64)
    factors[axes] = stride
    return op.Reshape(wide, op.Mul(op.shape(node.y), factors))


def _pad(op: Builder, value: Value, before: Value, after: Value, axes: list[int]) -> Value:
    """`value` with zeros before and after it along `axes`; negative counts crop."""
    return op.Pad(value, op.Concat(before, after, axis=0), 0.0, axes)
