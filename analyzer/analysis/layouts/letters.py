"""What each operator does to the letters of axes, while every axis is whole.

A row takes the layouts of the inputs, None where one is not known, and returns that of the output; None where letters
do not tell. An operator without a row works element by element.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, TypeAlias

from analyzer.analysis.interpreter import Site, Table, transfer
from analyzer.analysis.layouts.layout import Layout
from analyzer.analysis.layouts.rows import after, before, of_data, reduced

Maybe: TypeAlias = "Layout | None"


def elementwise_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """An output of the same rank, and of the same size in each spatial axis, keeps the axes of its input"""
    shape = after(op)
    for index, layout in enumerate(inputs):
        if layout is None or len(layout.axes) != len(shape):
            continue
        if "L" not in layout.axes:
            return replace(layout, grid=Layout.of(layout.axes, shape).grid)
        sizes = before(op, index)
        return layout if all(shape[i] == sizes[i] for i in layout.spatial) else None
    return None


LETTERS: Table[Layout] = Table("letters of axes", default=elementwise_transfer)
data = functools.partial(of_data, table=LETTERS)


@data("Transpose")
def transpose_transfer(op: Site, x: Layout) -> Layout:
    """The letters move"""
    perm = op.attr("perm") or range(len(x.axes))[::-1]
    return replace(x, axes="".join(x.axes[p] for p in perm))


@data("Reshape", "Flatten")
def reshape_transfer(op: Site, x: Layout, *_: Maybe) -> Maybe:
    """Space flattened to tokens, or tokens put back into space"""
    old, new = list(before(op)), list(after(op))
    if old == new:
        return x
    space: list[Any] = [old[i] for i in x.spatial]
    total = math.prod(space) if all(isinstance(s, int) for s in space) else None
    if "L" not in x.axes and len(space) > 1 and len(new) == len(old) - len(space) + 1:
        at = x.spatial[0]
        if x.spatial == tuple(range(at, at + len(space))) and (new[at] == total or new[at] is None):
            axes = x.axes[:at] + "L" + x.axes[at + len(space) :]
            return Layout(axes, tuple(d if isinstance(d, int) else None for d in space))
    if "L" in x.axes and x.tokens == slice(0, None) and len(new) == len(old) + 1 and len(x.grid) == 2:
        at = x.axes.index("L")
        if tuple(new[at : at + 2]) == x.grid:
            return Layout(x.axes[:at] + "HW" + x.axes[at + 1 :], x.grid)
    return None


@data("MatMul", "MatMulInteger")
def matmul_transfer(op: Site, x: Layout, *others: Maybe) -> Maybe:
    """A product with a weight mixes the last axis only; a product of two activations loses the trail"""
    two = any(other is not None for other in others)
    return x if not two and len(after(op)) == len(x.axes) and x.axes.endswith("C") else None


@transfer("Concat", table=LETTERS)
def concat_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """What is put before or after the tokens of a grid is outside it"""
    index, layout = next((i, known) for i, known in enumerate(inputs) if known is not None)
    axis = op.attr("axis") % len(layout.axes)
    if layout.axes[axis] != "L":
        return elementwise_transfer(op, *inputs)
    sizes: list[Any] = [v.shape[axis] if v.shape is not None else None for v in op.node.inputs]
    front, behind = sizes[:index], sizes[index + 1 :]
    grids = sum("L" in known.axes for known in inputs if known is not None)
    if grids > 1 or not all(isinstance(size, int) for size in front + behind):
        return None
    return replace(layout, prefix=layout.prefix + sum(front), suffix=layout.suffix + sum(behind))


@data("Slice")
def slice_transfer(op: Site, x: Layout, *others: Maybe) -> Maybe:
    """Cutting off tokens before or after the grid leaves the grid; cutting space leaves space"""
    if "L" not in x.axes:
        return elementwise_transfer(op, x, *others)
    at = x.axes.index("L")
    total, left = before(op)[at], after(op)[at]
    if total == left:
        return x
    starts, axes = op.const(1), op.const(3)
    if starts is None or op.const(2) is None or not isinstance(total, int) or not isinstance(left, int):
        return None
    along = list(range(len(starts))) if axes is None else [int(a) % len(x.axes) for a in axes]
    first = range(total)[int(starts[along.index(at)]) :].start
    prefix, suffix = x.prefix - first, x.suffix - (total - first - left)
    return replace(x, prefix=prefix, suffix=suffix) if prefix >= 0 and suffix >= 0 else None


@data("Squeeze")
def squeeze_transfer(op: Site, x: Layout, *_: Maybe) -> Maybe:
    """Axes of size 1 go"""
    given = op.const(1)
    if given is None and len(op.node.inputs) > 1:
        return None
    sizes = before(op)
    gone = {i for i, d in enumerate(sizes) if d == 1} if given is None else {int(a) % len(x.axes) for a in given}
    return _kept(op, x, "".join(a for i, a in enumerate(x.axes) if i not in gone))


@data("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceMin")
def reduce_transfer(op: Site, x: Layout, *_: Maybe) -> Maybe:
    """The axes that are reduced go, or are left with a size of 1"""
    if op.attr("keepdims", 1):
        return Layout.of(x.axes, after(op)) if "L" not in x.axes else None
    gone = reduced(op, len(x.axes))
    return _kept(op, x, "".join(a for i, a in enumerate(x.axes) if i not in gone))


def _kept(op: Site, x: Layout, axes: str) -> Layout:
    return replace(x, axes=axes) if "L" in axes else Layout.of(axes, after(op))


@data(
    "Gemm", "Einsum", "Gather", "GatherND", "GatherElements", "Unsqueeze", "Shape", "TopK", "ArgMax", "LSTM", "GRU",
)  # fmt: skip
def lost_transfer(op: Site, *inputs: Maybe) -> None:
    """Letters do not tell"""
