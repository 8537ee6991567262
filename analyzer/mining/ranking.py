"""The k strongest activations per channel, as a running ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Ranking:
    """Per channel the k highest values, the pictures they are from and the positions they are at.

    Ordered by value, then by number of the picture, so that the result does not depend on how the pictures were
    divided. Places that are not filled hold −∞ and picture −1.

    Attributes:
        values: (K, k) float32. images, places: (K, k) int64.
    """

    values: np.ndarray
    images: np.ndarray
    places: np.ndarray

    @classmethod
    def empty(cls, channels: int, k: int) -> Ranking:
        shape = (channels, k)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full(shape, -1, np.int64))

    def update(self, peaks: np.ndarray, places: np.ndarray, images: np.ndarray) -> None:
        """Take in the peaks (B, K) of pictures, their positions (B, K) and numbers (B,), above all numbers so far."""
        peaks = np.where(np.isnan(peaks), -np.inf, peaks).T
        rows = np.flatnonzero(peaks.max(axis=1, initial=-np.inf) > self.values[:, -1])
        if not rows.size:
            return
        given = np.broadcast_to(images, (len(rows), len(images)))
        self._keep(rows, peaks[rows].astype(np.float32), given, places.T[rows])

    def merge(self, other: Ranking) -> Ranking:
        """The ranking of both sets of pictures."""
        merged = Ranking(self.values.copy(), self.images.copy(), self.places.copy())
        rows = np.flatnonzero(other.values[:, 0] >= self.values[:, -1])
        merged._keep(rows, other.values[rows], other.images[rows], other.places[rows])
        return merged

    def _keep(self, rows: np.ndarray, values: np.ndarray, images: np.ndarray, places: np.ndarray) -> None:
        k = self.values.shape[1]
        joined = [
            np.concatenate([mine[rows], new], axis=1)
            for mine, new in ((self.values, values), (self.images, images), (self.places, places))
        ]
        order = np.lexsort((joined[1], -joined[0]), axis=1)[:, :k]
        for mine, both in zip((self.values, self.images, self.places), joined, strict=True):
            mine[rows] = np.take_along_axis(both, order, axis=1)
