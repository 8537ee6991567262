"""Confidence intervals over pictures: what the pictures at hand say about those that are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 2**20  # resampled values at a time


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """(p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), p̂ = successes / n

    Wilson's score interval of a rate (Wilson 1927, JASA 22:209), without continuity correction. Unlike p̂ ± z·SE it
    stays inside [0, 1] and has a width at p̂ = 0 and 1.

    Args:
        successes: how many of the pictures.
        n: number of pictures; of none, the value is NaN and the interval [0, 1].
        confidence: of both sides together, in (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n = {n}, not {successes}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrunk = successes / n, 1 + z * z / n
    middle = (rate + z * z / (2 * n)) / shrunk
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrunk
    low = 0.0 if successes == 0 else middle - half
    return Interval(rate, low, 1.0 if successes == n else middle + half)


def pictures_needed(failures: int, rate: float, confidence: float = 0.95) -> int:
    """The least n with `failures` of n failing for which Wilson's interval lies above `rate`."""
    low, high = failures, max(1, failures)
    while wilson(high - failures, high, confidence).low < rate:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = wilson(middle - failures, middle, confidence).low >= rate
        low, high = (low, middle) if enough else (middle, high)
    return high


def paired_difference(b: int, c: int, n: int, confidence: float = 0.95) -> Interval:
    """(b − c) / n, and d ± z √((b* + c* − (b* − c*)² / n*) / n*²), d = (b − c) / n*, b* = b + ½, c* = c + ½, n* = n + 2

    How much more often the first of two models is right on the same pictures, with the adjusted interval of Agresti
    and Min (2005, Statist. Med. 24:729), which has a width where the models never differ.

    Args:
        b: pictures that only the first model gets right.
        c: pictures that only the second one gets right.
        n: all pictures; of none, the value is NaN and the interval [-1, 1].
    """
    if n == 0:
        return Interval(math.nan, -1.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    more = n + 2
    middle = (b - c) / more
    half = z * math.sqrt((b + c + 1 - (b - c) ** 2 / more) / more**2)
    return Interval((b - c) / n, max(-1.0, middle - half), min(1.0, middle + half))


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Quantiles (1 ∓ confidence) / 2 of the statistic over samples drawn with replacement

    The percentile bootstrap (Efron 1979, Ann. Statist. 7:1). It is too narrow for fewer than about 20 values.

    Args:
        values: (n,) one per picture; those that are not finite are left out. The interval is infinite if fewer than
            two are left, and the value NaN if none is.
        statistic: a function of an array and `axis`, such as `np.mean` or `np.median`.
        confidence: of both sides together, in (0, 1).
        seed: of the samples; the same seed gives the same interval.
    """
    given = np.asarray(values, np.float64).ravel()
    given = given[np.isfinite(given)]
    if len(given) < 2:
        return Interval(float(given[0]) if len(given) else math.nan, -math.inf, math.inf)
    random, step = np.random.default_rng(seed), max(1, BLOCK // len(given))
    drawn = [
        statistic(given[random.integers(0, len(given), (min(step, resamples - first), len(given)))], axis=1)
        for first in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(drawn), ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(statistic(given, axis=0)), float(low), float(high))


def resampled(
    statistic: Callable[[np.ndarray], float], n: int, confidence: float = 0.95, resamples: int = 200, seed: int = 0
) -> Interval:
    """The percentile bootstrap, as `bootstrap`, of what is no mean: of a function of the indices of n pictures."""
    if n < 2:
        return Interval(statistic(np.arange(n)), -math.inf, math.inf)
    random = np.random.default_rng(seed)
    drawn = [statistic(random.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(statistic(np.arange(n)), float(low), float(high))


def mcnemar(b: int, c: int) -> float:
    """p = min(1, 2 · P(X ≤ min(b, c))), X ~ Binomial(b + c, ½)

    The exact two-sided McNemar test (1947, Psychometrika 12:153) of whether two models are right equally often on the
    same pictures.

    Args:
        b: pictures that only the first model gets right.
        c: pictures that only the second one gets right.
    """
    n = b + c
    log_choose = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(min(b, c) + 1))
    return min(1.0, 2 * math.fsum(math.exp(value - n * math.log(2)) for value in log_choose))
