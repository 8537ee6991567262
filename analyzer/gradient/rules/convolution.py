"""Convolutions, and the windows that they and the pools share."""

from __future__ import annotations

import functools

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, part, vjp
from analyzer.gradient.rules.elementwise import confined


class Windows:
    """Where the windows of a Conv or pool lie: window p takes x at p·stride + k·dilation − begin, k < kernel.

    `pads` (begin…, end…) are known but where the file leaves them to the picture's size (SAME with strides).
    """

    def __init__(self, op: Builder, node: Primal, weight: Value | None = None) -> None:
        self.op, self.node, self.weight = op, node, weight
        self.rank = op.rank(node.x) - 2
        ones = [1] * self.rank
        self.kernel: list[int] | None = node.attr("kernel_shape")
        self.strides: list[int] = list(node.attr("strides", ones))
        self.dilations: list[int] = list(node.attr("dilations", ones))
        auto = node.attr("auto_pad", "NOTSET")
        same = auto.startswith("SAME")
        self.pads: list[int] | None = None if same else list(node.attr("pads") or [0] * 2 * self.rank)

    @property
    def reach(self) -> list[int]:
        """d (k − 1) + 1: what a window spans."""
        assert self.kernel is not None
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def span(self) -> Value:
        """`reach`, also where the weights and so the window's size come when the model runs."""
        op, ones = self.op, [1] * self.rank
        if self.kernel is not None or self.weight is None:
            return op.value(self.reach)
        steps = op.Sub(self.sizes(self.weight), op.value(ones))
        return op.Add(op.Mul(steps, op.value(self.dilations)), op.value(ones))

    def sizes(self, value: Value) -> Value:
        """The spatial part of its shape."""
        return self.op.shape(value, 2, 2 + self.rank)

    def begin(self) -> Value:
        """The padding before the first element of each axis."""
        op = self.op
        if self.pads is not None:
            return op.value(self.pads[: self.rank])
        steps = op.Mul(op.Sub(self.sizes(self.node.y), op.value([1] * self.rank)), op.value(self.strides))
        total = op.Sub(op.Add(steps, self.span()), self.sizes(self.node.x))
        total = op.Max(total, op.value([0] * self.rank))
        half = op.Div(total, op.value([2] * self.rank))
        return half if self.node.attr("auto_pad") == "SAME_UPPER" else op.Sub(total, half)

    def padded(self, x: Value, ct: Value) -> Value:
        """x with zeros around it, as far as its windows reach."""
        op, zeros = self.op, self.op.value([0] * self.rank)
        before = self.begin()
        total = op.Sub(op.Mul(self.sizes(ct), op.value(self.strides)), self.sizes(x))
        after = op.Max(op.Sub(op.Add(total, self.span()), before), zeros)
        return op.Pad(x, op.Concat(before, after, axis=0), 0.0, list(range(2, 2 + self.rank)))

    def place(self, laid: Value, extent: Value, model: Value) -> Value:
        """x from `laid`, which starts `begin` before x and has `extent` elements per axis."""
        op = self.op
        after = op.Sub(op.Add(self.sizes(model), self.begin()), extent)
        pads = op.Concat(op.Neg(self.begin()), after, axis=0)
        return op.shaped_as(op.Pad(laid, pads, 0.0, list(range(2, 2 + self.rank))), model)


