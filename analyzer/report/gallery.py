"""What `mine` leaves in its folder: a figure per layer, a gallery as one page, and all data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.errors import NotFoundError
from analyzer.files import Places, write_parts, write_text
from analyzer.images import Feeding, Preprocess, file_name, write_png
from analyzer.images.mosaic import tile_square
from analyzer.mining import MiningResult, PeakStatistics
from analyzer.mining.described import describe
from analyzer.mining.patches import LayerPatches, Patch, collect_patches, strongest_channels
from analyzer.plain import as_json
from analyzer.report import plots
from analyzer.report.page import counted, figure, identity_rows, picture, ran_on, render

SIDE = 96  # pixels of a patch on the page
LISTED = 20  # dead channels and pairs that are named
TICKS = ((0.0, "≤ 0"), (12 / 42, "2⁻⁵"), (22 / 42, "1"), (32 / 42, "2⁵"), (1.0, "2¹⁰"))  # of `statistics.BINS`


def write_results(
    explainer: Explainer,
    result: MiningResult,
    preprocess: Preprocess | Feeding,
    folder: Path,
    title: str,
    channels: Sequence[int] = (),
    count: int = 16,
    policy: str | None = "deconvnet",
    command: str = "",
) -> list[str]:
    """Write a figure per layer, a gallery and all data; returns the names of the files.

    Args:
        title: name of the model.
        channels: channels to draw, of every layer; if empty, the `count` strongest of each.
        policy: as for `project`; None for patches only.
        command: the command line, for the page.

    Raises:
        NotFoundError: a layer has no such channel.
    """
    for layer, ranking in result.rankings.items():
        if channels and max(channels) >= len(ranking.values):
            last = len(ranking.values) - 1
            raise NotFoundError(f"{layer!r} has no channel {max(channels)}", f"its channels are 0 to {last}")
    drawn = {layer: list(channels) or strongest_channels(result, layer, count) for layer in result.rankings}
    layers = collect_patches(explainer, result, preprocess, {n: c for n, c in drawn.items() if c}, policy)
    written, places = list[str](), Places(folder)
    for patches in layers:
        if patches.channels:
            place = places.place(file_name(patches.layer), ".png")
            write_png(place, patches.figure())
            written.append(str(place))
    feeding = preprocess.main.preprocess if isinstance(preprocess, Feeding) else preprocess
    run = {"model": title, "SHA-256": explainer.loaded.identity, "ran on": ran_on(explainer.environment)}
    run |= {"preprocessing": feeding.describe(), "projections": policy or "none"}
    write_parts(folder / "index.html", html(title, result, layers, run, command))
    write_text(folder / "top.json", as_json(describe(result), indent=1, ensure_ascii=False) + "\n")
    return [*written, str(folder / "index.html"), str(folder / "top.json")]


def html(
    model: str,
    result: MiningResult,
    layers: Sequence[LayerPatches],
    run: Mapping[str, Any] | None = None,
    command: str = "",
) -> Iterator[str]:
    """The gallery, in parts: per layer a card for each channel with its patches, projections, pictures, histogram."""
    header = ("layer", "channels", "dead", "correlated pairs", "strongest")
    summary = [[result.summary(layer)[key] for key in header] for layer in result.rankings]
    ids = {patches.layer: f"layer-{number}" for number, patches in enumerate(layers)}
    left_out = [(name, error.message) for name, error in result.failed.items()]
    return render(
        "gallery.html",
        title=f"Strongest activations of {model}",
        count=counted(len(result.samples), "picture"),
        sections=[("summary", "Layers"), *((id, layer) for layer, id in ids.items()), ("run", "How it was run")],
        header=header,
        summary=summary,
        left_out=left_out + list(result.not_finite.items()),
        layers=[_layer(result, patches, ids[patches.layer]) for patches in layers],
        run=identity_rows(list((run or {}).items())),
        command=command,
    )


def _layer(result: MiningResult, patches: LayerPatches, id: str) -> dict[str, Any]:
    statistics = result.statistics[patches.layer]
    pairs = [f"{i} and {j} ({r:.3f})" for i, j, r in statistics.correlated()]
    about = [
        ("channels", str(len(statistics.mean))),
        ("dead channels", _some([str(i) for i in np.flatnonzero(statistics.dead)])),
        ("pairs with a correlation above 0.95", _some(pairs)),
    ]
    cards = [_card(result, statistics, channel, found) for channel, found in patches.channels.items()]
    return {"id": id, "name": patches.layer, "about": about, "cards": cards}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "none"


def _card(result: MiningResult, statistics: PeakStatistics, channel: int, patches: Sequence[Patch]) -> dict[str, Any]:
    columns = int(np.ceil(np.sqrt(len(patches))))
    kinds = {
        "projections": [p.projection for p in patches if p.projection is not None],
        "patches": [p.pixels for p in patches],
    }
    return {
        "channel": channel,
        "words": f"strongest {figure(float(patches[0].value))}, mean {figure(float(statistics.mean[channel]))}",
        "pictures": [
            picture(f"channel {channel}: {kind}", tile_square(drawn, columns, SIDE))
            for kind, drawn in kinds.items()
            if drawn
        ],
        "plot": plots.bars("Maximum per picture", statistics.histogram[channel].tolist(), TICKS, "", plots.LOW),
        "places": [
            (result.samples[p.picture].id, ", ".join(map(str, p.place)) or "its only position", float(p.value))
            for p in patches
        ],
    }
