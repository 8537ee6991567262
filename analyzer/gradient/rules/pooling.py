"""Pools: the cotangent of a window goes to its maximum, or is shared out over it."""

from __future__ import annotations

import functools
import math

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Graph, Node, Primal, Value, vjp
from analyzer.gradient.rules.convolution import Windows, repeated
from analyzer.gradient.rules.elementwise import confined, masked, where
from analyzer.gradient.rules.indexing import scatter_add


def _spatial(op: Builder, x: Value) -> list[int]:
    return list(range(2, op.rank(x)))


@vjp("MaxPool", since=8)
def max_pool_vjp(op: Builder, node: Primal, ct: Value, *_: Cotangent) -> Cotangent:
    """y = max of each window   ⇒   x̄ = Σ ȳ of the windows whose first maximum it is (unpooling with the switches)"""
    return unpool(op, max_pool_switches(op, node.node), ct, node.x)


def max_pool_switches(op: Builder, node: Node) -> Value:
    """Where the first maximum of each window lies: (N, C, …) int64, indices into x laid out flat."""
    attrs = {k: v for k, v in node.attrs.items() if k != "storage_order" and v is not None}
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        attrs.pop("pads", None)
    _, switches = op.MaxPool(node.inputs[0], outputs=2, **attrs)
    return switches


def unpool(op: Builder, switches: Value, ct: Value, x: Value) -> Value:
    """x̄[switches] = Σ ȳ, 0 elsewhere"""
    flat = op.Expand(op.scalar(0, ct), op.Reshape(_count(op, x), [1]))
    laid = scatter_add(op, flat, op.Reshape(switches, [-1]), op.Reshape(ct, [-1]), axis=0)
    return op.reshape_like(laid, x)


def max_pool_by_offsets_vjp(op: Builder, node: Primal, ct: Value, *_: Cotangent) -> Cotangent:
    """y = max of each window   ⇒   x̄ = Σ ȳ of the windows whose first maximum it is, by a mask per window offset

    Without MaxPool's Indices and without adding at indices, for runtimes that have neither. It holds k values per
    element of y, k the size of a window.
    """
    windows = Windows(op, node)
    assert windows.kernel is not None
    x = op.cast(node.x, ct.dtype)
    count, axes = math.prod(windows.kernel), list(range(2, 2 + windows.rank))
    ones = op.value([1] * windows.rank)
    # Every channel by itself, laid out from the first window's begin to the last one's end.
    steps = op.Mul(op.Sub(windows.sizes(node.y), ones), op.value(windows.strides))
    extent = op.Add(steps, op.value(windows.reach))
    after = op.Sub(op.Sub(extent, windows.sizes(x)), windows.begin())
    flat = op.Reshape(x, op.Concat(op.value([-1, 1]), windows.sizes(x), axis=0))
    lowest = float(np.finfo(ct.dtype).min)
    padded = op.Pad(flat, op.Concat(windows.begin(), after, axis=0), lowest, axes)
    seen = []
    for offset in np.ndindex(*windows.kernel):
        begin = op.value([o * d for o, d in zip(offset, windows.dilations, strict=True)])
        seen.append(op.Slice(padded, begin, op.Add(op.Add(begin, steps), ones), axes, windows.strides))
    shape = op.Concat(op.value([-1, 1]), windows.sizes(ct), axis=0)
    # Of equal values the first: ArgMax would leave that to the runtime.
    offsets = op.constant(np.arange(count).reshape(1, -1, *[1] * windows.rank).astype(ct.dtype))
    each = op.Concat(*seen, axis=1)
    found = op.Equal(each, op.ReduceMax(each, [1]))
    first = op.ReduceMin(op.Where(found, offsets, float(count)), [1])
    chosen = where(op, op.Equal(offsets, first), op.Reshape(ct, shape))
    kernel = op.constant(np.eye(count).reshape(count, 1, *windows.kernel).astype(ct.dtype))

    attrs = {"kernel_shape": windows.kernel, "strides": windows.strides, "dilations": windows.dilations}
    laid = confined(op, node, chosen, functools.partial(op.ConvTranspose, **attrs), kernel)
    return windows.place(op.Reshape(laid, op.Concat(op.shape(x, 0, 2), extent, axis=0)), extent, x)


def _count(op: Builder, x: Value) -> Value:
    """Number of elements, int64."""
    return op.ReduceProd(op.shape(x), keepdims=0)


