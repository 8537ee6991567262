"""Units of one picture projected back to its pixels, with their receptive fields, as data and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analyzer.analysis import receptive_field
from analyzer.attribution.finite import say_not_finite
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.projection import Projector, Switches, mean_switches
from analyzer.attribution.question import Inputs
from analyzer.attribution.units import WHOLE, clipped, parse_unit, rgb
from analyzer.data import find_pictures
from analyzer.images import Feeding, Preprocess, draw_boxes, grid, signed_view


@dataclass(frozen=True)
class UnitView:
    """One unit: its position, its activation, the pixels it depends on, and its projection.

    Attributes:
        position: (y, x) in the layer; None for all positions of the channel.
        field: (x0, y0, x1, y1), the part of its receptive field inside the picture.
        pixels: the projection, (H, W, C) in RGB order.
    """

    channel: int
    position: tuple[int, ...] | None
    activation: float
    field: tuple[int, int, int, int]
    pixels: np.ndarray

    @property
    def place(self) -> str:
        return "all" if self.position is None else ", ".join(map(str, self.position))


@dataclass(frozen=True)
class UnitViews:
    """Units of `layer` on one picture.

    Attributes:
        seen: the picture as the network sees it, (H, W, 3) uint8; None without one.
        diagnosis: where NaN or ∞ first appears; "" if all values are finite.
    """

    layer: str
    policy: str
    seen: np.ndarray | None
    units: tuple[UnitView, ...]
    diagnosis: str = ""

    @property
    def pixels(self) -> np.ndarray:
        """(units, H, W, C)"""
        return np.stack([unit.pixels for unit in self.units])

    def figure(self) -> np.ndarray:
        """One row per unit: the picture with its receptive field, the projection (signed, in colours), close-ups."""
        tiles, names = list[np.ndarray](), list[str]()
        for unit in self.units:
            x0, y0, x1, y1 = unit.field
            close = slice(y0, y1), slice(x0, x1)
            name = f"channel {unit.channel}" + ("" if unit.position is None else f" at {unit.place}")
            drawn = {"projection": unit.pixels, "signed sum": unit.pixels, "projection, close up": unit.pixels[close]}
            views = {n: signed_view(p, "signed" if n == "signed sum" else "normalised") for n, p in drawn.items()}
            if self.seen is None:
                views = {name: views.pop("projection"), **views}
            else:
                close_up = {"close up": self.seen[close], "projection, close up": views.pop("projection, close up")}
                views = {name: draw_boxes(self.seen, [unit.field], [""]), **views, **close_up}
            tiles += views.values()
            names += views
        title = f"{self.policy} of {self.layer}" + ("" if self.seen is not None else ", without a picture")
        return grid(tiles, names, len(tiles) // len(self.units), title)


def view_units(
    model: Model,
    array: Inputs | None,
    preprocess: Preprocess | Feeding,
    layer: str = "auto",
    units: Sequence[str] = ("max",),
    policy: str = "deconvnet",
    switches: Switches | None = None,
) -> UnitViews:
    """Project each of `units` back to the picture from which `preprocess` made `array`.

    Args:
        array: None for no picture: see `Projector`.
        units: as for `parse_unit`.
        switches: switches of another picture; None for this picture's own.

    Raises:
        InputError: not a unit. NotFoundError: no such unit. UnsupportedError: a gradient rule is missing.
    """
    given = Feeding.of(preprocess, model.image)
    feeds = None if array is None else model.feeds(array)
    shapes = given.shapes(model.fixed_batch or 1, model) if feeds is None else sizes_of(feeds)
    projector = Projector(model, shapes, layer, policy, switches is not None, blind=feeds is None)
    places = [parse_unit(projector.units, text) for text in units]
    fields = receptive_field(model.graph(shapes))
    preprocess = given.preprocess
    seen = None if feeds is None else preprocess.undo(feeds[model.image][0])
    size = preprocess.size if seen is None else (seen.shape[0], seen.shape[1])
    assert size is not None
    found, said = [], ""
    for channel, position in places:
        one = projector.run(feeds or {}, channel, position, switches)
        if feeds is not None:
            said = said or say_not_finite(model, feeds, (one.pixels, one.activation), [projector.units.name])
        unit, at = int(one.channel[0]), int(one.position[0])
        whole = at == WHOLE
        window = tuple((0, s) for s in size) if whole else projector.units.window(fields, unit, at, size)
        (y0, y1), (x0, x1) = clipped(window, size)
        found.append(
            UnitView(
                unit,
                None if whole else projector.units.place(at),
                float(one.activation[0]),
                (x0, y0, x1, y1),
                rgb(one.pixels, one.axes, preprocess.channels)[0],
            )
        )
    return UnitViews(projector.units.name, policy, seen, tuple(found), said)


def switches_from(model: Model, preprocess: Preprocess | Feeding, source: str, layer: str) -> Switches:
    """The switches from an .npz file, or of another picture; of several, the mean ones."""
    if Path(source).suffix == ".npz":
        return Switches.load(source)
    feeding = Feeding.of(preprocess, model.image)
    return mean_switches(model, (feeding.feed(each.source).feeds for each in find_pictures([source])), layer)
