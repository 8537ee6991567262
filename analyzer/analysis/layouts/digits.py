"""What the axes of a tensor are made of, while they are taken apart and put together again.

Windows, patch merging, attention heads and merged batches split the axes of a feature map and join the parts in
another order. Each axis is a row of digits, the most significant first, as in a number: `Digit("H", 4, 7)` counts rows
of windows of 7 rows. Reshape splits and joins digits, Transpose moves them, a product with weights makes new channels.
When the digits of a letter are together again, the tensor is a feature map again, and a `Layout` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from analyzer.analysis.layouts.layout import Layout
from analyzer.graph.nodes import Shape, fixed_sizes


class Digit(NamedTuple):
    """A part of an axis: `size` steps of `weight` positions each.

    L is all tokens where some are outside the grid, K the positions of another tensor (the keys of an attention).
    """

    letter: str
    size: int
    weight: int = 1


Digits = tuple[Digit, ...]


@dataclass(frozen=True)
class Axes:
    """The digits of each axis, an axis of size 1 having none.

    Attributes:
        extent: positions along each spatial letter.
        tokens: the layout of the tokens where there is a digit L.
    """

    digits: tuple[Digits, ...]
    extent: Mapping[str, int] = field(default_factory=dict)
    tokens: Layout | None = None

    def made_of(self, digits: Iterable[Digits]) -> Axes:
        """The same positions, other axes."""
        return replace(self, digits=tuple(digits))

    def letters(self, axis: int) -> set[str]:
        return {d.letter for d in self.digits[axis]}

    @cached_property
    def layout(self) -> Layout | None:
        """The layout where the digits are together; None where they are not."""
        found = [_letter(self, i) for i in range(len(self.digits))]
        letters = "".join(letter for letter, _ in found)
        if letters[:1] != "N" or "?" in letters or letters.count("C") != 1 or len(set(letters)) != len(letters):
            return None  # where batch and tokens share an axis, a batch of 1 looks like none
        if "L" in letters and any(a in letters for a in "DHW"):
            return None
        grid = tuple(size for letter, sizes in found if letter in "DHWL" for size in sizes)
        if self.tokens is not None and any(d.letter == "L" for digits in self.digits for d in digits):
            return replace(self.tokens, axes=letters)
        return Layout(letters, grid) if grid else None


def axes_of(layout: Layout, shape: Shape | None) -> Axes | None:
    """The digits of a tensor whose layout is known; None where a size is not."""
    sizes = fixed_sizes(shape)
    if sizes is None or len(sizes) != len(layout.axes):
        return None
    digits: list[Digits] = []
    extent: dict[str, int] = {}
    for letter, size in zip(layout.axes, sizes, strict=True):
        if letter == "L" and not layout.prefix and not layout.suffix and len(layout.grid) == 2:
            h, w = layout.grid
            if h is None or w is None:
                return None
            digits.append(digits_of(("H", h), ("W", w)))
            extent |= {"H": h, "W": w}
        elif letter == "?":
            return None
        else:
            digits.append(digits_of((letter, size)))
            if letter in "DHW":
                extent[letter] = size
    return Axes(tuple(digits), extent, layout if "L" in layout.axes else None)


def digits_of(*parts: tuple[str, int]) -> Digits:
    """Digits of these letters and sizes; a size of 1 needs none."""
    return tuple(Digit(letter, size) for letter, size in parts if size > 1)


# ---- Back to a layout ----


def unmerged(axes: Axes) -> Layout | None:
    """NLC, where a tensor (N · L, C) has a row per image and token; else None."""
    if len(axes.digits) != 2:
        return None
    batch, places = (tuple(d for d in axes.digits[0] if (d.letter == "N") == first) for first in (True, False))
    layout = axes.made_of([batch, places, axes.digits[1]]).layout if batch + places == axes.digits[0] else None
    return layout if layout is not None and layout.axes == "NLC" else None


def _letter(axes: Axes, index: int) -> tuple[str, tuple[int, ...]]:
    """(letter of an axis, its sizes in space); "?" where it is no whole axis of an image."""
    digits = axes.digits[index]
    letters = axes.letters(index)
    if letters <= {"N"} and index == 0:
        return "N", ()
    if letters == {"L"} and len(digits) == 1:
        return "L", ()
    whole = [is_whole(axes, letter, index) for letter in dict.fromkeys(d.letter for d in digits if d.letter in "DHW")]
    if letters == {"C"} or (digits and "C" in letters and letters <= set("CDHW") and not any(whole)):
        return "C", ()
    rows = list(_runs(digits))
    if [letter for letter, _ in rows] == ["H", "W"] and all(whole):
        return "L", tuple(size for _, size in rows)
    if rows and all(whole) and [letter for letter, _ in rows[1:]] in ([], ["C"]):  # C last: pixels made of channels
        return rows[0][0], (math.prod(size for _, size in rows),)
    return "?", ()


def is_whole(axes: Axes, letter: str, index: int) -> bool:
    """Whether axis `index` counts a letter's positions from the first to the last, perhaps in steps of several.

    The positions within a step are then channels, or were reduced.
    """
    mine = [d for d in axes.digits[index] if d.letter == letter]
    step = mine[-1].weight
    joined = math.prod(d.size for d in mine) * step == axes.extent.get(letter)
    descending = all(a.weight == b.size * b.weight for a, b in pairwise(mine))
    return joined and descending


def _runs(digits: Digits) -> Iterable[tuple[str, int]]:
    """(letter, size) of each run of digits of one letter."""
    for k, digit in enumerate(digits):
        if not k or digits[k - 1].letter != digit.letter:
            same = [d.size for d in digits if d.letter == digit.letter]
            yield digit.letter, math.prod(same)
