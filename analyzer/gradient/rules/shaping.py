"""Operators that move elements about: the cotangents are moved back."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.indexing import scatter_add

# ---- The same elements in the same order ----


@vjp("Reshape", since=5)
def reshape_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x, shaped differently   ⇒   x̄ = ȳ, shaped as x"""
    return op.reshape_like(ct, node.x)


@vjp("Flatten")
def flatten_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x as a matrix   ⇒   x̄ = ȳ, shaped as x"""
    return op.reshape_like(ct, node.x)


@vjp("Squeeze")
def squeeze_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x without axes of size 1   ⇒   x̄ = ȳ, shaped as x"""
    return op.reshape_like(ct, node.x)


@vjp("Unsqueeze")
def unsqueeze_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x with more axes of size 1   ⇒   x̄ = ȳ, shaped as x"""
    return op.reshape_like(ct, node.x)


# ---- Another order of the axes ----


@vjp("Transpose")
def transpose_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x with axes in the order `perm`   ⇒   x̄ = ȳ with axes in the inverse order"""
    perm = node.attr("perm")
    return op.Transpose(ct) if perm is None else op.Transpose(ct, perm=np.argsort(perm).tolist())


# ---- Copies: the pass sums over the axes that Expand stretched ----


@vjp("Expand", since=8)
def expand_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x broadcast to `shape`   ⇒   x̄ = Σ ȳ over the stretched axes"""
    return ct


@vjp("Tile", since=6)
def tile_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x repeated rᵢ times along each axis i   ⇒   x̄ = Σ ȳ over the repetitions"""
    known, rank = node.const(1), op.rank(node.x)
    repeated = [a for a in range(rank) if known is None or known[a] != 1]
    columns = op.Concat(op.Unsqueeze(node.inputs[1], [1]), op.Unsqueeze(op.shape(node.x), [1]), axis=1)
    kept = [i for a in range(rank) for i in ((2 * a, 2 * a + 1) if a in repeated else (2 * a + 1,))]
    parts = op.Reshape(ct, op.Gather(op.Reshape(columns, [-1]), kept))
    axes = [a + i for i, a in enumerate(repeated)]
    return op.shaped_as(op.ReduceSum(parts, axes, keepdims=0) if axes else parts, node.x)


# ---- Joining and cutting ----


@vjp("Concat", since=4)
def concat_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x₁ ‖ x₂ ‖ …   ⇒   x̄ᵢ = the part of ȳ at xᵢ"""
    axis = node.attr("axis") % op.rank(node.y)
    sizes = [op.shape(x, axis, axis + 1) for x in node.inputs]
    ends = [op.ReduceSum(op.Concat(*sizes[: i + 1], axis=0), keepdims=1) for i in range(len(sizes))]
    starts = [op.value([0]), *ends]
    return tuple(
        op.shaped_as(op.Slice(ct, starts[i], ends[i], [axis]), x) if node.needs(i) else None
        for i, x in enumerate(node.inputs)
    )


@vjp("Split", since=2)
def split_vjp(op: Builder, node: Primal, *cts: Cotangent) -> Cotangent:
    """y₁ ‖ y₂ ‖ … = x   ⇒   x̄ = ȳ₁ ‖ ȳ₂ ‖ …, zeros for unused parts"""
    axis = node.attr("axis") % op.rank(node.x)
    some = next(ct for ct in cts if ct is not None)
    made = [y if y is not None else some for y in node.outputs]
    parts = [op.zeros_like(y, some) if ct is None else ct for ct, y in zip(cts, made, strict=True)]
    return op.shaped_as(op.Concat(*parts, axis=axis), node.x)


@vjp("Slice", since=10)
def slice_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x[start : end : step]   ⇒   x̄ = ȳ at these places, zeros elsewhere"""
    # The same slice of a tensor of positions gives the origin of each element.
    x = node.x
    count = op.ReduceProd(op.shape(x), keepdims=0)
    positions = op.Reshape(op.Range(np.int64(0), count, np.int64(1)), op.shape(x))
    taken = op.Reshape(op.Slice(positions, *node.inputs[1:]), [-1])
    flat = op.Expand(op.scalar(0, ct), op.Unsqueeze(count, [0]))
    return op.reshape_like(op.ScatterElements(flat, taken, op.Reshape(ct, [-1]), axis=0), x)


