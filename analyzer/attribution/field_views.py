"""Receptive fields as figures: measured ones by layer, and theoretical ones on a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveField, ReceptiveFields
from analyzer.analysis.effective_field import FRACTIONS, EffectiveField
from analyzer.attribution.model import Model
from analyzer.attribution.units import Units
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Graph
from analyzer.images import ColourBar, Feeding, encode, grid, write_png
from analyzer.images.fields import BRIGHT, count_tile, ending, field_tile, stacked, unit_tile
from analyzer.images.plot import Chart, plot

BLANK = 244  # of the picture that is drawn on if there is none

# ---- Effective fields ----


@dataclass(frozen=True, repr=False, eq=False)
class EffectiveFields(Mapping[str, EffectiveField]):
    """{layer: its effective receptive field}, in the order of the graph. In a notebook they show themselves."""

    fields: Mapping[str, EffectiveField]

    def __getitem__(self, layer: str) -> EffectiveField:
        return self.fields[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        pictures = max((f.pictures for f in self.values()), default=0)
        layers = f"{len(self)} layer{'s' * (len(self) != 1)}"
        return f"<effective fields of {layers} over {pictures} picture{'s' * (pictures != 1)}>"

    def figure(self, colormap: str = "inferno") -> np.ndarray:
        """A tile per layer, and sizes, ratios and shares over the depth as curves: (H, W, 3) uint8 RGB.

        Raises:
            InputError: there is no layer.
        """
        if not self.fields:
            raise InputError("there is no effective field to draw")
        tiles = []
        for field in self.values():
            known = field.map.ndim > 1
            center, sigma = (tuple(v)[-2:] if known else (math.nan,) * 2 for v in (field.center, field.sigma))
            tiles.append(field_tile(_flat(field.map), center, sigma, _caption(field), colormap))
        first = next(iter(self.values()))
        title = (
            f"Effective receptive fields: mean {first.measure} gradient, {first.pictures} "
            f"picture{'s' * (first.pictures != 1)} (white: theoretical, blue: 2σ, gray: no picture)"
        )
        bar = ColourBar(colormap, 0, 1, {0.0: "0", 1.0: f"p{BRIGHT:g}"})
        top = grid(tiles, [ending(name) for name in self], min(4, len(tiles)), title, bar)
        return top if len(self) < 2 else stacked([top, curves(list(self.values()))])

    def save(self, path: str | os.PathLike[str], colormap: str = "inferno") -> None:
        """Write the figure (.png, .jpg or .webp)."""
        write_png(path, self.figure(colormap))

    def _repr_png_(self) -> bytes | None:
        return encode(self.figure()) if self.fields else None


def _caption(field: EffectiveField) -> str:
    if field.empty:
        return f"{times(field.window)} px, no gradient"
    whole = " (whole picture)" if set(field.size) == {None} else ""
    return f"{times(field.window)} px{whole}, 4σ = {times(field.effective_size)}, {field.ratio:.0%}"


def curves(found: Sequence[EffectiveField]) -> np.ndarray:
    """Theoretical and effective size, their ratio, and shares inside fractions of the window, layer by layer."""
    at = list(range(1, len(found) + 1))

    def mean(values: Sequence[float]) -> float:
        return math.prod(values) ** (1 / len(values))

    sizes = {
        "theoretical": (at, [mean(f.window) for f in found]),
        "effective, 4σ": (at, [mean(f.effective_size) for f in found]),
    }
    shares = {f"inside {fraction:g} of the sides": (at, [f.inside(fraction) for f in found]) for fraction in FRACTIONS}
    label = "layer, in order of depth"
    return plot(
        [
            Chart("Growth over depth", label, "pixels", sizes, low=0),
            Chart("Effective / theoretical", label, "ratio", {"ratio": (at, [f.ratio for f in found])}, low=0),
            Chart("Share inside the window's middle", label, "share", shares, low=0, high=1),
        ],
        3,
    )


def _flat(values: np.ndarray) -> np.ndarray:
    """The map in two axes: of a volume the sum over its depth, of a line a band."""
    while values.ndim > 2:
        values = np.nansum(values, axis=0)
    return values if values.ndim == 2 else np.repeat(values[None], max(1, len(values) // 8), axis=0)


def times(values: Sequence[float]) -> str:
    """31×29; a single number where all are the same."""
    texts = [f"{v:.3g}" if v < 100 else f"{v:.0f}" for v in values]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)


# ---- Theoretical fields ----


def picture_of(
    model: Model, graph: Graph, fields: ReceptiveFields, feeding: Feeding | None, source: Any
) -> tuple[tuple[int, int], np.ndarray | None]:
    """((height, width) of the input, the picture as the network sees it; None without a source)

    Raises:
        UnsupportedError: the input is no picture. InputError: its size is open.
    """
    if feeding is not None and source is not None:
        seen = feeding.preprocess.undo(model.feeds(feeding.feed(source).feeds)[model.image][0])
        return (seen.shape[0], seen.shape[1]), seen
    return size_of(graph, fields), None


def size_of(graph: Graph, fields: ReceptiveFields) -> tuple[int, int]:
    """(height, width) of the tensor that the fields are counted in.

    Raises:
        As `picture_of`.
    """
    shape = graph[fields.input].shape or ()
    sizes = [shape[axis] for axis in fields.input_axes]
    if len(sizes) != 2:
        raise UnsupportedError(f"{graph.name}: fields are drawn on pictures, and {fields.input!r} is not a picture")
    height, width = sizes
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(
            f"the size of {fields.input!r} is not fixed", "add a picture, or fix it with --shape 1x3x224x224"
        )
    return height, width


def draw_fields(
    layers: Mapping[str, Units],
    fields: Mapping[str, ReceptiveField],
    size: tuple[int, int],
    picture: np.ndarray | None = None,
    at: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Two tiles per layer: a unit's field on the picture with its neighbors' and the grid of centers; how many units
    see each pixel.

    Args:
        layers: units of each layer.
        size: (height, width) of the picture.
        picture: as the network sees it, (H, W, 3) uint8; blank if None.
        at: position (y, x) of the unit; the middle one if None.
    """
    shown = np.full((*size, 3), BLANK, np.uint8) if picture is None else picture
    tiles, names = [], []
    for name, units in layers.items():
        place = units.place(units.position(at)) if at is not None else tuple(g // 2 for g in units.grid)
        field, spans = fields.get(name), units.spans(fields, size)
        position = units.position(place)
        window = units.window(fields, 0, position, size)
        neighbors = [
            units.window(fields, 0, units.position((*place[:a], place[a] + 1, *place[a + 1 :])), size)
            for a, count in enumerate(units.grid)
            if place[a] + 1 < count
        ]
        centers = _centers(spans, size)
        counts = _counts(spans, size) if len(spans) == 2 else np.full(size, float(units.positions))
        where = ", ".join(map(str, place)) or "all"
        sees = "whole picture" if field is None or field.is_global else f"{times([b - a for a, b in window])} px"
        tiles.append(unit_tile(shown, _two(window), [_two(n) for n in neighbors], centers, f"unit {where}: {sees}"))
        most = f"a pixel is seen by up to {counts.max():.0f} of {units.positions}"
        overlap = overlaps(field)
        tiles.append(count_tile(counts, most + (f", overlap {overlap:.0%}" if overlap is not None else "")))
        names += [ending(name), f"units that see a pixel, {units.grid_text}"]
    columns = 2 if len(layers) <= 3 else 4
    bar = ColourBar("viridis", 0, 1, {0.0: "0", 1.0: "most"})
    return grid(tiles, names, columns, "Receptive fields: unit blue, its neighbors yellow, centers red", bar)


def overlaps(field: ReceptiveField | None) -> float | None:
    """Share of a field that the next unit sees too, along the axis where it is least: 1 − stride / size."""
    if field is None or not field.size or not field.stride or None in field.size or None in field.stride:
        return None
    pairs = zip(field.size, field.stride, strict=True)
    return min(max(0.0, 1 - abs(float(s)) / r) for r, s in pairs if r and s is not None)


def _centers(
    spans: tuple[list[tuple[int, int]], ...], size: tuple[int, int]
) -> tuple[Sequence[float], Sequence[float]]:
    """Rows and columns of the centers; none where units see the whole picture."""
    if len(spans) != 2:
        return (), ()
    rows, columns = (
        [] if len(line) > 1 and set(line) == {(0, extent)} else [(a + b - 1) / 2 for a, b in line]
        for line, extent in zip(spans, size, strict=True)
    )
    return rows, columns


def _counts(spans: tuple[list[tuple[int, int]], ...], size: tuple[int, int]) -> np.ndarray:
    """(H, W): how many units see each pixel."""
    lines = []
    for line, extent in zip(spans, size, strict=True):
        steps = np.zeros(extent + 1)
        for low, high in line:
            steps[min(max(low, 0), extent)] += 1
            steps[min(max(high, 0), extent)] -= 1
        lines.append(np.cumsum(steps)[:-1])
    return np.multiply.outer(*lines)


def _two(window: Sequence[tuple[int, int]]) -> tuple[tuple[float, float], tuple[float, float]]:
    rows, columns = window
    return rows, columns
