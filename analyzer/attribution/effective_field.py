"""Effective receptive fields measured: mean gradient maps of units, by layer, over positions and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveFields, receptive_field
from analyzer.analysis.effective_field import MEASURES, FieldSum, Measure
from analyzer.analysis.feature_maps import feature_maps
from analyzer.analysis.receptive_field import changes
from analyzer.attribution.field_views import EffectiveFields
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.question import Inputs
from analyzer.attribution.unit_gradient import UnitGradient
from analyzer.attribution.units import Units
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import find_tensors

LAYERS = 12  # as many are measured if none are named
POSITIONS = 4  # of each layer in each picture


def effective_field(
    model: Any,
    inputs: Inputs,
    layers: str | Sequence[str] | None = None,
    *,
    positions: int = POSITIONS,
    measure: Measure = "squared",
    seed: int = 0,
    provider: str = "cpu",
    progress: Callable[[], None] | None = None,
    **session_options: Any,
) -> EffectiveFields:
    """The effective receptive field of layers over a batch of pictures: E |∂A_p/∂x|² around each unit p.

    Args:
        model: path, bytes or ModelProto; or a `Model`.
        inputs: the preprocessed array, (N, …) in the model's own layout, or {input: array}.
        layers: tensor names, node names or globs; up to 12 feature maps, evenly over the depth, unless given.
        positions: units per layer and picture, drawn at random from those whose theoretical field lies inside the
            picture; where it does inside none, those nearest to the middle.
        measure: "squared", of which one gradient is an unbiased estimate over all channels of a unit (their signs are
            drawn at random); or "absolute", of one channel drawn at random.
        seed: of what is drawn.
        progress: called after each layer of each picture.

    Returns:
        {layer: its effective field} in the order of the graph, with `.figure()` and `.save(path)`.

    Raises:
        NotFoundError: no such layer. UnsupportedError: a layer has no channels over space, or no gradient.
    """
    loaded = model if isinstance(model, Model) else Model(model, provider, **session_options)
    feeds = loaded.feeds(inputs)
    count = len(feeds[loaded.image])
    single = [loaded.batch([loaded.rows(feeds, [row])]) for row in range(count)]
    meter = FieldMeter(loaded, sizes_of(single[0]), layers, positions, measure)
    sums: dict[str, FieldSum] = {}
    for row, one in enumerate(single):
        for name, found in meter.measure(one, (seed, row)):
            sums[name] = sums[name] + found if name in sums else found
            if progress:
                progress()
    return EffectiveFields({name: total.field(name, measure) for name, total in sums.items()})


def measured_layers(graph: Graph, layers: str | Sequence[str] | None = None) -> list[str]:
    """The tensors that `effective_field` measures, in the order of the graph.

    Raises:
        NotFoundError: no such layer. UnsupportedError: a layer, named without a glob, has no channels over space;
            or there is none.
    """
    fields = receptive_field(graph)
    if layers is None:
        maps = [m.name for m in feature_maps(graph) if m.name in fields]
        names = [n for n in changes(fields, maps) if set(fields[n].size or ()) != {1}]  # not the picture itself
        if not names:
            raise UnsupportedError(f"{graph.name}: no feature map depends on the picture", "name a layer with --layer")
        at = np.unique(np.linspace(0, len(names) - 1, LAYERS).round().astype(int))
        return [names[i] for i in at]
    chosen: dict[str, None] = {}
    for layer in [layers] if isinstance(layers, str) else layers:
        values, found = find_tensors(graph, layer), []
        for value in values:
            try:
                found.append(Units.of(graph, value.name).name)
            except UnsupportedError:
                if len(values) == 1:
                    raise
        if not found:
            raise UnsupportedError(f"none of the {len(values)} tensors {layer!r} has channels over space")
        chosen |= dict.fromkeys(found)
    order = {name: at for at, name in enumerate(fields)}
    return sorted(chosen, key=lambda name: order.get(name, len(order)))


class FieldMeter:
    """Measures the fields of layers, for inputs of one shape, with one session per layer.

    Args:
        model: the model.
        shapes: {input: sizes} of one picture, or of the batch that the file fixes.
        layers, positions, measure: as for `effective_field`.
        at: the position (y, x) of the only unit; drawn if None.

    Attributes:
        layers: names of the tensors.
        stopped: set to True, it ends what other threads measure, with KeyboardInterrupt.

    Raises:
        As `measured_layers`. NotFoundError: no such position. InputError: an unknown measure.
    """

    def __init__(
        self,
        model: Model,
        shapes: Mapping[str, tuple[int, ...]],
        layers: str | Sequence[str] | None = None,
        positions: int = POSITIONS,
        measure: Measure = "squared",
        at: tuple[int, ...] | None = None,
    ) -> None:
        if measure not in MEASURES:
            raise InputError(f"no measure {measure!r}", f"choose {' or '.join(MEASURES)}")
        if positions < 1:
            raise InputError(f"positions must be at least 1, not {positions}")
        self.model, self.shapes, self.positions, self.how = model, dict(shapes), positions, measure
        graph = model.graph(shapes)
        self.layers, self.stopped = measured_layers(graph, layers), False
        fields = receptive_field(graph)
        sizes = fixed_sizes(graph[fields.input].shape)
        assert sizes is not None  # that is how it was made
        picture = tuple(sizes[axis] for axis in fields.input_axes)
        self._places = {n: _Places(Units.of(graph, n), fields, picture, at) for n in self.layers}

    def measure(self, feeds: Mapping[str, np.ndarray], seed: Sequence[int]) -> Iterator[tuple[str, FieldSum]]:
        """(layer, gradients of its units in one picture), layer by layer.

        Args:
            feeds: of the shapes that were given; of a batch, its first picture counts.
            seed: of the positions and channels; for one layer the same whatever the others are.
        """
        for name in self.layers:
            rng = np.random.default_rng(list(seed))
            yield name, self._measured(self._places[name], self._gradient(name), feeds, rng)

    def prepare(self) -> None:
        """Makes the sessions of all layers.

        Raises:
            UnsupportedError: a layer has no gradient.
        """
        for name in self.layers:
            self._gradient(name)

    def _gradient(self, name: str) -> UnitGradient:
        key = "field", name, tuple(sorted(self.shapes.items()))
        return self.model.kept(key, lambda: UnitGradient(self.model, self.model.graph(self.shapes), name))

    def _measured(
        self, places: _Places, unit: UnitGradient, feeds: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> FieldSum:
        total = FieldSum.zeros(places.window, places.size)
        for position in places.drawn(self.positions, rng):
            if self.stopped:
                raise KeyboardInterrupt
            gradient = unit.run(feeds, position, self._channels(places.units.channels, rng))
            mass = (np.abs(gradient) if self.how == "absolute" else gradient**2).sum(axis=0)
            total.add(mass, places.start(position))
        return total

    def _channels(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """What flows back from the channels of a unit: random signs s, for which E (sᵀJ)² = Σ J², or one of them."""
        if self.how == "squared":
            return rng.choice((-1.0, 1.0), count) / np.sqrt(count)
        return (np.arange(count) == rng.integers(count)).astype(np.float64)


class _Places:
    """Where the units of a layer look, and which of them are measured."""

    def __init__(
        self, units: Units, fields: ReceptiveFields, picture: tuple[int, ...], at: tuple[int, ...] | None = None
    ) -> None:
        self.units, self.picture, self._fields = units, picture, fields
        field = fields.get(units.name)
        self._near = {units.name: field.local} if field is not None else {}
        self.size: tuple[int | None, ...] = (field.size if field is not None else None) or (None,) * len(picture)
        self.window = tuple(extent if n is None else n for n, extent in zip(self.size, picture, strict=True))
        self._given = None if at is None else units.position(at)
        self._order: tuple[np.ndarray, int] | None = None

    def start(self, position: int) -> tuple[int, ...]:
        """The first pixel of the window of a unit, along each axis; it may be outside the picture."""
        found = self.units.window(self._fields, 0, position, self.picture)
        middles = self._middles(position)
        starts = []
        for axis, n in enumerate(self.window):
            if self.size[axis] is None:
                starts.append(round(middles[axis] - (n - 1) / 2))
            else:
                low, high = found[axis]
                starts.append(low - (n - (high - low)) // 2)
        return tuple(starts)

    def _middles(self, position: int) -> tuple[float, ...]:
        """The pixel that a unit is taken to look at along an axis that is seen as a whole: the center of its field
        without what is pooled over the picture, else its place in the grid, else the middle."""
        units, extents = self.units, self.picture
        local, place = units.window(self._near, 0, position, extents), units.place(position)
        found = []
        for axis, extent in enumerate(extents):
            if local[axis] != (0, extent):
                found.append((local[axis][0] + local[axis][1] - 1) / 2)
            elif len(place) == len(extents):
                found.append((place[axis] + 0.5) * extent / units.grid[axis] - 0.5)
            else:
                found.append((extent - 1) / 2)
        return tuple(found)

    def drawn(self, count: int, rng: np.random.Generator) -> list[int]:
        """Positions to measure in one picture."""
        if self._given is not None:
            return [self._given]
        order, whole = self._ranked()
        if whole > count:
            return [int(p) for p in rng.choice(order[:whole], count, replace=False)]
        return [int(p) for p in order[:count]]

    def _ranked(self) -> tuple[np.ndarray, int]:
        """(positions, those first that see the most of their window; how many see all of it)"""
        if self._order is None:
            grid = self.units.grid
            missing = np.zeros(grid)
            if len(grid) == len(self.picture):
                middle = tuple(g // 2 for g in grid)
                for axis, count in enumerate(grid):
                    places = [(*middle[:axis], i, *middle[axis + 1 :]) for i in range(count)]
                    line = np.array([self._missing(self.units.position(p))[axis] for p in places])
                    missing += line.reshape([-1 if a == axis else 1 for a in range(len(grid))])
            else:
                for position in range(self.units.positions):
                    missing.flat[position] = sum(self._missing(position))
            away = np.zeros(grid)  # from the middle
            for index, g in zip(np.indices(grid), grid, strict=True):
                away += np.abs(index - (g - 1) / 2) / g
            order = np.lexsort((away.ravel(), missing.ravel()))
            self._order = order, int((missing == 0).sum())
        return self._order

    def _missing(self, position: int) -> list[int]:
        """Pixels of the window outside the picture, along each axis."""
        starts = self.start(position)
        ends = zip(starts, self.window, self.picture, strict=True)
        return [max(0, -low) + max(0, low + n - extent) for low, n, extent in ends]
