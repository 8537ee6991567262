"""How a map is drawn, by what its numbers mean.

- overlay: heat over the picture, the more opaque the hotter: for class maps (CAM, Grad-CAM, RISE).
- map: the numbers by themselves; of pixels, the largest magnitude of their channels, dark on white.
- signed: blue below zero, white at it, red above, on one scale for both: for what speaks for and against. Coarse maps
  lie over the picture, those of pixels beside it.
- rgb: the channels of a pixel as colors around mid-gray (Zeiler & Fergus 2014, Springenberg et al. 2014).
- contour: lines at a quarter, a half and three quarters of the highest value, over the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import opencv
from analyzer.images.colour import colourise, is_diverging
from analyzer.images.draw import (
    FULL,
    PAPER,
    RULE,
    ColourBar,
    Found,
    around_gray,
    beside_bar,
    figure,
    fit,
    grey,
    limit_of,
    text_size,
    with_found,
)
from analyzer.images.fill import gaussian_blur
from analyzer.images.text import INK, clean, draw_text, wrap

VIEWS = ("overlay", "map", "signed", "rgb", "contour")
RANGES = ("own", "shared")
LEVELS = (0.25, 0.5, 0.75)
WIDTH, NARROWEST = 1600, 160
UNSEEN = (214, 217, 220)


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn.

    Attributes:
        view: one of `VIEWS`; "" for that of the method.
        percentile: of a map's magnitudes, the one that is drawn in full color; None for 100, of pixels 99.5.
        range: own: every map from its own lowest to its own highest value; shared: maps of one method on one scale.
        colormap: a sequential one for overlay, map and contour, a diverging one for signed; "" for the view's.
        alpha: opacity of the hottest place of an overlay.
    """

    view: str = ""
    percentile: float | None = None
    range: str = "own"
    colormap: str = ""
    alpha: float = 0.6

    def __post_init__(self) -> None:
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise InputError(f"a percentile must be above 0 and at most 100, not {self.percentile:g}")
        for name, given, known in (("view", self.view, ("", *VIEWS)), ("range", self.range, RANGES)):
            if given not in known:
                raise InputError(f"no {name} {given!r}", f"choose {', '.join(k for k in known if k)}")


@dataclass(frozen=True)
class Map:
    """A map over a picture, in the numbers of its method.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        values: (h, w) over the whole picture; NaN where the network saw nothing. Of pixels, the largest magnitude of
            their channels.
        channels: (h, w, C) signed numbers of the pixels, in RGB order; None where there is one number per place.
        fine: whether every pixel has numbers of its own, as gradients have; else the map is coarse or smooth.
        views: how its method is drawn: the first in grids, all of them beside the picture.
        from_zero: whether the scale starts at 0, no evidence; else at the lowest value.
        title: of what, by which method.
        group: maps of one group have one scale where that is shared.
        found: what is drawn under the heat, in the picture's coordinates.
    """

    image: np.ndarray
    values: np.ndarray
    channels: np.ndarray | None = None
    fine: bool = False
    views: Sequence[str] = ("overlay",)
    from_zero: bool = True
    title: str = ""
    group: str = ""
    found: Sequence[Found] = ()

    @property
    def signed(self) -> np.ndarray:
        """(h, w): what speaks for, and against."""
        return self.values if self.channels is None else self.channels.sum(axis=2)


@dataclass(frozen=True)
class Panel:
    """A picture under its title, with its color bar at the right."""

    picture: np.ndarray
    title: str = ""
    bar: ColourBar | None = None


Limits = tuple[float, float]


def limits(given: Map, view: str, drawing: Drawing) -> Limits:
    """The values of the first and the last color."""
    share = drawing.percentile if drawing.percentile is not None else FULL if given.fine else 100.0
    if view in ("signed", "rgb"):
        numbers = given.signed if view == "signed" or given.channels is None else given.channels
        high = limit_of(np.abs(numbers), share)
        return -high, high
    high = limit_of(given.values, share)
    finite = given.values[np.isfinite(given.values)]
    low = 0.0 if given.from_zero or not finite.size else float(finite.min())
    return low, max(low, high)


def smoothed(given: Map, view: str) -> Map:
    """Contours of pixels are of their neighborhood: lines around single pixels show nothing."""
    if view != "contour" or not given.fine:
        return given
    empty = np.isnan(given.values)
    spread = gaussian_blur(np.where(empty, 0, given.values)[..., None], max(given.values.shape) / 60)[..., 0]
    return replace(given, values=np.where(empty, np.nan, spread))


