"""Small plots: where lines, bars and labels of an inline SVG are; `templates/parts.html` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDE, NARROW, LOW = (860, 220), (380, 180), (380, 90)
LONGEST = 70  # characters of a label in a plot


@dataclass
class Plot:
    """The parts of a plot, in units of its view box.

    Attributes:
        words: what it shows, for those who do not see it.
    """

    title: str
    words: str
    x_label: str
    width: int
    height: int
    x_ticks: list[tuple[float, str, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    left: int = 44
    top: int = 14

    @property
    def wide(self) -> bool:
        return self.width > NARROW[0]

    @property
    def right(self) -> int:
        return self.width - 10

    @property
    def bottom(self) -> int:
        return self.height - (38 if self.x_label else 20)

    def x(self, share: float) -> float:
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, share: float) -> float:
        return round(self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top), 1)


def lines(
    title: str,
    series: Mapping[str, Sequence[float | None]],
    extent: tuple[float, float],
    x_label: str,
    x_ticks: Sequence[tuple[float, str]] = (),
    limit: float | None = None,
    mark: tuple[int, str] | None = None,
    size: tuple[int, int] = NARROW,
) -> Plot:
    """Lines over evenly spaced places.

    Args:
        series: {name: values}, None where there is none.
        extent: the values at the bottom and at the top; what is beyond is drawn there.
        x_ticks: (share of the width, label).
        limit: threshold, a dashed line.
        mark: (index, label) of a point of the first line.
    """
    low, high = extent
    ends = "; ".join(f"{name} from {_short(v[0])} to {_short(v[-1])}" for name, v in series.items() if len(v))
    plot = Plot(title, ends, x_label, *size)
    span = (high - low) or 1.0
    plot.y_ticks = [(plot.y(share), _short(low + share * span)) for share in (0.0, 0.5, 1.0)]
    plot.x_ticks = _ticks(plot, x_ticks)
    for number, (name, values) in enumerate(series.items()):
        last = max(1, len(values) - 1)
        points = [(plot.x(i / last), plot.y((v - low) / span)) for i, v in enumerate(values) if v is not None]
        text = " ".join(f"{x:g},{y:g}" for x, y in points)
        plot.lines.append({"name": name, "points": text, "style": f"s{number % 4}"})
    if limit is not None and low <= limit <= high:
        at = plot.y((limit - low) / span)
        where = {"x": plot.right, "y": at - 5, "anchor": "end"}
        plot.limits.append(
            {"path": f"M{plot.left} {at:g}H{plot.right}", "label": f"threshold {_short(limit)}", **where}
        )
    if mark is not None:
        index, label = mark
        label = label if len(label) <= LONGEST else f"{label[: LONGEST // 2]}…{label[-LONGEST // 2 :]}"
        values = next(iter(series.values()))
        value = values[index]
        share = index / max(1, len(values) - 1)
        x, y = plot.x(share), plot.y(((low if value is None else value) - low) / span)
        beside = {"text_x": x + (9 if share < 0.5 else -9), "text_y": max(y - 8, plot.top + 4)}
        plot.marks.append({"x": x, "y": y, "label": label, "anchor": "start" if share < 0.5 else "end", **beside})
    return plot


def histogram(
    title: str,
    values: Sequence[float],
    extent: tuple[float, float],
    x_label: str,
    limit: float | None = None,
    worse: str = "below",
    bins: int = 20,
    size: tuple[int, int] = NARROW,
) -> Plot:
    """How many values fall into each of equal bins; what is beyond the extent counts in the outermost.

    Args:
        limit: threshold; bins beyond it, on the side that `worse` names, are in another color.
    """
    low, high = extent
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    ticks = [(share, _short(low + share * (high - low))) for share in (0.0, 0.5, 1.0)]
    plot = bars(title, counts.tolist(), ticks, x_label, size, edges.tolist())
    plot.words = f"{len(values)} values, median {_short(float(np.median(values)))}"
    if limit is None:
        return plot
    for bar in plot.bars:
        start, end = bar["span"]
        bar["out"] = end <= limit if worse == "below" else start >= limit
    if low < limit < high:
        x = plot.x((limit - low) / (high - low))
        anchor, beside = ("end", x - 4) if x > (plot.left + plot.right) / 2 else ("start", x + 4)
        path = f"M{x:g} {plot.top}V{plot.bottom}"
        plot.limits.append(
            {"path": path, "label": f"threshold {_short(limit)}", "x": beside, "y": plot.top + 8, "anchor": anchor}
        )
    return plot


def bars(
    title: str,
    counts: Sequence[int],
    x_ticks: Sequence[tuple[float, str]],
    x_label: str,
    size: tuple[int, int] = NARROW,
    edges: Sequence[float] = (),
) -> Plot:
    """A bar for each of equally wide bins.

    Args:
        x_ticks: (share of the width, label).
        edges: of the bins, for the words beside each bar.
    """
    most = max(1, *counts)
    plot = Plot(title, f"{sum(counts)} values in {len(counts)} bins", x_label, *size)
    plot.y_ticks = [(plot.y(0), "0"), (plot.y(1), str(most))]
    plot.x_ticks = _ticks(plot, x_ticks)
    for number, count in enumerate(counts):
        if not count:
            continue
        span = (edges[number], edges[number + 1]) if edges else ()
        left, right, top = plot.x(number / len(counts)) + 1, plot.x((number + 1) / len(counts)), plot.y(count / most)
        words = f"{count} from {_short(span[0])} to {_short(span[1])}" if span else str(count)
        box = {"x": left, "y": top, "width": round(right - left, 1), "height": round(plot.bottom - top, 1)}
        plot.bars.append({**box, "out": False, "words": words, "span": span})
    return plot


def _ticks(plot: Plot, labels: Sequence[tuple[float, str]]) -> list[tuple[float, str, str]]:
    """(x, label, which part of it is at x): the outermost stay inside."""
    anchors = {0.0: "start", 1.0: "end"}
    return [(plot.x(share), label, anchors.get(share, "middle")) for share, label in labels]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
