"""Model parameter randomization test: a map of the model must change with its weights (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from analyzer.metrics.similarity import spearman


def mprt(
    heat: np.ndarray,
    randomized: Iterable[np.ndarray],
    similarity: Callable[[np.ndarray, np.ndarray], float] = spearman,
) -> np.ndarray:
    """(stages,) ρ(Φ(x; θ), Φ(x; θₖ)), θₖ the weights with the last k layers randomized; lower is better

    Source: Adebayo et al. 2018, 1810.03292, section 3.1, the cascading test. A method whose map stays similar when
    the weights are random does not explain the model. Signed maps are to be compared signed or as absolute values,
    not both.

    Args:
        heat: map of the model.
        randomized: map of the model after each stage, of the same shape.
        similarity: of two maps; the paper's are Spearman's rank correlation and SSIM.
    """
    return np.array([similarity(heat, other) for other in randomized])
