"""Curves: one chart per question, a line per series, drawn in the style of the figures.

Matplotlib would draw them too, but takes a third of a second to import, which is longer than most commands run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import opencv
from analyzer.images.draw import PAPER, RULE, figure, round_values
from analyzer.images.text import FAINT, INK, SEMIBOLD, clean, draw_text, shorten, text_width

COLOURS = (
    (29, 120, 200), (230, 57, 70), (42, 157, 80), (244, 140, 20), (140, 70, 190), (0, 150, 160), (200, 60, 140),
    (120, 100, 40), (90, 98, 104), (60, 60, 200),
)  # fmt: skip
GRID = (232, 234, 237)
SIZE = 12


@dataclass(frozen=True)
class Chart:
    """Series of (x, y) points under a title; NaN breaks a line.

    Attributes:
        low, high: of the vertical axis; the extremes of the values unless given.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    low: float | None = None
    high: float | None = None


def plot(
    charts: Sequence[Chart], columns: int, title: str = "", chart_size: tuple[int, int] = (230, 320)
) -> np.ndarray:
    """The charts in rows of `columns`, one legend for all below them: (H, W, 3) uint8 RGB."""
    if not charts:
        raise InputError("nothing to plot")
    drawn = [_chart(chart, chart_size, _colours(charts)) for chart in charts]
    height, width = drawn[0].shape[:2]
    rows = -(-len(drawn) // columns)
    names = list(_colours(charts))
    legend = _legend(names, columns * width) if len(names) > 1 else np.full((0, columns * width, 3), 255, np.uint8)
    canvas = np.full((rows * height + len(legend), columns * width, 3), PAPER, np.uint8)
    for index, each in enumerate(drawn):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = each
    canvas[rows * height :] = legend
    return figure(canvas, title)


def _colours(charts: Sequence[Chart]) -> dict[str, tuple[int, int, int]]:
    names = dict.fromkeys(name for chart in charts for name in chart.series)
    return {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}


def _chart(chart: Chart, size: tuple[int, int], colours: Mapping[str, tuple[int, int, int]]) -> np.ndarray:
    cv2 = opencv()
    height, width = size
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    xs, ys = (np.concatenate([np.asarray(s[axis], float) for s in chart.series.values()]) for axis in (0, 1))
    finite = ys[np.isfinite(ys)]
    low = chart.low if chart.low is not None else float(finite.min(initial=0.0))
    high = chart.high if chart.high is not None else float(finite.max(initial=low))
    high = high if high > low else low + 1
    left, right = float(xs.min()), float(xs.max())
    right = right if right > left else left + 1
    ticks = round_values(low, high, 4)
    words = max(text_width(clean(word), SIZE) for word in ticks.values())
    x0, x1, y0, y1 = words + 14, width - 14, 48, height - 40

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        px = x0 + (x - left) / (right - left) * (x1 - x0)
        py = y1 - (y - low) / (high - low) * (y1 - y0)
        return np.stack([px, py], axis=-1)

    for value, word in ticks.items():
        row = round(float(at(np.array(left), np.array(value))[1]))
        canvas[row, x0:x1] = GRID
        draw_text(canvas, clean(word), x0 - 6 - text_width(clean(word), SIZE), row + 4, SIZE, FAINT)
    for value, word in round_values(left, right, 4).items():
        column = round(float(at(np.array(value), np.array(low))[0]))
        canvas[y1 : y1 + 4, column] = RULE
        draw_text(canvas, clean(word), column - text_width(clean(word), SIZE) / 2, y1 + 16, SIZE, FAINT)
    canvas[y1, x0:x1] = RULE
    for name, (x, y) in chart.series.items():
        points = at(np.asarray(x, float), np.clip(np.asarray(y, float), low, high))
        for a, b in itertools.pairwise(points):
            if np.isfinite([*a, *b]).all():
                ends = [tuple(int(v) for v in np.rint(16 * p)) for p in (a, b)]
                cv2.line(canvas, ends[0], ends[1], colours[name], 2, cv2.LINE_AA, 4)
    draw_text(canvas, shorten(clean(chart.title), width - 12, SIZE + 1, SEMIBOLD), 6, 16, SIZE + 1, INK, SEMIBOLD)
    draw_text(canvas, shorten(clean(chart.ylabel), width - 12, SIZE), 6, 34, SIZE, FAINT)
    label = clean(chart.xlabel)
    draw_text(canvas, label, (x0 + x1 - text_width(label, SIZE)) / 2, y1 + 32, SIZE, FAINT)
    return canvas


def _legend(names: Sequence[str], width: int) -> np.ndarray:
    """Names beside their colours, in as many lines as they need."""
    places, x, y = [], 8, 0
    for name in names:
        word = shorten(clean(name), min(260, width - 40), SIZE)
        long = text_width(word, SIZE) + 44
        if x + long > width and x > 8:
            x, y = 8, y + 20
        places.append((word, x, y))
        x += long
    canvas = np.full((y + 28, width, 3), PAPER, np.uint8)
    for index, (word, left, top) in enumerate(places):
        canvas[top + 10 : top + 13, left : left + 20] = COLOURS[index % len(COLOURS)]
        draw_text(canvas, word, left + 26, top + 16, SIZE, INK)
    return canvas


@dataclass(frozen=True)
class Whiskers:
    """A dot per row with its error to both sides, under a title; a vertical line is what rows are compared with.

    Attributes:
        rows: {name: (value, error)}; NaN for no error.
    """

    title: str
    xlabel: str
    rows: Mapping[str, tuple[float, float]]
    reference: float | None = None


def plot_whiskers(charts: Sequence[Whiskers], title: str = "", width: int = 380, columns: int = 3) -> np.ndarray:
    """The charts in rows of `columns`, all on one scale from 0: (H, W, 3) uint8 RGB.

    Raises:
        InputError: no charts.
    """
    if not charts:
        raise InputError("nothing to plot")
    ends = [value + (error if np.isfinite(error) else 0) for chart in charts for value, error in chart.rows.values()]
    ends += [chart.reference for chart in charts if chart.reference is not None]
    high = max((end for end in ends if np.isfinite(end)), default=0) or 1.0
    drawn = [_whiskers(chart, 1.05 * high, width) for chart in charts]
    height, columns = max(len(each) for each in drawn), min(columns, len(drawn))
    canvas = np.full((-(-len(drawn) // columns) * height, columns * width, 3), PAPER, np.uint8)
    for index, each in enumerate(drawn):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + len(each), left : left + width] = each
    return figure(canvas, title)


def _whiskers(chart: Whiskers, high: float, width: int) -> np.ndarray:
    cv2, step = opencv(), 24
    names = [shorten(clean(name), width // 3, SIZE) for name in chart.rows]
    x0, x1, top = max(text_width(name, SIZE) for name in names) + 16, width - 20, 30
    bottom = top + step * len(names)
    canvas = np.full((bottom + 44, width, 3), PAPER, np.uint8)

    def at(value: float) -> int:
        return round(x0 + value / high * (x1 - x0))

    for value, word in round_values(0, high, 4).items():
        canvas[top:bottom, at(value)] = GRID
        draw_text(canvas, clean(word), at(value) - text_width(clean(word), SIZE) / 2, bottom + 16, SIZE, FAINT)
    canvas[bottom, x0:x1] = RULE
    if chart.reference is not None and np.isfinite(chart.reference):
        canvas[top:bottom, at(chart.reference) : at(chart.reference) + 2] = COLOURS[1]
    for row, (name, (value, error)) in enumerate(zip(names, chart.rows.values(), strict=True)):
        y = top + row * step + step // 2
        draw_text(canvas, name, x0 - 8 - text_width(name, SIZE), y + 4, SIZE, INK)
        if not np.isfinite(value):
            continue
        if np.isfinite(error):
            canvas[y : y + 2, at(max(0.0, value - error)) : at(value + error) + 1] = COLOURS[0]
        cv2.circle(canvas, (at(value), y), 5, COLOURS[0], -1, cv2.LINE_AA)
    draw_text(canvas, shorten(clean(chart.title), width - 12, SIZE + 1, SEMIBOLD), 6, 18, SIZE + 1, INK, SEMIBOLD)
    label = shorten(clean(chart.xlabel), width - 12, SIZE)
    draw_text(canvas, label, (x0 + x1 - text_width(label, SIZE)) / 2, bottom + 34, SIZE, FAINT)
    return canvas
