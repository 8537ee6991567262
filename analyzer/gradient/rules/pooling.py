"""Pools: the cotangent of a window goes to its maximum, or is shared out over it."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Graph, Node, Primal, Value, part, vjp
from analyzer.gradient.rules.convolution import Windows
from analyzer.gradient.rules.elementwise import masked, where
from analyzer.gradient.rules.indexing import scatter_add


def _spatial(op: Builder, x: Value) -> list[int]:
    return list(range(2, op.rank(x)))


@vjp("MaxPool", since=8)
def max_pool_vjp(op: Builder, node: Primal, ct: Value, *_: Cotangent) -> Cotangent:
    """y = max of each window   ⇒   x̄ = Σ ȳ over the windows whose first maximum it is (unpooling with the switches)"""
    windows = Windows(op, node)
    apart = all(reach <= stride for reach, stride in zip(windows.reach, windows.strides, strict=True))
    return unpool(op, max_pool_switches(op, node.node), ct, node.x, apart)


def max_pool_switches(op: Builder, node: Node) -> Value:
    """Where the first maximum of each window lies: (N, C, …) int64, indices into x laid out flat."""
    attrs = {k: v for k, v in node.attrs.items() if k != "storage_order" and v is not None}
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        attrs.pop("pads", None)
    _, switches = op.MaxPool(node.inputs[0], outputs=2, **attrs)
    return switches


def unpool(op: Builder, switches: Value, ct: Value, x: Value, apart: bool = False) -> Value:
    """x̄[switches] = Σ ȳ, 0 elsewhere; where windows are apart, no place is named twice and nothing is added"""
    flat = op.Expand(op.scalar(0, ct), op.Reshape(_count(op, x), [1]))
    places, values = op.Reshape(switches, [-1]), op.Reshape(ct, [-1])
    laid = op.ScatterElements(flat, places, values, axis=0) if apart else scatter_add(op, flat, places, values, axis=0)
    return op.reshape_like(laid, x)


def _count(op: Builder, x: Value) -> Value:
    """Number of elements, int64."""
    return op.ReduceProd(op.shape(x), keepdims=0)


@vjp("AveragePool", since=7)
def average_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = mean of each window   ⇒   x̄ = Σ ȳ / n over the windows it is in, n the number of elements averaged"""
    windows = Windows(op, node)
    return share_out(op, node, op.Div(ct, _counts(op, node, windows)), windows)


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


@part("AveragePool", "LpPool")
def share_out(op: Builder, node: Primal, ct: Value, windows: Windows) -> Value:
    """The sum, at each element of x, of ȳ over the windows it is in; every channel by itself, as pictures of one."""
    flat = op.Reshape(ct, op.Concat(op.value([-1, 1]), windows.sizes(ct), axis=0))
    assert windows.kernel is not None
    ones = op.constant(np.ones((1, 1, *windows.kernel), ct.dtype))
    attrs = {"kernel_shape": windows.kernel, "strides": windows.strides, "dilations": windows.dilations}
    spread = op.ConvTranspose(flat, ones, **attrs)
    extent = windows.sizes(spread)
    laid = op.Reshape(spread, op.Concat(op.shape(node.x, 0, 2), extent, axis=0))
    return windows.place(laid, extent, node.x)


def _overflows(graph: Graph, node: Node) -> bool:
    """Whether y¹⁻ᵖ may be infinite for a y that is not 0."""
    return (node.attrs.get("p") or 2) > 2


@vjp("LpPool", since=11, pole=_overflows)
def lp_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = (Σ |x|ᵖ)^(1/p) over each window   ⇒   x̄ = sign x |x|ᵖ⁻¹ Σ ȳ y¹⁻ᵖ over the windows, 0 where y = 0"""
    p = node.attr("p")
    per_window = ct if p == 1 else where(op, op.Greater(node.y, 0.0), op.Mul(ct, op.Pow(node.y, float(1 - p))))
    return _with_slope(op, node.x, p, share_out(op, node, per_window, Windows(op, node)))


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
