"""Where the units of a layer look: one line of centers per image axis, `center(i) = first + i · step`.

Coordinates are continuous: pixel i spans [i, i + 1), its center is i + ½. There are three placements of a layer's map:

- half-pixel: the units divide the image evenly, as cv2.resize and ONNX Resize place them;
- theoretical: at the middles of their receptive fields (Araujo, Norris and Sim 2019);
- effective: with the stride of the receptive fields, at their middles if units look there, else evenly in the image.
  Where units look is the centroid of their squared input gradients (Luo et al. 2016, 1701.04128), for noise.

Padding on one side moves the middles by up to half a stride from evenly spaced units, and training moves what units
look at back, by a different distance for every unit (docs/localization.md). So theoretical centers are used only if
the measured centroids agree with them sharply, which they do where weights are symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from analyzer.analysis.effective_field import moments
from analyzer.analysis.feature_maps import FeatureMap
from analyzer.analysis.receptive_field import receptive_field
from analyzer.attribution.layers import drawn_by_pixel, float_image
from analyzer.attribution.lines import Centers, Located, Placed
from analyzer.attribution.model import Model
from analyzer.attribution.unit_gradient import UnitGradient
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import fillings, image_input, image_layout

RUNS = 10
_FIRST = 4  # runs, after which a measurement that scatters too much ends
_SCATTER = 0.25  # strides, the standard deviation of one run
_NEAR, _SHARP = 1 / 16, 1 / 32  # strides: the measured center's distance from the theoretical one, its standard error
_WIDTHS = 2.0  # standard deviations of a unit's field that have to lie inside the image
_SMALL = 0.5  # pixels


def located(model: Model, feature: FeatureMap, placement: Placed = "effective") -> Located:
    """Where the units of a layer lie in the image; by half-pixel centers if the others cannot be determined.

    If the file leaves sizes open, they are measured at a plausible size, so that `explain` and `export` agree.
    """
    if placement == "half-pixel" or len(feature.layout.spatial) != 2 or "L" in feature.layout.axes:
        return Located()
    if isinstance(placement, Centers):
        return Located(placement)
    key = ("centers", feature.name, placement, model.chosen)

    def made() -> Located:
        kept = (*key, sorted(map(repr, model.environment.items())))
        known = model.cache.noted(kept) if model.cache else None
        if known is not None:
            return Located(Centers(tuple(known[0]), tuple(known[1])) if known else None)
        try:
            found = _found(model, feature, placement)
        except AnalyzerError as error:
            why = f"the {placement} centers of its units could not be determined: {error.message}"
            return Located(doubt=f"the map of {feature.name} is placed by half-pixel centers, because {why}")
        if model.cache:
            model.cache.note(kept, [] if found is None else [list(found.first), list(found.step)])
        return Located(found)

    return model.remembered(key, made)


def _found(model: Model, feature: FeatureMap, placement: str) -> Centers | None:
    """None for half-pixel centers.

    Raises:
        AnalyzerError: the others cannot be determined; of several plausible sizes, at the likeliest.
    """
    failed = list[AnalyzerError]()
    for sizes in fillings(model.plain) or [{}]:
        try:
            lines = Lines.of(model.graph(sizes), feature)
            if lines is None:
                continue
            if lines.theory is None or _same(lines.half, lines.theory, lines.grid):
                return None
            if placement == "theoretical":
                return lines.theory
            found = _effective(Probe(model, model.graph(sizes), feature), lines)
            return None if _same(lines.half, found, lines.grid) else found
        except AnalyzerError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return None


@dataclass(frozen=True)
class Lines:
    """The lines that a layer's units may lie on, for an image of one size.

    Attributes:
        size, grid: (height, width) of the image in pixels, and of the layer in units.
        half: evenly spaced units.
        theory: the middles of the receptive fields; None where they are on no line, or everything is seen.
    """

    size: tuple[int, ...]
    grid: tuple[int, ...]
    half: Centers
    theory: Centers | None

    @classmethod
    def of(cls, graph: Graph, feature: FeatureMap) -> Lines | None:
        """None where a size is open, or the image has no height and width."""
        size, grid = _image_size(graph), _grid(graph, feature)
        if size is None or grid is None:
            return None
        step = tuple(s / g for s, g in zip(size, grid, strict=True))
        half = Centers(tuple(s / 2 for s in step), step)
        return cls(size, grid, half, _theoretical(graph, feature))


def _grid(graph: Graph, feature: FeatureMap) -> tuple[int, ...] | None:
    shape = graph[feature.name].shape
    return None if shape is None else fixed_sizes([shape[a] for a in feature.layout.spatial])


def _same(a: Centers, b: Centers, grid: tuple[int, ...]) -> bool:
    """Whether no unit differs by more than half a pixel."""
    return all(np.abs(a.at(axis, n) - b.at(axis, n)).max() <= _SMALL for axis, n in enumerate(grid))


def _image_size(graph: Graph) -> tuple[int, ...] | None:
    image, axes = float_image(graph)
    if not {"H", "W"} <= set(axes) or "D" in axes:
        return None
    shape = image.shape or ()
    return fixed_sizes([shape[axes.index("H")], shape[axes.index("W")]])


def _theoretical(graph: Graph, feature: FeatureMap) -> Centers | None:
    """The middles of the receptive fields; None where they are on no line, or everything is seen."""
    fields = receptive_field(graph)
    if feature.name not in fields or len(fields.input_axes) != 2:
        return None
    field = fields[feature.name].local
    if field.axes != feature.layout.spatial or not (field.size and field.stride and field.padding):
        return None
    lines = list(zip(field.size, field.stride, field.padding, strict=True))
    if any(r is None or s is None or p is None or s <= 0 for r, s, p in lines):
        return None
    first = tuple(float((r or 0) / 2 - float(p or 0)) for r, _, p in lines)
    return Centers(first, tuple(float(s or 0) for _, s, _ in lines))


class Probe:
    """Where the units of a layer look, for noise: one gradient run per unit."""

    def __init__(self, model: Model, graph: Graph, feature: FeatureMap) -> None:
        self.inputs = {v.name: (fixed_sizes(v.shape or ()), v.dtype) for v in graph.inputs}
        if any(shape is None for shape, _ in self.inputs.values()):
            raise UnsupportedError(f"a size of an input of {graph.name} is open")
        self.image, self.layout = str(image_input(graph).name), image_layout(graph, image_input(graph))
        self.gradient = UnitGradient(model, graph, feature.name, threads=1)  # beside the sessions that explain
        self.random = np.random.default_rng(0)

    def measure(self, place: tuple[int, ...]) -> np.ndarray | None:
        """((center, standard deviation) per axis) of the squared gradient of the unit at `place`; None where it is 0.

        Channels have random signs.
        """
        units = self.gradient.units
        signs = self.random.choice([-1, 1], units.channels)
        energy = np.square(self.gradient.run(self._noise(), units.position(place), signs)).sum(axis=0)
        if not np.isfinite(energy).all() or energy.sum() <= 0:
            return None
        lines = [moments(energy.sum(axis=1)), moments(energy.sum(axis=0))]
        return np.array([(middle + 0.5, deviation) for middle, deviation in lines])

    def _noise(self) -> dict[str, np.ndarray]:
        """Noise for the image, ones for all other inputs."""
        feeds = {name: np.ones(shape or (), dtype) for name, (shape, dtype) in self.inputs.items()}
        shape, dtype = self.inputs[self.image]
        draw: Any = partial(self.random.integers, 0, 128 if dtype == np.int8 else 256)
        draw = draw if dtype.kind in "ui" else self.random.standard_normal
        feeds[self.image] = drawn_by_pixel(draw, shape or (), self.layout).astype(dtype)
        return feeds


def _effective(probe: Probe, lines: Lines) -> Centers:
    """A line with the theoretical stride, at theoretical centers if the measured ones agree with them; else as evenly
    spaced units in the middle.

    Raises:
        UnsupportedError: nothing reaches the image.
    """
    theory = lines.theory
    assert theory is not None
    off = offsets(probe, lines)
    even = even_offsets(lines)
    if even[0] == even[1]:  # both axes are padded in the same way: one question, with twice the evidence
        off = off[0] + off[1], off[0] + off[1]
    shift = [0.0 if _agrees(np.array(off[a])) else even[a] * theory.step[a] for a in (0, 1)]
    return Centers(tuple(f + s for f, s in zip(theory.first, shift, strict=True)), theory.step)


def even_offsets(lines: Lines) -> list[float]:
    """How far evenly spaced centers are from the theoretical ones on average, in strides, per axis."""
    theory = lines.theory
    assert theory is not None
    return [(lines.size[a] / 2 - float(theory.at(a, lines.grid[a]).mean())) / theory.step[a] for a in (0, 1)]


def offsets(probe: Probe, lines: Lines, runs: int = RUNS, first: int = _FIRST) -> tuple[list[float], list[float]]:
    """How far measured centers are from the theoretical ones, in strides: those of each axis.

    Units whose field the border cuts do not count; the first two runs, of units in the middle, show how wide it is.

    Args:
        runs: how many units are measured at most.
        first: after as many, a measurement that scatters too much ends.

    Raises:
        UnsupportedError: nothing reaches the image.
    """
    theory, grid = lines.theory, lines.grid
    assert theory is not None
    tried = [(place, probe.measure(place)) for place in [tuple((n - side) // 2 for n in grid) for side in (0, 1)]]
    wide = [found[:, 1] for _, found in tried if found is not None]
    if not wide:
        raise UnsupportedError("for noise, the gradients of its units are 0 or not finite")
    deviation = np.mean(wide, axis=0)
    choices = [_uncut(lines, theory, axis, float(deviation[axis])) for axis in (0, 1)]
    off: tuple[list[float], list[float]] = [], []

    def add(place: tuple[int, ...], found: np.ndarray | None) -> None:
        for axis in (0, 1):
            if found is not None and place[axis] in choices[axis]:
                expected = theory.at(axis, grid[axis])[place[axis]]
                off[axis].append((float(found[axis, 0]) - float(expected)) / theory.step[axis])

    for place, found in tried:
        add(place, found)
    for run in range(len(tried), runs):
        if run == first and max(float(np.std(o)) if o else 0.0 for o in off) > _SCATTER:
            break
        place = tuple(int(probe.random.choice(c)) for c in choices)
        add(place, probe.measure(place))
    return off


def _agrees(off: np.ndarray) -> bool:
    """Whether the measurement is sharp, and near 0."""
    if len(off) < 3:
        return False
    error = float(off.std(ddof=1)) / len(off) ** 0.5
    return abs(float(off.mean())) <= _NEAR and error <= _SHARP


def _uncut(lines: Lines, theory: Centers, axis: int, deviation: float) -> list[int]:
    """Units whose field lies inside the image, wherever its center may be; those in the middle where there are none."""
    count, reach = lines.grid[axis], _WIDTHS * deviation
    low = np.minimum(lines.half.at(axis, count), theory.at(axis, count)) - reach
    high = np.maximum(lines.half.at(axis, count), theory.at(axis, count)) + reach
    inside = np.flatnonzero((low >= 0) & (high <= lines.size[axis])).tolist()
    return inside or sorted({(count - 1) // 2, count // 2})
