"""How far layers and outputs of two models are apart, over pictures."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.metrics.similarity import BLOCK, cosine_of, finite_in_both

SPARSE = 61  # of so many values one is looked at to find a bound


@dataclass
class Drift:
    """How far a layer of the candidate is from the reference's, over all pictures so far.

    Signal and noise are summed over elements; cosines and quantiles are per picture. Elements that are not finite on
    either side are left out; where only one side has them, `finite` is False.
    """

    pictures: int = 0
    signal: float = 0.0
    noise: float = 0.0
    elements: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    cosine_sum: float = 0.0
    cosine_low: float = 1.0
    quantile_sum: float = 0.0
    finite: bool = True

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """One picture's activations, in the same layout."""
        a, b = reference.ravel(), candidate.ravel()
        sums, error = compared(a, b)
        if not math.isfinite(sums.signal + sums.other):
            self.finite &= not any(one_sided(a, b))
            a, b = finite_in_both(a, b)
            sums, error = compared(a, b)
        if not a.size:
            return
        scale = math.sqrt(sums.signal) * math.sqrt(sums.other)
        cosine = sums.product / scale if 0 < scale < math.inf else cosine_of(a.astype(float), b.astype(float))
        self.pictures += 1
        self.signal += sums.signal
        self.noise += sums.noise
        self.elements += a.size
        self.absolute += sums.absolute
        self.largest = max(self.largest, sums.largest)
        self.cosine_sum += cosine
        self.cosine_low = min(self.cosine_low, cosine)
        self.quantile_sum += high_quantile(error, 0.99)

    def merge(self, later: Drift) -> Drift:
        """Of the pictures of both."""
        pick: dict[str, Any] = {"largest": max, "cosine_low": min, "finite": operator.and_}
        parts = {name: pick.get(name, operator.add)(value, vars(later)[name]) for name, value in vars(self).items()}
        return Drift(**parts)

    @property
    def sqnr(self) -> float:
        """10 log₁₀(Σ a² / Σ (a − b)²), dB; at most 200, where both are equal."""
        if self.noise <= self.signal * 1e-20:
            return 200.0
        return float(10 * np.log10(max(self.signal, 1e-20 * self.noise) / self.noise))

    def summary(self) -> dict[str, float | bool]:
        """The figures, as data."""
        count = max(self.pictures, 1)
        return {
            "cosine": self.cosine_sum / count,
            "cosine_low": self.cosine_low,
            "sqnr_db": self.sqnr,
            "max_error": self.largest,
            "mean_error": self.absolute / max(self.elements, 1),
            "q99_error": self.quantile_sum / count,
            "finite": self.finite,
        }


@dataclass
class Sums:
    """Σ a², Σ b², Σ a b, Σ (a − b)², Σ |a − b| and max |a − b|, in float64."""

    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0


def compared(a: np.ndarray, b: np.ndarray) -> tuple[Sums, np.ndarray]:
    """(sums over the elements, |a − b|), in blocks that fit into the processor's cache."""
    sums, error = Sums(), np.empty(a.size, np.result_type(a, b, np.float32))
    with np.errstate(invalid="ignore", over="ignore"):  # of elements that are not finite
        _sum(sums, error, a, b)
    return sums, error


