"""Units of one picture projected back to its pixels, with their receptive fields, as data and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analyzer.analysis import receptive_field
from analyzer.attribution.finite import say_not_finite
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.projection import Projector, Switches, read_switches
from analyzer.attribution.question import Inputs
from analyzer.attribution.units import WHOLE, clipped, parse_unit, rgb
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
        seen: the picture as the network sees it, (H, W, 3) uint8.
        diagnosis: where NaN or ∞ first appears; "" if all values are finite.
    """

    layer: str
    policy: str
    seen: np.ndarray
    units: tuple[UnitView, ...]
    diagnosis: str = ""

    @property
    def pixels(self) -> np.ndarray:
        """(units, H, W, C)"""
        return np.stack([unit.pixels for unit in self.units])

    def figure(self) -> np.ndarray:
        """One row per unit: the picture with its receptive field, the projection (signed, in colours), close-ups."""
        tiles, names = [], []
        for unit in self.units:
            x0, y0, x1, y1 = unit.field
            close = slice(y0, y1), slice(x0, x1)
            tiles += [
                draw_boxes(self.seen, [unit.field], [""]),
                signed_view(unit.pixels, "normalised"),
                signed_view(unit.pixels, "signed"),
                self.seen[close],
                signed_view(unit.pixels[close], "normalised"),
            ]
            name = f"channel {unit.channel}" + ("" if unit.position is None else f" at {unit.place}")
            names += [name, "projection", "signed sum", "close up", "projection, close up"]
        return grid(tiles, names, 5, f"{self.policy} of {self.layer}")


def view_units(
    model: Model,
    array: Inputs,
    preprocess: Preprocess | Feeding,
    layer: str = "auto",
    units: Sequence[str] = ("max",),
    policy: str = "deconvnet",
    switches: Switches | None = None,
) -> UnitViews:
    """Project each of `units` back to the picture from which `preprocess` made `array`.

    Args:
        units: as for `parse_unit`.
        switches: switches of another picture; None for this picture's own.

    Raises:
        InputError: not a unit. NotFoundError: no such unit. UnsupportedError: a gradient rule is missing.
    """
    feeds = model.feeds(array)
    projector = Projector(model, sizes_of(feeds), layer, policy, switches is not None)
    places = [parse_unit(projector.units, text) for text in units]
    fields = receptive_field(model.graph_of(feeds))
    preprocess = Feeding.of(preprocess, model.image).preprocess
    seen = preprocess.undo(feeds[model.image][0])
    size = (seen.shape[0], seen.shape[1])
    found, said = [], ""
    for channel, position in places:
        one = projector.run(feeds, channel, position, switches)
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
    """The switches from an .npz file, or of another picture."""
    if Path(source).suffix == ".npz":
        return Switches.load(source)
    return read_switches(model, Feeding.of(preprocess, model.image).feed(source).feeds, layer)
