"""Control flow: the gradient of a body is a body that repeats it and pulls back.

Nothing inside a body can be read from outside, so a step is computed again where its gradient is taken. Of a Loop or
Scan, a second one runs forward and stacks the states that each step starts from; a Scan then visits the steps from
the last to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.gradient.registry import Body, Builder, Cotangent, Node, Primal, Value, cotangent_type, is_float, vjp

Kind = tuple[Any, Any]  # element type and shape


def _wanted(node: Primal) -> list[Value]:
    """The captured tensors whose gradient is wanted."""
    return [v for v in node.captures if v.name in node.wanted and is_float(v)]


def _zeros(op: Builder, value: Value) -> Value:
    """A cotangent of zeros."""
    return op.cast(op.zeros_like(value), cotangent_type(value))


def _cotangents(op: Builder, pairs: Sequence[tuple[Value, Cotangent]]) -> dict[str, Value]:
    """{tensor: cotangent}; outputs that are the same tensor add up."""
    found: dict[str, Value] = {}
    for value, ct in pairs:
        if ct is not None:
            found[value.name] = op.Add(found[value.name], ct) if value.name in found else ct
    return found


# ---- If ----


@vjp("If", pole=True)
def if_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """y = then(x) if c, else other(x)   ⇒   x̄ = thenᵀ(ȳ) if c, else otherᵀ(ȳ); x the captured tensors"""
    wanted = _wanted(node)
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = Body(op.graph)
        inner = Builder(body, op.prefix)
        outputs = body.replay(node.attr(name), [])
        found = node.pull(inner, _cotangents(inner, list(zip(outputs, cts, strict=True))), [v.name for v in wanted])
        branches[name] = body.close([found[v.name] or _zeros(inner, v) for v in wanted])
    bars = op.control("If", [node.x], [(cotangent_type(v), v.shape) for v in wanted], **branches)
    by_name = {v.name: bar for v, bar in zip(wanted, bars, strict=True)}
    return (None, *(by_name.get(v.name) for v in node.captures))


# ---- Loop and Scan ----


@dataclass(frozen=True)
class Series:
    """Slices of `value` along `axis`, one per step; from the end where `backward`."""

    value: Any
    axis: int = 0
    backward: bool = False

    @property
    def kind(self) -> Kind:
        """Type and shape of a slice."""
        shape = self.value.shape
        return self.value.dtype, shape and [d for a, d in enumerate(shape) if a != self.axis % len(shape)]


@dataclass(frozen=True)
class Steps:
    """The repetition of a body.

    Inputs of the body: `clock` ones (number and condition of a Loop's step), states, slices of the series. Outputs:
    `verdict` ones (a Loop's condition), states, slices of the results.
    """

    node: Primal
    states: Sequence[Value]
    series: Sequence[Series] = ()
    results: Sequence[Series] = ()
    clock: tuple[Kind, ...] = ()
    verdict: int = 0
    attrs: dict[str, Any] = field(default_factory=dict)


@vjp("Loop", pole=True)
def loop_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """vₜ₊₁, zₜ = body(vₜ; x)   ⇒   v̄ₜ, x̄ₜ = bodyᵀ(v̄ₜ₊₁, z̄ₜ) from the last step to the first, x̄ = Σₜ x̄ₜ"""
    states = node.node.inputs[2:]
    steps = Steps(
        node,
        states,
        results=[Series(ct) for ct in cts[len(states) :]],
        clock=tuple((v.dtype, [1] * len(v.shape or ())) for v in node.attr("body").inputs[:2]),
        verdict=1,
    )
    return (None, None, *_reversed_steps(op, steps, cts[: len(states)]))


@vjp("Scan", since=9, pole=True)
def scan_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """vₜ₊₁, zₜ = body(vₜ, uₜ; x)   ⇒   v̄ₜ, ūₜ, x̄ₜ = bodyᵀ(v̄ₜ₊₁, z̄ₜ) from the last step to the first, x̄ = Σₜ x̄ₜ"""
    read = node.attr("num_scan_inputs")
    given = node.node.inputs
    count = len(given) - read
    written = len(cts) - count
    reading = (given[count:], *_order(node, "input", read))
    writing = (cts[count:], *_order(node, "output", written))
    steps = Steps(
        node,
        given[:count],
        [Series(*s) for s in zip(*reading, strict=True)],
        [Series(*s) for s in zip(*writing, strict=True)],
        attrs={k: v for k, v in node.node.attrs.items() if k.startswith(("num_", "scan_input"))},
    )
    return _reversed_steps(op, steps, cts[:count])


def _order(node: Primal, which: str, count: int) -> tuple[list[int], list[bool]]:
    """Axes and directions of a Scan's inputs or outputs."""
    axes, directions = (node.attr(f"scan_{which}_{name}") or [0] * count for name in ("axes", "directions"))
    return axes, [bool(d) for d in directions]


def _reversed_steps(op: Builder, steps: Steps, cts: Sequence[Cotangent]) -> tuple[Cotangent, ...]:
    """Appends the Scan over the steps in reverse; cotangents of states, series and captured tensors."""
    node, count = steps.node, len(steps.states)
    body, read, made = _step(op, steps)
    inner = Builder(body, op.prefix)
    entering, leaving = read[len(steps.clock) :], made[steps.verdict :]
    carried = [k for k in range(count) if is_float(steps.states[k])]
    wanted = _wanted(node)
    followed = [k for k, s in enumerate(steps.series) if node.needs(count + k) and is_float(s.value)]
    known = [k for k, s in enumerate(steps.results) if s.value is not None]
    given = [steps.results[k] for k in known]

    bars = [body.add_input(f"{entering[k].name}/bar", cotangent_type(entering[k]), entering[k].shape) for k in carried]
    sums = [body.add_input(f"{v.name}/sum", cotangent_type(v), v.shape) for v in wanted]
    slices = [body.add_input("result/bar", *s.kind) for s in given]
    ends = [leaving[k] for k in carried] + [leaving[count + k] for k in known]
    sought = [entering[k] for k in carried] + wanted + [entering[count + k] for k in followed]
    found = node.pull(inner, _cotangents(inner, list(zip(ends, bars + slices, strict=True))), [v.name for v in sought])
    flows = [found[v.name] for v in sought]
    results = [_zeros(inner, v) if f is None else f for v, f in zip(sought, flows, strict=True)]
    for k, total in enumerate(sums, len(carried)):
        flow = flows[k]
        results[k] = total if flow is None else inner.Add(total, flow)
    results = [inner.shaped_as(r, v) for r, v in zip(results, sought, strict=True)]

    used = body.read_for(results)
    stacked = [k for k, v in enumerate(read[: len(steps.clock) + count]) if v.name in used or (k == 0 and steps.clock)]
    listed = list(zip(entering[count:], steps.series, strict=True))
    again = [(v, s) for k, (v, s) in enumerate(listed) if v.name in used or (k == 0 and not steps.clock)]
    sources = [(read[k], Series(stack)) for k, stack in zip(stacked, _stacks(op, steps, stacked), strict=True)]
    sources += again + list(zip(slices, given, strict=True))
    starts = [cts[k] if cts[k] is not None else _zeros(op, steps.states[k]) for k in carried]
    starts += [_zeros(op, v) for v in wanted]
    emit = _as_loop if steps.clock else _as_scan
    outputs = emit(op, body, [*bars, *sums], starts, results, sources, [steps.series[k] for k in followed])
    by_name = dict(zip([v.name for v in sought], outputs, strict=True))
    return (*(by_name.get(v.name) for v in entering), *(by_name.get(v.name) for v in node.captures))


Sources = list[tuple[Value, Series]]  # an input of the body and what it is a slice of


def _as_loop(
    op: Builder, body: Body, carried: list[Value], starts: list, results: list[Value], sources: Sources, _: list[Series]
) -> list[Value]:
    """The steps in reverse as a Loop, which may have none."""
    count = op.Squeeze(op.shape(sources[0][1].value, 0, 1), [0])
    last = op.Sub(count, 1)
    step, going = body.add_input("step", count.dtype, []), body.add_input("going", np.dtype(bool), [])
    closed = body.close([going, *results])
    body.nodes.clear()
    index = Builder(body, op.prefix).Sub(last, step)
    for value, series in sources:
        body.append(Node("Gather", body.fresh("slice"), {"axis": 0}, [series.value, index], [value]))
    closed.nodes[:0] = body.nodes
    closed.inputs = [step, going, *carried]
    return op.control("Loop", [count, None, *starts], [(v.dtype, v.shape) for v in starts], body=closed)


def _as_scan(
    op: Builder,
    body: Body,
    carried: list[Value],
    starts: list,
    results: list[Value],
    sources: Sources,
    targets: list[Series],
) -> list[Value]:
    """The steps in reverse as a Scan."""
    closed = body.close(results)
    closed.inputs = [*carried, *(v for v, _ in sources)]
    attrs = {
        "num_scan_inputs": len(sources),
        "scan_input_axes": [s.axis for _, s in sources],
        "scan_input_directions": [int(not s.backward) for _, s in sources],
    }
    if targets:
        attrs["scan_output_axes"] = [s.axis for s in targets]
        attrs["scan_output_directions"] = [int(not s.backward) for s in targets]
    kinds = [(cotangent_type(v), v.shape) for v in [*starts, *(s.value for s in targets)]]
    return op.control("Scan", [*starts, *(s.value for _, s in sources)], kinds, body=closed, **attrs)


def _step(op: Builder, steps: Steps) -> tuple[Body, list[Value], list[Value]]:
    """One step as a body, its inputs and its outputs; of the states' shapes it knows what holds at every step."""
    original = steps.node.attr("body")
    kinds = [*steps.clock, *((v.dtype, v.shape) for v in steps.states), *(s.kind for s in steps.series)]
    if any(dtype is None for dtype, _ in kinds):
        raise steps.node.refuse("it carries sequences from step to step, or values of unknown type")
    while True:
        body = Body(op.graph)
        inputs = [body.add_input(i.name, *kind) for i, kind in zip(original.inputs, kinds, strict=True)]
        outputs = body.replay(original, inputs)
        common = list(kinds)
        for k in range(len(steps.states)):
            before, after = inputs[len(steps.clock) + k], outputs[steps.verdict + k]
            common[len(steps.clock) + k] = (before.dtype, _common(steps.node, before, after))
        if common == kinds:
            return body, inputs, outputs
        kinds = common
        for copy in body.nodes:
            copy.inputs.clear()


def _common(node: Primal, before: Value, after: Value) -> Any:
    """The shape that a state has before and after a step; None along axes where it is not known."""
    if before.shape is None or after.shape is None:
        return None
    pairs = list(zip(before.shape, after.shape, strict=False))
    grows = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    if grows or len(before.shape) != len(after.shape):
        raise node.refuse(f"its state {before.name!r} changes shape, {list(before.shape)} to {list(after.shape)}")
    return [a if a == b else None for a, b in pairs]


def _stacks(op: Builder, steps: Steps, which: Sequence[int]) -> list[Value]:
    """Runs the steps forward once more: the inputs `which` of the body, stacked along a new first axis."""
    if not which:
        return []
    body, read, made = _step(op, steps)
    ends = made[: steps.verdict + len(steps.states)]
    closed = body.close([*ends, *(read[k] for k in which)])
    kinds = [(v.dtype, v.shape) for v in ends[steps.verdict :]]
    kinds += [(v.dtype, None if v.shape is None else [None, *v.shape]) for v in (read[k] for k in which)]
    outputs = op.control(steps.node.op, steps.node.node.inputs, kinds, body=closed, **steps.attrs)
    return outputs[len(steps.states) :]
