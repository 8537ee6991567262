"""Feature maps of one picture as plain data, with their grids and arrays written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyzer.analysis.layouts import Layout
from analyzer.attribution.features import channel_statistics, channels_first
from analyzer.files import Places
from analyzer.images import channel_grid, file_name, write_npz, write_png


def describe(array: np.ndarray, layout: Layout) -> dict[str, Any]:
    """Statistics of a feature map, over all of it and per channel."""
    statistics = channel_statistics(array, layout)
    return {
        "layout": str(layout),
        "channels": len(statistics.low),
        "dead": statistics.dead.nonzero()[0].tolist(),
        "range": [float(np.fmin.reduce(statistics.low)), float(np.fmax.reduce(statistics.high))],
        "per_channel": {
            "min": statistics.low.tolist(),
            "max": statistics.high.tolist(),
            "mean": statistics.mean.tolist(),
            "active": statistics.active.tolist(),
        },
    }


def report(
    found: Mapping[str, np.ndarray],
    layouts: Mapping[str, Layout],
    stem: str,
    places: Places | None = None,
    max_channels: int = 64,
    colormap: str = "viridis",
) -> list[dict[str, Any]]:
    """A row per tensor; with `places`, a grid of each feature map and an archive of all arrays are written.

    Args:
        stem: what the files' names begin with.
    """
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
                write_png(place, channel_grid(maps, max_channels=max_channels, title=name, colormap=colormap))
                row["grid"] = str(place)
        rows.append(row)
    if arrays:
        write_npz(arrays, found)
        for row in rows:
            row["arrays"] = str(arrays)
    return rows
