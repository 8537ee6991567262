"""Pools undone by pools or copies, and MaxPool without its Indices."""

from __future__ import annotations

import functools
import math

import numpy as np

from analyzer.gradient.idioms.convolution import repeated
from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, idiom
from analyzer.gradient.rules.convolution import Windows
from analyzer.gradient.rules.elementwise import confined, where
from analyzer.gradient.rules.pooling import average_pool_vjp, max_pool_vjp, share_out

# ---- Averages ----


@idiom(average_pool_vjp)
def average_of_averages(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """With strides of 1 and no padding x̄ is an AveragePool of ȳ."""
    windows = Windows(op, node)
    found = _averaged(op, ct, windows) if _is_whole(node, windows) else None
    return NotImplemented if found is None else op.shaped_as(found, node.x)


@idiom(average_pool_vjp)
def average_of_whole_windows(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """Without padding n is a number: nothing is counted when the model runs."""
    windows = Windows(op, node)
    if not _is_whole(node, windows):
        return NotImplemented
    return share_out(op, node, op.Mul(ct, 1.0 / math.prod(windows.kernel or ())), windows)


@idiom(share_out)
def by_average_pool(op: Builder, node: Primal, ct: Value, windows: Windows) -> Value:
    """With strides of 1 the sum over windows is an AveragePool times their size, faster than a ConvTranspose."""
    found = _averaged(op, ct, windows)
    if found is None:
        return NotImplemented
    return op.shaped_as(op.Mul(found, float(math.prod(windows.kernel or ()))), node.x)


@idiom(share_out)
def by_copies(op: Builder, node: Primal, ct: Value, windows: Windows) -> Value:
    """Windows side by side: every value of ȳ is copied over its own, in float32 by Resize, which onnxruntime computes
    in its blocked layout."""
    kernel = windows.kernel
    if kernel is None or kernel != windows.strides or set(windows.dilations) != {1}:
        return NotImplemented
    laid = repeated(op, ct, kernel)
    if laid is None:
        axes = [3 + 2 * i for i in range(windows.rank)]
        repeat = np.ones(2 + 2 * windows.rank, np.int64)
        repeat[axes] = kernel
        factors = op.value([1, 1, *kernel])
        laid = op.Reshape(op.Expand(op.Unsqueeze(ct, axes), repeat), op.Mul(op.shape(ct), factors))
    return windows.place(laid, op.Mul(windows.sizes(ct), op.value(kernel)), node.x)


def _is_whole(node: Primal, windows: Windows) -> bool:
    """Whether every window lies within x."""
    return not node.attr("ceil_mode") and windows.pads is not None and not any(windows.pads)


def _averaged(op: Builder, ct: Value, windows: Windows) -> Value | None:
    """The mean of ȳ over the windows that each element of x is in; None where no AveragePool gives it."""
    kernel, pads = windows.kernel, windows.pads
    if kernel is None or pads is None or set(windows.strides) != {1} or set(windows.dilations) != {1}:
        return None
    around = [k - 1 - p for k, p in zip(kernel * 2, pads, strict=True)]
    if min(around) < 0 or any(p >= k for p, k in zip(around, kernel * 2, strict=True)):
        return None
    return op.AveragePool(ct, kernel_shape=kernel, strides=windows.strides, pads=around, count_include_pad=1)


# ---- Maxima ----


@idiom(max_pool_vjp, "tensorrt")
def maxima_by_offsets(op: Builder, node: Primal, ct: Value, *_: Cotangent) -> Cotangent:
    """A mask per window offset: TensorRT has no Indices of MaxPool and adds at indices by a plugin only. It takes k
    values per element of y, k the size of a window."""
    windows = Windows(op, node)
    assert windows.kernel is not None
    x, count, ones = op.cast(node.x, ct.dtype), math.prod(windows.kernel), op.value([1] * windows.rank)
    steps = op.Mul(op.Sub(windows.sizes(node.y), ones), op.value(windows.strides))
    extent = op.Add(steps, op.value(windows.reach))
    seen = _at_offsets(op, windows, x, steps, extent)
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


def _at_offsets(op: Builder, windows: Windows, x: Value, steps: Value, extent: Value) -> list[Value]:
    """What every window has at each of its k places: (N C, 1, …), every channel by itself.

    Args:
        steps: from the first window's begin to the last one's; extent: to the last one's end.
    """
    assert windows.kernel is not None
    axes, ones = list(range(2, 2 + windows.rank)), op.value([1] * windows.rank)
    after = op.Sub(op.Sub(extent, windows.sizes(x)), windows.begin())
    flat = op.Reshape(x, op.Concat(op.value([-1, 1]), windows.sizes(x), axis=0))
    lowest = float(np.finfo(x.dtype).min)
    padded = op.Pad(flat, op.Concat(windows.begin(), after, axis=0), lowest, axes)
    seen = []
    for offset in np.ndindex(*windows.kernel):
        begin = op.value([o * d for o, d in zip(offset, windows.dilations, strict=True)])
        seen.append(op.Slice(padded, begin, op.Add(op.Add(begin, steps), ones), axes, windows.strides))
    return seen
