"""A detector's outputs, looked at by the families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from analyzer.analysis.feature_maps import FeatureMap, feature_maps, meetings
from analyzer.analysis.layouts import layouts
from analyzer.analysis.moves import Origins, origins
from analyzer.analysis.scores import REAL, holds_floats, quantisation
from analyzer.errors import AnalyzerError
from analyzer.graph import Graph, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import ancestors, image_input, image_layout
from analyzer.tasks.detection.parts import Level, Part

# Operators whose numbers are raw: neither squashed nor decoded.
RAW = frozenset({"Conv", "QLinearConv", "ConvInteger", "FusedConv"})
Run: TypeAlias = Callable[[Sequence[str]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class GridAnchors:
    """Anchors at the places of maps, as a model's card gives them.

    Attributes:
        shapes: (width, height) in pixels of each anchor of a place, of every level, the finest first.
        strides: pixels between places, of every level; () for the usual ones.
        variances: what centres and logarithms of sizes are multiplied by; None for those of the format.
    """

    shapes: tuple[tuple[tuple[float, float], ...], ...]
    strides: tuple[int, ...] = ()
    variances: tuple[float, float] | None = None


@dataclass
class View:
    """The outputs of a model whose sizes are fixed.

    Attributes:
        graph: the model.
        labels: number of labels that are given; None for none.
        declared: the format that the model's card names; None for none.
        run: what the model gives for an example input, by names of tensors; None where it cannot be run.
        anchors: those that the model's card gives; None for none.
    """

    graph: Graph
    labels: int | None = None
    declared: str | None = None
    run: Run | None = None
    anchors: GridAnchors | None = None
    _origins: dict[str, Origins | None] = field(default_factory=dict)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the input; (0, 0) where they are open."""
        image = image_input(self.graph)
        axes, shape = image_layout(self.graph, image), image.shape or []
        if len(shape) == 3:  # a picture without a batch axis
            axes = "CHW" if shape[0] in (1, 3, 4) else "HWC"
        sides = [shape[axes.index(a)] if len(shape) == len(axes) and a in axes else 0 for a in "HW"]
        return tuple(d if isinstance(d, int) else 0 for d in sides)  # type: ignore[return-value]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{output: sizes} of the outputs whose sizes are fixed."""
        found = {v.name: fixed_sizes(v.shape) for v in self.graph.outputs}
        return {name: sizes for name, sizes in found.items() if sizes is not None}

    @property
    def all_fixed(self) -> bool:
        """Whether the sizes of all outputs and of the input are fixed."""
        return len(self.shapes) == len(self.graph.outputs) and all(self.size)

    def origin(self, name: str) -> Origins | None:
        """Where the numbers of an output come from."""
        if name not in self._origins:
            self._origins[name] = origins(self.graph, self.graph[name])
        return self._origins[name]

    def one(self, part: Part, array: np.ndarray) -> np.ndarray:
        """(candidates, numbers) of the first picture."""
        return part.read(array[:1] if part.batched else array)

    def example(self, part: Part) -> np.ndarray | None:
        """(candidates, numbers) of a part that the model gives for an example input; None where it cannot be run."""
        try:
            said = self.run([part.output])[0] if self.run is not None else None
        except AnalyzerError:
            return None
        if said is None:
            return None
        return self.one(part, quantisation(self.graph, self.graph[part.output]).real(said))

    def is_real(self, name: str) -> bool:
        """Whether an output holds real numbers, quantised perhaps."""
        value = self.graph[name]
        return holds_floats(value) or quantisation(self.graph, value) != REAL

    def squashed(self, part: Part) -> str | None:
        """The function that all numbers of a part went through, "" for none, None where they differ or are unknown."""
        found = self.origin(part.output)
        if found is None:
            return None
        functions = {found.squashed[i] for i in np.unique(self.one(part, found.source)).tolist()}
        return functions.pop() if len(functions) == 1 else None

    def functions(self, part: Part) -> list[str | None]:
        """The function that each of a candidate's numbers went through, "" for none, "constant" for numbers that are,
        None where candidates differ; [] where that is unknown."""
        found = self.origin(part.output)
        if found is None:
            return []
        constant = [self.graph.constant(v) is not None for v in found.sources]
        names = np.array(["constant" if c else f for c, f in zip(constant, found.squashed, strict=True)], object)
        rows = self.one(part, found.source)
        if part.cell > 1:
            rows = rows.reshape(-1, rows.shape[1])
        return [next(iter(kinds)) if len(kinds := set(names[np.unique(row)])) == 1 else None for row in rows.T]

    def columns(self, part: Part) -> list[Value]:
        """The tensor that each of the first candidate's numbers was computed in; [] where that is unknown."""
        found = self.origin(part.output)
        return [] if found is None else [found.sources[i] for i in self.one(part, found.source)[0].tolist()]

    def sources(self, part: Part) -> list[tuple[int, Value]]:
        """(number of candidates, the tensor that their numbers were computed in), in the order of the candidates."""
        found = self.origin(part.output)
        if found is None:
            return []
        rows = self.one(part, found.source)[:, 0]
        return [(b - a, found.sources[int(rows[a])]) for a, b in runs(rows)]

    def computed_by(self, part: Part) -> set[str]:
        """The operators that the numbers of a part come from."""
        found = self.origin(part.output)
        if found is None:
            return set()
        used = np.unique(self.one(part, found.source)).tolist()
        nodes = [self.graph.producer(found.sources[i]) for i in used]
        return {node.op if node is not None else "" for node in nodes}

    def pointwise(self, part: Part) -> bool:
        """Whether all convolutions that the numbers of a part come from have kernels of size 1, as a head's do and
        those of feature maps mostly do not."""
        nodes = [self.graph.producer(value) for _, value in self.sources(part)]
        return all(set(node.attrs.get("kernel_shape", ())) <= {1} for node in nodes if node is not None)

    def grids(self, count: int, steps: Sequence[int], cell: int = 1) -> list[tuple[int, int]] | None:
        """The grids (rows, columns) of maps of these strides, if they have `count` candidates together."""
        height, width = self.size
        found = [(-(-height // s), -(-width // s)) for s in steps]
        return found if sum(h * w for h, w in found) * cell == count else None

    def with_layers(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        """The levels with the feature maps by which they are explained."""
        return tuple(replace(one, layer=self._layer(one), boxes=self._on_map(one.boxes, one.grid)) for one in levels)

    def _on_map(self, part: Part, grid: tuple[int, int]) -> Part:
        """The part with the grid of its output, where that is a map."""
        axes = [axis for axis in range(1, 4) if axis != part.axis]
        shape = self.shapes.get(part.output, ())
        mapped = len(shape) == 4 and part.axis in (1, 3) and tuple(shape[axis] for axis in axes) == grid
        return replace(part, grid=grid) if mapped else part

    def _layer(self, level: Level) -> str:
        """The map by which a level is explained: the last one of its own grid in which the scales of the pyramid come
        together on the way to boxes and scores; where none do, the last that both are computed from.

        The maps of a head, after that, show little but the middle of the box: see `benchmarks/detectors.py`.
        """
        return self.meeting(self.last_shared(level))

    def meeting(self, last: FeatureMap | None) -> str:
        """The last map of the size of `last` in which scales come together on the way to it; else `last`."""
        if last is None:
            return ""
        met = [m for m in meetings(self.graph, last) if m.size == last.size]
        return (met or [last])[-1].name

    def last_shared(self, level: Level) -> FeatureMap | None:
        """The last map of the level's own grid that scores and boxes are both computed from, and that neither is."""
        parts = [part for part in (level.scores, level.boxes, level.objectness) if part is not None]
        own = [found[0] for part in parts if (found := self.columns(part))]
        if not self.columns(level.scores):
            return None
        first = own[0]
        layout = layouts(self.graph).get(first.name)
        grid = level.grid if level.grid[0] else None
        if grid is None and layout is not None and layout.is_map:
            grid = tuple(layout.grid)  # type: ignore[assignment]
        common: set[str] = set.intersection(*(ancestors(self.graph, [v.name]) for v in own))
        return self.last_of(first, common - {v.name for v in own}, grid)

    def last_of(self, first: Value, among: set[str], grid: tuple[int | None, ...] | None) -> FeatureMap | None:
        """The last map of a grid before `first` that is `among` these tensors."""
        maps = [m for m in feature_maps(self.graph, first) if m.name in among and m.size == grid]
        return maps[-1] if maps else None


def runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """(first, one past the last) of every run of equal numbers."""
    return list(pairwise([0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)]))
