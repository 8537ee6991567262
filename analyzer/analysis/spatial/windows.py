"""Operators that slide a window over the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analyzer.analysis.interpreter import HiddenError, Site
from analyzer.analysis.intervals import Digit, Field, Size, Taps
from analyzer.analysis.spatial.table import Maybe, alone, everywhere, size_of, spatial, with_all


def _kernel(op: Site, weight: int | None) -> list[int]:
    kernel = op.attr("kernel_shape")
    if kernel is None and weight is not None:
        shape = op.shape(weight)
        kernel = None if shape is None else list(shape[2:])
    if kernel is None or not all(isinstance(k, int) for k in kernel):
        raise HiddenError("the size of its window is not known")
    return [int(k) for k in kernel]


def _windows(op: Site, x: Field, kernel: Sequence[int], sizes: Sequence[Size]) -> Field:
    """o ← {o·s − p + k·d : 0 ≤ k < K} along each axis after the second."""
    rank = len(kernel)
    strides, dilations = op.attr("strides", [1] * rank), op.attr("dilations", [1] * rank)
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        length = size_of(op.shape(), i + 2)
        least, most = _padding(op, i, rank, (k - 1) * d + 1, s, length)
        steps = [j * d - p for p in {least, most} for j in range(k)]
        x = x.pull(i + 2, _steps(steps, s), sizes[i], length, doubt=most - least)
    return x


def _steps(steps: Sequence[int], stride: int) -> Taps:
    return Taps(lambda o: [o * stride + t for t in steps], 1, stride)


def _padding(op: Site, axis: int, rank: int, reach: int, stride: int, size: Size) -> tuple[int, int]:
    """(least, most) padding before an axis: they differ where SAME padding meets an unknown size."""
    auto = op.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        begin = op.attr("pads", [0] * 2 * rank)[axis]
        return begin, begin
    if auto == "VALID":
        return 0, 0
    sizes = [size] if isinstance(size, int) else range(1, stride + 1)
    totals = [max((-(-n // stride) - 1) * stride + reach - n, 0) for n in sizes]
    begins = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
    return min(begins), max(begins)


def _spatial_sizes(op: Site, rank: int) -> list[Size]:
    shape = op.out()
    return list(shape[2:]) if shape is not None else [None] * rank


def _mix_channels(op: Site, x: Field, groups: int, before: Size, after: Size) -> Field:
    """Every output channel reads all channels of its group."""
    if not x.moves(x.axes[1]) or groups == 1:
        return x.collapse([1]).fresh(1, after)
    if not isinstance(before, int) or not isinstance(after, int):
        raise HiddenError("the number of channels is not known")
    parts: list[Size | Digit] = [d for axis in x.axes[:1] for d in axis]
    if len(parts) > 1 or any(len(axis) > 1 for axis in x.axes[2:]):
        return x.collapse([1]).fresh(1, after)
    rest: list[Size | Digit] = [axis[0] if axis else 1 for axis in x.axes[2:]]
    lead: Size | Digit = parts[0] if parts else 1
    split = x.reshape([lead, groups, before // groups, *rest]).collapse([2]).fresh(2, after // groups)
    return split.reshape([lead, after, *rest])


def _convolve(op: Site, x: Field, weight: int, group: int) -> Field:
    shape, kernel = op.out(), _kernel(op, weight)
    x = _mix_channels(op, x, group, size_of(op.shape(), 1), size_of(shape, 1))
    return _windows(op, x, kernel, _spatial_sizes(op, len(kernel)))


@spatial("Conv", "ConvInteger")
def conv_transfer(op: Site, x: Maybe, *weights: Maybe) -> Field:
    """o ← {o·s − p + k·d : 0 ≤ k < K}, all channels of the group"""
    y = None if x is None else _convolve(op, x, 1, op.attr("group", 1))
    return with_all(y, *map(everywhere, weights)).fit(op.out())


@spatial("MaxPool", "AveragePool", "LpPool")
def pool_transfer(op: Site, x: Maybe) -> tuple[Field, ...]:
    """o ← {o·s − p + k·d : 0 ≤ k < K} of its own channel"""
    kernel = _kernel(op, None)
    y = _windows(op, alone(x), kernel, _spatial_sizes(op, len(kernel)))
    return (y,) * len(op.node.outputs)


@spatial("ConvTranspose")
def conv_transpose_transfer(op: Site, x: Maybe, *weights: Maybe) -> Field:
    """o ← {i : o = i·s − p + k·d for a k}"""
    x, kernel = alone(x, *weights), _kernel(op, 1)
    rank, shape = len(kernel), op.out()
    strides, dilations = op.attr("strides", [1] * rank), op.attr("dilations", [1] * rank)
    x = _mix_channels(op, x, op.attr("group", 1), size_of(op.shape(), 1), size_of(shape, 1))
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        begin = _transposed_padding(op, i, rank, (k - 1) * d + 1, s)

        def at(o: int, k: int = k, s: int = s, d: int = d, begin: int = begin) -> Iterable[int]:
            return [(o + begin - j * d) // s for j in range(k) if (o + begin - j * d) % s == 0]

        x = x.pull(i + 2, Taps(at, s, 1), size_of(shape, i + 2))
    return x


def _transposed_padding(op: Site, axis: int, rank: int, reach: int, stride: int) -> int:
    """pads, or where output_shape is given: total = s·(n − 1) + e + reach − output, split in two."""
    auto, wanted = op.attr("auto_pad", "NOTSET"), op.attr("output_shape")
    if wanted is None and auto in ("NOTSET", "", "VALID"):
        return 0 if auto == "VALID" else op.attr("pads", [0] * 2 * rank)[axis]
    size, out = size_of(op.shape(), axis + 2), size_of(op.out(), axis + 2)
    if not isinstance(size, int) or not isinstance(out, int):
        raise HiddenError("padding known only at run time")
    extra = op.attr("output_padding", [0] * rank)[axis]
    total = max(stride * (size - 1) + extra + reach - out, 0)
    return total - total // 2 if auto == "SAME_UPPER" else total // 2


@spatial("LRN")
def lrn_transfer(op: Site, x: Maybe) -> Field:
    """i ← {i}, the channels around"""
    return alone(x).collapse([1])
