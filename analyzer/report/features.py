"""Feature maps of one picture as plain data, with their grids and arrays written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis.layouts import Layout
from analyzer.attribution.channel_sums import ChannelSums
from analyzer.attribution.features import ChannelStatistics, channel_statistics, channels_first
from analyzer.errors import NotFoundError
from analyzer.files import Places
from analyzer.images import channel_grid, file_name, write_npz, write_png


@dataclass(frozen=True)
class ChannelDrawing:
    """Which channels of a feature map are drawn, and how.

    Attributes:
        channels: by number; if empty, the first `most`, or with `strongest` those with the highest values, in order.
    """

    channels: Sequence[int] = ()
    most: int = 64
    strongest: bool = False
    colormap: str = "viridis"

    def grid(self, maps: np.ndarray, name: str, picture: np.ndarray | None = None) -> np.ndarray:
        """The chosen channels of (K, h, w)."""
        if self.channels and max(self.channels) >= len(maps):
            last = len(maps) - 1
            raise NotFoundError(f"{name!r} has no channel {max(self.channels)}", f"its channels are 0 to {last}")
        order = np.arange(len(maps))
        if self.strongest:
            order = np.argsort(-np.nan_to_num(maps.max(axis=(1, 2)), nan=-np.inf), kind="stable")
        shown = list(self.channels) or order[: self.most].tolist()
        return channel_grid(
            maps[shown],
            shown,
            max_channels=len(shown),
            title=name,
            colormap=self.colormap,
            total=len(maps),
            picture=picture,
        )


def describe(array: np.ndarray, layout: Layout) -> dict[str, Any]:
    """Statistics of a feature map, over all of it and per channel."""
    return {"layout": str(layout), **_figures(channel_statistics(array, layout))}


def summary(found: Mapping[str, ChannelSums]) -> list[dict[str, Any]]:
    """A row per layer: its channels over all pictures."""
    return [{"tensor": name, "pictures": one.pictures, **_figures(one)} for name, one in found.items()]


STATISTICS = {"min": "low", "max": "high", "mean": "mean", "std": "std", "active": "active"}  # {name: attribute}


def _figures(channels: ChannelStatistics | ChannelSums) -> dict[str, Any]:
    """Statistics over all of a layer, and those per channel that there are."""
    held = {name: getattr(channels, attribute, None) for name, attribute in STATISTICS.items()}
    return {
        "channels": len(channels.low),
        "dead": channels.dead.nonzero()[0].tolist(),
        "range": [float(np.fmin.reduce(channels.low)), float(np.fmax.reduce(channels.high))],
        "per_channel": {name: values.tolist() for name, values in held.items() if values is not None},
    }


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Of `summary`, a row per channel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tensor", "channel", *STATISTICS])
    for row in rows:
        columns = [row["per_channel"][statistic] for statistic in STATISTICS]
        writer.writerows([row["tensor"], channel, *values] for channel, values in enumerate(zip(*columns, strict=True)))
    return text.getvalue()


def report(
    found: Mapping[str, np.ndarray],
    layouts: Mapping[str, Layout],
    stem: str,
    places: Places | None = None,
    drawing: ChannelDrawing | None = None,
    picture: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """A row per tensor; with `places`, a grid of each feature map and an archive of all arrays are written.

    Args:
        stem: what the files' names begin with.
        picture: (H, W, 3) uint8, what they are of, drawn beside the channels.

    Raises:
        NotFoundError: a feature map has no such channel.
    """
    drawing = drawing or ChannelDrawing()
    arrays = places.place(stem, ".npz") if places else None
    rows = []
    for name, array in found.items():
        row: dict[str, Any] = {"tensor": name, "shape": list(array.shape)}
        layout = layouts.get(name)
        if layout is not None and layout.is_map and len(layout.spatial) in (1, 2):
            row |= describe(array, layout)
            if places and arrays and len(layout.grid) == 2:
                maps = channels_first(array, layout)[0].astype("float32")
                place = places.place(f"{arrays.stem}.{file_name(name)}", ".png")
                write_png(place, drawing.grid(maps, name, picture))
                row["grid"] = str(place)
        rows.append(row)
    if arrays:
        write_npz(arrays, found)
        for row in rows:
            row["arrays"] = str(arrays)
    return rows
