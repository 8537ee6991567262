"""Consistency: if the picture moves, its map should move along."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analyzer.metrics.similarity import spearman

Explain = Callable[[np.ndarray], np.ndarray]  # of one input, as the model takes it: the map
Similarity = Callable[[np.ndarray, np.ndarray], float]


def shifted(array: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    """The array moved by `pixels` toward larger indices of an axis, its edge repeated."""
    index = np.clip(np.arange(array.shape[axis]) - pixels, 0, array.shape[axis] - 1)
    return np.take(array, index, axis=axis)


def shift_consistency(
    explain: Explain,
    array: np.ndarray,
    pixels: int = 4,
    axes: Sequence[int] = (2, 3),
    similarity: Similarity = spearman,
) -> float:
    """mean over g of ρ(g⁻¹ Φ(g x), Φ(x)), g the shifts by ± pixels along each axis, Φ the map; 1 is best

    Source: the explanation equivariance of Crabbé & van der Schaar 2023, 2304.06715, definition 2.3, with rank
    correlation for their cosine (pass `metrics.cosine_of` for it). Only what both maps show is compared.

    Args:
        explain: map of one input, of the sizes of `axes`.
        array: the input.
        pixels: of the input.
        axes: of `array`, along which the map lies: (2, 3) for NCHW, (1, 2) for NHWC.
        similarity: of two maps.
    """
    before, found = explain(array), []
    if 2 * pixels >= min(before.shape):
        raise ValueError(f"a map of the size {before.shape} is too small for shifts by {pixels} pixels")
    for at, axis in enumerate(axes):
        seen = np.arange(pixels, before.shape[at] - pixels)  # in both maps, whichever way the picture moves
        for amount in (-pixels, pixels):
            after = explain(shifted(array, amount, axis))
            found.append(similarity(np.take(after, seen, axis=at), np.take(before, seen - amount, axis=at)))
    return float(np.mean(found))


def flip_consistency(
    explain: Explain, array: np.ndarray, axes: Sequence[int] = (2, 3), similarity: Similarity = spearman
) -> float:
    """ρ(g⁻¹ Φ(g x), Φ(x)), g the reflection left to right, Φ the map; 1 is best

    Of pictures whose meaning survives it: not text, not traffic signs. Source and arguments: as for
    `shift_consistency`.
    """
    mirrored = explain(np.flip(array, axes[-1]).copy())
    return similarity(np.flip(mirrored, -1), explain(array))
