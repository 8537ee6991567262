"""Gather, Scatter and their kin: cotangents go back to the places that the indices name."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, part, vjp

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)


def scatter_add(op: Builder, data: Value, indices: Value, updates: Value, axis: int | None) -> Value:
    """`data` with `updates` added at `indices`: along `axis`, or at N-dimensional ones (ScatterND) for None."""
    if axis is None:
        result = op.ScatterND(data, op.cast(indices, INT64), updates, reduction="add")
    else:
        result = op.ScatterElements(data, indices, updates, axis=axis, reduction="add")
    return op.shaped_as(result, data)


@part("Gather", "Compress", "STFT")
def place_along(op: Builder, node: Primal, ct: Value, indices: Value, axis: int) -> Value:
    """Zeros shaped as x, plus ȳ at `indices` of `axis`; ȳ has the axes of `indices` in place of `axis`."""
    x = node.x
    rank, index_rank = op.rank(x), op.rank(indices)
    # To the front: (…indices, …the other axes), added into (size, …the other axes).
    moved = list(range(axis, axis + index_rank))
    others = [a for a in range(rank - 1 + index_rank) if a not in moved]
    updates = op.Transpose(ct, perm=moved + others)
    rest = [a for a in range(rank) if a != axis]
    shape = op.Gather(op.shape(x), [axis, *rest])
    zeros = op.Expand(op.scalar(0, ct), shape)
    added = scatter_add(op, zeros, op.Unsqueeze(indices, [index_rank]), updates, None)
    return op.shaped_as(op.Transpose(added, perm=np.argsort([axis, *rest]).tolist()), x)


@vjp("Gather")
def gather_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x at indices along `axis`   ⇒   x̄ = Σ ȳ of each index at its place"""
    return place_along(op, node, ct, node.inputs[1], node.attr("axis") % op.rank(node.x))


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
    """y = x, u at indices   ⇒   x̄ = ȳ, 0 at the indices; ū = ȳ at the indices; sums, products, extrema: over all"""
    return _scattered(op, node, ct, _Places(op, node.inputs[1], node.attr("axis")))