def panel(given: Map, drawing: Drawing, side: tuple[int, int], view: str = "", scale: Limits | None = None) -> Panel:
    """One map, drawn with its long side within `side`.

    Args:
        view: the one that is asked for, else the method's first, unless given.

    Raises:
        InputError: a view that its method has no numbers for.
    """
    view = view or drawing.view or given.views[0]
    if view == "rgb" and given.channels is None:
        raise InputError(
            f"{given.group or 'the method'} has one number per position, which the rgb view cannot draw",
            "choose overlay, map, signed or contour",
        )
    given = smoothed(given, view)
    scale = scale or limits(given, view, drawing)
    picture, bar = _DRAWN[view](given, drawing, fit(given.image, *side), scale)
    return Panel(picture, given.title, bar)


def _overlay(given: Map, drawing: Drawing, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, ColourBar]:
    name = _sequential(drawing, "turbo")
    unit, unseen = _unit(given.values, shown, scale)
    below = _below(given, shown, unseen)
    opacity = (drawing.alpha * np.sqrt(unit))[..., None]
    drawn = below + opacity * (colourise(unit, name, 0, 1) - below)
    return np.rint(drawn).astype(np.uint8), ColourBar(name, *scale)


def _contour(given: Map, drawing: Drawing, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, ColourBar]:
    name = _sequential(drawing, "turbo")
    cv2 = opencv()
    unit, unseen = _unit(given.values, shown, scale)
    canvas = np.ascontiguousarray(np.rint(_below(given, shown, unseen)).astype(np.uint8))
    width = max(2, round(max(shown.shape[:2]) / 220))
    colours = colourise(np.array([LEVELS]), name, 0, 1)[0].tolist()
    for level, colour in zip(LEVELS, colours, strict=True):
        inside = np.pad((unit >= level).astype(np.uint8), 1)  # lines close along the picture's edge
        lines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for each, thick in (((20, 20, 20), width + 2), (colour, width)):
            cv2.drawContours(canvas, lines, -1, each, thick, cv2.LINE_AA, offset=(-1, -1))
    return canvas, ColourBar(name, *scale)


def _map(given: Map, drawing: Drawing, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, ColourBar]:
    name = _sequential(drawing, "gray_r" if given.fine else "turbo")
    return _plain(given.values, shown, name, scale), ColourBar(name, *scale)


def _signed(given: Map, drawing: Drawing, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, ColourBar]:
    name = drawing.colormap if drawing.colormap and is_diverging(drawing.colormap) else "blue-red"
    bar = ColourBar(name, *scale)
    if given.fine:
        return _plain(given.signed, shown, name, scale), bar
    unit, unseen = _unit(np.abs(given.values), shown, (0.0, scale[1]))
    below = _below(given, shown, unseen) * 0.5 + 127.5
    opacity = (0.85 * np.sqrt(unit))[..., None]
    colours = colourise(_laid(given.values, shown), name, *scale)
    return np.rint(below + opacity * (colours - below)).astype(np.uint8), bar


def _rgb(given: Map, drawing: Drawing, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, ColourBar]:
    assert given.channels is not None
    numbers = given.channels if given.channels.shape[2] in (1, 3) else given.channels.mean(axis=2, keepdims=True)
    laid = _laid(numbers, shown)
    drawn = around_gray(laid, scale[1])
    drawn[np.isnan(laid).any(axis=2)] = UNSEEN
    return drawn, ColourBar("gray", *scale)


_DRAWN = {"overlay": _overlay, "map": _map, "signed": _signed, "rgb": _rgb, "contour": _contour}


def _sequential(drawing: Drawing, usual: str) -> str:
    return drawing.colormap if drawing.colormap and not is_diverging(drawing.colormap) else usual


def _plain(values: np.ndarray, shown: np.ndarray, name: str, scale: Limits) -> np.ndarray:
    laid = _laid(values, shown)
    drawn = colourise(laid, name, *scale, signed=is_diverging(name))
    drawn[np.isnan(laid)] = UNSEEN
    return drawn


