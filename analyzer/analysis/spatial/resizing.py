"""Resize: the neighbours that its interpolation weighs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

from analyzer.analysis.interpreter import HiddenError, Site
from analyzer.analysis.intervals import Field, Size, Taps
from analyzer.analysis.spatial.table import Maybe, alone, spatial


@spatial("Resize")
def resize_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """o ← the neighbours of x(o) that the interpolation weighs"""
    x, before, after = alone(x, *rest), op.shape(), op.out()
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
