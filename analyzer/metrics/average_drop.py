"""Average drop and increase: the score of what a map keeps (Chattopadhay et al. 2018, 1710.11063, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def kept(
    array: np.ndarray, heat: np.ndarray, baseline: npt.ArrayLike = 0.0, axes: Sequence[int] = (2, 3)
) -> np.ndarray:
    """heat · x + (1 − heat) · baseline, the input that only shows what the map marks

    Args:
        array: the input.
        heat: (H, W) in [0, 1].
        baseline: what cold pixels fade to, broadcast to `array`; the paper's is black.
        axes: of `array`, along which the map lies: (2, 3) for NCHW, (1, 2) for NHWC.
    """
    shown = np.expand_dims(heat, [a for a in range(array.ndim) if a not in axes])
    return np.asarray(array * shown + np.asarray(baseline) * (1 - shown)).astype(array.dtype)


def average_drop(before: npt.ArrayLike, after: npt.ArrayLike) -> np.ndarray:
    """(n,) max(0, y − o) / y of each picture; their mean is the average drop, smaller is better

    0 where y is 0. Some libraries leave out the division by y.

    Args:
        before: (n,) y, score of each picture, not negative.
        after: (n,) o, score of what its map keeps.
    """
    y, o = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return np.asarray(np.divide(np.maximum(0, y - o), y, out=np.zeros_like(y), where=y > 0))


def increase(before: npt.ArrayLike, after: npt.ArrayLike) -> np.ndarray:
    """(n,) bool, o > y; its mean is the rate of pictures with increased confidence, larger is better

    Args:
        before, after: as for `average_drop`.
    """
    return np.asarray(after, np.float64) > np.asarray(before, np.float64)
