"""Operators that move data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from analyzer.analysis.interpreter import HiddenError, Site
from analyzer.analysis.intervals import Digit, Field, Size, Taps, axis_of, concat
from analyzer.analysis.spatial.table import Maybe, alone, axes_of, size_of, spatial, stepping
from analyzer.graph.through import producer


@spatial("Transpose")
def transpose_transfer(op: Site, x: Maybe) -> Field:
    """i ← {i}, axes in another order"""
    x = alone(x)
    return x.permute(op.attr("perm", list(range(x.rank))[::-1]))


@spatial("Reshape")
def reshape_transfer(op: Site, x: Maybe, shape: Maybe = None) -> Field:
    """i ← {i}, counted row-major over other axes"""
    x = alone(x, shape)
    model = _shape_of(op, 1)
    if model is not None:
        return x.reshape([digits[0] if digits else 1 for digits in model.axes])
    target, out = op.const(1), op.out()
    sizes: list[Size | Digit]
    if out is not None:
        sizes = list(out)
    elif target is not None:
        sizes = [int(d) if d > 0 else None for d in target]
    else:
        raise HiddenError("the new shape is known only at run time")
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
    x = alone(x)
    axis = op.attr("axis", 1)
    axis += x.rank if axis < 0 else 0
    groups = (x.axes[:axis], x.axes[axis:])
    return replace(x, axes=tuple(tuple(d for digits in group for d in digits) for group in groups))


@spatial("Squeeze")
def squeeze_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """i ← {i}, without axes of size 1"""
    x = alone(x, axes)
    gone = axes_of(op, x.rank)
    return x.drop([a for a, d in enumerate(x.axes) if not d] if gone is None else gone)


@spatial("Unsqueeze")
def unsqueeze_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """i ← {i}, with new axes of size 1"""
    x = alone(x, axes)
    given = op.attr("axes")
    new = [int(a) for a in (given if given is not None else op.need(1, "axes").ravel())]
    return x.insert([a % (x.rank + len(new)) for a in new])


@spatial("Expand")
def expand_transfer(op: Site, x: Maybe, shape: Maybe = None) -> Field:
    """i ← {i}, broadcast"""
    x = alone(x, shape)
    if op.out() is None:
        raise HiddenError("the new shape is known only at run time")
    return x.fit(op.out())


@spatial("Tile")
def tile_transfer(op: Site, x: Maybe, repeats: Maybe = None) -> Field:
    """o ← {o mod n}"""
    x = alone(x, repeats)
    times = op.need(1, "repeats").tolist()
    return replace(x, axes=tuple(axis_of(t) + axis for t, axis in zip(times, x.axes, strict=True)))


@spatial("Slice")
def slice_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← {start + o·step}"""
    x = alone(x, *rest)
    starts, ends = (op.need(i, "bounds").ravel().tolist() for i in (1, 2))
    axes = axes_of(op, x.rank, 3) or list(range(len(starts)))
    steps = op.need(4, "steps").ravel().tolist() if op.given(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(x, axis, start, end, step, size_of(op.shape(), axis), size_of(op.out(), axis))
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
        return x.pull(axis, stepping(start, step, start < step and end >= 1 << 30), after)
    kept = range(before)[slice(start, None if end < -before else end, step)]
    if not kept:
        raise HiddenError("it is empty")
    whole = min(kept) < abs(step) and max(kept) >= before - abs(step)
    return x.pull(axis, stepping(kept.start, step, whole), len(kept))


@spatial("Split")
def split_transfer(op: Site, x: Maybe, split: Maybe = None) -> tuple[Field, ...]:
    """o ← {o + the sizes of the parts before}"""
    x = alone(x, split)
    axis, count = op.attr("axis", 0) % x.rank, len(op.node.outputs)
    before = size_of(op.shape(), axis)
    parts: list[Size] = [size_of(op.out(k), axis) for k in range(count)]
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
    return tuple(x.pull(axis, stepping(s, 1, count == 1), p) for s, p in zip(starts, parts, strict=False))


@spatial("Gather")
def gather_transfer(op: Site, x: Maybe, indices: Maybe) -> Field:
    """o ← {indices[o]}"""
    if x is None and indices is not None:
        return _looked_up(op, indices)
    x = alone(x, indices)
    axis = op.attr("axis", 0) % x.rank
    known, shape, before = op.const(1), op.shape(1), size_of(op.shape(), axis)
    if not x.moves(x.axes[axis]):
        if shape is None:
            raise HiddenError("the rank is not known")
        return replace(x, axes=x.axes[:axis] + tuple(axis_of(s) for s in shape) + x.axes[axis + 1 :])
    if known is None or not known.size or (not isinstance(before, int) and (known < 0).any()):
        raise HiddenError("positions known only at run time")
    end = before if isinstance(before, int) else 0
    places = [int(i) + (end if i < 0 else 0) for i in known.ravel()]
    x = x.pull(axis, _listed(places, before), len(places), None)
    digits = list(x.axes[axis])
    result, groups = x.deal(digits, list(known.shape))
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
        return stepping(places[0], steps.pop(), whole)
    return Taps(lambda o: [places[o]], 1, None, whole)


@spatial("Pad")
def pad_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← {o − pad}; mirrored and repeated borders count as the image continued"""
    x = alone(x, *rest)
    pads = op.need(1, "pads").ravel().tolist()
    axes = axes_of(op, x.rank, 3) or list(range(x.rank))
    for place, axis in enumerate(axes):
        begin, end = int(pads[place]), int(pads[place + len(axes)])
        if begin or end:
            taps = stepping(-begin, 1, begin >= 0 and end >= 0)
            x = x.pull(axis, taps, size_of(op.out(), axis))
    return x


@spatial("Concat")
def concat_transfer(op: Site, *inputs: Maybe) -> Field:
    """o ← {o − the sizes of the tensors before}"""
    axis = op.attr("axis") % next(f.rank for f in inputs if f is not None)
    return concat(inputs, axis, [size_of(op.shape(i), axis) for i in range(len(inputs))], size_of(op.out(), axis))


@spatial("DepthToSpace")
def depth_to_space_transfer(op: Site, x: Maybe) -> Field:
    """o ← {⌊o / b⌋}, the channel by o mod b"""
    x, b, depth = alone(x), op.attr("blocksize"), size_of(op.shape(), 1)
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
    (x, (n, _, _)), b = _whole_axes(alone(x), (0, 2, 3)), op.attr("blocksize")
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
