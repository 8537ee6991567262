"""How alike two maps, or two arrays, are."""

from __future__ import annotations

import numpy as np


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
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if norms == 0:
        return float(bool(a.size) and not a.any() and not b.any())
    return float(a @ b) / norms


def finite_in_both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The elements that are finite in both."""
    known = np.isfinite(a) & np.isfinite(b)
    return (a, b) if known.all() else (a[known], b[known])


def maximum_shift(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between the maxima of two maps (h, w), in diagonals."""
    places = [np.array(np.unravel_index(int(np.argmax(m)), m.shape), float) for m in (a, b)]
    diagonal = float(np.linalg.norm([s - 1 or 1 for s in a.shape[-2:]]))
    return float(np.linalg.norm(places[0] - places[1])) / diagonal