def _sum(sums: Sums, error: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    for start in range(0, a.size, BLOCK):
        x, y = (part[start : start + BLOCK].astype(np.float64) for part in (a, b))
        sums.signal += float(x @ x)
        sums.other += float(y @ y)
        sums.product += float(x @ y)
        gap = np.subtract(x, y, out=y)
        sums.noise += float(gap @ gap)
        np.abs(gap, out=gap)
        sums.absolute += float(gap.sum())
        sums.largest = max(sums.largest, float(gap.max()))
        error[start : start + BLOCK] = gap


def high_quantile(values: np.ndarray, q: float) -> float:
    """`np.quantile(values, q)` in float64 for q near 1: of many values only the largest are sorted."""
    if values.size < 64 * SPARSE:
        return float(np.quantile(values.astype(np.float64), q))
    some = values[::SPARSE]
    lowest = int((2 * q - 1) * (some.size - 1))
    bound = np.partition(some, lowest)[lowest]
    largest = values[values >= bound]
    place = q * (values.size - 1) - (values.size - largest.size)
    if place < 0:
        return float(np.quantile(values.astype(np.float64), q))
    below = int(place)
    above = min(below + 1, largest.size - 1)
    low, high = np.partition(largest, [below, above])[[below, above]].tolist()
    return float(low + (place - below) * (high - low))


def one_sided(a: np.ndarray, b: np.ndarray) -> tuple[bool, bool]:
    """Whether a holds NaN or ∞ where b is finite, and the other way round."""
    ours, theirs = np.isfinite(a), np.isfinite(b)
    return bool((theirs & ~ours).any()), bool((ours & ~theirs).any())


@dataclass
class OutputError:
    """How far an output that is no vector of classes is from the reference's, over all pictures.

    e = max over parts of RMS(a − b) / s. Parts are the slices along the output's shortest axis (coordinates, classes),
    of which those that hold probabilities are one; s is the RMS of the part's a over all pictures, at least a tenth of
    that of the output's largest part (probabilities: of their own).

    Attributes:
        squares, errors: per picture, mean squares of a and of a − b of each slice.
        low, high: extremes of each slice of a.
    """

    squares: list[np.ndarray] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """One picture's output, (1, …), in the same layout; elements that are not finite on either side count as 0."""
        known = np.isfinite(reference) & np.isfinite(candidate)
        a, b = (_slices(np.where(known, x, 0).astype(np.float64)) for x in (reference, candidate))
        self.squares.append((a**2).mean(axis=1))
        self.errors.append(((a - b) ** 2).mean(axis=1))
        low, high = a.min(axis=1), a.max(axis=1)
        first = len(self.squares) == 1
        self.low, self.high = (low, high) if first else (np.minimum(self.low, low), np.maximum(self.high, high))

    def merge(self, later: OutputError) -> OutputError:
        """Of the pictures of both."""
        low, high = np.minimum(self.low, later.low), np.maximum(self.high, later.high)
        return OutputError(self.squares + later.squares, self.errors + later.errors, low, high)

    def summary(self) -> tuple[np.ndarray, str, float]:
        """(pictures,) e; which part is furthest off, "" where the output is one; the largest |a| of that part."""
        squares, errors = np.stack(self.squares), np.stack(self.errors)
        probable = (self.low >= 0) & (self.high <= 1) & (len(self.low) > 1)
        parts = [np.flatnonzero(probable)] if probable.any() else []
        parts += [np.array([i]) for i in np.flatnonzero(~probable)]
        scales = np.sqrt([squares[:, p].mean() for p in parts])
        errors = np.sqrt(np.stack([errors[:, p].mean(axis=1) for p in parts], axis=1))
        floors = np.full(len(parts), scales[int(probable.any()) :].max(initial=0) / 10)
        floors[: int(probable.any())] = 0
        scales = np.maximum(scales, floors)
        relative = np.divide(errors, scales, out=np.where(errors > 0, 1.0, 0.0), where=scales > 0)
        worst = parts[int(relative.mean(axis=0).argmax())]
        named = f"slice {worst[0]}" if len(worst) == 1 else f"slices {worst[0]} to {worst[-1]}"
        named = f"{named} of {len(self.low)}, counted from 0" if len(parts) > 1 else ""
        reach = float(np.maximum(np.abs(self.low[worst]), np.abs(self.high[worst])).max())
        return relative.max(axis=1), named, reach


def _slices(array: np.ndarray) -> np.ndarray:
    """(slices, elements) along the shortest axis longer than 1; one slice of an output with a single such axis."""
    wide = [axis for axis in range(1, array.ndim) if array.shape[axis] > 1]
    if len(wide) < 2:
        return array.reshape(1, -1)
    axis = min(wide, key=lambda a: array.shape[a])
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
