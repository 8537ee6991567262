"""Max-sensitivity: how far a map can change when the input hardly does (Yeh et al. 2019, 1901.09392, definition 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Explain = Callable[[np.ndarray], np.ndarray]  # of one input, as the model takes it: the map


def max_sensitivity(explain: Explain, array: np.ndarray, radius: float, samples: int = 10, seed: int = 0) -> float:
    """max over ‖δ‖∞ ≤ r of ‖Φ(x + δ) − Φ(x)‖₂ / ‖Φ(x)‖₂, Φ the map; smaller is better

    An estimate from below, over δ drawn evenly. The division by ‖Φ(x)‖ makes maps of different methods comparable; it
    is the reference implementation's. NaN for a map of zeros.

    Args:
        explain: map of one input.
        array: the input.
        radius: r, in units of `array`; 0.02 of its range is usual.
        samples: number of δ.
        seed: of δ.
    """
    random, before = np.random.default_rng(seed), explain(array).astype(np.float64)
    size = float(np.linalg.norm(before))
    if not size:
        return float("nan")
    moved = (array + random.uniform(-radius, radius, array.shape).astype(array.dtype) for _ in range(samples))
    return max(float(np.linalg.norm(explain(near) - before)) for near in moved) / size
