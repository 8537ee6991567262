"""How an interval of pixels moves as one index of a unit moves: `Walk`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from analyzer.analysis.interpreter import HiddenError

INFINITE = 1 << 40  # an end that is not bounded: the whole image
EMPTY = 1 << 44  # lo = EMPTY, hi = −EMPTY: the unit reads nothing; outweighs INFINITE in sums
LIMIT = 1 << 16  # entries of a table
MAX_PATHS = 8

Size: TypeAlias = "int | str | None"


class Digit:
    """An index that takes `size` values (a symbol or None where it is not fixed); compared by identity."""

    __slots__ = ("size",)

    def __init__(self, size: Size) -> None:
        self.size = size

    @property
    def count(self) -> int | None:
        return self.size if isinstance(self.size, int) else None


@dataclass(frozen=True)
class Taps:
    """The input indices that output index o reads, `at(o)`, where at(o + period) = at(o) + shift.

    `shift` is None where they repeat in no way. `whole` tells that together they reach both ends of the axis.
    """

    at: Callable[[int], Iterable[int]]
    period: int = 1
    shift: int | None = 1
    whole: bool = True


@dataclass(frozen=True)
class Walk:
    """i ↦ [lo[i mod m], hi[i mod m]] + stride·⌊i/m⌋, m = len(lo).

    Args:
        stride: pixels per period; None for a table with one entry per index and nothing outside.
        space: it walks over the image; else it tells channels apart that see different intervals.
        whole: together the indices reach both ends of the image.
    """

    stride: int | None
    lo: tuple[int, ...]
    hi: tuple[int, ...]
    space: bool = True
    whole: bool = True

    def at(self, index: int) -> tuple[int, int]:
        """The interval of one index."""
        if self.stride is None:
            return self.lo[index], self.hi[index]
        turn, phase = divmod(index, len(self.lo))
        return self.lo[phase] + turn * self.stride, self.hi[phase] + turn * self.stride

    @property
    def slope(self) -> Fraction | None:
        """Pixels per index on average; None for a table."""
        return None if self.stride is None else Fraction(self.stride, len(self.lo))

    def pull(self, taps: Taps, size: Size) -> Walk:
        """o ↦ hull of self(j) over the indices j that o reads."""
        whole = self.whole and taps.whole
        if self.stride is not None and taps.shift is not None:
            turns = len(self.lo) // math.gcd(len(self.lo), taps.shift)
            period = taps.period * turns
            if period <= LIMIT:
                stride = self.stride * (taps.shift * turns // len(self.lo))
                return Walk(stride, *self._hulls(taps, period), self.space, whole)
        if not isinstance(size, int) or size > LIMIT:
            raise HiddenError("a pattern too long to follow, or of a size known only at run time")
        return Walk(None, *self._hulls(taps, size), self.space, whole)

    def _hulls(self, taps: Taps, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        lows, highs = [], []
        for o in range(count):
            read = [self.at(j) for j in taps.at(o) if self.stride is not None or 0 <= j < len(self.lo)]
            lows.append(min((r[0] for r in read), default=EMPTY))
            highs.append(max((r[1] for r in read), default=-EMPTY))
        return tuple(lows), tuple(highs)

    def bounds(self, size: int | None) -> tuple[int, int] | None:
        """The hull over all indices; None where the size that it takes is not known."""
        period = len(self.lo)
        if self.stride in (None, 0):
            return min(self.lo), max(self.hi)
        if size is None:
            return None
        ends = {*range(min(period, size)), *range(max(size - period, 0), size)}
        return min(self.at(i)[0] for i in ends), max(self.at(i)[1] for i in ends)

    def table(self, size: int) -> list[tuple[int, int]]:
        """The intervals of the first `size` indices."""
        if len(self.lo) >= size:
            return list(zip(self.lo[:size], self.hi[:size], strict=True))
        return [self.at(i) for i in range(size)]

    def shortest(self) -> Walk:
        """The same walk with the shortest period that says it."""
        count = len(self.lo)
        if self.stride is None:
            # Two or three entries are in step by chance.
            if max(self.lo) >= EMPTY // 2 or min(self.lo) <= -INFINITE // 2:
                return self
            candidates: Iterable[int] = range(1, min(count // 3, 64) + 1)
        else:
            candidates = (p for p in range(1, count) if count % p == 0 and self.stride * p % count == 0)
        lows, highs = np.array(self.lo), np.array(self.hi)
        for period in candidates:
            step = self.stride * period // count if self.stride is not None else self.lo[period] - self.lo[0]
            if all((side[period:] - side[:-period] == step).all() for side in (lows, highs)):
                return replace(self, stride=step, lo=self.lo[:period], hi=self.hi[:period])
        return self


STILL = Walk(0, (0,), (0,), space=False)


def nested(outer: Walk | None, inner: Walk | None, size: int | None) -> Walk | None:
    """i ↦ outer(⌊i / size⌋) + inner(i mod size)."""
    if outer is None and inner is None:
        return None
    outer, inner = outer or STILL, inner or STILL
    if size is None or size > LIMIT or size * len(outer.lo) > LIMIT:
        raise HiddenError("axes are merged whose sizes are known only at run time")
    space, whole = outer.space or inner.space, outer.whole and inner.whole
    in_line = inner.slope is not None and outer.slope == inner.slope * size and size % len(inner.lo) == 0
    if in_line and (outer.lo, outer.hi) == ((0,), (0,)):
        return replace(inner, space=space, whole=whole)
    rows = list(zip(outer.lo, outer.hi, strict=True))
    cells = [plus(row, cell) for row in rows for cell in inner.table(size)]
    return Walk(outer.stride, tuple(c[0] for c in cells), tuple(c[1] for c in cells), space, whole)


def plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (EMPTY, -EMPTY) if a[0] >= EMPTY // 2 or b[0] >= EMPTY // 2 else (a[0] + b[0], a[1] + b[1])


def is_empty(interval: tuple[int, int]) -> bool:
    return interval[0] >= EMPTY // 2


def divided(walk: Walk, size: int, count: int | None) -> tuple[list[tuple[Walk, Walk]], bool]:
    """(pairs, exact): walk(i) is the hull of outer(⌊i / size⌋) + inner(i mod size) over the pairs, or lies inside it.

    Rows of `size` indices that look alike share a pair, which reads nothing in the other rows.
    """
    period = len(walk.lo)
    if walk.stride is not None and size % period == 0:
        return [(replace(walk, stride=walk.stride * (size // period), lo=(0,), hi=(0,)), walk)], True
    length, stride = period, walk.stride
    if stride is not None:
        length = math.lcm(period, size)
        stride *= length // period
        if length > LIMIT or (count is not None and length > count):
            if count is None or count > LIMIT:
                raise HiddenError("a pattern too long to follow")
            length, stride = count, None
    rows = [[walk.at(i) for i in range(start, start + size)] for start in range(0, length, size)]
    heads = [_head(row) for row in rows]
    looks = [
        tuple(None if is_empty(c) else (c[0] - h[0], c[1] - h[1]) for c in r) for r, h in zip(rows, heads, strict=True)
    ]
    kinds = list(dict.fromkeys(look for look in looks if any(look)))
    if len(kinds) <= MAX_PATHS // 2:
        pairs = [([h if k == look else None for h, k in zip(heads, looks, strict=True)], look) for look in kinds]
        return [(_listed(walk, stride, outer), _listed(walk, None, inner)) for outer, inner in pairs], True
    if not walk.space:
        bounds = min(walk.lo), max(walk.hi)
        return [(_listed(walk, 0, [bounds]), STILL)], False
    columns = [[cell for look in looks if (cell := look[t]) is not None] for t in range(size)]
    inner = [(min(c[0] for c in cs), max(c[1] for c in cs)) if cs else None for cs in columns]
    return [(_listed(walk, stride, heads), _listed(walk, None, inner))], False


def _listed(like: Walk, stride: int | None, cells: Sequence[tuple[int, int] | None]) -> Walk:
    """A walk of these intervals, None where nothing is read."""
    lows = tuple(EMPTY if c is None else c[0] for c in cells)
    return replace(like, stride=stride, lo=lows, hi=tuple(-EMPTY if c is None else c[1] for c in cells))


def _head(row: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return next((cell for cell in row if not is_empty(cell)), (EMPTY, -EMPTY))
