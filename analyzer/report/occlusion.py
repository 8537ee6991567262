"""Pictures under a moving square as a figure and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.attribution.occlusion import Occlusion
from analyzer.attribution.unit_views import UnitView
from analyzer.images import colourise, draw_boxes, fit, signed_view
from analyzer.images.colour import value_range
from analyzer.images.draw import PAPER, ColourBar, text_size
from analyzer.images.mosaic import tile_square
from analyzer.images.plot import COLOURS
from analyzer.images.text import INK, clean, draw_text, shorten, text_width
from analyzer.images.views import Panel, sheet
from analyzer.mining.patches import Patch

NAMED, OTHERS = 8, (205, 208, 211)  # labels of a legend, and the color of all others
SIDE = 336
NOTHING = "nothing detected"


def figure(
    found: Mapping[str, Occlusion],
    projected: Mapping[str, UnitView] | None = None,
    patches: Mapping[int, Sequence[Patch]] | None = None,
) -> np.ndarray:
    """A row per picture, as figure 7 of Zeiler & Fergus: the picture, the activation, the projection, both outputs.

    Args:
        projected: {picture: the feature map's strongest activation as pixels}.
        patches: {channel: its strongest activations over other pictures}, drawn beside the projection.
    """
    panels, across = list[Panel | None](), 0
    for name, one in found.items():
        row = [_picture(name, one), _activation(one)]
        if projected is not None:
            row.append(_projection(one, projected[name]))
        if patches is not None:
            row.append(_patches(one, patches.get(one.channel, ())))
        row += [_probability(one), _labels(one)]
        panels += row
        across = len(row)
    layers = ", ".join(dict.fromkeys(one.layer for one in found.values()))
    return sheet(panels, across, f"{layers} and the output while a gray square hides part of the picture")


def _picture(name: str, one: Occlusion) -> Panel:
    """The picture with the square where it lowers the probability most."""
    drawn = _enlarged(one.squares.cover(one.seen, one.worst, 127))
    title = f"{name}: {one.label} {one.whole_probability:.3g}, {one.probability[one.worst]:.3g} with this square"
    return Panel(drawn, title)


def _activation(one: Occlusion) -> Panel:
    title = f"total activation of channel {one.channel}, {one.whole_activation:.4g} without a square"
    return _map(one, one.activation, title, value_range(one.activation))


def _probability(one: Occlusion) -> Panel:
    return _map(one, one.probability, f"probability of {one.label}", (0.0, 1.0))


def _projection(one: Occlusion, unit: UnitView) -> Panel:
    drawn = draw_boxes(signed_view(unit.pixels, "normalised"), [unit.field], [""])
    return Panel(_enlarged(drawn), f"channel {one.channel}: projection of its strongest activation, at {unit.place}")


def _patches(one: Occlusion, patches: Sequence[Patch]) -> Panel:
    """Each projection beside the patch that it is of, two pairs in a row."""
    shown = patches[:8]
    tiles = [tile for p in shown for tile in (p.projection, p.pixels) if tile is not None]
    if not tiles:
        return Panel(np.full((SIDE, SIDE, 3), PAPER, np.uint8), f"channel {one.channel}: not active in other pictures")
    strongest = f"{shown[0].value:.3g} to {shown[-1].value:.3g}"
    title = f"channel {one.channel}: strongest activations in other pictures, {strongest}"
    return Panel(tile_square(tiles, 4, SIDE // 4 - 2), title)


def _map(one: Occlusion, values: np.ndarray, title: str, limits: tuple[float, float]) -> Panel:
    return Panel(_cells(one, colourise(values, "turbo", *limits)), title, ColourBar("turbo", *limits))


def _labels(one: Occlusion) -> Panel:
    """Places by their most probable label, and which color is which."""
    shares = one.shares
    named = list(shares)[:NAMED]
    colours = np.array([COLOURS[named.index(n)] if n in named else OTHERS for n in one.names], np.uint8)
    return Panel(_beside_legend(_cells(one, colours[one.top]), named, shares), "most probable label")


def _beside_legend(picture: np.ndarray, named: Sequence[str], shares: Mapping[str, float]) -> np.ndarray:
    size = text_size(picture)
    line, longest = round(1.6 * size), 11 * size
    rows = [(COLOURS[at], name or NOTHING, shares[name]) for at, name in enumerate(named)]
    if len(shares) > len(named):
        rows.append((OTHERS, f"{len(shares) - len(named)} others", 1 - sum(shares[n] for n in named)))
    words = [f"{shorten(clean(name), longest, size)} {_percent(share)}" for _, name, share in rows]
    width = round(2.4 * size) + max(text_width(word, size) for word in words)
    canvas = np.full((max(picture.shape[0], line * len(rows)), picture.shape[1] + width, 3), PAPER, np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    left = picture.shape[1] + size
    for at, ((colour, _, _), word) in enumerate(zip(rows, words, strict=True)):
        top = at * line
        canvas[top : top + size, left : left + size] = colour
        draw_text(canvas, word, left + round(1.4 * size), top + round(0.88 * size), size, INK)
    return canvas


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _cells(one: Occlusion, colours: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) over the picture, each cell at the center of its square."""
    shown = _enlarged(one.seen).shape
    rows, columns = (np.arange(n) * s // n // one.squares.stride for n, s in zip(shown, one.squares.size, strict=False))
    return np.ascontiguousarray(colours[rows][:, columns])


def _enlarged(picture: np.ndarray) -> np.ndarray:
    return fit(picture, SIDE, SIDE)


def as_data(name: str, one: Occlusion) -> dict[str, Any]:
    """A picture as plain data; places are centers of the square in the network's pixels."""
    rows, columns = one.squares.window(one.worst)
    return {
        "picture": name,
        "target": one.target,
        "label": one.label,
        "probability": one.whole_probability,
        "lowest_probability": float(one.probability[one.worst]),
        "lowest_at": [columns.start, rows.start, columns.stop, rows.stop],
        "layer": one.layer,
        "channel": one.channel,
        "activation": one.whole_activation,
        "lowest_activation": value_range(one.activation)[0],
        "side": one.squares.side,
        "stride": one.squares.stride,
        "labels": {name or NOTHING: share for name, share in one.shares.items()},
        "maps": {
            "activation": one.activation.tolist(),
            "probability": one.probability.tolist(),
            "label": [[one.names[i] for i in line] for line in one.top.tolist()],
        },
        "diagnosis": one.diagnosis or None,
    }
