"""What the axes of a tensor are made of, while they are taken apart and put together again.

Windows, patch merging, attention heads and merged batches split the axes of a feature map and join the parts in
another order. Each axis is a row of digits, the most significant first, as in a number: `Digit("H", 4, 7)` counts rows
of windows of 7 rows. Reshape splits and joins digits, Transpose moves them, a product with weights makes new channels.
When the digits of a letter are together again, the tensor is a feature map again, and a `Layout` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from analyzer.graph.ir import Graph, Node, Value
from analyzer.graph.through import KEEPING


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor are: one letter per axis, N batch, C channels, D H W space, L tokens, ? unknown.

    For tokens, `grid` is (h, w); `prefix` and `suffix` count the class, register or query tokens before and after it.
    """

    axes: str
    grid: tuple[int | None, ...] = ()
    prefix: int = 0
    suffix: int = 0

    @property
    def spatial(self) -> tuple[int, ...]:
        """The axes that carry space."""
        return tuple(i for i, a in enumerate(self.axes) if a in "DHWL")

    @property
    def channel(self) -> int:
        """The axis of the channels."""
        return self.axes.index("C")

    @property
    def tokens(self) -> slice:
        """The places of the grid among all tokens."""
        return slice(self.prefix, -self.suffix or None)

    @property
    def count(self) -> int:
        """Number of tokens, those outside the grid included; the sizes of the grid are fixed."""
        return self.prefix + math.prod(g or 0 for g in self.grid) + self.suffix

    @property
    def is_map(self) -> bool:
        """Whether this is a feature map: channels over space, and nothing else."""
        return "C" in self.axes and bool(self.spatial) and set(self.axes) <= set("NCDHWL")

    def __str__(self) -> str:
        if "L" not in self.axes:
            return self.axes
        size = "×".join(str(g) if g else "?" for g in self.grid)
        front = f" + {self.prefix} in front" if self.prefix else ""
        return f"{self.axes} tokens {size}{front}" + (f" + {self.suffix} at the end" if self.suffix else "")


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


def axes_of(layout: Layout, shape: Sequence[Any] | None) -> Axes | None:
    """The digits of a tensor whose layout is known; None where a size is not."""
    if shape is None or len(shape) != len(layout.axes) or not all(isinstance(d, int) for d in shape):
        return None
    digits: list[Digits] = []
    extent: dict[str, int] = {}
    for letter, size in zip(layout.axes, shape, strict=True):
        if letter == "L" and not layout.prefix and not layout.suffix and len(layout.grid) == 2:
            h, w = layout.grid
            if h is None or w is None:
                return None
            digits.append(_digits(("H", h), ("W", w)))
            extent |= {"H": h, "W": w}
        elif letter == "?":
            return None
        else:
            digits.append(_digits((letter, size)))
            if letter in "DHW":
                extent[letter] = size
    return Axes(tuple(digits), extent, layout if "L" in layout.axes else None)


def _digits(*parts: tuple[str, int]) -> Digits:
    return tuple(Digit(letter, size) for letter, size in parts if size > 1)


# ---- Back to a layout ----


def layout_of(axes: Axes) -> Layout | None:
    """The layout of a tensor whose digits are together; None where they are not."""
    found = [_letter(axes, i) for i in range(len(axes.digits))]
    letters = "".join(letter for letter, _ in found)
    if letters[:1] != "N" or "?" in letters or letters.count("C") != 1 or len(set(letters)) != len(letters):
        return None  # where batch and tokens share an axis, a batch of 1 looks like none
    if "L" in letters and any(a in letters for a in "DHW"):
        return None
    grid = tuple(size for letter, sizes in found if letter in "DHWL" for size in sizes)
    if axes.tokens is not None and any(d.letter == "L" for digits in axes.digits for d in digits):
        return replace(axes.tokens, axes=letters)
    return Layout(letters, grid) if grid else None


def unmerged(axes: Axes) -> Layout | None:
    """NLC, where a tensor (N · L, C) has a row per image and token; else None."""
    if len(axes.digits) != 2:
        return None
    batch, places = (tuple(d for d in axes.digits[0] if (d.letter == "N") == first) for first in (True, False))
    layout = layout_of(axes.made_of([batch, places, axes.digits[1]])) if batch + places == axes.digits[0] else None
    return layout if layout is not None and layout.axes == "NLC" else None


def _letter(axes: Axes, index: int) -> tuple[str, tuple[int, ...]]:
    """(letter of an axis, its sizes in space); "?" where it is no whole axis of an image."""
    digits = axes.digits[index]
    letters = axes.letters(index)
    if letters <= {"N"} and index == 0:
        return "N", ()
    if letters == {"L"} and len(digits) == 1:
        return "L", ()
    whole = [_whole(axes, letter, index) for letter in dict.fromkeys(d.letter for d in digits if d.letter in "DHW")]
    if letters == {"C"} or (digits and "C" in letters and letters <= set("CDHW") and not any(whole)):
        return "C", ()
    rows = list(_runs(digits))
    if [letter for letter, _ in rows] == ["H", "W"] and all(whole):
        return "L", tuple(size for _, size in rows)
    if rows and all(whole) and [letter for letter, _ in rows[1:]] in ([], ["C"]):  # C behind: pixels made of channels
        return rows[0][0], (math.prod(size for _, size in rows),)
    return "?", ()


