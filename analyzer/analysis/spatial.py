"""Transfer functions of the receptive field: which input indices each operator reads for an output index.

A function with `@spatial(operators)`, under the heading of what they do, takes the fields of the inputs and returns
those of the outputs; its docstring is that set, and `HiddenError` says why it cannot be told for a node. An operator
that is not here is reported, not guessed. Fused operators need no row: `graph.unfuse` has taken them apart.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from analyzer.analysis.interpreter import HiddenError, Shape, Site, Table, transfer
from analyzer.analysis.intervals import Digit, Field, Size, Taps, axis_of, concat
from analyzer.graph.through import origin, producer

SPATIAL: Table[Field] = Table("receptive field")
Maybe: TypeAlias = "Field | None"

spatial = functools.partial(transfer, table=SPATIAL)


def _meet(op: Site, *fields: Maybe) -> Field:
    """The elementwise meeting of all that depend on the image, broadcast to the output."""
    present = [f for f in fields if f is not None]
    return functools.reduce(Field.join, present).fit(op.out())


def _alone(x: Maybe, *others: Maybe) -> Field:
    """`x`, where nothing else depends on the image: sizes, axes and positions computed from pixels are hidden."""
    if any(o is not None for o in others):
        raise HiddenError("which elements it reads depends on the pixels")
    if x is None:
        raise HiddenError("it reads no data")
    return x


def _size(shape: Shape, axis: int) -> Size:
    return None if shape is None else shape[axis]


def _axes(op: Site, rank: int, index: int = 1) -> list[int] | None:
    """The axes given as an attribute or as input `index`, counted from the front; None where none are given."""
    given = op.attr("axes")
    if given is None and op.given(index):
        given = op.need(index, "axes").ravel().tolist()
    if given is None or len(given) == 0:
        return None
    return [int(a) % rank for a in given]


# ---- Each element from its own place ----


@spatial(
    "Identity", "Neg", "Abs", "Sign", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Not",
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Sigmoid", "Tanh", "Relu",
    "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "ThresholdedRelu", "Softplus", "Softsign", "HardSigmoid", "HardSwish",
    "Mish", "Gelu", "Shrink", "Clip", "IsNaN", "IsInf", "Cast", "BitCast", "BitwiseNot", "Dropout", "Bernoulli",
    "Swish", "Trilu",
)  # fmt: skip
@spatial("Imputer", "Scaler", "Binarizer", domain="ai.onnx.ml")
def elementwise_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i}"""
    return _meet(op, *inputs)


@spatial("QuantizeLinear", "DequantizeLinear", "BatchNormalization")
def scaled_transfer(op: Site, x: Maybe, *parameters: Maybe) -> Field:
    """i ← {i}, and all of parameters that are computed: a gate"""
    if op.attr("training_mode", 0):
        raise HiddenError("it is in training mode")
    return _parametrised(op, x, parameters)


@spatial("CastLike")
def cast_like_transfer(op: Site, x: Maybe, like: Maybe) -> Maybe:
    """i ← {i}, nothing of what only gives the type"""
    return x


@spatial("OneHot")
def one_hot_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """i ← {i}, along a new axis"""
    x = _alone(x, *rest)
    return x.insert([op.attr("axis", -1) % (x.rank + 1)]).fit(op.out())


@spatial(
    "Add", "Pow", "Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "And", "Or", "Xor", "Equal", "Less",
    "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "Max", "Min", "Sum", "Mean",
)  # fmt: skip
def arithmetic_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i} in each operand, broadcast"""
    return _meet(op, *inputs)


@spatial("Sub")
def sub_transfer(op: Site, a: Maybe, b: Maybe) -> Field:
    """i ← {i} in each operand; x − mean(x) is a statistic, as in a normalisation"""
    left, right = op.node.inputs
    mean = producer(right)
    pools = mean is not None and mean.op in ("ReduceMean", "GlobalAveragePool")
    of_itself = mean is not None and pools and origin(mean.inputs[0]) is origin(left)
    return _meet(op, a, b.gated() if b is not None and of_itself else b)


@spatial("Mul", "Div")
def product_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i} in each operand; one pooled over the whole image that scales one that is not is a gate"""
    present = [f for f in inputs if f is not None]
    if len(present) != 2:
        return _meet(op, *present)
    a, b = present
    return _meet(op, _as_gate(a, b), _as_gate(b, a))


