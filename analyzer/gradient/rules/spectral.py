"""Fourier transforms. They are linear: the cotangent is transformed back, not divided by the length."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.indexing import place_along

TWO = np.int64(2)


@vjp("DFT", since=20)
def dft_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = F x, x truncated or zero-padded to n   ⇒   x̄ = Fᴴ ȳ, and F ȳ / n for y = Fᴴ x / n; half spectra completed"""
    x, length, axis = node.inputs
    ct = _ranked(ct, op.rank(x))
    axis = op.value([-2]) if axis is None else op.Reshape(axis, [1])
    axis = op.Where(op.Less(axis, np.int64(0)), op.Add(axis, np.int64(op.rank(x))), axis)
    before, after = (op.Gather(op.shape(v), axis) for v in (x, ct))
    if node.attr("inverse"):
        result = op.Div(_ranked(op.DFT(ct, None, op.Squeeze(axis, [0])), op.rank(ct)), op.cast(after, ct.dtype))
        if node.attr("onesided"):
            result = op.Mul(result, _half_weights(op, ct, axis, after))
        return op.shaped_as(_cut_last(op, _fit(op, result, op.Sub(before, after), axis), x), x)
    count = after
    if node.attr("onesided"):
        count = before if length is None else op.Reshape(length, [1])
    return op.shaped_as(_cut_last(op, _fit(op, _back(op, ct, count, axis), op.Sub(before, count), axis), x), x)


def _back(op: Builder, ct: Value, count: Value, axis: Value) -> Value:
    """Fᴴ ȳ, (…, n, 2): of the first bins of n, the others being 0."""
    full = _fit(op, ct, op.Sub(count, op.Gather(op.shape(ct), axis)), axis)
    return op.Mul(_ranked(op.DFT(full, None, op.Squeeze(axis, [0]), inverse=1), op.rank(ct)), op.cast(count, ct.dtype))


def _half_weights(op: Builder, ct: Value, axis: Value, count: Value) -> Value:
    """How often each bin of a half spectrum stands in the whole: once at 0 and n/2, twice between, not behind."""
    line = op.Range(np.int64(0), op.Squeeze(count, [0]), np.int64(1))
    weights = op.Sub(op.Sign(op.Sub(op.Add(count, np.int64(1)), op.Mul(line, TWO))), np.int64(-1))
    once = op.Or(op.Equal(line, np.int64(0)), op.Equal(op.Mul(line, TWO), count))
    weights = op.cast(op.Where(once, op.value([1]), op.Max(op.Min(weights, TWO), np.int64(0))), ct.dtype)
    places = op.Equal(op.value(list(range(op.rank(ct)))), axis)
    return op.Reshape(weights, op.Where(places, op.value([-1]), op.value([1])))


def _fit(op: Builder, value: Value, more: Value, axis: Value) -> Value:
    """Zeros at the end of an axis, or elements cut off there."""
    known = op.const(more)
    if known is not None and not known.any():
        return value
    return _ranked(op.Pad(value, op.Concat(op.value([0]), more, axis=0), 0.0, axis), op.rank(value))


def _ranked(value: Value, rank: int) -> Value:
    """`value`, known to have `rank` axes: along an axis given at run time no sizes are known."""
    if value.shape is None:
        value.shape = [None] * rank
    return value


def _cut_last(op: Builder, value: Value, x: Value) -> Value:
    """Of (real, imaginary) what x has."""
    return op.Slice(value, [0], op.shape(x, op.rank(x) - 1), [op.rank(value) - 1])


@vjp("STFT", since=17)
def stft_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = F (w ⊙ frames of x)   ⇒   frames: w ⊙ Fᴴ ȳ, summed where they overlap; w̄ = Σ frames ⊙ Fᴴ ȳ"""
    x, step, window, length = node.inputs
    ct = _ranked(ct, 4)
    count = op.Reshape(length, [1]) if length is not None else op.shape(window)
    frames_bar = _cut_last(op, _back(op, ct, count, op.value([2])), x)
    starts = op.Range(np.int64(0), op.Squeeze(op.shape(ct, 1, 2), [0]), np.int64(1))
    starts = op.Mul(op.Unsqueeze(starts, [1]), op.cast(step, np.dtype(np.int64)))
    places = op.Add(starts, op.Range(np.int64(0), op.Squeeze(count, [0]), np.int64(1)))
    column = None if window is None else op.Unsqueeze(window, [1])
    window_bar = None
    if window is not None and node.needs(2):
        products = op.Mul(op.Gather(x, places, axis=1), frames_bar)
        window_bar = op.reshape_like(op.ReduceSum(products, [0, 1, 3], keepdims=0), window)
    weighted = frames_bar if column is None else op.Mul(frames_bar, column)
    return place_along(op, node, weighted, places, 1), None, window_bar
