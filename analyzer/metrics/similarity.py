"""How alike two maps, or two arrays, are."""

from __future__ import annotations

import math

import numpy as np

BLOCK = 8192  # elements; longer dot products are divided among threads, which wait for each other on a busy machine


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    flat = values.ravel()
    order = np.argsort(flat)
    ordered = flat[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    result = np.empty(flat.size)
    result[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation (1904), in [−1, 1]; 1 for two constant maps, 0 if one of them is constant.

    Args:
        a, b: arrays of one shape.
    """
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    if not x.any() or not y.any():
        return float(not x.any() and not y.any())
    return cosine_of(x, y)


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    """⟨a, b⟩ / ‖a‖ ‖b‖ over what is finite in both; 1 for two zero arrays, 0 where one of them is zero."""
    a, b = finite_in_both(a.ravel(), b.ravel())
    scale = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0))) or 1.0
    a, b = a / scale, b / scale  # squares of large numbers are infinite
    norms = norm(a) * norm(b)
    if norms == 0:
        return float(bool(a.size) and not a.any() and not b.any())
    return dot(a, b) / norms


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """⟨a, b⟩ of two arrays, by one thread."""
    a, b = a.ravel(), b.ravel()
    return sum(float(a[start : start + BLOCK] @ b[start : start + BLOCK]) for start in range(0, a.size, BLOCK))


def norm(a: np.ndarray) -> float:
    """‖a‖ of an array, by one thread."""
    return math.sqrt(dot(a, a))


def finite_in_both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The elements that are finite in both."""
    known = np.isfinite(a) & np.isfinite(b)
    return (a, b) if known.all() else (a[known], b[known])


def maximum_shift(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between the maxima of two maps (h, w), in diagonals."""
    places = [np.array(np.unravel_index(int(np.argmax(m)), m.shape), float) for m in (a, b)]
    diagonal = float(np.linalg.norm([s - 1 or 1 for s in a.shape[-2:]]))
    return float(np.linalg.norm(places[0] - places[1])) / diagonal
