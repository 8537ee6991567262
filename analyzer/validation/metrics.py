"""Numbers that say how far two arrays, or two maps, are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Drift:
    """How far a layer of the candidate is from the reference's, over all pictures so far.

    Signal and noise are summed over elements; cosines and quantiles are per picture.
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
        self.pictures += 1
        self.finite &= bool(np.isfinite(b).all())
        error = np.abs(a - b)
        self.signal += float(a @ a)
        self.noise += float(error @ error)
        self.elements += a.size
        self.absolute += float(error.sum())
        self.largest = max(self.largest, float(error.max(initial=0)))
        self.quantile_sum += float(np.quantile(error, 0.99)) if error.size else 0.0
        cosine = cosine_of(a, b)
        self.cosine_sum += cosine
        self.cosine_low = min(self.cosine_low, cosine)

    @property
    def sqnr(self) -> float:
        """10 log₁₀(Σ a² / Σ (a − b)²), dB; at most 200, where both are equal."""
        if self.noise <= self.signal * 1e-20:
            return 200.0
        return float(10 * np.log10(max(self.signal, 1e-300) / self.noise))

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


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    """⟨a, b⟩ / ‖a‖ ‖b‖; 1 for two zero arrays, 0 where one of them is zero or not finite."""
    a, b = a.ravel(), b.ravel()
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if norms == 0:
        return float(not a.any() and not b.any())
    value = float(a @ b) / norms
    return value if np.isfinite(value) else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    result = np.empty(flat.size)
    result[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; 1 for two constant maps, 0 where one of them is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    if not x.any() or not y.any():
        return float(not x.any() and not y.any())
    return cosine_of(x, y)


def top_iou(a: np.ndarray, b: np.ndarray, share: float = 0.2) -> float:
    """Overlap over union of the highest `share` of the positions of both maps."""
    count = max(1, round(share * a.size))
    tops = [set(np.argsort(-m.ravel(), kind="stable")[:count].tolist()) for m in (a, b)]
    return len(tops[0] & tops[1]) / len(tops[0] | tops[1])


def maximum_shift(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between the maxima of two maps (h, w), in diagonals."""
    places = [np.array(np.unravel_index(int(np.argmax(m)), m.shape), float) for m in (a, b)]
    diagonal = float(np.linalg.norm([s - 1 or 1 for s in a.shape[-2:]]))
    return float(np.linalg.norm(places[0] - places[1])) / diagonal


def energy_inside(heat: np.ndarray, boxes: np.ndarray) -> float:
    """Share of a non-negative map (H, W) that lies in boxes (n, 4), x0 y0 x1 y1 in its pixels."""
    inside = np.zeros(heat.shape, bool)
    for x0, y0, x1, y1 in np.asarray(boxes, float).reshape(-1, 4):
        inside[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = True
    total = float(np.nansum(heat))
    return float(np.nansum(heat[inside])) / total if total > 0 else 0.0
