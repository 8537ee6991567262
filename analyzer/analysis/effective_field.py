"""Effective receptive fields: how much each pixel of a receptive field matters to its unit.

Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks" (2016,
1701.04128): the squared gradient of a unit is Gaussian-like around its center, with a width that grows as √n over n
convolutions while the theoretical size grows as n. For n convolutions of k×k with independent weights, or the plain
gradient where all weights are 1, its variance is n(k² − 1)/12 along each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

Measure: TypeAlias = Literal["squared", "absolute"]
MEASURES: tuple[str, ...] = get_args(Measure)
FRACTIONS = (0.25, 0.5, 0.75)  # of the sides of the window, for which shares are reported
WIDTHS = 4  # an effective size in standard deviations: 95.45 % of a Gaussian along an axis, as in the paper


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """The mean gradient map of a layer's units, each laid on the middle of its theoretical receptive field.

    Axes are those of the picture, height first. The window is the theoretical receptive field; along an axis that is
    seen as a whole it is as long as the picture.

    Attributes:
        layer: name of the tensor.
        map: mean of the squared (or absolute) gradient over channels, positions and pictures, as long as the window
            along each axis; its sum is 1. NaN where the window of every unit was outside the picture; all 0 if every
            gradient was.
        size: of the theoretical receptive field; None along an axis that is seen as a whole.
        measure: "squared" or "absolute".
        units: gradients that were averaged.
        cut: how many of them were of units whose window reaches outside the picture.
        broken: gradients with NaN or ∞, which were left out.
        pictures: that the units are of.
    """

    layer: str
    map: np.ndarray = field(repr=False)
    size: tuple[int | None, ...]
    measure: Measure
    units: int
    cut: int
    broken: int = 0
    pictures: int = 1

    def __repr__(self) -> str:
        def text(values: tuple[float, ...]) -> str:
            return "×".join(f"{v:.3g}" for v in values)

        return (
            f"<effective field of {self.layer!r}: {text(self.effective_size)} of {text(self.window)} pixels, "
            f"{self.units} units>"
        )

    @property
    def window(self) -> tuple[int, ...]:
        """Pixels of the map along each axis."""
        return self.map.shape

    @property
    def empty(self) -> bool:
        """Whether every gradient was 0."""
        return not np.nansum(self.map) > 0

    def profile(self, axis: int) -> np.ndarray:
        """The map summed over all other axes."""
        return np.nansum(self.map, axis=tuple(a for a in range(self.map.ndim) if a != axis))

    @property
    def center(self) -> tuple[float, ...]:
        """Where the centroid is, in pixels from the middle of the window; NaN if the field is empty."""
        return tuple(moments(self.profile(a))[0] - (n - 1) / 2 for a, n in enumerate(self.window))

    @property
    def sigma(self) -> tuple[float, ...]:
        """Standard deviation in pixels, along each axis: that of the Gaussian that fits best (maximum likelihood)."""
        return tuple(moments(self.profile(a))[1] for a in range(self.map.ndim))

    @property
    def effective_size(self) -> tuple[float, ...]:
        """4σ in pixels, along each axis."""
        return tuple(WIDTHS * s for s in self.sigma)

    @property
    def ratio(self) -> float:
        """Effective over theoretical size: the geometric mean of 4σ / window over the axes."""
        parts = [size / n for size, n in zip(self.effective_size, self.window, strict=True)]
        return float(math.prod(parts) ** (1 / len(parts))) if parts else math.nan

    @property
    def gaussian(self) -> float:
        """R² of the Gaussian with this center and these σ: 1 where the map is Gaussian; NaN where it is flat."""
        known = ~np.isnan(self.map)
        values = self.map[known]
        variance = float(((values - values.mean()) ** 2).sum()) if values.size else 0.0
        if self.empty or variance <= 1e-12 * float((values**2).sum()):
            return math.nan
        fitted = np.ones(())
        for axis, n in enumerate(self.window):
            middle, sigma = moments(self.profile(axis))
            line = np.exp(-0.5 * ((np.arange(n) - middle) / max(sigma, 1e-6)) ** 2)
            fitted = np.multiply.outer(fitted, line)
        fitted = fitted[known]
        return 1 - float(((values - fitted / max(float(fitted.sum()), 1e-300)) ** 2).sum()) / variance

    def inside(self, fraction: float) -> float:
        """Share of the map inside the central `fraction` of the window along every axis, pixels cut exactly."""
        if self.empty:
            return math.nan
        mass = np.nan_to_num(self.map)
        for n in self.window:
            edge = n * (1 - fraction) / 2
            pixels = np.arange(n)
            part = np.clip(np.minimum(pixels + 1, n - edge) - np.maximum(pixels, edge), 0, 1)
            mass = np.tensordot(part, mass, axes=(0, 0))
        return float(mass)


def moments(profile: np.ndarray) -> tuple[float, float]:
    """(mean, standard deviation) of positions under a non-negative weight; NaN where the weight is 0."""
    total = float(profile.sum())
    if not total > 0:
        return math.nan, math.nan
    at = np.arange(len(profile))
    mean = float(at @ profile) / total
    return mean, math.sqrt(max(0.0, float((at - mean) ** 2 @ profile) / total))


@dataclass
class FieldSum:
    """Gradient maps added up; the same sum, to the byte, however the parts are joined in one order.

    Attributes:
        total: sums per pixel of the window, float64.
        seen: how often each pixel of the window was inside a picture.
        size, units, cut, pictures: as for `EffectiveField`.
        broken: gradients with NaN or ∞, which do not count.
    """

    total: np.ndarray
    seen: np.ndarray
    size: tuple[int | None, ...]
    units: int = 0
    cut: int = 0
    broken: int = 0
    pictures: int = 1

    @classmethod
    def zeros(cls, window: tuple[int, ...], size: tuple[int | None, ...]) -> FieldSum:
        return cls(np.zeros(window), np.zeros(window, np.int64), size)

    def add(self, values: np.ndarray, start: tuple[int, ...]) -> None:
        """One unit: its values over the picture, of which the window starts at pixel `start`, maybe outside."""
        if not np.isfinite(values).all():
            self.broken += 1
            return
        there, here = [], []
        for low, n, extent in zip(start, self.total.shape, values.shape, strict=True):
            first, last = min(max(low, 0), extent), max(min(low + n, extent), 0)
            there.append(slice(first, max(first, last)))
            here.append(slice(first - low, max(first, last) - low))
        self.total[tuple(here)] += values[tuple(there)]
        self.seen[tuple(here)] += 1
        self.units += 1
        self.cut += any(h.stop - h.start < n for h, n in zip(here, self.total.shape, strict=True))

    def __add__(self, other: FieldSum) -> FieldSum:
        both = [(getattr(self, n), getattr(other, n)) for n in ("units", "cut", "broken", "pictures")]
        counts = [ours + theirs for ours, theirs in both]
        return FieldSum(self.total + other.total, self.seen + other.seen, self.size, *counts)

    def field(self, layer: str, measure: Measure) -> EffectiveField:
        """The mean over units, in which a pixel that was outside the picture does not count."""
        mean = np.where(self.seen > 0, self.total / np.maximum(self.seen, 1), np.nan)
        whole = float(np.nansum(mean))
        shares = mean / whole if whole > 0 else mean
        counts = self.units, self.cut, self.broken, self.pictures
        return EffectiveField(layer, shares, self.size, measure, *counts)
