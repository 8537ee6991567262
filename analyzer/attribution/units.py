"""Units: a tensor as channels × positions, whatever its layout; where each unit looks in the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveField
from analyzer.analysis.layouts import Layout
from analyzer.attribution.layers import pick_layer
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import find_tensors
from analyzer.tasks import Declared, recognise
from analyzer.tasks.base import Labels
from analyzer.tasks.recognise import NOTHING

STRONGEST = -1  # as a channel: the one with the strongest activation; as a position: that of the channel
WHOLE = -2  # as a position: every position of the channel

MOST = 1 << 31  # numbers of a tensor whose units are looked at: 8 GiB
Window = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Units:
    """The units of a tensor.

    Attributes:
        value: the tensor.
        shape: its sizes, (N, …).
        channel: the axis of its channels.
        space: the axes of its positions; none for a vector per image.
        grid: sizes of the positions, (h, w) for tokens.
        prefix, suffix: class and register tokens before and after, which are no positions.
    """

    value: Value
    shape: tuple[int, ...]
    channel: int
    space: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0
    suffix: int = 0

    @classmethod
    def of(cls, graph: Graph, layer: str = "auto", declared: Declared = NOTHING, labels: Labels = None) -> Units:
        """The units of a feature map, or of a tensor (N, channels).

        Args:
            declared, labels: of the model, by which its default layer is chosen.

        Raises:
            NotFoundError: no such tensor. UnsupportedError: it has no channels, an open size, or too many numbers.
        """
        named = find_tensors(graph, layer)[-1] if layer != "auto" else None
        if named is not None and named.shape is not None and len(named.shape) == 2 and is_float(named):
            value, layout = named, Layout("NC")
        else:
            about = recognise(graph, None, declared, labels).logits if layer == "auto" else graph.outputs[0]
            feature = pick_layer(graph, layer, about)
            value, layout = feature.value, feature.layout
            if layout.axes[:1] != "N":
                raise UnsupportedError(f"{feature.name!r} ({layout}) does not have the batch as its first axis")
        shape, grid = fixed_sizes(value.shape), fixed_sizes(layout.grid)
        if shape is None or grid is None:
            raise UnsupportedError(
                f"the shape of {value.name!r} is not fixed: {value.shape}", "fix the input's sizes with --shape"
            )
        if math.prod(shape) > MOST:
            raise UnsupportedError(f"{value.name!r} has {math.prod(shape):,} numbers", "choose another layer")
        return cls(value, shape, layout.channel, layout.spatial, grid, layout.prefix, layout.suffix)

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def channels(self) -> int:
        return self.shape[self.channel]

    @property
    def positions(self) -> int:
        return math.prod(self.grid)

    # ---- As nodes ----

    def flat(self, op: Builder) -> Value:
        """(N, channels, positions)"""
        value = self.value
        if self.prefix or self.suffix:
            end = -self.suffix or np.iinfo(np.int64).max
            value = op.Slice(value, [self.prefix], [end], [self.space[0]])
        value = op.Transpose(value, perm=self._perm())
        return op.Reshape(value, [0, self.channels, self.positions], allowzero=0)

    def unflat(self, op: Builder, flat: Value) -> Value:
        """(N, channels, positions) as the tensor is shaped, 0 at the tokens before and after the grid."""
        perm, others = self._perm(), self.prefix + self.suffix
        shape = [d - others if others and a == self.space[0] else d for a, d in enumerate(self.shape)]
        value = op.Reshape(flat, [shape[a] for a in perm])
        value = op.Transpose(value, perm=[perm.index(a) for a in range(len(perm))])
        if others:
            # All axes: onnxruntime 1.31 moves a Transpose through a Pad as if it had no `axes`.
            pads = [p if a == self.space[0] else 0 for p in (self.prefix, self.suffix) for a in range(len(perm))]
            value = op.Pad(value, pads, op.scalar(0, value))
        return op.shaped_as(value, self.value)

    def _perm(self) -> list[int]:
        return [0, self.channel, *self.space]

    # ---- As numbers ----

    def check(self, channel: int, position: int = STRONGEST) -> None:
        """NotFoundError where there is no such unit."""
        if not STRONGEST <= channel < self.channels:
            raise NotFoundError(
                f"{self.name!r} has no channel {channel}", f"it has {self.channels}: 0 to {self.channels - 1}"
            )
        if not WHOLE <= position < self.positions:
            raise NotFoundError(f"{self.name!r} has no position {position}: its grid is {self.grid_text}")

    def place(self, position: int) -> tuple[int, ...]:
        """(y, x) of a position."""
        return tuple(int(i) for i in np.unravel_index(position, self.grid)) if self.grid else ()

    def position(self, place: tuple[int, ...]) -> int:
        """The number of the position (y, x).

        Raises:
            NotFoundError: it lies outside the grid.
        """
        if len(place) != len(self.grid) or any(not 0 <= p < g for p, g in zip(place, self.grid, strict=True)):
            text = ",".join(map(str, place))
            raise NotFoundError(f"{self.name!r} has no position {text}: its grid is {self.grid_text}")
        return int(np.ravel_multi_index(place, self.grid)) if self.grid else 0

    @property
    def grid_text(self) -> str:
        return "×".join(map(str, self.grid)) or "a single position"

    def window(
        self, fields: Mapping[str, ReceptiveField], channel: int, position: int, size: tuple[int, ...]
    ) -> Window:
        """(start, stop) per axis of the image: the pixels that the unit depends on, not clipped.

        The whole image where the unit sees all of it, or its receptive field is not known.
        """
        whole = tuple((0, s) for s in size)
        field = fields.get(self.name)
        if field is None or field.is_global:
            return whole
        place = {self.channel: channel}
        if len(self.space) == 1 and len(self.grid) > 1:
            place[self.space[0]] = position + self.prefix
        else:
            place |= dict(zip(self.space, self.place(position), strict=True))
        try:
            found = field.interval(tuple(place.get(axis, 0) for axis in field.axes))
        except InputError:
            return whole
        return tuple(w if span is None else span for span, w in zip(found, whole, strict=True))

    def spans(self, fields: Mapping[str, ReceptiveField], size: tuple[int, ...]) -> tuple[list[tuple[int, int]], ...]:
        """Per axis of the grid, (start, stop) of the pixels of each unit through its middle, along the picture's axis.

        Where the grid has not the axes of the picture, each unit spans the whole picture.
        """
        if len(self.grid) != len(size):
            return tuple([(0, size[0] if size else 1)] * g for g in self.grid)
        middle, found = tuple(g // 2 for g in self.grid), []
        for axis, count in enumerate(self.grid):
            places = [(*middle[:axis], i, *middle[axis + 1 :]) for i in range(count)]
            found.append([self.window(fields, 0, self.position(place), size)[axis] for place in places])
        return tuple(found)


def clipped(window: Window, size: tuple[int, ...]) -> Window:
    """The part of a window that lies inside the image."""
    return tuple((min(max(a, 0), s), max(min(b, s), 0)) for (a, b), s in zip(window, size, strict=True))


def parse_unit(units: Units, text: str) -> tuple[int, int]:
    """(channel, position) from `17`, `17@3,5`, `17@all`, `max`.

    Raises:
        InputError: not such a text. NotFoundError: no such unit.
    """
    channel_text, _, place_text = text.partition("@")
    try:
        channel = STRONGEST if channel_text == "max" else int(channel_text)
        if not place_text:
            position = STRONGEST
        elif place_text == "all":
            position = WHOLE
        else:
            position = units.position(tuple(int(p) for p in place_text.split(",")))
    except ValueError:
        raise InputError(
            f"{text!r} is not a unit", "write CHANNEL, CHANNEL@y,x, CHANNEL@all, or max for the strongest activation"
        ) from None
    units.check(channel, position)
    return channel, position


def rgb(pixels: np.ndarray, axes: str, channels: str = "RGB") -> np.ndarray:
    """(N, H, W, C) of an image-shaped array whose axes are `axes`, channels in RGB order."""
    order: list[Any] = [axes.index("N"), *(i for i, a in enumerate(axes) if a in "DHW")]
    array = np.transpose(pixels, [*order, axes.index("C")]) if "C" in axes else np.transpose(pixels, order)[..., None]
    return array[..., ::-1] if channels == "BGR" else array
