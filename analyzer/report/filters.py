"""Banks of filters as pictures, as plain data, and what is remarkable in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyzer.analysis.filters import FilterBank
from analyzer.images import colourise, signed_view
from analyzer.images.mosaic import BEYOND, Block, mosaic


def picture(bank: FilterBank, channels: str, max_filters: int, max_slices: int) -> np.ndarray:
    """The kernels as one picture: (H, W, 3)."""
    weights = bank.weights[:max_filters]
    kind = "×".join(map(str, bank.weights.shape))
    title = f"{bank.layer} — {kind}"
    if len(weights) < len(bank.weights):
        title += f", {len(weights)} filters shown"
    if bank.reads_image and weights.shape[1] == 3:
        kernels = weights.transpose(0, 2, 3, 1)[..., :: -1 if channels == "BGR" else 1]
        tiles = [signed_view(kernel, "normalised") for kernel in kernels]
        columns = max(1, round(len(tiles) ** 0.5 * 1.4))
        return mosaic([Block("", [tiles])], title, max(48, 7 * weights.shape[2]), columns)
    scales = abs(weights).max(axis=(1, 2, 3))
    slices = weights[:, :max_slices]
    tiles_of = [[colourise(s, signed=True, vmax=float(m)) for s in f] for f, m in zip(slices, scales, strict=True)]
    side = max(18, 5 * weights.shape[2])
    if slices.shape[1] == 1:
        flat = [tile for tiles in tiles_of for tile in tiles]
        return mosaic([Block("", [flat])], title, side, max(1, round(len(flat) ** 0.5 * 1.4)), BEYOND)
    if slices.shape[1] < weights.shape[1]:
        title += f", {slices.shape[1]} slices of each"
    return mosaic([Block(str(k), [tiles]) for k, tiles in enumerate(tiles_of)], title, side, 0, BEYOND)


def describe(bank: FilterBank) -> dict[str, Any]:
    """A bank as plain data."""
    live = ~bank.dead
    flat = bank.is_pointwise or not live.any()
    bands = None if flat else [round(float(b), 4) for b in bank.bands[live].mean(axis=0)]
    return {
        "layer": bank.layer,
        "node": bank.name,
        "shape": list(bank.weights.shape),
        "strides": list(bank.strides),
        "groups": bank.groups,
        "reads_image": bank.reads_image,
        "bands": bands,
        "folded": None if flat else round(float(bank.aliased[live].mean()), 4),
        "dead": bank.dead.nonzero()[0].tolist(),
        "duplicates": [{"filters": [i, j], "cosine": c} for i, j, c in bank.duplicates],
        "per_filter": {
            "norm": bank.norms.tolist(),
            "bands": bank.bands.tolist(),
            "folded": bank.aliased.tolist(),
        },
    }


def remarks(bank: FilterBank) -> list[str]:
    """What Zeiler & Fergus (2014, section 4.1) looked for in AlexNet's first layer, where it is there."""
    lines = []
    live = ~bank.dead
    if bank.dead.any():
        lines.append(f"{bank.layer}: dead filters {', '.join(map(str, bank.dead.nonzero()[0][:12]))}")
    if bank.duplicates:
        pairs = ", ".join(f"{i}≈{'−' if c < 0 else ''}{j}" for i, j, c in bank.duplicates[:8])
        lines.append(f"{bank.layer}: duplicate filters {pairs}{' …' if len(bank.duplicates) > 8 else ''}")
    if bank.is_pointwise or not live.any():
        return lines
    if bank.aliased[live].mean() > 0.5:
        share = f"{bank.aliased[live].mean():.0%}"
        lines.append(
            f"{bank.layer}: stride {max(bank.strides)} aliases {share} of the energy; a smaller stride may help"
        )
    if bank.reads_image and bank.bands[live].mean(axis=0)[1] < 0.15:
        lines.append(f"{bank.layer}: hardly any middle frequencies: a smaller kernel or stride may help")
    return lines
