"""One way from the image to a tensor along one axis of the image: `Path`, a sum of walks; and hulls of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from analyzer.analysis.intervals.walk import EMPTY, INFINITE, LIMIT, MAX_PATHS, STILL, Digit, Walk, plus


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
    stride: int | None
    if a.stride is not None and b.stride is not None:
        if a.slope != b.slope:
            return None
        span = math.lcm(len(a.lo), len(b.lo))
        stride = a.stride * (span // len(a.lo))
    elif digit.count is not None:
        span, stride = digit.count, None
    else:
        return None
    if span > LIMIT:
        return None
    pairs = [(plus((p.lo, p.hi), x), plus((q.lo, q.hi), y)) for x, y in zip(a.table(span), b.table(span), strict=True)]
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
