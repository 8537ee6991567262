"""The gallery: one self-contained HTML file, and the same content as data."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.files import write_text
from analyzer.images import encode
from analyzer.images.mosaic import tile_square
from analyzer.mining.miner import MiningResult
from analyzer.mining.patches import LayerPatches
from analyzer.mining.statistics import PeakStatistics, edges

_STYLE = """
:root{color-scheme:light dark;--ink:#202124;--faint:#5f6368;--paper:#fff;--card:#f4f5f6;--bar:#1f6fb4}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--faint:#9aa0a6;--paper:#17181a;--card:#222427;--bar:#6ea8dc}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:1500px;
padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2.2rem 0 .2rem;word-break:break-all}
p{color:var(--faint);margin:.2rem 0}nav a{margin-right:1rem;color:var(--bar)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr));gap:14px;margin-top:.8rem}
figure{margin:0;padding:12px;background:var(--card);border-radius:8px}figcaption{font-weight:600}
figcaption span{font-weight:400;color:var(--faint);font-size:.85rem;margin-left:.5rem}
.pair{display:flex;gap:10px;margin:.4rem 0}.pair img{width:100%;min-width:0;flex:1;image-rendering:auto}
svg rect{fill:var(--bar)}ol{margin:.2rem 0 0;padding-left:1.4rem;font-size:.8rem;color:var(--faint)}
summary{cursor:pointer;font-size:.85rem;color:var(--faint)}
""".strip()


def write_gallery(
    path: str | os.PathLike[str], model: str, result: MiningResult, layers: Sequence[LayerPatches], side: int = 96
) -> None:
    """Write the gallery: per layer a card for each channel, with its patches, projections, pictures and histogram."""
    links = "".join(f'<a href="#layer-{i}">{html.escape(p.layer)}</a>' for i, p in enumerate(layers))
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>Strongest activations of {html.escape(model)}</title>',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>Strongest activations of {html.escape(model)}</h1>",
        f"<p>{_count(result)}</p><nav>{links}</nav>",
    ]
    for index, patches in enumerate(layers):
        parts += _section(index, result, patches, side)
    write_text(path, "\n".join(parts) + "\n</html>\n")


def _count(result: MiningResult) -> str:
    failed = f", {len(result.failed)} could not be read" if result.failed else ""
    left = f", {len(result.not_finite)} skipped because values are not finite" if result.not_finite else ""
    return f"{len(result.samples)} pictures{failed}{left}"


def _section(index: int, result: MiningResult, layer: LayerPatches, side: int) -> list[str]:
    statistics = result.statistics[layer.layer]
    dead = int(statistics.dead.sum())
    pairs = len(statistics.correlated())
    about = f"{len(statistics.mean)} channels, {dead} dead, {pairs} pairs with a correlation above 0.95"
    parts = [f'<h2 id="layer-{index}">{html.escape(layer.layer)}</h2><p>{about}</p><div class="cards">']
    for channel, patches in layer.channels.items():
        columns = int(np.ceil(np.sqrt(len(patches))))
        drawn = [p.projection for p in patches if p.projection is not None]
        groups = [("projections", drawn), ("patches", [p.pixels for p in patches])]
        images = "".join(_image(tile_square(g, columns, side), f"{n} of channel {channel}") for n, g in groups if g)
        items = "".join(
            f"<li>{p.value:.4g} at {','.join(map(str, p.place)) or 'its only position'}: "
            f"{html.escape(result.samples[p.picture].id)}</li>"
            for p in patches
        )
        parts.append(
            f"<figure><figcaption>channel {channel}<span>strongest {patches[0].value:.3g}, mean "
            f'{statistics.mean[channel]:.3g}</span></figcaption><div class="pair">{images}</div>'
            f"{_histogram(statistics, channel)}<details><summary>pictures</summary><ol>{items}</ol></details></figure>"
        )
    return [*parts, "</div>"]


def _image(picture: np.ndarray, name: str) -> str:
    data = base64.b64encode(encode(picture, ".jpg")).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'


def _histogram(statistics: PeakStatistics, channel: int) -> str:
    """Bars of how often the peak of a picture fell into each half octave."""
    counts = statistics.histogram[channel]
    largest = max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{6 * i}" y="{28 - 28 * int(c) / largest:.1f}" width="5" height="{28 * int(c) / largest:.1f}"/>'
        for i, c in enumerate(counts)
        if c
    )
    words = "histogram of the maximum per picture: ≤ 0, then half octaves from 2⁻¹⁰ to 2¹⁰"
    return f'<svg viewBox="0 0 {6 * len(counts)} 28" width="100%" height="28"><title>{words}</title>{bars}</svg>'


def describe(result: MiningResult) -> dict[str, Any]:
    """Everything that was found as plain data: per layer and channel the strongest activations and the statistics.

    Positions are flat.
    """
    layers = []
    for layer, ranking in result.rankings.items():
        statistics = result.statistics[layer]
        channels = []
        for channel in range(len(ranking.values)):
            top = [
                {"picture": result.samples[int(i)].id, "position": int(p), "value": float(v)}
                for v, i, p in zip(
                    ranking.values[channel], ranking.images[channel], ranking.places[channel], strict=True
                )
                if i >= 0
            ]
            channels.append(
                {
                    "channel": channel,
                    "top": top,
                    "dead": bool(statistics.dead[channel]),
                    "mean": float(statistics.mean[channel]),
                    "histogram": statistics.histogram[channel].tolist(),
                }
            )
        pairs = [{"channels": [i, j], "correlation": r} for i, j, r in statistics.correlated()]
        layers.append({"layer": layer, "channels": channels, "correlated": pairs})
    failed = [{"picture": name, "error": error.message} for name, error in result.failed.items()]
    not_finite = [{"picture": name, "diagnosis": why} for name, why in result.not_finite.items()]
    about = {"pictures": len(result.samples), "failed": failed, "not_finite": not_finite}
    return {**about, "histogram_edges": edges().tolist(), "layers": layers}
