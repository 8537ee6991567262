"""The feature maps of a model, and the default layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from analyzer.analysis.attention import attentions
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import holds_floats
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph, Node, Value
from analyzer.graph.nodes import known_shape, reads
from analyzer.graph.query import SIZES_ONLY, ancestors, descendants, image_input, image_layout
from analyzer.graph.schemas import lookup
from analyzer.graph.through import readers


@dataclass(frozen=True)
class FeatureMap:
    """A tensor with channels over space."""

    value: Value
    layout: Layout
    node: Node | None

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Sizes in space, (h, w) for tokens."""
        return self.layout.grid

    @property
    def channels(self) -> int | None:
        size = known_shape(self.value)[self.layout.channel]
        return size if isinstance(size, int) else None


def feature_maps(graph: Graph, target: Value | None = None) -> list[FeatureMap]:
    """Every tensor between the image and `target` (the outputs when None) that has channels over space, in order."""
    found = layouts(graph)
    image = image_input(graph)
    reach = descendants(graph, [image.name], graph.forward_nodes())
    needed = ancestors(graph, [target.name] if target is not None else [o.name for o in graph.outputs])
    maps = []
    for node in graph.forward_nodes():
        for output in node.outputs:
            layout = found.get(output.name)
            if layout is None or not layout.is_map or output.name not in reach or output.name not in needed:
                continue
            if all(size == 1 for size in layout.grid) or not holds_floats(output):
                continue
            if layout.axes[0] != "N" and "N" in layout.axes:
                continue
            maps.append(FeatureMap(output, layout, node))
    return maps


def map_of_open_sizes(graph: Graph, known: FeatureMap) -> FeatureMap:
    """The feature map of a graph with open sizes that `known` is where they are fixed.

    Raises:
        UnsupportedError: it is a grid of tokens whose height and width are open.
    """
    value, layout = graph[known.name], known.layout
    own = layouts(graph).get(value.name)
    if own is not None and own.is_map and own.axes == layout.axes:
        layout = own
    elif any(not isinstance(d, int) for i in graph.inputs for d in (i.shape or [None])[1:]):
        if "L" in layout.axes or value.shape is None:
            raise UnsupportedError(f"{known.name!r} is a token grid whose height and width are not fixed")
        layout = Layout.of(layout.axes, value.shape)
    return FeatureMap(value, layout, graph.producer(value))


def meetings(graph: Graph, last: FeatureMap) -> list[FeatureMap]:
    """The maps before `last` in which branches of several scales come together, in order: all that `last` depends on
    goes through them, and some of it through a map larger than one that it was computed from.

    Residual connections are none: their branches never grow.
    """
    image = image_input(graph).name
    needed = ancestors(graph, [last.name]) & descendants(graph, [image], graph.forward_nodes())
    maps = {m.name: m for m in feature_maps(graph, last.value)}
    areas = {name: _area(one) for name, one in maps.items()}
    steps = [(n, [i for i in reads(n) if i in needed]) for n in graph.forward_nodes() if n.op not in SIZES_ONLY]
    steps = [(n, read) for n, read in steps if read and any(o.name in needed for o in n.outputs)]
    readers_left = Counter(name for _, read in steps for name in read)
    smallest, grown, found = {image: math.inf}, False, list[FeatureMap]()
    for node, read in steps:
        least = min(smallest[name] for name in read)
        readers_left.subtract(read)
        for name in read:
            if not readers_left[name]:
                del smallest[name]
        for name in (o.name for o in node.outputs if o.name in needed):
            grown |= areas.get(name, 0) > least
            smallest[name] = min(least, areas.get(name, math.inf))
        if len(smallest) == 1 and name in maps:  # all that is needed later is computed from this one
            if grown:
                found.append(maps[name])
            smallest[name], grown = areas[name], False
    return found


# ---- The default layer ----

_CONVOLUTIONS = ("Conv", "ConvInteger")


