"""Every backend node test of onnx with a derivative is differentiated rightly, or refused for a reason given here."""

from __future__ import annotations

import onnx
import pytest

from analyzer.errors import UnsupportedError
from tests.backend_nodes import Case, baked, cases, check

OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain and not s.deprecated} | {"Upsample"})

# Cases that are refused, and why.
NOT_REACHED = {"test_scan_sum": "Scan before opset 9 runs over a batch and is not converted by onnx either"}


def variants(case: Case) -> list[Case]:
    return [v for v in (case, baked(case)) if v is not None]


@pytest.mark.parametrize("operator", OPERATORS)
def test_directional_derivatives(operator: str) -> None:
    wrong, refused = [], []
    for case in cases().get(operator, []):
        for variant in variants(case):
            try:
                check(variant)
            except UnsupportedError as error:
                assert operator in str(error), f"{variant.name}: the error does not name the operator: {error}"
                refused.append(case.name)
            except AssertionError as error:
                wrong.append(f"{variant.name}: {error}")
    assert not wrong, "\n".join(wrong)
    listed = [c.name for c in cases().get(operator, []) if c.name in NOT_REACHED]
    assert sorted(set(refused)) == sorted(listed), "the list of what is refused is not up to date"


def test_the_yardstick_is_as_long_as_it_was() -> None:
    assert sum(map(len, cases().values())) >= 698
    assert len(cases()) >= 113
