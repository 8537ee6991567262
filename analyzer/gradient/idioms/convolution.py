"""x̄ of a convolution by something quicker than a ConvTranspose, and values between zeros or repeated."""

from __future__ import annotations

import math

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, fixed_sizes, idiom
from analyzer.gradient.rules.convolution import Windows, input_bar

# I and O k k of a Conv from which on its phases are quicker than a ConvTranspose
BLOCKS, WIDE = 32, 128 * 9


# ---- With strides of 1 ----


@idiom(input_bar)
def by_turned_windows(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """Stride 1: x̄ is a Conv with the weights rotated by 180°, whose kernels are faster than ConvTranspose's."""
    weights = _weights(op, w, windows)
    if weights is None or windows.pads is None or set(windows.strides) != {1}:
        return NotImplemented
    pads = [r - 1 - p for r, p in zip(windows.reach * 2, windows.pads, strict=True)]
    if min(pads, default=0) < 0:
        return NotImplemented
    return op.shaped_as(_turned_conv(op, node, ct, w, weights, pads, windows.dilations), node.x)


# ---- With other strides ----


@idiom(input_bar)
def by_points_on_the_grid(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """1×1 windows with strides: a Conv as small as ȳ, then its values are placed on the grid of x."""
    weights = _weights(op, w, windows)
    if weights is None or windows.pads is None or set(windows.kernel or ()) != {1} or any(windows.pads):
        return NotImplemented
    small = _turned_conv(op, node, ct, w, weights)
    extent = op.Mul(windows.sizes(small), op.value(windows.strides))
    laid = gapped(op, node, small, windows.strides)
    if laid is None:
        axes = [3 + 2 * i for i in range(windows.rank)]
        pads = [0] * (2 + 2 * windows.rank) + [0, 0, *(v for s in windows.strides for v in (0, s - 1))]
        gaps = op.Pad(op.Unsqueeze(small, axes), pads, 0.0)
        laid = op.Reshape(gaps, op.Concat(op.shape(small, 0, 2), extent, axis=0))
    return windows.place(laid, extent, node.x)


@idiom(input_bar)
def by_depthwise_conv_over_gaps(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """Depthwise windows with strides of 2: ȳ is placed on the grid of x, then convolved. onnxruntime has a depthwise
    kernel for Conv but none for ConvTranspose."""
    weights = _weights(op, w, windows)
    if weights is None or windows.pads is None or weights.shape[:2] != (node.attr("group"), 1):
        return NotImplemented
    laid, pads = gapped(op, node, ct, windows.strides), _pads_over_gaps(op, node, ct, windows)
    if laid is None or pads is None:
        return NotImplemented
    return op.shaped_as(_turned_conv(op, node, laid, w, weights, pads, windows.dilations), node.x)


@idiom(input_bar)
def by_phases(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """Wide convolutions with strides of 2: x̄ at the rows and columns of each parity is a Conv by itself, and a
    DepthToSpace interleaves the four. ConvTranspose's kernels are slower from some tens of channels on.

    x at 2 m + r meets the windows m + (r + begin − k) / 2 of the k that make it whole.
    """
    weights = _weights(op, w, windows)
    if weights is None or windows.pads is None or not _is_wide(node, weights, windows):
        return NotImplemented
    sizes, counts = op.const(windows.sizes(node.x)), op.const(windows.sizes(ct))
    taps = [_taps(size, begin) for size, begin in zip(weights.shape[2:], windows.pads, strict=False)]
    if sizes is None or counts is None or (sizes != 2 * counts).any() or not all(taps[0] + taps[1]):
        return NotImplemented
    phases = []
    for row in range(2):
        for column in range(2):
            phase = _phase(op, ct, f"{w.name}/phase{row}{column}", weights, taps[0][row], taps[1][column])
            if phase is None:
                return NotImplemented
            phases.append(phase)
    return op.shaped_as(op.DepthToSpace(op.Concat(*phases, axis=1), blocksize=2, mode="DCR"), node.x)


def _is_wide(node: Primal, weights: np.ndarray, windows: Windows) -> bool:
    """Whether phases are possible and worth it."""
    outputs, inputs, *kernel = weights.shape
    halves = windows.rank == 2 and windows.strides == [2, 2] and windows.dilations == [1, 1]
    return halves and node.attr("group") == 1 and inputs >= BLOCKS and outputs * math.prod(kernel) >= WIDE


def _taps(size: int, begin: int) -> list[list[tuple[int, int]]]:
    """Along an axis for each parity: (k, window), windows from the lowest on, so that k runs from the highest down."""
    return [
        sorted(((k, (r + begin - k) // 2) for k in range(size) if (r + begin - k) % 2 == 0), key=lambda t: t[1])
        for r in range(2)
    ]


def _phase(
    op: Builder, ct: Value, name: str, weights: np.ndarray, rows: list[tuple[int, int]], columns: list[tuple[int, int]]
) -> Value | None:
    """x̄ at one parity of rows and columns; None where windows at the edge of ȳ do not reach it."""
    pads = [-rows[0][1], -columns[0][1], rows[-1][1], columns[-1][1]]
    if min(pads) < 0:
        return None
    kernel = weights[:, :, [k for k, _ in rows]][:, :, :, [k for k, _ in columns]].swapaxes(0, 1)
    constant = op.constant(kernel, name)
    return op.Conv(ct, constant, kernel_shape=list(kernel.shape[2:]), pads=pads, strides=[1, 1])


@idiom(input_bar)
def by_even_pads(op: Builder, node: Primal, ct: Value, w: Value, windows: Windows) -> Value:
    """With known sizes, ConvTranspose does the padding and no Pad follows; the padding is even, as CUDA requires."""
    if windows.kernel is None:
        return NotImplemented
    sizes, counts = op.const(windows.sizes(node.x)), op.const(windows.sizes(ct))
    if sizes is None or counts is None or windows.pads is None:
        return NotImplemented
    begin = np.array(windows.pads[: windows.rank], np.int64)
    laid = (counts - 1) * np.array(windows.strides) + np.array(windows.reach)
    extra = sizes - laid + 2 * begin
    if (extra < 0).any() or (extra >= np.array(windows.strides)).any():
        return NotImplemented
    return op.ConvTranspose(
        ct,
        w,
        pads=begin.tolist() * 2,
        output_padding=extra.tolist(),
        group=node.attr("group"),
        strides=windows.strides,
        dilations=windows.dilations,
        kernel_shape=windows.kernel,
    )


# ---- What these share ----


def _weights(op: Builder, w: Value, windows: Windows) -> np.ndarray | None:
    """W (O, I/g, k…), where it is in the file."""
    return op.const(w) if windows.kernel is not None else None


def _turned_conv(
    op: Builder,
    node: Primal,
    ct: Value,
    w: Value,
    weights: np.ndarray,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
) -> Value:
    """ȳ convolved with W (O, I/g, k…), O and I swapped inside each group and the window turned round: (I, O/g, k…)."""
    outputs, inputs, *kernel = weights.shape
    group, rank = node.attr("group"), len(kernel)
    grouped = weights.reshape(group, outputs // group, inputs, *kernel).swapaxes(1, 2)
    turned = np.flip(grouped, tuple(range(3, grouped.ndim))).reshape(group * inputs, outputs // group, *kernel)
    return op.Conv(
        ct,
        op.constant(turned, f"{w.name}/turned"),
        group=group,
        kernel_shape=kernel,
        pads=pads or [0] * 2 * rank,
        strides=[1] * rank,
        dilations=dilations or [1] * rank,
    )


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


def gapped(op: Builder, node: Primal, value: Value, strides: list[int]) -> Value | None:
    """(N, C, s h, s w): finite values with s − 1 zeros after each, s = 2; None where that is not quick to get."""
    wide = repeated(op, value, strides) if node.finite else None
    extent = None if wide is None or wide.shape is None else fixed_sizes(wide.shape[2:])
    if strides != [2, 2] or wide is None or extent is None:
        return None
    mask = np.zeros((1, 1, *extent), value.dtype)
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
