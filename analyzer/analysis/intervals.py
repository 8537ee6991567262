"""Which input pixels a tensor's units read: intervals that walk over the image as the unit's index moves.

An axis of a tensor is written as digits, outermost first: one digit for an ordinary axis, two for tokens (h, w)
flattened into one axis, or for windows (which window, where in it). Per axis of the image a `Path` holds

    unit i reads [lo + Σ_d walk_d.lo(i_d), hi + Σ_d walk_d.hi(i_d)]     (pixels, both ends included)

with one `Walk` per digit that matters. A walk is affine up to a period, so strided, dilated and transposed
convolution, resizing and windows are all exact. Moving data moves digits; reading several indices at once (`pull`)
takes minima and maxima over them; two tensors that meet keep both their paths until one contains the other.

The image counts as continued beyond its borders: a unit near the border has an interval that reaches outside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


# ---- How an interval moves with one index ----


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


def _nested(outer: Walk | None, inner: Walk | None, size: int | None) -> Walk | None:
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
    cells = [_plus(row, cell) for row in rows for cell in inner.table(size)]
    return Walk(outer.stride, tuple(c[0] for c in cells), tuple(c[1] for c in cells), space, whole)


def _plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (EMPTY, -EMPTY) if a[0] >= EMPTY // 2 or b[0] >= EMPTY // 2 else (a[0] + b[0], a[1] + b[1])


def _empty(interval: tuple[int, int]) -> bool:
    return interval[0] >= EMPTY // 2


def _divided(walk: Walk, size: int, count: int | None) -> tuple[list[tuple[Walk, Walk]], bool]:
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
        tuple(None if _empty(c) else (c[0] - h[0], c[1] - h[1]) for c in r) for r, h in zip(rows, heads, strict=True)
    ]
    kinds = list(dict.fromkeys(look for look in looks if any(look)))
    if len(kinds) <= MAX_PATHS // 2:
        pairs = [([h if k == look else None for h, k in zip(heads, looks, strict=True)], look) for look in kinds]
        return [(_listed(walk, stride, outer), _listed(walk, None, inner)) for outer, inner in pairs], True
    if not walk.space:
        bounds = min(walk.lo), max(walk.hi)
        return [(_listed(walk, 0, [bounds]), STILL)], False
    columns = [[look[t] for look in looks if look[t] is not None] for t in range(size)]
    inner = [(min(c[0] for c in cs), max(c[1] for c in cs)) if cs else None for cs in columns]  # type: ignore[index]
    return [(_listed(walk, stride, heads), _listed(walk, None, inner))], False


def _listed(like: Walk, stride: int | None, cells: Sequence[tuple[int, int] | None]) -> Walk:
    """A walk of these intervals, None where nothing is read."""
    lows = tuple(EMPTY if c is None else c[0] for c in cells)
    return replace(like, stride=stride, lo=lows, hi=tuple(-EMPTY if c is None else c[1] for c in cells))


def _head(row: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return next((cell for cell in row if not _empty(cell)), (EMPTY, -EMPTY))


# ---- One way from the image to a tensor ----


@dataclass(frozen=True)
class Path:
    """[lo + Σ walk.lo, hi + Σ walk.hi] along one axis of the image.

    `gate` marks what only scales the tensor: pooled over the whole image, then multiplied. `slack` is the part of
    the interval that is there because a padding is not known: the true one is shorter by it.
    """

    lo: int
    hi: int
    walks: Mapping[Digit, Walk] = field(default_factory=dict)
    gate: bool = False
    slack: int = 0

    @property
    def unbounded(self) -> bool:
        """Whether it is the whole image for every unit."""
        return self.lo <= -INFINITE // 2 and self.hi >= INFINITE // 2

    @property
    def walking(self) -> list[Digit]:
        """The digits that walk over the image."""
        return [d for d, w in self.walks.items() if w.space]

    def moved(self, gone: Iterable[Digit], new: Mapping[Digit, Walk]) -> Path | None:
        """This path with other walks, in normal form (the first interval is 0); None where no unit reads anything."""
        lo, hi = self.lo, self.hi
        walks = {d: w for d, w in self.walks.items() if d not in gone}
        for digit, given in new.items():
            walk = given.shortest()
            first = next((i for i, v in enumerate(walk.lo) if v < EMPTY // 2), None)
            if first is None:
                return None
            low, high = walk.lo[first], walk.hi[first]
            lo, hi = lo + low, hi + high
            lows = tuple(EMPTY if v >= EMPTY // 2 else v - low for v in walk.lo)
            highs = tuple(-EMPTY if v <= -EMPTY // 2 else v - high for v in walk.hi)
            if walk.stride or any(lows) or any(highs):
                walks[digit] = replace(walk, lo=lows, hi=highs)
        return replace(self, lo=lo, hi=hi, walks=walks)

    def everything(self) -> Path:
        """The whole image."""
        return Path(-INFINITE, INFINITE, {}, self.gate)

    def without(self, digits: Iterable[Digit], extent: int | None) -> tuple[Path, bool]:
        """(the hull over all values of `digits`, whether it is exact).

        Where nothing else walks over the image any more, and the digits reached both its ends, it is all of it.
        """
        gone = {d: self.walks[d] for d in digits if d in self.walks}
        if not gone:
            return self, True
        left = {d: w for d, w in self.walks.items() if d not in gone}
        spatial = any(w.space for w in gone.values()) and not any(w.space for w in left.values())
        if spatial and all(w.whole for w in gone.values() if w.space):
            return self.everything(), True
        lo, hi = self.lo, self.hi
        for digit, walk in gone.items():
            bounds = walk.bounds(digit.count)
            if bounds is None:
                return self.everything(), False
            lo, hi = lo + bounds[0], hi + bounds[1]
        if spatial and extent is not None and lo <= 0 and hi >= extent - 1:
            return self.everything(), True
        return replace(self, lo=lo, hi=hi, walks=left), True

    def within(self, other: Path) -> bool:
        """Whether every unit's interval lies inside the one it has in `other`."""
        if other.unbounded and not other.walks:
            return True
        low, high = self.lo - other.lo, other.hi - self.hi
        for digit in {**self.walks, **other.walks}:
            margin = _margin(self.walks.get(digit, STILL), other.walks.get(digit, STILL), digit.count)
            if margin is None:
                return False
            low, high = low + margin[0], high + margin[1]
        return low >= 0 and high >= 0

    def center(self) -> Fraction:
        """The mean middle of the intervals, less what the walks' slopes add."""
        total = Fraction(self.lo + self.hi, 2)
        for walk in self.walks.values():
            slope = walk.slope or Fraction(0)
            seen = [(i, lo + hi) for i, (lo, hi) in enumerate(zip(walk.lo, walk.hi, strict=True)) if lo < EMPTY // 2]
            total += (Fraction(sum(ends for _, ends in seen), 2) - slope * sum(i for i, _ in seen)) / len(seen)
        return total

    def pace(self) -> frozenset[tuple[Digit, Fraction | None]]:
        """Digit and slope of each walk over the image."""
        return frozenset((d, self.walks[d].slope) for d in self.walking)


def _margin(a: Walk, b: Walk, size: int | None) -> tuple[int, int] | None:
    """(min a.lo − b.lo, min b.hi − a.hi) over all indices; None where it has no bound or is not known."""
    if a is b or a == b:
        return 0, 0
    span: int | None = math.lcm(len(a.lo), len(b.lo)) if a.stride is not None and a.slope == b.slope else size
    if span is None or span > LIMIT:
        return None
    pairs = list(zip(a.table(span), b.table(span), strict=True))
    return min(x[0] - y[0] for x, y in pairs), min(y[1] - x[1] for x, y in pairs)


def _hull(p: Path, q: Path) -> Path | None:
    """The one path that is the hull of both for every unit, where there is one: they differ in one digit at most."""
    differ = [d for d in {**p.walks, **q.walks} if p.walks.get(d, STILL) != q.walks.get(d, STILL)]
    if len(differ) > 1 or p.gate != q.gate:
        return None
    net = max(p.hi - p.lo - p.slack, q.hi - q.lo - q.slack)
    if not differ:
        lo, hi = min(p.lo, q.lo), max(p.hi, q.hi)
        return replace(p, lo=lo, hi=hi, slack=hi - lo - net if p.slack or q.slack else 0)
    digit = differ[0]
    a, b = p.walks.get(digit, STILL), q.walks.get(digit, STILL)
    if a.slope is not None and b.slope is not None:
        if a.slope != b.slope:
            return None
        span, stride = math.lcm(len(a.lo), len(b.lo)), a.stride * (math.lcm(len(a.lo), len(b.lo)) // len(a.lo))  # type: ignore[operator]
    elif digit.count is not None:
        span, stride = digit.count, None
    else:
        return None
    if span > LIMIT:
        return None
    pairs = [
        (_plus((p.lo, p.hi), x), _plus((q.lo, q.hi), y)) for x, y in zip(a.table(span), b.table(span), strict=True)
    ]
    walk = Walk(
        stride,
        tuple(min(x[0], y[0]) for x, y in pairs),
        tuple(max(x[1], y[1]) for x, y in pairs),
        a.space or b.space,
        a.whole or b.whole,
    )
    return replace(p, lo=0, hi=0, slack=max(p.slack, q.slack)).moved([digit], {digit: walk})


def unite(paths: Iterable[Path]) -> tuple[tuple[Path, ...], bool]:
    """(the fewest paths with the same hull for every unit, whether that is exact)."""
    kept: list[Path] = []
    for path in paths:
        current: Path | None = path
        while current is not None:
            if any(current.within(k) for k in kept if k.gate <= current.gate):
                break
            kept = [k for k in kept if k.gate < current.gate or not k.within(current)]
            wider = ((i, hull) for i, k in enumerate(kept) if (hull := _hull(current, k)) is not None)
            index, hull = next(wider, (-1, None))
            if hull is None:
                kept.append(current)
            else:
                del kept[index]
            current = hull
    if len(kept) <= MAX_PATHS:
        return tuple(kept), True
    still = [k.without(list(k.walks), None)[0] for k in kept]
    counted = [k for k in still if not k.gate] or still
    return (replace(counted[0], lo=min(k.lo for k in counted), hi=max(k.hi for k in counted)),), False


# ---- A tensor ----

Axes: TypeAlias = tuple[tuple[Digit, ...], ...]


def axis_of(size: Size) -> tuple[Digit, ...]:
    """A fresh axis; one of size 1 has no digit."""
    return () if size == 1 else (Digit(size),)


@dataclass(frozen=True)
class Field:
    """What the units of a tensor see of the image: digits per tensor axis, paths per axis of the image.

    Args:
        extents: pixels of the image along each of its axes.
        exact: no interval is wider than the hull of what is read.
        aligned: wherever tensors met, they had the same stride and the same centres.
    """

    axes: Axes
    paths: tuple[tuple[Path, ...], ...]
    extents: tuple[int | None, ...]
    exact: bool = True
    aligned: bool = True

    @classmethod
    def image(cls, shape: Sequence[Size], spatial: Sequence[int]) -> Field:
        """The image itself: unit i reads pixel i."""
        axes = tuple(axis_of(s) for s in shape)
        paths = tuple((Path(0, 0, {d: Walk(1, (0,), (0,)) for d in axes[a]}),) for a in spatial)
        sizes = [shape[a] for a in spatial]
        return cls(axes, paths, tuple(s if isinstance(s, int) else None for s in sizes))

    @property
    def rank(self) -> int:
        return len(self.axes)

    def _every(self) -> Iterator[Path]:
        for paths in self.paths:
            yield from paths

    def moves(self, digits: Iterable[Digit]) -> bool:
        """Whether any path depends on one of `digits`."""
        wanted = set(digits)
        return any(not wanted.isdisjoint(p.walks) for p in self._every())

    def walks_over_space(self, axis: int) -> bool:
        """Whether moving along `axis` moves over the image."""
        return any(d in self.axes[axis] for p in self._every() for d in p.walking)

    def _rewalked(self, change: Callable[[Path], Path | None], **changes: object) -> Field:
        return self._rewritten(lambda path: [change(path)], **changes)

    def _rewritten(self, change: Callable[[Path], Iterable[Path | None]], **changes: object) -> Field:
        new, exact = [], self.exact
        for paths in self.paths:
            united, fine = unite(q for path in paths for q in change(path) if q is not None)
            exact = exact and fine
            new.append(united)
        return replace(self, paths=tuple(new), exact=exact, **changes)  # type: ignore[arg-type]

    def _with_axis(self, axis: int, digits: tuple[Digit, ...]) -> Axes:
        return (*self.axes[:axis], digits, *self.axes[axis + 1 :])

    # ---- Moving data ----

    def permute(self, order: Sequence[int]) -> Field:
        """Axes in another order."""
        return replace(self, axes=tuple(self.axes[a] for a in order))

    def insert(self, axes: Iterable[int]) -> Field:
        """New axes of size 1 at these positions of the result."""
        new = list(self.axes)
        for axis in sorted(axes):
            new.insert(axis, ())
        return replace(self, axes=tuple(new))

    def drop(self, axes: Iterable[int]) -> Field:
        """Without these axes, at index 0 of each."""
        gone = set(axes)
        zero = [d for a in gone for d in self.axes[a]]
        return replace(self.select(zero), axes=tuple(d for a, d in enumerate(self.axes) if a not in gone))

    def select(self, digits: Sequence[Digit]) -> Field:
        """At index 0 of `digits`, which then are no longer there."""
        if not self.moves(digits):
            return replace(self, axes=tuple(tuple(d for d in axis if d not in digits) for axis in self.axes))

        def at_zero(path: Path) -> Path | None:
            base = (path.lo, path.hi)
            for digit in digits:
                if digit in path.walks:
                    base = _plus(base, path.walks[digit].at(0))
            walks = {d: w for d, w in path.walks.items() if d not in digits}
            return None if _empty(base) else replace(path, lo=base[0], hi=base[1], walks=walks)

        axes = tuple(tuple(d for d in axis if d not in digits) for axis in self.axes)
        return self._rewalked(at_zero, axes=axes)

    def _split(self, digit: Digit, size: int) -> tuple[Field, Digit, Digit]:
        """`digit` as (outer, inner), the inner one of `size` values."""
        outer = Digit(None if digit.count is None else digit.count // size)
        inner = Digit(size)
        exact = True

        def divided(path: Path) -> Iterable[Path | None]:
            nonlocal exact
            if digit not in path.walks:
                return [path]
            pairs, fine = _divided(path.walks[digit], size, digit.count)
            exact = exact and fine
            return [path.moved([digit], {outer: first, inner: second}) for first, second in pairs]

        axes = tuple(tuple(p for d in axis for p in ((outer, inner) if d is digit else (d,))) for axis in self.axes)
        result = self._rewritten(divided, axes=axes)
        return replace(result, exact=result.exact and exact), outer, inner

    def _merge(self, digits: Sequence[Digit]) -> tuple[Field, Digit]:
        """Consecutive digits as one; axes are left to the caller."""
        if len(digits) == 1:
            return self, digits[0]
        counts = [d.count for d in digits]
        merged = Digit(None if None in counts else math.prod(c for c in counts if c is not None))

        def nested(path: Path) -> Path | None:
            walk = path.walks.get(digits[0])
            for digit in digits[1:]:
                walk = _nested(walk, path.walks.get(digit), digit.count)
            return path.moved(digits, {} if walk is None else {merged: walk})

        return self._rewalked(nested), merged

    def merged(self, axis: int) -> tuple[Field, Digit | None]:
        """(this tensor with one digit for `axis`, that digit); None for an axis of size 1."""
        if not self.axes[axis]:
            return self, None
        result, digit = self._merge(self.axes[axis])
        return replace(result, axes=self._with_axis(axis, (digit,))), digit

    def reshape(self, sizes: Sequence[Size | Digit]) -> Field:
        """Digits dealt out anew, row-major, to axes of these sizes (a Digit stands for itself)."""
        digits = [d for axis in self.axes for d in axis]
        result, axes = self._deal(digits, list(sizes))
        return replace(result, axes=tuple(axes))

    def _deal(self, digits: list[Digit], sizes: list[Size | Digit]) -> tuple[Field, list[tuple[Digit, ...]]]:
        """Groups of digits whose products are `sizes`, splitting digits where they must be."""
        result, left, todo = self, list(digits), list(sizes)
        back: list[tuple[Digit, ...]] = []
        front: list[tuple[Digit, ...]] = []
        while todo:
            taken = _take(result, left, todo[-1], last=True)
            if taken is None:
                break
            result, left, group = taken
            back.insert(0, group)
            todo.pop()
        while len(todo) > 1:
            taken = _take(result, left, todo[0], last=False)
            if taken is None:
                break
            result, left, group = taken
            front.append(group)
            todo.pop(0)
        if not todo and result.moves(left):
            raise HiddenError("sizes before and after do not match")
        if len(todo) == 1:
            front.append(tuple(left))
        elif not result.moves(left):
            front += [axis_of(s.size if isinstance(s, Digit) else s) for s in todo]
        elif todo:
            result, groups = result._regroup(left, todo)
            front += groups
        return result, front + back

    def _regroup(self, left: list[Digit], todo: list[Size | Digit]) -> tuple[Field, list[tuple[Digit, ...]]]:
        """Sizes that share no factor with the digits: all of them as one digit, then split."""
        counts = [s.count if isinstance(s, Digit) else s if isinstance(s, int) else None for s in todo]
        known = [d.count for d in left]
        if None in known or None in counts[1:]:
            raise HiddenError("sizes before and after are known only at run time")
        result, digit = self._merge(left)
        groups: list[tuple[Digit, ...]] = []
        for count in reversed(counts[1:]):
            assert count is not None
            if digit.count is None or count == 0 or digit.count % count:
                raise HiddenError("sizes before and after do not match")
            result, digit, inner = result._split(digit, count)
            groups.insert(0, (inner,) if count > 1 else ())
        return result, [(digit,), *groups]

    # ---- Reading several units at once ----

    def pull(self, axis: int, taps: Taps, size: Size, length: Size = None, doubt: int = 0) -> Field:
        """Output index o along `axis` reads the indices `taps.at(o)`; the axis then has `size` units.

        Args:
            length: size of the axis before; a single output that reads all of it pools it.
            doubt: how many of the indices are there only because a padding is not known.
        """
        if not self.moves(self.axes[axis]):
            return self.fresh(axis, size)
        if size == 1 and isinstance(length, int) and set(range(length)) <= set(taps.at(0)):
            return self.collapse([axis]).fresh(axis, 1)
        merged, old = self.merged(axis)
        assert old is not None
        new = Digit(size)

        def pulled(path: Path) -> Path | None:
            if old not in path.walks:
                return path
            slack = path.slack + math.ceil(abs(path.walks[old].slope or Fraction(0)) * doubt)
            return replace(path, slack=slack).moved([old], {new: path.walks[old].pull(taps, size)})

        result = merged._rewalked(pulled, axes=self._with_axis(axis, (new,)))
        result = replace(result, exact=result.exact and not doubt)
        return result.select([new]) if size == 1 else result

    def collapse(self, axes: Iterable[int]) -> Field:
        """Every unit reads all units along `axes`, which keep their sizes."""
        digits = [d for a in axes for d in self.axes[a]]
        if not self.moves(digits):
            return self
        new, exact = [], self.exact
        for paths, extent in zip(self.paths, self.extents, strict=True):
            hulls = [p.without(digits, extent) for p in paths]
            united, fine = unite(h for h, _ in hulls)
            exact = exact and fine and all(e for _, e in hulls)
            new.append(united)
        return replace(self, paths=tuple(new), exact=exact)

    def telling(self, axes: Iterable[int], space: bool) -> Field:
        """The same, where moving along `axes` counts as moving over the image (`space`), or from channel to channel."""
        digits = {d for a in axes for d in self.axes[a]}

        def told(path: Path) -> Path:
            walks = {d: replace(w, space=space) if d in digits and w.slope else w for d, w in path.walks.items()}
            return replace(path, walks=walks)

        return self._rewalked(told)

    def fresh(self, axis: int, size: Size) -> Field:
        """`axis`, on which nothing depends, with another size."""
        return replace(self, axes=self._with_axis(axis, axis_of(size)))

    def fit(self, shape: Sequence[Size] | None) -> Field:
        """Broadcast to `shape`."""
        if shape is None:
            return self
        axes = ((),) * (len(shape) - self.rank) + self.axes
        return replace(self, axes=tuple(a or axis_of(s) for a, s in zip(axes, shape, strict=True)))

    # ---- Meeting ----

    def gated(self) -> Field:
        """This tensor where it only scales another."""
        return self._rewalked(lambda p: replace(p, gate=True))

    def union(self, other: Field) -> Field:
        """Every unit reads what it reads in either, broadcast as in NumPy."""
        a, b = _conform(self, other)
        new, exact = [], a.exact and b.exact
        for ours, theirs in zip(a.paths, b.paths, strict=True):
            united, fine = unite([*ours, *theirs])
            exact = exact and fine
            new.append(united)
        return replace(a, paths=tuple(new), exact=exact, aligned=a.aligned and b.aligned)

    def join(self, other: Field) -> Field:
        """`union`, where both are to show the same place: it is noted if they do not."""
        a, b = _conform(self, other)
        return replace(a.union(b), aligned=a.aligned and b.aligned and in_step([a, b]))


def _take(
    field_: Field, left: list[Digit], size: Size | Digit, last: bool
) -> tuple[Field, list[Digit], tuple[Digit, ...]] | None:
    """Digits from one end whose product is `size`: (field, what is left, taken), or None where that is not known."""
    end = -1 if last else 0
    left, taken = list(left), list[Digit]()
    if isinstance(size, Digit | str):
        if left and (left[end] is size or (isinstance(size, str) and left[end].size == size)):
            return field_, left[:-1] if last else left[1:], (left[end],)
        return None
    if size is None:
        return None
    need = size
    while need != 1:
        if not left or need == 0:
            return None
        digit = left.pop(end)
        count = digit.count
        if count is None:
            if not last or left or not field_.moves([digit]):
                return None
            field_, outer, inner = field_._split(digit, need)
            left.append(outer)
            digit = inner
        elif need % count:
            if count % need:
                return None
            field_, outer, inner = field_._split(digit, need if last else count // need)
            left.insert(len(left) if last else 0, outer if last else inner)
            digit = inner if last else outer
        taken.insert(0 if last else len(taken), digit)
        need //= digit.count or need
    return field_, left, tuple(taken)


def _conform(a: Field, b: Field) -> tuple[Field, Field]:
    """Both with the same rank and the same digits, broadcast as in NumPy."""
    rank = max(a.rank, b.rank)
    a = replace(a, axes=((),) * (rank - a.rank) + a.axes)
    b = replace(b, axes=((),) * (rank - b.rank) + b.axes)
    places = {d: k for k, digits in enumerate(a.axes) for d in digits}
    if any(places.get(d, k) != k for k, digits in enumerate(b.axes) for d in digits):
        for k, digits in enumerate(b.axes):
            b = _renamed(b, k, {d: Digit(d.size) for d in digits})
    for axis in range(rank):
        x, y = a.axes[axis], b.axes[axis]
        if x == y:
            continue
        if not x or not y:
            a = replace(a, axes=a._with_axis(axis, x or y))
            b = replace(b, axes=b._with_axis(axis, x or y))
            continue
        sizes = _common([d.size for d in x], [d.size for d in y])
        a, b = _cut(a, axis, sizes), _cut(b, axis, sizes)
        names = dict(zip(b.axes[axis], a.axes[axis], strict=True))
        b = _renamed(b, axis, names)
    return a, b


def _common(xs: list[Size], ys: list[Size]) -> list[Size]:
    """The coarsest sizes that both lists of digits can be cut into."""
    xs, ys, out = list(xs), list(ys), list[Size]()
    while xs and ys:
        x, y = xs.pop(), ys.pop()
        if isinstance(x, int) and isinstance(y, int):
            if x % y == 0 or y % x == 0:
                out.insert(0, min(x, y))
                if x > y:
                    xs.append(x // y)
                elif y > x:
                    ys.append(y // x)
                continue
            whole = math.prod(v for v in [*xs, x] if isinstance(v, int))
            return [whole if all(isinstance(v, int) for v in xs) else None, *out]
        if not xs and not ys:
            out.insert(0, x if isinstance(x, int) else y)
        elif isinstance(y, int) and not xs:
            out.insert(0, y)
            xs.append(None)
        elif isinstance(x, int) and not ys:
            out.insert(0, x)
            ys.append(None)
        elif x == y and isinstance(x, str):
            out.insert(0, x)
        else:
            return [None, *out]
    return out


def _cut(field_: Field, axis: int, sizes: list[Size]) -> Field:
    """`axis` with one digit for each of `sizes`."""
    if [d.size for d in field_.axes[axis]] == sizes:
        return field_
    field_, groups = field_._deal(list(field_.axes[axis]), list(sizes))
    digits = []
    for group, size in zip(groups, sizes, strict=True):
        if not group:
            digits.append(Digit(size))
            continue
        field_, digit = field_._merge(group)
        digits.append(digit)
    return replace(field_, axes=field_._with_axis(axis, tuple(digits)))


def _renamed(field_: Field, axis: int, names: Mapping[Digit, Digit]) -> Field:
    for old, new in names.items():
        if old.count is not None and new.count is not None and old.count != new.count:
            raise HiddenError(f"axes of {old.count} and {new.count} units meet")
    paths = tuple(
        tuple(replace(p, walks={names.get(d, d): w for d, w in p.walks.items()}) for p in paths)
        for paths in field_.paths
    )
    return replace(field_, paths=paths, axes=field_._with_axis(axis, tuple(names.values())))


def in_step(fields: Sequence[Field]) -> bool:
    """Whether all that walk along the same digits do so with the same stride and have the same centres."""
    for paths in zip(*(f.paths for f in fields), strict=True):
        seen: dict[frozenset[Digit], tuple[Path, ...]] = {}
        for path in (p for group in paths for p in group if p.walking and not p.gate):
            if any(path.walks[d].slope is None for d in path.walking):
                continue
            others = seen.setdefault(frozenset(path.walking), ())
            if any(o.pace() != path.pace() for o in others):
                return False
            if not path.slack and any(o.center() != path.center() for o in others if not o.slack):
                return False
            seen[frozenset(path.walking)] = (*others[:1], path)
    return True


# ---- Side by side ----


def concat(fields: Sequence[Field | None], axis: int, sizes: Sequence[Size], total: Size) -> Field:
    """Tensors one after the other along `axis`; None stands for one that does not depend on the image."""
    present = [f for f in fields if f is not None]
    moving = any(f.moves(f.axes[axis]) for f in present)
    over_space = any(f.walks_over_space(axis) for f in present)
    if len(present) == len(fields) == 2 and over_space:
        chained = _chained(present[0], present[1], axis, sizes, total)
        if chained is not None:
            return chained
    cuts = [f.fresh(axis, 1) for f in present]
    for index in range(1, len(cuts)):
        cuts[0], cuts[index] = _conform(cuts[0], cuts[index])
    for index in range(1, len(cuts)):
        _, cuts[index] = _conform(cuts[0], cuts[index])
    aligned = all(f.aligned for f in present) and (over_space or in_step(cuts))
    known = [s for s in sizes if isinstance(s, int)]
    same = not moving and all(c.paths == cuts[0].paths for c in cuts) and len(present) == len(fields)
    if same or (not over_space and (len(known) < len(sizes) or sum(known) > LIMIT)):
        result = functools.reduce(Field.union, [f.collapse([axis]).fresh(axis, 1) for f in present])
        return replace(result.fresh(axis, total), aligned=aligned)
    if len(known) < len(sizes) or sum(known) > LIMIT:
        raise HiddenError("tensors are joined along space whose sizes are known only at run time")
    return _tabled(fields, cuts, axis, known, aligned)


def _tabled(fields: Sequence[Field | None], cuts: Sequence[Field], axis: int, sizes: list[int], aligned: bool) -> Field:
    """Each tensor's paths, reading nothing outside its own part of the axis."""
    digit, offset = Digit(sum(sizes)), 0
    rest = iter(cuts)
    gathered: list[list[Path]] = [[] for _ in cuts[0].paths]
    exact = True
    for field_, size in zip(fields, sizes, strict=True):
        if field_ is not None:
            cut = next(rest)
            merged, old = replace(cut, axes=cut._with_axis(axis, field_.axes[axis])).merged(axis)
            exact = exact and merged.exact
            for paths, target in zip(merged.paths, gathered, strict=True):
                target.extend(filter(None, (_placed(p, old, digit, offset, size) for p in paths)))
        offset += size
    united = [unite(paths) for paths in gathered]
    return replace(
        cuts[0],
        axes=cuts[0]._with_axis(axis, (digit,)),
        paths=tuple(u for u, _ in united),
        exact=exact and all(fine for _, fine in united),
        aligned=aligned,
    )


def _placed(path: Path, old: Digit | None, new: Digit, offset: int, size: int) -> Path | None:
    """`path` for the indices offset … offset + size − 1 of `new`, nothing elsewhere."""
    walk = path.walks.get(old, STILL) if old is not None else STILL
    before, after = [(EMPTY, -EMPTY)] * offset, [(EMPTY, -EMPTY)] * ((new.count or 0) - offset - size)
    cells = [*before, *walk.table(size), *after]
    table = Walk(None, tuple(c[0] for c in cells), tuple(c[1] for c in cells), walk.space, walk.whole)
    return path.moved([] if old is None else [old], {new: table})


def _chained(first: Field, second: Field, axis: int, sizes: Sequence[Size], total: Size) -> Field | None:
    """Two pieces of one walk: a whole that had been cut, or one rolled round by cutting and swapping.

    What is rolled in counts as lying beyond the border, on the continued image: shifted windows mask it. As the
    units at the border may see it all the same, that is not exact.
    """
    if not all(isinstance(s, int) for s in sizes):
        return None
    (a, old), (b, new) = first.merged(axis), second.merged(axis)
    if old is None or new is None:
        return None
    cut_a, cut_b = _conform(a.fresh(axis, 1), b.fresh(axis, 1))
    digit = Digit(total)
    length, rolled = int(sizes[0]), False  # type: ignore[arg-type]
    keep_first = sizes[0] >= sizes[1]  # type: ignore[operator]
    gathered = []
    for ours, theirs in zip(cut_a.paths, cut_b.paths, strict=True):
        if len(ours) != len(theirs):
            return None
        paths = []
        for p, q in zip(ours, theirs, strict=True):
            u, v = p.walks.get(old), q.walks.get(new)
            others = [{d: w for d, w in x.walks.items() if d not in (old, new)} for x in (p, q)]
            if others[0] != others[1] or p.gate != q.gate or (u is None) != (v is None):
                return None
            if u is None or v is None:
                if (p.lo, p.hi) != (q.lo, q.hi):
                    return None
                paths.append(p)
                continue
            gap = _gap(p, u, q, v, length)
            if gap is None or (gap and abs(gap) != abs(u.slope * sum(sizes))):  # type: ignore[operator,arg-type]
                return None
            rolled = rolled or bool(gap)
            whole = replace(u if keep_first else v, whole=True)
            shift = 0 if keep_first else length
            kept, walk = (p, whole) if keep_first else (q, whole)
            path = kept.moved([old, new], {digit: walk.pull(Taps(lambda o, s=shift: [o - s]), total)})  # type: ignore[misc]
            if path is None:
                return None
            paths.append(path)
        gathered.append(tuple(paths))
    return replace(
        cut_a,
        axes=cut_a._with_axis(axis, (digit,)),
        paths=tuple(gathered),
        exact=a.exact and b.exact and not rolled,
        aligned=a.aligned and b.aligned,
    )


def _gap(p: Path, u: Walk, q: Path, v: Walk, length: int) -> int | None:
    """By how much `q` lies off the continuation of `p` after `length` indices; None where it is not one shift."""
    if u.slope is None or u.slope != v.slope:
        return None
    period = math.lcm(len(u.lo), len(v.lo))
    if period > LIMIT:
        return None
    ahead = [u.at(length + i) for i in range(period)]
    gaps = {q.lo + y[0] - p.lo - x[0] for x, y in zip(ahead, v.table(period), strict=True)}
    gaps |= {q.hi + y[1] - p.hi - x[1] for x, y in zip(ahead, v.table(period), strict=True)}
    return gaps.pop() if len(gaps) == 1 else None