@vjp("ScatterND", since=11)
def scatter_nd_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x, u at N-dimensional indices   ⇒   x̄, ū as for ScatterElements"""
    return _scattered(op, node, ct, _Places(op, node.inputs[1], None))


class _Places:
    """Where updates go: `indices` along `axis`, or N-dimensional ones for None."""

    def __init__(self, op: Builder, indices: Value, axis: int | None) -> None:
        self.op, self.indices, self.axis = op, indices, axis

    def take(self, data: Value) -> Value:
        if self.axis is None:
            return self.op.GatherND(data, self.indices)
        return self.op.GatherElements(data, self.indices, axis=self.axis)

    def put(self, data: Value, updates: Value, reduction: str) -> Value:
        if self.axis is None:
            return self.op.ScatterND(data, self.indices, updates, reduction=reduction)
        return self.op.ScatterElements(data, self.indices, updates, axis=self.axis, reduction=reduction)


def _scattered(op: Builder, node: Primal, ct: Value, places: _Places) -> tuple[Cotangent, ...]:
    """By the reduction: nothing and sums here, products and extrema below."""
    how = node.attr("reduction")
    if how in ("max", "min"):
        return _scattered_extremum(op, node, ct, places)
    if how == "mul":
        return _scattered_product(op, node, ct, places)
    x_bar = ct
    if how == "none" and node.needs(0):
        x_bar = places.put(ct, op.zeros_like(node.inputs[2], ct), "none")
    return x_bar, None, places.take(ct) if node.needs(2) else None


def _scattered_product(op: Builder, node: Primal, ct: Value, places: _Places) -> tuple[Cotangent, ...]:
    """ȳ Π of the other factors; of every product are known that of the factors that are not 0, and how many are."""
    x, _, updates = node.inputs
    none_x, none_u = (op.Equal(v, 0.0) for v in (x, updates))
    rest_x, rest_u = op.Where(none_x, op.scalar(1, x), x), op.Where(none_u, op.scalar(1, updates), updates)
    product = places.put(rest_x, rest_u, "mul")
    zero_x, zero_u = op.cast(none_x, FLOAT32), op.cast(none_u, FLOAT32)
    zeros = places.put(zero_x, zero_u, "add")

    def others(total: Value, own: Value, count: Value, zero: Value) -> Value:
        return op.Where(op.Equal(op.Sub(count, zero), 0.0), op.Div(total, own), 0.0)

    x_bar = op.Mul(ct, others(product, rest_x, zeros, zero_x))
    u_bar = op.Mul(places.take(ct), others(places.take(product), rest_u, places.take(zeros), zero_u))
    return x_bar, None, u_bar


def _scattered_extremum(op: Builder, node: Primal, ct: Value, places: _Places) -> tuple[Cotangent, ...]:
    """ȳ ⊙ 1[x = y] / number of ties"""
    x, _, updates = node.inputs
    y = node.outcome(op)
    chosen_x, chosen_u = op.Equal(x, y), op.Equal(updates, places.take(y))
    ties = places.put(op.cast(chosen_x, FLOAT32), op.cast(chosen_u, FLOAT32), "add")
    share = op.Div(ct, op.cast(ties, ct.dtype))
    return op.Where(chosen_x, share, 0.0), None, op.Where(chosen_u, places.take(share), 0.0)


@vjp("TensorScatter", since=24)
def tensor_scatter_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a cache with u written from `write_indices` on   ⇒   x̄ = ȳ, 0 where it was written; ū = ȳ there"""
    cache, update, starts = node.inputs
    rank = op.rank(cache)
    axis = node.attr("axis") % rank
    count = op.Squeeze(op.shape(update, axis, axis + 1), [0])
    line = op.Reshape(op.Range(np.int64(0), count, np.int64(1)), [-1] + [1] * (rank - axis - 1))
    if starts is not None:
        line = op.Add(line, op.Reshape(starts, [-1] + [1] * (rank - 1)))
    if node.attr("mode") == "circular":
        line = op.Mod(line, op.shape(cache, axis, axis + 1))
    places = _Places(op, op.Expand(line, op.shape(update)), axis)
    return places.put(ct, op.zeros_like(update, ct), "none"), places.take(ct) if node.needs(1) else None


@vjp("OneHot", since=9)
def one_hot_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = on at the index of each, off elsewhere   ⇒   values̄ = (Σ ȳ where off, Σ ȳ where on)"""
    indices, depth, _ = node.inputs
    on = op.OneHot(indices, depth, op.constant(np.array([0, 1], ct.dtype)), axis=node.attr("axis"))
    chosen = op.Greater(on, 0.0)
    parts = [op.ReduceSum(op.Where(mask, ct, 0.0), keepdims=0) for mask in (op.Not(chosen), chosen)]
    return None, None, op.Concat(*(op.Reshape(p, [1]) for p in parts), axis=0)


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
    """y = the slices of x that a condition selects   ⇒   x̄ = ȳ at their places, 0 elsewhere"""
    chosen = op.Squeeze(op.NonZero(node.inputs[1]), [0])
    axis = node.attr("axis")
    if axis is not None:
        return place_along(op, node, ct, chosen, axis % op.rank(node.x))
    flat = op.Expand(op.scalar(0, ct), op.Reshape(op.ReduceProd(op.shape(node.x), keepdims=0), [1]))
    return op.reshape_like(scatter_add(op, flat, chosen, ct, 0), node.x)


@vjp("ReverseSequence")
def reverse_sequence_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x with the first lᵢ steps of each row reversed   ⇒   x̄ = ȳ reversed in the same way"""
    axes = {"batch_axis": node.attr("batch_axis"), "time_axis": node.attr("time_axis")}
    return op.ReverseSequence(ct, node.inputs[1], **axes)


@vjp("MaxUnpool", since=9)
def max_unpool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x at indices into the flattened y, 0 elsewhere   ⇒   x̄ = ȳ at the indices"""
    return op.Gather(op.Reshape(ct, [-1]), node.inputs[1])
