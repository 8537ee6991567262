"""Results of mining, as files and as one row per layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyzer.attribution import Explainer
from analyzer.errors import NotFoundError
from analyzer.files import Places, write_text
from analyzer.images import Feeding, Preprocess, file_name, write_png
from analyzer.mining.gallery import describe, write_gallery
from analyzer.mining.miner import MiningResult
from analyzer.mining.patches import collect_patches, strongest_channels
from analyzer.plain import as_json


def write_results(
    explainer: Explainer,
    result: MiningResult,
    preprocess: Preprocess | Feeding,
    folder: Path,
    title: str,
    channels: Sequence[int] = (),
    count: int = 16,
    policy: str | None = "deconvnet",
) -> list[str]:
    """Write a figure per layer, a gallery and all data; returns the names of the files.

    Args:
        title: title of the gallery.
        channels: channels to draw, of every layer; if empty, the `count` strongest of each.
        policy: as for `project`; None for patches only.

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
    write_gallery(folder / "index.html", title, result, layers)
    write_text(folder / "top.json", as_json(describe(result), indent=1, ensure_ascii=False) + "\n")
    return [*written, str(folder / "index.html"), str(folder / "top.json")]
