"""Centers of a layer's units in the image, and the weights that interpolate between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from analyzer.errors import InputError

PLACEMENTS = ("effective", "half-pixel", "theoretical")  # see `centers`


@dataclass(frozen=True)
class Centers:
    """Continuous coordinates of the units' centers: of the first unit, and from one to the next; per image axis."""

    first: tuple[float, ...]
    step: tuple[float, ...]

    def at(self, axis: int, count: int) -> np.ndarray:
        """(count,) centers along an axis."""
        return self.first[axis] + np.arange(count) * self.step[axis]

    def weights(self, axis: int, count: int, length: int) -> np.ndarray:
        """(length, count) weights max(0, 1 − |x − center| / step): linear between centers, 0 one step beyond them."""
        pixels = np.arange(length) + 0.5
        away = np.abs((pixels[:, None] - self.first[axis]) / self.step[axis] - np.arange(count))
        return np.maximum(0, 1 - away).astype(np.float32)


class Located(NamedTuple):
    """Where the units of a layer lie: `centers`, or None for half-pixel centers; `doubt` says why if others were asked
    for and could not be determined."""

    centers: Centers | None = None
    doubt: str = ""


Placed: TypeAlias = "str | Centers"  # one of `PLACEMENTS`, or centers as they were found in another build


def check_placement(placement: Placed) -> None:
    """InputError where there is no such placement."""
    if not isinstance(placement, Centers) and placement not in PLACEMENTS:
        raise InputError(f"there is no placement {placement!r}", f"choose one of {', '.join(PLACEMENTS)}")