def _unknown_operators(graph: Graph) -> list[str]:
    """Operators that no schema describes, with the first node of each."""
    found: dict[str, str] = {}
    for node in graph.forward_nodes():
        domain = node.domain or ""
        if lookup(node.op, graph.versions.get(domain, 1), domain) is None:
            found.setdefault(f"{domain}::{node.op}" if domain else node.op, node.name)
    return [f"{op} (node {name!r})" for op, name in found.items()]


def default_layer(graph: Graph, target: Value, read: Collection[str] = ()) -> FeatureMap:
    """The feature map to explain `target` by if the user chooses none.

    The last one that all later feature maps depend on: the map before the pooling of a CNN, the last map of the
    backbone of a detector. Where a transformer reads its answer from a class token, the other tokens after the last
    attention have no influence, so the map that the last attention reads is taken. Where the target is a map itself
    (a segmenter), the last one of the coarsest maps that a convolution reads.

    Args:
        read: tensors that the target is made of; none of them is chosen where there is another map.

    Raises:
        UnsupportedError: the target depends on no feature map.
    """
    maps = feature_maps(graph, target)
    itself = any(m.name == target.name for m in maps)
    maps = [m for m in maps if m.name not in read] or maps
    axes = sum(a in "DHW" for a in image_layout(graph, image_input(graph)) or "")
    maps = [m for m in maps if len(m.size) == axes] or maps  # what a recurrent layer reads has lost the height
    if not maps and (strange := _unknown_operators(graph)):
        raise UnsupportedError(
            f"{graph.name}: no feature map found between the input and {target.name!r}: "
            f"unknown operators: {', '.join(strange)}",
            "name a layer after these nodes with --layer",
        )
    if not maps:
        raise UnsupportedError(
            f"{graph.name}: no feature map between the input and {target.name!r}",
            "name a layer with --layer (see `inspect`), or use a gradient method such as `gradient`",
        )
    if itself:
        convolved = [m for m in maps if any(n.op in _CONVOLUTIONS for n in readers(m.value))] or maps
        coarsest = min(_area(m) for m in convolved)
        return next(m for m in reversed(convolved) if _area(m) == coarsest)
    chosen = common_map(graph, maps)
    if chosen.layout.prefix or chosen.layout.suffix:
        return _before_last_attention(graph, maps, target) or chosen
    return chosen


def _area(known: FeatureMap) -> float:
    """Positions of a map; ∞ where that is open."""
    return math.prod(math.inf if size is None else size for size in known.size)


def common_map(graph: Graph, maps: list[FeatureMap]) -> FeatureMap:
    """The last map on which every map at the end of a branch depends."""
    by_name = {m.name: m for m in maps}
    needed = set(by_name)
    leaves: dict[str, int] = {}
    count = 0
    for node in reversed(graph.forward_nodes()):
        seen = 0
        for output in node.outputs:
            if output.name in needed and not leaves.get(output.name):
                leaves[output.name] = 1 << count
                count += 1
            seen |= leaves.get(output.name, 0)
        if seen and node.op not in SIZES_ONLY:
            for name in reads(node):
                leaves[name] = leaves.get(name, 0) | seen
    everything = (1 << count) - 1
    return next((m for m in reversed(maps) if leaves[m.name] == everything), maps[-1])


def _before_last_attention(graph: Graph, maps: list[FeatureMap], target: Value) -> FeatureMap | None:
    """The last token map that queries, keys and values of the last attention are all computed from."""
    needed = ancestors(graph, [target.name])
    reach = descendants(graph, [image_input(graph).name], graph.forward_nodes())
    for attention in reversed(list(attentions(graph, reach, needed))):
        common = set.intersection(*(ancestors(graph, [v.name]) for v in attention.operands))
        found = [m for m in maps if m.name in common and "L" in m.layout.axes]
        if found:
            # As wide as the tokens themselves: not queries, keys and values side by side.
            alike = [m for m in maps if m.layout == found[-1].layout and m.channels != 1]
            ((width, _),) = Counter(m.channels for m in alike).most_common(1) or [(None, 0)]
            return next((m for m in reversed(found) if m.channels == width), found[-1])
    return None
