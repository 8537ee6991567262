"""The layouts of all tensors: the letters of their axes, else their digits, else what shapes tell."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

from analyzer.analysis.interpreter import Site, Table, Transfer, interpret, transfer
from analyzer.analysis.layouts.digits import Axes, axes_of, unmerged
from analyzer.analysis.layouts.layout import Layout, grid_of
from analyzer.analysis.layouts.letters import LETTERS
from analyzer.analysis.layouts.parts import DIGITS, sizes_after
from analyzer.analysis.layouts.rows import after
from analyzer.analysis.layouts.shapes import Seen
from analyzer.graph import Graph
from analyzer.graph.nodes import fixed_sizes, reads
from analyzer.graph.query import image_input, image_layout


class Known(NamedTuple):
    """What is known of a tensor: its layout, and its digits where letters alone did not tell."""

    layout: Layout | None
    digits: Axes | None = None


Maybe: TypeAlias = "Known | None"


def layouts(graph: Graph) -> dict[str, Layout]:
    """The layout of every tensor the image reaches, where it is known."""
    return {name: known.layout for name, known in _known(graph).items() if known.layout is not None}


def merged_layouts(graph: Graph) -> dict[str, Layout]:
    """The layout, NLC, of tensors in which batch and tokens share an axis, (N · L, C), once they are apart."""
    found = {name: unmerged(known.digits) for name, known in _known(graph).items() if known.digits is not None}
    return {name: layout for name, layout in found.items() if layout is not None}


def _known(graph: Graph) -> dict[str, Known]:
    image = image_input(graph)
    seen, start = Seen(graph, image), {}
    if image.shape is not None and len(image.shape) == 4:
        layout = Layout.of(image_layout(graph, image), image.shape)
        start[image.name] = Known(layout)
        seen.sizes.add(layout.grid)
    return interpret(graph, LAYOUTS, start, seen).values


# ---- Rows ----


def _remembered(row: Transfer) -> Transfer:
    """A row for outputs of known rank; it adds what it finds to what was seen."""

    @functools.wraps(row)
    def layout_transfer(op: Site, *inputs: Maybe) -> Maybe:
        found: Maybe = row(op, *inputs) if op.output.name and op.out() is not None else None
        if found is not None and found.layout is not None:
            op.memory.add(found.layout)
        return found

    return layout_transfer


def followed_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """Letters, else digits, else shapes"""
    known = [x and x.layout for x in inputs]
    some = any(known)
    layout = LETTERS.tell(op, *known) if some else None
    if layout is not None:
        return Known(layout)
    digits = _digits(op, inputs)
    if digits is not None:
        return Known(digits.layout, digits)
    layout = op.memory.by_shape(after(op)) if some else op.memory.regained(op)
    return None if layout is None else Known(layout)


def _digits(op: Site, inputs: tuple[Maybe, ...]) -> Axes | None:
    if not any(inputs) or op.node.domain or fixed_sizes(op.out()) is None:
        return None
    values = zip(inputs, op.node.inputs, strict=True)
    known = [x and (x.digits or (x.layout and axes_of(x.layout, v.shape))) for x, v in values]
    found = DIGITS.tell(op, *known)
    fits = found is not None and tuple(math.prod(d.size for d in row) for row in found.digits) == sizes_after(op)
    return found if fits else None


LAYOUTS: Table[Known] = Table("layouts", default=_remembered(followed_transfer), everywhere=True, apart=True)

_SPACE = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger")
_STATES = {"If": None, "Loop": 2, "Scan": 0}  # operators with bodies, and the first input that is a state


def _layout(*ops: str) -> Transfer:
    return lambda row: transfer(*ops, table=LAYOUTS)(_remembered(row))


@_layout(
    *_CONVOLUTIONS, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "DepthToSpace",
    "SpaceToDepth",
)  # fmt: skip
def windowed_transfer(op: Site, x: Maybe = None, *others: Maybe) -> Maybe:
    """N, C and space, whatever the input was"""
    shape = after(op)
    if len(shape) not in _SPACE:
        return followed_transfer(op, x, *others)
    axes = _SPACE[len(shape)]
    lost = (x is None or x.layout is None) and _sees_one_position(op) and _is_stranger(op, axes)
    return None if lost else Known(Layout.of(axes, shape))


def _sees_one_position(op: Site) -> bool:
    """Whether each output depends on one position of its input only: a 1×1 convolution, a normalisation."""
    if op.node.op not in _CONVOLUTIONS:
        return op.node.op in ("BatchNormalization", "LRN")
    return all(k == 1 for k in op.attr("kernel_shape") or (op.shape(1) or [])[2:])


def _is_stranger(op: Site, axes: str) -> bool:
    """Whether nothing before the input of a node was of its size: 4 × 2100 box sides of a detector."""
    shape = op.shape()
    return shape is not None and grid_of(axes, shape) not in op.memory.sizes


@_layout("BatchNormalization", "LRN", "InstanceNormalization", "GroupNormalization")
def normalising_transfer(op: Site, x: Maybe = None, *parameters: Maybe) -> Maybe:
    """The axes stay as they are"""
    return x if x is not None else windowed_transfer(op, x, *parameters)


@_layout(*_STATES)
def body_transfer(op: Site, *inputs: Maybe) -> Maybe:
    """A state that keeps its shape from step to step keeps its layout; else shapes tell"""
    first = _STATES[op.node.op]
    if first is not None and first + op.index < len(inputs):
        state = inputs[first + op.index]
        if state is not None and state.layout is not None and op.shape(first + op.index) == op.out():
            return Known(state.layout)
    known = (op.values[name].layout for name in reads(op.node) & op.values.keys())
    layout = None if all(k is None for k in known) else op.memory.by_shape(after(op))
    return None if layout is None else Known(layout)