def _as_gate(x: Field, other: Field) -> Field:
    """`x`, its whole-image paths marked as gates along the axes where `other` has a place of its own."""
    paths = tuple(
        tuple(replace(p, gate=True) for p in ours)
        if all(p.unbounded and not p.walks for p in ours) and any(p.walking and not p.gate for p in theirs)
        else ours
        for ours, theirs in zip(x.paths, other.paths, strict=True)
    )
    return replace(x, paths=paths)


# ---- Windows ----


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
        length = _size(op.shape(), i + 2)
        least, most = _padding(op, i, rank, (k - 1) * d + 1, s, length)
        steps = [j * d - p for p in {least, most} for j in range(k)]
        taps = Taps(lambda o, s=s, steps=steps: [o * s + t for t in steps], 1, s)  # type: ignore[misc]
        x = x.pull(i + 2, taps, sizes[i], length, doubt=most - least)
    return x


def _padding(op: Site, axis: int, rank: int, reach: int, stride: int, size: Size) -> tuple[int, int]:
    """(least, most) padding in front of an axis: they differ where SAME padding meets an unknown size."""
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
    x = _mix_channels(op, x, group, _size(op.shape(), 1), _size(shape, 1))
    return _windows(op, x, kernel, _spatial_sizes(op, len(kernel)))


def _everywhere(x: Maybe) -> Maybe:
    """A value of no place: all of it is read by every unit."""
    return None if x is None else x.collapse(range(x.rank)).drop(range(x.rank))


def _parametrised(op: Site, x: Maybe, parameters: Iterable[Maybe]) -> Field:
    """`x`, scaled and shifted by parameters that may be computed from the image themselves."""
    gates = (p if x is None else p.gated() for p in map(_everywhere, parameters) if p is not None)
    return _with(x, *gates).fit(op.out())


def _with(y: Maybe, *others: Maybe) -> Field:
    """The union of what depends on the image."""
    present = [f for f in (y, *others) if f is not None]
    return functools.reduce(Field.union, present)


@spatial("Conv", "ConvInteger")
def conv_transfer(op: Site, x: Maybe, *weights: Maybe) -> Field:
    """o ← {o·s − p + k·d : 0 ≤ k < K}, all channels of the group"""
    y = None if x is None else _convolve(op, x, 1, op.attr("group", 1))
    return _with(y, *map(_everywhere, weights)).fit(op.out())


@spatial("MaxPool", "AveragePool", "LpPool")
def pool_transfer(op: Site, x: Maybe) -> tuple[Field, ...]:
    """o ← {o·s − p + k·d : 0 ≤ k < K} of its own channel"""
    kernel = _kernel(op, None)
    y = _windows(op, _alone(x), kernel, _spatial_sizes(op, len(kernel)))
    return (y,) * len(op.node.outputs)


