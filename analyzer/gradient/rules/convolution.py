"""Convolutions, and the windows that they and the pools share."""

from __future__ import annotations

import functools
import math

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.elementwise import confined

# I and O k k of a Conv from which on its phases are quicker than a ConvTranspose
BLOCKS, WIDE = 32, 128 * 9


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

    def place(self, laid: Value, extent: Value, model: Value) -> Value:
        """x from `laid`, which starts `begin` before x and has `extent` elements per axis."""
        op = self.op
        after = op.Sub(op.Add(self.sizes(model), self.begin()), extent)
        pads = op.Concat(op.Neg(self.begin()), after, axis=0)
        return op.shaped_as(op.Pad(laid, pads, 0.0, list(range(2, 2 + self.rank))), model)


@vjp("Conv")
def conv_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = W ∗ x + b   ⇒   x̄ = Wᵀ ∗ ȳ, W̄ = x ⋆ ȳ, b̄ = Σ ȳ

    x̄ is a Conv with the weights turned round where the strides are 1; see `input_bar` for the others.
    """
    x, w, b = node.inputs
    windows = Windows(op, node, w)
    x_bar = input_bar(op, node, ct, w, windows) if node.needs(0) else None
    w_bar = weight_bar(op, windows, x, ct, w, node.attr("group")) if node.needs(1) else None
    b_bar = op.ReduceSum(ct, [0, *range(2, 2 + windows.rank)], keepdims=0) if b is not None and node.needs(2) else None
    return x_bar, w_bar, b_bar


def input_bar(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """x̄ = Wᵀ ∗ ȳ, by the quickest way that the sizes allow.

    With strides: 1×1 windows place their values on the grid of x, depthwise ones do so before a Conv, wide ones compute
    each phase of x by a Conv of its own; a ConvTranspose elsewhere.
    """
    group, weights = node.attr("group"), op.const(w)
    if weights is not None and windows.kernel is not None and windows.pads is not None:
        if set(windows.strides) == {1}:
            pads = [r - 1 - p for r, p in zip(windows.reach * 2, windows.pads, strict=True)]
            if min(pads, default=0) >= 0:
                return _conv(op, node, ct, _turned(op, w, weights, group), group, pads, windows.dilations)
        if set(windows.kernel) == {1} and not any(windows.pads):
            small = _conv(op, node, ct, _turned(op, w, weights, group), group)
            return _on_grid(op, node, small, windows)
        if group == weights.shape[0] and weights.shape[1] == 1:
            laid, around = gapped(op, node, ct, windows.strides), _pads_over_gaps(op, node, ct, windows)
            if laid is not None and around is not None:
                return _conv(op, node, laid, _turned(op, w, weights, group), group, around, windows.dilations)
        outputs, inputs = weights.shape[:2]
        if group == 1 and inputs >= BLOCKS and outputs * math.prod(windows.kernel) >= WIDE:
            phases = _by_phases(op, node, ct, w, weights, windows)
            if phases is not None:
                return phases
    return _transposed(op, node, ct, w, windows)


def _pads_over_gaps(op: Builder, node: Primal, ct: Value, windows: Windows) -> list[int] | None:
    """Padding of the turned Conv over ȳ on the grid of x; None where the sizes are open or it would be negative."""
    assert windows.pads is not None
    sizes, counts = op.const(windows.sizes(node.x)), op.const(windows.sizes(ct))
    if sizes is None or counts is None:
        return None
    before = np.array(windows.reach) - 1 - windows.pads[: windows.rank]
    after = sizes + windows.reach - 1 - counts * windows.strides - before
    pads = [*before.tolist(), *after.tolist()]
    return pads if min(pads) >= 0 else None


def _by_phases(op: Builder, node: Primal, ct: Value, w: Value, weights: np.ndarray, windows: Windows) -> Value | None:
    """x̄ at the rows and columns of each parity by a Conv, interleaved by DepthToSpace; None where that does not fit.

    With a stride of 2, x at 2 m + r meets the windows m + (r + begin − k) / 2 of the k that make it whole.
    """
    assert windows.pads is not None
    sizes, counts = op.const(windows.sizes(node.x)), op.const(windows.sizes(ct))
    square = windows.rank == 2 and windows.strides == [2, 2] and windows.dilations == [1, 1]
    if not square or sizes is None or counts is None or (sizes != 2 * counts).any():
        return None
    taps = [
        [[(k, (r + begin - k) // 2) for k in range(size) if (r + begin - k) % 2 == 0] for r in range(2)]
        for size, begin in zip(windows.kernel or [], windows.pads, strict=False)
    ]
    if not all(phase for axis in taps for phase in axis):
        return None
    phases = []
    for row in range(2):
        for column in range(2):
            # Windows from the lowest on: so the k run from the highest down.
            places = [sorted(taps[axis][r], key=lambda t: t[1]) for axis, r in ((0, row), (1, column))]
            kernel = weights[:, :, [k for k, _ in places[0]]][:, :, :, [k for k, _ in places[1]]].swapaxes(0, 1)
            pads = [-places[0][0][1], -places[1][0][1], places[0][-1][1], places[1][-1][1]]
            if min(pads) < 0:
                return None
            constant = op.constant(np.ascontiguousarray(kernel), f"{w.name}/phase{row}{column}")
            phases.append(op.Conv(ct, constant, kernel_shape=list(kernel.shape[2:]), pads=pads, strides=[1, 1]))
    return op.shaped_as(op.DepthToSpace(op.Concat(*phases, axis=1), blocksize=2, mode="DCR"), node.x)


def _conv(
    op: Builder,
    node: Primal,
    ct: Value,
    w: Value,
    group: int,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
) -> Value:
    rank = op.rank(ct) - 2
    result = op.Conv(
        ct,
        w,
        group=group,
        kernel_shape=list(w.shape[2:]),
        pads=pads or [0] * 2 * rank,
        strides=[1] * rank,
        dilations=dilations or [1] * rank,
    )
    return op.shaped_as(result, node.x) if pads is not None else result


def _turned(op: Builder, w: Value, weights: np.ndarray, group: int) -> Value:
    """W (O, I/g, k…) with O and I swapped inside each group and the window turned round: (I, O/g, k…)."""
    outputs, inputs, *kernel = weights.shape
    grouped = weights.reshape(group, outputs // group, inputs, *kernel).swapaxes(1, 2)
    turned = np.flip(grouped, tuple(range(3, grouped.ndim))).reshape(group * inputs, outputs // group, *kernel)
    return op.constant(np.ascontiguousarray(turned), f"{w.name}/turned")


def _on_grid(op: Builder, node: Primal, small: Value, windows: Windows) -> Value:
    """The values at every `stride`-th place of x, zeros between."""
    extent = op.Mul(windows.sizes(small), op.value(windows.strides))
    laid = gapped(op, node, small, windows.strides)
    if laid is None:
        axes = [3 + 2 * i for i in range(windows.rank)]
        pads = [0] * (2 + 2 * windows.rank) + [0, 0, *(v for s in windows.strides for v in (0, s - 1))]
        gaps = op.Pad(op.Unsqueeze(small, axes), pads, 0.0)
        laid = op.Reshape(gaps, op.Concat(op.shape(small, 0, 2), extent, axis=0))
    return windows.place(laid, extent, node.x)


def gapped(op: Builder, node: Primal, value: Value, strides: list[int]) -> Value | None:
    """(N, C, s h, s w): finite values with s − 1 zeros behind each, s = 2; None where that is not quick to get."""
    wide = repeated(op, value, strides) if node.finite else None
    if strides != [2, 2] or wide is None or wide.shape is None or not all(isinstance(d, int) for d in wide.shape[2:]):
        return None
    mask = np.zeros((1, 1, *wide.shape[2:]), value.dtype)
    mask[:, :, ::2, ::2] = 1
    return op.Mul(wide, mask)


def repeated(op: Builder, value: Value, factors: list[int]) -> Value | None:
    """(N, C, f h, f w): every value f times along each axis; None but for pictures in float32.

    By nearest-neighbour Resize, which onnxruntime computes in its blocked layout.
    """
    if len(factors) != 2 or value.dtype != np.float32:
        return None
    scales = np.array([1, 1, *factors], np.float32)
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op.Resize(value, None, scales, **modes)


def _transposed(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """ConvTranspose, with even padding where the sizes are known, else cut to x's size afterwards."""
    attrs = {"group": node.attr("group"), "strides": windows.strides, "dilations": windows.dilations}
    if windows.kernel is not None:
        attrs["kernel_shape"] = windows.kernel
        sizes, counts = op.const(windows.sizes(node.x)), op.const(windows.sizes(ct))
        if sizes is not None and counts is not None and windows.pads is not None:
            begin = np.array(windows.pads[: windows.rank], np.int64)
            laid = (counts - 1) * np.array(windows.strides) + np.array(windows.reach)
            extra = sizes - laid + 2 * begin
            if (extra >= 0).all() and (extra < np.array(windows.strides)).all():
                return op.ConvTranspose(ct, w, pads=[*begin.tolist()] * 2, output_padding=extra.tolist(), **attrs)
    laid = op.ConvTranspose(ct, w, pads=[0] * 2 * windows.rank, **attrs)
    return windows.place(laid, windows.sizes(laid), node.x)


def weight_bar(op: Builder, windows: Windows, x: Value, ct: Value, w: Value, group: int) -> Value:
    """W̄ (O, I/g, k…), W̄_oik = Σ_np x_n,i,(p s + k d − begin) ȳ_n,o,p: a Conv of x with ȳ, the batch as channels."""
    axes = list(range(2, 2 + windows.rank))
    if windows.pads is None:
        before = windows.begin()
        total = op.Sub(op.Mul(windows.sizes(ct), op.value(windows.strides)), windows.sizes(x))
        after = op.Max(op.Sub(op.Add(total, windows.span()), before), op.value([0] * windows.rank))
        x = op.Pad(x, op.Concat(before, after, axis=0), 0.0, axes)
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
