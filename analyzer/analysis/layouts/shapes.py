"""Where the trail of the axes is lost, shapes pick it up: by the batch, the grids and the tokens seen so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from analyzer.analysis.interpreter import Site
from analyzer.analysis.layouts.layout import Layout
from analyzer.graph import Graph, Value
from analyzer.graph.nodes import Shape
from analyzer.graph.query import descendants


@dataclass
class Seen:
    """What is known of the model so far.

    Attributes:
        image: the input of `graph` that layouts start from; the size of its first axis is the batch.
        grids: the sizes of maps of two axes, both above 1, in the order in which they came.
        tokens: the layout of tokens of which some are outside the grid, by their number.
        sizes: the sizes in space of whatever has a layout.
    """

    graph: Graph
    image: Value
    grids: list[tuple[int, int]] = field(default_factory=list)
    tokens: dict[int, Layout] = field(default_factory=dict)
    sizes: set[tuple[int | None, ...]] = field(default_factory=set)

    @cached_property
    def batch(self) -> int | str | None:
        return (self.image.shape or [None])[0]

    @cached_property
    def reach(self) -> set[str]:
        """The tensors that depend on the image."""
        return descendants(self.graph, [self.image.name], self.graph.forward_nodes())

    def add(self, layout: Layout) -> None:
        """Remembers a layout."""
        self.sizes.add(layout.grid)
        grid: Any = layout.grid
        if len(grid) != 2 or not all(isinstance(s, int) and s > 1 for s in grid):
            return
        if grid not in self.grids:
            self.grids.append(grid)
        if layout.prefix or layout.suffix:
            self.tokens[layout.count] = replace(layout, axes="NLC")

    def by_shape(self, shape: Shape) -> Layout | None:
        """(N, L, C) or (N, h, w, C) whose space is a grid seen before, or a half of it (patch merging)."""
        if len(shape) > 2 and isinstance(shape[0], int) and isinstance(self.batch, int) and shape[0] != self.batch:
            return None  # windows, or heads, along the first axis
        candidates = [*self.grids, *((-(-h // 2), -(-w // 2)) for h, w in self.grids)]
        if len(shape) == 3 and isinstance(shape[1], int) and isinstance(shape[2], int):
            for grid in reversed(candidates):
                if shape[1] == math.prod(grid) and shape[1] > 1:
                    return Layout("NLC", grid)
            if shape[1] in self.tokens:
                return self.tokens[shape[1]]
            for grid in reversed(self.grids[-4:]):
                extra = shape[1] - math.prod(grid)
                if 0 < extra <= 8 and math.prod(grid) > 8:
                    return Layout("NLC", grid, extra)
        if len(shape) == 4 and all(isinstance(d, int) for d in shape[1:]):
            for grid in reversed(candidates):
                if tuple(shape[1:3]) == grid:
                    return Layout("NHWC", grid)
                if tuple(shape[2:]) == grid:
                    return Layout("NCHW", grid)
        return None

    def regained(self, op: Site) -> Layout | None:
        """Tokens after attention heads or a merged batch: a Reshape to (N, L, C) whose L tokens are a grid seen.

        L was an axis of what is reshaped: tokens put together from several axes may have another order.
        """
        shape = op.out()
        if op.node.op != "Reshape" or shape is None or len(shape) != 3:
            return None
        if shape[0] != self.batch or shape[1] not in (op.shape() or []) or op.output.name not in self.reach:
            return None
        layout = self.by_shape(shape)
        return layout if layout is not None and layout.grid in self.grids else None
