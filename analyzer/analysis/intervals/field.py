"""What the units of one tensor see: `Field`; moving data moves its digits, reading several units takes hulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from analyzer.analysis.interpreter import HiddenError
from analyzer.analysis.intervals.path import Path, unite
from analyzer.analysis.intervals.walk import Digit, Size, Taps, Walk, divided, is_empty, nested, plus

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

    def rewalked(self, change: Callable[[Path], Path | None], axes: Axes | None = None) -> Field:
        return self.rewritten(lambda path: [change(path)], axes)

    def rewritten(self, change: Callable[[Path], Iterable[Path | None]], axes: Axes | None = None) -> Field:
        new, exact = [], self.exact
        for paths in self.paths:
            united, fine = unite(q for path in paths for q in change(path) if q is not None)
            exact = exact and fine
            new.append(united)
        return replace(self, axes=self.axes if axes is None else axes, paths=tuple(new), exact=exact)

    def with_axis(self, axis: int, digits: tuple[Digit, ...]) -> Axes:
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
                    base = plus(base, path.walks[digit].at(0))
            walks = {d: w for d, w in path.walks.items() if d not in digits}
            return None if is_empty(base) else replace(path, lo=base[0], hi=base[1], walks=walks)

        axes = tuple(tuple(d for d in axis if d not in digits) for axis in self.axes)
        return self.rewalked(at_zero, axes=axes)

    def split(self, digit: Digit, size: int) -> tuple[Field, Digit, Digit]:
        """`digit` as (outer, inner), the inner one of `size` values."""
        outer = Digit(None if digit.count is None else digit.count // size)
        inner = Digit(size)
        exact = True

        def halves(path: Path) -> Iterable[Path | None]:
            nonlocal exact
            if digit not in path.walks:
                return [path]
            pairs, fine = divided(path.walks[digit], size, digit.count)
            exact = exact and fine
            return [path.moved([digit], {outer: first, inner: second}) for first, second in pairs]

        axes = tuple(tuple(p for d in axis for p in ((outer, inner) if d is digit else (d,))) for axis in self.axes)
        result = self.rewritten(halves, axes=axes)
        return replace(result, exact=result.exact and exact), outer, inner

    def merge(self, digits: Sequence[Digit]) -> tuple[Field, Digit]:
        """Consecutive digits as one; axes are left to the caller."""
        if len(digits) == 1:
            return self, digits[0]
        counts = [d.count for d in digits]
        merged = Digit(None if None in counts else math.prod(c for c in counts if c is not None))

        def as_one(path: Path) -> Path | None:
            walk = path.walks.get(digits[0])
            for digit in digits[1:]:
                walk = nested(walk, path.walks.get(digit), digit.count)
            return path.moved(digits, {} if walk is None else {merged: walk})

        return self.rewalked(as_one), merged

    def merged(self, axis: int) -> tuple[Field, Digit | None]:
        """(this tensor with one digit for `axis`, that digit); None for an axis of size 1."""
        if not self.axes[axis]:
            return self, None
        result, digit = self.merge(self.axes[axis])
        return replace(result, axes=self.with_axis(axis, (digit,))), digit

    def reshape(self, sizes: Sequence[Size | Digit]) -> Field:
        """Digits dealt out anew, row-major, to axes of these sizes (a Digit stands for itself)."""
        digits = [d for axis in self.axes for d in axis]
        result, axes = self.deal(digits, list(sizes))
        return replace(result, axes=tuple(axes))

    def deal(self, digits: list[Digit], sizes: list[Size | Digit]) -> tuple[Field, list[tuple[Digit, ...]]]:
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
        result, digit = self.merge(left)
        groups: list[tuple[Digit, ...]] = []
        for count in reversed(counts[1:]):
            assert count is not None
            if digit.count is None or count == 0 or digit.count % count:
                raise HiddenError("sizes before and after do not match")
            result, digit, inner = result.split(digit, count)
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

        result = merged.rewalked(pulled, axes=self.with_axis(axis, (new,)))
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

        return self.rewalked(told)

    def gated(self) -> Field:
        """This tensor where it only scales another."""
        return self.rewalked(lambda p: replace(p, gate=True))

    def fresh(self, axis: int, size: Size) -> Field:
        """`axis`, on which nothing depends, with another size."""
        return replace(self, axes=self.with_axis(axis, axis_of(size)))

    def fit(self, shape: Sequence[Size] | None) -> Field:
        """Broadcast to `shape`."""
        if shape is None:
            return self
        axes = ((),) * (len(shape) - self.rank) + self.axes
        return replace(self, axes=tuple(a or axis_of(s) for a, s in zip(axes, shape, strict=True)))


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
            field_, outer, inner = field_.split(digit, need)
            left.append(outer)
            digit = inner
        elif need % count:
            if count % need:
                return None
            field_, outer, inner = field_.split(digit, need if last else count // need)
            left.insert(len(left) if last else 0, outer if last else inner)
            digit = inner if last else outer
        taken.insert(0 if last else len(taken), digit)
        need //= digit.count or need
    return field_, left, tuple(taken)
