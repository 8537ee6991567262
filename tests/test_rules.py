"""Every rule against differences of its operator, on every sample."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import tests.samples
from tests.rule_checks import can_run, check_gradient, check_second_gradient
from tests.samples import Sample

FAMILIES = [m.name for m in pkgutil.iter_modules(tests.samples.__path__)]
SAMPLES: list[Sample] = [s for name in FAMILIES for s in importlib.import_module(f"tests.samples.{name}").SAMPLES]
VARIANTS = {"static": (False, True), "dynamic": (True, True), "run-time": (True, False)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)
def test_gradient(sample: Sample, variant: str) -> None:
    dynamic, baked = VARIANTS[variant]
    for dtype in sample.types:
        if dtype != "float32" and not can_run(sample, dtype):
            continue
        check_gradient(sample, dtype, dynamic, baked)


# The gradient of a product with factors of 0 is right; differentiated again it counts these factors as constants.
NOT_TWICE = {"ReduceProd-zeros", "ScatterElements-product of zeros"}
TWICE = [s for s in SAMPLES if s.id not in NOT_TWICE and s.op != "CumProd"]


@pytest.mark.parametrize("sample", TWICE, ids=lambda s: s.id)
def test_gradient_of_the_gradient(sample: Sample) -> None:
    check_second_gradient(sample)
