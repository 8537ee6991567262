"""The layers that the explorer shows, and how they hang together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveField, receptive_field
from analyzer.analysis.attention import attentions
from analyzer.analysis.feature_maps import feature_maps
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import holds_floats
from analyzer.attribution.layers import channels_first
from analyzer.attribution.units import Units
from analyzer.errors import AnalyzerError, NotFoundError
from analyzer.graph import Graph
from analyzer.graph.nodes import fixed_sizes, reads
from analyzer.graph.query import descendants, image_input

# Their output holds what their input holds, so that it would be shown twice.
SAME = frozenset({
    "Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose",
    "Unsqueeze", "Pad", "Slice", "Split",
})  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A tensor with channels, over space or without.

    Attributes:
        op: the operator that computes it.
        channels: how many units' worth of channels. grid: (h, w), () for a vector.
        layout: of its axes.
        parents: numbers of the layers that it is computed from, without others between.
        size, stride: of the receptive field, (height, width), None where it is the whole picture.
        heads: whether it is the attention of a transformer: its channels are heads, its maps what a token attends to.
        query: that token, a place of the grid; -1 for the class token, without a class token the mean over all tokens.
    """

    name: str
    op: str
    channels: int
    grid: tuple[int, ...]
    layout: Layout
    parents: tuple[int, ...]
    size: tuple[int | None, ...] | None
    stride: tuple[float, ...] | None
    heads: bool = False
    query: int = -1

    @property
    def numbers(self) -> int:
        """Activations of one picture."""
        return self.channels * int(np.prod(self.grid, dtype=np.int64))

    def maps(self, array: np.ndarray) -> np.ndarray:
        """(channels, h, w) float32 of one picture; (channels, 1, 1) of a vector."""
        if self.heads:
            weights = array.reshape(-1, *array.shape[-2:])[: self.channels]
            if self.query >= 0:
                rows = weights[:, self.layout.prefix + self.query]
            else:
                rows = weights[:, 0] if self.layout.prefix else weights.mean(1)
            array = rows[:, self.layout.tokens]
            return np.asarray(array, np.float32).reshape(self.channels, *self.grid)
        if self.grid:
            array = channels_first(array, self.layout)[0]
        return np.asarray(array, np.float32).reshape(self.channels, *(self.grid or (1, 1)))

    def of_query(self, query: int) -> Layer:
        """The same with what another token attends to; without heads, or for -1, as it is.

        Raises:
            NotFoundError: the grid has no such place.
        """
        if not self.heads or query < 0:
            return self
        if query >= (count := int(np.prod(self.grid))):
            raise NotFoundError(f"{self.name} has no token {query}", f"its grid has {count}")
        return replace(self, query=query)

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "op": self.op,
            "channels": self.channels,
            "grid": list(self.grid),
            "parents": list(self.parents),
            "heads": self.heads,
            "prefix": self.layout.prefix,
            "field": {"size": self.size, "stride": self.stride},
        }


def find_layers(graph: Graph, also: Sequence[str] = ()) -> list[Layer]:
    """Every layer of a graph with fixed sizes, in the order of its nodes.

    Args:
        also: names of tensors that are layers even if they hold what another one holds.
    """
    found = layouts(graph)
    maps = {m.name: m for m in feature_maps(graph) if len(m.size) == 2}
    reach = descendants(graph, [image_input(graph).name], graph.forward_nodes())
    heads = _heads(graph, reach)
    fields = receptive_field(graph)
    layers: list[Layer] = []
    nearest: dict[str, tuple[int, ...]] = {}  # of every tensor: the layers that it is computed from
    for node in graph.forward_nodes():
        above = tuple(dict.fromkeys(number for name in reads(node) for number in nearest.get(name, ())))
        for output in node.outputs:
            nearest[output.name] = above
            if (node.op in SAME and output.name not in also) or output.name not in reach:
                continue
            if output.name in heads:
                count, layout = heads[output.name]
                places = tuple(fixed_sizes(layout.grid) or ())
                layers.append(Layer(output.name, node.op, count, places, layout, above, None, None, True))
                nearest[output.name] = (len(layers) - 1,)
                continue
            one = maps.get(output.name)
            sizes = fixed_sizes(output.shape or [None])
            if one is not None and one.channels and (grid := fixed_sizes(one.size)):
                layout, channels, places = one.layout, one.channels, grid
            elif sizes is not None and len(sizes) == 2 and sizes[1] > 1 and holds_floats(output):
                layout, channels, places = Layout("NC"), sizes[1], ()
            else:
                continue
            about = found.get(output.name)
            if about is not None and about.axes[:1] != "N":
                continue
            size, stride = _field(fields, output.name)
            layers.append(Layer(output.name, node.op, channels, places, layout, above, size, stride))
            nearest[output.name] = (len(layers) - 1,)
    return layers


def _heads(graph: Graph, reach: Collection[str]) -> dict[str, tuple[int, Layout]]:
    """{attention over the tokens of a grid: (heads, layout of the tokens)}"""
    tokens: dict[int | str | None, Layout] = {}  # by their number
    for layout in layouts(graph).values():
        if "L" in layout.axes and len(layout.grid) == 2 and fixed_sizes(layout.grid):
            tokens.setdefault(layout.count, layout)
    found = {}
    for attention in attentions(graph, reach, reach):
        sizes = fixed_sizes(attention.weights.shape or [None])
        if sizes and sizes[-1] == sizes[-2] and sizes[-1] in tokens:
            found[attention.weights.name] = int(np.prod(sizes[:-2])), tokens[sizes[-1]]
    return found


def chosen(layers: Sequence[Layer], names: Collection[str]) -> list[Layer]:
    """Those of the names, with new numbers in `parents`."""
    nearest: list[tuple[int, ...]] = []
    found: list[Layer] = []
    for layer in layers:
        above = tuple(dict.fromkeys(n for parent in layer.parents for n in nearest[parent]))
        if layer.name in names:
            nearest.append((len(found),))
            found.append(replace(layer, parents=above))
        else:
            nearest.append(above)
    return found


def stages(layers: Sequence[Layer]) -> set[str]:
    """The last layer of each size: an overview of a network."""
    return set({layer.grid: layer.name for layer in layers}.values())


def _field(
    fields: Mapping[str, ReceptiveField], name: str
) -> tuple[tuple[int | None, ...] | None, tuple[float, ...] | None]:
    field = fields.get(name)
    if field is None or field.is_global or field.stride is None or None in field.stride:
        return (field.size if field is not None else None), None
    return field.size, tuple(float(s) for s in field.stride if s is not None)


def spans(graph: Graph, layer: Layer, size: tuple[int, int]) -> list[list[list[int]]]:
    """[rows, columns]: per place of the layer's grid the [start, stop] of pixels that a unit there depends on.

    Args:
        size: (height, width) of the picture as the network sees it.
    """
    whole: list[list[list[int]]] = [[[0, s]] * g for s, g in zip(size, layer.grid or (1, 1), strict=True)]
    if not layer.grid or layer.heads:
        return whole
    try:
        found = Units.of(graph, layer.name).spans(receptive_field(graph), size)
    except AnalyzerError:
        return whole
    return [[[int(a), int(b)] for a, b in axis] for axis in found]


def ranked(maps: np.ndarray) -> list[int]:
    """Channels, the one with the highest activation first."""
    peaks = np.nan_to_num(maps.reshape(len(maps), -1).max(1), nan=-np.inf)
    return [int(i) for i in np.argsort(-peaks, kind="stable")]
