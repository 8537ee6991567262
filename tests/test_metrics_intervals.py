"""Intervals against published tables and against SciPy 1.17.1, whose numbers are written here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyzer.metrics.intervals import bootstrap, mcnemar, paired_difference, pictures_needed, wilson

VALUES = [0.91, 0.85, 0.99, 0.42, 0.77, 0.93, 0.88, 0.95, 0.61, 0.97]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_newcombes(successes, n, low, high):
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    assert wilson(successes, n) == pytest.approx((successes / n, low, high), abs=5e-5)
    assert wilson(n - successes, n)[1:] == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilsons_interval_is_scipys():
    """scipy.stats.binomtest(7, 20).proportion_ci(0.9, "wilson")"""
    assert wilson(7, 20, 0.9)[1:] == pytest.approx((0.20226004005676104, 0.5334873111515284), rel=1e-12)


def test_the_interval_of_no_picture_and_of_too_many():
    value, low, high = wilson(0, 0)
    assert math.isnan(value) and (low, high) == (0, 1)
    assert wilson(5, 5).high == 1 and wilson(0, 5).low == 0
    with pytest.raises(ValueError, match="between 0 and n = 3"):
        wilson(4, 3)


@pytest.mark.parametrize(
    ("values", "statistic", "low", "high"),
    [
        (VALUES, np.mean, 0.708975, 0.922),
        (VALUES, np.median, 0.73, 0.95),
        (np.sqrt(np.arange(1500.0)), np.mean, 25.37364402820902, 26.285764695127227),  # more than a block
    ],
)
def test_the_bootstrap_is_scipys(values, statistic, low, high):
    """scipy.stats.bootstrap((values,), statistic, n_resamples=2000, method="percentile", rng=default_rng(0))"""
    assert bootstrap(values, statistic) == pytest.approx((statistic(values), low, high), rel=1e-9)


def test_the_bootstrap_covers():
    """Of 200 samples of a known mean, about 95 % have it in their interval."""
    random = np.random.default_rng(1)
    inside = [found.low <= 3 <= found.high for found in (bootstrap(random.normal(3, 2, 60)) for _ in range(200))]
    low, high = wilson(sum(inside), 200)[1:]
    assert low < 0.95 < high


def test_what_is_not_finite_is_left_out():
    assert bootstrap([*VALUES, math.nan, math.inf]) == bootstrap(VALUES)
    assert bootstrap([0.5, math.nan]) == (0.5, -math.inf, math.inf)
    value, low, high = bootstrap([])
    assert math.isnan(value) and (low, high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("b", "c", "p"), [(1, 7, 0.0703125), (3, 12, 0.03515625), (400, 460, 0.04416954819458914)])
def test_mcnemar_is_scipys(b, c, p):
    """scipy.stats.binomtest(b, b + c).pvalue; 1 and 7 as in Fagerland et al. 2013 (BMC Med. Res. Methodol. 13:91)"""
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(p, rel=1e-10)


def test_mcnemar_of_models_that_do_not_differ():
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1


def test_the_paired_difference_is_that_of_agrestis_table():
    """Approval ratings, Agresti 2002, table 10.1: 1,600 people, 150 and 86 change their minds; Wald's interval."""
    value, low, high = paired_difference(150, 86, 1600)
    assert value == 0.04 and (low, high) == pytest.approx((0.0213, 0.0587), abs=3e-4)
    assert paired_difference(86, 150, 1600) == pytest.approx((-value, -high, -low))


def test_the_paired_difference_covers_the_true_one():
    """In 95 % of 2,000 samples of 60 pictures."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(60, [0.12, 0.05, 0.83], 2000)
    inside = [low <= 0.07 <= high for _, low, high in (paired_difference(b, c, 60) for b, c, _ in drawn.tolist())]
    assert 0.93 <= np.mean(inside) <= 0.98
    assert paired_difference(0, 0, 60).high > 0 and paired_difference(0, 0, 0)[1:] == (-1, 1)


def test_the_pictures_needed_are_the_fewest():
    for failures, rate in ((0, 0.95), (1, 0.95), (3, 0.5), (0, 0.1)):
        n = pictures_needed(failures, rate)
        assert wilson(n - failures, n).low >= rate > wilson(n - 1 - failures, n - 1).low
    assert pictures_needed(0, 0.95) == 73
