"""Masks of instances: which pixels belong to a thing, and how COCO writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of one thing.

    Attributes:
        values: (h, w) positive inside; between the middles of cells they change linearly.
        over: x0, y0, x1, y1 that the values lie over; nothing outside belongs to the thing.
        box: x0, y0, x1, y1 that the thing is cut off at; None where it is not.
    """

    values: np.ndarray
    over: tuple[float, float, float, float]
    box: tuple[float, ...] | None = None

    def inside(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(len(rows), len(columns)) whether the points at these y and x belong to the thing."""
        x0, y0, x1, y1 = self.over if self.box is None else _shared(self.over, self.box)
        down, across = (rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1)
        found = np.zeros((len(rows), len(columns)), bool)
        height, width = self.values.shape
        y = (rows[down] - self.over[1]) / (self.over[3] - self.over[1]) * height - 0.5
        x = (columns[across] - self.over[0]) / (self.over[2] - self.over[0]) * width - 0.5
        lines = _between(self.values.astype(np.float32), y)
        found[np.ix_(down, across)] = _between(lines.T, x).T > 0
        return found


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(len(at), …) rows of `values` at these places, linearly between two, the outermost beyond them."""
    at = np.clip(at, 0, len(values) - 1)
    first = np.floor(at).astype(np.int64)
    share = (at - first).astype(np.float32)[:, None]
    return np.asarray(values[first] * (1 - share) + values[np.minimum(first + 1, len(values) - 1)] * share)


def rle(mask: np.ndarray) -> dict[str, Any]:
    """{"size": [H, W], "counts": text} of a (H, W) mask: COCO's compressed run lengths, as pycocotools writes them.

    The lengths of runs of equal pixels, column by column, the first outside; from the third on, each minus the one two
    before. Groups of five bits, the lowest first, each with a bit that says whether more follow, as characters from
    "0" on.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff([0, *([0] if flat.size and flat[0] else []), *ends.tolist(), flat.size]).tolist()
    steps = [length - lengths[at - 2] if at > 2 else length for at, length in enumerate(lengths)]
    return {"size": list(mask.shape), "counts": "".join(map(_written, steps))}


def area_of(found: Mapping[str, Any]) -> int:
    """The number of pixels inside, of what `rle` gives."""
    lengths: list[int] = []
    number, shift = 0, 0
    for letter in found["counts"]:
        bits = ord(letter) - 48
        number, shift = number | (bits & 31) << shift, shift + 5
        if not bits & 32:
            number -= (bits & 16) and 1 << shift
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number, shift = 0, 0
    return sum(lengths[1::2])


def _written(number: int) -> str:
    text = ""
    while True:
        bits, number = number & 31, number >> 5
        ended = number == (-1 if bits & 16 else 0)
        text += chr(48 + (bits if ended else bits | 32))
        if ended:
            return text
