"""The occluded pictures of a correspondence, as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analyzer.attribution.correspondence import Correspondence
from analyzer.images.mosaic import Block, strip


def figure(found: Correspondence) -> np.ndarray:
    """A row per picture, a column per part."""
    parts = list(dict.fromkeys(row.part for row in found.rows))
    blank = np.full((8, 8, 3), 255, np.uint8)
    rows = [
        Block(Path(name).stem, [[versions.get(part, blank)] for part in parts])
        for name, versions in found.occluded.items()
    ]
    return strip(rows, parts, "Occluded parts")
