"""Reverse mode over a graph: the only loop. It knows no operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from analyzer.errors import InputError, UnsupportedError, refusing
from analyzer.gradient.policy import Policy
from analyzer.gradient.registry import NOT_DIFFERENTIABLE, cotangent_type, is_float, primal
from analyzer.graph import Builder, Graph, Node, Value
from analyzer.graph.nodes import captures, reads
from analyzer.graph.passes.unfuse import LEFT, MS
from analyzer.graph.schemas import lookup


@dataclass(frozen=True)
class Route:
    """What a pullback will visit: the nodes between `wrt` and the outputs, and those of them without a rule."""

    nodes: list[Node]
    influenced: frozenset[str]
    missing: list[Node]


def route(graph: Graph, outputs: Iterable[str], wrt: Iterable[str], policy: Policy) -> Route:
    """The nodes a gradient of `outputs` with respect to `wrt` passes through, in the order of the graph."""
    influenced = set(wrt)
    between = []
    outputs = list(outputs)
    for node in graph.before(outputs):
        if (node.domain or "", node.op) in NOT_DIFFERENTIABLE or influenced.isdisjoint(reads(node)):
            continue
        between.append(node)
        influenced.update(o.name for o in node.outputs if o.name and _carries(node, o, influenced, policy))
    needed = set(outputs) & influenced
    nodes = []
    for node in reversed(between):
        if any(o.name in needed for o in node.outputs):
            nodes.append(node)
            needed.update(n for n in reads(node) if n in influenced)
    nodes.reverse()
    missing = [n for n in nodes if policy.entry(graph, n) is None]
    return Route(nodes, frozenset(influenced), missing)


def _carries(node: Node, output: Value, influenced: set[str], policy: Policy) -> bool:
    """Whether cotangents flow through a result: it is floating-point, or a quantised form of what is."""
    if is_float(output):
        return True
    entry = policy.table.get((node.domain or "", node.op))
    if entry is not None and entry.integer:
        return True
    return any(i.name in influenced and i.dtype == output.dtype for i in node.inputs)


def _poles(graph: Graph, outputs: Iterable[str], policy: Policy) -> Callable[[Node], bool]:
    """Whether a node has a pole, or one beside or after it, on the way to the outputs.

    Beside: the infinity there may be multiplied with what is computed from the node.
    """
    before: dict[str, int] = {}  # of each tensor the poles that it depends on, one bit each
    count = 0
    for node in graph.before(outputs):
        seen = 0
        for name in reads(node):
            seen |= before.get(name, 0)
        entry = policy.table.get((node.domain or "", node.op))
        if entry is not None and (entry.pole(graph, node) if callable(entry.pole) else entry.pole):
            seen |= 1 << count
            count += 1
        if seen:
            before.update((o.name, seen) for o in node.outputs)
    total = 0
    for name in outputs:
        total |= before.get(name, 0)

    def ahead(node: Node) -> bool:
        known = 0
        for name in reads(node):
            known |= before.get(name, 0)
        return total & ~known != 0

    return ahead


def pullback(
    op: Builder,
    cotangents: Mapping[str, Value],
    wrt: Sequence[str],
    policy: Policy,
    narrow: bool = True,
    finite: bool = True,
) -> dict[str, Value | None]:
    """Appends Jᵀȳ: the gradient of Σ ⟨ȳ, y⟩ with respect to each of `wrt`.

    Cotangents of float16 and bfloat16 tensors flow in float32: they neither underflow nor overflow on the way.

    Args:
        op: the builder of the graph to append to.
        cotangents: ȳ for each output tensor y, shaped and typed as it.
        wrt: names of tensors.
        policy: the rules.
        narrow: give gradients of half-precision tensors in the tensors' own type; else in float32.
        finite: whether ȳ is finite for certain.

    Returns:
        The gradient of each, shaped and typed as the tensor; None where the outputs do not depend on it.

    Raises:
        UnsupportedError: operators on the way have no rule (all of them are named), or a rule refuses its node.
    """
    graph = op.graph
    path = route(graph, cotangents, wrt, policy)
    if path.missing:
        raise missing_rules(graph, path.missing, policy)
    poles = _poles(graph, cotangents, policy)
    flowing: dict[str, list[Value]] = {}
    for name, cotangent in cotangents.items():
        flowing.setdefault(name, []).append(op.cast(cotangent, cotangent_type(graph[name])))
    for node in reversed(path.nodes):
        received = [_total(op, flowing, o.name) if o.name else None for o in node.outputs]
        if all(ct is None for ct in received):
            continue
        asked = frozenset([*wrt, *cotangents])
        _visit(op, node, received, path.influenced, asked, policy, flowing, finite and not poles(node))
    found = {name: _total(op, flowing, name) for name in wrt}
    if not narrow:
        return found
    return {name: None if value is None else op.cast(value, graph[name].dtype) for name, value in found.items()}


def _visit(
    op: Builder,
    node: Node,
    received: list[Value | None],
    influenced: frozenset[str],
    asked: frozenset[str],
    policy: Policy,
    flowing: dict[str, list[Value]],
    finite: bool,
) -> None:
    graph = op.graph
    entry = policy.entry(graph, node)
    assert entry is not None
    schema = lookup(node.op, graph.versions.get(node.domain or "", 1), node.domain or "")
    arity = len(node.inputs) if schema is None or schema.max_input > 100 else schema.max_input
    pull = functools.partial(pullback, policy=policy, narrow=False, finite=finite)

    def widen(value: Value) -> Value:
        return op.cast(value, cotangent_type(value))

    about = {"asked": asked, "finite": finite, "parameters": policy.parameters, "idioms": policy.idioms}
    with refusing(f"{graph.name}: node {node.name!r} ({node.op}) does not fit its gradient rule"):
        seen = primal(graph, node, influenced, arity, widen, pull=pull, **about)
        result: Any = entry.rule(op, seen, *received)
        results = result if isinstance(result, tuple | list) else [result]
        read = [*node.inputs, *(graph[name] for name in captures(node))]
        for value, cotangent in zip(read, results, strict=False):
            if cotangent is not None and value.name in influenced:
                flowing.setdefault(value.name, []).append(_fit(op, cotangent, value))


def _fit(op: Builder, cotangent: Value, model: Value) -> Value:
    """The cotangent as its primal is shaped and typed: summed over broadcast axes, cast."""
    if is_float(model) and model.dtype is not None and cotangent.dtype is not None:
        cotangent = op.cast(cotangent, cotangent_type(model))
    return op.sum_to(cotangent, model)


def _total(op: Builder, flowing: dict[str, list[Value]], name: str) -> Value | None:
    """The sum of all cotangents that have reached `name`; computed once."""
    parts = flowing.get(name)
    if not parts:
        return None
    while len(parts) > 1:
        parts[:2] = [op.Add(parts[0], parts[1])]
    return parts[0]


def missing_rules(graph: Graph, nodes: Sequence[Node], policy: Policy) -> UnsupportedError:
    """One error that names every operator without a rule, and where it stands."""
    by_op: dict[str, list[str]] = {}
    for node in nodes:
        by_op.setdefault(f"{node.domain}::{node.op}" if node.domain else node.op, []).append(node.name)
    lines = [
        f"{op} ({len(names)}×: {', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        + (f": {LEFT[op.removeprefix(f'{MS}::')]}" if op.removeprefix(f"{MS}::") in LEFT else "")
        for op, names in sorted(by_op.items())
    ]
    hint = "choose a layer after, or a target before, these nodes; `plan` lists them all"
    if any(node.domain not in ("", MS) for node in nodes):
        hint += ". A model with custom operators runs with --custom-ops LIBRARY, and then occlusion and rise explain it"
    return UnsupportedError(
        f"{graph.name}: no {policy.name} rule for {'; '.join(lines)}, on the way from the target to the layer", hint
    )


# ---- Whole models ----


@dataclass
class Vjp:
    """A model with its vector-Jacobian product appended.

    Attributes:
        model: the ModelProto; its first outputs are the original ones, then the gradients.
        cotangents: {output: name of the new graph input that takes its cotangent}.
        gradients: {tensor: name of the new graph output, shaped and typed as the tensor}.
        disconnected: tensors of `wrt` the outputs do not depend on; their gradients are zeros.
        graph: the graph of `model`.
    """

    graph: Graph
    cotangents: dict[str, str]
    gradients: dict[str, str]
    disconnected: list[str]

    @property
    def model(self) -> onnx.ModelProto:
        if not hasattr(self, "_model"):
            self._model = self.graph.proto()
        return self._model


def append_vjp_to(graph: Graph, outputs: Sequence[str], wrt: Sequence[str], policy: Policy, prefix: str = "vjp") -> Vjp:
    """Append to `graph`: an input for the cotangent of each output, the gradient of each of `wrt` as an output."""
    op = Builder(graph, prefix)
    for name in [*outputs, *wrt]:
        if not is_float(graph[name]) or (graph[name].dtype is None):
            kind = graph[name].dtype
            raise InputError(
                f"{name!r} has {f'type {kind}' if kind else 'an unknown type'}, which has no gradient",
                "use a floating-point tensor",
            )
    seeds = {
        name: graph.add_input(f"{prefix}/cotangent/{name}", graph[name].dtype, graph[name].shape) for name in outputs
    }
    found = pullback(op, seeds, list(wrt), policy)
    gradients = {}
    for name in wrt:
        gradient = found[name]
        value = op.zeros_like(graph[name]) if gradient is None else op.shaped_as(gradient, graph[name])
        gradients[name] = graph.add_output(value, f"{prefix}/gradient/{name}").name
    return Vjp(
        graph,
        {name: value.name for name, value in seeds.items()},
        gradients,
        [name for name in wrt if found[name] is None],
    )
