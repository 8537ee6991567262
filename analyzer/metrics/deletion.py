"""Deletion and insertion: how the score changes as pixels go, or come, in order of heat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Score = Callable[[np.ndarray], float]  # of one input, as the model takes it: the score that the map explains


@dataclass(frozen=True)
class Curve:
    """The score along a deletion or an insertion.

    Attributes:
        shares: (steps + 1,) share of the pixels that are deleted, or inserted, from 0 to 1.
        scores: (steps + 1,) score of the input at each of them.
    """

    shares: np.ndarray
    scores: np.ndarray

    @property
    def area(self) -> float:
        """∫₀¹ score d(share), by the trapezoidal rule."""
        return float(np.trapezoid(self.scores, self.shares))


def deletion(
    score: Score,
    array: np.ndarray,
    heat: np.ndarray,
    baseline: npt.ArrayLike,
    steps: int = 12,
    axes: Sequence[int] = (2, 3),
) -> Curve:
    """s(x with its hottest pixels replaced by the baseline); a smaller area is better

    Source: Petsiuk et al. 2018, 1806.07421, section 4.2; of equally hot pixels the first goes first.

    Args:
        score: score of one input. A probability makes areas of several inputs comparable.
        array: the input.
        heat: (H, W), or as many sizes as there are `axes`.
        baseline: what replaces a pixel, broadcast to `array`: a color, the mean, a blurred copy.
        steps: number of equal portions of pixels.
        axes: of `array`, along which the map lies: (2, 3) for NCHW, (1, 2) for NHWC, (1,) for a text.
    """
    return _curve(score, array, _like(array, baseline), heat, steps, axes)


def insertion(
    score: Score,
    array: np.ndarray,
    heat: np.ndarray,
    baseline: npt.ArrayLike,
    steps: int = 12,
    axes: Sequence[int] = (2, 3),
) -> Curve:
    """s(the baseline with the hottest pixels of x); a larger area is better

    Source and arguments: those of `deletion`.
    """
    return _curve(score, _like(array, baseline), array, heat, steps, axes)


def random_cells(size: Sequence[int], seed: int | Sequence[int], cells: int = 8) -> np.ndarray:
    """A map of random cells, to which a map is compared: it deletes regions as coarse as a class map's.

    Single pixels at random would destroy any picture at once.

    Args:
        size: of the map, such as (H, W).
        seed: of `numpy.random.default_rng`.
        cells: along each axis.
    """
    values = np.random.default_rng(seed).random((cells,) * len(size))
    return np.asarray(values[np.ix_(*(np.arange(s) * cells // s for s in size))])


def _like(array: np.ndarray, baseline: npt.ArrayLike) -> np.ndarray:
    return np.broadcast_to(np.asarray(baseline).astype(array.dtype), array.shape)


def _curve(
    score: Score, start: np.ndarray, end: np.ndarray, heat: np.ndarray, steps: int, axes: Sequence[int]
) -> Curve:
    """From `start` to `end`, the hottest pixels first."""
    rank = np.empty(heat.size, np.int64)
    rank[np.argsort(-heat.ravel(), kind="stable")] = np.arange(heat.size)
    rank = np.expand_dims(rank.reshape(heat.shape), [a for a in range(start.ndim) if a not in axes])
    counts = np.linspace(0, heat.size, steps + 1)
    scores = [score(np.where(rank < count, end, start)) for count in counts]
    return Curve(counts / heat.size, np.array(scores, np.float64))