@vjp("Pad", since=13)
def pad_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x between constants, or mirrored or repeated at its edges   ⇒   x̄ = Σ ȳ of every copy; c̄ = Σ ȳ around x"""
    x, constant = node.x, node.inputs[2]
    pads, axes = _pads_and_axes(op, node)
    if node.attr("mode") != "constant":
        return _fold_back(op, node, ct, pads, axes), None
    x_bar = op.shaped_as(op.Pad(ct, op.Neg(pads), 0.0, axes), x)
    c_bar = None
    if constant is not None and node.needs(2):
        # A negative pad crops: what it cut off is no part of x̄, nor was it of y.
        c_bar = op.Reshape(op.Sub(op.ReduceSum(ct, keepdims=0), op.ReduceSum(x_bar, keepdims=0)), op.shape(constant))
    return x_bar, None, c_bar


def _pads_and_axes(op: Builder, node: Primal) -> tuple[Value, list[int]]:
    """The pads and the axes that they are of: all of them where those of the node are known only when it runs."""
    _, pads, _, axes = node.inputs
    rank, known = op.rank(node.x), node.const(3)
    if axes is None:
        return pads, list(range(rank))
    if known is not None:
        return pads, [int(a) % rank for a in known]
    begin = op.Mod(op.cast(axes, np.dtype(np.int64)), np.int64(rank))
    places = op.Concat(begin, op.Add(begin, np.int64(rank)), axis=0)
    return op.ScatterElements(np.zeros(2 * rank, np.int64), places, pads, axis=0), list(range(rank))


def _fold_back(op: Builder, node: Primal, ct: Value, pads: Value, axes: list[int]) -> Value:
    """Padding the positions of each axis in the same way tells which element every copy is of."""
    known = op.const(pads)
    for place, axis in enumerate(axes):
        if known is not None and not known[place] and not known[place + len(axes)]:
            continue
        size = op.Gather(op.shape(node.x), np.int64(axis))
        line = op.Range(np.int64(0), size, np.int64(1))
        ends = op.Gather(pads, [place, place + len(axes)])
        source = op.Pad(line, ends, mode=node.attr("mode"))
        # Axes that are folded already have their size; the others are still as wide as ȳ.
        dims = [
            op.shape(node.x, a, a + 1) if a in axes[: place + 1] else op.shape(ct, a, a + 1) for a in range(op.rank(ct))
        ]
        order = [axis, *(a for a in range(op.rank(ct)) if a != axis)]
        zeros = op.Expand(op.scalar(0, ct), op.Concat(*(dims[a] for a in order), axis=0))
        added = scatter_add(op, zeros, op.Unsqueeze(source, [1]), op.Transpose(ct, perm=order), None)
        ct = op.Transpose(added, perm=np.argsort(order).tolist())
    return op.shaped_as(ct, node.x)


@vjp("DepthToSpace")
def depth_to_space_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = blocks of channels laid out in space   ⇒   x̄ = the blocks of ȳ as channels"""
    block = node.attr("blocksize")
    if node.attr("mode") != "CRD":
        return op.shaped_as(op.SpaceToDepth(ct, blocksize=block), node.x)
    height, width = op.shape(node.x, 2, 3), op.shape(node.x, 3, 4)
    b = op.value([block])
    parts = op.Reshape(ct, op.Concat(op.value([0, 0]), height, b, width, b, axis=0))
    return op.reshape_like(op.Transpose(parts, perm=[0, 1, 3, 5, 2, 4]), node.x)


@vjp("SpaceToDepth")
def space_to_depth_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = blocks of space laid out as channels   ⇒   x̄ = the channels of ȳ as blocks"""
    return op.shaped_as(op.DepthToSpace(ct, blocksize=node.attr("blocksize"), mode="DCR"), node.x)
