"""Every backend node test of onnx with a derivative is differentiated rightly, or refused for a reason given here."""

from __future__ import annotations

import onnx
import pytest

from analyzer.errors import UnsupportedError
from tests.backend_nodes import Case, baked, cases, check

OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain and not s.deprecated} | {"Upsample"})

# Operators that are refused, by name, and why.
NOT_REACHED = {
    "DFT": "no rule yet",
    "STFT": "no rule yet",
    "LSTM": "no rule yet",
    "GRU": "no rule yet",
    "RNN": "no rule yet",
    "Loop": "no rule yet",
    "Scan": "no rule yet",
    "Resize": "keep_aspect_ratio_policy has no rule yet",
}


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
                refused.append(variant.name)
            except AssertionError as error:
                wrong.append(f"{variant.name}: {error}")
    assert not wrong, "\n".join(wrong)
    if operator in NOT_REACHED:
        assert refused or not cases().get(operator), f"{operator} is reached: take it off the list"
    else:
        assert not refused, f"refused: {', '.join(refused)}"


def test_the_yardstick_is_as_long_as_it_was() -> None:
    assert sum(map(len, cases().values())) >= 680
    assert len(cases()) >= 110