def _whole(axes: Axes, letter: str, index: int) -> bool:
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


# ---- Operators ----


def follow(graph: Graph, node: Node, output: Value, given: Sequence[Axes | None]) -> Axes | None:
    """The digits of an output of `node`, from those of its inputs; None where they cannot be told."""
    shape = output.shape
    if node.domain or shape is None or not all(isinstance(d, int) for d in shape):
        return None
    rule = _RULES.get(node.op, _elementwise)
    found = rule(graph, node, output, given)
    if found is None or len(found.digits) != len(shape):
        return None
    sizes = [math.prod(d.size for d in digits) for digits in found.digits]
    return found if sizes == list(shape) else None


Given = Sequence["Axes | None"]


def _elementwise(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """The digits of the first operand of the output's shape."""
    for value, axes in zip(node.inputs, given, strict=True):
        if axes is not None and value.shape == output.shape:
            return axes
    return None


def _first(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    return given[0]


def _reshape(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """The digits in a row, cut where the new axes begin."""
    if given[0] is None:
        return None
    waiting = [d for digits in given[0].digits for d in digits][::-1]
    axes: list[Digits] = []
    for size in output.shape:
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
    return None if waiting else given[0].made_of(axes)


def _transpose(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    if given[0] is None:
        return None
    perm = node.attrs.get("perm") or list(range(len(given[0].digits)))[::-1]
    return given[0].made_of(given[0].digits[p] for p in perm)


def _squeeze(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """Axes of size 1 go or come, in whatever order: the others stay in theirs."""
    if given[0] is None:
        return None
    kept = iter([digits for digits in given[0].digits if digits])
    return given[0].made_of(next(kept, ()) if size > 1 else () for size in output.shape)


def _matmul(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """A product with weights makes new channels of the last axis; of two activations, rows of one over columns of the
    other."""
    left, right = given[:2]
    if left is None:
        return None
    if right is not None and len(right.digits) == len(left.digits):
        column = tuple(d if d.letter == "C" else Digit("K", d.size) for d in right.digits[-1])
        return left.made_of((*left.digits[:-1], column))
    if right is not None or not left.letters(-1) <= set("CDHW") or _splits_space(left):
        return None
    return left.made_of([*left.digits[:-1], _digits(("C", output.shape[-1]))])


def _splits_space(axes: Axes) -> bool:
    """Whether the last axis holds positions that are no part of its channels."""
    spatial = {d.letter for d in axes.digits[-1]} - {"C"}
    return any(_whole(axes, letter, len(axes.digits) - 1) for letter in spatial)


def _gemm(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    return None if node.attrs.get("transA") else _matmul(graph, node, output, (given[0], None))


def _reduce(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """The axes that are reduced are gone."""
    if given[0] is None:
        return None
    rank = len(given[0].digits)
    known = graph.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    gone = {int(a) % rank for a in (known if known is not None else node.attrs.get("axes") or range(rank))}
    if node.attrs.get("keepdims", 1):
        return given[0].made_of(() if i in gone else digits for i, digits in enumerate(given[0].digits))
    return given[0].made_of(digits for i, digits in enumerate(given[0].digits) if i not in gone)


def _cut(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """Other sizes of axes that are channels, or that are one whole axis of the image."""
    return _resized(given[0], node.inputs[0], output)


def _joined(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """As `_cut`, from the first operand whose digits are known."""
    pairs = zip(given, node.inputs, strict=True)
    return next((_resized(axes, value, output) for axes, value in pairs if axes is not None), None)


def _resized(axes: Axes | None, value: Value, output: Value) -> Axes | None:
    if axes is None:
        return None
    digits: list[Digits] = []
    extent = dict(axes.extent)
    for part, before, after in zip(axes.digits, value.shape, output.shape, strict=True):
        letter = part[0].letter if len({d.letter for d in part}) == 1 else ""
        if before == after:
            digits.append(part)
        elif letter == "C":
            digits.append(_digits(("C", after)))
        elif len(part) == 1 and part[0].size == extent.get(letter):
            digits.append(_digits((letter, after)))
            extent[letter] = after
        else:
            return None
    return replace(axes, digits=tuple(digits), extent=extent)


def _gather(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    """One of several: the axis goes. Several channels: they are channels still."""
    if given[0] is None:
        return None
    at = node.attrs.get("axis", 0) % len(given[0].digits)
    if given[0].letters(at) != {"C"}:
        return None
    if len(output.shape) == len(given[0].digits) - 1:
        return given[0].made_of(digits for i, digits in enumerate(given[0].digits) if i != at)
    return _resized(given[0], node.inputs[0], output) if len(output.shape) == len(given[0].digits) else None


def _lost(graph: Graph, node: Node, output: Value, given: Given) -> Axes | None:
    return None


_RULES: dict[str, Callable[[Graph, Node, Value, Given], Axes | None]] = {
    **dict.fromkeys(KEEPING, _first),
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    "Transpose": _transpose,
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    "Gemm": _gemm,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2"), _reduce),
    **dict.fromkeys(("Slice", "Split", "Pad"), _cut),
    "Concat": _joined,
    "Gather": _gather,
    **dict.fromkeys(("Einsum", "GatherND", "GatherElements", "Shape", "TopK", "ArgMax", "LSTM", "GRU"), _lost),
}
