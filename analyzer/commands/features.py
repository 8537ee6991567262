"""`features`: feature maps as grids and arrays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click import IntRange

from analyzer.commands.common import each_picture, note, print_json, table
from analyzer.commands.options import (
    WRITE_FOLDER,
    Given,
    Setup,
    format_option,
    group,
    model_argument,
    option,
    pictures_argument,
    several,
)
from analyzer.files import Places, make_folder


class Features(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    layers: tuple[str, ...] = several("-l --layer", "Tensor, node or glob; may be repeated.", required=True)
    out: str | None = option("-o --out", "Folder for the grids (PNG) and arrays (.npz).", type=WRITE_FOLDER)
    max_channels: int = option("--max-channels", "Channels in a grid.", type=IntRange(1), default=64)
    colormap: str = option("--colormap", default="viridis")
    setup: Setup = group(Setup)
    form: str = format_option


@Features.command("features")
def command(given: Features) -> int:
    """Write the feature maps of chosen layers: a labelled grid per layer, the arrays, and statistics per channel.

    One picture is in memory at a time, whatever their number.
    """
    from analyzer.attribution.features import Taps, chosen_tensors
    from analyzer.attribution.finite import say_not_finite
    from analyzer.images import decode

    explainer, card = given.setup.load(given.model)
    places = Places(make_folder(given.out)) if given.out else None
    taps: Taps | None = None

    def work(picture: str) -> dict[str, Any]:
        nonlocal taps
        feeds = explainer.feeds(card.preprocess.apply(decode(picture))[0])
        if taps is None:
            graph = explainer.graph_of(feeds)
            taps = Taps(explainer, graph, chosen_tensors(graph, given.layers))
        found = taps.run(feeds)
        said = say_not_finite(explainer, feeds, found.values(), list(found))
        if said:
            note(f"warning: {picture}: {said}")
        about = {"picture": picture, "diagnosis": said or None}
        return {**about, "layers": write(found, taps.layouts, picture, places, given.max_channels, given.colormap)}

    results, failed = each_picture("features", given.pictures, work, strict=lambda: taps is None)
    if given.form == "json":
        print_json("features", {"model": given.model, "results": results, "failed": failed})
    else:
        print_results(results)
    return 5 if failed else 0


def write(
    found: dict[str, Any], layouts: dict[str, Any], picture: str, places: Places | None, limit: int, colormap: str
) -> list[dict[str, Any]]:
    """Grids and arrays of one picture; statistics of each layer as plain data."""
    import numpy as np

    from analyzer.attribution.features import channel_statistics, channels_first
    from analyzer.images import channel_grid, write_npz, write_png

    arrays = places.place(Path(picture).stem, ".npz") if places else None
    entries = []
    for name, array in found.items():
        entry: dict[str, Any] = {"tensor": name, "shape": list(array.shape)}
        layout = layouts.get(name)
        if layout is not None and layout.is_map and len(layout.spatial) in (1, 2):
            statistics = channel_statistics(array, layout)
            entry |= {
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
            if places and arrays and len(layout.grid) == 2:
                maps = channels_first(array, layout)[0].astype("float32")
                place = places.place(f"{arrays.stem}.{file_name(name)}", ".png")
                write_png(place, channel_grid(maps, max_channels=limit, title=name, colormap=colormap))
                entry["grid"] = str(place)
        entries.append(entry)
    if arrays:
        write_npz(arrays, found)
        for entry in entries:
            entry["arrays"] = str(arrays)
    return entries


def file_name(tensor: str) -> str:
    """A tensor's name with only what every file system takes."""
    return re.sub(r"[^\w.-]+", "_", tensor).strip("_") or "tensor"


def print_results(results: list[dict[str, Any]]) -> None:
    """A line per layer and picture."""
    rows = []
    for result in results:
        for e in result["layers"]:
            shape = "×".join(map(str, e["shape"]))
            dead, values = "", ""
            if "channels" in e:
                dead = f"{len(e['dead'])}/{e['channels']}"
                values = "{:.3g} … {:.3g}".format(*e["range"])
            rows.append((result["picture"], e["tensor"], shape, dead, values))
    click.echo(table(rows, ("picture", "tensor", "shape", "dead channels", "range")))
    written = sorted({e[k] for r in results for e in r["layers"] for k in ("grid", "arrays") if k in e})
    for place in written:
        click.echo(f"written: {place}")
