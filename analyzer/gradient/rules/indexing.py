"""Gather, Scatter and their kin: cotangents go back to the places that the indices name."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp

HALF = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)


def scatter_add(op: Builder, data: Value, indices: Value, updates: Value, axis: int | None) -> Value:
    """`data` with `updates` added at `indices`: along `axis`, or at N-dimensional ones (ScatterND) for None.

    onnxruntime adds no float16 on the CPU; such sums are made in float32.
    """
    dtype = updates.dtype
    if dtype == HALF:
        data, updates = op.cast(data, FLOAT32), op.cast(updates, FLOAT32)
    if axis is None:
        result = op.ScatterND(data, indices, updates, reduction="add")
    else:
        result = op.ScatterElements(data, indices, updates, axis=axis, reduction="add")
    return op.cast(op.shaped_as(result, data), dtype)


def place_along(op: Builder, ct: Value, indices: Value, axis: int, x: Value) -> Value:
    """Zeros shaped as x, plus ȳ at `indices` of `axis`; ȳ has the axes of `indices` in place of `axis`."""
    rank, index_rank = op.rank(x), op.rank(indices)
    known = op.const(indices)
    if known is not None and known.size == 1:
        return _place_one(op, ct, int(known.item()), axis, x, index_rank)
    size = op.dim(x, axis)
    if known is not None and known.ndim == 1 and size == known.size and len(set((known % size).tolist())) == size:
        return op.Gather(ct, np.argsort(known % size), axis=axis)
    # To the front: (…indices, …the other axes), added into (size, …the other axes).
    moved = list(range(axis, axis + index_rank))
    others = [a for a in range(rank - 1 + index_rank) if a not in moved]
    updates = op.Transpose(ct, perm=moved + others)
    rest = [a for a in range(rank) if a != axis]
    shape = op.Gather(op.shape(x), [axis, *rest])
    zeros = op.Expand(op.scalar(0, ct), shape)
    added = scatter_add(op, zeros, op.Unsqueeze(indices, [index_rank]), updates, None)
    return op.shaped_as(op.Transpose(added, perm=np.argsort([axis, *rest]).tolist()), x)


def _place_one(op: Builder, ct: Value, index: int, axis: int, x: Value, index_rank: int) -> Value:
    """ȳ at one index between zeros."""
    if index_rank == 0:
        ct = op.Unsqueeze(ct, [axis])
    elif index_rank > 1:
        ct = op.Squeeze(ct, list(range(axis + 1, axis + index_rank)))
    size = op.shape(x, axis, axis + 1)
    one = op.value([index])
    before = one if index >= 0 else op.Add(size, one)
    after = op.Sub(op.Sub(size, before), op.value([1]))
    known = op.const(op.Concat(before, after, axis=0))
    if known is None:
        return op.shaped_as(op.Pad(ct, op.Concat(before, after, axis=0), 0.0, [axis]), x)
    pads = np.zeros((2, op.rank(x)), np.int64)
    pads[:, axis] = known
    return op.shaped_as(op.Pad(ct, pads.ravel(), 0.0) if pads.any() else ct, x)


@vjp("Gather")
def gather_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x at indices along `axis`   ⇒   x̄ = Σ ȳ of each index at its place"""
    return place_along(op, ct, node.inputs[1], node.attr("axis") % op.rank(node.x), node.x)


@vjp("GatherElements")
def gather_elements_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y_ij = x_(i,index_ij)   ⇒   x̄ = Σ ȳ of each index at its place"""
    return scatter_add(op, op.zeros_like(node.x, ct), node.inputs[1], ct, node.attr("axis"))


@vjp("GatherND", since=12)
def gather_nd_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x at N-dimensional indices   ⇒   x̄ = Σ ȳ of each index at its place"""
    indices = node.inputs[1]
    batched = node.attr("batch_dims")
    if batched:
        shape = op.shape(indices, 0, -1)
        for axis in reversed(range(batched)):
            size = op.Squeeze(op.shape(indices, axis, axis + 1), [0])
            line = op.Range(np.int64(0), size, np.int64(1))
            line = op.Reshape(line, [-1] + [1] * (op.rank(indices) - axis - 1))
            column = op.Expand(line, op.Concat(shape, op.value([1]), axis=0))
            indices = op.Concat(column, indices, axis=-1)
    return scatter_add(op, op.zeros_like(node.x, ct), indices, ct, None)


@vjp("ScatterElements", since=11)
def scatter_elements_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x, u at indices   ⇒   x̄ = ȳ, 0 at the indices (x̄ = ȳ where u is added); ū = ȳ at the indices"""
    _, indices, updates = node.inputs
    axis, how = node.attr("axis"), node.attr("reduction")
    if how not in ("none", "add"):
        raise node.refuse(f"reduction={how!r}")
    x_bar = ct
    if how == "none" and node.needs(0):
        x_bar = op.ScatterElements(ct, indices, op.zeros_like(updates, ct), axis=axis)
    return x_bar, None, op.GatherElements(ct, indices, axis=axis) if node.needs(2) else None


@vjp("ScatterND", since=11)
def scatter_nd_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x, u at N-dimensional indices   ⇒   x̄ = ȳ, 0 at the indices (x̄ = ȳ where u is added); ū = ȳ at the indices"""
    _, indices, updates = node.inputs
    how = node.attr("reduction")
    if how not in ("none", "add"):
        raise node.refuse(f"reduction={how!r}")
    x_bar = ct
    if how == "none" and node.needs(0):
        x_bar = op.ScatterND(ct, indices, op.zeros_like(updates, ct))
    return x_bar, None, op.GatherND(ct, indices) if node.needs(2) else None


@vjp("TopK", since=10)
def top_k_vjp(op: Builder, node: Primal, ct: Cotangent, *_: Cotangent) -> Cotangent:
    """y = the k largest (smallest) along `axis`   ⇒   x̄ = ȳ at their places"""
    if ct is None:
        return None
    indices = node.outputs[1]
    if indices is None:
        _, indices = op.TopK(*node.inputs, outputs=2, axis=node.attr("axis"), largest=node.attr("largest"))
    return op.ScatterElements(op.zeros_like(node.x, ct), indices, ct, axis=node.attr("axis"))


@vjp("Trilu")
def trilu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = the triangle of x above (below) the k-th diagonal   ⇒   x̄ = the same triangle of ȳ"""
    return op.Trilu(ct, node.inputs[1], upper=node.attr("upper"))


@vjp("Compress")
def compress_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = the slices of x that a condition chooses   ⇒   x̄ = ȳ at their places, 0 elsewhere"""
    chosen = op.Squeeze(op.NonZero(node.inputs[1]), [0])
    axis = node.attr("axis")
    if axis is not None:
        return place_along(op, ct, chosen, axis % op.rank(node.x), node.x)
    flat = op.Expand(op.scalar(0, ct), op.Reshape(op.ReduceProd(op.shape(node.x), keepdims=0), [1]))
    return op.reshape_like(scatter_add(op, flat, chosen, ct, 0), node.x)


@vjp("ReverseSequence")
def reverse_sequence_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x with the first lᵢ steps of each row turned round   ⇒   x̄ = ȳ turned round likewise"""
    axes = {"batch_axis": node.attr("batch_axis"), "time_axis": node.attr("time_axis")}
    return op.ReverseSequence(ct, node.inputs[1], **axes)
