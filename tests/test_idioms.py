"""Every idiom against the equation that it stands in for; rules and policies know of none."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import tests.samples
from analyzer.errors import NotFoundError, UnsupportedError
from analyzer.gradient import GRADIENT, Policy, append_vjp
from analyzer.gradient.idioms import IDIOMS, RUNTIMES, idioms_for
from analyzer.gradient.policies import DECONVNET, GUIDED
from analyzer.gradient.registry import Idiom, Primal, idiom
from analyzer.gradient.rules.elementwise import mul_vjp
from analyzer.graph import Builder
from analyzer.runtime import Session
from tests.idiom_models import MODELS
from tests.models import model, node
from tests.rule_checks import build, feeds
from tests.samples import Sample

FAMILIES = [m.name for m in pkgutil.iter_modules(tests.samples.__path__)]
SAMPLES: list[Sample] = [s for name in FAMILIES for s in importlib.import_module(f"tests.samples.{name}").SAMPLES]
EQUATIONS = replace(GRADIENT, idioms={})

Example = tuple[onnx.ModelProto, list[str], list[str], dict[str, np.ndarray]]


def examples(one: Idiom) -> Iterator[Example]:
    """(model, outputs, tensors to differentiate by, inputs): its own models, and every sample of its operators."""
    for given in MODELS.get(one.name, []):
        sizes = [d.dim_value for d in given.graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(3).standard_normal(sizes).astype(np.float32) * 2
        yield given, ["y"], ["x"], {"x": x}
    for sample in SAMPLES:
        if sample.op in one.of.ops:
            for dynamic in (False, True):
                made = build(sample, "float32", dynamic, baked=True)
                names = [f"y{i}" for i in sample.cotangents], [f"x{i}" for i in sample.targets]
                yield made, *names, feeds(sample, made, "float32")


def pulled(example: Example, policy: Policy) -> list[np.ndarray]:
    given, outputs, targets, inputs = example
    result = append_vjp(given, outputs, targets, policy)
    values = Session(given).run(inputs)
    rng = np.random.default_rng(4)
    seeds = {result.cotangents[n]: rng.standard_normal(values[n].shape).astype(values[n].dtype) for n in outputs}
    found = Session(result.model).run(inputs | seeds)
    return [found[result.gradients[t]] for t in targets]


@pytest.mark.parametrize("one", IDIOMS, ids=lambda i: i.name)
def test_an_idiom_is_its_equation(one: Idiom) -> None:
    used = 0
    for example in examples(one):
        answers: list[bool] = []

        def form(*args: Any, answers: list[bool] = answers, **options: Any) -> Any:
            found = one.form(*args, **options)
            answers.append(found is not NotImplemented)
            return found

        found = pulled_if(example, replace(one, form=form), answers)
        if found is None:
            continue
        used += 1
        for ours, theirs in zip(found, pulled(example, EQUATIONS), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=example[0].graph.name)
    assert used, f"nothing that {one.name} applies to: add a sample of {', '.join(one.of.ops)}, or a model to MODELS"


def pulled_if(example: Example, one: Idiom, answers: list[bool]) -> list[np.ndarray] | None:
    """The gradients by one idiom alone; None where it does not apply, or refuses what its runtimes cannot do."""
    policy = replace(GRADIENT, idioms={one.of: (one,)})
    try:
        append_vjp(*example[:3], policy)
    except UnsupportedError:
        return None
    return pulled(example, policy) if any(answers) else None


def test_idioms_say_what_they_are():
    assert len({i.name for i in IDIOMS}) == len(IDIOMS)
    for one in IDIOMS:
        assert one.about.endswith("."), one.name
        assert one.of.ops and one.runtimes, one.name


def test_a_runtime_has_its_own():
    names = {r: {i.name for of in idioms_for(r).values() for i in of} for r in RUNTIMES}
    assert "maxima_by_offsets" in names["tensorrt"] - names["onnxruntime"]
    assert GRADIENT.idioms == idioms_for("onnxruntime")
    with pytest.raises(NotFoundError, match="no runtime"):
        GRADIENT.on("tensorflow")
    with pytest.raises(ValueError, match="no runtime"):
        idiom(mul_vjp, "tensorflow")


@pytest.mark.parametrize("policy", [GRADIENT, GUIDED, DECONVNET], ids=lambda p: p.name)
def test_policies_keep_the_idioms_of_the_rules_they_call(policy):
    """Guided backpropagation calls the gradient's rule of Relu; deconvnet has no mask."""
    given = model([node("Relu", ["x"], ["y"])], {"x": [2, 3]}, {"y": [2, 3]}, {}, opset=21, ir=10)
    kinds = {n.op_type for n in append_vjp(given, ["y"], ["x"], policy).model.graph.node}
    assert ("HardSigmoid" in kinds) == (policy is not DECONVNET)
    plain = {n.op_type for n in append_vjp(given, ["y"], ["x"], replace(policy, idioms={})).model.graph.node}
    assert "HardSigmoid" not in plain


def test_a_rule_of_ones_own_has_no_idioms():
    def doubled_vjp(op: Builder, node: Primal, ct: Any) -> Any:
        return op.Mul(ct, 2.0), None

    given = model(
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {"x": [3]}, {"y": [3]}, {}, opset=21, ir=10
    )
    result = append_vjp(given, ["y"], ["x"], {"Mul": doubled_vjp})
    found = Session(result.model).run({"x": np.ones(3, np.float32), result.cotangents["y"]: np.ones(3, np.float32)})
    assert np.array_equal(found[result.gradients["x"]], [2, 2, 2])
