"""The yardstick: onnx's own backend node tests, each differentiated and compared with differences of its operator.

    python -m tests.backend_nodes [OPERATOR …]      counts of passed, refused and wrong cases, and the offenders

A case counts where it is one operator of ai.onnx with a derivative, a floating-point input and output, and stock
onnxruntime computes what the case expects. The primal is evaluated in float64 by onnxruntime, else by onnx's
reference evaluator, else by onnxruntime in the case's own type with a wide step; an evaluator counts only where its
result is that of stock onnxruntime. A case that stands on a kink (one-sided differences disagree) is moved off it.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.gradient import append_vjp
from analyzer.gradient.registry import NOT_DIFFERENTIABLE
from tests import recurrent_primal
from tests.rule_checks import IN_FLOAT32, session

RTOL = 5e-3
BY_CHOICE = {"DynamicQuantizeLinear": "straight through: its scale counts as a constant"}
DISPUTED = {
    f"test_attention_4d_with_past_and_present_qk_matmul_bias_{rank}d_mask_causal": "onnxruntime 1.31 leaves the causal "
    "mask out of qk_matmul_output, against the standard (and the case's own expectation)"
    for rank in (3, 4)
}
FLOATS = {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}
NARROW = (np.dtype(np.float16), np.dtype(np.float32))
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A backend node test: its model, and what it is fed, by input name."""

    name: str
    model: onnx.ModelProto
    feeds: Arrays

    @property
    def op(self) -> str:
        return self.model.graph.node[0].op_type

    @property
    def wrt(self) -> list[str]:
        """The floating-point inputs that the schema does not call non-differentiable."""
        node = self.model.graph.node[0]
        formal = onnx.defs.get_schema(node.op_type, self.model.opset_import[0].version).inputs
        if node.op_type == "Upsample":  # deprecated, without marks; Resize has them
            return [node.input[0]]
        fixed = {
            name
            for name, parameter in zip(node.input, formal, strict=False)
            if parameter.differentiation_category == onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
        }
        given = [i.name for i in self.model.graph.input if i.type.tensor_type.elem_type in FLOATS]
        return [name for name in given if name not in fixed] or given  # DFT and STFT are marked wrongly

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.model.graph.output if o.type.tensor_type.elem_type in FLOATS]


@functools.cache
def cases() -> dict[str, list[Case]]:
    """The cases that count, by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = collect_testcases(None)
    found: dict[str, list[Case]] = {}
    for test in given:
        nodes = test.model.graph.node
        if len(nodes) != 1 or nodes[0].domain or ("", nodes[0].op_type) in NOT_DIFFERENTIABLE:
            continue
        if nodes[0].op_type in BY_CHOICE or test.name in DISPUTED:
            continue
        if any(not i.type.HasField("tensor_type") for i in test.model.graph.input):
            continue
        names = [i.name for i in test.model.graph.input]
        case = Case(test.name, test.model, dict(zip(names, test.data_sets[0][0], strict=True)))
        if case.wrt and case.outputs and _runs(case):
            found.setdefault(case.op, []).append(case)
    return found


def _runs(case: Case) -> bool:
    """Whether stock onnxruntime computes the case."""
    try:
        session(case.model).run(None, case.feeds)
    except Exception:
        return False
    return True


def baked(case: Case) -> Case | None:
    """The case with the inputs that have no derivative as initializers; None where there are none."""
    given = [n for n in case.feeds if n not in case.wrt]
    if not given:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [i for i in model.graph.input if i.name not in given]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(case.feeds[n]), n) for n in given)
    return Case(f"{case.name} (baked)", model, {n: a for n, a in case.feeds.items() if n not in given})


# ---- The primal ----


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 and float16 tensor made float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in [*wide.graph.input, *wide.graph.output]:
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "softmax_precision", "stash_type") and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
    return wide


@dataclass(frozen=True)
class Primal:
    """f and the step its differences are taken with."""

    run: Callable[[Arrays], list[np.ndarray]]
    step: float
    dtype: Any


def evaluators(case: Case) -> Iterator[Primal]:
    wide = in_float64(case.model)
    try:
        runner = session(wide)
        yield Primal(lambda feeds: runner.run(None, feeds), 1e-5, np.float64)
    except Exception:
        pass
    if case.op in recurrent_primal.USUAL:
        yield Primal(functools.partial(_recurrent, case.model), 1e-5, np.float64)
    try:
        reference = onnx.reference.ReferenceEvaluator(wide)
        yield Primal(lambda feeds: reference.run(None, feeds), 1e-5, np.float64)
    except Exception:
        pass
    narrow = session(case.model)
    yield Primal(lambda feeds: narrow.run(None, feeds), 1e-2, None)


def _recurrent(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    node = model.graph.node[0]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
    found = recurrent_primal.run(node.op_type, [feeds.get(name) for name in node.input], attrs)
    return [v for v, name in zip(found, node.output, strict=False) if name]


def primal(case: Case, feeds: Arrays) -> Primal:
    """The first evaluator that agrees with stock onnxruntime at `feeds`."""
    expected = session(case.model).run(None, typed(case, feeds, None))
    for candidate in evaluators(case):
        try:
            found = candidate.run(typed(case, feeds, candidate.dtype))
        except Exception:
            continue
        if all(same(a, b) for a, b in zip(expected, found, strict=True)):
            exact = case.op not in IN_FLOAT32 and all(np.asarray(v).dtype not in NARROW for v in found)
            return candidate if exact else Primal(candidate.run, 1e-2, candidate.dtype)
    raise AssertionError(f"{case.name}: no evaluator agrees with onnxruntime")


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    loose = 1e-2 if a.dtype == np.float16 else 1e-3
    return a.shape == b.shape and (a.dtype.kind != "f" or np.allclose(a, b, loose, loose, equal_nan=True))


def typed(case: Case, feeds: Arrays, dtype: Any) -> Arrays:
    """Floating-point feeds in `dtype`, in the case's own without one."""
    return {n: np.asarray(a, dtype or case.feeds[n].dtype) if n in case.wrt else a for n, a in feeds.items()}


