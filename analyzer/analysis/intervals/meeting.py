"""Where tensors meet: elementwise (`union`, `join`) and side by side (`concat`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analyzer.analysis.interpreter import HiddenError
from analyzer.analysis.intervals.field import Field
from analyzer.analysis.intervals.path import Path, unite
from analyzer.analysis.intervals.walk import EMPTY, LIMIT, STILL, Digit, Size, Taps, Walk
from analyzer.graph.nodes import fixed_sizes


def union(a: Field, b: Field) -> Field:
    """Every unit reads what it reads in either, broadcast as in NumPy."""
    a, b = _conform(a, b)
    new, exact = [], a.exact and b.exact
    for ours, theirs in zip(a.paths, b.paths, strict=True):
        united, fine = unite([*ours, *theirs])
        exact = exact and fine
        new.append(united)
    return replace(a, paths=tuple(new), exact=exact, aligned=a.aligned and b.aligned)


def join(a: Field, b: Field) -> Field:
    """`union`, where both are to show the same place: it is noted if they do not."""
    a, b = _conform(a, b)
    return replace(union(a, b), aligned=a.aligned and b.aligned and in_step([a, b]))


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
            a = replace(a, axes=a.with_axis(axis, x or y))
            b = replace(b, axes=b.with_axis(axis, x or y))
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
    field_, groups = field_.deal(list(field_.axes[axis]), list(sizes))
    digits = []
    for group, size in zip(groups, sizes, strict=True):
        if not group:
            digits.append(Digit(size))
            continue
        field_, digit = field_.merge(group)
        digits.append(digit)
    return replace(field_, axes=field_.with_axis(axis, tuple(digits)))


def _renamed(field_: Field, axis: int, names: Mapping[Digit, Digit]) -> Field:
    for old, new in names.items():
        if old.count is not None and new.count is not None and old.count != new.count:
            raise HiddenError(f"axes of {old.count} and {new.count} units meet")
    paths = tuple(
        tuple(replace(p, walks={names.get(d, d): w for d, w in p.walks.items()}) for p in paths)
        for paths in field_.paths
    )
    return replace(field_, paths=paths, axes=field_.with_axis(axis, tuple(names.values())))


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
        result = functools.reduce(union, [f.collapse([axis]).fresh(axis, 1) for f in present])
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
            merged, old = replace(cut, axes=cut.with_axis(axis, field_.axes[axis])).merged(axis)
            exact = exact and merged.exact
            for paths, target in zip(merged.paths, gathered, strict=True):
                target.extend(filter(None, (_placed(p, old, digit, offset, size) for p in paths)))
        offset += size
    united = [unite(paths) for paths in gathered]
    return replace(
        cuts[0],
        axes=cuts[0].with_axis(axis, (digit,)),
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
    lengths = fixed_sizes(sizes)
    if lengths is None:
        return None
    (a, old), (b, new) = first.merged(axis), second.merged(axis)
    if old is None or new is None:
        return None
    cut_a, cut_b = _conform(a.fresh(axis, 1), b.fresh(axis, 1))
    digit = Digit(total)
    length, rolled = lengths[0], False
    keep_first = lengths[0] >= lengths[1]
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
            if gap is None or u.slope is None or (gap and abs(gap) != abs(u.slope * sum(lengths))):
                return None
            rolled = rolled or bool(gap)
            whole = replace(u if keep_first else v, whole=True)
            shift = 0 if keep_first else length
            kept, walk = (p, whole) if keep_first else (q, whole)
            path = kept.moved([old, new], {digit: walk.pull(_moved_by(shift), total)})
            if path is None:
                return None
            paths.append(path)
        gathered.append(tuple(paths))
    return replace(
        cut_a,
        axes=cut_a.with_axis(axis, (digit,)),
        paths=tuple(gathered),
        exact=a.exact and b.exact and not rolled,
        aligned=a.aligned and b.aligned,
    )


def _moved_by(shift: int) -> Taps:
    return Taps(lambda o: [o - shift])


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
