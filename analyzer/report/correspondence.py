"""A correspondence as a figure: how alike changes are, above the occluded pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analyzer.attribution.correspondence import RANDOM, Correspondence
from analyzer.images.mosaic import Block, stacked, strip
from analyzer.images.plot import Whiskers, plot_whiskers


def figure(found: Correspondence) -> np.ndarray:
    """A chart per layer, with a row per part and a line for random boxes; below, a row of occluded ones per picture."""
    parts = list(dict.fromkeys(row.part for row in found.rows))
    at = {(row.layer, row.part): (row.mean, row.error) for row in found.rows}
    charts = [
        Whiskers(
            layer,
            "share of features whose change differs in sign",
            {part: at[layer, part] for part in parts if part != RANDOM},
            at[layer, RANDOM][0],
        )
        for layer in dict.fromkeys(row.layer for row in found.rows)
    ]
    blank = np.full((8, 8, 3), 255, np.uint8)
    rows = [
        Block(Path(name).stem, [[versions.get(part, blank)] for part in parts])
        for name, versions in found.occluded.items()
    ]
    chart = plot_whiskers(charts, "Change when a part is hidden, mean ± standard error; red: random boxes")
    return stacked([chart, strip(rows, parts, "Occluded parts")])
