"""The table of the receptive field, and what its transfer functions share."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TypeAlias

from analyzer.analysis.interpreter import HiddenError, Shape, Site, Table, transfer
from analyzer.analysis.intervals import Field, Size, Taps, join, union

SPATIAL: Table[Field] = Table("receptive field")
Maybe: TypeAlias = "Field | None"

spatial = functools.partial(transfer, table=SPATIAL)


def meet(op: Site, *fields: Maybe) -> Field:
    """The elementwise meeting of all that depend on the image, broadcast to the output."""
    present = [f for f in fields if f is not None]
    return functools.reduce(join, present).fit(op.out())


def alone(x: Maybe, *others: Maybe) -> Field:
    """`x`, where nothing else depends on the image: sizes, axes and positions computed from pixels are hidden."""
    if any(o is not None for o in others):
        raise HiddenError("which elements it reads depends on the pixels")
    if x is None:
        raise HiddenError("it reads no data")
    return x


def size_of(shape: Shape, axis: int) -> Size:
    return None if shape is None else shape[axis]


def axes_of(op: Site, rank: int, index: int = 1) -> list[int] | None:
    """The axes given as an attribute or as input `index`, counted from the front; None where none are given."""
    given = op.attr("axes")
    if given is None and op.given(index):
        given = op.need(index, "axes").ravel().tolist()
    if given is None or len(given) == 0:
        return None
    return [int(a) % rank for a in given]


def everywhere(x: Maybe) -> Maybe:
    """A value of no place: all of it is read by every unit."""
    return None if x is None else x.collapse(range(x.rank)).drop(range(x.rank))


def parametrised(op: Site, x: Maybe, parameters: Iterable[Maybe]) -> Field:
    """`x`, scaled and shifted by parameters that may be computed from the image themselves."""
    gates = (p if x is None else p.gated() for p in map(everywhere, parameters) if p is not None)
    return with_all(x, *gates).fit(op.out())


def with_all(y: Maybe, *others: Maybe) -> Field:
    """The union of what depends on the image."""
    present = [f for f in (y, *others) if f is not None]
    return functools.reduce(union, present)


def pooled(x: Field, axes: Iterable[int], keep: bool) -> Field:
    axes = list(axes)
    x = x.collapse(axes)
    for axis in axes:
        x = x.fresh(axis, 1)
    return x if keep else x.drop(axes)


def stepping(start: int, step: int, whole: bool) -> Taps:
    return Taps(lambda o: [start + o * step], 1, step, whole)