@spatial("ConvTranspose")
def conv_transpose_transfer(op: Site, x: Maybe, *weights: Maybe) -> Field:
    """o ← {i : o = i·s − p + k·d for a k}"""
    x, kernel = _alone(x, *weights), _kernel(op, 1)
    rank, shape = len(kernel), op.out()
    strides, dilations = op.attr("strides", [1] * rank), op.attr("dilations", [1] * rank)
    x = _mix_channels(op, x, op.attr("group", 1), _size(op.shape(), 1), _size(shape, 1))
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        begin = _transposed_padding(op, i, rank, (k - 1) * d + 1, s)

        def at(o: int, k: int = k, s: int = s, d: int = d, begin: int = begin) -> Iterable[int]:
            return [(o + begin - j * d) // s for j in range(k) if (o + begin - j * d) % s == 0]

        x = x.pull(i + 2, Taps(at, s, 1), _size(shape, i + 2))
    return x


def _transposed_padding(op: Site, axis: int, rank: int, reach: int, stride: int) -> int:
    """pads, or where output_shape is given: total = s·(n − 1) + e + reach − output, split in two."""
    auto, wanted = op.attr("auto_pad", "NOTSET"), op.attr("output_shape")
    if wanted is None and auto in ("NOTSET", "", "VALID"):
        return 0 if auto == "VALID" else op.attr("pads", [0] * 2 * rank)[axis]
    size, out = _size(op.shape(), axis + 2), _size(op.out(), axis + 2)
    if not isinstance(size, int) or not isinstance(out, int):
        raise HiddenError("padding known only at run time")
    extra = op.attr("output_padding", [0] * rank)[axis]
    total = max(stride * (size - 1) + extra + reach - out, 0)
    return total - total // 2 if auto == "SAME_UPPER" else total // 2


@spatial("LRN")
def lrn_transfer(op: Site, x: Maybe) -> Field:
    """i ← {i}, the channels around"""
    return _alone(x).collapse([1])


@spatial(
    "MaxUnpool", "Col2Im", "DeformConv", "GridSample", "RoiAlign", "MaxRoiPool", "AffineGrid", "GatherND",
    "GatherElements", "ScatterND", "ScatterElements", "Compress", "NonZero", "NonMaxSuppression", "Unique",
    "ReverseSequence",
)  # fmt: skip
@spatial("CropAndResize", domain="com.microsoft")
def anywhere_transfer(op: Site, *inputs: Maybe) -> tuple[Field, ...]:
    """o ← anywhere: the place that it reads is computed"""
    y = replace(_with(None, *map(_everywhere, inputs)), exact=False)
    if any(op.out(k) is None for k in range(len(op.node.outputs))):
        raise HiddenError("the rank of its output is not known")
    return tuple(y.fit(op.out(k)) for k in range(len(op.node.outputs)))


# ---- Resizing ----


@spatial("Resize")
def resize_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← the neighbours of x(o) that the interpolation weighs"""
    x, before, after = _alone(x, *rest), op.shape(), op.out()
    if before is None or after is None:
        raise HiddenError("the rank is not known")
    given = op.attr("axes")
    axes = list(range(x.rank)) if given is None else [a % x.rank for a in given]
    scales = op.need(2, "scales").tolist() if op.given(2) else None
    if scales is not None and not scales:
        scales = None
    roi = op.const(1)
    for place, axis in enumerate(axes):
        if not x.moves(x.axes[axis]):
            x = x.fresh(axis, after[axis])
            continue
        scale = _scale(before[axis], after[axis], None if scales is None else scales[place])
        window = None if roi is None or not roi.size else (float(roi[place]), float(roi[place + len(axes)]))
        coordinate = _coordinate(op, scale, before[axis], after[axis], window)
        if coordinate(1) - coordinate(0) == 1 and coordinate(0) == 0:
            continue
        x = x.pull(axis, _neighbours(op, coordinate, scale), after[axis], before[axis])
    return x


def _scale(before: Size, after: Size, given: float | None) -> Fraction:
    """Output over input size, as a ratio of small integers where one is meant."""
    if isinstance(before, int) and isinstance(after, int):
        ratio = Fraction(after, before)
        if given is None or abs(float(ratio) - given) < 1e-5 * given:
            return ratio
    if given is None:
        raise HiddenError("its scale is known only at run time")
    return Fraction(given).limit_denominator(1024)


def _coordinate(
    op: Site, scale: Fraction, before: Size, after: Size, window: tuple[float, float] | None
) -> Callable[[int], Fraction]:
    """o ↦ x(o), the place in the input, by `coordinate_transformation_mode`."""
    mode = op.attr("coordinate_transformation_mode", "half_pixel")
    half = Fraction(1, 2)
    if mode == "asymmetric":
        return lambda o: o / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and after != 1):
        return lambda o: (o + half) / scale - half
    if mode == "pytorch_half_pixel":
        return lambda o: Fraction(o)
    if not isinstance(before, int) or not isinstance(after, int):
        raise HiddenError(f"{mode} with sizes known only at run time")
    if mode == "align_corners":
        return lambda o: Fraction(o * (before - 1), after - 1) if after > 1 else Fraction(o)
    if mode == "half_pixel_symmetric":
        offset = Fraction(before, 2) * (1 - after / (scale * before))
        return lambda o: offset + (o + half) / scale - half
    if mode == "tf_crop_and_resize" and window is not None:
        start, end = (Fraction(w).limit_denominator(1024) for w in window)
        if after > 1:
            return lambda o: start * (before - 1) + Fraction(o) * (end - start) * (before - 1) / (after - 1)
        return lambda o: (start + end) / 2 * (before - 1) + o
    raise HiddenError(f"the coordinate mode {mode!r}")


def _neighbours(op: Site, coordinate: Callable[[int], Fraction], scale: Fraction) -> Taps:
    """The indices around a coordinate that `mode` gives a weight."""
    step = coordinate(1) - coordinate(0)
    mode = op.attr("mode", "nearest")
    if mode == "nearest":
        rounding = _ROUNDING[op.attr("nearest_mode", "round_prefer_floor")]
        return Taps(lambda o: [rounding(coordinate(o))], step.denominator, step.numerator)
    radius = Fraction(1 if mode == "linear" else 2)
    smoothed = op.attr("antialias", 0) and scale < 1
    if smoothed:
        radius /= scale

    def at(o: int) -> Iterable[int]:
        x = coordinate(o)
        if x.denominator == 1 and not smoothed:
            return [int(x)]
        return range(math.floor(x - radius) + 1, math.ceil(x + radius))

    return Taps(at, step.denominator, step.numerator)


_ROUNDING: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda x: math.ceil(x - Fraction(1, 2)),
    "round_prefer_ceil": lambda x: math.floor(x + Fraction(1, 2)),
    "floor": math.floor,
    "ceil": math.ceil,
}

# ---- Moving data ----


@spatial("Transpose")
def transpose_transfer(op: Site, x: Maybe) -> Field:
    """i ← {i}, axes in another order"""
    x = _alone(x)
    return x.permute(op.attr("perm", list(range(x.rank))[::-1]))


@spatial("Reshape")
def reshape_transfer(op: Site, x: Maybe, shape: Maybe = None) -> Field:
    """i ← {i}, counted row-major over other axes"""
    x = _alone(x, shape)
    model = _shape_of(op, 1)
    if model is not None:
        return x.reshape([digits[0] if digits else 1 for digits in model.axes])
    target, out = op.const(1), op.out()
    if out is None and target is None:
        raise HiddenError("the new shape is known only at run time")
    sizes: list[Size | Digit] = list(out) if out is not None else [int(d) if d > 0 else None for d in target]  # type: ignore[union-attr]
    if target is not None and not op.attr("allowzero", 0):
        for axis, size in enumerate(target.tolist()):
            if size == 0 and axis < x.rank and len(x.axes[axis]) == 1:
                sizes[axis] = x.axes[axis][0]
    return x.reshape(sizes)


def _shape_of(op: Site, index: int) -> Field | None:
    """The tensor whose shape input `index` is, where sizes known only at run time come from one."""
    shape = producer(op.node.inputs[index])
    if shape is None or shape.op != "Shape" or shape.attrs.get("start") or shape.attrs.get("end") is not None:
        return None
    model = op.values.get(shape.inputs[0].name)
    known = op.const(index) is not None or model is None or any(len(axis) > 1 for axis in model.axes)
    return None if known else model


@spatial("Flatten")
def flatten_transfer(op: Site, x: Maybe) -> Field:
    """i ← {i}, axes before and after `axis` made one each"""
    x = _alone(x)
    axis = op.attr("axis", 1)
    axis += x.rank if axis < 0 else 0
    groups = (x.axes[:axis], x.axes[axis:])
    return replace(x, axes=tuple(tuple(d for digits in group for d in digits) for group in groups))


@spatial("Squeeze")
def squeeze_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """i ← {i}, without axes of size 1"""
    x = _alone(x, axes)
    gone = _axes(op, x.rank)
    return x.drop([a for a, d in enumerate(x.axes) if not d] if gone is None else gone)


@spatial("Unsqueeze")
def unsqueeze_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """i ← {i}, with new axes of size 1"""
    x = _alone(x, axes)
    given = op.attr("axes")
    new = [int(a) for a in (given if given is not None else op.need(1, "axes").ravel())]
    return x.insert([a % (x.rank + len(new)) for a in new])


@spatial("Expand")
def expand_transfer(op: Site, x: Maybe, shape: Maybe = None) -> Field:
    """i ← {i}, broadcast"""
    x = _alone(x, shape)
    if op.out() is None:
        raise HiddenError("the new shape is known only at run time")
    return x.fit(op.out())


@spatial("Tile")
def tile_transfer(op: Site, x: Maybe, repeats: Maybe = None) -> Field:
    """o ← {o mod n}"""
    x = _alone(x, repeats)
    times = op.need(1, "repeats").tolist()
    return replace(x, axes=tuple(axis_of(t) + axis for t, axis in zip(times, x.axes, strict=True)))


@spatial("Slice")
def slice_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← {start + o·step}"""
    x = _alone(x, *rest)
    starts, ends = (op.need(i, "bounds").ravel().tolist() for i in (1, 2))
    axes = _axes(op, x.rank, 3) or list(range(len(starts)))
    steps = op.need(4, "steps").ravel().tolist() if op.given(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(x, axis, start, end, step, _size(op.shape(), axis), _size(op.out(), axis))
    return x


def _sliced(x: Field, axis: int, start: int, end: int, step: int, before: Size, after: Size) -> Field:
    """x[start:end:step] along `axis`."""
    if step == 1 and start == 0 and (end >= before if isinstance(before, int) else end >= 1 << 30):
        return x
    if not isinstance(before, int):
        if not x.moves(x.axes[axis]):
            return x.fresh(axis, after)
        if start < 0 or step < 0:
            raise HiddenError("it counts from an end known only at run time")
        return x.pull(axis, _stepping(start, step, start < step and end >= 1 << 30), after)
    kept = range(before)[slice(start, None if end < -before else end, step)]
    if not kept:
        raise HiddenError("it is empty")
    whole = min(kept) < abs(step) and max(kept) >= before - abs(step)
    return x.pull(axis, _stepping(kept.start, step, whole), len(kept))


def _stepping(start: int, step: int, whole: bool) -> Taps:
    return Taps(lambda o: [start + o * step], 1, step, whole)


@spatial("Split")
def split_transfer(op: Site, x: Maybe, split: Maybe = None) -> tuple[Field, ...]:
    """o ← {o + the sizes of the parts before}"""
    x = _alone(x, split)
    axis, count = op.attr("axis", 0) % x.rank, len(op.node.outputs)
    before = _size(op.shape(), axis)
    parts: list[Size] = [_size(op.out(k), axis) for k in range(count)]
    if op.given(1):
        parts = op.need(1, "sizes of the parts").tolist()
    elif isinstance(before, int):
        part = -(-before // count)
        parts = [min(part, before - k * part) for k in range(count)]
    if not x.moves(x.axes[axis]):
        return tuple(x.fresh(axis, p) for p in parts)
    if not all(isinstance(p, int) for p in parts):
        raise HiddenError("sizes of the parts known only at run time")
    starts = np.cumsum([0, *parts]).tolist()
    return tuple(x.pull(axis, _stepping(s, 1, count == 1), p) for s, p in zip(starts, parts, strict=False))


@spatial("Gather")
def gather_transfer(op: Site, x: Maybe, indices: Maybe) -> Field:
    """o ← {indices[o]}"""
    if x is None and indices is not None:
        return _looked_up(op, indices)
    x = _alone(x, indices)
    axis = op.attr("axis", 0) % x.rank
    known, shape, before = op.const(1), op.shape(1), _size(op.shape(), axis)
    if not x.moves(x.axes[axis]):
        if shape is None:
            raise HiddenError("the rank is not known")
        return replace(x, axes=x.axes[:axis] + tuple(axis_of(s) for s in shape) + x.axes[axis + 1 :])
    if known is None or not known.size or (not isinstance(before, int) and (known < 0).any()):
        raise HiddenError("positions known only at run time")
    places = [int(i) + (int(before) if i < 0 else 0) for i in known.ravel()]  # type: ignore[arg-type]
    x = x.pull(axis, _listed(places, before), len(places), None)
    digits = list(x.axes[axis])
    result, groups = x._deal(digits, list(known.shape))
    return replace(result, axes=result.axes[:axis] + tuple(groups) + result.axes[axis + 1 :])


def _looked_up(op: Site, indices: Field) -> Field:
    """Rows of a table of weights, picked by values computed from the image."""
    shape = op.shape()
    if shape is None:
        raise HiddenError("the rank is not known")
    axis = op.attr("axis", 0) % len(shape)
    lead, rest = (tuple(axis_of(s) for s in part) for part in (shape[:axis], shape[axis + 1 :]))
    return replace(indices, axes=lead + indices.axes + rest)


def _listed(places: list[int], before: Size) -> Taps:
    """A list of indices; one in equal steps is a slice."""
    steps = {b - a for a, b in itertools.pairwise(places)} or {1}
    whole = isinstance(before, int) and set(places) >= set(range(before))
    if len(steps) == 1:
        return _stepping(places[0], steps.pop(), whole)
    return Taps(lambda o: [places[o]], 1, None, whole)


@spatial("Pad")
def pad_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← {o − pad}; mirrored and repeated borders count as the image continued"""
    x = _alone(x, *rest)
    pads = op.need(1, "pads").ravel().tolist()
    axes = _axes(op, x.rank, 3) or list(range(x.rank))
    for place, axis in enumerate(axes):
        begin, end = int(pads[place]), int(pads[place + len(axes)])
        if begin or end:
            taps = _stepping(-begin, 1, begin >= 0 and end >= 0)
            x = x.pull(axis, taps, _size(op.out(), axis))
    return x


@spatial("Concat")
def concat_transfer(op: Site, *inputs: Maybe) -> Field:
    """o ← {o − the sizes of the tensors before}"""
    axis = op.attr("axis") % next(f.rank for f in inputs if f is not None)
    return concat(inputs, axis, [_size(op.shape(i), axis) for i in range(len(inputs))], _size(op.out(), axis))


@spatial("DepthToSpace")
def depth_to_space_transfer(op: Site, x: Maybe) -> Field:
    """o ← {⌊o / b⌋}, the channel by o mod b"""
    x, b, depth = _alone(x), op.attr("blocksize"), _size(op.shape(), 1)
    x, (n, h, w) = _whole_axes(x, (0, 2, 3))
    c = depth // (b * b) if isinstance(depth, int) else None
    if op.attr("mode", "DCR") == "DCR":
        y = x.reshape([n, b, b, c, h, w]).permute([0, 3, 4, 1, 5, 2])
    else:
        y = x.reshape([n, c, b, b, h, w]).permute([0, 1, 4, 2, 5, 3])
    return _joined(y.telling([3, 5], space=True), [[0], [1], [2, 3], [4, 5]])


@spatial("SpaceToDepth")
def space_to_depth_transfer(op: Site, x: Maybe) -> Field:
    """o ← {o·b + the block's place, by channel}"""
    (x, (n, _, _)), b = _whole_axes(_alone(x), (0, 2, 3)), op.attr("blocksize")
    c, h, w = (op.shape() or [None] * 4)[1:]
    h, w = (s // b if isinstance(s, int) else None for s in (h, w))
    y = x.reshape([n, c, h, b, w, b]).permute([0, 3, 5, 1, 2, 4])
    return _joined(y.telling([1, 2], space=False), [[0], [1, 2, 3], [4], [5]])


def _whole_axes(x: Field, axes: Iterable[int]) -> tuple[Field, list[Size | Digit]]:
    """(x with one digit for each of `axes`, those digits; 1 for an axis of size 1)."""
    sizes: list[Size | Digit] = []
    for axis in axes:
        x, digit = x.merged(axis)
        sizes.append(digit or 1)
    return x, sizes


def _joined(x: Field, groups: Sequence[Sequence[int]]) -> Field:
    """Axes of each group as one."""
    return replace(x, axes=tuple(tuple(d for a in group for d in x.axes[a]) for group in groups))


# ---- Mixing along axes ----


@spatial("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool_transfer(op: Site, x: Maybe) -> Field:
    """o ← all of its channel"""
    x = _alone(x)
    return _pooled(x, range(2, x.rank), True)


def _pooled(x: Field, axes: Iterable[int], keep: bool) -> Field:
    axes = list(axes)
    x = x.collapse(axes)
    for axis in axes:
        x = x.fresh(axis, 1)
    return x if keep else x.drop(axes)


@spatial(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
def reduce_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """o ← all along `axes`"""
    x = _alone(x, axes)
    chosen = _axes(op, x.rank)
    if chosen is None:
        if op.attr("noop_with_empty_axes", 0):
            return x
        chosen = list(range(x.rank))
    return _pooled(x, chosen, bool(op.attr("keepdims", 1)))


@spatial("ArgMax", "ArgMin")
def arg_transfer(op: Site, x: Maybe) -> Field:
    """o ← all along `axis`"""
    x = _alone(x)
    return _pooled(x, [op.attr("axis", 0) % x.rank], bool(op.attr("keepdims", 1)))


@spatial("TopK")
def top_k_transfer(op: Site, x: Maybe, k: Maybe = None) -> tuple[Field, Field]:
    """o ← all along `axis`"""
    x = _alone(x, k)
    axis = op.attr("axis", -1) % x.rank
    y = x.collapse([axis]).fresh(axis, _size(op.out(), axis))
    return y, y


@spatial("Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization")
def along_transfer(op: Site, x: Maybe, given: Maybe = None) -> Field:
    """o ← all along `axis`"""
    x = _alone(x, given)
    axis = int(op.need(1, "axis").item()) if op.node.op == "CumSum" else op.attr("axis", -1)
    y = x.collapse([axis % x.rank])
    return replace(y, exact=y.exact and (op.node.op != "CumSum" or y is x))


@spatial("InstanceNormalization", "MeanVarianceNormalization", "GroupNormalization")
def statistics_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """i ← {i}, and the statistics of the whole image: a gate"""
    x = _parametrised(op, x, rest)
    axes = range(2, x.rank)
    if op.node.op == "MeanVarianceNormalization":
        axes = [a % x.rank for a in op.attr("axes", [0, 2, 3])]  # type: ignore[assignment]
    if op.node.op == "GroupNormalization":
        axes = range(1, x.rank)
    return x.union(x.collapse(axes).gated())


@spatial("LayerNormalization")
def layer_normalization_transfer(op: Site, x: Maybe, *rest: Maybe) -> tuple[Field, ...]:
    """i ← {i}, and the statistics along the axes from `axis` on: a gate where they are space"""
    x = _parametrised(op, x, rest)
    axes = range(op.attr("axis", -1) % x.rank, x.rank)
    statistic = x.collapse(axes)
    return x.union(statistic.gated()), _pooled(statistic, axes, True), _pooled(statistic, axes, True)


@spatial("DynamicQuantizeLinear")
def dynamic_quantize_transfer(op: Site, x: Maybe) -> tuple[Field, Field, Field]:
    """i ← {i}, and the range of the whole tensor: a gate"""
    x = _alone(x)
    scale = _everywhere(x)
    assert scale is not None
    return x.union(scale.gated()), scale, scale


@spatial("LSTM", "GRU", "RNN")
def recurrent_transfer(op: Site, x: Maybe, *rest: Maybe) -> tuple[Field, ...]:
    """t ← all steps; exact where the network reads in both directions"""
    x = _alone(x, *rest)
    steps = 1 if op.attr("layout", 0) else 0
    y = x.collapse([steps, 2])
    y = replace(y, exact=y.exact and (op.attr("direction", "forward") == "bidirectional" or y is x))
    hidden, directions = op.attr("hidden_size"), axis_of(2 if op.attr("direction") == "bidirectional" else 1)
    seq, batch, _ = (*y.axes[:2], ()) if steps == 0 else (y.axes[1], y.axes[0], ())
    units = axis_of(hidden)
    outs = (seq, directions, batch, units) if steps == 0 else (batch, seq, directions, units)
    state = (directions, batch, units) if steps == 0 else (batch, directions, units)
    return replace(y, axes=outs), replace(y, axes=state), replace(y, axes=state)


# ---- Products ----


def _matmul(op: Site, a: Maybe, b: Maybe) -> Field:
    """(…, i, j) ← all k of (…, i, k) and (…, k, j)."""
    parts = []
    if a is not None:
        a = a.insert([0]) if a.rank == 1 else a
        parts.append(a.collapse([a.rank - 1]).fresh(a.rank - 1, 1))
    if b is not None:
        b = b.insert([1]) if b.rank == 1 else b
        parts.append(b.collapse([b.rank - 2]).fresh(b.rank - 2, 1))
    return _with(None, *parts)


@spatial("MatMul", "MatMulInteger")
def matmul_transfer(op: Site, a: Maybe, b: Maybe, *points: Maybe) -> Field:
    """(i, j) ← all k of (i, k) and (k, j)"""
    if any(p is not None for p in points):
        raise HiddenError("its zero points depend on the pixels")
    y = _matmul(op, a, b)
    for index, axis in ((0, -2), (1, -1)):
        shape = op.shape(index)
        if shape is not None and len(shape) == 1:
            y = y.drop([y.rank + axis])
    return y.fit(op.out())


@spatial("Gemm")
def gemm_transfer(op: Site, a: Maybe, b: Maybe = None, c: Maybe = None) -> Field:
    """(i, j) ← all k of (i, k) and (k, j)"""
    a = a.permute([1, 0]) if a is not None and op.attr("transA", 0) else a
    b = b.permute([1, 0]) if b is not None and op.attr("transB", 0) else b
    y = _matmul(op, a, b) if a is not None or b is not None else None
    return _with(y, c).fit(op.out())


@spatial("Einsum")
def einsum_transfer(op: Site, *inputs: Maybe) -> Field:
    """output labels ← all values of the labels that are summed"""
    equation = op.attr("equation")
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "..." in left or any(len(set(t)) < len(t) for t in terms):
        raise HiddenError(f"the equation {equation!r}")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    parts = []
    for term, x in zip(terms, inputs, strict=True):
        if x is not None:
            summed = [i for i, c in enumerate(term) if c not in right]
            x, kept = x.collapse(summed).drop(summed), [c for c in term if c in right]
            x = x.permute([kept.index(c) for c in right if c in kept])
            parts.append(x.insert([i for i, c in enumerate(right) if c not in kept]))
    return _with(None, *parts).fit(op.out())


# ---- Values that depend on no pixel ----


@spatial("Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike")
def shape_transfer(op: Site, x: Maybe) -> None:
    """nothing: sizes do not depend on pixels"""