def _unit(values: np.ndarray, shown: np.ndarray, scale: Limits) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) from 0 to 1 between the limits, and where the network saw nothing."""
    laid, (low, high) = _laid(values, shown), scale
    unseen = np.isnan(laid)
    if high <= low:
        return np.zeros(laid.shape, np.float32), unseen
    return np.clip((np.where(unseen, low, laid) - low) / (high - low), 0, 1), unseen


def _below(given: Map, shown: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """The picture that heat lies over: its colors subdued, what the network did not see pale and gray."""
    plain = grey(shown)
    below = np.float32(0.6) * plain + np.float32(0.4) * shown.astype(np.float32)
    if unseen.any():
        below = np.where(unseen[..., None], 0.35 * plain + 0.65 * np.array(UNSEEN, np.float32), below)
    if given.found:
        factor = shown.shape[1] / given.image.shape[1], shown.shape[0] / given.image.shape[0]
        below = with_found(np.rint(below).astype(np.uint8), given.found, factor)
    return below.astype(np.float32)


def _laid(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """`values` at the size of the picture that is shown; enlarged pixels stay square as the picture's do."""
    height, width = shown.shape[:2]
    values = np.asarray(values, np.float32)
    if values.shape[:2] == (height, width):
        return values
    cv2, rows, columns = opencv(), *values.shape[:2]
    if height % rows == 0 and width % columns == 0 and height // rows >= 4:
        return values.repeat(height // rows, axis=0).repeat(width // columns, axis=1)
    how = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    unseen = np.isnan(values)
    smooth = cv2.resize(np.where(unseen, 0, values), (width, height), interpolation=how)
    smooth = smooth.reshape(height, width, *values.shape[2:])
    if unseen.any():
        mask = cv2.resize(unseen.astype(np.float32), (width, height), interpolation=how)
        smooth[mask.reshape(smooth.shape) > 0.5] = np.nan
    return smooth


# ---- Figures ----

_CAPTIONS = {"rgb": "channels as colors", "map": "magnitude", "signed": "sum of the channels"}  # beside the picture


def one(given: Map, drawing: Drawing, side: tuple[int, int], bare: bool = False) -> np.ndarray:
    """A map as a figure: over its picture, or beside it where it is drawn by itself.

    Args:
        side: shortest and longest long side of the picture.
        bare: neither title nor color bar, nor what stands beside.
    """
    views = [drawing.view] if drawing.view else list(given.views)
    if not bare and not over_picture(given, views[0]):
        side = side[0], max(side[0], min(side[1], WIDTH // (1 + len(views))))
    drawn = [panel(given, drawing, side, view) for view in (views[:1] if bare else views)]
    if bare:
        return drawn[0].picture
    if over_picture(given, views[0]):
        return figure(drawn[0].picture, given.title, drawn[0].bar)
    captions = _CAPTIONS if given.fine else {}
    named = [replace(each, title=captions.get(view, "")) for each, view in zip(drawn, views, strict=True)]
    return sheet([seen(given, side), *named], 1 + len(named), given.title)


def seen(given: Map, side: tuple[int, int], title: str = "picture") -> Panel:
    """The picture by itself, what the network did not see pale and gray."""
    shown = fit(given.image, *side)
    unseen = np.isnan(_laid(given.values, shown))
    if unseen.any():
        pale = 0.35 * grey(shown) + 0.65 * np.array(UNSEEN)
        shown = np.rint(np.where(unseen[..., None], pale, shown)).astype(np.uint8)
    if given.found:
        factor = shown.shape[1] / given.image.shape[1], shown.shape[0] / given.image.shape[0]
        shown = with_found(shown, given.found, factor)
    return Panel(shown, title)


def over_picture(given: Map, view: str) -> bool:
    """Whether the view lies over the picture, so that the picture need not stand beside."""
    return view in ("overlay", "contour") or (view == "signed" and not given.fine)


def several(
    maps: Sequence[Map],
    drawing: Drawing,
    columns: int = 0,
    before: Sequence[Panel] = (),
    title: str = "",
    side: tuple[int, int] | None = None,
) -> np.ndarray:
    """Maps as a grid, the picture first.

    Args:
        side: shortest and longest long side of the pictures; None for what suits the number of columns.
        columns: maps per row, the panels before in front of the first row; 0 for as near to a rectangle as looks well.
        before: further panels after the picture, such as a mask.
    """
    lead = 1 + len(before)
    wide = len(maps) and np.median([m.image.shape[1] / m.image.shape[0] for m in maps]) > 2.5
    across = lead + columns if columns else fitting(lead + len(maps), 2 if wide else 5)
    side = side or cell(across)
    scales = _scales(maps, drawing)
    drawn = [
        panel(each, drawing, side, view, scale)
        for each, (view, scale) in zip(maps, scales, strict=True)
    ]  # fmt: skip
    first = [seen(maps[0], side), *(replace(p, picture=fit(p.picture, *side)) for p in before)]
    if not columns:
        return sheet([*first, *drawn], across, title)
    rows = list[Panel | None]()
    for at in range(0, len(drawn), columns):
        rows += [*(first if at == 0 else [None] * lead), *drawn[at : at + columns]]
    return sheet(rows, across, title)


def _scales(maps: Sequence[Map], drawing: Drawing) -> list[tuple[str, Limits]]:
    """The view and the limits of each; one for all maps of a group where the range is shared."""
    found = []
    for each in maps:
        view = drawing.view or each.views[0]
        found.append((view, limits(smoothed(each, view), view, drawing)))
    if drawing.range == "own":
        return found
    groups: dict[tuple[str, str], list[Limits]] = {}
    for each, (view, scale) in zip(maps, found, strict=True):
        groups.setdefault((each.group, view), []).append(scale)
    shared = {key: (min(a for a, _ in all_), max(b for _, b in all_)) for key, all_ in groups.items()}
    return [(view, shared[each.group, view]) for each, (view, _) in zip(maps, found, strict=True)]


def fitting(count: int, most: int = 5) -> int:
    """Columns of a grid: wider than high, at most `most` up to 20 panels, and the last row as full as it gets."""
    if count <= min(4, most):
        return count
    start = min(most, math.ceil(math.sqrt(count)))
    stop = max(start, min(count, max(most, math.ceil(math.sqrt(1.5 * count)))))
    if most < 3:
        return start
    return min(range(start, stop + 1), key=lambda columns: (-count % columns / columns, columns))


def cell(columns: int) -> tuple[int, int]:
    """Shortest and longest long side of the pictures in a grid of so many columns."""
    side = int(np.clip(WIDTH // max(1, columns) - 60, NARROWEST, 448))
    return side, side


def sheet(panels: Sequence[Panel | None], columns: int, title: str = "", bar: ColourBar | None = None) -> np.ndarray:
    """Panels in rows of `columns`, each under its title, on white: (H, W, 3) uint8 RGB.

    Args:
        panels: None leaves a place empty.
        bar: the scale that all of them share, drawn at the right.
    """
    present = [p for p in panels if p is not None]
    if not present:
        raise InputError("a grid needs at least one picture")
    columns = min(columns, len(panels))
    size = min(text_size(p.picture) for p in present)
    drawn = [None if p is None else beside_bar(_outlined(p.picture), p.bar, size) for p in panels]
    widths = [max((d.shape[1] for d in drawn[at::columns] if d is not None), default=0) for at in range(columns)]
    words = [
        [] if p is None else wrap(clean(p.title), widths[at % columns], size, lines=2) for at, p in enumerate(panels)
    ]
    gap, line = round(1.2 * size), round(1.45 * size)
    lefts = [sum(widths[:at]) + at * gap for at in range(columns)]
    rows = []
    for at in range(0, len(panels), columns):
        above = line * max(len(w) for w in words[at : at + columns])
        high = max((d.shape[0] for d in drawn[at : at + columns] if d is not None), default=0)
        row = np.full((above + high + gap, lefts[-1] + widths[-1], 3), PAPER, np.uint8)
        for left, lines, each in zip(lefts, words[at : at + columns], drawn[at : at + columns], strict=False):
            for number, text in enumerate(lines):
                draw_text(row, text, left, above - line * (len(lines) - number) + size, size, INK)
            if each is not None:
                row[above : above + each.shape[0], left : left + each.shape[1]] = each
        rows.append(row)
    whole = np.concatenate(rows)[: -gap or None]
    return figure(whole, title, bar)


def _outlined(picture: np.ndarray) -> np.ndarray:
    """`picture` with a thin line over its border, where most of that is as white as the paper around it."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    if np.median(border.min(axis=1)) < 230:
        return picture
    lined = picture.copy()
    lined[0], lined[-1], lined[:, 0], lined[:, -1] = (RULE,) * 4
    return lined
