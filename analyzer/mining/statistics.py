"""Statistics of each channel over all pictures, from sums."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

# Half octaves from 2⁻¹⁰ to 2¹⁰, with one bin below for what is not positive.
BINS = 42
PAIRED = 1024  # channels up to which pairs are compared: the table has K² entries


@dataclass
class PeakStatistics:
    """Sums over pictures; p is a channel's highest activation in a picture, m its mean over positions.

    Attributes:
        count: pictures so far.
        mean_sum: (K,) Σ m. peak_sum: (K,) Σ p. highest, lowest: (K,) extremes of p.
        histogram: (K, BINS) how often p fell into each bin.
        products: (K, K) Σ p pᵀ; (0, 0) for layers of more than `PAIRED` channels.
    """

    count: np.ndarray
    mean_sum: np.ndarray
    peak_sum: np.ndarray
    highest: np.ndarray
    lowest: np.ndarray
    histogram: np.ndarray
    products: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> PeakStatistics:
        pairs = channels if channels <= PAIRED else 0
        return cls(
            np.zeros((), np.int64),
            np.zeros(channels),
            np.zeros(channels),
            np.full(channels, -np.inf),
            np.full(channels, np.inf),
            np.zeros((channels, BINS), np.int64),
            np.zeros((pairs, pairs)),
        )

    def update(self, peaks: np.ndarray, means: np.ndarray) -> None:
        """Take in the peaks and means (B, K) of some pictures."""
        if not len(peaks):
            return
        peaks = peaks.astype(np.float64)
        self.count += len(peaks)
        self.mean_sum += means.astype(np.float64).sum(axis=0)
        self.peak_sum += peaks.sum(axis=0)
        self.highest = np.fmax(self.highest, peaks.max(axis=0))
        self.lowest = np.fmin(self.lowest, peaks.min(axis=0))
        cells = (np.arange(peaks.shape[1]) * BINS + bin_of(peaks)).ravel()
        self.histogram += np.bincount(cells, minlength=self.histogram.size).reshape(self.histogram.shape)
        if self.products.size:
            self.products += peaks.T @ peaks

    def merge(self, other: PeakStatistics) -> PeakStatistics:
        """The statistics of both sets of pictures."""
        pick = {"highest": np.fmax, "lowest": np.fmin}
        return PeakStatistics(
            *(pick.get(f.name, np.add)(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        )

    @property
    def dead(self) -> np.ndarray:
        """(K,) channels that are not above 0 for any picture, or whose peak is constant."""
        return (self.highest <= 0) | ((self.count > 1) & (self.highest == self.lowest))

    @property
    def mean(self) -> np.ndarray:
        """(K,) mean activation over pictures and positions."""
        return self.mean_sum / max(1, int(self.count))

    @property
    def correlation(self) -> np.ndarray:
        """(K, K) Pearson correlation of the channels' peaks, 0 for constant ones; (0, 0) where it is not known."""
        n = int(self.count)
        if not self.products.size or n < 3:
            return np.zeros((0, 0))
        mean = self.peak_sum / n
        covariance = self.products / n - np.outer(mean, mean)
        variance = np.diag(covariance).clip(0)
        live = variance > 1e-9 * np.maximum(np.diag(self.products) / n, 1e-30)
        scale = np.sqrt(np.where(live, variance, 1))
        found = covariance / np.outer(scale, scale)
        found[~live] = found[:, ~live] = 0
        return np.asarray(found)

    def correlated(self, threshold: float = 0.95) -> list[tuple[int, int, float]]:
        """Pairs of channels whose peaks correlate (Pearson) by at least `threshold` in magnitude, strongest first."""
        correlation = np.triu(self.correlation, 1)
        rows, columns = np.nonzero(np.abs(correlation) >= threshold)
        found = [(int(i), int(j), float(correlation[i, j])) for i, j in zip(rows, columns, strict=True)]
        return sorted(found, key=lambda pair: -abs(pair[2]))


def bin_of(peaks: np.ndarray) -> np.ndarray:
    """The bin of each value: 0 for what is not above 0, then half octaves, the outermost open."""
    with np.errstate(divide="ignore", invalid="ignore"):
        octave = np.floor(2 * np.log2(peaks)) + 21
    return np.where(peaks > 0, np.clip(np.nan_to_num(octave, posinf=BINS), 1, BINS - 1), 0).astype(np.int64)


def edges() -> np.ndarray:
    """(BINS − 1,) upper edges of the bins but the last."""
    return np.concatenate([[0.0], 2.0 ** ((np.arange(1, BINS - 1) - 20) / 2)])
