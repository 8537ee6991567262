"""What each operator does to the digits of axes, where axes are taken apart and put together.

A row takes the digits of the inputs, None where they are not known, and returns those of the output, all of whose sizes
are fixed; None where they are not known. An operator without a row works element by element.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TypeAlias

from analyzer.analysis.interpreter import Site, Table, transfer
from analyzer.analysis.layouts.digits import Axes, Digit, Digits, digits_of, is_whole
from analyzer.analysis.layouts.rows import after, before, of_data, reduced
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.through import KEEPING

Maybe: TypeAlias = "Axes | None"


def sizes_after(op: Site) -> tuple[int, ...]:
    """The sizes of the output, all of which are fixed."""
    return fixed_sizes(after(op)) or ()


def elementwise_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """The digits of the first operand of the output's shape"""
    sizes, values = sizes_after(op), op.node.inputs
    return next(
        (x for v, x in zip(values, inputs, strict=True) if x is not None and fixed_sizes(v.shape) == sizes), None
    )


DIGITS: Table[Axes] = Table("digits of axes", default=elementwise_transfer)
data = functools.partial(of_data, table=DIGITS)


@data(*KEEPING)
def kept_transfer(op: Site, x: Axes, *_: Maybe) -> Axes:
    """The same digits"""
    return x


@data("Transpose")
def transpose_transfer(op: Site, x: Axes) -> Axes:
    """Digits move with their axes"""
    perm = op.attr("perm") or range(len(x.digits))[::-1]
    return x.made_of(x.digits[p] for p in perm)


@data("Squeeze", "Unsqueeze")
def squeeze_transfer(op: Site, x: Axes, *_: Maybe) -> Axes:
    """Axes of size 1 go or come, in whatever order: the others stay in theirs"""
    kept = iter([row for row in x.digits if row])
    return x.made_of(next(kept, ()) if size > 1 else () for size in sizes_after(op))


@data("Reshape", "Flatten")
def reshape_transfer(op: Site, x: Axes, *_: Maybe) -> Maybe:
    """The digits in a row, cut where the new axes begin"""
    waiting = [d for row in x.digits for d in row][::-1]
    axes: list[Digits] = []
    for size in sizes_after(op):
        taken: list[Digit] = []
        while size > 1:
            if not waiting:
                return None
            digit = waiting.pop()
            if size % digit.size == 0:
                taken.append(digit)
                size //= digit.size
                continue
            low, rest = divmod(digit.size, size)
            if rest or digit.letter == "L":
                return None
            taken.append(Digit(digit.letter, size, digit.weight * low))
            waiting.append(Digit(digit.letter, low, digit.weight))
            size = 1
        axes.append(tuple(taken))
    return None if waiting else x.made_of(axes)


@data("MatMul", "MatMulInteger")
def matmul_transfer(op: Site, x: Axes, right: Maybe = None, *_: Maybe) -> Maybe:
    """New channels of the last axis; of two activations, rows of one over columns of the other"""
    if right is not None and len(right.digits) == len(x.digits):
        column = tuple(d if d.letter == "C" else Digit("K", d.size) for d in right.digits[-1])
        return x.made_of((*x.digits[:-1], column))
    if right is not None or not x.letters(-1) <= set("CDHW") or _splits_space(x):
        return None
    return x.made_of([*x.digits[:-1], digits_of(("C", sizes_after(op)[-1]))])


def _splits_space(x: Axes) -> bool:
    """Whether the last axis holds positions that are no part of its channels."""
    spatial = {d.letter for d in x.digits[-1]} - {"C"}
    return any(is_whole(x, letter, len(x.digits) - 1) for letter in spatial)


@data("Gemm")
def gemm_transfer(op: Site, x: Axes, *_: Maybe) -> Maybe:
    """New channels of the last axis"""
    return None if op.attr("transA") else matmul_transfer(op, x)


@data("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")
def reduce_transfer(op: Site, x: Axes, *_: Maybe) -> Axes:
    """The axes that are reduced are gone"""
    gone = reduced(op, len(x.digits))
    if op.attr("keepdims", 1):
        return x.made_of(() if i in gone else row for i, row in enumerate(x.digits))
    return x.made_of(row for i, row in enumerate(x.digits) if i not in gone)


@data("Slice", "Split", "Pad")
def cut_transfer(op: Site, x: Axes, *_: Maybe) -> Maybe:
    """Other sizes of axes that are channels, or that are one whole axis of the image"""
    return _resized(op, x)


@transfer("Concat", table=DIGITS)
def concat_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """Likewise, from the first operand whose digits are known"""
    return next((_resized(op, x, i) for i, x in enumerate(inputs) if x is not None), None)


def _resized(op: Site, x: Axes, index: int = 0) -> Maybe:
    axes: list[Digits] = []
    extent = dict(x.extent)
    for row, old, new in zip(x.digits, before(op, index), sizes_after(op), strict=True):
        letter = row[0].letter if len({d.letter for d in row}) == 1 else ""
        if old == new:
            axes.append(row)
        elif letter == "C":
            axes.append(digits_of(("C", new)))
        elif len(row) == 1 and row[0].size == extent.get(letter):
            axes.append(digits_of((letter, new)))
            extent[letter] = new
        else:
            return None
    return replace(x, digits=tuple(axes), extent=extent)


@data("Gather")
def gather_transfer(op: Site, x: Axes, *_: Maybe) -> Maybe:
    """One of several channels: the axis goes. Several: they are channels still"""
    at = op.attr("axis", 0) % len(x.digits)
    if x.letters(at) != {"C"}:
        return None
    rank = len(sizes_after(op))
    if rank == len(x.digits) - 1:
        return x.made_of(row for i, row in enumerate(x.digits) if i != at)
    return _resized(op, x) if rank == len(x.digits) else None


@data("Einsum", "GatherND", "GatherElements", "Shape", "TopK", "ArgMax", "LSTM", "GRU")
def lost_transfer(op: Site, *inputs: Maybe) -> None:
    """Digits do not tell"""