# ---- The check ----


def check(case: Case) -> None:
    """⟨gradient, d⟩ = (⟨f(x + εd), ȳ⟩ − ⟨f(x − εd), ȳ⟩) / 2ε for each input and three directions d.

    Raises:
        UnsupportedError: the gradient is refused.
        AssertionError: it is wrong.
    """
    result = append_vjp(case.model, case.outputs, case.wrt)
    run = session(result.model)
    rng = np.random.default_rng(1)
    feeds = {n: np.asarray(a, np.float64) if n in case.wrt else a for n, a in case.feeds.items()}
    f = primal(case, feeds)
    start, why = feeds, ""
    for outwards in (-1, 1, -1):
        try:
            _compare(case, result, run, f, feeds, rng)
            return
        except KinkError as kink:
            why = str(kink)
            feeds = moved(case, start, rng, outwards)
    raise AssertionError(f"no smooth point near the case's: {why}")


class KinkError(Exception):
    """The one-sided differences disagree: there is no derivative here."""


def moved(case: Case, feeds: Arrays, rng: np.random.Generator, outwards: int) -> Arrays:
    """The inputs moved a little at random: inwards the first time, then outwards."""

    def move(a: np.ndarray) -> np.ndarray:
        return a * (1 + outwards * rng.uniform(0.02, 0.06, a.shape)) + 0.01 * rng.uniform(size=a.shape)

    return {n: np.asarray(move(a)) if n in case.wrt else a for n, a in feeds.items()}


def _compare(
    case: Case, result: Any, run: ort.InferenceSession, f: Primal, feeds: Arrays, rng: np.random.Generator
) -> None:
    # The gradient is taken where the file's own type can be.
    feeds = {n: a.astype(case.feeds[n].dtype).astype(np.float64) if n in case.wrt else a for n, a in feeds.items()}

    def values(point: Arrays) -> list[np.ndarray]:
        found = f.run(typed(case, point, f.dtype))
        names = [o.name for o in case.model.graph.output]
        return [np.asarray(v, np.float64) for n, v in zip(names, found, strict=True) if n in case.outputs]

    here = values(feeds)
    seeds = [rng.uniform(0.5, 1.5, v.shape) * rng.choice([-1, 1], v.shape) for v in here]
    kinds = {o.name: helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in case.model.graph.output}
    given = typed(case, feeds, None)
    given |= {result.cotangents[n]: np.asarray(s, kinds[n]) for n, s in zip(case.outputs, seeds, strict=True)}
    names = [*case.outputs, *(result.gradients[n] for n in case.wrt)]
    found = run.run(names, given)
    for name, value, expected in zip(case.outputs, found, here, strict=False):
        assert same(value, expected.astype(value.dtype)), f"{name} is no longer what it was"

    def moved_by(name: str, step: Any) -> float:
        """⟨f(x + step), ȳ⟩ − ⟨f(x), ȳ⟩"""
        there = values({**feeds, name: np.asarray(feeds[name] + step)})
        if any(t.shape != h.shape for t, h in zip(there, here, strict=True)):
            raise KinkError
        pairs = zip(there, here, seeds, strict=True)
        return sum(float(np.sum(np.where(t == h, 0, t - h) * s)) for t, h, s in pairs)

    for name, gradient in zip(case.wrt, found[len(case.outputs) :], strict=True):
        x, g = feeds[name], np.asarray(gradient, np.float64)
        assert gradient.shape == x.shape, f"the gradient of {name} has the shape {gradient.shape}, not {x.shape}"
        if not x.size:
            continue
        if not np.isfinite(g).all():
            raise KinkError(f"the gradient of {name} is not finite")
        for _ in range(3):
            d = rng.standard_normal(x.shape)
            ahead, behind = (moved_by(name, s * f.step * d) / f.step for s in (1, -1))
            expected, actual = (ahead - behind) / 2, float(np.sum(g * d))
            scale = np.linalg.norm(g) * np.linalg.norm(d) / np.sqrt(x.size)
            tolerance = RTOL * max(abs(expected), scale, 2e-3)  # less is lost in float32 where tanh saturates
            if abs(actual - expected) <= tolerance:
                continue
            twice = (moved_by(name, 2 * f.step * d) - moved_by(name, -2 * f.step * d)) / (4 * f.step)
            if not np.isfinite(expected) or abs(ahead + behind) > 4 * tolerance or abs(twice - expected) > tolerance:
                raise KinkError(
                    f"{name}: directional derivative {actual:.6g}, expected {expected:.6g}, differences disagree"
                )
            raise AssertionError(f"{name}: directional derivative {actual:.6g}, expected {expected:.6g}")


def main(operators: list[str]) -> None:
    counts = {"passed": 0, "refused": 0, "wrong": 0}
    reached = cases()
    for op in sorted(operators or reached):
        for case in reached[op]:
            for variant in (case, baked(case)):
                if variant is None:
                    continue
                try:
                    check(variant)
                    counts["passed"] += 1
                    continue
                except UnsupportedError as error:
                    outcome, why = "refused", str(error)
                except Exception as error:
                    outcome, why = "wrong", f"{type(error).__name__}: {error}"
                counts[outcome] += 1
                print(f"{outcome}  {variant.name}: {' '.join(why.split())[:300]}", flush=True)
    print(f"{sum(map(len, reached.values()))} cases of {len(reached)} operators; with variants: {counts}")


if __name__ == "__main__":
    main(sys.argv[1:])
