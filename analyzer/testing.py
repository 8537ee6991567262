"""Helpers for test suites. `from analyzer.testing import assert_same_evidence`."""

from __future__ import annotations

from typing import Any

from analyzer.api.comparing import compare
from analyzer.report.comparison import placed, verdict
from analyzer.validation import Comparison


def assert_same_evidence(
    reference: Any, candidate: Any, pictures: Any, *, strict: bool = False, **options: Any
) -> Comparison:
    """Fail a test if a candidate does not agree with its reference, as `analyzer.compare` judges it.

    Args:
        reference, candidate, pictures: as for `analyzer.compare`.
        strict: also fail if the pictures do not settle a rate.
        options: of `analyzer.compare`, such as `threshold`, `thresholds` or `report`.

    Returns:
        Comparison: for further assertions.

    Raises:
        AssertionError: there are findings; the message has a line for each.
    """
    done = compare(reference, candidate, pictures, **options)
    said = [*(done.findings or ()), *((done.inconclusive or ()) if strict else ())]
    if said:
        lines = [verdict(done.findings or (), done.report, done.inconclusive or ())]
        raise AssertionError("\n".join([*lines, *(f"- {one['code']}: {placed(one)}" for one in said)]))
    return done
