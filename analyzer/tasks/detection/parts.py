"""Where a detector's outputs hold the numbers of its candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analyzer.errors import InputError
from analyzer.graph import Builder, Value
from analyzer.tasks.base import quoted


@dataclass(frozen=True)
class Part:
    """Some numbers of every candidate of a level: scores, box sides, objectness…

    Attributes:
        output: the model's output that holds them.
        start, stop: which numbers of a candidate they are.
        axis: the axis of `output` along which a candidate's numbers lie; all others but the batch count candidates,
            the last one fastest. None where each number is of a candidate of its own.
        cell: candidates that share that axis, their numbers one after the other.
        batched: whether the first axis counts pictures.
        first, last: which candidates of the output they are of; all where `last` is None.
        grid: rows and columns of an output that is a map; (0, 0) for others.
    """

    output: str
    start: int = 0
    stop: int | None = None
    axis: int | None = -1
    cell: int = 1
    batched: bool = True
    first: int = 0
    last: int | None = None
    grid: tuple[int, int] = (0, 0)

    def read(self, array: np.ndarray) -> np.ndarray:
        """(candidates, numbers) of one picture.

        Args:
            array: the output for that picture, its batch axis of 1 included.
        """
        if self.axis is None:
            array = array[..., None]
        rows = np.moveaxis(array if self.batched else array[None], self._axis(array.ndim), -1)
        rows = rows.reshape(math.prod(rows.shape[:-1]) * self.cell, rows.shape[-1] // self.cell)
        return np.asarray(rows[self.first : self.last, self.start : self.stop])

    def of(self, op: Builder, value: Value) -> Value:
        """(N, candidates, numbers), appended.

        Args:
            value: the output, or a tensor with its axes.
        """
        if not self.batched:
            value = op.Unsqueeze(value, [0])
        if self.axis is None:
            value = op.Unsqueeze(value, [op.rank(value)])
        rank = op.rank(value)
        axis = self._axis(rank - (not self.batched))
        if axis != rank - 1:
            value = op.Transpose(value, perm=[a for a in range(rank) if a != axis] + [axis])
        width = op.dim(value, rank - 1)
        if rank != 3 or self.cell != 1:
            assert width is not None
            value = op.Reshape(value, [0, -1, width // self.cell], allowzero=0)
        for axis, start, stop in ((1, self.first, self.last), (2, self.start, self.stop)):
            if start or stop is not None:
                value = op.Slice(value, [start], [np.iinfo(np.int64).max if stop is None else stop], [axis])
        return value

    def cut(self, first: int, last: int) -> Part:
        """Of some of the candidates."""
        return replace(self, first=first, last=last)

    def expression(self, place: int, first: int, last: int | None = None) -> str:
        """A number of a candidate, or the numbers from `first` to before `last`, as a target.

        Raises:
            InputError: the output has an order in which they cannot be named.
        """
        number = str(self.start + first) if last is None else f"{self.start + first}:{self.start + last}"
        place, mapped = place + self.first, all(self.grid)
        spot = ", ".join(map(str, divmod(place, self.grid[1]))) if mapped else str(place)
        known = ((1, 3) if mapped else (1, 2, -1)) if self.batched else (-1,)
        if self.cell > 1 or self.axis not in known:
            raise InputError(f"the numbers of output {self.output!r} cannot be named one by one", "explain a score")
        axes = [number, spot] if self.axis == 1 else [spot, number]
        return f"{quoted(self.output)}[{', '.join([':'] * self.batched + axes)}]"

    def _axis(self, rank: int) -> int:
        """The axis of the numbers where there is a batch axis."""
        axis = (-1 if self.axis is None else self.axis) % rank
        return axis if self.batched else axis + 1


@dataclass(frozen=True)
class Level:
    """The candidates of one map of a detector's pyramid.

    Attributes:
        scores: of every class.
        boxes: numbers that the coding makes boxes of.
        objectness: whether there is anything; None where scores say that by themselves.
        points: numbers that the coding makes keypoints of.
        labels: the class of every candidate, where `scores` has a single number.
        offsets: further numbers of boxes, which follow those of `boxes`, from another output.
        weights: of the prototypes of a candidate's mask.
        grid: rows and columns of the map; (0, 0) for candidates that are not on a grid.
        cell: candidates at each place of the grid.
        planes: whether all places of the first candidate come before those of the second.
        layer: the feature map by which a candidate is explained; "" for the one that the model has for all.
        layers: (tensor, feature map) of candidates that the model chose of several maps: those whose score was computed
            in that tensor are explained by that feature map.
    """

    scores: Part
    boxes: Part
    objectness: Part | None = None
    points: Part | None = None
    labels: Part | None = None
    offsets: Part | None = None
    weights: Part | None = None
    grid: tuple[int, int] = (0, 0)
    cell: int = 1
    planes: bool = False
    layer: str = ""
    layers: tuple[tuple[str, str], ...] = ()

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """((P, 2) column and row in the grid of every candidate, (P,) which one of its place it is)."""
        rows, columns = self.grid
        sizes = (self.cell, rows, columns) if self.planes else (rows, columns, self.cell)
        index = np.indices(sizes).reshape(3, -1)
        cell, row, column = index if self.planes else (index[2], index[0], index[1])
        return np.stack([column, row], axis=1), cell

    @property
    def count(self) -> int:
        """Number of candidates; 0 where the model chooses it."""
        if self.scores.last is not None:
            return self.scores.last - self.scores.first
        return self.grid[0] * self.grid[1] * self.cell

    def parts(self) -> list[Part]:
        """All that it reads."""
        every = (self.scores, self.boxes, self.objectness, self.points, self.labels, self.offsets, self.weights)
        return [p for p in every if p is not None]
