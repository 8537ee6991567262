"""Banks of filters as pictures, as plain data, and what is remarkable in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.analysis.filters import FilterBank
from analyzer.errors import NotFoundError
from analyzer.images import colourise, signed_view
from analyzer.images.draw import PAPER, figure, number
from analyzer.images.mosaic import BEYOND, stacked, tile, tile_square
from analyzer.images.tiles import hatched
from analyzer.images.views import Panel, sheet

if TYPE_CHECKING:
    from analyzer.attribution import Explainer

PROJECTED = 9  # channels of a layer whose strongest activations are drawn


@dataclass(frozen=True)
class FilterDrawing:
    """Which filters of a bank are drawn, and how.

    Attributes:
        order: of the image's channels: RGB or BGR.
        chosen: by number; if empty, the first `most`, or with `strongest` those of the largest norm, in order.
        slices: input channels of each filter that are drawn at most.
    """

    order: str = "RGB"
    chosen: Sequence[int] = ()
    most: int = 256
    slices: int = 16
    strongest: bool = False

    def picks(self, bank: FilterBank) -> list[int]:
        """The filters that are drawn.

        Raises:
            NotFoundError: there is no such filter.
        """
        count = len(bank.weights)
        if self.chosen and max(self.chosen) >= count:
            raise NotFoundError(f"{bank.layer!r} has no filter {max(self.chosen)}", f"its filters are 0 to {count - 1}")
        order = np.argsort(-bank.norms, kind="stable") if self.strongest else np.arange(count)
        return list(self.chosen) or order[: self.most].tolist()

    def picture(self, bank: FilterBank, name: str = "") -> np.ndarray:
        """The kernels with their numbers and norms, dead ones hatched: (H, W, 3)."""
        picks = self.picks(bank)
        norms, dead = bank.norms, bank.dead
        panels = []
        for index in picks:
            drawn = self._kernel(bank, index)
            if dead[index]:
                drawn = hatched((drawn.shape[1], drawn.shape[0]))
            panels.append(Panel(drawn, f"{index} · {'dead' if dead[index] else number(float(norms[index]))}"))
        title = f"{name or bank.layer} — {'×'.join(map(str, bank.weights.shape))}"
        if len(picks) < len(bank.weights):
            title += f", {len(picks)} filters shown"
        if not self._in_colour(bank) and self.slices < bank.weights.shape[1]:
            title += f", {self.slices} slices of each"
        return sheet(panels, max(1, round(1.4 * len(panels) ** 0.5)), title)

    def _in_colour(self, bank: FilterBank) -> bool:
        return bank.reads_image and bank.weights.shape[1] == 3

    def _kernel(self, bank: FilterBank, index: int) -> np.ndarray:
        """One filter: in color where it reads an RGB image, else its slices in a square."""
        weights = bank.weights[index]
        side = weights.shape[1:]
        if self._in_colour(bank):
            kernel = weights.transpose(1, 2, 0)[..., :: -1 if self.order == "BGR" else 1]
            return tile(signed_view(kernel, "normalised"), max(64, 8 * max(side)))
        limit = float(abs(weights).max())
        tiles = [colourise(each, signed=True, vmax=limit) for each in weights[: self.slices]]
        columns = math.ceil(math.sqrt(len(tiles)))
        return tile_square(tiles, columns, max(64 // columns, 5 * max(side)), 2, BEYOND)


def architecture(
    models: Mapping[str, Sequence[FilterBank]],
    drawing: FilterDrawing,
    projections: Mapping[str, Sequence[np.ndarray | None]] | None = None,
) -> np.ndarray:
    """Filters of models side by side, as figure 6 of Zeiler & Fergus: a column per model, layer by layer.

    Args:
        projections: {model: of every layer, a figure of what its strongest channels respond to}.
    """
    columns = []
    for name, banks in models.items():
        parts = []
        for place, bank in enumerate(banks):
            kernels = drawing.picture(bank, f"{name}: {bank.layer}")
            parts += [kernels, _spectra(bank)]
            below = (projections or {}).get(name)
            if below is not None and (drawn := below[place]) is not None:
                parts.append(drawn)
        columns.append(stacked(parts))
    return stacked(columns, across=True)


def _spectra(bank: FilterBank) -> np.ndarray:
    """The mean spectrum with what the stride keeps, and the shares of the bands in words."""
    live = ~bank.dead
    if bank.is_pointwise or not live.any():
        return figure(np.full((1, 320, 3), PAPER, np.uint8), "1×1 kernels: their spectrum is flat")
    power = bank.power[live] / bank.power[live].sum(axis=(1, 2), keepdims=True)
    mean = np.fft.fftshift(power.mean(axis=0))
    drawn = tile(colourise(np.sqrt(mean), "magma"), 8 * len(mean))
    edges = [round(drawn.shape[i] * (0.5 - sign * 0.5 / bank.strides[i])) for i in (0, 1) for sign in (1, -1)]
    y0, y1, x0, x1 = (min(max(0, e), drawn.shape[i // 2] - 1) for i, e in enumerate(edges))
    for line in (np.s_[y0, x0:x1], np.s_[y1, x0:x1], np.s_[y0:y1, x0], np.s_[y0:y1, x1]):
        drawn[line] = (90, 220, 255)
    low, middle, high = bank.bands[live].mean(axis=0)
    words = f"low {low:.0%}, middle {middle:.0%}, high {high:.0%}; stride {max(bank.strides)} aliases "
    panel = Panel(drawn, "amplitude by frequency; frame: what the stride keeps")
    return sheet([panel], 1, f"{words}{bank.aliased[live].mean():.0%}")


def describe(bank: FilterBank) -> dict[str, Any]:
    """A bank as plain data."""
    live = ~bank.dead
    flat = bank.is_pointwise or not live.any()
    bands = None if flat else [round(float(b), 4) for b in bank.bands[live].mean(axis=0)]
    return {
        "layer": bank.layer,
        "node": bank.name,
        "shape": list(bank.weights.shape),
        "strides": list(bank.strides),
        "groups": bank.groups,
        "reads_image": bank.reads_image,
        "bands": bands,
        "folded": None if flat else round(float(bank.aliased[live].mean()), 4),
        "dead": bank.dead.nonzero()[0].tolist(),
        "duplicates": [{"filters": [i, j], "cosine": c} for i, j, c in bank.duplicates],
        "per_filter": {
            "norm": bank.norms.tolist(),
            "bands": bank.bands.tolist(),
            "folded": bank.aliased.tolist(),
        },
    }


def remarks(bank: FilterBank) -> list[str]:
    """What Zeiler & Fergus (2014, section 4.1) looked for in AlexNet's first layer, where it is there."""
    lines = []
    live = ~bank.dead
    if bank.dead.any():
        lines.append(f"{bank.layer}: dead filters {', '.join(map(str, bank.dead.nonzero()[0][:12]))}")
    if bank.duplicates:
        pairs = ", ".join(f"{i}≈{'−' if c < 0 else ''}{j}" for i, j, c in bank.duplicates[:8])
        lines.append(f"{bank.layer}: duplicate filters {pairs}{' …' if len(bank.duplicates) > 8 else ''}")
    if bank.is_pointwise or not live.any():
        return lines
    if bank.aliased[live].mean() > 0.5:
        share = f"{bank.aliased[live].mean():.0%}"
        lines.append(
            f"{bank.layer}: stride {max(bank.strides)} aliases {share} of the energy; a smaller stride may help"
        )
    if bank.reads_image and bank.bands[live].mean(axis=0)[1] < 0.15:
        lines.append(f"{bank.layer}: hardly any middle frequencies: a smaller kernel or stride may help")
    return lines


def projected(
    model: Explainer, banks: Sequence[FilterBank], pictures: Sequence[str], chosen: Sequence[int] = ()
) -> list[np.ndarray | None]:
    """Of every layer, the strongest activations of its channels that differ, projected to pixels: (H, W, 3) uint8 RGB.

    Args:
        pictures: files, folders, patterns and lists. chosen: channels, instead of those that differ.
    """
    from analyzer.attribution.cards import read_card
    from analyzer.data import find_pictures
    from analyzer.mining import mine
    from analyzer.mining.patches import collect_patches, distinct_channels

    card, samples = read_card(model, None, {}, ()), find_pictures(pictures)
    result = mine(model, samples, [bank.layer for bank in banks], card.feeds, 9)
    figures: list[np.ndarray | None] = []
    for bank in banks:
        channels = list(chosen) or distinct_channels(result, bank.layer, PROJECTED)
        (found,) = collect_patches(model, result, card.feeds, {bank.layer: channels}) if channels else (None,)
        figures.append(found.figure() if found is not None and found.channels else None)
    return figures