@vjp("AveragePool", since=7)
def average_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = mean of each window   ⇒   x̄ = Σ ȳ / n over the windows it is in, n the elements that a window averages"""
    windows = Windows(op, node)
    if not node.attr("ceil_mode") and windows.pads is not None and not any(windows.pads):
        return share_out(op, windows, ct, node.x, mean=True)
    return share_out(op, windows, op.Div(ct, _counts(op, node, windows)), node.x)


def _counts(op: Builder, node: Primal, windows: Windows) -> Value:
    """How many elements each window averages: (1, 1, …) in the type of x."""
    assert windows.kernel is not None
    axes = list(range(2, 2 + windows.rank))
    sizes = windows.sizes(node.x)
    ones = op.Expand(op.scalar(1, node.x), op.Concat(op.value([1, 1]), sizes, axis=0))
    steps = op.Mul(op.Sub(windows.sizes(node.y), op.value([1] * windows.rank)), op.value(windows.strides))
    reached = op.Add(steps, op.value(windows.reach))
    before = windows.begin()
    if windows.pads is not None and node.attr("count_include_pad"):
        ones = op.Pad(ones, op.value(windows.pads), 1.0, axes)
        padded = op.Add(
            sizes, op.value([a + b for a, b in zip(windows.pads, windows.pads[windows.rank :], strict=False)])
        )
        before = op.value([0] * windows.rank)
        after = op.Sub(reached, padded)
    else:
        after = op.Sub(op.Sub(reached, sizes), before)
    ones = op.Pad(ones, op.Concat(before, after, axis=0), 0.0, axes)
    kernel = op.constant(np.ones((1, 1, *windows.kernel), node.x.dtype))
    return op.Conv(ones, kernel, kernel_shape=windows.kernel, strides=windows.strides, dilations=windows.dilations)


def share_out(op: Builder, windows: Windows, ct: Value, x: Value, mean: bool = False) -> Value:
    """The sum, at each element of x, of ȳ over the windows it is in; divided by the window's size for a `mean`."""
    kernel = windows.kernel
    assert kernel is not None
    count = math.prod(kernel)
    if set(windows.strides) == {1} and windows.pads is not None and set(windows.dilations) == {1}:
        pads = [k - 1 - p for k, p in zip(kernel * 2, windows.pads, strict=True)]
        if min(pads) >= 0 and all(p < k for p, k in zip(pads, kernel * 2, strict=True)):
            result = op.AveragePool(ct, kernel_shape=kernel, strides=windows.strides, pads=pads, count_include_pad=1)
            return op.shaped_as(result if mean else op.Mul(result, float(count)), x)
    ct = op.Mul(ct, 1.0 / count) if mean else ct
    if kernel == windows.strides and set(windows.dilations) == {1}:
        laid = repeated(op, ct, kernel)
        if laid is None:
            axes = [3 + 2 * i for i in range(windows.rank)]
            repeat = np.ones(2 + 2 * windows.rank, np.int64)
            repeat[axes] = kernel
            factors = op.value([1, 1, *kernel])
            laid = op.Reshape(op.Expand(op.Unsqueeze(ct, axes), repeat), op.Mul(op.shape(ct), factors))
        extent = op.Mul(windows.sizes(ct), op.value(kernel))
    else:
        # Every channel by itself: as pictures of one channel.
        flat = op.Reshape(ct, op.Concat(op.value([-1, 1]), windows.sizes(ct), axis=0))
        ones = op.constant(np.ones((1, 1, *kernel), ct.dtype))
        spread = op.ConvTranspose(flat, ones, kernel_shape=kernel, strides=windows.strides, dilations=windows.dilations)
        extent = windows.sizes(spread)
        laid = op.Reshape(spread, op.Concat(op.shape(x, 0, 2), extent, axis=0))
    return windows.place(laid, extent, x)


def _overflows(graph: Graph, node: Node) -> bool:
    """Whether y¹⁻ᵖ may be infinite for a y that is not 0."""
    return (node.attrs.get("p") or 2) > 2


@vjp("LpPool", since=11, pole=_overflows)
def lp_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = (Σ |x|ᵖ)^(1/p) over each window   ⇒   x̄ = sign x |x|ᵖ⁻¹ Σ ȳ y¹⁻ᵖ over the windows, 0 where y = 0"""
    p = node.attr("p")
    per_window = ct if p == 1 else where(op, op.Greater(node.y, 0.0), op.Mul(ct, op.Pow(node.y, float(1 - p))))
    return _with_slope(op, node.x, p, share_out(op, Windows(op, node), per_window, node.x))


def _with_slope(op: Builder, x: Value, p: int, ct: Value) -> Value:
    """ȳ sign x |x|ᵖ⁻¹; 0 where that slope is nothing, also where ȳ is not finite"""
    if p <= 2:
        return op.Mul(op.Sign(x) if p == 1 else x, ct)
    slope = op.Pow(op.Abs(x), float(p - 1))
    return where(op, op.Greater(slope, 0.0), op.Mul(op.Mul(op.Sign(x), slope), ct))


@vjp("GlobalAveragePool")
def global_average_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = mean of each channel   ⇒   x̄ = ȳ / n at every element"""
    return op.expand_like(op.Div(ct, op.size(node.x, _spatial(op, node.x))), node.x)


@vjp("GlobalMaxPool")
def global_max_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max of each channel   ⇒   x̄ = ȳ ⊙ 1[x = y] / number of ties"""
    chosen = op.Equal(node.x, node.outcome(op))
    ties = op.ReduceSum(op.cast(chosen, ct.dtype), _spatial(op, node.x), keepdims=1)
    return masked(op, node, chosen, op.Div(ct, ties))


@vjp("GlobalLpPool", since=2, pole=_overflows)
def global_lp_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = (Σ |x|ᵖ)^(1/p) of each channel   ⇒   x̄ = ȳ sign x |x|ᵖ⁻¹ y¹⁻ᵖ, 0 where y = 0"""
    p = node.attr("p")
    scaled = ct if p == 1 else where(op, op.Greater(node.y, 0.0), op.Mul(ct, op.Pow(node.y, float(1 - p))))
    return _with_slope(op, node.x, p, op.expand_like(scaled, node.x))
