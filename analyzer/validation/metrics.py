"""How far layers and outputs of two models are apart, over pictures."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.metrics.similarity import cosine_of, finite_in_both


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
        a, b = (x.astype(np.float64).ravel() for x in (reference, candidate))
        if not math.isfinite(a @ a + b @ b):
            self.finite &= not any(one_sided(a, b))
            a, b = finite_in_both(a, b)
        if not a.size:
            return
        signal, other = float(a @ a), float(b @ b)
        scale = math.sqrt(signal) * math.sqrt(other)
        cosine = float(a @ b) / scale if 0 < scale < math.inf else cosine_of(a, b)
        error = np.subtract(a, b, out=b)
        np.abs(error, out=error)
        self.pictures += 1
        self.signal += signal
        self.noise += float(error @ error)
        self.elements += a.size
        self.absolute += float(error.sum())
        self.largest = max(self.largest, float(error.max()))
        self.cosine_sum += cosine
        self.cosine_low = min(self.cosine_low, cosine)
        self.quantile_sum += float(np.quantile(error, 0.99, overwrite_input=True))

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

    def summary(self) -> tuple[np.ndarray, str]:
        """(pictures,) e, and which part is furthest off, "" where the output is one."""
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
        return relative.max(axis=1), f"{named} of {len(self.low)}, counted from 0" if len(parts) > 1 else ""


def _slices(array: np.ndarray) -> np.ndarray:
    """(slices, elements) along the shortest axis longer than 1; one slice of an output with a single such axis."""
    wide = [axis for axis in range(1, array.ndim) if array.shape[axis] > 1]
    if len(wide) < 2:
        return array.reshape(1, -1)
    axis = min(wide, key=lambda a: array.shape[a])
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
