"""Interleaved medians: A B A B …, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved(
    candidates: Sequence[Callable[[], object]], rounds: int = 7, budget: float = 30.0, pause: float = 0.0
) -> list[float]:
    """Median seconds of each candidate over up to `rounds` interleaved rounds within `budget` seconds, one warm-up.

    With several threads a `pause` of so many seconds before each lets those of the one before stop spinning.
    """
    for candidate in candidates:
        candidate()
    times: list[list[float]] = [[] for _ in candidates]
    start = time.perf_counter()
    for _ in range(rounds):
        for candidate, record in zip(candidates, times, strict=True):
            time.sleep(pause)
            before = time.perf_counter()
            candidate()
            record.append(time.perf_counter() - before)
        if time.perf_counter() - start > budget and len(times[0]) >= 3:
            break
    return [statistics.median(t) for t in times]