@vjp("Conv")
def conv_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = W ∗ x + b   ⇒   x̄ = Wᵀ ∗ ȳ, W̄ = x ⋆ ȳ, b̄ = Σ ȳ"""
    x, w, b = node.inputs
    windows = Windows(op, node, w)
    x_bar = input_bar(op, node, ct, w, windows) if node.needs(0) else None
    w_bar = weight_bar(op, windows, x, ct, w, node.attr("group")) if node.needs(1) else None
    b_bar = op.ReduceSum(ct, [0, *range(2, 2 + windows.rank)], keepdims=0) if b is not None and node.needs(2) else None
    return x_bar, w_bar, b_bar


@part("Conv", "ConvInteger")
def input_bar(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """x̄ = Wᵀ ∗ ȳ: a ConvTranspose without padding, cut to the place of x"""
    attrs = {"group": node.attr("group"), "strides": windows.strides, "dilations": windows.dilations}
    if windows.kernel is not None:
        attrs["kernel_shape"] = windows.kernel
    laid = op.ConvTranspose(ct, w, pads=[0] * 2 * windows.rank, **attrs)
    return windows.place(laid, windows.sizes(laid), node.x)


def weight_bar(op: Builder, windows: Windows, x: Value, ct: Value, w: Value, group: int) -> Value:
    """W̄ (O, I/g, k…), W̄_oik = Σ_np x_n,i,(p s + k d − begin) ȳ_n,o,p: a Conv of x with ȳ, the batch as channels."""
    axes = list(range(2, 2 + windows.rank))
    x = windows.padded(x, ct) if windows.pads is None else x
    spatial = op.shape(x, 2, 2 + windows.rank)
    # x: (N, g, I/g, …) → (I/g, g N, …); ȳ: (N, O, …) → (O, N, …)
    data = op.Reshape(x, op.Concat(op.value([0, group, -1]), spatial, axis=0))
    data = op.Transpose(data, perm=[2, 1, 0, *(a + 1 for a in axes)])
    data = op.Reshape(data, op.Concat(op.value([0, -1]), spatial, axis=0))
    kernel = op.Transpose(ct, perm=[1, 0, *axes])
    products = op.Conv(
        data,
        kernel,
        group=group,
        strides=windows.dilations,
        dilations=windows.strides,
        pads=windows.pads or [0] * 2 * windows.rank,
    )
    swapped = op.Transpose(products, perm=[1, 0, *axes])
    return op.shaped_as(op.Slice(swapped, [0] * windows.rank, op.shape(w, 2, 2 + windows.rank), axes), w)


@vjp("ConvTranspose")
def conv_transpose_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = Wᵀ ∗ x + b   ⇒   x̄ = W ∗ ȳ, W̄ = ȳ ⋆ x, b̄ = Σ ȳ"""
    x, w, b = node.inputs
    windows = _transpose_windows(op, node)
    group, spatial = node.attr("group"), list(range(2, 2 + windows.rank))
    x_bar = w_bar = None
    if node.needs(0):
        wide = op.Conv(ct, w, group=group, strides=windows.strides, dilations=windows.dilations, pads=windows.pads)
        ends = windows.sizes(x)
        fits = op.const(ends)
        known = op.const(windows.sizes(wide))
        same = fits is not None and known is not None and (fits == known).all()
        x_bar = wide if same else op.shaped_as(op.Slice(wide, [0] * windows.rank, ends, spatial), x)
    if node.needs(1):
        w_bar = weight_bar(op, windows, ct, x, w, group)
    return x_bar, w_bar, op.ReduceSum(ct, [0, *spatial], keepdims=0) if b is not None and node.needs(2) else None


def _transpose_windows(op: Builder, node: Primal) -> Windows:
    """Its windows, seen from the result: pads follow from the sizes where the file gives `output_shape`."""
    windows = Windows(op, node)
    if node.attr("output_shape") is None and windows.pads is not None:
        return windows
    sizes, counts = op.const(windows.sizes(node.y)), op.const(windows.sizes(node.x))
    if sizes is None or counts is None or windows.kernel is None:
        raise node.refuse("its padding depends on the picture's size", "fix the input shape with --shape")
    extra = np.array(node.attr("output_padding") or [0] * windows.rank)
    total = (counts - 1) * np.array(windows.strides) + extra + np.array(windows.reach) - sizes
    total = np.maximum(total, 0)
    large = total - total // 2
    upper = node.attr("auto_pad") == "SAME_UPPER"
    begin = total // 2 if upper else large
    windows.pads = [*begin.tolist(), *(total - begin).tolist()]
    return windows


@vjp("Col2Im", since=18)
def col2im_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Σ of the windows in the columns of x, at their places   ⇒   x̄ = the windows of ȳ as columns"""
    block = node.inputs[2]
    rank = op.rank(ct) - 2
    strides, dilations = (list(node.attr(n) or [1] * rank) for n in ("strides", "dilations"))
    # One picture per channel; a window is a Conv with each unit kernel.
    count = op.ReduceProd(block, keepdims=1)
    line = op.Range(np.int64(0), op.Squeeze(count, [0]), np.int64(1))
    units = op.cast(op.Equal(op.Unsqueeze(line, [1]), op.Unsqueeze(line, [0])), ct.dtype)
    kernel = op.Reshape(units, op.Concat(op.value([-1, 1]), block, axis=0))
    flat = op.Reshape(ct, op.Concat(op.value([-1, 1]), op.shape(ct, 2), axis=0))
    attrs = {"strides": strides, "dilations": dilations, "pads": node.attr("pads") or [0] * 2 * rank}
    windows = confined(op, node, flat, functools.partial(op.Conv, **attrs), kernel)
    return op.reshape_like(windows, node.x)
